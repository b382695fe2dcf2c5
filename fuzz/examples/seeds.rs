//! Writes the seeds of the corpus anew: `cargo run --release --locked --package chargeplane-fuzz --example seeds`.
//! Needed after a change of a layout; findings of the fuzzer are put beside them by hand and stay.

use bytes::Bytes;
use chargeplane_domain::chunk::Chunk;
use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::sample::{Gap, GapReason, NumberedSample, Sample};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Mono, Timestamp, WattHours, Watts};
use chargeplane_edge::effect::{Span, Ticket};
use chargeplane_edge::ring::{BatchMeta, CommandNote, FileRing, FileRingConfig, Ring};
use chargeplane_fuzz::{FILES, Piece, keys, to_bytes};
use chargeplane_protocol::Header;
use chargeplane_protocol::message::{
    Ack, Beat, BeatCharger, CommandEnd, Cursor, Deadline, Down, DownCommand, GatewayEvent, NumberedEvent, Refusal,
    Resume, SampleRun, Stream, UpBatch,
};
use chargeplane_protocol::wire;
use std::error::Error;
use std::path::{Path, PathBuf};

const AT: Timestamp = Timestamp(1_795_392_000_000);

fn sample(n: i64) -> Sample {
    Sample {
        at: AT.plus_ms(n * 100),
        voltage_dv: 4_000 + i32::try_from(n % 17).unwrap_or(0),
        current_da: 1_500 - i32::try_from(n % 29).unwrap_or(0),
        temperature_dc: 251,
        soc_permille: 400 + i32::try_from(n / 60).unwrap_or(0),
        power: Watts(60_000 + n * 7 % 1_000),
        register: WattHours(1_000_000 + n * 2),
    }
}

fn samples(count: i64) -> UpBatch {
    let run = |child, from: i64| SampleRun {
        child,
        first_number: 5_000 + from.unsigned_abs(),
        samples: (from..from + count).map(sample).collect(),
    };
    UpBatch::Samples {
        runs: vec![run(1, 0), run(7, 50)],
        gaps: vec![(3, Gap { first: 1, last: 4, reason: GapReason::Thinned })],
    }
}

fn events() -> Result<UpBatch, Box<dyn Error>> {
    let session = "main/c1.1".parse()?;
    let events = [
        GatewayEvent::StartRequested {
            child: 1,
            connector: ConnectorNo(2),
            account: "main/a1".parse()?,
            request: 9,
            at: AT,
        },
        GatewayEvent::Gap { child: 1, gap: Gap { first: 3, last: 3, reason: GapReason::Dropped } },
        GatewayEvent::StatusChanged { child: 1, plugged: true, available: false, at: AT },
        GatewayEvent::SessionStopped { child: 1, session, register: WattHours(77), at: AT, reason: StopReason::Driver },
        GatewayEvent::CommandResult {
            child: 1,
            command: "main/c1.c4".parse()?,
            outcome: CommandEnd::Refused("busy".to_owned()),
            at: AT,
        },
    ];
    let events = (1..).zip(events).map(|(number, event)| NumberedEvent { number, event });
    Ok(UpBatch::Events(events.collect()))
}

fn cursor() -> Cursor {
    Cursor { stream: Stream::Fast, boot: BootId::new(7, 3), seq: 2 }
}

fn beat() -> Result<UpBatch, Box<dyn Error>> {
    let charger = BeatCharger {
        child: 1,
        granted: Watts(60_000),
        lease_left_ms: 28_000,
        demand: Watts(60_000),
        power: Watts(59_900),
        register: WattHours(120_362),
        session: Some("main/c1.1".parse()?),
        charging: true,
    };
    let (floors, chargers) = (vec![cursor()], vec![charger]);
    Ok(UpBatch::Beat(Beat { mono: Mono(5_000), nonce: 12, epoch_seen: 5, floors, chargers, ..Beat::default() }))
}

fn downs() -> Result<Vec<Down>, Box<dyn Error>> {
    let refused = vec![Refusal { seq: 40, reason: "message_range".to_owned() }];
    let deadline = Deadline { answers_nonce: 12, boot: 3, within_ms: 60_000 };
    let command = DownCommand { id: "main/c1.c4".parse()?, child: 1, action: Action::Reset, deadline };
    Ok(vec![
        Down::Ack(Ack { stream: Stream::Fast, boot: BootId::new(7, 3), epoch: 5, upto_seq: 42, refused, credit: 64 }),
        Down::Resume(Resume { epoch: 5, cursors: vec![cursor()] }),
        Down::Commands(vec![command]),
    ])
}

