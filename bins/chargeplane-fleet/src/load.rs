//! The judge of power: what flows through every node of the station's tree, measured where it is drawn.
//!
//! One reading is all chargers at one instant plus the base load of each node. Integer watts, no tolerance:
//! whatever is above a limit is a violation (POWER-1, as the outside sees it). Beside what is drawn stands what could
//! be drawn, the limits that gateways have set: most cars take less than they are granted, and only the sum of the
//! grants in force tells whether too much was granted.

use chargeplane_domain::catalogue::LimitNode;
use serde::Serialize;
use std::collections::BTreeMap;

/// Uncapped demand binds the limit from this many tenths of it.
const BOUND_TENTHS: i64 = 15;
/// The limit is used from this share of it, 1/100.
const USED_PERCENT: i64 = 95;

#[derive(Debug, Clone)]
struct Node {
    id: String,
    parent: Option<usize>,
    limit_w: i64,
    base_w: i64,
}

/// The tree, the second under way, and the totals.
#[derive(Debug, Clone)]
pub struct LoadMeter {
    nodes: Vec<Node>,
    /// Children before parents.
    order: Vec<usize>,
    root: usize,
    /// Node of each charger.
    leaf: Vec<usize>,
    now: Vec<i64>,
    granted: Vec<i64>,
    second: Second,
    totals: LoadTotals,
}

#[derive(Debug, Clone)]
struct Second {
    steps: u64,
    max: Vec<i64>,
    granted: Vec<i64>,
    over_granted: u64,
    demand_min: i64,
    demand_max: i64,
    charging: u64,
    drawing: u64,
    violations: u64,
}

/// What one second looked like: a line of `load.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadRow {
    /// Second of the run.
    pub t: u64,
    /// 100 ms steps in it.
    pub steps: u64,
    /// Highest load at the grid connection, base load included, W.
    pub load_w: i64,
    /// Limit of the grid connection, W.
    pub limit_w: i64,
    /// Highest uncapped demand, base load included, W.
    pub demand_w: i64,
    /// Most sessions open at once.
    pub charging: u64,
    /// Most chargers drawing at once.
    pub drawing: u64,
    /// Node readings above their limit.
    pub violations: u64,
    /// Highest load of every node, W.
    pub nodes: BTreeMap<String, i64>,
    /// Node readings in which what could be drawn was above the limit.
    pub over_granted: u64,
    /// Most that could be drawn at every node, W: grants in force, fallbacks where they had ended, and base load.
    pub granted: BTreeMap<String, i64>,
}

/// Over the whole run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LoadTotals {
    /// Node readings compared with a limit.
    pub limit_checks: u64,
    /// Of them, above it.
    pub limit_violations: u64,
    /// Furthest above a limit, W.
    pub worst_excess_w: i64,
    /// Highest load at the grid connection, W.
    pub peak_load_w: i64,
    /// Highest uncapped demand, W.
    pub peak_demand_w: i64,
    /// Whole seconds with an uncapped demand of at least 1.5 times the limit.
    pub limit_bound_seconds: u64,
    /// Whole seconds with a demand above the limit and a load of at least 0.95 of it.
    pub limit_used_seconds: u64,
    /// Most sessions open at once.
    pub charging_peak: u64,
    /// Most chargers drawing at once.
    pub drawing_peak: u64,
}

/// What one charger contributes to a reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Draw {
    /// Power, W.
    pub power_w: i64,
    /// The limit in force at the charger, W.
    pub limit_w: i64,
    /// Uncapped demand, W.
    pub demand_w: i64,
    /// A session is open.
    pub charging: bool,
}

