use super::*;
use chargeplane_actors::conformance::{self, record};
use chargeplane_actors::testing::MemoryRecords;
use chargeplane_domain::placement::Family;
use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::units::Timestamp;
use proptest::prelude::*;
use std::sync::Mutex;

const SHARD: ShardId = ShardId { family: Family::Station, index: 2 };

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn stored(lsn: u64, index: u32, record: ChargeRecord) -> StoredRecord {
    conformance::stored(SHARD, lsn, index, record)
}

fn open() -> (tempfile::TempDir, SqliteRecords) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = SqliteRecords::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
    (dir, store)
}

fn batch(after_lsn: u64, upto_lsn: u64, records: Vec<StoredRecord>) -> RecordBatch {
    RecordBatch { shard: SHARD, after_lsn, upto_lsn, records }
}

#[tokio::test]
async fn conforms() {
    let dirs = Mutex::new(Vec::new());
    conformance::check_records(|| async {
        let (dir, store) = open();
        dirs.lock().expect("no panic").push(dir);
        Arc::new(store) as Arc<dyn ChargeRecords>
    })
    .await;
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
    let connection = rusqlite::Connection::open(dir.path().join(MODEL.layouts[0].file)).expect("opens");
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
