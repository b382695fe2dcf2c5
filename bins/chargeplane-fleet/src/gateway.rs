//! One gateway of the fleet: the real core on a ring of its own, its own MQTT connection, one task.

use crate::book::SharedBook;
use crate::config::{FleetConfig, GatewayConfig};
use crate::cut::Cable;
use crate::hardware::Chargers;
use crate::physics::STEP_MS;
use crate::yard::Yard;
use anyhow::Context;
use chargeplane_domain::ids::GatewayId;
use chargeplane_edge::runtime::{Clock, LinkQueue, run};
use chargeplane_edge::{ChildConfig, EdgeError, FileRing, FileRingConfig, GatewayCore};
use chargeplane_mqtt::{MqttLink, Options};
use chargeplane_protocol::link::{LinkEvent, LinkSink};
use chargeplane_protocol::{GatewayKey, topic};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes after which a ring begins a new segment file.
const SEGMENT_BYTES: u64 = 4 << 20;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Who it is.
    pub id: GatewayId,
    /// Its book.
    pub book: SharedBook,
    link: Arc<MqttLink>,
    sink: Arc<Tap>,
    cable: Option<Cable>,
    task: JoinHandle<Result<(), EdgeError>>,
}

/// Notes whether the link is up, on the way to the gateway's queue.
#[derive(Debug)]
struct Tap {
    queue: Arc<LinkQueue>,
    up: AtomicBool,
}

impl LinkSink for Tap {
    fn on_event(&self, event: LinkEvent) {
        match event {
            LinkEvent::Connected { .. } => self.up.store(true, Ordering::Relaxed),
            LinkEvent::Disconnected { .. } => self.up.store(false, Ordering::Relaxed),
            LinkEvent::Message { .. } => {}
        }
        self.queue.on_event(event);
    }
}

impl Gateway {
    /// Recovers the ring, connects and runs until `stop` turns true.
    pub async fn start(
        config: &FleetConfig,
        index: usize,
        yard: Arc<Yard>,
        clock: Clock,
        stop: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let own = &config.gateways[index];
        let cable = lay_cable(config, own, index).await?;
        let brokers = match &cable {
            Some(cable) => vec![cable.address().to_string()],
            None => rotated(&config.brokers, index),
        };
        let core = core(config, own, clock).with_context(|| format!("gateway {}", own.id))?;
        let queue = LinkQueue::new();
        let sink = Arc::new(Tap { queue: queue.clone(), up: AtomicBool::new(false) });
        let options = Options::new(brokers, &topic::client_id(&own.id), &topic::username(&own.id), &own.password);
        let link = Arc::new(MqttLink::start(options, sink.clone()).context("broker address")?);
        let book = SharedBook::default();
        let chargers = Chargers::new(yard, index, book.clone());
        let shell = run(core, link.clone(), queue, chargers, clock, stop);
        let id = own.id.clone();
        let task = tokio::spawn(async move {
            let end = shell.await.map(|_| ());
            if let Err(error) = &end {
                tracing::error!(gateway = %id, %error, "the gateway stopped");
            }
            end
        });
        Ok(Self { id: own.id.clone(), book, link, sink, cable, task })
    }

    /// Wakes the gateway: its chargers have something to say.
    pub fn wake(&self) {
        self.sink.queue.wake();
    }

    /// True while its link is up.
    pub fn is_up(&self) -> bool {
        self.sink.up.load(Ordering::Relaxed)
    }

    /// True once it stopped, asked or not.
    pub fn has_stopped(&self) -> bool {
        self.task.is_finished()
    }

    /// Cuts or mends its link; false when it has none that can be cut.
    pub fn set_cut(&self, cut: bool) -> bool {
        self.cable.as_ref().inspect(|cable| cable.set_cut(cut)).is_some()
    }

    /// Waits for the end of its task (after `stop` turned true) and closes the link. True when it ended well.
    pub async fn finish(self) -> bool {
        let well = matches!(self.task.await, Ok(Ok(())));
        self.link.close().await;
        well
    }
}

/// Only gateways whose link is to be cut get a cable: the others talk to the broker directly.
async fn lay_cable(config: &FleetConfig, own: &GatewayConfig, index: usize) -> anyhow::Result<Option<Cable>> {
    if !config.cuts.iter().any(|cut| cut.gateway == own.id) {
        return Ok(None);
    }
    let broker = config.brokers[index % config.brokers.len()].clone();
    Cable::lay(broker).await.map(Some).context("laying a cable on the loopback")
}

fn rotated(brokers: &[String], by: usize) -> Vec<String> {
    let mut brokers = brokers.to_vec();
    let by = by % brokers.len().max(1);
    brokers.rotate_left(by);
    brokers
}

fn core(config: &FleetConfig, own: &GatewayConfig, clock: Clock) -> anyhow::Result<GatewayCore> {
    let children = config
        .chargers
        .iter()
        .filter(|charger| charger.gateway == own.id)
        .map(|c| (c.child, ChildConfig { fallback: c.fallback_w, rated: c.rated_w }))
        .collect();
    let root = own.root().context("key")?;
    let key = GatewayKey { root, key_epoch: own.key_epoch };
    let shard = own.shard_number().context("shard")?;
    std::fs::create_dir_all(&own.ring_dir).with_context(|| format!("creating {}", own.ring_dir.display()))?;
    let ring = FileRing::open(FileRingConfig {
        dir: own.ring_dir.clone(),
        segment_bytes: SEGMENT_BYTES,
        sync_telemetry: config.sync_samples,
    })?;
    let edge = chargeplane_edge::GatewayConfig::new(own.id.clone(), shard, key, children);
    let chargers = edge.children.len() as u64;
    let (hours, thinned) = edge.hours_held(chargers * (1_000 / STEP_MS));
    tracing::info!(
        gateway = %own.id,
        "the ring of {} MiB holds {hours:.1} h of {chargers} charging chargers, {thinned:.1} h with what is older than {} min thinned",
        edge.telemetry_capacity >> 20,
        edge.thinning.after_ms / 60_000,
    );
    Ok(GatewayCore::new(edge, Box::new(ring), clock.now())?)
}
