//! Connecting, and the tables: made where they are not there, or, for who only reads, looked for; refused when a newer
//! program made them.

use crate::durability::Durability;
use crate::options::{CqlOptions, is_keyspace};
use crate::statements::Statements;
use crate::store::Store;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::timestamp_generator::MonotonicTimestampGenerator;
use scylla::statement::unprepared::Statement;
use scylla::statement::{Consistency, SerialConsistency};
use std::sync::Arc;
use std::time::Duration;

/// The version of the tables that this program makes.
const LAYOUT: i32 = 1;

/// After this a write's outcome is unknown. A node that is paused must not hold up a shard for longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection is asked for a sign of life so often, and given up after so long without one. With the driver's
/// usual 30 s it would go on choosing a node that is paused.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A change of the schema is agreed on by all nodes.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) const LAYOUT_TABLE: &str = "CREATE TABLE IF NOT EXISTS %k.layout (id int PRIMARY KEY, version int)";

/// What a row of `layout` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The journal.
    Journal = 0,
    /// The charge records.
    Records = 1,
    /// The telemetry.
    Telemetry = 2,
}

/// `%k` is the keyspace. `log.state`: 0 released, 1 held, 2 sealed.
const TABLES: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS %k.log (shard int, segment bigint, lsn bigint, frame blob, owner text static, \
     epoch bigint static, first_lsn bigint static, last_lsn bigint static, last_hash blob static, \
     bytes bigint static, state int static, snapshots blob static, PRIMARY KEY ((shard, segment), lsn))",
    "CREATE TABLE IF NOT EXISTS %k.shards (part int, shard int, segment bigint, PRIMARY KEY (part, shard))",
    "CREATE TABLE IF NOT EXISTS %k.snapshots (shard int, lsn bigint, epoch bigint, part int, bytes blob, \
     PRIMARY KEY ((shard, lsn, epoch), part))",
];

/// The names of the journal's tables.
const TABLE_NAMES: [&str; 3] = ["log", "shards", "snapshots"];

/// Whether the tables may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// They are made where they are not there.
    Serve,
    /// They must be there; nothing is written.
    Read,
}

/// Why the journal or the records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting that cannot be.
    #[error("{0}")]
    Settings(String),
    /// No node answers as it should.
    #[error("no connection to a CQL database at {nodes}: {why}")]
    Unreachable {
        /// The nodes that were tried.
        nodes: String,
        /// What the driver says.
        why: String,
    },
    /// The keyspace or its tables cannot be made or used.
    #[error("keyspace {keyspace}: {why}")]
    Schema {
        /// The keyspace.
        keyspace: String,
        /// What the database says.
        why: String,
    },
    /// There is no journal, and none is made by who only reads.
    #[error("keyspace {keyspace} at {nodes} has no journal: {why}")]
    Missing {
        /// The keyspace.
        keyspace: String,
        /// The nodes that were asked.
        nodes: String,
        /// What is not there.
        why: String,
    },
    /// The tables are a newer program's.
    #[error("keyspace {keyspace} has layout {found}, made by a newer program; this one knows {LAYOUT}")]
    Newer {
        /// The keyspace.
        keyspace: String,
        /// The version found.
        found: i32,
    },
    /// The tables of telemetry are not there, or an older program's.
    #[error(
        "keyspace {keyspace} has {} for telemetry where this program needs layout {wanted}: run `chargeplane store \
         migrate --config FILE` with this node's configuration, then start it again",
        match found { Some(found) => format!("layout {found}"), None => "no tables".to_owned() }
    )]
    NotMigrated {
        /// The keyspace.
        keyspace: String,
        /// The version found, if any.
        found: Option<i32>,
        /// The version that this program makes.
        wanted: i32,
    },
    /// It answers before commits are synced.
    #[error(
        "the database is not durable enough: {0}. Set commitlog_sync to batch or group on every node, or \
         allow it in the configuration if replicas never lose power together"
    )]
    NotSynced(Box<Durability>),
}

/// Connects, and brings the tables up to date or finds them. Who only reads may read a database of any durability.
pub(crate) async fn connect(options: &CqlOptions, access: Access) -> Result<(Store, Durability), ConnectError> {
    let keyspace = &options.keyspace;
    let profile = ExecutionProfile::builder()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .consistency(Consistency::Quorum)
        .serial_consistency(Some(SerialConsistency::Serial))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .speculative_execution_policy(None)
        .build();
    let session = match access {
        Access::Serve => open(options, profile, Part::Journal, TABLES).await?,
        Access::Read => find(options, profile).await?,
    };
    let failed = |why: String| ConnectError::Schema { keyspace: keyspace.clone(), why };
    let durability = Durability::of(&session, keyspace).await.map_err(|error| failed(error.to_string()))?;
    if access == Access::Serve && !durability.is_synced() && !options.allow_unsynced {
        return Err(ConnectError::NotSynced(Box::new(durability)));
    }
    let statements = Statements::prepare(&session, keyspace).await.map_err(|error| failed(error.to_string()))?;
    Ok((Store::new(session, statements), durability))
}

/// Connects, and brings the tables of a part up to date.
pub(crate) async fn open(
    options: &CqlOptions,
    profile: ExecutionProfile,
    part: Part,
    tables: &[&str],
) -> Result<Session, ConnectError> {
    let session = session(options, profile).await?;
    let create = create_tables(&session, options, part, tables).await;
    let version = create.map_err(|error| unusable(options, &error))?;
    if version != LAYOUT {
        return Err(ConnectError::Newer { keyspace: options.keyspace.clone(), found: version });
    }
    Ok(session)
}

