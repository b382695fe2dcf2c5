//! Money on its way from one account to another, also of another shard.
//!
//! The out-entry moves it to the source's in-flight ledger account, the in-entry from there to the target, and a
//! confirmation ends it at the source. The source sends until it has the target's answer, after a restart
//! again, so the target must take a transfer in once however often it comes: it remembers every one that the
//! source has not ended yet. With each the source says below which number all of its have ended; those the
//! target forgets, and refuses should one come late. So nothing is ever taken in twice (MONEY-1), and what is
//! remembered stays small.
//!
//! A refusal that returns the money must never change, or money could arrive and be returned: a target that is
//! closed or of another currency stays so, and one that was too full remembers that it refused. An account that
//! was never opened can remember nothing, so its refusal returns nothing: nobody sends to one, because the source
//! asks for the target before anything leaves, and accounts are never removed.

use super::apply::{ApplyError, overflow};
use super::{Account, AccountAnswer, AccountEvent, AccountRejection, KeyContent, Recent};
use crate::ids::{AccountId, IdError};
use crate::units::{Currency, Money, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Transfers of one account that may be under way at once.
pub const MAX_OPEN_TRANSFERS: usize = 1_000;

/// Ended transfers whose state can still be read, newest first.
pub const ENDED_TRANSFERS_REMEMBERED: usize = 1_000;

/// Names a transfer: the account it leaves, and its number there, from 1. Text: `main/a1.t7`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TransferId {
    /// The account that it leaves.
    pub from: AccountId,
    /// Its number there.
    pub number: u64,
}

/// Why a text names no transfer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferIdError {
    /// Not an account, `.t` and a number.
    #[error("transfer {0:?}: expected ACCOUNT.tNUMBER, such as main/a1.t7")]
    Shape(String),
    /// The account's part is no id.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// What is known of the account that money is to go to, before any leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferTarget {
    /// Nobody has opened it.
    Unknown,
    /// It is closed.
    Closed,
    /// It takes money of this currency.
    Open { currency: Currency },
}

/// A transfer at its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Where it goes.
    pub to: AccountId,
    /// How much.
    pub amount: Money,
    /// When it left.
    pub at: Timestamp,
    /// How it ended; none while it is under way.
    pub end: Option<TransferEnd>,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferEnd {
    /// Why the target refused it and the money is back; none when it has arrived.
    pub returned: Option<AccountRejection>,
    /// When the source knew.
    pub at: Timestamp,
}

/// The transfers that leave an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Number of the last one.
    pub last: u64,
    /// Those under way.
    pub open: BTreeMap<u64, Transfer>,
    /// The last that ended.
    pub ended: Recent<u64, Transfer>,
}

/// The transfers that came from one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// All of the source's below this number have ended there.
    pub below: u64,
    /// Those that came from this number on.
    pub seen: BTreeMap<u64, Received>,
}

/// A transfer at its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// How much.
    pub amount: Money,
    /// Why it was refused; none when it was taken in.
    pub refused: Option<AccountRejection>,
}

impl Outgoing {
    /// A transfer, under way or among the last that ended.
    pub fn get(&self, number: u64) -> Option<&Transfer> {
        self.open.get(&number).or_else(|| self.ended.get(&number))
    }

    /// All below this number have ended.
    pub fn ended_below(&self) -> u64 {
        self.open.keys().next().copied().unwrap_or_else(|| self.last.saturating_add(1))
    }
}

impl Incoming {
    fn take(&mut self, number: u64, below: u64, received: Received) {
        self.below = self.below.max(below);
        self.seen.insert(number, received);
        self.seen = self.seen.split_off(&self.below);
    }
}

impl AccountRejection {
    /// True when a target that refuses a transfer so will always refuse it: the money may go back.
    pub fn returns_transfer(&self) -> bool {
        match self {
            Self::AccountClosed | Self::OtherCurrency { .. } | Self::InvalidAmount { .. } => true,
            // Remembered by the target.
            Self::BalanceLimit => true,
            _ => false,
        }
    }
}

