//! Live entities of a shard: started on demand, passivated, restarted with back-off, parked, quarantined.

use super::letters::Place;
use super::link::{InHand, InHandSlot, shorten, shortened};
use super::{AfterCommit, EntityLink, EntityMessage, Family, ShardMessage, ShardState};
use crate::entry::{DeadLetter, ShardEvent};
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use ractor::{ActorCell, ActorId, ActorRef};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
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

/// Entities that are gone and remembered for their failures alone; beyond so many some are forgiven early.
const MAX_REMEMBERED: usize = 10_000;

enum Life<F: Family> {
    /// Running.
    Live(F::Ref, ActorCell),
    /// Told to finish its mailbox and go.
    Leaving,
    /// Gone; a successor starts when the frames with its events are resolved and somebody asks for it.
    Gone,
    /// Failed; a successor starts when the back-off is over.
    BackingOff,
    /// Failed too often: lives again when an operator takes one of its dead letters.
    Parked,
    /// Its log cannot be applied, so its last state is not known. It stays so until the shard opens anew.
    Quarantined,
}

struct Slot<F: Family> {
    life: Life<F>,
    generation: u64,
    /// Persists that are not resolved.
    unresolved: usize,
    waiting: VecDeque<F::Message>,
    failures: VecDeque<Instant>,
    last_used: Instant,
    in_hand: InHandSlot<F>,
}

impl<F: Family> Slot<F> {
    fn new(life: Life<F>) -> Self {
        let in_hand = InHandSlot::new(InHand::only(STARTING));
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

    /// Gone, and nobody waits for a successor.
    fn is_idle(&self) -> bool {
        matches!(self.life, Life::Gone) && self.unresolved == 0 && self.waiting.is_empty()
    }

    /// A failure may still count towards parking it.
    fn failed_lately(&self, now: Instant) -> bool {
        self.failures.back().is_some_and(|at| now.saturating_duration_since(*at) < FAILURE_WINDOW)
    }
}

/// What an entity without any message in hand is at.
const STARTING: &str = "(starting)";

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
    /// Entities in [`Life::Quarantined`]: mostly none, so that asking costs nothing.
    quarantined: BTreeSet<F::Key>,
    /// Names in the log that are no entity of this program.
    passed_over: BTreeSet<String>,
}

impl<F: Family> Default for Entities<F> {
    fn default() -> Self {
        let (quarantined, passed_over) = (BTreeSet::new(), BTreeSet::new());
        Self { slots: BTreeMap::new(), by_actor: HashMap::new(), quarantined, passed_over }
    }
}

/// How many entities are in which life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) live: usize,
    pub(super) parked: usize,
    pub(super) quarantined: usize,
}

impl<F: Family> Entities<F> {
    /// Which entity an actor is.
    pub(super) fn named(&self, actor: ActorId) -> Option<(F::Key, u64)> {
        self.by_actor.get(&actor).cloned()
    }

    /// How many live, and how many do not any more.
    pub(super) fn counts(&self) -> Counts {
        let quarantined = self.quarantined.len().saturating_add(self.passed_over.len());
        let mut counts = Counts { quarantined, ..Counts::default() };
        for slot in self.slots.values() {
            match slot.life {
                Life::Live(..) => counts.live = counts.live.saturating_add(1),
                Life::Parked => counts.parked = counts.parked.saturating_add(1),
                Life::Leaving | Life::Gone | Life::BackingOff | Life::Quarantined => {}
            }
        }
        counts
    }

    pub(super) fn is_quarantined(&self, key: &F::Key) -> bool {
        !self.quarantined.is_empty() && self.quarantined.contains(key)
    }

    /// True when the map does not hold all that the log says.
    pub(super) fn has_quarantined(&self) -> bool {
        !self.quarantined.is_empty() || !self.passed_over.is_empty()
    }

    fn slot(&mut self, key: &F::Key) -> &mut Slot<F> {
        self.slots.entry(key.clone()).or_insert_with(|| Slot::new(Life::Gone))
    }

    /// Counts a name that is no entity of this program. True when it is new.
    pub(super) fn pass_over(&mut self, name: &str) -> bool {
        self.passed_over.insert(name.to_owned())
    }

    pub(super) fn persisted(&mut self, key: &F::Key, events: usize) {
        if events > 0
            && let Some(slot) = self.slots.get_mut(key)
        {
            slot.unresolved = slot.unresolved.saturating_add(1);
        }
    }

