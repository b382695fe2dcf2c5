//! The task that keeps this node's lease: [`LeaseHolder`] on tokio's clock over the [`Coordination`] port.
//!
//! Started once a node, by whoever assembles it, after the join. It beats once a second and publishes whether
//! the node may serve: false 4 s after the last successful beat was *sent*, true again when a later one
//! succeeds, false for ever when the incarnation was refused. Power grants and commits do not wait for it:
//! they are bounded by their own leases and the journal's fence.

use crate::coordination::{BeatOutcome, Coordination};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::lease::{BeatResult, LeaseEffect, LeaseHolder, SERVE_MS};
use chargeplane_domain::units::Mono;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What the lease says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseStatus {
    /// The node may serve until then, if nothing more is heard.
    Serving {
        /// On tokio's monotonic clock.
        until: Instant,
    },
    /// The last successful beat is too old: serve nothing until a beat succeeds.
    Suspended,
    /// The incarnation was declared dead, replaced or released: this process never serves again.
    Ended,
}

/// A view of the lease, for whoever serves.
#[derive(Debug, Clone)]
pub struct ServeRight {
    status: watch::Receiver<LeaseStatus>,
}

impl ServeRight {
    /// Whether the node may serve now. Looks at the clock itself, so it is right at once after the process
    /// was paused, before the lease's task has run again.
    pub fn may_serve(&self) -> bool {
        matches!(*self.status.borrow(), LeaseStatus::Serving { until } if Instant::now() < until)
    }

    /// The last published status.
    pub fn status(&self) -> LeaseStatus {
        *self.status.borrow()
    }

    /// Waits until the status changed and returns it; `Ended` when the lease's task is gone.
    pub async fn changed(&mut self) -> LeaseStatus {
        match self.status.changed().await {
            Ok(()) => *self.status.borrow_and_update(),
            Err(_) => LeaseStatus::Ended,
        }
    }

    /// A right that always holds: for tests and tools that run without a lease.
    #[cfg(any(test, feature = "testing"))]
    pub fn always() -> Self {
        let century = Duration::from_secs(100 * 365 * 24 * 3_600);
        let (_, status) = watch::channel(LeaseStatus::Serving { until: Instant::now() + century });
        Self { status }
    }
}

/// The running lease of this node.
pub struct NodeLease {
    right: ServeRight,
    release: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl NodeLease {
    /// Starts beating for an incarnation that joined. `joined_sent` is when the join was *sent*.
    pub fn start(coordination: Arc<dyn Coordination>, node: NodeId, incarnation: u64, joined_sent: Instant) -> Self {
        let until = joined_sent + Duration::from_millis(SERVE_MS);
        let (publish, status) = watch::channel(LeaseStatus::Serving { until });
        let (release, released) = oneshot::channel();
        let runner =
            Runner { coordination, node, incarnation, origin: joined_sent, holder: LeaseHolder::new(Mono(0)), publish };
        let task = tokio::spawn(runner.run(released));
        Self { right: ServeRight { status }, release, task }
    }

    /// A view of the lease.
    pub fn right(&self) -> ServeRight {
        self.right.clone()
    }

    /// Whether the node may serve now.
    pub fn may_serve(&self) -> bool {
        self.right.may_serve()
    }

    /// Gives the lease up: nothing is served any more, and others need not wait for it to expire.
    pub async fn release(self) {
        // The task ends by itself when the incarnation was refused; then there is nothing to release.
        let _ = self.release.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the lease's task failed");
        }
    }
}

/// How long the release at shutdown may take. It is a courtesy: the lease expires by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

struct Runner {
    coordination: Arc<dyn Coordination>,
    node: NodeId,
    incarnation: u64,
    /// Zero of the holder's clock.
    origin: Instant,
    holder: LeaseHolder,
    publish: watch::Sender<LeaseStatus>,
}

impl Runner {
    async fn run(mut self, mut released: oneshot::Receiver<()>) {
        // The beat in flight. A hanging store must not keep the deadline below from passing.
        let mut in_flight: Option<JoinHandle<BeatResult>> = None;
        while !self.holder.ended() {
            self.publish_status();
            let wake = self.next_wake();
            tokio::select! {
                biased;
                _ = &mut released => {
                    self.holder.on_release();
                    self.publish_status();
                    self.give_up().await;
                }
                result = finished(&mut in_flight) => {
                    in_flight = None;
                    self.holder.on_beat_result(result);
                }
                () = tokio::time::sleep_until(wake) => {
                    let mut effects = Vec::new();
                    self.holder.on_tick(self.now(), &mut effects);
                    for LeaseEffect::SendBeat { beat } in effects {
                        in_flight = Some(self.send(beat));
                    }
                }
            }
        }
        self.publish_status();
    }

