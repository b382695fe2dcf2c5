//! Accounts, their ledger, and balances.

use crate::extract::rfc3339;
use crate::problem::Problem;
use chargeplane_actors::ports::LedgerEntry;
use chargeplane_actors::views::{AccountView, BalanceView};
use chargeplane_domain::account::AccountKind;
use chargeplane_domain::units::{Money, MoneyParseError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountDto {
    /// The account.
    pub id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// `prepaid` or `credit`.
    pub kind: String,
    /// The credit limit of a credit account.
    pub credit_limit: Option<String>,
    /// The posted balance.
    pub balance: String,
    /// Held for open sessions.
    pub held: String,
    /// What may still be spent or held.
    pub available: String,
    /// Sessions that hold money.
    pub open_sessions: Vec<String>,
    /// When it was opened.
    pub opened_at: String,
}

/// `prepaid` or `credit`, and the limit.
fn kind_of(kind: &AccountKind) -> (&'static str, Option<String>) {
    match kind {
        AccountKind::Prepaid => ("prepaid", None),
        AccountKind::Credit { limit } => ("credit", Some(limit.to_string())),
    }
}

impl From<AccountView> for AccountDto {
    fn from(view: AccountView) -> Self {
        let (kind, credit_limit) = kind_of(&view.kind);
        Self {
            id: view.id.to_string(),
            currency: view.currency.to_string(),
            kind: kind.to_owned(),
            credit_limit,
            balance: view.balance.to_string(),
            held: view.held.to_string(),
            available: view.available.to_string(),
            open_sessions: view.open_sessions.iter().map(ToString::to_string).collect(),
            opened_at: rfc3339(view.opened_at),
        }
    }
}

/// What an account is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenAccountRequest {
    /// The account, `tenant/local` or `local` of tenant `main`.
    pub account: String,
    /// ISO 4217 code.
    pub currency: String,
    /// `prepaid` or `credit`.
    pub kind: AccountKindDto,
    /// How far a credit account may go below zero, as a positive amount.
    #[serde(default)]
    pub credit_limit: Option<String>,
}

/// How an account pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccountKindDto {
    /// It spends what was paid in.
    Prepaid,
    /// It may go below zero, down to its limit.
    Credit,
}

/// The answer to opening an account: what was opened, the same for every repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenedDto {
    /// The account.
    pub account: String,
    /// ISO 4217 code.
    pub currency: String,
    /// `prepaid` or `credit`.
    pub kind: String,
    /// The credit limit of a credit account.
    pub credit_limit: Option<String>,
}

impl OpenedDto {
    /// The answer for an account that was opened so.
    pub fn new(account: String, currency: String, kind: &AccountKind) -> Self {
        let (kind, credit_limit) = kind_of(kind);
        Self { account, currency, kind: kind.to_owned(), credit_limit }
    }
}

/// Money to pay in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    /// A positive decimal amount with up to four decimals, as a string.
    pub amount: String,
}

/// The answer to a top-up: the balance after it, the same for every repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToppedUpDto {
    /// The account.
    pub account: String,
    /// The posted balance after this top-up.
    pub balance: String,
}

/// A line of an account's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerEntryDto {
    /// The line's identity: shard, log number and index.
    pub entry: String,
    /// The account.
    pub account: String,
    /// `opened`, `top_up`, `debit`, `settlement`.
    pub kind: String,
    /// What it did to the balance.
    pub amount: String,
    /// The posted balance after it.
    pub balance: String,
    /// The session that caused it.
    pub session: Option<String>,
    /// The idempotency key that caused it.
    pub key: Option<String>,
    /// When.
    pub at: String,
}

/// A page of an account's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatementDto {
    /// The lines, oldest first.
    pub items: Vec<LedgerEntryDto>,
    /// Give it back as `?after=` for what follows; null at the end.
    pub next: Option<String>,
    /// False when the read models are behind: lines of requests that were answered may be missing at the end.
    pub complete: bool,
}

impl From<LedgerEntry> for LedgerEntryDto {
    fn from(entry: LedgerEntry) -> Self {
        Self {
            entry: format!("{}/{}/{}", entry.shard, entry.lsn, entry.index),
            account: entry.account.to_string(),
            kind: entry.kind.into_owned(),
            amount: entry.amount.to_string(),
            balance: entry.balance.to_string(),
            session: entry.session.map(|s| s.to_string()),
            key: entry.key,
            at: rfc3339(entry.at),
        }
    }
}

/// A balance of one shard's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalanceDto {
    /// The shard that keeps it.
    pub shard: String,
    /// `driver:main/a1`, `energy:main/op1:CNY`, ...
    pub account: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The balance; over a shard they add up to zero per currency.
    pub balance: String,
}

impl From<BalanceView> for BalanceDto {
    fn from(view: BalanceView) -> Self {
        Self {
            shard: view.shard,
            account: view.account,
            currency: view.currency.to_string(),
            balance: view.balance.to_string(),
        }
    }
}

/// Reads a positive or negative amount out of a request.
pub fn amount(field: &str, text: &str) -> Result<Money, Problem> {
    text.parse().map_err(|e: MoneyParseError| Problem::new("invalid_amount", format!("{field}: {e}")))
}
