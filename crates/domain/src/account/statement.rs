//! A driver's statement, line by line from the account's events.

use crate::account::AccountEvent;
use crate::ids::SessionId;
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

/// The lines of an event, at most one today. The amounts of all lines sum to the balance. Holds are no
/// lines, because they move no money; nor are refusals; nor is a debit that could take nothing.
pub fn statement_entries(event: &AccountEvent) -> Vec<StatementEntry> {
    let entry = match event {
        AccountEvent::Opened { key, kind, currency, holder, at } => {
            let holder = holder.code();
            let note = format!("{holder} account opened in {currency}, credit limit {}", kind.limit());
            keyed(StatementKind::Opened, Money::ZERO, key, *at, note)
        }
        AccountEvent::ToppedUp { key, amount, at, .. } => {
            keyed(StatementKind::TopUp, *amount, key, *at, "top-up".to_owned())
        }
        AccountEvent::Refunded { key, amount, at, .. } => {
            keyed(StatementKind::Refund, amount.negated(), key, *at, "given back to where it came from".to_owned())
        }
        AccountEvent::Adjusted { key, amount, reason, at, .. } => {
            keyed(StatementKind::Adjustment, *amount, key, *at, reason.clone())
        }
        AccountEvent::Frozen { key, reason, at } => keyed(StatementKind::Frozen, Money::ZERO, key, *at, reason.clone()),
        AccountEvent::Unfrozen { key, at } => {
            keyed(StatementKind::Unfrozen, Money::ZERO, key, *at, "not frozen any more".to_owned())
        }
        AccountEvent::Released { key, session, hold, at } => {
            let note = format!("{hold} was held for the session and is free again");
            StatementEntry {
                session: Some(session.clone()),
                ..keyed(StatementKind::Release, Money::ZERO, key, *at, note)
            }
        }
        AccountEvent::Closed { key, at } => {
            keyed(StatementKind::Closed, Money::ZERO, key, *at, "account closed".to_owned())
        }
        AccountEvent::TransferredOut { key, number, to, amount, at, .. } => {
            keyed(StatementKind::TransferOut, amount.negated(), key, *at, format!("to {to}, transfer {number}"))
        }
        AccountEvent::TransferredIn { transfer, amount, at, .. } => {
            unkeyed(StatementKind::TransferIn, *amount, *at, format!("from {}, transfer {transfer}", transfer.from))
        }
        AccountEvent::TransferReturned { number, amount, rejection, at, .. } => {
            unkeyed(StatementKind::TransferReturned, *amount, *at, format!("transfer {number}: {rejection}"))
        }
        AccountEvent::Debited { session, meter, energy, service, fees, at, .. } => {
            let paid = energy.saturating_add(*service).saturating_add(*fees);
            if paid == Money::ZERO {
                return Vec::new();
            }
            let fees = if fees.is_zero() { String::new() } else { format!(", fees {fees}") };
            let note = format!("energy {energy}, service {service}{fees}, up to {meter}");
            of_session(StatementKind::Debit, paid.negated(), session, *at, note)
        }
        AccountEvent::Settled { session, energy, service, fees, settled, .. } => {
            let taken = energy.saturating_add(*service).saturating_add(*fees);
            let paid = taken.saturating_sub(settled.overshoot);
            let note = match settled.overshoot {
                Money::ZERO if paid < Money::ZERO => {
                    let back = paid.negated();
                    format!(
                        "{} for {} in all; {back} of what was taken before given back",
                        settled.meter, settled.billed
                    )
                }
                Money::ZERO => format!("{} for {} in all", settled.meter, settled.billed),
                borne => format!(
                    "{} for {} in all; {} of it, worth {borne}, borne by the operator",
                    settled.meter, settled.billed, settled.overshoot_wh
                ),
            };
            of_session(StatementKind::Settlement, paid.negated(), session, settled.at, note)
        }
        AccountEvent::TransferRefused { .. }
        | AccountEvent::TransferArrived { .. }
        | AccountEvent::Held { .. }
        | AccountEvent::Refused { .. } => return Vec::new(),
    };
    vec![entry]
}

fn keyed(kind: StatementKind, amount: Money, key: &str, at: Timestamp, note: String) -> StatementEntry {
    StatementEntry { kind, amount, session: None, key: Some(key.to_owned()), at, note }
}

fn unkeyed(kind: StatementKind, amount: Money, at: Timestamp, note: String) -> StatementEntry {
    StatementEntry { kind, amount, session: None, key: None, at, note }
}

fn of_session(kind: StatementKind, amount: Money, session: &SessionId, at: Timestamp, note: String) -> StatementEntry {
    StatementEntry { kind, amount, session: Some(session.clone()), key: None, at, note }
}
