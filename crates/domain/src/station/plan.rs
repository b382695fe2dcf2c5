//! From beats to a tick's question, and from its answer to targets.
//!
//! Shares move a little with every car's demand. Passing all of that on would keep thousands of chargers
//! moving, and each move costs room until it is confirmed. So a target stays where it is when the new share
//! differs by less than a dead-band, unless a limit or an idle limit needs it: first what stays above its
//! share is trimmed where a node would be over its limit, the largest excess first; then what stays below
//! its share is raised where a node has room, the largest gap first.

use super::StationPower;
use super::books::Pile;
use crate::allocation::{Allocation, Leaf, Node, Problem, Standing};
use crate::units::{Mono, Watts};

/// Room above the reported demand, so that a car that wants more can show it: a 64th and this.
const MARGIN_W: i64 = 100;

/// Differences below this, or below a hundredth, do not move a target by themselves.
const DEAD_BAND_W: i64 = 300;

fn dead_band(target: i64) -> i64 {
    DEAD_BAND_W.max(target / 100)
}

impl Pile {
    /// The most that is of use to it now: 0 when its car wants nothing.
    fn useful(&self) -> i64 {
        if !self.charging {
            return 0;
        }
        if self.demand == 0 {
            // Some cars show no demand before they are given something.
            return if self.was_on { 0 } else { self.least };
        }
        let wanted = self.demand + self.demand / 64 + MARGIN_W;
        let wanted = super::books::round_up(wanted, self.step);
        wanted.min(self.rated.div_euclid(self.step) * self.step).max(self.least)
    }

    fn aim(&mut self, now: Mono, target: i64) {
        if (target > 0) != (self.target > 0) {
            self.switched = now.0;
            self.was_on |= target > 0;
        }
        self.target = target;
    }
}

impl StationPower {
    /// Lowers targets that a gateway's cars no longer use, so that the answer to the beat that said so
    /// already carries it.
    pub(super) fn trim_to_demand(&mut self, gate: usize) {
        for at in &self.books.gates[gate].piles {
            let pile = &mut self.books.piles[*at];
            let useful = pile.useful();
            if pile.target > useful + dead_band(pile.target) || useful == 0 {
                pile.target = useful;
            }
        }
    }

    fn standing(&self, now: Mono, pile: &Pile) -> (Standing, u64) {
        let lasted = now.0.saturating_sub(pile.switched);
        if pile.target > 0 {
            let kept = lasted < self.config.min_on_ms;
            (if kept { Standing::Kept } else { Standing::Running }, pile.arrived)
        } else if lasted >= self.config.starved_ms {
            (Standing::Starved, pile.switched)
        } else if pile.was_on && lasted < self.config.min_off_ms {
            (Standing::Resting, pile.switched)
        } else {
            (Standing::Waiting, pile.switched)
        }
    }

    /// The tick's question. Chargers of silent gateways, disobedient ones and those whose car wants nothing
    /// are no leaves; what they may draw is base load.
    pub(super) fn pose(&mut self, now: Mono) -> Option<Problem> {
        let node = |node: &crate::allocation::TreeNode| Node {
            parent: node.parent.map(|at| at as u32),
            limit: node.limit,
            base: node.base,
            ..Node::default()
        };
        let mut nodes: Vec<Node> = self.books.tree.nodes().iter().map(node).collect();
        let mut leaves = Vec::with_capacity(self.books.piles.len());
        // Just after opening nobody is squeezed for those who had no time yet to speak: increases are held
        // back by the room anyway.
        let settling = now.since(self.books.opened) < self.config.silent_ms;
        let live: Vec<bool> = self.books.gates.iter().map(|gate| gate.live(now, self.config.silent_ms)).collect();
        for (at, pile) in self.books.piles.iter().enumerate() {
            let useful = pile.useful();
            if live[pile.gate] && !pile.disobeys && useful > 0 {
                let (standing, since) = self.standing(now, pile);
                leaves.push(Leaf {
                    id: at as u32,
                    node: pile.node as u32,
                    min: Watts(pile.least),
                    max: Watts(useful),
                    step: Watts(pile.step),
                    weight: pile.weight,
                    prev: Watts(pile.target),
                    reserve: Watts(pile.fallback),
                    standing,
                    since,
                    ..Leaf::default()
                });
                continue;
            }
            let unheard = self.books.gates[pile.gate].heard.is_none();
            if !(settling && unheard) {
                let fallback = if pile.active() { pile.fallback } else { 0 };
                nodes[pile.node].base.0 += pile.worst.max(fallback);
            }
        }
        if leaves.is_empty() {
            return None;
        }
        // The books' own tree and checked chargers make no bad problem; were it so, no tick is the safe side.
        Problem::new(nodes, leaves).ok().map(|problem| problem.with_policy(self.policy))
    }

