//! Every statement on the tables, prepared once.
//!
//! Conditional writes carry no idempotence and no retries: the profile of the session says so for all.

use crate::head::HEAD_COLUMNS;
use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use std::time::Duration;

/// Reads may take longer than writes: a page may be a whole segment.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Of plain writes, which are repeated by whoever asked: a part of a snapshot has 1 MiB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Statements {
    pub advance: PreparedStatement,
    pub insert_frame: PreparedStatement,
    pub raise: PreparedStatement,
    pub release: PreparedStatement,
    pub seal: PreparedStatement,
    pub create: PreparedStatement,
    pub name_snapshots: PreparedStatement,
    pub head: Leveled,
    pub frames: Leveled,
    pub register: PreparedStatement,
    pub hint: PreparedStatement,
    pub hint_of: PreparedStatement,
    pub shards: PreparedStatement,
    pub put_part: PreparedStatement,
    pub part: PreparedStatement,
    pub delete_snapshot: PreparedStatement,
}

/// A read that takes part in the agreement on conditional writes, and one that sees what was agreed.
pub(crate) struct Leveled {
    pub serial: PreparedStatement,
    pub quorum: PreparedStatement,
}

impl Statements {
    pub(crate) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, PrepareError> {
        let log = format!("{keyspace}.log");
        let (shards, snapshots) = (format!("{keyspace}.shards"), format!("{keyspace}.snapshots"));
        let of_log = "WHERE shard = ? AND segment = ?";
        let of_snapshot = "WHERE shard = ? AND lsn = ? AND epoch = ?";
        let conditional = |cql: String| async move { session.prepare(cql).await };
        let plain = |cql: String, timeout| async move {
            let mut statement = session.prepare(cql).await?;
            statement.set_request_timeout(Some(timeout));
            Ok::<_, PrepareError>(statement)
        };
        let leveled = |cql: String| async move {
            let mut serial = session.prepare(cql.clone()).await?;
            serial.set_request_timeout(Some(READ_TIMEOUT));
            let quorum = serial.clone();
            serial.set_consistency(Consistency::Serial);
            Ok::<_, PrepareError>(Leveled { serial, quorum })
        };
        Ok(Self {
            advance: conditional(format!(
                "UPDATE {log} SET last_lsn = ?, last_hash = ?, bytes = ? {of_log} \
                 IF epoch = ? AND last_lsn = ? AND last_hash = ? AND state = ?"
            ))
            .await?,
            insert_frame: conditional(format!("INSERT INTO {log} (shard, segment, lsn, frame) VALUES (?, ?, ?, ?)"))
                .await?,
            raise: conditional(format!(
                "UPDATE {log} SET owner = ?, epoch = ?, state = ? {of_log} IF epoch = ? AND state = ?"
            ))
            .await?,
            release: conditional(format!("UPDATE {log} SET state = ? {of_log} IF epoch = ? AND state = ?")).await?,
            seal: conditional(format!(
                "UPDATE {log} SET state = ? {of_log} IF epoch = ? AND last_lsn = ? AND last_hash = ? AND state = ?"
            ))
            .await?,
            create: conditional(format!(
                "UPDATE {log} SET owner = ?, epoch = ?, first_lsn = ?, last_lsn = ?, last_hash = ?, bytes = ?, \
                 state = ?, snapshots = ? {of_log} IF epoch = null"
            ))
            .await?,
            name_snapshots: conditional(format!(
                "UPDATE {log} SET snapshots = ? {of_log} IF epoch = ? AND state = ? AND snapshots = ?"
            ))
            .await?,
            head: leveled(format!("SELECT {HEAD_COLUMNS} FROM {log} {of_log} LIMIT 1")).await?,
            frames: leveled(format!("SELECT frame FROM {log} {of_log} AND lsn >= ? AND lsn <= ? LIMIT ?")).await?,
            register: plain(format!("INSERT INTO {shards} (part, shard) VALUES (0, ?)"), WRITE_TIMEOUT).await?,
            hint: plain(format!("UPDATE {shards} SET segment = ? WHERE part = 0 AND shard = ?"), WRITE_TIMEOUT).await?,
            hint_of: plain(format!("SELECT segment FROM {shards} WHERE part = 0 AND shard = ?"), READ_TIMEOUT).await?,
            shards: plain(format!("SELECT shard FROM {shards} WHERE part = 0"), READ_TIMEOUT).await?,
            put_part: plain(
                format!("INSERT INTO {snapshots} (shard, lsn, epoch, part, bytes) VALUES (?, ?, ?, ?, ?)"),
                WRITE_TIMEOUT,
            )
            .await?,
            part: plain(format!("SELECT bytes FROM {snapshots} {of_snapshot} AND part = ?"), READ_TIMEOUT).await?,
            delete_snapshot: plain(format!("DELETE FROM {snapshots} {of_snapshot}"), WRITE_TIMEOUT).await?,
        })
    }
}
