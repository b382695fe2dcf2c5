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
use crate::database::{Database, unsigned};
use crate::fault::Fault;
use crate::generations::{Generations, Model, cursors, layout, read_model, read_model_tables};
use chargeplane_actors::ports::{
    Added, ChargeRecords, Generation, ReadModel, RecordBatch, RecordQuery, StoreError, StoredRecord,
};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::placement::ShardId;
use std::sync::Arc;

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
    "
)];

const INDEXES: &[&str] = &[
    "CREATE INDEX IF NOT EXISTS records_by_id ON charge_records(ord)",
    "CREATE INDEX IF NOT EXISTS records_by_tenant ON charge_records(tenant, ended_at, ord, month)",
    "CREATE INDEX IF NOT EXISTS records_by_city ON charge_records(city, ended_at, ord, month)",
    "CREATE INDEX IF NOT EXISTS records_by_charger ON charge_records(charger, ended_at, ord, month)",
    "CREATE INDEX IF NOT EXISTS records_by_account ON charge_records(account, ended_at, ord, month)",
];

static MODEL: Model = Model {
    layouts: [layout("records-a.sqlite", TABLES), layout("records-b.sqlite", TABLES)],
    indexes: INDEXES,
    settle: write::settle,
    count,
};

/// Charge records in `records-a.sqlite` or `records-b.sqlite`.
pub struct SqliteRecords {
    generations: Generations,
}

read_model!(SqliteRecords, &MODEL);

impl ChargeRecords for SqliteRecords {
    fn add(&self, to: Generation, batch: RecordBatch) -> BoxFuture<'_, Result<Added, StoreError>> {
        Box::pin(async move {
            let batch = Arc::new(batch);
            let write = |file: Arc<Database>, batch: Arc<RecordBatch>| async move {
                file.write(move |transaction| write::add(transaction, &batch)).await
            };
            if let Some(added) = write(self.generations.of(to)?, Arc::clone(&batch)).await? {
                return Ok(added);
            }
            let added = write(self.generations.finished(to).await?, batch).await?;
            added.ok_or_else(|| StoreError::Io("the generation was begun anew meanwhile".to_owned()))
        })
    }

    fn page(&self, of: Generation, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        Box::pin(async move {
            let file = self.generations.finished(of).await?;
            Ok(file.read(move |transaction| read::page(transaction, &query)).await?)
        })
    }
}

fn count(transaction: &rusqlite::Transaction<'_>) -> Result<u64, Fault> {
    unsigned(transaction.query_row("SELECT count(*) FROM charge_records", [], |row| row.get(0))?)
}

#[cfg(test)]
mod tests;
