//! An account: who pays. Opens, is topped up, holds money for sessions, is debited as energy flows, settles; is
//! refunded, corrected, frozen and closed by its operator.
//!
//! Its shard's `AccountActor` owns one per account id; a restart replays the events with [`apply()`] alone.
//! The account's log is the truth about what was billed: it prices every reading itself with the tariff the
//! session began under, and refuses a caller's amount that differs.
//!
//! Invariants kept here:
//! - MONEY-1: the [`postings()`] of every event sum to zero;
//! - MONEY-2: one effect per idempotency key and per (session, sequence). The same content again gives the
//!   same answer and no event; another content is refused. Refusals of keyed commands and of authorisations
//!   are remembered as well. (A command to an account that was never opened leaves no trace: strangers must
//!   not be able to fill a shard with names.)
//! - MONEY-4: what is available never falls below the credit limit: a debit takes at most what the hold and
//!   the available money can pay, and the rest waits for the next debit or the settlement;
//! - SESS-1: at settlement metered = billed + overshoot, in watt-hours and in money, also when a wrong
//!   reading had been billed before.
//!
//! ```
//! use chargeplane_domain::account::*;
//! use chargeplane_domain::units::{Currency, Money, Timestamp};
//!
//! let id = "a1".parse().unwrap();
//! let mut account = None;
//! let open = AccountCommand::Open {
//!     key: "k0".into(), currency: Currency::new("CNY").unwrap(), kind: AccountKind::Prepaid,
//!     holder: Holder::Personal, at: Timestamp(0),
//! };
//! let top_up = AccountCommand::TopUp {
//!     key: "k1".into(), amount: Money(500_000), currency: None, at: Timestamp(1),
//! };
//! for command in [open, top_up.clone()] {
//!     let decision = decide(account.as_ref(), &id, &command);
//!     apply(&mut account, &id, &decision.event.unwrap()).unwrap();
//! }
//! // The same key again: the same answer, and nothing to write.
//! let again = decide(account.as_ref(), &id, &top_up);
//! assert_eq!((again.event, again.answer), (None, Ok(AccountAnswer::ToppedUp { balance: Money(500_000) })));
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod apply;
mod audit;
mod decide;
mod memory;
mod operate;
mod postings;
mod rejection;
mod statement;
mod till;
mod transfers;

pub use apply::{ApplyError, apply};
pub use audit::{Cause, CausingReading, cause};
pub use decide::{Decision, decide};
pub use memory::Recent;
pub use operate::{AccountStatus, Holder, MAX_REASON_LEN, PERSONAL_OPEN_SESSIONS, RELEASE_QUIET_MS};
pub use postings::{postings, unpaid_energy};
pub use rejection::AccountRejection;
pub use statement::{StatementEntry, StatementKind, StatementLine, debited, statement_entries, statement_line};
pub use till::{is_covered, operator_lines};
pub use transfers::{
    ENDED_TRANSFERS_REMEMBERED, Incoming, MAX_OPEN_TRANSFERS, Outgoing, Received, Transfer, TransferEnd, TransferId,
    TransferIdError, TransferTarget,
};

use crate::ids::{AccountId, OperatorId, SessionId};
use crate::split::{PartyShare, Split};
use crate::tariff::fees::MeteredTime;
use crate::tariff::{PERIODS, Priced, Tariff};
use crate::units::{Currency, Money, Timestamp, WattHours};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Idempotency keys remembered. A driver tops up a few times a day, a fleet's back office a few times a minute.
/// The oldest make room once they are older than [`KEYS_KEPT_MS`]; until then further keys are refused, because
/// forgetting one that is still repeated would take its money twice.
pub const KEYS_REMEMBERED: usize = 10_000;

/// How long a key is remembered at least, by event time: longer than anybody repeats.
pub const KEYS_KEPT_MS: i64 = 24 * 3_600 * 1_000;

/// Longest idempotency key, in bytes. Room for a UUID with a prefix; bounds what a key costs.
pub const MAX_KEY_LEN: usize = 128;

/// Refused authorisations remembered. One is only asked for again within seconds, by the charger that
/// missed the answer.
pub const REFUSALS_REMEMBERED: usize = 1_000;

/// How long a closed session answers for, by event time: 30 days.
pub const CLOSED_KEPT_MS: i64 = 30 * 24 * 3_600 * 1_000;

/// Closed sessions remembered whatever their age, newest first: a fleet's 3,000 a day for 30 days.
pub const CLOSED_REMEMBERED: usize = 100_000;

