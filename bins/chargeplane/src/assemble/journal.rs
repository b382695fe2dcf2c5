//! The journal that the configuration names.

use super::password_of;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_cluster::journal::Journal;
use chargeplane_cql::{ConnectError, CqlJournal, CqlOptions, Replication, SegmentLimits};
use chargeplane_redis::{RedisJournal, RedisOptions};
use chargeplane_sqlite::SqliteJournal;
use std::sync::Arc;

/// A journal, and what an acknowledgement of it stands on.
pub struct Opened {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// In words.
    pub durability: String,
}

/// Connects to the journal of `journal.backend`, or takes the data directory's, and says what durability there is.
pub async fn journal(config: &Config, sqlite: SqliteJournal) -> Result<Opened, Failure> {
    let backend = config.journal.backend.as_str();
    if backend != "sqlite" {
        refuse_other_books(&sqlite, backend).await?;
    }
    match remote(config, Access::Serve).await? {
        Some(opened) => Ok(opened),
        None => {
            let durability =
                "a file of the data directory, synced before a commit is acknowledged; one copy, on one disk"
                    .to_owned();
            tracing::info!(%durability, "the journal");
            Ok(Opened { journal: Arc::new(sqlite), durability })
        }
    }
}

/// What is wanted of a journal that is not in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To write to it: it is made where it is not there.
    Serve,
    /// To read what is there. Nothing is made.
    Read,
}

/// Connects to the journal of `journal.backend`; none when it is the data directory's.
pub async fn remote(config: &Config, access: Access) -> Result<Option<Opened>, Failure> {
    match config.journal.backend.as_str() {
        "cql" => {
            let options = cql_options(config)?;
            let journal = match access {
                Access::Serve => CqlJournal::connect(&options).await,
                Access::Read => CqlJournal::find(&options).await,
            };
            let journal = journal.map_err(cql_failure)?;
            let durability = journal.durability();
            if durability.is_synced() {
                tracing::info!(%durability, "the journal");
            } else {
                tracing::warn!(%durability, "the journal");
            }
            Ok(Some(Opened { durability: durability.to_string(), journal: Arc::new(journal) }))
        }
        "redis" => {
            let journal = RedisJournal::connect(redis_options(config)?).await;
            let journal = journal.map_err(|e| Failure::new(Code::Store, format!("the journal: {e}")))?;
            let durability = journal.durability().to_string();
            tracing::info!(%durability, "the journal");
            Ok(Some(Opened { journal: Arc::new(journal), durability }))
        }
        _ => Ok(None),
    }
}

/// Where the journal of a configuration is, for people.
pub fn place(config: &Config) -> String {
    let journal = &config.journal;
    match journal.backend.as_str() {
        "cql" => format!("journal.cql_keyspace `{}` at {}", journal.cql_keyspace, journal.cql_nodes.join(", ")),
        "redis" => format!("Redis under journal.redis_prefix `{}`", journal.redis_prefix),
        _ => format!("{}/journal.sqlite", config.node.data_dir),
    }
}

/// A data directory with books of its own must not be served with others: accounts would be empty, and what was made
/// of the former journal would not fit.
async fn refuse_other_books(sqlite: &SqliteJournal, backend: &str) -> Result<(), Failure> {
    let heads = sqlite.heads().await.map_err(|e| Failure::new(Code::Store, e.to_string()))?;
    if heads.iter().all(|head| head.last_lsn == 0) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "journal.backend is `{backend}`, and the data directory has books of its own in journal.sqlite; give a new \
         data directory, or go back to `sqlite`"
    )))
}

fn redis_options(config: &Config) -> Result<RedisOptions, Failure> {
    let journal = &config.journal;
    let wrong = |error: chargeplane_redis::StartError| Failure::usage(format!("journal: {error}"));
    let mut options = RedisOptions::new(&journal.redis_url)
        .map_err(wrong)?
        .prefix(&journal.redis_prefix)
        .map_err(wrong)?
        .replicas(u32::try_from(journal.redis_replicas).unwrap_or(u32::MAX))
        .unverified(journal.redis_durability_check == "skipped");
    if !journal.redis_password_file.is_empty() {
        options = options.password(&password_of("journal.redis_password_file", &journal.redis_password_file)?);
    }
    if !journal.redis_ca_file.is_empty() {
        let file = &journal.redis_ca_file;
        let read = std::fs::read(file);
        options = options.ca_pem(read.map_err(|e| Failure::usage(format!("journal.redis_ca_file {file}: {e}")))?);
    }
    Ok(options)
}

pub(super) fn cql_options(config: &Config) -> Result<CqlOptions, Failure> {
    let journal = &config.journal;
    let replication = Replication::parse(&journal.cql_replication)
        .map_err(|e| Failure::usage(format!("journal.cql_replication: {e}")))?;
    let login = if journal.cql_username.is_empty() {
        None
    } else {
        let password = password_of("journal.cql_password_file", &journal.cql_password_file)?;
        Some((journal.cql_username.clone(), password))
    };
    let segment = SegmentLimits { bytes: journal.cql_segment_mib.saturating_mul(1 << 20), ..SegmentLimits::default() };
    Ok(CqlOptions {
        replication,
        login,
        segment,
        allow_unsynced: journal.cql_sync_check == "skipped",
        ..CqlOptions::new(journal.cql_nodes.clone(), &journal.cql_keyspace)
    })
}

fn cql_failure(error: ConnectError) -> Failure {
    match error {
        ConnectError::Settings(_) | ConnectError::Missing { .. } => {
            Failure::usage(format!("journal.cql_keyspace: {error}"))
        }
        _ => Failure::new(Code::Store, format!("the journal: {error}")),
    }
}
