//! The core driven by hand, on virtual time.

mod chaos;
mod enrolment;

use super::*;
use crate::config::ChildConfig;
use crate::effect::Acked;
use crate::ring::MemoryRing;
use bytes::Bytes;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{AccountId, ConnectorNo, GatewayId};
use chargeplane_domain::units::{Timestamp, Watts};
use chargeplane_protocol::message::{
    Ack, Beat, Cursor, Deadline, Down, GrantEntry, Grants, Notice, Refusal, Resume, UpBatch,
};
use chargeplane_protocol::{GatewayKey, Header, wire};

const WALL: i64 = 1_795_392_000_000;
const CREDIT: u32 = 4;

fn gateway() -> GatewayId {
    "main/g1".parse().unwrap()
}

fn key() -> GatewayKey {
    GatewayKey { root: [9; 32], key_epoch: 1 }
}

fn config() -> GatewayConfig {
    let child = ChildConfig { fallback: Watts(5_000), rated: Watts(120_000) };
    GatewayConfig::new(gateway(), 3, key(), (1..=4).map(|number| (number, child)).collect())
}

fn at(mono: u64) -> Now {
    Now::new(mono, WALL + mono as i64)
}

fn sample(register: i64) -> Sample {
    Sample {
        at: Timestamp(WALL),
        voltage_dv: 4_000,
        current_da: 100,
        temperature_dc: 250,
        soc_permille: 500,
        power: Watts(40_000),
        register: WattHours(register),
    }
}

fn session() -> SessionId {
    "main/c1.1".parse().unwrap()
}

/// A packet that went out.
#[derive(Debug, Clone)]
struct Sent {
    stream: Stream,
    header: Header,
    batch: UpBatch,
    bytes: Bytes,
}

struct Rig {
    core: GatewayCore,
    ring: MemoryRing,
    keys: Keyring,
    now: u64,
    counter: u64,
    sent: Vec<Sent>,
    other: Vec<Effect>,
}

impl Rig {
    fn with(config: GatewayConfig, ring: MemoryRing) -> Self {
        let core = GatewayCore::new(config, Box::new(ring.clone()), at(0)).unwrap();
        let keys = Keyring::new(&gateway(), &key());
        let mut rig = Self { core, ring, keys, now: 0, counter: 0, sent: vec![], other: vec![] };
        rig.drain();
        rig.other.clear();
        rig
    }

    fn new() -> Self {
        Self::with(config(), MemoryRing::new())
    }

    /// Connected, and the node has answered.
    fn live() -> Self {
        let mut rig = Self::new();
        rig.connect();
        rig
    }

    fn connect(&mut self) {
        self.core.on_connected(at(self.now));
        self.drain();
        self.down(1, &Down::Resume(Resume { epoch: 1, cursors: vec![] }));
        self.sent.retain(|sent| sent.stream != Stream::Beat);
        self.other.clear();
    }

    fn drain(&mut self) {
        let mut effects = Vec::new();
        self.core.drain(at(self.now), &mut effects).unwrap();
        for effect in effects {
            match effect {
                Effect::Publish { topic, payload, ticket, .. } => {
                    let (stream, opened) = self.keys.open_up(&payload).unwrap();
                    assert!(topic.ends_with(stream.name()));
                    let batch = wire::decode_up(stream, &opened.plain).unwrap();
                    let header = opened.header;
                    assert_eq!(usize::from(header.items), batch.items());
                    if let Some(ticket) = ticket {
                        assert_eq!((ticket.stream, ticket.boot, ticket.seq), (stream, header.boot, header.seq));
                    }
                    self.sent.push(Sent { stream, header, batch, bytes: payload });
                }
                other => self.other.push(other),
            }
        }
    }

    fn to(&mut self, mono: u64) {
        assert!(mono >= self.now);
        self.now = mono;
        self.drain();
    }

    fn down(&mut self, epoch: u64, message: &Down) {
        self.counter += 1;
        let plain = wire::encode_down(message);
        let packet = self.keys.seal_down(epoch, self.counter, 1, WALL, &plain).unwrap();
        self.core.on_message(at(self.now), "cp/v1/main/0003/g1/down", &packet);
        self.drain();
    }

