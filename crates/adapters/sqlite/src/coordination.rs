//! Node leases and cluster settings in one SQLite file.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, unsigned, unsigned32};
use crate::fault::Fault;
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::coordination::{
    BeatOutcome, ClusterSettings, Coordination, CoordinationError, Joined, LeaseState, NodeHello, NodeRecord,
};
use chargeplane_domain::ids::NodeId;
use rusqlite::{OptionalExtension, Row, Transaction, params};

const LAYOUT: Layout = Layout {
    file: "coordination.sqlite",
    steps: &["
        CREATE TABLE settings(
            id INTEGER PRIMARY KEY CHECK(id = 0),
            station_shards INTEGER NOT NULL,
            account_shards INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE nodes(
            node TEXT NOT NULL,
            incarnation INTEGER NOT NULL,
            address TEXT NOT NULL,
            pid INTEGER NOT NULL,
            pid_started INTEGER NOT NULL,
            beat INTEGER NOT NULL,
            state TEXT NOT NULL CHECK(state IN ('held', 'released', 'declared_dead'))
        ) STRICT;
        CREATE UNIQUE INDEX nodes_by_name ON nodes(node);
    "],
    page_size: 4_096,
    sync: Sync::Full,
};

/// Coordination in `coordination.sqlite`.
pub struct SqliteCoordination {
    database: Database,
}

impl SqliteCoordination {
    /// Opens the coordination of a data directory and starts its threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self { database: Database::open(dir, &LAYOUT, 1)? })
    }

    /// Moves an incarnation that holds its lease to another state. Returns whether it did.
    async fn end(
        &self,
        node: NodeId,
        incarnation: u64,
        only_at_beat: Option<u64>,
        state: &'static str,
    ) -> Result<bool, CoordinationError> {
        let end = move |transaction: &Transaction<'_>| {
            let changed = transaction.execute(
                "UPDATE nodes SET state = ?4
                 WHERE node = ?1 AND incarnation = ?2 AND state = 'held' AND (?3 IS NULL OR beat = ?3)",
                params![&*node.0, ordered(incarnation), only_at_beat.map(ordered), state],
            )?;
            Ok(changed == 1)
        };
        Ok(self.database.write(end).await?)
    }
}

impl Coordination for SqliteCoordination {
    fn join(&self, hello: NodeHello, settings: ClusterSettings) -> BoxFuture<'_, Result<Joined, CoordinationError>> {
        Box::pin(async move {
            settings.check()?;
            self.database.write(move |transaction| join(transaction, &hello, settings)).await?
        })
    }

    fn beat(&self, node: NodeId, incarnation: u64, beat: u64) -> BoxFuture<'_, Result<BeatOutcome, CoordinationError>> {
        let write = move |transaction: &Transaction<'_>| {
            let changed = transaction.execute(
                "UPDATE nodes SET beat = max(beat, ?3)
                 WHERE node = ?1 AND incarnation = ?2 AND state = 'held'",
                params![&*node.0, ordered(incarnation), ordered(beat)],
            )?;
            Ok(if changed == 1 { BeatOutcome::Written } else { BeatOutcome::Refused })
        };
        Box::pin(async move { Ok(self.database.write(write).await?) })
    }

    fn release(&self, node: NodeId, incarnation: u64) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        Box::pin(self.end(node, incarnation, None, "released"))
    }

    fn declare_dead(
        &self,
        node: NodeId,
        incarnation: u64,
        beat: u64,
    ) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        Box::pin(self.end(node, incarnation, Some(beat), "declared_dead"))
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeRecord>, CoordinationError>> {
        Box::pin(async move { Ok(self.database.read(nodes).await?) })
    }

    fn settings(&self) -> BoxFuture<'_, Result<Option<ClusterSettings>, CoordinationError>> {
        Box::pin(async move { Ok(self.database.read(settings).await?) })
    }
}

/// The inner result is the refusal, the outer one the store's failure.
fn join(
    transaction: &Transaction<'_>,
    hello: &NodeHello,
    asked: ClusterSettings,
) -> Result<Result<Joined, CoordinationError>, Fault> {
    let born = settings(transaction)?;
    let first = born.is_none();
    match born {
        Some(born) if born != asked => {
            return Ok(Err(CoordinationError::SettingsDiffer { born, asked }));
        }
        Some(_) => {}
        None => {
            transaction.execute(
                "INSERT INTO settings(id, station_shards, account_shards) VALUES(0, ?1, ?2)",
                params![asked.station_shards, asked.account_shards],
            )?;
        }
    }
    let incarnation: i64 = transaction.query_row(
        "INSERT INTO nodes(node, incarnation, address, pid, pid_started, beat, state)
         VALUES(?1, 1, ?2, ?3, ?4, 0, 'held')
         ON CONFLICT(node) DO UPDATE SET
             incarnation = incarnation + 1, address = excluded.address, pid = excluded.pid,
             pid_started = excluded.pid_started, beat = 0, state = 'held'
         RETURNING incarnation",
        params![&*hello.node.0, hello.address, hello.pid, ordered(hello.pid_started)],
        |row| row.get(0),
    )?;
    Ok(Ok(Joined { incarnation: unsigned(incarnation)?, first }))
}

