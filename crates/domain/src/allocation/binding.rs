//! Why a charger has what it has: the limit that holds it, or its own bounds.

use super::admission::{bounds, steps_down};
use super::crossing::THIRDS;
use super::problem::{Leaf, Limit};
use super::{Allocation, Problem};
use serde::{Deserialize, Serialize};

/// What keeps a leaf from having more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Binding {
    /// Its own maximum. For a leaf that is off: no step is between its minimum and its maximum.
    Maximum,
    /// How fast it may rise.
    Ramp,
    /// It has its minimum, which is more than its share of what is short.
    Minimum,
    /// A limit has no room for one more step; for a leaf that is off, none for its minimum.
    Limit(Limit),
}

/// What binds each leaf of an allocation that passed [`check`](super::check), in the problem's order.
///
/// Where several limits are full, it is the one in which the leaf is among those that have most by weight:
/// more room there would be shared with it. Nearer ones go first.
pub fn bindings(problem: &Problem, allocation: &Allocation) -> Vec<Binding> {
    let rows = rows(problem, allocation);
    let watts = |at: usize| allocation.watts.get(at).map_or(0, |watts| watts.0);
    problem.leaves().iter().enumerate().map(|(at, leaf)| binding(problem, &rows, at, leaf, watts(at))).collect()
}

/// A limit at the end of a tick.
struct Row {
    limit: Limit,
    /// Thirds of a watt that are left.
    room: i64,
    /// The highest watts by weight of a leaf that neither its minimum nor its maximum holds.
    top: f64,
}

fn rows(problem: &Problem, allocation: &Allocation) -> Vec<Row> {
    let leaves = problem.leaves();
    let row = |limit, room| Row { limit, room, top: 0.0 };
    let mut room: Vec<i64> = problem.nodes().iter().map(|node| node.limit.0).collect();
    let mut load: Vec<i64> = problem.nodes().iter().map(|node| node.base.0).collect();
    let mut crossing: Vec<i64> = problem.crossings().rows().iter().map(|row| row.room).collect();
    for (at, (leaf, watts)) in leaves.iter().zip(&allocation.watts).enumerate() {
        let drawn = watts.0.max(leaf.reserve.0);
        load[leaf.node as usize] += drawn;
        problem.crossings().above(at).iter().for_each(|(row, by)| crossing[*row as usize] -= by * drawn);
    }
    for at in (0..room.len()).rev() {
        room[at] -= load[at];
        if let Some(parent) = problem.nodes()[at].parent {
            load[parent as usize] += load[at];
        }
    }
    let nodes = room.iter().enumerate().map(|(at, room)| row(Limit::Node(at as u32), THIRDS * room));
    let across = problem.crossings().rows().iter().zip(crossing).map(|(of, room)| row(of.limit, room));
    let mut rows: Vec<Row> = nodes.chain(across).collect();
    for (at, (leaf, watts)) in leaves.iter().zip(&allocation.watts).enumerate() {
        let free = bounds(leaf).is_some_and(|(lower, upper)| watts.0 > lower && watts.0 < upper);
        if free {
            let level = level(leaf, watts.0);
            above(problem, at, leaf).for_each(|(row, _)| rows[row].top = rows[row].top.max(level));
        }
    }
    rows
}

/// The rows above a leaf, nearest first, with the thirds of its watts that they carry.
fn above<'a>(problem: &'a Problem, at: usize, leaf: &Leaf) -> impl Iterator<Item = (usize, i64)> + 'a {
    let nodes = problem.nodes().len();
    let crossing = problem.crossings().above(at).iter().map(move |(row, by)| (nodes + *row as usize, *by));
    problem.ancestors(leaf.node as usize).map(|node| (node, THIRDS)).chain(crossing)
}

fn level(leaf: &Leaf, watts: i64) -> f64 {
    watts as f64 / f64::from(leaf.weight)
}

fn binding(problem: &Problem, rows: &[Row], at: usize, leaf: &Leaf, watts: i64) -> Binding {
    let step = leaf.step.0;
    let unramped = Leaf { ramp: None, ..*leaf };
    let Some((lower, upper)) = bounds(leaf) else {
        return if bounds(&unramped).is_some() { Binding::Ramp } else { Binding::Maximum };
    };
    let short = |by: i64| {
        above(problem, at, leaf)
            .map(|(row, thirds)| (&rows[row], thirds))
            .filter(move |(row, thirds)| row.room < thirds * by)
    };
    if watts == 0 && lower > 0 {
        let held = short(lower - leaf.reserve.0).next();
        return held.map_or(Binding::Limit(Limit::Node(0)), |(row, _)| Binding::Limit(row.limit));
    }
    if watts + step > upper {
        let more = watts + step <= steps_down(leaf.max.0, step);
        return if more { Binding::Ramp } else { Binding::Maximum };
    }
    let own = level(leaf, watts);
    let mut full = short(step).map(|(row, _)| row);
    let among_most = short(step).map(|(row, _)| row).find(|row| own + level(leaf, step) >= row.top);
    match (among_most, full.next()) {
        (Some(row), _) if lower > 0 && watts == lower && row.top > 0.0 && own > row.top => Binding::Minimum,
        (Some(row), _) | (None, Some(row)) => Binding::Limit(row.limit),
        // It could have more: no answer of this module leaves a leaf so.
        (None, None) => Binding::Maximum,
    }
}
