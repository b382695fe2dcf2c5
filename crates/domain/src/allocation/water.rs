//! Exact weighted max-min shares: the safe answer, and the oracle of the solver's.
//!
//! All leaves rise together, a leaf's share being `weight x level` held between its bounds, until a limit is
//! full; the leaves under it then stay where they are. On a tree this needs no simulation of the rise: a
//! node is full at the level at which the shares below it, each held by the nodes between, add up to its
//! room, so one pass from the leaves to the root finds every level, and a leaf's level is the lowest of the
//! nodes above it. Limits that cross the tree have no such order: there [`rise`](super::rise) does it.
//!
//! Shares are floating point and rounded down to watts once, so the sum of whole watts is within a limit
//! that the shares are within. The arithmetic has one order: the same problem has the same answer anywhere.

use super::problem::Policy;
use super::steps::quantise;
use super::{Admitted, Allocation, Problem, admit, rise, strict};

/// Shares closer than this (W) to the next whole watt are that watt.
const WHOLE: f64 = 1e-6;

/// A level is looked for no longer than this: Newton's steps end after five or six.
const MOST_STEPS: usize = 200;

/// The safe answer: admission, shares by the problem's policy, whole steps. Always succeeds; 0.1 ms for 2,000
/// chargers on a tree, a millisecond with limits that cross it.
pub fn water_fill(problem: &Problem) -> Allocation {
    if problem.policy() == Policy::Strict {
        return strict::serve(problem);
    }
    let admitted = admit(problem);
    let shares = shares(problem, &admitted);
    quantise(problem, &admitted, &shares)
}

/// The exact shares of those who are on, in watts, before they are rounded to steps. For
/// [`Policy::Proportional`] and [`Policy::Strict`] these are the fair ones.
pub(super) fn shares(problem: &Problem, admitted: &Admitted) -> Vec<f64> {
    let (lower, upper) = (as_floats(&admitted.lower), as_floats(&admitted.upper));
    let rooms = admitted.rooms();
    if problem.policy() != Policy::Needs {
        return fill(problem, &rooms, &lower, &upper);
    }
    let guaranteed = guarantees(problem, admitted);
    let first = fill(problem, &rooms, &lower, &guaranteed);
    on_top(problem, &rooms, &first, &vec![0.0; first.len()], &upper)
}

/// What each leaf's need comes to within its bounds.
pub(super) fn guarantees(problem: &Problem, admitted: &Admitted) -> Vec<f64> {
    let bounds = admitted.lower.iter().zip(&admitted.upper);
    problem.leaves().iter().zip(bounds).map(|(leaf, (lower, upper))| leaf.need.0.clamp(*lower, *upper) as f64).collect()
}

/// Shares out what `first` leaves of the rooms: max-min of what comes on top of it, from `lower` to `upper`.
pub(super) fn on_top(
    problem: &Problem,
    rooms: &(Vec<f64>, Vec<f64>),
    first: &[f64],
    lower: &[f64],
    upper: &[f64],
) -> Vec<f64> {
    let (mut nodes, mut crossing) = rooms.clone();
    let mut below = vec![0.0; nodes.len()];
    for (at, watts) in first.iter().enumerate() {
        below[problem.leaves()[at].node as usize] += watts;
        for (row, thirds) in problem.crossings().above(at) {
            crossing[*row as usize] -= watts * *thirds as f64 / super::crossing::THIRDS as f64;
        }
    }
    for at in (0..nodes.len()).rev() {
        nodes[at] -= below[at];
        if let Some(parent) = problem.nodes()[at].parent {
            below[parent as usize] += below[at];
        }
    }
    let above =
        |bound: &[f64]| bound.iter().zip(first).map(|(bound, first)| (bound - first).max(0.0)).collect::<Vec<_>>();
    let added = fill(problem, &(nodes, crossing), &above(lower), &above(upper));
    first.iter().zip(added).map(|(first, added)| first + added).collect()
}

fn as_floats(watts: &[i64]) -> Vec<f64> {
    watts.iter().map(|watts| *watts as f64).collect()
}

/// A share as whole watts.
pub(super) fn whole(share: f64) -> i64 {
    (share + WHOLE) as i64
}

/// Max-min shares between `lower` and `upper` within the rooms. When even `lower` does not fit somewhere, the
/// leaves there get `lower`.
pub(super) fn fill(problem: &Problem, rooms: &(Vec<f64>, Vec<f64>), lower: &[f64], upper: &[f64]) -> Vec<f64> {
    if problem.crossings().is_empty() {
        on_tree(problem, &rooms.0, lower, upper)
    } else {
        rise::fill(problem, rooms, lower, upper)
    }
}

