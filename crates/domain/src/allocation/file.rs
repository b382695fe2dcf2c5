//! A problem as a file, and the answer as one: what `chargeplane allocate` reads and prints
//! (`docs/reference/allocate.md`). Names instead of indices, nodes in any order.

use super::horizon::Wish;
use super::problem::{Cap, Leaf, Limit, MAX_WEIGHT, Node, Phase, Phases, Policy};
use super::{Allocation, Binding, MAX_NODE_WATTS, Problem, Tree, TreeError, Violation, bindings, check};
use crate::catalogue::LimitNode;
use crate::units::Watts;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Longest tick (s).
const MAX_DT_S: f64 = 86_400.0;

/// Most energy of one plan's wish, watt-seconds: 100 GWh.
const MOST_NEED_WS: f64 = 3.6e14;

/// Seconds of an hour.
const HOUR_S: f64 = 3_600.0;

/// One question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationFile {
    /// How power is shared.
    #[serde(deserialize_with = "policy")]
    pub policy: Policy,
    /// Length of the tick, seconds: what a ramp may rise in, and the least time that is left to a need.
    pub dt_s: f64,
    /// The tree of limits.
    pub nodes: Vec<FileNode>,
    /// The chargers' connectors, in the order of service.
    pub connectors: Vec<FileConnector>,
    /// Limits that cross the tree.
    #[serde(default)]
    pub caps: Vec<FileCap>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileNode {
    /// Its name.
    pub id: String,
    /// The node above; none for the grid connection.
    #[serde(default)]
    pub parent: Option<String>,
    /// Most power through it.
    #[serde(deserialize_with = "whole")]
    pub limit_w: Watts,
    /// Load that is not shared out; it may be more than the limit.
    #[serde(default, deserialize_with = "whole")]
    pub base_w: Watts,
    /// Most power on each of its three phases.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub phase_limit_w: Option<Watts>,
}

/// A connector.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConnector {
    /// Its name.
    pub id: String,
    /// The node it hangs from.
    pub parent: String,
    /// Least power when it is on.
    #[serde(deserialize_with = "whole")]
    pub min_w: Watts,
    /// Most power it can use.
    #[serde(deserialize_with = "whole")]
    pub max_w: Watts,
    /// Its watts are a multiple of this.
    #[serde(deserialize_with = "whole")]
    pub step_w: Watts,
    /// Its weight.
    pub weight: f64,
    /// What it has now; 0 when left out.
    #[serde(default, deserialize_with = "whole")]
    pub prev_w: Watts,
    /// How fast it may rise.
    #[serde(default)]
    pub ramp_w_per_s: Option<f64>,
    /// Energy that it still needs.
    #[serde(default)]
    pub need_wh: Option<f64>,
    /// Seconds until it leaves.
    #[serde(default)]
    pub departs_s: Option<f64>,
    /// How it loads the phases; three when left out.
    #[serde(default, deserialize_with = "phases")]
    pub phases: Phases,
}

/// A cap.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileCap {
    /// Its name.
    pub id: String,
    /// Most power of its connectors together.
    #[serde(deserialize_with = "whole")]
    pub limit_w: Watts,
    /// Their names.
    pub connectors: Vec<String>,
}

/// Why a file is no problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The tree, a connector or a cap makes no sense.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Two of a kind share a name.
    #[error("{kind} {id:?} is listed twice; give each its own id")]
    Duplicate { kind: &'static str, id: String },
    /// A cap names a connector that is not there.
    #[error("cap {cap:?} names connector {connector:?}, which is not listed")]
    UnknownConnector { cap: String, connector: String },
    /// A number is out of range.
    #[error("{path}: {what}")]
    BadNumber { path: String, what: String },
}

/// A file as a problem, with the names that an answer needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Posed {
    /// The problem.
    pub problem: Problem,
    nodes: Vec<String>,
    connectors: Vec<String>,
    caps: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// One entry a connector, in the file's order.
    pub grants: Vec<Grant>,
    /// Connectors without power, in the order in which they are served when there is room again.
    pub paused: Vec<String>,
    /// What the grants are worth by the policy's objective.
    pub objective: f64,
    /// Whose answer it is.
    pub solver: Answerer,
    /// Every rule, and whether the grants keep it.
    pub checks: BTreeMap<&'static str, bool>,
}

/// Whose answer is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answerer {
    /// The programme's, solved by HiGHS.
    Highs,
    /// Water-filling's.
    Water,
}

/// What a connector may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Its name.
    pub id: String,
    /// Watts.
    pub w: i64,
    /// What keeps it from more: `max`, `min`, `ramp`, `node:ID`, `cap:ID` or `phase:ID/L1`.
    pub binding: String,
}