    /// Forgets entities that are gone once their failures are too old to count.
    pub(super) fn forgive(&mut self) {
        let (now, mut remembered) = (Instant::now(), 0usize);
        self.slots.retain(|_, slot| {
            if !slot.is_idle() {
                return true;
            }
            remembered = remembered.saturating_add(1);
            slot.failed_lately(now) && remembered <= MAX_REMEMBERED
        });
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

/// Hands messages to their entity, starting it when needed.
pub(super) async fn deliver<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: F::Key,
    messages: Vec<F::Message>,
) {
    let slot = state.entities.slot(&key);
    slot.last_used = Instant::now();
    match &slot.life {
        Life::Live(target, _) => F::cast(target, messages),
        Life::Parked | Life::Quarantined => {
            messages.into_iter().for_each(|message| refuse_stopped(state, &key, message));
        }
        Life::Leaving | Life::BackingOff => messages.into_iter().for_each(|message| slot.wait(message)),
        Life::Gone => {
            messages.into_iter().for_each(|message| slot.wait(message));
            if slot.unresolved == 0 {
                start(state, myself, &key).await;
            }
        }
    }
}

/// A message for an entity that handles none. What its sender would not send again is kept as a dead letter
/// before the sender is told, so that a gateway may forget it and its other chargers are not held up. When it
/// cannot be kept, the sender is told to try again: nothing is acknowledged.
fn refuse_stopped<F: Family>(state: &mut ShardState<F>, key: &F::Key, message: F::Message) {
    let quarantined = state.entities.is_quarantined(key);
    let name = key.to_string();
    let why = if quarantined { CallError::Quarantined(name) } else { CallError::Parked(name) };
    if !message.is_sent_once() {
        return message.refuse(why);
    }
    let in_hand = InHand { summary: String::new(), kept: message.keep() };
    let error = if quarantined { "the entity is quarantined" } else { "the entity is parked" };
    let letter = letter(state, key, in_hand, error.to_owned());
    match state.letters.place(&letter) {
        Place::Full => message.refuse(CallError::Shed),
        Place::Known => state.frames.ride(None, Box::new(move || message.refuse(why))),
        Place::Free => file(state, letter, Box::new(move || message.refuse(why))),
    }
}

/// Takes an entity out of service for good: an event of it cannot be applied, so what it would go on from is not
/// what its log says. Nothing of it that is queued becomes durable.
pub(super) fn quarantine<F: Family>(state: &mut ShardState<F>, key: &F::Key) {
    let slot = state.entities.slot(key);
    if let Life::Live(_, cell) = &slot.life {
        cell.stop(Some("quarantined".to_owned()));
    }
    slot.life = Life::Quarantined;
    let waiting = std::mem::take(&mut slot.waiting);
    state.entities.quarantined.insert(key.clone());
    state.frames.drop_pending(key);
    for message in waiting {
        refuse_stopped(state, key, message);
    }
}

/// A message that its entity cannot apply, and does not fail on. Without a place for it in the list `after` is
/// dropped unrun: it was not taken, and comes again.
pub(super) fn on_unusable<F: Family>(
    state: &mut ShardState<F>,
    key: &F::Key,
    message: &F::Message,
    error: String,
    after: AfterCommit,
) {
    let in_hand = InHand { summary: shortened(message), kept: message.keep() };
    let letter = letter(state, key, in_hand, error);
    match state.letters.place(&letter) {
        Place::Full => drop(after),
        Place::Known => state.frames.ride(None, after),
        Place::Free => file(state, letter, after),
    }
}

/// Makes sure an entity runs.
pub(super) async fn ensure_live<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: &F::Key,
) {
    let slot = state.entities.slot(key);
    if matches!(slot.life, Life::Gone) && slot.unresolved == 0 {
        start(state, myself, key).await;
    }
}

