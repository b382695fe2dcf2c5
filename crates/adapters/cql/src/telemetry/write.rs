//! Writing a flush: chunks, days and gaps side by side, then the marks of the hours they touch, then the cursors.

use super::lineage::Day;
use super::{Inner, hours, unreadable};
use crate::head::{code_of, stored};
use chargeplane_actors::ports::{ChunkRow, Flush, GapRow, StoreError, StreamCursor};
use chargeplane_domain::chunk::Chunk;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::sample::GapReason;
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use tokio::task::JoinSet;

/// Ranges of one partition: of a charger that charges some 200 KB, or half an hour.
const RANGES_OF_A_PART: u64 = 64;

const DAY_MS: i64 = 86_400_000;

/// The day a moment is in.
pub(super) fn day_of(at: Timestamp) -> i32 {
    let day = at.0.div_euclid(DAY_MS);
    i32::try_from(day).unwrap_or(if day < 0 { i32::MIN } else { i32::MAX })
}

pub(super) fn reason_code(reason: GapReason) -> i32 {
    match reason {
        GapReason::Thinned => 1,
        GapReason::Dropped => 2,
        GapReason::Refused => 3,
    }
}

type Write = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

pub(super) async fn flush(inner: &Arc<Inner>, flush: Flush) -> Result<(), StoreError> {
    let Flush { shard, chunks, gaps, cursors, .. } = flush;
    let touched = hours::of_chunks(&chunks)?;
    let mut days = BTreeSet::new();
    for row in &chunks {
        days.extend(days_of(row)?);
    }
    let unknown = inner.days.lock().unwrap_or_else(PoisonError::into_inner).unknown(days);
    let mut writes: Vec<Write> = Vec::new();
    for day in unknown.iter().cloned() {
        writes.push(Box::pin(put_day(Arc::clone(inner), day)));
    }
    for row in chunks {
        let present = row.chunk.header.present;
        let mut lineages = inner.lineages.lock().unwrap_or_else(PoisonError::into_inner);
        let lineage = lineages.place(&row.charger, row.incarnation, row.chunk.header.range, row.epoch, present);
        drop(lineages);
        writes.push(Box::pin(put_chunk(Arc::clone(inner), row, lineage)));
    }
    for row in gaps {
        writes.push(Box::pin(put_gap(Arc::clone(inner), row)));
    }
    all_of(writes).await?;
    inner.days.lock().unwrap_or_else(PoisonError::into_inner).note(unknown);
    hours::mark(inner, shard, touched).await?;
    // Everything that the cursors promise is in by now.
    let cursors = cursors.into_iter().map(|cursor| -> Write { Box::pin(put_cursor(Arc::clone(inner), shard, cursor)) });
    all_of(cursors).await
}

/// Runs all of them; the first failure ends the others.
async fn all_of(writes: impl IntoIterator<Item = Write>) -> Result<(), StoreError> {
    let mut running: JoinSet<Result<(), StoreError>> = writes.into_iter().collect();
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| StoreError::Io(format!("a write was not finished: {error}")))??;
    }
    Ok(())
}

pub(super) fn part_of(range: u64) -> i64 {
    stored(range / RANGES_OF_A_PART)
}

/// The days on which a chunk has samples. A charger that reads once an hour has many in one, and a clock that was set
/// has days that are far apart.
fn days_of(row: &ChunkRow) -> Result<Vec<Day>, StoreError> {
    let header = &row.chunk.header;
    let day = |day| (row.charger.clone(), row.incarnation, part_of(header.range), day);
    let (first, last) = (day_of(header.first_at()), day_of(header.last_at()));
    if first == last {
        return Ok(vec![day(first)]);
    }
    let chunk = Chunk::decode(&row.chunk.bytes).map_err(unreadable)?;
    let days: BTreeSet<i32> = chunk.samples().iter().map(|sample| day_of(sample.sample.at)).collect();
    Ok(days.into_iter().map(day).collect())
}

async fn put_day(inner: Arc<Inner>, (charger, incarnation, part, day): Day) -> Result<(), StoreError> {
    inner.put(&inner.statements.put_day, (charger.as_str(), day, incarnation.cast_signed(), part)).await
}

async fn put_chunk(inner: Arc<Inner>, row: ChunkRow, lineage: i64) -> Result<(), StoreError> {
    let header = &row.chunk.header;
    let values = (
        row.charger.as_str(),
        row.incarnation.cast_signed(),
        part_of(header.range),
        stored(header.range),
        stored(row.epoch),
        lineage,
        header.first_at().0,
        header.last_at().0,
        i32::try_from(header.count()).unwrap_or(i32::MAX),
        &row.chunk.bytes,
    );
    inner.put(&inner.statements.put_chunk, values).await
}

async fn put_gap(inner: Arc<Inner>, row: GapRow) -> Result<(), StoreError> {
    // Numbers are the gateway's: they are kept bit by bit, whatever they are.
    let (first, last) = (row.gap.first.cast_signed(), row.gap.last.cast_signed());
    let values = (row.charger.as_str(), row.incarnation.cast_signed(), first, last, reason_code(row.gap.reason));
    inner.put(&inner.statements.put_gap, values).await
}

async fn put_cursor(inner: Arc<Inner>, shard: ShardId, cursor: StreamCursor) -> Result<(), StoreError> {
    let upto = stored(cursor.upto_seq);
    let values = (
        code_of(shard),
        cursor.gateway.as_str(),
        i32::from(cursor.stream),
        cursor.boot.key_epoch.cast_signed(),
        cursor.boot.boot.cast_signed(),
        upto,
        upto,
    );
    inner.put(&inner.statements.put_cursor, values).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_at_midnight_before_and_after_1970() {
        let of = |ms| day_of(Timestamp(ms));
        assert_eq!([of(0), of(-1), of(DAY_MS), of(i64::MAX), of(i64::MIN)], [0, -1, 1, i32::MAX, i32::MIN]);
    }
}
