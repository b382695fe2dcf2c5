//! Why a charger has the power it has: what holds it, its share, and what would give it more.
//!
//! Two things decide. The plan: a charger's share of the nodes above it, by water-filling. The leases: a grant
//! rises to the share only into room that nobody may still draw. What is asked here is computed anew from what
//! the machine knows at this moment, and changes nothing. [`super::PowerExplanation`] is what comes out.

use super::StationPower;
use super::books::Pile;
use super::explanation::{HeldBy, Holder, HolderKind, MorePower, NodeShare, PowerExplanation};
use crate::allocation::{Admitted, Binding, Leaf, Limit, Policy, Problem, Standing, admit, bindings, water_fill};
use crate::ids::ChargerId;
use crate::units::{Mono, Watts};

/// So many of those that hold power back are named, the greatest first.
const HOLDERS_NAMED: usize = 10;

/// Levels are told for this weight, which is a charger's normal one.
const NORMAL_WEIGHT: i64 = 100;

impl StationPower {
    /// Explains a charger of this station; `None` when it has no such charger.
    ///
    /// Costs some two dozen water-fillings of the station: for people who ask, not for every tick.
    pub fn explain(&mut self, now: Mono, charger: &ChargerId) -> Option<PowerExplanation> {
        let at = self.books.find(charger)?;
        self.books.recount(now);
        let problem = self.pose(now);
        let share = problem.as_ref().and_then(|problem| Share::of(problem, at));
        let pile = &self.books.piles[at];
        let (held_by, node) = self.held_by(now, pile, at, share.as_ref());
        Some(PowerExplanation {
            charger: pile.id.clone(),
            granted: Watts(pile.sent),
            target: Watts(pile.target),
            share: share.as_ref().map(|share| Watts(share.mine())),
            demand: Watts(pile.demand),
            metered: Watts(pile.power),
            worst: Watts(pile.worst),
            reserved: Watts(if pile.active() && pile.reserved { pile.fallback } else { 0 }),
            ceiling: Watts(pile.ceiling),
            rated: Watts(pile.rated),
            least: Watts(pile.least),
            weight: pile.weight,
            lease_left_ms: self.counts_until(pile).saturating_sub(now.0),
            nodes: self.node_shares(pile, share.as_ref()),
            more: share.as_ref().map_or_else(Vec::new, |share| self.more(&held_by, share)),
            holders: node.map_or_else(Vec::new, |node| self.holders(now, node, at)),
            held_by,
        })
    }

    /// The cause, and the node where it is, if it is at one.
    fn held_by(&self, now: Mono, pile: &Pile, at: usize, share: Option<&Share<'_>>) -> (HeldBy, Option<usize>) {
        let gate = &self.books.gates[pile.gate];
        if !pile.active() {
            return (HeldBy::NoSession, None);
        }
        if !gate.live(now, self.config.silent_ms) {
            return (HeldBy::SilentGateway { heard_ms_ago: gate.heard.map(|heard| now.since(heard)) }, None);
        }
        if pile.disobeys {
            return (HeldBy::Disobedience, None);
        }
        if !pile.charging {
            return (HeldBy::NotStarted, None);
        }
        let Some(share) = share else { return (HeldBy::NoDemand, None) };
        if pile.sent < pile.target.div_euclid(pile.step) * pile.step {
            return self.held_back(pile, at);
        }
        share.held_by(self, pile)
    }

    /// Why the grant is below the target: see `grants::next`, which decides so.
    fn held_back(&self, pile: &Pile, at: usize) -> (HeldBy, Option<usize>) {
        if !self.books.gates[pile.gate].ours {
            return (HeldBy::NewOwner, None);
        }
        let within = pile.target.min(pile.ceiling).div_euclid(pile.step) * pile.step;
        if within < pile.target && pile.sent >= within {
            return (HeldBy::Ceiling { ceiling: Watts(pile.ceiling) }, None);
        }
        let rise = (within.max(pile.fallback) - pile.worst).max(0);
        let room = self.books.room(at);
        if room >= rise {
            return (HeldBy::OnItsWay, None);
        }
        let nodes = self.books.tree.nodes();
        let tight = self.books.tree.ancestors(pile.node).min_by_key(|at| nodes[*at].limit.0 - self.books.load[*at]);
        let tight = tight.unwrap_or(0);
        (HeldBy::HeadRoom { node: self.books.tree.path(tight), missing: Watts(rise - room.max(0)) }, Some(tight))
    }