/// Sessions of one fleet's account that may be open at once; a person's has [`PERSONAL_OPEN_SESSIONS`].
pub const MAX_OPEN_SESSIONS: usize = 10_000;

/// Highest balance, top-up and credit limit: a thousand million currency units. Keeps every sum of a shard
/// with 900,000 such accounts within 64 bits.
pub const MAX_BALANCE: Money = Money(10_000_000_000_000);

/// A session must be able to pay at least this much energy beyond its reserve, or it is not worth starting.
pub const MIN_START: WattHours = WattHours(20);

/// How an account may spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// Only what was paid in.
    Prepaid,
    /// Down to minus `limit`.
    Credit { limit: Money },
}

/// Durable state of an open account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Whose.
    pub id: AccountId,
    /// Currency of every amount here.
    pub currency: Currency,
    /// Prepaid or credit.
    pub kind: AccountKind,
    /// A person's or a fleet's.
    #[serde(default)]
    pub holder: Holder,
    /// Whether it may be used.
    #[serde(default)]
    pub status: AccountStatus,
    /// Balance in the books: paid in minus debited.
    pub posted: Money,
    /// Paid in and not refunded: what may go back to where it came from at most.
    #[serde(default)]
    pub paid_in: Money,
    /// Sum of the holds of all open sessions.
    pub held: Money,
    /// Sum of what operators bore for this account's sessions.
    pub overshoot: Money,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Latest event time seen: the clock that memory is pruned by.
    pub clock: Timestamp,
    /// Sessions, open ones and closed ones while they are remembered.
    pub holds: BTreeMap<SessionId, SessionAccount>,
    /// Idempotency keys and what they were answered.
    pub keys: Recent<String, KeyOutcome>,
    /// Sessions that never got a hold and never will.
    pub refusals: Recent<SessionId, RefusedSession>,
    /// Closed sessions in the order of their closing, stamped with [`Account::clock`].
    pub closings: VecDeque<(Timestamp, SessionId)>,
    /// Transfers that leave it.
    #[serde(default)]
    pub outgoing: Outgoing,
    /// Transfers that came, by the account they left.
    #[serde(default)]
    pub incoming: BTreeMap<AccountId, Incoming>,
}

/// The account's side of a session: what is held, what was metered, what was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAccount {
    /// Who earns.
    pub operator: OperatorId,
    /// The session's own tariff.
    pub tariff: Tariff,
    /// The agreement about the revenue in force at its start; none: everything is the operator's.
    #[serde(default)]
    pub split: Option<Split>,
    /// When money was first held.
    pub opened_at: Timestamp,
    /// The hold that was granted at the start.
    pub authorised: Money,
    /// The part of the hold that covers the worst delay in stopping.
    pub reserve: Money,
    /// What is held now; zero when closed.
    pub hold: Money,
    /// Sequence of the last debit or settlement; 0 before the first.
    pub sequence: u32,
    /// Metered energy so far.
    pub meter: WattHours,
    /// When that was read or learnt, by the node's clock; at first when money was held.
    pub metered_at: Timestamp,
    /// The same by period.
    pub by_period: [WattHours; PERIODS],
    /// Metered time so far.
    #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
    pub time: MeteredTime,
    /// What that energy and time cost.
    pub cumulative: Priced,
    /// What was paid of it; less than `cumulative` only when the money did not suffice.
    pub billed: Priced,
    /// The energy that is paid, by the rule of [`unpaid_energy`].
    pub billed_wh: WattHours,
    /// The answer to the last debit, for its duplicates.
    pub last_debit: Option<DebitAnswer>,
    /// The settlement, when closed.
    pub closed: Option<Settled>,
    /// When an operator gave the hold back, or it ended by time: nothing is taken for the session from then on.
    #[serde(default)]
    pub released: Option<Timestamp>,
}

/// The answer to a debit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebitAnswer {
    pub sequence: u32,
    pub meter: WattHours,
    pub by_period: [WattHours; PERIODS],
    pub cumulative: Priced,
    /// Held for the session after the debit, and so what it may still spend.
    pub hold_left: Money,
    /// Available to the account's other sessions after the debit.
    pub available: Money,
    /// Metered time so far. The last field: on the wire of the account books, where order counts, it may be left out.
    #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
    pub time: MeteredTime,
}

