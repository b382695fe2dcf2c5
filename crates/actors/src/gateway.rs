//! The gateway actor: one gateway's transactions in, commands out.
//!
//! Supervised by its station's shard. It takes the batches of the events stream strictly in sequence, hands
//! each event to its charger, and moves the durable cursor only when every event of the batch is durable; the
//! acknowledgement leaves after the commit of the cursor (DATA-1, CMD-1). A restart reloads the cursors from
//! the shard's map; what was not acknowledged is delivered again, and chargers recognise what they have had.

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
use chargeplane_domain::gateway::{GatewayCommand, GatewayState};
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_protocol::message::{
    Ack, Cursor, Down, DownCommand, GatewayEvent, NumberedEvent, Refusal, Resume, Stream,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Batches kept that arrived ahead of a missing one; the gateway sends further ones again.
const MAX_AHEAD: usize = 64;

/// Refusals repeated in each acknowledgement.
const MAX_REFUSALS: usize = 64;

/// Messages of the gateway actor.
#[derive(Debug)]
pub enum GatewayMessage {
    /// A batch of the events stream.
    Events { boot: u32, seq: u64, events: Vec<NumberedEvent>, permit: Permit },
    /// A batch of the events stream that was authentic but cannot be used.
    Refused { boot: u32, seq: u64, reason: String, permit: Permit },
    /// One event of the batch in work is durable at its charger, or not.
    EventEnded { boot: u32, seq: u64, result: Result<(), CallError> },
    /// The cursor is durable.
    CursorDurable { boot: u32, upto: u64 },
    /// A durable command of a charger, to be sent with others.
    Send { charger: ChargerId, command: Command },
    /// Send the collected commands.
    FlushCommands,
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
    /// Sequences refused lately, repeated in acknowledgements.
    refused: BTreeMap<u64, String>,
    /// An event of the batch in work was not handled.
    failed: bool,
}

enum Waiting {
    Events(Vec<NumberedEvent>, #[allow(dead_code, reason = "held for its drop")] Permit),
    Refused(#[allow(dead_code, reason = "held for its drop")] Permit),
}

/// State of the gateway actor.
pub struct GatewayActorState {
    shared: Arc<NodeShared>,
    link: EntityLink<StationFamily>,
    id: GatewayId,
    /// With all events applied that were handed to the shard, durable or not.
    state: GatewayState,
    counter: Arc<SealingCounter>,
    boots: BTreeMap<u32, Boot>,
    commands: Vec<DownCommand>,
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
        match message {
            GatewayMessage::Events { boot, seq, events, permit } => {
                on_batch(state, boot, seq, Waiting::Events(events, permit));
                work(state, &myself, boot)
            }
            GatewayMessage::Refused { boot, seq, reason, permit } => {
                on_refused(state, boot, seq, reason, permit);
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
            GatewayMessage::FlushCommands => {
                state.flush_queued = false;
                let commands = std::mem::take(&mut state.commands);
                if !commands.is_empty() {
                    send(state, &Down::Commands(commands));
                }
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

fn on_batch(state: &mut GatewayActorState, boot: u32, seq: u64, batch: Waiting) {
    if seq <= state.state.cursor(Stream::Events.as_u8(), boot) {
        // Delivered again: its acknowledgement was lost. The cursor may still be on its way to the disk, so
        // the answer rides behind it.
        count_not_used("repeated");
        return ride(state, boot);
    }
    let entry = state.boots.entry(boot).or_default();
    if entry.in_work.is_some_and(|(in_work, _)| in_work == seq) {
        return count_not_used("repeated");
    }
    if entry.waiting.len() < MAX_AHEAD {
        entry.waiting.entry(seq).or_insert(batch);
    }
}

fn on_refused(state: &mut GatewayActorState, boot: u32, seq: u64, reason: String, permit: Permit) {
    let entry = state.boots.entry(boot).or_default();
    entry.refused.insert(seq, reason);
    while entry.refused.len() > MAX_REFUSALS {
        entry.refused.pop_first();
    }
    on_batch(state, boot, seq, Waiting::Refused(permit));
}

/// Starts the next batch of a boot when it is there and none is in work.
fn work(state: &mut GatewayActorState, myself: &ActorRef<GatewayMessage>, boot: u32) -> Result<(), ActorProcessingErr> {
    loop {
        let next = state.state.cursor(Stream::Events.as_u8(), boot).saturating_add(1);
        let Some(entry) = state.boots.get_mut(&boot) else { return Ok(()) };
        if entry.in_work.is_some() {
            return Ok(());
        }
        let Some(batch) = entry.waiting.remove(&next) else { return Ok(()) };
        match batch {
            Waiting::Refused(_permit) => move_cursor(state, myself, boot, next)?,
            Waiting::Events(events, _permit) if events.is_empty() => move_cursor(state, myself, boot, next)?,
            Waiting::Events(events, _permit) => {
                entry.in_work = Some((next, events.len()));
                entry.failed = false;
                for event in events {
                    dispatch(state, myself, boot, next, event.event);
                }
                return Ok(());
            }
        }
    }
}

/// Hands one event to its charger.
fn dispatch(state: &GatewayActorState, myself: &ActorRef<GatewayMessage>, boot: u32, seq: u64, event: GatewayEvent) {
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
    state.shared.router.station(shard, key, Lane::Commands, 256, move |permit| {
        StationMember::Charger(ChargerMessage::FromGateway { event, done, permit })
    });
}

fn on_event_ended(
    state: &mut GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: u32,
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
        // A parked charger's events are in the dead-letter list by now.
        Ok(()) | Err(CallError::Parked(_)) => {}
        Err(error) => {
            tracing::debug!(gateway = %state.id, %error, "an event was not handled; the batch will come again");
            entry.failed = true;
        }
    }
    if *left > 0 {
        return Ok(());
    }
    entry.in_work = None;
    if entry.failed { Ok(()) } else { move_cursor(state, myself, boot, seq) }
}

/// Makes the cursor durable, then acknowledges.
fn move_cursor(
    state: &mut GatewayActorState,
    myself: &ActorRef<GatewayMessage>,
    boot: u32,
    upto: u64,
) -> Result<(), ActorProcessingErr> {
    let stream = Stream::Events.as_u8();
    let event = match state.state.decide(&GatewayCommand::MoveCursor { stream, boot, upto }) {
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
fn ride(state: &GatewayActorState, boot: u32) {
    let (shared, counter, id) = (Arc::clone(&state.shared), Arc::clone(&state.counter), state.id.clone());
    let ack = ack(state, boot, state.state.cursor(Stream::Events.as_u8(), boot));
    let after = move || shared.downlink.send(&shared.directory, &counter, &id, shared.clock.wall(), &ack);
    state.link.persist(Vec::new(), Box::new(after));
}

/// Only what is durable may be acknowledged: `upto_seq` is a cursor whose commit is done, or will be before
/// the acknowledgement leaves.
fn ack(state: &GatewayActorState, boot: u32, upto_seq: u64) -> Down {
    let refused = state.boots.get(&boot).map(|entry| {
        let refusal = |(seq, reason): (&u64, &String)| Refusal { seq: *seq, reason: reason.clone() };
        entry.refused.iter().map(refusal).collect()
    });
    Down::Ack(Ack {
        stream: Stream::Events,
        boot,
        epoch: state.link.epoch,
        upto_seq,
        refused: refused.unwrap_or_default(),
        credit: 0,
    })
}

fn send(state: &GatewayActorState, down: &Down) {
    let shared = &state.shared;
    shared.downlink.send(&shared.directory, &state.counter, &state.id, shared.clock.wall(), down);
}

/// Commands travel in batches: the flush queues behind what is in the mailbox now.
fn on_send(state: &mut GatewayActorState, myself: &ActorRef<GatewayMessage>, charger: &ChargerId, command: Command) {
    let directory = state.shared.directory.load();
    let Some((entry, _)) = directory.charger(charger) else { return };
    let Command { id, action, deadline, .. } = command;
    state.commands.push(DownCommand { id, child: entry.child, action, deadline });
    if !state.flush_queued {
        state.flush_queued = myself.cast(GatewayMessage::FlushCommands).is_ok();
    }
}

fn on_resume(state: &mut GatewayActorState, telemetry: Vec<Cursor>) {
    let boots: BTreeSet<u32> = state.state.cursors.keys().map(|(_, boot)| *boot).collect();
    let events = boots.into_iter().map(|boot| Cursor {
        stream: Stream::Events,
        boot,
        seq: state.state.cursor(Stream::Events.as_u8(), boot),
    });
    let cursors = events.chain(telemetry).collect();
    send(state, &Down::Resume(Resume { epoch: state.link.epoch, cursors }));
}

/// How a charger reaches its gateway's actor.
pub(crate) fn to_gateway(shard: &ActorRef<ShardMessage<StationFamily>>, id: &GatewayId, message: GatewayMessage) {
    let key = StationKey::Gateway(id.clone());
    // The shard is gone only when everything opens anew.
    let _ = shard.cast(ShardMessage::Deliver { key, message: StationMember::Gateway(message) });
}
