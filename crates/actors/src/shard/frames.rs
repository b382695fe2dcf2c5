//! Frames of a shard: what is pending, what is in flight, what runs after a commit.

use super::{AfterCommit, Covered, Family, Phase, ShardMessage, ShardState, entities};
use crate::entry::{EncodedEntries, PayloadError, ShardEvent};
use crate::journal::JournalMessage;
use crate::projection::ProjectionMessage;
use chargeplane_cluster::frame::{Frame, FrameHash, MAX_PAYLOAD};
use chargeplane_cluster::journal::CommitOutcome;
use chargeplane_domain::placement::ShardId;
use ractor::{ActorProcessingErr, ActorRef};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Entries in one frame: bounds how long the shard is busy with one commit.
const MAX_ENTRIES: usize = 4_000;

/// Bytes of entries in one frame, unless a single contribution has more.
const MAX_FRAME_BYTES: usize = MAX_PAYLOAD / 2;

/// Bytes of one contribution: leaves room for the payload's header. Nothing that comes in over a wire is nearly
/// as large, so a larger one is a defect of the entity, which is then quarantined.
const MAX_PART_BYTES: usize = MAX_PAYLOAD - 64;

/// How long a frame waits for those whom the last commit has answered. Callers who ask again at once then find a
/// place in it, and there are half as many commits.
const LINGER: Duration = Duration::from_micros(100);

/// Entries in a commit from which on it is worth waiting.
const LINGER_FROM: usize = 8;

/// Looks at most so often, whatever the clock says.
const MAX_LINGERS: u32 = 500;

/// What a contribution says.
enum Content<F: Family> {
    /// Events of one entity.
    Entity(F::Key, Vec<F::Event>),
    /// An event of the shard itself.
    Shard(ShardEvent),
}

/// One entity's contribution to a frame, or the shard's own.
struct Pending<F: Family> {
    content: Content<F>,
    encoded: EncodedEntries,
    after: AfterCommit,
    /// What has no events of its own and waits for this contribution.
    rides: Vec<Ride<F>>,
}

/// Whose it is, an entity's or the shard's, and what is to run.
type Ride<F> = (Option<<F as Family>::Key>, AfterCommit);

impl<F: Family> Pending<F> {
    fn new(content: Content<F>, encoded: EncodedEntries, after: AfterCommit) -> Result<Self, PayloadError> {
        if encoded.len() > MAX_PART_BYTES {
            return Err(PayloadError::Encode(format!("{} bytes, at most {MAX_PART_BYTES}", encoded.len())));
        }
        Ok(Self { content, encoded, after, rides: Vec::new() })
    }

    fn key(&self) -> Option<&F::Key> {
        match &self.content {
            Content::Entity(key, _) => Some(key),
            Content::Shard(_) => None,
        }
    }
}

struct InFlight<F: Family> {
    lsn: u64,
    hash: FrameHash,
    bytes: usize,
    parts: Vec<Pending<F>>,
}

/// Pending and in-flight frames of one shard.
pub(super) struct Frames<F: Family> {
    shard: ShardId,
    last_lsn: u64,
    last_hash: FrameHash,
    pending: VecDeque<Pending<F>>,
    /// Entries in `pending`.
    waiting: usize,
    in_flight: Option<InFlight<F>>,
    /// How many entries the last commit answered, and when.
    answered: Option<(usize, Instant)>,
    /// How often this frame was put off.
    lingered: u32,
    /// A [`ShardMessage::Linger`] is on its way.
    lingers: bool,
}

impl<F: Family> Frames<F> {
    pub(super) fn new(shard: ShardId) -> Self {
        let last_hash = FrameHash::genesis(shard);
        Self {
            shard,
            last_lsn: 0,
            last_hash,
            pending: VecDeque::new(),
            waiting: 0,
            in_flight: None,
            answered: None,
            lingered: 0,
            lingers: false,
        }
    }

    /// Continues after the last stored frame.
    pub(super) fn continue_after(&mut self, lsn: u64, hash: FrameHash) {
        (self.last_lsn, self.last_hash) = (lsn, hash);
    }

    pub(super) fn last_lsn(&self) -> u64 {
        self.last_lsn
    }

    /// Number and hash of the last durable frame.
    pub(super) fn last(&self) -> (u64, FrameHash) {
        (self.last_lsn, self.last_hash)
    }