impl LoadMeter {
    /// A meter for a checked tree; `leaves` names the node of each charger.
    pub fn new<'a>(limits: &[LimitNode], leaves: impl Iterator<Item = &'a str>) -> Self {
        let index: BTreeMap<&str, usize> = limits.iter().enumerate().map(|(i, n)| (n.id.as_str(), i)).collect();
        let nodes: Vec<Node> = limits
            .iter()
            .map(|n| Node {
                id: n.id.clone(),
                parent: n.parent.as_deref().and_then(|parent| index.get(parent).copied()),
                limit_w: n.limit_w.0,
                base_w: n.base_w.0,
            })
            .collect();
        let depth = |mut i: usize| {
            let mut depth = 0;
            while let Some(parent) = nodes[i].parent {
                depth += 1;
                i = parent;
            }
            depth
        };
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(depth(*i)));
        let root = nodes.iter().position(|n| n.parent.is_none()).unwrap_or(0);
        let leaf = leaves.map(|id| index.get(id).copied().unwrap_or(root)).collect();
        let second = Second::new(nodes.len());
        let zero = vec![0; nodes.len()];
        Self { now: zero.clone(), granted: zero, nodes, order, root, leaf, second, totals: LoadTotals::default() }
    }

    /// The limit of a node changes.
    pub fn set_limit(&mut self, node: &str, limit_w: i64) -> bool {
        match self.nodes.iter_mut().find(|n| n.id == node) {
            Some(found) => {
                found.limit_w = limit_w;
                true
            }
            None => false,
        }
    }

    /// Takes one reading of all chargers, in the order they were named.
    pub fn read(&mut self, draws: impl Iterator<Item = Draw>) {
        for ((now, granted), node) in self.now.iter_mut().zip(&mut self.granted).zip(&self.nodes) {
            (*now, *granted) = (node.base_w, node.base_w);
        }
        let (mut demand, mut charging, mut drawing) = (0, 0, 0);
        for (draw, leaf) in draws.zip(&self.leaf) {
            self.now[*leaf] += draw.power_w;
            self.granted[*leaf] += draw.limit_w;
            demand += draw.demand_w;
            charging += u64::from(draw.charging);
            drawing += u64::from(draw.power_w > 0);
        }
        let mut base_elsewhere = 0;
        for i in &self.order {
            if let Some(parent) = self.nodes[*i].parent {
                self.now[parent] += self.now[*i];
                self.granted[parent] += self.granted[*i];
            }
            base_elsewhere += self.nodes[*i].base_w;
        }
        demand += base_elsewhere;
        self.judge();
        let second = &mut self.second;
        second.steps += 1;
        second.demand_min = second.demand_min.min(demand);
        second.demand_max = second.demand_max.max(demand);
        second.charging = second.charging.max(charging);
        second.drawing = second.drawing.max(drawing);
        let totals = &mut self.totals;
        totals.peak_load_w = totals.peak_load_w.max(self.now[self.root]);
        totals.peak_demand_w = totals.peak_demand_w.max(demand);
        totals.charging_peak = totals.charging_peak.max(charging);
        totals.drawing_peak = totals.drawing_peak.max(drawing);
    }

    fn judge(&mut self) {
        for ((now, node), max) in self.now.iter().zip(&self.nodes).zip(&mut self.second.max) {
            *max = (*max).max(*now);
            self.totals.limit_checks += 1;
            if *now > node.limit_w {
                self.totals.limit_violations += 1;
                self.second.violations += 1;
                self.totals.worst_excess_w = self.totals.worst_excess_w.max(*now - node.limit_w);
            }
        }
        for ((granted, node), max) in self.granted.iter().zip(&self.nodes).zip(&mut self.second.granted) {
            *max = (*max).max(*granted);
            self.second.over_granted += u64::from(*granted > node.limit_w);
        }
    }

    /// Ends the second `t`.
    pub fn end_second(&mut self, t: u64) -> LoadRow {
        let second = std::mem::replace(&mut self.second, Second::new(self.nodes.len()));
        let limit_w = self.nodes[self.root].limit_w;
        let load_w = second.max[self.root];
        if second.steps > 0 && second.demand_min * 10 >= limit_w * BOUND_TENTHS {
            self.totals.limit_bound_seconds += 1;
        }
        if second.steps > 0 && second.demand_min >= limit_w && load_w * 100 >= limit_w * USED_PERCENT {
            self.totals.limit_used_seconds += 1;
        }
        LoadRow {
            t,
            steps: second.steps,
            load_w,
            limit_w,
            demand_w: second.demand_max,
            charging: second.charging,
            drawing: second.drawing,
            violations: second.violations,
            nodes: self.nodes.iter().map(|n| n.id.clone()).zip(second.max).collect(),
            over_granted: second.over_granted,
            granted: self.nodes.iter().map(|n| n.id.clone()).zip(second.granted).collect(),
        }
    }

    /// What was seen so far.
    pub fn totals(&self) -> LoadTotals {
        self.totals
    }

    /// Limit of the grid connection, W.
    pub fn limit_w(&self) -> i64 {
        self.nodes[self.root].limit_w
    }

    /// Limits by node, W.
    pub fn limits(&self) -> BTreeMap<&str, i64> {
        self.nodes.iter().map(|n| (n.id.as_str(), n.limit_w)).collect()
    }
}

