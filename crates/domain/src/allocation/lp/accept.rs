//! Whether a solver's answer is used, and what is made of it.

use super::levels::Spans;
use super::{Fallback, Programme, SolveOutcome, SolveStatus, Source};
use crate::allocation::steps::quantise;
use crate::allocation::water::{fill, on_top};
use crate::allocation::{Admitted, Allocation, Policy, Problem, admit, check, water_fill};

/// A solution may break rows and bounds by this much (kW): the answer is re-made from the duals anyway.
const MOST_INFEASIBLE_KW: f64 = 1e-6;

/// Relative gap between the solution and the bound that its duals prove.
const MOST_GAP: f64 = 1e-9;

/// The utility may fall short of water-filling's by this share: less than the last steps' order can make.
const MOST_WORSE: f64 = 1e-4;

/// Where limits cross, the max-min point may lie beside the level that a price names: the programme moves power
/// within a level from leaves that two limits hold to those that one does, and what that frees goes to others,
/// whose level is then too high.
const LEVELS_BELOW: usize = 3;
const LEVELS_ABOVE: usize = 2;

/// The allocation to use, given what the solver said (or `None` when it is late or busy): the solver's
/// answer, made fair by filling, when it is acceptable; else water-filling.
pub fn allocate_with(problem: &Problem, outcome: Option<&SolveOutcome>) -> (Allocation, Source) {
    let safe = water_fill(problem);
    if !problem.wants_solver() {
        return (safe, Source::WaterFilling(Fallback::NotNeeded));
    }
    let Some(outcome) = outcome else {
        return (safe, Source::WaterFilling(Fallback::Late));
    };
    match accept(problem, outcome, &safe) {
        Ok(allocation) => (allocation, Source::Solver),
        Err(why) => (safe, Source::WaterFilling(why)),
    }
}

fn accept(problem: &Problem, outcome: &SolveOutcome, safe: &Allocation) -> Result<Allocation, Fallback> {
    match outcome.status {
        SolveStatus::Optimal => {}
        SolveStatus::TimeLimit => return Err(Fallback::TimeLimit),
        SolveStatus::Other(_) | SolveStatus::Failed(_) => return Err(Fallback::NotOptimal),
    }
    let programme = &outcome.programme;
    let admitted = admit(problem);
    // The programme is made anew: an answer to another question proves nothing about this.
    if *programme != Programme::of(problem, &admitted) {
        return Err(Fallback::Malformed);
    }
    certify(programme, &outcome.primal, &outcome.duals)?;
    let allocation = fill_from(problem, &admitted, programme, &outcome.duals);
    if check(problem, &allocation).is_err() {
        return Err(Fallback::Unsafe);
    }
    let no_worse = if problem.policy() == Policy::Proportional {
        let (ours, floor) = (worth(problem, &allocation), worth(problem, safe));
        ours >= floor - MOST_WORSE * floor.abs()
    } else {
        // Their exact answer is known: the solver's must be it, but for the order of the last steps.
        let pairs = allocation.watts.iter().zip(&safe.watts).zip(problem.leaves());
        pairs.into_iter().all(|((ours, safe), leaf)| (ours.0 - safe.0).abs() <= leaf.step.0)
    };
    if no_worse { Ok(allocation) } else { Err(Fallback::Worse) }
}

