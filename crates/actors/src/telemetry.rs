//! The telemetry actor: one shard's samples, from batches to chunks, and from chunks to hours.
//!
//! Side actor of a station shard, supervised by it. A batch is one message: what is known already is dropped,
//! the rest goes into open columns per charger, and each charger gets a digest at most once a second. A
//! gateway's columns are written together, data before cursors, at least every flush interval; the cumulative
//! acknowledgement leaves after the write (DATA-1). Soft: a restart reads the cursors back and asks the
//! gateways for everything above them; what comes twice is recognised by its number.
//!
//! Memory is bounded by `max_buffered_samples` (LOAD-1). Above half of it the fullest gateways are written at once and
//! replay is slowed by its credit, above three quarters replay pauses, at the bound batches are not taken: they stay
//! in the rings. What is written and only kept to recognise duplicates is forgotten when it is as much again.

mod columns;
pub(crate) mod rolling;
mod streams;

use crate::admission::{Lane, Permit, as_f64};
use crate::bridge::count_not_used;
use crate::charger::ChargerMessage;
use crate::downlink::SealingCounter;
use crate::family::{StationFamily, StationKey, StationMember};
use crate::gateway::{GatewayMessage, to_gateway};
use crate::metric;
use crate::ports::{Flush, GapRow, StoreError, StreamCursor};
use crate::reply::Reply;
use crate::shard::ShardMessage;
use crate::shared::NodeShared;
use chargeplane_domain::chunk::CHUNK_SAMPLES;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::sample::{Gap, Reading, Sample};
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::message::{Ack, Cursor, Down, Refusal, SampleRun, Stream};
use columns::Columns;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use tokio::time::Instant;

/// How often it looks for gateways to flush.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A gateway's columns are written early when they hold so many samples a charger, two ranges: of what is written,
/// little then has to be written again when its range has grown.
const FLUSH_AT_SAMPLES: usize = 2 * CHUNK_SAMPLES;

/// Batches of the replay stream a gateway may have under way: about 13,000 samples.
const REPLAY_CREDIT: u32 = 64;

/// The same while more than half of what may be in memory is.
const REPLAY_CREDIT_UNDER_PRESSURE: u32 = 8;

/// A gateway's columns are written early when this many of its replay batches wait: the gateway sends no more
/// until they are acknowledged, and a day's backlog must not take days.
const FLUSH_AT_REPLAYED: u32 = REPLAY_CREDIT / 2;

/// After an opening the first write comes this many times sooner.
const FIRST_FLUSH: u32 = 6;

/// A gateway is told where its streams stand at most this often.
const RESUME_EVERY: Duration = Duration::from_secs(1);

/// A charger gets a digest at most this often, by the samples' own clock.
const DIGEST_EVERY_MS: i64 = 1_000;

/// Messages of the telemetry actor.
pub enum TelemetryMessage {
    /// A batch of samples and declared gaps.
    Batch {
        /// Who sent it.
        gateway: GatewayId,
        /// The enrolment that numbers the samples: another one may number them from 0 again, so columns, chunks
        /// and gaps are kept by it.
        incarnation: u32,
        /// Which stream.
        stream: Stream,
        /// Which boot, under which key.
        boot: BootId,
        /// Its sequence.
        seq: u64,
        /// Samples, children known.
        runs: Vec<SampleRun>,
        /// Declared gaps, children known.
        gaps: Vec<(u16, Gap)>,
        /// Its place in the lanes.
        permit: Permit,
    },
    /// A batch that was authentic but cannot be used.
    Refused { gateway: GatewayId, stream: Stream, boot: BootId, seq: u64, reason: String, permit: Permit },
    /// A beat passed by: what the gateway knows of this owner, and what it will not send any more.
    Beat { gateway: GatewayId, epoch_seen: u64, floors: Vec<Cursor>, acked: Vec<Cursor>, permit: Permit },
    /// Look for gateways that are due.
    Look,
    /// A write ended.
    Written { gateway: GatewayId, cursors: Vec<Cursor>, samples: usize, took: Duration, result: Result<(), StoreError> },
    /// A pass over marked hours ended: whether there are more.
    Rolled(Result<bool, StoreError>),
    /// Newest samples of these chargers.
    Latest { of: Vec<ChargerId>, reply: Reply<BTreeMap<ChargerId, Reading>> },
    /// Take nothing more, write everything, then run this.
    Drain(Box<dyn FnOnce() + Send>),
}

