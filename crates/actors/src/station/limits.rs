//! Limits that an operator sets: durable before they are acknowledged, and kept across restarts and catalogues.
//!
//! A cut does not wait for the disk: less is granted at once. A rise is in effect once it is durable, so that
//! no grant leaves that a restart would not bear (POWER-1).

use super::{StationActorState, StationMessage, on_tick};
use crate::admission::Permit;
use crate::family::StationFamilyEvent;
use crate::handle::CallError;
use crate::reply::Reply;
use chargeplane_domain::catalogue_check;
use chargeplane_domain::station::{LimitCommand, LimitRejection};
use chargeplane_domain::units::Watts;
use ractor::ActorRef;

/// Decides, applies, and answers behind the commit.
pub(super) fn on_set_limit(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    command: &LimitCommand,
    reply: Reply<()>,
    permit: Permit,
) {
    let Some(catalogue) = &state.catalogue else {
        return reply.answer(Err(CallError::NotFound(format!("station {}", state.id))));
    };
    let directory = state.shared.directory.load();
    let Some(station) = directory.catalogue.stations.get(&state.id) else {
        return reply.answer(Err(CallError::NotFound(format!("station {}", state.id))));
    };
    let chargers = directory.chargers_of(&state.id);
    let least = catalogue_check::least_limits(station, chargers.values());
    let event = match state.durable.decide_limit(catalogue, &least, command) {
        Ok(event) => event,
        Err(rejection @ LimitRejection::UnknownNode { .. }) => {
            let what = format!("{rejection}: node {:?} of station {}", command.node, state.id);
            return reply.answer(Err(CallError::NotFound(what)));
        }
        Err(rejection) => return reply.answer(Err(CallError::Invalid(rejection.to_string()))),
    };
    if let Some(event) = &event {
        state.durable.apply(event);
        let (station, by) = (&state.id, &command.by);
        tracing::info!(%station, node = %command.node, limit = ?command.limit, by, "an operator changes a limit");
    }
    let node = command.node.clone();
    let limit = decided(state, &node);
    if limit.is_some_and(|limit| in_effect(state, &node).is_some_and(|now| limit < now)) {
        change(state, myself, &node, limit);
    }
    let actor = myself.clone();
    let after = move || drop(actor.cast(StationMessage::LimitDurable { node, limit, reply, permit }));
    state.link.persist(event.into_iter().map(StationFamilyEvent::Station).collect(), Box::new(after));
}

/// A change is durable. A later one may be decided already: the lower of both is in effect until that is
/// durable too.
pub(super) fn on_durable(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    node: &str,
    limit: Option<Watts>,
) {
    let limit = limit.min(decided(state, node));
    if limit != in_effect(state, node) {
        change(state, myself, node, limit);
    }
}

/// The limit of a node by everything decided so far; none when the catalogue does not have it.
fn decided(state: &StationActorState, node: &str) -> Option<Watts> {
    let catalogue = state.catalogue.as_ref()?;
    let listed = catalogue.nodes().get(catalogue.find(node)?)?.limit;
    Some(state.durable.effective_limit(node, listed))
}

fn in_effect(state: &StationActorState, node: &str) -> Option<Watts> {
    let tree = state.power.as_ref()?.tree();
    Some(tree.nodes().get(tree.find(node)?)?.limit)
}

fn change(state: &mut StationActorState, myself: &ActorRef<StationMessage>, node: &str, limit: Option<Watts>) {
    let now = state.shared.clock.mono();
    if let (Some(power), Some(limit)) = (&mut state.power, limit)
        && let Err(error) = power.on_limit_changed(now, node, limit)
    {
        tracing::error!(station = %state.id, %error, "a limit that was decided is not taken");
    }
    // Does not wait for the next second.
    on_tick(state, myself);
}
