//! What a station remembers across owners: ceilings, and the limits an operator set.
//!
//! An operator's limit holds until it is lifted, across restarts and catalogues. In effect is the lower of it
//! and the catalogue's: the catalogue says what the hardware bears, an operator can only ask for less of it.

use crate::allocation::Tree;
use crate::ids::ChargerId;
use crate::units::{Timestamp, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest name of who set a limit, in bytes.
const MAX_BY_LEN: usize = 256;

/// So many nodes are named when one is not found.
const NODES_NAMED: usize = 20;

/// A limit that an operator set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorLimit {
    /// Most power through the node.
    pub limit: Watts,
    /// Who set it, by the scope of the token.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Durable state of a station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StationState {
    /// The most that each charger may have been granted; absent means nothing.
    pub ceilings: BTreeMap<ChargerId, Watts>,
    /// What an operator set, by node of the tree.
    pub limits: BTreeMap<String, OperatorLimit>,
}

/// What changes a [`StationState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StationEvent {
    /// New ceilings for these chargers, up or down; the others keep theirs.
    CeilingsSet(Vec<(ChargerId, Watts)>),
    /// An operator set the limit of a node.
    LimitSet {
        /// The node's name in the station.
        node: String,
        /// The limit.
        limit: OperatorLimit,
    },
    /// An operator gave a node back to the catalogue.
    LimitLifted {
        /// The node's name in the station.
        node: String,
        /// Who lifted it.
        by: String,
        /// When.
        at: Timestamp,
    },
}

/// What an operator wants of a node's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitCommand {
    /// The node's name in the station.
    pub node: String,
    /// The limit, or none: what the catalogue says.
    pub limit: Option<Watts>,
    /// Who wants it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Why a limit is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitRejection {
    /// The station's tree has no such node.
    #[error("{}", unknown_node(node, known))]
    UnknownNode {
        /// What was asked for.
        node: String,
        /// What the station has.
        known: Vec<String>,
    },
    /// Below what the station draws when its gateways are cut off.
    #[error(
        "limits: node {node:?}: write {least} or more, which is what the base load and the reserved fallbacks below \
         it add up to and what it draws when its gateways are cut off (POWER-2); to go lower, apply a catalogue with \
         lower fallback_w"
    )]
    BelowReserved {
        /// The node.
        node: String,
        /// Base load and fallbacks below it.
        least: Watts,
    },
    /// Below zero, or above the catalogue's.
    #[error(
        "limits: node {node:?}: write 0 to {catalogue}, the limit of the catalogue; to raise that, apply a catalogue"
    )]
    OutOfRange {
        /// The node.
        node: String,
        /// The catalogue's limit.
        catalogue: Watts,
    },
}

