//! The same question as a linear programme, and what it takes for a solver's answer to be used.
//!
//! Leaves of one node under the same crossing limits form a group. A leaf's watts are cut into levels: `f(j)`
//! is what it has when it has filled the first `j` (`levels`). One column per group and level holds the watts
//! that the group's leaves get together between `f(j-1)` and `f(j)`; its price falls with the level, which makes
//! the utility concave. One column and one row per limit carry the flow through it:
//!
//! ```text
//! maximise   sum of price_j * x(G,j)
//! rows       sum of x(G,j) at v + sum of P(child) - P(v) = 0     for every node v
//!            sum of x(G,j) under the cap - T(cap) = 0            for every cap
//!            sum of what loads the phase - Q(v,phase) = 0        for every node with phase limits
//! bounds     0 <= x(G,j) <= sum over the group of f(j) - f(j-1),   0 <= P, T, Q <= room without the minima
//! ```
//!
//! What loads a phase is `P/3` of nodes below which everything is three-phase, `Q` of nodes that have phase
//! limits themselves, and the groups in between.
//!
//! Within a level the vertex that a solver returns is arbitrary, so its primal point is not used as the
//! answer. Its duals are: the price of power for a group says which levels are surely full and which surely
//! empty, and the leaves are then filled fairly between these brackets (`accept`). On a tree that is the
//! water-filling point whatever the falling prices are (tested with HiGHS). Where limits cross, prices decide:
//! steep ones lead to max-min, those of [`Policy::Proportional`](super::Policy::Proportional) to more energy.
//!
//! This module is pure: a solver is behind the [`Solver`] port.

mod accept;
mod build;
mod levels;
mod plain;

pub use accept::{allocate_with, worth};

use build::Group;
use levels::Levels;
use serde::{Deserialize, Serialize};

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
    /// The equations: of the nodes in their order, of the caps, of the phases.
    pub rows: Vec<Row>,
    /// The levels and their prices.
    levels: Levels,
    /// Leaves that share columns.
    groups: Vec<Group>,
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
    /// The filled answer is not the policy's, or worth less than water-filling's.
    Worse,
    /// The policy's exact answer needs no solver.
    NotNeeded,
}

/// Where an allocation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// The solver's answer passed every test.
    Solver,
    /// Water-filling, and why.
    WaterFilling(Fallback),
}

#[cfg(test)]
pub(super) mod tests;
