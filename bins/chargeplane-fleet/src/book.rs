//! A gateway's book: what it sent, which sample numbers it gave, and which of them the node promised to keep.

use crate::evidence::{ChargerLine, GatewayLine, StreamLine};
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::sample::Sample;
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
    digests: Vec<Digest>,
}

/// Numbers that are hashed together; the store keeps the same ranges, but the judge need not know that.
const DIGEST_RANGE: u64 = 256;

/// The samples of one range as they were made, as a hash: what the store must read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest {
    first: u64,
    last: u64,
    hash: u64,
}

impl Digest {
    /// FNV-1a over number, time and values, each as eight bytes, little-endian.
    fn take(&mut self, number: u64, sample: &Sample) {
        let values = [
            sample.at.0,
            i64::from(sample.voltage_dv),
            i64::from(sample.current_da),
            i64::from(sample.temperature_dc),
            i64::from(sample.soc_permille),
            sample.power.0,
            sample.register.0,
        ];
        let words = std::iter::once(number.to_le_bytes()).chain(values.map(i64::to_le_bytes));
        for byte in words.flatten() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.last = number;
    }
}

/// A book that the run may look into.
pub type SharedBook = Arc<Mutex<Book>>;

/// Opens a shared book.
pub fn open(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// A sample got a number.
    pub fn numbered(&mut self, child: u16, number: u64, sample: &Sample) {
        let numbers = self.chargers.entry(child).or_default();
        numbers.last = Some(number);
        match numbers.digests.last_mut() {
            Some(digest) if digest.first / DIGEST_RANGE == number / DIGEST_RANGE => digest.take(number, sample),
            _ => {
                let mut digest = Digest { first: number, last: number, hash: 0xcbf2_9ce4_8422_2325 };
                digest.take(number, sample);
                numbers.digests.push(digest);
            }
        }
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
                digests: numbers.map_or_else(Vec::new, |n| {
                    n.digests.iter().map(|d| (d.first, d.last, format!("{:016x}", d.hash))).collect()
                }),
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
    fn digests_are_of_numbers_and_values_range_by_range() {
        let sample = |register: i64| Sample {
            at: chargeplane_domain::units::Timestamp(1_000),
            voltage_dv: 3_500,
            current_da: -1,
            temperature_dc: 220,
            soc_permille: 500,
            power: chargeplane_domain::units::Watts(0),
            register: chargeplane_domain::units::WattHours(register),
        };
        let digests = |from: u64, registers: &[i64]| {
            let mut book = Book::default();
            (from..).zip(registers).for_each(|(number, register)| book.numbered(3, number, &sample(*register)));
            book.chargers[&3].digests.clone()
        };
        let own = digests(254, &[7, 8, 9]);
        assert_eq!(own.iter().map(|d| (d.first, d.last)).collect::<Vec<_>>(), [(254, 255), (256, 256)]);
        assert_ne!(own[0].hash, digests(254, &[7, 9, 9])[0].hash);
        assert_ne!(own[0].hash, digests(252, &[7, 8])[0].hash, "numbers count");
        // As the judge's own code computes it for the same sample.
        assert_eq!(format!("{:016x}", digests(5, &[6_000])[0].hash), "656155ec5215111c");
    }

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
