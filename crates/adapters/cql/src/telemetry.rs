//! Telemetry in ScyllaDB or Cassandra: a row for each chunk, written by one idempotent insert.
//!
//! | table | what |
//! |---|---|
//! | `telemetry_chunks` | partitions by charger, enrolment and 64 ranges of its numbering; a row for each version of a range |
//! | `telemetry_days` | which of these partitions have samples of which day |
//! | `telemetry_gaps` | declared gaps, by charger |
//! | `telemetry_marks` | hours whose rollup has to be made again, by shard |
//! | `telemetry_hours` | rollups, by charger |
//! | `telemetry_cursors` | how far streams are durable, by shard |
//!
//! The chunks, gaps and days of a flush are written side by side, and the cursors when all of them are there: who dies
//! in between leaves data that nobody was promised (DATA-1). Where a chunk goes follows from the gateway's numbering
//! alone, so that a re-delivery meets itself. The reasons are in `docs/decisions/0033-telemetry-in-cql.md`, the tables
//! in `docs/reference/storage.md`.

mod hours;
mod lineage;
mod read;
mod tables;
mod write;

pub use tables::TELEMETRY_LAYOUT;

use crate::durability::{Durability, Sync};
use crate::options::CqlOptions;
use crate::schema::{self, ConnectError};
use crate::store::fault;
use chargeplane_actors::ports::{
    ChunkQuery, ChunkRow, ChunkSpan, DirtyHour, Flush, GapRow, StoreError, StreamCursor, TelemetryStore,
};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup};
use chargeplane_domain::units::Timestamp;
use hours::Marks;
use lineage::{Days, Lineages};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tables::Statements;
use tokio::sync::Semaphore;

/// After this a write is repeated, and a reader told.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before a write is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Requests in flight of all flushes and readers together: more only wait in the database.
const IN_FLIGHT: usize = 128;

/// Telemetry in a keyspace of ScyllaDB or Cassandra.
pub struct CqlTelemetry {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    statements: Statements,
    room: Semaphore,
    lineages: Mutex<Lineages>,
    days: Mutex<Days>,
    marks: Mutex<Marks>,
    /// Tells this process's marks from others'.
    process: i64,
}

impl CqlTelemetry {
    /// Connects. The tables must be there, as this program makes them.
    ///
    /// # Errors
    /// [`ConnectError::NotMigrated`] when they are not: [`migrate`](Self::migrate) makes them.
    /// [`ConnectError::NotSynced`] when there are less than three copies, and they are not synced before an answer.
    pub async fn connect(options: &CqlOptions) -> Result<Self, ConnectError> {
        let session = schema::session(options, profile()).await?;
        let keyspace = &options.keyspace;
        match tables::version(&session, keyspace).await {
            Some(TELEMETRY_LAYOUT) => {}
            Some(found) if found > TELEMETRY_LAYOUT => {
                return Err(ConnectError::Newer { keyspace: keyspace.clone(), found });
            }
            found => {
                return Err(ConnectError::NotMigrated { keyspace: keyspace.clone(), found, wanted: TELEMETRY_LAYOUT });
            }
        }
        let failed = |why: String| ConnectError::Schema { keyspace: keyspace.clone(), why };
        let durability = Durability::of(&session, keyspace).await.map_err(|error| failed(error.to_string()))?;
        if !holds(&durability) && !options.allow_unsynced {
            return Err(ConnectError::NotSynced(Box::new(durability)));
        }
        let statements = Statements::prepare(&session, keyspace).await.map_err(|error| failed(error.to_string()))?;
        let inner = Inner {
            session,
            statements,
            room: Semaphore::new(IN_FLIGHT),
            lineages: Mutex::new(Lineages::new()),
            days: Mutex::default(),
            marks: Mutex::default(),
            process: lineage::process_number(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes keyspace and tables, or brings them up to this program's version; returns the version before, if any.
    ///
    /// # Errors
    /// The database cannot be reached or refuses; or the tables are a newer program's.
    pub async fn migrate(options: &CqlOptions) -> Result<Option<i32>, ConnectError> {
        let session = schema::session(options, profile()).await?;
        tables::migrate(&session, options).await
    }
}

/// Whether an acknowledged sample outlives a loss of power: a plain write is synced before its answer only where the
/// commit log is, or it is in the memory of several machines.
fn holds(durability: &Durability) -> bool {
    matches!(durability.sync, Sync::Before(_)) || durability.copies >= 3
}

fn profile() -> ExecutionProfile {
    ExecutionProfile::builder()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .consistency(Consistency::Quorum)
        .speculative_execution_policy(None)
        .build()
}

impl Inner {
    /// Writes what may be written twice, for as long as it takes. Meanwhile nothing is acknowledged, the node's buffers
    /// fill to their bound, and the gateways keep the rest.
    async fn put(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<(), StoreError> {
        let mut waiting = false;
        loop {
            let error = {
                let _permit = self.permit().await?;
                match self.session.execute_unpaged(statement, &values).await {
                    Ok(_) => return Ok(()),
                    Err(error) => fault(&error),
                }
            };
            if error.is_fatal() {
                return Err(StoreError::Io(error.to_string()));
            }
            if !std::mem::replace(&mut waiting, true) {
                tracing::warn!(%error, "telemetry cannot be written; trying again until it can");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<QueryResult, StoreError> {
        let _permit = self.permit().await?;
        let result = self.session.execute_unpaged(statement, &values).await;
        result.map_err(|error| StoreError::Io(fault(&error).to_string()))
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, StoreError> {
        self.room.acquire().await.map_err(|_| StoreError::Io("the telemetry store is closed".to_owned()))
    }

    async fn rows<R>(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<Vec<R>, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        let rows = self.ask(statement, values).await?.into_rows_result().map_err(unreadable)?;
        let rows = rows.rows::<R>().map_err(unreadable)?;
        rows.map(|row| row.map_err(unreadable)).collect()
    }
}

/// A row that cannot be what was written.
fn unreadable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("telemetry: {error}"))
}

impl TelemetryStore for CqlTelemetry {
    fn cursors(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<StreamCursor>, StoreError>> {
        Box::pin(read::cursors(&self.inner, shard))
    }

    fn write(&self, flush: Flush) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(write::flush(&self.inner, flush))
    }

    fn chunks(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkRow>, StoreError>> {
        Box::pin(read::chunks(&self.inner, query))
    }

    fn spans(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkSpan>, StoreError>> {
        Box::pin(read::spans(&self.inner, query))
    }

    fn gaps(&self, charger: ChargerId) -> BoxFuture<'_, Result<Vec<GapRow>, StoreError>> {
        Box::pin(read::gaps(&self.inner, charger))
    }

    fn dirty_hours(
        &self,
        shard: ShardId,
        before: Hour,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DirtyHour>, StoreError>> {
        Box::pin(hours::dirty(&self.inner, shard, before, limit))
    }

    fn put_rollups(
        &self,
        shard: ShardId,
        rollups: Vec<(DirtyHour, Option<Rollup>)>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(hours::put(&self.inner, shard, rollups))
    }

    fn rollups(&self, charger: ChargerId, from: Hour, to: Hour) -> BoxFuture<'_, Result<Vec<Rollup>, StoreError>> {
        Box::pin(hours::read(&self.inner, charger, from, to))
    }

    /// The database expires chunks by itself.
    fn expire(&self, _before: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }

    fn chargers(&self) -> BoxFuture<'_, Result<Vec<ChargerId>, StoreError>> {
        Box::pin(read::chargers(&self.inner))
    }
}
