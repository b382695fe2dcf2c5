//! The shard actor: owner of one journal, of the compact map of its entities' last durable states, and of the
//! live entity actors started from that map on demand.
//!
//! Supervised by the node's supervisor. Opening raises the shard's epoch and replays its log; from then on
//! every event of its entities goes into frames of this epoch, one in flight (OWN-1). What must wait for
//! durability (replies, sends, grants) is handed over with the events and runs only after the commit that
//! covers them (MONEY-3). A refused commit means another epoch owns the shard: the actor fails, and its
//! restart drops all pending state and opens anew.
//!
//! What callers send waits in the shard's [`Inbox`], the most urgent lane first; what its own actors send comes
//! through the mailbox, in the order they sent it.
//!
//! Entities fail alone: a failed one restarts with back-off, and after five failures in a minute it is parked
//! with the message in hand in the dead-letter list, its neighbours untouched. An event that cannot be read or
//! applied quarantines its entity, never the shard, until the shard opens anew. ractor would stop a supervisor
//! when a child exits, and its `drain` lets a successor run beside the old one: both are handled here.

mod entities;
mod frames;
mod inbox;
mod letters;
mod link;
mod opening;
mod snapshot;

pub use inbox::Inbox;
pub use link::EntityLink;

use crate::entry::{DeadLetter, EncodedEntries, PayloadError};
use crate::handle::CallError;
use crate::reply::{Answer, Reply};
use crate::shared::{NodeConfig, NodeShared, ShardCounts};
use crate::views::ShardView;
use chargeplane_cluster::journal::{CommitOutcome, JournalError};
use chargeplane_domain::placement::{self, ShardId};
use chargeplane_domain::units::Timestamp;
use entities::{Counts, Departure, Entities};
use frames::Frames;
use letters::Letters;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How often a shard looks for idle entities.
const TICK: Duration = Duration::from_secs(1);

/// Deliveries kept while the shard opens; further ones are refused.
const MAX_WAITING_FOR_OPEN: usize = 20_000;

/// Admitted messages taken at once; then it is the turn of what the shard's own actors have sent.
const TAKEN_AT_ONCE: usize = 256;

/// Runs after the commit that covers it; dropped unrun when that commit is refused.
pub type AfterCommit = Box<dyn FnOnce() + Send>;

/// Told whether an event was taken.
pub type Covered = Box<dyn FnOnce(bool) + Send>;

/// A question about a shard's durable states, answered inside the shard; told why when the shard has none to show.
pub type Question<F> = Box<dyn FnOnce(Result<&<F as Family>::Map, CallError>) + Send>;