    /// Until when what the charger may have counts.
    fn counts_until(&self, pile: &Pile) -> u64 {
        let on_its_way = self.books.gates[pile.gate].outstanding.iter();
        let on_its_way = on_its_way.filter(|message| message.watts[pile.slot] > 0).map(|message| message.until);
        let confirmed = if pile.confirmed > 0 { pile.confirmed_until } else { 0 };
        let inherited = if pile.inherited > 0 { pile.inherited_until } else { 0 };
        on_its_way.max().unwrap_or(0).max(confirmed).max(inherited)
    }

    fn node_shares(&self, pile: &Pile, share: Option<&Share<'_>>) -> Vec<NodeShare> {
        let nodes = self.books.tree.nodes();
        let above = self.books.tree.ancestors(pile.node);
        above
            .map(|at| NodeShare {
                id: nodes[at].id.clone(),
                node: self.books.tree.path(at),
                limit: nodes[at].limit,
                worst: Watts(self.books.load[at]),
                unmanaged: Watts(share.map_or(0, |share| share.base_below(at))),
                planned: Watts(share.map_or(0, |share| share.given_below(at))),
                mine: Watts(share.map_or(0, Share::mine)),
                level: share.and_then(|share| share.level(at)).map(Watts),
            })
            .collect()
    }

    /// Which limits would have to rise, and by how much, for this charger to have more.
    fn more(&self, held_by: &HeldBy, share: &Share<'_>) -> Vec<MorePower> {
        if !matches!(held_by, HeldBy::Node { .. } | HeldBy::Paused { .. }) {
            return Vec::new();
        }
        let leaf = share.leaf();
        let path: Vec<usize> = share.problem.ancestors(leaf.node as usize).collect();
        let name = |at: &usize| self.books.tree.path(*at);
        let alone = path.iter().filter_map(|at| share.raise(&[*at]).map(|(by, gives)| (vec![name(at)], by, gives)));
        let mut found: Vec<_> = alone.collect();
        if found.is_empty() {
            // Several are full at once: each alone gives nothing.
            let full: Vec<usize> = path.into_iter().filter(|at| share.free[*at] < leaf.step.0).collect();
            found.extend(share.raise(&full).map(|(by, gives)| (full.iter().map(name).collect(), by, gives)));
        }
        found.into_iter().map(|(nodes, by, gives)| MorePower { nodes, by: Watts(by), gives: Watts(gives) }).collect()
    }

    /// Who below a node counts more than it is meant to have, the greatest first.
    fn holders(&self, now: Mono, node: usize, except: usize) -> Vec<Holder> {
        let below = node..self.books.tree.nodes()[node].end;
        let piles = self.books.piles.iter().enumerate();
        let others = piles.filter(|(at, pile)| *at != except && below.contains(&pile.node));
        let mut found: Vec<Holder> = others.filter_map(|(_, pile)| self.holder(now, pile)).collect();
        found.sort_by(|a, b| (b.watts, &a.charger).cmp(&(a.watts, &b.charger)));
        found.truncate(HOLDERS_NAMED);
        found
    }

