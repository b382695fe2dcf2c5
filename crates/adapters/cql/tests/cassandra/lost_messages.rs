//! What a network does between driver and server: an answer is lost, a request comes late.

use crate::support::{self, Space, open, settle, undisturbed};
use chargeplane_cluster::conformance::{node, read_all, shard};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use scylla_proxy::{
    Condition, Node, Proxy, Reaction, RequestOpcode, RequestReaction, RequestRule, ResponseOpcode, ResponseReaction,
    ResponseRule, RunningProxy, ShardAwareness,
};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

/// How late the late request is: long after the time-out of its sender, and after the take-over on a busy machine.
const LATE: Duration = Duration::from_secs(6);

/// A way to the server through which messages get lost.
async fn proxy() -> (RunningProxy, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let node = Node::builder()
        .real_address(support::address())
        .proxy_address(free)
        .shard_awareness(ShardAwareness::Unaware)
        .build();
    (Proxy::builder().with_node(node).build().run().await.expect("runs"), free)
}

/// Answers of conditional writes.
fn decided() -> Condition {
    Condition::ResponseOpcode(ResponseOpcode::Result)
        .and(Condition::BodyContainsCaseSensitive(b"[applied]".to_vec().into_boxed_slice()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_answer_of_a_commit_is_learnt_by_offering_it_again() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (mut proxy, address) = proxy().await;
    let journal = space.journal_at(address).await;
    let mut writer = open(&*journal, 0, "n1").await;
    settle(&*journal, vec![writer.next("before")]).await;

    let (seen, mut dropped) = mpsc::unbounded_channel();
    let lose = ResponseReaction::drop_frame().with_feedback_when_performed(seen);
    let rule = ResponseRule(decided().and(Condition::TrueForLimitedTimes(1)), lose);
    proxy.running_nodes[0].change_response_rules(Some(vec![rule]));
    let frames = vec![writer.next("a"), writer.next("b")];
    let outcome = journal.commit(frames.clone()).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
    assert!(dropped.try_recv().is_ok(), "an answer was lost");

    // Another frame at that number is refused, by the same owner in the same epoch.
    let other = chargeplane_cluster::frame::Frame { payload: "x".into(), ..frames[0].clone() };
    assert_eq!(settle(&*journal, vec![other]).await, [CommitOutcome::Fenced { epoch: 1, last_lsn: 3 }]);
    assert_eq!(settle(&*journal, frames.clone()).await, [CommitOutcome::Committed; 2]);
    assert_eq!(settle(&*journal, vec![writer.next("c")]).await, [CommitOutcome::Committed]);
    let log = read_all(&*journal, shard(0), 10).await;
    assert_eq!((log.len(), &log[1..3]), (4, &frames[..]), "nothing twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lost_answer_of_an_open_costs_an_epoch_and_nothing_else() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (mut proxy, address) = proxy().await;
    let journal = space.journal_at(address).await;
    let rule = ResponseRule(decided().and(Condition::TrueForLimitedTimes(1)), ResponseReaction::drop_frame());
    proxy.running_nodes[0].change_response_rules(Some(vec![rule]));
    let outcome = journal.open(shard(0), node("n1")).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
    let mut writer = open(&*journal, 0, "n1").await;
    assert_eq!(writer.epoch, 2);
    assert_eq!(settle(&*journal, vec![writer.next("a")]).await, [CommitOutcome::Committed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_after_a_take_over_is_refused() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (mut proxy, address) = proxy().await;
    let journal = space.journal_at(address).await;
    let mut stale = open(&*journal, 0, "n1").await;
    settle(&*journal, vec![stale.next("a")]).await;
    let other = space.journal().await;

    let batch = Condition::RequestOpcode(RequestOpcode::Batch).and(Condition::TrueForLimitedTimes(1));
    proxy.running_nodes[0].change_request_rules(Some(vec![RequestRule(batch, RequestReaction::delay(LATE))]));
    let (seen, mut answers) = mpsc::unbounded_channel();
    let watch = ResponseReaction::noop().with_feedback_when_performed(seen);
    proxy.running_nodes[0].change_response_rules(Some(vec![ResponseRule(decided(), watch)]));
    let late = stale.next("late");
    let outcome = journal.commit(vec![late.clone()]).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");

    let mut owner = open(&*other, 0, "n2").await;
    assert_eq!(owner.lsn, 1, "the late frame is not there yet");
    assert!(answers.try_recv().is_err(), "the late request was not answered before the take-over");
    assert_eq!(settle(&*other, vec![owner.next("b")]).await, [CommitOutcome::Committed]);
    // It arrives, and is answered to nobody.
    let answered = tokio::time::timeout(LATE * 2, answers.recv()).await;
    assert!(answered.is_ok_and(|answer| answer.is_some()), "the late request was carried to the server");
    let texts: Vec<_> = read_all(&*other, shard(0), 10).await.into_iter().map(|frame| frame.payload).collect();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(settle(&*journal, vec![late]).await, [CommitOutcome::Fenced { epoch: 2, last_lsn: 2 }]);
}