/// What differs between the station family and the account family. The shard code is the same.
pub trait Family: Sized + Send + Sync + 'static {
    /// Which family.
    const FAMILY: placement::Family;
    /// Names an entity in the journal.
    type Key: Clone + Ord + fmt::Debug + fmt::Display + FromStr + Send + Sync + 'static;
    /// A durable event of an entity.
    type Event: Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// The last durable states of all entities. A copy shares the rows.
    type Map: Default + Clone + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// A message to an entity.
    type Message: EntityMessage;
    /// How a live entity is reached.
    type Ref: Clone + Send + Sync + 'static;
    /// What all entities of one opening share.
    type Common: Clone + Send + Sync + 'static;
    /// What the family keeps beside the entities while the shard is open.
    type Side: Send + 'static;
    /// What a commit adds up for the metrics.
    type Tally: Default + Send;
    /// How far a look through the map has come, see [`Family::sweep`].
    type Sweep: Default + Send;

    /// Makes what the entities of this opening share.
    fn common(epoch: u64) -> Self::Common;

    /// Applies durable events of one entity to the map, in order. An error quarantines the entity.
    fn apply(map: &mut Self::Map, key: &Self::Key, events: &[Self::Event]) -> Result<(), String>;
    /// Looks at committed events of one entity, applied already: self-checks, and sums for the metrics.
    fn tally(map: &Self::Map, key: &Self::Key, events: &[Self::Event], tally: &mut Self::Tally);
    /// Shows the sums of a commit in the metrics.
    fn report(tally: Self::Tally);
    /// The node's check of the invariants on its own durable states, once a second (MONEY-1). Every single
    /// frame is checked by `apply`, which refuses postings that do not balance.
    fn self_check(map: &Self::Map);
    /// Rows in the map.
    fn rows(map: &Self::Map) -> usize;
    /// Entities that must be live from the opening on.
    fn wakes_at_open(map: &Self::Map) -> Vec<Self::Key>;
    /// True while an entity must not be passivated.
    fn is_pinned(map: &Self::Map, key: &Self::Key) -> bool;
    /// True when a message is of use to its entity. One that is not starts no actor and keeps none.
    fn is_of_use(map: &Self::Map, key: &Self::Key, message: &Self::Message) -> bool;
    /// Once a second: looks on through the map, a bounded step, for what is due by time, and says whom to tell what.
    fn sweep(
        _map: &Self::Map,
        _sweep: &mut Self::Sweep,
        _config: &NodeConfig,
        _now: Timestamp,
    ) -> Vec<(Self::Key, Self::Message)> {
        Vec::new()
    }
    /// Whether an event that rests on more than its entity's state may follow the map and what is `queued` behind it.
    fn covers<'a>(
        _map: &Self::Map,
        _queued: impl Iterator<Item = (&'a Self::Key, &'a Self::Event)>,
        _event: &Self::Event,
    ) -> bool {
        true
    }
    /// Starts an entity from the map, linked to its shard.
    fn spawn(
        shared: &Arc<NodeShared>,
        map: &Self::Map,
        link: EntityLink<Self>,
    ) -> impl Future<Output = Result<(Self::Ref, ractor::ActorCell), String>> + Send;
    /// Hands messages to a live entity, in order.
    fn cast(target: &Self::Ref, messages: Vec<Self::Message>);
    /// Called when the shard has opened, before the first delivery.
    fn on_open(
        shared: &Arc<NodeShared>,
        opened: &OpenShard<Self>,
    ) -> impl Future<Output = Result<Self::Side, String>> + Send;
    /// Called on a drain: flush what the family keeps beside the journal, then run `done`.
    fn on_drain(side: &Self::Side, done: Box<dyn FnOnce() + Send>);
}

/// What every message to an entity can do.
pub trait EntityMessage: Send + fmt::Debug + 'static {
    /// Answers that it was not handled.
    fn refuse(self, why: CallError);
    /// A copy that can be handled again, without the right to reply; none when repeating makes no sense.
    fn keep(&self) -> Option<Self>
    where
        Self: Sized;
    /// True when its sender does not send it again once it was told that the entity is parked.
    fn is_sent_once(&self) -> bool;
    /// The copy as bytes for the dead-letter list.
    fn to_body(&self) -> Option<Vec<u8>>;
    /// Back from bytes; `done` answers when it was handled, and is handed back when these are no message.
    fn from_body(body: &[u8], done: Reply<()>) -> Result<Self, Reply<()>>
    where
        Self: Sized;
}

/// What an open shard tells its side actors.
pub struct OpenShard<F: Family> {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: u64,
    /// What all entities of this opening share.
    pub common: F::Common,
    /// The shard's actor.
    pub actor: ActorRef<ShardMessage<F>>,
    /// Keys of the entities found in the map at the opening.
    pub keys: Vec<F::Key>,
}

