//! The index of one stream's sealed batches in the ring: what is held, what is under way, what goes next.
//!
//! A lane publishes in the order of (boot, sequence) and holds a batch until it is acknowledged or given up.

use crate::ring::{BatchMeta, Found, Place};
use bytes::Bytes;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::units::Mono;
use chargeplane_protocol::message::{Cursor, Stream};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Boot and sequence.
pub(crate) type Key = (u32, u64);

/// One batch that is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub meta: BatchMeta,
    pub place: Place,
    /// Bytes of the packet.
    pub len: u64,
    /// The key it is sealed under.
    pub key_epoch: u32,
    /// Age: lower is older, across streams.
    pub order: u64,
    /// When it was sealed, or the oldest of what it is left of, in microseconds since 1970.
    pub made_us: u64,
    /// First publication while the gateway was live; not for batches that had to wait for a connection.
    pub first_live: Option<Mono>,
    /// The packet itself until its first publication, so that a live batch is not read back.
    pub fresh: Option<Bytes>,
    sent: Option<Mono>,
}

/// One stream's batches.
#[derive(Debug)]
pub(crate) struct Lane {
    stream: Stream,
    held: BTreeMap<Key, Held>,
    unsent: BTreeSet<Key>,
    /// All that is held, by age.
    by_age: BTreeSet<(u64, Key)>,
    /// What was not thinned yet, by age.
    whole: BTreeSet<(u64, Key)>,
    flying: VecDeque<(Mono, Key)>,
    acked: BTreeMap<BootId, u64>,
    hold_until: Option<Mono>,
    next_seq: u64,
    items: u64,
    bytes: u64,
}

