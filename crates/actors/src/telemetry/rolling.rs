//! Rolls up the hours that the store has marked: from all chunks of the hour, every time anew (DATA-1).
//!
//! An hour is due once it is over and what its last samples waited for, the flush interval, is over too. Late data
//! marks its hour again, and only the hours of the chargers that it is of. The rollup is handed in under the mark that
//! was read: data that came meanwhile has marked the hour again, and it is rolled up again.

use crate::metric;
use crate::ports::{ChunkQuery, DirtyHour, StoreError, TelemetryStore};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup, StoredChunk, rollup};
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a shard looks for marked hours when there were none left.
pub(super) const ROLL_EVERY: Duration = Duration::from_secs(10);

/// Hours of one pass, so that new marks of an hour that many wait for are seen in between.
const HOURS_OF_A_PASS: usize = 200;

/// Chunks are kept for so long after their day, rollups for good.
const KEEP_MS: i64 = 7 * 24 * 3_600_000;

/// How often what is older is let go.
pub(super) const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);

/// Milliseconds in a day.
const DAY_MS: i64 = 24 * 3_600_000;

/// Chunks of days before this moment's are let go.
pub(super) fn kept_from(now: Timestamp) -> Timestamp {
    now.plus_ms(-KEEP_MS)
}

/// One pass over a shard's marked hours. True when there are more.
pub(super) async fn pass(
    telemetry: &dyn TelemetryStore,
    shard: ShardId,
    now: Timestamp,
    waits: Duration,
) -> Result<bool, StoreError> {
    let waits = i64::try_from(waits.as_millis()).unwrap_or(i64::MAX);
    let over = Hour::of(now.plus_ms(waits.saturating_neg()));
    let dirty = telemetry.dirty_hours(shard, over, HOURS_OF_A_PASS).await?;
    let more = dirty.len() == HOURS_OF_A_PASS;
    let kept = kept_from(now).0.div_euclid(DAY_MS).saturating_mul(DAY_MS);
    let mut made = Vec::with_capacity(dirty.len());
    for marked in dirty {
        // Of an hour whose chunks are let go, what is stored was made when all of them were there.
        let whole = marked.hour.start().0 >= kept;
        let rollup = if whole { roll(telemetry, &marked).await? } else { None };
        metrics::counter!(metric::ROLLUPS_TOTAL).increment(rollup.is_some().into());
        made.push((marked, rollup));
    }
    if !made.is_empty() {
        telemetry.put_rollups(shard, made).await?;
    }
    Ok(more)
}

