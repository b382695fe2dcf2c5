//! The journals that the node under load may have, and the rows of those that are servers.
//!
//! Each is a server of this run: a Redis of its own, and the Cassandra of `./dev cassandra`, in a keyspace of its own
//! that is dropped afterwards. After the kill the books are read with the adapter's code, like those in SQLite.

use super::{HOT, Shape, measure};
use crate::redis_peer::RedisServer;
use crate::report::Report;
use anyhow::Context;
use chargeplane_cluster::journal::Journal;
use chargeplane_cql::{CqlJournal, CqlOptions};
use chargeplane_redis::{RedisJournal, RedisOptions};
use chargeplane_sqlite::{DataDir, SqliteJournal};
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::unprepared::Statement;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Callers with as many debits outstanding as the lanes of a shard take, for a journal whose commits are slow.
const DEEP: Shape = Shape { callers: 64, outstanding: 64, accounts: 1 };

/// How long a keyspace may take to be dropped.
const DROP_LIMIT: Duration = Duration::from_secs(60);

/// Where a node's books are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalAt {
    /// In the data directory.
    Sqlite,
    /// In the server of this URL.
    Redis(String),
    /// In this keyspace of this server.
    Cql { node: String, keyspace: String },
}

impl FromStr for JournalAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            None if text == "sqlite" => Ok(Self::Sqlite),
            None if text.starts_with("redis://") => Ok(Self::Redis(text.to_owned())),
            Some((node, keyspace)) => Ok(Self::Cql { node: node.to_owned(), keyspace: keyspace.to_owned() }),
            None => Err("write `sqlite`, a redis:// URL, or `host:port,keyspace`".to_owned()),
        }
    }
}

impl fmt::Display for JournalAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::Redis(url) => f.write_str(url),
            Self::Cql { node, keyspace } => write!(f, "{node},{keyspace}"),
        }
    }
}

impl JournalAt {
    /// The journal; `sqlite` is the data directory's.
    pub async fn connect(&self, sqlite: SqliteJournal) -> anyhow::Result<Arc<dyn Journal>> {
        Ok(match self {
            Self::Sqlite => Arc::new(sqlite),
            Self::Redis(url) => Arc::new(RedisJournal::connect(RedisOptions::new(url)?).await?),
            Self::Cql { node, keyspace } => {
                Arc::new(CqlJournal::connect(&CqlOptions::new(vec![node.clone()], keyspace)).await?)
            }
        })
    }

    /// The same, of a data directory that no node uses.
    pub async fn open(&self, data: &Path) -> anyhow::Result<Arc<dyn Journal>> {
        self.connect(SqliteJournal::open(&DataDir::lock(data)?)?).await
    }
}

/// `redis_journal_debits_per_s`: a node whose journal is the Redis adapter, on a server that syncs every write.
pub fn redis(dir: &Path, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
    let server = RedisServer::start(dir, "always")?;
    let found = measure(dir, HOT, &JournalAt::Redis(server.url()), seconds, report)?;
    report.result("redis_journal_debits_per_s", found.debits_per_s);
    report.result("redis_journal_ack_ms_p99", found.ack_ms_p99);
    Ok(())
}

/// `cql_journal_debits_per_s`: a node whose journal is the CQL adapter, on a real Cassandra on the same cores.
pub fn cql(dir: &Path, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
    let server = match Cassandra::find() {
        Ok(server) => server,
        Err(why) => {
            report.missing("cql_journal_debits_per_s", &format!("there is no Cassandra: {why:#}"));
            return Ok(());
        }
    };
    for (shape, suffix) in [(HOT, ""), (DEEP, "_64x64")] {
        let keyspace = format!("bench_{}_{}", std::process::id(), shape.outstanding);
        let journal = JournalAt::Cql { node: server.address.clone(), keyspace: keyspace.clone() };
        let found = measure(dir, shape, &journal, seconds, report);
        let dropped = server.drop_keyspace(&keyspace);
        let found = found?;
        dropped?;
        report.result(&format!("cql_journal_debits_per_s{suffix}"), found.debits_per_s);
        report.result(&format!("cql_journal_ack_ms_p99{suffix}"), found.ack_ms_p99);
    }
    Ok(())
}

/// The server of `./dev cassandra`. It runs only while its rows are measured, unless it ran before.
struct Cassandra {
    address: String,
    stop: bool,
}

impl Cassandra {
    /// The one that `CHARGEPLANE_CQL` names, or that of `./dev`, started when it does not run.
    fn find() -> anyhow::Result<Self> {
        if let Ok(address) = std::env::var("CHARGEPLANE_CQL") {
            return Ok(Self { address, stop: false });
        }
        let runs = Command::new("./dev").args(["cassandra", "status"]).output().context("./dev")?.status.success();
        let output = Command::new("./dev").args(["cassandra", "start"]).output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        anyhow::ensure!(output.status.success(), "{}", text.lines().last().unwrap_or("./dev cassandra start fails"));
        let address = text.split_whitespace().rfind(|word| word.starts_with("127.0.0.1:"));
        let address = address.context("./dev cassandra start does not say where")?.to_owned();
        Ok(Self { address, stop: !runs })
    }

    fn drop_keyspace(&self, keyspace: &str) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let session = SessionBuilder::new().known_node(&self.address).fetch_schema_metadata(false).build().await?;
            let mut statement = Statement::new(format!("DROP KEYSPACE IF EXISTS {keyspace}"));
            statement.set_request_timeout(Some(DROP_LIMIT));
            session.query_unpaged(statement, ()).await?;
            Ok(())
        })
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        if self.stop {
            // It is kept by nobody then; the next test run stops or uses it.
            let _ = Command::new("./dev").args(["cassandra", "stop"]).output();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_named_on_the_command_line() {
        let cql = JournalAt::Cql { node: "127.0.0.1:9042".into(), keyspace: "k".into() };
        for journal in [JournalAt::Sqlite, JournalAt::Redis("redis://127.0.0.1:1/".into()), cql] {
            assert_eq!(journal.to_string().parse(), Ok(journal));
        }
        assert!("mysql".parse::<JournalAt>().is_err());
    }
}
