//! What every [`Journal`] must do, checked through the port alone. An adapter's tests call [`check_journal`]
//! with a way to make an empty journal; damage to stored bytes and crashes are the adapter's own tests.
//!
//! Panics with what was expected: it is test code that happens to be shared.

#[cfg(test)]
mod tests;

use crate::frame::{Frame, FrameHash, MAX_PAYLOAD};
use crate::journal::{ChainCheck, CommitOutcome, Journal, JournalError, OpenedShard, Snapshot};
use bytes::Bytes;
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A node's name, for tests.
pub fn node(name: &str) -> NodeId {
    NodeId(name.into())
}

/// An account shard, for tests.
pub fn shard(index: u16) -> ShardId {
    ShardId { family: Family::Account, index }
}

/// An owner's end of one shard's log: makes frames that follow each other.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The shard.
    pub shard: ShardId,
    /// The owner's epoch.
    pub epoch: u64,
    /// The last frame made.
    pub lsn: u64,
    /// Its hash.
    pub hash: FrameHash,
}

impl Writer {
    /// Goes on from an open.
    pub fn new(opened: &OpenedShard) -> Self {
        Self { shard: opened.shard, epoch: opened.epoch, lsn: opened.last_lsn, hash: opened.last_hash }
    }

    /// The next frame, without moving on.
    pub fn peek(&self, payload: &str) -> Frame {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        Frame::following(self.shard, self.epoch, self.lsn, self.hash, Timestamp(1_000), payload)
    }

    /// The next frame; the one after it will follow it.
    pub fn next(&mut self, payload: &str) -> Frame {
        let frame = self.peek(payload);
        (self.lsn, self.hash) = (frame.lsn, frame.hash());
        frame
    }
}

async fn open(journal: &dyn Journal, index: u16, owner: &str) -> (OpenedShard, Writer) {
    let opened = journal.open(shard(index), node(owner)).await.expect("opens");
    let writer = Writer::new(&opened);
    (opened, writer)
}

async fn commit(journal: &dyn Journal, frame: Frame) -> CommitOutcome {
    let outcomes = journal.commit(vec![frame]).await.expect("commits");
    assert_eq!(outcomes.len(), 1, "one outcome a frame");
    outcomes[0]
}

fn payloads(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| std::str::from_utf8(&frame.payload).expect("text")).collect()
}

/// All of a shard's frames, page by page, verified from the start.
pub async fn read_all(journal: &dyn Journal, shard: ShardId, page: usize) -> Vec<Frame> {
    let mut chain = ChainCheck::from_start(shard);
    let mut frames = Vec::new();
    loop {
        let more = journal.read(shard, chain.lsn(), page).await.expect("reads");
        if more.is_empty() {
            return frames;
        }
        assert!(more.len() <= page, "at most {page} frames");
        for frame in more {
            chain.accept(&frame).expect("the chain holds");
            frames.push(frame);
        }
    }
}

/// Runs every check, each on an empty journal of its own.
pub async fn check_journal(make: impl Fn() -> Arc<dyn Journal>) {
    opens_raise_the_epoch_every_time(&*make()).await;
    a_stale_owner_is_fenced(&*make(), "another node", "n1", "n2").await;
    a_stale_owner_is_fenced(&*make(), "the same node", "n1", "n1").await;
    only_the_next_frame_is_stored(&*make()).await;
    the_same_frame_again_is_committed_once(&*make()).await;
    one_bad_condition_leaves_only_that_frame_out(&*make()).await;
    what_was_committed_is_read_back(&*make()).await;
    a_released_shard_takes_no_frames(&*make()).await;
    snapshots_shorten_the_tail(&*make()).await;
    snapshots_are_fenced(&*make()).await;
    too_large_is_refused_and_the_journal_serves_on(&*make()).await;
    of_racing_opens_only_the_last_commits(make()).await;
    concurrent_commits_all_land(make()).await;
}

