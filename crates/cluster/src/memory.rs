//! In-memory versions of the ports, for tests: same rules, nothing durable, faults on demand.

use crate::BoxFuture;
use crate::coordination::{
    BeatOutcome, ClusterSettings, Coordination, CoordinationError, Joined, LeaseState, NodeHello, NodeRecord,
};
use crate::frame::{Frame, FrameHash, MAX_PAYLOAD};
use crate::journal::{
    ChainCheck, CommitOutcome, Journal, JournalError, Judgement, OpenedShard, ShardHead, Snapshot, judge,
};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What a [`MemoryJournal`] does to its next commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitFault {
    /// Applies it and answers `OutcomeUnknown`.
    ApplyThenUnknown,
    /// Does not apply it and answers `OutcomeUnknown`.
    DropThenUnknown,
    /// Does not apply it and fails, as do all calls after it.
    Fail(JournalError),
}

#[derive(Default)]
struct Log {
    /// Encoded, as an adapter would store them: damage can be done to them.
    frames: Vec<Vec<u8>>,
    snapshots: VecDeque<Snapshot>,
    head: Option<ShardHead>,
}

#[derive(Default)]
struct JournalState {
    logs: BTreeMap<ShardId, Log>,
    faults: VecDeque<CommitFault>,
    poisoned: Option<JournalError>,
    commits: u64,
}

/// A [`Journal`] in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryJournal {
    state: Arc<Mutex<JournalState>>,
    /// Commits wait while this is true.
    held: watch::Sender<bool>,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self { state: Arc::default(), held: watch::Sender::new(false) }
    }
}

impl MemoryJournal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next commit without a fault yet fail like this. Faults queue.
    pub fn inject(&self, fault: CommitFault) {
        self.lock().faults.push_back(fault);
    }

    /// While held, commits wait (and apply after the release): replies must wait with them.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How many commits were applied.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// The frames of a shard as stored.
    pub fn frames(&self, shard: ShardId) -> Vec<Frame> {
        let state = self.lock();
        let log = state.logs.get(&shard);
        log.map_or_else(Vec::new, |log| log.frames.iter().filter_map(|bytes| Frame::decode(bytes).ok()).collect())
    }

    /// Does damage: hands the encoded frames of a shard to `change`.
    pub fn damage(&self, shard: ShardId, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        change(&mut self.lock().logs.entry(shard).or_default().frames);
    }

    fn lock(&self) -> MutexGuard<'_, JournalState> {
        // A test that panicked elsewhere must not hide its message behind a second panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until_free(&self) {
        // The sender lives as long as `self`.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }
}

impl JournalState {
    fn check(&self) -> Result<(), JournalError> {
        self.poisoned.clone().map_or(Ok(()), Err)
    }

    fn open(&mut self, shard: ShardId, owner: NodeId) -> Result<OpenedShard, JournalError> {
        self.check()?;
        let log = self.logs.entry(shard).or_default();
        let head = log.head.get_or_insert_with(|| ShardHead {
            shard,
            owner: None,
            epoch: 0,
            last_lsn: 0,
            last_hash: FrameHash::genesis(shard),
        });
        head.epoch += 1;
        head.owner = Some(owner);
        let snapshot = log.snapshots.back().cloned();
        let (after, hash) = snapshot.as_ref().map_or((0, FrameHash::genesis(shard)), |s| (s.lsn, s.hash));
        let mut chain = ChainCheck::after(shard, after, Some(hash));
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let mut tail = Vec::new();
        for bytes in log.frames.iter().skip(skip) {
            tail.push(chain.next(bytes)?);
        }
        chain.finish(head)?;
        Ok(OpenedShard {
            shard,
            epoch: head.epoch,
            last_lsn: head.last_lsn,
            last_hash: head.last_hash,
            snapshot,
            tail,
            damaged_snapshots: Vec::new(),
        })
    }

