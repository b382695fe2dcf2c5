//! Stations whose demand changes from tick to tick.
//!
//! Grid, transformers, feeders, cabinets: four levels. Connectors are fast ones of up to 120 kW; with crossing
//! limits a quarter of the cabinets has single-phase ones of up to 7.4 kW, eight tenants have caps, and every
//! node above the cabinets has a limit a phase.

use chargeplane_domain::allocation::{Cap, Leaf, Node, Phase, Phases, Policy, Problem, Standing};
use chargeplane_domain::units::Watts;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Connectors of a cabinet.
const CABINET: usize = 10;

/// Tenants of a station with crossing limits.
const TENANTS: usize = 8;

/// One connector in ten changes between two ticks.
const CHANGED: f64 = 0.1;

/// A step of all connectors (W).
pub const STEP: i64 = 100;

/// Of demand: where the grid limit of a tick is.
const CONGESTION: std::ops::RangeInclusive<f64> = 0.4..=0.8;

/// A station.
pub struct World {
    dice: ChaCha8Rng,
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    caps: Vec<Cap>,
    policy: Policy,
}

impl World {
    /// A station of `chargers`, with limits that cross the tree or without.
    pub fn new(seed: u64, chargers: usize, crossing: bool) -> Self {
        let mut world = Self {
            dice: ChaCha8Rng::seed_from_u64(seed),
            nodes: vec![Node::default()],
            leaves: Vec::new(),
            caps: Vec::new(),
            policy: Policy::Fair,
        };
        let cabinets = chargers.div_ceil(CABINET);
        let (transformers, feeders) = (cabinets.div_ceil(50), cabinets.div_ceil(10));
        let mut cabinet = 0;
        for transformer in 0..transformers {
            let above = world.node(0);
            for _ in 0..feeders.div_ceil(transformers).min(feeders - transformer * feeders.div_ceil(transformers)) {
                let feeder = world.node(above);
                for _ in 0..10.min(cabinets - cabinet) {
                    let node = world.node(feeder);
                    let single = crossing && cabinet % 4 == 3;
                    for _ in 0..CABINET.min(chargers - world.leaves.len()) {
                        world.connector(node, single);
                    }
                    cabinet += 1;
                }
            }
        }
        world.limits(crossing);
        world
    }

    fn node(&mut self, parent: usize) -> usize {
        self.nodes.push(Node { parent: Some(parent as u32), ..Node::default() });
        self.nodes.len() - 1
    }

    fn connector(&mut self, node: usize, single: bool) {
        let id = self.leaves.len() as u32;
        let phases = if single { Phases::One(Phase::ALL[id as usize % 3]) } else { Phases::Three };
        let weight = [100, 100, 100, 150, 300][self.dice.random_range(0..5)];
        let mut leaf = Leaf { id, node: node as u32, step: Watts(STEP), weight, phases, ..Leaf::default() };
        leaf.standing = Standing::Running;
        leaf.min = Watts(if single { 1_400 } else { 12_000 });
        leaf.max = self.demand(&leaf);
        self.leaves.push(leaf);
    }

    fn demand(&mut self, leaf: &Leaf) -> Watts {
        let most = if leaf.phases == Phases::Three { 120_000 } else { 7_400 };
        Watts(self.dice.random_range(leaf.min.0..=most))
    }

    /// What is wanted at and below each node.
    fn wanted(&self) -> Vec<i64> {
        let mut wanted = vec![0; self.nodes.len()];
        for leaf in &self.leaves {
            wanted[leaf.node as usize] += leaf.max.0;
        }
        for at in (1..wanted.len()).rev() {
            wanted[self.nodes[at].parent.unwrap_or(0) as usize] += wanted[at];
        }
        wanted
    }

    /// Limits of the nodes below the grid connection: 45 to 120 % of what is wanted there, so that some bind.
    fn limits(&mut self, crossing: bool) {
        let wanted = self.wanted();
        for (at, wanted) in wanted.into_iter().enumerate().skip(1) {
            let share = self.dice.random_range(0.45..1.2);
            let least: i64 = self.leaves.iter().filter(|leaf| leaf.node as usize == at).map(|leaf| leaf.min.0).sum();
            self.nodes[at].limit = Watts(((wanted as f64 * share) as i64).max(least));
            let inner = self.leaves.iter().all(|leaf| leaf.node as usize != at);
            if crossing && inner {
                let phase = self.dice.random_range(0.85..1.2);
                self.nodes[at].phase_limit = Some(Watts((self.nodes[at].limit.0 as f64 / 3.0 * phase) as i64));
            }
        }
        if !crossing {
            return;
        }
        for tenant in 0..TENANTS {
            let leaves: Vec<u32> =
                (0..self.leaves.len() as u32).filter(|at| (*at as usize / 3) % TENANTS == tenant).collect();
            let wanted: i64 = leaves.iter().map(|at| self.leaves[*at as usize].max.0).sum();
            let limit = Watts((wanted as f64 * self.dice.random_range(0.35..0.9)) as i64);
            self.caps.push(Cap { limit, base: Watts::ZERO, leaves });
        }
    }

    /// The next tick: a tenth of the connectors wants something else, and so does the grid connection.
    pub fn tick(&mut self) -> Problem {
        let changes = (self.leaves.len() as f64 * CHANGED) as usize;
        for _ in 0..changes {
            let at = self.dice.random_range(0..self.leaves.len());
            self.leaves[at].max = self.demand(&self.leaves[at].clone());
        }
        let wanted = self.wanted().first().copied().unwrap_or(0) as f64;
        let share = self.dice.random_range(CONGESTION);
        self.nodes[0].limit = Watts((wanted * share) as i64);
        if !self.caps.is_empty() {
            self.nodes[0].phase_limit = Some(Watts((wanted * share / 3.0 * 1.02) as i64));
        }
        self.posed()
    }

    /// The present tick's problem, built as a station builds it.
    pub fn posed(&self) -> Problem {
        let problem = Problem::new(self.nodes.clone(), self.leaves.clone());
        let problem = problem.and_then(|problem| problem.with_caps(self.caps.clone()));
        // Every station above is well formed.
        problem.unwrap_or_else(|error| unreachable!("{error}")).with_policy(self.policy)
    }
}
