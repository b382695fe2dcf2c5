//! The books of a station's power: what each charger may draw at worst, and what that adds up to.
//!
//! Dense indices throughout: a charger is a `pile` (sorted by its node, so that a subtree is a range), a
//! gateway a `gate`. Sums per node are kept up with every change of a pile's worst.

use super::{BeatReport, BeatVerdict, ChargerBeat, PowerConfig, StationEffect};
use crate::allocation::{Tree, TreeError};
use crate::catalogue;
use crate::gateway::BootId;
use crate::ids::{ChargerId, GatewayId};
use crate::units::{Mono, Watts};
use std::collections::BTreeMap;

/// A draw above what is allowed by more than this (and 2 %) is a strike.
const TOLERANCE_W: i64 = 500;
/// Strikes in a row that make a charger disobedient.
const STRIKES: u8 = 3;
/// Beats without a strike that make it obedient again.
const GOOD_BEATS: u8 = 10;
/// Entry of a message for a charger that it does not list.
pub(super) const UNLISTED: i64 = -1;

/// A charger. Watts are plain integers in here.
#[derive(Debug, Clone)]
pub(super) struct Pile {
    pub id: ChargerId,
    pub gate: usize,
    pub child: u16,
    /// Its place in the gateway's list and in the gateway's messages.
    pub slot: usize,
    pub node: usize,
    pub rated: i64,
    /// Least grant: minimum and fallback, in whole steps.
    pub least: i64,
    pub step: i64,
    pub weight: u32,
    pub fallback: i64,

    /// A session is on, or its Start may be under way.
    pub expected: bool,
    /// The gateway says that a session is on.
    pub charging: bool,
    /// Its fallback counts: from its first grant, from the first moment there is room for it, and at the
    /// latest when the gateway no longer waits for a first grant.
    pub reserved: bool,
    /// What was last reported as in force, also without a session: the next one begins with it.
    pub confirmed: i64,
    pub confirmed_until: u64,
    /// Grants of a former owner may be in force or reach it until then, up to the ceiling it had when we
    /// took over. That counts without a session too: the next one would begin with them.
    pub inherited: i64,
    pub inherited_until: u64,
    pub demand: i64,
    pub power: i64,

    /// Durable: no grant exceeds it.
    pub ceiling: i64,
    /// Since when a lower ceiling would do; 0 when it would not.
    pub roomy_since: u64,
    /// What the last plan wants it to have.
    pub target: i64,
    /// What the last message said.
    pub sent: i64,
    /// The session's target comes from a plan or from what was found in force.
    pub planned: bool,
    /// When the session came, and when it was last let on or taken off.
    pub arrived: u64,
    pub switched: u64,
    /// It was let on in this session.
    pub was_on: bool,

    pub strikes: u8,
    pub good: u8,
    pub disobeys: bool,
    /// What it counts at its nodes.
    pub worst: i64,
}

impl Pile {
    pub fn active(&self) -> bool {
        self.expected || self.charging
    }

    /// A session begins.
    pub fn begin(&mut self, now: Mono) {
        self.end();
        self.arrived = now.0;
        self.switched = now.0;
    }

    /// The session is over. What is in force at the charger stays so until it is lowered or ends.
    pub fn end(&mut self) {
        (self.reserved, self.planned, self.was_on) = (false, false, false);
        (self.target, self.demand, self.switched) = (0, 0, 0);
    }

    /// What it has or may yet get by messages, `listed` being the greatest entry on its way.
    pub fn known(&self, now: Mono, listed: i64) -> i64 {
        if now.0 < self.confirmed_until { listed.max(self.confirmed) } else { listed.max(0) }
    }

    fn worst_at(&self, now: Mono, listed: i64) -> i64 {
        let mut worst = self.known(now, listed);
        if now.0 < self.inherited_until {
            worst = worst.max(self.inherited);
        }
        if self.active() && self.reserved {
            worst = worst.max(self.fallback);
        }
        if self.disobeys { worst.max(self.rated) } else { worst }
    }
}

