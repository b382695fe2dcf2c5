//! Why an account refuses, as values with stable codes.

use crate::account::{KEYS_REMEMBERED, MAX_BALANCE, MAX_KEY_LEN, MAX_OPEN_TRANSFERS, MAX_REASON_LEN};
use crate::tariff::fees::{MAX_TIME_MS, MeteredTime};
use crate::tariff::{MAX_METER, Priced};
use crate::units::{Currency, Money, Timestamp, WattHours};
use serde::{Deserialize, Serialize};

/// Why an account refuses a command. Nothing has changed but, for remembered refusals, the memory of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AccountRejection {
    /// Nobody has opened it.
    #[error("this account is not open: open it first")]
    UnknownAccount,
    /// It is open, and the key is not the one it was opened with.
    #[error("this account is already open")]
    AlreadyOpen,
    /// The key was used with another content.
    #[error("this idempotency key was used for another request: use a new key")]
    KeyReused,
    /// Too many keys are remembered. This refusal is not.
    #[error("this account was sent {KEYS_REMEMBERED} idempotency keys within a day: nothing was done, try again later")]
    TooManyKeys,
    /// The key is empty or too long.
    #[error("an idempotency key has 1 to {MAX_KEY_LEN} bytes")]
    InvalidKey,
    /// An amount is out of range.
    #[error("the amount {amount} is out of range: not zero, at most {MAX_BALANCE}, below zero only for a correction")]
    InvalidAmount { amount: Money },
    /// The balance would exceed its bound.
    #[error("the balance would exceed {MAX_BALANCE}")]
    BalanceLimit,
    /// The session's tariff is in another currency.
    #[error("the account holds {account}, the tariff asks for {tariff}")]
    CurrencyMismatch { account: Currency, tariff: Currency },
    /// A price is out of range.
    #[error("the session's tariff has a price out of range")]
    InvalidTariff,
    /// The agreement about the revenue is not of one whole.
    #[error("the session's agreement about the revenue cannot be used")]
    InvalidSplit,
    /// The hold would not cover the reserve and a minimum of energy.
    #[error("{available} is available, which is not enough")]
    InsufficientFunds { available: Money },
    /// Too many sessions hold money.
    #[error("{most} sessions of this account are open, as many as it may have")]
    TooManySessions { most: usize },
    /// The request means another currency.
    #[error("the account holds {account}, the request is about {asked}")]
    OtherCurrency { account: Currency, asked: Currency },
    /// It takes no new holds and gives no money out.
    #[error("this account is frozen: no new sessions, and no money out, until it is unfrozen")]
    AccountFrozen,
    /// It is closed for good.
    #[error("this account is closed")]
    AccountClosed,
    /// More than may go back.
    #[error("{refundable} may be refunded: of what was paid in what is neither spent nor held")]
    RefundLimit { refundable: Money },
    /// A reason is missing or too long.
    #[error("a reason has 1 to {MAX_REASON_LEN} bytes and is not blank")]
    InvalidReason,
    /// Sessions hold money, or may still give some back.
    #[error("{sessions} sessions of this account are not settled")]
    SessionsOpen { sessions: usize },
    /// There is money in it, or it owes some.
    #[error("the balance is {balance}: refund, transfer or correct it to zero first")]
    BalanceNotZero { balance: Money },
    /// Transfers that left it have not ended.
    #[error("{transfers} transfers of this account are under way")]
    TransfersOpen { transfers: usize },
    /// Nobody has opened the account that money is to go to.
    #[error("the account that the money is to go to is not open")]
    UnknownTarget,
    /// The account that money is to go to is closed.
    #[error("the account that the money is to go to is closed")]
    TargetClosed,
    /// Money goes to another account of the same tenant.
    #[error("a transfer goes to another account of the same tenant")]
    InvalidTarget,
    /// Too many transfers are under way.
    #[error("{MAX_OPEN_TRANSFERS} transfers of this account are under way")]
    TooManyTransfers,
    /// Asked of an operator's till what only the account of a driver does, or the other way round.
    #[error("an operator's till collects his revenue, pays it out and does nothing else; no other account does that")]
    OperatorsTill,
    /// A transfer that has ended long ago.
    #[error("this transfer has ended")]
    StaleTransfer,
    /// Its hold was given back by an operator, or ended by time.
    #[error("the hold of this session was released: nothing more is taken for it")]
    SessionReleased,
    /// Its meter was read a moment ago.
    #[error("this session is under way, its meter was read at {read_at:?}: stop it instead")]
    SessionActive { read_at: Timestamp },
    /// No money was ever held for it, or it is forgotten.
    #[error("the account does not know this session")]
    UnknownSession,
    /// It is settled.
    #[error("this session is closed")]
    SessionClosed,
    /// Money is held for this session with another operator, tariff or agreement.
    #[error("this session was authorised with another operator, tariff or agreement")]
    SessionReused,
    /// The sequence was used with another content.
    #[error("sequence {sequence} of this session was used with another content")]
    SequenceReused { sequence: u32 },
    /// The sequence is below the last one.
    #[error("the last sequence of this session is {last}")]
    StaleSequence { last: u32 },
    /// Sequences were left out.
    #[error("the next sequence of this session is {expected}")]
    SequenceGap { expected: u32 },
    /// The metered energy is below the last reading.
    #[error("the metered energy went back: the last reading is {last}")]
    MeterWentBack { last: WattHours },
    /// The metered energy is negative or absurd.
    #[error("the metered energy is out of range: expected 0 to {MAX_METER}")]
    MeterOutOfRange,
    /// The metered time is below the last reading.
    #[error("the metered time went back: the last reading is {} ms and {} ms idle", last.charging_ms, last.idle_ms)]
    TimeWentBack { last: MeteredTime },
    /// The metered time is negative or absurd.
    #[error("the metered time is out of range: expected 0 to {MAX_TIME_MS} ms")]
    TimeOutOfRange,
    /// The energy of a period is below the last reading.
    #[error("the energy of a tariff period went back")]
    NotMonotone,
    /// The periods do not sum to the meter.
    #[error("the energies of the tariff periods do not sum to the metered energy")]
    PeriodsMismatch,
    /// The caller's amount is not what the tariff says.
    #[error(
        "the tariff prices this energy and time at {} energy, {} service and {} fees",
        expected.energy, expected.service, expected.fees
    )]
    PriceMismatch { expected: Priced },
}

