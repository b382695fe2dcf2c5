use super::*;
use crate::limits::{MAX_CURSORS, MAX_ITEMS, MAX_LEASE_MS, MAX_WITHIN_MS};
use crate::message::*;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::sample::{Gap, GapReason, Sample};
use chargeplane_domain::session::{Flow, StopReason};
use chargeplane_domain::units::Mono;
use proptest::prelude::*;

const AT: Timestamp = Timestamp(1_795_392_000_000);

fn sample(n: i64) -> Sample {
    Sample {
        at: AT.plus_ms(n * 100),
        voltage_dv: 4_000 + n as i32,
        current_da: 1_500 - n as i32,
        temperature_dc: 251,
        soc_permille: 400,
        power: Watts(60_000 + n * 7),
        register: WattHours(1_000_000 + n),
    }
}

/// The bytes in the page of the wire, by block (in order of the section) and name.
fn page_vectors() -> Vec<std::collections::BTreeMap<String, Vec<u8>>> {
    let page = include_str!("../../../../docs/reference/wire.md");
    let section = page.split("### Vectors").nth(1).unwrap().split("\n## ").next().unwrap();
    let block = |text: &str| {
        let mut found = std::collections::BTreeMap::new();
        let mut name = String::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if !line.starts_with(' ') {
                name = words.next().unwrap_or_default().to_owned();
            }
            let hex: String = words.collect();
            let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            found.entry(name.clone()).or_insert_with(Vec::new).extend(bytes);
        }
        found
    };
    section.split("```\n").skip(1).step_by(2).map(block).collect()
}

/// Made by another program in another language (examples/gateway.py): both read the page alike.
#[test]
fn the_vectors_of_the_page() {
    use crate::envelope::{GatewayKey, Header, Keyring};
    let [batch, beat, ack] = &page_vectors()[..] else { panic!("three blocks") };
    let keys = Keyring::new(
        &"main/gw-01".parse().unwrap(),
        &GatewayKey { root: std::array::from_fn(|at| at as u8), key_epoch: 7 },
    );
    let row = |at: i64, voltage_dv, current_da, temperature_dc, soc_permille, power, register| Sample {
        at: AT.plus_ms(at),
        voltage_dv,
        current_da,
        temperature_dc,
        soc_permille,
        power: Watts(power),
        register: WattHours(register),
    };
    let first =
        vec![row(0, 4_000, 1_500, 250, 431, 60_000, 120_345), row(1_000, 3_998, 1_502, 251, 431, 60_049, 120_362)];
    let second = vec![row(500, 4_010, 0, 240, 0, 0, 98)];
    let samples = UpBatch::Samples {
        runs: vec![
            SampleRun { child: 0, first_number: 100, samples: first },
            SampleRun { child: 1, first_number: 7, samples: second },
        ],
        gaps: vec![(1, Gap { first: 3, last: 6, reason: GapReason::Dropped })],
    };
    assert_eq!(encode_up(&samples), batch["plain"]);
    assert_eq!(decode_up(Stream::Fast, &batch["plain"]).as_ref(), Ok(&samples));
    let base_us = AT.0 as u64 * 1_000;
    let header = Header { flags: 16, items: 4, boot: 3, seq: 42, first_item: 100, base_us, ..Header::default() };
    assert_eq!(keys.seal_up(Stream::Fast, header, &batch["plain"]).unwrap(), batch["packet"]);

    let Ok(UpBatch::Beat(read)) = decode_up(Stream::Beat, &beat["plain"]) else { panic!("a beat") };
    assert_eq!((read.mono, read.nonce, read.epoch_seen, read.chargers.len()), (Mono(5_000), 12, 5, 1));
    assert_eq!(encode_up(&UpBatch::Beat(read)), beat["plain"]);

    let opened = keys.open_down(&ack["packet"]).unwrap();
    assert_eq!((opened.plain.as_slice(), opened.header.boot, opened.header.seq), (&ack["plain"][..], 5, 9));
    let down = decode_down(&opened.plain).unwrap();
    assert_eq!(encode_down(&down), ack["plain"]);
    assert_eq!(keys.seal_down(5, 9, 1, AT.0, &ack["plain"]).unwrap(), ack["packet"]);
}

fn samples(count: i64) -> UpBatch {
    let run = |child, from: i64| SampleRun {
        child,
        first_number: 5_000 + from as u64,
        samples: (from..from + count / 2).map(sample).collect(),
    };
    UpBatch::Samples {
        runs: vec![run(1, 0), run(7, 50)],
        gaps: vec![(3, Gap { first: 1, last: 4, reason: GapReason::Thinned })],
    }
}

