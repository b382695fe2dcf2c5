//! Stations and chargers.

use crate::extract::rfc3339;
use chargeplane_actors::views::{ChargerView, NodeLimitView, StationView};
use chargeplane_domain::station::Deficit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node of a station's tree of limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitDto {
    /// Its name in the station.
    pub id: String,
    /// The limit in effect: the lower of the catalogue's and the one that was set.
    pub limit_w: i64,
    /// The worst load that grants, fallbacks and base load allow now.
    pub worst_w: i64,
    /// What was set over this interface and not lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetLimitDto>,
}

/// A limit that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SetLimitDto {
    /// The limit.
    pub limit_w: i64,
    /// The tenant of the token that set it; `*` for one of all tenants.
    pub by: String,
    /// When.
    pub at: String,
}

impl From<NodeLimitView> for LimitDto {
    fn from(view: NodeLimitView) -> Self {
        let set = view.set.map(|set| SetLimitDto { limit_w: set.limit.0, by: set.by, at: rfc3339(set.at) });
        Self { id: view.id, limit_w: view.limit_w.0, worst_w: view.worst_w.0, set }
    }
}

/// A node that is over its limit: after a cut, or when something was learnt. Its load only falls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeficitDto {
    /// The node with those above it, `grid/tr1`.
    pub node: String,
    /// The worst load now.
    pub worst_w: i64,
    /// The limit in effect.
    pub limit_w: i64,
    /// It ends within so many milliseconds.
    pub within_ms: u64,
}

impl From<Deficit> for DeficitDto {
    fn from(deficit: Deficit) -> Self {
        let Deficit { node, worst, limit, within_ms } = deficit;
        Self { node, worst_w: worst.0, limit_w: limit.0, within_ms }
    }
}

/// A station as the node sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StationDto {
    /// The station.
    pub id: String,
    /// City.
    pub city: String,
    /// Its chargers.
    pub chargers: usize,
    /// Chargers whose gateway was heard lately.
    pub online: usize,
    /// Open sessions.
    pub charging: usize,
    /// Limit of the grid connection in effect.
    pub limit_w: i64,
    /// Sum of the grants in force.
    pub granted_w: i64,
    /// The worst load that grants, fallbacks and base load allow now.
    pub worst_w: i64,
    /// Power by the last beats.
    pub power_w: i64,
    /// What the cars would take.
    pub demand_w: i64,
    /// Nodes that are over their limit, until grants end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deficits: Vec<DeficitDto>,
    /// Every node of its tree; only when one station is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<LimitDto>,
}

impl From<StationView> for StationDto {
    fn from(view: StationView) -> Self {
        Self {
            id: view.id.to_string(),
            city: view.city,
            chargers: view.chargers,
            online: view.online,
            charging: view.charging,
            limit_w: view.limit_w.0,
            granted_w: view.granted_w.0,
            worst_w: view.worst_w.0,
            power_w: view.power_w.0,
            demand_w: view.demand_w.0,
            deficits: view.deficits.into_iter().map(DeficitDto::from).collect(),
            nodes: view.nodes.into_iter().map(LimitDto::from).collect(),
        }
    }
}

/// A new limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// Most power that may flow through the node, in W.
    pub limit_w: i64,
    /// In effect from then on (RFC 3339), and kept a lease ahead; left out: at once.
    #[serde(default)]
    pub at: Option<String>,
    /// The same as so many seconds from now.
    #[serde(default)]
    pub within_s: Option<u32>,
}

/// A charger as the node sees it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChargerDto {
    /// The charger.
    pub id: String,
    /// Its station.
    pub station: String,
    /// Its gateway.
    pub gateway: String,
    /// Its gateway was heard lately.
    pub online: bool,
    /// `idle`, `starting`, `charging`, `stopping`, `settling`, `faulted`, `unavailable`.
    pub state: String,
    /// The open session.
    pub session: Option<String>,
    /// Power by the last beat.
    pub power_w: i64,
    /// What the car would take.
    pub demand_w: i64,
    /// The grant in force, as the gateway reported it.
    pub granted_w: i64,
    /// Energy register.
    pub register_wh: i64,
    /// State of charge in 0.1 %.
    pub soc_permille: Option<i32>,
    /// It draws more than granted: counted at its rating.
    pub disobeying: bool,
}

impl From<ChargerView> for ChargerDto {
    fn from(view: ChargerView) -> Self {
        Self {
            id: view.id.to_string(),
            station: view.station.to_string(),
            gateway: view.gateway.to_string(),
            online: view.online,
            state: view.state,
            session: view.session.map(|s| s.to_string()),
            power_w: view.power_w.0,
            demand_w: view.demand_w.0,
            granted_w: view.granted_w.0,
            register_wh: view.register_wh.0,
            soc_permille: view.soc_permille,
            disobeying: view.disobeying,
        }
    }
}
