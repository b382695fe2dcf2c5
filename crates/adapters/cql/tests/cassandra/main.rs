//! The journal, the charge records and the telemetry on a real Cassandra: `./dev test cql` starts one. Each test has a keyspace of its own.

mod damage;
mod faults;
mod kills;
mod lost_messages;
mod records;
mod segments;
mod support;
mod telemetry;

use chargeplane_cluster::conformance::{Writer, check_journal, node, read_all, shard};
use chargeplane_cluster::journal::{CommitOutcome, Journal};
use chargeplane_cql::{ConnectError, CqlJournal, CqlOptions, Sync};
use std::collections::BTreeSet;
use std::sync::Arc;
use support::{Space, undisturbed};
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    drop(space.journal().await);
    // Making tables takes seconds, emptying them does not.
    let make = || {
        let emptied = async {
            space.empty().await;
            space.journal().await
        };
        tokio::task::block_in_place(|| Handle::current().block_on(emptied)) as Arc<dyn Journal>
    };
    check_journal(make).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_owner_in_another_process_is_refused() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (first, second) = (space.journal().await, space.journal().await);
    let mut stale = Writer::new(&first.open(shard(0), node("n1")).await.expect("opens"));
    assert_eq!(first.commit(vec![stale.next("a")]).await, Ok(vec![CommitOutcome::Committed]));
    let mut owner = Writer::new(&second.open(shard(0), node("n2")).await.expect("opens"));
    assert_eq!((owner.epoch, owner.lsn), (2, 1));
    let fenced = |last_lsn| Ok(vec![CommitOutcome::Fenced { epoch: 2, last_lsn }]);
    assert_eq!(first.commit(vec![stale.next("b")]).await, fenced(1));
    assert_eq!(second.commit(vec![owner.next("c")]).await, Ok(vec![CommitOutcome::Committed]));
    assert_eq!(first.commit(vec![stale.next("d")]).await, fenced(2));
    assert_eq!(first.release(shard(0), 1).await, Ok(false), "a stale owner gives nothing up");
    assert_eq!(read_all(&*first, shard(0), 10).await.len(), 2, "both read the same log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_reads_makes_nothing_and_says_what_is_not_there() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let absent = CqlOptions { keyspace: format!("{}_absent", space.options().keyspace), ..space.options() };
    let error = CqlJournal::find(&absent).await.err().expect("no such keyspace");
    assert!(matches!(&error, ConnectError::Missing { why, .. } if why == "there is no such keyspace"), "{error}");
    assert_eq!(space.count("SELECT * FROM system_schema.keyspaces WHERE keyspace_name = '%k_absent'").await, 0);

    let owner = space.journal().await;
    let mut writer = Writer::new(&owner.open(shard(0), node("n1")).await.expect("opens"));
    assert_eq!(owner.commit(vec![writer.next("a")]).await, Ok(vec![CommitOutcome::Committed]));
    let reader = CqlJournal::find(&space.options()).await.expect("there is one");
    assert_eq!(read_all(&reader, shard(0), 10).await.len(), 1);
    assert_eq!(owner.commit(vec![writer.next("b")]).await, Ok(vec![CommitOutcome::Committed]), "it took nothing over");

    space.run("DROP TABLE %k.snapshots").await;
    let error = CqlJournal::find(&space.options()).await.err().expect("half a journal is none");
    assert!(matches!(&error, ConnectError::Missing { why, .. } if why.contains("`snapshots`")), "{error}");
    assert!(!space.tables().await.contains(&"snapshots".to_owned()));
    // As it was, for the next test.
    drop(space.journal().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_open_at_once_get_an_epoch_each() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let mut opens = Vec::new();
    for n in 0..4 {
        let journal = space.journal().await;
        opens.push(tokio::spawn(async move {
            loop {
                // Who meets another's proposal may wait longer than a request may take.
                match journal.open(shard(0), node(&format!("n{n}"))).await {
                    Ok(opened) => return (journal, opened),
                    Err(error) => assert!(!error.is_fatal(), "{error}"),
                }
            }
        }));
    }
    let mut opened = Vec::new();
    for open in opens {
        opened.push(open.await.expect("does not panic"));
    }
    let epochs: BTreeSet<_> = opened.iter().map(|(_, opened)| opened.epoch).collect();
    assert_eq!(epochs.len(), 4, "{epochs:?}");
    let newest = space.journal().await.heads().await.expect("lists")[0].epoch;
    for (journal, opened) in opened {
        let outcome = support::settle(&*journal, vec![Writer::new(&opened).next("mine")]).await;
        assert_eq!(outcome[0] == CommitOutcome::Committed, opened.epoch == newest, "epoch {}", opened.epoch);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_really_gives_is_said() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let journal = space.journal().await;
    let durability = journal.durability();
    assert_eq!((&durability.sync, durability.copies), (&Sync::Before("batch".to_owned()), 1));
    let text = durability.to_string();
    assert!(text.starts_with("Cassandra 5.") && text.contains("one copy"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_with_the_reason() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    drop(space.journal().await);
    space.run("UPDATE %k.layout SET version = 2 WHERE id = 0 IF EXISTS").await;
    match CqlJournal::connect(&space.options()).await {
        Err(ConnectError::Newer { found: 2, .. }) => {}
        other => panic!("{:?}", other.err()),
    }
    let nowhere = CqlOptions::new(vec!["127.0.0.1:9".to_owned()], "nowhere");
    let error = CqlJournal::connect(&nowhere).await.err().expect("nobody listens there");
    assert!(error.to_string().contains("127.0.0.1:9"), "{error}");
    let injection = CqlOptions { keyspace: "k; drop".to_owned(), ..space.options() };
    assert!(matches!(CqlJournal::connect(&injection).await, Err(ConnectError::Settings(_))));
}