/// Feasible, and optimal by weak duality: no trust in what the solver says of itself.
pub(super) fn certify(programme: &Programme, primal: &[f64], duals: &[f64]) -> Result<(), Fallback> {
    let sizes_match = primal.len() == programme.columns.len() && duals.len() == programme.rows.len();
    if !sizes_match || !primal.iter().chain(duals).all(|x| x.is_finite()) {
        return Err(Fallback::Malformed);
    }
    let mut reduced: Vec<f64> = programme.columns.iter().map(|column| column.price).collect();
    let mut bound = 0.0;
    for (row, dual) in programme.rows.iter().zip(duals) {
        let sum: f64 = row.entries.iter().map(|(column, by)| by * primal[*column as usize]).sum();
        if (sum - row.equals).abs() > MOST_INFEASIBLE_KW {
            return Err(Fallback::Infeasible);
        }
        bound += dual * row.equals;
        row.entries.iter().for_each(|(column, by)| reduced[*column as usize] -= by * dual);
    }
    let mut worth = 0.0;
    for ((column, x), reduced) in programme.columns.iter().zip(primal).zip(&reduced) {
        if *x < column.lower - MOST_INFEASIBLE_KW || *x > column.upper + MOST_INFEASIBLE_KW {
            return Err(Fallback::Infeasible);
        }
        worth += column.price * x;
        bound += reduced * if *reduced > 0.0 { column.upper } else { column.lower };
    }
    if (bound - worth).abs() > MOST_GAP * (1.0 + worth.abs()) { Err(Fallback::Gap) } else { Ok(()) }
}

/// Shares from duals: levels that are worth more than a group's price are full, those worth less are empty,
/// and in between everything is filled fairly.
pub(super) fn fill_from(problem: &Problem, admitted: &Admitted, programme: &Programme, duals: &[f64]) -> Allocation {
    let spans = Spans::of(problem, admitted);
    let levels = &programme.levels;
    let (below, above) = match problem.policy() {
        Policy::Proportional => (0, 0),
        _ if problem.crossings().is_empty() => (0, 0),
        _ => (LEVELS_BELOW, LEVELS_ABOVE),
    };
    let (mut lower, mut upper) = (spans.lower.clone(), spans.upper.clone());
    for group in &programme.groups {
        let price: f64 = group.entries.iter().map(|(row, by)| by * duals[*row as usize]).sum();
        let near = 1e-6 * (1.0 + price.abs());
        let full = levels.prices().filter(|level| *level > price + near).count().saturating_sub(below);
        let some = levels.prices().filter(|level| *level >= price - near).count() + above;
        for leaf in group.leaves.iter().map(|leaf| *leaf as usize) {
            lower[leaf] = levels.watts(&spans, leaf, full);
            upper[leaf] = levels.watts(&spans, leaf, some.min(levels.count()));
        }
    }
    let rooms = admitted.rooms();
    let shares = if problem.policy() == Policy::Needs {
        // First what answers needs, then the rest on top of it, each within the part of the bracket that is there.
        let within =
            |bound: &[f64]| -> Vec<f64> { bound.iter().zip(&spans.need).map(|(w, need)| w.min(*need)).collect() };
        let first = fill(problem, &rooms, &within(&lower), &within(&upper));
        on_top(problem, &rooms, &first, &lower, &upper)
    } else {
        fill(problem, &rooms, &lower, &upper)
    };
    quantise(problem, admitted, &shares)
}

/// What an allocation is worth by the policy's objective: the concave utility of the programme, in price x kW
/// above the minima; under strict priority the sum of weight x kW.
pub fn worth(problem: &Problem, allocation: &Allocation) -> f64 {
    let leaves = problem.leaves().iter().zip(&allocation.watts);
    if problem.policy() == Policy::Strict {
        return leaves.map(|(leaf, watts)| f64::from(leaf.weight) * watts.0 as f64 / 1_000.0).sum();
    }
    let spans = Spans::of(problem, &admit(problem));
    let levels = super::Levels::of(problem, &spans);
    let of_leaf = |(leaf, watts): (usize, &crate::units::Watts)| {
        let mut from = spans.lower[leaf];
        let mut sum = 0.0;
        for (at, price) in levels.prices().enumerate() {
            let to = levels.watts(&spans, leaf, at + 1);
            sum += price * ((watts.0 as f64).clamp(from, to.max(from)) - from) / 1_000.0;
            from = to;
        }
        sum
    };
    allocation.watts.iter().enumerate().map(of_leaf).sum()
}
