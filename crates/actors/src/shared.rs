//! What all actors of a node share: configuration, clock, ports, router, directory and the way down.

use crate::admission::as_f64;
use crate::beats::Beats;
use crate::directory::Directory;
use crate::downlink::Downlink;
use crate::journal::{FatalSignal, JournalMessage};
use crate::metric;
use crate::ports::{CatalogueStore, ChargeRecords, Statements, TelemetryStore};
use crate::projection::ProjectionMessage;
use crate::projection::rebuild::Rebuilds;
use crate::router::Router;
use arc_swap::ArcSwap;
use chargeplane_cluster::coordination::Coordination;
use chargeplane_cluster::journal::Journal;
use chargeplane_domain::allocation::lp::Solver;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::{Mono, Timestamp};
use ractor::{ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name.
    pub node: NodeId,
    /// Where it can be reached, for the lease.
    pub address: String,
    /// Shards a family; fixed when the cluster is born.
    pub shards: u16,
    /// Idle entities leave after this.
    pub passivate_after: Duration,
    /// Length of a grant on the gateway's clock.
    pub lease: Duration,
    /// A solve that takes longer is dropped, and the tick is answered by water-filling.
    pub solve_limit: Duration,
    /// Telemetry is written at the latest after this.
    pub flush_every: Duration,
    /// Samples held in memory by one shard.
    pub max_buffered_samples: usize,
    /// Energy that a hold covers.
    pub hold_wh: i64,
    /// The longest a charger may take to stop: the reserve of a hold is rating x this x the highest price.
    pub stop_time: Duration,
    /// A debit at least so often while energy flows ...
    pub debit_every: Duration,
    /// ... or after so much energy.
    pub debit_wh: i64,
    /// A hold ends so long after the last reading of its session, or after the authorisation ...
    pub hold_lasts: Duration,
    /// ... and is given back after so much more: what a gateway that was cut off keeps in its ring may still come.
    pub ring_age: Duration,
    /// Bytes of log behind a shard's last snapshot before the next one is taken, at least: an opening replays about
    /// so much.
    pub snapshot_after_bytes: u64,
    /// Deadline of commands.
    pub command_deadline: Duration,
    /// Deadline of calls into entities.
    pub call_timeout: Duration,
    /// What tells the time.
    pub clock: Clock,
}

impl NodeConfig {
    /// The defaults for a node of this name.
    pub fn new(node: &str) -> Self {
        Self {
            node: NodeId(node.into()),
            address: String::new(),
            shards: chargeplane_domain::placement::DEFAULT_SHARDS,
            passivate_after: Duration::from_secs(120),
            lease: Duration::from_secs(30),
            solve_limit: Duration::from_millis(200),
            flush_every: Duration::from_secs(30),
            max_buffered_samples: 1_000_000,
            hold_wh: 4_000,
            stop_time: Duration::from_secs(5),
            debit_every: Duration::from_secs(15),
            debit_wh: 100,
            hold_lasts: Duration::from_secs(24 * 3_600),
            ring_age: Duration::from_secs(24 * 3_600),
            snapshot_after_bytes: 32 << 20,
            command_deadline: Duration::from_secs(60),
            call_timeout: Duration::from_secs(10),
            clock: Clock::default(),
        }
    }
}

/// The outside world.
#[derive(Clone)]
pub struct Ports {
    /// The journal.
    pub journal: Arc<dyn Journal>,
    /// Node leases.
    pub coordination: Arc<dyn Coordination>,
    /// Telemetry.
    pub telemetry: Arc<dyn TelemetryStore>,
    /// The catalogue.
    pub catalogue: Arc<dyn CatalogueStore>,
    /// Charge records.
    pub records: Arc<dyn ChargeRecords>,
    /// Statements of accounts.
    pub statements: Arc<dyn Statements>,
    /// Solver of allocation programmes.
    pub solver: Arc<dyn Solver>,
}

/// The node's clocks: wall time for records, monotonic time for decisions.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: Instant,
    /// Wall time at the origin; none: the operating system's.
    wall_at_origin: Option<Timestamp>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now(), wall_at_origin: None }
    }
}

impl Clock {
    /// A clock that shows `wall` at `origin` and goes with the runtime's own, which a test may hold and turn.
    pub fn with_wall_at(origin: Instant, wall: Timestamp) -> Self {
        Self { origin, wall_at_origin: Some(wall) }
    }

