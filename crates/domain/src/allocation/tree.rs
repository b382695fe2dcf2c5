//! The tree of limits, checked once and laid out for the hot path.
//!
//! Nodes are kept in preorder: a parent stands before its children and a subtree is one contiguous range.
//! Used by catalogue validation as well, so every error names the path of the node that is wrong.

use crate::catalogue::LimitNode;
use crate::units::Watts;
use std::collections::BTreeMap;

/// Most nodes a station's tree may have.
pub const MAX_NODES: usize = 20_000;

/// Greatest limit or base load of a node (1 TW): sums of the hot path stay far from overflow.
pub const MAX_NODE_WATTS: Watts = Watts(1_000_000_000_000);

/// One node of a checked tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNode {
    /// Name within the station.
    pub id: String,
    /// Index of the node above; none for the root, which is index 0.
    pub parent: Option<usize>,
    /// One past the last index of this node's subtree.
    pub end: usize,
    /// Most power through this node.
    pub limit: Watts,
    /// Load at this node that is not controlled.
    pub base: Watts,
}

/// A station's tree of limits in preorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<TreeNode>,
    index: BTreeMap<String, usize>,
}

/// Why a list of nodes is not a tree of limits. `path` is the node's name, with its ancestors before it
/// where they are known, as in `grid/t1/f3`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No node at all, or every node has a parent.
    #[error("limits: no grid connection; exactly one node must have no parent")]
    NoRoot,
    /// Two nodes have no parent.
    #[error("limits: {first:?} and {second:?} both have no parent; only the grid connection may")]
    TwoRoots { first: String, second: String },
    /// Two nodes share a name.
    #[error("limits: node {path:?} is listed twice; give each node its own id")]
    Duplicate { path: String },
    /// A node names a parent that does not exist.
    #[error("limits: node {path:?} has parent {parent:?}, which is not listed")]
    MissingParent { path: String, parent: String },
    /// Following parents from this node leads back to it.
    #[error("limits: node {path:?} is its own ancestor; break the cycle")]
    Cycle { path: String },
    /// A limit below zero or above [`MAX_NODE_WATTS`].
    #[error("limits: node {path:?} has limit_w {limit}; write 0 to {MAX_NODE_WATTS}")]
    BadLimit { path: String, limit: Watts },
    /// A base load below zero or above [`MAX_NODE_WATTS`].
    #[error("limits: node {path:?} has base_w {base}; write 0 to {MAX_NODE_WATTS}")]
    BadBase { path: String, base: Watts },
    /// The base load at and below a node is more than its limit.
    #[error("limits: node {path:?} carries {base} of base load under a limit of {limit}")]
    BaseOverLimit { path: String, base: Watts, limit: Watts },
    /// A limit of each phase below zero or above [`MAX_NODE_WATTS`].
    #[error("limits: node {path:?} has phase_limit_w {limit}; write 0 to {MAX_NODE_WATTS}")]
    BadPhaseLimit { path: String, limit: Watts },
    /// A node's limit is above that of the node that feeds it.
    #[error(
        "limits: node {path:?} has limit_w {limit}, more than the {above} of the node above it; lower it to at most that"
    )]
    OverParent { path: String, limit: Watts, above: Watts },
    /// A cap's limit or its leaves make no sense.
    #[error("cap {cap:?}: {what}")]
    BadCap { cap: String, what: String },
    /// More than [`MAX_NODES`].
    #[error("limits: {count} nodes; at most {MAX_NODES} are supported")]
    TooMany { count: usize },
    /// A charger names a node that does not exist.
    #[error("charger {charger:?} hangs from {node:?}, which is not a node of its station")]
    UnknownNode { charger: String, node: String },
    /// A charger's bounds contradict each other.
    #[error("charger {charger:?} at {path:?}: {what}")]
    BadLeaf { charger: String, path: String, what: String },
    /// The fallback powers of the chargers below a node do not fit under its limit (POWER-2).
    #[error(
        "limits: node {path:?}: fallbacks and base load add up to {sum}, more than its limit {limit}; lower fallback_w of its chargers"
    )]
    FallbackOverLimit { path: String, sum: Watts, limit: Watts },
}