    fn ack(&mut self, stream: Stream, upto_seq: u64) {
        let boot = self.core.boot_id();
        self.down(1, &Down::Ack(Ack { stream, boot, epoch: 1, upto_seq, refused: vec![], credit: CREDIT }));
    }

    fn samples(&mut self, child: u16, count: u64) {
        for n in 0..count {
            self.core.on_sample(at(self.now), child, sample(1_000 + n as i64)).unwrap();
        }
    }

    fn charge(&mut self, child: u16) {
        let status = ChargerStatus { charging: true, demand: Watts(60_000), ..ChargerStatus::default() };
        self.core.on_status(at(self.now), child, status);
    }

    fn take(&mut self, stream: Stream) -> Vec<Sent> {
        let (taken, rest) = std::mem::take(&mut self.sent).into_iter().partition(|sent| sent.stream == stream);
        self.sent = rest;
        taken
    }

    fn beat(&mut self) -> Beat {
        match self.take(Stream::Beat).pop().unwrap().batch {
            UpBatch::Beat(beat) => beat,
            other => panic!("{other:?}"),
        }
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.other)
    }

    fn fault(&mut self) -> u64 {
        let event = GatewayEvent::Fault { child: 1, code: "E".to_owned(), at: Timestamp(WALL) };
        self.core.on_event(at(self.now), event).unwrap()
    }

    /// Stops without a word, and starts anew on the same ring.
    fn restart(self, lose_unsynced: bool) -> Self {
        if lose_unsynced {
            self.ring.lose_unsynced();
        }
        let mut rig = Self::with(config(), self.ring);
        rig.now = self.now;
        rig
    }
}

fn gaps(sent: &[Sent]) -> Vec<(u16, Gap)> {
    let of = |sent: &Sent| match &sent.batch {
        UpBatch::Samples { gaps, .. } => gaps.clone(),
        _ => vec![],
    };
    sent.iter().flat_map(of).collect()
}

fn results(sent: &[Sent]) -> Vec<(CommandId, CommandEnd)> {
    let mut all = Vec::new();
    for sent in sent {
        let UpBatch::Events(events) = &sent.batch else {
            continue;
        };
        for event in events {
            if let GatewayEvent::CommandResult { command, outcome, .. } = &event.event {
                all.push((command.clone(), outcome.clone()));
            }
        }
    }
    all
}

fn seqs(sent: &[Sent]) -> Vec<u64> {
    sent.iter().map(|sent| sent.header.seq).collect()
}

#[test]
fn a_lone_sample_leaves_after_half_a_second_by_itself() {
    let mut rig = Rig::live();
    rig.to(100);
    rig.samples(1, 1);
    rig.drain();
    assert_eq!(rig.core.next_deadline(), Some(Mono(600)));
    rig.to(599);
    assert!(rig.take(Stream::Slow).is_empty());
    rig.to(600);
    let sent = rig.take(Stream::Slow);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].header.items, sent[0].header.seq, sent[0].header.boot), (1, 1, 1));
}

#[test]
fn two_hundred_samples_leave_at_once_on_the_stream_of_their_charger() {
    let mut rig = Rig::live();
    rig.charge(2);
    rig.samples(2, 200);
    rig.samples(1, 199);
    rig.drain();
    let fast = rig.take(Stream::Fast);
    assert_eq!(fast.len(), 1);
    assert_eq!(fast[0].header.items, 200);
    assert!(rig.take(Stream::Slow).is_empty());
    rig.samples(1, 1);
    rig.drain();
    assert_eq!(rig.take(Stream::Slow).len(), 1);
    assert_eq!(rig.core.stats().samples_created, 400);
}

#[test]
fn events_leave_at_once_and_are_in_the_ring_before() {
    let mut rig = Rig::live();
    assert_eq!((rig.fault(), rig.fault()), (1, 2));
    assert_eq!(rig.core.next_deadline(), Some(Mono(0)));
    rig.drain();
    let sent = rig.take(Stream::Events);
    assert_eq!(sent.len(), 1, "what comes together leaves together");
    assert_eq!(sent[0].header.items, 2);
    assert_eq!(rig.ring.len(), 1);
    let unknown = GatewayEvent::Fault { child: 99, code: String::new(), at: Timestamp(WALL) };
    assert_eq!(rig.core.on_event(at(0), unknown), Err(SampleRefused::UnknownChild { child: 99 }));
}

