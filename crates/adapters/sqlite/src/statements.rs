//! Statements of accounts, in blocks: the lines of one account that came in one batch are one row.
//!
//! A hot account has thousands of lines a second; a row each would keep the read models behind for ever. A block
//! holds the balance before its first line, so balances run without looking at other blocks. See [`block`].

mod block;

use crate::data_dir::{DataDir, OpenError};
use crate::database::{ordered, parsed, unsigned, unsigned32};
use crate::fault::Fault;
use crate::generations::{Generations, Model, advance, cursors, layout, read_model, read_model_tables};
use crate::journal::{code_of, shard_of_code};
use chargeplane_actors::ports::{Generation, LedgerEntry, ReadModel, StatementBatch, Statements, StoreError};
use chargeplane_cluster::BoxFuture;
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::Money;
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::BTreeMap;

const TABLES: &[&str] = &[concat!(
    read_model_tables!(),
    "
        CREATE TABLE accounts(
            no INTEGER PRIMARY KEY,
            account TEXT NOT NULL,
            balance INTEGER NOT NULL,
            lines INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX accounts_by_id ON accounts(account);
        CREATE TABLE blocks(
            account INTEGER NOT NULL,
            last_lsn INTEGER NOT NULL,
            last_idx INTEGER NOT NULL,
            shard INTEGER NOT NULL,
            opening INTEGER NOT NULL,
            body BLOB NOT NULL
        ) STRICT;
    "
)];

static MODEL: Model = Model {
    layouts: [layout("statements-a.sqlite", TABLES), layout("statements-b.sqlite", TABLES)],
    indexes: &["CREATE UNIQUE INDEX IF NOT EXISTS blocks_by_account ON blocks(account, last_lsn, last_idx)"],
    // Cursors let no line in twice, with indexes or without.
    settle: |_| Ok(()),
    count,
};

/// Lines in one block at most: what a page reads in vain at its beginning and end is bounded.
const MAX_LINES: usize = 512;

/// Statements in `statements-a.sqlite` or `statements-b.sqlite`.
pub struct SqliteStatements {
    generations: Generations,
}

read_model!(SqliteStatements, &MODEL);

impl Statements for SqliteStatements {
    fn add(&self, to: Generation, batch: StatementBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let file = self.generations.of(to)?;
            Ok(file.write(move |transaction| add(transaction, &batch)).await?)
        })
    }

    fn lines(
        &self,
        of: Generation,
        account: AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<LedgerEntry>, StoreError>> {
        Box::pin(async move {
            let file = self.generations.finished(of).await?;
            Ok(file.read(move |transaction| lines(transaction, &account, after, limit)).await?)
        })
    }

    fn accounts(
        &self,
        of: Generation,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccountId>, StoreError>> {
        Box::pin(async move {
            let file = self.generations.finished(of).await?;
            Ok(file.read(move |transaction| accounts(transaction, after.as_ref(), limit)).await?)
        })
    }
}

fn count(transaction: &Transaction<'_>) -> Result<u64, Fault> {
    unsigned(transaction.query_row("SELECT COALESCE(sum(lines), 0) FROM accounts", [], |row| row.get(0))?)
}

fn add(transaction: &Transaction<'_>, batch: &StatementBatch) -> Result<(), Fault> {
    let is_in = advance(transaction, batch.shard, batch.after_lsn, batch.upto_lsn)?;
    let mut by_account: BTreeMap<&AccountId, Vec<&LedgerEntry>> = BTreeMap::new();
    for entry in batch.entries.iter().filter(|entry| entry.lsn > is_in) {
        by_account.entry(&entry.account).or_default().push(entry);
    }
    by_account.iter().try_for_each(|(account, entries)| add_to_account(transaction, batch.shard, account, entries))
}

fn add_to_account(
    transaction: &Transaction<'_>,
    shard: ShardId,
    account: &AccountId,
    entries: &[&LedgerEntry],
) -> Result<(), Fault> {
    let mut select = transaction.prepare_cached("SELECT no, balance FROM accounts WHERE account = ?1")?;
    let known = select.query_row([account.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (no, mut balance): (i64, i64) = match known {
        Some(known) => known,
        None => {
            let sql = "INSERT INTO accounts(account, balance, lines) VALUES(?1, 0, 0)";
            transaction.prepare_cached(sql)?.execute([account.as_str()])?;
            (transaction.last_insert_rowid(), 0)
        }
    };
    let mut insert = transaction.prepare_cached(
        "INSERT INTO blocks(account, last_lsn, last_idx, shard, opening, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for lines in entries.chunks(MAX_LINES) {
        let Some(last) = lines.last() else { continue };
        let body = block::encode(lines);
        insert.execute(params![no, ordered(last.lsn), last.index, code_of(shard), balance, body])?;
        let sum = lines.iter().try_fold(balance, |sum, line| sum.checked_add(line.amount.0));
        balance = sum.ok_or_else(|| Fault::corrupt(format!("the balance of {account} does not fit")))?;
    }
    let sql = "UPDATE accounts SET balance = ?2, lines = lines + ?3 WHERE no = ?1";
    let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
    transaction.prepare_cached(sql)?.execute(params![no, balance, count])?;
    Ok(())
}

fn lines(
    transaction: &Transaction<'_>,
    account: &AccountId,
    after: (u64, u32),
    limit: usize,
) -> Result<Vec<LedgerEntry>, Fault> {
    let mut number = transaction.prepare_cached("SELECT no FROM accounts WHERE account = ?1")?;
    let Some(no) = number.query_row([account.as_str()], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(Vec::new());
    };
    let mut select = transaction.prepare_cached(
        "SELECT shard, opening, body, last_lsn, last_idx FROM blocks INDEXED BY blocks_by_account
         WHERE account = ?1 AND (last_lsn, last_idx) > (?2, ?3) ORDER BY last_lsn, last_idx",
    )?;
    let mut rows = select.query(params![no, ordered(after.0), after.1])?;
    let mut found = Vec::new();
    // Blocks are read one by one, as far as the page goes.
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let (shard, mut balance) = (shard_of_code(row.get(0)?)?, Money(row.get(1)?));
        let last = (unsigned(row.get(3)?)?, unsigned32(row.get(4)?)?);
        let lines = block::decode(row.get_ref(2)?.as_blob().map_err(Fault::corrupt)?)?;
        if lines.last().map(|line| (line.lsn, line.index)) != Some(last) {
            return Err(Fault::corrupt(format!("a block of {account} does not end with its last line")));
        }
        for line in lines {
            let sum = balance.checked_add(line.amount);
            balance = sum.ok_or_else(|| Fault::corrupt(format!("the balance of {account} does not fit")))?;
            if (line.lsn, line.index) > after && found.len() < limit {
                found.push(line.entry(shard, account, balance)?);
            }
        }
    }
    Ok(found)
}

fn accounts(transaction: &Transaction<'_>, after: Option<&AccountId>, limit: usize) -> Result<Vec<AccountId>, Fault> {
    let mut select =
        transaction.prepare_cached("SELECT account FROM accounts WHERE account > ?1 ORDER BY account LIMIT ?2")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map(params![after.map_or("", AccountId::as_str), limit], |row| row.get::<_, String>(0))?;
    rows.map(|account| parsed(&account?)).collect()
}

#[cfg(test)]
mod tests;