fn events() -> Vec<GatewayEvent> {
    let session = || "main/c1.1".parse().unwrap();
    let mut all = vec![
        GatewayEvent::StartRequested {
            child: 1,
            connector: ConnectorNo(2),
            account: "main/a1".parse().unwrap(),
            request: 9,
            at: AT,
        },
        GatewayEvent::SessionStarted { child: 1, session: session(), register: WattHours(10), at: AT },
        GatewayEvent::Gap { child: 1, gap: Gap { first: 3, last: 3, reason: GapReason::Dropped } },
        GatewayEvent::Fault { child: 1, code: "E42".to_owned(), at: AT },
        GatewayEvent::StatusChanged { child: 1, plugged: true, available: false, at: AT },
    ];
    for flow in Flow::ALL {
        all.push(GatewayEvent::FlowChanged { child: 1, session: session(), flow, at: AT });
    }
    for outcome in [CommandEnd::Done, CommandEnd::Refused("not_plugged".to_owned()), CommandEnd::Expired] {
        all.push(GatewayEvent::CommandResult { child: 1, command: "main/c1.c4".parse().unwrap(), outcome, at: AT });
    }
    for reason in StopReason::ALL {
        all.push(GatewayEvent::SessionStopped {
            child: 1,
            session: session(),
            register: WattHours(77),
            at: AT,
            reason,
        });
    }
    all
}

fn numbered() -> UpBatch {
    UpBatch::Events((1..).zip(events()).map(|(number, event)| NumberedEvent { number, event }).collect())
}

fn beat() -> Beat {
    Beat {
        mono: Mono(5_000),
        nonce: (3 << 32) | 1,
        epoch_seen: 4,
        applied_grant_seq: 8,
        local: true,
        acked: vec![Cursor { stream: Stream::Fast, boot: BootId::new(2, 3), seq: 20 }],
        floors: vec![Cursor { stream: Stream::Replay, boot: BootId::new(1, 2), seq: 1 }],
        chargers: vec![
            BeatCharger {
                child: 2,
                granted: Watts(30_000),
                lease_left_ms: 29_000,
                demand: Watts(60_000),
                power: Watts(29_900),
                register: WattHours(5),
                session: Some("main/c1.1".parse().unwrap()),
                charging: true,
            },
            BeatCharger { child: 3, ..BeatCharger::default() },
        ],
    }
}

fn downs() -> Vec<Down> {
    let session = || "main/c1.1".parse().unwrap();
    let actions = [
        Action::Start { session: session(), connector: ConnectorNo(1), allowance: WattHours(500) },
        Action::Stop { session: session(), reason: StopReason::Remote },
        Action::Reset,
        Action::Unlock { connector: ConnectorNo(2) },
        Action::SetAvailability { available: true },
    ];
    let deadline = Deadline { answers_nonce: (3 << 32) | 7, boot: 3, within_ms: 60_000 };
    let command = |action| DownCommand { id: "main/c1.c1".parse().unwrap(), child: 4, action, deadline };
    vec![
        Down::Ack(Ack {
            stream: Stream::Events,
            boot: BootId::new(2, 3),
            epoch: 9,
            upto_seq: 40,
            refused: vec![Refusal { seq: 39, reason: "message_time".to_owned() }],
            credit: 12,
        }),
        Down::Resume(Resume {
            epoch: 9,
            cursors: vec![Cursor { stream: Stream::Slow, boot: BootId::new(1, 1), seq: 0 }],
        }),
        Down::Grants(Grants {
            answers_nonce: 1,
            boot: 2,
            epoch: 3,
            seq: 4,
            lease_ms: 30_000,
            entries: vec![
                GrantEntry { child: 1, w: Watts(0), allowance: None },
                GrantEntry { child: 2, w: Watts(7), allowance: Some(WattHours(0)) },
            ],
        }),
        Down::Commands(actions.into_iter().map(command).collect()),
        Down::Deny { child: 1, request: 2, code: "insufficient_funds".to_owned() },
        Down::Notice(Notice { code: "packet_authentication".to_owned(), detail: "x".to_owned(), revoked_upto: 2 }),
    ]
}

#[test]
fn everything_survives_the_way() {
    for (stream, batch) in [
        (Stream::Events, numbered()),
        (Stream::Fast, samples(20)),
        (Stream::Slow, samples(20)),
        (Stream::Replay, samples(20)),
        (Stream::Beat, UpBatch::Beat(beat())),
    ] {
        assert_eq!(decode_up(stream, &encode_up(&batch)).unwrap(), batch);
    }
    for message in downs() {
        assert_eq!(decode_down(&encode_down(&message)).unwrap(), message);
    }
}

#[test]
fn a_kind_on_the_wrong_stream_is_refused() {
    for stream in [Stream::Fast, Stream::Beat] {
        assert_eq!(decode_up(stream, &encode_up(&numbered())), Err(WireError::WrongStream { stream }));
    }
    let stream = Stream::Events;
    assert_eq!(decode_up(stream, &encode_up(&samples(4))), Err(WireError::WrongStream { stream }));
}