/// The telemetry actor.
pub struct TelemetryActor;

/// What it is started with.
pub struct TelemetryArguments {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// The shard.
    pub shard: ShardId,
    /// The shard's actor.
    pub actor: ActorRef<ShardMessage<StationFamily>>,
    /// The shard's sealing counter.
    pub counter: Arc<SealingCounter>,
}

/// One gateway's samples on their way to the store.
#[derive(Default)]
struct Feed {
    streams: Streams,
    columns: HashMap<ChargerId, Columns>,
    gaps: Vec<GapRow>,
    /// Samples accepted since the last write began.
    unwritten: usize,
    /// Batches of the replay stream among them.
    replayed: u32,
    /// Something was written since the shard opened. After an opening the ring sends again what the former
    /// owner did not acknowledge, and that has waited long enough.
    settled: bool,
    /// When the oldest unwritten batch came.
    dirty_since: Option<Instant>,
    writing: bool,
    resumed_at: Option<Instant>,
    /// The credit for replay that the gateway was told last.
    told_credit: Option<u32>,
}

impl Feed {
    /// Written early: by its samples a charger, or because its replay waits for the acknowledgement.
    fn is_full(&self) -> bool {
        let full = self.unwritten >= FLUSH_AT_SAMPLES.saturating_mul(self.columns.len().max(1));
        full || self.replayed >= FLUSH_AT_REPLAYED
    }
}

/// The newest sample of a charger: the one with the highest number. Not the one with the latest stamp, because a
/// gateway's clock may be set back.
#[derive(Clone, Copy)]
struct Newest {
    incarnation: u32,
    number: u64,
    sample: Sample,
    /// When a digest last went to the charger, by the samples' own clock.
    digested: Option<Timestamp>,
}

impl Newest {
    fn reading(&self) -> Reading {
        let Self { incarnation, number, sample, .. } = *self;
        Reading { incarnation, number, sample }
    }
}