    /// New targets from the shares, with the dead-band.
    pub(super) fn plan(&mut self, now: Mono, problem: &Problem, allocation: &Allocation) {
        let leaves = problem.leaves();
        let fits = leaves.len() == allocation.watts.len()
            && problem.nodes().len() == self.books.load.len()
            && leaves.iter().all(|leaf| (leaf.id as usize) < self.books.piles.len());
        if !fits {
            return; // the answer to another station's question
        }
        let mut plan = Plan::new(problem, allocation, |leaf| {
            let pile = &self.books.piles[leaf.id as usize];
            (pile.target, pile.demand)
        });
        plan.trim();
        plan.fill();
        for (leaf, watts) in leaves.iter().zip(plan.watts) {
            let pile = &mut self.books.piles[leaf.id as usize];
            if pile.charging {
                // What a beat has meanwhile shown to be of no use stays down.
                let useful = pile.useful();
                let kept = watts <= useful + dead_band(watts) && useful > 0;
                pile.aim(now, if kept { watts } else { useful });
            }
        }
    }
}

/// Targets in the making, with the load that they make.
struct Plan<'a> {
    problem: &'a Problem,
    /// The shares.
    shares: &'a [Watts],
    watts: Vec<i64>,
    /// Where a raise is of use, the watts up to which.
    wanted: Vec<i64>,
    /// Limit minus load of each node.
    room: Vec<i64>,
}

impl<'a> Plan<'a> {
    fn new(problem: &'a Problem, allocation: &'a Allocation, now_has: impl Fn(&Leaf) -> (i64, i64)) -> Self {
        let leaves = problem.leaves();
        let mut room: Vec<i64> = problem.nodes().iter().map(|node| node.limit.0).collect();
        let mut load: Vec<i64> = problem.nodes().iter().map(|node| node.base.0).collect();
        let (mut watts, mut wanted) = (Vec::with_capacity(leaves.len()), Vec::with_capacity(leaves.len()));
        for (leaf, share) in leaves.iter().zip(&allocation.watts) {
            let (target, demand) = now_has(leaf);
            let small = (share.0 - target).abs() <= dead_band(target);
            let enough = share.0 > target && target >= demand;
            let keep = target >= leaf.min.0 && target > 0 && share.0 > 0 && (small || enough);
            let planned = if keep { target } else { share.0 };
            load[leaf.node as usize] += planned.max(leaf.reserve.0);
            watts.push(planned);
            wanted.push(if enough { planned } else { share.0 });
        }
        for at in (0..room.len()).rev() {
            room[at] -= load[at];
            if let Some(parent) = problem.nodes()[at].parent {
                load[parent as usize] += load[at];
            }
        }
        Self { problem, shares: &allocation.watts, watts, wanted, room }
    }

    fn set(&mut self, leaf: usize, watts: i64) {
        let Leaf { node, reserve, .. } = self.problem.leaves()[leaf];
        let change = watts.max(reserve.0) - self.watts[leaf].max(reserve.0);
        self.watts[leaf] = watts;
        for above in self.problem.ancestors(node as usize) {
            self.room[above] -= change;
        }
    }

    /// Where a node would be over its limit, those above their share go down to it, the largest excess
    /// first. The shares fit, so this ends within the limit.
    fn trim(&mut self) {
        for node in (0..self.room.len()).rev() {
            if self.room[node] >= 0 {
                continue;
            }
            let leaves = self.problem.leaves();
            // Leaves stand in the order of their nodes: a subtree is a range.
            let from = leaves.partition_point(|leaf| (leaf.node as usize) < node);
            let to = leaves.partition_point(|leaf| (leaf.node as usize) < self.problem.end(node));
            let excess = |plan: &Self, leaf: usize| plan.watts[leaf] - plan.shares[leaf].0;
            let mut above: Vec<usize> = (from..to).filter(|leaf| excess(self, *leaf) > 0).collect();
            above.sort_unstable_by_key(|leaf| (-excess(self, *leaf), *leaf));
            for leaf in above {
                if self.room[node] >= 0 {
                    break;
                }
                self.set(leaf, self.shares[leaf].0);
            }
        }
    }

    /// Where there is room, those below their share go up to it, the largest gap first.
    fn fill(&mut self) {
        let gap = |plan: &Self, leaf: usize| plan.wanted[leaf] - plan.watts[leaf];
        let mut below: Vec<usize> = (0..self.watts.len()).filter(|leaf| gap(self, *leaf) > 0).collect();
        below.sort_unstable_by_key(|leaf| (-gap(self, *leaf), *leaf));
        for leaf in below {
            let node = self.problem.leaves()[leaf].node as usize;
            if self.problem.ancestors(node).all(|above| self.room[above] >= gap(self, leaf)) {
                self.set(leaf, self.wanted[leaf]);
            }
        }
    }
}
