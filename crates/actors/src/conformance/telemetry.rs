//! What every telemetry store does, however it keeps chunks: nothing that was written is lost, nothing is read twice,
//! cursors never move back.

use crate::ports::{ChunkQuery, ChunkRow, DirtyHour, Flush, GapRow, StreamCursor, TelemetryStore};
use chargeplane_domain::chunk::{Chunk, range_of};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::rollup::{Hour, StoredChunk, rollup};
use chargeplane_domain::sample::{Gap, GapReason, NumberedSample, Sample};
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

const SHARD: ShardId = ShardId { family: Family::Station, index: 3 };

/// Three minutes before a midnight, so that ranges cross days.
const START: i64 = 1_767_571_020_000;

/// Runs the suite; each call of `make` gives an empty store.
pub async fn check_telemetry<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn TelemetryStore>>,
{
    a_later_write_never_takes_away(&*make().await).await;
    versions_of_several_owners_are_all_there(&*make().await).await;
    ranges_are_found_by_time_across_days(&*make().await).await;
    spans_say_what_a_range_will_cost(&*make().await).await;
    enrolments_and_chargers_are_apart(&*make().await).await;
    cursors_move_forward_only_and_belong_to_their_shard(&*make().await).await;
    gaps_are_kept_once_with_any_numbers(&*make().await).await;
    hours_are_marked_until_they_are_rolled_up_as_they_are(&*make().await).await;
    many_flushes_at_once_lose_nothing(make().await).await;
}

fn charger(name: &str) -> ChargerId {
    name.parse().expect("an id")
}

/// A second a sample.
fn sample(number: u64) -> NumberedSample {
    let n = i64::try_from(number).expect("small");
    let sample = Sample {
        at: Timestamp(START + n * 1_000),
        voltage_dv: 4_000,
        current_da: 100,
        temperature_dc: 250,
        soc_permille: 500,
        power: Watts(n % 7),
        register: WattHours(n),
    };
    NumberedSample { number, sample }
}

fn row_of(name: &str, incarnation: u32, epoch: u64, numbers: impl IntoIterator<Item = u64>) -> ChunkRow {
    let samples: Vec<_> = numbers.into_iter().map(sample).collect();
    let chunk = Chunk::new(range_of(samples[0].number), samples).expect("one range");
    ChunkRow { charger: charger(name), incarnation, epoch, chunk: chunk.encode().expect("not empty") }
}

fn row(epoch: u64, numbers: impl IntoIterator<Item = u64>) -> ChunkRow {
    row_of("c1", 1, epoch, numbers)
}

fn flush(chunks: Vec<ChunkRow>) -> Flush {
    Flush { shard: SHARD, chunks, gaps: vec![], cursors: vec![] }
}

fn query(from: i64, to: i64) -> ChunkQuery {
    ChunkQuery { charger: charger("c1"), from: Timestamp(from), to: Timestamp(to), limit: 1_000 }
}

const ALL: (i64, i64) = (i64::MIN, i64::MAX);

/// The samples of what a query finds, united by number as every reader does. One number has one content.
async fn united(store: &dyn TelemetryStore, query: ChunkQuery) -> BTreeMap<(u32, u64), Sample> {
    let mut found = BTreeMap::new();
    for row in store.chunks(query).await.expect("reads") {
        let chunk = Chunk::decode(&row.chunk.bytes).expect("intact");
        assert_eq!(chunk.header(), row.chunk.header, "the header that was found with it");
        for NumberedSample { number, sample } in chunk.samples() {
            let known = found.insert((row.incarnation, *number), *sample);
            assert!(known.is_none_or(|known| known == *sample), "number {number} has two contents");
        }
    }
    found
}

async fn numbers(store: &dyn TelemetryStore, from: i64, to: i64) -> Vec<u64> {
    united(store, query(from, to)).await.into_keys().map(|(_, number)| number).collect()
}

async fn a_later_write_never_takes_away(store: &dyn TelemetryStore) {
    for (what, of, expected) in [
        ("the first", vec![0, 1, 2], vec![0, 1, 2]),
        ("the same again", vec![0, 1, 2], vec![0, 1, 2]),
        ("more", vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]),
        ("less", vec![2, 3], vec![0, 1, 2, 3, 4]),
        ("other", vec![4, 8, 9], vec![0, 1, 2, 3, 4, 8, 9]),
        ("more of the first", vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3, 4, 5, 8, 9]),
    ] {
        store.write(flush(vec![row(1, of)])).await.expect("writes");
        assert_eq!(numbers(store, ALL.0, ALL.1).await, expected, "{what}");
    }
    assert_eq!(united(store, query(ALL.0, ALL.1)).await.last_key_value(), Some((&(1, 9), &sample(9).sample)));
}

