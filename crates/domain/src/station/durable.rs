//! What a station remembers across owners: ceilings, and the limits an operator set.
//!
//! An operator's limit holds until it is lifted, across restarts and catalogues; a signal holds until it ends. In
//! effect is the lowest of them and the catalogue's ([`super::limits`]): the catalogue says what the hardware bears,
//! all others can only ask for less of it.

use super::limits::{LimitSignal, OperatorLimit};
use crate::allocation::Tree;
use crate::ids::ChargerId;
use crate::units::{Timestamp, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest name of who set a limit, in bytes.
const MAX_BY_LEN: usize = 256;

/// So many nodes are named when one is not found.
const NODES_NAMED: usize = 20;

/// Changes of limits that are remembered.
pub const MAX_CHANGES: usize = 100;

/// Signals that a station holds at once.
pub const MAX_SIGNALS: usize = 100;

/// Longest name of a signal, in characters.
const MAX_SIGNAL_LEN: usize = 64;

/// A limit is announced, and a signal ends, at most so much later: 366 days.
const MAX_AHEAD_MS: i64 = 366 * 24 * 3_600_000;

/// Durable state of a station.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StationState {
    /// The most that each charger may have been granted; absent means nothing.
    pub ceilings: BTreeMap<ChargerId, Watts>,
    /// What an operator set, by node of the tree.
    pub limits: BTreeMap<String, OperatorLimit>,
    /// Limits that end by themselves, by name.
    pub signals: BTreeMap<String, LimitSignal>,
    /// The latest changes of limits, oldest first, at most `MAX_CHANGES`.
    pub changes: Vec<LimitChange>,
}

/// A change of a limit, for those who ask who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub by: String,
    /// The node; none when a signal was lifted.
    pub node: Option<String>,
    /// The signal, when it is one.
    pub signal: Option<String>,
    /// The limit; none: lifted.
    pub limit: Option<Watts>,
    /// In effect from then on, when it was announced.
    pub from: Option<Timestamp>,
    /// Until then, when it ends by itself.
    pub until: Option<Timestamp>,
}

/// What changes a [`StationState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StationEvent {
    /// New ceilings for these chargers, up or down; the others keep theirs.
    CeilingsSet(Vec<(ChargerId, Watts)>),
    /// An operator set the limit of a node, from now on or from a moment on.
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
    /// A signal came, or came again with other content.
    SignalSet {
        /// Its name.
        signal: String,
        /// What it says.
        content: LimitSignal,
    },
    /// A signal was lifted before its end.
    SignalLifted {
        /// Its name.
        signal: String,
        /// Who lifted it.
        by: String,
        /// When.
        at: Timestamp,
    },
}

/// What somebody wants of a station's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitOrder {
    /// Set a node's limit, from a moment on or at once.
    Set { node: String, limit: Watts, from: Option<Timestamp> },
    /// Give a node back to the catalogue.
    Lift { node: String },
    /// Set a limit for a time.
    Signal { signal: String, node: String, limit: Watts, from: Option<Timestamp>, until: Timestamp },
    /// End a signal now.
    LiftSignal { signal: String },
}

/// An order, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitCommand {
    /// What is wanted.
    pub order: LimitOrder,
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
    /// It would begin in the past, end before it begins, or come too late.
    #[error("limits: {field}: {what}; write a moment {write}")]
    BadMoment {
        /// `at`, `from` or `until`.
        field: &'static str,
        /// What is wrong.
        what: &'static str,
        /// What to write.
        write: &'static str,
    },
    /// A name that is empty, too long, or not plain text.
    #[error("limits: a signal's name has 1 to {MAX_SIGNAL_LEN} visible ASCII characters")]
    BadSignalName,
    /// There is no such signal.
    #[error("the station has no signal {signal:?}; it has {}", or_none(known))]
    UnknownSignal {
        /// What was asked for.
        signal: String,
        /// What there is.
        known: Vec<String>,
    },
    /// More than `MAX_SIGNALS` that have not ended.
    #[error(
        "limits: {MAX_SIGNALS} signals have not ended yet; lift one of them, or send one signal for a node and not many"
    )]
    TooManySignals,
}

