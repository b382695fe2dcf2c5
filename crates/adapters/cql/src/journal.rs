//! The journal: commits, opens and releases by conditional writes to the newest segment of a shard.
//!
//! A shard has one conditional write in flight at most, under its slot's lock; shards go side by side. What a slot
//! remembers is where the tail was. The conditions decide whether it still is, so a slot that is out of date, after
//! another node took the shard or an answer was lost, costs a read and nothing else. A restart reloads nothing.

use crate::durability::Durability;
use crate::head::{Head, SegmentState, stored};
use crate::options::{CqlOptions, SegmentLimits};
use crate::schema::{self, Access, ConnectError};
use crate::store::{Level, PreparedFrame, Store, Tail};
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::frame::{Frame, MAX_PAYLOAD};
use chargeplane_cluster::journal::{
    CommitOutcome, Journal, JournalError, Judgement, OpenedShard, ShardHead, Snapshot, judge,
};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Bytes of frames in one conditional write; a single frame may be larger. It goes through the database's log of
/// agreements as well as its commit log, whose entries are half a log segment at most: 16 MiB by default.
const MAX_WRITE_BYTES: usize = 4 * 1024 * 1024;

/// How often a call begins anew because another node moved the head meanwhile.
const MAX_TRIES: u32 = 32;

/// A journal in a keyspace of ScyllaDB or Cassandra.
pub struct CqlJournal {
    inner: Arc<Inner>,
    durability: Durability,
}

pub(crate) struct Inner {
    pub store: Store,
    limits: SegmentLimits,
    slots: StdMutex<HashMap<ShardId, Arc<Mutex<Slot>>>>,
}

/// What is remembered of a shard.
#[derive(Default)]
pub(crate) struct Slot {
    /// It is in the list of shards.
    registered: bool,
    /// Where the next commit goes, if that is known.
    tail: Option<Tail>,
    /// First log number and number of segments, without holes up to the newest that is known.
    pub starts: BTreeMap<u64, u64>,
}

/// Counts how often a call began anew.
#[derive(Default)]
pub(crate) struct Tries(u32);

impl Tries {
    pub(crate) fn again(&mut self) -> Result<(), JournalError> {
        self.0 = self.0.saturating_add(1);
        if self.0 < MAX_TRIES {
            return Ok(());
        }
        Err(JournalError::OutcomeUnknown(format!("another node changed the head {MAX_TRIES} times meanwhile")))
    }
}

impl CqlJournal {
    /// Connects, makes keyspace and tables where they are not there, and finds out what durability there is.
    /// Refuses a database that answers before its commit log is synced, unless the options allow it.
    pub async fn connect(options: &CqlOptions) -> Result<Self, ConnectError> {
        Self::with(options, Access::Serve).await
    }

    /// Connects to a journal that is there, for who only reads: makes nothing, and says so when the keyspace has none
    /// ([`ConnectError::Missing`]). Any durability will do.
    pub async fn find(options: &CqlOptions) -> Result<Self, ConnectError> {
        Self::with(options, Access::Read).await
    }

    async fn with(options: &CqlOptions, access: Access) -> Result<Self, ConnectError> {
        let (store, durability) = schema::connect(options, access).await?;
        let inner = Inner { store, limits: options.segment, slots: StdMutex::default() };
        Ok(Self { inner: Arc::new(inner), durability })
    }

    /// What an acknowledged commit withstands here. To be said at start.
    pub fn durability(&self) -> &Durability {
        &self.durability
    }
}

impl Journal for CqlJournal {
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>> {
        Box::pin(async move {
            let epoch = self.inner.raise(shard, owner).await?;
            self.inner.opened(shard, epoch).await
        })
    }

    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>> {
        Box::pin(commit(Arc::clone(&self.inner), frames))
    }

    fn read(&self, shard: ShardId, after_lsn: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>> {
        Box::pin(self.inner.page(shard, after_lsn, limit))
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>> {
        Box::pin(self.inner.heads())
    }

    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(self.inner.release(shard, epoch))
    }

    fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(self.inner.put_snapshot(shard, epoch, snapshot))
    }
}