impl Second {
    fn new(nodes: usize) -> Self {
        Self {
            steps: 0,
            max: vec![0; nodes],
            granted: vec![0; nodes],
            over_granted: 0,
            demand_min: i64::MAX,
            demand_max: 0,
            charging: 0,
            drawing: 0,
            violations: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::units::Watts;

    fn node(id: &str, parent: Option<&str>, limit: i64, base: i64) -> LimitNode {
        LimitNode { id: id.into(), parent: parent.map(Into::into), limit_w: Watts(limit), base_w: Watts(base) }
    }

    fn meter() -> LoadMeter {
        // Parents after children on purpose: the order of the file does not matter.
        let limits = [
            node("c1", Some("f"), 150, 0),
            node("f", Some("grid"), 260, 10),
            node("grid", None, 300, 20),
            node("c2", Some("f"), 150, 0),
        ];
        LoadMeter::new(&limits, ["c1", "c1", "c2"].into_iter())
    }

    fn draws(powers: [i64; 3]) -> impl Iterator<Item = Draw> {
        powers.into_iter().map(|power_w| Draw { power_w, limit_w: power_w, demand_w: 200, charging: power_w > 0 })
    }

    #[test]
    fn sums_every_node_with_its_base_load() {
        let mut meter = meter();
        meter.read(draws([70, 80, 100]));
        let row = meter.end_second(0);
        assert_eq!((row.load_w, row.nodes["c1"], row.nodes["f"], row.nodes["grid"]), (280, 150, 260, 280));
        assert_eq!((row.violations, meter.totals().limit_violations, meter.totals().limit_checks), (0, 0, 4));
        assert_eq!((row.demand_w, row.charging), (630, 3));
        // 630 W are more than 1.5 x 300 W, but 280 of 300 W are not 95 %.
        assert_eq!((meter.totals().limit_bound_seconds, meter.totals().limit_used_seconds), (1, 0));
    }

    #[test]
    fn what_could_be_drawn_is_summed_whether_or_not_it_is() {
        let mut meter = meter();
        let draw = |limit_w: i64| Draw { power_w: 0, limit_w, demand_w: 0, charging: false };
        meter.read([70, 80, 100].into_iter().map(draw));
        meter.read([70, 81, 99].into_iter().map(draw));
        let row = meter.end_second(0);
        assert_eq!((row.granted["c1"], row.granted["f"], row.granted["grid"]), (151, 260, 280));
        assert_eq!((row.over_granted, row.violations, row.load_w), (1, 0, 30));
        assert_eq!(meter.end_second(1).over_granted, 0);
    }

    #[test]
    fn one_watt_too_much_is_a_violation_wherever_it_is() {
        let mut meter = meter();
        meter.read(draws([71, 80, 0]));
        meter.read(draws([70, 80, 101]));
        let totals = meter.totals();
        assert_eq!((totals.limit_violations, totals.worst_excess_w), (2, 1));
        assert_eq!(meter.end_second(0).violations, 2);
        assert_eq!(meter.end_second(1).violations, 0);
    }
}