/// The sizes that the layout is chosen for: 200 samples of one charger as deltas, and of 100 chargers.
#[test]
fn a_batch_is_small() {
    let run = SampleRun { child: 1, first_number: 1 << 30, samples: (0..200).map(sample).collect() };
    let one = encode_up(&UpBatch::Samples { runs: vec![run], gaps: vec![] }).len();
    assert!(one < 200 * 10, "{one}");
    let runs = (0..100).map(|child| SampleRun { child, first_number: 1 << 30, samples: vec![sample(0), sample(1)] });
    let many = encode_up(&UpBatch::Samples { runs: runs.collect(), gaps: vec![] }).len();
    assert!(many < 200 * 20, "{many}");
}

#[test]
fn versions_and_kinds_from_the_future() {
    let up = proto::Up { version: 2, body: Some(up::to_proto(&samples(2))) }.encode_to_vec();
    assert_eq!(decode_up(Stream::Fast, &up), Err(WireError::Version { found: 2 }));
    assert_eq!(decode_down(&[]), Err(WireError::Version { found: 0 }));
    // version 1, then an unknown field 15 in place of a known body.
    assert_eq!(decode_down(&[0x08, 1, 0x7a, 0]), Err(WireError::UnknownKind));
    // An unknown field beside a known body is skipped.
    let mut beat_and_more = encode_up(&UpBatch::Beat(beat()));
    beat_and_more.extend_from_slice(&[0x7a, 3, 1, 2, 3]);
    assert_eq!(decode_up(Stream::Beat, &beat_and_more), Ok(UpBatch::Beat(beat())));
    // An unknown kind of event, and an unknown action, are left out; their neighbours stay.
    let UpBatch::Events(known) = numbered() else { panic!() };
    let proto::UpBody::Events(mut list) = up::to_proto(&UpBatch::Events(known.clone())) else { panic!() };
    list.events.insert(1, proto::Event { number: 99, child: 1, at_ms: AT.0, body: None });
    let bytes = proto::Up { version: 1, body: Some(proto::UpBody::Events(list)) }.encode_to_vec();
    assert_eq!(decode_up(Stream::Events, &bytes), Ok(UpBatch::Events(known)));
    // A stop with a reason from the future is still a stop.
    assert_eq!(up::reason_from_proto(200), StopReason::Unwanted);
}

fn refused(stream: Stream, batch: &UpBatch) -> &'static str {
    decode_up(stream, &encode_up(batch)).unwrap_err().code()
}

#[test]
fn values_out_of_range_are_refused() {
    let with = |change: fn(&mut Sample)| {
        let mut bad = sample(1);
        change(&mut bad);
        let run = SampleRun { child: 1, first_number: 0, samples: vec![sample(0), bad] };
        refused(Stream::Fast, &UpBatch::Samples { runs: vec![run], gaps: vec![] })
    };
    assert_eq!(with(|s| s.at = Timestamp(0)), "message_time");
    assert_eq!(with(|s| s.at = Timestamp(i64::MAX)), "message_time");
    assert_eq!(with(|s| s.power = Watts(i64::MIN)), "message_range");
    assert_eq!(with(|s| s.register = WattHours(-1)), "message_range");
    let gap = |first, last| UpBatch::Samples {
        runs: vec![],
        gaps: vec![(1, Gap { first, last, reason: GapReason::Dropped })],
    };
    assert_eq!(refused(Stream::Fast, &gap(5, 4)), "message_range");
    assert_eq!(refused(Stream::Fast, &gap(5, u64::MAX)), "message_range");
    let run = |count| SampleRun { child: 1, first_number: 0, samples: (0..count).map(sample).collect() };
    assert_eq!(
        refused(Stream::Fast, &UpBatch::Samples { runs: vec![run(MAX_ITEMS as i64 + 1)], gaps: vec![] }),
        "message_too_many"
    );
    assert_eq!(refused(Stream::Fast, &UpBatch::Samples { runs: vec![run(0)], gaps: vec![] }), "message_shape");
    let late = GatewayEvent::Fault { child: 1, code: "x".to_owned(), at: Timestamp(-1) };
    assert_eq!(
        refused(Stream::Events, &UpBatch::Events(vec![NumberedEvent { number: 1, event: late }])),
        "message_time"
    );
    let cursor = Cursor { stream: Stream::Fast, boot: BootId::new(1, 1), seq: 1 };
    let crowded = Beat { acked: vec![cursor; MAX_CURSORS + 1], ..beat() };
    assert_eq!(refused(Stream::Beat, &UpBatch::Beat(crowded)), "message_too_many");
    let down = |message| decode_down(&encode_down(&message)).unwrap_err().code();
    assert_eq!(down(Down::Grants(Grants { lease_ms: MAX_LEASE_MS + 1, ..Grants::default() })), "message_range");
    let deadline = Deadline { answers_nonce: 1, boot: 1, within_ms: MAX_WITHIN_MS + 1 };
    let command = DownCommand { id: "main/c1.c1".parse().unwrap(), child: 1, action: Action::Reset, deadline };
    assert_eq!(down(Down::Commands(vec![command])), "message_range");
    let entry = GrantEntry { child: 1, w: Watts(-1), allowance: None };
    assert_eq!(down(Down::Grants(Grants { entries: vec![entry], ..Grants::default() })), "message_range");
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let UpBatch::Samples { runs, gaps } = samples(10) else { panic!() };
    let proto::UpBody::Samples(good) = up::to_proto(&UpBatch::Samples { runs, gaps }) else { panic!() };
    let code = |change: fn(&mut proto::Samples)| {
        let mut bad = good.clone();
        change(&mut bad);
        let bytes = proto::Up { version: 1, body: Some(proto::UpBody::Samples(bad)) }.encode_to_vec();
        decode_up(Stream::Fast, &bytes).unwrap_err().code()
    };
    assert_eq!(code(|s| s.at_ms.truncate(9)), "message_shape");
    assert_eq!(code(|s| s.register_wh.push(1)), "message_shape");
    assert_eq!(code(|s| s.count[0] += 1), "message_shape");
    assert_eq!(code(|s| s.count[1] -= 1), "message_shape");
    assert_eq!(code(|s| s.count[0] = u32::MAX), "message_shape");
    assert_eq!(code(|s| s.first_number.truncate(1)), "message_shape");
    assert_eq!(code(|s| s.child[0] = 70_000), "message_range");
    assert_eq!(code(|s| s.voltage_dv[0] = i64::MAX), "message_range");
    assert_eq!(code(|s| s.gaps[0].reason = 9), "message_range");
}

