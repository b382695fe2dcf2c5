//! The database as the records use it: what an error means, and many calls side by side.
//!
//! What is written here can be written again without changing anything. So a write that was not answered is repeated
//! until it is: the projection waits, and is behind meanwhile, rather than stop the node. A reader is told at once.

use super::tables::{Kind, Shared, Tables};
use crate::store::fault;
use chargeplane_actors::ports::StoreError;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::ExecutionError;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// Calls in flight at once: more only wait in the database.
const IN_FLIGHT: usize = 64;

/// Pause before a call is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Buckets that are known to be written down. Beyond it all are forgotten, and written again when they come.
const MOST_KNOWN: usize = 200_000;

/// What to do while the database cannot be reached, or is too busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Tell.
    None,
    /// Ask again.
    Endless,
}

/// A bucket of a list, which [`Store::known`] may have.
pub(super) type BucketKey = (i64, Kind, String, String, i64);

pub(super) struct Store {
    pub(super) session: Session,
    pub(super) keyspace: String,
    pub(super) shared: Shared,
    /// Tells this process from others that build a generation.
    pub(super) builder: String,
    tables: Mutex<BTreeMap<i64, Arc<Tables>>>,
    known: Mutex<HashSet<BucketKey>>,
}

impl Store {
    pub(super) fn new(session: Session, keyspace: String, shared: Shared) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let builder = format!("{}.{}", std::process::id(), since_epoch.as_nanos());
        Self { session, keyspace, shared, builder, tables: Mutex::default(), known: Mutex::default() }
    }

    /// The statements on a generation's tables.
    pub(super) async fn tables(&self, number: i64) -> Result<Arc<Tables>, StoreError> {
        let there = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(tables) = there {
            return Ok(tables);
        }
        let prepared = Tables::prepare(&self.session, &self.keyspace, number).await;
        let prepared = Arc::new(prepared.map_err(|error| StoreError::Io(error.to_string()))?);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // The served and the fresh one; numbers only grow.
        while tables.len() >= 2 {
            tables.pop_first();
        }
        tables.insert(number, Arc::clone(&prepared));
        Ok(prepared)
    }

    /// Runs a statement. Its values must be such that repeating it is harmless.
    pub(super) async fn ask(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        patience: Patience,
    ) -> Result<QueryResult, StoreError> {
        let mut waiting = false;
        loop {
            match self.session.execute_unpaged(statement, &values).await {
                Ok(result) => return Ok(result),
                Err(error) => bear(&error, patience, &mut waiting).await?,
            }
        }
    }

    /// Runs a statement and reads its rows.
    pub(super) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        patience: Patience,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        let rows = self.ask(statement, values, patience).await?.into_rows_result().map_err(unreadable)?;
        let rows = rows.rows::<R>().map_err(unreadable)?;
        rows.map(|row| row.map_err(unreadable)).collect()
    }

    /// Writes rows of one partition, in one mutation.
    pub(super) async fn put<V: SerializeRow>(
        &self,
        statement: &PreparedStatement,
        rows: Vec<V>,
    ) -> Result<(), StoreError> {
        if let [row] = &rows[..] {
            return self.ask(statement, row, Patience::Endless).await.map(drop);
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        rows.iter().for_each(|_| batch.append_statement(statement.clone()));
        let mut waiting = false;
        loop {
            match self.session.batch(&batch, &rows).await {
                Ok(_) => return Ok(()),
                Err(error) => bear(&error, Patience::Endless, &mut waiting).await?,
            }
        }
    }

    pub(super) fn is_known(&self, bucket: &BucketKey) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(bucket)
    }

    /// Notes buckets that are written down.
    pub(super) fn know(&self, buckets: impl IntoIterator<Item = BucketKey>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.extend(buckets);
    }
}

/// Waits before the next attempt; fails when there is to be none.
async fn bear(error: &ExecutionError, patience: Patience, waiting: &mut bool) -> Result<(), StoreError> {
    let fault = fault(error);
    if patience == Patience::None || fault.is_fatal() {
        return Err(StoreError::Io(fault.to_string()));
    }
    if !std::mem::replace(waiting, true) {
        tracing::warn!(%fault, "the charge records cannot be reached; asking again");
    }
    tokio::time::sleep(RETRY_PAUSE).await;
    Ok(())
}

/// A row that cannot be what was written.
pub(super) fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("charge records: {error}"))
}

/// Runs calls side by side and returns their answers in the order of the calls. The first error ends the others.
pub(super) async fn side_by_side<T, F>(calls: impl IntoIterator<Item = F>) -> Result<Vec<T>, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    let (mut running, mut done) = (JoinSet::new(), BTreeMap::new());
    for (n, call) in calls.into_iter().enumerate() {
        if running.len() >= IN_FLIGHT {
            finish_one(&mut running, &mut done).await?;
        }
        running.spawn(async move { (n, call.await) });
    }
    while !running.is_empty() {
        finish_one(&mut running, &mut done).await?;
    }
    Ok(done.into_values().collect())
}

async fn finish_one<T: 'static>(
    running: &mut JoinSet<(usize, Result<T, StoreError>)>,
    done: &mut BTreeMap<usize, T>,
) -> Result<(), StoreError> {
    let Some(ended) = running.join_next().await else { return Ok(()) };
    let (n, answer) = ended.map_err(|error| StoreError::Io(format!("a call was not finished: {error}")))?;
    done.insert(n, answer?);
    Ok(())
}
