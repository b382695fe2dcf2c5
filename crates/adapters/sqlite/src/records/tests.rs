use super::*;
use chargeplane_actors::ports::RecordConflict;
use chargeplane_actors::testing::MemoryRecords;
use chargeplane_domain::ids::{ConnectorNo, SessionId};
use chargeplane_domain::month::Month;
use chargeplane_domain::placement::Family;
use chargeplane_domain::session::{ChargeRecord, StopReason};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{Price, Slots, Tariff, zone};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use proptest::prelude::*;

const SHARD: ShardId = ShardId { family: Family::Station, index: 2 };

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

pub(crate) fn record(session: &str, account: &str, city: &str, ended_at: i64) -> ChargeRecord {
    let session: SessionId = id(session);
    let charger = session.as_str().rsplit_once('.').expect("a number").0;
    let price = Price { energy: Money(7_000), service: Money(3_000) };
    ChargeRecord {
        account: id(account),
        station: id(&format!("{}/s1", session.tenant())),
        charger: id(charger),
        connector: ConnectorNo(1),
        operator: id("op"),
        city: city.to_owned(),
        time_zone: "Asia/Shanghai".to_owned(),
        started_at: Timestamp(ended_at - 10),
        ended_at: Timestamp(ended_at),
        month: Month::of(Timestamp(ended_at), &zone::parse("Asia/Shanghai").expect("a zone")),
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
        currency: Currency::new("CNY").expect("a currency"),
        stop_reason: StopReason::Driver,
        tariff: Tariff {
            currency: Currency::new("CNY").expect("a currency"),
            prices: [price; 4],
            slots: Slots::uniform(2).expect("slots"),
            fees: Fees { per_minute: Money(9), ..Fees::NONE },
        },
        session,
    }
}

fn stored(lsn: u64, index: u32, record: ChargeRecord) -> StoredRecord {
    StoredRecord { shard: SHARD, lsn, index, record }
}

fn open() -> (tempfile::TempDir, SqliteRecords) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = SqliteRecords::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
    (dir, store)
}

fn batch(after_lsn: u64, upto_lsn: u64, records: Vec<StoredRecord>) -> RecordBatch {
    RecordBatch { shard: SHARD, after_lsn, upto_lsn, records }
}

fn all() -> RecordQuery {
    RecordQuery { limit: 1_000, ..RecordQuery::default() }
}

#[tokio::test]
async fn a_batch_again_changes_nothing_and_cursors_move_forward_only() {
    let (_dir, store) = open();
    let first = batch(0, 9, vec![stored(1, 0, record("c1.1", "a1", "Suzhou", 50))]);
    let add = |batch| store.add(Generation::Served, batch);
    assert_eq!(add(first.clone()).await, Ok(Added { new: 1, ..Added::default() }));
    assert_eq!(add(first.clone()).await, Ok(Added { repeated: 1, ..Added::default() }));
    assert_eq!(add(batch(3, 4, vec![])).await, Ok(Added::default()));
    assert_eq!(store.cursors(Generation::Served).await, Ok(vec![(SHARD, 9)]));
    assert_eq!(store.count(Generation::Served).await, Ok(1));
    assert_eq!(store.page(Generation::Served, all()).await, Ok(first.records));
    let hole = add(batch(10, 12, vec![])).await;
    assert_eq!(hole, Err(StoreError::Conflict { expected: 9, found: 10 }), "frame 10 would be missing");
}

#[tokio::test]
async fn a_record_that_differs_from_the_one_that_is_there_is_told_and_not_taken() {
    let (_dir, store) = open();
    let first = stored(4, 1, record("c1.1", "a1", "Suzhou", 50));
    let add = |records| store.add(Generation::Served, batch(0, 9, records));
    add(vec![first.clone()]).await.expect("adds");
    let other_content = stored(4, 1, ChargeRecord { total: Money(101), ..first.record.clone() });
    let other_session = stored(4, 1, record("c2.1", "a1", "Suzhou", 50));
    let twice = stored(5, 0, first.record.clone());
    for wrong in [other_content, other_session, twice] {
        let (lsn, index, session) = (wrong.lsn, wrong.index, wrong.record.session.clone());
        let conflict = RecordConflict { shard: SHARD, lsn, index, session, stays: id("c1.1") };
        assert_eq!(add(vec![wrong]).await, Ok(Added { conflicts: vec![conflict], ..Added::default() }));
    }
    assert_eq!(store.page(Generation::Served, all()).await, Ok(vec![first]), "the first stays as it was");
}

