use super::*;
use crate::config::{ChildConfig, GatewayConfig};
use crate::ring::MemoryRing;
use bytes::Bytes;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::units::Watts;
use chargeplane_protocol::message::{Ack, Down, GatewayEvent, Stream};
use chargeplane_protocol::{GatewayKey, Keyring, LinkRefused, Topic, topic, wire};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A node in a few lines, behind a link that delivers at once: acknowledges every batch of events.
struct Loopback {
    keys: Keyring,
    queue: Arc<LinkQueue>,
    counter: AtomicU64,
    gateway: chargeplane_domain::ids::GatewayId,
}

impl Link for Loopback {
    fn publish(&self, topic: &str, payload: Bytes, _qos1: bool) -> Result<(), LinkRefused> {
        let Ok(Topic::Up { stream: Stream::Events, .. }) = topic::parse(topic) else {
            return Ok(());
        };
        let (stream, opened) = self.keys.open_up(&payload).unwrap();
        let boot = BootId::new(opened.header.key_epoch, opened.header.boot);
        let upto_seq = opened.header.seq;
        let ack = Down::Ack(Ack { stream, boot, epoch: 1, upto_seq, refused: vec![], credit: 1 });
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let packet = self.keys.seal_down(1, counter, 1, 0, &wire::encode_down(&ack)).unwrap();
        let topic = topic::down(&self.gateway, 0);
        self.queue.on_event(LinkEvent::Message { topic, payload: packet.into() });
        Ok(())
    }

    fn subscribe(&self, _filter: &str) -> Result<(), LinkRefused> {
        Ok(())
    }
}

/// Reports a fault, and stops the gateway when it is acknowledged.
struct OneFault {
    told: bool,
    acked: u64,
    stop: watch::Sender<bool>,
}

impl Hardware for OneFault {
    fn poll(&mut self, now: Now, core: &mut GatewayCore) -> Mono {
        if !std::mem::replace(&mut self.told, true) {
            core.on_event(now, GatewayEvent::Fault { child: 1, code: "E1".to_owned(), at: now.wall }).unwrap();
        }
        now.mono.plus_ms(60_000)
    }

    fn on_effect(&mut self, _now: Now, effect: Effect, _core: &mut GatewayCore) {
        if let Effect::Acked(acked) = effect {
            self.acked += acked.items;
            self.stop.send_replace(true);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_event_goes_out_and_its_acknowledgement_comes_back() {
    let gateway: chargeplane_domain::ids::GatewayId = "main/g1".parse().unwrap();
    let key = GatewayKey { root: [7; 32], key_epoch: 1 };
    let children = BTreeMap::from([(1, ChildConfig { fallback: Watts(0), rated: Watts(1_000) })]);
    let clock = Clock::start();
    let config = GatewayConfig::new(gateway.clone(), 0, key.clone(), children);
    let core = GatewayCore::new(config, Box::new(MemoryRing::new()), clock.now()).unwrap();
    let queue = LinkQueue::new();
    let keys = Keyring::new(&gateway, &key);
    let link = Arc::new(Loopback { keys, queue: queue.clone(), counter: AtomicU64::new(0), gateway });
    let (stop, stopped) = watch::channel(false);
    let hardware = OneFault { told: false, acked: 0, stop };
    queue.on_event(LinkEvent::Connected { session: 1 });
    let running = run(core, link, queue, hardware, clock, stopped);
    let (core, hardware) = tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
    assert_eq!(hardware.acked, 1);
    assert_eq!((core.stats().events_created, core.stats().events_acked()), (1, 1));
}

#[test]
fn the_queue_is_bounded_for_messages_only() {
    let queue = LinkQueue::new();
    for _ in 0..MAX_WAITING + 10 {
        queue.on_event(LinkEvent::Message { topic: String::new(), payload: Bytes::new() });
    }
    queue.on_event(LinkEvent::Disconnected { reason: String::new() });
    assert_eq!(queue.dropped(), 10);
    let events = queue.take();
    assert_eq!(events.len(), MAX_WAITING + 1);
    assert!(matches!(events.back(), Some(LinkEvent::Disconnected { .. })));
}
