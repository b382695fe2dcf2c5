use super::*;
use crate::memory::{CommitFault, MemoryJournal};

#[tokio::test]
async fn the_memory_journal_conforms() {
    check_journal(|| Arc::new(MemoryJournal::new())).await;
}

#[tokio::test]
async fn damage_is_found_at_open_with_shard_and_number() {
    for (what, at, damage) in [
        ("bit rot", 2, (|frames: &mut Vec<Vec<u8>>| frames[1][30] ^= 1) as fn(&mut Vec<Vec<u8>>)),
        ("a torn tail", 3, |frames| frames[2].truncate(20)),
        ("a lost tail", 3, |frames| frames.truncate(2)),
        ("a hole", 2, |frames| drop(frames.remove(1))),
        ("swapped frames", 1, |frames| frames.swap(0, 1)),
        ("a frame after the head", 4, |frames| {
            let last = Frame::decode(&frames[2]).expect("intact");
            let next = Frame::following(last.shard, 1, 3, last.hash(), Timestamp(0), Bytes::new());
            frames.push(next.encode());
        }),
    ] {
        let journal = MemoryJournal::new();
        let (_, mut writer) = open(&journal, 0, "n1").await;
        for n in 0..3 {
            assert_eq!(commit(&journal, writer.next(&n.to_string())).await, CommitOutcome::Committed);
        }
        journal.damage(shard(0), damage);
        match journal.open(shard(0), node("n1")).await {
            Err(JournalError::Corrupt { shard: found, lsn, .. }) => assert_eq!((found, lsn), (shard(0), at), "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_by_offering_the_same_frame_again() {
    for fault in [CommitFault::ApplyThenUnknown, CommitFault::DropThenUnknown] {
        let journal = MemoryJournal::new();
        let (_, mut writer) = open(&journal, 0, "n1").await;
        let frame = writer.next("a");
        journal.inject(fault.clone());
        let outcome = journal.commit(vec![frame.clone()]).await;
        assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{fault:?}");
        assert_eq!(commit(&journal, frame).await, CommitOutcome::Committed, "{fault:?}");
        assert_eq!(journal.frames(shard(0)).len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_failed_journal_stays_failed() {
    let journal = MemoryJournal::new();
    let (_, mut writer) = open(&journal, 0, "n1").await;
    let full = JournalError::Full("injected".to_owned());
    journal.inject(CommitFault::Fail(full.clone()));
    assert_eq!(journal.commit(vec![writer.next("a")]).await, Err(full.clone()));
    assert_eq!(journal.commit(vec![writer.next("b")]).await, Err(full.clone()));
    assert_eq!(journal.open(shard(0), node("n1")).await, Err(full));
}
