//! Read models in memory: what the ports promise, in the fewest words.

use super::lock;
use crate::ports::*;
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::Money;
use futures_core::future::BoxFuture;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// A served and, at times, a fresh generation of `T`, each with its cursors.
#[derive(Default)]
struct Generations<T> {
    served: Copy<T>,
    fresh: Option<Copy<T>>,
}

#[derive(Default)]
struct Copy<T> {
    cursors: BTreeMap<ShardId, u64>,
    rows: T,
}

impl<T: Default> Generations<T> {
    fn of(&mut self, generation: Generation) -> Result<&mut Copy<T>, StoreError> {
        match generation {
            Generation::Served => Ok(&mut self.served),
            Generation::Fresh => self.fresh.as_mut().ok_or_else(|| StoreError::Io("no fresh generation".to_owned())),
        }
    }

    fn publish(&mut self) -> bool {
        let Some(fresh) = &self.fresh else { return false };
        let has = |(shard, lsn): (&ShardId, &u64)| fresh.cursors.get(shard).copied().unwrap_or(0) >= *lsn;
        if !self.served.cursors.iter().all(has) {
            return false;
        }
        self.served = self.fresh.take().unwrap_or_default();
        true
    }
}

impl<T> Copy<T> {
    /// Moves the cursor; the log number up to which everything is in already.
    fn advance(&mut self, shard: ShardId, after: u64, upto: u64) -> Result<u64, StoreError> {
        let cursor = self.cursors.entry(shard).or_default();
        if after > *cursor {
            return Err(StoreError::Conflict { expected: *cursor, found: after });
        }
        Ok(std::mem::replace(cursor, upto.max(*cursor)))
    }
}

type Records = BTreeMap<(ShardId, u64, u32), StoredRecord>;
type Lines = BTreeMap<(AccountId, u64, u32), LedgerEntry>;

/// Charge records in memory.
#[derive(Default)]
pub struct MemoryRecords(Mutex<Generations<Records>>);

/// Statements in memory.
#[derive(Default)]
pub struct MemoryStatements(Mutex<Generations<Lines>>);

macro_rules! read_model {
    ($name:ident) => {
        impl ReadModel for $name {
            fn cursors(&self, of: Generation) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>> {
                let cursors = self.all().of(of).map(|copy| copy.cursors.iter().map(|(s, lsn)| (*s, *lsn)).collect());
                Box::pin(async move { cursors })
            }

            fn count(&self, of: Generation) -> BoxFuture<'_, Result<u64, StoreError>> {
                let count = self.all().of(of).map(|copy| copy.rows.len() as u64);
                Box::pin(async move { count })
            }

            fn begin(&self) -> BoxFuture<'_, Result<(), StoreError>> {
                self.all().fresh = Some(Copy::default());
                Box::pin(async { Ok(()) })
            }

            fn publish(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
                let published = self.all().publish();
                Box::pin(async move { Ok(published) })
            }

            fn discard(&self) -> BoxFuture<'_, Result<(), StoreError>> {
                self.all().fresh = None;
                Box::pin(async { Ok(()) })
            }
        }
    };
}

read_model!(MemoryRecords);
read_model!(MemoryStatements);

impl MemoryRecords {
    fn all(&self) -> MutexGuard<'_, Generations<Records>> {
        lock(&self.0)
    }
}

impl MemoryStatements {
    fn all(&self) -> MutexGuard<'_, Generations<Lines>> {
        lock(&self.0)
    }
}

fn take(rows: &mut Records, record: StoredRecord, added: &mut Added) {
    let place = (record.shard, record.lsn, record.index);
    let there = rows
        .values()
        .find(|there| (there.shard, there.lsn, there.index) == place || there.record.session == record.record.session);
    match there {
        Some(there) if *there == record => added.repeated += 1,
        Some(there) => added.conflicts.push(RecordConflict {
            shard: record.shard,
            lsn: record.lsn,
            index: record.index,
            session: record.record.session.clone(),
            stays: there.record.session.clone(),
        }),
        None => {
            rows.insert(place, record);
            added.new += 1;
        }
    }
}

impl ChargeRecords for MemoryRecords {
    fn add(&self, to: Generation, batch: RecordBatch) -> BoxFuture<'_, Result<Added, StoreError>> {
        Box::pin(async move {
            let mut all = self.all();
            let copy = all.of(to)?;
            copy.advance(batch.shard, batch.after_lsn, batch.upto_lsn)?;
            let mut added = Added::default();
            batch.records.into_iter().for_each(|record| take(&mut copy.rows, record, &mut added));
            Ok(added)
        })
    }

    fn page(&self, of: Generation, query: RecordQuery) -> BoxFuture<'_, Result<Vec<StoredRecord>, StoreError>> {
        Box::pin(async move {
            let after = query.after.as_ref().map(|(at, session)| (*at, RecordId::of(session).order()));
            let mut all = self.all();
            let rows = all.of(of)?.rows.values();
            let wanted = rows.filter(|row| query.wants(&row.record) && after.is_none_or(|after| row.order() < after));
            let mut found: Vec<_> = wanted.cloned().collect();
            found.sort_by_key(|row| Reverse(row.order()));
            found.truncate(query.limit);
            Ok(found)
        })
    }
}

impl Statements for MemoryStatements {
    fn add(&self, to: Generation, batch: StatementBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut all = self.all();
            let copy = all.of(to)?;
            let is_in = copy.advance(batch.shard, batch.after_lsn, batch.upto_lsn)?;
            for entry in batch.entries.into_iter().filter(|entry| entry.lsn > is_in) {
                let account = entry.account.clone();
                let earlier = copy.rows.range((account.clone(), 0, 0)..(account.clone(), entry.lsn, entry.index));
                let before = earlier.last().map_or(Money::ZERO, |(_, entry)| entry.balance);
                let balance = before.saturating_add(entry.amount);
                copy.rows.insert((account, entry.lsn, entry.index), LedgerEntry { balance, ..entry });
            }
            Ok(())
        })
    }

    fn lines(
        &self,
        of: Generation,
        account: AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<LedgerEntry>, StoreError>> {
        let found = self.all().of(of).map(|copy| {
            let lines = copy.rows.values();
            let lines = lines.filter(|entry| entry.account == account && (entry.lsn, entry.index) > after);
            lines.take(limit).cloned().collect()
        });
        Box::pin(async move { found })
    }

    fn accounts(
        &self,
        of: Generation,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccountId>, StoreError>> {
        let found = self.all().of(of).map(|copy| {
            let mut accounts: Vec<AccountId> = copy.rows.keys().map(|(account, _, _)| account.clone()).collect();
            accounts.dedup();
            accounts.retain(|account| after.as_ref().is_none_or(|after| account > after));
            accounts.truncate(limit);
            accounts
        });
        Box::pin(async move { found })
    }
}
