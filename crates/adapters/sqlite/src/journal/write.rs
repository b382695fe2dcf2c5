//! The journal's writing thread.

use super::read::{head_of, snapshot_lsns};
use super::{Answer, LAYOUT, PreparedFrame, Request, code_of, snapshot_checksum};
use crate::data_dir::DataDir;
use crate::database::{in_transaction, ordered};
use crate::fault::{Fault, Poison};
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::{CommitOutcome, JournalError, Judgement, Snapshot, judge};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Bytes of frames in one transaction, bounding its time; a single request may be larger.
const MAX_GROUP_BYTES: usize = 16 * 1024 * 1024;

pub(super) struct Writer {
    connection: Connection,
    poison: Poison,
    transactions: Arc<AtomicU64>,
    /// Keeps the directory locked until the file is closed.
    _dir: DataDir,
}

type Group = Vec<(Vec<PreparedFrame>, Answer<Vec<CommitOutcome>>)>;

impl Writer {
    pub(super) fn new(connection: Connection, poison: Poison, transactions: Arc<AtomicU64>, dir: DataDir) -> Self {
        Self { connection, poison, transactions, _dir: dir }
    }

    /// Serves until the journal is dropped and what waits is done.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut held = None;
        while let Some(request) = held.take().or_else(|| queue.blocking_recv()) {
            match request {
                Request::Commit { frames, answer } => {
                    let mut group = vec![(frames, answer)];
                    held = gather(&mut group, &mut queue);
                    self.commit(group);
                }
                Request::Raise { shard, owner, answer } => {
                    self.answer(answer, |transaction| raise(transaction, shard, &owner));
                }
                Request::Release { shard, epoch, answer } => {
                    self.answer(answer, |transaction| release(transaction, shard, epoch));
                }
                Request::PutSnapshot { shard, epoch, snapshot, answer } => {
                    self.answer(answer, |transaction| put_snapshot(transaction, shard, epoch, &snapshot));
                }
            }
        }
    }

    /// Runs one transaction; after the first failed write none runs any more.
    fn transact<T>(&mut self, write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        self.poison.check()?;
        let result = in_transaction(&self.connection, 1, write);
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.poison.watch(LAYOUT.file, result)
    }

    fn answer<T>(&mut self, answer: Answer<T>, write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) {
        let result = self.transact(write).map_err(JournalError::from);
        // Who gave up waiting learns the outcome by opening anew.
        let _ = answer.send(result);
    }

    /// One transaction for the whole group; the answers leave after it.
    fn commit(&mut self, group: Group) {
        let result = self.transact(|transaction| {
            let store = |(frames, _): &(Vec<PreparedFrame>, _)| store_all(transaction, frames);
            group.iter().map(store).collect::<Result<Vec<_>, _>>()
        });
        match result {
            Ok(outcomes) => {
                for ((_, answer), outcomes) in group.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcomes));
                }
            }
            Err(fault) => {
                for (_, answer) in group {
                    let _ = answer.send(Err(fault.clone().into()));
                }
            }
        }
    }
}

