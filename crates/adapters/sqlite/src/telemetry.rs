//! Telemetry in SQLite: a file of chunks a day, and beside them the cursors that promise them (DATA-1), the declared
//! gaps, and the rollups that outlive the days.
//!
//! A chunk is in the file of the day (of the gateway's clock, in UTC) of its latest sample. So a file can be removed
//! when its day is long enough ago, and every sample in it is as old. A chunk that grows past midnight is written
//! again, with more, into the next day's file; readers unite versions by sample number, as they do with those of
//! several owners.
//!
//! Flushes that wait for each other become one: one transaction a day's file, then one for cursors and gaps. The
//! order is the promise: what a cursor says is durable is in a file that was synced before.

mod day;
mod days;
mod promises;
mod rollups;
#[cfg(test)]
mod tests;

use crate::data_dir::{DataDir, OpenError};
use crate::fault::Fault;
use chargeplane_actors::ports::{
    ChunkQuery, ChunkRow, ChunkSpan, DirtyHour, Flush, GapRow, StoreError, StreamCursor, TelemetryStore,
};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup};
use chargeplane_domain::units::Timestamp;
use days::{Days, day_of};
use promises::Promises;
use rollups::Rollups;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Done = Result<(), Fault>;

/// A flush that waits for its commit.
struct Waiting {
    flush: Flush,
    done: oneshot::Sender<Done>,
}

/// Telemetry in the files of a data directory.
pub struct SqliteTelemetry {
    files: Arc<Files>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever commits what waits.
    committing: Arc<tokio::sync::Mutex<()>>,
}

struct Files {
    days: Days,
    promises: Promises,
    rollups: Rollups,
}

impl SqliteTelemetry {
    /// Opens the telemetry of a data directory and starts its threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        let files = Files { days: Days::open(dir)?, promises: Promises::open(dir)?, rollups: Rollups::open(dir)? };
        Ok(Self { files: Arc::new(files), waiting: Mutex::default(), committing: Arc::default() })
    }

    /// Queues the flush. Whoever gets the lock commits all that queued while the commit before ran.
    async fn commit(&self, flush: Flush) -> Done {
        let (done, mut committed) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(Waiting { flush, done });
        let turn = Arc::clone(&self.committing).lock_owned().await;
        if let Ok(done) = committed.try_recv() {
            return done;
        }
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let files = Arc::clone(&self.files);
        // A task of its own, which has the turn: who waits here may give up, and others' flushes are among these.
        tokio::spawn(async move {
            let (flushes, answers): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| (w.flush, w.done)).unzip();
            let result = files.commit(flushes).await;
            answers.into_iter().for_each(|answer| drop(answer.send(result.clone())));
            drop(turn);
        });
        committed.await.map_err(|_| Fault::Io("the commit of a flush ended without a result".to_owned()))?
    }
}

impl Files {
    async fn commit(&self, flushes: Vec<Flush>) -> Done {
        let mut by_day: BTreeMap<i64, Vec<(ShardId, ChunkRow)>> = BTreeMap::new();
        let mut promised = Vec::with_capacity(flushes.len());
        for Flush { shard, chunks, gaps, cursors } in flushes {
            for row in chunks {
                by_day.entry(day_of(row.chunk.header.last_at())).or_default().push((shard, row));
            }
            promised.push((shard, gaps, cursors));
        }
        for (day, rows) in by_day {
            self.days.of(day).await?.write(rows).await?;
        }
        self.promises.write(promised).await
    }

    async fn put_rollups(&self, rollups: Vec<(DirtyHour, Option<Rollup>)>) -> Done {
        let marks: Vec<DirtyHour> = rollups.iter().map(|(dirty, _)| dirty.clone()).collect();
        let made = rollups.into_iter().filter_map(|(dirty, rollup)| Some((dirty.charger, rollup?)));
        self.rollups.put(made.collect()).await?;
        // Only now: a rollup that is lost with the process is made again.
        for day in self.days.from(i64::MIN) {
            day.clear_marks(&marks).await?;
        }
        Ok(())
    }
}

impl TelemetryStore for SqliteTelemetry {
    fn cursors(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<StreamCursor>, StoreError>> {
        Box::pin(async move { Ok(self.files.promises.cursors(shard).await?) })
    }

    fn write(&self, flush: Flush) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.commit(flush).await?) })
    }

    fn chunks(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkRow>, StoreError>> {
        Box::pin(async move {
            let mut rows = Vec::new();
            for day in self.files.days.from(day_of(query.from)) {
                let limit = query.limit.saturating_sub(rows.len());
                if limit == 0 {
                    break;
                }
                rows.extend(day.chunks(ChunkQuery { limit, ..query.clone() }).await?);
            }
            Ok(rows)
        })
    }

    fn gaps(&self, charger: ChargerId) -> BoxFuture<'_, Result<Vec<GapRow>, StoreError>> {
        Box::pin(async move { Ok(self.files.promises.gaps(charger).await?) })
    }

    fn spans(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkSpan>, StoreError>> {
        Box::pin(async move {
            let mut spans = Vec::new();
            for day in self.files.days.from(day_of(query.from)) {
                let limit = query.limit.saturating_sub(spans.len());
                if limit == 0 {
                    break;
                }
                spans.extend(day.spans(ChunkQuery { limit, ..query.clone() }).await?);
            }
            Ok(spans)
        })
    }

    fn chargers(&self) -> BoxFuture<'_, Result<Vec<ChargerId>, StoreError>> {
        Box::pin(async move {
            let mut chargers = self.files.promises.chargers().await?;
            for day in self.files.days.from(i64::MIN) {
                chargers.extend(day.chargers().await?);
            }
            Ok(chargers.into_iter().collect())
        })
    }

    fn dirty_hours(
        &self,
        shard: ShardId,
        before: Hour,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DirtyHour>, StoreError>> {
        Box::pin(async move {
            let mut dirty = Vec::new();
            for day in self.files.days.from(i64::MIN) {
                let limit = limit.saturating_sub(dirty.len());
                dirty.extend(day.marked(shard, before, limit).await?);
            }
            Ok(dirty)
        })
    }

    fn put_rollups(
        &self,
        _shard: ShardId,
        rollups: Vec<(DirtyHour, Option<Rollup>)>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.files.put_rollups(rollups).await?) })
    }

    fn rollups(&self, charger: ChargerId, from: Hour, to: Hour) -> BoxFuture<'_, Result<Vec<Rollup>, StoreError>> {
        Box::pin(async move { Ok(self.files.rollups.read(charger, from, to).await?) })
    }

    fn expire(&self, before: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        let day = day_of(before);
        Box::pin(async move { Ok(self.files.days.remove_before(day).await?) })
    }
}
