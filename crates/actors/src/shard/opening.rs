//! Opening a shard: raise the epoch, replay the log, start what must be live.

use super::snapshot::{self, Restored, SnapshotError};
use super::{Family, OpenShard, Phase, ShardMessage, ShardState, entities};
use crate::entry::{self, PayloadError, StoredEntry, StoredEvent};
use crate::handle::CallError;
use crate::metric;
use crate::projection::ProjectionMessage;
use crate::shared::NodeShared;
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{ChainCheck, Journal, JournalError, OpenedShard, Snapshot};
use chargeplane_domain::placement::ShardId;
use ractor::{ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::Duration;

use super::EntityMessage as _;

/// Frames read at a time when a snapshot is of no use.
const PAGE: usize = 1_000;

/// Pause before another try when the journal could not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A shard that was opened, with what its snapshot holds.
pub struct Opened<F: Family> {
    shard: OpenedShard,
    restored: Option<(Restored<F>, usize)>,
}

/// Asks the journal for the shard, again and again while its answer cannot be learnt: opening twice is
/// harmless, it only raises the epoch twice.
pub(super) fn start<F: Family>(shared: &Arc<NodeShared>, shard: ShardId, actor: ActorRef<ShardMessage<F>>) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let journal = &shared.ports.journal;
        let result = loop {
            let opened = match journal.open(shard, shared.config.node.clone()).await {
                Ok(opened) => restore(&**journal, opened).await,
                Err(error) => Err(error),
            };
            match opened {
                Err(JournalError::OutcomeUnknown(why)) => {
                    tracing::warn!(%shard, %why, "opening again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                other => break other,
            }
        };
        // The actor is gone only when the node stops.
        let _ = actor.cast(ShardMessage::Opened(result.map(Box::new)));
    });
}

/// Reads the snapshot; one that this program cannot read is passed over and the whole log read in its place.
async fn restore<F: Family>(journal: &dyn Journal, mut shard: OpenedShard) -> Result<Opened<F>, JournalError> {
    let Some(snapshot) = shard.snapshot.take() else { return Ok(Opened { shard, restored: None }) };
    let (size, bytes) = (snapshot.bytes.len(), snapshot.bytes.clone());
    let read = tokio::task::spawn_blocking(move || snapshot::read::<F>(&bytes)).await;
    match read.unwrap_or_else(|error| Err(SnapshotError::Malformed(error.to_string()))) {
        Ok(restored) => Ok(Opened { shard, restored: Some((restored, size)) }),
        Err(error) => {
            let (id, lsn) = (shard.shard, snapshot.lsn);
            tracing::warn!(shard = %id, lsn, %error, "the snapshot is passed over: the whole log is read");
            let mut frames = before(journal, id, &snapshot).await?;
            frames.append(&mut shard.tail);
            shard.tail = frames;
            Ok(Opened { shard, restored: None })
        }
    }
}

/// The frames that a snapshot holds, verified up to its hash.
async fn before(journal: &dyn Journal, shard: ShardId, snapshot: &Snapshot) -> Result<Vec<Frame>, JournalError> {
    let (mut frames, mut chain) = (Vec::<Frame>::new(), ChainCheck::from_start(shard));
    while chain.lsn() < snapshot.lsn {
        let page = journal.read(shard, chain.lsn(), PAGE).await?;
        if page.is_empty() {
            return Err(chain.corrupt(chain.lsn().saturating_add(1), "it is missing".to_owned()));
        }
        for frame in page.into_iter().filter(|frame| frame.lsn <= snapshot.lsn) {
            chain.accept(&frame)?;
            frames.push(frame);
        }
    }
    match chain.hash() == Some(snapshot.hash) {
        true => Ok(frames),
        false => Err(chain.corrupt(snapshot.lsn, "the snapshot behind it names another hash".to_owned())),
    }
}

