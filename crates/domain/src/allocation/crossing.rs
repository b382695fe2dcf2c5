//! Limits that cross the tree, in one shape: caps, and the three phases of nodes that have a limit for each.
//!
//! A phase carries a third of a three-phase charger's watts, so everything here is counted in thirds of a
//! watt and stays whole.

use super::Problem;
use super::problem::{Limit, Phase};

/// Thirds of a watt in a watt.
pub(super) const THIRDS: i64 = 3;

/// One limit with the leaves under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crossing {
    /// Which limit it is.
    pub limit: Limit,
    /// What it leaves for its leaves, in thirds of a watt; below zero when base load alone is too much.
    pub room: i64,
    /// Its leaves, and how many thirds of their watts it carries.
    pub members: Vec<(u32, i64)>,
}

/// All of them, and for each leaf those above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Crossings {
    rows: Vec<Crossing>,
    /// Rows of leaf `i`: `above[starts[i]..starts[i + 1]]`, as (row, thirds). Empty without rows.
    above: Vec<(u32, i64)>,
    starts: Vec<u32>,
}

impl Crossings {
    /// Caps in their order, then phases of nodes in preorder.
    pub fn of(problem: &Problem) -> Self {
        let mut rows: Vec<Crossing> = problem.caps().iter().enumerate().map(cap).collect();
        for (at, node) in problem.nodes().iter().enumerate() {
            if let Some(limit) = node.phase_limit {
                rows.extend(Phase::ALL.map(|phase| phase_row(problem, at, limit.0, phase)));
            }
        }
        if rows.is_empty() {
            return Self::default();
        }
        let mut starts = vec![0_u32; problem.leaves().len() + 1];
        for (leaf, _) in rows.iter().flat_map(|row| &row.members) {
            starts[*leaf as usize + 1] += 1;
        }
        for at in 0..problem.leaves().len() {
            starts[at + 1] += starts[at];
        }
        let mut next = starts.clone();
        let mut above = vec![(0, 0); starts.last().map_or(0, |end| *end as usize)];
        for (at, row) in rows.iter().enumerate() {
            for (leaf, thirds) in &row.members {
                let place = &mut next[*leaf as usize];
                above[*place as usize] = (at as u32, *thirds);
                *place += 1;
            }
        }
        Self { rows, above, starts }
    }

    /// True when the tree is all there is.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The limits.
    pub fn rows(&self) -> &[Crossing] {
        &self.rows
    }

    /// The limits above a leaf, as (row, thirds).
    pub fn above(&self, leaf: usize) -> &[(u32, i64)] {
        match (self.starts.get(leaf), self.starts.get(leaf + 1)) {
            (Some(from), Some(to)) => &self.above[*from as usize..*to as usize],
            _ => &[],
        }
    }
}

fn cap((at, cap): (usize, &super::Cap)) -> Crossing {
    Crossing {
        limit: Limit::Cap(at as u32),
        room: THIRDS * (cap.limit.0 - cap.base.0),
        members: cap.leaves.iter().map(|leaf| (*leaf, THIRDS)).collect(),
    }
}

fn phase_row(problem: &Problem, node: usize, limit: i64, phase: Phase) -> Crossing {
    let base: i64 = problem.nodes()[node..problem.end(node)]
        .iter()
        .map(|node| {
            let on_phases: i64 = node.base_on.iter().map(|w| w.0).sum();
            node.base.0 - on_phases + THIRDS * node.base_on[phase as usize].0
        })
        .sum();
    let member = |leaf: &u32| {
        let thirds = problem.leaves()[*leaf as usize].phases.thirds(phase);
        (thirds > 0).then_some((*leaf, thirds))
    };
    let members = problem.order()[problem.span(node)].iter().filter_map(member).collect();
    Crossing { limit: Limit::Phase(node as u32, phase), room: THIRDS * limit - base, members }
}