#[test]
fn only_the_nodes_word_frees_the_ring() {
    let mut rig = Rig::live();
    rig.samples(1, 600);
    rig.drain();
    assert_eq!((rig.ring.len(), seqs(&rig.take(Stream::Slow))), (3, vec![1, 2, 3]));
    rig.to(250);
    rig.ack(Stream::Slow, 2);
    assert_eq!(rig.ring.len(), 1);
    let acked: Vec<Acked> =
        rig.effects().into_iter().filter_map(|e| if let Effect::Acked(a) = e { Some(a) } else { None }).collect();
    assert_eq!(
        acked.iter().map(|a| (a.ticket.seq, a.items, a.latency_ms)).collect::<Vec<_>>(),
        [(1, 200, Some(250)), (2, 200, Some(250))]
    );
    assert_eq!(rig.core.stats().samples_acked(), 400);
    assert_eq!(rig.core.stats().stream(Stream::Slow).held_items, 200);
}

#[test]
fn a_lower_epoch_frees_nothing() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    rig.down(5, &Down::Resume(Resume { epoch: 5, cursors: vec![] }));
    rig.ack(Stream::Slow, 1);
    assert_eq!(rig.ring.len(), 1);
    assert_eq!(rig.core.stats().lower_epoch_acks, 1);
}

#[test]
fn a_refused_batch_becomes_declared_gaps() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.samples(2, 200);
    rig.drain();
    rig.take(Stream::Slow);
    let refused = vec![Refusal { seq: 2, reason: "message_time".to_owned() }];
    let ack = Ack { stream: Stream::Slow, boot: BootId::new(1, 1), epoch: 1, upto_seq: 2, refused, credit: CREDIT };
    rig.down(1, &Down::Ack(ack.clone()));
    rig.to(500);
    let sent = rig.take(Stream::Slow);
    assert_eq!(gaps(&sent), [(2, Gap { first: 0, last: 199, reason: GapReason::Refused })]);
    assert_eq!(sent[0].header.seq, 3);
    assert_eq!(rig.core.stats().gap_samples, BTreeMap::from([("refused", 200)]));
    assert!(rig.effects().iter().any(|e| matches!(e, Effect::SamplesRefused { items: 200, .. })));
    // The same refusal again changes nothing, and the declaration itself can be refused and is made again.
    rig.down(1, &Down::Ack(ack));
    let refused = vec![Refusal { seq: 3, reason: "x".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack {
            stream: Stream::Slow,
            boot: BootId::new(1, 1),
            epoch: 1,
            upto_seq: 3,
            refused,
            credit: CREDIT,
        }),
    );
    rig.to(1_000);
    assert_eq!(gaps(&rig.take(Stream::Slow)), [(2, Gap { first: 0, last: 199, reason: GapReason::Refused })]);
    assert_eq!(rig.core.stats().samples_gap(), 200);
}

#[test]
fn a_loss_survives_a_crash_before_its_declaration() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    rig.to(1_000);
    let refused = vec![Refusal { seq: 1, reason: "x".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack {
            stream: Stream::Slow,
            boot: BootId::new(1, 1),
            epoch: 1,
            upto_seq: 1,
            refused,
            credit: CREDIT,
        }),
    );
    let mut rig = rig.restart(true);
    let ticket = Ticket { stream: Stream::Slow, boot: 1, seq: 1 };
    assert!(rig.core.lanes[2].get_mut((ticket.boot, ticket.seq)).is_some(), "it is sent and refused again");
}

#[test]
fn refused_events_are_counted_and_told() {
    let mut rig = Rig::live();
    rig.fault();
    rig.drain();
    let refused = vec![Refusal { seq: 1, reason: "message_id".to_owned() }];
    rig.down(
        1,
        &Down::Ack(Ack { stream: Stream::Events, boot: BootId::new(1, 1), epoch: 1, upto_seq: 1, refused, credit: 0 }),
    );
    assert_eq!(rig.core.stats().events_refused, 1);
    assert!(rig.effects().iter().any(|e| matches!(e, Effect::EventsRefused { numbers: (1, 1), .. })));
    assert!(rig.ring.is_empty());
}