/// How a session was settled: the final word about its money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    pub sequence: u32,
    /// All metered energy: `billed_wh + overshoot_wh`.
    pub meter: WattHours,
    pub by_period: [WattHours; PERIODS],
    /// What it costs in the end, not less than the tariff's least price: `billed + overshoot`.
    pub cumulative: Priced,
    /// Paid by the driver, all debits together.
    pub billed: Money,
    pub billed_wh: WattHours,
    /// Paid by the operator's overshoot account.
    pub overshoot: Money,
    pub overshoot_wh: WattHours,
    /// The part of the hold that was given back.
    pub released: Money,
    pub at: Timestamp,
    /// All metered time; the last field, as in [`DebitAnswer`].
    #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
    pub time: MeteredTime,
}

/// What a key was used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyContent {
    /// To open the account.
    Open { currency: Currency, kind: AccountKind, holder: Holder },
    /// To top it up.
    TopUp { amount: Money },
    /// To refund.
    Refund { amount: Money },
    /// To correct its balance.
    Adjust { amount: Money, reason: String },
    /// To freeze it.
    Freeze { reason: String },
    /// To end that.
    Unfreeze,
    /// To give a session's hold back.
    Release { session: SessionId },
    /// To close it.
    Close,
    /// To send money to another account.
    TransferOut { to: AccountId, amount: Money },
    /// To take revenue into a till.
    Collect { amount: Money },
    /// To pay out of a till.
    PayOut { amount: Money, reference: String },
}

/// A remembered key: what was asked and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOutcome {
    pub content: KeyContent,
    pub answer: Result<AccountAnswer, AccountRejection>,
    pub at: Timestamp,
}

/// A session that never got a hold and never will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSession {
    /// What its authorisation is answered.
    pub rejection: AccountRejection,
    pub at: Timestamp,
}

/// What may be asked of an account. `at` is the owning node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountCommand {
    /// Open the account.
    Open { key: String, currency: Currency, kind: AccountKind, holder: Holder, at: Timestamp },
    /// Pay in. `currency`, here and below: what the caller means; refused when it is not the account's.
    TopUp { key: String, amount: Money, currency: Option<Currency>, at: Timestamp },
    /// Give money back to where it came from: at most what was paid in and is not held, owed or spent.
    Refund { key: String, amount: Money, currency: Option<Currency>, at: Timestamp },
    /// Correct the balance by an operator's word, up or down.
    Adjust { key: String, amount: Money, currency: Option<Currency>, reason: String, at: Timestamp },
    /// Let it take no new holds and give no money out. Sessions under way go on and settle; money may come in.
    Freeze { key: String, reason: String, at: Timestamp },
    /// End that.
    Unfreeze { key: String, at: Timestamp },
    /// Give back the hold of a session that never began, or of which nothing was heard for
    /// [`RELEASE_QUIET_MS`]. Nothing is taken for it any more: what it meters in the end is the operator's.
    Release { key: String, session: SessionId, at: Timestamp },
    /// Close it for good: without a balance and without sessions that still hold or may give back.
    Close { key: String, at: Timestamp },
    /// Send money to another account of the tenant: what is neither spent nor held, and no credit.
    TransferOut {
        key: String,
        to: AccountId,
        amount: Money,
        currency: Option<Currency>,
        /// What is known of the other account: a size, not content.
        target: TransferTarget,
        at: Timestamp,
    },
    /// Take in what another account sent. `ended_below`: all of that account's transfers below this number have
    /// ended, and are not sent any more.
    TransferIn { transfer: TransferId, ended_below: u64, currency: Currency, amount: Money, at: Timestamp },
    /// The other account's word about a transfer of this one: `refused`, or it has the money.
    EndTransfer { number: u64, refused: Option<AccountRejection>, at: Timestamp },
    /// Take so much of the revenue that its operator earned in this shard into the till. What there is the books say,
    /// which the shard asks before it takes the event ([`is_covered`]).
    Collect { key: String, amount: Money, at: Timestamp },
    /// Pay out of the till and out of the system; `reference` says to whom, for people.
    PayOut { key: String, reference: String, amount: Money, currency: Option<Currency>, at: Timestamp },
    /// End the hold of a session of which nothing was read or heard after `quiet_since`. Nothing is taken for it any
    /// more, as after [`AccountCommand::Release`].
    EndHold { session: SessionId, quiet_since: Timestamp, at: Timestamp },
    /// Hold up to `want` for a session. Refused unless the hold covers `reserve` (what the worst delay in
    /// stopping costs) and pays at least [`MIN_START`] beyond it. `want` and `reserve` are sizes, not
    /// content: a repetition after a change of configuration gets the first answer.
    Authorise {
        session: SessionId,
        operator: OperatorId,
        tariff: Tariff,
        split: Option<Split>,
        want: Money,
        reserve: Money,
        at: Timestamp,
    },
    /// Take what the session's energy and time so far cost and was not paid yet; then renew its hold out of the
    /// available money up to `hold_target` (a size, not content). `sequence` is the last plus one.
    Debit {
        session: SessionId,
        sequence: u32,
        meter: WattHours,
        by_period: [WattHours; PERIODS],
        cumulative: Priced,
        hold_target: Money,
        at: Timestamp,
        /// Metered time so far. The last field: where the order of fields counts it may be left out.
        #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
        time: MeteredTime,
    },
    /// Take what is left to pay, from the hold, then from the available money, then from the operator's
    /// overshoot account; release the rest of the hold; close the session. A meter below the last reading
    /// gives back what was taken too much: then no period may be above the last reading. So does less time than was
    /// told before: its end is the final word about it.
    Settle {
        session: SessionId,
        sequence: u32,
        meter: WattHours,
        by_period: [WattHours; PERIODS],
        cumulative: Priced,
        at: Timestamp,
        /// Metered time so far. The last field: where the order of fields counts it may be left out.
        #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
        time: MeteredTime,
    },
}

