use super::*;
use bytes::Bytes;
use chargeplane_cluster::conformance::{Writer, node, shard};
use chargeplane_cluster::frame::FrameHash;

fn writer() -> Writer {
    Writer { shard: shard(0), epoch: 3, lsn: 0, hash: FrameHash::genesis(shard(0)) }
}

fn prepared(frames: impl IntoIterator<Item = Frame>) -> Vec<PreparedFrame> {
    frames.into_iter().map(PreparedFrame::new).collect()
}

fn head_at(epoch: u64, frame: &Frame) -> Head {
    Head { epoch, last_lsn: frame.lsn, last_hash: frame.hash(), ..Head::genesis(shard(0), node("n1")) }
}

fn told(head: &Head, frames: &[PreparedFrame]) -> Option<Vec<CommitOutcome>> {
    match settle(head, frames) {
        Settled::Told(told) => Some(told),
        Settled::Follow => None,
    }
}

#[test]
fn a_head_settles_all_that_is_before_its_last_frame() {
    use CommitOutcome::Committed;
    let mut writer = writer();
    let frames = prepared(["a", "b", "c"].map(|text| writer.next(text)));
    let genesis = Head { epoch: 3, ..Head::genesis(shard(0), node("n1")) };
    assert_eq!(told(&genesis, &frames), None, "they follow");
    for (at, one) in frames.iter().enumerate() {
        let head = head_at(3, &one.frame);
        assert_eq!(told(&head, &frames), Some(vec![Committed; at + 1]), "after frame {at}");
        let other_epoch = head_at(4, &one.frame);
        let fenced = CommitOutcome::Fenced { epoch: 4, last_lsn: one.frame.lsn };
        assert_eq!(told(&other_epoch, &frames), Some(vec![fenced]), "another owner after frame {at}");
    }
    let released = Head { state: SegmentState::Released, ..genesis };
    assert_eq!(told(&released, &frames), Some(vec![CommitOutcome::Fenced { epoch: 3, last_lsn: 0 }]));
}

#[test]
fn a_frame_with_other_content_settles_nothing() {
    let mut writer = writer();
    let stored = writer.clone().next("a");
    let frames = prepared(["other", "b"].map(|text| writer.next(text)));
    let fenced = CommitOutcome::Fenced { epoch: 3, last_lsn: 1 };
    assert_eq!(told(&head_at(3, &stored), &frames), Some(vec![fenced]));
}

#[test]
fn one_write_takes_what_follows_each_other_within_its_size() {
    let mut writer = writer();
    let (a, b) = (writer.next("a"), writer.next("b"));
    let stranger = Frame { payload: Bytes::from_static(b"x"), ..a.clone() };
    let next_epoch = Frame { epoch: 4, ..b.clone() };
    for (what, frames, run) in [
        ("nothing", vec![], 0),
        ("one", vec![a.clone()], 1),
        ("two", vec![a.clone(), b.clone()], 2),
        ("two that do not follow", vec![a.clone(), a.clone()], 1),
        ("another's successor", vec![stranger, b.clone()], 1),
        ("another epoch", vec![a.clone(), next_epoch], 1),
    ] {
        assert_eq!(run_of(&prepared(frames)), run, "{what}");
    }
    let large = "x".repeat(MAX_WRITE_BYTES / 2 - 100);
    let mut writer = self::writer();
    let frames = prepared([&*large, &*large, &*large].map(|text| writer.next(text)));
    assert_eq!((run_of(&frames), chain_of(&frames).len()), (2, 3), "size");
    let mut writer = self::writer();
    let frames = prepared([&*large.repeat(3), "b"].map(|text| writer.next(text)));
    assert_eq!(run_of(&frames), 1, "a large one goes alone");
}