/// Messages of the shard actor.
pub enum ShardMessage<F: Family> {
    /// The journal answered the opening.
    Opened(Result<Box<opening::Opened<F>>, JournalError>),
    /// A snapshot was written, or not.
    SnapshotWritten(snapshot::Written),
    /// Something waits in the inbox.
    Admitted,
    /// A message for an entity, from an actor of this shard.
    Deliver { key: F::Key, message: F::Message },
    /// Events of an entity to make durable, as they are stored too, and what to run then.
    Persist { key: F::Key, events: Vec<F::Event>, encoded: Result<EncodedEntries, PayloadError>, after: AfterCommit },
    /// The same of one event that rests on what only the shard knows: `told` runs at once, with whether it was taken.
    PersistIf { key: F::Key, event: F::Event, encoded: Result<EncodedEntries, PayloadError>, told: Covered },
    /// A frame that waits for more looks again.
    Linger,
    /// A message that its entity cannot apply, to be kept as a dead letter, and what to run then.
    Unusable { key: F::Key, message: F::Message, error: String, after: AfterCommit },
    /// The frame in flight ended.
    Committed { outcome: CommitOutcome },
    /// An entity's actor is gone, and so is everything it sent before.
    EntityGone { key: F::Key, generation: u64, failure: Option<String> },
    /// The back-off of a failed entity is over.
    Restart { key: F::Key, generation: u64 },
    /// Once a second.
    Tick,
    /// A question about the durable states.
    Ask(Question<F>),
    /// What `shard list` shows.
    View(Reply<ShardView>),
    /// The dead letters.
    DeadLetters(Reply<Vec<DeadLetter>>),
    /// Retries (`true`) or drops a dead letter.
    TakeDeadLetter { number: u64, retry: bool, reply: Reply<()> },
    /// The message of a retried dead letter was handled, or not.
    Retried { number: u64, result: Answer<()>, reply: Reply<()> },
    /// Stop admitting, flush, release the shard.
    Drain(Reply<()>),
    /// The family's side has flushed.
    SideDrained,
    /// The shard is released.
    Released(Reply<()>),
}

/// What a shard actor is started with.
pub struct ShardArguments<F: Family> {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// Which shard.
    pub shard: ShardId,
    /// Where the router puts what is for it.
    pub inbox: Arc<Inbox<F>>,
}

/// The shard actor.
pub struct ShardActor<F: Family>(std::marker::PhantomData<fn() -> F>);

impl<F: Family> Default for ShardActor<F> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

enum Phase<F: Family> {
    Opening {
        waiting: Vec<(F::Key, F::Message)>,
    },
    Open {
        side: F::Side,
    },
    /// The journal is damaged: everything is refused, an operator must act.
    Failed {
        reason: String,
    },
    Draining {
        side_drained: bool,
        reply: Option<Reply<()>>,
    },
}

/// State of the shard actor.
pub struct ShardState<F: Family> {
    shared: Arc<NodeShared>,
    shard: ShardId,
    epoch: u64,
    common: F::Common,
    phase: Phase<F>,
    map: F::Map,
    inbox: Arc<Inbox<F>>,
    letters: Letters,
    entities: Entities<F>,
    frames: Frames<F>,
    snapshots: snapshot::Schedule,
    sweep: F::Sweep,
}

