//! Hours: which have changed, and their rollups.
//!
//! A flush marks the hours of its chunks after these are written, and before its cursors. A mark stays until the rollup
//! that was made after it was read is stored. The process remembers the marks that nobody has read yet: an hour that has
//! one needs no other, so a mark is written once for a charger and hour, not for each chunk. A mark that was handed out
//! is forgotten here first, so that what is written afterwards marks the hour again.

use super::{Inner, unreadable};
use crate::head::code_of;
use chargeplane_actors::ports::{ChunkRow, DirtyHour, StoreError};
use chargeplane_domain::chunk::Chunk;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError};
use tokio::task::JoinSet;

/// Marks that are remembered; beyond it all are forgotten, and written again.
const MOST_MARKS: usize = 400_000;

/// Hours by charger that are marked, as far as this process knows.
#[derive(Default)]
pub(super) struct Marks {
    unread: HashSet<(ShardId, ChargerId, Hour)>,
    last: i64,
}

impl Marks {
    fn unknown(&mut self, shard: ShardId, hours: BTreeSet<(ChargerId, Hour)>) -> Vec<(ChargerId, Hour, i64)> {
        if self.unread.len() >= MOST_MARKS {
            self.unread.clear();
        }
        let new = hours.into_iter().filter(|(charger, hour)| !self.unread.contains(&(shard, charger.clone(), *hour)));
        let new: Vec<(ChargerId, Hour)> = new.collect();
        new.into_iter()
            .map(|(charger, hour)| {
                self.last = self.last.saturating_add(1);
                (charger, hour, self.last)
            })
            .collect()
    }
}

/// Marks the hours of chunks that are written.
pub(super) async fn mark(
    inner: &Arc<Inner>,
    shard: ShardId,
    hours: BTreeSet<(ChargerId, Hour)>,
) -> Result<(), StoreError> {
    let marks = inner.marks.lock().unwrap_or_else(PoisonError::into_inner).unknown(shard, hours);
    let mut running = JoinSet::new();
    for (charger, hour, mark) in marks.iter().cloned() {
        let inner = Arc::clone(inner);
        running.spawn(async move {
            let values = (code_of(shard), hour.0, charger.as_str(), inner.process, mark);
            inner.put(&inner.statements.put_mark, values).await
        });
    }
    ended(running).await?;
    let unread = marks.into_iter().map(|(charger, hour, _)| (shard, charger, hour));
    inner.marks.lock().unwrap_or_else(PoisonError::into_inner).unread.extend(unread);
    Ok(())
}

/// The hours that chunks have samples of.
pub(super) fn of_chunks(chunks: &[ChunkRow]) -> Result<BTreeSet<(ChargerId, Hour)>, StoreError> {
    let mut hours = BTreeSet::new();
    for row in chunks {
        let (first, last) = (Hour::of(row.chunk.header.first_at()), Hour::of(row.chunk.header.last_at()));
        if last.0 <= first.0.saturating_add(1) {
            hours.extend([(row.charger.clone(), first), (row.charger.clone(), last)]);
            continue;
        }
        // Of a slow charger, or one whose clock was set: which of the hours between have samples, they say.
        let chunk = Chunk::decode(&row.chunk.bytes).map_err(unreadable)?;
        hours.extend(chunk.samples().iter().map(|sample| (row.charger.clone(), Hour::of(sample.sample.at))));
    }
    Ok(hours)
}

async fn ended(mut running: JoinSet<Result<(), StoreError>>) -> Result<(), StoreError> {
    while let Some(ended) = running.join_next().await {
        ended.map_err(|error| StoreError::Io(format!("a write was not finished: {error}")))??;
    }
    Ok(())
}

type MarkRow = (i64, String, i64, i64);

pub(super) async fn dirty(
    inner: &Arc<Inner>,
    shard: ShardId,
    before: Hour,
    limit: usize,
) -> Result<Vec<DirtyHour>, StoreError> {
    let most = i32::try_from(limit).unwrap_or(i32::MAX);
    let rows: Vec<MarkRow> = inner.rows(&inner.statements.marks, (code_of(shard), before.0, most)).await?;
    let mut found = Vec::new();
    let mut marks = inner.marks.lock().unwrap_or_else(PoisonError::into_inner);
    for (hour, charger, process, mark) in rows {
        let (charger, hour): (ChargerId, Hour) = (charger.parse().map_err(unreadable)?, Hour(hour));
        marks.unread.remove(&(shard, charger.clone(), hour));
        // Which process gave the mark is a part of it: the upper half of the number that the port has for it.
        let mark = u64::from(u32::try_from(process & 0xffff_ffff).unwrap_or(0)) << 32
            | u64::from(u32::try_from(mark & 0xffff_ffff).unwrap_or(0));
        found.push(DirtyHour { charger, hour, mark });
    }
    Ok(found)
}

pub(super) async fn put(
    inner: &Arc<Inner>,
    shard: ShardId,
    rollups: Vec<(DirtyHour, Option<Rollup>)>,
) -> Result<(), StoreError> {
    let mut running = JoinSet::new();
    for (dirty, rollup) in &rollups {
        let Some(rollup) = rollup else { continue };
        let (inner, charger, hour) = (Arc::clone(inner), dirty.charger.clone(), dirty.hour);
        // Chunks only grow: of two rollups of an hour the one of more samples is of the later set, whoever is late.
        let version = i64::try_from(rollup.count()).unwrap_or(i64::MAX);
        let bytes = rollup.to_bytes();
        running.spawn(async move {
            inner.put(&inner.statements.put_rollup, (charger.as_str(), hour.0, bytes, version)).await
        });
    }
    ended(running).await?;
    // Only now: a rollup that is lost with the process is made again.
    let mut running = JoinSet::new();
    for (dirty, _) in rollups {
        let inner = Arc::clone(inner);
        let (process, mark) = (i64::from((dirty.mark >> 32) as u32), i64::from(dirty.mark as u32));
        running.spawn(async move {
            let values = (code_of(shard), dirty.hour.0, dirty.charger.as_str(), process, mark);
            inner.put(&inner.statements.clear_mark, values).await
        });
    }
    ended(running).await
}

pub(super) async fn read(
    inner: &Arc<Inner>,
    charger: ChargerId,
    from: Hour,
    to: Hour,
) -> Result<Vec<Rollup>, StoreError> {
    let rows: Vec<(i64, Option<Vec<u8>>)> =
        inner.rows(&inner.statements.rollups, (charger.as_str(), from.0, to.0)).await?;
    let rollup = |(hour, bytes): (i64, Option<Vec<u8>>)| {
        Rollup::from_bytes(Hour(hour), &bytes.unwrap_or_default()).map_err(unreadable)
    };
    rows.into_iter().map(rollup).collect()
}
