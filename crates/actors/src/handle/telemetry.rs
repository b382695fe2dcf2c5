//! Raw samples and hourly rollups.

use super::*;
use crate::telemetry::rolling::hour_of;
use std::collections::BTreeSet;

impl NodeHandle {
    fn known_charger(&self, charger: &ChargerId) -> Result<(), CallError> {
        let known = self.directory().charger(charger).is_some();
        known.then_some(()).ok_or_else(|| CallError::NotFound(format!("charger {charger}")))
    }

    async fn chunks(&self, charger: &ChargerId, from: Timestamp, to: Timestamp) -> Result<Vec<Decoded>, CallError> {
        self.known_charger(charger)?;
        let query = ChunkQuery { charger: charger.clone(), from, to, limit: MAX_CHUNKS + 1 };
        let rows = self.shared.ports.telemetry.chunks(query).await?;
        if rows.len() > MAX_CHUNKS {
            let what = format!("more than {MAX_CHUNKS} chunks in the range; ask for a shorter one");
            return Err(CallError::Invalid(what));
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
    ) -> Result<Vec<NumberedSample>, CallError> {
        let mut united: BTreeMap<(u32, u64), NumberedSample> = BTreeMap::new();
        for decoded in self.chunks(charger, from, to).await? {
            for sample in decoded.chunk.samples() {
                if (from..to).contains(&sample.sample.at) {
                    united.entry((decoded.incarnation, sample.number)).or_insert(*sample);
                }
            }
        }
        if united.len() > limit {
            let what =
                format!("{} samples in the range, at most {limit} are given; ask for a shorter one", united.len());
            return Err(CallError::Invalid(what));
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

/// Hours that chunks are kept for, and one day that is not over.
const HOURS_OF_CHUNKS: i64 = 8 * 24;

struct Decoded {
    incarnation: u32,
    chunk: Chunk,
}