fn write(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join(name), bytes)
}

/// The files that a ring leaves, as pieces.
fn ring_of(fill: impl FnOnce(&mut FileRing) -> Result<(), Box<dyn Error>>) -> Result<Vec<u8>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let mut ring = FileRing::open(FileRingConfig { segment_bytes: 700, ..FileRingConfig::new(dir.path()) })?;
    ring.recover()?;
    ring.next_boot()?;
    fill(&mut ring)?;
    drop(ring);
    let mut pieces = Vec::new();
    for (file, name) in (0u8..).zip(FILES) {
        let path: PathBuf = dir.path().join(name);
        let Ok(mut bytes) = std::fs::read(path) else { continue };
        // Record by record, so that a change of one leaves its checksum right.
        while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
            let len = usize::try_from(u32::from_le_bytes([head[0], head[1], head[2], head[3]]))?;
            let (payload, after) = rest.split_at(len.min(rest.len()));
            pieces.push(Piece { file, is_record: true, bytes: payload.to_vec() });
            bytes = after.to_vec();
        }
    }
    Ok(to_bytes(&pieces))
}

fn meta(stream: Stream, seq: u64) -> BatchMeta {
    let events = (stream == Stream::Events).then_some((seq * 10, seq * 10 + 9));
    let spans = if events.is_some() { vec![] } else { vec![Span { child: 7, first: seq * 100, last: seq * 100 + 99 }] };
    let gaps = if seq == 3 { vec![(8, Gap { first: 0, last: 41, reason: GapReason::Refused })] } else { vec![] };
    BatchMeta { ticket: Ticket { stream, boot: 1, seq }, spans, gaps, events }
}

fn main() -> Result<(), Box<dyn Error>> {
    let keys = keys();
    let header = |items| Header {
        items,
        boot: 3,
        seq: 42,
        first_item: 100,
        base_us: 1_795_392_000_000_000,
        ..Header::default()
    };
    let batches =
        [("events", Stream::Events, events()?), ("fast", Stream::Fast, samples(20)), ("beat", Stream::Beat, beat()?)];
    for (name, stream, batch) in &batches {
        let plain = wire::encode_up(batch);
        write("batch", name, &[&[stream.as_u8()], plain.as_slice()].concat())?;
        write("envelope", name, &keys.seal_up(*stream, header(u16::try_from(batch.items())?), &plain)?)?;
    }
    for (name, down) in ["ack", "resume", "commands"].iter().zip(downs()?) {
        let plain = wire::encode_down(&down);
        write("batch", name, &[&[5], plain.as_slice()].concat())?;
        write("envelope", name, &keys.seal_down(5, 9, 1, AT.0, &plain)?)?;
    }
    for (name, numbers) in [("one", vec![512]), ("sparse", vec![513, 600, 767]), ("full", (512..768).collect())] {
        let numbered = |number: &u64| NumberedSample { number: *number, sample: sample(number.cast_signed()) };
        let chunk = Chunk::new(2, numbers.iter().map(numbered).collect())?;
        write("chunk", name, &chunk.encode()?.bytes)?;
    }
    let packet = |seq: u64| Bytes::from(vec![u8::try_from(seq).unwrap_or(0); 300]);
    let filled = ring_of(|ring| {
        for seq in 1..=4 {
            for stream in [Stream::Events, Stream::Fast] {
                ring.append(&meta(stream, seq), &packet(seq))?;
            }
        }
        Ok(ring.sync(&[])?)
    })?;
    write("ring", "filled", &filled)?;
    let acknowledged = ring_of(|ring| {
        let mut places = Vec::new();
        for seq in 1..=4 {
            places.push(ring.append(&meta(Stream::Slow, seq), &packet(seq))?);
        }
        places.into_iter().try_for_each(|place| ring.release(place))?;
        Ok(ring.sync(&[Cursor { stream: Stream::Slow, boot: BootId::new(7, 1), seq: 4 }])?)
    })?;
    write("ring", "acknowledged", &acknowledged)?;
    let deadline = Deadline { answers_nonce: 12, boot: 1, within_ms: 60_000 };
    let command = DownCommand { id: "main/c1.c4".parse()?, child: 1, action: Action::Reset, deadline };
    let ended = CommandNote::Ended { id: command.id.clone(), child: 1, end: CommandEnd::Done, at: AT };
    let commanded = ring_of(|ring| Ok(ring.remember(&[CommandNote::Accepted { command, at: AT }, ended])?))?;
    write("ring", "commands", &commanded)?;
    Ok(())
}
