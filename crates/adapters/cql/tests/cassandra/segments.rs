//! Segments end, large frames and snapshots fit, and whoever comes after finds all of it.

use crate::support::{Space, open, settle, undisturbed};
use bytes::Bytes;
use chargeplane_cluster::conformance::{Writer, node, read_all, shard};
use chargeplane_cluster::frame::{Frame, MAX_PAYLOAD};
use chargeplane_cluster::journal::{CommitOutcome, Journal, Snapshot};
use chargeplane_cql::{CqlJournal, SegmentLimits};

const SMALL: SegmentLimits = SegmentLimits { bytes: 2_000, frames: 5 };

const SEGMENTS: &str = "SELECT DISTINCT shard, segment FROM %k.log";

/// What an owner does that ends between sealing a segment and making the next.
const SEAL: &str = "UPDATE %k.log SET state = 2 WHERE shard = 65536 AND segment = 0 IF state = 1";

fn committed(count: usize) -> Vec<CommitOutcome> {
    vec![CommitOutcome::Committed; count]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_goes_on_through_its_segments() {
    let _server = undisturbed().await;
    let space = Space::with_segments(SMALL).await;
    let journal = space.journal().await;
    let mut writer = open(&*journal, 0, "n1").await;
    let mut written = Vec::new();
    for group in 0..12usize {
        let frames: Vec<_> = (0..=group % 3).map(|n| writer.next(&format!("{group}/{n}"))).collect();
        assert_eq!(settle(&*journal, frames.clone()).await, committed(frames.len()), "group {group}");
        // What was told may be asked again: the head has all of it, in whichever segment.
        assert_eq!(settle(&*journal, frames.clone()).await, committed(frames.len()), "group {group} again");
        written.extend(frames);
        if group == 6 {
            let snapshot = Snapshot { lsn: writer.lsn, hash: writer.hash, bytes: Bytes::from_static(b"state") };
            assert_eq!(journal.put_snapshot(shard(0), 1, snapshot).await, Ok(true));
        }
    }
    let segments = space.count(SEGMENTS).await;
    assert!((4..=12).contains(&segments), "{segments} segments for {} frames", written.len());
    assert_eq!(read_all(&*journal, shard(0), 4).await, written);
    // Another process, which knows nothing of the segments.
    let other = space.journal().await;
    assert_eq!(other.read(shard(0), 3, 100).await, Ok(written[3..].to_vec()));
    let opened = other.open(shard(0), node("n2")).await.expect("opens");
    assert_eq!((opened.epoch, opened.last_lsn, opened.last_hash), (2, writer.lsn, writer.hash));
    let snapshot = opened.snapshot.as_ref().expect("the snapshot is named in the newest segment too");
    let after = usize::try_from(snapshot.lsn).expect("small");
    assert_eq!(opened.tail, written[after..]);
    // The former owner's cached place is in an old segment by now.
    let mut owner = Writer::new(&opened);
    for n in 0..6 {
        assert_eq!(settle(&*other, vec![owner.next(&format!("new {n}"))]).await, committed(1));
    }
    let fenced = CommitOutcome::Fenced { epoch: 2, last_lsn: owner.lsn };
    assert_eq!(settle(&*journal, vec![writer.next("late")]).await, [fenced]);
}

/// A shard of which the first segment was sealed after one frame, and its owner.
async fn sealed(space: &Space, journal: &CqlJournal, index: u16) -> Writer {
    let mut writer = open(journal, index, "n1").await;
    assert_eq!(settle(journal, vec![writer.next("a")]).await, committed(1));
    space.run(&SEAL.replace("65536", &(65_536 + i32::from(index)).to_string())).await;
    writer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_segment_without_a_successor_is_no_end() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (journal, other) = (space.journal().await, space.journal().await);

    let mut writer = sealed(&space, &journal, 0).await;
    assert_eq!(settle(&*journal, vec![writer.next("b")]).await, committed(1), "the same owner goes on");
    assert_eq!(space.count(SEGMENTS).await, 2);
    assert_eq!(read_all(&*journal, shard(0), 10).await.len(), 2);

    let writer = sealed(&space, &journal, 1).await;
    let mut owner = open(&*other, 1, "n2").await;
    assert_eq!((owner.epoch, owner.lsn), (2, 1), "another owner takes it");
    let fenced = CommitOutcome::Fenced { epoch: 2, last_lsn: 1 };
    assert_eq!(settle(&*journal, vec![writer.peek("b")]).await, [fenced]);
    assert_eq!(settle(&*other, vec![owner.next("b")]).await, committed(1));
    assert_eq!(read_all(&*journal, shard(1), 10).await.len(), 2);

    sealed(&space, &journal, 2).await;
    assert_eq!(journal.release(shard(2), 1).await, Ok(true), "it is given up");
    assert_eq!(journal.heads().await.expect("lists")[2].owner, None);
    assert_eq!(open(&*other, 2, "n2").await.epoch, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_frame_and_a_large_snapshot_fit() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let journal = space.journal().await;
    let mut writer = open(&*journal, 0, "n1").await;
    // Nothing that could be compressed.
    let noise: Vec<u8> = (0..MAX_PAYLOAD as u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let mut written = Vec::new();
    for _ in 0..3 {
        let frame = Frame { payload: Bytes::from(noise.clone()), ..writer.peek("") };
        (writer.lsn, writer.hash) = (frame.lsn, frame.hash());
        assert_eq!(settle(&*journal, vec![frame.clone()]).await, committed(1));
        written.push(frame);
    }
    let snapshot = Snapshot { lsn: writer.lsn, hash: writer.hash, bytes: Bytes::from(noise).slice(..3_500_000) };
    assert_eq!(journal.put_snapshot(shard(0), 1, snapshot.clone()).await, Ok(true));
    assert_eq!(settle(&*journal, vec![writer.next("small")]).await, committed(1));
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!(opened.snapshot, Some(snapshot));
    assert_eq!(opened.tail.len(), 1);
    assert!(read_all(&*journal, shard(0), 10).await[..3] == written, "the frames differ");
}
