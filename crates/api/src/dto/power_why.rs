//! Why a charger has the power it has.

use super::limits::{source_text, told_source};
use chargeplane_actors::station::Explained;
use chargeplane_domain::station::{HeldBy, Holder, HolderKind, MorePower, NodeShare};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a charger has the power it has, at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerDto {
    /// The charger.
    pub charger: String,
    /// The same in sentences: the cause, what would give more, who holds power back.
    pub why: Vec<String>,
    /// `no_session`, `not_started`, `silent_gateway`, `disobedience`, `no_demand`, `demand` (the car takes no more),
    /// `rating`, `node` (a limit above it is full), `paused`, `new_owner`, `ceiling`, `head_room` or `on_its_way`.
    pub held_by: String,
    /// The node that holds it, with those above it: `grid/tr1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Paused: its place in the queue of that node, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<usize>,
    /// Paused: how many wait there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<usize>,
    /// What it was last told.
    pub granted_w: i64,
    /// What it is to have.
    pub target_w: i64,
    /// Its share at this moment; null when it takes no part.
    pub share_w: Option<i64>,
    /// What the car would take.
    pub demand_w: i64,
    /// Power by the last beat.
    pub power_w: i64,
    /// What it counts at its nodes.
    pub worst_w: i64,
    /// What is kept free for it whatever happens to its gateway.
    pub reserved_w: i64,
    /// No grant exceeds this.
    pub ceiling_w: i64,
    /// Its rating.
    pub rated_w: i64,
    /// Its least power when it is on.
    pub min_w: i64,
    /// Its weight.
    pub weight: u32,
    /// So long what it may have counts, in milliseconds.
    pub lease_left_ms: u64,
    /// The nodes above it, nearest first.
    pub nodes: Vec<NodeShareDto>,
    /// What would give it more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<MorePowerDto>,
    /// Who holds power back at `node`: at most ten, the greatest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<PowerHolderDto>,
}

/// A node above the charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeShareDto {
    /// With those above it: `grid/tr1`.
    pub node: String,
    /// The limit in effect.
    pub limit_w: i64,
    /// The worst load that grants, fallbacks and base load allow now.
    pub worst_w: i64,
    /// What is not shared out: base load, silent gateways' chargers, those that disobey.
    pub unmanaged_w: i64,
    /// Sum of the shares below it.
    pub planned_w: i64,
    /// This charger's part of that.
    pub mine_w: i64,
    /// What a charger of weight 100 gets below it; null while it is not full.
    pub level_w: Option<i64>,
    /// Whose limit it is, when it is not the catalogue's: as `source` of the station's limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_source: Option<String>,
}

/// Limits that would have to rise together for the charger to have more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MorePowerDto {
    /// Which nodes.
    pub nodes: Vec<String>,
    /// By how much each.
    pub by_w: i64,
    /// So much more the charger then gets.
    pub gives_w: i64,
}

/// A charger that holds power back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PowerHolderDto {
    /// Which.
    pub charger: String,
    /// How much.
    pub w: i64,
    /// `unconfirmed`, `former_owner`, `silent_gateway` or `disobeys`.
    pub why: String,
    /// It is free within so many milliseconds; null when that is not known.
    pub within_ms: Option<u64>,
}

impl From<Explained> for PowerDto {
    fn from((told, sources): Explained) -> Self {
        let mut why = told.sentences();
        let (held_by, node, queue) = cause(told.held_by);
        let mut nodes: Vec<NodeShareDto> = told.nodes.into_iter().map(NodeShareDto::from).collect();
        for (share, source) in nodes.iter_mut().zip(&sources) {
            share.limit_source = source.as_ref().map(|limit| source_text(limit).0);
            if let Some(limit) = source
                && Some(&share.node) == node.as_ref()
            {
                why.insert(1, format!("The limit of {} is {}.", share.node, told_source(limit)));
            }
        }
        Self {
            charger: told.charger.to_string(),
            why,
            held_by: held_by.to_owned(),
            node,
            place: queue.map(|(place, _)| place),
            waiting: queue.map(|(_, waiting)| waiting),
            granted_w: told.granted.0,
            target_w: told.target.0,
            share_w: told.share.map(|share| share.0),
            demand_w: told.demand.0,
            power_w: told.metered.0,
            worst_w: told.worst.0,
            reserved_w: told.reserved.0,
            ceiling_w: told.ceiling.0,
            rated_w: told.rated.0,
            min_w: told.least.0,
            weight: told.weight,
            lease_left_ms: told.lease_left_ms,
            nodes,
            more: told.more.into_iter().map(MorePowerDto::from).collect(),
            holders: told.holders.into_iter().map(PowerHolderDto::from).collect(),
        }
    }
}

/// The word for the cause, its node, and the place in the queue.
fn cause(held_by: HeldBy) -> (&'static str, Option<String>, Option<(usize, usize)>) {
    match held_by {
        HeldBy::NoSession => ("no_session", None, None),
        HeldBy::NotStarted => ("not_started", None, None),
        HeldBy::SilentGateway { .. } => ("silent_gateway", None, None),
        HeldBy::Disobedience => ("disobedience", None, None),
        HeldBy::NoDemand => ("no_demand", None, None),
        HeldBy::Demand => ("demand", None, None),
        HeldBy::Rating => ("rating", None, None),
        HeldBy::Node { node, .. } => ("node", Some(node), None),
        HeldBy::Paused { node, place, waiting, .. } => ("paused", Some(node), Some((place, waiting))),
        HeldBy::NewOwner => ("new_owner", None, None),
        HeldBy::Ceiling { .. } => ("ceiling", None, None),
        HeldBy::HeadRoom { node, .. } => ("head_room", Some(node), None),
        HeldBy::OnItsWay => ("on_its_way", None, None),
    }
}

impl From<NodeShare> for NodeShareDto {
    fn from(share: NodeShare) -> Self {
        Self {
            node: share.node,
            limit_w: share.limit.0,
            worst_w: share.worst.0,
            unmanaged_w: share.unmanaged.0,
            planned_w: share.planned.0,
            mine_w: share.mine.0,
            level_w: share.level.map(|level| level.0),
            limit_source: None,
        }
    }
}

impl From<MorePower> for MorePowerDto {
    fn from(more: MorePower) -> Self {
        let MorePower { nodes, by, gives } = more;
        Self { nodes, by_w: by.0, gives_w: gives.0 }
    }
}

impl From<Holder> for PowerHolderDto {
    fn from(holder: Holder) -> Self {
        let why = match holder.kind {
            HolderKind::Unconfirmed => "unconfirmed",
            HolderKind::FormerOwner => "former_owner",
            HolderKind::SilentGateway => "silent_gateway",
            HolderKind::Disobeys => "disobeys",
        };
        let (charger, w) = (holder.charger.to_string(), holder.watts.0);
        Self { charger, w, why: why.to_owned(), within_ms: holder.within_ms }
    }
}
