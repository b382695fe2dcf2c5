//! The way down: messages to gateways, sealed under the shard's epoch and a counter of this shard's life.
//!
//! Every opening of a shard has a new epoch, and the counter starts at one with it, so no (key, nonce) pair is
//! used twice, whoever owns the shard (DESIGN.md section 7).

use crate::directory::{Directory, GatewayEntry};
use crate::metric;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::envelope::Keyring;
use chargeplane_protocol::link::{Link, LinkRefused};
use chargeplane_protocol::message::Down;
use chargeplane_protocol::{topic, wire};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The epoch and counter that a shard seals under.
#[derive(Debug)]
pub struct SealingCounter {
    epoch: u64,
    next: AtomicU64,
}

impl SealingCounter {
    /// For one opening of a shard.
    pub fn new(epoch: u64) -> Arc<Self> {
        Arc::new(Self { epoch, next: AtomicU64::new(1) })
    }

    /// The shard's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

struct LinkHolder(Arc<dyn Link>);

/// Publishes to gateways.
#[derive(Default)]
pub struct Downlink {
    link: ArcSwapOption<LinkHolder>,
}

impl Downlink {
    /// Uses this link from now on.
    pub fn attach(&self, link: Arc<dyn Link>) {
        self.link.store(Some(Arc::new(LinkHolder(link))));
    }

    /// Sends nothing any more.
    pub fn detach(&self) {
        self.link.store(None);
    }

    /// The link.
    pub fn link(&self) -> Option<Arc<dyn Link>> {
        self.link.load().as_ref().map(|holder| Arc::clone(&holder.0))
    }

    /// Seals and publishes. What the link refuses is lost and counted: everything that goes down is repeated
    /// by its sender (acknowledgements by re-delivery, grants by the next beat, commands until their end).
    pub fn send(
        &self,
        directory: &ArcSwap<Directory>,
        counter: &SealingCounter,
        gateway: &GatewayId,
        now: Timestamp,
        down: &Down,
    ) {
        let directory = directory.load();
        let Some(entry) = directory.gateway(gateway) else { return };
        if let Some(keyring) = entry.present() {
            self.publish(entry, keyring, counter, now, down);
        }
    }

    /// Sends what answers a beat, if the gateway still has the key that the beat was sealed under: to a later
    /// enrolment, which numbers its boots and beats anew, it would seem to answer another beat.
    pub fn answer(
        &self,
        directory: &ArcSwap<Directory>,
        counter: &SealingCounter,
        (gateway, boot): (&GatewayId, BootId),
        now: Timestamp,
        down: &Down,
    ) {
        let directory = directory.load();
        let Some(entry) = directory.gateway(gateway) else { return };
        if let Some(keyring) = entry.accepted(boot.key_epoch) {
            self.publish(entry, keyring, counter, now, down);
        }
    }

    fn publish(&self, entry: &GatewayEntry, keyring: &Keyring, counter: &SealingCounter, now: Timestamp, down: &Down) {
        let gateway = &entry.id;
        let plain = wire::encode_down(down);
        let number = counter.next.fetch_add(1, Ordering::Relaxed);
        let sealed = match keyring.seal_down(counter.epoch, number, items(down), now.0, &plain) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(%gateway, %error, "a message down cannot be sealed");
                return;
            }
        };
        let topic = topic::down(gateway, entry.shard.index);
        let Some(link) = self.link() else { return };
        match link.publish(&topic, Bytes::from(sealed), true) {
            Ok(()) => {}
            Err(LinkRefused::Full | LinkRefused::Closed) => {
                metrics::counter!(metric::LINK_REFUSED_TOTAL).increment(1);
            }
        }
    }
}

/// Items inside a message, for its header.
fn items(down: &Down) -> usize {
    match down {
        Down::Grants(grants) => grants.entries.len(),
        Down::Commands(commands) => commands.len(),
        Down::Resume(resume) => resume.cursors.len(),
        Down::Ack(_) | Down::Deny { .. } | Down::Notice(_) => 1,
    }
}
