//! Hourly rollups of a charger's telemetry.
//!
//! A rollup is a pure function of the *set* of chunks that touch the hour: it is recomputed, never
//! incremented, so a chunk that is written again, late or twice cannot be counted twice (DATA-1). Chunks
//! wholly inside the hour are folded from their headers; only those that cross its edges, or of which several
//! owners hold overlapping parts, are decoded.

use crate::chunk::{COLUMNS, Chunk, ChunkError, ChunkHeader, Column, ColumnStats, stats_of};
use crate::units::{Timestamp, WattHours};
use serde::{Deserialize, Serialize};

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// An hour of UTC, counted from 1970-01-01 00:00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hour(pub i64);

impl Hour {
    /// The hour a moment is in.
    pub fn of(at: Timestamp) -> Self {
        Self(at.0.div_euclid(HOUR_MS))
    }

    /// Its first millisecond.
    pub fn start(self) -> Timestamp {
        Timestamp(self.0.saturating_mul(HOUR_MS))
    }

    /// The first millisecond after it.
    pub fn end(self) -> Timestamp {
        self.start().plus_ms(HOUR_MS)
    }

    fn contains(self, at: Timestamp) -> bool {
        Self::of(at) == self
    }
}

/// One stored version of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk<'a> {
    /// The epoch of the owner that wrote it.
    pub epoch: u64,
    /// The encoded chunk.
    pub bytes: &'a [u8],
}

/// The statistics of one charger's samples in one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollup {
    /// The hour.
    pub hour: Hour,
    /// Statistics a column, in the order of [`Column::ALL`]; [`ColumnStats::EMPTY`] when there are no samples.
    pub columns: [ColumnStats; COLUMNS],
}

impl Rollup {
    /// How many samples.
    pub fn count(&self) -> u64 {
        self.columns[Column::At.index()].count
    }

    /// The statistics of a column.
    pub fn column(&self, column: Column) -> &ColumnStats {
        &self.columns[column.index()]
    }

    /// What the energy register rose from the hour's first sample to its last; none without samples.
    pub fn energy(&self) -> Option<WattHours> {
        let register = self.column(Column::Register);
        if register.count == 0 { None } else { register.max.checked_sub(register.min).map(WattHours) }
    }
}

/// The rollup of `hour` over `chunks`: all stored versions of all ranges that may touch it, in any order.
///
/// Where versions of a range differ in what they hold, their union by number counts; where they (against the
/// rules) differ in a sample, the lowest epoch's is taken.
pub fn rollup(hour: Hour, chunks: &[StoredChunk<'_>]) -> Result<Rollup, ChunkError> {
    let mut versions = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        versions.push((ChunkHeader::decode(chunk.bytes)?, *chunk));
    }
    versions.sort_by_key(|(header, chunk)| (header.range, chunk.epoch));
    let mut columns = [ColumnStats::EMPTY; COLUMNS];
    for of_range in versions.chunk_by(|(a, _), (b, _)| a.range == b.range) {
        let part = roll_range(hour, of_range)?;
        for (column, more) in columns.iter_mut().zip(part) {
            *column = column.fold(more);
        }
    }
    Ok(Rollup { hour, columns })
}