/// State of the telemetry actor.
pub struct TelemetryState {
    shared: Arc<NodeShared>,
    shard: ShardId,
    actor: ActorRef<ShardMessage<StationFamily>>,
    counter: Arc<SealingCounter>,
    feeds: BTreeMap<GatewayId, Feed>,
    latest: HashMap<ChargerId, Newest>,
    /// Samples that were accepted and are not in the store yet.
    buffered: usize,
    /// Those, and what is in the store and kept to recognise duplicates.
    held: usize,
    /// A pass over marked hours is under way.
    rolling: bool,
    roll_at: Instant,
    expire_at: Instant,
    /// Nothing is taken any more: what comes now stays in its gateway's ring.
    draining: bool,
    /// Runs when everything is written.
    drained: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for TelemetryState {
    /// What was not written is not here any more, but in the rings.
    fn drop(&mut self) {
        metrics::gauge!(metric::SAMPLES_BUFFERED).decrement(as_f64(self.buffered));
    }
}

impl Actor for TelemetryActor {
    type Msg = TelemetryMessage;
    type State = TelemetryState;
    type Arguments = TelemetryArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<TelemetryMessage>,
        arguments: TelemetryArguments,
    ) -> Result<TelemetryState, ActorProcessingErr> {
        let TelemetryArguments { shared, shard, actor, counter } = arguments;
        let mut feeds: BTreeMap<GatewayId, Feed> = BTreeMap::new();
        for StreamCursor { gateway, stream, boot, upto_seq } in shared.ports.telemetry.cursors(shard).await? {
            if let Some(stream) = Stream::from_u8(stream) {
                feeds.entry(gateway).or_default().streams.restore(stream, boot, upto_seq);
            }
        }
        let mut state = TelemetryState {
            shared,
            shard,
            actor,
            counter,
            feeds,
            latest: HashMap::new(),
            buffered: 0,
            held: 0,
            rolling: false,
            roll_at: Instant::now() + rolling::ROLL_EVERY,
            expire_at: Instant::now(),
            draining: false,
            drained: None,
        };
        let gateways: Vec<_> = {
            let directory = state.shared.directory.load();
            directory.gateways_of(shard).map(|gateway| gateway.id.clone()).collect()
        };
        for gateway in gateways {
            resume(&mut state, &gateway);
        }
        myself.send_interval(LOOK_EVERY, || TelemetryMessage::Look);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<TelemetryMessage>,
        message: TelemetryMessage,
        state: &mut TelemetryState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            TelemetryMessage::Batch { gateway, incarnation, stream, boot, seq, runs, gaps, permit: _ } => {
                let batch = Batch { incarnation, stream, boot, seq, runs, gaps };
                on_batch(state, &gateway, batch);
            }
            TelemetryMessage::Refused { gateway, stream, boot, seq, reason, permit: _ } => {
                state.feeds.entry(gateway.clone()).or_default().streams.refuse(stream, boot, seq, reason);
                ack(state, &gateway, stream, boot);
            }
            TelemetryMessage::Beat { gateway, epoch_seen, floors, acked, permit: _ } => {
                on_beat(state, &gateway, epoch_seen, &floors, &acked);
            }
            TelemetryMessage::Look => {
                on_look(state, &myself);
                roll(state, &myself);
            }
            TelemetryMessage::Written { gateway, cursors, samples, took, result } => {
                metrics::histogram!(metric::FLUSH_SECONDS).record(took.as_secs_f64());
                on_written(state, &gateway, cursors, samples, result);
                on_look(state, &myself);
            }
            TelemetryMessage::Rolled(result) => on_rolled(state, result),
            TelemetryMessage::Latest { of, reply } => {
                let newest = |id: ChargerId| state.latest.get(&id).map(|newest| (id, newest.reading()));
                reply.answer(Ok(of.into_iter().filter_map(newest).collect()));
            }
            TelemetryMessage::Drain(done) => {
                (state.draining, state.drained) = (true, Some(done));
                on_look(state, &myself);
            }
        }
        Ok(())
    }
}

struct Batch {
    incarnation: u32,
    stream: Stream,
    boot: BootId,
    seq: u64,
    runs: Vec<SampleRun>,
    gaps: Vec<(u16, Gap)>,
}

fn on_batch(state: &mut TelemetryState, gateway: &GatewayId, batch: Batch) {
    if state.draining {
        return count_not_used("not_serving");
    }
    let Batch { incarnation, stream, boot, seq, runs, gaps } = batch;
    let samples: usize = runs.iter().map(|run| run.samples.len()).sum();
    let limit = state.shared.config.max_buffered_samples;
    let children = match state.shared.directory.load().gateway(gateway) {
        Some(entry) => Arc::clone(entry),
        None => return,
    };
    let feed = state.feeds.entry(gateway.clone()).or_default();
    if feed.streams.is_received(stream, boot, seq) {
        // Delivered again: answered with what is durable, which may be less than this batch.
        count_not_used("repeated");
        metrics::counter!(metric::SAMPLES_DUPLICATE_TOTAL).increment(samples as u64);
        return ack(state, gateway, stream, boot);
    }
    if state.buffered.saturating_add(samples) > limit || !feed.streams.receive(stream, boot, seq) {
        // Not taken: the gateway's ring keeps it and sends it again.
        metrics::counter!(metric::SHED_TOTAL, "lane" => Lane::Telemetry.as_str()).increment(1);
        return;
    }
    feed.dirty_since.get_or_insert_with(Instant::now);
    feed.replayed = feed.replayed.saturating_add((stream == Stream::Replay).into());
    for (child, gap) in gaps {
        if let Some(charger) = children.children.get(&child) {
            feed.gaps.push(GapRow { charger: charger.clone(), incarnation, gap });
        }
    }
    let mut accepted = 0;
    for run in &runs {
        let Some(charger) = children.children.get(&run.child) else { continue };
        let columns = match feed.columns.get_mut(charger) {
            Some(columns) => columns,
            None => feed.columns.entry(charger.clone()).or_default(),
        };
        accepted += columns.append(incarnation, run.first_number, &run.samples);
    }
    feed.unwritten = feed.unwritten.saturating_add(accepted);
    state.buffered = state.buffered.saturating_add(accepted);
    state.held = state.held.saturating_add(accepted);
    metrics::counter!(metric::SAMPLES_ACCEPTED_TOTAL).increment(accepted as u64);
    metrics::counter!(metric::SAMPLES_DUPLICATE_TOTAL).increment(samples.saturating_sub(accepted) as u64);
    metrics::gauge!(metric::SAMPLES_BUFFERED).increment(as_f64(accepted));
    for run in &runs {
        if let (Some(charger), Some(sample)) = (children.children.get(&run.child), run.samples.last()) {
            let number = run.first_number.saturating_add(run.samples.len() as u64 - 1);
            digest(state, charger, Newest { incarnation, number, sample: *sample, digested: None });
        }
    }
}

