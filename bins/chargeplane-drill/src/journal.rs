//! The node's journal in a run: which store has it, under names of this run, and how its logs come out of it.
//!
//! SQLite is a file in the node's data directory, and nothing need be done. For Redis the run starts a server of its
//! own, synced at every commit, in the run directory; in Cassandra the run has a keyspace of its own. After the load the
//! logs of these two are copied, byte for byte, into [`COPY`] by readers that know the layouts from
//! `docs/reference/storage.md` alone ([`copy`]). So the judges read files only, and a run can be judged again when the
//! server is gone and the keyspace dropped.

mod copy;
mod cql;
mod redis;
mod samples;

pub use copy::COPY;
pub use samples::SAMPLES;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which store has the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A file in the node's data directory.
    #[default]
    Sqlite,
    /// A Redis server of the run's own.
    Redis,
    /// A keyspace of the run's own in Cassandra or ScyllaDB.
    Cql,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Cql => "cql",
        })
    }
}

enum Store {
    Sqlite,
    Redis(redis::Server),
    Cql(cql::Keyspace),
}

/// Which store has the telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TelemetryBackend {
    /// Files in the node's data directory.
    #[default]
    Sqlite,
    /// A keyspace of the run's own in Cassandra or ScyllaDB, that of the journal if it has one.
    Cql,
}

impl fmt::Display for TelemetryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Cql => "cql",
        })
    }
}

/// The journal of a run, and its telemetry when that is in a keyspace. Its server or keyspace ends with it, unless it
/// is left.
pub struct Journal {
    store: Mutex<Store>,
    telemetry: Option<cql::Keyspace>,
    left: AtomicBool,
}

impl Journal {
    /// Starts or makes what the store needs.
    ///
    /// # Errors
    /// The server does not start or answer.
    pub fn start(
        backend: Backend,
        telemetry: TelemetryBackend,
        cql_node: Option<&str>,
        run_dir: &Path,
    ) -> anyhow::Result<Self> {
        // Runs may be started at once on one machine.
        let name = format!("drill_{:x}_{}", jiff::Timestamp::now().as_millisecond(), std::process::id());
        let store = match backend {
            Backend::Sqlite => Store::Sqlite,
            Backend::Redis => Store::Redis(redis::Server::start(&run_dir.join("redis"), &name)?),
            Backend::Cql => Store::Cql(cql::Keyspace::new(node_of(cql_node)?, &name)?),
        };
        let telemetry = match (telemetry, &store) {
            (TelemetryBackend::Sqlite, _) => None,
            (TelemetryBackend::Cql, Store::Cql(keyspace)) => Some(keyspace.clone()),
            (TelemetryBackend::Cql, _) => Some(cql::Keyspace::new(node_of(cql_node)?, &name)?),
        };
        Ok(Self { store: Mutex::new(store), telemetry, left: AtomicBool::new(false) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        work(&mut self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The keyspace of the run, of whatever is in it.
    fn keyspace(&self) -> Option<cql::Keyspace> {
        let of_journal = self.with(|store| match store {
            Store::Cql(keyspace) => Some(keyspace.clone()),
            Store::Sqlite | Store::Redis(_) => None,
        });
        of_journal.or_else(|| self.telemetry.clone())
    }

    /// What the node's configuration says of it.
    pub fn toml(&self) -> String {
        let journal = self.with(|store| match store {
            Store::Sqlite => String::new(),
            Store::Redis(server) => server.toml(),
            Store::Cql(keyspace) => keyspace.toml(),
        });
        let Some(keyspace) = &self.telemetry else { return journal };
        // The database is named in the journal's section, whatever the journal is in.
        let section = match self.with(|store| matches!(store, Store::Cql(_))) {
            true => journal,
            false if journal.is_empty() => format!("[journal]\n{}", keyspace.keys()),
            false => format!("{}\n{}", journal.trim_end(), keyspace.keys()),
        };
        format!("{section}\n[telemetry]\nbackend = \"cql\"\n")
    }

    /// Whether tables must be made before the node starts.
    pub fn needs_migration(&self) -> bool {
        self.telemetry.is_some()
    }

    /// Copies logs and telemetry into the run directory, when they are not in the data directory.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn copy_into(&self, run_dir: &Path) -> anyhow::Result<()> {
        if let Some(keyspace) = &self.telemetry {
            samples::copy(keyspace, &run_dir.join(SAMPLES)).context("cannot copy the telemetry out of its keyspace")?;
        }
        let file = run_dir.join(COPY);
        let copied = self.with(|store| match store {
            Store::Sqlite => Ok(()),
            Store::Redis(server) => copy::copy(&mut server.reader()?, &file),
            Store::Cql(keyspace) => copy::copy(&mut keyspace.reader()?, &file),
        });
        copied.context("cannot copy the logs out of the journal")
    }

    /// Lets it go on after this program has ended; what that is, in words.
    pub fn leave(&self) -> Option<String> {
        self.left.store(true, Ordering::Relaxed);
        let keyspace = |keyspace: &cql::Keyspace| format!("keyspace {}, which nobody else drops", keyspace.name());
        let journal = self.with(|store| match store {
            Store::Redis(server) => Some(format!("redis-server pid {}", server.pid())),
            Store::Sqlite | Store::Cql(_) => None,
        });
        let all: Vec<String> = journal.into_iter().chain(self.keyspace().as_ref().map(keyspace)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        self.with(|store| match store {
            Store::Sqlite | Store::Cql(_) => {}
            Store::Redis(server) => server.end(),
        });
        if let Some(keyspace) = self.keyspace()
            && let Err(error) = keyspace.drop_it()
        {
            println!("keyspace {} stays: {error:#}", keyspace.name());
        }
    }
}

fn node_of(cql_node: Option<&str>) -> anyhow::Result<&str> {
    cql_node.context(
        "`cql` needs a Cassandra: `./dev demo --journal cql` and `--telemetry cql` start one, or give --cql-node HOST:PORT",
    )
}

#[cfg(test)]
mod tests;