    /// Wall time.
    pub fn wall(&self) -> Timestamp {
        if let Some(wall) = self.wall_at_origin {
            return wall.plus_ms(i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX));
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    /// Monotonic time since this node started.
    pub fn mono(&self) -> Mono {
        Mono(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// Where shards stand, for readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardStatus {
    /// Serving.
    Open,
    /// Damaged; an operator must act.
    Failed(String),
}

/// What an operator must look at in a shard, and what the metrics show of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ShardCounts {
    /// Dead letters.
    pub(crate) letters: usize,
    /// Parked entities.
    pub(crate) parked: usize,
    /// Quarantined entities.
    pub(crate) quarantined: usize,
}

/// Shared by all actors of a node.
pub struct NodeShared {
    /// Settings.
    pub config: NodeConfig,
    /// Clocks.
    pub clock: Clock,
    /// The outside world.
    pub ports: Ports,
    /// The way into the shards.
    pub router: Router,
    /// Catalogue and keys.
    pub directory: ArcSwap<Directory>,
    /// The way to the gateways.
    pub downlink: Downlink,
    /// The last heartbeat of each gateway.
    pub beats: Beats,
    /// Taken while columns are compressed: as many at once as there are cores.
    pub(crate) encoders: tokio::sync::Semaphore,
    /// Held by who changes the catalogue or a key, from reading the directory to replacing it.
    pub(crate) catalogue_change: tokio::sync::Mutex<()>,
    /// Tells who keeps the broker which gateways lost their right to be connected.
    pub(crate) cut_off: tokio::sync::broadcast::Sender<chargeplane_domain::ids::GatewayId>,
    /// Read models that are built again.
    pub(crate) rebuilds: Rebuilds,
    /// Raised when a store failed.
    pub fatal: FatalSignal,
    pub(crate) journal: OnceLock<ActorRef<JournalMessage>>,
    pub(crate) projection: OnceLock<ActorRef<ProjectionMessage>>,
    pub(crate) shards: Mutex<BTreeMap<ShardId, ShardStatus>>,
    pub(crate) counts: Mutex<BTreeMap<ShardId, ShardCounts>>,
    pub(crate) link_up: AtomicBool,
    pub(crate) draining: AtomicBool,
}

impl NodeShared {
    pub(crate) fn set_link_up(&self, up: bool) {
        self.link_up.store(up, Ordering::Release);
    }

    /// The lease is gone for good. A node that drains gave it up itself; any other must stop.
    pub(crate) fn lease_ended(&self) {
        if !self.draining.load(Ordering::Acquire) {
            self.fatal.raise("the node's lease was taken away".to_owned());
        }
    }

    /// True while the broker is connected.
    pub fn is_link_up(&self) -> bool {
        self.link_up.load(Ordering::Acquire)
    }

    pub(crate) fn journal_actor(&self) -> Result<&ActorRef<JournalMessage>, ActorProcessingErr> {
        self.journal.get().ok_or_else(|| "the journal actor is not started".into())
    }

    pub(crate) fn notify_projection(&self, message: ProjectionMessage) {
        if let Some(projection) = self.projection.get() {
            // It is gone only when the node stops; it reads the journal when it starts.
            let _ = projection.cast(message);
        }
    }

    fn set_shard(&self, shard: ShardId, status: Option<ShardStatus>) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        match status {
            Some(status) => shards.insert(shard, status),
            None => shards.remove(&shard),
        };
        let open = shards.values().filter(|status| **status == ShardStatus::Open).count();
        metrics::gauge!(metric::SHARDS_OPEN).set(as_f64(open));
    }

    pub(crate) fn shard_opened(&self, shard: ShardId) {
        self.set_shard(shard, Some(ShardStatus::Open));
    }

    pub(crate) fn shard_failed(&self, shard: ShardId, reason: String) {
        self.set_shard(shard, Some(ShardStatus::Failed(reason)));
    }

    pub(crate) fn shard_closed(&self, shard: ShardId) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
        self.set_shard(shard, None);
    }

    /// A shard says once a second what is in it.
    pub(crate) fn report_counts(&self, shard: ShardId, counts: ShardCounts) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, counts);
    }

    /// Shows the sums over all shards in the metrics.
    pub(crate) fn export_counts(&self) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: fn(&ShardCounts) -> usize| as_f64(counts.values().map(of).sum());
        metrics::gauge!(metric::DEAD_LETTERS).set(sum(|counts| counts.letters));
        metrics::gauge!(metric::ENTITIES_PARKED).set(sum(|counts| counts.parked));
        metrics::gauge!(metric::ENTITIES_QUARANTINED).set(sum(|counts| counts.quarantined));
    }

    /// Where every shard stands that has been opened.
    pub fn shard_statuses(&self) -> BTreeMap<ShardId, ShardStatus> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
