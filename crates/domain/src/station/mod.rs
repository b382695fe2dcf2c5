//! A station's power: who may draw how much, as leases (soft), and what is remembered of it (durable).
//!
//! [`StationPower`] is the soft machine of the station's tick. It keeps POWER-1: at every node of the tree
//! and at every instant, base load plus the worst that each charger may draw is within the limit. The worst
//! of a charger is the greatest of what it was last reported to have, of every grant message that may still
//! reach it, and of its fallback; increases are sent only into the room that this leaves.
//! [`StationState`] is the durable part: the limits an operator set, and a ceiling per charger that no grant
//! exceeds, written before the first grant beyond it, so that a new owner knows the worst before it has heard
//! anything.
//!
//! What the machine relies on at the gateway (the edge keeps these rules):
//! - a grant message is taken in only when its (epoch, seq) is newer than the last one taken in, and when it
//!   answers a beat of the present boot; a decrease with a newer (epoch, seq) is obeyed in any case;
//! - each entry ends `lease_ms` after the answered beat was sent, on the gateway's clock, which runs within
//!   2 % of ours; a charger whose entry ended falls to its fallback;
//! - `applied_seq` of a beat counts messages of the epoch that the same beat names, and is 0 after that
//!   epoch rose; the grants of a message with a lower epoch are dropped from then on;
//! - a session begins with what is in force at its charger, 0 W when that is nothing, and takes the fallback
//!   when it was granted nothing for `first_grant_wait_ms`;
//! - a charger without a session draws nothing, whatever was granted to it.
//!
//! Restart: the shell builds a new machine, gives it the ceilings and the open sessions, and the beats tell
//! the rest within two seconds or so. The first answer to a gateway has no entries; its reports count from
//! the first beat after it. Until then its chargers count their ceilings, so nobody is raised into their room.

mod books;
mod durable;
mod explanation;
mod grants;
mod judge;
mod limits;
mod plan;
mod why;

pub use durable::{LimitChange, LimitCommand, LimitOrder, LimitRejection, StationEvent, StationState};
pub use explanation::{HeldBy, Holder, HolderKind, MorePower, NodeShare, PowerExplanation};
pub use judge::{Deficit, PowerViolation};
pub use limits::{LimitInEffect, LimitSchedule, LimitSignal, LimitSource, OperatorLimit};

use crate::allocation::{Allocation, Policy, Problem, Tree, TreeError};
use crate::catalogue;
use crate::gateway::BootId;
use crate::ids::{ChargerId, GatewayId};
use crate::units::{Mono, Watts};
use books::Books;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of a [`StationPower`]; the defaults are the ones of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PowerConfig {
    /// Length of a grant's lease on the gateway's clock.
    pub lease_ms: u64,
    /// By how much a gateway's clock may be slower than ours, in percent: a lease counts that much longer.
    pub skew_percent: u64,
    /// A gateway that was not heard for this long gets no share; what it may draw is set aside.
    pub silent_ms: u64,
    /// How long a gateway keeps a session at 0 W that was never granted anything, before it takes the fallback.
    pub first_grant_wait_ms: u64,
    /// A charger that was let on stays on for at least this long when not everybody's minimum fits.
    pub min_on_ms: u64,
    /// A charger that was taken off stays off for at least this long.
    pub min_off_ms: u64,
    /// After this long off, a charger goes before those that are on.
    pub starved_ms: u64,
}

impl Default for PowerConfig {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            skew_percent: 2,
            silent_ms: 3_000,
            first_grant_wait_ms: 30_000,
            min_on_ms: 300_000,
            min_off_ms: 60_000,
            starved_ms: 600_000,
        }
    }
}

impl PowerConfig {
    /// How long a lease counts, from the receipt of the beat that was answered.
    pub fn counted_ms(&self) -> u64 {
        self.lease_ms + self.lease_ms * self.skew_percent / 100
    }
}

/// What a gateway reports of one charger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargerBeat {
    /// Its number at the gateway.
    pub child: u16,
    /// The grant in force when the beat was sent; the fallback when its grants have ended.
    pub granted: Watts,
    /// What the car would take now if it were not held back, at most the rating.
    pub demand: Watts,
    /// What it draws.
    pub power: Watts,
    /// A session is on and may draw.
    pub charging: bool,
}

/// A gateway's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatReport {
    /// The gateway's monotonic clock when it was sent; rises from beat to beat within a boot.
    pub mono: u64,
    /// Names this beat; grants answer it.
    pub nonce: u64,
    /// The gateway's key and boot counter; the counter rises with every start under one key, and begins anew
    /// when the gateway is enrolled with an empty ring.
    pub boot: BootId,
    /// The highest owner epoch the gateway has seen; it refuses grants of lower ones.
    pub epoch: u64,
    /// The highest sequence of a grant message *of that epoch* that it took in, 0 for none.
    pub applied_seq: u64,
    /// Its chargers. One that is not listed keeps what it was last reported with.
    pub chargers: Vec<ChargerBeat>,
}

