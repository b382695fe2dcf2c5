//! What is told of a charger's power, as data and as sentences.

use crate::ids::ChargerId;
use crate::units::Watts;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What keeps a charger from having more, the nearest cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum HeldBy {
    /// Nothing charges there.
    NoSession,
    /// A session is on its way; its gateway does not say yet that it may draw.
    NotStarted,
    /// Its gateway is not heard; when it was, if ever since this owner.
    SilentGateway { heard_ms_ago: Option<u64> },
    /// It draws more than it may: it gets no share and counts its rating.
    Disobedience,
    /// The car wants nothing.
    NoDemand,
    /// The car takes no more.
    Demand,
    /// The charger gives no more.
    Rating,
    /// A node above it is full. `level` is what a charger of weight 100 has below it.
    Node { node: String, limit: Watts, level: Option<Watts> },
    /// Its minimum does not fit below this node. It is at `place` of `waiting` there; `resting` when it was
    /// taken off less than the minimum time ago.
    Paused { node: String, needs: Watts, free: Watts, place: usize, waiting: usize, resting: bool },
    /// Its gateway has not shown yet that it obeys this owner.
    NewOwner,
    /// A grant above this waits until the station's log says so.
    Ceiling { ceiling: Watts },
    /// Its share is there, and others may still draw it: their grants have not ended, or are not confirmed.
    HeadRoom { node: String, missing: Watts },
    /// Decided, and sent with the next beat or tick.
    OnItsWay,
}

/// A node above the charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeShare {
    /// Its name in the station.
    pub id: String,
    /// With those above it: `grid/t1`.
    pub node: String,
    /// The limit in effect.
    pub limit: Watts,
    /// The worst load that grants, fallbacks and base load allow now.
    pub worst: Watts,
    /// What is not shared out: base load, silent gateways' chargers and those that disobey.
    pub unmanaged: Watts,
    /// Sum of the shares below it.
    pub planned: Watts,
    /// This charger's part of that.
    pub mine: Watts,
    /// What a charger of weight 100 gets below it; none while it is not full.
    pub level: Option<Watts>,
}

/// Limits that would have to rise together for the charger to have more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MorePower {
    /// Which nodes.
    pub nodes: Vec<String>,
    /// By how much each.
    pub by: Watts,
    /// So much more it gives the charger; with less it gives less.
    pub gives: Watts,
}

/// Why a charger counts more than it is meant to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// Its lower grant is not confirmed.
    Unconfirmed,
    /// A former owner may have granted it that.
    FormerOwner,
    /// Its gateway is not heard.
    SilentGateway,
    /// It draws more than it may.
    Disobeys,
}

/// A charger that holds power back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Which.
    pub charger: ChargerId,
    /// How much.
    pub watts: Watts,
    /// Why.
    pub kind: HolderKind,
    /// At the latest it is free then, in milliseconds; none when that is not known.
    pub within_ms: Option<u64>,
}

/// Why a charger has the power it has. See [`super::StationPower::explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerExplanation {
    /// The charger.
    pub charger: ChargerId,
    /// The nearest cause.
    pub held_by: HeldBy,
    /// What it was last told.
    pub granted: Watts,
    /// What it is to have.
    pub target: Watts,
    /// Its share at this moment; the target follows it with a dead-band. None when it takes no part.
    pub share: Option<Watts>,
    /// What its car would take.
    pub demand: Watts,
    /// What it drew at the last beat.
    pub metered: Watts,
    /// What it counts at its nodes.
    pub worst: Watts,
    /// What is kept free for it whatever happens to its gateway.
    pub reserved: Watts,
    /// No grant exceeds this; durable.
    pub ceiling: Watts,
    /// Its rating.
    pub rated: Watts,
    /// Its least power when it is on.
    pub least: Watts,
    /// Its weight.
    pub weight: u32,
    /// So long what it may have counts, counted from the beat that was answered.
    pub lease_left_ms: u64,
    /// The nodes above it, nearest first.
    pub nodes: Vec<NodeShare>,
    /// What would give it more.
    pub more: Vec<MorePower>,
    /// Who holds power back at the node that holds it.
    pub holders: Vec<Holder>,
}

