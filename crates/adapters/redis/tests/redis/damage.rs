//! Damage to what is stored: found at the open, named by shard and log number, and nothing is dropped.

use crate::support::*;
use bytes::Bytes;
use chargeplane_cluster::conformance::{node, shard};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError, Snapshot};
use chargeplane_domain::units::Timestamp;
use redis::aio::MultiplexedConnection;

const LOG: &str = "{chargeplane:account-0005}:log:00000000000000000001";
const HEAD: &str = "{chargeplane:account-0005}:head";

async fn stored(client: &mut MultiplexedConnection, lsn: i64) -> Vec<u8> {
    redis::cmd("LINDEX").arg(LOG).arg(lsn - 1).query_async(client).await.expect("there")
}

async fn replace(client: &mut MultiplexedConnection, lsn: i64, frame: &[u8]) {
    redis::cmd("LSET").arg(LOG).arg(lsn - 1).arg(frame).exec_async(client).await.expect("replaces");
}

async fn run(client: &mut MultiplexedConnection, words: &[&str]) {
    redis::cmd(words[0]).arg(&words[1..]).exec_async(client).await.expect(words[0]);
}

/// Does one kind of damage to a log of four frames, and returns the log number that must be reported.
async fn damage(client: &mut MultiplexedConnection, what: &str) -> u64 {
    let decoded = |bytes: &[u8]| Frame::decode(bytes).expect("intact");
    match what {
        "a flipped bit" => {
            let mut frame = stored(client, 2).await;
            frame[66] ^= 0x10;
            replace(client, 2, &frame).await;
            2
        }
        "a torn frame" => {
            let frame = stored(client, 4).await;
            replace(client, 4, &frame[..40]).await;
            4
        }
        "a lost tail" => {
            run(client, &["RPOP", LOG]).await;
            4
        }
        "a lost segment" => {
            run(client, &["DEL", LOG]).await;
            1
        }
        "a lost index" => {
            run(client, &["DEL", "{chargeplane:account-0005}:segments"]).await;
            1
        }
        "a segment of another kind" => {
            run(client, &["SET", LOG, "text"]).await;
            1
        }
        "another shard's frame" => {
            let frame = Frame { shard: shard(9), ..decoded(&stored(client, 3).await) };
            replace(client, 3, &frame.encode()).await;
            3
        }
        "a rewritten frame" => {
            let frame = Frame { payload: Bytes::from_static(b"forged"), ..decoded(&stored(client, 2).await) };
            replace(client, 2, &frame.encode()).await;
            3
        }
        "a rewritten last frame" => {
            let frame = Frame { payload: Bytes::from_static(b"forged"), ..decoded(&stored(client, 4).await) };
            replace(client, 4, &frame.encode()).await;
            4
        }
        "a frame after the head" => {
            let last = decoded(&stored(client, 4).await);
            let next = Frame::following(last.shard, 1, 4, last.hash(), Timestamp(0), Bytes::new());
            redis::cmd("RPUSH").arg(LOG).arg(next.encode()).exec_async(client).await.expect("pushes");
            5
        }
        "an epoch that went down" => {
            let second = Frame { epoch: 7, ..decoded(&stored(client, 2).await) };
            let third = Frame { prev_hash: second.hash(), ..decoded(&stored(client, 3).await) };
            replace(client, 2, &second.encode()).await;
            replace(client, 3, &third.encode()).await;
            3
        }
        "a head with another hash" => {
            run(client, &["HSET", HEAD, "hash", "01234567890123456789012345678901"]).await;
            4
        }
        "a head that is no head" => {
            run(client, &["HSET", HEAD, "lsn", "four"]).await;
            0
        }
        "a head of another kind" => {
            run(client, &["SET", HEAD, "text"]).await;
            0
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn damage_is_found_at_open_with_shard_and_number_and_nothing_is_dropped() {
    let mut server = Server::start();
    for what in [
        "a flipped bit",
        "a torn frame",
        "a lost tail",
        "a lost segment",
        "a lost index",
        "a segment of another kind",
        "another shard's frame",
        "a rewritten frame",
        "a rewritten last frame",
        "a frame after the head",
        "an epoch that went down",
        "a head with another hash",
        "a head that is no head",
        "a head of another kind",
    ] {
        let mut client = server.client().await;
        run(&mut client, &["FLUSHALL"]).await;
        let mut writer = take(&server.journal().await, 5).await;
        fill(&server.journal().await, &mut writer, 4).await;
        let lsn = damage(&mut client, what).await;
        // A node that remembers nothing, and through a restart of the server.
        server.kill();
        server.restart();
        let journal = server.journal().await;
        let mut client = server.client().await;
        let size = redis::cmd("MEMORY").arg("USAGE").arg(LOG).to_owned();
        let before: Option<u64> = size.query_async(&mut client).await.expect("answers");
        for _ in 0..2 {
            match journal.open(shard(5), node("n1")).await {
                Err(JournalError::Corrupt { shard: found, lsn: at, .. }) => {
                    assert_eq!((found, at), (shard(5), lsn), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        assert_eq!(size.query_async::<Option<u64>>(&mut client).await.expect("answers"), before, "{what}");
        take(&journal, 6).await;
    }
}

#[tokio::test]
async fn a_frame_under_the_newest_snapshot_must_be_there_too() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 5).await;
    fill(&journal, &mut writer, 4).await;
    let snapshot = Snapshot { lsn: 4, hash: writer.hash, bytes: Bytes::from_static(b"state") };
    assert_eq!(journal.put_snapshot(shard(5), 1, snapshot).await, Ok(true));
    let mut client = server.client().await;
    run(&mut client, &["RPOP", LOG]).await;
    let outcome = journal.commit(vec![writer.peek("on top of a hole")]).await;
    assert_eq!(outcome, Ok(vec![CommitOutcome::Fenced { epoch: 1, last_lsn: 4 }]), "a list that is too short");
    let opened = journal.open(shard(5), node("n1")).await;
    assert!(matches!(opened, Err(JournalError::Corrupt { lsn: 4, .. })), "{opened:?}");
    let read = journal.read(shard(5), 3, 10).await;
    assert!(matches!(read, Err(JournalError::Corrupt { lsn: 4, .. })), "{read:?}");
}
