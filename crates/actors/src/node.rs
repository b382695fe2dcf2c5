//! A node: the actors of one process, put together from a configuration and the ports.

use crate::beats::Beats;
use crate::bridge::Bridge;
use crate::directory::Directory;
use crate::downlink::Downlink;
use crate::handle::NodeHandle;
use crate::journal::FatalSignal;
use crate::ports::StoreError;
use crate::reply::Reply;
use crate::router::Router;
use crate::shard::ShardMessage;
use crate::shared::{NodeConfig, NodeShared, Ports};
use crate::supervisor::{NodeSupervisor, SupervisorMessage};
use arc_swap::ArcSwap;
use chargeplane_cluster::coordination::{ClusterSettings, CoordinationError, NodeHello};
use chargeplane_cluster::node_lease::{LeaseStatus, NodeLease};
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_protocol::link::{Link, LinkRefused, LinkSink};
use chargeplane_protocol::message::Stream;
use chargeplane_protocol::topic;
use ractor::{Actor, ActorRef};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// How long a drain may take before the node goes without it: what was not flushed was not acknowledged.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// Gateways whose connections are to end and were not ended yet. A broker that falls behind ends all of them.
const CUT_OFF_ROOM: usize = 1_024;

/// How long actors that have nothing left to do may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Gauges that are sampled are sampled this often.
const EXPORT_EVERY: Duration = Duration::from_secs(1);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The coordination store refuses it.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The catalogue cannot be read.
    #[error("catalogue: {0}")]
    Catalogue(#[from] StoreError),
    /// The supervision tree did not start.
    #[error("the supervision tree did not start: {0}")]
    Supervision(String),
}

/// A running node.
pub struct Node {
    shared: Arc<NodeShared>,
    supervisor: ActorRef<SupervisorMessage>,
    lease: NodeLease,
    handle: NodeHandle,
}

impl Node {
    /// Joins the cluster, starts the tree and opens all shards in the background. Ready when
    /// [`NodeHandle::readiness`] says so.
    pub async fn start(config: NodeConfig, ports: Ports) -> Result<Self, StartError> {
        let sent = Instant::now();
        let hello = NodeHello {
            node: config.node.clone(),
            address: config.address.clone(),
            pid: std::process::id(),
            pid_started: process_start_ticks(),
        };
        let settings = ClusterSettings { station_shards: config.shards, account_shards: config.shards };
        let joined = ports.coordination.join(hello, settings).await?;
        let lease = NodeLease::start(Arc::clone(&ports.coordination), config.node.clone(), joined.incarnation, sent);
        let (version, catalogue) = ports.catalogue.load().await?;
        let credentials = ports.catalogue.credentials().await?;
        let directory = Directory::new(version, Arc::new(catalogue), credentials, config.shards);
        let router = Router::new(config.shards);
        router.bind(lease.right());
        let clock = config.clock.clone();
        let started_at = clock.wall();
        let shared = Arc::new(NodeShared {
            router,
            clock,
            ports,
            directory: ArcSwap::from_pointee(directory),
            downlink: Downlink::default(),
            beats: Beats::default(),
            encoders: tokio::sync::Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            catalogue_change: tokio::sync::Mutex::default(),
            cut_off: tokio::sync::broadcast::Sender::new(CUT_OFF_ROOM),
            rebuilds: Default::default(),
            fatal: FatalSignal::default(),
            journal: OnceLock::new(),
            projection: OnceLock::new(),
            shards: Mutex::new(BTreeMap::new()),
            counts: Mutex::new(BTreeMap::new()),
            link_up: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            config,
        });
        let started = Actor::spawn(None, NodeSupervisor, Arc::clone(&shared)).await;
        let (supervisor, _) = started.map_err(|error| StartError::Supervision(error.to_string()))?;
        watch_lease(&shared, &lease);
        export_gauges(&shared);
        let handle = NodeHandle::new(Arc::clone(&shared), joined.incarnation, started_at);
        Ok(Self { shared, supervisor, lease, handle })
    }

    /// Where the link to the broker delivers.
    pub fn link_sink(&self) -> Arc<dyn LinkSink> {
        Arc::new(Bridge::new(Arc::clone(&self.shared), self.handle.clone()))
    }

    /// Uses a link: subscribes to the topics of all station shards and sends through it.
    pub fn attach_link(&self, link: Arc<dyn Link>) -> Result<(), LinkRefused> {
        for shard in ShardId::all(self.shared.config.shards).filter(|shard| shard.family == Family::Station) {
            link.subscribe(&topic::shard_filter(shard.index))?;
        }
        self.shared.downlink.attach(link);
        Ok(())
    }

