//! Charge records, laid out for pages: by tenant, by city, by charger, by account, each newest first and with the
//! month, and by session.
//!
//! Rows are appended in the order in which sessions were settled, so the records of one page of a city lie near each
//! other. Names are kept once, as numbers, and so is what was priced with. An index leads from a name through the end
//! and the record's order to the row and carries the month: a month is one range of it. Its range is that of the
//! month in any time zone, and the entries at its edges that belong to another month are passed over in the index.

mod read;
mod write;

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Layout, Sync, unsigned};
use crate::fault::Fault;
use crate::generations::{Generations, cursors, read_model_tables};
use chargeplane_actors::ports::{
    Added, ChargeRecords, Generation, ReadModel, RecordBatch, RecordQuery, StoreError, StoredRecord,
};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::placement::ShardId;

const TABLES: &[&str] = &[concat!(
    read_model_tables!(),
    "
        CREATE TABLE names(
            no INTEGER PRIMARY KEY,
            name TEXT NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX names_by_name ON names(name);
        CREATE TABLE tariffs(
            no INTEGER PRIMARY KEY,
            body BLOB NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX tariffs_by_body ON tariffs(body);
        CREATE TABLE charge_records(
            shard INTEGER NOT NULL,
            lsn INTEGER NOT NULL,
            idx INTEGER NOT NULL,
            tenant INTEGER NOT NULL,
            city INTEGER NOT NULL,
            charger INTEGER NOT NULL,
            account INTEGER NOT NULL,
            ended_at INTEGER NOT NULL,
            ord INTEGER NOT NULL,
            month INTEGER NOT NULL,
            tariff INTEGER NOT NULL,
            record BLOB NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX records_by_place ON charge_records(shard, lsn, idx);
        CREATE INDEX records_by_id ON charge_records(ord);
        CREATE INDEX records_by_tenant ON charge_records(tenant, ended_at, ord, month);
        CREATE INDEX records_by_city ON charge_records(city, ended_at, ord, month);
        CREATE INDEX records_by_charger ON charge_records(charger, ended_at, ord, month);
        CREATE INDEX records_by_account ON charge_records(account, ended_at, ord, month);
    "
)];

const fn layout(file: &'static str) -> Layout {
    Layout { file, steps: TABLES, page_size: 4_096, sync: Sync::Normal }
}

/// The two files, taken in turn.
const LAYOUTS: &[Layout; 2] = &[layout("records-a.sqlite"), layout("records-b.sqlite")];

/// Charge records in `records-a.sqlite` or `records-b.sqlite`.
pub struct SqliteRecords {
    generations: Generations,
}

impl SqliteRecords {
    /// Opens the records of a data directory and starts their threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self { generations: Generations::open(dir, LAYOUTS)? })
    }
}

impl ReadModel for SqliteRecords {
    fn cursors(&self, of: Generation) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>> {
        Box::pin(async move { Ok(self.generations.of(of)?.read(cursors).await?) })
    }

    fn count(&self, of: Generation) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { Ok(self.generations.of(of)?.read(count).await?) })
    }

    fn begin(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.generations.begin().await?) })
    }

    fn publish(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.generations.publish().await?) })
    }

    fn discard(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.generations.discard().await?) })
    }
}

impl ChargeRecords for SqliteRecords {
    fn add(&self, to: Generation, batch: RecordBatch) -> BoxFuture<'_, Result<Added, StoreError>> {
        Box::pin(async move {
            let file = self.generations.of(to)?;
            Ok(file.write(move |transaction| write::add(transaction, &batch)).await?)
        })
    }

    fn page(&self, of: Generation, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        Box::pin(async move {
            let file = self.generations.of(of)?;
            Ok(file.read(move |transaction| read::page(transaction, &query)).await?)
        })
    }
}

/// Rows are never deleted, so the last one's number is how many there are.
fn count(transaction: &rusqlite::Transaction<'_>) -> Result<u64, Fault> {
    let last = transaction.query_row("SELECT max(rowid) FROM charge_records", [], |row| row.get::<_, Option<i64>>(0));
    unsigned(last?.unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests;