    fn commit(&mut self, frames: &[Frame]) -> Result<Vec<CommitOutcome>, JournalError> {
        self.check()?;
        if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
            let bytes = frame.payload.len();
            return Err(JournalError::TooLarge { shard: frame.shard, bytes, limit: MAX_PAYLOAD });
        }
        match self.faults.pop_front() {
            None => Ok(self.apply(frames)),
            Some(CommitFault::ApplyThenUnknown) => {
                self.apply(frames);
                Err(JournalError::OutcomeUnknown("injected: applied".to_owned()))
            }
            Some(CommitFault::DropThenUnknown) => Err(JournalError::OutcomeUnknown("injected: not applied".to_owned())),
            Some(CommitFault::Fail(error)) => {
                self.poisoned = Some(error.clone());
                Err(error)
            }
        }
    }

    fn apply(&mut self, frames: &[Frame]) -> Vec<CommitOutcome> {
        self.commits += 1;
        frames.iter().map(|frame| self.apply_one(frame)).collect()
    }

    fn apply_one(&mut self, frame: &Frame) -> CommitOutcome {
        let log = self.logs.entry(frame.shard).or_default();
        let Some(head) = &mut log.head else {
            return CommitOutcome::Fenced { epoch: 0, last_lsn: 0 };
        };
        let hash = frame.hash();
        match judge(head, frame, hash) {
            Judgement::Store => {
                log.frames.push(frame.encode());
                (head.last_lsn, head.last_hash) = (frame.lsn, hash);
                CommitOutcome::Committed
            }
            Judgement::AlreadyStored => CommitOutcome::Committed,
            Judgement::Fenced { epoch, last_lsn } => CommitOutcome::Fenced { epoch, last_lsn },
        }
    }

    fn put_snapshot(&mut self, shard: ShardId, epoch: u64, snapshot: Snapshot) -> Result<bool, JournalError> {
        self.check()?;
        let Some(log) = self.logs.get_mut(&shard) else {
            return Ok(false);
        };
        let owned = log.head.as_ref().is_some_and(|head| head.epoch == epoch && head.owner.is_some());
        let place = usize::try_from(snapshot.lsn).ok().and_then(|lsn| lsn.checked_sub(1));
        let frame = place.and_then(|place| log.frames.get(place)).and_then(|bytes| Frame::decode(bytes).ok());
        let newest = log.snapshots.back().is_none_or(|newest| newest.lsn < snapshot.lsn);
        if !owned || !newest || frame.is_none_or(|frame| frame.hash() != snapshot.hash) {
            return Ok(false);
        }
        log.snapshots.push_back(snapshot);
        if log.snapshots.len() > 2 {
            log.snapshots.pop_front();
        }
        Ok(true)
    }
}

impl Journal for MemoryJournal {
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>> {
        Box::pin(async move { self.lock().open(shard, owner) })
    }

    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>> {
        Box::pin(async move {
            self.wait_until_free().await;
            self.lock().commit(&frames)
        })
    }

    fn read(&self, shard: ShardId, after_lsn: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>> {
        Box::pin(async move {
            let state = self.lock();
            let mut chain = ChainCheck::after(shard, after_lsn, None);
            let frames = state.logs.get(&shard).map_or(&[][..], |log| &log.frames);
            let skip = usize::try_from(after_lsn).unwrap_or(usize::MAX);
            frames.iter().skip(skip).take(limit).map(|bytes| chain.next(bytes)).collect()
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>> {
        Box::pin(async move { Ok(self.lock().logs.values().filter_map(|log| log.head.clone()).collect()) })
    }

    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move {
            let mut state = self.lock();
            state.check()?;
            let head = state.logs.get_mut(&shard).and_then(|log| log.head.as_mut());
            let Some(head) = head.filter(|head| head.epoch == epoch && head.owner.is_some()) else {
                return Ok(false);
            };
            head.owner = None;
            Ok(true)
        })
    }

    fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move { self.lock().put_snapshot(shard, epoch, snapshot) })
    }
}