/// Commits the shards side by side; the answers are in the frames' order.
async fn commit(inner: Arc<Inner>, frames: Vec<Frame>) -> Result<Vec<CommitOutcome>, JournalError> {
    if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
        let bytes = frame.payload.len();
        return Err(JournalError::TooLarge { shard: frame.shard, bytes, limit: MAX_PAYLOAD });
    }
    let order: Vec<ShardId> = frames.iter().map(|frame| frame.shard).collect();
    let mut by_shard: BTreeMap<ShardId, Vec<Frame>> = BTreeMap::new();
    for frame in frames {
        by_shard.entry(frame.shard).or_default().push(frame);
    }
    let mut tasks = JoinSet::new();
    for (shard, frames) in by_shard {
        let inner = Arc::clone(&inner);
        tasks.spawn(async move { (shard, inner.commit_shard(shard, frames).await) });
    }
    let (mut outcomes, mut failed) = (BTreeMap::new(), None::<JournalError>);
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((shard, Ok(of_shard))) => drop(outcomes.insert(shard, of_shard.into_iter())),
            // The gravest says what to do.
            Ok((_, Err(error))) => failed = Some(failed.filter(JournalError::is_fatal).unwrap_or(error)),
            Err(_) => return Err(JournalError::Closed),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let next = |shard| outcomes.get_mut(&shard).and_then(Iterator::next).ok_or(JournalError::Closed);
    order.into_iter().map(next).collect()
}

/// What a head says of frames that are to be stored.
enum Settled {
    /// The first so many are told.
    Told(Vec<CommitOutcome>),
    /// They follow the head.
    Follow,
}

impl Inner {
    pub(crate) fn slot(&self, shard: ShardId) -> Arc<Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(shard).or_default())
    }

    /// Commits the frames of one shard, those that follow each other in one write.
    async fn commit_shard(&self, shard: ShardId, frames: Vec<Frame>) -> Result<Vec<CommitOutcome>, JournalError> {
        let frames: Vec<PreparedFrame> = frames.into_iter().map(PreparedFrame::new).collect();
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let mut outcomes = Vec::with_capacity(frames.len());
        let mut tries = Tries::default();
        while let Some(rest) = frames.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            if let Some(stored) = self.append(&mut slot, rest).await? {
                outcomes.extend(std::iter::repeat_n(CommitOutcome::Committed, stored));
                tries = Tries::default();
                continue;
            }
            // Where is the tail, and what does its head say of these frames?
            tries.again()?;
            let Some(head) = self.locate(shard, &mut slot, Level::Serial).await? else {
                outcomes.push(CommitOutcome::Fenced { epoch: 0, last_lsn: 0 });
                continue;
            };
            match settle(&head, rest) {
                Settled::Told(told) => {
                    outcomes.extend(told);
                    tries = Tries::default();
                }
                Settled::Follow if head.state == SegmentState::Sealed => self.extend(&head, &mut slot).await?,
                Settled::Follow => slot.tail = Some(Tail::of(&head)),
            }
        }
        Ok(outcomes)
    }

    /// Tries to append the beginning of `rest` at the remembered tail; says how many frames it was, none when the
    /// tail is not known or not there any more.
    async fn append(&self, slot: &mut Slot, rest: &[PreparedFrame]) -> Result<Option<usize>, JournalError> {
        // Taken out: an error, or a caller that gives up, leaves it unknown.
        let (Some(tail), Some(first)) = (slot.tail.take(), rest.first()) else { return Ok(None) };
        let run = rest.get(..run_of(rest)).unwrap_or(rest);
        let size: usize = run.iter().map(|one| one.bytes.len()).sum();
        let bytes = tail.bytes.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        let frames = first.frame.lsn.saturating_sub(tail.first_lsn);
        if frames > 0 && (bytes > self.limits.bytes || frames >= self.limits.frames) {
            self.store.seal(tail, &first.frame).await?;
            return Ok(None);
        }
        if !self.store.append(tail, run, bytes).await? {
            return Ok(None);
        }
        slot.tail = Some(Tail { bytes, ..tail });
        Ok(Some(run.len()))
    }

    /// Makes the successor of a sealed segment for the same owner. Somebody else may have been first.
    pub(crate) async fn extend(&self, sealed: &Head, slot: &mut Slot) -> Result<(), JournalError> {
        let next = sealed.successor(sealed.owner.clone(), sealed.epoch);
        if self.store.create(&next).await? {
            self.created(&next, slot).await;
        }
        Ok(())
    }

    /// Notes a segment that was made.
    async fn created(&self, head: &Head, slot: &mut Slot) {
        slot.tail = Some(Tail::of(head));
        slot.starts.insert(head.first_lsn, head.segment);
        if let Err(error) = self.store.set_hint(head.shard, head.segment).await {
            tracing::debug!(shard = %head.shard, %error, "where the log's tail is could not be noted");
        }
    }

    /// The head of the shard's newest segment, none when nobody ever opened it. Sealed only when the successor is
    /// not there.
    pub(crate) async fn locate(
        &self,
        shard: ShardId,
        slot: &mut Slot,
        level: Level,
    ) -> Result<Option<Head>, JournalError> {
        let known = slot.starts.last_key_value().map(|(_, segment)| *segment);
        let mut segment = match known {
            Some(segment) => segment,
            None => self.store.hint(shard).await?,
        };
        let mut newest: Option<Head> = None;
        while let Some(head) = self.store.head(shard, segment, level).await? {
            slot.starts.insert(head.first_lsn, head.segment);
            let sealed = head.state == SegmentState::Sealed;
            newest = Some(head);
            if !sealed {
                break;
            }
            segment = segment.saturating_add(1);
        }
        match newest {
            None if segment > 0 => {
                let what = format!("segment {segment} of its log is missing");
                Err(JournalError::Corrupt { shard, lsn: 0, what })
            }
            newest => Ok(newest),
        }
    }

    /// Takes the shard for `owner`: returns the new epoch.
    async fn raise(&self, shard: ShardId, owner: NodeId) -> Result<u64, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        if !slot.registered {
            self.store.register(shard).await?;
            slot.registered = true;
        }
        let mut tries = Tries::default();
        loop {
            slot.tail = None;
            let head = self.locate(shard, &mut slot, Level::Serial).await?;
            let epoch = head.as_ref().map_or(1, |head| head.epoch.saturating_add(1));
            if stored(epoch) == i64::MAX {
                return Err(JournalError::Io(format!("{shard} has no epochs left")));
            }
            let taken = match head {
                Some(head) if head.state != SegmentState::Sealed => {
                    slot.tail = Some(Tail::of(&head));
                    self.store.raise(&head, &owner, epoch).await?
                }
                sealed_or_none => {
                    let next = match sealed_or_none {
                        Some(sealed) => sealed.successor(owner.clone(), epoch),
                        None => Head::genesis(shard, owner.clone()),
                    };
                    let made = self.store.create(&next).await?;
                    if made {
                        self.created(&next, &mut slot).await;
                    }
                    made
                }
            };
            if taken {
                return Ok(epoch);
            }
            tries.again()?;
        }
    }

    async fn release(&self, shard: ShardId, epoch: u64) -> Result<bool, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let mut tries = Tries::default();
        loop {
            let head = self.locate(shard, &mut slot, Level::Serial).await?;
            let Some(head) = head.filter(|head| head.epoch == epoch && head.state != SegmentState::Released) else {
                return Ok(false);
            };
            if head.state == SegmentState::Sealed {
                self.extend(&head, &mut slot).await?;
            } else if self.store.release(&head).await? {
                return Ok(true);
            }
            tries.again()?;
        }
    }
}