#[test]
fn long_texts_are_cut_when_written_and_refused_when_read() {
    let long = "ü".repeat(MAX_TEXT_LEN);
    let message = Down::Deny { child: 1, request: 1, code: long.clone() };
    let Down::Deny { code, .. } = decode_down(&encode_down(&message)).unwrap() else { panic!() };
    assert_eq!(code, "ü".repeat(MAX_TEXT_LEN / 2));
    let body = proto::DownBody::Deny(proto::Deny { child: 1, request: 1, code: long });
    let bytes = proto::Down { version: 1, body: Some(body) }.encode_to_vec();
    assert_eq!(decode_down(&bytes).unwrap_err().code(), "message_too_many");
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let time = MIN_TIME_MS..MAX_TIME_MS;
    let ints = (any::<i32>(), any::<i32>(), any::<i32>(), any::<i32>());
    (time, ints, -MAX_WATTS..=MAX_WATTS, 0..=(MAX_NUMBER as i64)).prop_map(|(at, (v, c, t, s), power, register)| {
        Sample {
            at: Timestamp(at),
            voltage_dv: v,
            current_da: c,
            temperature_dc: t,
            soc_permille: s,
            power: Watts(power),
            register: WattHours(register),
        }
    })
}

fn any_runs() -> impl Strategy<Value = Vec<SampleRun>> {
    let run = (any::<u16>(), 0..MAX_NUMBER, prop::collection::vec(any_sample(), 1..6))
        .prop_map(|(child, first_number, samples)| SampleRun { child, first_number, samples });
    prop::collection::vec(run, 0..6)
}

proptest! {
    #[test]
    fn samples_survive_the_way(runs in any_runs(), gaps in prop::collection::vec((any::<u16>(), 0..1_000_u64, 0..1_000_u64), 0..5)) {
        let gaps = gaps.into_iter().map(|(child, a, b)| (child, Gap { first: a.min(b), last: a.max(b), reason: GapReason::Refused })).collect();
        let batch = UpBatch::Samples { runs, gaps };
        prop_assert_eq!(decode_up(Stream::Slow, &encode_up(&batch)), Ok(batch));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), with_version: bool) {
        let mut bytes = bytes;
        if with_version {
            bytes.splice(0..0, [0x08, 1]);
        }
        for stream in Stream::ALL {
            let _ = decode_up(stream, &bytes);
        }
        let _ = decode_down(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(at: prop::sample::Index, value: u8, cut: prop::sample::Index) {
        for (stream, batch) in [(Stream::Events, numbered()), (Stream::Fast, samples(20)), (Stream::Beat, UpBatch::Beat(beat()))] {
            let mut bytes = encode_up(&batch);
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = decode_up(stream, &bytes);
            let _ = decode_up(stream, &bytes[..cut.index(bytes.len())]);
        }
        for message in downs() {
            let mut bytes = encode_down(&message);
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _ = decode_down(&bytes);
            let _ = decode_down(&bytes[..cut.index(bytes.len())]);
        }
    }
}
