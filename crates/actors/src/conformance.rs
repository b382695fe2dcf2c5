//! What every [`ChargeRecords`] and every telemetry store must do, checked through the port alone. An adapter's tests
//! call [`check_records`] and [`check_telemetry`] with a way to make an empty store; what becomes of it in a crash is the adapter's own tests.
//!
//! Panics with what was expected: it is test code that happens to be shared.

mod telemetry;
#[cfg(test)]
mod tests;

pub use telemetry::check_telemetry;

use crate::ports::{
    Added, ChargeRecords, Generation, RecordBatch, RecordConflict, RecordQuery, StoreError, StoredRecord,
};
use chargeplane_domain::ids::{ConnectorNo, SessionId, TenantId};
use chargeplane_domain::month::Month;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::session::{ChargeRecord, StopReason};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{Price, Slots, Tariff, zone};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use std::cmp::Reverse;
use std::sync::Arc;

/// 2026-01-31 16:00 UTC: in Shanghai the first of February begins.
pub const MIDNIGHT: i64 = 1_769_875_200_000;

/// A station shard, for tests.
pub fn shard(index: u16) -> ShardId {
    ShardId { family: Family::Station, index }
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

/// A record of a session `{charger}.{n}` at a station in Shanghai's time zone, for tests.
pub fn record(session: &str, account: &str, city: &str, ended_at: i64) -> ChargeRecord {
    record_in("Asia/Shanghai", session, account, city, ended_at)
}

fn record_in(zone_name: &str, session: &str, account: &str, city: &str, ended_at: i64) -> ChargeRecord {
    let session: SessionId = id(session);
    let charger = session.as_str().rsplit_once('.').expect("a number").0;
    let price = Price { energy: Money(7_000), service: Money(3_000) };
    let currency = Currency::new("CNY").expect("a currency");
    ChargeRecord {
        account: id(account),
        station: id(&format!("{}/s1", session.tenant())),
        charger: id(charger),
        connector: ConnectorNo(1),
        operator: id("op"),
        city: city.to_owned(),
        time_zone: zone_name.to_owned(),
        started_at: Timestamp(ended_at - 10),
        ended_at: Timestamp(ended_at),
        month: Month::of(Timestamp(ended_at), &zone::parse(zone_name).expect("a zone")),
        meter_start: WattHours(5),
        meter_stop: WattHours(15),
        energy: WattHours(10),
        billed_wh: WattHours(10),
        overshoot_wh: WattHours(0),
        by_period: [WattHours(10), WattHours(0), WattHours(0), WattHours(0)],
        time: MeteredTime { charging_ms: 8, idle_ms: 1 },
        energy_amount: Money(70),
        service_amount: Money(25),
        fees_amount: Money(5),
        total: Money(100),
        billed: Money(100),
        overshoot: Money(0),
        currency,
        stop_reason: StopReason::Driver,
        tariff: Tariff {
            currency,
            prices: [price; 4],
            slots: Slots::uniform(2).expect("slots"),
            fees: Fees { per_minute: Money(9), ..Fees::NONE },
        },
        session,
    }
}

/// A record at its place in the journal.
pub fn stored(shard: ShardId, lsn: u64, index: u32, record: ChargeRecord) -> StoredRecord {
    StoredRecord { shard, lsn, index, record }
}

fn batch(after_lsn: u64, upto_lsn: u64, records: Vec<StoredRecord>) -> RecordBatch {
    RecordBatch { shard: shard(2), after_lsn, upto_lsn, records }
}

fn all() -> RecordQuery {
    RecordQuery { limit: 10_000, ..RecordQuery::default() }
}

async fn everything(store: &dyn ChargeRecords) -> Vec<StoredRecord> {
    store.page(Generation::Served, all()).await.expect("reads")
}

/// Checks everything. `make` gives an empty store each time.
pub async fn check_records<F>(make: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn ChargeRecords>>,
{
    a_batch_again_changes_nothing(&*make().await).await;
    what_differs_is_told_and_not_taken(&*make().await).await;
    a_month_is_the_station_s(&*make().await).await;
    pages_are_as_by_looking_at_every_record(&*make().await).await;
    a_page_goes_on_where_the_last_one_ended_whatever_came_in(&*make().await).await;
    a_fresh_generation_is_served_when_it_has_everything(&*make().await).await;
    a_generation_that_is_filled_is_as_one_that_grew(&*make().await).await;
}

async fn a_batch_again_changes_nothing(store: &dyn ChargeRecords) {
    assert_eq!(store.cursors(Generation::Served).await, Ok(vec![]));
    let first = batch(0, 9, vec![stored(shard(2), 1, 0, record("c1.1", "a1", "Suzhou", 50))]);
    let add = |batch| store.add(Generation::Served, batch);
    assert_eq!(add(first.clone()).await, Ok(Added { new: 1, ..Added::default() }));
    assert_eq!(add(first.clone()).await, Ok(Added { repeated: 1, ..Added::default() }));
    assert_eq!(add(batch(3, 4, vec![])).await, Ok(Added::default()));
    assert_eq!(store.cursors(Generation::Served).await, Ok(vec![(shard(2), 9)]), "forward only");
    assert_eq!(store.count(Generation::Served).await, Ok(1));
    assert_eq!(everything(store).await, first.records);
    let hole = add(batch(10, 12, vec![])).await;
    assert_eq!(hole, Err(StoreError::Conflict { expected: 9, found: 10 }), "frame 10 would be missing");
    let other = RecordBatch { shard: shard(0), ..batch(0, 3, vec![]) };
    assert_eq!(add(other).await, Ok(Added::default()));
    assert_eq!(store.cursors(Generation::Served).await, Ok(vec![(shard(0), 3), (shard(2), 9)]), "in their order");
}

async fn what_differs_is_told_and_not_taken(store: &dyn ChargeRecords) {
    let first = stored(shard(2), 4, 1, record("c1.1", "a1", "Suzhou", 50));
    let add = |after, upto, records| store.add(Generation::Served, batch(after, upto, records));
    add(0, 9, vec![first.clone()]).await.expect("adds");
    let other_content = stored(shard(2), 4, 1, ChargeRecord { total: Money(101), ..first.record.clone() });
    let other_session = stored(shard(2), 4, 1, record("c2.1", "a1", "Suzhou", 50));
    let twice = stored(shard(2), 5, 0, first.record.clone());
    let later = stored(shard(2), 11, 0, first.record.clone());
    for (wrong, after) in [(other_content, 0), (other_session, 0), (twice, 0), (later, 9)] {
        let (lsn, index, session) = (wrong.lsn, wrong.index, wrong.record.session.clone());
        let conflict = RecordConflict { shard: shard(2), lsn, index, session, stays: id("c1.1") };
        assert_eq!(add(after, 12, vec![wrong]).await, Ok(Added { conflicts: vec![conflict], ..Added::default() }));
    }
    assert_eq!(everything(store).await, vec![first.clone()], "the first stays as it was");
    // Within one batch as between two.
    let new = stored(shard(2), 13, 0, record("c3.1", "a1", "Suzhou", 60));
    let again = StoredRecord { index: 1, ..new.clone() };
    let added = add(12, 14, vec![new.clone(), again]).await.expect("adds");
    assert_eq!((added.new, added.conflicts.len()), (1, 1));
    assert_eq!(everything(store).await, vec![new, first]);
    assert_eq!(store.count(Generation::Served).await, Ok(2));
}

fn tenant(name: &str) -> Option<TenantId> {
    Some(TenantId::new(name).expect("a tenant"))
}

async fn a_month_is_the_station_s(store: &dyn ChargeRecords) {
    let ends = [("c1.1", MIDNIGHT - 1), ("c1.2", MIDNIGHT), ("c2.1", MIDNIGHT + 1), ("acme/c1.1", MIDNIGHT)];
    let records = ends.map(|(session, at)| record(session, "a1", "Suzhou", at));
    let records = (1..).zip(records).map(|(lsn, record)| stored(shard(2), lsn, 0, record)).collect();
    store.add(Generation::Served, batch(0, 9, records)).await.expect("adds");
    let found = async |query| {
        let page = store.page(Generation::Served, query).await.expect("reads");
        page.iter().map(|row| row.record.session.to_string()).collect::<Vec<_>>()
    };
    let suzhou = RecordQuery { tenant: tenant("main"), city: Some("Suzhou".to_owned()), ..all() };
    let month = |text: &str| Some(id(text));
    assert_eq!(found(RecordQuery { month: month("2026-01"), ..suzhou.clone() }).await, ["main/c1.1"]);
    assert_eq!(found(RecordQuery { month: month("2026-02"), ..suzhou }).await, ["main/c2.1", "main/c1.2"]);
    let charger = RecordQuery { charger: Some(id("c1")), ..all() };
    assert_eq!(found(RecordQuery { month: month("2026-02"), ..charger.clone() }).await, ["main/c1.2"]);
    assert_eq!(found(charger).await, ["main/c1.2", "main/c1.1"]);
    assert_eq!(found(RecordQuery { tenant: tenant("acme"), ..all() }).await, ["acme/c1.1"]);
    assert_eq!(found(RecordQuery { city: Some("Wuxi".to_owned()), ..all() }).await, [""; 0]);
    assert_eq!(found(RecordQuery { limit: 0, ..all() }).await, [""; 0]);
}

/// Numbers that look random, the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// One of them, or none in two of three times.
    fn some<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        (self.below(3) == 0).then(|| of[self.below(of.len())].clone())
    }
}

