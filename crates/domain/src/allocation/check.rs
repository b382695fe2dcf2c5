//! The independent check of an allocation (POWER-1): the definition, written down as slowly as it reads.
//! It shares no code with the stages it judges.

use super::{Allocation, Problem};
use crate::units::Watts;
use serde::{Deserialize, Serialize};

/// What an allocation breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Violation {
    /// Not one entry a leaf.
    Shape { leaves: usize, entries: usize },
    /// The load through a node is above its limit.
    OverLimit { node: usize, load: Watts, limit: Watts },
    /// A leaf gets something other than 0 or its minimum to its maximum.
    OutOfBounds { leaf: usize, watts: Watts, min: Watts, max: Watts },
    /// A leaf's watts are not a multiple of its step.
    OffStep { leaf: usize, watts: Watts, step: Watts },
}

/// Every rule that `allocation` breaks; `Ok` when it breaks none.
///
/// A node whose base load and reserves are above its limit by themselves is no fault of the allocation as
/// long as nothing is given out below it.
pub fn check(problem: &Problem, allocation: &Allocation) -> Result<(), Vec<Violation>> {
    let (nodes, leaves) = (problem.nodes(), problem.leaves());
    if allocation.watts.len() != leaves.len() {
        return Err(vec![Violation::Shape { leaves: leaves.len(), entries: allocation.watts.len() }]);
    }
    let mut found = Vec::new();
    // Watts that are given out at and below a node, and all load there.
    let mut given = vec![0_i64; nodes.len()];
    let mut load: Vec<i64> = nodes.iter().map(|node| node.base.0).collect();
    for (at, (leaf, watts)) in leaves.iter().zip(&allocation.watts).enumerate() {
        if watts.0 != 0 && (*watts < leaf.min || *watts > leaf.max) {
            found.push(Violation::OutOfBounds { leaf: at, watts: *watts, min: leaf.min, max: leaf.max });
        }
        if watts.0 % leaf.step.0 != 0 {
            found.push(Violation::OffStep { leaf: at, watts: *watts, step: leaf.step });
        }
        given[leaf.node as usize] += watts.0;
        load[leaf.node as usize] += watts.0.max(leaf.reserve.0);
    }
    for at in (0..nodes.len()).rev() {
        if load[at] > nodes[at].limit.0 && given[at] > 0 {
            found.push(Violation::OverLimit { node: at, load: Watts(load[at]), limit: nodes[at].limit });
        }
        if let Some(parent) = nodes[at].parent {
            load[parent as usize] += load[at];
            given[parent as usize] += given[at];
        }
    }
    if found.is_empty() { Ok(()) } else { Err(found) }
}