fn settings(transaction: &Transaction<'_>) -> Result<Option<ClusterSettings>, Fault> {
    let fields = |row: &Row<'_>| Ok(ClusterSettings { station_shards: row.get(0)?, account_shards: row.get(1)? });
    let sql = "SELECT station_shards, account_shards FROM settings WHERE id = 0";
    Ok(transaction.query_row(sql, [], fields).optional()?)
}

fn nodes(transaction: &Transaction<'_>) -> Result<Vec<NodeRecord>, Fault> {
    type Fields = (String, i64, String, i64, i64, i64, String);
    let fields = |row: &Row<'_>| -> rusqlite::Result<Fields> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
    };
    let sql = "SELECT node, incarnation, address, pid, pid_started, beat, state FROM nodes ORDER BY node";
    let mut select = transaction.prepare_cached(sql)?;
    let rows = select.query_map([], fields)?;
    let record = |(node, incarnation, address, pid, pid_started, beat, state): Fields| {
        let state = match &*state {
            "held" => LeaseState::Held,
            "released" => LeaseState::Released,
            "declared_dead" => LeaseState::DeclaredDead,
            other => return Err(Fault::corrupt(format!("lease state {other:?}"))),
        };
        let pid = unsigned32(pid)?;
        let hello = NodeHello { node: NodeId(node.into()), address, pid, pid_started: unsigned(pid_started)? };
        Ok(NodeRecord { hello, incarnation: unsigned(incarnation)?, beat: unsigned(beat)?, state })
    };
    rows.map(|row| record(row?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(name: &str) -> NodeHello {
        NodeHello::of_this_process(NodeId(name.into()), "127.0.0.1:1".to_owned())
    }

    fn open(dir: &tempfile::TempDir) -> SqliteCoordination {
        SqliteCoordination::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens")
    }

    #[tokio::test]
    async fn the_settings_of_the_birth_are_kept_and_others_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = open(&dir);
        assert_eq!(store.settings().await, Ok(None));
        let born = ClusterSettings { station_shards: 64, account_shards: 16 };
        assert_eq!(store.join(hello("n1"), born.clone()).await, Ok(Joined { incarnation: 1, first: true }));
        let asked = ClusterSettings::default();
        let refused = store.join(hello("n2"), asked.clone()).await;
        assert_eq!(refused, Err(CoordinationError::SettingsDiffer { born: born.clone(), asked }));
        let odd = ClusterSettings { station_shards: 3, ..born.clone() };
        assert!(matches!(store.join(hello("n2"), odd).await, Err(CoordinationError::Settings(_))));
        assert_eq!(store.nodes().await.expect("lists").len(), 1, "a refused node left nothing");
        assert_eq!(store.settings().await, Ok(Some(born)));
    }

    #[tokio::test]
    async fn a_join_replaces_the_incarnation_before_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = open(&dir);
        let node = hello("n1").node;
        for incarnation in [1, 2] {
            let joined = store.join(hello("n1"), ClusterSettings::default()).await.expect("joins");
            assert_eq!(joined, Joined { incarnation, first: incarnation == 1 });
        }
        assert_eq!(store.beat(node.clone(), 1, 5).await, Ok(BeatOutcome::Refused));
        assert_eq!(store.beat(node.clone(), 2, 1).await, Ok(BeatOutcome::Written));
        assert_eq!(store.release(node.clone(), 1).await, Ok(false));
        assert_eq!(store.release(node.clone(), 2).await, Ok(true));
        assert_eq!(store.beat(node.clone(), 2, 2).await, Ok(BeatOutcome::Refused), "released");
        let record = store.nodes().await.expect("lists").remove(0);
        let expected = NodeRecord { hello: hello("n1"), incarnation: 2, beat: 1, state: LeaseState::Released };
        assert_eq!(record, expected);
    }

    #[tokio::test]
    async fn only_a_silent_incarnation_is_declared_dead() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = open(&dir);
        let node = hello("n1").node;
        store.join(hello("n1"), ClusterSettings::default()).await.expect("joins");
        store.beat(node.clone(), 1, 7).await.expect("beats");
        assert_eq!(store.declare_dead(node.clone(), 1, 6).await, Ok(false), "it beat since");
        assert_eq!(store.declare_dead(node.clone(), 1, 7).await, Ok(true));
        assert_eq!(store.beat(node.clone(), 1, 8).await, Ok(BeatOutcome::Refused));
        let joined = store.join(hello("n1"), ClusterSettings::default()).await.expect("joins");
        assert_eq!(joined.incarnation, 2, "a new process may come back");
        assert_eq!(store.beat(node, 2, 1).await, Ok(BeatOutcome::Written));
    }
}
