//! A server that comes back with less than it acknowledged: the shard stays closed, and the reason is said.

use crate::support::proxy::Proxy;
use crate::support::*;
use chargeplane_cluster::conformance::{Writer, node, read_all, shard};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use chargeplane_redis::{RedisJournal, RedisOptions};

/// The next commit is refused and every open says what is missing, without changing anything.
async fn closed(journal: &RedisJournal, writer: &Writer, missing_from: u64, head_epoch: u64) {
    let refused = offer(journal, writer.peek("after the loss")).await;
    let last_lsn = missing_from - 1;
    assert_eq!(refused, CommitOutcome::Fenced { epoch: head_epoch, last_lsn });
    for _ in 0..2 {
        match journal.open(writer.shard, node("n1")).await {
            Err(JournalError::Corrupt { shard, lsn, what }) => {
                assert_eq!((shard, lsn), (writer.shard, missing_from), "{what}");
                assert!(what.contains(&format!("acknowledged frame {}", writer.lsn)), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    let heads = journal.heads().await.expect("lists");
    let head = heads.iter().find(|head| head.shard == writer.shard);
    assert_eq!(head.map_or(0, |head| head.epoch), head_epoch, "nothing was raised");
}

#[tokio::test]
async fn an_older_append_only_file_closes_the_shard() {
    let mut server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 3).await;
    let mut other = take(&journal, 1).await;
    fill(&journal, &mut other, 2).await;
    let backup = tempfile::tempdir().expect("temporary directory");
    copy_dir(&server.append_only_dir(), backup.path());
    fill(&journal, &mut writer, 3).await;
    server.kill();
    copy_dir(backup.path(), &server.append_only_dir());
    server.restart();
    closed(&journal, &writer, 4, 1).await;
    // Its neighbour lost nothing and serves.
    let frame = other.next("goes on");
    assert_eq!(offer(&journal, frame).await, CommitOutcome::Committed);
    // A process that acknowledged none of it cannot know: it serves what is there.
    let opened = server.journal().await.open(shard(0), node("n2")).await.expect("opens");
    assert_eq!(opened.last_lsn, 3);
}

#[tokio::test]
async fn a_truncated_append_only_file_closes_the_shard() {
    let mut server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 5).await;
    server.kill();
    // Into the last script's writes: Redis drops the unfinished unit as a whole and starts without a word.
    let file = std::fs::OpenOptions::new().write(true).open(server.append_only_file()).expect("opens");
    let length = file.metadata().expect("readable").len();
    file.set_len(length - 40).expect("truncates");
    server.restart();
    closed(&journal, &writer, 5, 1).await;
    assert_eq!(read_all(&journal, shard(0), 10).await.len(), 4, "head and frame went together");
}

#[tokio::test]
async fn a_lost_take_over_closes_the_shard() {
    let mut server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 2).await;
    let backup = tempfile::tempdir().expect("temporary directory");
    copy_dir(&server.append_only_dir(), backup.path());
    let again = take(&journal, 0).await;
    assert_eq!((again.epoch, again.lsn), (2, 2));
    server.kill();
    copy_dir(backup.path(), &server.append_only_dir());
    server.restart();
    // All frames are there, but the former life of this owner would be let in again.
    assert_eq!(offer(&journal, again.peek("x")).await, CommitOutcome::Fenced { epoch: 1, last_lsn: 2 });
    assert_eq!(offer(&journal, writer.peek("x")).await, CommitOutcome::Fenced { epoch: 1, last_lsn: 2 });
    let opened = journal.open(shard(0), node("n1")).await;
    assert!(matches!(opened, Err(JournalError::Corrupt { .. })), "{opened:?}");
}

#[tokio::test]
async fn an_emptied_server_closes_the_shard() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 2).await;
    let mut client = server.client().await;
    redis::cmd("FLUSHALL").exec_async(&mut client).await.expect("empties");
    closed(&journal, &writer, 1, 0).await;
}

#[tokio::test]
async fn a_fail_over_to_a_replica_that_lags_closes_the_shard_also_when_another_owner_went_on() {
    let primary = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let proxy = Proxy::start(primary.port).await;
    let journal = RedisJournal::connect(RedisOptions::new(&proxy.url()).expect("a URL")).await.expect("connects");
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 3).await;
    // The replica has these, the primary goes on alone, and then it is gone.
    primary.until_replicated().await;
    let mut promoted = replica.client().await;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut promoted).await.expect("promotes");
    fill(&journal, &mut writer, 2).await;
    proxy.fail_over(replica.port);
    drop(primary);
    closed(&journal, &writer, 4, 1).await;
    // Another node that acknowledged none of it takes the shard and writes over the gap and beyond.
    let other = replica.journal().await;
    let mut usurper = Writer::new(&other.open(shard(0), node("n2")).await.expect("opens"));
    fill(&other, &mut usurper, 6).await;
    assert!(matches!(offer(&journal, writer.peek("x")).await, CommitOutcome::Fenced { epoch: 2, last_lsn: 9 }));
    match journal.open(shard(0), node("n1")).await {
        Err(JournalError::Corrupt { lsn: 5, what, .. }) => assert!(what.contains("another owner"), "{what}"),
        other => panic!("{other:?}"),
    }
}
