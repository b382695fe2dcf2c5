//! An operator's tills: what he has earned in each shard on its way out of the books.
//!
//! Revenue and shares grow in the books of every shard. A till is the operator's account in one of them: it takes what
//! he earned there, and nothing that is not there, passes it on to his other tills by transfers like any account, and
//! pays it out. So a payout is one entry of one till, whole or not at all (docs/decisions/0015-payouts-out-of-tills.md).

use super::apply::{ApplyError, overflow};
use super::{Account, AccountAnswer, AccountEvent, KeyContent, postings};
use crate::ids::{AccountId, OperatorId};
use crate::ledger::{Books, LedgerAccount};
use crate::units::{Currency, Money};

impl Account {
    /// Applies an event of a till. An error changes nothing.
    pub(super) fn on_till(&mut self, event: &AccountEvent) -> Result<(), ApplyError> {
        match event {
            AccountEvent::Collected { key, amount, at, .. } => {
                self.posted = self.posted.checked_add(*amount).ok_or_else(|| overflow(event))?;
                let (content, amount) = (KeyContent::Collect { amount: *amount }, *amount);
                self.remember_key(key, content, Ok(AccountAnswer::Collected { amount }), *at);
            }
            AccountEvent::PaidOut { key, reference, amount, at, .. } => {
                let balance = self.posted.checked_sub(*amount).ok_or_else(|| overflow(event))?;
                self.posted = balance;
                let content = KeyContent::PayOut { amount: *amount, reference: reference.clone() };
                self.remember_key(key, content, Ok(AccountAnswer::PaidOut { balance }), *at);
            }
            _ => {}
        }
        Ok(())
    }
}

impl AccountEvent {
    /// The currency of what was metered; none of other events.
    pub fn metered_currency(&self) -> Option<Currency> {
        match self {
            Self::Debited { currency, .. } | Self::Settled { currency, .. } => Some(*currency),
            _ => None,
        }
    }
}

/// Whether an event may follow what is in the books and what is on its way into them, `queued` in the order of the log.
/// A collection may when its operator has earned so much: by the durable books, less what the events that are not
/// durable yet take from him. What those give him does not count before it is durable. Anything else may.
pub fn is_covered<'a>(
    books: &Books,
    queued: impl Iterator<Item = (&'a AccountId, &'a AccountEvent)>,
    event: &AccountEvent,
) -> bool {
    let AccountEvent::Collected { operator, currency, amount, .. } = event else { return true };
    let earned = books.earned(operator, *currency);
    let left = queued.fold(earned, |left, (id, event)| left.saturating_sub(taken(id, event, operator, *currency)));
    *amount <= left
}

/// What an event takes from an operator's ledger accounts; zero when it gives.
fn taken(id: &AccountId, event: &AccountEvent, operator: &OperatorId, currency: Currency) -> Money {
    // A debit only gives; there may be thousands of them.
    if !matches!(event, AccountEvent::Settled { .. } | AccountEvent::Collected { .. }) {
        return Money::ZERO;
    }
    let own = postings(id, event).into_iter().filter(|leg| leg.account.operator() == Some(operator));
    let change =
        own.filter(|leg| leg.currency == currency).fold(Money::ZERO, |sum, leg| sum.saturating_add(leg.amount));
    change.negated().max(Money::ZERO)
}

/// What an event does to what operators have earned: `line` is told the operator, the kind of ledger account, and how
/// much. What goes from there into a till is still his, and what tills do are lines of their own accounts.
pub fn operator_lines(id: &AccountId, event: &AccountEvent, mut line: impl FnMut(&OperatorId, &'static str, Money)) {
    if event.metered_currency().is_none() {
        return;
    }
    for leg in postings(id, event) {
        let Some(operator) = leg.account.operator() else { continue };
        let kind = match &leg.account {
            LedgerAccount::EnergyRevenue { .. } => "energy",
            LedgerAccount::ServiceRevenue { .. } => "service",
            LedgerAccount::FeeRevenue { .. } => "fees",
            LedgerAccount::Overshoot { .. } => "overshoot",
            LedgerAccount::Share { .. } => "share",
            _ => "other",
        };
        line(operator, kind, leg.amount);
    }
}
