//! Live entities of a shard: started on demand, passivated, restarted with back-off, parked.

use super::{AfterCommit, EntityMessage, Family, ShardMessage, ShardState};
use crate::entry::{DeadLetter, ShardEvent};
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::Timestamp;
use ractor::{ActorCell, ActorId, ActorRef};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Messages kept for an entity that is between two lives; further ones are refused.
const MAX_WAITING: usize = 1_000;

/// First pause before a failed entity restarts; doubles with each failure of the last minute.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// So many failures within [`FAILURE_WINDOW`] park an entity.
const MAX_FAILURES: usize = 5;

/// See [`MAX_FAILURES`].
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Dead letters kept by a shard; the oldest makes room.
const MAX_LETTERS: usize = 1_000;

/// What an entity actor holds to reach its shard.
pub struct EntityLink<F: Family> {
    /// The entity.
    pub key: F::Key,
    /// The shard's actor: supervisor and journal.
    pub shard: ActorRef<ShardMessage<F>>,
    /// The shard's epoch.
    pub epoch: u64,
    /// The shard's id.
    pub shard_id: ShardId,
    /// What all entities of this opening share.
    pub common: F::Common,
    in_hand: Arc<Mutex<InHand<F>>>,
}

struct InHand<F: Family> {
    summary: String,
    kept: Option<F::Message>,
}

impl<F: Family> EntityLink<F> {
    /// Makes events durable; `after` runs when they are, and never otherwise.
    pub fn persist(&self, events: Vec<F::Event>, after: AfterCommit) {
        // The shard is gone only when this actor is about to be: `after` is then dropped unrun.
        let _ = self.shard.cast(ShardMessage::Persist { key: self.key.clone(), events, after });
    }

    /// Keeps a message that cannot be applied, for an operator to retry or drop; `after` runs when that is durable.
    pub fn dead_letter(&self, message: F::Message, error: String, after: AfterCommit) {
        let _ = self.shard.cast(ShardMessage::Unusable { key: self.key.clone(), message, error, after });
    }

    /// Remembers the message in hand, for the dead-letter list should handling it fail.
    pub fn begin(&self, message: &F::Message) {
        let kept = message.keep();
        let summary = if kept.is_some() { String::new() } else { shorten(format!("{message:?}")) };
        *self.in_hand.lock().unwrap_or_else(PoisonError::into_inner) = InHand { summary, kept };
    }
}

fn shorten(mut text: String) -> String {
    const LIMIT: usize = 300;
    if let Some((at, _)) = text.char_indices().nth(LIMIT) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

enum Life<F: Family> {
    /// Running.
    Live(F::Ref, ActorCell),
    /// Told to finish its mailbox and go.
    Leaving,
    /// Gone; a successor starts when the frames with its events are resolved and somebody asks for it.
    Gone,
    /// Failed; a successor starts when the back-off is over.
    BackingOff,
    /// Failed too often, or its log cannot be applied.
    Parked,
}

struct Slot<F: Family> {
    life: Life<F>,
    generation: u64,
    /// Persists that are not resolved.
    unresolved: usize,
    waiting: VecDeque<F::Message>,
    failures: VecDeque<Instant>,
    last_used: Instant,
    in_hand: Arc<Mutex<InHand<F>>>,
}

impl<F: Family> Slot<F> {
    fn new(life: Life<F>) -> Self {
        let in_hand = Arc::new(Mutex::new(InHand { summary: String::new(), kept: None }));
        Self {
            life,
            generation: 0,
            unresolved: 0,
            waiting: VecDeque::new(),
            failures: VecDeque::new(),
            last_used: Instant::now(),
            in_hand,
        }
    }

    fn wait(&mut self, message: F::Message) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(message);
        } else {
            message.refuse(CallError::Shed);
        }
    }
}

/// An entity's actor ended.
pub(super) struct Departure<F: Family> {
    pub(super) key: F::Key,
    pub(super) generation: u64,
    pub(super) failure: Option<String>,
}

/// All entities of a shard that are not merely rows of the map.
pub(super) struct Entities<F: Family> {
    slots: BTreeMap<F::Key, Slot<F>>,
    by_actor: HashMap<ActorId, (F::Key, u64)>,
}

impl<F: Family> Default for Entities<F> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), by_actor: HashMap::new() }
    }
}

impl<F: Family> Entities<F> {
    /// Which entity an actor is.
    pub(super) fn named(&self, actor: ActorId) -> Option<(F::Key, u64)> {
        self.by_actor.get(&actor).cloned()
    }

    /// Live and parked entities.
    pub(super) fn counts(&self) -> (usize, usize) {
        let live = self.slots.values().filter(|slot| matches!(slot.life, Life::Live(..))).count();
        let parked = self.slots.values().filter(|slot| matches!(slot.life, Life::Parked)).count();
        (live, parked)
    }

    pub(super) fn persisted(&mut self, key: &F::Key, events: usize) {
        if events > 0
            && let Some(slot) = self.slots.get_mut(key)
        {
            slot.unresolved = slot.unresolved.saturating_add(1);
        }
    }

