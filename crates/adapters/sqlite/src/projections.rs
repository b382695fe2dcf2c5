//! Read models in one SQLite file: charge records and account statements, each shard's behind a cursor.
//!
//! They are made from the journal and can be thrown away: delete the file and they are built again. So their
//! commits are not synced one by one; a power cut undoes the last ones whole, cursor included, and they are
//! projected again.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, parsed, unsigned, unsigned32};
use crate::fault::Fault;
use chargeplane_actors::ports::{LedgerEntry, ProjectionBatch, Projections, RecordQuery, StoreError, StoredRecord};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::{Money, Timestamp};
use rusqlite::{Row, Transaction, params};

const LAYOUT: Layout = Layout {
    file: "projections.sqlite",
    steps: &["
        CREATE TABLE cursors(
            shard TEXT NOT NULL,
            upto_lsn INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX cursors_by_shard ON cursors(shard);
        CREATE TABLE charge_records(
            session TEXT NOT NULL,
            shard TEXT NOT NULL,
            lsn INTEGER NOT NULL,
            charger TEXT NOT NULL,
            account TEXT NOT NULL,
            ended_at INTEGER NOT NULL,
            record TEXT NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX records_by_session ON charge_records(session);
        CREATE INDEX records_by_end ON charge_records(ended_at, session);
        CREATE INDEX records_by_charger ON charge_records(charger, ended_at, session);
        CREATE INDEX records_by_account ON charge_records(account, ended_at, session);
        CREATE TABLE ledger_entries(
            shard TEXT NOT NULL,
            lsn INTEGER NOT NULL,
            idx INTEGER NOT NULL,
            account TEXT NOT NULL,
            kind TEXT NOT NULL,
            amount INTEGER NOT NULL,
            balance INTEGER NOT NULL,
            session TEXT,
            key TEXT,
            at INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX entries_by_place ON ledger_entries(shard, lsn, idx);
        CREATE INDEX entries_by_account ON ledger_entries(account, lsn, idx);
    "],
    page_size: 4_096,
    sync: Sync::Normal,
};

/// Threads that read.
const READERS: usize = 2;

/// Projections in `projections.sqlite`.
pub struct SqliteProjections {
    database: Database,
}

impl SqliteProjections {
    /// Opens the projections of a data directory and starts their threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self { database: Database::open(dir, &LAYOUT, READERS)? })
    }
}

impl Projections for SqliteProjections {
    fn cursors(&self) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>> {
        Box::pin(async move { Ok(self.database.read(cursors).await?) })
    }

    fn apply(&self, batch: ProjectionBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { Ok(self.database.write(move |transaction| apply(transaction, &batch)).await?) })
    }

    fn records(&self, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        Box::pin(async move { Ok(self.database.read(move |transaction| records(transaction, &query)).await?) })
    }

    fn statement(
        &self,
        account: AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<LedgerEntry>, StoreError>> {
        let read = move |transaction: &Transaction<'_>| statement(transaction, &account, after, limit);
        Box::pin(async move { Ok(self.database.read(read).await?) })
    }

    fn counts(&self) -> BoxFuture<'_, Result<(u64, u64), StoreError>> {
        Box::pin(async move { Ok(self.database.read(counts).await?) })
    }
}

fn apply(transaction: &Transaction<'_>, batch: &ProjectionBatch) -> Result<(), Fault> {
    batch.records.iter().try_for_each(|record| put_record(transaction, record))?;
    batch.entries.iter().try_for_each(|entry| put_entry(transaction, entry))?;
    transaction.execute(
        "INSERT INTO cursors(shard, upto_lsn) VALUES(?1, ?2)
         ON CONFLICT(shard) DO UPDATE SET upto_lsn = max(upto_lsn, excluded.upto_lsn)",
        params![batch.shard.to_string(), ordered(batch.upto_lsn)],
    )?;
    Ok(())
}

fn put_record(transaction: &Transaction<'_>, stored: &StoredRecord) -> Result<(), Fault> {
    let record = &stored.record;
    let document = serde_json::to_string(record).map_err(Fault::corrupt)?;
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO charge_records(session, shard, lsn, charger, account, ended_at, record)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT(session) DO UPDATE SET
             shard = excluded.shard, lsn = excluded.lsn, charger = excluded.charger,
             account = excluded.account, ended_at = excluded.ended_at, record = excluded.record",
    )?;
    upsert.execute(params![
        record.session.as_str(),
        stored.shard.to_string(),
        ordered(stored.lsn),
        record.charger.as_str(),
        record.account.as_str(),
        record.ended_at.0,
        document
    ])?;
    Ok(())
}

/// The balance is the one after the account's entry before, plus the amount: entries come in the order of the
/// log, so it runs, and an entry that comes again gets the balance it had.
fn put_entry(transaction: &Transaction<'_>, entry: &LedgerEntry) -> Result<(), Fault> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO ledger_entries(shard, lsn, idx, account, kind, amount, balance, session, key, at)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6,
             COALESCE((SELECT balance FROM ledger_entries WHERE account = ?4 AND (lsn, idx) < (?2, ?3)
                 ORDER BY lsn DESC, idx DESC LIMIT 1), 0) + ?6,
             ?7, ?8, ?9)
         ON CONFLICT(shard, lsn, idx) DO UPDATE SET
             account = excluded.account, kind = excluded.kind, amount = excluded.amount,
             balance = excluded.balance, session = excluded.session, key = excluded.key, at = excluded.at",
    )?;
    upsert.execute(params![
        entry.shard.to_string(),
        ordered(entry.lsn),
        entry.index,
        entry.account.as_str(),
        entry.kind,
        entry.amount.0,
        entry.session.as_ref().map(|session| session.as_str()),
        entry.key,
        entry.at.0
    ])?;
    Ok(())
}