async fn roll(telemetry: &dyn TelemetryStore, marked: &DirtyHour) -> Result<Option<Rollup>, StoreError> {
    match hour_of(telemetry, &marked.charger, marked.hour).await {
        Ok(rollup) => Ok(Some(rollup)),
        Err(StoreError::Corrupt(what)) => {
            // The mark goes: trying again and again would read the same. A chunk that is healed marks the hour anew.
            tracing::error!(charger = %marked.charger, hour = marked.hour.0, what, "an hour cannot be rolled up");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The rollup of an hour, of all the chunks that are stored.
pub(crate) async fn hour_of(
    telemetry: &dyn TelemetryStore,
    charger: &ChargerId,
    hour: Hour,
) -> Result<Rollup, StoreError> {
    let query = ChunkQuery { charger: charger.clone(), from: hour.start(), to: hour.end(), limit: usize::MAX };
    let rows = telemetry.chunks(query).await?;
    let mut by_incarnation: BTreeMap<u32, Vec<StoredChunk<'_>>> = BTreeMap::new();
    for row in &rows {
        let stored = StoredChunk { epoch: row.epoch, bytes: &row.chunk.bytes };
        by_incarnation.entry(row.incarnation).or_default().push(stored);
    }
    let mut whole = Rollup::empty(hour);
    for chunks in by_incarnation.values() {
        // Enrolments number their samples anew, so their samples of one hour are different ones.
        let part = rollup(hour, chunks);
        whole.add(&part.map_err(|error| StoreError::Corrupt(format!("chunk of {charger}: {error}")))?);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{ChunkRow, Flush};
    use crate::testing::MemoryTelemetry;
    use chargeplane_domain::chunk::{Columns, range_of};
    use chargeplane_domain::placement::Family;
    use chargeplane_domain::rollup::HOUR_MS;
    use chargeplane_domain::sample::Sample;
    use chargeplane_domain::units::{WattHours, Watts};

    const SHARD: ShardId = ShardId { family: Family::Station, index: 1 };

    /// A reading every seven seconds from hour 500,000 on.
    fn sample(number: u64) -> Sample {
        let n = i64::try_from(number).expect("small");
        Sample {
            at: Timestamp(500_000 * HOUR_MS + n * 7_000),
            voltage_dv: 4_000 + (number % 13) as i32,
            current_da: 100,
            temperature_dc: 250,
            soc_permille: 500,
            power: Watts(n % 7),
            register: WattHours(n),
        }
    }

    fn write(epoch: u64, numbers: impl Iterator<Item = u64>) -> Flush {
        let mut chunks: BTreeMap<u64, Columns> = BTreeMap::new();
        for number in numbers {
            let range = range_of(number);
            chunks.entry(range).or_insert_with(|| Columns::new(range)).append(number, &sample(number));
        }
        let charger: ChargerId = "main/c1".parse().expect("an id");
        let row = |columns: Columns| {
            let chunk = columns.encode().expect("not empty");
            ChunkRow { charger: charger.clone(), incarnation: 1, epoch, chunk }
        };
        Flush { shard: SHARD, chunks: chunks.into_values().map(row).collect(), gaps: vec![], cursors: vec![] }
    }

    async fn rolled(flushes: Vec<Flush>, pass_after_each: bool) -> Vec<Rollup> {
        let store = MemoryTelemetry::default();
        let now = Timestamp(500_030 * HOUR_MS);
        for flush in flushes {
            store.write(flush).await.expect("writes");
            if pass_after_each {
                pass(&store, SHARD, now, Duration::ZERO).await.expect("rolls up");
            }
        }
        while pass(&store, SHARD, now, Duration::ZERO).await.expect("rolls up") {}
        assert_eq!(store.dirty_hours(SHARD, Hour(i64::MAX), 9).await, Ok(vec![]), "no mark is left");
        store.rollups("main/c1".parse().expect("an id"), Hour(0), Hour(i64::MAX)).await.expect("reads")
    }

    #[tokio::test]
    async fn a_day_that_is_replayed_rolls_up_as_one_that_was_never_cut_off() {
        let day = 24 * 3_600 / 7;
        let whole = rolled(vec![write(1, 0..day)], false).await;
        assert_eq!(whole.len(), 24);
        assert_eq!(whole.iter().map(Rollup::count).sum::<u64>(), day);
        assert!(whole.iter().all(|hour| hour.heard_minutes() == 60));
        // Live samples around a hole of hours, then the hole by another owner, in pieces, backwards, some twice.
        let mut flushes = vec![write(1, 0..1_000), write(1, 9_000..day)];
        for piece in (0..20).rev() {
            let first = 900 + piece * 410;
            flushes.push(write(2, first..first + 420));
        }
        flushes.push(write(2, 900..1_400));
        assert_eq!(rolled(flushes.clone(), true).await, whole);
        assert_eq!(rolled(flushes, false).await, whole);
    }

    #[tokio::test]
    async fn hours_are_rolled_up_when_they_are_over_and_while_all_their_chunks_are_kept() {
        let store = MemoryTelemetry::default();
        store.write(write(1, 0..700)).await.expect("writes");
        let at = |hour: i64| Timestamp(hour * HOUR_MS);
        let stored = || async {
            let charger = "main/c1".parse().expect("an id");
            let rollups = store.rollups(charger, Hour(0), Hour(i64::MAX)).await.expect("reads");
            rollups.iter().map(|rollup| rollup.hour.0 - 500_000).collect::<Vec<_>>()
        };
        pass(&store, SHARD, at(500_001), Duration::from_secs(30)).await.expect("rolls up");
        assert!(stored().await.is_empty(), "the last samples of the hour may still wait for their flush");
        pass(&store, SHARD, at(500_001).plus_ms(30_000), Duration::from_secs(30)).await.expect("rolls up");
        assert_eq!(stored().await, [0]);
        // Nine days later something of that hour comes again, and its chunks are gone.
        store.expire(at(500_000 + 48)).await.expect("expires");
        store.write(write(1, 3..4)).await.expect("writes");
        pass(&store, SHARD, at(500_000 + 9 * 24), Duration::ZERO).await.expect("rolls up");
        let charger = "main/c1".parse().expect("an id");
        let rollups = store.rollups(charger, Hour(500_000), Hour(500_001)).await.expect("reads");
        assert_eq!(rollups[0].count(), 515, "the hour stays as it was made");
    }
}