/// What became of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatVerdict {
    /// Taken in and answered.
    Taken,
    /// Repeated, overtaken by a later one, or of a former boot: nothing changed.
    Stale,
    /// The gateway is not of this station: nothing changed.
    UnknownGateway,
    /// The gateway knows a later owner than this one: nothing changed, and nothing will.
    Fenced,
}

/// What the station wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StationEffect {
    /// Send these grants to a gateway: the complete list of its chargers, 0 W for those without a session.
    /// An empty list tells it of this owner and changes nothing.
    SendGrants {
        gateway: GatewayId,
        /// The beat that this answers.
        answers_nonce: u64,
        /// The boot of that beat. Only a gateway with its key may take the grants.
        boot: BootId,
        /// Rises with every message to this gateway within the owner's epoch, also from one machine to the
        /// next on the same monotonic clock.
        seq: u64,
        /// Length of the lease on the gateway's clock, from the moment the answered beat was sent.
        lease_ms: u64,
        /// Charger numbers and watts.
        entries: Vec<(u16, Watts)>,
    },
    /// Make these ceilings durable ([`StationEvent::CeilingsSet`]), then call
    /// [`StationPower::on_ceilings_durable`]. At most one is under way.
    RaiseCeilings(Vec<(ChargerId, Watts)>),
    /// This charger draws more than it may; it is counted at its rating from now on.
    ReportDisobedience { charger: ChargerId, power: Watts, allowed: Watts },
    /// This charger obeys again.
    ReportObedience { charger: ChargerId },
}

/// The station at a glance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationOverview {
    /// Limit of the grid connection.
    pub limit: Watts,
    /// The worst load there, base load included.
    pub worst: Watts,
    /// Sum of what chargers were last told they may draw.
    pub granted: Watts,
    /// Sum of what was last reported as drawn.
    pub power: Watts,
    /// Sum of what cars would take.
    pub demand: Watts,
    /// Chargers with a session.
    pub charging: usize,
    /// Gateways heard within the last seconds.
    pub live_gateways: usize,
    /// Chargers counted at their rating because they draw more than they may.
    pub disobedient: usize,
}

/// The soft machine of a station's power. See the module's page.
#[derive(Debug, Clone)]
pub struct StationPower {
    config: PowerConfig,
    policy: Policy,
    books: Books,
    /// Ceilings that were sent to be made durable.
    asking: bool,
    /// When ceilings were last asked for.
    asked_at: Mono,
}