/// How many of the frames go into one write: those that follow each other, within its size.
fn run_of(frames: &[PreparedFrame]) -> usize {
    let mut bytes = 0usize;
    let within = |one: &&PreparedFrame| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(one.bytes.len());
        first || bytes <= MAX_WRITE_BYTES
    };
    chain_of(frames).iter().take_while(within).count()
}

/// The beginning of the frames in which each continues the one before.
fn chain_of(frames: &[PreparedFrame]) -> &[PreparedFrame] {
    let continues = |(one, next): (&PreparedFrame, &PreparedFrame)| {
        let follows = one.frame.lsn.checked_add(1) == Some(next.frame.lsn) && next.frame.prev_hash == one.hash;
        follows && next.frame.epoch == one.frame.epoch
    };
    let more = frames.iter().zip(frames.iter().skip(1)).take_while(|pair| continues(*pair)).count();
    frames.get(..=more).unwrap_or(frames)
}

/// A head that names one of a chain's frames has all before it too: each names the hash of the one before.
fn settle(head: &Head, frames: &[PreparedFrame]) -> Settled {
    let chain = chain_of(frames);
    let Some(first) = chain.first() else { return Settled::Told(Vec::new()) };
    if first.frame.epoch == head.epoch
        && let Some(at) = chain.iter().position(|one| one.hash == head.last_hash)
    {
        return Settled::Told(vec![CommitOutcome::Committed; at.saturating_add(1)]);
    }
    match judge(&head.shard_head(), &first.frame, first.hash) {
        Judgement::Store => Settled::Follow,
        Judgement::AlreadyStored => Settled::Told(vec![CommitOutcome::Committed]),
        Judgement::Fenced { epoch, last_lsn } => Settled::Told(vec![CommitOutcome::Fenced { epoch, last_lsn }]),
    }
}

#[cfg(test)]
mod tests;
