//! What operators have earned, what is paid out to them, and their statements.

use crate::extract::rfc3339;
use chargeplane_actors::handle::{OperatorLine, OperatorStatement, PaidOut};
use chargeplane_domain::account::AccountAnswer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A payout: to an account of the tenant, or to a bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PayoutRequest {
    /// A positive decimal amount with up to four decimals, as a string.
    pub amount: String,
    /// The account that gets it.
    #[serde(default)]
    pub to: Option<String>,
    /// Or: who gets it outside, in 1 to 500 bytes, such as a bank's reference. It stays in the books.
    #[serde(default)]
    pub to_bank: Option<String>,
    /// ISO 4217 code; may be left out where the operator has money of one currency only.
    #[serde(default)]
    pub currency: Option<String>,
}

/// The answer to a payout, the same for every repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayoutDto {
    /// The operator.
    pub operator: String,
    /// The operator's till that paid.
    pub till: String,
    /// The transfer to the account, whose end `GET /transfers/{transfer}` tells; null for a bank.
    pub transfer: Option<String>,
    /// What was left in the till.
    pub balance: String,
}

impl PayoutDto {
    /// The answer of the till that paid; none when it is no answer to a payout.
    pub fn new(operator: String, paid: &PaidOut) -> Option<Self> {
        let (transfer, balance) = match &paid.answer {
            AccountAnswer::PaidOut { balance } => (None, balance),
            AccountAnswer::TransferredOut { transfer, balance } => (Some(transfer.to_string()), balance),
            _ => return None,
        };
        Some(Self { operator, till: paid.till.to_string(), transfer, balance: balance.to_string() })
    }
}

/// A line of an operator's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorLineDto {
    /// When; of the entries of an hour, the last.
    pub at: String,
    /// `energy`, `service`, `fees`, `overshoot`, `share`: what one hour did, over all shards, or one frame; or one entry
    /// of a till: `payout`, `transfer_out`, `transfer_in`, `transfer_returned`, `opened`, `frozen`, `unfrozen`.
    pub kind: String,
    /// What it did to what the operator is owed.
    pub amount: String,
    /// What the operator is owed after it: the sum over all shards of what was earned and not paid out.
    pub balance: String,
    /// Journal frames that it sums up.
    pub frames: u64,
    /// The till of a line that is no sum over an hour.
    pub till: Option<String>,
    /// Its name in an audit of that till: `account-0003/12/0`.
    pub entry: Option<String>,
    /// The idempotency key of an entry's request.
    pub key: Option<String>,
}

/// A page of an operator's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperatorStatementDto {
    /// The operator.
    pub operator: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The lines, oldest first.
    pub items: Vec<OperatorLineDto>,
    /// Give it back as `?after=` for what follows; null at the end.
    pub next: Option<String>,
    /// False when the read models are behind: what was answered lately may be missing at the end.
    pub complete: bool,
}

impl OperatorStatementDto {
    /// A page of the statement of an operator in a currency.
    pub fn new(operator: String, currency: String, page: OperatorStatement) -> Self {
        let OperatorStatement { lines, next, complete } = page;
        let items = lines.into_iter().map(OperatorLineDto::from).collect();
        Self { operator, currency, items, next: next.map(|next| next.to_string()), complete }
    }
}

impl From<OperatorLine> for OperatorLineDto {
    fn from(line: OperatorLine) -> Self {
        Self {
            at: rfc3339(line.at),
            kind: line.kind,
            amount: line.amount.to_string(),
            balance: line.balance.to_string(),
            frames: line.lines,
            till: line.till.map(|till| till.to_string()),
            entry: line.entry.map(|entry| entry.to_string()),
            key: line.key,
        }
    }
}
