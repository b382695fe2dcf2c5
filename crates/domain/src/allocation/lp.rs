//! The same question as a linear programme, and what it takes for a solver's answer to be used.
//!
//! Leaves of one node form a group. A leaf's watts are cut into levels by thresholds `a_j` per unit of
//! weight: `f(j) = clip(weight x a_j, lower, upper)`. One column per group and level holds the watts that
//! the group's leaves get together between `f(j-1)` and `f(j)`; its price falls with the level, which makes
//! the utility concave. One column and one row per node carry the flow:
//!
//! ```text
//! maximise   sum of price_j * x(v,j)
//! rows       sum_j x(v,j) + sum of P(child) - P(v) = 0        for every node v
//! bounds     0 <= x(v,j) <= sum over the group of f(j) - f(j-1),   0 <= P(v) <= room(v) - lower(v)
//! ```
//!
//! Within a level the vertex that a solver returns is arbitrary, so its primal point is not used as the
//! answer. Its duals are: the price of power at a node says which levels are surely full and which surely
//! empty, and the leaves are then filled fairly between these brackets ([`fill`]). On a tree that is the
//! water-filling point (measured in the tests and on HiGHS), whatever the falling prices are.
//!
//! This module is pure: a solver is behind the [`Solver`] port.

mod plain;

use super::water::{fill as fill_between, quantise};
use super::{Admitted, Allocation, Problem, admit, check, water_fill};
use serde::{Deserialize, Serialize};

/// Upper ends of the levels, as shares of the greatest `upper / weight` of the problem: fine where shares
/// under congestion lie, coarse above.
const LEVEL_ENDS: [f64; 8] =
    [2.0 / 120.0, 4.0 / 120.0, 8.0 / 120.0, 14.0 / 120.0, 22.0 / 120.0, 34.0 / 120.0, 0.5, 1.0];

/// Columns shorter than this (kW) are left out.
const SHORTEST_KW: f64 = 1e-9;

/// A solution may break rows and bounds by this much (kW): the answer is re-made from the duals anyway.
const MOST_INFEASIBLE_KW: f64 = 1e-6;

/// Relative gap between the solution and the bound that its duals prove.
const MOST_GAP: f64 = 1e-9;

/// The utility may fall short of water-filling's by this share: less than the last steps' order can make.
const MOST_WORSE: f64 = 1e-4;

/// A variable: `lower <= x <= upper`, worth `price` per unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Worth of one unit (kW) in the objective, which is maximised.
    pub price: f64,
    /// Least value.
    pub lower: f64,
    /// Most value.
    pub upper: f64,
}

/// An equation: the entries' `(column, coefficient)` products add up to `equals`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Right-hand side.
    pub equals: f64,
    /// Columns and their coefficients.
    pub entries: Vec<(u32, f64)>,
}

/// A linear programme (maximise), in kW, and what is needed to read its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Programme {
    /// The variables.
    pub columns: Vec<Column>,
    /// The equations; row `v` belongs to node `v`.
    pub rows: Vec<Row>,
    /// Thresholds per unit of weight, in W, from 0 up; one more than there are prices.
    thresholds: Vec<f64>,
    /// The price of each level, falling.
    prices: Vec<f64>,
}

/// How a solve ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SolveStatus {
    /// A proven optimum.
    Optimal,
    /// The time limit came first.
    TimeLimit,
    /// Anything else the solver says about its model.
    Other(String),
    /// The solver failed or panicked.
    Failed(String),
}

/// What comes back from a solver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SolveOutcome {
    /// The programme that was solved.
    pub programme: Programme,
    /// How it ended.
    pub status: SolveStatus,
    /// A value a column; empty when there is none.
    pub primal: Vec<f64>,
    /// A dual a row; empty when there is none. Sign: `d objective / d equals`.
    pub duals: Vec<f64>,
    /// Time from the start of the solve on the solver's thread to its end, in microseconds.
    pub solve_us: u64,
}

/// Every solver thread is busy and the queue is full: go on with water-filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the solver is busy")]
pub struct SolverBusy;

/// Receives a solve's outcome, on the solver's thread: it must only hand it on.
pub type SolveDone = Box<dyn FnOnce(SolveOutcome) + Send>;