#[test]
fn unacknowledged_batches_go_again_byte_by_byte() {
    let mut rig = Rig::live();
    rig.fault();
    rig.samples(1, 200);
    rig.drain();
    let first = (rig.take(Stream::Events), rig.take(Stream::Slow));
    rig.to(2_999);
    assert!(rig.take(Stream::Events).is_empty());
    rig.to(3_000);
    let again = rig.take(Stream::Events);
    assert_eq!(again[0].bytes, first.0[0].bytes);
    rig.ack(Stream::Events, 1);
    rig.to(60_000);
    let again = rig.take(Stream::Slow);
    assert_eq!(again[0].bytes, first.1[0].bytes);
    rig.to(64_000);
    assert!(rig.take(Stream::Events).is_empty());
}

#[test]
fn after_a_reconnection_the_rest_goes_in_order_when_the_node_has_told_where_it_is() {
    let mut rig = Rig::live();
    rig.samples(1, 600);
    rig.fault();
    rig.drain();
    let first = rig.take(Stream::Slow);
    rig.take(Stream::Events);
    rig.core.on_disconnected(at(10));
    rig.to(20);
    rig.core.on_connected(at(20));
    rig.drain();
    assert_eq!(seqs(&rig.take(Stream::Events)), [1], "events do not wait");
    assert!(rig.take(Stream::Slow).is_empty());
    let cursors = vec![Cursor { stream: Stream::Slow, boot: BootId::new(1, 1), seq: 1 }];
    rig.down(2, &Down::Resume(Resume { epoch: 2, cursors }));
    let again = rig.take(Stream::Slow);
    assert_eq!(seqs(&again), [2, 3]);
    assert_eq!(again[0].bytes, first[1].bytes);
    assert_eq!(rig.core.stats().samples_acked(), 0, "received is not durable");
    rig.ack(Stream::Slow, 1);
    assert_eq!(rig.core.stats().lower_epoch_acks, 1);
    let ack =
        Ack { stream: Stream::Slow, boot: BootId::new(1, 1), epoch: 2, upto_seq: 1, refused: vec![], credit: CREDIT };
    rig.down(2, &Down::Ack(ack));
    assert_eq!(rig.core.stats().samples_acked(), 200);
    // Without a word from the node it goes on after a second.
    rig.core.on_disconnected(at(20));
    rig.core.on_connected(at(30));
    rig.drain();
    assert!(rig.take(Stream::Slow).is_empty());
    assert!(rig.core.next_deadline().unwrap() <= Mono(1_030));
    rig.to(1_030);
    assert_eq!(seqs(&rig.take(Stream::Slow)), [2, 3]);
}

#[test]
fn a_backlog_takes_the_replay_stream_at_the_credit_granted_and_live_samples_go_first() {
    let mut rig = Rig::new();
    rig.samples(1, 2_000);
    rig.drain();
    rig.connect();
    rig.samples(1, 200);
    rig.ack(Stream::Fast, 0);
    rig.drain();
    let order: Vec<_> = rig.sent.iter().filter(|s| s.stream != Stream::Beat).map(|s| s.stream).collect();
    let replay = rig.take(Stream::Replay);
    assert_eq!(seqs(&replay), (1..=10).collect::<Vec<_>>(), "the first credit covers it");
    assert!(order.contains(&Stream::Slow));
    // With the node's credit of four, four are under way at a time.
    rig.core.on_disconnected(at(0));
    rig.core.on_connected(at(0));
    rig.drain();
    rig.down(1, &Down::Resume(Resume::default()));
    rig.take(Stream::Replay);
    rig.ack(Stream::Slow, 0);
    rig.core.on_disconnected(at(0));
    rig.core.on_connected(at(0));
    rig.to(1_000);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [1, 2, 3, 4]);
    rig.ack(Stream::Replay, 3);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [5, 6, 7]);
    let paused =
        Ack { stream: Stream::Replay, boot: BootId::new(1, 1), epoch: 1, upto_seq: 7, refused: vec![], credit: 0 };
    rig.down(1, &Down::Ack(paused));
    assert!(rig.take(Stream::Replay).is_empty());
    rig.ack(Stream::Events, 0);
    assert!(rig.take(Stream::Replay).is_empty(), "only telemetry's acknowledgements carry credit");
    rig.ack(Stream::Fast, 0);
    assert_eq!(seqs(&rig.take(Stream::Replay)), [8, 9, 10]);
}