fn or_none(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
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
    /// Decides an order; none when nothing changes. `catalogue` has the limits of the catalogue, not those in effect,
    /// and `least` what base load and fallbacks need at each node ([`crate::catalogue_check::least_limits`]).
    pub fn decide_limit(
        &self,
        catalogue: &Tree,
        least: &BTreeMap<&str, Watts>,
        command: &LimitCommand,
    ) -> Result<Option<StationEvent>, LimitRejection> {
        let at = command.at;
        let by: String = command.by.chars().take(MAX_BY_LEN / 4).collect();
        match command.order.clone() {
            LimitOrder::Set { node, limit, from } => {
                check_limit(catalogue, least, &node, limit)?;
                check_moment("at", from, at)?;
                let set = self.limits.get(&node);
                if set.is_some_and(|set| (set.limit, set.from.filter(|from| *from > at)) == (limit, from)) {
                    return Ok(None);
                }
                let before = from.and(set.and_then(|set| set.at(at)));
                Ok(Some(StationEvent::LimitSet { node, limit: OperatorLimit { limit, by, at, from, before } }))
            }
            // Also for a node that left the catalogue since.
            LimitOrder::Lift { node } if self.limits.contains_key(&node) => {
                Ok(Some(StationEvent::LimitLifted { node, by, at }))
            }
            LimitOrder::Lift { node } => known_node(catalogue, &node).map(|_| None),
            LimitOrder::Signal { signal, node, limit, from, until } => {
                let content = LimitSignal { node, limit, from: from.unwrap_or(at), until, by, at };
                self.decide_signal(catalogue, least, signal, content, from)
            }
            LimitOrder::LiftSignal { signal } if self.signals.contains_key(&signal) => {
                Ok(Some(StationEvent::SignalLifted { signal, by, at }))
            }
            LimitOrder::LiftSignal { signal } => {
                let signal: String = signal.chars().take(MAX_SIGNAL_LEN).collect();
                Err(LimitRejection::UnknownSignal { signal, known: self.signals.keys().cloned().collect() })
            }
        }
    }

    fn decide_signal(
        &self,
        catalogue: &Tree,
        least: &BTreeMap<&str, Watts>,
        signal: String,
        content: LimitSignal,
        from: Option<Timestamp>,
    ) -> Result<Option<StationEvent>, LimitRejection> {
        let at = content.at;
        if signal.is_empty() || signal.len() > MAX_SIGNAL_LEN || !signal.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(LimitRejection::BadSignalName);
        }
        check_limit(catalogue, least, &content.node, content.limit)?;
        let known = self.signals.get(&signal);
        // The same again, perhaps while it runs: its beginning may be past by now.
        let said = |known: &LimitSignal| (known.node.clone(), known.limit, known.until);
        let again =
            known.is_some_and(|known| said(known) == said(&content) && from.is_none_or(|from| from == known.from));
        if again {
            return Ok(None);
        }
        check_moment("from", from, at)?;
        check_moment("until", Some(content.until), at)?;
        if content.until <= content.from {
            let (what, write) = ("it is not after from", "after from");
            return Err(LimitRejection::BadMoment { field: "until", what, write });
        }
        let open = self.signals.values().filter(|known| known.until > at).count();
        if known.is_none() && open >= MAX_SIGNALS {
            return Err(LimitRejection::TooManySignals);
        }
        Ok(Some(StationEvent::SignalSet { signal, content }))
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
            StationEvent::SignalSet { signal, content } => {
                // Those that have ended go with the next one that comes: state changes by events only.
                self.signals.retain(|_, known| known.until > content.at);
                self.signals.insert(signal.clone(), content.clone());
            }
            StationEvent::SignalLifted { signal, .. } => {
                self.signals.remove(signal);
            }
        }
        self.changes.extend(LimitChange::of(event));
        let beyond = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..beyond);
    }
}

