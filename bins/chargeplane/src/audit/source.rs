//! The store as an audit reads it: the SQLite files of a data directory by the layout of `docs/reference/storage.md`
//! alone, beside whoever has them open; a CQL database through its adapter.

use super::account::StoredChunk;
use crate::assemble;
use crate::config::Config;
use crate::exit::{Code, Failure};
use chargeplane_actors::ports::{ChunkQuery, StoreError, TelemetryStore};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::sample::{Gap, GapReason};
use chargeplane_domain::units::Timestamp;
use rusqlite::{Connection as Database, OpenFlags, params};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// An open store.
pub(super) struct Source {
    store: Store,
    data_dir: PathBuf,
}

enum Store {
    /// A file of chunks a day, and the one of the gaps.
    Sqlite {
        days: Vec<Database>,
        gaps: Database,
    },
    Remote(Runtime, Arc<dyn TelemetryStore>),
}

fn unreadable(what: impl Display) -> Failure {
    Failure::new(Code::Store, format!("the telemetry cannot be read: {what}"))
}

/// Opens a file for reading; a node may have it open as well.
fn open(path: &Path) -> Result<Database, Failure> {
    let fail = |e: &dyn Display| {
        Failure::usage(format!("cannot read {}: {e}; give the node's data directory with --data-dir", path.display()))
    };
    if !path.is_file() {
        return Err(fail(&"there is no such file"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Database::open_with_flags(path, flags).map_err(|e| fail(&e))?;
    database.busy_timeout(std::time::Duration::from_secs(30)).map_err(|e| fail(&e))?;
    // One view for the whole audit, whatever is written meanwhile.
    database.execute_batch("BEGIN").map_err(|e| fail(&e))?;
    Ok(database)
}

impl Source {
    /// Opens the store that a configuration names.
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let data_dir = PathBuf::from(&config.node.data_dir);
        if config.telemetry.backend != "cql" {
            return Self::files(data_dir);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| Failure::internal(format!("the runtime cannot start: {e}")))?;
        let store = runtime.block_on(assemble::telemetry::remote(config))?;
        let store = store.ok_or_else(|| Failure::internal("telemetry.backend names no store"))?;
        Ok(Self { store: Store::Remote(runtime, store), data_dir })
    }

    /// The files of a data directory.
    pub(super) fn files(data_dir: PathBuf) -> Result<Self, Failure> {
        // The gaps first: what is declared after they were read may be counted as open, never as twice there.
        let gaps = open(&data_dir.join("telemetry.sqlite"))?;
        let fail = |e: std::io::Error| Failure::usage(format!("cannot read {}: {e}", data_dir.display()));
        let mut days = Vec::new();
        for entry in std::fs::read_dir(&data_dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("telemetry-") && name.ends_with(".sqlite") {
                days.push(path);
            }
        }
        days.sort();
        let days = days.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
        Ok(Self { store: Store::Sqlite { days, gaps }, data_dir })
    }

    /// The gateway of each charger, by the catalogue; none where there is no catalogue.
    pub(super) fn gateways(&self) -> Result<BTreeMap<String, String>, Failure> {
        let path = self.data_dir.join("catalogue.sqlite");
        if !path.is_file() {
            return Ok(BTreeMap::new());
        }
        let database = open(&path)?;
        let text = database.query_row("SELECT document FROM catalogue", [], |row| row.get::<_, String>(0));
        match text {
            Ok(text) => gateways_of(&text),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(BTreeMap::new()),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Every charger of which anything is stored.
    pub(super) fn chargers(&mut self) -> Result<BTreeSet<String>, Failure> {
        match &self.store {
            Store::Sqlite { days, gaps } => {
                let mut chargers = names(gaps, "SELECT DISTINCT charger FROM gaps")?;
                for day in days {
                    chargers.extend(names(day, "SELECT charger FROM chargers")?);
                }
                Ok(chargers)
            }
            Store::Remote(runtime, store) => {
                let chargers = ask(runtime, store.chargers())?;
                Ok(chargers.into_iter().map(|charger| charger.to_string()).collect())
            }
        }
    }

    /// Every stored version of every range of a charger.
    pub(super) fn chunks(&mut self, charger: &str) -> Result<Vec<StoredChunk>, Failure> {
        match &self.store {
            Store::Sqlite { days, .. } => {
                let mut stored = Vec::new();
                for day in days {
                    let mut select = day
                        .prepare_cached(
                            "SELECT incarnation, epoch, chunk FROM chunks
                             WHERE charger = (SELECT number FROM chargers WHERE charger = ?1)",
                        )
                        .map_err(unreadable)?;
                    let row = |row: &rusqlite::Row<'_>| {
                        let epoch: i64 = row.get(1)?;
                        Ok(StoredChunk { incarnation: row.get(0)?, epoch: epoch.cast_unsigned(), bytes: row.get(2)? })
                    };
                    for row in select.query_map(params![charger], row).map_err(unreadable)? {
                        stored.push(row.map_err(unreadable)?);
                    }
                }
                Ok(stored)
            }
            Store::Remote(runtime, store) => {
                let (from, to) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
                let query = ChunkQuery { charger: id(charger)?, from, to, limit: usize::MAX };
                let rows = ask(runtime, store.chunks(query))?;
                let stored = rows.into_iter().map(|row| StoredChunk {
                    incarnation: row.incarnation,
                    epoch: row.epoch,
                    bytes: row.chunk.bytes,
                });
                Ok(stored.collect())
            }
        }
    }

    /// Declared gaps of a charger, with the enrolment that declared them.
    pub(super) fn gaps(&mut self, charger: &str) -> Result<Vec<(u32, Gap)>, Failure> {
        match &self.store {
            Store::Sqlite { gaps, .. } => {
                let mut select = gaps
                    .prepare_cached("SELECT incarnation, first, last, reason FROM gaps WHERE charger = ?1")
                    .map_err(unreadable)?;
                type Fields = (u32, i64, i64, String);
                let fields = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Fields> {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                };
                let rows = select.query_map(params![charger], fields).map_err(unreadable)?;
                let gap = |(incarnation, first, last, reason): Fields| {
                    let reason = match reason.as_str() {
                        "thinned" => GapReason::Thinned,
                        "dropped" => GapReason::Dropped,
                        "refused" => GapReason::Refused,
                        other => return Err(unreadable(format!("{charger}: a gap of reason `{other}`"))),
                    };
                    let gap = Gap { first: first.cast_unsigned(), last: last.cast_unsigned(), reason };
                    Ok((incarnation, gap))
                };
                rows.map(|row| row.map_err(unreadable).and_then(gap)).collect()
            }
            Store::Remote(runtime, store) => {
                let rows = ask(runtime, store.gaps(id(charger)?))?;
                Ok(rows.into_iter().map(|row| (row.incarnation, row.gap)).collect())
            }
        }
    }
}

fn names(database: &Database, sql: &str) -> Result<BTreeSet<String>, Failure> {
    let mut select = database.prepare(sql).map_err(unreadable)?;
    let rows = select.query_map([], |row| row.get::<_, String>(0)).map_err(unreadable)?;
    rows.map(|row| row.map_err(unreadable)).collect()
}

fn gateways_of(document: &str) -> Result<BTreeMap<String, String>, Failure> {
    let document: Value = serde_json::from_str(document).map_err(unreadable)?;
    let chargers = document["chargers"].as_object().into_iter().flatten();
    let gateway = |(charger, of): (&String, &Value)| Some((charger.clone(), of["gateway"].as_str()?.to_owned()));
    Ok(chargers.filter_map(gateway).collect())
}

fn id(charger: &str) -> Result<ChargerId, Failure> {
    charger.parse().map_err(|error| Failure::usage(format!("{charger}: {error}")))
}

fn ask<T>(runtime: &Runtime, question: impl Future<Output = Result<T, StoreError>>) -> Result<T, Failure> {
    runtime.block_on(question).map_err(unreadable)
}