/// Hands the newest sample to its charger, unless one went there within the last second. The shard passes it
/// on only while the charger has a session.
fn digest(state: &mut TelemetryState, charger: &ChargerId, newest: Newest) {
    let place = |newest: &Newest| (newest.incarnation, newest.number);
    let (at, register) = (newest.sample.at, newest.sample.register);
    match state.latest.get_mut(charger) {
        Some(known) if place(known) >= place(&newest) => return,
        Some(known) => {
            let digested = known.digested;
            *known = Newest { digested, ..newest };
            // A stamp before the last one is of a clock that was set back: the second since is not known to be over.
            if digested.is_some_and(|last| (0..DIGEST_EVERY_MS).contains(&at.since(last))) {
                return;
            }
            known.digested = Some(at);
        }
        None => {
            state.latest.insert(charger.clone(), Newest { digested: Some(at), ..newest });
        }
    }
    let charger = charger.clone();
    state.shared.router.station(state.shard, StationKey::Charger(charger), Lane::Status, 64, move |permit| {
        StationMember::Charger(ChargerMessage::Digest { at, register, permit })
    });
}

fn on_beat(state: &mut TelemetryState, gateway: &GatewayId, epoch_seen: u64, floors: &[Cursor], acked: &[Cursor]) {
    let feed = state.feeds.entry(gateway.clone()).or_default();
    for floor in floors {
        feed.streams.raise_floor(floor.stream, floor.boot, floor.seq);
    }
    for cursor in acked {
        feed.streams.forget_refusals(cursor.stream, cursor.boot, cursor.seq);
    }
    if epoch_seen < state.counter.epoch() {
        resume(state, gateway);
    }
}

/// Tells a gateway where its streams stand, through its actor, which adds the events stream.
fn resume(state: &mut TelemetryState, gateway: &GatewayId) {
    let feed = state.feeds.entry(gateway.clone()).or_default();
    if feed.resumed_at.is_some_and(|at| at.elapsed() < RESUME_EVERY) {
        return;
    }
    feed.resumed_at = Some(Instant::now());
    let telemetry = feed.streams.received_cursors();
    to_gateway(&state.actor, gateway, GatewayMessage::Resume { telemetry });
}

/// Starts the writes that are due.
fn on_look(state: &mut TelemetryState, myself: &ActorRef<TelemetryMessage>) {
    let draining = state.draining;
    let every = state.shared.config.flush_every;
    let due = |(gateway, feed): &(&GatewayId, &Feed)| {
        let since = feed.dirty_since.map(|at| at.elapsed());
        let spread = if feed.settled { spread(gateway, every) } else { spread(gateway, every) / FIRST_FLUSH };
        !feed.writing && since.is_some_and(|since| draining || feed.is_full() || since >= spread)
    };
    let due: Vec<GatewayId> = state.feeds.iter().filter(due).map(|(gateway, _)| gateway.clone()).collect();
    for gateway in due {
        write(state, myself, &gateway);
    }
    relieve(state, myself);
    tell_credit(state);
    let quiet = state.feeds.values().all(|feed| !feed.writing && feed.dirty_since.is_none());
    if quiet && let Some(done) = state.drained.take() {
        done();
    }
}