impl AccountRejection {
    /// Stable code, for the API, logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownAccount => "unknown_account",
            Self::AlreadyOpen => "already_open",
            Self::KeyReused => "key_reused",
            Self::TooManyKeys => "too_many_keys",
            Self::InvalidKey => "invalid_key",
            Self::InvalidAmount { .. } => "invalid_amount",
            Self::BalanceLimit => "balance_limit",
            Self::CurrencyMismatch { .. } => "currency_mismatch",
            Self::InvalidTariff => "invalid_tariff",
            Self::InvalidSplit => "invalid_split",
            Self::InsufficientFunds { .. } => "insufficient_funds",
            Self::TooManySessions { .. } => "too_many_sessions",
            Self::OtherCurrency { .. } => "currency_mismatch",
            Self::AccountFrozen => "account_frozen",
            Self::AccountClosed => "account_closed",
            Self::RefundLimit { .. } => "refund_limit",
            Self::InvalidReason => "invalid_reason",
            Self::SessionsOpen { .. } => "sessions_open",
            Self::BalanceNotZero { .. } => "balance_not_zero",
            Self::TransfersOpen { .. } => "transfers_open",
            Self::UnknownTarget => "unknown_target",
            Self::TargetClosed => "target_closed",
            Self::InvalidTarget => "invalid_target",
            Self::TooManyTransfers => "too_many_transfers",
            Self::OperatorsTill => "operators_till",
            Self::StaleTransfer => "stale_transfer",
            Self::SessionReleased => "session_released",
            Self::SessionActive { .. } => "session_active",
            Self::UnknownSession => "unknown_session",
            Self::SessionClosed => "session_closed",
            Self::SessionReused => "session_reused",
            Self::SequenceReused { .. } => "sequence_reused",
            Self::StaleSequence { .. } => "stale_sequence",
            Self::SequenceGap { .. } => "sequence_gap",
            Self::MeterWentBack { .. } => "meter_went_back",
            Self::MeterOutOfRange => "meter_out_of_range",
            Self::TimeWentBack { .. } => "time_went_back",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::NotMonotone => "not_monotone",
            Self::PeriodsMismatch => "periods_mismatch",
            Self::PriceMismatch { .. } => "price_mismatch",
        }
    }
}
