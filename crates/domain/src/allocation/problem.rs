//! One tick's question, as data.

use super::crossing::Crossings;
use super::tree::{MAX_NODE_WATTS, Tree, TreeError};
use crate::units::Watts;
use serde::{Deserialize, Serialize};

/// A node of the problem. Nodes stand in preorder: a parent before its children, a subtree contiguous.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Index of the node above; none for the root only.
    pub parent: Option<u32>,
    /// Most power through this node.
    pub limit: Watts,
    /// Load at this node that this tick does not decide about: uncontrolled load, and what chargers that
    /// cannot be reached may draw at worst. It may be more than the limit; then nobody below is admitted.
    pub base: Watts,
    /// Most power on each of the three phases through this node; none where only the sum counts.
    pub phase_limit: Option<Watts>,
    /// The part of `base` that is on one phase alone (L1, L2, L3). The rest is a third on each.
    pub base_on: [Watts; 3],
}

/// One of the three phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The first.
    L1,
    /// The second.
    L2,
    /// The third.
    L3,
}

impl Phase {
    /// All of them, in the order of [`Node::base_on`].
    pub const ALL: [Self; 3] = [Self::L1, Self::L2, Self::L3];
}

/// How a charger loads the phases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phases {
    /// A third on each.
    #[default]
    Three,
    /// Everything on one.
    One(Phase),
}

impl Phases {
    /// The load on `phase` in thirds of the charger's watts: 1, 3 or 0.
    pub fn thirds(self, phase: Phase) -> i64 {
        match self {
            Self::Three => 1,
            Self::One(own) if own == phase => 3,
            Self::One(_) => 0,
        }
    }
}

/// How power is shared. The minima of those who are on come first under all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Policy {
    /// Weighted max-min: nobody can be raised without lowering somebody who has less by weight.
    #[default]
    Fair,
    /// Close to the greatest sum of `weight x log(watts)`, which gives up a little equality for more energy
    /// where limits cross the tree. The same as `Fair` on a pure tree.
    Proportional,
    /// Higher weights are served in full before lower ones get anything; equal weights share equally.
    Strict,
    /// Weighted max-min up to each leaf's `need`, then weighted max-min of what comes on top of it.
    Needs,
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
    /// Most that it may rise above `prev`; none: at once. Where this does not reach the minimum the leaf
    /// stays off, so a caller whose chargers may start on it gives at least the minimum.
    pub ramp: Option<Watts>,
    /// What [`Policy::Needs`] gives it before anybody gets more than that; 0 when it has no need.
    pub need: Watts,
    /// How it loads the phases.
    pub phases: Phases,
    /// What is kept free for it at its nodes even when it gets less (its fallback).
    pub reserve: Watts,
    /// Its place in admission.
    pub standing: Standing,
    /// Within the same standing, lower goes first (arrival, or the moment since which it waits).
    pub since: u64,
}

impl Default for Leaf {
    /// A leaf at the root without power, so that callers name only what matters to them.
    fn default() -> Self {
        Self {
            id: 0,
            node: 0,
            min: Watts::ZERO,
            max: Watts::ZERO,
            step: Watts(1),
            weight: 1,
            prev: Watts::ZERO,
            ramp: None,
            need: Watts::ZERO,
            phases: Phases::Three,
            reserve: Watts::ZERO,
            standing: Standing::Waiting,
            since: 0,
        }
    }
}

impl Leaf {
    /// Most watts it may have in this tick: its maximum, and what its ramp allows.
    pub fn most(&self) -> Watts {
        self.ramp.map_or(self.max, |ramp| self.max.min(self.prev.saturating_add(ramp)))
    }
}

/// A limit over leaves anywhere in the tree: a tenant's or a class's share of the station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// Most power of its leaves together.
    pub limit: Watts,
    /// Load under this cap that this tick does not decide about, as [`Node::base`].
    pub base: Watts,
    /// Indices of its leaves, each at most once.
    pub leaves: Vec<u32>,
}

/// A limit of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Limit {
    /// A node's.
    Node(u32),
    /// That of a phase at a node.
    Phase(u32, Phase),
    /// A cap's.
    Cap(u32),
}

/// A checked problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    nodes: Vec<Node>,
    /// One past each node's subtree.
    ends: Vec<u32>,
    leaves: Vec<Leaf>,
    caps: Vec<Cap>,
    policy: Policy,
    /// Leaves by node: those of node `v` are `order[starts[v]..starts[v + 1]]`.
    order: Vec<u32>,
    starts: Vec<u32>,
    crossings: Crossings,
}

/// Greatest share weight.
pub const MAX_WEIGHT: u32 = 65_536;