async fn opens_raise_the_epoch_every_time(journal: &dyn Journal) {
    let (first, _) = open(journal, 0, "n1").await;
    assert_eq!((first.epoch, first.last_lsn), (1, 0));
    assert_eq!(first.last_hash, FrameHash::genesis(shard(0)));
    assert_eq!((first.tail, first.snapshot), (vec![], None));
    for (owner, epoch) in [("n1", 2), ("n2", 3), ("n2", 4)] {
        let (opened, _) = open(journal, 0, owner).await;
        assert_eq!(opened.epoch, epoch, "{owner}");
    }
    let (other, _) = open(journal, 1, "n1").await;
    assert_eq!(other.epoch, 1, "each shard counts its own epochs");
}

async fn a_stale_owner_is_fenced(journal: &dyn Journal, case: &str, before: &str, after: &str) {
    let (_, mut stale) = open(journal, 0, before).await;
    assert_eq!(commit(journal, stale.next("a")).await, CommitOutcome::Committed);
    let in_flight = stale.next("b");
    let (opened, mut owner) = open(journal, 0, after).await;
    assert_eq!(payloads(&opened.tail), ["a"], "{case}");
    let fenced = CommitOutcome::Fenced { epoch: 2, last_lsn: 1 };
    assert_eq!(commit(journal, in_flight.clone()).await, fenced, "{case}");
    assert_eq!(commit(journal, owner.next("c")).await, CommitOutcome::Committed, "{case}");
    assert_eq!(commit(journal, in_flight).await, CommitOutcome::Fenced { epoch: 2, last_lsn: 2 }, "{case}");
    assert_eq!(payloads(&read_all(journal, shard(0), 10).await), ["a", "c"], "{case}");
}

async fn only_the_next_frame_is_stored(journal: &dyn Journal) {
    let never_opened = Writer { shard: shard(7), epoch: 1, lsn: 0, hash: FrameHash::genesis(shard(7)) };
    let fenced = commit(journal, never_opened.peek("x")).await;
    assert_eq!(fenced, CommitOutcome::Fenced { epoch: 0, last_lsn: 0 });

    let (_, mut writer) = open(journal, 0, "n1").await;
    assert_eq!(commit(journal, writer.next("a")).await, CommitOutcome::Committed);
    let fenced = CommitOutcome::Fenced { epoch: 1, last_lsn: 1 };
    let good = writer.peek("b");
    for (what, bad) in [
        ("a hole", Frame { lsn: 3, ..good.clone() }),
        ("a taken number", Frame { lsn: 1, ..good.clone() }),
        ("number 0", Frame { lsn: 0, ..good.clone() }),
        ("another chain", Frame { prev_hash: FrameHash([7; 32]), ..good.clone() }),
        ("a lower epoch", Frame { epoch: 0, ..good.clone() }),
        ("an epoch nobody opened", Frame { epoch: 2, ..good.clone() }),
        ("another shard", Frame { shard: shard(1), ..good.clone() }),
    ] {
        let outcome = commit(journal, bad).await;
        assert!(matches!(outcome, CommitOutcome::Fenced { .. }), "{what}");
        if what != "another shard" {
            assert_eq!(outcome, fenced, "{what}");
        }
    }
    assert_eq!(commit(journal, good).await, CommitOutcome::Committed);
    assert_eq!(payloads(&read_all(journal, shard(0), 10).await), ["a", "b"]);
}

async fn the_same_frame_again_is_committed_once(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    let first = writer.next("a");
    assert_eq!(commit(journal, first.clone()).await, CommitOutcome::Committed);
    assert_eq!(commit(journal, first.clone()).await, CommitOutcome::Committed, "offered again");
    let other = Frame { payload: Bytes::from_static(b"other"), ..first.clone() };
    assert_eq!(commit(journal, other).await, CommitOutcome::Fenced { epoch: 1, last_lsn: 1 }, "other content");
    assert_eq!(commit(journal, writer.next("b")).await, CommitOutcome::Committed);
    assert_eq!(payloads(&read_all(journal, shard(0), 10).await), ["a", "b"]);
    open(journal, 0, "n2").await;
    assert!(matches!(commit(journal, first).await, CommitOutcome::Fenced { .. }), "not after another open");
}