#[test]
fn a_refused_publication_is_given_back() {
    let mut rig = Rig::live();
    rig.fault();
    rig.drain();
    assert_eq!(rig.take(Stream::Events).len(), 1);
    let ticket = Ticket { stream: Stream::Events, boot: 1, seq: 1 };
    rig.core.on_publish_refused(at(0), Some(ticket), LinkRefused::Full);
    rig.drain();
    assert!(rig.take(Stream::Events).is_empty());
    assert_eq!(rig.core.next_deadline(), Some(Mono(20)));
    rig.to(20);
    assert_eq!(seqs(&rig.take(Stream::Events)), [1]);
}

#[test]
fn beats_are_busy_while_something_charges() {
    let mut rig = Rig::live();
    let count = |rig: &mut Rig| rig.take(Stream::Beat).len();
    count(&mut rig);
    rig.to(4_999);
    assert_eq!(count(&mut rig), 0);
    rig.to(5_000);
    assert_eq!(count(&mut rig), 1);
    rig.charge(1);
    rig.to(5_249);
    assert_eq!(count(&mut rig), 0);
    rig.to(5_250);
    let beat = rig.beat();
    assert_eq!((beat.mono, beat.chargers.len(), beat.epoch_seen), (Mono(5_250), 1, 1));
    assert_eq!(beat.chargers[0].demand, Watts(60_000));
    rig.to(6_249);
    assert_eq!(count(&mut rig), 0);
    rig.to(6_250);
    assert_eq!(count(&mut rig), 1);
}

#[test]
fn nobody_answers_for_three_seconds() {
    let mut rig = Rig::live();
    rig.to(5_000);
    rig.to(7_999);
    assert!(!rig.core.is_local());
    rig.to(8_000);
    assert!(rig.core.is_local() && rig.effects().contains(&Effect::ModeChanged { local: true }));
    rig.samples(1, 200);
    rig.drain();
    assert_eq!(rig.take(Stream::Replay).len(), 1, "what is made now does not crowd the live streams");
    rig.ack(Stream::Slow, 0);
    assert!(!rig.core.is_local());
    rig.core.on_disconnected(at(8_000));
    rig.to(11_000);
    assert!(rig.core.is_local());
    assert_eq!(rig.core.stats().local_entries, 2);
}

fn grant(rig: &mut Rig, answers_nonce: u64, seq: u64, w: i64) {
    let entries = vec![GrantEntry { child: 1, w: Watts(w), allowance: None }];
    let grants = Grants { answers_nonce, boot: rig.core.boot(), epoch: 1, seq, lease_ms: 30_000, entries };
    rig.down(1, &Down::Grants(grants));
}

#[test]
fn a_grant_is_told_to_the_hardware_and_ends_on_the_gateways_clock() {
    let mut rig = Rig::live();
    rig.charge(1);
    rig.to(5_000);
    let nonce = rig.beat().nonce;
    rig.to(5_400);
    rig.effects();
    grant(&mut rig, nonce, 1, 60_000);
    let limit = |w| Effect::SetLimit { child: 1, watts: Watts(w), allowance: None };
    assert_eq!(rig.effects(), [limit(60_000)]);
    assert_eq!(rig.core.next_deadline().map(|d| d <= Mono(35_000)), Some(true));
    rig.to(6_000);
    let beat = rig.beat();
    assert_eq!(
        (beat.chargers[0].granted, beat.chargers[0].lease_left_ms, beat.applied_grant_seq),
        (Watts(60_000), 29_000, 1)
    );
    grant(&mut rig, 12_345, 2, 20_000);
    assert_eq!(rig.effects(), [limit(20_000)], "a decrease that answers no beat is obeyed");
    grant(&mut rig, 12_345, 3, 90_000);
    assert_eq!(rig.effects(), []);
    rig.to(34_999);
    rig.effects();
    rig.to(35_000);
    assert!(rig.effects().contains(&limit(5_000)));
    assert_eq!(rig.core.stats().leases_expired, 1);
}