impl Problem {
    /// Checks that nodes are a tree in preorder and that each leaf makes sense. `path` of an error is made
    /// of node indices, as in `0/3/17`.
    pub fn new(nodes: Vec<Node>, leaves: Vec<Leaf>) -> Result<Self, TreeError> {
        let ends = subtree_ends(&nodes)?;
        let (order, starts) = (Vec::new(), Vec::new());
        let (caps, policy, crossings) = (Vec::new(), Policy::Fair, Crossings::default());
        let mut problem = Self { nodes, ends, leaves, caps, policy, order, starts, crossings };
        for (at, node) in problem.nodes.iter().enumerate() {
            problem.check_node(at, node)?;
        }
        for leaf in &problem.leaves {
            problem.check_leaf(leaf)?;
        }
        (problem.order, problem.starts) = by_node(problem.nodes.len(), &problem.leaves);
        problem.crossings = Crossings::of(&problem);
        Ok(problem)
    }

    /// The same problem under these caps.
    pub fn with_caps(mut self, caps: Vec<Cap>) -> Result<Self, TreeError> {
        let range = Watts::ZERO..=MAX_NODE_WATTS;
        for (at, cap) in caps.iter().enumerate() {
            let bad = |what: String| TreeError::BadCap { cap: at.to_string(), what };
            if !range.contains(&cap.limit) || !range.contains(&cap.base) {
                return Err(bad(format!("limit {} and base {} must be 0 to {MAX_NODE_WATTS}", cap.limit, cap.base)));
            }
            let mut seen = vec![false; self.leaves.len()];
            for leaf in &cap.leaves {
                match seen.get_mut(*leaf as usize) {
                    None => return Err(bad(format!("leaf {leaf} does not exist"))),
                    Some(true) => return Err(bad(format!("leaf {leaf} is listed twice"))),
                    Some(seen) => *seen = true,
                }
            }
        }
        self.caps = caps;
        self.crossings = Crossings::of(&self);
        Ok(self)
    }

    /// The same problem under this policy; a new one is fair.
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The same problem with these needs, one for each leaf.
    pub fn with_needs(mut self, needs: &[Watts]) -> Self {
        self.leaves.iter_mut().zip(needs).for_each(|(leaf, need)| leaf.need = (*need).max(Watts::ZERO));
        self
    }

    /// The nodes of `tree` with their limits and base loads, and these leaves.
    pub fn on_tree(tree: &Tree, leaves: Vec<Leaf>) -> Result<Self, TreeError> {
        let node = |node: &super::TreeNode| Node {
            parent: node.parent.map(|at| at as u32),
            limit: node.limit,
            base: node.base,
            ..Node::default()
        };
        Self::new(tree.nodes().iter().map(node).collect(), leaves)
    }

    fn check_node(&self, at: usize, node: &Node) -> Result<(), TreeError> {
        let range = Watts::ZERO..=MAX_NODE_WATTS;
        if !range.contains(&node.limit) {
            return Err(TreeError::BadLimit { path: self.path(at), limit: node.limit });
        }
        if let Some(limit) = node.phase_limit.filter(|limit| !range.contains(limit)) {
            return Err(TreeError::BadPhaseLimit { path: self.path(at), limit });
        }
        let on_phases = node.base_on.iter().fold(Watts::ZERO, |sum, w| sum.saturating_add(*w));
        let parts_fit = node.base_on.iter().all(|w| range.contains(w)) && on_phases <= node.base;
        if !range.contains(&node.base) || !parts_fit {
            return Err(TreeError::BadBase { path: self.path(at), base: node.base });
        }
        Ok(())
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
        if !range.contains(&leaf.prev) || !range.contains(&leaf.need) || !range.contains(&leaf.ramp.unwrap_or_default())
        {
            return bad(format!("prev {}, need {} and ramp must be 0 to {MAX_NODE_WATTS}", leaf.prev, leaf.need));
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

    /// The caps, in the caller's order.
    pub fn caps(&self) -> &[Cap] {
        &self.caps
    }

    /// How power is shared.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// False where the policy's exact answer is the only one, and no solver has anything to add.
    pub fn wants_solver(&self) -> bool {
        self.policy != Policy::Strict
    }

    /// Leaves in the order of their nodes.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Where the leaves of a node, and of the nodes after it in its subtree, stand in [`Self::order`].
    pub(super) fn span(&self, node: usize) -> std::ops::Range<usize> {
        self.starts[node] as usize..self.starts[self.end(node)] as usize
    }

    /// Where the leaves of a node itself stand in [`Self::order`].
    pub(super) fn own(&self, node: usize) -> std::ops::Range<usize> {
        self.starts[node] as usize..self.starts[node + 1] as usize
    }

    /// The limits that are none of the tree's.
    pub(super) fn crossings(&self) -> &Crossings {
        &self.crossings
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

/// Leaves sorted by their node, and where each node's begin.
fn by_node(nodes: usize, leaves: &[Leaf]) -> (Vec<u32>, Vec<u32>) {
    let mut starts = vec![0_u32; nodes + 1];
    for leaf in leaves {
        starts[leaf.node as usize + 1] += 1;
    }
    for at in 0..nodes {
        starts[at + 1] += starts[at];
    }
    let mut next = starts.clone();
    let mut order = vec![0; leaves.len()];
    for (at, leaf) in leaves.iter().enumerate() {
        let place = &mut next[leaf.node as usize];
        order[*place as usize] = at as u32;
        *place += 1;
    }
    (order, starts)
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