impl AllocationFile {
    /// Checks everything and lays it out.
    pub fn pose(&self) -> Result<Posed, FileError> {
        let dt_s = number("dt_s", "seconds", self.dt_s, 1e-3..=MAX_DT_S)?;
        // Base load may be more than a limit here: then nobody below is fed, which is an answer.
        let bare = |node: &FileNode| LimitNode {
            id: node.id.clone(),
            parent: node.parent.clone(),
            limit_w: node.limit_w,
            base_w: Watts::ZERO,
        };
        let tree = Tree::build(&self.nodes.iter().map(bare).collect::<Vec<_>>())?;
        tree.check_written()?;
        let connectors = unique("connector", self.connectors.iter().map(|connector| &connector.id))?;
        unique("cap", self.caps.iter().map(|cap| &cap.id))?;
        let scale = self.weight_scale(&tree)?;
        let leaf = |(at, of): (usize, &FileConnector)| of.leaf(at, &tree, dt_s, scale);
        let leaves = self.connectors.iter().enumerate().map(leaf).collect::<Result<Vec<_>, _>>()?;
        let caps = self.caps.iter().map(|cap| cap.over(&connectors)).collect::<Result<Vec<_>, _>>()?;
        let named = |error| self.named(&tree, error);
        let problem = Problem::new(self.laid_out(&tree), leaves).and_then(|problem| problem.with_caps(caps));
        Ok(Posed {
            problem: problem.map_err(named)?.with_policy(self.policy),
            nodes: tree.nodes().iter().map(|node| node.id.clone()).collect(),
            connectors: self.connectors.iter().map(|connector| connector.id.clone()).collect(),
            caps: self.caps.iter().map(|cap| cap.id.clone()).collect(),
        })
    }

    /// Who wishes for energy by a time, for a plan ahead. Numbers are those that [`pose`](Self::pose) accepted.
    pub fn wishes(&self) -> Vec<Wish> {
        let wish = |(at, of): (usize, &FileConnector)| {
            let (need, departs) = (of.need_wh?, of.departs_s?);
            let need_ws = (need * HOUR_S).min(MOST_NEED_WS).ceil() as i64;
            Some(Wish { leaf: at as u32, need_ws, leaves_in_s: departs.min(f64::from(u32::MAX)) as u32 })
        };
        self.connectors.iter().enumerate().filter_map(wish).collect()
    }

    /// The nodes in the tree's order.
    fn laid_out(&self, tree: &Tree) -> Vec<Node> {
        let mut nodes = vec![Node::default(); self.nodes.len()];
        for from in &self.nodes {
            let Some(at) = tree.find(&from.id) else { continue };
            nodes[at] = Node {
                parent: tree.nodes()[at].parent.map(|parent| parent as u32),
                limit: from.limit_w,
                base: from.base_w,
                phase_limit: from.phase_limit_w,
                ..Node::default()
            };
        }
        nodes
    }

    /// Weights are whole inside: what all of them are multiplied by before they are rounded.
    fn weight_scale(&self, tree: &Tree) -> Result<f64, FileError> {
        let most = f64::from(MAX_WEIGHT);
        for connector in &self.connectors {
            number(&connector.path(tree), "weight", connector.weight, 1e-6..=most)?;
        }
        let greatest = self.connectors.iter().map(|connector| connector.weight).fold(0.0, f64::max);
        let exact = |scale: &f64| {
            let whole = |weight: f64| (weight * scale - (weight * scale).round()).abs() < 1e-9 * scale;
            greatest * scale <= most && self.connectors.iter().all(|connector| whole(connector.weight))
        };
        Ok([1.0, 10.0, 100.0, 1_000.0].into_iter().find(exact).unwrap_or(most / greatest.max(1e-6)))
    }

    /// The error of a problem speaks of indices; people know names.
    fn named(&self, tree: &Tree, error: TreeError) -> TreeError {
        let node = |path: &str| path.rsplit('/').next().and_then(|at| at.parse().ok()).map(|at| tree.path(at));
        let connector = |charger: &str| charger.parse::<usize>().ok().and_then(|at| self.connectors.get(at));
        let cap = |cap: &str| cap.parse::<usize>().ok().and_then(|at| self.caps.get(at)).map(|cap| cap.id.clone());
        match error {
            TreeError::BadLeaf { charger, path, what } => {
                let id = connector(&charger).map_or(charger, |connector| connector.id.clone());
                TreeError::BadLeaf { charger: id, path: node(&path).unwrap_or(path), what }
            }
            TreeError::BadLimit { path, limit } => TreeError::BadLimit { path: node(&path).unwrap_or(path), limit },
            TreeError::BadBase { path, base } => TreeError::BadBase { path: node(&path).unwrap_or(path), base },
            TreeError::BadPhaseLimit { path, limit } => {
                TreeError::BadPhaseLimit { path: node(&path).unwrap_or(path), limit }
            }
            TreeError::BadCap { cap: at, what } => TreeError::BadCap { cap: cap(&at).unwrap_or(at), what },
            other => other,
        }
    }
}