    /// True when nothing waits for a commit.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_none()
    }

    /// Queues an entity's events. Without events, `after` rides behind everything queued so far: a read is
    /// answered only when what it saw is durable. An error queues nothing.
    pub(super) fn push(
        &mut self,
        key: F::Key,
        events: Vec<F::Event>,
        encoded: EncodedEntries,
        after: AfterCommit,
    ) -> Result<(), PayloadError> {
        if events.is_empty() {
            self.ride(Some(key), after);
            return Ok(());
        }
        self.queue(Pending::new(Content::Entity(key, events), encoded, after)?);
        Ok(())
    }

    fn queue(&mut self, part: Pending<F>) {
        self.waiting = self.waiting.saturating_add(part.encoded.count());
        self.pending.push_back(part);
    }

    /// Runs `after` behind everything queued so far.
    pub(super) fn ride(&mut self, key: Option<F::Key>, after: AfterCommit) {
        let in_flight = self.in_flight.as_mut().map(|frame| &mut frame.parts);
        match self.pending.back_mut().or(in_flight.and_then(|parts| parts.last_mut())) {
            Some(last) => last.rides.push((key, after)),
            None => after(),
        }
    }

    /// Drops what is queued of an entity: it rests on what can never be applied. Others' reads that rode on it
    /// ride on what is before it.
    pub(super) fn drop_pending(&mut self, key: &F::Key) {
        for mut part in std::mem::take(&mut self.pending) {
            part.rides.retain(|(of, _)| of.as_ref() != Some(key));
            if part.key() != Some(key) {
                self.pending.push_back(part);
            } else {
                self.waiting = self.waiting.saturating_sub(part.encoded.count());
                part.rides.into_iter().for_each(|(of, after)| self.ride(of, after));
            }
        }
    }

    /// Queues an event of the shard itself. False when it cannot be written: what a dead letter holds came over a
    /// bounded wire, so this is a defect. Whoever waits is told "interrupted" by the guard that is dropped then.
    pub(super) fn push_shard_event(&mut self, event: ShardEvent, after: AfterCommit) -> bool {
        let mut encoded = EncodedEntries::default();
        let written = encoded.push_shard(&event);
        match written.and_then(|()| Pending::new(Content::Shard(event), encoded, after)) {
            Ok(part) => self.queue(part),
            Err(error) => {
                tracing::error!(shard = %self.shard, %error, "an event of the shard cannot be written");
                return false;
            }
        }
        true
    }

    /// What is on its way into the map, in the order of the log.
    fn queued(&self) -> impl Iterator<Item = (&F::Key, &F::Event)> {
        let in_flight = self.in_flight.iter().flat_map(|frame| &frame.parts);
        let entities = in_flight.chain(&self.pending).filter_map(|part| match &part.content {
            Content::Entity(key, events) => Some((key, events)),
            Content::Shard(_) => None,
        });
        entities.flat_map(|(key, events)| events.iter().map(move |event| (key, event)))
    }

    fn take_parts(&mut self) -> Vec<Pending<F>> {
        let (mut entries, mut bytes) = (0usize, 0usize);
        let count = self.pending.iter().take_while(|part| {
            let first = entries == 0;
            entries = entries.saturating_add(part.encoded.count());
            bytes = bytes.saturating_add(part.encoded.len());
            first || (entries <= MAX_ENTRIES && bytes <= MAX_FRAME_BYTES)
        });
        let count = count.count();
        let parts: Vec<_> = self.pending.drain(..count).collect();
        let taken: usize = parts.iter().map(|part| part.encoded.count()).sum();
        self.waiting = self.waiting.saturating_sub(taken);
        parts
    }

    /// True while it is worth to wait a moment for those who were just answered: their next events then go into
    /// this frame and not, one sync later, into the one after it.
    fn is_lingering(&self) -> bool {
        let Some((answered, at)) = self.answered else { return false };
        self.waiting < answered && at.elapsed() < LINGER && self.lingered < MAX_LINGERS
    }
}

/// Queues what an entity handed over. An entity whose events cannot be written is quarantined: its memory is
/// ahead of what the store will ever have. What it still sends then is dropped.
pub(super) fn on_persist<F: Family>(
    state: &mut ShardState<F>,
    key: F::Key,
    events: Vec<F::Event>,
    encoded: Result<EncodedEntries, PayloadError>,
    after: AfterCommit,
) {
    if state.entities.is_quarantined(&key) {
        return;
    }
    let count = events.len();
    let queued = encoded.and_then(|encoded| state.frames.push(key.clone(), events, encoded, after));
    match queued {
        Ok(()) => state.entities.persisted(&key, count),
        Err(error) => {
            tracing::error!(shard = %state.shard, entity = %key, %error, "events cannot be written: quarantined");
            entities::quarantine(state, &key);
        }
    }
}