fn cursors(transaction: &Transaction<'_>) -> Result<Vec<(ShardId, u64)>, Fault> {
    let mut select = transaction.prepare_cached("SELECT shard, upto_lsn FROM cursors")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let cursor = |(shard, lsn): (String, i64)| Ok((parsed(&shard)?, unsigned(lsn)?));
    let mut cursors = rows.map(|row| cursor(row?)).collect::<Result<Vec<_>, Fault>>()?;
    cursors.sort_unstable();
    Ok(cursors)
}

fn records(transaction: &Transaction<'_>, query: &RecordQuery) -> Result<Vec<StoredRecord>, Fault> {
    // Only the conditions that are asked for, so that the index that serves them is found.
    let session = query.session.as_ref().map(|id| id.as_str());
    let charger = query.charger.as_ref().map(|id| id.as_str());
    let account = query.account.as_ref().map(|id| id.as_str());
    let mut sql = "SELECT shard, lsn, record FROM charge_records WHERE TRUE".to_owned();
    let mut values: Vec<&dyn rusqlite::ToSql> = Vec::new();
    for (column, value) in [("session", &session), ("charger", &charger), ("account", &account)] {
        if value.is_some() {
            values.push(value);
            sql.push_str(&format!(" AND {column} = ?{}", values.len()));
        }
    }
    let after = query.after.as_ref().map(|(at, session)| (at.0, session.as_str()));
    if let Some((at, session)) = &after {
        values.push(at);
        values.push(session);
        sql.push_str(&format!(" AND (ended_at, session) < (?{}, ?{})", values.len() - 1, values.len()));
    }
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    values.push(&limit);
    sql.push_str(&format!(" ORDER BY ended_at DESC, session DESC LIMIT ?{}", values.len()));
    let mut select = transaction.prepare_cached(&sql)?;
    type Fields = (String, i64, String);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let rows = select.query_map(&values[..], fields)?;
    let record = |(shard, lsn, record): Fields| {
        let record = serde_json::from_str(&record).map_err(Fault::corrupt)?;
        Ok(StoredRecord { shard: parsed(&shard)?, lsn: unsigned(lsn)?, record })
    };
    rows.map(|row| record(row?)).collect()
}