async fn versions_of_several_owners_are_all_there(store: &dyn TelemetryStore) {
    store.write(flush(vec![row(2, 0..10), row(1, 5..20)])).await.expect("writes");
    // A stale owner that was paused in mid-flush.
    store.write(flush(vec![row(1, 5..7)])).await.expect("writes");
    assert_eq!(numbers(store, ALL.0, ALL.1).await, (0..20).collect::<Vec<_>>());
    let rows = store.chunks(query(ALL.0, ALL.1)).await.expect("reads");
    let epochs: BTreeSet<u64> = rows.iter().map(|row| row.epoch).collect();
    assert_eq!(epochs, BTreeSet::from([1, 2]), "each under its own epoch");
}

async fn ranges_are_found_by_time_across_days(store: &dyn TelemetryStore) {
    // One of the ranges crosses midnight, one lies days ahead, one has samples on two days that are far apart.
    let far = vec![row(1, 0..256), row(1, 256..300), row(1, 300_032..300_040)];
    store.write(flush(far)).await.expect("writes");
    let mut apart: Vec<_> = (5_120..5_122).map(sample).collect();
    apart[1].sample.at = Timestamp(START + 40 * 86_400_000);
    let chunk = Chunk::new(20, apart).expect("one range").encode().expect("not empty");
    let apart = ChunkRow { charger: charger("c1"), incarnation: 1, epoch: 1, chunk };
    store.write(flush(vec![apart])).await.expect("writes");
    let at = |number: i64| START + number * 1_000;
    let found = async |from: i64, to: i64| {
        let all = numbers(store, at(from), at(to)).await;
        (all.first().copied(), all.last().copied())
    };
    assert_eq!(found(0, 1).await, (Some(0), Some(255)), "the whole range comes");
    assert_eq!(found(255, 256).await, (Some(0), Some(255)), "after midnight");
    assert_eq!(found(256, 257).await, (Some(256), Some(299)));
    assert_eq!(found(299, 5_000).await, (Some(256), Some(299)));
    assert_eq!(found(300, 5_000).await, (None, None), "nothing touches it");
    // What only spans it may come too.
    let inside = numbers(store, at(300_032), at(300_033)).await;
    assert!((300_032..300_040).all(|number| inside.contains(&number)), "{inside:?}");
    assert_eq!(numbers(store, at(0) + 40 * 86_400_000, i64::MAX).await, [5_120, 5_121]);
    assert_eq!(numbers(store, ALL.0, ALL.1).await.len(), 310);
}

async fn spans_say_what_a_range_will_cost(store: &dyn TelemetryStore) {
    let rows: Vec<_> = (0..300u64).map(|range| row(1, range * 256..range * 256 + 200)).collect();
    store.write(flush(rows)).await.expect("writes");
    let spans = store.spans(query(ALL.0, ALL.1)).await.expect("reads");
    assert_eq!((spans.len(), spans.iter().map(|span| span.samples).sum()), (300, 60_000));
    let first = spans.iter().min_by_key(|span| span.first_at).expect("one");
    let (early, late) = (START - first.first_at.0, first.last_at.0 - START - 199_000);
    assert!((0..1_000).contains(&early) && (0..1_000).contains(&late), "{first:?}");
    let few = ChunkQuery { limit: 7, ..query(ALL.0, ALL.1) };
    assert_eq!(store.spans(few.clone()).await.expect("reads").len(), 7);
    assert_eq!(store.chunks(few).await.expect("reads").len(), 7);
    let inside = query(START + 256_000, START + 512_000);
    assert_eq!(store.spans(inside).await.expect("reads").len(), 1);
}

async fn enrolments_and_chargers_are_apart(store: &dyn TelemetryStore) {
    let rows = vec![row_of("c1", 1, 1, 0..5), row_of("c1", 2, 1, 0..3), row_of("acme/c1", 1, 1, 0..9)];
    store.write(flush(rows)).await.expect("writes");
    let keys: Vec<_> = united(store, query(ALL.0, ALL.1)).await.into_keys().collect();
    assert_eq!(keys, [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1), (2, 2)]);
    let gap = Gap { first: 0, last: 1, reason: GapReason::Dropped };
    let gaps = vec![GapRow { charger: charger("c9"), incarnation: 1, gap }];
    store.write(Flush { gaps, ..flush(vec![]) }).await.expect("writes");
    assert_eq!(store.chargers().await, Ok(vec![charger("acme/c1"), charger("c1"), charger("c9")]));
    let nobody = ChunkQuery { charger: charger("c2"), ..query(ALL.0, ALL.1) };
    assert_eq!(store.chunks(nobody).await, Ok(vec![]));
}

