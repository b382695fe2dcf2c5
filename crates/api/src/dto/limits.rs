//! A station's limits over time.

use crate::extract::rfc3339;
use chargeplane_actors::station::{LimitsReport, NodeLimits};
use chargeplane_domain::station::{LimitChange, LimitInEffect, LimitSignal, LimitSource};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A station's limits: what is kept now and why, what will change, and who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsDto {
    /// Every node of the tree.
    pub nodes: Vec<NodeLimitsDto>,
    /// Signals that have not ended.
    pub signals: Vec<SignalDto>,
    /// The latest hundred changes, oldest first.
    pub changes: Vec<LimitChangeDto>,
}

/// A node's limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLimitsDto {
    /// Its name in the station.
    pub id: String,
    /// What grants keep now.
    pub limit_w: i64,
    /// Whose that is: `catalogue`, `schedule`, `operator` or `signal`.
    pub source: String,
    /// The operator's tenant, or the signal's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// It is in effect from then on, and kept already, so that no grant outlives its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The catalogue's limit.
    pub catalogue_w: i64,
    /// What an operator set, now or from a moment on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<AnnouncedDto>,
    /// The catalogue's windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<WindowDto>,
}

/// What an operator set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnouncedDto {
    /// The limit.
    pub limit_w: i64,
    /// From then on; left out: since it was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The tenant of the token that set it; `*` for one of all tenants.
    pub by: String,
    /// When it was set.
    pub at: String,
}

/// A window of the schedule, every day on the station's wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WindowDto {
    /// From this time of day on.
    pub from: String,
    /// Until before this time of day.
    pub until: String,
    /// The limit.
    pub limit_w: i64,
}

/// A signal that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignalDto {
    /// Its name.
    pub signal: String,
    /// The node.
    pub node: String,
    /// The limit.
    pub limit_w: i64,
    /// From then on.
    pub from: String,
    /// Until before then.
    pub until: String,
    /// The tenant of the token that sent it; `*` for one of all tenants.
    pub by: String,
    /// When it came.
    pub at: String,
}

/// A change of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitChangeDto {
    /// When it was made.
    pub at: String,
    /// Who made it.
    pub by: String,
    /// The node; null when a signal was lifted.
    pub node: Option<String>,
    /// The signal, when it is one.
    pub signal: Option<String>,
    /// The limit; null: lifted.
    pub limit_w: Option<i64>,
    /// From then on, when it was announced.
    pub from: Option<String>,
    /// Until then, when it ends by itself.
    pub until: Option<String>,
}

/// A limit for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// The node; left out: the grid connection.
    #[serde(default)]
    pub node: Option<String>,
    /// Most power that may flow through the node, in W.
    pub limit_w: i64,
    /// From then on (RFC 3339); left out: at once.
    #[serde(default)]
    pub from: Option<String>,
    /// Until before then.
    pub until: String,
}

impl From<LimitsReport> for LimitsDto {
    fn from(report: LimitsReport) -> Self {
        Self {
            nodes: report.nodes.into_iter().map(NodeLimitsDto::from).collect(),
            signals: report.signals.into_iter().map(SignalDto::from).collect(),
            changes: report.changes.into_iter().map(LimitChangeDto::from).collect(),
        }
    }
}

/// The word for whose limit it is, and the name that goes with it.
pub(super) fn source_text(limit: &LimitInEffect) -> (String, Option<String>) {
    let (word, of) = match &limit.source {
        LimitSource::Catalogue => ("catalogue", None),
        LimitSource::Schedule => ("schedule", None),
        LimitSource::Operator { by } => ("operator", Some(by.clone())),
        LimitSource::Signal { signal, .. } => ("signal", Some(signal.clone())),
    };
    (word.to_owned(), of)
}

/// The same as a part of a sentence: `the limit of X is ...`.
pub(super) fn told_source(limit: &LimitInEffect) -> String {
    let from = limit.from.map_or(String::new(), |from| format!(", in effect from {}", rfc3339(from)));
    match &limit.source {
        LimitSource::Catalogue => format!("the catalogue's{from}"),
        LimitSource::Schedule => format!("the catalogue's schedule's{from}"),
        LimitSource::Operator { by } => format!("set by {by}{from}"),
        LimitSource::Signal { signal, until } => format!("signal {signal}'s{from}, until {}", rfc3339(*until)),
    }
}

impl From<NodeLimits> for NodeLimitsDto {
    fn from(node: NodeLimits) -> Self {
        let (source, of) = source_text(&node.now);
        let set = node.set.map(|set| AnnouncedDto {
            limit_w: set.limit.0,
            from: set.from.map(rfc3339),
            by: set.by,
            at: rfc3339(set.at),
        });
        let window = |window: chargeplane_domain::catalogue::ScheduledLimit| WindowDto {
            from: window.from.to_string(),
            until: window.until.to_string(),
            limit_w: window.limit_w.0,
        };
        Self {
            id: node.id,
            limit_w: node.now.limit.0,
            source,
            of,
            from: node.now.from.map(rfc3339),
            catalogue_w: node.catalogue.0,
            set,
            schedule: node.schedule.into_iter().map(window).collect(),
        }
    }
}

impl From<(String, LimitSignal)> for SignalDto {
    fn from((signal, content): (String, LimitSignal)) -> Self {
        Self {
            signal,
            node: content.node,
            limit_w: content.limit.0,
            from: rfc3339(content.from),
            until: rfc3339(content.until),
            by: content.by,
            at: rfc3339(content.at),
        }
    }
}

impl From<LimitChange> for LimitChangeDto {
    fn from(change: LimitChange) -> Self {
        let LimitChange { at, by, node, signal, limit, from, until } = change;
        let limit_w = limit.map(|limit| limit.0);
        let (from, until) = (from.map(rfc3339), until.map(rfc3339));
        Self { at: rfc3339(at), by, node, signal, limit_w, from, until }
    }
}
