//! `rollups.sqlite`: the hours of each charger, for longer than the chunks they were made of.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync};
use crate::fault::Fault;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::rollup::{Hour, Rollup};
use rusqlite::{OptionalExtension, Transaction, params};

const LAYOUT: Layout = Layout {
    file: "rollups.sqlite",
    // A row is some seventy bytes and read with its neighbours, so the table is its own index.
    steps: &["
        CREATE TABLE chargers(number INTEGER PRIMARY KEY, charger TEXT NOT NULL UNIQUE) STRICT;
        CREATE TABLE rollups(
            charger INTEGER NOT NULL,
            hour INTEGER NOT NULL,
            rollup BLOB NOT NULL,
            PRIMARY KEY(charger, hour)
        ) STRICT, WITHOUT ROWID;
    "],
    page_size: 8_192,
    sync: Sync::Full,
};

/// Threads that read.
const READERS: usize = 1;

/// Rollups in `rollups.sqlite`.
pub(super) struct Rollups(Database);

impl Rollups {
    /// Opens the file, or makes it.
    pub(super) fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self(Database::open(dir, &LAYOUT, READERS)?))
    }

    /// Stores these in place of former ones of the same hours.
    pub(super) async fn put(&self, rollups: Vec<(ChargerId, Rollup)>) -> Result<(), Fault> {
        if rollups.is_empty() {
            return Ok(());
        }
        self.0.write(move |transaction| rollups.iter().try_for_each(|(id, rollup)| put(transaction, id, rollup))).await
    }

    /// Hours of a charger in `from..to`.
    pub(super) async fn read(&self, charger: ChargerId, from: Hour, to: Hour) -> Result<Vec<Rollup>, Fault> {
        self.0.read(move |transaction| read(transaction, &charger, from, to)).await
    }
}

fn number(transaction: &Transaction<'_>, charger: &ChargerId) -> Result<Option<i64>, Fault> {
    let mut select = transaction.prepare_cached("SELECT number FROM chargers WHERE charger = ?1")?;
    Ok(select.query_row([charger.as_str()], |row| row.get(0)).optional()?)
}

fn put(transaction: &Transaction<'_>, charger: &ChargerId, rollup: &Rollup) -> Result<(), Fault> {
    let number = match number(transaction, charger)? {
        Some(number) => number,
        None => {
            transaction.prepare_cached("INSERT INTO chargers(charger) VALUES(?1)")?.execute([charger.as_str()])?;
            transaction.last_insert_rowid()
        }
    };
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO rollups(charger, hour, rollup) VALUES(?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET rollup = excluded.rollup",
    )?;
    upsert.execute(params![number, rollup.hour.0, rollup.to_bytes()])?;
    Ok(())
}

fn read(transaction: &Transaction<'_>, charger: &ChargerId, from: Hour, to: Hour) -> Result<Vec<Rollup>, Fault> {
    let Some(number) = number(transaction, charger)? else { return Ok(Vec::new()) };
    let mut select = transaction.prepare_cached(
        "SELECT hour, rollup FROM rollups WHERE charger = ?1 AND hour >= ?2 AND hour < ?3 ORDER BY hour",
    )?;
    let rows = select
        .query_map(params![number, from.0, to.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
    rows.map(|row| {
        let (hour, bytes) = row?;
        Rollup::from_bytes(Hour(hour), &bytes).map_err(Fault::corrupt)
    })
    .collect()
}