/// Moments around the end of a month, and months away; few, so that many records end together.
const ENDS: [i64; 9] = [
    MIDNIGHT - 40 * 86_400_000,
    MIDNIGHT - 86_400_000,
    MIDNIGHT - 1,
    MIDNIGHT,
    MIDNIGHT + 8 * 3_600_000,
    MIDNIGHT + 9 * 3_600_000,
    MIDNIGHT + 86_400_000,
    MIDNIGHT + 27 * 86_400_000,
    MIDNIGHT + 90 * 86_400_000,
];

/// Records of two tenants in two time zones, of a city whose stations are in both.
fn records(numbers: &mut Numbers, count: u64) -> Vec<StoredRecord> {
    let one = |n: u64| {
        let tenant = ["main", "acme"][numbers.below(2)];
        let session = format!("{tenant}/c{}.{n}", numbers.below(4));
        let account = format!("{tenant}/a{}", numbers.below(3));
        let (city, zone) =
            (["Suzhou", "Wuxi", ""][numbers.below(3)], ["Asia/Shanghai", "Europe/Berlin"][numbers.below(2)]);
        let at = ENDS[numbers.below(ENDS.len())] + numbers.below(3) as i64;
        let place = shard(numbers.below(3) as u16);
        stored(place, n / 5 + 1, (n % 5) as u32, record_in(zone, &session, &account, city, at))
    };
    (0..count).map(one).collect()
}

