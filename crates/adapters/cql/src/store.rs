//! The database as the journal uses it: one method a statement, and what an error means.
//!
//! Only an answer with `[applied]` says whether a conditional write was done. Everything else that comes back, a
//! time-out, a broken connection, an overloaded or paused server, leaves it open: the request may lie in a socket
//! and be carried out later. So it is `OutcomeUnknown`, never "it did not happen".

use crate::head::{Head, HeadRow, SegmentState, code_of, shard_of_code, stored};
use crate::snapshot::SnapshotRef;
use crate::statements::{Leveled, Statements};
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::JournalError;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, PrepareError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use tokio::sync::Semaphore;

/// Conditional writes in flight at once, each of another partition: more only wait in the database.
const MAX_IN_FLIGHT: usize = 16;

/// How a read sees conditional writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Ends what is under way: for whoever decides by what it reads.
    Serial,
    /// Whatever was answered is seen, and nothing is held up.
    Quorum,
}

/// A frame with what is stored of it.
pub(crate) struct PreparedFrame {
    pub frame: Frame,
    pub hash: FrameHash,
    pub bytes: Vec<u8>,
}

impl PreparedFrame {
    pub(crate) fn new(frame: Frame) -> Self {
        let (hash, bytes) = (frame.hash(), frame.encode());
        Self { frame, hash, bytes }
    }
}

/// Where a commit goes. What it says of the segment's content only decides when the segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub segment: u64,
    pub first_lsn: u64,
    pub bytes: u64,
}

impl Tail {
    pub(crate) fn of(head: &Head) -> Self {
        Self { segment: head.segment, first_lsn: head.first_lsn, bytes: head.bytes }
    }
}

pub(crate) struct Store {
    session: Session,
    statements: Statements,
    in_flight: Semaphore,
}

impl Store {
    pub(crate) fn new(session: Session, statements: Statements) -> Self {
        Self { session, statements, in_flight: Semaphore::new(MAX_IN_FLIGHT) }
    }