/// Replays the log and starts serving.
pub(super) async fn on_opened<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    result: Result<Box<Opened<F>>, JournalError>,
) -> Result<(), ActorProcessingErr> {
    let Opened { shard: opened, restored } = match result {
        Ok(opened) => *opened,
        Err(error) if error.is_fatal() => {
            state.shared.fatal.raise(format!("opening {}: {error}", state.shard));
            return Ok(());
        }
        Err(error) => return refuse_all(state, error.to_string()),
    };
    if !opened.damaged_snapshots.is_empty() {
        let (shard, damaged) = (state.shard, &opened.damaged_snapshots);
        tracing::error!(%shard, ?damaged, "damaged snapshots are passed over: the log has all that was in them");
    }
    if let Some((restored, size)) = restored {
        (state.map, state.letters) = (restored.map, restored.letters);
        state.snapshots.restart(size);
    }
    for frame in &opened.tail {
        if let Err(reason) = replay(state, frame) {
            return refuse_all(state, reason);
        }
    }
    state.epoch = opened.epoch;
    state.common = F::common(opened.epoch);
    state.frames.continue_after(opened.last_lsn, opened.last_hash);
    metrics::counter!(metric::SHARD_OPENS_TOTAL).increment(1);
    let keys = F::wakes_at_open(&state.map);
    let (common, actor) = (state.common.clone(), myself.clone());
    let open = OpenShard { shard: state.shard, epoch: state.epoch, common, actor, keys };
    let side = F::on_open(&state.shared, &open).await?;
    let Phase::Opening { waiting } = std::mem::replace(&mut state.phase, Phase::Open { side }) else {
        return Err("opened twice".into());
    };
    for key in open.keys {
        entities::ensure_live(state, myself, &key).await;
    }
    for (key, message) in waiting {
        entities::deliver(state, myself, key, vec![message]).await;
    }
    let (shard, lsn) = (state.shard, opened.last_lsn);
    state.shared.notify_projection(ProjectionMessage::Advanced { shard, lsn });
    state.shared.shard_opened(state.shard);
    tracing::debug!(%shard, epoch = state.epoch, lsn, "open");
    Ok(())
}

/// Applies one stored frame. An entity whose event cannot be read or applied is quarantined, and its further
/// events are passed over: the shard goes on.
fn replay<F: Family>(state: &mut ShardState<F>, frame: &Frame) -> Result<(), String> {
    let unreadable = |error: PayloadError| format!("frame {} of {}: {error}", frame.lsn, frame.shard);
    let payload = entry::unpack(&frame.payload).map_err(unreadable)?;
    let entries = entry::read(&payload).map_err(unreadable)?;
    state.snapshots.grew(frame.payload.len());
    for entry in entries {
        match entry {
            StoredEntry::Shard(event) => state.letters.apply(&event),
            StoredEntry::Entity { key, event } => replay_event(state, frame.lsn, key, event),
        }
    }
    Ok(())
}

fn replay_event<F: Family>(state: &mut ShardState<F>, lsn: u64, name: &str, event: StoredEvent<'_>) {
    let shard = state.shard;
    let Ok(key) = name.parse::<F::Key>() else {
        // Of a kind that a newer program has: nobody here can send it anything.
        if state.entities.pass_over(name) {
            tracing::error!(%shard, lsn, entity = name, "quarantined on replay: not an entity of this program");
        }
        return;
    };
    if state.entities.is_quarantined(&key) {
        return;
    }
    let decoded = event.decode::<F::Event>().map_err(|error| error.to_string());
    if let Err(reason) = decoded.and_then(|event| F::apply(&mut state.map, &key, &[event])) {
        tracing::error!(%shard, lsn, entity = %key, %reason, "quarantined on replay");
        entities::quarantine(state, &key);
    }
}

/// The log cannot be served: refuse everything and say why, leave the other shards alone.
fn refuse_all<F: Family>(state: &mut ShardState<F>, reason: String) -> Result<(), ActorProcessingErr> {
    tracing::error!(shard = %state.shard, %reason, "the shard stays closed");
    let before = std::mem::replace(&mut state.phase, Phase::Failed { reason: reason.clone() });
    if let Phase::Opening { waiting } = before {
        for (_, message) in waiting {
            message.refuse(CallError::NotServing(state.shard.to_string()));
        }
    }
    state.shared.shard_failed(state.shard, reason);
    Ok(())
}
