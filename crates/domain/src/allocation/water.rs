//! Exact weighted max-min shares on the tree: water-filling.
//!
//! All leaves rise together, a leaf's share being `weight x level` held between its bounds, until a node is
//! full; the leaves below it then stay where they are. On a tree this needs no simulation of the rise: a
//! node is full at the level at which the shares below it, each held by the nodes between, add up to its
//! room, so one pass from the leaves to the root finds every level, and a leaf's level is the lowest of the
//! nodes above it. (On a tree with such bounds the result is also the weighted proportionally fair point.)
//!
//! Levels are integers in 1/65,536 W per unit of weight, so the answer does not depend on rounding modes.

use super::{Admitted, Allocation, Problem, admit};
use crate::units::Watts;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bits after the point of a level.
const LEVEL_BITS: u32 = 16;

/// A leaf's share at a level. Bounds are at most 1 TW, far below where the product is held.
fn share(weight: i64, level: i64, lower: i64, upper: i64) -> i64 {
    (weight.saturating_mul(level) >> LEVEL_BITS).clamp(lower, upper)
}

/// The safe answer: admission, water-filling, whole steps. Always succeeds, in well under a millisecond for
/// a station of 2,000 chargers.
pub fn water_fill(problem: &Problem) -> Allocation {
    let admitted = admit(problem);
    let watts = fill(problem, &admitted, &admitted.lower, &admitted.upper);
    quantise(problem, &admitted, watts)
}

/// Max-min shares between `lower` and `upper` under the room of every node, in single watts. When even
/// `lower` does not fit somewhere, the leaves there get `lower`.
pub(super) fn fill(problem: &Problem, admitted: &Admitted, lower: &[i64], upper: &[i64]) -> Vec<i64> {
    let leaves = problem.leaves();
    // Leaves sorted by their node: a subtree is then one slice.
    let mut starts = vec![0_usize; problem.nodes().len() + 1];
    for leaf in leaves {
        starts[leaf.node as usize + 1] += 1;
    }
    for at in 0..problem.nodes().len() {
        starts[at + 1] += starts[at];
    }
    let mut next = starts.clone();
    let mut order = vec![0_usize; leaves.len()];
    for (at, leaf) in leaves.iter().enumerate() {
        order[next[leaf.node as usize]] = at;
        next[leaf.node as usize] += 1;
    }
    let mut slots: Vec<Slot> = order
        .iter()
        .map(|at| Slot { weight: i64::from(leaves[*at].weight), lower: lower[*at], held: upper[*at].max(lower[*at]) })
        .collect();
    let mut sums = vec![0_i64; problem.nodes().len()];
    for node in (0..problem.nodes().len()).rev() {
        sums[node] += slots[starts[node]..starts[node + 1]].iter().map(|slot| slot.held).sum::<i64>();
        if sums[node] > admitted.room[node] {
            let below = &mut slots[starts[node]..starts[problem.end(node)]];
            sums[node] = hold(below, admitted.room[node]);
        }
        if let Some(parent) = problem.nodes()[node].parent {
            sums[parent as usize] += sums[node];
        }
    }
    let mut watts = vec![0; leaves.len()];
    for (slot, at) in slots.iter().zip(order) {
        watts[at] = slot.held;
    }
    watts
}

/// A leaf while the passes run: its share so far is `held`, which only falls.
struct Slot {
    weight: i64,
    lower: i64,
    held: i64,
}

/// Lowers the slots to the highest common level at which they fit in `room`; returns their new sum.
fn hold(slots: &mut [Slot], room: i64) -> i64 {
    let sum_at = |level: i64| slots.iter().map(|s| share(s.weight, level, s.lower, s.held)).sum::<i64>();
    // At `fits` the sum is within the room (or as low as it gets), at `full` it is above.
    let mut fits = 0;
    let mut full = slots.iter().map(|s| (s.held << LEVEL_BITS) / s.weight + 1).max().unwrap_or(1);
    while full - fits > 1 {
        let middle = fits + (full - fits) / 2;
        if sum_at(middle) <= room {
            fits = middle;
        } else {
            full = middle;
        }
    }
    slots.iter_mut().fold(0, |sum, slot| {
        slot.held = share(slot.weight, fits, slot.lower, slot.held);
        sum + slot.held
    })
}

/// Rounds down to whole steps, then hands out the steps that are left, lowest share per weight first.
pub(super) fn quantise(problem: &Problem, admitted: &Admitted, mut watts: Vec<i64>) -> Allocation {
    let leaves = problem.leaves();
    let mut room = admitted.room.clone();
    let mut used = vec![0_i64; room.len()];
    for (at, leaf) in leaves.iter().enumerate() {
        watts[at] = (watts[at].div_euclid(leaf.step.0) * leaf.step.0).max(admitted.lower[at]);
        used[leaf.node as usize] += watts[at];
    }
    for node in (0..room.len()).rev() {
        room[node] -= used[node];
        if let Some(parent) = problem.nodes()[node].parent {
            used[parent as usize] += used[node];
        }
    }
    let raised = |at: usize, watts: i64| {
        let leaf = &leaves[at];
        // Level after one more step, in 128 bits, which hold any bound.
        ((i128::from(watts + leaf.step.0) << LEVEL_BITS) / i128::from(leaf.weight), at)
    };
    let mut heap: BinaryHeap<Reverse<(i128, usize)>> = (0..leaves.len())
        .filter(|at| watts[*at] < admitted.upper[*at])
        .map(|at| Reverse(raised(at, watts[at])))
        .collect();
    while let Some(Reverse((_, at))) = heap.pop() {
        let leaf = &leaves[at];
        let step = leaf.step.0;
        if watts[at] + step > admitted.upper[at] || problem.ancestors(leaf.node as usize).any(|node| room[node] < step)
        {
            continue; // room only shrinks: this leaf is done
        }
        problem.ancestors(leaf.node as usize).for_each(|node| room[node] -= step);
        watts[at] += step;
        heap.push(Reverse(raised(at, watts[at])));
    }
    Allocation { watts: watts.into_iter().map(Watts).collect() }
}
