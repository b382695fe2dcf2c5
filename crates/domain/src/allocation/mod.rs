//! Sharing a station's power: the problem, its answers and their check.
//!
//! A station is a tree of limits with chargers as leaves, and limits that cross the tree: caps over chargers
//! anywhere (a tenant's or a class's share) and the three phases. One tick asks: how many watts may each
//! charger take? The answer is made in four stages, all checked on integer watts:
//!
//! 1. [`admit`]: a charger gets nothing or at least its minimum, so first it is decided who is on;
//! 2. [`water_fill`]: the exact shares of the problem's [`Policy`], always available, well under a millisecond
//!    on a tree;
//! 3. [`lp`]: the same question as a linear programme with a concave utility for a solver, whose answer is
//!    taken by [`lp::allocate_with`] only when it is in time, checked and no worse;
//! 4. [`check`]: written apart from the others, simple, and run on every answer (POWER-1).
//!
//! Above the tick, [`horizon`] looks ahead: what each car should get now so that all of them get the most
//! before they leave. [`phasor`] makes linear limits of the magnitude of three-phase currents.
//!
//! [`bindings`] says afterwards what keeps each charger from more. Nothing here knows of grants, leases or
//! clocks: that is [`crate::station`].

mod admission;
mod binding;
mod check;
mod crossing;
pub mod file;
pub mod horizon;
pub mod lp;
pub mod phasor;
mod problem;
mod rise;
mod steps;
mod strict;
mod tree;
mod water;

pub use admission::{Admitted, admit};
pub use binding::{Binding, bindings};
pub use check::{Violation, check};
pub use problem::{Cap, Leaf, Limit, MAX_WEIGHT, Node, Phase, Phases, Policy, Problem, Standing};
pub use tree::{MAX_NODE_WATTS, MAX_NODES, Tree, TreeError, TreeNode};
pub use water::water_fill;

use crate::units::Watts;
use serde::{Deserialize, Serialize};

/// Watts for each leaf of a [`Problem`], in the problem's order: 0, or at least the leaf's minimum, at most
/// its maximum, and a multiple of its step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// One entry a leaf.
    pub watts: Vec<Watts>,
}

impl Allocation {
    /// Everything that is given out.
    pub fn total(&self) -> Watts {
        self.watts.iter().fold(Watts::ZERO, |sum, w| sum.saturating_add(*w))
    }
}

#[cfg(test)]
mod tests;
