//! The tables of telemetry, how they come to this program's version, and every statement on them.

use super::IN_FLIGHT;
use crate::options::CqlOptions;
use crate::schema::{ConnectError, LAYOUT_TABLE, Part, change, ensure_keyspace};
use scylla::client::session::Session;
use scylla::errors::{ExecutionError, PrepareError};
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::unprepared::Statement;

/// The version of the tables that this program reads and writes.
pub const TELEMETRY_LAYOUT: i32 = 1;

/// What makes each version of the one before: step n makes version n + 1. Each statement may run twice, so that a
/// migration that broke off is begun again. `%k` is the keyspace.
///
/// Chunks live for seven days, in windows of six hours: 28 of them, and a whole one is dropped at a time. They are
/// never deleted, so tombstones of what has expired need not be kept for repairs longer than hints are: three hours.
/// A day's entry outlives the last chunk that it leads to, which may be written a day later (a gateway's ring), and is
/// written again every day that its partition grows.
const STEPS: [&[&str]; TELEMETRY_LAYOUT as usize] = [&[
    "CREATE TABLE IF NOT EXISTS %k.telemetry_chunks (charger text, incarnation int, part bigint, range bigint, \
     epoch bigint, lineage bigint, first_at bigint, last_at bigint, samples int, chunk blob, \
     PRIMARY KEY ((charger, incarnation, part), range, epoch, lineage)) \
     WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS', \
     'compaction_window_size': 6} AND default_time_to_live = 604800 AND gc_grace_seconds = 10800",
    "CREATE TABLE IF NOT EXISTS %k.telemetry_days (charger text, day int, incarnation int, part bigint, \
     PRIMARY KEY (charger, day, incarnation, part)) \
     WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS', \
     'compaction_window_size': 12} AND default_time_to_live = 864000 AND gc_grace_seconds = 10800",
    "CREATE TABLE IF NOT EXISTS %k.telemetry_gaps (charger text, incarnation int, first bigint, last bigint, \
     reason int, PRIMARY KEY (charger, incarnation, first, last, reason)) \
     WITH default_time_to_live = 34560000",
    "CREATE TABLE IF NOT EXISTS %k.telemetry_marks (shard int, hour bigint, charger text, process bigint, mark bigint, \
     PRIMARY KEY (shard, hour, charger, process, mark)) WITH gc_grace_seconds = 10800",
    "CREATE TABLE IF NOT EXISTS %k.telemetry_hours (charger text, hour bigint, rollup blob, \
     PRIMARY KEY (charger, hour)) WITH default_time_to_live = 94608000",
    "CREATE TABLE IF NOT EXISTS %k.telemetry_cursors (shard int, gateway text, stream int, key_epoch int, boot int, \
     upto_seq bigint, PRIMARY KEY (shard, gateway, stream, key_epoch, boot))",
]];

/// The version of what is there; none when there is nothing, or it cannot be read.
pub(super) async fn version(session: &Session, keyspace: &str) -> Option<i32> {
    let mut select =
        Statement::new(format!("SELECT version FROM {keyspace}.layout WHERE id = {}", Part::Telemetry as i32));
    select.set_consistency(Consistency::Serial);
    let rows = session.query_unpaged(select, ()).await.ok()?.into_rows_result().ok()?;
    rows.maybe_first_row::<(Option<i32>,)>().ok().flatten().and_then(|(version,)| version)
}

/// Brings the tables to this program's version; returns the version before.
pub(super) async fn migrate(session: &Session, options: &CqlOptions) -> Result<Option<i32>, ConnectError> {
    let keyspace = &options.keyspace;
    let failed = |error: ExecutionError| ConnectError::Schema { keyspace: keyspace.clone(), why: error.to_string() };
    ensure_keyspace(session, options).await.map_err(failed)?;
    change(session, LAYOUT_TABLE.replace("%k", keyspace)).await.map_err(failed)?;
    let before = version(session, keyspace).await;
    let at = before.unwrap_or(0);
    if at > TELEMETRY_LAYOUT {
        return Err(ConnectError::Newer { keyspace: keyspace.clone(), found: at });
    }
    for step in STEPS.iter().skip(usize::try_from(at).unwrap_or(0)) {
        for statement in *step {
            change(session, statement.replace("%k", keyspace)).await.map_err(failed)?;
        }
    }
    let id = Part::Telemetry as i32;
    let note = match before {
        None => {
            format!("INSERT INTO {keyspace}.layout (id, version) VALUES ({id}, {TELEMETRY_LAYOUT}) IF NOT EXISTS")
        }
        Some(_) => {
            format!("UPDATE {keyspace}.layout SET version = {TELEMETRY_LAYOUT} WHERE id = {id} IF version = {at}")
        }
    };
    if at < TELEMETRY_LAYOUT {
        change(session, note).await.map_err(failed)?;
    }
    Ok(before)
}