async fn start<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, key: &F::Key) {
    let Some(slot) = state.entities.slots.get_mut(key) else { return };
    slot.generation = slot.generation.saturating_add(1);
    let generation = slot.generation;
    slot.in_hand.set(InHand::only(STARTING));
    let link = EntityLink {
        key: key.clone(),
        shard: myself.clone(),
        epoch: state.epoch,
        shard_id: state.shard,
        common: state.common.clone(),
        name: key.to_string(),
        in_hand: slot.in_hand.clone(),
    };
    match F::spawn(&state.shared, &state.map, link).await {
        Ok((target, cell)) => {
            state.entities.by_actor.insert(cell.get_id(), (key.clone(), generation));
            F::cast(&target, slot.waiting.drain(..).collect());
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
    if slot.generation != departure.generation || matches!(slot.life, Life::Parked | Life::Quarantined) {
        return;
    }
    if departure.failure.is_some() {
        return fail(state, myself, departure);
    }
    slot.life = Life::Gone;
    settle(state, myself, &departure.key).await;
}

/// A gone entity: forget it, or start its successor once its frames are resolved. One that failed lately is not
/// forgotten yet: its next failure counts with those before.
async fn settle<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, key: &F::Key) {
    let Some(slot) = state.entities.slots.get(key) else { return };
    if !matches!(slot.life, Life::Gone) || slot.unresolved > 0 {
        return;
    }
    if !slot.waiting.is_empty() || F::is_pinned(&state.map, key) {
        start(state, myself, key).await;
    } else if !slot.failed_lately(Instant::now()) {
        state.entities.slots.remove(key);
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
    let Some(slot) = state.entities.slots.get_mut(&key) else { return };
    let now = Instant::now();
    slot.failures.push_back(now);
    slot.failures.retain(|at| now.saturating_duration_since(*at) < FAILURE_WINDOW);
    let failures = slot.failures.len();
    metrics::counter!(metric::ACTOR_RESTARTS_TOTAL, "kind" => F::FAMILY.as_str()).increment(1);
    tracing::warn!(entity = %key, failures, %reason, "entity failed");
    if failures < MAX_FAILURES {
        let delay = back_off(failures, &key.to_string());
        return restart_after(state, myself, key, generation, delay);
    }
    let in_hand = slot.in_hand.replace(InHand::only(STARTING));
    let letter = letter(state, &key, in_hand, reason);
    match state.letters.place(&letter) {
        // Parked without a letter, nobody could ever take it out again.
        Place::Full => return restart_after(state, myself, key, generation, BACK_OFF_MAX),
        Place::Known => {}
        Place::Free => file(state, letter, Box::new(|| ())),
    }
    tracing::error!(entity = %key, "parked: see the dead letters");
    let Some(slot) = state.entities.slots.get_mut(&key) else { return };
    slot.life = Life::Parked;
    for message in std::mem::take(&mut slot.waiting) {
        refuse_stopped(state, &key, message);
    }
}

fn restart_after<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    key: F::Key,
    generation: u64,
    delay: Duration,
) {
    if let Some(slot) = state.entities.slots.get_mut(&key) {
        slot.life = Life::BackingOff;
        myself.send_after(delay, move || ShardMessage::Restart { key, generation });
    }
}

/// A dead letter, not yet filed.
fn letter<F: Family>(state: &ShardState<F>, key: &F::Key, in_hand: InHand<F>, error: String) -> DeadLetter {
    let InHand { summary, kept } = in_hand;
    let summary = kept.as_ref().map_or(summary, shortened);
    let body = kept.as_ref().and_then(EntityMessage::to_body);
    DeadLetter { number: 0, entity: key.to_string(), summary, body, error, at: state.shared.clock.wall() }
}

/// Makes a dead letter durable, then runs `after`.
fn file<F: Family>(state: &mut ShardState<F>, letter: DeadLetter, after: AfterCommit) {
    let letter = state.letters.add(letter);
    let number = letter.number;
    tracing::error!(entity = %letter.entity, error = %letter.error, "dead letter {}/{number}", state.shard);
    if !state.frames.push_shard_event(ShardEvent::DeadLettered(letter), after) {
        state.letters.forget(number);
    }
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

/// An operator retries or drops a dead letter; either way its entity, if it is parked, lives again. A dropped
/// letter is gone when that is durable, a retried one when its message was handled.
pub(super) async fn on_take_dead_letter<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
    number: u64,
    retry: bool,
    reply: Reply<()>,
) {
    let Some(letter) = state.letters.get(number).cloned() else {
        return reply.answer(Err(CallError::NotFound(format!("dead letter {}/{number}", state.shard))));
    };
    // A letter of an entity that this program does not know can only be dropped.
    let key = letter.entity.parse::<F::Key>().ok();
    if retry {
        let Some((key, message)) = key.zip(repeated(myself, &letter, reply)) else { return };
        revive(state, myself, &key).await;
        deliver(state, myself, key, vec![message]).await;
    } else {
        take(state, number, reply);
        if let Some(key) = key {
            revive(state, myself, &key).await;
        }
    }
}

/// The message of a letter, which answers the operator when it is handled. When it cannot be repeated, the
/// operator is told.
fn repeated<F: Family>(
    myself: &ActorRef<ShardMessage<F>>,
    letter: &DeadLetter,
    reply: Reply<()>,
) -> Option<F::Message> {
    let (actor, number) = (myself.clone(), letter.number);
    let done = Reply::new(move |result| drop(actor.cast(ShardMessage::Retried { number, result, reply })));
    let message = match letter.body.as_deref() {
        Some(body) => F::Message::from_body(body, done),
        None => Err(done),
    };
    let told = |done: Reply<()>| {
        let what = "this message cannot be repeated (its sender was told); drop it instead";
        done.answer(Err(CallError::Invalid(what.to_owned())));
    };
    message.map_err(told).ok()
}

/// A retried message was handled, or not: then its letter stays.
pub(super) fn on_retried<F: Family>(
    state: &mut ShardState<F>,
    number: u64,
    result: Result<(), CallError>,
    reply: Reply<()>,
) {
    match result {
        Ok(()) => take(state, number, reply),
        Err(error) => reply.answer(Err(error)),
    }
}

fn take<F: Family>(state: &mut ShardState<F>, number: u64, reply: Reply<()>) {
    let taken = ShardEvent::DeadLetterTaken { number };
    state.frames.push_shard_event(taken, Box::new(move || reply.answer(Ok(()))));
}

/// A parked entity may live again; a quarantined one may not.
async fn revive<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, key: &F::Key) {
    let Some(slot) = state.entities.slots.get_mut(key) else { return };
    if matches!(slot.life, Life::Parked) {
        slot.failures.clear();
        slot.life = Life::Gone;
        settle(state, myself, key).await;
    }
}
