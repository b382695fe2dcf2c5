//! A gateway's book: what it sent, which sample numbers it gave, and which of them the node promised to keep.

use crate::evidence::{ChargerLine, GatewayLine, StreamLine};
use chargeplane_domain::ids::GatewayId;
use chargeplane_edge::GatewayStats;
use chargeplane_edge::effect::Span;
use chargeplane_protocol::Stream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a gateway knows about itself, for the report.
#[derive(Debug, Default)]
pub struct Book {
    /// The core's counters.
    pub stats: GatewayStats,
    /// It decides by itself.
    pub local: bool,
    /// Denied starts by code.
    pub denials: BTreeMap<String, u64>,
    /// What the node could not use, by code.
    pub notices: BTreeMap<String, u64>,
    chargers: BTreeMap<u16, Numbers>,
}

/// Sample numbers of one charger.
#[derive(Debug, Default)]
struct Numbers {
    last: Option<u64>,
    acked: Ranges,
}

/// A book that the run may look into.
pub type SharedBook = Arc<Mutex<Book>>;

/// Opens a shared book.
pub fn open(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// A sample got a number.
    pub fn numbered(&mut self, child: u16, number: u64) {
        self.chargers.entry(child).or_default().last = Some(number);
    }

    /// Sample numbers were acknowledged.
    pub fn acked(&mut self, span: &Span) {
        let numbers = self.chargers.entry(span.child).or_default();
        numbers.acked.add(span.first, span.last);
    }

    /// True when nothing is left to send or to be acknowledged.
    pub fn is_drained(&self) -> bool {
        let stats = &self.stats;
        let samples = stats.samples_acked() + stats.samples_gap() >= stats.samples_created;
        let events = stats.events_acked() + stats.events_refused >= stats.events_created;
        samples && events && stats.held_batches() == 0
    }

    /// What moves while a drain makes progress.
    pub fn progress(&self) -> u64 {
        self.stats.streams.iter().map(|stream| stream.acked_batches + stream.refused_batches).sum()
    }

    /// The gateway's line of the report. `registers` has child, charger and register of each charger.
    pub fn line(&self, gateway: &GatewayId, registers: &[(u16, String, i64)]) -> GatewayLine {
        let stats = &self.stats;
        let owned = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
        };
        let streams = Stream::ALL.into_iter().filter(|stream| *stream != Stream::Beat).map(|stream| {
            let s = stats.stream(stream);
            let line = StreamLine {
                batches: s.batches,
                items: s.items,
                acked_items: s.acked_items,
                acked_batches: s.acked_batches,
                refused_batches: s.refused_batches,
                published: s.published,
                held_batches: s.held_batches,
            };
            (stream.name().to_owned(), line)
        });
        let chargers = registers.iter().map(|(child, charger, register_wh)| {
            let numbers = self.chargers.get(child);
            ChargerLine {
                charger: charger.clone(),
                child: *child,
                register_wh: *register_wh,
                last_number: numbers.and_then(|n| n.last),
                highest_acked: numbers.and_then(|n| n.acked.highest()),
                acked: numbers.map(|n| n.acked.to_vec()).unwrap_or_default(),
            }
        });
        GatewayLine {
            gateway: gateway.clone(),
            samples_sent: stats.samples_created,
            samples_acked: stats.samples_acked(),
            samples_gap: stats.samples_gap(),
            gaps: owned(&stats.gap_samples),
            events_sent: stats.events_created,
            events_acked: stats.events_acked(),
            events_refused: stats.events_refused,
            streams: streams.collect(),
            connections: stats.connections,
            beats: stats.beats,
            grants: (stats.grants_applied, stats.grants_dropped),
            leases_expired: stats.leases_expired,
            commands: (stats.commands_executed, stats.commands_repeated, stats.commands_refused),
            bad_messages: owned(&stats.bad_messages),
            denials: self.denials.clone(),
            notices: self.notices.clone(),
            chargers: chargers.collect(),
        }
    }
}

/// Numbers as ranges with both ends, merged where they touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds `first..=last`.
    pub fn add(&mut self, first: u64, last: u64) {
        let (mut low, mut high) = (first, last.max(first));
        // Whatever begins up to one beyond the end and ends from one before the beginning becomes part of it.
        while let Some((start, end)) = self.0.range(..=high.saturating_add(1)).next_back().map(|(s, e)| (*s, *e)) {
            if end.saturating_add(1) < low {
                break;
            }
            self.0.remove(&start);
            low = low.min(start);
            high = high.max(end);
        }
        self.0.insert(low, high);
    }

    /// The ranges, ascending.
    pub fn to_vec(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|(first, last)| (*first, *last)).collect()
    }

    /// The highest number.
    pub fn highest(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_merge_where_they_touch() {
        let mut ranges = Ranges::default();
        for (first, last) in [(10, 19), (30, 39), (0, 4), (20, 29), (3, 6)] {
            ranges.add(first, last);
        }
        assert_eq!(ranges.to_vec(), [(0, 6), (10, 39)]);
        ranges.add(7, 9);
        assert_eq!((ranges.to_vec(), ranges.highest()), (vec![(0, 39)], Some(39)));
    }

    #[test]
    fn ranges_hold_exactly_what_was_added() {
        // Every pair of short ranges around each other, against a plain set.
        let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
        let mut x = 1u64;
        for _ in 0..300 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (first, length) = ((x >> 40) % 2_000, (x >> 20) % 6);
            ranges.add(first, first + length);
            set.extend(first..=first + length);
            let held: BTreeSet<u64> = ranges.to_vec().into_iter().flat_map(|(a, b)| a..=b).collect();
            assert_eq!(held, set);
        }
        let gaps = ranges.to_vec().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0);
        assert!(gaps, "ranges that touch are one");
    }
}
