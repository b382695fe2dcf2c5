//! Accounts, their ledger, and balances.

use crate::extract::rfc3339;
use crate::problem::Problem;
use chargeplane_actors::ports::LedgerEntry;
use chargeplane_actors::views::{AccountView, BalanceView, OperatorBalance};
use chargeplane_domain::account::{AccountKind, AccountStatus, Holder, Transfer, TransferEnd, TransferId};
use chargeplane_domain::units::{Currency, Money, MoneyParseError};
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
    /// `personal` or `fleet`.
    pub holder: String,
    /// `active`, `frozen` or `closed`.
    pub status: String,
    /// Why it is frozen.
    pub status_reason: Option<String>,
    /// The posted balance.
    pub balance: String,
    /// Held for open sessions.
    pub held: String,
    /// What may still be spent or held.
    pub available: String,
    /// What may be refunded: of what was paid in, what is neither spent nor held.
    pub refundable: String,
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
        let status_reason = match &view.status {
            AccountStatus::Frozen { reason, .. } => Some(reason.clone()),
            AccountStatus::Active | AccountStatus::Closed { .. } => None,
        };
        Self {
            id: view.id.to_string(),
            currency: view.currency.to_string(),
            kind: kind.to_owned(),
            credit_limit,
            holder: view.holder.code().to_owned(),
            status: view.status.code().to_owned(),
            status_reason,
            balance: view.balance.to_string(),
            held: view.held.to_string(),
            available: view.available.to_string(),
            refundable: view.refundable.to_string(),
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
    /// `personal` (the default; 16 sessions at once) or `fleet` (10,000).
    #[serde(default)]
    pub holder: HolderDto,
}

/// Who holds an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HolderDto {
    /// A person.
    #[default]
    Personal,
    /// A fleet.
    Fleet,
}

impl From<HolderDto> for Holder {
    fn from(holder: HolderDto) -> Self {
        match holder {
            HolderDto::Personal => Self::Personal,
            HolderDto::Fleet => Self::Fleet,
        }
    }
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
    /// `personal` or `fleet`.
    pub holder: String,
}

impl OpenedDto {
    /// The answer for an account that was opened so.
    pub fn new(account: String, currency: String, kind: &AccountKind, holder: Holder) -> Self {
        let (kind, credit_limit) = kind_of(kind);
        Self { account, currency, kind: kind.to_owned(), credit_limit, holder: holder.code().to_owned() }
    }
}

/// Money to pay in, or to give back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    /// A positive decimal amount with up to four decimals, as a string.
    pub amount: String,
    /// ISO 4217 code; refused when it is not the account's. May be left out.
    #[serde(default)]
    pub currency: Option<String>,
}

/// A correction of a balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdjustRequest {
    /// A decimal amount with up to four decimals, as a string; negative to take.
    pub amount: String,
    /// Why, in 1 to 500 bytes: it stays in the books.
    pub reason: String,
    /// ISO 4217 code; refused when it is not the account's. May be left out.
    #[serde(default)]
    pub currency: Option<String>,
}

/// Money for another account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Where it is to go: another account of the same tenant.
    pub to: String,
    /// A positive decimal amount with up to four decimals, as a string.
    pub amount: String,
    /// ISO 4217 code; refused when it is not the account's. May be left out.
    #[serde(default)]
    pub currency: Option<String>,
}

/// The answer to a transfer: it is under way, the same for every repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferredDto {
    /// Names it.
    pub transfer: String,
    /// The account that it leaves.
    pub account: String,
    /// The posted balance after it.
    pub balance: String,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferDto {
    /// Names it.
    pub id: String,
    /// The account that it leaves.
    pub from: String,
    /// The account that it goes to.
    pub to: String,
    /// How much.
    pub amount: String,
    /// `in_flight`, `arrived`, or `returned`: the money is back.
    pub state: String,
    /// Why it was refused and is back: a code.
    pub refusal: Option<String>,
    /// When it left.
    pub at: String,
    /// When its end was known.
    pub ended_at: Option<String>,
}