async fn one_bad_condition_leaves_only_that_frame_out(journal: &dyn Journal) {
    let (_, mut a) = open(journal, 0, "n1").await;
    let (_, mut stale) = open(journal, 1, "n1").await;
    let (_, mut c) = open(journal, 2, "n1").await;
    open(journal, 1, "n2").await;
    // Two frames of one shard may travel together; the second's condition is the first.
    let frames = vec![a.next("a1"), stale.next("b1"), c.next("c1"), a.next("a2")];
    let outcomes = journal.commit(frames).await.expect("commits");
    let fenced = CommitOutcome::Fenced { epoch: 2, last_lsn: 0 };
    use CommitOutcome::Committed;
    assert_eq!(outcomes, [Committed, fenced, Committed, Committed]);
    assert_eq!(payloads(&read_all(journal, shard(0), 10).await), ["a1", "a2"]);
    assert_eq!(read_all(journal, shard(1), 10).await, []);
    assert_eq!(payloads(&read_all(journal, shard(2), 10).await), ["c1"]);
    assert_eq!(journal.commit(vec![]).await, Ok(vec![]), "nothing is nothing");
}

async fn what_was_committed_is_read_back(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    let mut written = Vec::new();
    for n in 0..25 {
        let frame = writer.next(&format!("entry {n}"));
        assert_eq!(commit(journal, frame.clone()).await, CommitOutcome::Committed);
        written.push(frame);
    }
    assert_eq!(read_all(journal, shard(0), 7).await, written);
    assert_eq!(journal.read(shard(0), 23, 100).await, Ok(written[23..].to_vec()));
    assert_eq!(journal.read(shard(0), 25, 100).await, Ok(vec![]));
    assert_eq!(journal.read(shard(9), 0, 100).await, Ok(vec![]), "a shard nobody opened");
    let (opened, _) = open(journal, 0, "n1").await;
    assert_eq!((opened.last_lsn, opened.last_hash), (25, writer.hash));
    assert_eq!(opened.tail, written);
}

async fn a_released_shard_takes_no_frames(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    open(journal, 3, "n2").await;
    assert_eq!(commit(journal, writer.next("a")).await, CommitOutcome::Committed);
    assert_eq!(journal.release(shard(0), 9).await, Ok(false), "not the head's epoch");
    assert_eq!(journal.release(shard(8), 1).await, Ok(false), "never opened");
    assert_eq!(journal.release(shard(0), 1).await, Ok(true));
    assert_eq!(journal.release(shard(0), 1).await, Ok(false), "released already");
    let heads = journal.heads().await.expect("lists");
    let seen: Vec<_> = heads.iter().map(|head| (head.shard, head.owner.clone(), head.epoch, head.last_lsn)).collect();
    assert_eq!(seen, [(shard(0), None, 1, 1), (shard(3), Some(node("n2")), 1, 0)]);
    let outcome = commit(journal, writer.next("b")).await;
    assert_eq!(outcome, CommitOutcome::Fenced { epoch: 1, last_lsn: 1 });
    let (opened, _) = open(journal, 0, "n2").await;
    assert_eq!((opened.epoch, payloads(&opened.tail)), (2, vec!["a"]));
}

fn snapshot_of(writer: &Writer, text: &str) -> Snapshot {
    Snapshot { lsn: writer.lsn, hash: writer.hash, bytes: Bytes::copy_from_slice(text.as_bytes()) }
}

