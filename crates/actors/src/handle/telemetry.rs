//! Raw samples and hourly rollups.

use super::*;
use crate::ports::ChunkSpan;
use crate::telemetry::rolling::hour_of;
use std::collections::BTreeSet;

/// Chunks that one part of a range is read from: some 16,000 readings.
const PART_CHUNKS: usize = 64;

/// Chunks of one charger in the longest range that is read at all: two weeks at ten samples a second.
const MAX_SPANS: usize = 65_536;

/// A range of one charger's readings, in parts that fit into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadingRange {
    /// The charger.
    pub charger: ChargerId,
    /// The parts, `from..to` each, one after the other: together everything there was of the range.
    pub parts: Vec<(Timestamp, Timestamp)>,
    /// At most so many readings: what several owners have stored counts for each.
    pub most: u64,
}

impl NodeHandle {
    fn known_charger(&self, charger: &ChargerId) -> Result<(), CallError> {
        let known = self.directory().charger(charger).is_some();
        known.then_some(()).ok_or_else(|| CallError::NotFound(format!("charger {charger}")))
    }

    /// The station of a charger.
    pub fn telemetry_station(&self, charger: &ChargerId) -> Result<StationId, CallError> {
        let directory = self.directory();
        let station = directory.charger(charger).map(|(_, station)| station.clone());
        station.ok_or_else(|| CallError::NotFound(format!("charger {charger}")))
    }

    /// The chargers of a station.
    pub fn telemetry_chargers(&self, station: &StationId) -> Result<Vec<ChargerId>, CallError> {
        let directory = self.directory();
        if !directory.catalogue.stations.contains_key(station) {
            return Err(CallError::NotFound(format!("station {station}")));
        }
        Ok(directory.chargers_of(station).into_keys().collect())
    }

