//! The server, keyspaces of their own, and a caller that offers frames until their outcome is known.

use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use chargeplane_cql::{CqlJournal, CqlOptions, CqlRecords, CqlTelemetry, SegmentLimits};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::unprepared::Statement;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held for writing by whoever kills or stops the server.
static SERVER: RwLock<()> = RwLock::const_new(());

/// A server that nobody disturbs while this is held.
pub async fn undisturbed() -> RwLockReadGuard<'static, ()> {
    let guard = SERVER.read().await;
    sweep().await;
    guard
}

/// The server for this test alone, which may kill it.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    let guard = SERVER.write().await;
    sweep().await;
    guard
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: these tests need a Cassandra, which `./dev test cql` starts (`./dev cassandra start`)"
        )
    })
}

/// Where the server listens.
pub fn address() -> SocketAddr {
    variable("CHARGEPLANE_CQL").parse().expect("address:port")
}

/// A process of the server's that can be signalled.
pub struct Server {
    home: PathBuf,
}

impl Server {
    pub fn find() -> Self {
        Self { home: variable("CHARGEPLANE_CASSANDRA").into() }
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.home.join("pid")).expect("the server's pid").trim().to_owned()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid()]).status().expect("kill");
        assert!(status.success(), "kill {signal}");
    }

    /// Starts it again and waits until it answers.
    pub async fn start(&self) {
        let script = self.home.join("start");
        let started = tokio::task::spawn_blocking(move || Command::new(script).status().expect("starts"));
        assert!(started.await.expect("does not panic").success(), "the server does not start again");
    }
}

async fn session() -> Session {
    let builder = SessionBuilder::new().known_node_addr(address()).fetch_schema_metadata(false);
    builder.build().await.expect("the server of CHARGEPLANE_CQL answers")
}

async fn run(session: &Session, cql: &str) {
    let mut statement = Statement::new(cql);
    statement.set_request_timeout(Some(Duration::from_secs(60)));
    session.query_unpaged(statement, ()).await.unwrap_or_else(|error| panic!("{cql}: {error}"));
}

/// Keyspaces that may be in use at once, by all processes together.
const SPACES: u32 = 64;

fn lock_of(slot: u32) -> Option<File> {
    let path = PathBuf::from(variable("CHARGEPLANE_CASSANDRA")).join(format!("space-{slot}.lock"));
    let file = File::create(path).expect("a lock file");
    file.try_lock().ok().map(|()| file)
}

/// Drops the keyspaces of earlier runs: their tables may be those of another version of the program.
async fn sweep() {
    static DONE: OnceCell<()> = OnceCell::const_new();
    DONE.get_or_init(|| async {
        let session = session().await;
        let names = session.query_unpaged("SELECT keyspace_name FROM system_schema.keyspaces", ()).await;
        let names = names.expect("lists").into_rows_result().expect("rows");
        for (name,) in names.rows::<(String,)>().expect("texts").flatten() {
            let slot = name.strip_prefix("test_").and_then(|slot| slot.parse().ok());
            let _lock = match slot.map(lock_of) {
                Some(Some(lock)) => lock,
                _ => continue,
            };
            run(&session, &format!("DROP KEYSPACE {name}")).await;
        }
    })
    .await;
}

/// A keyspace that nobody else uses meanwhile. Making one takes seconds, so it is emptied and used again.
pub struct Space {
    name: String,
    segment: SegmentLimits,
    _lock: File,
}

impl Space {
    pub async fn new() -> Self {
        Self::with_segments(SegmentLimits::default()).await
    }

    pub async fn with_segments(segment: SegmentLimits) -> Self {
        let (slot, lock) = (0..SPACES).find_map(|slot| Some((slot, lock_of(slot)?))).expect("a free keyspace");
        let space = Self { name: format!("test_{slot}"), segment, _lock: lock };
        if space.count("SELECT * FROM system_schema.tables WHERE keyspace_name = '%k'").await > 0 {
            space.empty().await;
        }
        space
    }

    pub fn options(&self) -> CqlOptions {
        CqlOptions { segment: self.segment, ..CqlOptions::new(vec![address().to_string()], &self.name) }
    }

    pub async fn journal(&self) -> Arc<CqlJournal> {
        self.journal_at(address()).await
    }

    /// A journal that takes another way to the server.
    pub async fn journal_at(&self, address: SocketAddr) -> Arc<CqlJournal> {
        let options = CqlOptions { nodes: vec![address.to_string()], ..self.options() };
        Arc::new(CqlJournal::connect(&options).await.expect("connects"))
    }

    /// Runs a statement behind the journal's back; `%k` is the keyspace.
    pub async fn run(&self, cql: &str) {
        run(&session().await, &cql.replace("%k", &self.name)).await;
    }

    /// How many rows a statement finds; `%k` is the keyspace.
    pub async fn count(&self, cql: &str) -> usize {
        let found = session().await.query_unpaged(cql.replace("%k", &self.name), ()).await.expect("runs");
        found.into_rows_result().expect("rows").rows_num()
    }

    /// Charge records, and another process's when it is called again.
    pub async fn records(&self) -> Arc<CqlRecords> {
        Arc::new(CqlRecords::connect(&self.options()).await.expect("connects"))
    }

    /// Telemetry, its tables made where they are not there, and another process's when it is called again.
    pub async fn telemetry(&self) -> Arc<CqlTelemetry> {
        CqlTelemetry::migrate(&self.options()).await.expect("migrates");
        Arc::new(CqlTelemetry::connect(&self.options()).await.expect("connects"))
    }

    /// Names of the keyspace's tables.
    pub async fn tables(&self) -> Vec<String> {
        let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '%k'";
        let tables = session().await.query_unpaged(tables.replace("%k", &self.name), ()).await;
        let tables = tables.expect("lists").into_rows_result().expect("rows");
        tables.rows::<(String,)>().expect("texts").flatten().map(|(table,)| table).collect()
    }

    pub async fn empty(&self) {
        for table in self.tables().await {
            // Those of a generation are made anew with it.
            let how = if table.starts_with("records_") { "DROP TABLE" } else { "TRUNCATE" };
            self.run(&format!("{how} %k.{table}")).await;
        }
    }
}

/// Commits as the journal actor does: the same frames again while their outcome is unknown.
pub async fn settle(journal: &dyn Journal, frames: Vec<Frame>) -> Vec<CommitOutcome> {
    settle_counting(journal, frames).await.0
}

/// Also says how often the outcome was unknown.
pub async fn settle_counting(journal: &dyn Journal, frames: Vec<Frame>) -> (Vec<CommitOutcome>, u32) {
    let mut unknown = 0;
    loop {
        match journal.commit(frames.clone()).await {
            Ok(outcomes) => return (outcomes, unknown),
            Err(JournalError::OutcomeUnknown(_)) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(unknown < 1_000, "no end of it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Opens as a shard does.
pub async fn open(journal: &dyn Journal, index: u16, owner: &str) -> chargeplane_cluster::conformance::Writer {
    use chargeplane_cluster::conformance::{Writer, node, shard};
    loop {
        match journal.open(shard(index), node(owner)).await {
            Ok(opened) => return Writer::new(&opened),
            Err(JournalError::OutcomeUnknown(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
}
