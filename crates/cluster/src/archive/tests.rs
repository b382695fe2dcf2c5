use super::*;
use crate::conformance::{Writer, node, read_all, shard};
use crate::memory::{CommitFault, MemoryJournal};
use std::io::Cursor;

/// Three shards: one in several epochs, one small, one that was opened and has nothing.
async fn filled() -> MemoryJournal {
    let journal = MemoryJournal::new();
    for (owner, frames) in [("n1", 3), ("n2", 0), ("n1", 2), ("n2", 600)] {
        let mut writer = Writer::new(&journal.open(shard(3), node(owner)).await.expect("opens"));
        for n in 0..frames {
            let committed = journal.commit(vec![writer.next(&format!("{owner} {n}"))]).await;
            assert_eq!(committed, Ok(vec![CommitOutcome::Committed]));
        }
    }
    let mut writer = Writer::new(&journal.open(shard(0), node("n1")).await.expect("opens"));
    journal.commit(vec![writer.next("only")]).await.expect("commits");
    journal.open(shard(7), node("n1")).await.expect("opens");
    journal
}

async fn exported(journal: &MemoryJournal) -> Vec<u8> {
    let mut file = Vec::new();
    let summary = export(journal, &mut file).await.expect("exports");
    assert_eq!(summary, Summary { shards: 2, frames: 606 });
    file
}

#[tokio::test]
async fn what_is_exported_is_imported_frame_by_frame_and_served_by_the_next_owner() {
    let from = filled().await;
    let file = exported(&from).await;
    assert_eq!(verify(&mut Cursor::new(&file)).expect("good"), Summary { shards: 2, frames: 606 });
    let into = MemoryJournal::new();
    let summary = import(&into, &mut Cursor::new(&file), &node("import")).await.expect("imports");
    assert_eq!(summary, Summary { shards: 2, frames: 606 });
    for index in [0, 3] {
        assert_eq!(read_all(&into, shard(index), 100).await, read_all(&from, shard(index), 100).await);
    }
    let heads = into.heads().await.expect("lists");
    assert!(heads.iter().all(|head| head.owner.is_none()), "given up: {heads:?}");
    let opened = into.open(shard(3), node("n9")).await.expect("opens");
    assert_eq!((opened.epoch, opened.last_lsn), (5, 605), "the next epoch");
    assert_eq!(exported(&into).await, file, "exported again it is the same file");
}

#[tokio::test]
async fn unknown_outcomes_during_an_import_lose_and_double_nothing() {
    let from = filled().await;
    let file = exported(&from).await;
    let into = MemoryJournal::new();
    for fault in [CommitFault::ApplyThenUnknown, CommitFault::DropThenUnknown, CommitFault::ApplyThenUnknown] {
        into.inject(fault);
    }
    import(&into, &mut Cursor::new(&file), &node("import")).await.expect("imports");
    assert_eq!(exported(&into).await, file);
}