    fn holder(&self, now: Mono, pile: &Pile) -> Option<Holder> {
        let gate = &self.books.gates[pile.gate];
        let meant = if pile.active() && pile.reserved { pile.sent.max(pile.fallback) } else { pile.sent };
        let (kind, watts, ends) = if pile.disobeys {
            (HolderKind::Disobeys, pile.worst, None)
        } else if !gate.live(now, self.config.silent_ms) {
            let ends = self.counts_until(pile);
            (HolderKind::SilentGateway, pile.worst, (ends > now.0).then_some(ends))
        } else if now.0 < pile.inherited_until && pile.inherited > meant {
            (HolderKind::FormerOwner, pile.worst - meant, Some(pile.inherited_until))
        } else {
            (HolderKind::Unconfirmed, pile.worst - meant, Some(self.counts_until(pile)))
        };
        let within_ms = ends.map(|ends| ends.saturating_sub(now.0));
        (watts > 0).then(|| Holder { charger: pile.id.clone(), watts: Watts(watts), kind, within_ms })
    }
}

/// One leaf of a tick's question, and the answer to all of it.
struct Share<'a> {
    problem: &'a Problem,
    at: usize,
    watts: Vec<i64>,
    binding: Binding,
    admitted: Admitted,
    /// What each node has left.
    free: Vec<i64>,
}

impl<'a> Share<'a> {
    /// `None` when the charger is no leaf: its car wants nothing, or it cannot be steered.
    fn of(problem: &'a Problem, pile: usize) -> Option<Self> {
        let at = problem.leaves().iter().position(|leaf| leaf.id as usize == pile)?;
        let allocation = water_fill(problem);
        let binding = bindings(problem, &allocation).get(at).copied()?;
        let watts: Vec<i64> = allocation.watts.iter().map(|watts| watts.0).collect();
        let free = left(problem, |leaf| watts[leaf].max(problem.leaves()[leaf].reserve.0));
        Some(Self { problem, at, binding, admitted: admit(problem), free, watts })
    }

    fn leaf(&self) -> &Leaf {
        &self.problem.leaves()[self.at]
    }

    fn mine(&self) -> i64 {
        self.watts[self.at]
    }

    fn held_by(&self, power: &StationPower, pile: &Pile) -> (HeldBy, Option<usize>) {
        let leaf = self.leaf();
        let path = |at: usize| power.books.tree.path(at);
        if self.mine() == 0 {
            return self.paused(path);
        }
        if self.binding == Binding::Maximum {
            let most = pile.rated.div_euclid(pile.step) * pile.step;
            return (if leaf.max.0 >= most { HeldBy::Rating } else { HeldBy::Demand }, None);
        }
        let Some(node) = self.bottleneck() else { return (HeldBy::OnItsWay, None) };
        let (limit, level) = (self.problem.nodes()[node].limit, self.level(node).map(Watts));
        (HeldBy::Node { node: path(node), limit, level }, Some(node))
    }

    /// The full node that holds it.
    fn bottleneck(&self) -> Option<usize> {
        match self.binding {
            Binding::Limit(Limit::Node(node) | Limit::Phase(node, _)) => Some(node as usize),
            Binding::Minimum => {
                let step = self.leaf().step.0;
                self.problem.ancestors(self.leaf().node as usize).find(|at| self.free[*at] < step)
            }
            Binding::Maximum | Binding::Ramp | Binding::Limit(Limit::Cap(_)) => None,
        }
    }

    /// The water level of a full node: the highest share for its weight of those below it that want more.
    fn level(&self, node: usize) -> Option<i64> {
        let step = self.leaf().step.0;
        if self.free[node] >= step {
            return None;
        }
        let wants = |at: &usize| {
            self.watts[*at] > 0
                && self.watts[*at] + self.problem.leaves()[*at].step.0 <= self.problem.leaves()[*at].max.0
        };
        self.below(node).filter(wants).map(|at| level_of(self.watts[at], self.problem.leaves()[at].weight)).max()
    }

    fn below(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let range = node..self.problem.end(node);
        let leaves = self.problem.leaves().iter().enumerate();
        leaves.filter(move |(_, leaf)| range.contains(&(leaf.node as usize))).map(|(at, _)| at)
    }

    fn given_below(&self, node: usize) -> i64 {
        self.below(node).map(|at| self.watts[at]).sum()
    }

