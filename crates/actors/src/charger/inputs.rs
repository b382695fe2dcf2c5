//! What comes in from the gateway and from the API, turned into commands of the machine.

use super::{ChargerMessage, ChargerState, commit, commit_own, send_down, starts};
use crate::admission::Permit;
use crate::bridge::moment;
use crate::family::StationMember;
use crate::handle::CallError;
use crate::metric;
use crate::reply::Reply;
use crate::shard::AfterCommit;
use crate::views::StartRequest;
use chargeplane_domain::charger::{ChargerCommand, ChargerRejection, KeyTarget};
use chargeplane_domain::command::{Action, CommandOutcome};
use chargeplane_domain::ids::{AccountId, CommandId, ConnectorNo, SessionId};
use chargeplane_domain::session::{Origin, StopReason};
use chargeplane_domain::tariff::MAX_METER;
use chargeplane_domain::units::{Timestamp, WattHours};
use chargeplane_protocol::message::{CommandEnd, Down, GatewayEvent};
use ractor::{ActorProcessingErr, ActorRef};

type Handled = Result<(), ActorProcessingErr>;

/// When a command that is accepted now must have been executed.
pub(super) fn deadline(state: &ChargerState, at: Timestamp) -> Timestamp {
    let ms = state.shared.config.command_deadline.as_millis();
    at.plus_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}

pub(super) fn on_gateway_event(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    event: GatewayEvent,
    done: Reply<()>,
    permit: Permit,
) -> Handled {
    let Some(command) = to_command(state, &event) else {
        done.answer(Ok(()));
        return Ok(());
    };
    let after = Box::new(move || {
        done.answer(Ok(()));
        drop(permit);
    });
    let heard_at = moment(&event);
    if let Err((rejection, after)) = commit(state, myself, &command, after)? {
        on_refused_event(state, myself, event, &rejection, after)?;
    }
    // After the event itself: it may be the very answer.
    heard_at.map_or(Ok(()), |at| end_unheard_start(state, myself, at))
}

/// Ends a start whose gateway speaks of its charger and not of it, so that its hold is released.
fn end_unheard_start(state: &mut ChargerState, myself: &ActorRef<ChargerMessage>, heard_at: Timestamp) -> Handled {
    let Some(command) = state.charger.unheard_start(heard_at).cloned() else { return Ok(()) };
    tracing::warn!(charger = %state.id, %command, "the charger is heard, and its start was never answered: expired");
    let at = state.shared.clock.wall();
    commit_own(state, myself, &ChargerCommand::ExpireCommand { command, at, heard: true })
}

/// The machine's command for a gateway's event; none for what concerns nobody here.
fn to_command(state: &mut ChargerState, event: &GatewayEvent) -> Option<ChargerCommand> {
    match event.clone() {
        GatewayEvent::StartRequested { connector, account, request, at, .. } => {
            let start = request_start(state, account, connector, Origin::Driver { request }, at);
            if start.is_none() {
                tracing::warn!(charger = %state.id, "a start at a charger that left the catalogue");
            }
            start
        }
        GatewayEvent::SessionStarted { session, register, at, .. } => {
            Some(ChargerCommand::GatewayStarted { session, register, at })
        }
        GatewayEvent::SessionStopped { session, register, at, reason, .. } => {
            let most = most_energy(state, &session, at);
            Some(ChargerCommand::GatewayStopped { session, register, reason, most, at })
        }
        GatewayEvent::CommandResult { command, outcome, at, .. } => {
            let outcome = match outcome {
                CommandEnd::Done => CommandOutcome::Done,
                CommandEnd::Refused(reason) => CommandOutcome::Refused { reason },
                CommandEnd::Expired => CommandOutcome::Expired,
            };
            Some(ChargerCommand::GatewayResult { command, outcome, at })
        }
        GatewayEvent::Fault { code, at, .. } => Some(ChargerCommand::GatewayFault { code, at }),
        GatewayEvent::StatusChanged { available, at, .. } => Some(ChargerCommand::GatewayStatus { available, at }),
        GatewayEvent::FlowChanged { session, flow, at, .. } => Some(ChargerCommand::GatewayFlow { session, flow, at }),
        // Declared in the telemetry streams by the gateways of this house; the bridge passes this form there.
        GatewayEvent::Gap { .. } => None,
    }
}