impl StationPower {
    /// A machine that knows nobody's state yet. `chargers` may hold others than this station's gateways'
    /// chargers only if they hang from its tree: pass the station's own.
    pub fn new<'a>(
        now: Mono,
        epoch: u64,
        station: &catalogue::Station,
        chargers: impl IntoIterator<Item = (&'a ChargerId, &'a catalogue::Charger)>,
        config: PowerConfig,
    ) -> Result<Self, TreeError> {
        let tree = Tree::build(&station.limits)?;
        let books = Books::new(now, epoch, tree, chargers, &config)?;
        let policy = station.power.policy.into();
        Ok(Self { config, policy, books, asking: false, asked_at: now })
    }

    /// Takes in the durable ceilings, before anything else after opening.
    pub fn on_ceilings(&mut self, now: Mono, state: &StationState) {
        for (charger, watts) in &state.ceilings {
            if let Some(at) = self.books.find(charger) {
                let pile = &mut self.books.piles[at];
                (pile.ceiling, pile.inherited) = (watts.0.max(0), watts.0.max(0));
                self.books.recount_pile(now, at, true);
            }
        }
    }

    /// A session that was open when the shard was opened: its charger counts its ceiling until its gateway
    /// has shown that it heard of this owner.
    pub fn on_session_restored(&mut self, now: Mono, charger: &ChargerId) {
        if let Some(at) = self.books.find(charger) {
            self.books.recount_pile(now, at, false);
            let pile = &mut self.books.piles[at];
            pile.expected = true;
            pile.reserved = true;
            pile.arrived = now.0;
            self.books.recount_pile(now, at, true);
        }
    }

    /// A Start command for this charger may leave from now on.
    pub fn on_session_expected(&mut self, now: Mono, charger: &ChargerId) {
        if let Some(at) = self.books.find(charger) {
            self.books.recount_pile(now, at, false);
            let pile = &mut self.books.piles[at];
            if !pile.active() {
                pile.begin(now);
            }
            pile.expected = true;
            self.books.recount_pile(now, at, true);
            self.books.reserve(at);
        }
    }

    /// The charger's session is over at the gateway. What is in force there, or on its way, counts until the
    /// gateway has shown that it is lowered: the next session would begin with it.
    pub fn on_session_ended(&mut self, now: Mono, charger: &ChargerId) {
        if let Some(at) = self.books.find(charger) {
            self.books.recount_pile(now, at, false);
            let pile = &mut self.books.piles[at];
            pile.expected = false;
            pile.charging = false;
            pile.end();
            self.books.recount_pile(now, at, true);
        }
    }

    /// A heartbeat. It is answered at once with the present plan, as far as the room goes.
    pub fn on_beat(
        &mut self,
        now: Mono,
        gateway: &GatewayId,
        beat: &BeatReport,
        effects: &mut Vec<StationEffect>,
    ) -> BeatVerdict {
        let Some(gate) = self.books.find_gateway(gateway) else {
            return BeatVerdict::UnknownGateway;
        };
        let verdict = self.books.take_beat(now, gate, beat, effects);
        if verdict == BeatVerdict::Taken {
            self.trim_to_demand(gate);
            self.answer(gate, effects);
        }
        verdict
    }

    /// A tick's question, or `None` when no charger that can be reached wants power. Give the answer to
    /// [`Self::on_allocation`]. Call it once a second, and at once after a limit fell.
    pub fn on_tick(&mut self, now: Mono) -> Option<Problem> {
        self.books.recount(now);
        (0..self.books.piles.len()).for_each(|at| self.books.reserve(at));
        self.pose(now)
    }

    /// The answer to a tick's question: new targets. Decreases leave at once, increases as far as the room
    /// goes; the rest follows with later beats and ticks.
    pub fn on_allocation(
        &mut self,
        now: Mono,
        problem: &Problem,
        allocation: &Allocation,
        effects: &mut Vec<StationEffect>,
    ) {
        self.books.recount(now);
        self.plan(now, problem, allocation);
        self.ask_ceilings(now, effects);
        self.spread(now, effects);
    }

    /// Ceilings that were asked for are durable: grants up to them may leave.
    pub fn on_ceilings_durable(
        &mut self,
        now: Mono,
        ceilings: &[(ChargerId, Watts)],
        effects: &mut Vec<StationEffect>,
    ) {
        self.asking = false;
        for (charger, watts) in ceilings {
            if let Some(at) = self.books.find(charger) {
                self.books.piles[at].ceiling = watts.0.max(0);
            }
        }
        self.books.recount(now);
        self.spread(now, effects);
    }

    /// A node has another limit from now on. Returns the former one. After a cut, tick at once.
    pub fn on_limit_changed(&mut self, now: Mono, node: &str, limit: Watts) -> Result<Watts, TreeError> {
        let former = self.books.tree.set_limit(node, limit)?;
        if let Some(at) = self.books.tree.find(node) {
            self.books.excuse(now, at);
        }
        Ok(former)
    }

    /// The tree with the limits in force.
    pub fn tree(&self) -> &Tree {
        &self.books.tree
    }

    /// The worst load at every node of [`Self::tree`], base load included.
    pub fn worst_now(&mut self, now: Mono) -> Vec<Watts> {
        self.books.recount(now);
        self.books.load.iter().map(|load| Watts(*load)).collect()
    }

    /// The station at a glance.
    pub fn overview(&self, now: Mono) -> StationOverview {
        let books = &self.books;
        let mut seen = StationOverview {
            limit: books.tree.nodes().first().map_or(Watts::ZERO, |root| root.limit),
            worst: Watts(books.load.first().copied().unwrap_or(0)),
            live_gateways: books.gates.iter().filter(|gate| gate.live(now, self.config.silent_ms)).count(),
            ..StationOverview::default()
        };
        for pile in &books.piles {
            if pile.active() {
                seen.charging += 1;
                seen.granted.0 += pile.sent;
                seen.demand.0 += pile.demand;
            }
            seen.power.0 += pile.power;
            seen.disobedient += usize::from(pile.disobeys);
        }
        seen
    }
}

/// Checks that the fallbacks of a station's chargers fit under every limit together with its base load
/// (POWER-2: cut off, it stays within its limit by itself), and that every charger's bounds make sense.
pub fn check_fallbacks<'a>(
    tree: &Tree,
    chargers: impl IntoIterator<Item = (&'a ChargerId, &'a catalogue::Charger)>,
) -> Result<(), TreeError> {
    let mut load: BTreeMap<usize, Watts> = BTreeMap::new();
    for (id, charger) in chargers {
        let node = books::check_charger(tree, id, charger)?;
        for above in tree.ancestors(node) {
            let sum = load.entry(above).or_insert(Watts::ZERO);
            *sum = sum.saturating_add(charger.fallback_w);
        }
    }
    for (at, node) in tree.nodes().iter().enumerate() {
        for above in tree.ancestors(at) {
            let sum = load.entry(above).or_insert(Watts::ZERO);
            *sum = sum.saturating_add(node.base);
        }
    }
    match load.into_iter().find(|(at, sum)| *sum > tree.nodes()[*at].limit) {
        Some((at, sum)) => {
            Err(TreeError::FallbackOverLimit { path: tree.path(at), sum, limit: tree.nodes()[at].limit })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
