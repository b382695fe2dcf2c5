//! What the station actor shows: the station at a glance, and of chargers and gateways what is asked for.

use super::{Explained, StationActorState, limits};
use chargeplane_domain::catalogue::ScheduledLimit;
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::presence::PresenceEffect;
use chargeplane_domain::station::{Deficit, LimitChange, LimitInEffect, LimitSignal, OperatorLimit};
use chargeplane_domain::units::{WattHours, Watts};
use std::collections::{BTreeMap, BTreeSet};

/// What the station last heard of a charger.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChargerStatus {
    /// Its gateway was heard lately.
    pub online: bool,
    /// Power to the car.
    pub power: Watts,
    /// What the car would take.
    pub demand: Watts,
    /// The grant in force.
    pub granted: Watts,
    /// The energy register.
    pub register: WattHours,
    /// It draws more than it may.
    pub disobeying: bool,
}

/// A node of the tree of limits.
#[derive(Debug, Clone)]
pub struct NodeReport {
    /// Its name.
    pub id: String,
    /// The limit in effect.
    pub limit: Watts,
    /// Worst load now.
    pub worst: Watts,
    /// What an operator set, if anything.
    pub set: Option<OperatorLimit>,
}

/// The limits of a node over time.
#[derive(Debug, Clone)]
pub struct NodeLimits {
    /// Its name.
    pub id: String,
    /// The catalogue's.
    pub catalogue: Watts,
    /// What grants keep now, whose it is, and from when on when it is kept ahead.
    pub now: LimitInEffect,
    /// What an operator set.
    pub set: Option<OperatorLimit>,
    /// The catalogue's windows.
    pub schedule: Vec<ScheduledLimit>,
}

/// A station's limits over time.
#[derive(Debug, Clone, Default)]
pub struct LimitsReport {
    /// Every node.
    pub nodes: Vec<NodeLimits>,
    /// Signals that have not ended, by name.
    pub signals: BTreeMap<String, LimitSignal>,
    /// The latest changes, oldest first.
    pub changes: Vec<LimitChange>,
}

/// The station at a glance.
#[derive(Debug, Clone, Default)]
pub struct StationReport {
    /// Limit of the grid connection.
    pub limit: Watts,
    /// Worst load now.
    pub worst: Watts,
    /// Sum of grants.
    pub granted: Watts,
    /// Sum of power.
    pub power: Watts,
    /// Sum of demand.
    pub demand: Watts,
    /// Chargers with a session.
    pub charging: usize,
    /// Chargers whose gateway was heard lately.
    pub online: usize,
    /// Nodes that are over their limit until grants end.
    pub deficits: Vec<Deficit>,
    /// Every node, when asked for.
    pub nodes: Vec<NodeReport>,
}

/// Time passed: who was not heard is offline.
fn look(state: &mut StationActorState) {
    let mut changes = Vec::new();
    state.presence.on_tick(state.shared.clock.mono(), &mut changes);
    log(state, &changes);
}

/// Says who came and went.
pub(super) fn log(state: &StationActorState, changes: &[PresenceEffect<GatewayId>]) {
    let station = &state.id;
    for change in changes {
        match change {
            PresenceEffect::CameOnline(gateway) => tracing::debug!(%station, %gateway, "online"),
            PresenceEffect::WentOffline(gateway) => tracing::debug!(%station, %gateway, "offline"),
        }
    }
}

fn status(state: &StationActorState, id: &ChargerId) -> Option<ChargerStatus> {
    let directory = state.shared.directory.load();
    let gateway = directory.charger(id).map(|(charger, _)| &charger.gateway);
    let online = gateway.is_some_and(|gateway| state.presence.is_online(gateway));
    let disobeying = state.disobeying.contains(id);
    state.statuses.get(id).map(|status| ChargerStatus { online, disobeying, ..*status })
}

/// What was last heard of these chargers; those never heard of are left out.
pub(super) fn statuses(state: &mut StationActorState, of: Vec<ChargerId>) -> BTreeMap<ChargerId, ChargerStatus> {
    look(state);
    of.into_iter().filter_map(|id| status(state, &id).map(|status| (id, status))).collect()
}

/// The gateways that are online.
pub(super) fn online(state: &mut StationActorState) -> BTreeSet<GatewayId> {
    look(state);
    state.presence.known().filter(|gateway| state.presence.is_online(gateway)).cloned().collect()
}

/// The station, with the nodes of its tree or without.
pub(super) fn station(state: &mut StationActorState, tree: bool) -> StationReport {
    look(state);
    let now = state.shared.clock.mono();
    let online = state.statuses.keys().filter(|id| status(state, id).is_some_and(|status| status.online)).count();
    let Some(power) = &mut state.power else { return StationReport { online, ..StationReport::default() } };
    let worst = power.worst_now(now);
    let set = &state.durable.limits;
    let node = |(node, worst): (&chargeplane_domain::allocation::TreeNode, Watts)| {
        let id = node.id.clone();
        NodeReport { limit: node.limit, worst, set: set.get(&id).cloned(), id }
    };
    let nodes = if tree { power.tree().nodes().iter().zip(worst).map(node).collect() } else { Vec::new() };
    let seen = power.overview(now);
    StationReport {
        limit: seen.limit,
        worst: seen.worst,
        granted: seen.granted,
        power: seen.power,
        demand: seen.demand,
        charging: seen.charging,
        online,
        deficits: power.deficits_now(now),
        nodes,
    }
}

/// A station's limits over time.
pub(super) fn limits(state: &StationActorState) -> LimitsReport {
    let now = state.shared.clock.wall();
    let directory = state.shared.directory.load();
    let windows = directory.catalogue.stations.get(&state.id).map_or(&[][..], |station| &station.power.schedule);
    let nodes = state.limits.catalogue.iter().flat_map(|tree| tree.nodes());
    let node = |node: &chargeplane_domain::allocation::TreeNode| NodeLimits {
        id: node.id.clone(),
        catalogue: node.limit,
        now: limits::ahead(state, &node.id, node.limit, now),
        set: state.durable.limits.get(&node.id).cloned(),
        schedule: windows.iter().filter(|window| window.node == node.id).cloned().collect(),
    };
    let open = state.durable.signals.iter().filter(|(_, signal)| now < signal.until);
    LimitsReport {
        nodes: nodes.map(node).collect(),
        signals: open.map(|(name, signal)| (name.clone(), signal.clone())).collect(),
        changes: state.durable.changes.clone(),
    }
}

/// Why a charger has the power it has.
pub(super) fn explain(state: &mut StationActorState, charger: &ChargerId) -> Option<Explained> {
    let now = state.shared.clock.mono();
    let told = state.power.as_mut()?.explain(now, charger)?;
    let sources = told.nodes.iter().map(|share| limits::source(state, &share.id)).collect();
    Some((told, sources))
}
