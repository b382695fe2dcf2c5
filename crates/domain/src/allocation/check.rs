//! The independent check of an allocation (POWER-1): the definition, written down as slowly as it reads.
//! It shares no code with the stages it judges.

use super::problem::{Node, Phase, Phases};
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
    /// The load of the leaves under a cap is above its limit.
    OverCap { cap: usize, load: Watts, limit: Watts },
    /// The load on one phase through a node is above its limit; in thirds of a watt, as they add up.
    OverPhase { node: usize, phase: Phase, load_thirds: i64, limit_thirds: i64 },
    /// A leaf rises faster than it may.
    TooSteep { leaf: usize, watts: Watts, prev: Watts, ramp: Watts },
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
        if let Some(ramp) = leaf.ramp.filter(|ramp| watts.0 - leaf.prev.0 > ramp.0) {
            found.push(Violation::TooSteep { leaf: at, watts: *watts, prev: leaf.prev, ramp });
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
    check_caps(problem, allocation, &mut found);
    check_phases(problem, allocation, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found) }
}

fn check_caps(problem: &Problem, allocation: &Allocation, found: &mut Vec<Violation>) {
    for (at, cap) in problem.caps().iter().enumerate() {
        let (mut load, mut given) = (cap.base.0, 0);
        for leaf in cap.leaves.iter().map(|leaf| *leaf as usize) {
            given += allocation.watts[leaf].0;
            load += allocation.watts[leaf].0.max(problem.leaves()[leaf].reserve.0);
        }
        if load > cap.limit.0 && given > 0 {
            found.push(Violation::OverCap { cap: at, load: Watts(load), limit: cap.limit });
        }
    }
}

fn check_phases(problem: &Problem, allocation: &Allocation, found: &mut Vec<Violation>) {
    let (nodes, leaves) = (problem.nodes(), problem.leaves());
    for phase in Phase::ALL {
        // As for the nodes, in thirds of a watt.
        let base = |node: &Node| {
            let alone: i64 = node.base_on.iter().map(|w| w.0).sum();
            3 * node.base_on[phase as usize].0 + (node.base.0 - alone)
        };
        let mut load: Vec<i64> = nodes.iter().map(base).collect();
        let mut given = vec![0_i64; nodes.len()];
        for (leaf, watts) in leaves.iter().zip(&allocation.watts) {
            let by = match leaf.phases {
                Phases::Three => 1,
                Phases::One(own) => 3 * i64::from(own == phase),
            };
            given[leaf.node as usize] += by * watts.0;
            load[leaf.node as usize] += by * watts.0.max(leaf.reserve.0);
        }
        for node in (0..nodes.len()).rev() {
            if let Some(limit) = nodes[node].phase_limit.filter(|limit| load[node] > 3 * limit.0 && given[node] > 0) {
                let limit_thirds = 3 * limit.0;
                found.push(Violation::OverPhase { node, phase, load_thirds: load[node], limit_thirds });
            }
            if let Some(parent) = nodes[node].parent {
                load[parent as usize] += load[node];
                given[parent as usize] += given[node];
            }
        }
    }
}
