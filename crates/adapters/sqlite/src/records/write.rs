//! Adding charge records.

use super::read::decoded;
use crate::database::ordered;
use crate::fault::Fault;
use crate::generations::{advance, cursor_of, is_filling};
use crate::journal::code_of;
use chargeplane_actors::ports::{Added, RecordBatch, RecordConflict, RecordId, StoredRecord};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::tariff::Tariff;
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::HashMap;

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

/// Looks a record's place up, in a file without an index of sessions.
const BY_PLACE: &str = "SELECT shard, lsn, idx, tariff, record FROM charge_records
    WHERE shard = ?1 AND lsn = ?2 AND idx = ?3 AND ?4 IS NOT NULL";

/// Looks a record's place and its session up.
const BY_PLACE_AND_SESSION: &str = "SELECT shard, lsn, idx, tariff, record FROM charge_records
    WHERE shard = ?1 AND lsn = ?2 AND idx = ?3
    UNION ALL SELECT shard, lsn, idx, tariff, record FROM charge_records WHERE ord = ?4";

/// Adds a batch. None, and nothing is done, when it says again what should be there already and the file is being
/// filled: to hold one against the other takes the indexes. What is new of a session that is there already is found
/// by [`settle`] then.
pub(super) fn add(transaction: &Transaction<'_>, batch: &RecordBatch) -> Result<Option<Added>, Fault> {
    let filling = is_filling(transaction)?;
    let is_in = cursor_of(transaction, batch.shard)?;
    if filling && batch.records.iter().any(|stored| stored.lsn <= is_in) {
        return Ok(None);
    }
    advance(transaction, batch.shard, batch.after_lsn, batch.upto_lsn)?;
    let mut writer = Writer { transaction, filling, names: HashMap::new(), tariff: None };
    let mut added = Added::default();
    batch.records.iter().try_for_each(|stored| writer.take(stored, &mut added))?;
    Ok(Some(added))
}

/// What a batch is written with.
struct Writer<'a> {
    transaction: &'a Transaction<'a>,
    filling: bool,
    /// Numbers of names that came in this batch.
    names: HashMap<String, i64>,
    /// The tariff of the record before, encoded, and its number: most have the same.
    tariff: Option<(Tariff, Vec<u8>, i64)>,
}

/// What is there under a record's place or session.
enum There {
    Nothing,
    Same,
    Other(SessionId),
}

impl Writer<'_> {
    fn take(&mut self, stored: &StoredRecord, added: &mut Added) -> Result<(), Fault> {
        let (body, tariff) = self.encoded(&stored.record)?;
        let ord = RecordId::of(&stored.record.session).order();
        match self.there(stored, ord, &body, tariff)? {
            There::Nothing => {
                self.put(stored, ord, &body, tariff)?;
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
        Ok(())
    }

    /// A record as MessagePack without names, in two parts: the tariff, its last field, is shared by many and told by
    /// its number.
    fn encoded(&mut self, record: &ChargeRecord) -> Result<(Vec<u8>, i64), Fault> {
        let mut body = rmp_serde::to_vec(record).map_err(Fault::corrupt)?;
        if self.tariff.as_ref().is_none_or(|(tariff, _, _)| *tariff != record.tariff) {
            let encoded = rmp_serde::to_vec(&record.tariff).map_err(Fault::corrupt)?;
            let no = tariff_no(self.transaction, &encoded)?;
            self.tariff = Some((record.tariff.clone(), encoded, no));
        }
        match &self.tariff {
            Some((_, encoded, no)) if body.ends_with(encoded) => {
                body.truncate(body.len().saturating_sub(encoded.len()));
                Ok((body, *no))
            }
            _ => Ok((body, tariff_no(self.transaction, &[])?)),
        }
    }

    fn there(&self, stored: &StoredRecord, ord: i64, body: &[u8], tariff: i64) -> Result<There, Fault> {
        let sql = if self.filling { BY_PLACE } else { BY_PLACE_AND_SESSION };
        let mut select = self.transaction.prepare_cached(sql)?;
        let place = (code_of(stored.shard), ordered(stored.lsn), i64::from(stored.index));
        let session = &stored.record.session;
        let mut rows = select.query(params![place.0, place.1, place.2, ord])?;
        let mut found = There::Nothing;
        while let Some(row) = rows.next()? {
            let here: (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let its_tariff: i64 = row.get(3)?;
            let its_body = row.get_ref(4)?.as_blob().map_err(Fault::corrupt)?;
            if here == place && its_tariff == tariff && its_body == body {
                found = There::Same;
                continue;
            }
            let other = decoded(self.transaction, its_tariff, its_body)?;
            // Another session may have the same first 63 bits of its hash.
            if here == place || other.session == *session {
                return Ok(There::Other(other.session));
            }
        }
        Ok(found)
    }

    fn put(&mut self, stored: &StoredRecord, ord: i64, body: &[u8], tariff: i64) -> Result<(), Fault> {
        let record = &stored.record;
        let tenant = record.session.tenant();
        let tenant_no = self.no(Kind::Tenant, tenant)?;
        let city = self.no(Kind::City, &city_of(tenant, &record.city))?;
        let charger = self.no(Kind::Charger, record.charger.as_str())?;
        let account = self.no(Kind::Account, record.account.as_str())?;
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO charge_records
                 (shard, lsn, idx, tenant, city, charger, account, ended_at, ord, month, tariff, record)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        insert.execute(params![
            code_of(stored.shard),
            ordered(stored.lsn),
            stored.index,
            tenant_no,
            city,
            charger,
            account,
            record.ended_at.0,
            ord,
            record.month.number(),
            tariff,
            body
        ])?;
        Ok(())
    }

    fn no(&mut self, kind: Kind, id: &str) -> Result<i64, Fault> {
        let name = kind.name(id);
        if let Some(no) = self.names.get(&name) {
            return Ok(*no);
        }
        let no = name_no(self.transaction, &name)?;
        self.names.insert(name, no);
        Ok(no)
    }
}

/// Of records of one session that were filled in, the first of the log stays, as it would have without the filling.
pub(super) fn settle(transaction: &Transaction<'_>) -> Result<(), Fault> {
    let mut select = transaction
        .prepare("SELECT ord FROM charge_records INDEXED BY records_by_id GROUP BY ord HAVING count(*) > 1")?;
    let twice = select.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    twice.into_iter().try_for_each(|ord| settle_one(transaction, ord))
}

fn settle_one(transaction: &Transaction<'_>, ord: i64) -> Result<(), Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT rowid, tariff, record, shard, lsn, idx FROM charge_records WHERE ord = ?1 ORDER BY rowid",
    )?;
    let mut rows = select.query([ord])?;
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let body = row.get_ref(2)?.as_blob().map_err(Fault::corrupt)?;
        let session = decoded(transaction, row.get(1)?, body)?.session;
        if stay.contains(&session) {
            let (shard, lsn, index): (i64, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
            tracing::error!(shard, lsn, index, %session, "the session has a charge record already; this one is not taken");
            go.push(row.get::<_, i64>(0)?);
        } else {
            stay.push(session);
        }
    }
    let mut delete = transaction.prepare_cached("DELETE FROM charge_records WHERE rowid = ?1")?;
    go.iter().try_for_each(|rowid| Ok(delete.execute([rowid]).map(drop)?))
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