    /// Parks an entity whose log cannot be applied.
    pub(super) fn quarantine(&mut self, key: &F::Key) {
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot::new(Life::Gone));
        if let Life::Live(_, cell) = &slot.life {
            cell.stop(Some("quarantined".to_owned()));
        }
        slot.life = Life::Parked;
    }

    /// Asks idle entities to leave.
    pub(super) fn passivate(&mut self, idle: Duration, is_pinned: impl Fn(&F::Key) -> bool) {
        let now = Instant::now();
        for (key, slot) in &mut self.slots {
            let idle_long = now.saturating_duration_since(slot.last_used) >= idle;
            if let Life::Live(_, cell) = &slot.life
                && idle_long
                && slot.unresolved == 0
                && !is_pinned(key)
            {
                // It finishes its mailbox, and new messages wait for its successor.
                if cell.drain().is_ok() {
                    slot.life = Life::Leaving;
                }
            }
        }
    }
}

/// Hands a message to its entity, starting it when needed.
pub(super) async fn deliver<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: F::Key,
    message: F::Message,
) {
    let slot = state.entities.slots.entry(key.clone()).or_insert_with(|| Slot::new(Life::Gone));
    slot.last_used = Instant::now();
    match &slot.life {
        Life::Live(target, _) => F::cast(target, message),
        Life::Parked => refuse_parked(state, &key, message),
        Life::Leaving | Life::BackingOff => slot.wait(message),
        Life::Gone => {
            slot.wait(message);
            if slot.unresolved == 0 {
                start(state, myself, &key).await;
            }
        }
    }
}

/// A message for a parked entity. What can be repeated is kept as a dead letter before its sender is told, so
/// that a gateway may forget it and its other chargers are not held up.
fn refuse_parked<F: Family>(state: &mut ShardState<F>, key: &F::Key, message: F::Message) {
    let why = CallError::Parked(key.to_string());
    if message.to_body().is_none() {
        return message.refuse(why);
    }
    let in_hand = InHand { summary: String::new(), kept: message.keep() };
    let at = state.shared.clock.wall();
    let error = "the entity is parked".to_owned();
    park(state, key, in_hand, error, at, Box::new(move || message.refuse(why)));
}

/// A message that its entity cannot apply, and does not fail on.
pub(super) fn on_unusable<F: Family>(
    state: &mut ShardState<F>,
    key: &F::Key,
    message: &F::Message,
    error: String,
    after: AfterCommit,
) {
    let in_hand = InHand { summary: shorten(format!("{message:?}")), kept: message.keep() };
    let at = state.shared.clock.wall();
    park(state, key, in_hand, error, at, after);
}

/// Makes sure an entity runs.
pub(super) async fn ensure_live<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: &F::Key,
) {
    let slot = state.entities.slots.entry(key.clone()).or_insert_with(|| Slot::new(Life::Gone));
    if matches!(slot.life, Life::Gone) && slot.unresolved == 0 {
        start(state, myself, key).await;
    }
}

async fn start<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, key: &F::Key) {
    let Some(slot) = state.entities.slots.get_mut(key) else { return };
    slot.generation = slot.generation.saturating_add(1);
    let generation = slot.generation;
    let link = EntityLink {
        key: key.clone(),
        shard: myself.clone(),
        epoch: state.epoch,
        shard_id: state.shard,
        common: state.common.clone(),
        in_hand: Arc::clone(&slot.in_hand),
    };
    match F::spawn(&state.shared, &state.map, link).await {
        Ok((target, cell)) => {
            state.entities.by_actor.insert(cell.get_id(), (key.clone(), generation));
            for message in slot.waiting.drain(..) {
                F::cast(&target, message);
            }
            slot.last_used = Instant::now();
            slot.life = Life::Live(target, cell);
        }
        Err(reason) => {
            tracing::error!(entity = %key, %reason, "did not start");
            let failure = Some(reason);
            fail(state, myself, Departure { key: key.clone(), generation, failure });
        }
    }
}

/// An entity's actor is gone, and everything it had sent has been seen.
pub(super) async fn on_gone<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    departure: Departure<F>,
) {
    state.entities.by_actor.retain(|_, (key, generation)| *key != departure.key || *generation != departure.generation);
    let Some(slot) = state.entities.slots.get_mut(&departure.key) else { return };
    if slot.generation != departure.generation || matches!(slot.life, Life::Parked) {
        return;
    }
    if departure.failure.is_some() {
        return fail(state, myself, departure);
    }
    slot.life = Life::Gone;
    settle(state, myself, &departure.key).await;
}

/// A gone entity: forget it, or start its successor once its frames are resolved.
async fn settle<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, key: &F::Key) {
    let Some(slot) = state.entities.slots.get(key) else { return };
    if !matches!(slot.life, Life::Gone) || slot.unresolved > 0 {
        return;
    }
    if slot.waiting.is_empty() && !F::is_pinned(&state.map, key) {
        state.entities.slots.remove(key);
    } else {
        start(state, myself, key).await;
    }
}

