//! What comes in from the gateway and from the API, turned into commands of the machine.

use super::{ChargerMessage, ChargerState, commit, commit_own, send_down};
use crate::admission::Permit;
use crate::handle::CallError;
use crate::reply::Reply;
use crate::views::StartRequest;
use chargeplane_domain::charger::{ChargerCommand, ChargerRejection, KeyTarget};
use chargeplane_domain::command::{Action, CommandOutcome};
use chargeplane_domain::ids::{AccountId, CommandId, ConnectorNo, SessionId};
use chargeplane_domain::session::{Origin, StopReason};
use chargeplane_domain::units::Timestamp;
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
    match commit(state, myself, &command, after)? {
        Ok(()) => Ok(()),
        Err((rejection, after)) => {
            on_refused_event(state, myself, &event, &rejection)?;
            // The event is dealt with: the gateway must not send it for ever. Behind what is being committed.
            state.link.persist(Vec::new(), after);
            Ok(())
        }
    }
}

/// The machine's command for a gateway's event; none for what concerns nobody here.
fn to_command(state: &ChargerState, event: &GatewayEvent) -> Option<ChargerCommand> {
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
            Some(ChargerCommand::GatewayStopped { session, register, reason, at })
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
    let tariff = directory.catalogue.tariffs.get(&station.tariff)?;
    Some(ChargerCommand::RequestStart {
        account,
        connector,
        connectors: charger.connectors,
        origin,
        tariff: tariff.clone(),
        operator: station.operator.clone(),
        station: station_id.clone(),
        city: station.city.clone(),
        time_zone: station.time_zone.clone(),
        at,
    })
}

/// What follows when the machine refuses an event.
fn on_refused_event(
    state: &mut ChargerState,
    myself: &ActorRef<ChargerMessage>,
    event: &GatewayEvent,
    rejection: &ChargerRejection,
) -> Handled {
    tracing::debug!(charger = %state.id, %rejection, "event refused");
    match (event, rejection) {
        (GatewayEvent::StartRequested { child, request, .. }, _) => {
            let code = rejection.code().to_owned();
            send_down(state, Down::Deny { child: *child, request: *request, code });
            Ok(())
        }
        (GatewayEvent::SessionStarted { session, .. }, ChargerRejection::Unwanted { .. }) => {
            // The event may be hours old; what it asks for begins now.
            let at = state.shared.clock.wall();
            let action = Action::Stop { session: session.clone(), reason: StopReason::Unwanted };
            let deadline = deadline(state, at);
            commit_own(state, myself, &ChargerCommand::RequestCommand { action, key: None, at, deadline })
        }
        _ => Ok(()),
    }
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
    answer_with(state, myself, &command, &key, reply, permit, |target| match target {
        KeyTarget::Session(session) => Some(session.clone()),
        KeyTarget::Command(_) => None,
    })
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
