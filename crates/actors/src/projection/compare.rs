//! Two generations of a read model, held against each other byte by byte.
//!
//! Both are read in their canonical order and each row in one canonical form (MessagePack with named fields), up to
//! the same log number of every shard: what came in later is left aside. So the served one may go on meanwhile, and
//! how a store lays rows out, or in which batches they came, makes no difference.

use crate::ports::{
    ChargeRecords, Generation, LedgerEntry, ReadModel, RecordQuery, Statements, StoreError, StoredRecord,
};
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;

/// Rows read at a time.
const PAGE: usize = 1_000;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Rows that are equal, from the beginning.
    pub equal: u64,
    /// The first rows that are not: the served one, the fresh one. None when there is none.
    pub difference: Option<String>,
}

/// How far both generations are, shard by shard.
async fn common<M: ReadModel + ?Sized>(model: &M) -> Result<BTreeMap<ShardId, u64>, StoreError> {
    let served: BTreeMap<ShardId, u64> = model.cursors(Generation::Served).await?.into_iter().collect();
    let fresh = model.cursors(Generation::Fresh).await?.into_iter();
    Ok(fresh.filter_map(|(shard, lsn)| Some((shard, lsn.min(*served.get(&shard)?)))).collect())
}

/// Holds the charge records of both generations against each other.
pub async fn records(model: &dyn ChargeRecords) -> Result<Comparison, StoreError> {
    let upto = common(model).await?;
    if upto.is_empty() {
        return Ok(Comparison { equal: 0, difference: None });
    }
    let (mut served, mut fresh) = (Records::new(model, Generation::Served), Records::new(model, Generation::Fresh));
    let mut comparison = Comparison { equal: 0, difference: None };
    loop {
        let pair = (served.next(&upto).await?, fresh.next(&upto).await?);
        if comparison.takes(pair)? {
            return Ok(comparison);
        }
    }
}

/// Holds the statements of both generations against each other.
pub async fn statements(model: &dyn Statements) -> Result<Comparison, StoreError> {
    let upto = common(model).await?;
    if upto.is_empty() {
        return Ok(Comparison { equal: 0, difference: None });
    }
    let (mut served, mut fresh) = (Lines::new(model, Generation::Served), Lines::new(model, Generation::Fresh));
    let mut comparison = Comparison { equal: 0, difference: None };
    loop {
        let pair = (served.next(&upto).await?, fresh.next(&upto).await?);
        if comparison.takes(pair)? {
            return Ok(comparison);
        }
    }
}

impl Comparison {
    /// Takes a row of each; true when that was all there is to say.
    fn takes<T: Serialize + Debug>(&mut self, pair: (Option<T>, Option<T>)) -> Result<bool, StoreError> {
        let (served, fresh) = pair;
        if served.is_none() && fresh.is_none() {
            return Ok(true);
        }
        if bytes_of(&served)? == bytes_of(&fresh)? {
            self.equal = self.equal.saturating_add(1);
            return Ok(false);
        }
        self.difference = Some(format!("served: {served:?}; built from the journal: {fresh:?}"));
        Ok(true)
    }
}

fn bytes_of<T: Serialize>(row: &Option<T>) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(row).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn is_in(upto: &BTreeMap<ShardId, u64>, shard: ShardId, lsn: u64) -> bool {
    upto.get(&shard).is_some_and(|upto| lsn <= *upto)
}

/// All records of a generation, newest first.
struct Records<'a> {
    model: &'a dyn ChargeRecords,
    of: Generation,
    query: Option<RecordQuery>,
    page: VecDeque<StoredRecord>,
}

impl<'a> Records<'a> {
    fn new(model: &'a dyn ChargeRecords, of: Generation) -> Self {
        let query = Some(RecordQuery { limit: PAGE, ..RecordQuery::default() });
        Self { model, of, query, page: VecDeque::new() }
    }

    async fn next(&mut self, upto: &BTreeMap<ShardId, u64>) -> Result<Option<StoredRecord>, StoreError> {
        loop {
            while let Some(row) = self.page.pop_front() {
                if is_in(upto, row.shard, row.lsn) {
                    return Ok(Some(row));
                }
            }
            let Some(query) = self.query.take() else { return Ok(None) };
            let page = self.model.page(self.of, query.clone()).await?;
            self.query = page.last().filter(|_| page.len() >= PAGE).map(|last| query.after(last));
            self.page = page.into();
        }
    }
}

/// All lines of a generation, account by account.
struct Lines<'a> {
    model: &'a dyn Statements,
    of: Generation,
    accounts: VecDeque<AccountId>,
    /// The account before the next page of accounts; none after the last page.
    more_accounts: Option<Option<AccountId>>,
    /// The account that is read, and the line before the next page of it.
    reading: Option<(AccountId, (u64, u32))>,
    page: VecDeque<LedgerEntry>,
}

impl<'a> Lines<'a> {
    fn new(model: &'a dyn Statements, of: Generation) -> Self {
        let (accounts, page) = (VecDeque::new(), VecDeque::new());
        Self { model, of, accounts, more_accounts: Some(None), reading: None, page }
    }

    async fn next(&mut self, upto: &BTreeMap<ShardId, u64>) -> Result<Option<LedgerEntry>, StoreError> {
        loop {
            while let Some(row) = self.page.pop_front() {
                if is_in(upto, row.shard, row.lsn) {
                    return Ok(Some(row));
                }
            }
            if let Some((account, after)) = self.reading.take() {
                let page = self.model.lines(self.of, account.clone(), after, PAGE).await?;
                let last = page.last().filter(|_| page.len() >= PAGE);
                self.reading = last.map(|last| (account, (last.lsn, last.index)));
                self.page = page.into();
            } else if let Some(account) = self.accounts.pop_front() {
                self.reading = Some((account, (0, 0)));
            } else if let Some(after) = self.more_accounts.take() {
                let page = self.model.accounts(self.of, after, PAGE).await?;
                self.more_accounts = page.last().filter(|_| page.len() >= PAGE).map(|last| Some(last.clone()));
                self.accounts = page.into();
            } else {
                return Ok(None);
            }
        }
    }
}
