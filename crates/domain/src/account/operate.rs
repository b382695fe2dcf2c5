//! What an operator does to an account: whose it is, whether it may be used, and what his commands change.

use super::apply::{ApplyError, overflow};
use super::{Account, AccountAnswer, AccountEvent, KeyContent, MAX_OPEN_SESSIONS};
use crate::ids::SessionId;
use crate::units::{Money, Timestamp};
use serde::{Deserialize, Serialize};

/// Sessions of one person's account that may be open at once: a family's cars and a few guests. Who pays for
/// more is a fleet ([`MAX_OPEN_SESSIONS`]).
pub const PERSONAL_OPEN_SESSIONS: usize = 16;

/// Longest reason of an operator, in bytes: a sentence or two, and a number to look up.
pub const MAX_REASON_LEN: usize = 500;

/// A session whose meter was read within this time, by the node's clock, is under way, and its hold is not
/// released: it must be stopped instead. A meter that moves is read every few seconds.
pub const RELEASE_QUIET_MS: i64 = 10 * 60 * 1_000;

/// Who holds an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A person.
    #[default]
    Personal,
    /// A fleet: it pays for thousands of sessions at once.
    Fleet,
}

/// Whether an account may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountStatus {
    /// For everything.
    #[default]
    Active,
    /// Not for new sessions, and no money goes out of it.
    Frozen { reason: String, at: Timestamp },
    /// Not any more.
    Closed { at: Timestamp },
}

impl Holder {
    /// Stable name, the same as in stored text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Personal => "personal",
            Self::Fleet => "fleet",
        }
    }

    /// Sessions that may be open at once.
    pub fn max_open_sessions(self) -> usize {
        match self {
            Self::Personal => PERSONAL_OPEN_SESSIONS,
            Self::Fleet => MAX_OPEN_SESSIONS,
        }
    }
}

impl AccountStatus {
    /// Stable name, the same as in stored text.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen { .. } => "frozen",
            Self::Closed { .. } => "closed",
        }
    }
}

impl Account {
    /// True when it takes no new holds and gives no money out.
    pub fn is_frozen(&self) -> bool {
        matches!(self.status, AccountStatus::Frozen { .. })
    }

    /// True when it is closed for good.
    pub fn is_closed(&self) -> bool {
        matches!(self.status, AccountStatus::Closed { .. })
    }

    /// What may go back to where it came from: of what was paid in, what is neither spent nor held. Credit is
    /// not paid out.
    pub fn refundable(&self) -> Money {
        self.posted.saturating_sub(self.held).min(self.paid_in).max(Money::ZERO)
    }

    /// Sessions that are not settled and hold money, or may give back some that was taken.
    pub(super) fn unsettled_sessions(&self) -> usize {
        let may_give_back = |session: &&super::SessionAccount| {
            session.closed.is_none() && (session.released.is_none() || session.billed.total().is_positive())
        };
        self.holds.values().filter(may_give_back).count()
    }

    /// Applies an operator's event. An error changes nothing.
    pub(super) fn on_operated(&mut self, event: &AccountEvent) -> Result<(), ApplyError> {
        match event {
            AccountEvent::Refunded { key, amount, at, .. } => {
                let balance = self.posted.checked_sub(*amount).ok_or_else(|| overflow(event))?;
                self.paid_in = self.paid_in.checked_sub(*amount).ok_or_else(|| overflow(event))?;
                self.posted = balance;
                let content = KeyContent::Refund { amount: *amount };
                self.remember_key(key, content, Ok(AccountAnswer::Refunded { balance }), *at);
            }
            AccountEvent::Adjusted { key, amount, reason, at, .. } => {
                let balance = self.posted.checked_add(*amount).ok_or_else(|| overflow(event))?;
                self.posted = balance;
                let content = KeyContent::Adjust { amount: *amount, reason: reason.clone() };
                self.remember_key(key, content, Ok(AccountAnswer::Adjusted { balance }), *at);
            }
            AccountEvent::Frozen { key, reason, at } => {
                self.status = AccountStatus::Frozen { reason: reason.clone(), at: *at };
                let content = KeyContent::Freeze { reason: reason.clone() };
                self.remember_key(key, content, Ok(AccountAnswer::Frozen), *at);
            }
            AccountEvent::Unfrozen { key, at } => {
                self.status = AccountStatus::Active;
                self.remember_key(key, KeyContent::Unfreeze, Ok(AccountAnswer::Unfrozen), *at);
            }
            AccountEvent::Released { key, session, hold, at } => {
                self.give_back(session, *hold, *at, event)?;
                let content = KeyContent::Release { session: session.clone() };
                self.remember_key(key, content, Ok(AccountAnswer::Released { hold: *hold }), *at);
            }
            AccountEvent::HoldEnded { session, hold, at } => self.give_back(session, *hold, *at, event)?,
            AccountEvent::Closed { key, at } => {
                self.status = AccountStatus::Closed { at: *at };
                self.remember_key(key, KeyContent::Close, Ok(AccountAnswer::Closed), *at);
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends a session's hold without a settlement.
    fn give_back(
        &mut self,
        id: &SessionId,
        hold: Money,
        at: Timestamp,
        event: &AccountEvent,
    ) -> Result<(), ApplyError> {
        let none_open = || ApplyError::NoOpenSession { event: event.kind(), session: id.clone() };
        let held = self.held.checked_sub(hold).ok_or_else(|| overflow(event))?;
        let session = self.holds.get_mut(id).filter(|session| session.is_open()).ok_or_else(none_open)?;
        session.hold = session.hold.checked_sub(hold).ok_or_else(|| overflow(event))?;
        session.released = Some(at);
        self.held = held;
        Ok(())
    }
}