#[derive(Default)]
struct CoordinationState {
    settings: Option<ClusterSettings>,
    nodes: BTreeMap<NodeId, NodeRecord>,
    failing: bool,
}

/// A [`Coordination`] in memory that can hang or fail on demand. Clones share it.
#[derive(Clone)]
pub struct MemoryCoordination {
    state: Arc<Mutex<CoordinationState>>,
    hanging: watch::Sender<bool>,
}

impl Default for MemoryCoordination {
    fn default() -> Self {
        Self { state: Arc::default(), hanging: watch::Sender::new(false) }
    }
}

impl MemoryCoordination {
    /// While true, calls wait (and are carried out afterwards).
    pub fn hang(&self, hanging: bool) {
        self.hanging.send_replace(hanging);
    }

    /// While true, calls fail without effect.
    pub fn fail(&self, failing: bool) {
        self.lock().failing = failing;
    }

    fn lock(&self) -> MutexGuard<'_, CoordinationState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reach(&self) -> Result<MutexGuard<'_, CoordinationState>, CoordinationError> {
        // The sender lives as long as `self`.
        let _ = self.hanging.subscribe().wait_for(|hanging| !hanging).await;
        let state = self.lock();
        if state.failing { Err(CoordinationError::Unavailable("injected".to_owned())) } else { Ok(state) }
    }
}

impl CoordinationState {
    fn held(&mut self, node: &NodeId, incarnation: u64) -> Option<&mut NodeRecord> {
        let held = |record: &&mut NodeRecord| record.incarnation == incarnation && record.state == LeaseState::Held;
        self.nodes.get_mut(node).filter(held)
    }
}

impl Coordination for MemoryCoordination {
    fn join(&self, hello: NodeHello, settings: ClusterSettings) -> BoxFuture<'_, Result<Joined, CoordinationError>> {
        Box::pin(async move {
            settings.check()?;
            let mut state = self.reach().await?;
            let first = state.settings.is_none();
            let born = state.settings.get_or_insert_with(|| settings.clone()).clone();
            if born != settings {
                return Err(CoordinationError::SettingsDiffer { born, asked: settings });
            }
            let incarnation = state.nodes.get(&hello.node).map_or(0, |record| record.incarnation) + 1;
            let node = hello.node.clone();
            state.nodes.insert(node, NodeRecord { hello, incarnation, beat: 0, state: LeaseState::Held });
            Ok(Joined { incarnation, first })
        })
    }

    fn beat(&self, node: NodeId, incarnation: u64, beat: u64) -> BoxFuture<'_, Result<BeatOutcome, CoordinationError>> {
        Box::pin(async move {
            let mut state = self.reach().await?;
            let Some(record) = state.held(&node, incarnation) else {
                return Ok(BeatOutcome::Refused);
            };
            record.beat = record.beat.max(beat);
            Ok(BeatOutcome::Written)
        })
    }

    fn release(&self, node: NodeId, incarnation: u64) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        Box::pin(async move {
            let mut state = self.reach().await?;
            let Some(record) = state.held(&node, incarnation) else {
                return Ok(false);
            };
            record.state = LeaseState::Released;
            Ok(true)
        })
    }

    fn declare_dead(
        &self,
        node: NodeId,
        incarnation: u64,
        beat: u64,
    ) -> BoxFuture<'_, Result<bool, CoordinationError>> {
        Box::pin(async move {
            let mut state = self.reach().await?;
            let Some(record) = state.held(&node, incarnation).filter(|record| record.beat == beat) else {
                return Ok(false);
            };
            record.state = LeaseState::DeclaredDead;
            Ok(true)
        })
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeRecord>, CoordinationError>> {
        Box::pin(async move { Ok(self.reach().await?.nodes.values().cloned().collect()) })
    }

    fn settings(&self) -> BoxFuture<'_, Result<Option<ClusterSettings>, CoordinationError>> {
        Box::pin(async move { Ok(self.reach().await?.settings.clone()) })
    }
}
