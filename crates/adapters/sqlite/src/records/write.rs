//! Adding charge records.

use crate::database::ordered;
use crate::fault::Fault;
use crate::generations::advance;
use crate::journal::code_of;
use chargeplane_actors::ports::{Added, RecordBatch, RecordConflict, RecordId, StoredRecord};
use chargeplane_domain::session::ChargeRecord;
use rusqlite::{OptionalExtension, Transaction, params};

/// What a number in `names` stands for. Part of the name, so that a charger and an account may be called the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tenant,
    City,
    Charger,
    Account,
}

impl Kind {
    pub(super) fn name(self, id: &str) -> String {
        let kind = match self {
            Self::Tenant => "tenant",
            Self::City => "city",
            Self::Charger => "charger",
            Self::Account => "account",
        };
        format!("{kind}:{id}")
    }
}

/// A city belongs to its tenant: two tenants' stations of one city are two lists.
pub(super) fn city_of(tenant: &str, city: &str) -> String {
    format!("{tenant}/{city}")
}

pub(super) fn add(transaction: &Transaction<'_>, batch: &RecordBatch) -> Result<Added, Fault> {
    advance(transaction, batch.shard, batch.after_lsn, batch.upto_lsn)?;
    let mut added = Added::default();
    for stored in &batch.records {
        let (body, tariff) = encoded(&stored.record)?;
        let tariff = tariff_no(transaction, &tariff)?;
        match there(transaction, stored, &body, tariff)? {
            There::Nothing => {
                put(transaction, stored, &body, tariff)?;
                added.new = added.new.saturating_add(1);
            }
            There::Same => added.repeated = added.repeated.saturating_add(1),
            There::Other(stays) => added.conflicts.push(RecordConflict {
                shard: stored.shard,
                lsn: stored.lsn,
                index: stored.index,
                session: stored.record.session.clone(),
                stays,
            }),
        }
    }
    Ok(added)
}

/// A record as MessagePack without names, in two parts: the tariff, its last field, is shared by many.
pub(super) fn encoded(record: &ChargeRecord) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let mut body = rmp_serde::to_vec(record).map_err(Fault::corrupt)?;
    let tariff = rmp_serde::to_vec(&record.tariff).map_err(Fault::corrupt)?;
    match body.ends_with(&tariff) {
        true => {
            body.truncate(body.len().saturating_sub(tariff.len()));
            Ok((body, tariff))
        }
        false => Ok((body, Vec::new())),
    }
}

/// What is there under a record's place or session.
enum There {
    Nothing,
    Same,
    Other(chargeplane_domain::ids::SessionId),
}

fn there(transaction: &Transaction<'_>, stored: &StoredRecord, body: &[u8], tariff: i64) -> Result<There, Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT shard, lsn, idx, tariff, record FROM charge_records WHERE shard = ?1 AND lsn = ?2 AND idx = ?3
         UNION ALL SELECT shard, lsn, idx, tariff, record FROM charge_records WHERE ord = ?4",
    )?;
    let place = (code_of(stored.shard), ordered(stored.lsn), i64::from(stored.index));
    let session = &stored.record.session;
    let mut rows = select.query(params![place.0, place.1, place.2, RecordId::of(session).order()])?;
    let mut found = There::Nothing;
    while let Some(row) = rows.next()? {
        let here: (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let its_tariff: i64 = row.get(3)?;
        let its_body = row.get_ref(4)?.as_blob().map_err(Fault::corrupt)?;
        if here == place && its_tariff == tariff && its_body == body {
            found = There::Same;
            continue;
        }
        let other = super::read::decoded(transaction, its_tariff, its_body)?;
        // Another session may have the same first 63 bits of its hash.
        if here == place || other.session == *session {
            return Ok(There::Other(other.session));
        }
    }
    Ok(found)
}

fn put(transaction: &Transaction<'_>, stored: &StoredRecord, body: &[u8], tariff: i64) -> Result<(), Fault> {
    let record = &stored.record;
    let tenant = record.session.tenant();
    let no = |kind: Kind, id: &str| name_no(transaction, &kind.name(id));
    let mut insert = transaction.prepare_cached(
        "INSERT INTO charge_records
             (shard, lsn, idx, tenant, city, charger, account, ended_at, ord, month, tariff, record)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    insert.execute(params![
        code_of(stored.shard),
        ordered(stored.lsn),
        stored.index,
        no(Kind::Tenant, tenant)?,
        no(Kind::City, &city_of(tenant, &record.city))?,
        no(Kind::Charger, record.charger.as_str())?,
        no(Kind::Account, record.account.as_str())?,
        record.ended_at.0,
        RecordId::of(&record.session).order(),
        record.month.number(),
        tariff,
        body
    ])?;
    Ok(())
}

fn name_no(transaction: &Transaction<'_>, name: &str) -> Result<i64, Fault> {
    let mut select = transaction.prepare_cached("SELECT no FROM names WHERE name = ?1")?;
    if let Some(no) = select.query_row([name], |row| row.get(0)).optional()? {
        return Ok(no);
    }
    transaction.prepare_cached("INSERT INTO names(name) VALUES(?1)")?.execute([name])?;
    Ok(transaction.last_insert_rowid())
}

fn tariff_no(transaction: &Transaction<'_>, body: &[u8]) -> Result<i64, Fault> {
    let mut select = transaction.prepare_cached("SELECT no FROM tariffs WHERE body = ?1")?;
    if let Some(no) = select.query_row([body], |row| row.get(0)).optional()? {
        return Ok(no);
    }
    transaction.prepare_cached("INSERT INTO tariffs(body) VALUES(?1)")?.execute([body])?;
    Ok(transaction.last_insert_rowid())
}