/// Every statement, prepared once; each knows its partition key, so that the driver asks a replica.
pub(super) struct Statements {
    pub(super) put_chunk: PreparedStatement,
    pub(super) put_day: PreparedStatement,
    pub(super) put_gap: PreparedStatement,
    pub(super) put_cursor: PreparedStatement,
    pub(super) chunks: PreparedStatement,
    pub(super) spans: PreparedStatement,
    pub(super) days: PreparedStatement,
    pub(super) gaps: PreparedStatement,
    pub(super) cursors: PreparedStatement,
    pub(super) put_mark: PreparedStatement,
    pub(super) clear_mark: PreparedStatement,
    pub(super) marks: PreparedStatement,
    pub(super) put_rollup: PreparedStatement,
    pub(super) rollups: PreparedStatement,
    pub(super) partitions: PreparedStatement,
    pub(super) gap_partitions: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, PrepareError> {
        // All may be done twice, so the driver may ask another node when one fails.
        let prepare = async |cql: String| {
            let mut statement = session.prepare(cql).await?;
            statement.set_is_idempotent(true);
            Ok::<_, PrepareError>(statement)
        };
        let table = |name: &str| format!("{keyspace}.telemetry_{name}");
        let (chunks, days, gaps, cursors) = (table("chunks"), table("days"), table("gaps"), table("cursors"));
        let (marks, hours) = (table("marks"), table("hours"));
        let of_part = "WHERE charger = ? AND incarnation = ? AND part = ?";
        let mut partitions = prepare(format!("SELECT DISTINCT charger, incarnation, part FROM {chunks}")).await?;
        let mut gap_partitions = prepare(format!("SELECT DISTINCT charger FROM {gaps}")).await?;
        for scan in [&mut partitions, &mut gap_partitions] {
            scan.set_page_size(i32::try_from(IN_FLIGHT.saturating_mul(16)).unwrap_or(1_000));
        }
        Ok(Self {
            put_chunk: prepare(format!(
                "INSERT INTO {chunks} (charger, incarnation, part, range, epoch, lineage, first_at, last_at, samples, \
                 chunk) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            ))
            .await?,
            put_day: prepare(format!("INSERT INTO {days} (charger, day, incarnation, part) VALUES (?, ?, ?, ?)"))
                .await?,
            put_gap: prepare(format!(
                "INSERT INTO {gaps} (charger, incarnation, first, last, reason) VALUES (?, ?, ?, ?, ?)"
            ))
            .await?,
            // With its number as its timestamp the highest one stays, whoever writes when: a cursor never moves back.
            put_cursor: prepare(format!(
                "INSERT INTO {cursors} (shard, gateway, stream, key_epoch, boot, upto_seq) VALUES (?, ?, ?, ?, ?, ?) \
                 USING TIMESTAMP ?"
            ))
            .await?,
            chunks: prepare(format!("SELECT range, epoch, first_at, last_at, chunk FROM {chunks} {of_part}")).await?,
            spans: prepare(format!("SELECT first_at, last_at, samples FROM {chunks} {of_part}")).await?,
            days: prepare(format!("SELECT incarnation, part FROM {days} WHERE charger = ? AND day >= ? AND day <= ?"))
                .await?,
            gaps: prepare(format!("SELECT incarnation, first, last, reason FROM {gaps} WHERE charger = ?")).await?,
            cursors: prepare(format!(
                "SELECT gateway, stream, key_epoch, boot, upto_seq FROM {cursors} WHERE shard = ?"
            ))
            .await?,
            put_mark: prepare(format!(
                "INSERT INTO {marks} (shard, hour, charger, process, mark) VALUES (?, ?, ?, ?, ?)"
            ))
            .await?,
            clear_mark: prepare(format!(
                "DELETE FROM {marks} WHERE shard = ? AND hour = ? AND charger = ? AND process = ? AND mark = ?"
            ))
            .await?,
            marks: prepare(format!(
                "SELECT hour, charger, process, mark FROM {marks} WHERE shard = ? AND hour < ? LIMIT ?"
            ))
            .await?,
            put_rollup: prepare(format!(
                "INSERT INTO {hours} (charger, hour, rollup) VALUES (?, ?, ?) USING TIMESTAMP ?"
            ))
            .await?,
            rollups: prepare(format!("SELECT hour, rollup FROM {hours} WHERE charger = ? AND hour >= ? AND hour < ?"))
                .await?,
            partitions,
            gap_partitions,
        })
    }
}