    /// Appends frames that follow each other and moves the head, all or nothing. `bytes` is the segment's new size.
    pub(crate) async fn append(&self, tail: Tail, run: &[PreparedFrame], bytes: u64) -> Result<bool, JournalError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(true) };
        let shard = CqlValue::Int(code_of(first.frame.shard));
        let segment = CqlValue::BigInt(stored(tail.segment));
        // Before frame 0 there is nothing: -1 is no head's number.
        let before = first.frame.lsn.checked_sub(1).map_or(-1, stored);
        let mut batch = Batch::new(BatchType::Logged);
        batch.append_statement(self.statements.advance.clone());
        let mut values = vec![vec![
            CqlValue::BigInt(stored(last.frame.lsn)),
            CqlValue::Blob(last.hash.as_bytes().to_vec()),
            CqlValue::BigInt(stored(bytes)),
            shard.clone(),
            segment.clone(),
            CqlValue::BigInt(stored(first.frame.epoch)),
            CqlValue::BigInt(before),
            CqlValue::Blob(first.frame.prev_hash.as_bytes().to_vec()),
            CqlValue::Int(SegmentState::Held.code()),
        ]];
        for PreparedFrame { frame, bytes, .. } in run {
            batch.append_statement(self.statements.insert_frame.clone());
            let lsn = CqlValue::BigInt(stored(frame.lsn));
            values.push(vec![shard.clone(), segment.clone(), lsn, CqlValue::Blob(bytes.clone())]);
        }
        let _permit = self.permit().await?;
        applied(self.session.batch(&batch, values).await)
    }

    /// Takes the shard: raises the epoch of an unsealed segment.
    pub(crate) async fn raise(&self, head: &Head, owner: &NodeId, epoch: u64) -> Result<bool, JournalError> {
        let (shard, segment) = key_of(head);
        let held = SegmentState::Held.code();
        let values = (&*owner.0, stored(epoch), held, shard, segment, stored(head.epoch), head.state.code());
        self.decide(&self.statements.raise, values).await
    }

    /// Gives the shard up.
    pub(crate) async fn release(&self, head: &Head) -> Result<bool, JournalError> {
        let (shard, segment) = key_of(head);
        let (released, held) = (SegmentState::Released.code(), SegmentState::Held.code());
        self.decide(&self.statements.release, (released, shard, segment, stored(head.epoch), held)).await
    }

    /// Ends the segment before `frame`, for ever.
    pub(crate) async fn seal(&self, tail: Tail, frame: &Frame) -> Result<bool, JournalError> {
        let before = frame.lsn.checked_sub(1).map_or(-1, stored);
        let values = (
            SegmentState::Sealed.code(),
            code_of(frame.shard),
            stored(tail.segment),
            stored(frame.epoch),
            before,
            frame.prev_hash.as_bytes(),
            SegmentState::Held.code(),
        );
        self.decide(&self.statements.seal, values).await
    }

    /// Makes a segment that is not there yet.
    pub(crate) async fn create(&self, head: &Head) -> Result<bool, JournalError> {
        let (shard, segment) = key_of(head);
        let values = (
            &*head.owner.0,
            stored(head.epoch),
            stored(head.first_lsn),
            stored(head.last_lsn),
            head.last_hash.as_bytes(),
            stored(head.bytes),
            head.state.code(),
            SnapshotRef::encode_all(&head.snapshots),
            shard,
            segment,
        );
        self.decide(&self.statements.create, values).await
    }

    /// Names the snapshots, if the head still names those that were read.
    pub(crate) async fn name_snapshots(&self, head: &Head, named: &[SnapshotRef]) -> Result<bool, JournalError> {
        let (shard, segment) = key_of(head);
        let (named, before) = (SnapshotRef::encode_all(named), SnapshotRef::encode_all(&head.snapshots));
        let values = (named, shard, segment, stored(head.epoch), head.state.code(), before);
        self.decide(&self.statements.name_snapshots, values).await
    }

    /// The head of a segment, none when there is no such segment.
    pub(crate) async fn head(&self, shard: ShardId, segment: u64, level: Level) -> Result<Option<Head>, JournalError> {
        let statement = at(&self.statements.head, level);
        let result = self.run(statement, (code_of(shard), stored(segment))).await?;
        let row = result.maybe_first_row::<HeadRow>().map_err(unreadable)?;
        row.filter(|row| row.1.is_some()).map(|row| Head::read(shard, segment, row)).transpose()
    }

    /// Frames of a segment as stored, from `from` to `to` and at most `limit`.
    pub(crate) async fn frames(
        &self,
        (shard, segment): (ShardId, u64),
        (from, to): (u64, u64),
        limit: usize,
        level: Level,
    ) -> Result<Vec<Vec<u8>>, JournalError> {
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let values = (code_of(shard), stored(segment), stored(from), stored(to), limit);
        let result = self.run(at(&self.statements.frames, level), values).await?;
        let rows = result.rows::<(Option<Vec<u8>>,)>().map_err(unreadable)?;
        // A frame without bytes is damage, which whoever verifies the chain will say.
        rows.map(|row| row.map(|(frame,)| frame.unwrap_or_default()).map_err(unreadable)).collect()
    }

    /// Writes a shard into the list of shards. Doing it twice is harmless.
    pub(crate) async fn register(&self, shard: ShardId) -> Result<(), JournalError> {
        self.write(&self.statements.register, (code_of(shard),)).await
    }

    /// Writes where to begin looking for the shard's tail. Any segment that exists is right.
    pub(crate) async fn set_hint(&self, shard: ShardId, segment: u64) -> Result<(), JournalError> {
        self.write(&self.statements.hint, (stored(segment), code_of(shard))).await
    }

    pub(crate) async fn hint(&self, shard: ShardId) -> Result<u64, JournalError> {
        let result = self.run(&self.statements.hint_of, (code_of(shard),)).await?;
        let row = result.maybe_first_row::<(Option<i64>,)>().map_err(unreadable)?;
        Ok(row.and_then(|(segment,)| segment).and_then(|segment| u64::try_from(segment).ok()).unwrap_or(0))
    }

    /// All shards that were ever opened, and perhaps some whose first open failed; in order.
    pub(crate) async fn shards(&self) -> Result<Vec<ShardId>, JournalError> {
        let result = self.run(&self.statements.shards, ()).await?;
        let rows = result.rows::<(i32,)>().map_err(unreadable)?;
        let shard = |code| shard_of_code(code).ok_or_else(|| JournalError::Io(format!("{code} is no shard")));
        rows.map(|row| shard(row.map_err(unreadable)?.0)).collect()
    }

    pub(crate) async fn put_part(
        &self,
        shard: ShardId,
        of: &SnapshotRef,
        part: i32,
        bytes: &[u8],
    ) -> Result<(), JournalError> {
        let values = (code_of(shard), stored(of.lsn), stored(of.epoch), part, bytes);
        self.write(&self.statements.put_part, values).await
    }

    pub(crate) async fn part(
        &self,
        shard: ShardId,
        of: &SnapshotRef,
        part: i32,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        let values = (code_of(shard), stored(of.lsn), stored(of.epoch), part);
        let result = self.run(&self.statements.part, values).await?;
        let row = result.maybe_first_row::<(Option<Vec<u8>>,)>().map_err(unreadable)?;
        Ok(row.and_then(|(bytes,)| bytes))
    }

    pub(crate) async fn delete_snapshot(&self, shard: ShardId, of: &SnapshotRef) -> Result<(), JournalError> {
        self.write(&self.statements.delete_snapshot, (code_of(shard), stored(of.lsn), stored(of.epoch))).await
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, JournalError> {
        self.in_flight.acquire().await.map_err(|_| JournalError::Closed)
    }

    /// Runs a conditional write; says whether its condition held.
    async fn decide(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<bool, JournalError> {
        let _permit = self.permit().await?;
        applied(self.session.execute_unpaged(statement, values).await)
    }

    async fn write(&self, statement: &PreparedStatement, values: impl SerializeRow) -> Result<(), JournalError> {
        self.session.execute_unpaged(statement, values).await.map(drop).map_err(|error| fault(&error))
    }

    async fn run(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<scylla::response::query_result::QueryRowsResult, JournalError> {
        let result = self.session.execute_unpaged(statement, values).await.map_err(|error| fault(&error))?;
        result.into_rows_result().map_err(unreadable)
    }
}

fn key_of(head: &Head) -> (i32, i64) {
    (code_of(head.shard), stored(head.segment))
}

fn at(statement: &Leveled, level: Level) -> &PreparedStatement {
    match level {
        Level::Serial => &statement.serial,
        Level::Quorum => &statement.quorum,
    }
}

/// What the column `[applied]` says. Its place differs between servers, as do the number of rows and the columns
/// beside it; all rows say the same.
fn applied(result: Result<QueryResult, ExecutionError>) -> Result<bool, JournalError> {
    let rows = result.map_err(|error| fault(&error))?.into_rows_result().map_err(unreadable)?;
    let place = rows.column_specs().get_by_name("[applied]").map(|(place, _)| place);
    let row = rows.maybe_first_row::<Row>().map_err(unreadable)?;
    let value = place.and_then(|place| row?.columns.into_iter().nth(place).flatten());
    match value {
        Some(CqlValue::Boolean(applied)) => Ok(applied),
        _ => Err(unreadable("a conditional write was answered without [applied]")),
    }
}

/// An answer that is not understood says nothing of what was done.
fn unreadable(error: impl std::fmt::Display) -> JournalError {
    JournalError::OutcomeUnknown(format!("the database's answer cannot be read: {error}"))
}

/// What a failure means. The database's refusals of the request itself are final: repeating it changes nothing.
pub(crate) fn fault(error: &ExecutionError) -> JournalError {
    let text = error.to_string();
    let refused = match error {
        ExecutionError::BadQuery(_) => true,
        ExecutionError::LastAttemptError(attempt)
        | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt: attempt }) => refuses(attempt),
        _ => false,
    };
    if refused { JournalError::Io(format!("the database refuses: {text}")) } else { JournalError::OutcomeUnknown(text) }
}

fn refuses(attempt: &RequestAttemptError) -> bool {
    use RequestAttemptError as Attempt;
    match attempt {
        Attempt::SerializationError(_) | Attempt::CqlRequestSerialization(_) => true,
        Attempt::DbError(error, _) => matches!(
            error,
            DbError::SyntaxError
                | DbError::Invalid
                | DbError::AlreadyExists { .. }
                | DbError::FunctionFailure { .. }
                | DbError::AuthenticationError
                | DbError::Unauthorized
                | DbError::ConfigError
                | DbError::ProtocolError
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_is_final() {
        let says = |error| fault(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, String::new())));
        assert!(says(DbError::Invalid).is_fatal());
        assert!(says(DbError::Unauthorized).is_fatal());
        for open in [DbError::Overloaded, DbError::IsBootstrapping, DbError::ServerError, DbError::Other(0x1700)] {
            assert!(matches!(says(open), JournalError::OutcomeUnknown(_)));
        }
        let late = ExecutionError::RequestTimeout(std::time::Duration::from_secs(1));
        assert!(matches!(fault(&late), JournalError::OutcomeUnknown(_)));
    }
}
