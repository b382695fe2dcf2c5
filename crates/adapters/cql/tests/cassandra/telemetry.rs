//! Telemetry: the port's suite, the schema and its versions, and writers that are killed or cut off.

use crate::support::{Server, Space, alone, undisturbed};
use chargeplane_actors::conformance::check_telemetry;
use chargeplane_actors::ports::{ChunkQuery, ChunkRow, Flush, StreamCursor, TelemetryStore};
use chargeplane_cql::{ConnectError, CqlTelemetry, TELEMETRY_LAYOUT};
use chargeplane_domain::chunk::{Chunk, range_of};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::sample::{NumberedSample, Sample};
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const SHARD: ShardId = ShardId { family: Family::Station, index: 3 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_conforms() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    check_telemetry(|| async {
        space.empty().await;
        space.telemetry().await as Arc<dyn TelemetryStore>
    })
    .await;
}

fn row(epoch: u64, numbers: std::ops::Range<u64>) -> ChunkRow {
    let range = range_of(numbers.start);
    let one = |number: u64| {
        let at = Timestamp(1_767_600_000_000 + i64::try_from(number).expect("small") * 100);
        let (voltage_dv, current_da, temperature_dc, soc_permille) = (4_000, 100, 250, 500);
        let (power, register) = (Watts(40_000), WattHours(1));
        let sample = Sample { at, voltage_dv, current_da, temperature_dc, soc_permille, power, register };
        NumberedSample { number, sample }
    };
    let chunk = Chunk::new(range, numbers.map(one).collect()).expect("one range").encode().expect("not empty");
    ChunkRow { charger: "c1".parse().expect("an id"), incarnation: 1, epoch, chunk }
}

fn flush(chunks: Vec<ChunkRow>, upto_seq: u64) -> Flush {
    let boot = BootId::new(1, 1);
    let cursors = vec![StreamCursor { gateway: "g1".parse().expect("an id"), stream: 1, boot, upto_seq }];
    Flush { shard: SHARD, chunks, gaps: vec![], cursors }
}

async fn stored(store: &dyn TelemetryStore) -> BTreeSet<u64> {
    let (from, to) = (Timestamp(i64::MIN), Timestamp(i64::MAX));
    let query = ChunkQuery { charger: "c1".parse().expect("an id"), from, to, limit: 10_000 };
    let rows = store.chunks(query).await.expect("reads");
    rows.iter().flat_map(|row| row.chunk.header.numbers().collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_migrated_and_an_older_or_newer_one_is_refused() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    // The keyspace may be another test's, emptied.
    let before = CqlTelemetry::migrate(&space.options()).await.expect("migrates");
    assert!(before.is_none_or(|version| version == TELEMETRY_LAYOUT), "{before:?}");
    let again = CqlTelemetry::migrate(&space.options()).await.expect("once more changes nothing");
    assert_eq!(again, Some(TELEMETRY_LAYOUT));
    CqlTelemetry::connect(&space.options()).await.map(drop).expect("connects");
    let table = "SELECT compaction, default_time_to_live, gc_grace_seconds FROM system_schema.tables \
                 WHERE keyspace_name = '%k' AND table_name = 'telemetry_chunks'";
    assert_eq!(space.count(table).await, 1);
    space.run(&format!("UPDATE %k.layout SET version = {} WHERE id = 2 IF EXISTS", TELEMETRY_LAYOUT - 1)).await;
    match CqlTelemetry::connect(&space.options()).await.err() {
        Some(error @ ConnectError::NotMigrated { .. }) => {
            assert!(error.to_string().contains("chargeplane store migrate"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(CqlTelemetry::migrate(&space.options()).await.ok(), Some(Some(TELEMETRY_LAYOUT - 1)));
    CqlTelemetry::connect(&space.options()).await.map(drop).expect("connects");
    space.run(&format!("UPDATE %k.layout SET version = {} WHERE id = 2 IF EXISTS", TELEMETRY_LAYOUT + 1)).await;
    let newer = |found| matches!(found, Some(ConnectError::Newer { found, .. }) if found == TELEMETRY_LAYOUT + 1);
    assert!(newer(CqlTelemetry::connect(&space.options()).await.err()));
    assert!(newer(CqlTelemetry::migrate(&space.options()).await.err()));
    space.run("TRUNCATE %k.layout").await;
    let none = CqlTelemetry::connect(&space.options()).await.err();
    assert!(matches!(none, Some(ConnectError::NotMigrated { found: None, .. })), "{none:?}");
}

/// A range is written again and again while it fills, and takes one row; what lacks something takes another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_writes_a_range_again_leaves_one_row() {
    let _server = undisturbed().await;
    let space = Space::new().await;
    let store = space.telemetry().await;
    for upto in [10, 40, 100, 256] {
        store.write(flush(vec![row(1, 0..upto)], upto)).await.expect("writes");
    }
    assert_eq!(space.count("SELECT epoch FROM %k.telemetry_chunks").await, 1);
    store.write(flush(vec![row(1, 30..50)], 300)).await.expect("writes");
    let other = space.telemetry().await;
    other.write(flush(vec![row(2, 0..5)], 299)).await.expect("writes");
    assert_eq!(space.count("SELECT epoch FROM %k.telemetry_chunks").await, 3);
    assert_eq!(stored(&*other).await, (0..256).collect());
    assert_eq!(other.cursors(SHARD).await.expect("reads")[0].upto_seq, 300, "not back, whoever writes");
}

/// What a write has promised is there after the server was killed in the middle of others; those wait and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill_of_the_server() {
    let _server = alone().await;
    let space = Space::new().await;
    let store = space.telemetry().await;
    let (server, writer) = (Server::find(), Arc::clone(&store));
    let writing = tokio::spawn(async move {
        for range in 0..200u64 {
            writer.write(flush(vec![row(1, range * 256..range * 256 + 256)], range + 1)).await.expect("writes");
        }
    });
    while store.cursors(SHARD).await.ok().and_then(|cursors| Some(cursors.first()?.upto_seq)).unwrap_or(0) < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal("-9");
    server.start().await;
    writing.await.expect("goes on when the server is back");
    let reader = space.telemetry().await;
    assert_eq!(reader.cursors(SHARD).await.expect("reads")[0].upto_seq, 200);
    assert_eq!(stored(&*reader).await, (0..200 * 256).collect());
}
