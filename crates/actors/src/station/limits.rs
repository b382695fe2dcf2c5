//! Limits that change: an operator's, announced ones, signals and the catalogue's schedule.
//!
//! Orders are durable before they are acknowledged, and kept across restarts and catalogues. A cut does not wait for
//! the disk: less is granted at once. A rise is in effect once it is durable, so that no grant leaves that a restart
//! would not bear (POWER-1). Both follow from one rule: in effect is the lower of what is decided and of what is
//! durable, each as it will be until the grants of now have ended.

use super::{StationActorState, StationMessage, on_tick};
use crate::admission::Permit;
use crate::family::StationFamilyEvent;
use crate::handle::CallError;
use crate::reply::Reply;
use chargeplane_domain::allocation::Tree;
use chargeplane_domain::catalogue_check;
use chargeplane_domain::station::{
    LimitCommand, LimitInEffect, LimitRejection, LimitSchedule, LimitSource, PowerConfig, StationEvent, StationState,
};
use chargeplane_domain::units::{Timestamp, Watts};
use ractor::ActorRef;

/// What is added to a lease's length for the lead of a cut: a tick, and the wall clock's jitter.
const LEAD_MARGIN_MS: u64 = 1_500;

/// What the actor knows of limits besides its durable state.
#[derive(Default)]
pub(super) struct Limits {
    /// The tree with the catalogue's own limits; none while the station is not in the catalogue.
    pub catalogue: Option<Tree>,
    /// The catalogue's schedule.
    pub schedule: LimitSchedule,
    /// The limits that are durable; those of `StationActorState::durable` are decided.
    pub committed: StationState,
    /// How long before it is in effect a lower limit is kept.
    pub lead_ms: i64,
}

impl Limits {
    /// The lead for these settings.
    pub fn lead_for(config: &PowerConfig) -> i64 {
        i64::try_from(config.counted_ms().saturating_add(LEAD_MARGIN_MS)).unwrap_or(i64::MAX)
    }
}

/// What is kept of the durable state to know which limits are: not the ceilings.
pub(super) fn limits_of(state: &StationState) -> StationState {
    let StationState { limits, signals, .. } = state.clone();
    StationState { limits, signals, ..StationState::default() }
}

/// Decides, applies, and answers behind the commit.
pub(super) fn on_change_limit(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    command: &LimitCommand,
    reply: Reply<()>,
    permit: Permit,
) {
    let Some(catalogue) = &state.limits.catalogue else {
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
            return reply
                .answer(Err(CallError::NotFound(format!("what is named at station {} ({rejection})", state.id))));
        }
        Err(rejection @ LimitRejection::UnknownSignal { .. }) => {
            return reply
                .answer(Err(CallError::NotFound(format!("what is named at station {} ({rejection})", state.id))));
        }
        Err(rejection) => return reply.answer(Err(CallError::Invalid(rejection.to_string()))),
    };
    if let Some(event) = &event {
        state.durable.apply(event);
        let (station, by) = (&state.id, &command.by);
        tracing::info!(%station, order = ?command.order, by, "somebody changes a limit");
    }
    if follow(state) {
        // Does not wait for the next second.
        on_tick(state, myself);
    }
    let actor = myself.clone();
    let durable = event.clone();
    let after = move || drop(actor.cast(StationMessage::LimitDurable { event: durable, reply, permit }));
    state.link.persist(event.into_iter().map(StationFamilyEvent::Station).collect(), Box::new(after));
}

/// A change is durable. A later one may be decided already: the lower of both stays in effect until that is durable
/// too.
pub(super) fn on_durable(
    state: &mut StationActorState,
    myself: &ActorRef<StationMessage>,
    event: Option<&StationEvent>,
) {
    event.iter().for_each(|event| state.limits.committed.apply(event));
    if follow(state) {
        on_tick(state, myself);
    }
}

/// Gives the machine the limits that it must keep now. Returns whether one has changed. Called with every tick, before
/// it: that is how a schedule, an announcement and the end of a signal come into effect.
pub(super) fn follow(state: &mut StationActorState) -> bool {
    let (mono, wall) = (state.shared.clock.mono(), state.shared.clock.wall());
    let mut changed = Vec::new();
    if let (Some(power), Some(catalogue)) = (&state.power, &state.limits.catalogue) {
        for (kept, listed) in power.tree().nodes().iter().zip(catalogue.nodes()) {
            let kept_by_none = kept.limit == listed.limit && !may_change(state, &listed.id);
            let limit = if kept_by_none { listed.limit } else { ahead(state, &listed.id, listed.limit, wall).limit };
            if limit != kept.limit {
                changed.push((listed.id.clone(), limit, limit < kept.limit));
            }
        }
    }
    for (node, limit, falls) in &changed {
        if *falls {
            // The answer that is being computed allows too much: the next question does not wait for it.
            state.posed = None;
        }
        if let Some(power) = &mut state.power
            && let Err(error) = power.on_limit_changed(mono, node, *limit)
        {
            tracing::error!(station = %state.id, %error, "a limit that was decided is not taken");
        }
    }
    !changed.is_empty()
}

fn may_change(state: &StationActorState, node: &str) -> bool {
    let known = |limits: &StationState| {
        limits.limits.contains_key(node) || limits.signals.values().any(|signal| signal.node == node)
    };
    state.limits.schedule.has(node) || known(&state.durable) || known(&state.limits.committed)
}

/// The limit to keep now at a node of the catalogue, and why.
pub(super) fn ahead(state: &StationActorState, node: &str, listed: Watts, now: Timestamp) -> LimitInEffect {
    let Limits { schedule, committed, lead_ms, .. } = &state.limits;
    let decided = state.durable.limit_ahead(schedule, node, listed, now, *lead_ms);
    let durable = committed.limit_ahead(schedule, node, listed, now, *lead_ms);
    if durable.limit < decided.limit { durable } else { decided }
}

/// Whose limit each node has, for those that have another than the catalogue's.
pub(super) fn source(state: &StationActorState, node: &str) -> Option<LimitInEffect> {
    let catalogue = state.limits.catalogue.as_ref()?;
    let listed = catalogue.nodes().get(catalogue.find(node)?)?.limit;
    let limit = ahead(state, node, listed, state.shared.clock.wall());
    (limit.source != LimitSource::Catalogue).then_some(limit)
}
