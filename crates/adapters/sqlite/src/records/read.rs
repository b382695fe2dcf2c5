//! Pages of charge records.

use super::write::{Kind, city_of};
use crate::database::{unsigned, unsigned32};
use crate::fault::Fault;
use crate::journal::shard_of_code;
use chargeplane_actors::ports::{RecordId, RecordQuery, StoredRecord};
use chargeplane_domain::session::ChargeRecord;
use rusqlite::{OptionalExtension, Transaction, params_from_iter};
use std::cmp::Reverse;

const COLUMNS: &str = "shard, lsn, idx, tariff, record";

/// A page, newest first.
pub(super) fn page(transaction: &Transaction<'_>, query: &RecordQuery) -> Result<Vec<StoredRecord>, Fault> {
    if let Some(session) = &query.session {
        let sql = format!("SELECT {COLUMNS} FROM charge_records WHERE ord = ?1");
        let rows = select(transaction, &sql, vec![RecordId::of(session).order()])?;
        return Ok(only(rows, query));
    }
    if query.charger.is_some() || query.account.is_some() {
        return listed(transaction, query);
    }
    if let Some(tenant) = &query.tenant {
        return listed_of(transaction, query, tenant.as_str());
    }
    // Tenants are few: each one's first records, and of these the newest.
    let mut records = Vec::new();
    for tenant in tenants(transaction)? {
        records.extend(listed_of(transaction, query, &tenant)?);
    }
    records.sort_by_key(|record| Reverse(record.order()));
    records.truncate(query.limit);
    Ok(records)
}

/// What a look-up by session found, held against the rest of the query.
fn only(mut rows: Vec<StoredRecord>, query: &RecordQuery) -> Vec<StoredRecord> {
    let after = query.after.as_ref().map(|(at, session)| (*at, RecordId::of(session).order()));
    rows.retain(|row| query.wants(&row.record) && after.is_none_or(|after| row.order() < after));
    rows.truncate(query.limit);
    rows
}

fn tenants(transaction: &Transaction<'_>) -> Result<Vec<String>, Fault> {
    // The character after ':' is ';'.
    let sql = "SELECT name FROM names WHERE name >= 'tenant:' AND name < 'tenant;' ORDER BY name";
    let mut select = transaction.prepare_cached(sql)?;
    let names = select.query_map([], |row| row.get::<_, String>(0))?;
    names.map(|name| Ok(name?.trim_start_matches("tenant:").to_owned())).collect()
}

/// A charger's or an account's records.
fn listed(transaction: &Transaction<'_>, query: &RecordQuery) -> Result<Vec<StoredRecord>, Fault> {
    let charger = query.charger.as_ref().map(|id| ("charger", Kind::Charger.name(id.as_str())));
    let account = query.account.as_ref().map(|id| ("account", Kind::Account.name(id.as_str())));
    let mut keys: Vec<(&str, String)> = charger.into_iter().chain(account).collect();
    if let Some(tenant) = &query.tenant {
        keys.push(("tenant", Kind::Tenant.name(tenant.as_str())));
        keys.extend(query.city.as_ref().map(|city| ("city", Kind::City.name(&city_of(tenant.as_str(), city)))));
    } else if let (Some(city), Some(tenant)) = (&query.city, tenant_of(query)) {
        keys.push(("city", Kind::City.name(&city_of(&tenant, city))));
    }
    by_index(transaction, query, &keys)
}

/// A charger and an account are of one tenant.
fn tenant_of(query: &RecordQuery) -> Option<String> {
    let charger = query.charger.as_ref().map(|charger| charger.tenant().to_owned());
    charger.or_else(|| query.account.as_ref().map(|account| account.tenant().to_owned()))
}

/// A tenant's records, of all cities or of one.
fn listed_of(transaction: &Transaction<'_>, query: &RecordQuery, tenant: &str) -> Result<Vec<StoredRecord>, Fault> {
    let key = match &query.city {
        Some(city) => ("city", Kind::City.name(&city_of(tenant, city))),
        None => ("tenant", Kind::Tenant.name(tenant)),
    };
    by_index(transaction, query, &[key])
}

/// The page by the index of the first of `keys`; the others are looked at in the rows.
fn by_index(
    transaction: &Transaction<'_>,
    query: &RecordQuery,
    keys: &[(&'static str, String)],
) -> Result<Vec<StoredRecord>, Fault> {
    let Some((index, _)) = keys.first() else { return Ok(Vec::new()) };
    let mut sql = format!("SELECT {COLUMNS} FROM charge_records INDEXED BY records_by_{index} WHERE TRUE");
    let mut values: Vec<i64> = Vec::new();
    let mut add = |condition: &str, value: i64| {
        values.push(value);
        sql.push_str(&format!(" AND {condition} ?{}", values.len()));
    };
    let mut number = transaction.prepare_cached("SELECT no FROM names WHERE name = ?1")?;
    for (column, name) in keys {
        // A name that no record has.
        let Some(no) = number.query_row([name], |row| row.get(0)).optional()? else { return Ok(Vec::new()) };
        add(&format!("{column} ="), no);
    }
    let span = query.month.map(|month| month.span());
    if let Some(from) = query.from.map(|at| at.0).max(span.map(|(from, _)| from.0)) {
        add("ended_at >=", from);
    }
    if let Some(to) = [query.to.map(|at| at.0), span.map(|(_, to)| to.0)].into_iter().flatten().min() {
        add("ended_at <", to);
    }
    if let Some(month) = query.month {
        add("month =", month.number());
    }
    if let Some((at, session)) = &query.after {
        // The first condition is what the index is entered with.
        add("ended_at <=", at.0);
        values.push(at.0);
        values.push(RecordId::of(session).order());
        sql.push_str(&format!(" AND (ended_at, ord) < (?{}, ?{})", values.len().saturating_sub(1), values.len()));
    }
    values.push(i64::try_from(query.limit).unwrap_or(i64::MAX));
    sql.push_str(&format!(" ORDER BY ended_at DESC, ord DESC LIMIT ?{}", values.len()));
    select(transaction, &sql, values)
}

fn select(transaction: &Transaction<'_>, sql: &str, values: Vec<i64>) -> Result<Vec<StoredRecord>, Fault> {
    let mut select = transaction.prepare_cached(sql)?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let body = row.get_ref(4)?.as_blob().map_err(Fault::corrupt)?;
        records.push(StoredRecord {
            shard: shard_of_code(row.get(0)?)?,
            lsn: unsigned(row.get(1)?)?,
            index: unsigned32(row.get(2)?)?,
            record: decoded(transaction, row.get(3)?, body)?,
        });
    }
    Ok(records)
}

/// A record out of its two parts.
pub(super) fn decoded(transaction: &Transaction<'_>, tariff: i64, body: &[u8]) -> Result<ChargeRecord, Fault> {
    let mut select = transaction.prepare_cached("SELECT body FROM tariffs WHERE no = ?1")?;
    let tariff: Vec<u8> = select.query_row([tariff], |row| row.get(0))?;
    rmp_serde::from_slice(&[body, &tariff].concat()).map_err(Fault::corrupt)
}