impl<F: Family> Actor for ShardActor<F> {
    type Msg = ShardMessage<F>;
    type State = ShardState<F>;
    type Arguments = ShardArguments<F>;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMessage<F>>,
        arguments: ShardArguments<F>,
    ) -> Result<ShardState<F>, ActorProcessingErr> {
        let ShardArguments { shared, shard, inbox } = arguments;
        opening::start(&shared, shard, myself.clone());
        myself.send_interval(TICK, || ShardMessage::Tick);
        let snapshots = snapshot::Schedule::new(shared.config.snapshot_after_bytes);
        Ok(ShardState {
            shared,
            shard,
            epoch: 0,
            common: F::common(0),
            phase: Phase::Opening { waiting: Vec::new() },
            map: F::Map::default(),
            inbox,
            letters: Letters::default(),
            entities: Entities::default(),
            frames: Frames::new(shard),
            snapshots,
            sweep: F::Sweep::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage<F>>,
        message: ShardMessage<F>,
        state: &mut ShardState<F>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Opened(result) => opening::on_opened(state, &myself, result).await?,
            ShardMessage::Admitted => {
                on_admitted(state, &myself).await?;
                frames::start(state, &myself)?;
            }
            ShardMessage::Deliver { key, message } => {
                on_deliver(state, &myself, key, vec![message]).await;
                frames::start(state, &myself)?;
            }
            ShardMessage::Persist { key, events, encoded, after } => {
                frames::on_persist(state, key, events, encoded, after);
                frames::start(state, &myself)?;
            }
            ShardMessage::PersistIf { key, event, encoded, told } => {
                frames::on_persist_if(state, key, event, encoded, told);
                frames::start(state, &myself)?;
            }
            ShardMessage::SnapshotWritten(written) => {
                snapshot::on_written(state, &written);
                finish_drain(state, &myself);
            }
            ShardMessage::Linger => frames::on_linger(state, &myself)?,
            ShardMessage::Unusable { key, message, error, after } => {
                entities::on_unusable(state, &key, &message, error, after);
                frames::start(state, &myself)?;
            }
            ShardMessage::Committed { outcome } => {
                let resolved = frames::on_committed(state, outcome)?;
                entities::on_resolved(state, &myself, resolved).await;
                frames::start(state, &myself)?;
                snapshot::take(state, &myself, false);
                finish_drain(state, &myself);
            }
            ShardMessage::EntityGone { key, generation, failure } => {
                entities::on_gone(state, &myself, Departure { key, generation, failure }).await;
                frames::start(state, &myself)?;
            }
            ShardMessage::Restart { key, generation } => {
                entities::on_restart(state, &myself, key, generation).await;
                frames::start(state, &myself)?;
            }
            ShardMessage::Tick => on_tick(state, &myself).await,
            ShardMessage::Ask(question) => on_question(state, question),
            ShardMessage::View(reply) => reply.answer(Ok(view(state))),
            ShardMessage::DeadLetters(reply) => reply.answer(Ok(state.letters.list())),
            ShardMessage::TakeDeadLetter { number, retry, reply } => {
                entities::on_take_dead_letter(state, &myself, number, retry, reply).await;
                frames::start(state, &myself)?;
            }
            ShardMessage::Retried { number, result, reply } => {
                entities::on_retried(state, number, result, reply);
                frames::start(state, &myself)?;
            }
            ShardMessage::Drain(reply) => on_drain(state, &myself, reply),
            ShardMessage::SideDrained => {
                if let Phase::Draining { side_drained, .. } = &mut state.phase {
                    *side_drained = true;
                }
                finish_drain(state, &myself);
            }
            ShardMessage::Released(reply) => {
                reply.answer(Ok(()));
                myself.stop(Some("released".to_owned()));
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ShardMessage<F>>,
        event: SupervisionEvent,
        state: &mut ShardState<F>,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, failure) = match event {
            SupervisionEvent::ActorTerminated(cell, _, _) => (cell, None),
            SupervisionEvent::ActorFailed(cell, error) => (cell, Some(error.to_string())),
            _ => return Ok(()),
        };
        match state.entities.named(cell.get_id()) {
            // Supervision overtakes messages: what the entity had sent before is still in the mailbox. This
            // message queues behind it.
            Some((key, generation)) => {
                myself.cast(ShardMessage::EntityGone { key, generation, failure })?;
                Ok(())
            }
            // A side actor: the shard opens anew with it.
            None => match failure {
                Some(error) => Err(format!("side actor failed: {error}").into()),
                None => Ok(()),
            },
        }
    }
}

/// Takes what is most urgent of the inbox, and comes back for the rest behind what is in the mailbox now. An entity
/// gets all that is for it at once.
async fn on_admitted<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
) -> Result<(), ActorProcessingErr> {
    let (mut taken, more) = state.inbox.take(TAKEN_AT_ONCE);
    // Stable, so that each entity's messages stay in their order.
    taken.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut taken = taken.into_iter().peekable();
    while let Some((key, first)) = taken.next() {
        let mut messages = vec![first];
        while let Some((_, message)) = taken.next_if(|(next, _)| *next == key) {
            messages.push(message);
        }
        on_deliver(state, myself, key, messages).await;
    }
    if more {
        myself.cast(ShardMessage::Admitted)?;
    }
    Ok(())
}