async fn snapshots_shorten_the_tail(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    for n in 1..=6u64 {
        assert_eq!(commit(journal, writer.next(&format!("e{n}"))).await, CommitOutcome::Committed);
        if n % 2 == 0 {
            let snapshot = snapshot_of(&writer, &format!("state {n}"));
            assert_eq!(journal.put_snapshot(shard(0), 1, snapshot).await, Ok(true), "snapshot {n}");
        }
    }
    assert_eq!(commit(journal, writer.next("e7")).await, CommitOutcome::Committed);
    let (opened, _) = open(journal, 0, "n1").await;
    let snapshot = opened.snapshot.expect("kept");
    assert_eq!((snapshot.lsn, &snapshot.bytes[..]), (6, &b"state 6"[..]));
    assert_eq!(payloads(&opened.tail), ["e7"]);
    assert_eq!((opened.last_lsn, opened.last_hash), (7, writer.hash));
    assert_eq!(read_all(journal, shard(0), 10).await.len(), 7, "logs are not trimmed");
}

async fn snapshots_are_fenced(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    assert_eq!(commit(journal, writer.next("a")).await, CommitOutcome::Committed);
    let good = snapshot_of(&writer, "state");
    let elsewhere = Snapshot { hash: FrameHash([1; 32]), ..good.clone() };
    assert_eq!(journal.put_snapshot(shard(0), 1, elsewhere).await, Ok(false), "not this log's frame");
    let ahead = Snapshot { lsn: 2, ..good.clone() };
    assert_eq!(journal.put_snapshot(shard(0), 1, ahead).await, Ok(false), "beyond the head");
    open(journal, 0, "n2").await;
    assert_eq!(journal.put_snapshot(shard(0), 1, good.clone()).await, Ok(false), "a stale owner");
    let (opened, _) = open(journal, 0, "n2").await;
    assert_eq!(opened.snapshot, None);
    assert_eq!(journal.put_snapshot(shard(0), 3, good.clone()).await, Ok(true));
    let again = Snapshot { bytes: Bytes::from_static(b"changed"), ..good };
    assert_eq!(journal.put_snapshot(shard(0), 3, again).await, Ok(false), "snapshots are immutable");
}

async fn too_large_is_refused_and_the_journal_serves_on(journal: &dyn Journal) {
    let (_, mut writer) = open(journal, 0, "n1").await;
    let huge = Frame { payload: Bytes::from(vec![0; MAX_PAYLOAD + 1]), ..writer.peek("") };
    let refused = journal.commit(vec![huge]).await;
    let bytes = MAX_PAYLOAD + 1;
    assert_eq!(refused, Err(JournalError::TooLarge { shard: shard(0), bytes, limit: MAX_PAYLOAD }));
    assert_eq!(commit(journal, writer.next("small")).await, CommitOutcome::Committed);
}

async fn of_racing_opens_only_the_last_commits(journal: Arc<dyn Journal>) {
    let opens: Vec<_> = (0..8)
        .map(|n| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.open(shard(0), node(&format!("n{n}"))).await.expect("opens") })
        })
        .collect();
    let mut writers = Vec::new();
    for open in opens {
        writers.push(Writer::new(&open.await.expect("does not panic")));
    }
    let epochs: BTreeSet<_> = writers.iter().map(|writer| writer.epoch).collect();
    assert_eq!(epochs, (1..=8).collect(), "one epoch an open");
    for mut writer in writers {
        let committed = commit(&*journal, writer.next("mine")).await == CommitOutcome::Committed;
        assert_eq!(committed, writer.epoch == 8, "epoch {}", writer.epoch);
    }
}

async fn concurrent_commits_all_land(journal: Arc<dyn Journal>) {
    let tasks: Vec<_> = (0..16u16)
        .map(|index| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let (_, mut writer) = open(&*journal, index, "n1").await;
                for n in 0..20 {
                    let outcome = commit(&*journal, writer.next(&format!("{index}/{n}"))).await;
                    assert_eq!(outcome, CommitOutcome::Committed, "shard {index}, frame {n}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("does not panic");
    }
    for index in 0..16 {
        let frames = read_all(&*journal, shard(index), 100).await;
        let expected: Vec<_> = (0..20).map(|n| format!("{index}/{n}")).collect();
        assert_eq!(payloads(&frames), expected);
    }
}