#[tokio::test]
async fn a_journal_that_has_something_of_a_shard_is_refused_before_anything_is_written() {
    let file = exported(&filled().await).await;
    // A frame in one of the shards; or an epoch that the file's frames can no longer be written under.
    for (index, opens, frames, epoch) in [(3, 1, 1, 1), (3, 1, 0, 1), (0, 5, 0, 5)] {
        let into = MemoryJournal::new();
        for _ in 0..opens {
            let mut writer = Writer::new(&into.open(shard(index), node("n1")).await.expect("opens"));
            for _ in 0..frames {
                into.commit(vec![writer.next("mine")]).await.expect("commits");
            }
        }
        let before = into.heads().await.expect("lists");
        match import(&into, &mut Cursor::new(&file), &node("import")).await {
            Err(ArchiveError::NotEmpty { shard: found, epoch: at, last_lsn }) => {
                assert_eq!((found, at, last_lsn), (shard(index), epoch, frames));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(into.heads().await.expect("lists"), before);
    }
    // Another shard's frames do no harm.
    let into = MemoryJournal::new();
    let mut writer = Writer::new(&into.open(shard(9), node("n1")).await.expect("opens"));
    into.commit(vec![writer.next("mine")]).await.expect("commits");
    import(&into, &mut Cursor::new(&file), &node("import")).await.expect("imports");
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found_before_anything_is_written() {
    let journal = MemoryJournal::new();
    for index in [0, 1] {
        let mut writer = Writer::new(&journal.open(shard(index), node("n1")).await.expect("opens"));
        for n in 0..3 {
            journal.commit(vec![writer.next(&n.to_string())]).await.expect("commits");
        }
    }
    let mut file = Vec::new();
    export(&journal, &mut file).await.expect("exports");
    let into = MemoryJournal::new();
    let mut bad: Vec<Vec<u8>> = (0..file.len()).map(|length| file[..length].to_vec()).collect();
    for at in 0..file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        bad.push(flipped);
    }
    bad.push([&file[..], b"x"].concat());
    for bytes in bad {
        let error = import(&into, &mut Cursor::new(bytes), &node("import")).await.expect_err("damaged");
        assert!(matches!(error, ArchiveError::Damaged { .. } | ArchiveError::Version(_)), "{error}");
    }
    assert_eq!(into.heads().await, Ok(vec![]));
}

/// A file of these records, each with a right checksum.
fn file_of(records: &[(u8, Vec<u8>)]) -> Cursor<Vec<u8>> {
    let mut file = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    for (kind, body) in records {
        write_record(&mut file, *kind, body).expect("writes");
    }
    Cursor::new(file)
}

#[tokio::test]
async fn records_that_are_whole_and_do_not_fit_are_refused() {
    let begin = || (SHARD, shard_body(shard(0)).to_vec());
    let mut writer = Writer { shard: shard(0), epoch: 1, lsn: 0, hash: FrameHash::genesis(shard(0)) };
    let frames: Vec<_> = (0..2).map(|n| (FRAME, writer.next(&n.to_string()).encode())).collect();
    let end = (SHARD_END, [&2u64.to_le_bytes()[..], writer.hash.as_bytes()].concat());
    let file_end = |shards, frames| (FILE_END, summary_body(&Summary { shards, frames }));
    let far = Writer { shard: shard(0), epoch: MAX_EPOCH + 1, lsn: 0, hash: FrameHash::genesis(shard(0)) }.next("far");
    let far_end = (SHARD_END, [&1u64.to_le_bytes()[..], far.hash().as_bytes()].concat());
    let good = [begin(), frames[0].clone(), frames[1].clone(), end.clone(), file_end(1, 2)];
    verify(&mut file_of(&good)).expect("good");
    for (what, records) in [
        ("a hole", vec![begin(), frames[1].clone(), end.clone(), file_end(1, 1)]),
        ("a frame without a shard", vec![frames[0].clone(), file_end(0, 1)]),
        ("a shard that ends early", vec![begin(), frames[0].clone(), end.clone(), file_end(1, 1)]),
        ("a shard without an end", vec![begin(), frames[0].clone(), file_end(1, 1)]),
        ("a shard twice", [&good[..4], &good[..4], &[file_end(2, 4)]].concat()),
        ("another count", [&good[..4], &[file_end(1, 3)]].concat()),
        ("an unknown kind", vec![(9, vec![]), file_end(0, 0)]),
        ("an unknown family", vec![(SHARD, vec![9, 0, 0])]),
        ("an epoch that nobody reaches", vec![begin(), (FRAME, far.encode()), far_end, file_end(1, 1)]),
    ] {
        let into = MemoryJournal::new();
        let error = import(&into, &mut file_of(&records), &node("import")).await.expect_err(what);
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{what}: {error}");
        assert_eq!(into.heads().await, Ok(vec![]), "{what}");
    }
}

#[tokio::test]
async fn a_damaged_log_is_not_exported() {
    let journal = filled().await;
    journal.damage(shard(3), |frames| frames[4][70] ^= 1);
    let error = export(&journal, &mut Vec::new()).await.expect_err("damaged");
    assert!(matches!(error, ArchiveError::Journal(JournalError::Corrupt { lsn: 5, .. })), "{error}");
}