/// A start with everything that is in force at the charger now.
fn request_start(
    state: &ChargerState,
    account: AccountId,
    connector: ConnectorNo,
    origin: Origin,
    at: Timestamp,
) -> Option<ChargerCommand> {
    let directory = state.shared.directory.load();
    let (charger, station_id) = directory.charger(&state.id)?;
    let station = directory.catalogue.stations.get(station_id)?;
    let tariff = directory.catalogue.tariff_for(station_id, &account, at)?;
    Some(ChargerCommand::RequestStart {
        account,
        connector,
        connectors: charger.connectors,
        origin,
        tariff: tariff.clone(),
        split: station.split.clone(),
        operator: station.operator.clone(),
        station: station_id.clone(),
        city: station.city.clone(),
        time_zone: station.time_zone.clone(),
        at,
    })
}

/// Most energy that can have flowed in a session that ended at `at`.
fn most_energy(state: &mut ChargerState, session: &SessionId, at: Timestamp) -> WattHours {
    let now = state.shared.clock.wall();
    let started = state.charger.charging().filter(|open| open.id == *session).and_then(|open| open.started_at);
    let Some(started) = started else { return MAX_METER };
    super::billing(state).map_or(MAX_METER, |billing| billing.most(started, at, now))
}

/// What follows when the machine refuses an event. Whatever it is, it ends as something that stays: an answer to the
/// driver, an event of the charger, or a dead letter; `after`, which tells the gateway to forget it, runs behind that.
fn on_refused_event(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    event: GatewayEvent,
    rejection: &ChargerRejection,
    after: AfterCommit,
) -> Handled {
    let reason = rejection.code();
    metrics::counter!(metric::EVENTS_REFUSED_TOTAL, "reason" => reason).increment(1);
    match (event, rejection) {
        (GatewayEvent::StartRequested { child, request, .. }, _) => {
            tracing::debug!(charger = %state.id, %rejection, "a start is refused");
            send_down(state, Down::Deny { child, request, code: reason.to_owned() });
        }
        (GatewayEvent::SessionStarted { session, .. }, ChargerRejection::Unwanted { .. }) => {
            tracing::info!(charger = %state.id, %session, "an unwanted session is stopped");
            stop_session(state, myself, session, StopReason::Unwanted)?;
        }
        (GatewayEvent::SessionStarted { session, register, .. }, ChargerRejection::MeterOutOfRange { .. }) => {
            // Without a register to count from nobody can be billed: it ends as it began, with zero energy.
            tracing::warn!(charger = %state.id, %session, %register, "a session began at an unusable register: stopped");
            stop_session(state, myself, session, StopReason::MeterFault)?;
        }
        (
            GatewayEvent::SessionStopped { session, register, at, .. },
            ChargerRejection::MeterWentBack { .. }
            | ChargerRejection::MeterOutOfRange { .. }
            | ChargerRejection::MeterImplausible { .. },
        ) => return close_at_last_reading(state, myself, session, register, at, rejection, after),
        (event, _) => {
            tracing::warn!(charger = %state.id, %rejection, ?event, "an event that cannot be applied: see the dead letters");
            let message = ChargerMessage::FromGateway { event, done: Reply::ignored(), permit: Permit::internal() };
            state.link.dead_letter(StationMember::Charger(message), rejection.to_string(), after);
            return Ok(());
        }
    }
    state.link.persist(Vec::new(), after);
    Ok(())
}

fn stop_session(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: SessionId,
    reason: StopReason,
) -> Handled {
    // The event may be hours old; what it asks for begins now.
    let at = state.shared.clock.wall();
    let action = Action::Stop { session, reason };
    let deadline = deadline(state, at);
    commit_own(state, myself, &ChargerCommand::RequestCommand { action, key: None, at, deadline })
}

