//! Who is on: semi-continuous chargers (nothing, or at least the minimum) are split off before the shares.
//!
//! Greedy in the order of [`Standing`](super::Standing), then of those with a need where needs come first,
//! then `since`, then id: whoever's minimum still fits under every limit above it is on. With equal minima on
//! a tree this is the largest possible set (a laminar matroid); with unequal ones the best set is a knapsack,
//! and the order of service is worth more than the last watt.

use super::problem::{Leaf, Policy};
use super::{Problem, crossing::THIRDS};

/// The answer of [`admit`]: bounds in watts, whole steps, and what each limit has left for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Least watts of each leaf; 0 when it is not on.
    pub lower: Vec<i64>,
    /// Most watts of each leaf; 0 when it is not on.
    pub upper: Vec<i64>,
    /// What each node can give to the leaves below it: its limit without base load and without the
    /// reserves of leaves that are not on. Below zero when those alone are too much.
    pub room: Vec<i64>,
    /// The same for each limit that crosses the tree, in thirds of a watt.
    pub(super) crossing: Vec<i64>,
}

/// Whole steps in `watts`, rounded down, as watts. Both are positive and at most 1 TW, where the quotient in
/// floating point is never rounded up to the next whole number; it is many times faster than in integers.
pub(super) fn steps_down(watts: i64, step: i64) -> i64 {
    (watts as f64 / step as f64) as i64 * step
}

/// Least and most watts of a leaf that is on, in whole steps; none when no step is between.
pub(super) fn bounds(leaf: &Leaf) -> Option<(i64, i64)> {
    let step = leaf.step.0;
    // A charger that is on is granted at least its reserve, which it may draw anyway.
    let lower = steps_down(leaf.min.0.max(leaf.reserve.0) + step - 1, step);
    let upper = steps_down(leaf.most().0, step);
    (upper > 0 && lower <= upper).then_some((lower, upper))
}

/// Decides who is on.
pub fn admit(problem: &Problem) -> Admitted {
    let leaves = problem.leaves();
    let mut admitted = nobody(problem);
    let mut off = 0_usize;
    for (at, leaf) in leaves.iter().enumerate() {
        match bounds(leaf) {
            Some((lower, upper)) => (admitted.lower[at], admitted.upper[at]) = (lower, upper),
            None => off += 1,
        }
    }
    if fits(problem, &admitted) {
        for at in 0..leaves.len() {
            if admitted.upper[at] > 0 {
                admitted.free_reserve(problem, at);
            }
        }
    } else if off < leaves.len() {
        one_by_one(problem, &mut admitted);
    }
    admitted
}

/// The room that is left when nobody is on.
fn nobody(problem: &Problem) -> Admitted {
    let (nodes, leaves) = (problem.nodes(), problem.leaves());
    let mut room: Vec<i64> = nodes.iter().map(|node| node.limit.0).collect();
    let mut carried: Vec<i64> = nodes.iter().map(|node| node.base.0).collect();
    for leaf in leaves {
        carried[leaf.node as usize] += leaf.reserve.0;
    }
    for at in (0..nodes.len()).rev() {
        room[at] -= carried[at];
        if let Some(parent) = nodes[at].parent {
            carried[parent as usize] += carried[at];
        }
    }
    let left = |row: &super::crossing::Crossing| {
        row.room - row.members.iter().map(|(leaf, thirds)| thirds * leaves[*leaf as usize].reserve.0).sum::<i64>()
    };
    let crossing = problem.crossings().rows().iter().map(left).collect();
    Admitted { lower: vec![0; leaves.len()], upper: vec![0; leaves.len()], room, crossing }
}

/// True when the minima of all who have bounds fit together: the usual case, which needs no order.
fn fits(problem: &Problem, admitted: &Admitted) -> bool {
    let leaves = problem.leaves();
    let extra = |at: usize| if admitted.upper[at] > 0 { admitted.lower[at] - leaves[at].reserve.0 } else { 0 };
    let mut below = vec![0_i64; problem.nodes().len()];
    for (at, leaf) in leaves.iter().enumerate() {
        below[leaf.node as usize] += extra(at);
    }
    for at in (0..below.len()).rev() {
        if below[at] > admitted.room[at] {
            return false;
        }
        if let Some(parent) = problem.nodes()[at].parent {
            below[parent as usize] += below[at];
        }
    }
    // A node that is over its limit by itself lets nobody on, also nobody who asks for no minimum.
    let over = |node: usize| admitted.room[node] < 0 && !problem.span(node).is_empty();
    let of_row =
        |row: &super::crossing::Crossing| row.members.iter().map(|(at, by)| by * extra(*at as usize)).sum::<i64>();
    let rows = problem.crossings().rows().iter().zip(&admitted.crossing);
    !(0..below.len()).any(over) && rows.into_iter().all(|(row, room)| *room >= 0 && of_row(row) <= *room)
}

fn one_by_one(problem: &Problem, admitted: &mut Admitted) {
    let leaves = problem.leaves();
    let needs = problem.policy() == Policy::Needs;
    let mut order: Vec<usize> = (0..leaves.len()).filter(|at| admitted.upper[*at] > 0).collect();
    order.sort_unstable_by_key(|at| {
        let leaf = &leaves[*at];
        (leaf.standing, needs && leaf.need.0 == 0, leaf.since, leaf.id, *at)
    });
    let mut left = admitted.room.clone();
    let mut left_crossing = admitted.crossing.clone();
    for at in order {
        let extra = admitted.lower[at] - leaves[at].reserve.0;
        let above = problem.crossings().above(at);
        let on_tree = problem.ancestors(leaves[at].node as usize).all(|node| left[node] >= extra);
        if !on_tree || !above.iter().all(|(row, by)| left_crossing[*row as usize] >= by * extra) {
            (admitted.lower[at], admitted.upper[at]) = (0, 0);
            continue;
        }
        problem.ancestors(leaves[at].node as usize).for_each(|node| left[node] -= extra);
        above.iter().for_each(|(row, by)| left_crossing[*row as usize] -= by * extra);
        admitted.free_reserve(problem, at);
    }
}

impl Admitted {
    /// A leaf that is on takes its watts out of the room, so its reserve is not kept besides.
    fn free_reserve(&mut self, problem: &Problem, leaf: usize) {
        let Leaf { node, reserve, .. } = problem.leaves()[leaf];
        if reserve.0 == 0 {
            return;
        }
        problem.ancestors(node as usize).for_each(|node| self.room[node] += reserve.0);
        for (row, by) in problem.crossings().above(leaf) {
            self.crossing[*row as usize] += by * reserve.0;
        }
    }

    /// The room of the nodes, then of the crossing limits in watts, as the fillings use it.
    pub(super) fn rooms(&self) -> (Vec<f64>, Vec<f64>) {
        let watts = |thirds: &i64| *thirds as f64 / THIRDS as f64;
        (self.room.iter().map(|room| *room as f64).collect(), self.crossing.iter().map(watts).collect())
    }
}
