//! The programme of a problem.

use super::levels::{Levels, Spans};
use super::{Column, Programme, Row};
use crate::allocation::crossing::THIRDS;
use crate::allocation::{Admitted, Limit, Phase, Problem, admit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Columns shorter than this (kW) are left out.
const SHORTEST_KW: f64 = 1e-9;

/// Watts in a kW: the programme's unit.
const KW: f64 = 1_000.0;

/// Leaves of one node under the same crossing limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Group {
    /// Their indices in the problem.
    pub leaves: Vec<u32>,
    /// Rows that its columns are in, with their coefficients.
    pub entries: Vec<(u32, f64)>,
    /// Its columns, one past the last.
    columns: (u32, u32),
}

/// A term of a phase's load.
enum Term {
    /// Columns of a group.
    Group(usize),
    /// A flow column.
    Flow(u32),
}

impl Programme {
    /// The programme of a problem. Levels without length have no column.
    pub fn build(problem: &Problem) -> Self {
        Self::of(problem, &admit(problem))
    }

    pub(super) fn of(problem: &Problem, admitted: &Admitted) -> Self {
        let spans = Spans::of(problem, admitted);
        let levels = Levels::of(problem, &spans);
        let mut build = Build::new(problem, admitted, &spans, &levels);
        build.nodes();
        build.caps();
        build.phases();
        let Build { columns, rows, groups, .. } = build;
        Self { columns, rows, levels, groups }
    }
}

struct Build<'a> {
    problem: &'a Problem,
    columns: Vec<Column>,
    rows: Vec<Row>,
    groups: Vec<Group>,
    /// Groups by their node: those of `v` are `of_node[v]..of_node[v + 1]`.
    of_node: Vec<usize>,
    /// First flow column: that of node 0. Then nodes, caps and phases, as the rows.
    flows: u32,
}

impl<'a> Build<'a> {
    /// Groups with their columns, and the columns of the flows.
    fn new(problem: &'a Problem, admitted: &Admitted, spans: &Spans, levels: &Levels) -> Self {
        let nodes = problem.nodes().len();
        let rows = nodes + problem.crossings().rows().len();
        let (groups, of_node) = groups(problem);
        let rows = (0..rows).map(|_| Row { equals: 0.0, entries: Vec::new() }).collect();
        let mut build = Self { problem, columns: Vec::new(), rows, groups, of_node, flows: 0 };
        let prices: Vec<f64> = levels.prices().collect();
        let mut lengths = vec![0.0; levels.count()];
        for group in &mut build.groups {
            lengths.fill(0.0);
            for leaf in group.leaves.iter().map(|leaf| *leaf as usize) {
                let mut from = spans.lower[leaf];
                for (at, length) in lengths.iter_mut().enumerate() {
                    let to = levels.watts(spans, leaf, at + 1);
                    *length += (to - from) / KW;
                    from = to;
                }
            }
            let first = build.columns.len() as u32;
            let long = prices.iter().zip(&lengths).filter(|(_, length)| **length > SHORTEST_KW);
            build.columns.extend(long.map(|(price, length)| Column { price: *price, lower: 0.0, upper: *length }));
            group.columns = (first, build.columns.len() as u32);
        }
        build.flows = build.columns.len() as u32;
        let flow = |room: f64| Column { price: 0.0, lower: 0.0, upper: room.max(0.0) / KW };
        build.columns.extend(room_without_minima(problem, admitted).into_iter().map(flow));
        build
    }

    /// The columns of `group` enter `row`.
    fn enter(&mut self, group: usize, row: usize, by: f64) {
        let group = &mut self.groups[group];
        group.entries.push((row as u32, by));
        self.rows[row].entries.extend((group.columns.0..group.columns.1).map(|column| (column, by)));
    }

    /// The flow of a limit: what comes out of its row.
    fn flow_out(&mut self, row: usize) {
        self.rows[row].entries.push((self.flows + row as u32, -1.0));
    }

    fn nodes(&mut self) {
        for at in 0..self.problem.nodes().len() {
            for group in self.of_node[at]..self.of_node[at + 1] {
                self.enter(group, at, 1.0);
            }
            self.flow_out(at);
            if let Some(parent) = self.problem.nodes()[at].parent {
                self.rows[parent as usize].entries.push((self.flows + at as u32, 1.0));
            }
        }
    }

