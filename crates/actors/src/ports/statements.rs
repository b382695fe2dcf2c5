//! The port to accounts' statements: every line that changed or explains a balance, with the balance after it.

use super::{Generation, ReadModel, StoreError};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::{Money, Timestamp};
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One line of an account's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The journal's shard, log number and the index in its frame: the entry's identity.
    pub shard: ShardId,
    /// Log number of the frame.
    pub lsn: u64,
    /// Index of the event in the frame.
    pub index: u32,
    /// The account.
    pub account: AccountId,
    /// What happened: the code of the domain's statement kind, such as `opened`, `top_up`, `debit`, `settlement`.
    pub kind: Cow<'static, str>,
    /// What it did to the balance.
    pub amount: Money,
    /// The posted balance after it; computed by the store from the entries before, ignored when written.
    pub balance: Money,
    /// The session that caused it.
    pub session: Option<SessionId>,
    /// The idempotency key that caused it.
    pub key: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// The lines of one stretch of a shard's journal: whole frames.
#[derive(Debug, Clone)]
pub struct StatementBatch {
    /// The shard.
    pub shard: ShardId,
    /// The stretch begins after this log number. Above the cursor, it leaves a hole and is refused.
    pub after_lsn: u64,
    /// Everything up to this log number is in.
    pub upto_lsn: u64,
    /// Its lines, in the order of the log.
    pub entries: Vec<LedgerEntry>,
}

/// Statements of accounts. An account's lines all come from one shard, so its balance runs in the order of that log.
pub trait Statements: ReadModel {
    /// Adds a batch and moves the cursor, in one transaction. What the cursor says is in is skipped.
    fn add(&self, to: Generation, batch: StatementBatch) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Lines of an account, oldest first, after (lsn, index); at most `limit`.
    fn lines(
        &self,
        of: Generation,
        account: AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<LedgerEntry>, StoreError>>;
    /// Accounts that have lines, by id, after one; at most `limit`.
    fn accounts(
        &self,
        of: Generation,
        after: Option<AccountId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccountId>, StoreError>>;
}
