//! Charge records: the port's suite, projectors that stop in the middle, and other processes.

use crate::support::{Server, Space, alone, undisturbed};
use chargeplane_actors::conformance::{MIDNIGHT, check_records, record, shard, stored};
use chargeplane_actors::ports::{
    Added, ChargeRecords, Generation, ReadModel, RecordBatch, RecordQuery, StoreError, StoredRecord,
};
use chargeplane_cql::CqlRecords;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_conform() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    check_records(|| async {
        space.empty().await;
        space.records().await as Arc<dyn ChargeRecords>
    })
    .await;
}

/// Those that all generations share, and those of one.
const ONE_GENERATION: usize = 3 + 6;

/// How many tables of records there are. A keyspace that a test of the journal has left has that one's as well.
async fn record_tables(space: &Space) -> usize {
    space.tables().await.iter().filter(|table| table.starts_with("record")).count()
}

fn all() -> RecordQuery {
    RecordQuery { limit: 1_000, ..RecordQuery::default() }
}

fn batch(after_lsn: u64, count: u64) -> RecordBatch {
    let one = |n: u64| {
        let at = MIDNIGHT + i64::try_from(n).expect("small") * 3_600_000;
        stored(shard(2), n, 0, record(&format!("c{}.{n}", n % 3), &format!("a{}", n % 2), "Suzhou", at))
    };
    let upto_lsn = after_lsn + count;
    RecordBatch { shard: shard(2), after_lsn, upto_lsn, records: (after_lsn + 1..=upto_lsn).map(one).collect() }
}

async fn everything(store: &CqlRecords) -> Vec<StoredRecord> {
    store.page(Generation::Served, all()).await.expect("reads")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projector_that_stopped_in_the_middle_writes_the_rest() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let store = space.records().await;
    store.add(Generation::Served, batch(0, 40)).await.expect("adds");
    store.add(Generation::Served, batch(40, 40)).await.expect("adds");
    let expected = everything(&store).await;
    assert_eq!(expected.len(), 80);
    // As if the second batch's cursor, and a part of its rows in every table, had not been written.
    space.run("INSERT INTO %k.record_cursors (generation, shard, upto_lsn, records) VALUES (1, 2, 40, 40)").await;
    for n in [41, 50, 79] {
        space.run(&format!("DELETE FROM %k.records_1_by_session WHERE session = 'main/c{}.{n}'", n % 3)).await;
        space.run(&format!("DELETE FROM %k.records_1_by_place WHERE shard = 2 AND part = 0 AND lsn = {n}")).await;
    }
    for kind in ["city", "charger", "account"] {
        space.run(&format!("TRUNCATE %k.records_1_by_{kind}")).await;
    }
    // Another process goes on: it has to know nothing of the one before.
    let next = space.records().await;
    let again = next.add(Generation::Served, batch(40, 40)).await.expect("adds");
    assert_eq!((again.new, again.repeated, again.conflicts), (3, 37, vec![]));
    assert_eq!(everything(&next).await, expected[..40], "what the cursor says is in is not written again");
    assert_eq!(next.count(Generation::Served).await, Ok(80), "none is counted twice");
    for n in [41, 79] {
        let session = Some(format!("c{}.{n}", n % 3).parse().expect("an id"));
        let page = next.page(Generation::Served, RecordQuery { session, ..all() }).await.expect("reads");
        assert_eq!(page.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_another_process_publishes_is_read_at_once() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (first, second) = (space.records().await, space.records().await);
    first.add(Generation::Served, batch(0, 30)).await.expect("adds");
    let expected = everything(&second).await;
    second.begin().await.expect("begins");
    second.add(Generation::Fresh, batch(0, 20)).await.expect("adds");
    assert_eq!(second.publish().await, Ok(false), "ten records are missing");
    second.add(Generation::Fresh, batch(20, 10)).await.expect("adds");
    assert_eq!(second.publish().await, Ok(true));
    assert_eq!(everything(&first).await, expected);
    assert_eq!(record_tables(&space).await, ONE_GENERATION);
    // A generation that is behind was published over what the first one had added.
    second.begin().await.expect("begins");
    second.add(Generation::Fresh, batch(0, 30)).await.expect("adds");
    assert_eq!(second.publish().await, Ok(true));
    let ahead = first.add(Generation::Served, RecordBatch { after_lsn: 35, ..batch(35, 1) }).await;
    assert_eq!(ahead, Err(StoreError::Conflict { expected: 30, found: 35 }), "the projection begins there");
    assert_eq!(first.add(Generation::Served, batch(30, 1)).await, Ok(Added { new: 1, ..Added::default() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_rebuild_the_later_one_goes_on() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let (first, second) = (space.records().await, space.records().await);
    first.add(Generation::Served, batch(0, 10)).await.expect("adds");
    first.begin().await.expect("begins");
    second.begin().await.expect("begins");
    // Its tables are gone.
    assert!(first.add(Generation::Fresh, batch(0, 10)).await.is_err());
    second.add(Generation::Fresh, batch(0, 10)).await.expect("adds");
    assert!(first.publish().await.is_err() || first.cursors(Generation::Fresh).await.is_err());
    assert_eq!(second.publish().await, Ok(true));
    // What a process leaves behind that ends while it builds is dropped by the next one that begins.
    first.begin().await.expect("begins");
    first.add(Generation::Fresh, batch(0, 10)).await.expect("adds");
    drop(first);
    let third = space.records().await;
    assert_eq!(everything(&third).await.len(), 10);
    assert!(third.cursors(Generation::Fresh).await.is_err(), "it is nobody's");
    third.begin().await.expect("begins");
    third.discard().await.expect("drops");
    assert_eq!(record_tables(&space).await, ONE_GENERATION);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_pauses_holds_up_a_projector_and_no_reader() {
    let _server = alone().await;
    let space = Space::new().await;
    let store = space.records().await;
    store.add(Generation::Served, batch(0, 10)).await.expect("adds");
    let server = Server::find();
    server.signal("-STOP");
    let adding = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.add(Generation::Served, batch(10, 10)).await }
    });
    let read = tokio::time::timeout(Duration::from_secs(40), store.page(Generation::Served, all())).await;
    server.signal("-CONT");
    assert!(matches!(read, Ok(Err(StoreError::Io(_)))), "told, and not held up: {read:?}");
    let added = adding.await.expect("does not panic").expect("adds");
    assert_eq!((added.new + added.repeated, added.conflicts), (10, vec![]));
    assert_eq!(everything(&store).await.len(), 20);
}