async fn add_all(store: &dyn ChargeRecords, to: Generation, records: &[StoredRecord], step: u64) {
    let last = records.iter().map(|record| record.lsn).max().unwrap_or(0);
    for index in 0..3 {
        for after_lsn in (0..last).step_by(step as usize) {
            let (shard, upto_lsn) = (shard(index), after_lsn + step);
            let within = |row: &&StoredRecord| row.shard == shard && (after_lsn + 1..=upto_lsn).contains(&row.lsn);
            let records = records.iter().filter(within).cloned().collect();
            let added = store.add(to, RecordBatch { shard, after_lsn, upto_lsn, records }).await.expect("adds");
            assert_eq!((added.repeated, added.conflicts), (0, vec![]));
        }
    }
}

/// A query of everything that can be asked for; many of the values are in the records, many are not.
fn query(numbers: &mut Numbers) -> RecordQuery {
    let moments: Vec<_> = ENDS.iter().map(|at| Timestamp(at + 1)).chain([Timestamp(0), Timestamp(i64::MAX)]).collect();
    RecordQuery {
        tenant: numbers.some(&["main", "acme", "none"]).and_then(tenant),
        city: numbers.some(&["Suzhou", "Wuxi", "", "=Suzhou"]).map(str::to_owned),
        month: numbers.some(&["2025-12", "2026-01", "2026-02", "2026-03", "2027-01"]).map(id),
        charger: numbers.some(&["c0", "c1", "acme/c0", "c9"]).map(id),
        account: numbers.some(&["a0", "a1", "acme/a0", "a9"]).map(id),
        session: (numbers.below(12) == 0).then(|| id(&format!("c{}.{}", numbers.below(4), numbers.below(400)))),
        from: numbers.some(&moments),
        to: numbers.some(&moments),
        after: None,
        limit: [1, 3, 20, 1_000][numbers.below(4)],
    }
}

