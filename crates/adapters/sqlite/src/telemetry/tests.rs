use super::*;
use chargeplane_domain::chunk::{Chunk, range_of};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::placement::Family;
use chargeplane_domain::sample::{Gap, GapReason, NumberedSample, Sample};
use chargeplane_domain::units::{WattHours, Watts};

/// The file of the first day of 1970, which the samples below are of.
const FIRST_DAY: &str = "telemetry-19700101.sqlite";

const SHARD: ShardId = ShardId { family: Family::Station, index: 3 };

fn open() -> (tempfile::TempDir, SqliteTelemetry) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = SqliteTelemetry::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
    (dir, store)
}

fn charger() -> ChargerId {
    "c1".parse().expect("an id")
}

fn gateway() -> GatewayId {
    "g1".parse().expect("an id")
}

/// A second a sample, from zero.
fn sample(number: u64) -> NumberedSample {
    let n = i64::try_from(number).expect("small");
    let sample = Sample {
        at: Timestamp(n * 1_000),
        voltage_dv: 4_000,
        current_da: 100,
        temperature_dc: 250,
        soc_permille: 500,
        power: Watts(n % 7),
        register: WattHours(n),
    };
    NumberedSample { number, sample }
}

fn row(epoch: u64, numbers: impl IntoIterator<Item = u64>) -> ChunkRow {
    let samples: Vec<_> = numbers.into_iter().map(sample).collect();
    let chunk = Chunk::new(range_of(samples[0].number), samples).expect("one range");
    ChunkRow { charger: charger(), incarnation: 1, epoch, chunk: chunk.encode().expect("not empty") }
}

fn flush(chunks: Vec<ChunkRow>) -> Flush {
    Flush { shard: SHARD, chunks, gaps: vec![], cursors: vec![] }
}

async fn stored(store: &SqliteTelemetry, from: i64, to: i64) -> Vec<(u64, Vec<u64>)> {
    let query = ChunkQuery { charger: charger(), from: Timestamp(from), to: Timestamp(to), limit: 100 };
    let rows = store.chunks(query).await.expect("reads");
    rows.iter().map(|row| (row.epoch, row.chunk.header.numbers().collect())).collect()
}

#[tokio::test]
async fn a_later_write_under_one_key_never_takes_away() {
    let (_dir, store) = open();
    for (what, numbers, expected) in [
        ("the first", vec![0, 1, 2], vec![0, 1, 2]),
        ("more", vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]),
        ("less", vec![2, 3], vec![0, 1, 2, 3, 4]),
        ("other", vec![4, 8, 9], vec![0, 1, 2, 3, 4, 8, 9]),
    ] {
        store.write(flush(vec![row(1, numbers)])).await.expect("writes");
        assert_eq!(stored(&store, 0, i64::MAX).await, [(1, expected)], "{what}");
    }
    let query = ChunkQuery { charger: charger(), from: Timestamp(0), to: Timestamp(i64::MAX), limit: 1 };
    let rows = store.chunks(query).await.expect("reads");
    let chunk = Chunk::decode(&rows[0].chunk.bytes).expect("intact");
    assert_eq!(chunk.samples().last(), Some(&sample(9)));
}

#[tokio::test]
async fn epochs_and_ranges_stay_beside_each_other_and_are_found_by_time() {
    let (_dir, store) = open();
    let rows = vec![row(2, 0..10), row(1, 5..20), row(1, 256..300), row(1, 1_000..1_010)];
    store.write(flush(rows)).await.expect("writes");
    let first = [(2, (0..10).collect::<Vec<_>>()), (1, (5..20).collect())];
    assert_eq!(stored(&store, 0, 6_000).await, first);
    assert_eq!(stored(&store, 9_000, 9_001).await, first);
    assert_eq!(stored(&store, 10_000, 200_000).await, [first[1].clone()]);
    assert_eq!(stored(&store, 299_000, 1_000_001).await.len(), 2);
    assert_eq!(stored(&store, 299_001, 1_000_000).await, []);
    let query = ChunkQuery {
        charger: "other/c1".parse().expect("an id"),
        from: Timestamp(0),
        to: Timestamp(i64::MAX),
        limit: 9,
    };
    assert_eq!(store.chunks(query).await, Ok(vec![]), "of another tenant's charger");
}