    fn now(&self) -> Mono {
        let elapsed = Instant::now().saturating_duration_since(self.origin);
        Mono(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    fn at(&self, mono: Mono) -> Instant {
        self.origin + Duration::from_millis(mono.0)
    }

    /// The next beat, or the moment the right to serve ends, whichever comes first.
    fn next_wake(&self) -> Instant {
        let beat = self.holder.next_tick();
        let end = self.holder.serve_until().filter(|until| *until > self.now());
        let idle = || Instant::now() + Duration::from_millis(SERVE_MS);
        [beat, end].into_iter().flatten().min().map_or_else(idle, |mono| self.at(mono))
    }

    fn publish_status(&self) {
        let status = match self.holder.serve_until() {
            None => LeaseStatus::Ended,
            Some(until) if self.now() < until => LeaseStatus::Serving { until: self.at(until) },
            Some(_) => LeaseStatus::Suspended,
        };
        self.publish.send_if_modified(|current| {
            let changed = *current != status;
            if changed && !matches!((&*current, status), (LeaseStatus::Serving { .. }, LeaseStatus::Serving { .. })) {
                tracing::warn!(node = %self.node, incarnation = self.incarnation, ?status, "node lease");
            }
            *current = status;
            changed
        });
    }

    fn send(&self, beat: u64) -> JoinHandle<BeatResult> {
        let (coordination, node) = (Arc::clone(&self.coordination), self.node.clone());
        let incarnation = self.incarnation;
        tokio::spawn(async move {
            match coordination.beat(node, incarnation, beat).await {
                Ok(BeatOutcome::Written) => BeatResult::Written,
                Ok(BeatOutcome::Refused) => BeatResult::Refused,
                Err(error) => {
                    tracing::warn!(%error, beat, "a beat of the node lease failed");
                    BeatResult::Failed
                }
            }
        })
    }

    async fn give_up(&self) {
        let release = self.coordination.release(self.node.clone(), self.incarnation);
        match tokio::time::timeout(RELEASE_TIMEOUT, release).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the node lease was not released; it will expire")
            }
            Err(_) => tracing::warn!("the node lease was not released in time; it will expire"),
        }
    }
}

/// Waits for the beat in flight; for ever when there is none.
async fn finished(in_flight: &mut Option<JoinHandle<BeatResult>>) -> BeatResult {
    match in_flight {
        Some(task) => task.await.unwrap_or(BeatResult::Failed),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::{ClusterSettings, NodeHello};
    use crate::memory::MemoryCoordination;

    async fn joined(store: &Arc<MemoryCoordination>) -> (NodeLease, NodeId, u64) {
        let node = NodeId("n1".into());
        let hello = NodeHello { node: node.clone(), address: String::new(), pid: 1, pid_started: 0 };
        let sent = Instant::now();
        let joined = store.join(hello, ClusterSettings::default()).await.expect("joins");
        let lease = NodeLease::start(Arc::clone(store) as _, node.clone(), joined.incarnation, sent);
        (lease, node, joined.incarnation)
    }

    async fn sleep_ms(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn beats_each_second_and_serves() {
        let store = Arc::new(MemoryCoordination::default());
        let (lease, ..) = joined(&store).await;
        sleep_ms(10_500).await;
        assert!(lease.may_serve());
        assert_eq!(store.nodes().await.expect("lists")[0].beat, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn stops_four_seconds_after_sending_when_the_store_hangs_and_serves_again_when_it_is_back() {
        let store = Arc::new(MemoryCoordination::default());
        let (lease, ..) = joined(&store).await;
        let mut right = lease.right();
        sleep_ms(2_500).await;
        store.hang(true);
        // The last successful beat was sent at 2,000.
        sleep_ms(3_400).await;
        assert!(lease.may_serve(), "5.9 s");
        sleep_ms(200).await;
        assert!(!lease.may_serve(), "6.1 s");
        assert_eq!(right.status(), LeaseStatus::Suspended);
        // The hanging beat was sent at 3,000 and ends now: too old to serve by, but the next one is not.
        store.hang(false);
        while right.changed().await == LeaseStatus::Suspended {}
        assert!(lease.may_serve());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_beats_suspend_too() {
        let store = Arc::new(MemoryCoordination::default());
        let (lease, ..) = joined(&store).await;
        store.fail(true);
        sleep_ms(3_900).await;
        assert!(lease.may_serve());
        sleep_ms(200).await;
        assert_eq!(lease.right().status(), LeaseStatus::Suspended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_declared_dead_never_serves_again() {
        let store = Arc::new(MemoryCoordination::default());
        let (lease, node, incarnation) = joined(&store).await;
        sleep_ms(1_500).await;
        assert!(!store.declare_dead(node.clone(), incarnation, 0).await.expect("answers"), "it beat since");
        assert!(store.declare_dead(node.clone(), incarnation, 1).await.expect("answers"));
        sleep_ms(1_000).await;
        assert_eq!(lease.right().status(), LeaseStatus::Ended);
        assert!(!lease.may_serve());
        lease.release().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_is_written_and_final() {
        let store = Arc::new(MemoryCoordination::default());
        let (lease, ..) = joined(&store).await;
        let right = lease.right();
        lease.release().await;
        assert!(!right.may_serve());
        assert_eq!(right.status(), LeaseStatus::Ended);
        assert_eq!(store.nodes().await.expect("lists")[0].state, crate::coordination::LeaseState::Released);
    }
}
