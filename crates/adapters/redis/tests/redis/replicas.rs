//! Replicas that must confirm: a commit waits for them, and its answer never comes before theirs.

use crate::support::proxy::Proxy;
use crate::support::*;
use chargeplane_cluster::conformance::{read_all, shard};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use chargeplane_redis::{Confirmation, RedisJournal, RedisOptions};

#[tokio::test]
async fn a_commit_waits_for_its_replica_and_a_fail_over_to_it_loses_nothing() {
    let primary = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let proxy = Proxy::start(primary.port).await;
    let options = RedisOptions::new(&proxy.url()).expect("a URL").replicas(1);
    let journal = RedisJournal::connect(options).await.expect("connects");
    let durability = journal.durability();
    // Debian 12 has Redis 7.0, which knows only WAIT; from 7.2 on it is WAITAOF.
    let old = durability.version.starts_with("7.0") || durability.version.starts_with("6.");
    let expected = if old { Confirmation::Received } else { Confirmation::Synced };
    assert_eq!((durability.confirmation, durability.replicas), (expected, 1));
    // A replica that has just been started may still be copying.
    let mut writer = loop {
        match journal.open(shard(0), chargeplane_cluster::conformance::node("n1")).await {
            Ok(opened) => break chargeplane_cluster::conformance::Writer::new(&opened),
            Err(error) => assert!(matches!(error, JournalError::OutcomeUnknown(_)), "{error}"),
        }
    };
    for n in 0..3 {
        assert_eq!(offer(&journal, writer.next(&format!("{n}"))).await, CommitOutcome::Committed);
    }

    // A replica that is connected and does not get on: nothing is acknowledged, also not on another connection,
    // which did not write the frame.
    replica.signal("STOP");
    let frame = writer.next("waits");
    let mut refused = 0;
    while refused < 3 {
        match journal.commit(vec![frame.clone()]).await {
            Err(JournalError::OutcomeUnknown(why)) if why.contains("0 of 1 replicas") => {
                refused += 1;
                proxy.fail_over(primary.port);
            }
            // The connection that was just cut.
            Err(JournalError::OutcomeUnknown(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(read_all(&primary.journal().await, shard(0), 10).await.len(), 4, "it is on the primary, once");
    replica.signal("CONT");
    assert_eq!(offer(&journal, frame).await, CommitOutcome::Committed);

    // The primary is lost for good: all that was acknowledged is on the replica.
    let mut promoted = replica.client().await;
    proxy.fail_over(replica.port);
    drop(primary);
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut promoted).await.expect("promotes");
    let journal = RedisJournal::connect(RedisOptions::new(&proxy.url()).expect("a URL")).await.expect("connects");
    let frames = read_all(&journal, shard(0), 10).await;
    assert_eq!((frames.len(), frames[3].hash()), (4, writer.hash));
}