/// The first beat of a boot.
fn first_beat(boot: u32) -> u64 {
    (u64::from(boot) << 32) | 1
}

/// A start with a minute from the first beat of the first boot.
fn start(n: u32, allowance: i64) -> DownCommand {
    let action = Action::Start { session: session(), connector: ConnectorNo(1), allowance: WattHours(allowance) };
    let deadline = Deadline { answers_nonce: first_beat(1), boot: 1, within_ms: 60_000 };
    DownCommand { id: format!("main/c1.c{n}").parse().unwrap(), child: 1, action, deadline }
}

#[test]
fn a_command_is_carried_out_once_and_answered_every_time() {
    let mut rig = Rig::live();
    let command = start(1, 500);
    let message = Down::Commands(vec![command.clone()]);
    rig.down(1, &message);
    assert_eq!(rig.effects(), [Effect::Execute(command.clone())]);
    rig.down(1, &message);
    assert_eq!(rig.effects(), [], "it is still being carried out");
    rig.core.on_command_result(at(0), &command.id, CommandEnd::Done);
    rig.core.on_command_result(at(0), &command.id, CommandEnd::Refused("late".to_owned()));
    rig.drain();
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id.clone(), CommandEnd::Done)]);
    rig.down(1, &message);
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id.clone(), CommandEnd::Done)]);
    // Also by the next boot.
    let mut rig = rig.restart(true);
    rig.connect();
    rig.take(Stream::Events);
    rig.down(1, &message);
    assert_eq!(rig.effects().iter().filter(|e| matches!(e, Effect::Execute(_) | Effect::Inquire(_))).count(), 0);
    assert_eq!(results(&rig.take(Stream::Events)), [(command.id, CommandEnd::Done)]);
}

#[test]
fn a_command_without_an_end_is_inquired_after_a_restart() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    let core = GatewayCore::new(config(), Box::new(rig.ring.clone()), at(0)).unwrap();
    rig.core = core;
    rig.effects();
    rig.drain();
    assert!(rig.effects().contains(&Effect::Inquire(start(1, 500))));
    rig.connect();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    assert!(!rig.effects().iter().any(|e| matches!(e, Effect::Execute(_))));
    rig.core.on_command_result(at(0), &start(1, 0).id, CommandEnd::Refused("interrupted".to_owned()));
    rig.drain();
    assert_eq!(results(&rig.take(Stream::Events)).len(), 1);
}

#[test]
fn late_and_foreign_commands_are_not_carried_out() {
    let mut rig = Rig::live();
    rig.to(1_001);
    let within = |within_ms| Deadline { answers_nonce: first_beat(1), boot: 1, within_ms };
    let late = DownCommand { deadline: within(1_000), ..start(1, 0) };
    let foreign = DownCommand { child: 77, ..start(2, 0) };
    rig.effects();
    rig.down(1, &Down::Commands(vec![late.clone(), foreign]));
    assert_eq!(rig.effects(), []);
    let ends: Vec<_> = results(&rig.take(Stream::Events)).into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends, [CommandEnd::Expired, CommandEnd::Refused("unknown_charger".to_owned())]);
    // The same id with a later deadline is the same command: it has ended.
    rig.down(1, &Down::Commands(vec![DownCommand { deadline: within(60_000), ..late }]));
    assert_eq!(rig.effects(), []);
    assert_eq!(rig.core.stats().commands_executed, 0);
    // The last moment is in time.
    let just = DownCommand { deadline: within(1_001), ..start(3, 0) };
    rig.down(1, &Down::Commands(vec![just.clone()]));
    assert_eq!(rig.effects(), [Effect::Execute(just)]);
}