    fn caps(&mut self) {
        let nodes = self.problem.nodes().len();
        for group in 0..self.groups.len() {
            let first = self.groups[group].leaves.first().map_or(0, |leaf| *leaf as usize);
            for (row, _) in self.problem.crossings().above(first) {
                if matches!(self.problem.crossings().rows()[*row as usize].limit, Limit::Cap(_)) {
                    self.enter(group, nodes + *row as usize, 1.0);
                }
            }
        }
        for cap in 0..self.problem.caps().len() {
            self.flow_out(nodes + cap);
        }
    }

    fn phases(&mut self) {
        let rows = self.problem.crossings().rows();
        // The row of each node's first phase.
        let mut limited: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, row) in rows.iter().enumerate() {
            if let Limit::Phase(node, Phase::L1) = row.limit {
                limited.insert(node as usize, self.problem.nodes().len() + at);
            }
        }
        if limited.is_empty() {
            return;
        }
        let three = three_phase(self.problem);
        for (node, first) in &limited {
            for phase in Phase::ALL {
                let row = first + phase as usize;
                let mut terms = Vec::new();
                self.load(*node, phase, &limited, &three, true, &mut terms);
                for (term, by) in terms {
                    match term {
                        Term::Group(group) => self.enter(group, row, by),
                        Term::Flow(column) => self.rows[row].entries.push((column, by)),
                    }
                }
                self.flow_out(row);
            }
        }
    }

    /// What loads `phase` at and below `node`. `inside`: also where the node has a limit of its own for it.
    fn load(
        &self,
        node: usize,
        phase: Phase,
        limited: &BTreeMap<usize, usize>,
        three: &[bool],
        inside: bool,
        terms: &mut Vec<(Term, f64)>,
    ) {
        if let Some(first) = limited.get(&node).filter(|_| !inside) {
            terms.push((Term::Flow(self.flows + (first + phase as usize) as u32), 1.0));
        } else if three[node] {
            terms.push((Term::Flow(self.flows + node as u32), 1.0 / THIRDS as f64));
        } else {
            for group in self.of_node[node]..self.of_node[node + 1] {
                let leaf = self.groups[group].leaves.first().map_or(0, |leaf| *leaf as usize);
                let thirds = self.problem.leaves()[leaf].phases.thirds(phase);
                if thirds > 0 {
                    terms.push((Term::Group(group), thirds as f64 / THIRDS as f64));
                }
            }
            let mut child = node + 1;
            while child < self.problem.end(node) {
                self.load(child, phase, limited, three, false, terms);
                child = self.problem.end(child);
            }
        }
    }
}

/// Leaves of a node under the same crossing limits. Phases are among these where they count.
fn groups(problem: &Problem) -> (Vec<Group>, Vec<usize>) {
    let mut groups: Vec<Group> = Vec::new();
    let mut of_node = vec![0];
    for node in 0..problem.nodes().len() {
        let first = groups.len();
        for leaf in &problem.order()[problem.own(node)] {
            let above = problem.crossings().above(*leaf as usize);
            let same = |group: &&mut Group| {
                group.leaves.first().is_some_and(|other| problem.crossings().above(*other as usize) == above)
            };
            match groups[first..].iter_mut().find(same) {
                Some(group) => group.leaves.push(*leaf),
                None => groups.push(Group { leaves: vec![*leaf], entries: Vec::new(), columns: (0, 0) }),
            }
        }
        of_node.push(groups.len());
    }
    (groups, of_node)
}

/// For each node, whether everything at and below it is three-phase.
fn three_phase(problem: &Problem) -> Vec<bool> {
    let mut three = vec![true; problem.nodes().len()];
    for leaf in problem.leaves() {
        three[leaf.node as usize] &= leaf.phases == crate::allocation::Phases::Three;
    }
    for at in (1..three.len()).rev() {
        if let Some(parent) = problem.nodes()[at].parent {
            three[parent as usize] &= three[at];
        }
    }
    three
}

/// What each limit can carry above the minima of those who are on, in watts: nodes, then crossing limits.
fn room_without_minima(problem: &Problem, admitted: &Admitted) -> Vec<f64> {
    let (mut nodes, mut crossing) = admitted.rooms();
    let mut below = vec![0.0; nodes.len()];
    for (at, leaf) in problem.leaves().iter().enumerate() {
        let lower = admitted.lower[at] as f64;
        below[leaf.node as usize] += lower;
        for (row, by) in problem.crossings().above(at) {
            crossing[*row as usize] -= lower * *by as f64 / THIRDS as f64;
        }
    }
    for at in (0..nodes.len()).rev() {
        nodes[at] -= below[at];
        if let Some(parent) = problem.nodes()[at].parent {
            below[parent as usize] += below[at];
        }
    }
    nodes.append(&mut crossing);
    nodes
}
