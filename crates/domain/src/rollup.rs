//! Hourly rollups of a charger's telemetry.
//!
//! A rollup is a pure function of the *set* of chunks that touch the hour: it is recomputed, never
//! incremented, so a chunk that is written again, late or twice cannot be counted twice (DATA-1). Chunks
//! wholly inside the hour are folded from their headers; only those that cross its edges, of which several
//! owners hold overlapping parts, or that span more than two minutes, are decoded.

use crate::chunk::codec::{self, Reader};
use crate::chunk::{COLUMNS, Chunk, ChunkError, ChunkHeader, Column, ColumnStats, stats_of};
use crate::sample::Sample;
use crate::units::{Timestamp, WattHours};
use serde::{Deserialize, Serialize};

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// Milliseconds in a minute.
const MINUTE_MS: i64 = 60_000;

/// Minutes in an hour.
pub const HOUR_MINUTES: u32 = 60;

/// Version of a stored rollup.
const ROLLUP_VERSION: u8 = 1;

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

    /// The bit of the minute that a moment of this hour is in.
    fn minute(self, at: Timestamp) -> u64 {
        let minute = at.since(self.start()).div_euclid(MINUTE_MS);
        u32::try_from(minute).ok().and_then(|minute| 1u64.checked_shl(minute)).unwrap_or(0)
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
    /// Which of the hour's minutes have a sample: bit n is minute n.
    pub minutes: u64,
}

impl Rollup {
    /// Of no samples.
    pub fn empty(hour: Hour) -> Self {
        Self { hour, columns: [ColumnStats::EMPTY; COLUMNS], minutes: 0 }
    }

    /// Adds samples that are not in here, of the same hour: those of another numbering.
    pub fn add(&mut self, other: &Self) {
        for (column, more) in self.columns.iter_mut().zip(&other.columns) {
            *column = column.fold(*more);
        }
        self.minutes |= other.minutes;
    }

    /// In how many of the hour's sixty minutes the charger was heard: its availability.
    pub fn heard_minutes(&self) -> u32 {
        self.minutes.count_ones()
    }

    /// What is stored of it: u8 version, u64 minutes, varint count, the statistics as in a chunk's header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(80);
        bytes.push(ROLLUP_VERSION);
        bytes.extend(self.minutes.to_le_bytes());
        codec::put_varint(&mut bytes, self.count().into());
        if self.count() > 0 {
            codec::put_stats(&mut bytes, &self.columns);
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(hour: Hour, bytes: &[u8]) -> Result<Self, ChunkError> {
        let mut reader = Reader { rest: bytes, whole: bytes.len() };
        let version = reader.byte()?;
        if version != ROLLUP_VERSION {
            return Err(ChunkError::Version(version));
        }
        let mut minutes = [0; 8];
        minutes.copy_from_slice(reader.take(8)?);
        let minutes = u64::from_le_bytes(minutes);
        let count = reader.varint_u64("count")?;
        let columns = if count == 0 { [ColumnStats::EMPTY; COLUMNS] } else { reader.stats(count)? };
        if !reader.rest.is_empty() || minutes >> HOUR_MINUTES != 0 {
            return Err(ChunkError::Length { found: bytes.len() });
        }
        Ok(Self { hour, columns, minutes })
    }

    fn of<'a>(hour: Hour, samples: impl Iterator<Item = &'a Sample>) -> Self {
        let mut minutes = 0;
        let inside =
            samples.filter(|sample| hour.contains(sample.at)).inspect(|sample| minutes |= hour.minute(sample.at));
        let columns = stats_of(inside);
        Self { hour, columns, minutes }
    }

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
    let mut whole = Rollup::empty(hour);
    for of_range in versions.chunk_by(|(a, _), (b, _)| a.range == b.range) {
        whole.add(&roll_range(hour, of_range)?);
    }
    Ok(whole)
}

/// One range of a rollup, from all its versions in the order of their epochs.
fn roll_range(hour: Hour, versions: &[(ChunkHeader, StoredChunk<'_>)]) -> Result<Rollup, ChunkError> {
    let touches = |header: &ChunkHeader| header.first_at() < hour.end() && header.last_at() >= hour.start();
    let inside = |header: &ChunkHeader| hour.contains(header.first_at()) && hour.contains(header.last_at());
    // The earliest and the latest sample are in their minutes. Of a minute between them a header says nothing.
    let adjacent = |header: &ChunkHeader| {
        let minute = |at: Timestamp| at.0.div_euclid(MINUTE_MS);
        minute(header.last_at()) - minute(header.first_at()) <= 1
    };
    if !versions.iter().any(|(header, _)| touches(header)) {
        return Ok(Rollup::empty(hour));
    }
    // A version that has all that the others have speaks for the range.
    let whole =
        versions.iter().find(|(header, _)| versions.iter().all(|(other, _)| header.present.covers(&other.present)));
    match whole {
        Some((header, _)) if inside(header) && adjacent(header) => {
            let minutes = hour.minute(header.first_at()) | hour.minute(header.last_at());
            Ok(Rollup { hour, columns: header.columns, minutes })
        }
        Some((_, stored)) => Ok(of_chunk(hour, &Chunk::decode(stored.bytes)?)),
        None => {
            let mut union: Option<Chunk> = None;
            for (_, stored) in versions {
                let chunk = Chunk::decode(stored.bytes)?;
                match &mut union {
                    Some(union) => union.merge(&chunk)?,
                    None => union = Some(chunk),
                }
            }
            Ok(union.map_or_else(|| Rollup::empty(hour), |union| of_chunk(hour, &union)))
        }
    }
}

fn of_chunk(hour: Hour, chunk: &Chunk) -> Rollup {
    Rollup::of(hour, chunk.samples().iter().map(|sample| &sample.sample))
}

/// The hours that a chunk's samples may be in: all from its earliest sample to its latest, at most `most` of them.
pub fn hours_of(header: &ChunkHeader, most: usize) -> impl Iterator<Item = Hour> {
    let (first, last) = (Hour::of(header.first_at()), Hour::of(header.last_at()));
    (first.0..=last.0).map(Hour).take(most)
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
    fn what_cannot_be_a_rollup_is_refused() {
        let bytes = rollup(Hour(400_000), &[StoredChunk { epoch: 1, bytes: &encoded(0..200, 100) }])
            .expect("intact")
            .to_bytes();
        let newer = [vec![ROLLUP_VERSION + 1], bytes[1..].to_vec()].concat();
        assert_eq!(Rollup::from_bytes(Hour(1), &newer), Err(ChunkError::Version(ROLLUP_VERSION + 1)));
        for length in 0..bytes.len() {
            assert!(Rollup::from_bytes(Hour(1), &bytes[..length]).is_err(), "{length} bytes");
        }
        let longer = [bytes, vec![0]].concat();
        assert!(Rollup::from_bytes(Hour(1), &longer).is_err());
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
                let minutes: std::collections::BTreeSet<_> =
                    in_hour.clone().map(|s| s.at.0.div_euclid(MINUTE_MS)).collect();
                prop_assert_eq!(found.heard_minutes() as usize, minutes.len());
                prop_assert_eq!(Rollup::from_bytes(hour, &found.to_bytes()), Ok(found.clone()));
                prop_assert_eq!(found.columns, stats_of(in_hour));
            }
            prop_assert_eq!(total, union.len() as u64, "every sample is in exactly one hour");
        }
    }
}