/// The wall clock of a gateway may be minutes or hours off, and may jump.
#[test]
fn deadlines_do_not_look_at_the_wall_clock() {
    for wrong_by in [90_000, -3_600_000] {
        let mut rig = Rig::live();
        let command = start(1, 500);
        let packet = {
            rig.counter += 1;
            let plain = wire::encode_down(&Down::Commands(vec![command.clone()]));
            rig.keys.seal_down(1, rig.counter, 1, WALL, &plain).unwrap()
        };
        let now = Now::new(59_000, WALL + wrong_by);
        rig.core.on_message(now, "cp/v1/main/0003/g1/down", &packet);
        let mut effects = Vec::new();
        rig.core.drain(now, &mut effects).unwrap();
        assert!(effects.contains(&Effect::Execute(command)), "{wrong_by} ms: {effects:?}");
    }
}

/// It may be from any time: it is neither carried out nor ended, and comes again with a beat that is known.
#[test]
fn a_command_that_answers_no_beat_of_this_boot_waits_for_one_that_does() {
    let rig = Rig::live();
    let mut rig = rig.restart(true);
    rig.connect();
    rig.take(Stream::Events);
    let other = Deadline { answers_nonce: first_beat(2) + 7, boot: 2, within_ms: 60_000 };
    for undated in [start(1, 500), DownCommand { deadline: other, ..start(1, 500) }] {
        rig.down(1, &Down::Commands(vec![undated]));
        assert_eq!(rig.effects(), []);
        assert!(rig.take(Stream::Events).is_empty(), "it has not ended");
    }
    assert_eq!(rig.core.stats().commands_undated, 2);
    let dated = Deadline { answers_nonce: first_beat(2), boot: 2, within_ms: 60_000 };
    let command = DownCommand { deadline: dated, ..start(1, 500) };
    rig.down(1, &Down::Commands(vec![command.clone()]));
    assert_eq!(rig.effects(), [Effect::Execute(command)]);
}

#[test]
fn a_session_stops_at_its_allowance() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Commands(vec![start(1, 500)]));
    let started =
        GatewayEvent::SessionStarted { child: 1, session: session(), register: WattHours(1_000), at: Timestamp(WALL) };
    rig.core.on_event(at(0), started).unwrap();
    rig.drain();
    let told = Effect::SetLimit { child: 1, watts: Watts(0), allowance: Some(WattHours(500)) };
    assert!(rig.effects().contains(&told));
    rig.core.on_sample(at(0), 1, sample(1_499)).unwrap();
    rig.drain();
    assert_eq!(rig.effects(), []);
    rig.core.on_sample(at(0), 1, sample(1_500)).unwrap();
    rig.core.on_sample(at(0), 1, sample(1_510)).unwrap();
    rig.drain();
    let stop = Effect::StopCharging { child: 1, session: session(), reason: StopReason::Funds };
    assert_eq!(rig.effects(), [stop]);
    assert_eq!(rig.core.stats().allowance_stops, 1);
}

#[test]
fn denials_and_notices_reach_the_hardware() {
    let mut rig = Rig::live();
    rig.down(1, &Down::Deny { child: 1, request: 8, code: "insufficient_funds".to_owned() });
    assert_eq!(rig.effects(), [Effect::Denied { child: 1, request: 8, code: "insufficient_funds".to_owned() }]);
}

#[test]
fn a_new_boot_leaves_numbers_out_and_declares_them() {
    let mut rig = Rig::live();
    rig.samples(1, 250);
    rig.drain();
    rig.fault();
    rig.drain();
    // 200 were sealed but not synced: with the power they go.
    let mut rig = rig.restart(true);
    assert_eq!(rig.core.boot(), 2);
    rig.connect();
    rig.to(1_000);
    let declared = gaps(&rig.take(Stream::Replay));
    assert!(declared.contains(&(1, Gap { first: 0, last: 1_023, reason: GapReason::Dropped })));
    assert_eq!(rig.core.on_sample(at(1_000), 1, sample(0)), Ok(1_024));
    assert_eq!(rig.fault(), 2, "events are never lost, so their numbers have no holes");
    // What was synced is known exactly.
    rig.samples(1, 199);
    rig.drain();
    rig.to(2_500);
    let mut rig = rig.restart(true);
    assert_eq!(rig.core.on_sample(at(3_000), 1, sample(0)), Ok(1_224 + 1_024));
}