/// What happened to an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountEvent {
    /// Opened, with nothing in it.
    Opened {
        key: String,
        currency: Currency,
        kind: AccountKind,
        #[serde(default)]
        holder: Holder,
        at: Timestamp,
    },
    /// Paid in.
    ToppedUp { key: String, currency: Currency, amount: Money, at: Timestamp },
    /// Money went back to where it came from.
    Refunded { key: String, currency: Currency, amount: Money, at: Timestamp },
    /// An operator corrected the balance.
    Adjusted { key: String, currency: Currency, amount: Money, reason: String, at: Timestamp },
    /// No new holds, and no money out.
    Frozen { key: String, reason: String, at: Timestamp },
    /// That ended.
    Unfrozen { key: String, at: Timestamp },
    /// An operator gave `hold` back, all that was held for the session.
    Released { key: String, session: SessionId, hold: Money, at: Timestamp },
    /// Closed for good.
    Closed { key: String, at: Timestamp },
    /// Money left for another account, and is in flight.
    TransferredOut { key: String, number: u64, to: AccountId, currency: Currency, amount: Money, at: Timestamp },
    /// Money of another account arrived.
    TransferredIn { transfer: TransferId, ended_below: u64, currency: Currency, amount: Money, at: Timestamp },
    /// Money of another account was refused, and remembered so that this never changes.
    TransferRefused {
        transfer: TransferId,
        ended_below: u64,
        amount: Money,
        rejection: AccountRejection,
        at: Timestamp,
    },
    /// What left is confirmed to have arrived.
    TransferArrived { number: u64, at: Timestamp },
    /// What left was refused and is back.
    TransferReturned { number: u64, currency: Currency, amount: Money, rejection: AccountRejection, at: Timestamp },
    /// Revenue of the till's operator came into it.
    Collected { key: String, operator: OperatorId, currency: Currency, amount: Money, at: Timestamp },
    /// Money left the till and the system.
    PaidOut { key: String, reference: String, currency: Currency, amount: Money, at: Timestamp },
    /// A session's hold came to its end by time: `hold`, all that was held, is free again.
    HoldEnded { session: SessionId, hold: Money, at: Timestamp },
    /// Money is held for a session.
    Held {
        session: SessionId,
        operator: OperatorId,
        tariff: Tariff,
        #[serde(default)]
        split: Option<Split>,
        hold: Money,
        reserve: Money,
        at: Timestamp,
    },
    /// `energy`, `service` and `fees` were taken; `hold` is held from now on. One of them is negative when, at the
    /// highest price of the session, it was reclassified as another.
    Debited {
        session: SessionId,
        operator: OperatorId,
        currency: Currency,
        sequence: u32,
        meter: WattHours,
        by_period: [WattHours; PERIODS],
        #[serde(default, skip_serializing_if = "MeteredTime::is_none")]
        time: MeteredTime,
        cumulative: Priced,
        energy: Money,
        service: Money,
        #[serde(default, skip_serializing_if = "Money::is_zero")]
        fees: Money,
        hold: Money,
        at: Timestamp,
    },
    /// The session is closed. `energy`, `service` and `fees` became revenue with this event, paid by the driver but
    /// for `settled.overshoot`. They are negative when more was billed before than was metered in the end:
    /// the difference went back to the driver.
    Settled {
        session: SessionId,
        operator: OperatorId,
        currency: Currency,
        energy: Money,
        service: Money,
        #[serde(default, skip_serializing_if = "Money::is_zero")]
        fees: Money,
        settled: Settled,
        /// What the operator passes on of the session's whole price by its agreement.
        #[serde(default)]
        shares: Vec<PartyShare>,
    },
    /// Refused, and remembered so that the answer never changes.
    Refused { subject: RefusedSubject, rejection: AccountRejection, at: Timestamp },
}