impl FileConnector {
    fn path(&self, tree: &Tree) -> String {
        let above = tree.find(&self.parent).map_or_else(|| self.parent.clone(), |at| tree.path(at));
        format!("connector {above}/{}", self.id)
    }

    fn leaf(&self, at: usize, tree: &Tree, dt_s: f64, scale: f64) -> Result<Leaf, FileError> {
        let Some(node) = tree.find(&self.parent) else {
            let (charger, node) = (self.id.clone(), self.parent.clone());
            return Err(TreeError::UnknownNode { charger, node }.into());
        };
        let most = MAX_NODE_WATTS.0 as f64;
        let checked = |what, value| number(&self.path(tree), what, value, 0.0..=most);
        let ramp = self.ramp_w_per_s.map(|ramp| checked("ramp_w_per_s", ramp)).transpose()?;
        let need = self.need_wh.map(|need| checked("need_wh", need)).transpose()?;
        let departs = self.departs_s.map(|departs| checked("departs_s", departs)).transpose()?;
        let guaranteed = match (need, departs) {
            (Some(need), Some(departs)) => (need * HOUR_S / departs.max(dt_s)).min(most).ceil(),
            _ => 0.0,
        };
        Ok(Leaf {
            id: at as u32,
            node: node as u32,
            min: self.min_w,
            max: self.max_w,
            step: self.step_w,
            weight: ((self.weight * scale).round() as u32).clamp(1, MAX_WEIGHT),
            prev: self.prev_w,
            ramp: ramp.map(|ramp| Watts((ramp * dt_s).min(most) as i64)),
            need: Watts(guaranteed as i64),
            phases: self.phases,
            since: at as u64,
            ..Leaf::default()
        })
    }
}

impl FileCap {
    fn over(&self, connectors: &BTreeMap<&str, usize>) -> Result<Cap, FileError> {
        let find = |id: &String| match connectors.get(id.as_str()) {
            Some(at) => Ok(*at as u32),
            None => Err(FileError::UnknownConnector { cap: self.id.clone(), connector: id.clone() }),
        };
        let leaves = self.connectors.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        Ok(Cap { limit: self.limit_w, base: Watts::ZERO, leaves })
    }
}

impl Posed {
    /// The answer in the file's names. `allocation` is an answer to this problem.
    pub fn answer(&self, allocation: &Allocation, objective: f64, solver: Answerer) -> Answer {
        let bindings = bindings(&self.problem, allocation);
        let named = self.connectors.iter().zip(&allocation.watts).zip(bindings);
        let grant = |((id, w), binding): ((&String, &Watts), Binding)| Grant {
            id: id.clone(),
            w: w.0,
            binding: self.name(binding),
        };
        let leaves = self.problem.leaves();
        let mut paused: Vec<usize> = (0..leaves.len()).filter(|at| allocation.watts[*at].0 == 0).collect();
        paused.sort_by_key(|at| match self.problem.policy() {
            Policy::Strict => u64::from(MAX_WEIGHT - leaves[*at].weight),
            Policy::Needs => u64::from(leaves[*at].need.0 == 0),
            Policy::Fair | Policy::Proportional => 0,
        });
        Answer {
            grants: named.map(grant).collect(),
            paused: paused.into_iter().map(|at| self.connectors[at].clone()).collect(),
            objective,
            solver,
            checks: checks(&self.problem, allocation),
        }
    }

    fn name(&self, binding: Binding) -> String {
        let of = |names: &[String], at: u32| names.get(at as usize).cloned().unwrap_or_else(|| at.to_string());
        match binding {
            Binding::Maximum => "max".to_owned(),
            Binding::Minimum => "min".to_owned(),
            Binding::Ramp => "ramp".to_owned(),
            Binding::Limit(Limit::Node(node)) => format!("node:{}", of(&self.nodes, node)),
            Binding::Limit(Limit::Phase(node, phase)) => format!("phase:{}/{phase:?}", of(&self.nodes, node)),
            Binding::Limit(Limit::Cap(cap)) => format!("cap:{}", of(&self.caps, cap)),
        }
    }
}

