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

pub use copy::COPY;

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

/// The journal of a run. Its server or keyspace ends with it, unless it is left.
pub struct Journal {
    store: Mutex<Store>,
    left: AtomicBool,
}

impl Journal {
    /// Starts or makes what the store needs.
    ///
    /// # Errors
    /// The server does not start or answer.
    pub fn start(backend: Backend, cql_node: Option<&str>, run_dir: &Path) -> anyhow::Result<Self> {
        // Runs may be started at once on one machine.
        let name = format!("drill_{:x}_{}", jiff::Timestamp::now().as_millisecond(), std::process::id());
        let store = match backend {
            Backend::Sqlite => Store::Sqlite,
            Backend::Redis => Store::Redis(redis::Server::start(&run_dir.join("redis"), &name)?),
            Backend::Cql => {
                let node = cql_node.context(
                    "--journal cql needs a Cassandra: `./dev demo --journal cql` starts one, or give --cql-node HOST:PORT",
                )?;
                Store::Cql(cql::Keyspace::new(node, &name)?)
            }
        };
        Ok(Self { store: Mutex::new(store), left: AtomicBool::new(false) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        work(&mut self.store.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// What the node's configuration says of it.
    pub fn toml(&self) -> String {
        self.with(|store| match store {
            Store::Sqlite => String::new(),
            Store::Redis(server) => server.toml(),
            Store::Cql(keyspace) => keyspace.toml(),
        })
    }

    /// Copies the logs into the run directory, when they are not in the data directory.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn copy_into(&self, run_dir: &Path) -> anyhow::Result<()> {
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
        self.with(|store| match store {
            Store::Sqlite => None,
            Store::Redis(server) => Some(format!("redis-server pid {}", server.pid())),
            Store::Cql(keyspace) => Some(format!("keyspace {}, which nobody else drops", keyspace.name())),
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        self.with(|store| match store {
            Store::Sqlite => {}
            Store::Redis(server) => server.end(),
            Store::Cql(keyspace) => {
                if let Err(error) = keyspace.drop_it() {
                    println!("keyspace {} stays: {error:#}", keyspace.name());
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