impl LimitChange {
    /// What is told of an event; none when it is not about limits.
    fn of(event: &StationEvent) -> Option<Self> {
        let change = |at: &Timestamp, by: &String| Self {
            at: *at,
            by: by.clone(),
            node: None,
            signal: None,
            limit: None,
            from: None,
            until: None,
        };
        match event {
            StationEvent::CeilingsSet(_) => None,
            StationEvent::LimitSet { node, limit } => Some(Self {
                node: Some(node.clone()),
                limit: Some(limit.limit),
                from: limit.from,
                ..change(&limit.at, &limit.by)
            }),
            StationEvent::LimitLifted { node, by, at } => Some(Self { node: Some(node.clone()), ..change(at, by) }),
            StationEvent::SignalSet { signal, content } => Some(Self {
                node: Some(content.node.clone()),
                signal: Some(signal.clone()),
                limit: Some(content.limit),
                from: Some(content.from),
                until: Some(content.until),
                ..change(&content.at, &content.by)
            }),
            StationEvent::SignalLifted { signal, by, at } => {
                Some(Self { signal: Some(signal.clone()), ..change(at, by) })
            }
        }
    }
}

/// The catalogue's limit of a node.
fn known_node(catalogue: &Tree, node: &str) -> Result<Watts, LimitRejection> {
    catalogue.find(node).and_then(|at| catalogue.nodes().get(at)).map(|node| node.limit).ok_or_else(|| {
        let known = catalogue.nodes().iter().map(|node| node.id.clone()).collect();
        LimitRejection::UnknownNode { node: node.to_owned(), known }
    })
}

fn check_limit(
    catalogue: &Tree,
    least: &BTreeMap<&str, Watts>,
    node: &str,
    limit: Watts,
) -> Result<(), LimitRejection> {
    let listed = known_node(catalogue, node)?;
    if !(Watts::ZERO..=listed).contains(&limit) {
        return Err(LimitRejection::OutOfRange { node: node.to_owned(), catalogue: listed });
    }
    match least.get(node).filter(|least| limit < **least) {
        Some(least) => Err(LimitRejection::BelowReserved { node: node.to_owned(), least: *least }),
        None => Ok(()),
    }
}

/// A moment that is given lies ahead, and not too far.
fn check_moment(field: &'static str, moment: Option<Timestamp>, now: Timestamp) -> Result<(), LimitRejection> {
    match moment.map(|moment| moment.since(now)) {
        Some(ahead) if ahead <= 0 => {
            Err(LimitRejection::BadMoment { field, what: "it is past", write: "in the future, or leave it out" })
        }
        Some(ahead) if ahead > MAX_AHEAD_MS => {
            Err(LimitRejection::BadMoment { field, what: "it is too far", write: "at most 366 days ahead" })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::LimitNode;
    use crate::station::LimitSchedule;

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
        let node = node.to_owned();
        let order = match limit {
            Some(limit) => LimitOrder::Set { node, limit: Watts(limit), from: None },
            None => LimitOrder::Lift { node },
        };
        LimitCommand { order, by: "main".to_owned(), at: Timestamp(7) }
    }

    fn set(limit: i64) -> OperatorLimit {
        OperatorLimit { limit: Watts(limit), by: "main".to_owned(), at: Timestamp(7), from: None, before: None }
    }

    fn effective(state: &StationState, node: &str, catalogue: i64) -> Watts {
        state.limit_at(&LimitSchedule::default(), node, Watts(catalogue), Timestamp(7)).limit
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
        assert_eq!(state.limits["grid"], set(60));
        assert!(!decided(&mut state, 100, &command("grid", Some(60))), "the same again is nothing new");
        for (catalogue, kept) in [(100, 60), (40, 40), (80, 60)] {
            assert_eq!(effective(&state, "grid", catalogue), Watts(kept));
        }
        assert_eq!(effective(&state, "f1", 50), Watts(50));
        assert!(decided(&mut state, 100, &command("grid", None)));
        assert!(!decided(&mut state, 100, &command("grid", None)));
        assert!(state.limits.is_empty());
        let told: Vec<_> = state.changes.iter().map(|change| (change.node.as_deref(), change.limit)).collect();
        assert_eq!(told, [(Some("grid"), Some(Watts(60))), (Some("grid"), None)]);
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
        state.apply(&StationEvent::LimitSet { node: "gone".to_owned(), limit: set(1) });
        assert!(decided(&mut state, 100, &command("gone", None)));
        assert!(state.limits.is_empty());
    }
}