/// When more than half of what may be in memory is, the fullest gateways are written, until what is not being
/// written is less.
fn relieve(state: &mut TelemetryState, myself: &ActorRef<TelemetryMessage>) {
    let half = state.shared.config.max_buffered_samples / 2;
    if state.buffered <= half {
        return;
    }
    let mut idle: Vec<(usize, GatewayId)> = state
        .feeds
        .iter()
        .filter(|(_, feed)| !feed.writing && feed.dirty_since.is_some())
        .map(|(gateway, feed)| (feed.unwritten, gateway.clone()))
        .collect();
    idle.sort_by(|(a, _), (b, _)| b.cmp(a));
    let mut unwritten: usize = idle.iter().map(|(samples, _)| samples).sum();
    for (samples, gateway) in idle {
        if unwritten <= half / 2 {
            return;
        }
        unwritten = unwritten.saturating_sub(samples);
        write(state, myself, &gateway);
    }
}

/// Batches of replay that a gateway may have under way, by how much is in memory.
fn credit(buffered: usize, limit: usize) -> u32 {
    if buffered <= limit / 2 {
        REPLAY_CREDIT
    } else if buffered <= limit / 4 * 3 {
        REPLAY_CREDIT_UNDER_PRESSURE
    } else {
        0
    }
}

/// A gateway that was told to pause sends nothing that would be acknowledged: it is told when it may go on.
fn tell_credit(state: &mut TelemetryState) {
    if credit(state.buffered, state.shared.config.max_buffered_samples) == 0 {
        return;
    }
    let paused = state.feeds.iter().filter(|(_, feed)| feed.told_credit == Some(0));
    let paused: Vec<_> = paused.map(|(id, feed)| (id.clone(), feed.streams.received_cursors())).collect();
    for (gateway, cursors) in paused {
        for cursor in cursors.iter().filter(|cursor| cursor.stream == Stream::Replay) {
            ack(state, &gateway, cursor.stream, cursor.boot);
        }
    }
}

/// Starts a pass over marked hours, and lets old days go, when it is time.
fn roll(state: &mut TelemetryState, myself: &ActorRef<TelemetryMessage>) {
    let (telemetry, wall) = (Arc::clone(&state.shared.ports.telemetry), state.shared.clock.wall());
    if state.expire_at <= Instant::now() {
        state.expire_at = Instant::now() + rolling::EXPIRE_EVERY;
        let telemetry = Arc::clone(&telemetry);
        tokio::spawn(async move {
            if let Err(error) = telemetry.expire(rolling::kept_from(wall)).await {
                tracing::warn!(%error, "old days of telemetry were not removed; tried again in an hour");
            }
        });
    }
    if state.rolling || state.draining || state.roll_at > Instant::now() {
        return;
    }
    state.rolling = true;
    let (shard, waits, actor) = (state.shard, state.shared.config.flush_every, myself.clone());
    tokio::spawn(async move {
        let result = rolling::pass(&*telemetry, shard, wall, waits).await;
        drop(actor.cast(TelemetryMessage::Rolled(result)));
    });
}

fn on_rolled(state: &mut TelemetryState, result: Result<bool, StoreError>) {
    state.rolling = false;
    state.roll_at = Instant::now() + rolling::ROLL_EVERY;
    match result {
        Ok(true) => state.roll_at = Instant::now(),
        Ok(false) => {}
        // The marks are still there. A store that cannot write any more says so at the next flush as well.
        Err(error) => tracing::warn!(%error, shard = %state.shard, "hours were not rolled up; tried again"),
    }
}

/// Gateways write at different times, so that encoding never takes a core for long: between two thirds of the
/// interval and the whole of it.
fn spread(gateway: &GatewayId, every: Duration) -> Duration {
    let hash = gateway.as_str().bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    every.mul_f64(1.0 - f64::from(hash % 1_000) / 3_000.0)
}

