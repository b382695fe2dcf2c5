//! The projection actor: read models from the journal, behind it by a cursor.
//!
//! Supervised by the node. Shards tell it how far they are; it reads the frames from the journal itself, so a
//! restart, a lost message and a rebuild take the same path. Its rows are keyed by (shard, log number, index):
//! projecting a frame again changes nothing.

use crate::entry::{self, StoredEntry, StoredEvent};
use crate::family::{AccountKey, StationFamilyEvent};
use crate::handle::CallError;
use crate::metric;
use crate::ports::{LedgerEntry, ProjectionBatch, StoreError, StoredRecord};
use crate::reply::Reply;
use crate::shared::NodeShared;
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::JournalError;
use chargeplane_domain::account::{self, AccountEvent};
use chargeplane_domain::charger::ChargerEvent;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::Money;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Frames read at a time.
const PAGE: usize = 500;

/// Pause after a page, so that many small frames are projected together.
const LINGER: Duration = Duration::from_millis(50);

/// Pause before the journal is asked again that could not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A reader waits at most so long for what it wrote.
pub const WAIT: Duration = Duration::from_secs(2);

/// Most readers that wait. Others are answered with what there is.
const MAX_WAITING: usize = 1_024;

/// Messages of the projection actor.
pub enum ProjectionMessage {
    /// A shard has committed up to here.
    Advanced { shard: ShardId, lsn: u64 },
    /// A page is projected.
    Projected { shard: ShardId, result: Result<u64, StoreError> },
    /// Answers when everything is projected that this shard has told so far.
    Reached { shard: ShardId, reply: Reply<()> },
    /// Frames that are committed and not projected.
    Lag(Reply<u64>),
}

/// The projection actor.
pub struct ProjectionActor;

#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    committed: u64,
    projected: u64,
    working: bool,
}

/// State of the projection actor.
pub struct ProjectionState {
    shared: Arc<NodeShared>,
    shards: BTreeMap<ShardId, Progress>,
    /// Readers of what they wrote.
    waiting: Vec<Waiting>,
}

/// A reader that waits until a log number is projected.
struct Waiting {
    shard: ShardId,
    lsn: u64,
    until: Instant,
    reply: Reply<()>,
}

impl Actor for ProjectionActor {
    type Msg = ProjectionMessage;
    type State = ProjectionState;
    type Arguments = Arc<NodeShared>;