/// Queues an event that rests on what other entities did, if it may follow that. From here on nothing comes before it.
pub(super) fn on_persist_if<F: Family>(
    state: &mut ShardState<F>,
    key: F::Key,
    event: F::Event,
    encoded: Result<EncodedEntries, PayloadError>,
    told: Covered,
) {
    let covered = F::covers(&state.map, state.frames.queued(), &event);
    if covered {
        on_persist(state, key, vec![event], encoded, Box::new(|| ()));
    }
    told(covered);
}

/// Sends the next frame unless one is in flight.
pub(super) fn start<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
) -> Result<(), ActorProcessingErr> {
    let frames = &mut state.frames;
    let serving = matches!(state.phase, Phase::Open { .. } | Phase::Draining { .. });
    if frames.in_flight.is_some() || frames.pending.is_empty() || !serving {
        return Ok(());
    }
    if frames.is_lingering() {
        // The clock of the runtime ticks in milliseconds, so the shard looks again behind what is in its mailbox.
        if !std::mem::replace(&mut frames.lingers, true) {
            myself.cast(ShardMessage::Linger)?;
        }
        return Ok(());
    }
    (frames.answered, frames.lingered) = (None, 0);
    let parts = frames.take_parts();
    let payload = EncodedEntries::join(parts.iter().map(|part| &part.encoded));
    let now = state.shared.clock.wall();
    let frame = Frame::following(frames.shard, state.epoch, frames.last_lsn, frames.last_hash, now, payload);
    let bytes = frame.payload.len();
    frames.in_flight = Some(InFlight { lsn: frame.lsn, hash: frame.hash(), bytes, parts });
    let actor = myself.clone();
    // When the shard is gone by then, its successor reads the frame from the journal.
    let done = Box::new(move |outcome| drop(actor.cast(ShardMessage::Committed { outcome })));
    state.shared.journal_actor()?.cast(JournalMessage::Commit { frame, done })?;
    Ok(())
}

/// Looks again whether to wait for more.
pub(super) fn on_linger<F: Family>(
    state: &mut ShardState<F>,
    myself: &ActorRef<ShardMessage<F>>,
) -> Result<(), ActorProcessingErr> {
    state.frames.lingers = false;
    state.frames.lingered = state.frames.lingered.saturating_add(1);
    start(state, myself)
}

/// The frame in flight ended. Applies its events to the map, then lets out what waited for them. Returns the
/// entities whose events were resolved. A refused frame is an error: the shard opens anew.
pub(super) fn on_committed<F: Family>(
    state: &mut ShardState<F>,
    outcome: CommitOutcome,
) -> Result<Vec<F::Key>, ActorProcessingErr> {
    let Some(InFlight { lsn, hash, bytes, parts }) = state.frames.in_flight.take() else {
        return Err("a commit ended that this shard did not start".into());
    };
    if let CommitOutcome::Fenced { epoch, last_lsn } = outcome {
        let mine = state.epoch;
        tracing::warn!(shard = %state.shard, epoch, last_lsn, mine, "fenced: opening anew");
        return Err(format!("fenced by epoch {epoch} at log number {last_lsn}").into());
    }
    state.frames.continue_after(lsn, hash);
    let mut resolved = Vec::with_capacity(parts.len());
    let mut afters = Vec::with_capacity(parts.len());
    let (mut tally, mut entries) = (F::Tally::default(), 0usize);
    for part in parts {
        entries = entries.saturating_add(part.encoded.count());
        let key = match part.content {
            Content::Entity(key, events) => {
                apply(state, &key, &events, &mut tally);
                Some(key)
            }
            Content::Shard(event) => {
                state.letters.apply(&event);
                None
            }
        };
        // What a quarantined entity would tell is not true of its state: the guards say "interrupted".
        let told = |key: &Option<F::Key>| key.as_ref().is_none_or(|key| !state.entities.is_quarantined(key));
        if told(&key) {
            afters.push(part.after);
        }
        afters.extend(part.rides.into_iter().filter(|(key, _)| told(key)).map(|(_, after)| after));
        resolved.extend(key);
    }
    F::report(tally);
    state.snapshots.grew(bytes);
    state.frames.answered = (entries >= LINGER_FROM).then(|| (entries, Instant::now()));
    // Before the answers, so that whoever has one and asks the projection is behind it.
    state.shared.notify_projection(ProjectionMessage::Advanced { shard: state.shard, lsn });
    for after in afters {
        after();
    }
    #[cfg(any(test, feature = "testing"))]
    crate::testing::crash::pass(crate::testing::crash::CrashPoint::AfterAck);
    Ok(resolved)
}

