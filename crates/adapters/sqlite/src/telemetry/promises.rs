//! `telemetry.sqlite`: the cursors that promise what is in the days' files, and the declared gaps. Both stay when a
//! day is removed: a gateway may be away for longer, and what was lost stays declared.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, parsed, unsigned, unsigned32};
use crate::fault::Fault;
use chargeplane_actors::ports::{GapRow, StreamCursor};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::sample::{Gap, GapReason};
use rusqlite::{Row, Transaction, params};
use std::collections::BTreeSet;

const LAYOUT: Layout = Layout {
    file: "telemetry.sqlite",
    steps: &["
        CREATE TABLE gaps(
            charger TEXT NOT NULL,
            incarnation INTEGER NOT NULL,
            first INTEGER NOT NULL,
            last INTEGER NOT NULL,
            reason TEXT NOT NULL CHECK(reason IN ('thinned', 'dropped', 'refused'))
        ) STRICT;
        CREATE UNIQUE INDEX gaps_by_numbers ON gaps(charger, incarnation, first, last, reason);
        CREATE TABLE cursors(
            shard TEXT NOT NULL,
            gateway TEXT NOT NULL,
            stream INTEGER NOT NULL,
            key_epoch INTEGER NOT NULL,
            boot INTEGER NOT NULL,
            upto_seq INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX cursors_by_stream ON cursors(gateway, stream, key_epoch, boot);
        CREATE INDEX cursors_by_shard ON cursors(shard);
    "],
    page_size: 4_096,
    sync: Sync::Full,
};

/// Threads that read.
const READERS: usize = 1;

/// Cursors and gaps in `telemetry.sqlite`.
pub(super) struct Promises(Database);

impl Promises {
    /// Opens the file, or makes it.
    pub(super) fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self(Database::open(dir, &LAYOUT, READERS)?))
    }

    /// Writes gaps and cursors of flushes whose chunks are in their files, in one transaction.
    pub(super) async fn write(&self, promised: Vec<(ShardId, Vec<GapRow>, Vec<StreamCursor>)>) -> Result<(), Fault> {
        let write = move |transaction: &Transaction<'_>| {
            promised.iter().try_for_each(|(shard, gaps, cursors)| {
                gaps.iter().try_for_each(|row| put_gap(transaction, row))?;
                cursors.iter().try_for_each(|cursor| put_cursor(transaction, *shard, cursor))
            })
        };
        self.0.write(write).await
    }

    /// All cursors of a shard.
    pub(super) async fn cursors(&self, shard: ShardId) -> Result<Vec<StreamCursor>, Fault> {
        self.0.read(move |transaction| cursors(transaction, shard)).await
    }

    /// The chargers that have declared gaps.
    pub(super) async fn chargers(&self) -> Result<BTreeSet<ChargerId>, Fault> {
        self.0.read(|transaction| ids(transaction, "SELECT DISTINCT charger FROM gaps")).await
    }

    /// Declared gaps of a charger.
    pub(super) async fn gaps(&self, charger: ChargerId) -> Result<Vec<GapRow>, Fault> {
        self.0.read(move |transaction| gaps(transaction, &charger)).await
    }
}

/// The ids that a statement finds.
pub(super) fn ids(transaction: &Transaction<'_>, sql: &str) -> Result<BTreeSet<ChargerId>, Fault> {
    let mut select = transaction.prepare_cached(sql)?;
    let rows = select.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|row| parsed(&row?)).collect()
}

fn put_gap(transaction: &Transaction<'_>, row: &GapRow) -> Result<(), Fault> {
    let reason = match row.gap.reason {
        GapReason::Thinned => "thinned",
        GapReason::Dropped => "dropped",
        GapReason::Refused => "refused",
    };
    let mut insert = transaction.prepare_cached(
        "INSERT INTO gaps(charger, incarnation, first, last, reason) VALUES(?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    // Numbers are the gateway's: they are kept bit by bit, whatever they are, and not compared in SQL.
    let (first, last) = (row.gap.first.cast_signed(), row.gap.last.cast_signed());
    insert.execute(params![row.charger.as_str(), row.incarnation, first, last, reason])?;
    Ok(())
}

fn put_cursor(transaction: &Transaction<'_>, shard: ShardId, cursor: &StreamCursor) -> Result<(), Fault> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO cursors(shard, gateway, stream, key_epoch, boot, upto_seq) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT(gateway, stream, key_epoch, boot) DO UPDATE SET
             shard = excluded.shard, upto_seq = max(upto_seq, excluded.upto_seq)",
    )?;
    upsert.execute(params![
        shard.to_string(),
        cursor.gateway.as_str(),
        cursor.stream,
        cursor.boot.key_epoch,
        cursor.boot.boot,
        ordered(cursor.upto_seq)
    ])?;
    Ok(())
}

fn cursors(transaction: &Transaction<'_>, shard: ShardId) -> Result<Vec<StreamCursor>, Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT gateway, stream, key_epoch, boot, upto_seq FROM cursors WHERE shard = ?1
         ORDER BY gateway, stream, key_epoch, boot",
    )?;
    type Fields = (String, u8, i64, i64, i64);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
    };
    let rows = select.query_map([shard.to_string()], fields)?;
    let cursor = |(gateway, stream, key_epoch, boot, upto_seq): Fields| {
        let boot = BootId::new(unsigned32(key_epoch)?, unsigned32(boot)?);
        Ok(StreamCursor { gateway: parsed(&gateway)?, stream, boot, upto_seq: unsigned(upto_seq)? })
    };
    rows.map(|row| cursor(row?)).collect()
}

fn gaps(transaction: &Transaction<'_>, charger: &ChargerId) -> Result<Vec<GapRow>, Fault> {
    let mut select = transaction
        .prepare_cached("SELECT incarnation, first, last, reason FROM gaps WHERE charger = ?1 ORDER BY rowid")?;
    type Fields = (i64, i64, i64, String);
    let fields =
        |row: &Row<'_>| -> rusqlite::Result<Fields> { Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)) };
    let rows = select.query_map([charger.as_str()], fields)?;
    let gap = |(incarnation, first, last, reason): Fields| {
        let reason = match &*reason {
            "thinned" => GapReason::Thinned,
            "dropped" => GapReason::Dropped,
            "refused" => GapReason::Refused,
            other => return Err(Fault::corrupt(format!("gap reason {other:?}"))),
        };
        let gap = Gap { first: first.cast_unsigned(), last: last.cast_unsigned(), reason };
        Ok(GapRow { charger: charger.clone(), incarnation: unsigned32(incarnation)?, gap })
    };
    rows.map(|row| gap(row?)).collect()
}