/// Numbers of one charger enter the ring in their order: a crash loses the last ones and leaves no hole.
#[test]
fn a_charger_that_begins_to_charge_sends_its_idle_samples_first() {
    let mut rig = Rig::live();
    rig.samples(1, 1);
    rig.charge(1);
    rig.samples(1, 199);
    rig.drain();
    assert_eq!(rig.take(Stream::Slow)[0].header.items, 200);
    rig.samples(1, 200);
    rig.drain();
    assert_eq!(rig.take(Stream::Fast)[0].header.first_item, 200);
}

#[test]
fn a_burst_is_synced_before_the_slack_is_used_up() {
    let mut rig = Rig::live();
    for _ in 0..30 {
        rig.samples(1, 100);
        rig.drain();
    }
    let next = 3_000;
    let mut rig = rig.restart(true);
    let number = rig.core.on_sample(at(0), 1, sample(0)).unwrap();
    assert!(number >= next, "{number} was used before");
}

#[test]
fn a_full_ring_drops_the_oldest_samples_and_never_an_event() {
    let mut config = config();
    config.telemetry_capacity = 10_000;
    let mut rig = Rig::with(config, MemoryRing::new());
    rig.fault();
    rig.drain();
    for _ in 0..30 {
        rig.samples(1, 200);
        rig.drain();
        rig.to(rig.now + 500);
    }
    rig.core.flush(at(rig.now)).unwrap();
    let dropped = rig.core.stats().gap_samples["dropped"];
    assert!(dropped >= 2_000 && dropped.is_multiple_of(200), "{dropped}");
    assert!(rig.core.lanes[3].bytes() <= 10_000);
    rig.connect();
    rig.to(rig.now + 1_000);
    assert!(seqs(&rig.take(Stream::Events)).contains(&1));
    let sent = rig.take(Stream::Replay);
    // A declaration that was itself dropped is made again: together they cover exactly what was lost.
    let mut lost: Vec<u64> = gaps(&sent).into_iter().flat_map(|(_, gap)| gap.first..=gap.last).collect();
    lost.sort_unstable();
    assert_eq!(lost, (0..dropped).collect::<Vec<_>>());
    // The node learns that the dropped sequences will not come.
    rig.charge(1);
    rig.to(rig.now + 1_000);
    let floor = rig.beat().floors.into_iter().find(|floor| floor.stream == Stream::Replay).unwrap();
    assert_eq!(floor.seq, sent[0].header.seq);
}

#[test]
fn what_cannot_be_used_is_counted_and_changes_nothing() {
    let mut rig = Rig::live();
    rig.samples(1, 200);
    rig.drain();
    let before = rig.core.stats().clone();
    rig.core.on_message(at(0), "cp/v1/main/0003/other/down", b"");
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", b"nonsense");
    let up = rig.take(Stream::Slow).remove(0).bytes;
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", &up);
    let odd = rig.keys.seal_down(9, 1, 1, 0, &[0x08, 7]).unwrap();
    rig.core.on_message(at(0), "cp/v1/main/0003/g1/down", &odd);
    let mut after = rig.core.stats().clone();
    let codes: Vec<_> = std::mem::take(&mut after.bad_messages).into_iter().collect();
    assert_eq!(codes, [("message_version", 1), ("packet_stream", 1), ("packet_too_short", 1), ("topic_not_mine", 1)]);
    assert_eq!(after, before);
    assert_eq!(rig.core.leases.epoch_seen(), 1);
}

#[test]
fn an_event_of_a_start_request_carries_what_the_driver_said() {
    let mut rig = Rig::live();
    let account: AccountId = "main/a1".parse().unwrap();
    let event =
        GatewayEvent::StartRequested { child: 1, connector: ConnectorNo(1), account, request: 3, at: Timestamp(WALL) };
    rig.core.on_event(at(0), event.clone()).unwrap();
    rig.drain();
    let UpBatch::Events(events) = &rig.take(Stream::Events)[0].batch else { panic!() };
    assert_eq!(events[0], NumberedEvent { number: 1, event });
}
