//! The core driven by hand, on virtual time.

mod batches;
mod beats;
mod chaos;
mod commands;
mod day;
mod enrolment;
mod losses;

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
