//! The gateway actor: one gateway's transactions in, commands out.
//!
//! Supervised by its station's shard. It takes the batches of the events stream strictly in sequence, hands
//! each event to its charger, and moves the durable cursor only when every event of the batch is durable; the
//! acknowledgement leaves after the commit of the cursor (DATA-1, CMD-1). A refusal is durable with the cursor
//! that passes it, and told only with that. A restart reloads both from the shard's map; what was not
//! acknowledged is delivered again, and chargers recognise what they have had.
//!
//! Commands leave as answers to the gateway's last beat, which their deadlines count from; until there is one
//! they wait.

use crate::admission::{Lane, Permit};
use crate::bridge::count_not_used;
use crate::charger::ChargerMessage;
use crate::downlink::SealingCounter;
use crate::family::{StationFamily, StationFamilyEvent, StationKey, StationMember};
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use crate::shard::{EntityLink, ShardMessage};
use crate::shared::NodeShared;
use chargeplane_domain::command::Command;
use chargeplane_domain::gateway::{BootId, GatewayCommand, GatewayState};
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_protocol::limits::{MAX_CURSORS, MAX_ITEMS};
use chargeplane_protocol::message::{
    Ack, Cursor, Down, DownCommand, GatewayEvent, NumberedEvent, Refusal, Resume, Stream,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Batches kept that arrived ahead of a missing one; the gateway sends further ones again.
const MAX_AHEAD: usize = 64;

/// Commands kept until they can be sent; their chargers send further ones again.
const MAX_COMMANDS: usize = MAX_ITEMS;

/// Boots of a gateway whose events are in memory at once.
const MAX_BOOTS: usize = 16;

/// Why a batch of a boot whose cursor is forgotten cannot be used.
const STALE_BOOT: &str = "stale_boot";

/// Messages of the gateway actor.
#[derive(Debug)]
pub enum GatewayMessage {
    /// A batch of the events stream.
    Events { boot: BootId, seq: u64, events: Vec<NumberedEvent>, permit: Permit },
    /// A batch of the events stream that was authentic but cannot be used.
    Refused { boot: BootId, seq: u64, reason: String, permit: Permit },
    /// One event of the batch in work is durable at its charger, or not.
    EventEnded { boot: BootId, seq: u64, result: Result<(), CallError> },
    /// The cursor is durable.
    CursorDurable { boot: BootId, upto: u64 },
    /// A durable command of a charger, to be sent with others.
    Send { charger: ChargerId, command: Command },
    /// Send the collected commands; also said when a beat came that they wait for.
    FlushCommands { permit: Permit },
    /// A message that needs no durability.
    SendDown { down: Down, permit: Permit },
    /// Tell the gateway where its streams stand.
    Resume { telemetry: Vec<Cursor> },
}

/// The gateway actor.
pub struct GatewayActor;

/// What it is started with.
pub struct GatewayArguments {
    /// The node.
    pub shared: Arc<NodeShared>,
    /// Its shard.
    pub link: EntityLink<StationFamily>,
    /// Its id.
    pub id: GatewayId,
    /// Its durable state.
    pub state: GatewayState,
    /// The shard's sealing counter.
    pub counter: Arc<SealingCounter>,
}

/// Batches of one boot.
#[derive(Default)]
struct Boot {
    /// Batches that wait, with what arrived in them.
    waiting: BTreeMap<u64, Waiting>,
    /// The batch in work and the events of it that are not durable yet.
    in_work: Option<(u64, usize)>,
    /// An event of the batch in work was not handled.
    failed: bool,
}

enum Waiting {
    Events(Vec<NumberedEvent>, #[allow(dead_code, reason = "held for its drop")] Permit),
    Refused(String, #[allow(dead_code, reason = "held for its drop")] Permit),
}

/// State of the gateway actor.
pub struct GatewayActorState {
    shared: Arc<NodeShared>,
    link: EntityLink<StationFamily>,
    id: GatewayId,
    /// With all events applied that were handed to the shard, durable or not.
    state: GatewayState,
    counter: Arc<SealingCounter>,
    boots: BTreeMap<BootId, Boot>,
    /// Commands to be sent, with their chargers' numbers.
    commands: Vec<(u16, Command)>,
    flush_queued: bool,
}

impl Actor for GatewayActor {
    type Msg = GatewayMessage;
    type State = GatewayActorState;
    type Arguments = GatewayArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<GatewayMessage>,
        arguments: GatewayArguments,
    ) -> Result<GatewayActorState, ActorProcessingErr> {
        let GatewayArguments { shared, link, id, state, counter } = arguments;
        let (boots, commands) = (BTreeMap::new(), Vec::new());
        Ok(GatewayActorState { shared, link, id, state, counter, boots, commands, flush_queued: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<GatewayMessage>,
        message: GatewayMessage,
        state: &mut GatewayActorState,
    ) -> Result<(), ActorProcessingErr> {
        state.link.begin(&message, None)?;
        match message {
            GatewayMessage::Events { boot, seq, events, permit } => {
                on_batch(state, boot, seq, Waiting::Events(events, permit));
                work(state, &myself, boot)
            }
            GatewayMessage::Refused { boot, seq, reason, permit } => {
                on_batch(state, boot, seq, Waiting::Refused(reason, permit));
                work(state, &myself, boot)
            }
            GatewayMessage::EventEnded { boot, seq, result } => {
                on_event_ended(state, &myself, boot, seq, result)?;
                work(state, &myself, boot)
            }
            GatewayMessage::CursorDurable { boot, upto } => {
                send(state, &ack(state, boot, upto));
                Ok(())
            }
            GatewayMessage::Send { charger, command } => {
                on_send(state, &myself, &charger, command);
                Ok(())
            }
            GatewayMessage::FlushCommands { permit: _ } => {
                state.flush_queued = false;
                send_commands(state);
                Ok(())
            }
            GatewayMessage::SendDown { down, permit: _ } => {
                send(state, &down);
                Ok(())
            }
            GatewayMessage::Resume { telemetry } => {
                on_resume(state, telemetry);
                Ok(())
            }
        }
    }
}

fn on_batch(state: &mut GatewayActorState, boot: BootId, seq: u64, batch: Waiting) {
    if seq <= state.state.cursor(Stream::Events.as_u8(), boot) {
        // Delivered again: its acknowledgement was lost. The cursor may still be on its way to the disk, so
        // the answer rides behind it.
        count_not_used("repeated");
        return ride(state, boot);
    }
    if state.state.is_stale(Stream::Events.as_u8(), boot) {
        // Where this boot stood is forgotten, so its turn never comes. The gateway declares the batch lost
        // instead of sending it for ever before everything newer.
        metrics::counter!(metric::BATCHES_REFUSED_TOTAL, "reason" => STALE_BOOT).increment(1);
        tracing::warn!(gateway = %state.id, %boot, seq, "events of a boot that is too old are refused");
        let refused = vec![Refusal { seq, reason: STALE_BOOT.to_owned() }];
        return send(state, &ack_of(state, boot, 0, refused));
    }
    if !state.boots.contains_key(&boot) && state.boots.len() >= MAX_BOOTS {
        // Its turn comes when the others of this gateway are done; until then it stays in the ring.
        state.boots.retain(|_, other| other.in_work.is_some() || !other.waiting.is_empty());
        if state.boots.len() >= MAX_BOOTS {
            return count_not_used("too_many_boots");
        }
    }
    let entry = state.boots.entry(boot).or_default();
    if entry.in_work.is_some_and(|(in_work, _)| in_work == seq) {
        return count_not_used("repeated");
    }
    if entry.waiting.len() < MAX_AHEAD {
        entry.waiting.entry(seq).or_insert(batch);
    }
}

/// Starts the next batch of a boot when it is there and none is in work.
fn work(
    state: &mut GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: BootId,
) -> Result<(), ActorProcessingErr> {
    loop {
        let next = state.state.cursor(Stream::Events.as_u8(), boot).saturating_add(1);
        let Some(entry) = state.boots.get_mut(&boot) else { return Ok(()) };
        if entry.in_work.is_some() {
            return Ok(());
        }
        let Some(batch) = entry.waiting.remove(&next) else { return Ok(()) };
        match batch {
            Waiting::Refused(reason, _permit) => move_cursor(state, myself, boot, next, Some(reason))?,
            Waiting::Events(events, _permit) if events.is_empty() => move_cursor(state, myself, boot, next, None)?,
            Waiting::Events(events, _permit) => {
                entry.in_work = Some((next, events.len()));
                entry.failed = false;
                let lanes = lanes_of(&events);
                for event in events {
                    let lane = lanes.get(&event.event.child()).copied().unwrap_or(Lane::Commands);
                    dispatch(state, myself, boot, next, lane, event.event);
                }
                return Ok(());
            }
        }
    }
}

/// The lane of an event: that something ended or failed is not to wait behind what only begins.
pub(crate) fn lane_of(event: &GatewayEvent) -> Lane {
    match event {
        GatewayEvent::SessionStopped { .. } | GatewayEvent::Fault { .. } => Lane::Safety,
        _ => Lane::Commands,
    }
}

/// The lane of each charger's events in a batch: all in the most urgent one, so that they stay in order.
fn lanes_of(events: &[NumberedEvent]) -> BTreeMap<u16, Lane> {
    let mut lanes: BTreeMap<u16, Lane> = BTreeMap::new();
    for NumberedEvent { event, .. } in events {
        let lane = lanes.entry(event.child()).or_insert(Lane::Commands);
        *lane = (*lane).min(lane_of(event));
    }
    lanes
}

/// Hands one event to its charger.
fn dispatch(
    state: &GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: BootId,
    seq: u64,
    lane: Lane,
    event: GatewayEvent,
) {
    metrics::counter!(metric::EVENTS_TOTAL).increment(1);
    let gateway = myself.clone();
    let done = Reply::new(move |result| {
        // A gateway actor that is gone gets the batch again.
        let _ = gateway.cast(GatewayMessage::EventEnded { boot, seq, result });
    });
    let directory = state.shared.directory.load();
    let entry = directory.gateway(&state.id);
    let Some(charger) = entry.and_then(|entry| entry.children.get(&event.child())) else {
        // The bridge checks children; this one left the catalogue since. Nobody can use the event.
        tracing::warn!(gateway = %state.id, child = event.child(), "event of a charger that is gone");
        return done.answer(Ok(()));
    };
    let shard = state.link.shard_id;
    let key = StationKey::Charger(charger.clone());
    state.shared.router.station(shard, key, lane, 256, move |permit| {
        StationMember::Charger(ChargerMessage::FromGateway { event, done, permit })
    });
}

fn on_event_ended(
    state: &mut GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: BootId,
    seq: u64,
    result: Result<(), CallError>,
) -> Result<(), ActorProcessingErr> {
    let Some(entry) = state.boots.get_mut(&boot) else { return Ok(()) };
    let Some((in_work, left)) = &mut entry.in_work else { return Ok(()) };
    if *in_work != seq {
        return Ok(());
    }
    *left = left.saturating_sub(1);
    match result {
        // The events of a charger that handles none are in the dead-letter list by now.
        Ok(()) | Err(CallError::Parked(_) | CallError::Quarantined(_)) => {}
        Err(error) => {
            tracing::debug!(gateway = %state.id, %error, "an event was not handled; the batch will come again");
            entry.failed = true;
        }
    }
    if *left > 0 {
        return Ok(());
    }
    entry.in_work = None;
    if entry.failed { Ok(()) } else { move_cursor(state, myself, boot, seq, None) }
}

/// Makes the cursor durable, with the reason when the batch there is refused; then acknowledges.
fn move_cursor(
    state: &mut GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: BootId,
    upto: u64,
    refused: Option<String>,
) -> Result<(), ActorProcessingErr> {
    let stream = Stream::Events.as_u8();
    let event = match state.state.decide(&GatewayCommand::MoveCursor { stream, boot, upto, refused }) {
        Ok(Some(event)) => event,
        Ok(None) => return Ok(()),
        Err(rejection) => {
            tracing::warn!(gateway = %state.id, %rejection, "events of a boot that is too old");
            return Ok(());
        }
    };
    state.state.apply(&event)?;
    let gateway = myself.clone();
    let after = Box::new(move || drop(gateway.cast(GatewayMessage::CursorDurable { boot, upto })));
    state.link.persist(vec![StationFamilyEvent::Gateway(event)], after);
    Ok(())
}

/// Answers a repeated delivery with the present acknowledgement, behind what is being committed.
fn ride(state: &GatewayActorState, boot: BootId) {
    let (shared, counter, id) = (Arc::clone(&state.shared), Arc::clone(&state.counter), state.id.clone());
    let ack = ack(state, boot, state.state.cursor(Stream::Events.as_u8(), boot));
    let after = move || shared.downlink.send(&shared.directory, &counter, &id, shared.clock.wall(), &ack);
    state.link.persist(Vec::new(), Box::new(after));
}

/// Only what is durable may be acknowledged: `upto_seq` is a cursor whose commit is done, or will be before
/// the acknowledgement leaves. So are the refusals up to it.
fn ack(state: &GatewayActorState, boot: BootId, upto_seq: u64) -> Down {
    let refused = state.state.refusals(Stream::Events.as_u8(), boot).filter(|(seq, _)| *seq <= upto_seq);
    let refused = refused.map(|(seq, reason)| Refusal { seq, reason: reason.to_owned() }).collect();
    ack_of(state, boot, upto_seq, refused)
}

fn ack_of(state: &GatewayActorState, boot: BootId, upto_seq: u64, refused: Vec<Refusal>) -> Down {
    let (stream, epoch) = (Stream::Events, state.link.epoch);
    Down::Ack(Ack { stream, boot, epoch, upto_seq, refused, credit: 0 })
}

fn send(state: &GatewayActorState, down: &Down) {
    let shared = &state.shared;
    shared.downlink.send(&shared.directory, &state.counter, &state.id, shared.clock.wall(), down);
}

/// Commands travel in batches: the flush queues behind what is in the mailbox now.
fn on_send(state: &mut GatewayActorState, myself: &ActorRef<GatewayMessage>, charger: &ChargerId, command: Command) {
    let directory = state.shared.directory.load();
    let Some((entry, _)) = directory.charger(charger) else { return };
    if state.commands.len() < MAX_COMMANDS {
        state.commands.push((entry.child, command));
    }
    if !state.flush_queued {
        state.flush_queued = myself.cast(GatewayMessage::FlushCommands { permit: Permit::internal() }).is_ok();
    }
}

/// Sends what was collected, with deadlines on the gateway's clock; without a beat to count them from, it waits.
fn send_commands(state: &mut GatewayActorState) {
    if state.commands.is_empty() {
        return;
    }
    let shared = Arc::clone(&state.shared);
    let directory = shared.directory.load();
    let Some(keyring) = directory.gateway(&state.id).and_then(|entry| entry.present()) else { return };
    let (mono, wall) = (shared.clock.mono(), shared.clock.wall());
    let Some(beat) = shared.beats.last(&state.id, keyring.key_epoch(), mono) else {
        // Their chargers send them again meanwhile.
        let mut waiting = BTreeSet::new();
        return state.commands.retain(|(_, command)| waiting.insert(command.id.clone()));
    };
    let dated = |(child, Command { id, action, deadline, .. })| {
        let deadline = beat.deadline(mono, deadline.since(wall));
        DownCommand { id, child, action, deadline }
    };
    let commands = Down::Commands(std::mem::take(&mut state.commands).into_iter().map(dated).collect());
    let to = (&state.id, beat.boot);
    shared.downlink.answer(&shared.directory, &state.counter, to, wall, &commands);
}

fn on_resume(state: &mut GatewayActorState, mut telemetry: Vec<Cursor>) {
    let stream = Stream::Events.as_u8();
    let of_events = state.state.cursors.iter().filter(|((of, _), _)| *of == stream);
    let cursor = |((_, boot), seq): (&(u8, BootId), &u64)| Cursor { stream: Stream::Events, boot: *boot, seq: *seq };
    let mut cursors: Vec<Cursor> = of_events.map(cursor).collect();
    // What has no cursor is only sent again, so the oldest boots may be left out.
    telemetry.sort_by_key(|cursor| std::cmp::Reverse(cursor.boot));
    cursors.extend(telemetry);
    cursors.truncate(MAX_CURSORS);
    send(state, &Down::Resume(Resume { epoch: state.link.epoch, cursors }));
}

/// How a charger reaches its gateway's actor.
pub(crate) fn to_gateway(shard: &ActorRef<ShardMessage<StationFamily>>, id: &GatewayId, message: GatewayMessage) {
    let key = StationKey::Gateway(id.clone());
    // The shard is gone only when everything opens anew.
    let _ = shard.cast(ShardMessage::Deliver { key, message: StationMember::Gateway(message) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::units::Timestamp;

    #[test]
    fn all_of_a_chargers_events_in_a_batch_go_in_its_most_urgent_lane() {
        let at = Timestamp(0);
        let status = |child| GatewayEvent::StatusChanged { child, plugged: true, available: true, at };
        let events = [status(0), status(1), GatewayEvent::Fault { child: 0, code: "f".into(), at }, status(0)];
        let events = events.map(|event| NumberedEvent { number: 1, event });
        assert_eq!(lanes_of(&events), BTreeMap::from([(0, Lane::Safety), (1, Lane::Commands)]));
    }
}