impl Tree {
    /// Checks the nodes of a catalogue's station and lays them out in preorder, children in listed order.
    pub fn build(limits: &[LimitNode]) -> Result<Self, TreeError> {
        if limits.len() > MAX_NODES {
            return Err(TreeError::TooMany { count: limits.len() });
        }
        let listed = list(limits)?;
        let root = find_root(limits)?;
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); limits.len()];
        for (at, node) in limits.iter().enumerate() {
            if let Some(parent) = &node.parent {
                match listed.get(parent.as_str()) {
                    Some(above) => children[*above].push(at),
                    None => {
                        let (path, parent) = (node.id.clone(), parent.clone());
                        return Err(TreeError::MissingParent { path, parent });
                    }
                }
            }
        }
        let tree = Self::lay_out(limits, root, &children);
        if tree.nodes.len() < limits.len() {
            // Every node has a listed parent and yet some are not reached from the root: they are on or
            // below a cycle. Walk up from one of them until a name repeats, and report that one.
            return Err(TreeError::Cycle { path: on_cycle(limits, &listed, &tree) });
        }
        tree.check_values()?;
        Ok(tree)
    }

    fn lay_out(limits: &[LimitNode], root: usize, children: &[Vec<usize>]) -> Self {
        let mut nodes: Vec<TreeNode> = Vec::with_capacity(limits.len());
        let mut index = BTreeMap::new();
        let mut stack = vec![(root, None)];
        while let Some((at, parent)) = stack.pop() {
            let LimitNode { id, limit_w, base_w, .. } = &limits[at];
            let here = nodes.len();
            index.insert(id.clone(), here);
            nodes.push(TreeNode { id: id.clone(), parent, end: here + 1, limit: *limit_w, base: *base_w });
            stack.extend(children[at].iter().rev().map(|child| (*child, Some(here))));
        }
        for at in (1..nodes.len()).rev() {
            if let Some(parent) = nodes[at].parent {
                nodes[parent].end = nodes[parent].end.max(nodes[at].end);
            }
        }
        Self { nodes, index }
    }

    fn check_values(&self) -> Result<(), TreeError> {
        let allowed = Watts::ZERO..=MAX_NODE_WATTS;
        let mut below: Vec<Watts> = self.nodes.iter().map(|node| node.base).collect();
        for (at, node) in self.nodes.iter().enumerate() {
            if !allowed.contains(&node.limit) {
                return Err(TreeError::BadLimit { path: self.path(at), limit: node.limit });
            }
            if !allowed.contains(&node.base) {
                return Err(TreeError::BadBase { path: self.path(at), base: node.base });
            }
        }
        for (at, node) in self.nodes.iter().enumerate().rev() {
            if below[at] > node.limit {
                return Err(TreeError::BaseOverLimit { path: self.path(at), base: below[at], limit: node.limit });
            }
            if let Some(parent) = node.parent {
                below[parent] = below[parent].saturating_add(below[at]);
            }
        }
        Ok(())
    }

    /// Refuses a node whose limit is above that of the node which feeds it: for what is written down. At run
    /// time an operator may well lower a limit below those under it.
    pub fn check_written(&self) -> Result<(), TreeError> {
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(above) = node.parent.map(|at| self.nodes[at].limit).filter(|above| node.limit > *above) {
                return Err(TreeError::OverParent { path: self.path(at), limit: node.limit, above });
            }
        }
        Ok(())
    }

    /// The nodes, parents before children.
    pub fn nodes(&self) -> &[TreeNode] {
        &self.nodes
    }

    /// The index of a node by its name.
    pub fn find(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// A node's name with its ancestors' before it: `grid/t1/f3`.
    pub fn path(&self, node: usize) -> String {
        let mut names: Vec<&str> = self.ancestors(node).map(|at| self.nodes[at].id.as_str()).collect();
        names.reverse();
        names.join("/")
    }

    /// The node itself, then the nodes above it up to the root.
    pub fn ancestors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.nodes.get(node).map(|_| node), |at| self.nodes[*at].parent)
    }

    /// Changes a node's limit. Returns the former one; refuses an unknown node and a limit out of range.
    pub fn set_limit(&mut self, node: &str, limit: Watts) -> Result<Watts, TreeError> {
        let Some(at) = self.find(node) else {
            return Err(TreeError::UnknownNode { charger: String::new(), node: node.to_owned() });
        };
        if limit < Watts::ZERO || limit > MAX_NODE_WATTS {
            return Err(TreeError::BadLimit { path: self.path(at), limit });
        }
        Ok(std::mem::replace(&mut self.nodes[at].limit, limit))
    }
}

fn list(limits: &[LimitNode]) -> Result<BTreeMap<&str, usize>, TreeError> {
    let mut listed = BTreeMap::new();
    for (at, node) in limits.iter().enumerate() {
        if listed.insert(node.id.as_str(), at).is_some() {
            return Err(TreeError::Duplicate { path: node.id.clone() });
        }
    }
    Ok(listed)
}

fn find_root(limits: &[LimitNode]) -> Result<usize, TreeError> {
    let mut roots = limits.iter().enumerate().filter(|(_, node)| node.parent.is_none());
    match (roots.next(), roots.next()) {
        (Some((at, _)), None) => Ok(at),
        (Some((_, first)), Some((_, second))) => {
            Err(TreeError::TwoRoots { first: first.id.clone(), second: second.id.clone() })
        }
        // A lone cycle has no root either: name its nodes rather than the missing root.
        _ => match limits.first() {
            None => Err(TreeError::NoRoot),
            Some(_) => {
                let listed = list(limits)?;
                match limits.iter().find(|node| !listed.contains_key(node.parent.as_deref().unwrap_or(""))) {
                    Some(node) => Err(TreeError::MissingParent {
                        path: node.id.clone(),
                        parent: node.parent.clone().unwrap_or_default(),
                    }),
                    None => {
                        let empty = Tree { nodes: Vec::new(), index: BTreeMap::new() };
                        Err(TreeError::Cycle { path: on_cycle(limits, &listed, &empty) })
                    }
                }
            }
        },
    }
}

/// The path around a cycle that some unreached node leads up to, such as `a/b/a`.
fn on_cycle(limits: &[LimitNode], listed: &BTreeMap<&str, usize>, reached: &Tree) -> String {
    let Some(start) = limits.iter().find(|node| reached.find(&node.id).is_none()) else {
        return String::new();
    };
    let above = |id: &str| listed.get(id).and_then(|at| limits[*at].parent.as_deref());
    let mut walked: Vec<&str> = vec![&start.id];
    while let Some(next) = walked.last().and_then(|id| above(id)) {
        if let Some(from) = walked.iter().position(|id| *id == next) {
            let mut cycle: Vec<&str> = walked[from..].to_vec();
            cycle.push(next);
            cycle.reverse();
            return cycle.join("/");
        }
        walked.push(next);
    }
    start.id.clone()
}