impl PowerExplanation {
    /// The cause, what would give more, and who holds power back, each in a sentence.
    pub fn sentences(&self) -> Vec<String> {
        let mut told = vec![self.cause()];
        for MorePower { nodes, by, gives } in &self.more {
            let nodes = nodes.join(" and ");
            told.push(format!("{} more if {nodes} had {} more.", Kilo(*gives), Kilo(*by)));
        }
        for Holder { charger, watts, kind, within_ms } in &self.holders {
            let why = match kind {
                HolderKind::Unconfirmed => "until its lower grant is confirmed",
                HolderKind::FormerOwner => "until it is known that no former owner's grant is left",
                HolderKind::SilentGateway => "because its gateway is not heard",
                HolderKind::Disobeys => "because it draws more than it may",
            };
            let ends = within_ms.map_or(String::new(), |ms| format!(", at most {} s", Seconds(ms)));
            told.push(format!("{charger} holds {} {why}{ends}.", Kilo(*watts)));
        }
        told
    }

    fn cause(&self) -> String {
        let granted = Kilo(self.granted);
        match &self.held_by {
            HeldBy::NoSession => "no session: it is granted nothing until one starts.".to_owned(),
            HeldBy::NotStarted => "its session is starting: its gateway does not say yet that it may draw.".to_owned(),
            HeldBy::SilentGateway { heard_ms_ago } => {
                let heard = heard_ms_ago.map_or("not heard since this node took over".to_owned(), |ms| {
                    format!("not heard for {} s", Seconds(ms))
                });
                format!("its gateway is {heard}: {} count until its grants end, then its fallback.", Kilo(self.worst))
            }
            HeldBy::Disobedience => format!(
                "it draws {} and may draw less: it gets no share and counts its rating of {} until it obeys.",
                Kilo(self.metered),
                Kilo(self.rated)
            ),
            HeldBy::NoDemand => "its car wants nothing.".to_owned(),
            HeldBy::Demand => format!("{granted}: its car takes no more."),
            HeldBy::Rating => format!("{granted}: its rating."),
            HeldBy::Node { node, limit, level } => {
                let level = level.map_or(String::new(), |level| format!(", {} for a weight of 100", Kilo(level)));
                format!(
                    "{granted}: {node} is full at its limit of {}{level}; its weight is {}.",
                    Kilo(*limit),
                    self.weight
                )
            }
            HeldBy::Paused { node, needs, free, place, waiting, resting } => {
                let rests = if *resting { ", after those that have been off for longer" } else { "" };
                format!(
                    "paused: its minimum of {} does not fit below {node}, which has {} left; place {place} of {waiting} \
                     that wait{rests}.",
                    Kilo(*needs),
                    Kilo(*free)
                )
            }
            HeldBy::NewOwner => format!("{granted}: its gateway has not answered this node yet."),
            HeldBy::Ceiling { ceiling } => {
                format!("{granted}: a grant above {} waits for the station's log.", Kilo(*ceiling))
            }
            HeldBy::HeadRoom { node, missing } => format!(
                "{granted} of {}: at {node} others may still draw {} of it, until they are known to have less.",
                Kilo(self.target),
                Kilo(*missing)
            ),
            HeldBy::OnItsWay => format!("{granted}: {} is decided and on its way.", Kilo(self.target)),
        }
    }
}

/// Watts as people say them: `12.4 kW`.
struct Kilo(Watts);

impl fmt::Display for Kilo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0.0 + 50).div_euclid(100);
        write!(f, "{}.{} kW", tenths.div_euclid(10), tenths.rem_euclid(10))
    }
}

/// Milliseconds in seconds with one decimal.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1_000, self.0 % 1_000 / 100)
    }
}