fn naive(records: &[StoredRecord], query: &RecordQuery) -> Vec<StoredRecord> {
    let mut found: Vec<_> = records.iter().filter(|row| query.wants(&row.record)).cloned().collect();
    found.sort_by_key(|row| Reverse(row.order()));
    found
}

/// Whatever is asked, in whatever pages.
async fn pages_are_as_by_looking_at_every_record(store: &dyn ChargeRecords) {
    let mut numbers = Numbers(7);
    let records = records(&mut numbers, 400);
    add_all(store, Generation::Served, &records, 7).await;
    assert_eq!(store.count(Generation::Served).await, Ok(400));
    for _ in 0..120 {
        let mut query = query(&mut numbers);
        let expected = naive(&records, &query);
        let mut found = Vec::new();
        // Not more pages than it takes with the smallest limit.
        for _ in 0..25 {
            let page = store.page(Generation::Served, query.clone()).await.expect("reads");
            assert!(page.len() <= query.limit);
            let Some(last) = page.last() else { break };
            query = query.after(last);
            found.extend(page);
        }
        let compared = if found.len() < expected.len() { 25 * query.limit } else { expected.len() };
        assert_eq!(found, expected[..compared.min(expected.len())], "{query:?}");
    }
}

async fn a_page_goes_on_where_the_last_one_ended_whatever_came_in(store: &dyn ChargeRecords) {
    let mut numbers = Numbers(8);
    let mut both = records(&mut numbers, 90);
    let late: Vec<_> = both.drain(45..).collect();
    add_all(store, Generation::Served, &both, 3).await;
    let expected = naive(&both, &all());
    let query = RecordQuery { limit: 10, ..all() };
    let first = store.page(Generation::Served, query.clone()).await.expect("reads");
    assert_eq!(first, expected[..10]);
    // Newer and older ones, and ones that ended in the same millisecond as the last of the page.
    for index in 0..3 {
        let records: Vec<_> = late.iter().filter(|row| row.shard == shard(index)).cloned().collect();
        let at = store.cursors(Generation::Served).await.expect("reads")[usize::from(index)].1;
        let batch = RecordBatch { shard: shard(index), after_lsn: at, upto_lsn: 99, records };
        store.add(Generation::Served, batch).await.expect("adds");
    }
    let last = first[9].clone();
    let rest = store.page(Generation::Served, RecordQuery { limit: 1_000, ..query.after(&last) }).await.expect("reads");
    let mut all_of_it = naive(&[both, late].concat(), &all());
    all_of_it.retain(|row| row.order() < last.order());
    assert_eq!(rest, all_of_it, "nothing twice, nothing left out");
}

