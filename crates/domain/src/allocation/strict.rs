//! Strict priority: the classes of equal weight are served one after the other, each in full.
//!
//! A class is a problem of its own, in which what the classes before got is base load, and so are the
//! reserves of those who come later. Within a class everything is as under [`Policy::Fair`].

use super::problem::{Cap, Leaf, Node, Phases, Policy};
use super::{Allocation, Problem, water_fill};
use crate::units::Watts;

/// The answer under [`Policy::Strict`].
pub(super) fn serve(problem: &Problem) -> Allocation {
    let leaves = problem.leaves();
    let mut classes: Vec<u32> = leaves.iter().map(|leaf| leaf.weight).collect();
    classes.sort_unstable_by(|a, b| b.cmp(a));
    classes.dedup();
    let mut watts = vec![Watts::ZERO; leaves.len()];
    for class in classes {
        let members: Vec<usize> = (0..leaves.len()).filter(|at| leaves[*at].weight == class).collect();
        // What is posed here was checked with the whole problem; were it not, the class gets nothing.
        let Some(posed) = class_problem(problem, class, &members, &watts) else { continue };
        for (at, share) in members.iter().zip(water_fill(&posed).watts) {
            watts[*at] = share;
        }
    }
    Allocation { watts }
}

fn class_problem(problem: &Problem, class: u32, members: &[usize], watts: &[Watts]) -> Option<Problem> {
    let leaves = problem.leaves();
    let other = |at: &usize| leaves[*at].weight != class;
    let load = |at: usize| watts[at].max(leaves[at].reserve);
    let mut nodes: Vec<Node> = problem.nodes().to_vec();
    for at in (0..leaves.len()).filter(other) {
        let node = &mut nodes[leaves[at].node as usize];
        node.base.0 += load(at).0;
        if let Phases::One(phase) = leaves[at].phases {
            node.base_on[phase as usize].0 += load(at).0;
        }
    }
    let place = |leaf: &u32| members.binary_search(&(*leaf as usize)).ok().map(|at| at as u32);
    let cap = |cap: &Cap| {
        let others: i64 = cap.leaves.iter().map(|at| *at as usize).filter(|at| other(at)).map(|at| load(at).0).sum();
        Cap {
            limit: cap.limit,
            base: Watts(cap.base.0 + others),
            leaves: cap.leaves.iter().filter_map(place).collect(),
        }
    };
    let mine: Vec<Leaf> = members.iter().map(|at| leaves[*at]).collect();
    let caps = problem.caps().iter().map(cap).collect();
    Some(Problem::new(nodes, mine).ok()?.with_caps(caps).ok()?.with_policy(Policy::Fair))
}