/// Takes what queued meanwhile, up to the next request that is no commit (which is returned, to keep order).
fn gather(group: &mut Group, queue: &mut mpsc::Receiver<Request>) -> Option<Request> {
    let size = |frames: &[PreparedFrame]| frames.iter().map(|frame| frame.bytes.len()).sum::<usize>();
    let mut bytes: usize = group.iter().map(|(frames, _)| size(frames)).sum();
    while bytes < MAX_GROUP_BYTES {
        match queue.try_recv() {
            Ok(Request::Commit { frames, answer }) => {
                bytes = bytes.saturating_add(size(&frames));
                group.push((frames, answer));
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

fn store_all(transaction: &Transaction<'_>, frames: &[PreparedFrame]) -> Result<Vec<CommitOutcome>, Fault> {
    frames.iter().map(|prepared| store(transaction, prepared)).collect()
}

fn store(transaction: &Transaction<'_>, prepared: &PreparedFrame) -> Result<CommitOutcome, Fault> {
    let PreparedFrame { frame, hash, bytes } = prepared;
    let Some(head) = head_of(transaction, frame.shard)? else {
        return Ok(CommitOutcome::Fenced { epoch: 0, last_lsn: 0 });
    };
    match judge(&head, frame, *hash) {
        Judgement::AlreadyStored => Ok(CommitOutcome::Committed),
        Judgement::Fenced { epoch, last_lsn } => Ok(CommitOutcome::Fenced { epoch, last_lsn }),
        Judgement::Store => {
            let (shard, lsn) = (code_of(frame.shard), ordered(frame.lsn));
            let mut insert = transaction.prepare_cached("INSERT INTO frames(shard, lsn, frame) VALUES(?1, ?2, ?3)")?;
            insert.execute(params![shard, lsn, bytes])?;
            let mut advance =
                transaction.prepare_cached("UPDATE heads SET last_lsn = ?2, last_hash = ?3 WHERE shard = ?1")?;
            advance.execute(params![shard, lsn, hash.as_bytes()])?;
            Ok(CommitOutcome::Committed)
        }
    }
}

/// Raises the epoch and takes the shard: one compare-and-set, as nobody else is in the transaction.
fn raise(transaction: &Transaction<'_>, shard: ShardId, owner: &NodeId) -> Result<u64, Fault> {
    let epoch = match head_of(transaction, shard)? {
        Some(head) => head.epoch.saturating_add(1),
        None => {
            transaction.execute(
                "INSERT INTO heads(shard, owner, epoch, last_lsn, last_hash) VALUES(?1, NULL, 0, 0, ?2)",
                params![code_of(shard), FrameHash::genesis(shard).as_bytes()],
            )?;
            1
        }
    };
    transaction.execute(
        "UPDATE heads SET owner = ?2, epoch = ?3 WHERE shard = ?1",
        params![code_of(shard), &*owner.0, ordered(epoch)],
    )?;
    Ok(epoch)
}

fn release(transaction: &Transaction<'_>, shard: ShardId, epoch: u64) -> Result<bool, Fault> {
    let changed = transaction.execute(
        "UPDATE heads SET owner = NULL WHERE shard = ?1 AND epoch = ?2 AND owner IS NOT NULL",
        params![code_of(shard), ordered(epoch)],
    )?;
    Ok(changed == 1)
}

fn put_snapshot(transaction: &Transaction<'_>, shard: ShardId, epoch: u64, snapshot: &Snapshot) -> Result<bool, Fault> {
    let owned = head_of(transaction, shard)?.is_some_and(|head| head.epoch == epoch && head.owner.is_some());
    let kept = snapshot_lsns(transaction, shard)?;
    let newest = kept.first().is_none_or(|newest| *newest < snapshot.lsn);
    if !owned || !newest || frame_hash(transaction, shard, snapshot.lsn)? != Some(snapshot.hash) {
        return Ok(false);
    }
    let checksum = snapshot_checksum(shard, snapshot.lsn, snapshot.hash.as_bytes(), &snapshot.bytes);
    transaction.execute(
        "INSERT INTO snapshots(shard, lsn, hash, bytes, crc32c) VALUES(?1, ?2, ?3, ?4, ?5)",
        params![code_of(shard), ordered(snapshot.lsn), snapshot.hash.as_bytes(), &snapshot.bytes[..], checksum],
    )?;
    // This one and the newest before it stay.
    for old in kept.iter().skip(1) {
        transaction
            .execute("DELETE FROM snapshots WHERE shard = ?1 AND lsn = ?2", params![code_of(shard), ordered(*old)])?;
    }
    Ok(true)
}

/// The hash of a stored frame; none when it is not there or damaged.
fn frame_hash(transaction: &Transaction<'_>, shard: ShardId, lsn: u64) -> Result<Option<FrameHash>, Fault> {
    let mut select = transaction.prepare_cached("SELECT frame FROM frames WHERE shard = ?1 AND lsn = ?2")?;
    let bytes: Option<Vec<u8>> =
        select.query_row(params![code_of(shard), ordered(lsn)], |row| row.get(0)).optional()?;
    Ok(bytes.and_then(|bytes| Frame::decode(&bytes).ok()).map(|frame| frame.hash()))
}