fn on_tree(problem: &Problem, room: &[f64], lower: &[f64], upper: &[f64]) -> Vec<f64> {
    // In the order of their nodes: a subtree is then one slice.
    let order = problem.order();
    let mut slots = Slots::default();
    for at in order.iter().map(|at| *at as usize) {
        slots.weight.push(f64::from(problem.leaves()[at].weight));
        slots.lower.push(lower[at]);
        slots.held.push(upper[at].max(lower[at]));
    }
    let mut sums = vec![0.0; room.len()];
    for node in (0..room.len()).rev() {
        sums[node] += slots.held[problem.own(node)].iter().sum::<f64>();
        if sums[node] > room[node] {
            sums[node] = slots.hold(problem.span(node), room[node]);
        }
        if let Some(parent) = problem.nodes()[node].parent {
            sums[parent as usize] += sums[node];
        }
    }
    let mut watts = vec![0.0; order.len()];
    for (held, at) in slots.held.iter().zip(order) {
        watts[*at as usize] = *held;
    }
    watts
}

/// Leaves while the passes run: a share so far is `held`, which only falls.
#[derive(Default)]
struct Slots {
    weight: Vec<f64>,
    lower: Vec<f64>,
    held: Vec<f64>,
}

impl Slots {
    /// Lowers the slots to the highest common level at which they fit in `room`; returns their new sum.
    fn hold(&mut self, span: std::ops::Range<usize>, room: f64) -> f64 {
        let (weight, lower) = (&self.weight[span.clone()], &self.lower[span.clone()]);
        let held = &mut self.held[span];
        let (weights, least) =
            weight.iter().zip(lower).fold((0.0, 0.0), |(w, l), (weight, lower)| (w + weight, l + lower));
        // Where nobody is held by a bound this first guess is the level.
        let guess = room / weights;
        let level =
            if least < room { level_within(room, guess, |level| sum_at(weight, lower, held, level)) } else { 0.0 };
        let mut sum = 0.0;
        for ((weight, lower), held) in weight.iter().zip(lower).zip(held) {
            *held = (weight * level).max(*lower).min(*held);
            sum += *held;
        }
        sum
    }
}

/// Sum of the shares at a level and how fast it grows. Four sums side by side: one alone waits for its own
/// addition before.
fn sum_at(weight: &[f64], lower: &[f64], held: &[f64], level: f64) -> (f64, f64) {
    let (mut sums, mut slopes) = ([0.0; 4], [0.0; 4]);
    let mut add = |lane: usize, weight: f64, lower: f64, held: f64| {
        let share = weight * level;
        sums[lane] += share.max(lower).min(held);
        slopes[lane] += if share > lower && share < held { weight } else { 0.0 };
    };
    let whole = weight.len() / 4 * 4;
    let (head, tail) = (weight.split_at(whole), (lower.split_at(whole), held.split_at(whole)));
    let chunks = head.0.chunks_exact(4).zip(tail.0.0.chunks_exact(4)).zip(tail.1.0.chunks_exact(4));
    for ((weight, lower), held) in chunks {
        (0..4).for_each(|lane| add(lane, weight[lane], lower[lane], held[lane]));
    }
    for ((weight, lower), held) in head.1.iter().zip(tail.0.1).zip(tail.1.1) {
        add(0, *weight, *lower, *held);
    }
    (sums.iter().sum(), slopes.iter().sum())
}

/// The highest level at which `at` (sum and slope, rising with the level) is within `room`, looked for from
/// `guess` on; 0 when there is none. Newton's steps inside a bracket: exact as soon as no share passes a bound
/// between two steps.
pub(super) fn level_within(room: f64, guess: f64, at: impl Fn(f64) -> (f64, f64)) -> f64 {
    let near = 1e-12 * room.abs() + 1e-9;
    let (mut fits, mut full) = (0.0_f64, f64::INFINITY);
    let mut level = guess.max(0.0);
    for _ in 0..MOST_STEPS {
        let (sum, slope) = at(level);
        if (sum - room).abs() <= near {
            return level;
        }
        if sum <= room {
            fits = level;
        } else {
            full = level;
        }
        let newton = level + (room - sum) / slope;
        level = if slope > 0.0 && newton > fits && newton < full {
            newton
        } else if full.is_infinite() {
            (fits * 2.0).max(1.0)
        } else {
            fits + (full - fits) / 2.0
        };
        if level <= fits || level >= full {
            break; // the sum jumps over the room between two neighbours
        }
    }
    fits
}