/// Connects to a journal that is there. Writes nothing.
async fn find(options: &CqlOptions, profile: ExecutionProfile) -> Result<Session, ConnectError> {
    let session = session(options, profile).await?;
    let keyspace = &options.keyspace;
    let missing =
        |why: String| ConnectError::Missing { keyspace: keyspace.clone(), nodes: options.nodes.join(", "), why };
    if !has_keyspace(&session, keyspace).await.map_err(|error| unusable(options, &error))? {
        return Err(missing("there is no such keyspace".to_owned()));
    }
    for table in ["layout"].iter().chain(&TABLE_NAMES) {
        let exists = format!(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}' AND table_name = '{table}'"
        );
        if !has_rows(&session, exists).await.map_err(|error| unusable(options, &error))? {
            return Err(missing(format!("it has no table `{table}`")));
        }
    }
    match version(&session, keyspace, Part::Journal).await.map_err(|error| unusable(options, &error))? {
        LAYOUT => Ok(session),
        0 => Err(missing("its table `layout` does not name one".to_owned())),
        found => Err(ConnectError::Newer { keyspace: keyspace.clone(), found }),
    }
}

fn unusable(options: &CqlOptions, error: &ExecutionError) -> ConnectError {
    ConnectError::Schema { keyspace: options.keyspace.clone(), why: error.to_string() }
}

/// Connects, and touches no tables.
pub(crate) async fn session(options: &CqlOptions, profile: ExecutionProfile) -> Result<Session, ConnectError> {
    let keyspace = &options.keyspace;
    if !is_keyspace(keyspace) {
        let rule = "a small letter, then small letters, digits and `_`, at most 48";
        return Err(ConnectError::Settings(format!("`{keyspace}` cannot be a keyspace: {rule}")));
    }
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT_TIMEOUT)
        .schema_agreement_timeout(SCHEMA_TIMEOUT)
        .keepalive_interval(KEEP_ALIVE)
        .keepalive_timeout(KEEP_ALIVE)
        .tcp_nodelay(true)
        // Of two writes of this process to one row the later one stays, whichever nodes they go through: nodes' clocks
        // differ, and a chunk's later version has more.
        .timestamp_generator(Arc::new(MonotonicTimestampGenerator::new()));
    if let Some((user, password)) = &options.login {
        builder = builder.user(user, password);
    }
    builder
        .build()
        .await
        .map_err(|error| ConnectError::Unreachable { nodes: options.nodes.join(", "), why: error.to_string() })
}

/// Makes what is missing; returns the version of what is there.
async fn create_tables(
    session: &Session,
    options: &CqlOptions,
    part: Part,
    tables: &[&str],
) -> Result<i32, ExecutionError> {
    let keyspace = &options.keyspace;
    ensure_keyspace(session, options).await?;
    for table in [LAYOUT_TABLE].iter().chain(tables) {
        change(session, table.replace("%k", keyspace)).await?;
    }
    let id = part as i32;
    let insert = format!("INSERT INTO {keyspace}.layout (id, version) VALUES ({id}, {LAYOUT}) IF NOT EXISTS");
    change(session, insert).await?;
    version(session, keyspace, part).await
}

async fn has_keyspace(session: &Session, keyspace: &str) -> Result<bool, ExecutionError> {
    has_rows(session, format!("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'"))
        .await
}

async fn has_rows(session: &Session, select: String) -> Result<bool, ExecutionError> {
    Ok(session.query_unpaged(select, ()).await?.into_rows_result().is_ok_and(|rows| rows.rows_num() > 0))
}

/// The version of a part's tables; 0 when it is not said.
async fn version(session: &Session, keyspace: &str, part: Part) -> Result<i32, ExecutionError> {
    let id = part as i32;
    let mut select = Statement::new(format!("SELECT version FROM {keyspace}.layout WHERE id = {id}"));
    select.set_consistency(Consistency::Serial);
    let rows = session.query_unpaged(select, ()).await?.into_rows_result().ok();
    let row = rows.and_then(|rows| rows.maybe_first_row::<(Option<i32>,)>().ok().flatten());
    Ok(row.and_then(|(version,)| version).unwrap_or(0))
}

/// Makes the keyspace where it is not there.
pub(crate) async fn ensure_keyspace(session: &Session, options: &CqlOptions) -> Result<(), ExecutionError> {
    let keyspace = &options.keyspace;
    if has_keyspace(session, keyspace).await? { Ok(()) } else { create_keyspace(session, options).await }
}

/// Older versions of ScyllaDB take no conditional writes in tablets; Cassandra does not know the word.
async fn create_keyspace(session: &Session, options: &CqlOptions) -> Result<(), ExecutionError> {
    let replication = options.replication.cql();
    let plain = format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {replication}", options.keyspace);
    match change(session, format!("{plain} AND tablets = {{'enabled': false}}")).await {
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::SyntaxError | DbError::Invalid | DbError::ConfigError,
            _,
        ))) => change(session, plain).await,
        other => other,
    }
}

pub(crate) async fn change(session: &Session, cql: String) -> Result<(), ExecutionError> {
    let mut statement = Statement::new(cql);
    statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
    session.query_unpaged(statement, ()).await.map(drop)
}
