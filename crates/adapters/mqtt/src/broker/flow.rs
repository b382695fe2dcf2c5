//! Gateways wait for the node: the brake on the way up.
//!
//! rumqttd confirms a publish when it is in the router's memory, and lets a reader that falls too
//! far behind lose the difference. A fleet that comes back after an outage would lose most of what
//! it sends and send it again. So the bytes of batches between their publishers and their readers
//! are counted, and a gateway that published while they are many is not read from until they are
//! fewer: its TCP connection, and in the end its link's queue, push back.
//!
//! The count is an estimate: it is wrong when a batch has two readers or none. Therefore the brake
//! holds only while something is being delivered; when nothing is, the count starts again at zero.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttd::protocol::Publish;

/// Bytes on the way at which gateways begin to wait. A filter's memory must hold this and one read
/// of every gateway.
const ROOM: u64 = 8 << 20;

/// How often a waiting gateway looks again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Looks without any delivery after which there is no reader.
const LOOKS_WITHOUT_DELIVERY: u32 = 40;

#[derive(Debug, Default)]
pub(super) struct Flow {
    on_the_way: AtomicU64,
    delivered: AtomicU64,
}

/// Bytes of this publish that a node will read: none unless it is a gateway's batch.
pub(super) fn batch_bytes(publish: &Publish) -> u64 {
    let mut levels = publish.topic.split(|byte| *byte == b'/');
    if levels.nth(5) == Some(b"up") { publish.payload.len() as u64 } else { 0 }
}

impl Flow {
    /// Batches went to the router.
    pub(super) fn published(&self, bytes: u64) {
        self.on_the_way.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Batches were written to a reader.
    pub(super) fn delivered(&self, bytes: u64) {
        self.delivered.fetch_add(bytes, Ordering::Relaxed);
        let left = |on_the_way: u64| Some(on_the_way.saturating_sub(bytes));
        // The closure never refuses, so neither does this.
        let _ = self.on_the_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
    }

    /// Returns when a gateway may publish more.
    pub(super) async fn room(&self) {
        let mut delivered = self.delivered.load(Ordering::Relaxed);
        let mut looks = 0;
        while self.on_the_way.load(Ordering::Relaxed) > ROOM {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.delivered.load(Ordering::Relaxed);
            looks = if now == delivered { looks + 1 } else { 0 };
            delivered = now;
            if looks >= LOOKS_WITHOUT_DELIVERY {
                self.on_the_way.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn bytes_of(topic: &'static str) -> u64 {
        batch_bytes(&Publish::new(topic, "payload", false))
    }

    #[test]
    fn only_batches_of_gateways_count() {
        assert_eq!(bytes_of("cp/v1/main/001f/gw-1/up/fast"), 7);
        for topic in ["cp/v1/main/001f/gw-1/down", "cp/v1/main/001f/up", "up", ""] {
            assert_eq!(bytes_of(topic), 0, "{topic}");
        }
    }

    #[tokio::test]
    async fn waits_until_a_reader_caught_up() {
        let flow = Flow::default();
        flow.published(ROOM);
        flow.room().await;
        flow.published(ROOM);
        let reader = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                flow.delivered(ROOM / 100 + 1);
            }
        };
        let ((), ()) = tokio::join!(flow.room(), reader);
        assert!(flow.on_the_way.load(Ordering::Relaxed) <= ROOM);
        // Two readers of one batch must not make the count wrap.
        flow.delivered(10 * ROOM);
        assert_eq!(flow.on_the_way.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn does_not_wait_for_a_reader_that_is_not_there() {
        let flow = Flow::default();
        flow.published(ROOM + 1);
        let began = Instant::now();
        flow.room().await;
        let waited = began.elapsed();
        assert!(waited >= LOOK_EVERY * LOOKS_WITHOUT_DELIVERY, "{waited:?}: too soon to be sure");
        flow.published(ROOM);
        flow.room().await;
    }
}