#[tokio::test]
async fn cursors_move_forward_only_and_belong_to_their_shard() {
    let (_dir, store) = open();
    let cursor = |stream, boot, upto_seq| {
        let boot = BootId::new(1, boot);
        StreamCursor { gateway: gateway(), stream, boot, upto_seq }
    };
    // The same boot and stream of a later enrolment.
    let anew = StreamCursor { boot: BootId::new(2, 2), ..cursor(1, 2, 1) };
    for upto_seq in [5, 9, 7] {
        let cursors = vec![cursor(1, u32::MAX, upto_seq), cursor(1, 2, 8), anew.clone()];
        store.write(Flush { cursors, ..flush(vec![]) }).await.expect("writes");
    }
    assert_eq!(store.cursors(SHARD).await, Ok(vec![cursor(1, 2, 8), cursor(1, u32::MAX, 9), anew]));
    let other = ShardId { index: 4, ..SHARD };
    assert_eq!(store.cursors(other).await, Ok(vec![]));
}

#[tokio::test]
async fn gaps_are_kept_once_with_any_numbers() {
    let (_dir, store) = open();
    let gap = |first, last, reason| GapRow { charger: charger(), incarnation: 1, gap: Gap { first, last, reason } };
    let gaps = vec![
        gap(0, 4, GapReason::Thinned),
        gap(u64::MAX - 1, u64::MAX, GapReason::Dropped),
        gap(7, 7, GapReason::Refused),
    ];
    for _ in 0..2 {
        store.write(Flush { gaps: gaps.clone(), ..flush(vec![]) }).await.expect("writes");
    }
    assert_eq!(store.gaps(charger()).await, Ok(gaps));
}

#[tokio::test]
async fn a_flush_is_all_or_nothing() {
    let (_dir, store) = open();
    store.write(flush(vec![row(1, [0, 1])])).await.expect("writes");
    let mut broken = row(1, [5]);
    broken.chunk.bytes[3] ^= 1;
    let cursors = vec![StreamCursor { gateway: gateway(), stream: 1, boot: BootId::new(1, 1), upto_seq: 9 }];
    let refused = store.write(Flush { cursors, ..flush(vec![row(1, 256..260), broken]) }).await;
    assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");
    assert_eq!(stored(&store, 0, i64::MAX).await, [(1, vec![0, 1])]);
    assert_eq!(store.cursors(SHARD).await, Ok(vec![]), "no promise without the data");
}

#[tokio::test]
async fn damage_is_reported_and_healed_by_a_whole_copy_only() {
    let (dir, store) = open();
    store.write(flush(vec![row(1, [0, 1, 2])])).await.expect("writes");
    let other = rusqlite::Connection::open(dir.path().join(FIRST_DAY)).expect("opens");
    other.execute("UPDATE chunks SET chunk = zeroblob(60)", []).expect("damages");
    let query = ChunkQuery { charger: charger(), from: Timestamp(0), to: Timestamp(i64::MAX), limit: 9 };
    assert!(matches!(store.chunks(query).await, Err(StoreError::Corrupt(_))));
    let less = store.write(flush(vec![row(1, [0, 1])])).await;
    assert!(matches!(less, Err(StoreError::Corrupt(_))), "{less:?}");
    store.write(flush(vec![row(1, [0, 1, 2])])).await.expect("heals");
    assert_eq!(stored(&store, 0, i64::MAX).await, [(1, vec![0, 1, 2])]);
}

#[tokio::test]
async fn what_was_flushed_is_there_after_a_restart() {
    let (dir, store) = open();
    store.write(flush(vec![row(7, [3, 4])])).await.expect("writes");
    drop(store);
    let data = DataDir::lock(dir.path()).expect("the store that was dropped let go of it");
    let reopened = SqliteTelemetry::open(&data).expect("opens");
    assert_eq!(stored(&reopened, 0, i64::MAX).await, [(7, vec![3, 4])]);
}

#[tokio::test]
async fn conforms() {
    let dirs = std::sync::Mutex::new(Vec::new());
    let make = || async {
        let (dir, store) = open();
        dirs.lock().expect("not poisoned").push(dir);
        std::sync::Arc::new(store) as std::sync::Arc<dyn TelemetryStore>
    };
    chargeplane_actors::conformance::check_telemetry(make).await;
}

/// A charger's chunks before and after midnight, and one that grew across it.
fn around_midnight() -> Vec<Vec<u64>> {
    // A second a sample: number 86,400 is the first of the second day, in range 337.
    vec![(86_100..86_200).collect(), (86_300..86_390).collect(), (86_300..86_500).collect(), (90_000..90_010).collect()]
}

fn chunks_of(numbers: Vec<u64>) -> Vec<ChunkRow> {
    let ranges: std::collections::BTreeSet<u64> = numbers.iter().copied().map(range_of).collect();
    let of = |range| row(1, numbers.iter().copied().filter(move |number| range_of(*number) == range));
    ranges.into_iter().map(of).collect()
}