impl Lane {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            held: BTreeMap::new(),
            unsent: BTreeSet::new(),
            by_age: BTreeSet::new(),
            whole: BTreeSet::new(),
            flying: VecDeque::new(),
            acked: BTreeMap::new(),
            hold_until: None,
            next_seq: 1,
            items: 0,
            bytes: 0,
        }
    }

    /// The sequence of the next batch of this boot.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The sequence was used for a seal and is never given again.
    pub fn use_seq(&mut self) {
        self.next_seq += 1;
    }

    /// A sealed batch that lies in the ring, `order` being its age across streams.
    pub fn insert(&mut self, found: Found, order: u64, fresh: Option<Bytes>) {
        let Found { meta, place, len, key_epoch, made_us } = found;
        let key = (meta.ticket.boot, meta.ticket.seq);
        self.items += meta.items();
        self.bytes += len;
        self.unsent.insert(key);
        self.by_age.insert((order, key));
        self.whole.insert((order, key));
        let held = Held { meta, place, len, key_epoch, order, made_us, first_live: None, fresh, sent: None };
        self.held.insert(key, held);
    }

    /// A connection is up: nothing is under way any more, and old telemetry waits for the node's cursors.
    pub fn on_connected(&mut self, hold_until: Option<Mono>) {
        self.all_unsent();
        self.hold_until = if self.held.is_empty() { None } else { hold_until };
    }

    /// Without a connection nothing is under way; packets are read back from the ring later.
    pub fn on_disconnected(&mut self) {
        self.all_unsent();
        self.hold_until = None;
        for held in self.held.values_mut() {
            held.fresh = None;
        }
    }

    fn all_unsent(&mut self) {
        self.flying.clear();
        for (key, held) in &mut self.held {
            held.sent = None;
            self.unsent.insert(*key);
        }
    }

    /// The node tells what it has received: everything above goes again. What is below waits for its
    /// acknowledgement as if it had just been sent: received is not durable.
    pub fn resume(&mut self, now: Mono, cursors: &[Cursor]) {
        self.all_unsent();
        self.hold_until = None;
        let stream = self.stream;
        for cursor in cursors.iter().filter(|cursor| cursor.stream == stream) {
            for key in self.upto(cursor.boot, cursor.seq) {
                self.mark_sent(key, now, false);
            }
        }
    }

    /// What is held of a boot up to a sequence. What is said of the same boot under another key is about the
    /// batches of a former ring, and finds nothing here.
    fn upto(&self, boot: BootId, upto: u64) -> Vec<Key> {
        let held = self.held.range((boot.boot, 0)..=(boot.boot, upto));
        held.filter(|(_, held)| held.key_epoch == boot.key_epoch).map(|(key, _)| *key).collect()
    }

    /// Frees what is durable (or was refused before).
    pub fn ack(&mut self, boot: BootId, upto: u64) -> Vec<Held> {
        let acked = self.acked.entry(boot).or_default();
        *acked = upto.max(*acked);
        self.upto(boot, upto).into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Takes a batch that the node refused.
    pub fn refused(&mut self, boot: BootId, seq: u64) -> Option<Held> {
        let key = (boot.boot, seq);
        self.held.get(&key).filter(|held| held.key_epoch == boot.key_epoch)?;
        self.remove(key)
    }

    /// Takes everything that is sealed under a key up to this one: nobody will ever open it.
    pub fn unreadable(&mut self, key_epoch: u32) -> Vec<Held> {
        let lost = self.held.iter().filter(|(_, held)| held.key_epoch <= key_epoch);
        let lost: Vec<Key> = lost.map(|(key, _)| *key).collect();
        lost.into_iter().filter_map(|key| self.remove(key)).collect()
    }

    /// Gives a batch up.
    pub fn remove(&mut self, key: Key) -> Option<Held> {
        let held = self.held.remove(&key)?;
        self.unsent.remove(&key);
        self.by_age.remove(&(held.order, key));
        self.whole.remove(&(held.order, key));
        self.items -= held.meta.items();
        self.bytes -= held.len;
        Some(held)
    }

    /// The next batch to publish, when the window of batches under way allows one.
    pub fn next_to_send(&self, now: Mono, window: usize) -> Option<Key> {
        if self.hold_until.is_some_and(|until| now < until) || self.in_flight() >= window {
            return None;
        }
        self.unsent.first().copied()
    }

    fn in_flight(&self) -> usize {
        self.held.len() - self.unsent.len()
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut Held> {
        self.held.get_mut(&key)
    }

    /// The batch goes to the link now. `live`: the acknowledgement is timed from here.
    pub fn mark_sent(&mut self, key: Key, now: Mono, live: bool) {
        if let Some(held) = self.held.get_mut(&key) {
            held.sent = Some(now);
            held.fresh = None;
            if live && held.first_live.is_none() {
                held.first_live = Some(now);
            }
            self.unsent.remove(&key);
            self.flying.push_back((now, key));
        }
    }

    /// The link did not take it.
    pub fn give_back(&mut self, key: Key) {
        if let Some(held) = self.held.get_mut(&key) {
            held.sent = None;
            self.unsent.insert(key);
        }
    }

    /// Batches under way for `retry_ms` are to be sent again.
    pub fn retry(&mut self, now: Mono, retry_ms: u64) {
        while let Some((at, key)) = self.flying.front().copied() {
            let current = self.held.get(&key).is_some_and(|held| held.sent == Some(at));
            if current && now.since(at) < retry_ms {
                break;
            }
            self.flying.pop_front();
            if current {
                self.give_back(key);
            }
        }
    }

    /// When something of this lane becomes due by itself.
    pub fn deadline(&self, window: usize, retry_ms: u64) -> Option<Mono> {
        let retry = self.flying.front().map(|(at, _)| at.plus_ms(retry_ms));
        let ready = !self.unsent.is_empty() && self.in_flight() < window;
        let release = ready.then(|| self.hold_until.unwrap_or_default());
        match (retry, release) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The oldest batch and its age.
    pub fn oldest(&self) -> Option<(u64, Key)> {
        self.by_age.first().copied()
    }

    /// The batches that were not thinned and are not under way, sealed before this moment, oldest first.
    pub fn oldest_whole(&self, before_us: u64) -> impl Iterator<Item = (u64, Key)> + '_ {
        let made = move |key: &Key| self.held.get(key).is_some_and(|held| held.made_us < before_us);
        let old = self.whole.iter().copied().take_while(move |(_, key)| made(key));
        old.filter(|(_, key)| self.unsent.contains(key))
    }

    /// The batch is as thin as it gets.
    pub fn mark_thinned(&mut self, key: Key) {
        if let Some(held) = self.held.get(&key) {
            self.whole.remove(&(held.order, key));
        }
    }

    /// Per boot, the lowest sequence that may still come.
    pub fn floors(&self, boot: BootId) -> Vec<Cursor> {
        let mut floors: BTreeMap<BootId, u64> = BTreeMap::from([(boot, self.next_seq)]);
        for ((boot, seq), held) in &self.held {
            let floor = floors.entry(BootId::new(held.key_epoch, *boot)).or_insert(*seq);
            *floor = (*floor).min(*seq);
        }
        floors.into_iter().map(|(boot, seq)| Cursor { stream: self.stream, boot, seq }).collect()
    }

    /// The acknowledgements seen, for this boot and those that still hold something.
    pub fn acked(&mut self, boot: BootId) -> Vec<Cursor> {
        let held = &self.held;
        let holds = |old: &BootId| {
            let first = held.range((old.boot, 0)..=(old.boot, u64::MAX)).next();
            first.is_some_and(|(_, held)| held.key_epoch == old.key_epoch)
        };
        self.acked.retain(|old, _| *old == boot || holds(old));
        self.acked.iter().map(|(boot, seq)| Cursor { stream: self.stream, boot: *boot, seq: *seq }).collect()
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn items(&self) -> u64 {
        self.items
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