/// What a remembered refusal is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedSubject {
    /// A keyed command.
    Key { key: String, content: KeyContent },
    /// The authorisation of a session.
    Session { session: SessionId },
}

/// What an accepted command is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountAnswer {
    /// The account as it was opened.
    Opened(AccountSummary),
    /// The balance after the top-up.
    ToppedUp { balance: Money },
    /// The balance after the refund.
    Refunded { balance: Money },
    /// The balance after the correction.
    Adjusted { balance: Money },
    /// It is frozen.
    Frozen,
    /// It is not frozen any more.
    Unfrozen,
    /// What was held for the session and is free again.
    Released { hold: Money },
    /// It is closed.
    Closed,
    /// The transfer that is under way, and the balance after it.
    TransferredOut { transfer: TransferId, balance: Money },
    /// The money is in.
    TransferredIn,
    /// The transfer has ended.
    TransferEnded,
    /// What came into the till.
    Collected { amount: Money },
    /// What is left in the till after the payout.
    PaidOut { balance: Money },
    /// What was held for the session and is free again.
    HoldEnded { hold: Money },
    /// What was held at first.
    Authorised { hold: Money },
    /// The state of the session after the debit.
    Debited(DebitAnswer),
    /// The settlement.
    Settled(Settled),
}

/// An account in a few figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSummary {
    pub id: AccountId,
    pub currency: Currency,
    pub kind: AccountKind,
    #[serde(default)]
    pub holder: Holder,
    #[serde(default)]
    pub status: AccountStatus,
    /// Balance in the books.
    pub balance: Money,
    /// Held for open sessions.
    pub held: Money,
    /// What may still be held or spent.
    pub available: Money,
    pub open_sessions: u64,
    pub opened_at: Timestamp,
}

impl AccountKind {
    /// How far below zero the balance may go.
    pub fn limit(self) -> Money {
        match self {
            Self::Prepaid => Money::ZERO,
            Self::Credit { limit } => limit,
        }
    }
}

impl Account {
    /// Version of the stored form of the state and its events.
    pub const VERSION: u16 = 1;

    /// What may still be held or spent: the balance less all holds, plus the credit limit. Never negative
    /// (MONEY-4).
    pub fn available(&self) -> Money {
        self.posted.saturating_sub(self.held).saturating_add(self.kind.limit())
    }

    /// The account's side of a session, open or closed, while it is remembered. A charger that recovers
    /// goes on from here.
    pub fn position(&self, session: &SessionId) -> Option<&SessionAccount> {
        self.holds.get(session)
    }

    /// Number of sessions that hold money.
    pub fn open_sessions(&self) -> usize {
        self.holds.len().saturating_sub(self.closings.len())
    }

    /// The account in a few figures.
    pub fn summary(&self) -> AccountSummary {
        AccountSummary {
            id: self.id.clone(),
            currency: self.currency,
            kind: self.kind,
            holder: self.holder,
            status: self.status.clone(),
            balance: self.posted,
            held: self.held,
            available: self.available(),
            open_sessions: u64::try_from(self.open_sessions()).unwrap_or(u64::MAX),
            opened_at: self.opened_at,
        }
    }
}

impl SessionAccount {
    /// What was metered and is not paid.
    pub fn unpaid(&self) -> Money {
        self.cumulative.total().saturating_sub(self.billed.total())
    }

    /// The sequence that the next debit or the settlement must carry.
    pub fn next_sequence(&self) -> u32 {
        self.sequence.saturating_add(1)
    }

    /// True while money is held for it, or may be.
    pub fn is_open(&self) -> bool {
        self.closed.is_none() && self.released.is_none()
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