async fn numbers(store: &SqliteTelemetry, from: i64, to: i64) -> std::collections::BTreeSet<u64> {
    stored(store, from, to).await.into_iter().flat_map(|(_, numbers)| numbers).collect()
}

#[tokio::test]
async fn a_day_is_a_file_and_goes_as_a_whole() {
    let (dir, store) = open();
    for numbers in around_midnight() {
        store.write(flush(chunks_of(numbers))).await.expect("writes");
    }
    let all: std::collections::BTreeSet<u64> = around_midnight().into_iter().flatten().collect();
    assert_eq!(numbers(&store, 0, i64::MAX).await, all);
    // What is of the first day in a chunk of the second is found as well.
    assert!(numbers(&store, 86_350_000, 86_351_000).await.contains(&86_350));
    let rollup = Rollup::empty(Hour(23));
    let dirty = DirtyHour { charger: charger(), hour: Hour(23), mark: 0 };
    store.put_rollups(SHARD, vec![(dirty, Some(rollup.clone()))]).await.expect("stored");
    store.expire(Timestamp(86_399_999)).await.expect("nothing is over");
    assert_eq!(numbers(&store, 0, i64::MAX).await, all);
    store.expire(Timestamp(86_400_000)).await.expect("removes");
    assert!(!dir.path().join(FIRST_DAY).exists());
    let left = numbers(&store, 0, i64::MAX).await;
    assert!(left.contains(&90_000) && left.contains(&86_499) && !left.contains(&86_100));
    assert_eq!(store.rollups(charger(), Hour(0), Hour(99)).await, Ok(vec![rollup]), "hours outlive their day");
    // Late data of a day that is gone makes its file again.
    store.write(flush(vec![row(1, 0..3)])).await.expect("writes");
    assert_eq!(stored(&store, 0, 5_000).await, [(1, vec![0, 1, 2])]);
}

#[tokio::test]
async fn hours_are_marked_until_they_are_rolled_up_as_they_are() {
    let (dir, store) = open();
    let hours = |dirty: &[DirtyHour]| dirty.iter().map(|dirty| dirty.hour.0).collect::<std::collections::BTreeSet<_>>();
    store.write(flush(chunks_of((3_590..3_620).collect()))).await.expect("writes");
    let other = ShardId { index: 9, ..SHARD };
    assert_eq!(store.dirty_hours(other, Hour(99), 9).await, Ok(vec![]), "of another shard");
    assert_eq!(hours(&store.dirty_hours(SHARD, Hour(1), 9).await.expect("reads")), [0].into());
    let dirty = store.dirty_hours(SHARD, Hour(9), 9).await.expect("reads");
    assert_eq!(hours(&dirty), [0, 1].into());
    // The second hour changes while both are being rolled up.
    store.write(flush(chunks_of((3_700..3_710).collect()))).await.expect("writes");
    let made = dirty.into_iter().map(|dirty| (dirty.clone(), Some(Rollup::empty(dirty.hour)))).collect();
    store.put_rollups(SHARD, made).await.expect("stores");
    assert_eq!(hours(&store.dirty_hours(SHARD, Hour(9), 9).await.expect("reads")), [1].into());
    let found = store.rollups(charger(), Hour(0), Hour(1)).await;
    assert_eq!(found, Ok(vec![Rollup::empty(Hour(0))]));
    drop(store);
    let data = DataDir::lock(dir.path()).expect("the store that was dropped let go of it");
    let reopened = SqliteTelemetry::open(&data).expect("opens");
    let dirty = reopened.dirty_hours(SHARD, Hour(9), 9).await.expect("reads");
    assert_eq!(hours(&dirty), [1].into(), "marks are there after a restart");
    reopened.put_rollups(SHARD, vec![(dirty[0].clone(), None)]).await.expect("only the mark goes");
    assert_eq!(reopened.dirty_hours(SHARD, Hour(9), 9).await, Ok(vec![]));
}

#[tokio::test]
async fn flushes_at_once_are_all_there_also_when_who_wrote_one_gave_up() {
    let (_dir, store) = open();
    let store = Arc::new(store);
    let write = |n: u64| {
        let store = Arc::clone(&store);
        async move { store.write(flush(vec![row(1, n * 256..n * 256 + 5)])).await }
    };
    let gave_up = tokio::spawn(write(0));
    tokio::task::yield_now().await;
    gave_up.abort();
    let writes: Vec<_> = (1..40).map(|n| tokio::spawn(write(n))).collect();
    for write in writes {
        assert_eq!(write.await.expect("runs"), Ok(()));
    }
    let found = numbers(&store, 0, i64::MAX).await;
    assert!((1..40).all(|n| found.contains(&(n * 256 + 4))), "{found:?}");
}