    /// How a range of a charger's readings is read, and how many there are at most.
    pub async fn telemetry_range(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<ReadingRange, CallError> {
        self.known_charger(charger)?;
        let query = ChunkQuery { charger: charger.clone(), from, to, limit: MAX_SPANS + 1 };
        let spans = self.shared.ports.telemetry.spans(query).await?;
        if spans.len() > MAX_SPANS {
            let what = format!("{charger} has more than {MAX_SPANS} chunks in the range; ask for a shorter one");
            return Err(CallError::TooLarge(what));
        }
        let most = spans.iter().map(|span| span.samples).sum();
        Ok(ReadingRange { charger: charger.clone(), parts: parts(from, to, spans), most })
    }

    /// Stored readings of a charger in `from..to`, each once, by time.
    pub async fn telemetry_part(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Reading>, CallError> {
        let mut readings: Vec<Reading> = self.united(charger, from, to).await?.into_values().collect();
        readings.sort_by_key(Reading::order);
        Ok(readings)
    }

    /// The newest stored or received reading of each of these chargers; none of one that has none.
    pub async fn telemetry_latest(
        &self,
        station: &StationId,
        of: Vec<ChargerId>,
    ) -> Result<BTreeMap<ChargerId, Reading>, CallError> {
        let shard = self.directory().station_shard(station);
        let mut latest = self.latest(shard, of.clone()).await?;
        for charger in of {
            // After a restart what came last is in the store only.
            if !latest.contains_key(&charger)
                && let Some(reading) = self.newest_stored(&charger).await?
            {
                latest.insert(charger, reading);
            }
        }
        Ok(latest)
    }

    async fn newest_stored(&self, charger: &ChargerId) -> Result<Option<Reading>, CallError> {
        let everything = (Timestamp(i64::MIN), Timestamp(i64::MAX));
        let range = self.telemetry_range(charger, everything.0, everything.1).await?;
        let Some((from, to)) = range.parts.last().copied() else { return Ok(None) };
        let last = self.telemetry_part(charger, from, to).await?;
        Ok(last.into_iter().max_by_key(|reading| (reading.incarnation, reading.number)))
    }

    async fn united(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<BTreeMap<(u32, u64), Reading>, CallError> {
        let mut united: BTreeMap<(u32, u64), Reading> = BTreeMap::new();
        for decoded in self.chunks(charger, from, to).await? {
            for NumberedSample { number, sample } in decoded.chunk.samples().iter().copied() {
                if (from..to).contains(&sample.at) {
                    let reading = Reading { incarnation: decoded.incarnation, number, sample };
                    united.entry((decoded.incarnation, number)).or_insert(reading);
                }
            }
        }
        Ok(united)
    }

    async fn chunks(&self, charger: &ChargerId, from: Timestamp, to: Timestamp) -> Result<Vec<Decoded>, CallError> {
        self.known_charger(charger)?;
        let query = ChunkQuery { charger: charger.clone(), from, to, limit: MAX_CHUNKS + 1 };
        let rows = self.shared.ports.telemetry.chunks(query).await?;
        if rows.len() > MAX_CHUNKS {
            let what = format!("more than {MAX_CHUNKS} chunks in the range; ask for a shorter one");
            return Err(CallError::TooLarge(what));
        }
        let decoded = rows.into_iter().map(|row| {
            let chunk = Chunk::decode(&row.chunk.bytes);
            let chunk = chunk.map_err(|error| StoreError::Corrupt(format!("chunk of {charger}: {error}")))?;
            Ok(Decoded { incarnation: row.incarnation, chunk })
        });
        decoded.collect()
    }

    /// Stored samples of a charger in `from..to`, each once, by time; at most `limit`, or an error with the
    /// number there would be.
    pub async fn telemetry_raw(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
        limit: usize,
    ) -> Result<Vec<Reading>, CallError> {
        let united = self.united(charger, from, to).await?;
        if united.len() > limit {
            let what =
                format!("{} samples in the range, at most {limit} are given; ask for a shorter one", united.len());
            return Err(CallError::TooLarge(what));
        }
        Ok(united.into_values().collect())
    }

    /// The numbers of a charger's stored samples in `from..to`, by the enrolment that numbered them.
    pub(super) async fn sample_ranges(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<SampleRange>, CallError> {
        let mut numbers: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for decoded in self.chunks(charger, from, to).await? {
            let inside = decoded.chunk.samples().iter().filter(|sample| (from..to).contains(&sample.sample.at));
            numbers.entry(decoded.incarnation).or_default().extend(inside.map(|sample| sample.number));
        }
        let ranges = numbers.into_iter().filter_map(|(incarnation, numbers)| {
            let (first, last) = (*numbers.first()?, *numbers.last()?);
            Some(SampleRange { incarnation, first, last, stored: u64::try_from(numbers.len()).unwrap_or(u64::MAX) })
        });
        Ok(ranges.collect())
    }

    /// Hourly statistics of a charger for the hours that `from..to` touches; hours without samples are left out.
    ///
    /// Stored rollups; the last hours, which late data may have changed since, and those of the last days that are not
    /// rolled up, from chunks.
    pub async fn telemetry_hourly(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Rollup>, CallError> {
        self.known_charger(charger)?;
        let telemetry = &self.shared.ports.telemetry;
        let (first, end) = (Hour::of(from), Hour(Hour::of(to.plus_ms(-1)).0.saturating_add(1)));
        let stored = telemetry.rollups(charger.clone(), first, end).await?;
        let mut hours: BTreeMap<Hour, Rollup> = stored.into_iter().map(|rollup| (rollup.hour, rollup)).collect();
        let now = Hour::of(self.shared.clock.wall()).0;
        let kept = first.0.max(now.saturating_sub(HOURS_OF_CHUNKS));
        for hour in (kept..end.0.min(now.saturating_add(2))).map(Hour) {
            if hour.0 >= now.saturating_sub(1) || !hours.contains_key(&hour) {
                hours.insert(hour, hour_of(&**telemetry, charger, hour).await?);
            }
        }
        Ok(hours.into_values().filter(|rollup| rollup.count() > 0).collect())
    }
}

/// Cuts a range where chunks begin, so that few of them are in each part, and nothing is read where there is nothing.
fn parts(from: Timestamp, to: Timestamp, mut spans: Vec<ChunkSpan>) -> Vec<(Timestamp, Timestamp)> {
    spans.sort_unstable_by_key(|span| span.first_at);
    let Some(first) = spans.first().map(|span| span.first_at.max(from)) else { return Vec::new() };
    let last = spans.iter().map(|span| span.last_at).max().unwrap_or(first);
    let end = to.min(last.plus_ms(1));
    let inner = spans.iter().skip(PART_CHUNKS).step_by(PART_CHUNKS).map(|span| span.first_at);
    let cuts: BTreeSet<Timestamp> = inner.filter(|cut| (first..end).contains(cut)).collect();
    let begins = std::iter::once(first).chain(cuts.iter().copied().filter(|cut| *cut > first));
    let ends = cuts.iter().copied().filter(|cut| *cut > first).chain(std::iter::once(end));
    begins.zip(ends).filter(|(begin, end)| begin < end).collect()
}

/// Hours that chunks are kept for, and one day that is not over.
const HOURS_OF_CHUNKS: i64 = 8 * 24;

struct Decoded {
    incarnation: u32,
    chunk: Chunk,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: i64, last: i64) -> ChunkSpan {
        ChunkSpan { first_at: Timestamp(first), last_at: Timestamp(last), samples: 256 }
    }

    #[test]
    fn parts_follow_each_other_and_have_few_chunks() {
        let spans: Vec<_> = (0..1_000).rev().map(|n| span(n * 100, n * 100 + 140)).collect();
        let cut = parts(Timestamp(50), Timestamp(1_000_000), spans.clone());
        assert_eq!((cut[0].0, cut[cut.len() - 1].1), (Timestamp(50), Timestamp(99_900 + 141)));
        assert!(cut.windows(2).all(|pair| pair[0].1 == pair[1].0), "no hole and nothing twice");
        for (from, to) in cut {
            let read = spans.iter().filter(|span| span.last_at >= from && span.first_at < to).count();
            assert!(read <= PART_CHUNKS + 2, "{read}");
        }
    }

    #[test]
    fn nothing_is_no_part_and_one_moment_is_one() {
        assert_eq!(parts(Timestamp(0), Timestamp(9), vec![]), []);
        let stuck = vec![span(5, 5); 300];
        assert_eq!(parts(Timestamp(0), Timestamp(9), stuck.clone()), [(Timestamp(5), Timestamp(6))]);
        assert_eq!(parts(Timestamp(i64::MIN), Timestamp(i64::MAX), stuck), [(Timestamp(5), Timestamp(6))]);
        assert_eq!(parts(Timestamp(3), Timestamp(9), vec![span(0, 100)]), [(Timestamp(3), Timestamp(9))]);
    }
}
