//! Random problems by seed: small, so that a million of them take minutes, and of every shape that matters.

use crate::allocation::{Cap, Leaf, Node, Phase, Phases, Policy, Problem, Standing};
use crate::units::Watts;

/// Problems for each test: thousands every day, a million with `CHARGEPLANE_LONG=1`.
pub fn seeds() -> std::ops::Range<u64> {
    let long = std::env::var("CHARGEPLANE_LONG").is_ok_and(|long| long == "1");
    0..if long { 1_000_000 } else { 3_000 }
}

/// Splitmix64: the same numbers everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both possible.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    pub fn once_in(&mut self, n: i64) -> bool {
        self.between(1, n) == 1
    }
}

/// What a problem is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Caps and phases.
    pub crossing: bool,
    /// Every leaf has this step; none: each its own.
    pub step: Option<i64>,
    /// Minima, reserves, standings, ramps.
    pub rough: bool,
    pub policy: Policy,
}

pub const TREE: Shape = Shape { crossing: false, step: None, rough: true, policy: Policy::Fair };

pub fn problem(seed: u64, shape: Shape) -> Problem {
    let mut dice = Dice::new(seed);
    let mut nodes = vec![Node { limit: Watts(dice.between(30_000, 600_000)), ..Node::default() }];
    for _ in 0..dice.between(0, 9) {
        let mut parent = nodes.len() - 1;
        for _ in 0..dice.between(0, 3) {
            parent = nodes[parent].parent.map_or(0, |parent| parent as usize);
        }
        let base = if dice.once_in(3) { dice.between(0, 3_000) } else { 0 };
        let node = Node {
            parent: Some(parent as u32),
            limit: Watts(dice.between(0, 200_000)),
            base: Watts(base),
            ..Node::default()
        };
        nodes.push(node);
    }
    if shape.crossing {
        for node in &mut nodes {
            if dice.once_in(3) {
                node.phase_limit = Some(Watts(dice.between(0, 100_000)));
            }
            if node.base.0 > 0 && dice.once_in(2) {
                node.base_on[dice.between(0, 2) as usize] = node.base;
            }
        }
    }
    let leaves: Vec<Leaf> = (0..dice.between(1, 14)).map(|id| leaf(&mut dice, id as u32, nodes.len(), shape)).collect();
    let mut caps = Vec::new();
    if shape.crossing {
        for _ in 0..dice.between(0, 3) {
            let under = (0..leaves.len() as u32).filter(|_| dice.once_in(2)).collect();
            caps.push(Cap {
                limit: Watts(dice.between(0, 200_000)),
                base: Watts(dice.between(0, 2_000)),
                leaves: under,
            });
        }
    }
    let problem = Problem::new(nodes, leaves).unwrap().with_caps(caps).unwrap();
    problem.with_policy(shape.policy)
}

fn leaf(dice: &mut Dice, id: u32, nodes: usize, shape: Shape) -> Leaf {
    let step = shape.step.unwrap_or_else(|| if dice.once_in(2) { 1 } else { dice.between(1, 1_500) });
    let min = if shape.rough && dice.once_in(2) { dice.between(0, 12_000) } else { 0 };
    let standing = match dice.between(0, 6) {
        0 => Standing::Kept,
        1 => Standing::Starved,
        2 => Standing::Resting,
        3 => Standing::Running,
        _ => Standing::Waiting,
    };
    let phases = match dice.between(0, 5) {
        at @ 0..=2 if shape.crossing => Phases::One(Phase::ALL[at as usize]),
        _ => Phases::Three,
    };
    let max = min + dice.between(0, 100_000);
    let prev = dice.between(0, max);
    Leaf {
        id,
        node: dice.between(0, nodes as i64 - 1) as u32,
        min: Watts(min),
        max: Watts(max),
        step: Watts(step),
        weight: if dice.once_in(3) { dice.between(1, 400) as u32 } else { 100 },
        prev: Watts(prev),
        ramp: (shape.rough && dice.once_in(5)).then(|| Watts(dice.between(0, 20_000))),
        need: Watts(if dice.once_in(2) { dice.between(0, max) } else { 0 }),
        phases,
        reserve: Watts(if shape.rough && dice.once_in(4) { dice.between(0, 2_000) } else { 0 }),
        standing: if shape.rough { standing } else { Standing::Waiting },
        since: dice.between(0, 9) as u64,
    }
}