    fn base_below(&self, node: usize) -> i64 {
        self.problem.nodes()[node..self.problem.end(node)].iter().map(|node| node.base.0).sum()
    }

    /// Its minimum does not fit: where not, and how many wait before it there.
    fn paused(&self, path: impl Fn(usize) -> String) -> (HeldBy, Option<usize>) {
        let leaves = self.problem.leaves();
        let lower = |at: usize| self.admitted.lower[at].max(leaves[at].reserve.0);
        // Strict service goes by what others have, not by their minima.
        let strict = self.problem.policy() == Policy::Strict;
        let room = if strict { self.free.clone() } else { left(self.problem, lower) };
        let leaf = self.leaf();
        let needs = leaf.min.0.max(leaf.reserve.0) - leaf.reserve.0;
        let above = || self.problem.ancestors(leaf.node as usize);
        // Nobody below a node is let on while it is over its limit, so room may be below zero.
        let node = above().find(|at| room[*at] < needs).or_else(|| above().last()).unwrap_or(0);
        let key = |at: usize| (leaves[at].standing, leaves[at].since, leaves[at].id);
        let waiting: Vec<usize> = self.below(node).filter(|at| self.watts[*at] == 0).collect();
        let place = waiting.iter().filter(|at| key(**at) < key(self.at)).count() + 1;
        let paused = HeldBy::Paused {
            node: path(node),
            needs: Watts(needs + leaf.reserve.0),
            free: Watts(room[node].max(0)),
            place,
            waiting: waiting.len(),
            resting: leaf.standing == Standing::Resting,
        };
        (paused, Some(node))
    }

    /// The least by which the limits of `nodes` must rise for the most that this can give the leaf; both in
    /// watts. `None` when it gives nothing.
    fn raise(&self, nodes: &[usize]) -> Option<(i64, i64)> {
        let gain = |by: i64| {
            let mut raised = self.problem.nodes().to_vec();
            for at in nodes {
                raised[*at].limit.0 = raised[*at].limit.0.saturating_add(by).min(crate::allocation::MAX_NODE_WATTS.0);
            }
            let problem = Problem::new(raised, self.problem.leaves().to_vec()).ok()?.with_policy(self.problem.policy());
            let problem = problem.with_caps(self.problem.caps().to_vec()).ok()?;
            Some(water_fill(&problem).watts.get(self.at)?.0 - self.mine())
        };
        // With this much more everybody below has all that it can use.
        let wanted = |at: &usize| {
            let base = (self.base_below(*at) - self.problem.nodes()[*at].limit.0).max(0);
            self.below(*at).map(|leaf| self.problem.leaves()[leaf].max.0).sum::<i64>() + base
        };
        let mut enough = nodes.iter().map(wanted).max()?;
        let most = gain(enough).filter(|gives| *gives > 0)?;
        let mut short = 0;
        let step = self.leaf().step.0.max(1);
        while enough - short > step {
            let middle = short + (enough - short) / 2;
            if gain(middle)? >= most {
                enough = middle;
            } else {
                short = middle;
            }
        }
        Some((enough, most))
    }
}

fn level_of(watts: i64, weight: u32) -> i64 {
    watts.saturating_mul(NORMAL_WEIGHT) / i64::from(weight.max(1))
}

/// What each node has left when each leaf takes what `takes` says.
fn left(problem: &Problem, takes: impl Fn(usize) -> i64) -> Vec<i64> {
    let mut load: Vec<i64> = problem.nodes().iter().map(|node| node.base.0).collect();
    for (at, leaf) in problem.leaves().iter().enumerate() {
        load[leaf.node as usize] += takes(at);
    }
    for at in (0..load.len()).rev() {
        if let Some(parent) = problem.nodes()[at].parent {
            load[parent as usize] += load[at];
        }
    }
    problem.nodes().iter().zip(load).map(|(node, load)| node.limit.0 - load).collect()
}
