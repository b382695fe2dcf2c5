//! Commands of an operator: refund, correction, freezing, release, closing. All keyed: a repetition gets the
//! first answer, a refusal too.

use super::{Decision, refuse};
use crate::account::{
    Account, AccountAnswer, AccountEvent, AccountRejection, KeyContent, MAX_BALANCE, MAX_REASON_LEN, RELEASE_QUIET_MS,
};
use crate::ids::SessionId;
use crate::units::{Currency, Money, Timestamp};

/// An amount that is moved one way.
pub(super) fn check_amount(amount: Money) -> Result<(), AccountRejection> {
    if amount.is_positive() && amount <= MAX_BALANCE { Ok(()) } else { Err(AccountRejection::InvalidAmount { amount }) }
}

pub(super) fn check_reason(reason: &str) -> Result<(), AccountRejection> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON_LEN {
        Err(AccountRejection::InvalidReason)
    } else {
        Ok(())
    }
}

impl Account {
    /// Refuses what is about another currency. Not remembered, and need not be: an account's currency never
    /// changes, so the repetition is answered the same.
    pub(super) fn in_currency(&self, asked: Option<Currency>, decide: impl FnOnce(&Self) -> Decision) -> Decision {
        match asked.filter(|asked| *asked != self.currency) {
            Some(asked) => refuse(AccountRejection::OtherCurrency { account: self.currency, asked }),
            None => decide(self),
        }
    }

    pub(super) fn refund(&self, key: &str, amount: Money, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::Refund { amount }, at, |account| {
            check_amount(amount)?;
            if account.is_frozen() {
                return Err(AccountRejection::AccountFrozen);
            }
            let refundable = account.refundable();
            if amount > refundable {
                return Err(AccountRejection::RefundLimit { refundable });
            }
            let balance = account.posted.saturating_sub(amount);
            let event = AccountEvent::Refunded { key: key.to_owned(), currency: account.currency, amount, at };
            Ok((event, AccountAnswer::Refunded { balance }))
        })
    }

    pub(super) fn adjust(&self, key: &str, amount: Money, reason: &str, at: Timestamp) -> Decision {
        // What is refused for its length is not remembered at its length.
        let kept = || reason.chars().take(MAX_REASON_LEN.saturating_add(1)).collect();
        self.keyed(key, KeyContent::Adjust { amount, reason: kept() }, at, |account| {
            if amount == Money::ZERO || amount > MAX_BALANCE || amount < MAX_BALANCE.negated() {
                return Err(AccountRejection::InvalidAmount { amount });
            }
            check_reason(reason)?;
            let balance = account.posted.checked_add(amount).filter(|balance| *balance <= MAX_BALANCE);
            let balance = balance.ok_or(AccountRejection::BalanceLimit)?;
            let available = account.available();
            if available.saturating_add(amount) < Money::ZERO {
                return Err(AccountRejection::InsufficientFunds { available });
            }
            let (key, reason) = (key.to_owned(), reason.to_owned());
            let event = AccountEvent::Adjusted { key, currency: account.currency, amount, reason, at };
            Ok((event, AccountAnswer::Adjusted { balance }))
        })
    }

    pub(super) fn freeze(&self, key: &str, reason: &str, at: Timestamp) -> Decision {
        let kept = || reason.chars().take(MAX_REASON_LEN.saturating_add(1)).collect();
        self.keyed(key, KeyContent::Freeze { reason: kept() }, at, |_| {
            check_reason(reason)?;
            let event = AccountEvent::Frozen { key: key.to_owned(), reason: reason.to_owned(), at };
            Ok((event, AccountAnswer::Frozen))
        })
    }

    pub(super) fn unfreeze(&self, key: &str, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::Unfreeze, at, |_| {
            Ok((AccountEvent::Unfrozen { key: key.to_owned(), at }, AccountAnswer::Unfrozen))
        })
    }

    pub(super) fn release(&self, key: &str, session: &SessionId, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::Release { session: session.clone() }, at, |account| {
            let known = account.position(session).ok_or(AccountRejection::UnknownSession)?;
            if known.closed.is_some() {
                return Err(AccountRejection::SessionClosed);
            }
            if known.released.is_some() {
                return Err(AccountRejection::SessionReleased);
            }
            if known.sequence > 0 && at.since(known.metered_at) < RELEASE_QUIET_MS {
                return Err(AccountRejection::SessionActive { read_at: known.metered_at });
            }
            let hold = known.hold;
            let event = AccountEvent::Released { key: key.to_owned(), session: session.clone(), hold, at };
            Ok((event, AccountAnswer::Released { hold }))
        })
    }

    /// Ends a hold by time. A session that was heard of since keeps it; that answer may change, and is not remembered.
    pub(super) fn end_hold(&self, session: &SessionId, quiet_since: Timestamp, at: Timestamp) -> Decision {
        let Some(known) = self.position(session) else {
            return refuse(AccountRejection::UnknownSession);
        };
        if known.closed.is_some() {
            return refuse(AccountRejection::SessionClosed);
        }
        if known.released.is_some() {
            return refuse(AccountRejection::SessionReleased);
        }
        if known.metered_at > quiet_since {
            return refuse(AccountRejection::SessionActive { read_at: known.metered_at });
        }
        let (session, hold) = (session.clone(), known.hold);
        Decision {
            event: Some(AccountEvent::HoldEnded { session, hold, at }),
            answer: Ok(AccountAnswer::HoldEnded { hold }),
        }
    }

    pub(super) fn close(&self, key: &str, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::Close, at, |account| {
            let sessions = account.unsettled_sessions();
            if sessions > 0 {
                return Err(AccountRejection::SessionsOpen { sessions });
            }
            let transfers = account.outgoing.open.len();
            if transfers > 0 {
                return Err(AccountRejection::TransfersOpen { transfers });
            }
            if account.posted != Money::ZERO {
                return Err(AccountRejection::BalanceNotZero { balance: account.posted });
            }
            Ok((AccountEvent::Closed { key: key.to_owned(), at }, AccountAnswer::Closed))
        })
    }
}