fn statement(
    transaction: &Transaction<'_>,
    account: &AccountId,
    after: (u64, u32),
    limit: usize,
) -> Result<Vec<LedgerEntry>, Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT shard, lsn, idx, kind, amount, balance, session, key, at FROM ledger_entries
         WHERE account = ?1 AND (lsn, idx) > (?2, ?3) ORDER BY lsn, idx LIMIT ?4",
    )?;
    type Fields = (String, i64, i64, String, i64, i64, Option<String>, Option<String>, i64);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> {
        let (shard, lsn, idx, kind) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((shard, lsn, idx, kind, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?))
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map(params![account.as_str(), ordered(after.0), after.1, limit], fields)?;
    let entry = |(shard, lsn, idx, kind, amount, balance, session, key, at): Fields| {
        Ok(LedgerEntry {
            shard: parsed(&shard)?,
            lsn: unsigned(lsn)?,
            index: unsigned32(idx)?,
            account: account.clone(),
            kind,
            amount: Money(amount),
            balance: Money(balance),
            session: session.as_deref().map(parsed).transpose()?,
            key,
            at: Timestamp(at),
        })
    };
    rows.map(|row| entry(row?)).collect()
}

fn counts(transaction: &Transaction<'_>) -> Result<(u64, u64), Fault> {
    let count = |sql| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let records = count("SELECT count(*) FROM charge_records")?;
    let entries = count("SELECT count(*) FROM ledger_entries")?;
    Ok((unsigned(records)?, unsigned(entries)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::ids::ConnectorNo;
    use chargeplane_domain::placement::Family;
    use chargeplane_domain::session::{ChargeRecord, StopReason};
    use chargeplane_domain::units::{Currency, WattHours};

    const SHARD: ShardId = ShardId { family: Family::Station, index: 2 };

    fn open() -> (tempfile::TempDir, SqliteProjections) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = SqliteProjections::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
        (dir, store)
    }

    fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().expect("an id")
    }

    fn record(n: u64, charger: &str, account: &str, ended_at: i64) -> StoredRecord {
        let record = ChargeRecord {
            session: id(&format!("{charger}.{n}")),
            account: id(account),
            station: id("s1"),
            charger: id(charger),
            connector: ConnectorNo(1),
            operator: id("op"),
            city: "Suzhou".to_owned(),
            started_at: Timestamp(ended_at - 10),
            ended_at: Timestamp(ended_at),
            meter_start: WattHours(5),
            meter_stop: WattHours(15),
            energy: WattHours(10),
            billed_wh: WattHours(10),
            overshoot_wh: WattHours(0),
            by_period: [WattHours(10), WattHours(0), WattHours(0), WattHours(0)],
            energy_amount: Money(7),
            service_amount: Money(3),
            total: Money(10),
            billed: Money(10),
            overshoot: Money(0),
            currency: Currency::new("CNY").expect("a currency"),
            stop_reason: StopReason::Driver,
        };
        StoredRecord { shard: SHARD, lsn: n, record }
    }

    fn entry(lsn: u64, index: u32, account: &str) -> LedgerEntry {
        LedgerEntry {
            shard: ShardId { family: Family::Account, index: 1 },
            lsn,
            index,
            account: id(account),
            kind: "debited".to_owned(),
            amount: Money(-5),
            balance: Money(i64::MIN),
            session: (index > 0).then(|| id("c1.1")),
            key: (index == 0).then(|| "k'1".to_owned()),
            at: Timestamp(9),
        }
    }

    fn batch(upto_lsn: u64, records: Vec<StoredRecord>, entries: Vec<LedgerEntry>) -> ProjectionBatch {
        ProjectionBatch { shard: SHARD, upto_lsn, records, entries }
    }

    #[tokio::test]
    async fn a_batch_again_changes_nothing_and_cursors_move_forward_only() {
        let (_dir, store) = open();
        let first = batch(9, vec![record(1, "c1", "a1", 50)], vec![entry(3, 0, "a1"), entry(3, 1, "a1")]);
        for _ in 0..2 {
            store.apply(first.clone()).await.expect("applies");
        }
        store.apply(batch(4, vec![], vec![])).await.expect("applies");
        assert_eq!(store.cursors().await, Ok(vec![(SHARD, 9)]));
        assert_eq!(store.counts().await, Ok((1, 2)));
        assert_eq!(store.records(RecordQuery { limit: 5, ..RecordQuery::default() }).await, Ok(first.records));
    }

    #[tokio::test]
    async fn records_are_paged_newest_first_and_filtered() {
        let (_dir, store) = open();
        let records: Vec<_> = (1..=5).map(|n| record(n, if n % 2 == 0 { "c2" } else { "c1" }, "a1", 100)).collect();
        let other = record(9, "c1", "a2", 50);
        store.apply(batch(1, [records.clone(), vec![other.clone()]].concat(), vec![])).await.expect("applies");
        let page = |after, limit| store.records(RecordQuery { after, limit, ..RecordQuery::default() });
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let more = page(after, 2).await.expect("reads");
            assert!(more.len() <= 2);
            let Some(last) = more.last() else { break };
            after = Some((last.record.ended_at, last.record.session.clone()));
            seen.extend(more);
        }
        assert_eq!(seen.len(), 6, "each once, also those that ended together");
        assert_eq!(seen.last(), Some(&other), "the oldest last");
        let only = |query| store.records(RecordQuery { limit: 10, ..query });
        let of_c2 = only(RecordQuery { charger: Some(id("c2")), ..RecordQuery::default() }).await.expect("reads");
        assert_eq!(of_c2, [records[3].clone(), records[1].clone()]);
        let both = RecordQuery { charger: Some(id("c1")), account: Some(id("a2")), ..RecordQuery::default() };
        assert_eq!(only(both).await, Ok(vec![other]));
        let one = RecordQuery { session: Some(id("c1.3")), ..RecordQuery::default() };
        assert_eq!(only(one).await, Ok(vec![records[2].clone()]));
    }

    #[tokio::test]
    async fn a_statement_is_an_account_s_entries_in_the_log_s_order() {
        let (_dir, store) = open();
        let entries =
            vec![entry(3, 0, "a1"), entry(3, 1, "a1"), entry(4, 0, "a2"), entry(7, 0, "a1"), entry(12, 0, "a1")];
        for _ in 0..2 {
            store.apply(batch(12, vec![], entries.clone())).await.expect("applies");
        }
        let places = |lines: Vec<LedgerEntry>| -> Vec<_> {
            lines.iter().map(|line| (line.lsn, line.index, line.balance.0)).collect()
        };
        let first = store.statement(id("a1"), (0, 0), 3).await.expect("reads");
        assert_eq!(first[1].session, entries[1].session);
        assert_eq!(places(first), [(3, 0, -5), (3, 1, -10), (7, 0, -15)], "a running balance, its own account's");
        let rest = store.statement(id("a1"), (7, 0), 3).await.expect("reads");
        assert_eq!(places(rest), [(12, 0, -20)]);
    }

    #[tokio::test]
    async fn filters_use_their_indexes() {
        let (dir, _store) = open();
        let connection = rusqlite::Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
        for (sql, index) in [
            ("charge_records WHERE charger = 'c' ORDER BY ended_at DESC, session DESC LIMIT 9", "records_by_charger"),
            ("charge_records WHERE account = 'a' ORDER BY ended_at DESC, session DESC LIMIT 9", "records_by_account"),
            (
                "charge_records WHERE (ended_at, session) < (1, 'x') ORDER BY ended_at DESC, session DESC",
                "records_by_end",
            ),
            ("ledger_entries WHERE account = 'a' AND (lsn, idx) > (1, 2) ORDER BY lsn, idx", "entries_by_account"),
        ] {
            let explain = format!("EXPLAIN QUERY PLAN SELECT * FROM {sql}");
            let mut statement = connection.prepare(&explain).expect("prepares");
            let rows = statement.query_map([], |row| row.get::<_, String>(3)).expect("explains");
            let plan: Vec<_> = rows.map(|row| row.expect("a row")).collect();
            assert!(plan.len() == 1 && plan[0].contains(index), "{sql}: {plan:?}");
        }
    }
}