/// A grant message that may still reach its gateway.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub seq: u64,
    /// The moment it stops counting.
    pub until: u64,
    /// Watts by slot, or [`UNLISTED`].
    pub watts: Vec<i64>,
}

/// A gateway.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub id: GatewayId,
    /// Its chargers, by slot.
    pub piles: Vec<usize>,
    pub by_child: BTreeMap<u16, usize>,
    pub heard: Option<Mono>,
    pub boot: BootId,
    pub mono: u64,
    pub nonce: u64,
    pub seq: u64,
    /// Every message of this machine has a higher sequence, every one of a former machine a lower one.
    pub seq_base: u64,
    /// Its last beat was sent after it had taken in a message of this machine.
    pub ours: bool,
    /// No grant that is in force at the gateway ends later, whoever sent it.
    pub leases_until: u64,
    pub outstanding: Vec<Message>,
}

impl Gate {
    pub fn live(&self, now: Mono, silent_ms: u64) -> bool {
        self.heard.is_some_and(|heard| now.since(heard) <= silent_ms)
    }

    /// The greatest entry on its way to the charger at `slot`.
    pub fn listed(&self, slot: usize) -> i64 {
        self.outstanding.iter().map(|message| message.watts[slot]).max().unwrap_or(UNLISTED)
    }
}

/// Why a node's worst may be above its limit for a while: something was learnt, or the limit was cut.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Excuse {
    /// The worst may not rise above this, which follows it down.
    pub bound: i64,
    /// From then on there is no excuse; 0 for none.
    pub until: u64,
}

/// Everything that is known.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub epoch: u64,
    pub opened: Mono,
    pub counted_ms: u64,
    pub first_grant_wait_ms: u64,
    /// After this long without a beat, a gateway's chargers are expected to fall to their fallbacks.
    pub lost_ms: u64,
    pub tree: Tree,
    pub piles: Vec<Pile>,
    pub gates: Vec<Gate>,
    /// Worst load of each node, base load included.
    pub load: Vec<i64>,
    pub excuses: Vec<Excuse>,
    by_id: BTreeMap<ChargerId, usize>,
    by_gateway: BTreeMap<GatewayId, usize>,
}

/// Checks one charger's bounds; returns the node it hangs from.
pub(super) fn check_charger(tree: &Tree, id: &ChargerId, charger: &catalogue::Charger) -> Result<usize, TreeError> {
    let Some(node) = tree.find(&charger.limit) else {
        return Err(TreeError::UnknownNode { charger: id.to_string(), node: charger.limit.clone() });
    };
    let bad = |what: String| Err(TreeError::BadLeaf { charger: id.to_string(), path: tree.path(node), what });
    let catalogue::Charger { rated_w, min_w, step_w, fallback_w, .. } = charger;
    if *rated_w < Watts(1) || *rated_w > crate::allocation::MAX_NODE_WATTS {
        return bad(format!("rated_w {rated_w} must be above 0"));
    }
    if *min_w < Watts::ZERO || min_w > rated_w {
        return bad(format!("min_w {min_w} must be 0 to its rated_w {rated_w}"));
    }
    if *step_w < Watts(1) || step_w > rated_w {
        return bad(format!("step_w {step_w} must be 1 W to its rated_w {rated_w}"));
    }
    let fallback_fits = *fallback_w == Watts::ZERO || (fallback_w >= min_w && fallback_w <= rated_w);
    if !fallback_fits {
        return bad(format!("fallback_w {fallback_w} must be 0, or its min_w {min_w} to its rated_w {rated_w}"));
    }
    if charger.weight < 1 || charger.weight > crate::allocation::MAX_WEIGHT {
        return bad(format!("weight {} must be 1 to {}", charger.weight, crate::allocation::MAX_WEIGHT));
    }
    let least = round_up(min_w.0.max(fallback_w.0), step_w.0);
    if least > rated_w.0 {
        return bad(format!("no multiple of step_w {step_w} lies between its least power and its rated_w {rated_w}"));
    }
    Ok(node)
}

