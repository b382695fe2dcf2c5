//! A driver's statement, line by line from the account's events.

use crate::account::AccountEvent;
use crate::ids::SessionId;
use crate::tariff::Priced;
use crate::units::{Money, Timestamp};
use serde::{Deserialize, Serialize};

/// What a line of a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatementKind {
    /// The account was opened.
    Opened,
    /// Money was paid in.
    TopUp,
    /// Money went back to where it came from.
    Refund,
    /// An operator corrected the balance.
    Adjustment,
    /// No new holds, and no money out.
    Frozen,
    /// That ended.
    Unfrozen,
    /// An operator gave a session's hold back.
    Release,
    /// A session's hold ended by time.
    HoldEnded,
    /// Revenue came into a till.
    Collected,
    /// Money left a till and the system.
    Payout,
    /// Closed for good.
    Closed,
    /// Money left for another account.
    TransferOut,
    /// Money of another account arrived.
    TransferIn,
    /// What left was refused and is back.
    TransferReturned,
    /// Energy was paid while it flowed.
    Debit,
    /// A session was settled.
    Settlement,
}

impl StatementKind {
    /// Stable name, the same as in stored text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::TopUp => "top_up",
            Self::Refund => "refund",
            Self::Adjustment => "adjustment",
            Self::Frozen => "frozen",
            Self::Unfrozen => "unfrozen",
            Self::Release => "release",
            Self::HoldEnded => "hold_ended",
            Self::Collected => "collected",
            Self::Payout => "payout",
            Self::Closed => "closed",
            Self::TransferOut => "transfer_out",
            Self::TransferIn => "transfer_in",
            Self::TransferReturned => "transfer_returned",
            Self::Debit => "debit",
            Self::Settlement => "settlement",
        }
    }
}

/// A line of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementEntry {
    pub kind: StatementKind,
    /// Change of the balance as the driver sees it: paid in is positive, spent is negative.
    pub amount: Money,
    pub session: Option<SessionId>,
    /// The idempotency key of the request that caused it.
    pub key: Option<String>,
    pub at: Timestamp,
    /// In words: the energy, and what the operator bore.
    pub note: String,
}

/// What a line says without words: all that books need, made without allocating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementLine<'a> {
    pub kind: StatementKind,
    /// Change of the balance as the driver sees it: paid in is positive, spent is negative.
    pub amount: Money,
    pub session: Option<&'a SessionId>,
    /// The idempotency key of the request that caused it.
    pub key: Option<&'a str>,
    pub at: Timestamp,
}

/// The lines of an event, at most one today. The amounts of all lines sum to the balance. Holds are no
/// lines, because they move no money; nor are refusals; nor is a debit that could take nothing.
pub fn statement_entries(event: &AccountEvent) -> Vec<StatementEntry> {
    let entry = |line: StatementLine<'_>| StatementEntry {
        kind: line.kind,
        amount: line.amount,
        session: line.session.cloned(),
        key: line.key.map(str::to_owned),
        at: line.at,
        note: note(event),
    };
    statement_line(event).map(entry).into_iter().collect()
}

/// The line of an event, without its words.
pub fn statement_line(event: &AccountEvent) -> Option<StatementLine<'_>> {
    use StatementKind as Kind;
    Some(match event {
        AccountEvent::Opened { key, at, .. } => keyed(Kind::Opened, Money::ZERO, key, *at),
        AccountEvent::ToppedUp { key, amount, at, .. } => keyed(Kind::TopUp, *amount, key, *at),
        AccountEvent::Refunded { key, amount, at, .. } => keyed(Kind::Refund, amount.negated(), key, *at),
        AccountEvent::Adjusted { key, amount, at, .. } => keyed(Kind::Adjustment, *amount, key, *at),
        AccountEvent::Frozen { key, at, .. } => keyed(Kind::Frozen, Money::ZERO, key, *at),
        AccountEvent::Unfrozen { key, at } => keyed(Kind::Unfrozen, Money::ZERO, key, *at),
        AccountEvent::Released { key, session, at, .. } => {
            StatementLine { session: Some(session), ..keyed(Kind::Release, Money::ZERO, key, *at) }
        }
        AccountEvent::HoldEnded { session, at, .. } => {
            StatementLine { session: Some(session), ..unkeyed(Kind::HoldEnded, Money::ZERO, *at) }
        }
        AccountEvent::Collected { key, amount, at, .. } => keyed(Kind::Collected, *amount, key, *at),
        AccountEvent::PaidOut { key, amount, at, .. } => keyed(Kind::Payout, amount.negated(), key, *at),
        AccountEvent::Closed { key, at } => keyed(Kind::Closed, Money::ZERO, key, *at),
        AccountEvent::TransferredOut { key, amount, at, .. } => keyed(Kind::TransferOut, amount.negated(), key, *at),
        AccountEvent::TransferredIn { amount, at, .. } => unkeyed(Kind::TransferIn, *amount, *at),
        AccountEvent::TransferReturned { amount, at, .. } => unkeyed(Kind::TransferReturned, *amount, *at),
        AccountEvent::Debited { session, energy, service, fees, at, .. } => {
            let amount = debited(&Priced { energy: *energy, service: *service, fees: *fees })?;
            StatementLine { session: Some(session), ..unkeyed(Kind::Debit, amount, *at) }
        }
        AccountEvent::Settled { session, settled, .. } => {
            let amount = paid_at_settlement(event).negated();
            StatementLine { session: Some(session), ..unkeyed(Kind::Settlement, amount, settled.at) }
        }
        AccountEvent::TransferRefused { .. }
        | AccountEvent::TransferArrived { .. }
        | AccountEvent::Held { .. }
        | AccountEvent::Refused { .. } => return None,
    })
}

