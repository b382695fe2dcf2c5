//! Charge records in ScyllaDB or Cassandra: a table for each question, with the whole record in each.
//!
//! | table of a generation | what |
//! |---|---|
//! | `by_session` | a record for each session |
//! | `by_place` | the sessions of a stretch of a shard's log |
//! | `by_city` | a list: partitions by city, month and day |
//! | `by_charger` | a list: partitions by charger and month |
//! | `by_account` | a list: partitions by account, month and station shard |
//! | `buckets` | which partitions each list has |
//!
//! The record, its place in the lists and then the cursor are written, all by idempotent statements; whoever reads in
//! between may find a record in one list and not yet in another. The reasons are in
//! `docs/decisions/0011-records-in-cql-tables-by-question.md`, the tables in `docs/reference/storage.md`.

mod generations;
mod lists;
mod store;
mod tables;
mod write;

use crate::head::shard_of_code;
use crate::options::CqlOptions;
use crate::schema::{self, ConnectError, Part};
use chargeplane_actors::ports::{
    Added, ChargeRecords, Generation, ReadModel, RecordBatch, RecordId, RecordQuery, StoreError, StoredRecord,
};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::placement::ShardId;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::statement::{Consistency, SerialConsistency};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::{Patience, Store, unreadable};
use tables::{SHARED, Shared, Tables};
use tokio::sync::RwLock;

/// After this a call is repeated, or its caller told.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Charge records in a keyspace of ScyllaDB or Cassandra.
pub struct CqlRecords {
    store: Arc<Store>,
    /// The generation that this process builds. Held for writing while generations change, so that nothing is added to
    /// the served one between the look at its cursors and the change.
    fresh: RwLock<Option<i64>>,
}

impl CqlRecords {
    /// Connects, and makes keyspace and tables where they are not there.
    pub async fn connect(options: &CqlOptions) -> Result<Self, ConnectError> {
        // Everything is idempotent but for the few changes of generations: the driver may ask another node.
        let profile = ExecutionProfile::builder()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .consistency(Consistency::Quorum)
            .serial_consistency(Some(SerialConsistency::Serial))
            .speculative_execution_policy(None)
            .build();
        let session = schema::open(options, profile, Part::Records, SHARED).await?;
        let keyspace = options.keyspace.clone();
        let failed = |why: String| ConnectError::Schema { keyspace: options.keyspace.clone(), why };
        let shared = Shared::prepare(&session, &keyspace).await.map_err(|error| failed(error.to_string()))?;
        let store = Arc::new(Store::new(session, keyspace, shared));
        store.make_first().await.map_err(|error| failed(error.to_string()))?;
        Ok(Self { store, fresh: RwLock::default() })
    }

    /// The tables of a generation.
    async fn tables(&self, of: Generation, fresh: Option<i64>, patience: Patience) -> Result<Arc<Tables>, StoreError> {
        let number = match of {
            Generation::Served => self.store.served(patience).await?,
            Generation::Fresh => {
                fresh.ok_or_else(|| StoreError::Io("there is no fresh generation of charge records".to_owned()))?
            }
        };
        self.store.tables(number).await
    }

    /// Reads a generation. Another process may serve another one meanwhile and drop this one: then it is read again.
    async fn read<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        of: Generation,
        read: impl Fn(Arc<Tables>) -> F,
    ) -> Result<T, StoreError> {
        loop {
            let fresh = *self.fresh.read().await;
            let tables = self.tables(of, fresh, Patience::None).await;
            let (number, result) = match tables {
                Ok(tables) => (Some(tables.number), read(tables).await),
                Err(error) => (None, Err(error)),
            };
            if of == Generation::Served && number.is_some() && number != Some(self.store.served(Patience::None).await?)
            {
                continue;
            }
            return result;
        }
    }

    async fn cursors_of(&self, of: Generation) -> Result<BTreeMap<ShardId, (u64, i64)>, StoreError> {
        self.read(of, async |tables: Arc<Tables>| cursors(&self.store, tables.number, Patience::None).await).await
    }
}

type CursorRow = (i32, Option<i64>, Option<i64>);

/// How far each shard is in a generation, and with how many records.
async fn cursors(
    store: &Store,
    generation: i64,
    patience: Patience,
) -> Result<BTreeMap<ShardId, (u64, i64)>, StoreError> {
    let rows: Vec<CursorRow> = store.rows(&store.shared.cursors, (generation,), patience).await?;
    let cursor = |(shard, upto, records): CursorRow| {
        let shard = shard_of_code(shard).ok_or_else(|| unreadable(format!("{shard} is no shard")))?;
        Ok((shard, (u64::try_from(upto.unwrap_or(0)).map_err(unreadable)?, records.unwrap_or(0))))
    };
    rows.into_iter().map(cursor).collect()
}

impl ReadModel for CqlRecords {
    fn cursors(&self, of: Generation) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>> {
        Box::pin(
            async move { Ok(self.cursors_of(of).await?.into_iter().map(|(shard, (upto, _))| (shard, upto)).collect()) },
        )
    }

    fn count(&self, of: Generation) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let records = self.cursors_of(of).await?.into_values().map(|(_, records)| records);
            let sum = records.fold(0i64, i64::saturating_add);
            u64::try_from(sum).map_err(unreadable)
        })
    }

    fn begin(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut fresh = self.fresh.write().await;
            *fresh = None;
            *fresh = Some(self.store.begin().await?);
            Ok(())
        })
    }

    fn publish(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let mut fresh = self.fresh.write().await;
            let Some(number) = *fresh else { return Ok(false) };
            let served = self.store.served(Patience::Endless).await?;
            let at = cursors(&self.store, number, Patience::Endless).await?;
            let has = |(shard, (lsn, _)): (&ShardId, &(u64, i64))| at.get(shard).is_some_and(|(at, _)| at >= lsn);
            if !cursors(&self.store, served, Patience::Endless).await?.iter().all(has) {
                return Ok(false);
            }
            *fresh = None;
            self.store.publish(number).await?;
            Ok(true)
        })
    }

    fn discard(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut fresh = self.fresh.write().await;
            match fresh.take() {
                Some(number) => self.store.discard(number).await,
                None => Ok(()),
            }
        })
    }
}

impl ChargeRecords for CqlRecords {
    fn add(&self, to: Generation, batch: RecordBatch) -> BoxFuture<'_, Result<Added, StoreError>> {
        Box::pin(async move {
            loop {
                let fresh = self.fresh.read().await;
                let tables = self.tables(to, *fresh, Patience::Endless).await?;
                let added = write::add(&self.store, &tables, batch.clone()).await;
                // Another process may have served another one and dropped this one.
                let is_there = to == Generation::Fresh || self.store.served(Patience::Endless).await? == tables.number;
                if added.is_ok() || is_there {
                    return added;
                }
            }
        })
    }

    fn page(&self, of: Generation, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        Box::pin(async move {
            let query = &query;
            self.read(of, async |tables: Arc<Tables>| match &query.session {
                Some(session) => {
                    let after = query.after.as_ref().map(|(at, session)| (*at, RecordId::of(session).order()));
                    let found = write::of_session(&self.store, &tables, session.as_str()).await?;
                    let wanted = found.filter(|row| {
                        query.limit > 0 && query.wants(&row.record) && after.is_none_or(|after| row.order() < after)
                    });
                    Ok(wanted.into_iter().collect())
                }
                None => lists::page(&self.store, &tables, query).await,
            })
            .await
        })
    }
}
