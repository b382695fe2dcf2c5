//! Who is on: semi-continuous chargers (nothing, or at least the minimum) are split off before the shares.
//!
//! Greedy in the order of [`Standing`](super::Standing), then `since`, then id: whoever's minimum still fits
//! at every node above it is on. With equal minima this is the largest possible set (a laminar matroid);
//! with unequal ones the best set is a knapsack, and the order of service is worth more than the last watt.

use super::Problem;

/// The answer of [`admit`]: bounds in watts, whole steps, and what each node has left for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Least watts of each leaf; 0 when it is not on.
    pub lower: Vec<i64>,
    /// Most watts of each leaf; 0 when it is not on.
    pub upper: Vec<i64>,
    /// What each node can give to the leaves below it: its limit without base load and without the
    /// reserves of leaves that are not on. Below zero when those alone are too much.
    pub room: Vec<i64>,
}

/// Decides who is on.
pub fn admit(problem: &Problem) -> Admitted {
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
    // `room` is now what is left when nobody is on. Being on costs the minimum instead of the reserve.
    let mut order: Vec<usize> = (0..leaves.len()).collect();
    order.sort_unstable_by_key(|at| (leaves[*at].standing, leaves[*at].since, leaves[*at].id, *at));
    let mut admitted = Admitted { lower: vec![0; leaves.len()], upper: vec![0; leaves.len()], room };
    let mut left = admitted.room.clone();
    for at in order {
        let leaf = &leaves[at];
        let step = leaf.step.0;
        // A charger that is on is granted at least its reserve, which it may draw anyway.
        let lower = leaf.min.0.max(leaf.reserve.0).div_euclid(step) * step;
        let lower = if lower < leaf.min.0.max(leaf.reserve.0) { lower + step } else { lower };
        let upper = leaf.max.0.div_euclid(step) * step;
        let extra = lower - leaf.reserve.0;
        let fits = |left: &[i64]| problem.ancestors(leaf.node as usize).all(|node| left[node] >= extra);
        if upper <= 0 || lower > upper || !fits(&left) {
            continue;
        }
        for node in problem.ancestors(leaf.node as usize) {
            left[node] -= extra;
            admitted.room[node] += leaf.reserve.0;
        }
        admitted.lower[at] = lower;
        admitted.upper[at] = upper;
    }
    admitted
}
