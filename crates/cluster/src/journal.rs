//! The `Journal` port: one log of frames a shard, whose head is the record of who owns the shard.
//!
//! Keeps OWN-1 (epochs never go down, log numbers have no holes, each frame names the hash before it) and
//! MONEY-3 (what was answered `Committed` is there after any crash). The rules every adapter follows, and
//! `conformance` checks:
//! - [`Journal::open`] is one compare-and-set that raises the epoch every time, also for the same node. Only
//!   then is the tail read and verified. Whatever a former owner still has in flight is refused from there on.
//! - [`Journal::commit`] stores a frame only when its epoch is the head's and it follows the head directly.
//!   The very frame that is already the head's last is answered `Committed`: so a frame whose outcome was not
//!   learnt is offered again unchanged, and never another one under its number.
//! - Damage is reported with shard and log number; acknowledged frames are never dropped to get going.

use crate::BoxFuture;
use crate::frame::{Frame, FrameHash};
use bytes::Bytes;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;

/// A shard's state at one log number, so that an open need not replay its whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last frame the state contains.
    pub lsn: u64,
    /// That frame's hash: anchors the chain of the tail.
    pub hash: FrameHash,
    /// The state, opaque here. Snapshots are immutable and the newest two are kept.
    pub bytes: Bytes,
}

/// A shard that was opened: fenced, read and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedShard {
    /// The shard.
    pub shard: ShardId,
    /// The new epoch, which frames of this owner carry.
    pub epoch: u64,
    /// Number of the last frame, 0 when there is none.
    pub last_lsn: u64,
    /// Hash of the last frame, [`FrameHash::genesis`] when there is none.
    pub last_hash: FrameHash,
    /// The newest snapshot that is intact.
    pub snapshot: Option<Snapshot>,
    /// The frames after the snapshot, all of them when there is none. Verified up to `last_hash`.
    pub tail: Vec<Frame>,
    /// Log numbers of newer snapshots that were found damaged and passed over (the log has all they had).
    pub damaged_snapshots: Vec<u64>,
}

/// What became of one frame of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is durable.
    Committed,
    /// It was left out: the head is not what the frame was made for. The owner opens anew.
    Fenced {
        /// The head's epoch.
        epoch: u64,
        /// The head's last log number.
        last_lsn: u64,
    },
}

/// The head of a shard's log: the record of its ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHead {
    /// The shard.
    pub shard: ShardId,
    /// Who opened it last; none after a release.
    pub owner: Option<NodeId>,
    /// The epoch of that opening.
    pub epoch: u64,
    /// Number of the last frame.
    pub last_lsn: u64,
    /// Hash of the last frame.
    pub last_hash: FrameHash,
}

/// Why the journal did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It may have been done, it may be done later. Offer the same frames again, or open anew.
    #[error("the journal's answer did not come, the outcome is unknown: {0}")]
    OutcomeUnknown(String),
    /// The disk is full. The journal serves no more: free space and restart.
    #[error("the journal's disk is full: {0}; free space and restart the node")]
    Full(String),
    /// The store failed (I/O, fsync). The journal serves no more: restart the node.
    #[error("the journal failed: {0}; nothing is acknowledged any more, restart the node")]
    Io(String),
    /// The log is damaged. It is not served; restore it from a copy.
    #[error("the journal of {shard} is damaged at frame {lsn}: {what}; restore it from a copy")]
    Corrupt {
        /// The shard whose log it is.
        shard: ShardId,
        /// The first frame that is missing or wrong.
        lsn: u64,
        /// What is wrong.
        what: String,
    },
    /// The frame or snapshot is larger than the journal takes.
    #[error("{bytes} bytes for {shard}: the journal takes at most {limit}")]
    TooLarge {
        /// The shard.
        shard: ShardId,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The journal was shut down.
    #[error("the journal is closed")]
    Closed,
}

impl JournalError {
    /// True when the journal will not serve again in this process and the program must exit.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Io(_) | Self::Closed)
    }
}

/// Durable logs of shards. Methods are cheap to call from many tasks; the adapter groups commits.
pub trait Journal: Send + Sync {
    /// Takes the shard for `owner`: raises its epoch (from 1 up, every time), then reads and verifies.
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>>;

    /// Stores frames of any shards in one transaction and answers each, in their order. An `Err` covers all
    /// of them: none is known to be durable.
    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>>;