impl TransferDto {
    /// A transfer by its name.
    pub fn new(id: &TransferId, transfer: &Transfer) -> Self {
        let state = match &transfer.end {
            None => "in_flight",
            Some(TransferEnd { returned: None, .. }) => "arrived",
            Some(TransferEnd { returned: Some(_), .. }) => "returned",
        };
        let refusal = transfer.end.as_ref().and_then(|end| end.returned.as_ref());
        Self {
            id: id.to_string(),
            from: id.from.to_string(),
            to: transfer.to.to_string(),
            amount: transfer.amount.to_string(),
            state: state.to_owned(),
            refusal: refusal.map(|rejection| rejection.code().to_owned()),
            at: rfc3339(transfer.at),
            ended_at: transfer.end.as_ref().map(|end| rfc3339(end.at)),
        }
    }
}

/// Why an account is frozen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// Why, in 1 to 500 bytes.
    pub reason: String,
}

/// Whose hold is to be given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The session.
    pub session: String,
}

/// Whether an account may be used, after a change of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountStatusDto {
    /// The account.
    pub account: String,
    /// `active`, `frozen` or `closed`.
    pub status: String,
}

/// A hold that was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleasedDto {
    /// The account.
    pub account: String,
    /// The session.
    pub session: String,
    /// What was held for it and is free again.
    pub released: String,
}

/// The answer to what changed a balance: the balance after it, the same for every repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ToppedUpDto {
    /// The account.
    pub account: String,
    /// The posted balance after it.
    pub balance: String,
}

/// A line of an account's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerEntryDto {
    /// The line's identity: shard, log number and index.
    pub entry: String,
    /// The account.
    pub account: String,
    /// `opened`, `top_up`, `refund`, `adjustment`, `debit`, `settlement`, `release`, `hold_ended`,
    /// `transfer_out`, `transfer_in`, `transfer_returned`, `frozen`, `unfrozen`, `closed`.
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

/// What an operator, or another party of an agreement, has earned: the fold over the books of all shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorBalancesDto {
    /// The operator.
    pub operator: String,
    /// By currency.
    pub balances: Vec<OperatorBalanceDto>,
}

/// What an operator has earned in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorBalanceDto {
    /// ISO 4217 code.
    pub currency: String,
    /// For energy.
    pub energy: String,
    /// For service.
    pub service: String,
    /// For everything else: flat fees, minutes, least prices.
    pub fees: String,
    /// Metered and paid by no driver: zero or negative.
    pub overshoot: String,
    /// Shares of revenue by agreement: received, less what was passed on.
    pub shares: String,
    /// Paid out: zero or negative.
    pub paid_out: String,
    /// Everything together: what may be paid out.
    pub total: String,
}

impl OperatorBalancesDto {
    /// The balances of an operator.
    pub fn new(operator: String, balances: &[OperatorBalance]) -> Self {
        let dto = |balance: &OperatorBalance| OperatorBalanceDto {
            currency: balance.currency.to_string(),
            energy: balance.energy.to_string(),
            service: balance.service.to_string(),
            fees: balance.fees.to_string(),
            overshoot: balance.overshoot.to_string(),
            shares: balance.shares.to_string(),
            paid_out: balance.paid_out.to_string(),
            total: balance.total().to_string(),
        };
        Self { operator, balances: balances.iter().map(dto).collect() }
    }
}

/// Reads a currency out of a request, if there is one.
pub fn currency(text: Option<&str>) -> Result<Option<Currency>, Problem> {
    let read = |text| Currency::new(text).map_err(|e| Problem::new("invalid", format!("currency: {e}")));
    text.map(read).transpose()
}

/// Reads a positive or negative amount out of a request.
pub fn amount(field: &str, text: &str) -> Result<Money, Problem> {
    text.parse().map_err(|e: MoneyParseError| Problem::new("invalid_amount", format!("{field}: {e}")))
}