/// Every rule by its name, by [`check`] and by looking at each leaf that is on.
fn checks(problem: &Problem, allocation: &Allocation) -> BTreeMap<&'static str, bool> {
    const RULES: [&str; 6] = ["nodes", "caps", "phases", "zero_or_min_to_max", "steps", "ramp"];
    let mut checks: BTreeMap<&'static str, bool> = RULES.map(|rule| (rule, true)).into();
    for violation in check(problem, allocation).err().into_iter().flatten() {
        let rule = match violation {
            Violation::OverLimit { .. } => "nodes",
            Violation::OverCap { .. } => "caps",
            Violation::OverPhase { .. } => "phases",
            Violation::OutOfBounds { .. } | Violation::Shape { .. } => "zero_or_min_to_max",
            Violation::OffStep { .. } => "steps",
            Violation::TooSteep { .. } => "ramp",
        };
        checks.insert(rule, false);
    }
    let could_rise = |at: usize| {
        let mut more = allocation.clone();
        more.watts[at].0 += problem.leaves()[at].step.0;
        allocation.watts[at].0 > 0 && check(problem, &more).is_ok()
    };
    let leaves = problem.leaves().len();
    if leaves * (leaves + problem.nodes().len()) <= MOST_PAIRS {
        checks.insert("nobody_on_could_have_a_step_more", !(0..problem.leaves().len()).any(could_rise));
    }
    checks
}

/// Every leaf is raised by a step and everything checked anew: left out where that would take seconds.
const MOST_PAIRS: usize = 50_000_000;

fn unique<'a>(
    kind: &'static str,
    ids: impl Iterator<Item = &'a String>,
) -> Result<BTreeMap<&'a str, usize>, FileError> {
    let mut seen = BTreeMap::new();
    for (at, id) in ids.enumerate() {
        if seen.insert(id.as_str(), at).is_some() {
            return Err(FileError::Duplicate { kind, id: id.clone() });
        }
    }
    Ok(seen)
}

fn number(path: &str, what: &str, value: f64, range: std::ops::RangeInclusive<f64>) -> Result<f64, FileError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let what = format!("{what} is {value}; write {} to {}", range.start(), range.end());
    Err(FileError::BadNumber { path: path.to_owned(), what })
}

/// Whole watts, also when they are written as 1000.0.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<Watts, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(i64),
        Float(f64),
    }
    match Number::deserialize(from).map_err(|_| D::Error::custom("expected whole watts"))? {
        Number::Whole(watts) => Ok(Watts(watts)),
        Number::Float(watts) if watts.fract() == 0.0 && watts.abs() < 9e15 => Ok(Watts(watts as i64)),
        Number::Float(watts) => Err(D::Error::custom(format!("{watts} is not whole watts"))),
    }
}

fn maybe_whole<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Watts>, D::Error> {
    #[derive(Deserialize)]
    struct Given(#[serde(deserialize_with = "whole")] Watts);
    Ok(Option::<Given>::deserialize(from)?.map(|given| given.0))
}

fn policy<'de, D: Deserializer<'de>>(from: D) -> Result<Policy, D::Error> {
    match String::deserialize(from)?.as_str() {
        "fair" => Ok(Policy::Fair),
        "proportional" => Ok(Policy::Proportional),
        "strict" => Ok(Policy::Strict),
        "needs" => Ok(Policy::Needs),
        other => Err(D::Error::custom(format!("unknown policy {other:?}; write fair, proportional, strict or needs"))),
    }
}

fn phases<'de, D: Deserializer<'de>>(from: D) -> Result<Phases, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Name(String),
        Count(i64),
        List(Vec<String>),
        Nothing(()),
    }
    let one = |name: &str| match name {
        "L1" => Some(Phase::L1),
        "L2" => Some(Phase::L2),
        "L3" => Some(Phase::L3),
        _ => None,
    };
    let written = Written::deserialize(from).map_err(|_| D::Error::custom("unknown phase"))?;
    let read = match &written {
        Written::Nothing(()) | Written::Count(3) => Some(Phases::Three),
        Written::Name(name) if name == "L1L2L3" => Some(Phases::Three),
        Written::Name(name) => one(name).map(Phases::One),
        Written::List(names) if names.len() == 1 => names.first().and_then(|name| one(name)).map(Phases::One),
        Written::List(names) => {
            let mut found: Vec<Phase> = names.iter().filter_map(|name| one(name)).collect();
            found.sort_unstable();
            (names.len() == 3 && found == Phase::ALL).then_some(Phases::Three)
        }
        Written::Count(_) => None,
    };
    read.ok_or_else(|| D::Error::custom("unknown phase; write \"L1\", \"L2\", \"L3\", or \"L1L2L3\" for all three"))
}