    async fn pre_start(
        &self,
        _myself: ActorRef<ProjectionMessage>,
        shared: Arc<NodeShared>,
    ) -> Result<ProjectionState, ActorProcessingErr> {
        let mut shards: BTreeMap<ShardId, Progress> = BTreeMap::new();
        for (shard, projected) in shared.ports.projections.cursors().await? {
            shards.insert(shard, Progress { committed: projected, projected, working: false });
        }
        Ok(ProjectionState { shared, shards, waiting: Vec::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<ProjectionMessage>,
        message: ProjectionMessage,
        state: &mut ProjectionState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ProjectionMessage::Advanced { shard, lsn } => {
                let progress = state.shards.entry(shard).or_default();
                progress.committed = progress.committed.max(lsn);
                work(state, &myself, shard);
            }
            ProjectionMessage::Projected { shard, result } => {
                let progress = state.shards.entry(shard).or_default();
                progress.working = false;
                match result {
                    Ok(upto) => progress.projected = progress.projected.max(upto),
                    Err(error) => state.shared.fatal.raise(format!("projections: {error}")),
                }
                answer_reached(state);
                work(state, &myself, shard);
            }
            ProjectionMessage::Reached { shard, reply } => {
                let lsn = state.shards.get(&shard).map_or(0, |progress| progress.committed);
                state.waiting.retain(|waiting| waiting.until > Instant::now());
                if state.waiting.len() < MAX_WAITING {
                    state.waiting.push(Waiting { shard, lsn, until: Instant::now() + WAIT, reply });
                } else {
                    reply.answer(Err(CallError::Shed));
                }
                answer_reached(state);
            }
            ProjectionMessage::Lag(reply) => reply.answer(Ok(lag(state))),
        }
        Ok(())
    }
}

/// Answers those whose frames are projected.
fn answer_reached(state: &mut ProjectionState) {
    for waiting in std::mem::take(&mut state.waiting) {
        let projected = state.shards.get(&waiting.shard).map_or(0, |progress| progress.projected);
        if projected >= waiting.lsn {
            waiting.reply.answer(Ok(()));
        } else {
            state.waiting.push(waiting);
        }
    }
}

fn lag(state: &ProjectionState) -> u64 {
    state.shards.values().map(|progress| progress.committed.saturating_sub(progress.projected)).sum()
}

/// Projects the next page of a shard unless one is in work.
fn work(state: &mut ProjectionState, myself: &ActorRef<ProjectionMessage>, shard: ShardId) {
    metrics::gauge!(metric::PROJECTION_LAG_FRAMES).set(lag(state) as f64);
    let Some(progress) = state.shards.get_mut(&shard) else { return };
    if progress.working || progress.projected >= progress.committed || state.shared.fatal.is_raised() {
        return;
    }
    progress.working = true;
    let (shared, actor, after) = (Arc::clone(&state.shared), myself.clone(), progress.projected);
    tokio::spawn(async move {
        tokio::time::sleep(LINGER).await;
        let result = project_page(&shared, shard, after).await;
        drop(actor.cast(ProjectionMessage::Projected { shard, result }));
    });
}

async fn project_page(shared: &NodeShared, shard: ShardId, after: u64) -> Result<u64, StoreError> {
    let frames = match shared.ports.journal.read(shard, after, PAGE).await {
        // A journal over the network is away for a while; nothing was projected, and the page is asked for again.
        Err(JournalError::OutcomeUnknown(why)) => {
            tracing::warn!(%shard, %why, "the journal cannot be read; asking again");
            tokio::time::sleep(RETRY_PAUSE).await;
            return Ok(after);
        }
        frames => frames.map_err(|error| StoreError::Io(error.to_string()))?,
    };
    let Some(last) = frames.last() else { return Ok(after) };
    let upto_lsn = last.lsn;
    let mut batch = ProjectionBatch { shard, upto_lsn, records: Vec::new(), entries: Vec::new() };
    for frame in &frames {
        let projected = match shard.family {
            Family::Station => project_station(frame, &mut batch),
            Family::Account => project_account(frame, &mut batch),
        };
        projected.map_err(|error| StoreError::Corrupt(format!("{shard} frame {}: {error}", frame.lsn)))?;
    }
    shared.ports.projections.apply(batch).await?;
    Ok(upto_lsn)
}

fn project_station(frame: &Frame, batch: &mut ProjectionBatch) -> Result<(), entry::PayloadError> {
    for entry in entry::read(&frame.payload)? {
        let StoredEntry::Entity { key, event } = entry else { continue };
        if let Some(StationFamilyEvent::Charger(ChargerEvent::SessionSettled { record, .. })) = known(frame, key, event)
        {
            batch.records.push(StoredRecord { shard: frame.shard, lsn: frame.lsn, record });
        }
    }
    Ok(())
}

/// An event this program can read. Another one has quarantined its entity in the shard; the read models go on
/// without it, and are built again by a program that knows it.
fn known<E: DeserializeOwned>(frame: &Frame, key: &str, event: StoredEvent<'_>) -> Option<E> {
    let decoded = event.decode();
    if let Err(error) = &decoded {
        let (shard, lsn) = (frame.shard, frame.lsn);
        tracing::error!(%shard, lsn, entity = key, %error, "not in the read models: the event cannot be read");
    }
    decoded.ok()
}

fn project_account(frame: &Frame, batch: &mut ProjectionBatch) -> Result<(), entry::PayloadError> {
    let entries = entry::read(&frame.payload)?;
    for (index, entry) in (0u32..).zip(entries) {
        let StoredEntry::Entity { key, event } = entry else { continue };
        let Ok(AccountKey(account)) = key.parse() else { continue };
        let Some(event) = known::<AccountEvent>(frame, key, event) else { continue };
        let Some(line) = account::statement_entries(&event).into_iter().next() else { continue };
        batch.entries.push(LedgerEntry {
            shard: frame.shard,
            lsn: frame.lsn,
            index,
            account,
            kind: line.kind.code().to_owned(),
            amount: line.amount,
            // The store adds it to the account's balance before.
            balance: Money::ZERO,
            session: line.session,
            key: line.key,
            at: line.at,
        });
    }
    Ok(())
}