#[tokio::test]
async fn a_month_is_the_station_s_and_pages_by_every_filter_end() {
    let (_dir, store) = open();
    // 2026-01-31 16:00 UTC is the first of February in Suzhou.
    let midnight = 1_769_875_200_000;
    let ends = [("c1.1", midnight - 1), ("c1.2", midnight), ("c2.1", midnight + 1), ("acme/c1.1", midnight)];
    let records = ends.map(|(session, at)| record(session, "a1", "Suzhou", at));
    let records = (1..).zip(records).map(|(lsn, record)| stored(lsn, 0, record)).collect();
    store.add(Generation::Served, batch(0, 9, records)).await.expect("adds");
    let found = async |query| {
        let page = store.page(Generation::Served, query).await.expect("reads");
        page.iter().map(|row| row.record.session.to_string()).collect::<Vec<_>>()
    };
    let suzhou = RecordQuery { tenant: Some(id_of("main")), city: Some("Suzhou".to_owned()), ..all() };
    let month = |text: &str| Some(text.parse().expect("a month"));
    assert_eq!(found(RecordQuery { month: month("2026-01"), ..suzhou.clone() }).await, ["main/c1.1"]);
    assert_eq!(found(RecordQuery { month: month("2026-02"), ..suzhou }).await, ["main/c2.1", "main/c1.2"]);
    let charger = RecordQuery { charger: Some(id("c1")), ..all() };
    assert_eq!(found(RecordQuery { month: month("2026-02"), ..charger.clone() }).await, ["main/c1.2"]);
    assert_eq!(found(charger).await, ["main/c1.2", "main/c1.1"]);
    assert_eq!(found(RecordQuery { tenant: Some(id_of("acme")), ..all() }).await, ["acme/c1.1"]);
    assert_eq!(found(RecordQuery { city: Some("Wuxi".to_owned()), ..all() }).await, [""; 0]);
}

fn id_of(tenant: &str) -> chargeplane_domain::ids::TenantId {
    chargeplane_domain::ids::TenantId::new(tenant).expect("a tenant")
}

/// A query of everything that can be asked for; many of the values are in the records, many are not.
fn queries() -> impl Strategy<Value = RecordQuery> {
    let some = proptest::option::weighted(0.3, 0usize..4);
    (proptest::array::uniform8(some), 1usize..6).prop_map(
        |([tenant, city, month, charger, account, session, from, to], limit)| RecordQuery {
            tenant: tenant.map(|n| id_of(["main", "acme", "main", "none"][n])),
            city: city.map(|n| ["Suzhou", "Wuxi", "", "=Suzhou"][n].to_owned()),
            month: month.map(|n| ["2026-01", "2026-02", "2026-03", "2025-12"][n].parse().expect("a month")),
            charger: charger.map(|n| id(["c0", "c1", "acme/c0", "c9"][n])),
            account: account.map(|n| id(["a0", "a1", "acme/a0", "a9"][n])),
            session: session.map(|n| id(["c0.1", "c1.2", "acme/c0.3", "c9.9"][n])),
            from: from.map(|n| Timestamp([0, 1_769_875_200_000, 1_770_000_000_000, i64::MAX][n])),
            to: to.map(|n| Timestamp([0, 1_769_875_200_000, 1_770_000_000_000, i64::MAX][n])),
            after: None,
            limit,
        },
    )
}

fn rows() -> impl Strategy<Value = Vec<ChargeRecord>> {
    // Few moments, so that many records end together.
    let row = (0usize..2, 0usize..3, 0usize..2, 0usize..2, 0i64..6);
    proptest::collection::vec(row, 0..40).prop_map(|rows| {
        let numbered = (1..).zip(rows);
        let of = |(n, (tenant, charger, account, city, at)): (u32, (usize, usize, usize, usize, i64))| {
            let tenant = ["main", "acme"][tenant];
            let (city, at) = (["Suzhou", "Wuxi"][city], 1_769_875_200_000 + (at - 3) * 300_000_000);
            record(&format!("{tenant}/c{charger}.{n}"), &format!("{tenant}/a{account}"), city, at)
        };
        numbered.map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked, in whatever pages: the same as by looking at every record.
    #[test]
    fn pages_are_those_of_a_store_that_looks_at_every_record(rows in rows(), queries in proptest::collection::vec(queries(), 8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (_dir, store) = open();
        let naive = MemoryRecords::default();
        runtime.block_on(async {
            let records: Vec<_> = (1..).zip(rows).map(|(n, record)| stored(n / 3 + 1, (n % 3) as u32, record)).collect();
            store.add(Generation::Served, batch(0, 99, records.clone())).await.expect("adds");
            naive.add(Generation::Served, batch(0, 99, records)).await.expect("adds");
            for mut query in queries {
                loop {
                    let page = store.page(Generation::Served, query.clone()).await.expect("reads");
                    let expected = naive.page(Generation::Served, query.clone()).await.expect("reads");
                    prop_assert_eq!(&page, &expected, "{:?}", query);
                    let Some(last) = page.last() else { break };
                    query = query.after(last);
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn every_list_is_a_range_of_its_index() {
    let (dir, _store) = open();
    let connection = rusqlite::Connection::open(dir.path().join(LAYOUTS[0].file)).expect("opens");
    for key in ["tenant", "city", "charger", "account"] {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT record FROM charge_records INDEXED BY records_by_{key} WHERE TRUE AND {key} = 1
             AND ended_at >= 5 AND ended_at < 9 AND month = 2 AND ended_at <= 8 AND (ended_at, ord) < (8, 7)
             ORDER BY ended_at DESC, ord DESC LIMIT 9"
        );
        let mut statement = connection.prepare(&sql).expect("prepares");
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).expect("explains");
        let plan: Vec<_> = rows.map(|row| row.expect("a row")).collect();
        // No sorting, and both ends of the range in the index.
        assert!(plan.len() == 1 && plan[0].contains(&format!("records_by_{key} ({key}=? AND ")), "{key}: {plan:?}");
    }
}
