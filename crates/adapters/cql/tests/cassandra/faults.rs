//! The server dies or stands still under load.

use crate::support::{Server, Space, alone, open, settle_counting};
use chargeplane_cluster::conformance::{read_all, shard};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::CommitOutcome;
use chargeplane_cql::{CqlJournal, SegmentLimits};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const SHARDS: u16 = 6;

/// Segments that end during the test, so that sealing and making them is interrupted too.
const SMALL: SegmentLimits = SegmentLimits { bytes: 1_000_000, frames: 10 };

/// What one owner was told.
struct Told {
    index: u16,
    frames: Vec<Frame>,
    unknown: u32,
}

/// Owners that commit one frame after the other until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    owners: Vec<JoinHandle<Told>>,
}

impl Load {
    fn start(journal: &Arc<CqlJournal>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let owners = (0..SHARDS).map(|index| {
            let (journal, stop) = (Arc::clone(journal), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut writer = open(&*journal, index, "n1").await;
                let mut told = Told { index, frames: Vec::new(), unknown: 0 };
                while !stop.load(Ordering::Relaxed) {
                    let frame = writer.next(&format!("{index}/{}", writer.lsn));
                    let (outcomes, unknown) = settle_counting(&*journal, vec![frame.clone()]).await;
                    assert_eq!(outcomes, [CommitOutcome::Committed], "shard {index}: nobody else is there");
                    told.unknown += unknown;
                    told.frames.push(frame);
                }
                told
            })
        });
        Self { owners: owners.collect(), stop }
    }

    async fn end(self) -> Vec<Told> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for owner in self.owners {
            all.push(owner.await.expect("does not panic"));
        }
        all
    }
}

/// Everything that was told is there, once, and nothing else.
async fn check(space: &Space, all: &[Told]) {
    let journal = space.journal().await;
    for Told { index, frames, .. } in all {
        assert!(frames.len() > 20, "shard {index} has {} frames", frames.len());
        assert!(read_all(&*journal, shard(*index), 100).await == *frames, "shard {index} differs from what was told");
        let writer = open(&*journal, *index, "n2").await;
        assert_eq!((writer.epoch, writer.lsn), (2, frames.len() as u64), "shard {index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let _server = alone().await;
    let (server, space) = (Server::find(), Space::with_segments(SMALL).await);
    let journal = space.journal().await;
    let load = Load::start(&journal);
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.signal("-KILL");
    server.start().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = load.end().await;
    assert!(all.iter().all(|told| told.unknown > 0), "every owner had a frame in flight or offered one meanwhile");
    check(&space, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_outcomes_are_settled_when_a_paused_server_goes_on() {
    let _server = alone().await;
    let (server, space) = (Server::find(), Space::with_segments(SMALL).await);
    let journal = space.journal().await;
    let load = Load::start(&journal);
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.signal("-STOP");
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.signal("-CONT");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = load.end().await;
    assert!(all.iter().all(|told| told.unknown > 0), "requests ran out of time");
    check(&space, &all).await;
}
