//! A core and a small node over a network that loses, repeats and reorders; both ends crash. At the end the
//! network behaves, and what was created must be what is stored or declared lost (DATA-1).

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The durable part of the node, and what it would lose in a crash.
struct Node {
    keys: Keyring,
    epoch: u64,
    counter: u64,
    durable: Store,
    buffered: Vec<(Stream, u32, u64, UpBatch)>,
    refused: BTreeMap<(Stream, u32), BTreeSet<u64>>,
    /// The acknowledgements that the gateway has seen.
    echoed: BTreeMap<(Stream, u32), u64>,
    packets: BTreeMap<(u8, u32, u64), Bytes>,
}

#[derive(Default, Clone)]
struct Store {
    samples: BTreeMap<(u16, u64), Sample>,
    gaps: BTreeSet<(u16, u64)>,
    events: BTreeMap<u64, GatewayEvent>,
    done: BTreeMap<(Stream, u32), BTreeSet<u64>>,
    cursors: BTreeMap<(Stream, u32), u64>,
}

impl Node {
    fn new() -> Self {
        Self {
            keys: Keyring::new(&gateway(), &key()),
            epoch: 1,
            counter: 0,
            durable: Store::default(),
            buffered: vec![],
            refused: BTreeMap::new(),
            echoed: BTreeMap::new(),
            packets: BTreeMap::new(),
        }
    }

    fn down(&mut self, message: &Down) -> Bytes {
        self.counter += 1;
        self.keys.seal_down(self.epoch, self.counter, 1, WALL, &wire::encode_down(message)).unwrap().into()
    }

    fn resume(&mut self) -> Bytes {
        let cursor = |((stream, boot), seq): (&(Stream, u32), &u64)| {
            let boot = BootId::new(1, *boot);
            Cursor { stream: *stream, boot, seq: *seq }
        };
        let cursors = self.durable.cursors.iter().map(cursor).collect();
        let epoch = self.epoch;
        self.down(&Down::Resume(Resume { epoch, cursors }))
    }

    fn crash(&mut self) -> Bytes {
        self.epoch += 1;
        self.buffered.clear();
        self.refused.clear();
        self.echoed.clear();
        self.resume()
    }

    fn on_packet(&mut self, packet: &Bytes, refuse: bool) -> Vec<Bytes> {
        let (stream, opened) = self.keys.open_up(packet).unwrap();
        let (boot, seq) = (opened.header.boot, opened.header.seq);
        let known = self.packets.entry((stream.as_u8(), boot, seq)).or_insert_with(|| packet.clone());
        assert_eq!(known, packet, "a sequence was sealed twice");
        let batch = wire::decode_up(stream, &opened.plain).unwrap();
        if let UpBatch::Beat(beat) = &batch {
            for floor in &beat.floors {
                let cursor = self.durable.cursors.entry((floor.stream, floor.boot.boot)).or_default();
                *cursor = (*cursor).max(floor.seq - 1);
            }
            for cursor in &beat.acked {
                let seen = self.echoed.entry((cursor.stream, cursor.boot.boot)).or_default();
                *seen = (*seen).max(cursor.seq);
            }
            return if beat.epoch_seen < self.epoch { vec![self.resume()] } else { vec![] };
        }
        let cursor = self.durable.cursors.get(&(stream, boot)).copied().unwrap_or(0);
        if seq > cursor && refuse && stream.is_telemetry() {
            self.refused.entry((stream, boot)).or_default().insert(seq);
        } else if seq > cursor && !self.is_refused(stream, boot, seq) {
            self.buffered.push((stream, boot, seq, batch));
        }
        if stream == Stream::Events { self.flush(Some(stream)) } else { vec![] }
    }

    fn is_refused(&self, stream: Stream, boot: u32, seq: u64) -> bool {
        self.refused.get(&(stream, boot)).is_some_and(|refused| refused.contains(&seq))
    }