/// Port: something that solves linear programmes on threads of its own.
pub trait Solver: Send + Sync {
    /// Takes the programme and calls `done` exactly once, at the latest soon after `time_limit_ms`; or
    /// refuses at once, without calling `done`. Never blocks.
    fn submit(&self, programme: Programme, time_limit_ms: u64, done: SolveDone) -> Result<(), SolverBusy>;
}

impl Programme {
    /// The programme of a problem. Levels without length have no column.
    pub fn build(problem: &Problem) -> Self {
        Self::of(problem, &admit(problem))
    }

    fn of(problem: &Problem, admitted: &Admitted) -> Self {
        let (thresholds, prices) = levels(problem, admitted);
        let nodes = problem.nodes();
        let mut lengths = vec![0.0_f64; nodes.len() * prices.len()];
        let mut lower = vec![0_i64; nodes.len()];
        for (at, leaf) in problem.leaves().iter().enumerate() {
            lower[leaf.node as usize] += admitted.lower[at];
            let mut from = admitted.lower[at] as f64;
            for (level, end) in thresholds[1..].iter().enumerate() {
                let to = at_threshold(problem, admitted, at, *end);
                lengths[leaf.node as usize * prices.len() + level] += (to - from) / 1_000.0;
                from = to;
            }
        }
        for at in (1..nodes.len()).rev() {
            if let Some(parent) = nodes[at].parent {
                lower[parent as usize] += lower[at];
            }
        }
        let mut columns = Vec::new();
        let mut rows: Vec<Row> = nodes.iter().map(|_| Row { equals: 0.0, entries: Vec::new() }).collect();
        for at in 0..nodes.len() {
            for (level, price) in prices.iter().enumerate() {
                let upper = lengths[at * prices.len() + level];
                if upper > SHORTEST_KW {
                    rows[at].entries.push((columns.len() as u32, 1.0));
                    columns.push(Column { price: *price, lower: 0.0, upper });
                }
            }
            let flow = (admitted.room[at] - lower[at]).max(0) as f64 / 1_000.0;
            rows[at].entries.push((columns.len() as u32, -1.0));
            if let Some(parent) = nodes[at].parent {
                rows[parent as usize].entries.push((columns.len() as u32, 1.0));
            }
            columns.push(Column { price: 0.0, lower: 0.0, upper: flow });
        }
        Self { columns, rows, thresholds, prices }
    }
}

/// Thresholds (W per unit of weight) and the price of the level between each two: the inverse of its
/// geometric middle, so that a level's worth is about proportional to the logarithm.
fn levels(problem: &Problem, admitted: &Admitted) -> (Vec<f64>, Vec<f64>) {
    let per_weight =
        problem.leaves().iter().zip(&admitted.upper).map(|(leaf, upper)| *upper as f64 / f64::from(leaf.weight));
    let top = per_weight.fold(1.0_f64, f64::max);
    let ends = LEVEL_ENDS.map(|share| share * top);
    let mut thresholds = vec![0.0];
    thresholds.extend(ends);
    let middle = |from: f64, to: f64| if from > 0.0 { (from * to).sqrt() } else { 0.7 * to };
    let prices = thresholds.windows(2).map(|pair| top / middle(pair[0], pair[1])).collect();
    (thresholds, prices)
}

/// `f`: a leaf's watts at a threshold.
fn at_threshold(problem: &Problem, admitted: &Admitted, leaf: usize, threshold: f64) -> f64 {
    let (lower, upper) = (admitted.lower[leaf] as f64, admitted.upper[leaf] as f64);
    (f64::from(problem.leaves()[leaf].weight) * threshold).clamp(lower, upper.max(lower))
}

/// Why a solver's answer was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fallback {
    /// The solver was busy or did not answer before the tick had to go on.
    Late,
    /// The solver stopped at its time limit.
    TimeLimit,
    /// The solver did not say "optimal", or failed.
    NotOptimal,
    /// The answer does not belong to this problem, or holds something that is no number.
    Malformed,
    /// The solution breaks its own rows or bounds.
    Infeasible,
    /// The duals do not prove the solution.
    Gap,
    /// The filled answer breaks a limit.
    Unsafe,
    /// The filled answer is worth less than water-filling's.
    Worse,
}

/// Where an allocation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// The solver's answer passed every test.
    Solver,
    /// Water-filling, and why.
    WaterFilling(Fallback),
}

