use super::*;
use chargeplane_domain::placement::Family;
use chargeplane_domain::units::Timestamp;
use std::borrow::Cow;

const SHARD: ShardId = ShardId { family: Family::Account, index: 1 };

fn open() -> (tempfile::TempDir, SqliteStatements) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = SqliteStatements::open(&DataDir::lock(dir.path()).expect("locks")).expect("opens");
    (dir, store)
}

fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("an id")
}

fn entry(lsn: u64, index: u32, account: &str, amount: i64) -> LedgerEntry {
    LedgerEntry {
        shard: SHARD,
        lsn,
        index,
        account: id(account),
        kind: Cow::Borrowed("debit"),
        amount: Money(amount),
        balance: Money(i64::MIN),
        session: (index > 0).then(|| id("c1.1")),
        key: (index == 0).then(|| "k'1".to_owned()),
        at: Timestamp(9),
    }
}

fn batch(after_lsn: u64, upto_lsn: u64, entries: Vec<LedgerEntry>) -> StatementBatch {
    StatementBatch { shard: SHARD, after_lsn, upto_lsn, entries }
}

async fn places(store: &SqliteStatements, account: &str, after: (u64, u32), limit: usize) -> Vec<(u64, u32, i64)> {
    let lines = store.lines(Generation::Served, id(account), after, limit).await.expect("reads");
    lines.iter().map(|line| (line.lsn, line.index, line.balance.0)).collect()
}

#[tokio::test]
async fn a_statement_is_an_account_s_entries_in_the_log_s_order() {
    let (_dir, store) = open();
    let entries = vec![entry(3, 0, "a1", -5), entry(3, 1, "a1", -5), entry(4, 0, "a2", -5), entry(7, 0, "a1", -5)];
    for _ in 0..2 {
        store.add(Generation::Served, batch(0, 8, entries.clone())).await.expect("adds");
    }
    // A batch that is in for its first part, as after a restart with another page size.
    let overlapping = vec![entry(7, 0, "a1", -5), entry(12, 0, "a1", -5)];
    store.add(Generation::Served, batch(5, 12, overlapping)).await.expect("adds");
    assert_eq!(places(&store, "a1", (0, 0), 3).await, [(3, 0, -5), (3, 1, -10), (7, 0, -15)]);
    assert_eq!(places(&store, "a1", (3, 0), 1).await, [(3, 1, -10)], "inside a block");
    assert_eq!(places(&store, "a1", (7, 0), 3).await, [(12, 0, -20)]);
    assert_eq!(places(&store, "a3", (0, 0), 3).await, []);
    let first = store.lines(Generation::Served, id("a1"), (0, 0), 2).await.expect("reads");
    let expected = LedgerEntry { balance: Money(-10), ..entries[1].clone() };
    assert_eq!(first[1], expected);
    assert_eq!(store.count(Generation::Served).await, Ok(5));
    assert_eq!(store.accounts(Generation::Served, None, 9).await, Ok(vec![id("a1"), id("a2")]));
    assert_eq!(store.accounts(Generation::Served, Some(id("a1")), 9).await, Ok(vec![id("a2")]));
    let hole = store.add(Generation::Served, batch(13, 14, vec![])).await;
    assert_eq!(hole, Err(StoreError::Conflict { expected: 12, found: 13 }));
}

#[tokio::test]
async fn a_hot_account_is_a_row_a_block_and_pages_inside_it() {
    let (_dir, store) = open();
    let entries: Vec<_> = (0..2_000).map(|n| entry(1 + u64::from(n) / 900, n, "fleet", i64::from(n))).collect();
    store.add(Generation::Served, batch(0, 3, entries.clone())).await.expect("adds");
    let file = store.generations.of(Generation::Served).expect("open");
    let blocks = file
        .read(|transaction| Ok(transaction.query_row("SELECT count(*) FROM blocks", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(blocks.await, Ok(4), "of 512 lines at most");
    let (mut after, mut seen, mut balance) = ((0, 0), 0, 0);
    loop {
        let page = places(&store, "fleet", after, 77).await;
        let Some(last) = page.last() else { break };
        after = (last.0, last.1);
        for (_, index, running) in page {
            assert_eq!(index, seen, "each once, in order");
            balance += i64::from(index);
            assert_eq!(running, balance);
            seen += 1;
        }
    }
    assert_eq!(seen, 2_000);
}

#[tokio::test]
async fn a_balance_that_does_not_fit_is_told_and_changes_nothing() {
    let (_dir, store) = open();
    let entries = vec![entry(1, 0, "a1", i64::MAX), entry(2, 0, "a1", 1)];
    let added = store.add(Generation::Served, batch(0, 2, entries)).await;
    assert!(matches!(added, Err(StoreError::Corrupt(_))), "{added:?}");
    assert_eq!(store.count(Generation::Served).await, Ok(0));
    assert_eq!(store.cursors(Generation::Served).await, Ok(vec![]));
}