/// Names what there is, as far as a reader takes it in.
fn unknown_node(node: &str, known: &[String]) -> String {
    let shown: Vec<&str> = known.iter().take(NODES_NAMED).map(String::as_str).collect();
    let more = known.len().saturating_sub(shown.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let node: String = node.chars().take(64).collect();
    format!("the station has no node {node:?}; it has {}{more}", shown.join(", "))
}

impl StationState {
    /// Decides a change of a node's limit; none when nothing changes. `catalogue` has the limits of the
    /// catalogue, not those in effect, and `least` what base load and fallbacks need at each node
    /// ([`crate::catalogue_check::least_limits`]).
    pub fn decide_limit(
        &self,
        catalogue: &Tree,
        least: &BTreeMap<&str, Watts>,
        command: &LimitCommand,
    ) -> Result<Option<StationEvent>, LimitRejection> {
        let LimitCommand { node, limit, by, at } = command.clone();
        let known = catalogue.find(&node).map(|index| catalogue.nodes()[index].limit);
        let by: String = by.chars().take(MAX_BY_LEN / 4).collect();
        let set = self.limits.get(&node);
        match (limit, known) {
            // Also for a node that left the catalogue since.
            (None, _) if set.is_some() => Ok(Some(StationEvent::LimitLifted { node, by, at })),
            (None, Some(_)) => Ok(None),
            (_, None) => {
                let known = catalogue.nodes().iter().map(|node| node.id.clone()).collect();
                Err(LimitRejection::UnknownNode { node, known })
            }
            (Some(limit), Some(catalogue)) if !(Watts::ZERO..=catalogue).contains(&limit) => {
                Err(LimitRejection::OutOfRange { node, catalogue })
            }
            (Some(limit), Some(_)) if least.get(node.as_str()).is_some_and(|least| limit < *least) => {
                let least = least.get(node.as_str()).copied().unwrap_or_default();
                Err(LimitRejection::BelowReserved { node, least })
            }
            (Some(limit), Some(_)) if set.is_some_and(|set| set.limit == limit) => Ok(None),
            (Some(limit), Some(_)) => Ok(Some(StationEvent::LimitSet { node, limit: OperatorLimit { limit, by, at } })),
        }
    }

    /// The limit in effect at a node: the lower of the operator's and the catalogue's.
    pub fn effective_limit(&self, node: &str, catalogue: Watts) -> Watts {
        self.limits.get(node).map_or(catalogue, |set| set.limit.min(catalogue))
    }

    /// Takes an event in. A ceiling of zero is no ceiling.
    pub fn apply(&mut self, event: &StationEvent) {
        match event {
            StationEvent::CeilingsSet(ceilings) => {
                for (charger, watts) in ceilings {
                    if watts.is_positive() {
                        self.ceilings.insert(charger.clone(), *watts);
                    } else {
                        self.ceilings.remove(charger);
                    }
                }
            }
            StationEvent::LimitSet { node, limit } => {
                self.limits.insert(node.clone(), limit.clone());
            }
            StationEvent::LimitLifted { node, .. } => {
                self.limits.remove(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::LimitNode;

    fn tree(grid: i64) -> Tree {
        let node = |id: &str, parent: Option<&str>, limit_w| LimitNode {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            limit_w: Watts(limit_w),
            base_w: Watts::ZERO,
        };
        Tree::build(&[node("grid", None, grid), node("f1", Some("grid"), 50)]).expect("a tree")
    }

    fn command(node: &str, limit: Option<i64>) -> LimitCommand {
        LimitCommand { node: node.to_owned(), limit: limit.map(Watts), by: "main".to_owned(), at: Timestamp(7) }
    }

    fn decided(state: &mut StationState, grid: i64, command: &LimitCommand) -> bool {
        let event = state.decide_limit(&tree(grid), &BTreeMap::new(), command).expect("a good limit");
        event.iter().for_each(|event| state.apply(event));
        event.is_some()
    }

    #[test]
    fn an_operators_limit_outlives_the_catalogue_and_the_lower_one_counts() {
        let mut state = StationState::default();
        assert!(decided(&mut state, 100, &command("grid", Some(60))));
        assert_eq!(state.limits["grid"], OperatorLimit { limit: Watts(60), by: "main".to_owned(), at: Timestamp(7) });
        assert!(!decided(&mut state, 100, &command("grid", Some(60))), "the same again is nothing new");
        for (catalogue, effective) in [(100, 60), (40, 40), (80, 60)] {
            assert_eq!(state.effective_limit("grid", Watts(catalogue)), Watts(effective));
        }
        assert_eq!(state.effective_limit("f1", Watts(50)), Watts(50));
        assert!(decided(&mut state, 100, &command("grid", None)));
        assert!(!decided(&mut state, 100, &command("grid", None)));
        assert_eq!(state, StationState::default());
    }

    #[test]
    fn limits_out_of_range_and_unknown_nodes_are_refused() {
        let state = StationState::default();
        for limit in [-1, 101] {
            let refused = state.decide_limit(&tree(100), &BTreeMap::new(), &command("grid", Some(limit)));
            assert_eq!(refused, Err(LimitRejection::OutOfRange { node: "grid".to_owned(), catalogue: Watts(100) }));
        }
        for limit in [Some(1), None] {
            let refused = state.decide_limit(&tree(100), &BTreeMap::new(), &command("nowhere", limit)).unwrap_err();
            assert_eq!(refused.to_string(), "the station has no node \"nowhere\"; it has grid, f1");
        }
    }

    #[test]
    fn a_limit_below_base_load_and_fallbacks_is_refused_with_the_least_value() {
        let (mut state, least) = (StationState::default(), BTreeMap::from([("grid", Watts(30)), ("f1", Watts(20))]));
        for (node, limit, fits) in [("grid", 29, false), ("grid", 30, true), ("f1", 19, false), ("f1", 20, true)] {
            match state.decide_limit(&tree(100), &least, &command(node, Some(limit))) {
                Ok(event) => event.iter().for_each(|event| state.apply(event)),
                Err(refused) => {
                    let least = Watts(limit + 1);
                    assert_eq!(refused, LimitRejection::BelowReserved { node: node.to_owned(), least });
                    assert!(refused.to_string().contains(&format!("write {least} or more")), "{refused}");
                }
            }
            assert_eq!(state.limits.contains_key(node), fits, "{node} {limit}");
        }
    }

    #[test]
    fn a_limit_of_a_node_that_left_the_catalogue_can_be_lifted() {
        let mut state = StationState::default();
        let limit = OperatorLimit { limit: Watts(1), by: String::new(), at: Timestamp(0) };
        state.apply(&StationEvent::LimitSet { node: "gone".to_owned(), limit });
        assert!(decided(&mut state, 100, &command("gone", None)));
        assert!(state.limits.is_empty());
    }
}