async fn on_deliver<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: F::Key,
    mut messages: Vec<F::Message>,
) {
    match &mut state.phase {
        Phase::Opening { waiting } => {
            for message in messages {
                if waiting.len() < MAX_WAITING_FOR_OPEN {
                    waiting.push((key.clone(), message));
                } else {
                    message.refuse(CallError::Shed);
                }
            }
        }
        Phase::Failed { .. } | Phase::Draining { .. } => {
            let shard = state.shard.to_string();
            messages.into_iter().for_each(|message| message.refuse(CallError::NotServing(shard.clone())));
        }
        Phase::Open { .. } => {
            messages.retain(|message| F::is_of_use(&state.map, &key, message));
            if !messages.is_empty() {
                entities::deliver(state, myself, key, messages).await;
            }
        }
    }
}

/// While the log is read the map is behind it, and a damaged shard has none: neither is an answer.
fn on_question<F: Family>(state: &ShardState<F>, question: Question<F>) {
    match &state.phase {
        Phase::Open { .. } | Phase::Draining { .. } if state.epoch > 0 => question(Ok(&state.map)),
        _ => question(Err(CallError::NotServing(state.shard.to_string()))),
    }
}

async fn on_tick<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>) {
    if matches!(state.phase, Phase::Open { .. }) {
        let (map, idle) = (&state.map, state.shared.config.passivate_after);
        state.entities.passivate(idle, |key| F::is_pinned(map, key));
        state.entities.forgive();
        F::self_check(map);
        let due = F::sweep(map, &mut state.sweep, &state.shared.config, state.shared.clock.wall());
        for (key, message) in due {
            entities::deliver(state, myself, key, vec![message]).await;
        }
    }
    let Counts { parked, quarantined, .. } = state.entities.counts();
    let letters = state.letters.len();
    state.shared.report_counts(state.shard, ShardCounts { letters, parked, quarantined });
}

fn view<F: Family>(state: &ShardState<F>) -> ShardView {
    let phase = match &state.phase {
        Phase::Opening { .. } => "opening".to_owned(),
        Phase::Open { .. } => "open".to_owned(),
        Phase::Failed { reason } => format!("failed: {reason}"),
        Phase::Draining { .. } => "draining".to_owned(),
    };
    let Counts { live, parked, quarantined } = state.entities.counts();
    ShardView {
        shard: state.shard.to_string(),
        state: phase,
        epoch: state.epoch,
        last_lsn: state.frames.last_lsn(),
        rows: F::rows(&state.map),
        live,
        parked,
        quarantined,
    }
}

fn on_drain<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, reply: Reply<()>) {
    let draining = |side_drained| Phase::Draining { side_drained, reply: Some(reply) };
    match std::mem::replace(&mut state.phase, Phase::Failed { reason: "draining".to_owned() }) {
        Phase::Open { side } => {
            state.phase = draining(false);
            let actor = myself.clone();
            F::on_drain(&side, Box::new(move || drop(actor.cast(ShardMessage::SideDrained))));
        }
        Phase::Opening { waiting } => {
            for (_, message) in waiting {
                message.refuse(CallError::NotServing(state.shard.to_string()));
            }
            state.phase = draining(true);
        }
        // Nothing to flush; an earlier drain's caller is answered by its dropped reply.
        Phase::Failed { .. } | Phase::Draining { .. } => state.phase = draining(true),
    }
    finish_drain(state, myself);
}

/// Releases the shard once nothing is pending.
fn finish_drain<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>) {
    if !matches!(state.phase, Phase::Draining { side_drained: true, reply: Some(_) }) || !state.frames.is_quiet() {
        return;
    }
    // The next opening is a quick one.
    snapshot::take(state, myself, true);
    let Phase::Draining { side_drained: true, reply } = &mut state.phase else { return };
    if state.snapshots.is_writing() {
        return;
    }
    let Some(reply) = reply.take() else { return };
    let (journal, shard, epoch) = (Arc::clone(&state.shared.ports.journal), state.shard, state.epoch);
    let myself = myself.clone();
    tokio::spawn(async move {
        if epoch > 0
            && let Err(error) = journal.release(shard, epoch).await
        {
            tracing::warn!(%shard, %error, "the shard was not released; its lease will end by time");
        }
        // The actor may be gone already when the node stops.
        let _ = myself.cast(ShardMessage::Released(reply));
    });
}