pub(super) fn round_up(watts: i64, step: i64) -> i64 {
    let down = watts.div_euclid(step) * step;
    if down < watts { down + step } else { down }
}

impl Books {
    pub fn new<'a>(
        now: Mono,
        epoch: u64,
        tree: Tree,
        chargers: impl IntoIterator<Item = (&'a ChargerId, &'a catalogue::Charger)>,
        config: &PowerConfig,
    ) -> Result<Self, TreeError> {
        let counted_ms = config.counted_ms();
        let mut sorted = Vec::new();
        for (id, charger) in chargers {
            sorted.push((check_charger(&tree, id, charger)?, id, charger));
        }
        sorted.sort_by_key(|(node, id, _)| (*node, *id));
        let nodes = tree.nodes().len();
        let (load, excuses) = (vec![0; nodes], vec![Excuse::default(); nodes]);
        let (piles, gates) = (Vec::with_capacity(sorted.len()), Vec::new());
        let (by_id, by_gateway) = (BTreeMap::new(), BTreeMap::new());
        let PowerConfig { first_grant_wait_ms, lease_ms, .. } = *config;
        let (opened, lost_ms) = (now, lease_ms / 3);
        let mut books = Self {
            epoch,
            opened,
            counted_ms,
            first_grant_wait_ms,
            lost_ms,
            tree,
            piles,
            gates,
            load,
            excuses,
            by_id,
            by_gateway,
        };
        for (node, id, charger) in sorted {
            let inherited_until = now.plus_ms(counted_ms).0;
            books.add(node, id, charger, inherited_until);
        }
        for at in 0..nodes {
            books.add_load(at, books.tree.nodes()[at].base.0);
        }
        Ok(books)
    }

    fn add(&mut self, node: usize, id: &ChargerId, charger: &catalogue::Charger, inherited_until: u64) {
        let at = self.piles.len();
        let gate = *self.by_gateway.entry(charger.gateway.clone()).or_insert_with(|| {
            let (piles, by_child, outstanding) = (Vec::new(), BTreeMap::new(), Vec::new());
            let id = charger.gateway.clone();
            let (boot, mono, nonce, leases_until) = (BootId::default(), 0, 0, 0);
            // A machine may be built anew under the same epoch. At less than one message a millisecond, the
            // moment of opening is above every sequence that its predecessor used.
            let (seq, seq_base) = (self.opened.0, self.opened.0);
            self.gates.push(Gate {
                id,
                piles,
                by_child,
                heard: None,
                boot,
                mono,
                nonce,
                seq,
                seq_base,
                ours: false,
                leases_until,
                outstanding,
            });
            self.gates.len() - 1
        });
        let slot = self.gates[gate].piles.len();
        self.gates[gate].piles.push(at);
        self.gates[gate].by_child.insert(charger.child, at);
        self.by_id.insert(id.clone(), at);
        self.piles.push(Pile {
            id: id.clone(),
            gate,
            child: charger.child,
            slot,
            node,
            rated: charger.rated_w.0,
            least: round_up(charger.min_w.0.max(charger.fallback_w.0), charger.step_w.0),
            step: charger.step_w.0,
            weight: charger.weight,
            fallback: charger.fallback_w.0,
            expected: false,
            charging: false,
            reserved: false,
            confirmed: 0,
            confirmed_until: 0,
            inherited: 0,
            inherited_until,
            demand: 0,
            power: 0,
            ceiling: 0,
            roomy_since: 0,
            target: 0,
            sent: 0,
            planned: false,
            arrived: 0,
            switched: 0,
            was_on: false,
            strikes: 0,
            good: 0,
            disobeys: false,
            worst: 0,
        });
    }

    pub fn find(&self, id: &ChargerId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub fn find_gateway(&self, id: &GatewayId) -> Option<usize> {
        self.by_gateway.get(id).copied()
    }

    /// Adds to a node and everything above it.
    fn add_load(&mut self, node: usize, watts: i64) {
        let mut at = Some(node);
        while let Some(here) = at {
            self.load[here] += watts;
            at = self.tree.nodes()[here].parent;
        }
    }

    pub fn set_worst(&mut self, pile: usize, worst: i64) {
        let change = worst - self.piles[pile].worst;
        if change != 0 {
            self.piles[pile].worst = worst;
            self.add_load(self.piles[pile].node, change);
        }
    }

    /// Free power at the tightest node above a pile; below zero when one of them is over its limit.
    pub fn room(&self, pile: usize) -> i64 {
        let room = |at: usize| self.tree.nodes()[at].limit.0 - self.load[at];
        self.tree.ancestors(self.piles[pile].node).map(room).min().unwrap_or(0)
    }

    /// Counts a pile anew. `learnt`: a rise is news from outside, not ours, and excuses its nodes.
    pub fn recount_pile(&mut self, now: Mono, pile: usize, learnt: bool) {
        let mut learnt = learnt;
        let Pile { reserved, arrived, gate, .. } = self.piles[pile];
        let waited = now.0 >= arrived.saturating_add(self.first_grant_wait_ms);
        // Cut off, it falls to its fallback when its lease ends: most of a lease to make room for it.
        if self.piles[pile].active() && !reserved && (waited || !self.gates[gate].live(now, self.lost_ms)) {
            self.piles[pile].reserved = true;
            learnt = true;
        }
        let listed = self.gates[self.piles[pile].gate].listed(self.piles[pile].slot);
        let worst = self.piles[pile].worst_at(now, listed);
        let rises = worst > self.piles[pile].worst;
        self.set_worst(pile, worst);
        if learnt && rises {
            self.excuse(now, self.piles[pile].node);
        }
    }

    /// Drops what has run out and counts everything anew.
    pub fn recount(&mut self, now: Mono) {
        for gate in 0..self.gates.len() {
            self.recount_gate(now, gate, false);
        }
    }

    pub fn recount_gate(&mut self, now: Mono, gate: usize, learnt: bool) {
        self.gates[gate].outstanding.retain(|message| now.0 < message.until);
        for slot in 0..self.gates[gate].piles.len() {
            self.recount_pile(now, self.gates[gate].piles[slot], learnt);
        }
    }

    /// Sets a fallback aside for each open session that has none yet and for which there is room.
    pub fn reserve(&mut self, pile: usize) {
        let Pile { fallback, worst, reserved, .. } = self.piles[pile];
        if self.piles[pile].active() && !reserved {
            let rise = (fallback - worst).max(0);
            if self.room(pile) >= rise {
                self.piles[pile].reserved = true;
                self.set_worst(pile, worst + rise);
            }
        }
    }

    /// Lets the node and those above it be over their limits, where they are, until leases have ended.
    pub fn excuse(&mut self, now: Mono, node: usize) {
        let mut at = Some(node);
        while let Some(here) = at {
            let limit = self.tree.nodes()[here].limit.0;
            let excuse = &mut self.excuses[here];
            if self.load[here] > limit {
                excuse.until = now.plus_ms(self.counted_ms).0;
                excuse.bound = excuse.bound.max(self.load[here]);
            } else {
                *excuse = Excuse::default();
            }
            at = self.tree.nodes()[here].parent;
        }
    }

    pub fn take_beat(
        &mut self,
        now: Mono,
        at: usize,
        beat: &BeatReport,
        effects: &mut Vec<StationEffect>,
    ) -> BeatVerdict {
        let gate = &mut self.gates[at];
        let stale = beat.boot < gate.boot || (beat.boot == gate.boot && beat.mono <= gate.mono);
        if gate.heard.is_some() && stale {
            return BeatVerdict::Stale;
        }
        if beat.epoch > self.epoch {
            return BeatVerdict::Fenced;
        }
        // What has run out meanwhile goes first, so that a rise is seen as one.
        self.recount_gate(now, at, false);
        let gate = &mut self.gates[at];
        // Ours when it is past one of our own messages: from then on it refuses everybody else's.
        let ours = beat.epoch == self.epoch && beat.applied_seq > gate.seq_base;
        let other_boot = gate.heard.is_none() || beat.boot != gate.boot;
        if other_boot {
            // What answers a beat of another boot is dropped there.
            gate.outstanding.clear();
        }
        if other_boot || !ours {
            // What a former owner granted answers this beat at the latest; ours are known by their messages.
            gate.leases_until = now.plus_ms(self.counted_ms).0;
        }
        (gate.boot, gate.mono, gate.nonce, gate.heard, gate.ours) = (beat.boot, beat.mono, beat.nonce, Some(now), ours);
        if ours {
            gate.outstanding.retain(|message| message.seq > beat.applied_seq);
            gate.seq = gate.seq.max(beat.applied_seq);
        }
        // Until then a former owner's grants may yet arrive, answering this very beat.
        let inherited_until = if ours { 0 } else { now.plus_ms(self.counted_ms).0 };
        for slot in 0..gate.piles.len() {
            self.piles[self.gates[at].piles[slot]].inherited_until = inherited_until;
        }
        for report in &beat.chargers {
            if let Some(pile) = self.gates[at].by_child.get(&report.child) {
                self.take_report(now, *pile, report, effects);
            }
        }
        self.recount_gate(now, at, true);
        if !ours {
            // The same worst, but for longer.
            for slot in 0..self.gates[at].piles.len() {
                let node = self.piles[self.gates[at].piles[slot]].node;
                self.excuse(now, node);
            }
        }
        BeatVerdict::Taken
    }

    fn take_report(&mut self, now: Mono, at: usize, report: &ChargerBeat, effects: &mut Vec<StationEffect>) {
        let confirmed_until = self.gates[self.piles[at].gate].leases_until;
        let before = self.piles[at].worst;
        let pile = &mut self.piles[at];
        if report.charging && !pile.active() {
            // A session that nobody told us of: it may be at its fallback already.
            pile.begin(now);
            pile.reserved = true;
        }
        let was_active = pile.active();
        pile.charging = report.charging;
        pile.demand = if report.charging { report.demand.0.clamp(0, pile.rated) } else { 0 };
        pile.power = report.power.0.max(0);
        (pile.confirmed, pile.confirmed_until) = (report.granted.0.max(0), confirmed_until);
        if was_active && !pile.active() {
            pile.end();
        }
        if pile.charging && !pile.planned {
            // Go on from what is in force until the next plan.
            pile.planned = true;
            pile.target = pile.confirmed.min(pile.ceiling).div_euclid(pile.step) * pile.step;
            pile.was_on = pile.target > 0;
        }
        let pile = &mut self.piles[at];
        let allowed = before.max(pile.confirmed);
        if pile.power > allowed + allowed / 50 + TOLERANCE_W {
            (pile.strikes, pile.good) = (pile.strikes.saturating_add(1), 0);
            if pile.strikes >= STRIKES && !pile.disobeys {
                pile.disobeys = true;
                let (charger, power) = (pile.id.clone(), Watts(pile.power));
                effects.push(StationEffect::ReportDisobedience { charger, power, allowed: Watts(allowed) });
            }
        } else {
            (pile.strikes, pile.good) = (0, pile.good.saturating_add(1));
            // While it counts at its rating nothing is above what counts: judge by what it was granted.
            let granted = pile.known(now, pile.sent);
            if pile.power > granted + granted / 50 + TOLERANCE_W {
                pile.good = 0;
            }
            if pile.disobeys && pile.good >= GOOD_BEATS {
                pile.disobeys = false;
                effects.push(StationEffect::ReportObedience { charger: pile.id.clone() });
            }
        }
    }
}