    /// Frames after `after_lsn`, in order, verified among themselves; at most `limit`, and fewer when they
    /// are large. Empty at the end of the log only. The chain to `after_lsn` itself is the caller's to check.
    fn read(&self, shard: ShardId, after_lsn: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>>;

    /// The heads of all shards that were ever opened, in order.
    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>>;

    /// Gives the shard up, if `epoch` is still the head's. Returns whether it was.
    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>>;

    /// Keeps a snapshot, if `epoch` is still the head's and the snapshot's frame is in the log with that hash.
    /// Returns whether it was. The newest two are kept. Made by the owner, from durable state only.
    fn put_snapshot(&self, shard: ShardId, epoch: u64, snapshot: Snapshot)
    -> BoxFuture<'_, Result<bool, JournalError>>;
}

/// What a frame's condition says against a head: shared by the adapters.
pub fn judge(head: &ShardHead, frame: &Frame, frame_hash: FrameHash) -> Judgement {
    if frame.epoch == head.epoch && frame.shard == head.shard {
        let follows = head.last_lsn.checked_add(1) == Some(frame.lsn) && frame.prev_hash == head.last_hash;
        if follows && head.owner.is_some() {
            return Judgement::Store;
        }
        if frame.lsn == head.last_lsn && frame_hash == head.last_hash {
            return Judgement::AlreadyStored;
        }
    }
    Judgement::Fenced { epoch: head.epoch, last_lsn: head.last_lsn }
}

/// The answer of [`judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// The frame follows the head: store it and advance the head.
    Store,
    /// The frame is the head's last: answer `Committed`.
    AlreadyStored,
    /// Leave it out.
    Fenced {
        /// The head's epoch.
        epoch: u64,
        /// The head's last log number.
        last_lsn: u64,
    },
}

/// Verifies frames as they are read from a log: shard, contiguous numbers, hash chain, epochs that never fall.
#[derive(Debug, Clone)]
pub struct ChainCheck {
    shard: ShardId,
    lsn: u64,
    hash: Option<FrameHash>,
    epoch: u64,
}

impl ChainCheck {
    /// Starts after frame `lsn`, whose hash is `hash`; none when it is not known (then the first frame's
    /// claim is believed).
    pub fn after(shard: ShardId, lsn: u64, hash: Option<FrameHash>) -> Self {
        Self { shard, lsn, hash, epoch: 0 }
    }

    /// Starts at the beginning of the shard's log.
    pub fn from_start(shard: ShardId) -> Self {
        Self::after(shard, 0, Some(FrameHash::genesis(shard)))
    }

    /// The next frame as stored, or what is wrong with it.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Frame, JournalError> {
        let lsn = self.lsn.saturating_add(1);
        let frame = Frame::decode(bytes).map_err(|error| self.corrupt(lsn, error.to_string()))?;
        self.accept(&frame)?;
        Ok(frame)
    }

    /// Checks a decoded frame as the next one.
    pub fn accept(&mut self, frame: &Frame) -> Result<(), JournalError> {
        let lsn = self.lsn.saturating_add(1);
        if frame.shard != self.shard {
            return Err(self.corrupt(lsn, format!("the frame belongs to {}", frame.shard)));
        }
        if frame.lsn != lsn {
            return Err(self.corrupt(lsn, format!("frame {} stands in its place", frame.lsn)));
        }
        if self.hash.is_some_and(|hash| hash != frame.prev_hash) {
            return Err(self.corrupt(lsn, "it does not continue the hash chain".to_owned()));
        }
        if frame.epoch < self.epoch {
            let what = format!("epoch {} after epoch {}", frame.epoch, self.epoch);
            return Err(self.corrupt(lsn, what));
        }
        (self.lsn, self.hash, self.epoch) = (lsn, Some(frame.hash()), frame.epoch);
        Ok(())
    }

    /// Checks that the log ended where its head says.
    pub fn finish(&self, head: &ShardHead) -> Result<(), JournalError> {
        if self.lsn < head.last_lsn {
            let what = format!("it is missing; the head is at frame {}", head.last_lsn);
            return Err(self.corrupt(self.lsn.saturating_add(1), what));
        }
        if self.lsn > head.last_lsn {
            return Err(self.corrupt(self.lsn, format!("the head is at frame {}", head.last_lsn)));
        }
        if self.hash.is_some_and(|hash| hash != head.last_hash) {
            return Err(self.corrupt(self.lsn, "the head names another hash".to_owned()));
        }
        if self.epoch > head.epoch {
            let what = format!("epoch {} above the head's {}", self.epoch, head.epoch);
            return Err(self.corrupt(self.lsn, what));
        }
        Ok(())
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The last accepted log number.
    pub fn lsn(&self) -> u64 {
        self.lsn
    }

    /// The last accepted hash.
    pub fn hash(&self) -> Option<FrameHash> {
        self.hash
    }

    /// Damage at `lsn` of this log.
    pub fn corrupt(&self, lsn: u64, what: String) -> JournalError {
        JournalError::Corrupt { shard: self.shard, lsn, what }
    }
}