/// The allocation to use, given what the solver said (or `None` when it is late or busy): the solver's
/// answer, made fair by [`fill`], when it is acceptable; else water-filling.
pub fn allocate_with(problem: &Problem, outcome: Option<&SolveOutcome>) -> (Allocation, Source) {
    let safe = water_fill(problem);
    let Some(outcome) = outcome else {
        return (safe, Source::WaterFilling(Fallback::Late));
    };
    let admitted = admit(problem);
    match accept(problem, &admitted, outcome, &safe) {
        Ok(allocation) => (allocation, Source::Solver),
        Err(why) => (safe, Source::WaterFilling(why)),
    }
}

fn accept(
    problem: &Problem,
    admitted: &Admitted,
    outcome: &SolveOutcome,
    safe: &Allocation,
) -> Result<Allocation, Fallback> {
    match outcome.status {
        SolveStatus::Optimal => {}
        SolveStatus::TimeLimit => return Err(Fallback::TimeLimit),
        SolveStatus::Other(_) | SolveStatus::Failed(_) => return Err(Fallback::NotOptimal),
    }
    let programme = &outcome.programme;
    // The bounds are read anew from the problem: an answer to another question proves nothing about this.
    if *programme != Programme::of(problem, admitted) {
        return Err(Fallback::Malformed);
    }
    certify(programme, &outcome.primal, &outcome.duals)?;
    let allocation = fill_from(problem, admitted, programme, &outcome.duals);
    if check(problem, &allocation).is_err() {
        return Err(Fallback::Unsafe);
    }
    let (ours, floor) =
        (utility(problem, admitted, programme, &allocation), utility(problem, admitted, programme, safe));
    if ours < floor - MOST_WORSE * floor.abs() { Err(Fallback::Worse) } else { Ok(allocation) }
}

/// Feasible, and optimal by weak duality: no trust in what the solver says of itself.
fn certify(programme: &Programme, primal: &[f64], duals: &[f64]) -> Result<(), Fallback> {
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

/// Shares from duals: levels that are worth more than power's price at their node are full, those worth less
/// are empty, and in between everything is filled fairly. `duals` has one entry a node.
pub fn fill(problem: &Problem, programme: &Programme, duals: &[f64]) -> Allocation {
    fill_from(problem, &admit(problem), programme, duals)
}

fn fill_from(problem: &Problem, admitted: &Admitted, programme: &Programme, duals: &[f64]) -> Allocation {
    let count = |test: &dyn Fn(f64) -> bool| programme.prices.iter().filter(|price| test(**price)).count();
    let brackets: Vec<(f64, f64)> = duals
        .iter()
        .map(|price| {
            let near = 1e-6 * (1.0 + price.abs());
            let (full, not_empty) = (count(&|level| level > price + near), count(&|level| level >= price - near));
            (programme.thresholds[full], programme.thresholds[not_empty])
        })
        .collect();
    let between = |leaf: usize, end: fn(&(f64, f64)) -> f64| {
        let bracket = brackets.get(problem.leaves()[leaf].node as usize).unwrap_or(&(0.0, f64::MAX));
        at_threshold(problem, admitted, leaf, end(bracket))
    };
    let leaves = 0..problem.leaves().len();
    let lower: Vec<i64> = leaves.clone().map(|leaf| between(leaf, |b| b.0).floor() as i64).collect();
    let upper: Vec<i64> = leaves.map(|leaf| between(leaf, |b| b.1).ceil() as i64).collect();
    quantise(problem, admitted, fill_between(problem, admitted, &lower, &upper))
}

/// What an allocation is worth to the programme (kW x price above the lower bounds).
fn utility(problem: &Problem, admitted: &Admitted, programme: &Programme, allocation: &Allocation) -> f64 {
    let worth = |(leaf, watts): (usize, &crate::units::Watts)| {
        let mut from = admitted.lower[leaf] as f64;
        let mut sum = 0.0;
        for (price, end) in programme.prices.iter().zip(&programme.thresholds[1..]) {
            let to = at_threshold(problem, admitted, leaf, *end);
            sum += price * ((watts.0 as f64).clamp(from, to) - from) / 1_000.0;
            from = to;
        }
        sum
    };
    allocation.watts.iter().enumerate().map(worth).sum()
}

#[cfg(test)]
pub(super) mod tests;
