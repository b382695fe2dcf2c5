//! The journal in one SQLite file: head and frames of all shards, so one transaction moves both.
//!
//! One thread writes. Whatever commits queued while it was syncing become its next transaction: each frame is
//! judged against its shard's head inside it, one whose condition fails is left out (OWN-1), and nobody is
//! answered before COMMIT returned (MONEY-3). Opens raise the epoch on that thread and read and verify the
//! tail on a reader, so that a long log does not hold up the others' commits. The first failed write poisons
//! the journal. A restart reloads nothing but the file.

mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::data_dir::{DataDir, OpenError};
use crate::database::{JoinOnDrop, Layout, Readers, Sync, open_writer, path_of, thread_name};
use crate::fault::{Fault, Poison};
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::frame::{Frame, FrameHash, MAX_PAYLOAD};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError, OpenedShard, ShardHead, Snapshot};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};

const LAYOUT: Layout = Layout {
    file: "journal.sqlite",
    // Rowid tables with unique indexes: in a WITHOUT ROWID table a frame of a kilobyte spills a whole page.
    steps: &["
        CREATE TABLE heads(
            shard INTEGER NOT NULL,
            owner TEXT,
            epoch INTEGER NOT NULL,
            last_lsn INTEGER NOT NULL,
            last_hash BLOB NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX heads_by_shard ON heads(shard);
        CREATE TABLE frames(
            shard INTEGER NOT NULL,
            lsn INTEGER NOT NULL,
            frame BLOB NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX frames_by_lsn ON frames(shard, lsn);
        CREATE TABLE snapshots(
            shard INTEGER NOT NULL,
            lsn INTEGER NOT NULL,
            hash BLOB NOT NULL,
            bytes BLOB NOT NULL,
            crc32c INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX snapshots_by_lsn ON snapshots(shard, lsn);
    "],
    page_size: 4_096,
    sync: Sync::Full,
};

/// Requests that may wait for the writing thread; callers beyond it wait for a place.
const QUEUE: usize = 1_024;

/// Threads that read: a projection must not wait for an open that verifies a long log.
const READERS: usize = 2;

/// Largest snapshot: half of what SQLite takes in one value.
pub const MAX_SNAPSHOT: usize = 512 * 1024 * 1024;

/// The journal in `journal.sqlite`.
pub struct SqliteJournal {
    requests: mpsc::Sender<Request>,
    _writer: JoinOnDrop,
    readers: Readers,
    poison: Poison,
    transactions: Arc<AtomicU64>,
}

/// A frame with what the writing thread would else have to compute.
struct PreparedFrame {
    frame: Frame,
    hash: FrameHash,
    bytes: Vec<u8>,
}

type Answer<T> = oneshot::Sender<Result<T, JournalError>>;

enum Request {
    Raise { shard: ShardId, owner: NodeId, answer: Answer<u64> },
    Commit { frames: Vec<PreparedFrame>, answer: Answer<Vec<CommitOutcome>> },
    Release { shard: ShardId, epoch: u64, answer: Answer<bool> },
    PutSnapshot { shard: ShardId, epoch: u64, snapshot: Snapshot, answer: Answer<bool> },
}

impl SqliteJournal {
    /// Opens the journal of a data directory and starts its threads.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        let connection = open_writer(dir, &LAYOUT)?;
        let readers = Readers::start(dir, &LAYOUT, READERS)?;
        let poison = Poison::default();
        let (requests, queue) = mpsc::channel(QUEUE);
        let transactions = Arc::new(AtomicU64::new(0));
        let writer = write::Writer::new(connection, poison.clone(), Arc::clone(&transactions), dir.clone());
        let spawned = std::thread::Builder::new().name(thread_name(&LAYOUT, "w")).spawn(move || writer.run(queue));
        let thread = spawned.map_err(|source| OpenError::Io { path: path_of(dir, &LAYOUT), source })?;
        Ok(Self { requests, _writer: JoinOnDrop::new(thread), readers, poison, transactions })
    }

    /// Transactions written by this process: with the frames committed, how well commits are grouped.
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    async fn request<T>(&self, make: impl FnOnce(Answer<T>) -> Request) -> Result<T, JournalError> {
        self.poison.check()?;
        let (answer, answered) = oneshot::channel();
        self.requests.send(make(answer)).await.map_err(|_| JournalError::Closed)?;
        // The thread ends without an answer only by a panic: what it had in hand may be stored.
        answered.await.map_err(|_| JournalError::Closed)?
    }

    async fn read_with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        self.poison.check()?;
        // Damage names its shard and number, which a `Fault` cannot: it travels inside.
        self.readers.read(|transaction| Ok(read(transaction))).await?
    }
}

impl Journal for SqliteJournal {
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>> {
        Box::pin(async move {
            let epoch = self.request(|answer| Request::Raise { shard, owner, answer }).await?;
            self.read_with(move |transaction| read::opened(transaction, shard, epoch)).await
        })
    }

    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>> {
        Box::pin(async move {
            if frames.is_empty() {
                return Ok(Vec::new());
            }
            if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
                let bytes = frame.payload.len();
                return Err(JournalError::TooLarge { shard: frame.shard, bytes, limit: MAX_PAYLOAD });
            }
            let prepare = |frame: Frame| {
                let (hash, bytes) = (frame.hash(), frame.encode());
                PreparedFrame { frame, hash, bytes }
            };
            let frames = frames.into_iter().map(prepare).collect();
            self.request(|answer| Request::Commit { frames, answer }).await
        })
    }

    fn read(&self, shard: ShardId, after_lsn: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>> {
        Box::pin(self.read_with(move |transaction| read::page(transaction, shard, after_lsn, limit)))
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>> {
        Box::pin(self.read_with(|transaction| Ok(read::heads(transaction)?)))
    }

    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(self.request(move |answer| Request::Release { shard, epoch, answer }))
    }

    fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move {
            if snapshot.bytes.len() > MAX_SNAPSHOT {
                let bytes = snapshot.bytes.len();
                return Err(JournalError::TooLarge { shard, bytes, limit: MAX_SNAPSHOT });
            }
            self.request(|answer| Request::PutSnapshot { shard, epoch, snapshot, answer }).await
        })
    }
}

/// A shard as a stored number: the family in the bits above the index.
pub(crate) fn code_of(shard: ShardId) -> i64 {
    i64::from(shard.family.code()) << 16 | i64::from(shard.index)
}

pub(crate) fn shard_of_code(code: i64) -> Result<ShardId, Fault> {
    let unknown = || Fault::corrupt(format!("{code} is no shard"));
    let family = u8::try_from(code >> 16).ok().and_then(Family::from_code).ok_or_else(unknown)?;
    let index = u16::try_from(code & 0xffff).map_err(|_| unknown())?;
    Ok(ShardId { family, index })
}

fn hash_of(bytes: &[u8]) -> Result<FrameHash, Fault> {
    let wrong = |_| Fault::corrupt(format!("a hash of {} bytes", bytes.len()));
    bytes.try_into().map(FrameHash).map_err(wrong)
}

/// Covers everything a snapshot's row says.
fn snapshot_checksum(shard: ShardId, lsn: u64, hash: &[u8], bytes: &[u8]) -> u32 {
    let start = crc32c::crc32c(&code_of(shard).to_le_bytes());
    let start = crc32c::crc32c_append(start, &lsn.to_le_bytes());
    let start = crc32c::crc32c_append(start, hash);
    crc32c::crc32c_append(start, bytes)
}
