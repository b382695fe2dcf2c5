//! The tables of charge records, and every statement on them, prepared once.
//!
//! A generation has tables of its own, with its number in their names: it is dropped without reading it, and what is
//! late for it harms no other.

use crate::schema::change;
use scylla::client::session::Session;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use std::time::Duration;

/// A page is a few hundred rows: whoever waits for one is told sooner that it does not come.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The tables that all generations share; `%k` is the keyspace.
pub(super) const SHARED: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS %k.record_generations (part int PRIMARY KEY, served bigint, fresh bigint, \
     former bigint, last bigint, builder text)",
    "CREATE TABLE IF NOT EXISTS %k.record_cursors (generation bigint, shard int, upto_lsn bigint, records bigint, \
     PRIMARY KEY (generation, shard))",
    "CREATE TABLE IF NOT EXISTS %k.record_cities (generation bigint, tenant text, city text, \
     PRIMARY KEY (generation, tenant, city))",
];

/// A list of records: newest first, of one city, charger or account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    City,
    Charger,
    Account,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::City, Self::Charger, Self::Account];

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::City => "city",
            Self::Charger => "charger",
            Self::Account => "account",
        }
    }
}

/// Names of a generation's tables.
struct Names {
    keyspace: String,
    number: i64,
}

impl Names {
    fn table(&self, what: &str) -> String {
        format!("{}.records_{}_{what}", self.keyspace, self.number)
    }

    fn list(&self, kind: Kind) -> String {
        self.table(&format!("by_{}", kind.code()))
    }

    /// Each table with its columns.
    fn tables(&self) -> Vec<(String, String)> {
        let mut tables = vec![
            (
                self.table("by_session"),
                "(session text PRIMARY KEY, shard int, lsn bigint, idx int, record blob)".to_owned(),
            ),
            (
                self.table("by_place"),
                "(shard int, part bigint, lsn bigint, idx int, session text, PRIMARY KEY ((shard, part), lsn, idx))"
                    .to_owned(),
            ),
            (
                self.table("buckets"),
                "(kind text, name text, month text, bucket bigint, PRIMARY KEY ((kind, name), month, bucket)) \
                 WITH CLUSTERING ORDER BY (month DESC, bucket DESC)"
                    .to_owned(),
            ),
        ];
        tables.extend(Kind::ALL.map(|kind| {
            let name = kind.code();
            let columns = format!(
                "({name} text, month text, bucket bigint, ended_at bigint, ord bigint, session text, shard int, \
                 lsn bigint, idx int, record blob, PRIMARY KEY (({name}, month, bucket), ended_at, ord, session)) \
                 WITH CLUSTERING ORDER BY (ended_at DESC, ord DESC, session DESC)"
            );
            (self.list(kind), columns)
        }));
        tables
    }
}

/// Makes the tables of a generation where they are not there.
pub(super) async fn create(session: &Session, keyspace: &str, number: i64) -> Result<(), ExecutionError> {
    for (table, columns) in (Names { keyspace: keyspace.to_owned(), number }).tables() {
        change(session, format!("CREATE TABLE IF NOT EXISTS {table} {columns}")).await?;
    }
    Ok(())
}

/// Drops what there is of a generation.
pub(super) async fn drop_all(session: &Session, keyspace: &str, number: i64) -> Result<(), ExecutionError> {
    for (table, _) in (Names { keyspace: keyspace.to_owned(), number }).tables() {
        change(session, format!("DROP TABLE IF EXISTS {table}")).await?;
    }
    Ok(())
}

/// The statements on one generation's tables.
pub(super) struct Tables {
    pub(super) number: i64,
    pub(super) put_session: PreparedStatement,
    pub(super) session: PreparedStatement,
    pub(super) put_place: PreparedStatement,
    pub(super) places: PreparedStatement,
    pub(super) put_bucket: PreparedStatement,
    /// Of months before one, newest first.
    pub(super) buckets: PreparedStatement,
    /// All of one month.
    pub(super) buckets_of_month: PreparedStatement,
    lists: [List; 3],
}

/// The statements on the table of a kind of list.
pub(super) struct List {
    pub(super) put: PreparedStatement,
    pub(super) rows: PreparedStatement,
}

