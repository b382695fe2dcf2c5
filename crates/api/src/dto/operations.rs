//! The node, its shards, gateways, dead letters, the catalogue's difference.

use crate::extract::rfc3339;
use chargeplane_actors::projection::compare::Comparison;
use chargeplane_actors::projection::rebuild::Rebuild;
use chargeplane_actors::views::{
    CatalogueDiff, ChildTerms, DeadLetterView, Enrolment, GatewayView, NodeView, ShardView,
};
use chargeplane_domain::ids::ChargerId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What could not be handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterDto {
    /// Its id, `station-001f/12`.
    pub id: String,
    /// Whose it is.
    pub entity: String,
    /// What it was, shortened.
    pub message: String,
    /// Why it failed.
    pub error: String,
    /// When it was parked.
    pub at: String,
}

impl From<DeadLetterView> for DeadLetterDto {
    fn from(view: DeadLetterView) -> Self {
        Self { id: view.id, entity: view.entity, message: view.message, error: view.error, at: rfc3339(view.at) }
    }
}

/// A shard on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardDto {
    /// `station-001f`.
    pub shard: String,
    /// `opening`, `open`, `closed`, `failed`.
    pub state: String,
    /// Its epoch.
    pub epoch: u64,
    /// Last committed log number.
    pub last_lsn: u64,
    /// Rows of the durable map.
    pub rows: usize,
    /// Live entity actors.
    pub live: usize,
    /// Parked entities: they failed again and again.
    pub parked: usize,
    /// Quarantined entities: their log cannot be applied.
    pub quarantined: usize,
}

impl From<ShardView> for ShardDto {
    fn from(view: ShardView) -> Self {
        Self {
            shard: view.shard,
            state: view.state,
            epoch: view.epoch,
            last_lsn: view.last_lsn,
            rows: view.rows,
            live: view.live,
            parked: view.parked,
            quarantined: view.quarantined,
        }
    }
}

/// The node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDto {
    /// Its name.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Counts its starts on this store.
    pub incarnation: u64,
    /// When this process began to serve.
    pub started_at: String,
    /// Shards that are open.
    pub shards_open: usize,
    /// Shards it should have open.
    pub shards_wanted: usize,
    /// Journal frames not yet in the read models.
    pub projection_lag: u64,
    /// Sessions that are not settled.
    pub open_sessions: usize,
    /// Program version.
    pub version: String,
}

impl From<NodeView> for NodeDto {
    fn from(view: NodeView) -> Self {
        Self {
            node: view.node,
            pid: view.pid,
            incarnation: view.incarnation,
            started_at: rfc3339(view.started_at),
            shards_open: view.shards_open,
            shards_wanted: view.shards_wanted,
            projection_lag: view.projection_lag,
            open_sessions: view.open_sessions,
            version: view.version,
        }
    }
}

/// Whether the node serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadinessDto {
    /// True when every wanted shard is open, the lease is good and the broker link is up.
    pub ready: bool,
    /// What is missing.
    pub reasons: Vec<String>,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayDto {
    /// The gateway.
    pub id: String,
    /// Its station.
    pub station: String,
    /// It was heard lately.
    pub online: bool,
    /// It holds a key that is good.
    pub enrolled: bool,
    /// A new key waits for it: it was not heard under it yet.
    pub rotating: bool,
}

impl From<GatewayView> for GatewayDto {
    fn from(view: GatewayView) -> Self {
        let GatewayView { id, station, online, enrolled, rotating } = view;
        Self { id: id.to_string(), station: station.to_string(), online, enrolled, rotating }
    }
}

/// A charger's number at its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChildDto {
    /// The number.
    pub child: u16,
    /// The charger.
    pub charger: String,
    /// Most power it can give, W.
    pub rated_w: i64,
    /// Least power it can charge with, W.
    pub min_w: i64,
    /// What it falls to when its grants have ended while it charges, W.
    pub fallback_w: i64,
    /// Number of connectors, from 1.
    pub connectors: u8,
}

/// What an enrolment hands out, once. Never logged: `Debug` hides the secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnrolmentDto {
    /// The gateway.
    pub gateway: String,
    /// Its number in envelope headers.
    pub number: u64,
    /// Its station's shard, four hex digits.
    pub shard: String,
    /// The key's epoch.
    pub key_epoch: u32,
    /// Counts its enrolments.
    pub incarnation: u32,
    /// Root key, 64 hex digits.
    pub key: String,
    /// Broker user name.
    pub username: String,
    /// Broker password.
    pub password: String,
    /// MQTT client id.
    pub client_id: String,
    /// Its chargers.
    pub children: Vec<ChildDto>,
}

impl std::fmt::Debug for EnrolmentDto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolmentDto").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl From<Enrolment> for EnrolmentDto {
    fn from(enrolment: Enrolment) -> Self {
        let child = |(child, charger, terms): (u16, ChargerId, ChildTerms)| ChildDto {
            child,
            charger: charger.to_string(),
            rated_w: terms.rated.0,
            min_w: terms.min.0,
            fallback_w: terms.fallback.0,
            connectors: terms.connectors,
        };
        Self {
            gateway: enrolment.gateway.to_string(),
            number: enrolment.number,
            shard: enrolment.shard,
            key_epoch: enrolment.key_epoch,
            incarnation: enrolment.incarnation,
            key: enrolment.key,
            username: enrolment.username,
            password: enrolment.password,
            client_id: enrolment.client_id,
            children: enrolment.children.into_iter().map(child).collect(),
        }
    }
}

/// What applying a catalogue changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueDiffDto {
    /// Version before.
    pub from_version: u64,
    /// Version after; the same on a dry run or when nothing changes.
    pub to_version: u64,
    /// `+ charger main/c1`, `~ station main/s1: ...`, `- gateway main/g2`.
    pub changes: Vec<String>,
}

impl From<CatalogueDiff> for CatalogueDiffDto {
    fn from(diff: CatalogueDiff) -> Self {
        Self { from_version: diff.from_version, to_version: diff.to_version, changes: diff.changes }
    }
}

/// How building a read model again goes, or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RebuildDto {
    /// `records` or `statements`.
    pub model: String,
    /// True: compared only, and dropped.
    pub check: bool,
    /// When it began.
    pub started_at: String,
    /// Frames of the journal read so far.
    pub frames: u64,
    /// `running`, `equal` (to the last byte), `differs` or `failed`.
    pub state: String,
    /// Rows that are the same in both, from the beginning; null while it runs.
    pub equal_rows: Option<u64>,
    /// The first difference, or why it failed.
    pub detail: Option<String>,
}

impl From<Rebuild> for RebuildDto {
    fn from(rebuild: Rebuild) -> Self {
        let (state, equal_rows, detail) = match rebuild.outcome {
            None => ("running", None, None),
            Some(Ok(Comparison { equal, difference: None })) => ("equal", Some(equal), None),
            Some(Ok(Comparison { equal, difference })) => ("differs", Some(equal), difference),
            Some(Err(error)) => ("failed", None, Some(error.to_string())),
        };
        Self {
            model: rebuild.model.code().to_owned(),
            check: rebuild.check,
            started_at: rfc3339(rebuild.started_at),
            frames: rebuild.frames,
            state: state.to_owned(),
            equal_rows,
            detail,
        }
    }
}