/// Closes a session whose end cannot be used where it was last read, because its gateway has freed it.
fn close_at_last_reading(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: SessionId,
    refused: WattHours,
    at: Timestamp,
    rejection: &ChargerRejection,
    after: AfterCommit,
) -> Handled {
    let charging = state.charger.charging().is_some();
    let energy = match super::billing(state) {
        Some(billing) if charging && !billing.is_synced() => {
            // What was billed is not known yet, and less must not be settled. `after` is dropped, so the event
            // is not acknowledged and comes again; the account is asked meanwhile.
            tracing::warn!(charger = %state.id, %session, %rejection, "an unusable end waits for the account");
            return Ok(());
        }
        Some(billing) => billing.last_reading(),
        None => WattHours::ZERO,
    };
    let close = ChargerCommand::CloseAtLastReading { session: session.clone(), energy, refused, at };
    match commit(state, myself, &close, after)? {
        Ok(()) => {
            metrics::counter!(metric::METER_FAULTS_TOTAL, "reason" => rejection.code()).increment(1);
            tracing::warn!(
                charger = %state.id, %session, %rejection, %energy,
                "the end of a session cannot be used: closed at its last reading; look at the meter"
            );
        }
        // Not to be reached: the machine refused the end for its register, so the session is its own.
        Err((rejection, _)) => tracing::error!(charger = %state.id, %session, %rejection, "cannot be closed"),
    }
    Ok(())
}

/// Tells the driver at the charger that the account said no.
pub(super) fn deny(state: &ChargerState, session: &SessionId, code: &str) {
    let Some(open) = state.charger.open_session().filter(|open| open.id == *session) else { return };
    let Origin::Driver { request } = open.origin else { return };
    let child = state.shared.directory.load().charger(&state.id).map(|(charger, _)| charger.child);
    if let Some(child) = child {
        send_down(state, Down::Deny { child, request, code: code.to_owned() });
    }
}

pub(super) fn on_start(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    request: StartRequest,
    reply: Reply<SessionId>,
    permit: Permit,
) -> Handled {
    let at = state.shared.clock.wall();
    let StartRequest { account, connector, key, .. } = request;
    let origin = Origin::Api { key: key.clone() };
    let Some(command) = request_start(state, account, connector, origin, at) else {
        reply.answer(Err(CallError::NotFound(format!("charger {}", state.id))));
        return Ok(());
    };
    match commit(state, myself, &command, Box::new(|| drop(permit)))? {
        Err((rejection, _)) => reply.answer(Err(CallError::Charger(rejection))),
        Ok(()) => match state.charger.key_target(&key).cloned() {
            Some(KeyTarget::Session(session)) => starts::wait(state, myself, session, reply),
            _ => reply.answer(Err(CallError::Charger(ChargerRejection::KeyReused))),
        },
    }
    Ok(())
}

pub(super) fn on_request(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    action: Action,
    key: String,
    reply: Reply<CommandId>,
    permit: Permit,
) -> Handled {
    let at = state.shared.clock.wall();
    let deadline = deadline(state, at);
    let command = ChargerCommand::RequestCommand { action, key: Some(key.clone()), at, deadline };
    answer_with(state, myself, &command, &key, reply, permit, |target| match target {
        KeyTarget::Command(command) => Some(command.clone()),
        KeyTarget::Session(_) => None,
    })
}

/// Commits a keyed request and answers with what its key stands for.
fn answer_with<T: Send + 'static>(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    command: &ChargerCommand,
    key: &str,
    reply: Reply<T>,
    permit: Permit,
    target: impl FnOnce(&KeyTarget) -> Option<T>,
) -> Handled {
    match commit(state, myself, command, Box::new(|| ()))? {
        Err((rejection, _)) => reply.answer(Err(CallError::Charger(rejection))),
        Ok(()) => {
            let found = state.charger.key_target(key).and_then(target);
            let answer = found.ok_or(CallError::Charger(ChargerRejection::KeyReused));
            let after = move || {
                reply.answer(answer);
                drop(permit);
            };
            state.link.persist(Vec::new(), Box::new(after));
        }
    }
    Ok(())
}

pub(super) fn on_stop(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    session: SessionId,
    key: String,
    reply: Reply<()>,
    permit: Permit,
) -> Handled {
    let at = state.shared.clock.wall();
    let (origin, reason, deadline) = (Origin::Api { key }, StopReason::Remote, deadline(state, at));
    let command = ChargerCommand::RequestStop { session, origin, reason, at, deadline };
    match commit(state, myself, &command, Box::new(|| ()))? {
        Err((rejection, _)) => reply.answer(Err(CallError::Charger(rejection))),
        Ok(()) => {
            let after = move || {
                reply.answer(Ok(()));
                drop(permit);
            };
            state.link.persist(Vec::new(), Box::new(after));
        }
    }
    Ok(())
}