impl Tables {
    pub(super) async fn prepare(session: &Session, keyspace: &str, number: i64) -> Result<Self, PrepareError> {
        let names = Names { keyspace: keyspace.to_owned(), number };
        let prepare = async |cql: String| idempotent(session, cql).await;
        let list = async |kind: Kind| {
            let (table, name) = (names.list(kind), kind.code());
            let put = format!(
                "INSERT INTO {table} ({name}, month, bucket, ended_at, ord, session, shard, lsn, idx, record) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            );
            let rows = format!(
                "SELECT ended_at, ord, shard, lsn, idx, record FROM {table} \
                 WHERE {name} = ? AND month = ? AND bucket = ? AND (ended_at, ord) >= (?, ?) AND (ended_at, ord) < (?, ?) \
                 LIMIT ?"
            );
            Ok::<_, PrepareError>(List { put: prepare(put).await?, rows: prepare(rows).await? })
        };
        let (sessions, places, buckets) = (names.table("by_session"), names.table("by_place"), names.table("buckets"));
        let buckets_where = format!("SELECT month, bucket FROM {buckets} WHERE kind = ? AND name = ? AND month");
        Ok(Self {
            number,
            put_session: prepare(format!(
                "INSERT INTO {sessions} (session, shard, lsn, idx, record) VALUES (?, ?, ?, ?, ?)"
            ))
            .await?,
            session: prepare(format!("SELECT shard, lsn, idx, record FROM {sessions} WHERE session = ?")).await?,
            put_place: prepare(format!("INSERT INTO {places} (shard, part, lsn, idx, session) VALUES (?, ?, ?, ?, ?)"))
                .await?,
            places: prepare(format!(
                "SELECT lsn, idx, session FROM {places} WHERE shard = ? AND part = ? AND lsn >= ? AND lsn <= ?"
            ))
            .await?,
            put_bucket: prepare(format!("INSERT INTO {buckets} (kind, name, month, bucket) VALUES (?, ?, ?, ?)"))
                .await?,
            buckets: prepare(format!("{buckets_where} < ? LIMIT ?")).await?,
            buckets_of_month: prepare(format!("{buckets_where} = ?")).await?,
            lists: [list(Kind::City).await?, list(Kind::Charger).await?, list(Kind::Account).await?],
        })
    }

    pub(super) fn list(&self, kind: Kind) -> &List {
        let [city, charger, account] = &self.lists;
        match kind {
            Kind::City => city,
            Kind::Charger => charger,
            Kind::Account => account,
        }
    }
}

/// The statements on what all generations share.
pub(super) struct Shared {
    /// Which generations there are, as whoever decides must see it.
    pub(super) generations: PreparedStatement,
    /// Whatever was answered is seen, and nothing is held up.
    pub(super) served: PreparedStatement,
    pub(super) first: PreparedStatement,
    pub(super) begin: PreparedStatement,
    pub(super) publish: PreparedStatement,
    pub(super) discard: PreparedStatement,
    pub(super) forget: PreparedStatement,
    pub(super) put_cursor: PreparedStatement,
    pub(super) cursor: PreparedStatement,
    pub(super) cursors: PreparedStatement,
    pub(super) drop_cursors: PreparedStatement,
    pub(super) put_city: PreparedStatement,
    pub(super) cities: PreparedStatement,
    pub(super) cities_of: PreparedStatement,
    pub(super) drop_cities: PreparedStatement,
}

impl Shared {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, PrepareError> {
        let generations = format!("{keyspace}.record_generations");
        let (cursors, cities) = (format!("{keyspace}.record_cursors"), format!("{keyspace}.record_cities"));
        let prepare = async |cql: String| idempotent(session, cql).await;
        let conditional = async |cql: &str| session.prepare(format!("{cql} IF served = ? AND last = ?")).await;
        let mut serial =
            prepare(format!("SELECT served, fresh, former, last, builder FROM {generations} WHERE part = 0")).await?;
        serial.set_consistency(Consistency::Serial);
        let first = format!("INSERT INTO {generations} (part, served, last) VALUES (0, 1, 1) IF NOT EXISTS");
        let of_part = "WHERE part = 0";
        let update = |set: &str| format!("UPDATE {generations} SET {set} {of_part}");
        Ok(Self {
            generations: serial,
            served: prepare(format!("SELECT served FROM {generations} {of_part}")).await?,
            first: session.prepare(first).await?,
            begin: conditional(&update("fresh = ?, last = ?, builder = ?")).await?,
            publish: session
                .prepare(format!("{} IF served = ? AND fresh = ?", update("served = ?, fresh = null, former = ?")))
                .await?,
            discard: session.prepare(format!("{} IF fresh = ?", update("fresh = null"))).await?,
            forget: session.prepare(format!("{} IF former = ?", update("former = null"))).await?,
            put_cursor: prepare(format!(
                "INSERT INTO {cursors} (generation, shard, upto_lsn, records) VALUES (?, ?, ?, ?)"
            ))
            .await?,
            cursor: prepare(format!("SELECT upto_lsn, records FROM {cursors} WHERE generation = ? AND shard = ?"))
                .await?,
            cursors: prepare(format!("SELECT shard, upto_lsn, records FROM {cursors} WHERE generation = ?")).await?,
            drop_cursors: prepare(format!("DELETE FROM {cursors} WHERE generation = ?")).await?,
            put_city: prepare(format!("INSERT INTO {cities} (generation, tenant, city) VALUES (?, ?, ?)")).await?,
            cities: prepare(format!("SELECT tenant, city FROM {cities} WHERE generation = ?")).await?,
            cities_of: prepare(format!("SELECT tenant, city FROM {cities} WHERE generation = ? AND tenant = ?"))
                .await?,
            drop_cities: prepare(format!("DELETE FROM {cities} WHERE generation = ?")).await?,
        })
    }
}

/// A statement that may be done twice, so that the driver may ask another node.
async fn idempotent(session: &Session, cql: String) -> Result<PreparedStatement, PrepareError> {
    let mut statement = session.prepare(cql).await?;
    statement.set_is_idempotent(true);
    statement.set_request_timeout(Some(READ_TIMEOUT));
    Ok(statement)
}