async fn cursors_move_forward_only_and_belong_to_their_shard(store: &dyn TelemetryStore) {
    let cursor = |stream, boot, upto_seq| {
        let boot = BootId::new(1, boot);
        StreamCursor { gateway: "g1".parse().expect("an id"), stream, boot, upto_seq }
    };
    // The same boot and stream of a later enrolment.
    let anew = StreamCursor { boot: BootId::new(2, 2), ..cursor(1, 2, 1) };
    for upto_seq in [5, 9, 7] {
        let cursors = vec![cursor(1, u32::MAX, upto_seq), cursor(1, 2, 8), anew.clone()];
        store.write(Flush { cursors, ..flush(vec![]) }).await.expect("writes");
    }
    let mut found = store.cursors(SHARD).await.expect("reads");
    found.sort_by_key(|cursor| cursor.boot);
    assert_eq!(found, [cursor(1, 2, 8), cursor(1, u32::MAX, 9), anew]);
    let other = ShardId { index: 4, ..SHARD };
    assert_eq!(store.cursors(other).await, Ok(vec![]));
}

async fn gaps_are_kept_once_with_any_numbers(store: &dyn TelemetryStore) {
    let gap = |first, last, reason| GapRow { charger: charger("c1"), incarnation: 1, gap: Gap { first, last, reason } };
    let gaps = vec![
        gap(0, 4, GapReason::Thinned),
        gap(7, 7, GapReason::Refused),
        gap(u64::MAX - 1, u64::MAX, GapReason::Dropped),
    ];
    for _ in 0..2 {
        store.write(Flush { gaps: gaps.clone(), ..flush(vec![]) }).await.expect("writes");
    }
    let mut found = store.gaps(charger("c1")).await.expect("reads");
    found.sort_by_key(|row| row.gap.first);
    assert_eq!(found, gaps);
}

async fn hours_are_marked_until_they_are_rolled_up_as_they_are(store: &dyn TelemetryStore) {
    // Three minutes before an hour ends: a range of 256 seconds touches two.
    let first = Hour::of(Timestamp(START));
    let end = Hour(first.0 + 9);
    let hours = |dirty: &[DirtyHour]| dirty.iter().map(|dirty| dirty.hour.0 - first.0).collect::<BTreeSet<i64>>();
    let due = async || store.dirty_hours(SHARD, end, 100).await.expect("reads");
    store.write(flush(vec![row(1, 0..100)])).await.expect("writes");
    store.write(flush(vec![row(1, 0..256)])).await.expect("writes");
    let other = ShardId { index: 9, ..SHARD };
    assert_eq!(store.dirty_hours(other, end, 9).await, Ok(vec![]), "of another shard");
    assert_eq!(hours(&store.dirty_hours(SHARD, Hour(first.0 + 1), 9).await.expect("reads")), [0].into());
    let dirty = due().await;
    assert_eq!(hours(&dirty), [0, 1].into());
    // The second hour changes while both are being rolled up.
    store.write(flush(vec![row(1, 256..260)])).await.expect("writes");
    let chunk = row(1, 0..256).chunk;
    let stored = [StoredChunk { epoch: 1, bytes: &chunk.bytes }];
    let made = |dirty: Vec<DirtyHour>| {
        let one = |dirty: DirtyHour| {
            let made = rollup(dirty.hour, &stored).expect("intact");
            (dirty, Some(made))
        };
        dirty.into_iter().map(one).collect::<Vec<_>>()
    };
    store.put_rollups(SHARD, made(dirty)).await.expect("stores");
    assert_eq!(hours(&due().await), [1].into(), "it is to be rolled up again");
    let found = store.rollups(charger("c1"), first, end).await.expect("reads");
    let expected: Vec<_> = [0, 1].map(|hour| rollup(Hour(first.0 + hour), &stored).expect("intact")).into();
    assert_eq!(found, expected);
    assert_eq!(found[0].count(), 180, "three minutes of it");
    let dirty = due().await;
    store.put_rollups(SHARD, dirty.into_iter().map(|dirty| (dirty, None)).collect()).await.expect("only marks go");
    assert_eq!(due().await, []);
    assert_eq!(store.rollups(charger("c1"), first, end).await, Ok(expected), "the rollups stay");
    assert_eq!(store.rollups(charger("c2"), first, end).await, Ok(vec![]));
}

/// Gateways write at once; what each has promised is there when its write has returned.
async fn many_flushes_at_once_lose_nothing(store: Arc<dyn TelemetryStore>) {
    let mut running = Vec::new();
    for n in 0..12u64 {
        let store = Arc::clone(&store);
        running.push(tokio::spawn(async move {
            let name = format!("c{n}");
            for upto in [40, 256] {
                let mut chunks: Vec<_> =
                    (0..6u64).map(|range| row_of(&name, 1, 1, range * 256..range * 256 + upto)).collect();
                chunks.push(row_of(&name, 2, 1, 0..upto));
                store.write(flush(chunks)).await.expect("writes");
                let of = ChunkQuery { charger: charger(&name), ..query(ALL.0, ALL.1) };
                let found = united(&*store, of).await;
                assert_eq!(found.len() as u64, 7 * upto, "{name}");
            }
        }));
    }
    for task in running {
        task.await.expect("does not panic");
    }
    assert_eq!(store.chargers().await.expect("reads").len(), 12);
}
