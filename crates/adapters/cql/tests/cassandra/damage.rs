//! Damage in the tables is said, with shard and frame, and nothing is dropped to get going.

use crate::support::{Space, open, settle, undisturbed};
use bytes::Bytes;
use chargeplane_cluster::conformance::{node, shard};
use chargeplane_cluster::journal::{Journal, JournalError, Snapshot};

const KEY: &str = "WHERE shard = 65536 AND segment = 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_at_open_with_shard_and_number() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let journal = space.journal().await;
    for (index, what, at, cql) in [
        (0, "a hole", 2, "DELETE FROM %k.log KEY AND lsn = 2 IF EXISTS".to_owned()),
        (1, "a lost tail", 3, "DELETE FROM %k.log KEY AND lsn = 3 IF EXISTS".to_owned()),
        (2, "foreign bytes", 1, "UPDATE %k.log SET frame = 0x0102 KEY AND lsn = 1 IF EXISTS".to_owned()),
        (
            3,
            "a frame after the head",
            4,
            "INSERT INTO %k.log (shard, segment, lsn, frame) VALUES (65539, 0, 4, 0x01) IF NOT EXISTS".to_owned(),
        ),
        (
            4,
            "another hash in the head",
            3,
            format!("UPDATE %k.log SET last_hash = 0x{} KEY IF epoch = 1", "07".repeat(32)),
        ),
    ] {
        let mut writer = open(&*journal, index, "n1").await;
        for n in 0..3 {
            settle(&*journal, vec![writer.next(&n.to_string())]).await;
        }
        let key = KEY.replace("65536", &(65_536 + i32::from(index)).to_string());
        space.run(&cql.replace("KEY", &key)).await;
        match journal.open(shard(index), node("n1")).await {
            Err(JournalError::Corrupt { shard: found, lsn, .. }) => {
                assert_eq!((found, lsn), (shard(index), at), "{what}")
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_passed_over_and_only_two_are_stored() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let journal = space.journal().await;
    let mut writer = open(&*journal, 0, "n1").await;
    for n in 1..=3u64 {
        settle(&*journal, vec![writer.next(&format!("e{n}"))]).await;
        let bytes = Bytes::from(format!("state {n}"));
        let snapshot = Snapshot { lsn: n, hash: writer.hash, bytes };
        assert_eq!(journal.put_snapshot(shard(0), 1, snapshot.clone()).await, Ok(true), "snapshot {n}");
        assert_eq!(journal.put_snapshot(shard(0), 1, snapshot).await, Ok(true), "the very same again");
    }
    assert_eq!(space.count("SELECT DISTINCT shard, lsn, epoch FROM %k.snapshots").await, 2);
    space.run("UPDATE %k.snapshots SET bytes = 0x00 WHERE shard = 65536 AND lsn = 3 AND epoch = 1 AND part = 0").await;
    let opened = journal.open(shard(0), node("n1")).await.expect("the log has all of it");
    assert_eq!(opened.damaged_snapshots, [3]);
    assert_eq!(opened.snapshot.map(|snapshot| snapshot.lsn), Some(2));
    assert_eq!(opened.tail.len(), 1);
}