/// Encodes and writes one gateway's columns beside the actor.
fn write(state: &mut TelemetryState, myself: &ActorRef<TelemetryMessage>, gateway: &GatewayId) {
    let Some(feed) = state.feeds.get_mut(gateway) else { return };
    feed.writing = true;
    feed.dirty_since = None;
    feed.replayed = 0;
    let samples = std::mem::take(&mut feed.unwritten);
    // Taken before anything else arrives: these cursors promise exactly what is in the columns now.
    let cursors = feed.streams.received_cursors();
    let storable = feed.streams.storable_cursors();
    let gaps = std::mem::take(&mut feed.gaps);
    let mut open: Vec<_> =
        feed.columns.iter_mut().filter_map(|(id, columns)| Some((id.clone(), columns.take_changed()?))).collect();
    let (shard, epoch, gateway) = (state.shard, state.counter.epoch(), gateway.clone());
    // Neighbours in the store are written one after the other.
    open.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let (shared, actor) = (Arc::clone(&state.shared), myself.clone());
    tokio::spawn(async move {
        let started = Instant::now();
        let telemetry = &shared.ports.telemetry;
        // As many as there are cores: more would only take turns, each with its columns in memory.
        let encoder = shared.encoders.acquire().await;
        let encoded = tokio::task::spawn_blocking(move || columns::encode(open, epoch)).await;
        drop(encoder);
        let result = match encoded {
            Ok(Ok(chunks)) => {
                metrics::counter!(metric::CHUNKS_TOTAL).increment(chunks.len() as u64);
                let rows = storable.iter().map(|cursor| StreamCursor {
                    gateway: gateway.clone(),
                    stream: cursor.stream.as_u8(),
                    boot: cursor.boot,
                    upto_seq: cursor.seq,
                });
                let flush = Flush { shard, chunks, gaps, cursors: rows.collect() };
                telemetry.write(flush).await
            }
            Ok(Err(error)) => Err(StoreError::Corrupt(error.to_string())),
            Err(error) => Err(StoreError::Io(error.to_string())),
        };
        let took = started.elapsed();
        drop(actor.cast(TelemetryMessage::Written { gateway, cursors, samples, took, result }));
    });
}

fn on_written(
    state: &mut TelemetryState,
    gateway: &GatewayId,
    cursors: Vec<Cursor>,
    samples: usize,
    result: Result<(), StoreError>,
) {
    if let Err(error) = result {
        // Nothing of it is acknowledged; a store that failed once is not trusted again.
        return state.shared.fatal.raise(format!("telemetry: {error}"));
    }
    metrics::counter!(metric::SAMPLES_STORED_TOTAL).increment(samples as u64);
    metrics::gauge!(metric::SAMPLES_BUFFERED).decrement(as_f64(samples));
    state.buffered = state.buffered.saturating_sub(samples);
    let crowded = state.held.saturating_sub(state.buffered) > state.shared.config.max_buffered_samples;
    let Some(feed) = state.feeds.get_mut(gateway) else { return };
    feed.writing = false;
    feed.settled = true;
    feed.columns.retain(|_, columns| {
        state.held = state.held.saturating_sub(columns.drop_written(crowded));
        !columns.is_empty()
    });
    let moved: Vec<_> = cursors.into_iter().filter(|cursor| feed.streams.durable(*cursor)).collect();
    for cursor in moved {
        ack(state, gateway, cursor.stream, cursor.boot);
    }
}

/// Sends the present acknowledgement of one stream and boot.
fn ack(state: &mut TelemetryState, gateway: &GatewayId, stream: Stream, boot: BootId) {
    let credit = credit(state.buffered, state.shared.config.max_buffered_samples);
    let Some(feed) = state.feeds.get_mut(gateway) else { return };
    feed.told_credit = Some(credit);
    let refused = feed.streams.refusals(stream, boot);
    let refused = refused.map(|(seq, reason)| Refusal { seq, reason: reason.to_owned() }).collect();
    let ack = Ack {
        stream,
        boot,
        epoch: state.counter.epoch(),
        upto_seq: feed.streams.durable_upto(stream, boot),
        refused,
        credit,
    };
    let shared = &state.shared;
    shared.downlink.send(&shared.directory, &state.counter, gateway, shared.clock.wall(), &Down::Ack(ack));
}