    /// Whether these are the credentials of an enrolled gateway; then its topics.
    pub fn authenticator(&self) -> impl Fn(&str, &str, &str) -> Option<GatewayTopics> + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |client_id, username, password| authenticate(&shared, client_id, username, password)
    }

    /// Gateways whose connections to a broker are to end at once: their credentials are no longer good.
    pub fn cut_off(&self) -> tokio::sync::broadcast::Receiver<GatewayId> {
        self.shared.cut_off.subscribe()
    }

    /// The node's face.
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Resolves when a store failed: the process must exit, nothing is acknowledged any more.
    pub fn fatal(&self) -> impl Future<Output = String> + Send + 'static {
        let fatal = self.shared.fatal.clone();
        async move { fatal.raised().await }
    }

    /// For tests: all actors end as they stand, and nothing is flushed or released.
    #[cfg(any(test, feature = "testing"))]
    pub fn kill(&self) {
        self.supervisor.kill();
    }

    /// Stops admitting, flushes, releases the shards and the lease, and ends the tree: what is left holds the ports only
    /// as long as somebody has a [`NodeHandle`], the link's sink or an authenticator. True when everything was flushed in
    /// time.
    pub async fn drain(self) -> bool {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.router.close();
        // One limit for all shards together.
        let limit = Instant::now() + DRAIN_LIMIT;
        let _ = self.supervisor.cast(SupervisorMessage::Drain);
        let mut waits = Vec::new();
        let all = ShardId::all(self.shared.config.shards);
        for shard in all {
            let (reply, wait) = Reply::channel(DRAIN_LIMIT);
            let router = &self.shared.router;
            let sent = match shard.family {
                Family::Station => {
                    router.station_shard(shard.index).map(|actor| actor.cast(ShardMessage::Drain(reply)).is_ok())
                }
                Family::Account => {
                    router.account_shard(shard.index).map(|actor| actor.cast(ShardMessage::Drain(reply)).is_ok())
                }
            };
            if sent == Some(true) {
                waits.push((shard, wait));
            }
        }
        let mut clean = true;
        for (shard, wait) in waits {
            match tokio::time::timeout_at(limit, wait).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%shard, %error, "not drained");
                    clean = false;
                }
                Err(_) => {
                    tracing::warn!(%shard, "not drained in time");
                    clean = false;
                }
            }
        }
        self.lease.release().await;
        // The link and the node hold each other.
        self.shared.downlink.detach();
        let drained = || Some("drained".to_owned());
        self.supervisor.stop_children_and_wait(drained(), Some(END_LIMIT)).await;
        if self.supervisor.stop_and_wait(drained(), Some(END_LIMIT)).await.is_err() {
            tracing::warn!("the supervision tree did not end in time");
        }
        clean
    }
}

/// The start time of this process in clock ticks since boot, field 22 of /proc/self/stat: with the pid it names
/// a process for good. 0 where the kernel does not tell.
fn process_start_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the command in parentheses and may hold spaces.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// What an enrolled gateway may do at a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayTopics {
    /// The topics that it publishes to.
    pub publish: Vec<String>,
    /// The topic that it may subscribe to.
    pub subscribe: String,
}

fn authenticate(shared: &NodeShared, client_id: &str, username: &str, password: &str) -> Option<GatewayTopics> {
    let gateway = username.parse::<GatewayId>().ok()?;
    if topic::client_id(&gateway) != client_id {
        return None;
    }
    let given: [u8; 32] = Sha256::digest(password.as_bytes()).into();
    let directory = shared.directory.load();
    let entry = directory.gateway(&gateway)?;
    let own = directory.credentials().iter().filter(|known| known.gateway == gateway);
    let good = own.filter(|known| !known.revoked && entry.accepted(known.key_epoch).is_some());
    // All are compared, so that the time tells nothing.
    let matching = good.filter(|known| known.password_sha256.ct_eq(&given).into()).count();
    let publish = Stream::ALL.map(|stream| topic::up(&gateway, entry.shard.index, stream));
    let topics = GatewayTopics { publish: publish.to_vec(), subscribe: topic::down(&gateway, entry.shard.index) };
    (matching > 0).then_some(topics)
}

/// A lease that was taken away stops the node: another process may serve now.
fn watch_lease(shared: &Arc<NodeShared>, lease: &NodeLease) {
    let (shared, mut right) = (Arc::clone(shared), lease.right());
    tokio::spawn(async move {
        loop {
            match right.changed().await {
                LeaseStatus::Serving { .. } => {}
                LeaseStatus::Suspended => tracing::warn!("the node's lease is not renewed: serving nothing"),
                LeaseStatus::Ended => break,
            }
        }
        shared.lease_ended();
    });
}

fn export_gauges(shared: &Arc<NodeShared>) {
    // Until nobody has the node any more: this is no reason for it to stay.
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(EXPORT_EVERY);
        loop {
            interval.tick().await;
            let Some(shared) = shared.upgrade() else { break };
            shared.router.lanes().export();
            shared.export_counts();
        }
    });
}