/// One range of a rollup, from all its versions in the order of their epochs.
fn roll_range(hour: Hour, versions: &[(ChunkHeader, StoredChunk<'_>)]) -> Result<[ColumnStats; COLUMNS], ChunkError> {
    let touches = |header: &ChunkHeader| header.first_at() < hour.end() && header.last_at() >= hour.start();
    let inside = |header: &ChunkHeader| hour.contains(header.first_at()) && hour.contains(header.last_at());
    if !versions.iter().any(|(header, _)| touches(header)) {
        return Ok([ColumnStats::EMPTY; COLUMNS]);
    }
    // A version that has all that the others have speaks for the range.
    let whole =
        versions.iter().find(|(header, _)| versions.iter().all(|(other, _)| header.present.covers(&other.present)));
    match whole {
        Some((header, _)) if inside(header) => Ok(header.columns),
        Some((_, stored)) => Ok(stats_within(hour, &Chunk::decode(stored.bytes)?)),
        None => {
            let mut union: Option<Chunk> = None;
            for (_, stored) in versions {
                let chunk = Chunk::decode(stored.bytes)?;
                match &mut union {
                    Some(union) => union.merge(&chunk)?,
                    None => union = Some(chunk),
                }
            }
            Ok(union.map_or([ColumnStats::EMPTY; COLUMNS], |union| stats_within(hour, &union)))
        }
    }
}

fn stats_within(hour: Hour, chunk: &Chunk) -> [ColumnStats; COLUMNS] {
    stats_of(chunk.samples().iter().map(|sample| &sample.sample).filter(|sample| hour.contains(sample.at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::range_of;
    use crate::sample::{NumberedSample, Sample};
    use crate::units::Watts;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A sample that follows from its number, as a gateway's does.
    fn sample(number: u64, step_ms: i64) -> NumberedSample {
        let n = i64::try_from(number).expect("small");
        let sample = Sample {
            at: Timestamp(HOUR_MS * 400_000 - 40_000 + n * step_ms),
            voltage_dv: 4_000 + i32::try_from(n % 37).expect("small"),
            current_da: -5,
            temperature_dc: 250,
            soc_permille: 500,
            power: Watts(100_000 - n),
            register: WattHours(n * 3),
        };
        NumberedSample { number, sample }
    }

    fn encoded(numbers: impl IntoIterator<Item = u64>, step_ms: i64) -> Vec<u8> {
        let samples: Vec<_> = numbers.into_iter().map(|n| sample(n, step_ms)).collect();
        let range = range_of(samples[0].number);
        Chunk::new(range, samples).expect("one range").encode().expect("not empty").bytes
    }

    #[test]
    fn hours_begin_on_the_hour_before_and_after_1970() {
        assert_eq!(Hour::of(Timestamp(0)), Hour(0));
        assert_eq!(Hour::of(Timestamp(-1)), Hour(-1));
        assert_eq!(Hour::of(Timestamp(HOUR_MS)).start(), Timestamp(HOUR_MS));
        assert_eq!(Hour(5).end(), Hour(6).start());
    }

    #[test]
    fn an_hour_of_nothing_is_empty() {
        let rollup = rollup(Hour(0), &[]).expect("nothing to fail");
        assert_eq!((rollup.count(), rollup.energy()), (0, None));
    }

    #[test]
    fn damaged_chunks_are_reported_not_skipped() {
        let mut bytes = encoded(0..20, 100);
        bytes[10] ^= 1;
        assert!(rollup(Hour(400_000), &[StoredChunk { epoch: 1, bytes: &bytes }]).is_err());
    }

    proptest! {
        /// Any split of samples over owners, overlapping or not, in any order, written twice: each counts once.
        #[test]
        fn equals_the_naive_fold_over_the_union(
            owners in proptest::collection::vec(proptest::collection::btree_set(0u64..700, 1..120), 1..4),
            step_ms in prop_oneof![Just(100i64), Just(7_000), Just(60_000)],
            reverse: bool,
        ) {
            let mut union = BTreeMap::new();
            let mut stored = Vec::new();
            for (epoch, numbers) in owners.iter().enumerate() {
                for range in 0..3u64 {
                    let of_range: Vec<_> = numbers.iter().copied().filter(|n| range_of(*n) == range).collect();
                    union.extend(of_range.iter().map(|n| (*n, sample(*n, step_ms))));
                    if !of_range.is_empty() {
                        stored.push((epoch as u64, encoded(of_range, step_ms)));
                    }
                }
            }
            let mut chunks: Vec<_> = stored.iter().map(|(epoch, bytes)| StoredChunk { epoch: *epoch, bytes }).collect();
            chunks.push(chunks[0]);
            if reverse {
                chunks.reverse();
            }
            let mut total = 0;
            for hour in 399_998..400_014 {
                let hour = Hour(hour);
                let in_hour = union.values().map(|s| &s.sample).filter(|s| s.at >= hour.start() && s.at < hour.end());
                let found = rollup(hour, &chunks).expect("intact");
                total += found.count();
                prop_assert_eq!(found.columns, stats_of(in_hour));
            }
            prop_assert_eq!(total, union.len() as u64, "every sample is in exactly one hour");
        }
    }
}