fn apply<F: Family>(state: &mut ShardState<F>, key: &F::Key, events: &[F::Event], tally: &mut F::Tally) {
    if state.entities.is_quarantined(key) {
        return;
    }
    match F::apply(&mut state.map, key, events) {
        Ok(()) => F::tally(&state.map, key, events, tally),
        // The entity decided it a moment ago, so this is a defect of the machine: contain it.
        Err(reason) => {
            tracing::error!(shard = %state.shard, entity = %key, %reason, "event does not apply: quarantined");
            entities::quarantine(state, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{AccountFamily, AccountKey};
    use chargeplane_domain::account::AccountEvent;
    use chargeplane_domain::placement::Family as Kind;
    use chargeplane_domain::units::{Currency, Money, Timestamp};
    use std::sync::{Arc, Mutex};

    fn frames() -> Frames<AccountFamily> {
        Frames::new(ShardId { family: Kind::Account, index: 0 })
    }

    fn top_up(key_len: usize) -> AccountEvent {
        let currency = Currency::new("CNY").unwrap();
        AccountEvent::ToppedUp { key: "k".repeat(key_len), currency, amount: Money(1), at: Timestamp(0) }
    }

    fn hand_over(
        frames: &mut Frames<AccountFamily>,
        key: AccountKey,
        events: Vec<AccountEvent>,
        after: AfterCommit,
    ) -> Result<(), PayloadError> {
        let encoded = EncodedEntries::of(&key.to_string(), &events)?;
        frames.push(key, events, encoded, after)
    }

    fn push(frames: &mut Frames<AccountFamily>, key_len: usize) -> Result<(), PayloadError> {
        hand_over(frames, AccountKey("a".parse().unwrap()), vec![top_up(key_len)], Box::new(|| ()))
    }

    #[test]
    fn a_frame_ends_before_it_is_too_large() {
        let mut frames = frames();
        for _ in 0..7 {
            push(&mut frames, MAX_FRAME_BYTES / 3).unwrap();
        }
        for _ in 0..MAX_ENTRIES {
            push(&mut frames, 1).unwrap();
        }
        let sizes: Vec<_> = std::iter::from_fn(|| Some(frames.take_parts().len()).filter(|count| *count > 0)).collect();
        assert_eq!(sizes[..3], [2, 2, 2]);
        assert_eq!(sizes.iter().sum::<usize>(), 7 + MAX_ENTRIES);
        assert!(sizes.iter().all(|count| *count <= MAX_ENTRIES));
    }

    #[test]
    fn what_is_dropped_of_an_entity_takes_nobody_elses_reads_with_it() {
        let mut frames = frames();
        let (ran, key) = (Arc::new(Mutex::new(Vec::new())), |name: &str| AccountKey(name.parse().unwrap()));
        let after = |what: &'static str| -> AfterCommit {
            let ran = Arc::clone(&ran);
            Box::new(move || ran.lock().unwrap().push(what))
        };
        hand_over(&mut frames, key("good"), vec![top_up(1)], after("good event")).unwrap();
        hand_over(&mut frames, key("bad"), vec![top_up(1)], after("bad event")).unwrap();
        hand_over(&mut frames, key("good"), Vec::new(), after("good read")).unwrap();
        hand_over(&mut frames, key("bad"), Vec::new(), after("bad read")).unwrap();
        frames.drop_pending(&key("bad"));
        let parts = frames.take_parts();
        assert_eq!(parts.len(), 1);
        for Pending { after, rides, .. } in parts {
            after();
            rides.into_iter().for_each(|(_, after)| after());
        }
        assert_eq!(*ran.lock().unwrap(), ["good event", "good read"]);
    }

    #[test]
    fn any_number_of_answers_rides_behind_one_commit() {
        let mut frames = frames();
        push(&mut frames, 1).unwrap();
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for _ in 0..200_000 {
            let count = count.clone();
            let after = move || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            };
            hand_over(&mut frames, AccountKey("a".parse().unwrap()), Vec::new(), Box::new(after)).unwrap();
        }
        frames.take_parts().into_iter().flat_map(|part| part.rides).for_each(|(_, after)| after());
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 200_000);
    }

    #[test]
    fn what_fits_no_frame_is_refused_alone() {
        let mut frames = frames();
        push(&mut frames, MAX_PART_BYTES - 1_000).unwrap();
        assert!(matches!(push(&mut frames, MAX_PAYLOAD), Err(PayloadError::Encode(_))));
        push(&mut frames, 1).unwrap();
        assert_eq!(frames.take_parts().len(), 1);
        assert_eq!(frames.take_parts().len(), 1);
        assert!(frames.is_quiet());
    }
}