async fn a_fresh_generation_is_served_when_it_has_everything(store: &dyn ChargeRecords) {
    let mut numbers = Numbers(9);
    let records = records(&mut numbers, 60);
    add_all(store, Generation::Served, &records, 5).await;
    let served = everything(store).await;
    assert!(store.cursors(Generation::Fresh).await.is_err(), "there is none yet");
    assert_eq!(store.publish().await, Ok(false), "there is none yet");
    store.discard().await.expect("nothing to drop is no error");
    for _ in 0..2 {
        store.begin().await.expect("begins, and begins anew");
        assert_eq!(store.cursors(Generation::Fresh).await, Ok(vec![]));
        assert_eq!(store.count(Generation::Fresh).await, Ok(0));
        let one = RecordBatch { shard: shard(0), ..batch(0, 1, vec![]) };
        store.add(Generation::Fresh, one).await.expect("adds");
    }
    assert_eq!(store.publish().await, Ok(false), "it has less than the served one");
    assert_eq!(everything(store).await, served, "readers see none of it");
    store.discard().await.expect("drops");
    assert!(store.page(Generation::Fresh, all()).await.is_err(), "it is gone");
    // In other batches, and each time further than the one before.
    for step in [11, 23] {
        store.begin().await.expect("begins");
        add_all(store, Generation::Fresh, &records, step).await;
        assert_eq!(store.page(Generation::Fresh, all()).await.as_ref(), Ok(&served));
        assert_eq!(store.publish().await, Ok(true));
        assert_eq!(everything(store).await, served);
        assert_eq!(store.count(Generation::Served).await, Ok(60));
        assert!(store.cursors(Generation::Fresh).await.is_err(), "it is the served one now");
    }
    let new = stored(shard(2), 40, 0, record("c9.1", "a1", "Suzhou", MIDNIGHT));
    let added = store.add(Generation::Served, batch(15, 40, vec![new.clone()])).await;
    assert_eq!(added, Ok(Added { new: 1, ..Added::default() }), "it goes on");
    let of_session = RecordQuery { session: Some(id("c9.1")), ..all() };
    assert_eq!(store.page(Generation::Served, of_session).await, Ok(vec![new]));
}

/// Also from a log with a session that was settled twice, and with batches that come again.
async fn a_generation_that_is_filled_is_as_one_that_grew(store: &dyn ChargeRecords) {
    let one = |lsn, session: &str, at| stored(shard(2), lsn, 0, record(session, "a1", "Suzhou", at));
    let log = [
        batch(0, 3, vec![one(1, "c1.1", 50), one(2, "c1.2", 60)]),
        batch(3, 6, vec![one(4, "c1.1", 70), one(5, "c1.3", 80)]),
        batch(6, 9, vec![one(7, "c1.2", 60), one(8, "c1.4", 90)]),
    ];
    for batch in &log {
        store.add(Generation::Served, batch.clone()).await.expect("adds");
    }
    let served = everything(store).await;
    let places: Vec<_> = served.iter().map(|row| row.lsn).collect();
    assert_eq!(places, [8, 5, 2, 1], "the first of a session stays");
    store.begin().await.expect("begins");
    for batch in [&log[0], &log[1], &log[1], &log[0], &log[2]] {
        store.add(Generation::Fresh, batch.clone()).await.expect("adds");
    }
    assert_eq!(store.page(Generation::Fresh, all()).await.as_ref(), Ok(&served));
    assert_eq!(store.count(Generation::Fresh).await, Ok(4));
    assert_eq!(store.publish().await, Ok(true));
    assert_eq!(everything(store).await, served);
    // The same without anything that comes again, and nobody who reads before it is published.
    store.begin().await.expect("begins");
    for batch in &log {
        store.add(Generation::Fresh, batch.clone()).await.expect("adds");
    }
    assert_eq!(store.publish().await, Ok(true));
    assert_eq!(everything(store).await, served);
    assert_eq!(store.count(Generation::Served).await, Ok(4));
}
