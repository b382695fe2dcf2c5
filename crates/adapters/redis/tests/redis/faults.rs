//! Kills, cut connections, late requests and races: nothing acknowledged is missing, nothing is there twice.

use crate::support::proxy::Proxy;
use crate::support::*;
use chargeplane_cluster::conformance::{Writer, node, read_all, shard};
use chargeplane_cluster::frame::FrameHash;
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use chargeplane_redis::{RedisJournal, RedisOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn journal_behind(proxy: &Proxy) -> RedisJournal {
    RedisJournal::connect(RedisOptions::new(&proxy.url()).expect("a URL")).await.expect("connects")
}

/// Commits until it is told to stop, through the server's deaths, and notes what was acknowledged.
async fn load(
    journal: Arc<RedisJournal>,
    index: u16,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(u16, u64, FrameHash)>>>,
) {
    let mut writer = take(&*journal, index).await;
    while !stop.load(Ordering::Relaxed) {
        let frame = writer.next(&format!("{index}/{}", writer.lsn).repeat(20));
        assert_eq!(offer(&*journal, frame).await, CommitOutcome::Committed, "nobody else writes here");
        acknowledged.lock().expect("not poisoned").push((index, writer.lsn, writer.hash));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_server_loses_no_acknowledged_frame_and_doubles_none() {
    let mut server = Server::start();
    let journal = Arc::new(server.journal().await);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let tasks: Vec<_> = (0..8u16)
        .map(|index| tokio::spawn(load(Arc::clone(&journal), index, Arc::clone(&stop), Arc::clone(&acknowledged))))
        .collect();
    let mut seen = 0;
    for round in 0..10u64 {
        tokio::time::sleep(Duration::from_millis(150 + 37 * round)).await;
        server.kill();
        let upto = acknowledged.lock().expect("not poisoned").len();
        assert!(upto > seen, "round {round}: nothing was acknowledged");
        seen = upto;
        server.restart();
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("does not panic");
    }
    // Judged by another process's life: one that remembers nothing.
    let journal = server.journal().await;
    let mut logs = Vec::new();
    for index in 0..8 {
        logs.push(read_all(&journal, shard(index), 500).await);
        journal.open(shard(index), node("n2")).await.expect("the whole log is intact");
    }
    let acknowledged = acknowledged.lock().expect("not poisoned");
    for (index, lsn, hash) in acknowledged.iter() {
        let frame = &logs[usize::from(*index)][usize::try_from(*lsn - 1).expect("fits")];
        assert_eq!((frame.lsn, frame.hash()), (*lsn, *hash), "shard {index}");
    }
    let stored: usize = logs.iter().map(Vec::len).sum();
    assert_eq!(stored, acknowledged.len(), "each frame was acknowledged in the end, and is there once");
    println!("{stored} frames through 10 deaths of the server");
}

#[tokio::test]
async fn a_swallowed_answer_is_asked_for_again_and_nothing_is_doubled() {
    let server = Server::start();
    let proxy = Proxy::start(server.port).await;
    let journal = journal_behind(&proxy).await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 2).await;
    for n in 0..5 {
        let frame = writer.next(&format!("lost answer {n}"));
        proxy.swallow(&format!("lost answer {n}"));
        let outcome = journal.commit(vec![frame.clone()]).await;
        assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
        assert_eq!(proxy.swallowed(), n + 1, "the server had answered");
        // It was done, though nobody was told.
        assert_eq!(server.journal().await.read(shard(0), frame.lsn - 1, 9).await, Ok(vec![frame.clone()]));
        for _ in 0..2 {
            assert_eq!(journal.commit(vec![frame.clone()]).await, Ok(vec![CommitOutcome::Committed]));
        }
    }
    fill(&journal, &mut writer, 1).await;
    assert_eq!(read_all(&journal, shard(0), 100).await.len(), 8);
}

#[tokio::test]
async fn a_swallowed_answer_to_an_open_costs_an_epoch_and_nothing_else() {
    let server = Server::start();
    let proxy = Proxy::start(server.port).await;
    let journal = journal_behind(&proxy).await;
    proxy.swallow("swallowed-owner");
    let opened = journal.open(shard(0), node("swallowed-owner")).await;
    assert!(matches!(opened, Err(JournalError::OutcomeUnknown(_))), "{opened:?}");
    let opened = journal.open(shard(0), node("swallowed-owner")).await.expect("opens");
    assert_eq!(opened.epoch, 2);
    fill(&journal, &mut Writer::new(&opened), 1).await;
}

#[tokio::test]
async fn a_commit_that_arrives_after_the_take_over_is_refused() {
    let server = Server::start();
    let proxy = Proxy::start(server.port).await;
    let old = journal_behind(&proxy).await;
    let mut stale = take(&old, 0).await;
    fill(&old, &mut stale, 1).await;
    // The old owner's commit is under way, for longer than it waits.
    proxy.hold("late debit");
    let late = stale.next("late debit");
    let outcome = old.commit(vec![late.clone()]).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
    proxy.until_held().await;
    let new = server.journal().await;
    let opened = new.open(shard(0), node("n2")).await.expect("takes over");
    assert_eq!((opened.epoch, opened.last_lsn), (2, 1));
    // Once before the new owner's first frame, which would make the number a taken one anyway.
    proxy.let_go().await;
    assert_eq!(read_all(&new, shard(0), 10).await.len(), 1, "it arrived and was left out");
    let mut owner = Writer::new(&opened);
    fill(&new, &mut owner, 1).await;
    let fenced = CommitOutcome::Fenced { epoch: 2, last_lsn: 2 };
    assert_eq!(offer(&old, late).await, fenced, "and so it is when it is offered again");
    assert_eq!(read_all(&new, shard(0), 10).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_clients_that_race_for_a_shard_each_frame_has_one_owner() {
    let server = Server::start();
    let committed = Arc::new(Mutex::new(Vec::new()));
    let racers: Vec<_> = ["n1", "n2"]
        .into_iter()
        .map(|name| {
            let (options, committed) = (server.options(), Arc::clone(&committed));
            tokio::spawn(async move {
                let journal = RedisJournal::connect(options).await.expect("connects");
                let mut takes = 0;
                for _ in 0..60 {
                    let opened = journal.open(shard(0), node(name)).await.expect("opens");
                    let mut writer = Writer::new(&opened);
                    takes += 1;
                    for n in 0..20 {
                        let frame = writer.next(&format!("{name} {takes} {n}"));
                        match offer(&journal, frame.clone()).await {
                            CommitOutcome::Committed => committed.lock().expect("not poisoned").push(frame),
                            CommitOutcome::Fenced { epoch, .. } => {
                                assert!(epoch > opened.epoch, "only a later owner fences");
                                break;
                            }
                        }
                    }
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.expect("does not panic");
    }
    let stored = read_all(&server.journal().await, shard(0), 500).await;
    let mut committed = committed.lock().expect("not poisoned").clone();
    committed.sort_by_key(|frame| frame.lsn);
    assert_eq!(stored, committed, "what was acknowledged, all of it and nothing else, in one chain");
    let owners = stored.chunk_by(|a, b| a.epoch == b.epoch).count();
    println!("{} frames, {owners} runs of one owner", stored.len());
    assert!(owners > 2, "they did race");
}