    /// Makes what is buffered durable, moves the cursors, acknowledges.
    fn flush(&mut self, only: Option<Stream>) -> Vec<Bytes> {
        let (now, later) = std::mem::take(&mut self.buffered).into_iter().partition(|b| only.is_none_or(|s| s == b.0));
        self.buffered = later;
        for (stream, boot, seq, batch) in now {
            self.durable.done.entry((stream, boot)).or_default().insert(seq);
            match batch {
                UpBatch::Samples { runs, gaps } => {
                    for run in runs {
                        for (number, sample) in (run.first_number..).zip(run.samples) {
                            let known = self.durable.samples.entry((run.child, number)).or_insert(sample);
                            assert_eq!(*known, sample, "a number was used twice");
                        }
                    }
                    for (child, gap) in gaps {
                        self.durable.gaps.extend((gap.first..=gap.last).map(|number| (child, number)));
                    }
                }
                UpBatch::Events(events) => {
                    for event in events {
                        let known = self.durable.events.entry(event.number).or_insert_with(|| event.event.clone());
                        assert_eq!(*known, event.event);
                    }
                }
                UpBatch::Beat(_) => {}
            }
        }
        let mut lanes: BTreeSet<(Stream, u32)> = self.durable.done.keys().copied().collect();
        lanes.extend(self.refused.keys().copied());
        let mut acks = vec![];
        for (stream, boot) in lanes.into_iter().filter(|lane| only.is_none_or(|s| s == lane.0)) {
            let done = self.durable.done.entry((stream, boot)).or_default();
            let refused = self.refused.entry((stream, boot)).or_default();
            let cursor = self.durable.cursors.entry((stream, boot)).or_default();
            // The durable cursor passes a refusal only when the gateway knows of it.
            let seen = self.echoed.get(&(stream, boot)).copied().unwrap_or(0);
            while done.contains(&(*cursor + 1)) || refused.contains(&(*cursor + 1)) && *cursor < seen {
                *cursor += 1;
            }
            let mut upto_seq = *cursor;
            while done.contains(&(upto_seq + 1)) || refused.contains(&(upto_seq + 1)) {
                upto_seq += 1;
            }
            let refused = refused.iter().map(|seq| Refusal { seq: *seq, reason: "test".to_owned() }).collect();
            let (epoch, boot) = (self.epoch, BootId::new(1, boot));
            acks.push(Down::Ack(Ack { stream, boot, epoch, upto_seq, refused, credit: 3 }));
        }
        acks.iter().map(|ack| self.down(ack)).collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Samples {
        child: u16,
        count: u64,
        charging: bool,
    },
    Event,
    Wait(u64),
    /// Deliver the packet at this place of the queue, lose it, or deliver and keep it.
    Up {
        at: usize,
        lose: bool,
        again: bool,
        refuse: bool,
    },
    Down {
        at: usize,
        lose: bool,
        again: bool,
    },
    Flush,
    Reconnect {
        down_for: u64,
    },
    NodeCrash,
    GatewayCrash {
        power: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let up = (0..50_usize, prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(at, lose, again, refuse)| Step::Up { at, lose, again, refuse });
    let down = (0..50_usize, prop::bool::weighted(0.1), prop::bool::weighted(0.1))
        .prop_map(|(at, lose, again)| Step::Down { at, lose, again });
    let samples = (1..=4_u16, 1..150_u64, any::<bool>()).prop_map(|(child, count, charging)| Step::Samples {
        child,
        count,
        charging,
    });
    let step = prop_oneof![
        6 => samples,
        2 => Just(Step::Event),
        4 => (1..900_u64).prop_map(Step::Wait),
        10 => up,
        6 => down,
        2 => Just(Step::Flush),
        1 => (0..6_000_u64).prop_map(|down_for| Step::Reconnect { down_for }),
        1 => Just(Step::NodeCrash),
        1 => any::<bool>().prop_map(|power| Step::GatewayCrash { power }),
    ];
    prop::collection::vec(step, 1..120)
}

struct World {
    core: GatewayCore,
    ring: MemoryRing,
    node: Node,
    now: u64,
    up: Vec<Bytes>,
    down: Vec<Bytes>,
    created: BTreeMap<(u16, u64), Sample>,
    events: BTreeMap<u64, GatewayEvent>,
    acked: Vec<Acked>,
    serial: i64,
}

impl World {
    fn new() -> Self {
        let ring = MemoryRing::new();
        let mut world = Self {
            core: Self::core(&ring, 0),
            ring,
            node: Node::new(),
            now: 0,
            up: vec![],
            down: vec![],
            created: BTreeMap::new(),
            events: BTreeMap::new(),
            acked: vec![],
            serial: 0,
        };
        world.core.on_connected(at(0));
        world.drain();
        world
    }

    fn core(ring: &MemoryRing, now: u64) -> GatewayCore {
        let mut config = config();
        config.telemetry_capacity = 12_000;
        // Everything is old enough at once.
        config.thinning = crate::Thinning { from_percent: 30, after_ms: 0, keep_one_in: 7 };
        GatewayCore::new(config, Box::new(ring.clone()), at(now)).unwrap()
    }

    fn drain(&mut self) {
        let mut effects = vec![];
        self.core.drain(at(self.now), &mut effects).unwrap();
        for effect in effects {
            match effect {
                Effect::Publish { payload, .. } => self.up.push(payload),
                Effect::Acked(acked) => self.check_acked(acked),
                _ => {}
            }
        }
    }

    /// What the gateway was promised is durable at the node, now.
    fn check_acked(&mut self, acked: Acked) {
        for span in &acked.spans {
            for number in span.first..=span.last {
                assert!(
                    self.node.durable.samples.contains_key(&(span.child, number)),
                    "an acknowledged sample is missing"
                );
            }
        }
        self.acked.push(acked);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Samples { child, count, charging } => {
                self.core.on_status(at(self.now), child, ChargerStatus { charging, ..ChargerStatus::default() });
                for _ in 0..count {
                    self.serial += 1;
                    let sample = sample(self.serial);
                    let number = self.core.on_sample(at(self.now), child, sample).unwrap();
                    let before = self.created.insert((child, number), sample);
                    assert_eq!(before, None, "a number was given twice");
                }
            }
            Step::Event => {
                self.serial += 1;
                let event = GatewayEvent::Fault { child: 1, code: self.serial.to_string(), at: Timestamp(WALL) };
                let number = self.core.on_event(at(self.now), event.clone()).unwrap();
                assert_eq!(self.events.insert(number, event), None);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Up { at, lose, again, refuse } => {
                if let Some(packet) = pick(&mut self.up, at, again)
                    && !lose
                {
                    let answers = self.node.on_packet(&packet, refuse);
                    self.down.extend(answers);
                }
            }
            Step::Down { at, lose, again } => {
                if let Some(packet) = pick(&mut self.down, at, again)
                    && !lose
                {
                    self.deliver_down(&packet);
                }
            }
            Step::Flush => self.down.extend(self.node.flush(None)),
            Step::Reconnect { down_for } => {
                self.core.on_disconnected(at(self.now));
                self.drain();
                self.now += down_for;
                self.up.clear();
                self.down.clear();
                self.core.on_connected(at(self.now));
            }
            Step::NodeCrash => {
                let resume = self.node.crash();
                self.down.push(resume);
            }
            Step::GatewayCrash { power } => {
                self.drain();
                if power {
                    self.ring.lose_unsynced();
                }
                self.core = Self::core(&self.ring, self.now);
                self.core.on_connected(at(self.now));
            }
        }
        self.drain();
    }

    fn deliver_down(&mut self, packet: &Bytes) {
        self.core.on_message(at(self.now), "cp/v1/main/0003/g1/down", packet);
        self.drain();
    }

    /// The network behaves until nothing is left to be done.
    fn settle(&mut self) {
        for _ in 0..400 {
            for packet in std::mem::take(&mut self.up) {
                let answers = self.node.on_packet(&packet, false);
                self.down.extend(answers);
            }
            self.down.extend(self.node.flush(None));
            for packet in std::mem::take(&mut self.down) {
                self.deliver_down(&packet);
            }
            self.now += 1_000;
            self.drain();
            let waiting = self.core.fast.len() + self.core.slow.len() + self.core.events.len();
            if self.core.stats().held_batches() == 0 && waiting == 0 {
                return;
            }
        }
        panic!("the ring never emptied: {:?}", self.core.stats());
    }
}

fn pick(queue: &mut Vec<Bytes>, at: usize, again: bool) -> Option<Bytes> {
    if queue.is_empty() {
        return None;
    }
    let at = at % queue.len();
    Some(if again { queue[at].clone() } else { queue.remove(at) })
}

/// A hundred take two seconds; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn what_was_created_is_stored_or_declared_lost(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        let stored = &world.node.durable;
        for (name, sample) in &world.created {
            match stored.samples.get(name) {
                Some(found) => prop_assert_eq!(found, sample),
                None => prop_assert!(stored.gaps.contains(name), "sample {:?} is neither stored nor declared", name),
            }
        }
        for name in stored.samples.keys() {
            prop_assert!(world.created.contains_key(name), "sample {:?} was never created", name);
        }
        prop_assert_eq!(&stored.events, &world.events);
        // Every number of a charger up to its last is one or the other: no hole is left unexplained.
        for child in 1..=4_u16 {
            let last = world.created.range((child, 0)..=(child, u64::MAX)).next_back().map(|((_, n), _)| *n);
            for number in 0..=last.unwrap_or(0) {
                let known = stored.samples.contains_key(&(child, number)) || stored.gaps.contains(&(child, number));
                prop_assert!(last.is_none() || known, "number {number} of {child} is unexplained");
            }
        }
    }
}