/// Frames with events of these entities are resolved.
pub(super) async fn on_resolved<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    keys: Vec<F::Key>,
) {
    for key in keys {
        let Some(slot) = state.entities.slots.get_mut(&key) else { continue };
        slot.unresolved = slot.unresolved.saturating_sub(1);
        if matches!(slot.life, Life::Gone) {
            settle(state, myself, &key).await;
        }
    }
}

/// Back off, or park after too many failures.
fn fail<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, departure: Departure<F>) {
    let Departure { key, generation, failure } = departure;
    let reason = shorten(failure.unwrap_or_default());
    let now_wall = state.shared.clock.wall();
    let Some(slot) = state.entities.slots.get_mut(&key) else { return };
    let now = Instant::now();
    slot.failures.push_back(now);
    slot.failures.retain(|at| now.saturating_duration_since(*at) < FAILURE_WINDOW);
    let kind = F::FAMILY.as_str();
    metrics::counter!(metric::ACTOR_RESTARTS_TOTAL, "kind" => kind).increment(1);
    tracing::warn!(entity = %key, failures = slot.failures.len(), %reason, "entity failed");
    if slot.failures.len() < MAX_FAILURES {
        slot.life = Life::BackingOff;
        let delay = back_off(slot.failures.len(), &key.to_string());
        myself.send_after(delay, move || ShardMessage::Restart { key, generation });
        return;
    }
    let in_hand = std::mem::replace(
        &mut *slot.in_hand.lock().unwrap_or_else(PoisonError::into_inner),
        InHand { summary: String::new(), kept: None },
    );
    slot.life = Life::Parked;
    for message in slot.waiting.drain(..) {
        message.refuse(CallError::Parked(key.to_string()));
    }
    park(state, &key, in_hand, reason, now_wall, Box::new(|| ()));
}

/// Makes a dead letter durable, then runs `after`.
fn park<F: Family>(
    state: &mut ShardState<F>,
    key: &F::Key,
    in_hand: InHand<F>,
    error: String,
    at: Timestamp,
    after: AfterCommit,
) {
    tracing::error!(entity = %key, %error, "a message is kept: see the dead letters");
    if state.letters.len() >= MAX_LETTERS
        && let Some(oldest) = state.letters.keys().next().copied()
    {
        state.frames.push_shard_event(ShardEvent::DeadLetterTaken { number: oldest }, Box::new(|| ()));
    }
    let summary = match &in_hand.kept {
        Some(message) => shorten(format!("{message:?}")),
        None => in_hand.summary,
    };
    let number = state.next_letter;
    state.next_letter = number.saturating_add(1);
    let body = in_hand.kept.as_ref().and_then(EntityMessage::to_body);
    let letter = DeadLetter { number, entity: key.to_string(), summary, body, error, at };
    state.frames.push_shard_event(ShardEvent::DeadLettered(letter), after);
}

/// 100 ms doubling to 30 s, spread by up to a quarter so that neighbours do not restart in step.
fn back_off(failures: usize, name: &str) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(10);
    let base = BACK_OFF_FIRST.saturating_mul(1 << doublings).min(BACK_OFF_MAX);
    let spread = name.bytes().fold(failures as u64, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    base.saturating_add(base.mul_f64(0.25 * ((spread % 100) as f64) / 100.0))
}

/// The back-off is over.
pub(super) async fn on_restart<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: F::Key,
    generation: u64,
) {
    let Some(slot) = state.entities.slots.get_mut(&key) else { return };
    if matches!(slot.life, Life::BackingOff) && slot.generation == generation {
        slot.life = Life::Gone;
        settle(state, myself, &key).await;
    }
}

/// An operator retries or drops a dead letter; either way its entity may live again.
pub(super) async fn on_take_dead_letter<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    number: u64,
    retry: bool,
    reply: Reply<()>,
) {
    let Some(letter) = state.letters.get(&number).cloned() else {
        return reply.answer(Err(CallError::NotFound(format!("dead letter {}/{number}", state.shard))));
    };
    let message = letter.body.as_deref().and_then(F::Message::from_body);
    if retry && message.is_none() {
        let what = "this message cannot be repeated (its sender was told); drop it instead";
        return reply.answer(Err(CallError::Invalid(what.to_owned())));
    }
    let taken = ShardEvent::DeadLetterTaken { number };
    state.frames.push_shard_event(taken, Box::new(move || reply.answer(Ok(()))));
    let Ok(key) = letter.entity.parse::<F::Key>() else { return };
    if let Some(slot) = state.entities.slots.get_mut(&key)
        && matches!(slot.life, Life::Parked)
    {
        slot.failures.clear();
        slot.life = Life::Gone;
    }
    match message.filter(|_| retry) {
        Some(message) => deliver(state, myself, key, message).await,
        None => ensure_live(state, myself, &key).await,
    }
}