/// What a debit of so much does to the balance; none when it could take nothing, which is no line.
pub fn debited(taken: &Priced) -> Option<Money> {
    let paid = taken.total();
    (paid != Money::ZERO).then(|| paid.negated())
}

fn paid_at_settlement(event: &AccountEvent) -> Money {
    match event {
        AccountEvent::Settled { energy, service, fees, settled, .. } => {
            energy.saturating_add(*service).saturating_add(*fees).saturating_sub(settled.overshoot)
        }
        _ => Money::ZERO,
    }
}

/// What the line of an event says in words.
fn note(event: &AccountEvent) -> String {
    match event {
        AccountEvent::Opened { kind, currency, holder, .. } => {
            format!("{} account opened in {currency}, credit limit {}", holder.code(), kind.limit())
        }
        AccountEvent::ToppedUp { .. } => "top-up".to_owned(),
        AccountEvent::Refunded { .. } => "given back to where it came from".to_owned(),
        AccountEvent::Adjusted { reason, .. } | AccountEvent::Frozen { reason, .. } => reason.clone(),
        AccountEvent::Unfrozen { .. } => "not frozen any more".to_owned(),
        AccountEvent::Released { hold, .. } => format!("{hold} was held for the session and is free again"),
        AccountEvent::HoldEnded { hold, .. } => {
            format!("nothing was read for long: {hold} was held for the session and is free again")
        }
        AccountEvent::Collected { operator, .. } => format!("revenue of {operator} in this shard"),
        AccountEvent::PaidOut { reference, .. } => reference.clone(),
        AccountEvent::Closed { .. } => "account closed".to_owned(),
        AccountEvent::TransferredOut { number, to, .. } => format!("to {to}, transfer {number}"),
        AccountEvent::TransferredIn { transfer, .. } => format!("from {}, transfer {transfer}", transfer.from),
        AccountEvent::TransferReturned { number, rejection, .. } => format!("transfer {number}: {rejection}"),
        AccountEvent::Debited { meter, energy, service, fees, .. } => {
            let fees = if fees.is_zero() { String::new() } else { format!(", fees {fees}") };
            format!("energy {energy}, service {service}{fees}, up to {meter}")
        }
        AccountEvent::Settled { settled, .. } => {
            let paid = paid_at_settlement(event);
            let in_all = format!("{} for {} in all", settled.meter, settled.billed);
            match settled.overshoot {
                Money::ZERO if paid < Money::ZERO => {
                    format!("{in_all}; {} of what was taken before given back", paid.negated())
                }
                Money::ZERO => in_all,
                borne => format!("{in_all}; {} of it, worth {borne}, borne by the operator", settled.overshoot_wh),
            }
        }
        AccountEvent::TransferRefused { .. }
        | AccountEvent::TransferArrived { .. }
        | AccountEvent::Held { .. }
        | AccountEvent::Refused { .. } => String::new(),
    }
}

fn keyed(kind: StatementKind, amount: Money, key: &str, at: Timestamp) -> StatementLine<'_> {
    StatementLine { kind, amount, session: None, key: Some(key), at }
}

fn unkeyed(kind: StatementKind, amount: Money, at: Timestamp) -> StatementLine<'static> {
    StatementLine { kind, amount, session: None, key: None, at }
}
