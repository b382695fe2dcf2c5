//! The station's own check of POWER-1, from the raw facts and without the running sums.

use super::StationPower;
use crate::units::{Mono, Watts};
use serde::{Deserialize, Serialize};

/// POWER-1 does not hold at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerViolation {
    /// The node's path in the tree.
    pub node: String,
    /// Its worst load.
    pub worst: Watts,
    /// What it may be now: its limit, or what a cut still leaves it.
    pub allowed: Watts,
}

/// A node's worst load is above its limit and may be so for a while: the limit was cut, or something was
/// learnt (an open session at a restart, a charger that disobeys). It only falls, and ends with the leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deficit {
    /// The node's path in the tree.
    pub node: String,
    /// Its worst load.
    pub worst: Watts,
    /// Its limit.
    pub limit: Watts,
    /// Milliseconds until it must have ended.
    pub within_ms: u64,
}

impl StationPower {
    /// Counts the worst load of every node from scratch. Empty as long as POWER-1 holds.
    pub fn self_check(&mut self, now: Mono) -> Vec<PowerViolation> {
        let fresh = self.count_from_scratch(now);
        let mut found = Vec::new();
        for (at, worst) in fresh.into_iter().enumerate() {
            let limit = self.books.tree.nodes()[at].limit.0;
            let running = self.books.load[at];
            let excuse = &mut self.books.excuses[at];
            if worst <= limit {
                *excuse = Default::default();
            }
            let allowed = if now.0 < excuse.until { limit.max(excuse.bound) } else { limit };
            // The running sums may lag behind what has run out, never behind what was granted.
            if worst > allowed || worst > running {
                let (node, worst) = (self.books.tree.path(at), Watts(worst));
                found.push(PowerViolation { node, worst, allowed: Watts(allowed.min(running)) });
            } else if worst > limit {
                self.books.excuses[at].bound = worst;
            }
        }
        found
    }

    /// The nodes that are over their limit with an excuse, the grid connection first.
    pub fn deficits_now(&mut self, now: Mono) -> Vec<Deficit> {
        self.books.recount(now);
        let nodes = self.books.tree.nodes().iter().enumerate();
        let over = nodes.filter(|(at, node)| self.books.load[*at] > node.limit.0);
        over.map(|(at, node)| Deficit {
            node: self.books.tree.path(at),
            worst: Watts(self.books.load[at]),
            limit: node.limit,
            within_ms: self.books.excuses[at].until.saturating_sub(now.0),
        })
        .collect()
    }

    /// The definition of the worst load, charger by charger and ancestor by ancestor.
    fn count_from_scratch(&self, now: Mono) -> Vec<i64> {
        let tree = &self.books.tree;
        let mut load = vec![0; tree.nodes().len()];
        for (at, node) in tree.nodes().iter().enumerate() {
            tree.ancestors(at).for_each(|above| load[above] += node.base.0);
        }
        for pile in &self.books.piles {
            let mut worst = 0;
            for message in &self.books.gates[pile.gate].outstanding {
                if now.0 < message.until {
                    worst = worst.max(message.watts[pile.slot]);
                }
            }
            let in_session = pile.expected || pile.charging;
            let waited = now.0 >= pile.arrived.saturating_add(self.config.first_grant_wait_ms);
            let mut may_be = |watts: i64, when: bool| worst = if when { worst.max(watts) } else { worst };
            may_be(pile.confirmed, now.0 < pile.confirmed_until);
            may_be(pile.inherited, now.0 < pile.inherited_until);
            may_be(pile.fallback, in_session && (pile.reserved || waited));
            if pile.disobeys {
                worst = worst.max(pile.rated);
            }
            tree.ancestors(pile.node).for_each(|above| load[above] += worst);
        }
        load
    }
}