impl Account {
    /// Applies an event of a transfer. An error changes nothing.
    pub(super) fn on_transfer(&mut self, event: &AccountEvent) -> Result<(), ApplyError> {
        match event {
            AccountEvent::TransferredOut { key, number, to, amount, at, .. } => {
                let balance = self.posted.checked_sub(*amount).ok_or_else(|| overflow(event))?;
                if *number != self.outgoing.last.saturating_add(1) {
                    return Err(ApplyError::Transfer { event: event.kind(), number: *number });
                }
                self.posted = balance;
                self.outgoing.last = *number;
                let transfer = Transfer { to: to.clone(), amount: *amount, at: *at, end: None };
                self.outgoing.open.insert(*number, transfer);
                let content = KeyContent::TransferOut { to: to.clone(), amount: *amount };
                let transfer = TransferId { from: self.id.clone(), number: *number };
                self.remember_key(key, content, Ok(AccountAnswer::TransferredOut { transfer, balance }), *at);
            }
            AccountEvent::TransferredIn { transfer, ended_below, amount, .. } => {
                let balance = self.posted.checked_add(*amount).ok_or_else(|| overflow(event))?;
                let received = Received { amount: *amount, refused: None };
                self.receive(transfer, *ended_below, received, event)?;
                self.posted = balance;
            }
            AccountEvent::TransferRefused { transfer, ended_below, amount, rejection, .. } => {
                let received = Received { amount: *amount, refused: Some(rejection.clone()) };
                self.receive(transfer, *ended_below, received, event)?;
            }
            AccountEvent::TransferArrived { number, at } => self.end_transfer(*number, None, *at, event)?,
            AccountEvent::TransferReturned { number, amount, rejection, at, .. } => {
                let balance = self.posted.checked_add(*amount).ok_or_else(|| overflow(event))?;
                self.end_transfer(*number, Some(rejection.clone()), *at, event)?;
                self.posted = balance;
            }
            _ => {}
        }
        Ok(())
    }

    fn receive(
        &mut self,
        transfer: &TransferId,
        below: u64,
        received: Received,
        event: &AccountEvent,
    ) -> Result<(), ApplyError> {
        let number = transfer.number;
        let known = self.incoming.get(&transfer.from);
        if known.is_some_and(|known| number < known.below || known.seen.contains_key(&number)) {
            return Err(ApplyError::Transfer { event: event.kind(), number });
        }
        self.incoming.entry(transfer.from.clone()).or_default().take(number, below, received);
        Ok(())
    }

    fn end_transfer(
        &mut self,
        number: u64,
        returned: Option<AccountRejection>,
        at: Timestamp,
        event: &AccountEvent,
    ) -> Result<(), ApplyError> {
        let open = self.outgoing.open.remove(&number);
        let mut transfer = open.ok_or(ApplyError::Transfer { event: event.kind(), number })?;
        transfer.end = Some(TransferEnd { returned, at });
        self.outgoing.ended.remember(number, transfer, ENDED_TRANSFERS_REMEMBERED);
        Ok(())
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.t{}", self.from, self.number)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TransferId {
    type Err = TransferIdError;

    fn from_str(text: &str) -> Result<Self, TransferIdError> {
        let shape = || TransferIdError::Shape(text.chars().take(160).collect());
        let (from, digits) = text.rsplit_once(".t").ok_or_else(shape)?;
        // One text for each number: no sign, no leading zero.
        if !digits.bytes().all(|b| b.is_ascii_digit()) || digits.starts_with('0') {
            return Err(shape());
        }
        Ok(Self { from: from.parse()?, number: digits.parse().map_err(|_| shape())? })
    }
}

impl TryFrom<String> for TransferId {
    type Error = TransferIdError;
    fn try_from(text: String) -> Result<Self, TransferIdError> {
        text.parse()
    }
}

impl From<TransferId> for String {
    fn from(id: TransferId) -> Self {
        id.to_string()
    }
}
