//! Raw samples and hourly rollups.

use super::*;
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
            Ok(Decoded { incarnation: row.incarnation, epoch: row.epoch, bytes: row.chunk.bytes, chunk })
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
    pub async fn telemetry_hourly(
        &self,
        charger: &ChargerId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Rollup>, CallError> {
        let chunks = self.chunks(charger, Hour::of(from).start(), Hour::of(to.plus_ms(-1)).end()).await?;
        let mut hours: BTreeMap<Hour, BTreeMap<u32, Vec<StoredChunk<'_>>>> = BTreeMap::new();
        for decoded in &chunks {
            let touched: BTreeSet<Hour> =
                decoded.chunk.samples().iter().map(|sample| Hour::of(sample.sample.at)).collect();
            for hour in touched {
                let stored = StoredChunk { epoch: decoded.epoch, bytes: &decoded.bytes };
                hours.entry(hour).or_default().entry(decoded.incarnation).or_default().push(stored);
            }
        }
        let mut rollups = Vec::new();
        for (hour, by_incarnation) in hours {
            if hour < Hour::of(from) || hour.start() >= to {
                continue;
            }
            let mut total: Option<Rollup> = None;
            for chunks in by_incarnation.values() {
                let part = rollup(hour, chunks);
                let part = part.map_err(|error| StoreError::Corrupt(format!("chunk of {charger}: {error}")))?;
                total = Some(match total {
                    None => part,
                    Some(sum) => fold(sum, &part),
                });
            }
            rollups.extend(total.filter(|rollup| rollup.count() > 0));
        }
        Ok(rollups)
    }
}

/// Enrolments number their samples anew, so their statistics of one hour simply add up.
fn fold(mut sum: Rollup, part: &Rollup) -> Rollup {
    for (column, more) in sum.columns.iter_mut().zip(&part.columns) {
        *column = column.fold(*more);
    }
    sum
}

struct Decoded {
    incarnation: u32,
    epoch: u64,
    bytes: Vec<u8>,
    chunk: Chunk,
}
