//! One tick's question, as data.

use super::tree::{MAX_NODE_WATTS, Tree, TreeError};
use crate::units::Watts;
use serde::{Deserialize, Serialize};

/// A node of the problem. Nodes stand in preorder: a parent before its children, a subtree contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Index of the node above; none for the root only.
    pub parent: Option<u32>,
    /// Most power through this node.
    pub limit: Watts,
    /// Load at this node that this tick does not decide about: uncontrolled load, and what chargers that
    /// cannot be reached may draw at worst. It may be more than the limit; then nobody below is admitted.
    pub base: Watts,
}

/// Who is let on first when not everybody's minimum fits. The order of the variants is the order of service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// On, and not yet for its minimum time.
    Kept,
    /// Off for so long that it goes before those that are on.
    Starved,
    /// On.
    Running,
    /// Off, and waiting.
    #[default]
    Waiting,
    /// Off, and not yet for its minimum time.
    Resting,
}

/// A charger that wants power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The caller's own number of the charger.
    pub id: u32,
    /// Index of the node it hangs from.
    pub node: u32,
    /// Least power when it is on.
    pub min: Watts,
    /// Most power it can use now.
    pub max: Watts,
    /// Its watts are a multiple of this; at least 1.
    pub step: Watts,
    /// Share weight; at least 1.
    pub weight: u32,
    /// What it was last meant to have.
    pub prev: Watts,
    /// What is kept free for it at its nodes even when it gets less (its fallback).
    pub reserve: Watts,
    /// Its place in admission.
    pub standing: Standing,
    /// Within the same standing, lower goes first (arrival, or the moment since which it waits).
    pub since: u64,
}

/// A checked problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    nodes: Vec<Node>,
    /// One past each node's subtree.
    ends: Vec<u32>,
    leaves: Vec<Leaf>,
}

/// Greatest share weight.
pub const MAX_WEIGHT: u32 = 65_536;

impl Problem {
    /// Checks that nodes are a tree in preorder and that each leaf makes sense. `path` of an error is made
    /// of node indices, as in `0/3/17`.
    pub fn new(nodes: Vec<Node>, leaves: Vec<Leaf>) -> Result<Self, TreeError> {
        let ends = subtree_ends(&nodes)?;
        let problem = Self { nodes, ends, leaves };
        for (at, node) in problem.nodes.iter().enumerate() {
            let path = || problem.path(at);
            if node.limit < Watts::ZERO || node.limit > MAX_NODE_WATTS {
                return Err(TreeError::BadLimit { path: path(), limit: node.limit });
            }
            if node.base < Watts::ZERO || node.base > MAX_NODE_WATTS {
                return Err(TreeError::BadBase { path: path(), base: node.base });
            }
        }
        for leaf in &problem.leaves {
            problem.check_leaf(leaf)?;
        }
        Ok(problem)
    }

    /// The nodes of `tree` with their limits and base loads, and these leaves.
    pub fn on_tree(tree: &Tree, leaves: Vec<Leaf>) -> Result<Self, TreeError> {
        let node = |node: &super::TreeNode| Node {
            parent: node.parent.map(|at| at as u32),
            limit: node.limit,
            base: node.base,
        };
        Self::new(tree.nodes().iter().map(node).collect(), leaves)
    }

    fn check_leaf(&self, leaf: &Leaf) -> Result<(), TreeError> {
        let bad = |what: String| {
            let path = self.path(leaf.node as usize);
            Err(TreeError::BadLeaf { charger: leaf.id.to_string(), path, what })
        };
        if leaf.node as usize >= self.nodes.len() {
            return Err(TreeError::UnknownNode { charger: leaf.id.to_string(), node: leaf.node.to_string() });
        }
        let range = Watts::ZERO..=MAX_NODE_WATTS;
        if !range.contains(&leaf.min) || !range.contains(&leaf.max) || !range.contains(&leaf.reserve) {
            return bad(format!(
                "min {}, max {} and reserve {} must be 0 to {MAX_NODE_WATTS}",
                leaf.min, leaf.max, leaf.reserve
            ));
        }
        if leaf.min > leaf.max {
            return bad(format!("its minimum {} is above its maximum {}", leaf.min, leaf.max));
        }
        if leaf.step < Watts(1) || leaf.step > MAX_NODE_WATTS {
            return bad(format!("step {} must be at least 1 W", leaf.step));
        }
        if leaf.weight < 1 || leaf.weight > MAX_WEIGHT {
            return bad(format!("weight {} must be 1 to {MAX_WEIGHT}", leaf.weight));
        }
        Ok(())
    }

    fn path(&self, node: usize) -> String {
        let mut names: Vec<String> = self.ancestors(node).map(|at| at.to_string()).collect();
        names.reverse();
        names.join("/")
    }

    /// The nodes in preorder.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The leaves, in the caller's order.
    pub fn leaves(&self) -> &[Leaf] {
        &self.leaves
    }

    /// One past the last index of a node's subtree.
    pub(crate) fn end(&self, node: usize) -> usize {
        self.ends[node] as usize
    }

    /// The node itself, then the nodes above it up to the root.
    pub(crate) fn ancestors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.nodes.get(node).map(|_| node), |at| self.nodes[*at].parent.map(|p| p as usize))
    }
}

/// One past each node's subtree; an error when the nodes are not one tree in preorder.
fn subtree_ends(nodes: &[Node]) -> Result<Vec<u32>, TreeError> {
    if nodes.len() > super::tree::MAX_NODES {
        return Err(TreeError::TooMany { count: nodes.len() });
    }
    let mut ends: Vec<u32> = Vec::with_capacity(nodes.len());
    // The chain of nodes from the root to the one before; a node's parent must be on it.
    let mut open: Vec<u32> = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        match node.parent {
            None if at == 0 => {}
            None => return Err(TreeError::TwoRoots { first: "0".into(), second: at.to_string() }),
            Some(_) if at == 0 => return Err(TreeError::NoRoot),
            Some(parent) if parent as usize >= nodes.len() => {
                return Err(TreeError::MissingParent { path: at.to_string(), parent: parent.to_string() });
            }
            Some(parent) => {
                while open.last().is_some_and(|last| *last != parent) {
                    open.pop();
                }
                if open.is_empty() {
                    // Its parent comes later (perhaps itself), or its subtree was already left.
                    return Err(TreeError::Cycle { path: format!("{parent}/{at}") });
                }
            }
        }
        open.push(at as u32);
        ends.push(at as u32 + 1);
    }
    for at in (1..nodes.len()).rev() {
        if let Some(parent) = nodes[at].parent {
            ends[parent as usize] = ends[parent as usize].max(ends[at]);
        }
    }
    if ends.is_empty() { Err(TreeError::NoRoot) } else { Ok(ends) }
}
