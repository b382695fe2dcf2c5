//! Applying an account's events. Replay uses this alone; an error changes nothing.

use crate::account::{
    Account, AccountAnswer, AccountEvent, AccountRejection, AccountStatus, AccountSummary, CLOSED_KEPT_MS,
    CLOSED_REMEMBERED, DebitAnswer, KEYS_KEPT_MS, KEYS_REMEMBERED, KeyContent, KeyOutcome, Outgoing,
    REFUSALS_REMEMBERED, Recent, RefusedSession, RefusedSubject, SessionAccount, Settled, unpaid_energy,
};
use crate::ids::{AccountId, SessionId};
use crate::tariff::fees::MeteredTime;
use crate::tariff::{PERIODS, Priced};
use crate::units::{Money, Timestamp, WattHours};
use std::collections::{BTreeMap, VecDeque};

/// An event that does not fit the state: the log is damaged, or was written by other code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The account was never opened.
    #[error("event {event} of an account that was never opened")]
    NotOpen { event: &'static str },
    /// The account is opened twice.
    #[error("the account is opened twice")]
    OpenedTwice,
    /// Money is held for a session twice.
    #[error("money is held twice for session {session}")]
    HeldTwice { session: SessionId },
    /// The session was never held for, or is closed.
    #[error("event {event} of session {session}, which is not open")]
    NoOpenSession { event: &'static str, session: SessionId },
    /// The sequence is not the next one.
    #[error("sequence {found} of session {session} follows {last}")]
    Sequence { session: SessionId, last: u32, found: u32 },
    /// A transfer that is not the next, not under way, or known already.
    #[error("event {event} of transfer {number} does not follow")]
    Transfer { event: &'static str, number: u64 },
    /// A sum does not fit.
    #[error("event {event} makes a sum that does not fit")]
    Overflow { event: &'static str },
}

/// Applies what was decided. An error changes nothing.
pub fn apply(state: &mut Option<Account>, id: &AccountId, event: &AccountEvent) -> Result<(), ApplyError> {
    match (state, event) {
        (state @ None, AccountEvent::Opened { key, currency, kind, holder, at }) => {
            let mut account = Account {
                id: id.clone(),
                currency: *currency,
                kind: *kind,
                holder: *holder,
                status: AccountStatus::Active,
                posted: Money::ZERO,
                paid_in: Money::ZERO,
                held: Money::ZERO,
                overshoot: Money::ZERO,
                opened_at: *at,
                clock: *at,
                holds: BTreeMap::new(),
                keys: Recent::default(),
                refusals: Recent::default(),
                closings: VecDeque::new(),
                outgoing: Outgoing::default(),
                incoming: BTreeMap::new(),
            };
            let content = KeyContent::Open { currency: *currency, kind: *kind, holder: *holder };
            let answer = AccountAnswer::Opened(AccountSummary::opened(id, *currency, *kind, *holder, *at));
            account.remember_key(key, content, Ok(answer), *at);
            *state = Some(account);
            Ok(())
        }
        (Some(_), AccountEvent::Opened { .. }) => Err(ApplyError::OpenedTwice),
        (None, event) => Err(ApplyError::NotOpen { event: event.kind() }),
        (Some(account), event) => account.apply(event),
    }
}

impl AccountEvent {
    /// Stable name, for logs and errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::ToppedUp { .. } => "topped_up",
            Self::Refunded { .. } => "refunded",
            Self::Adjusted { .. } => "adjusted",
            Self::Frozen { .. } => "frozen",
            Self::Unfrozen { .. } => "unfrozen",
            Self::Released { .. } => "released",
            Self::Closed { .. } => "closed",
            Self::TransferredOut { .. } => "transferred_out",
            Self::TransferredIn { .. } => "transferred_in",
            Self::TransferRefused { .. } => "transfer_refused",
            Self::TransferArrived { .. } => "transfer_arrived",
            Self::TransferReturned { .. } => "transfer_returned",
            Self::Collected { .. } => "collected",
            Self::PaidOut { .. } => "paid_out",
            Self::HoldEnded { .. } => "hold_ended",
            Self::Held { .. } => "held",
            Self::Debited { .. } => "debited",
            Self::Settled { .. } => "settled",
            Self::Refused { .. } => "refused",
        }
    }

    /// When it happened, by the owning node's clock.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Opened { at, .. }
            | Self::ToppedUp { at, .. }
            | Self::Refunded { at, .. }
            | Self::Adjusted { at, .. }
            | Self::Frozen { at, .. }
            | Self::Unfrozen { at, .. }
            | Self::Released { at, .. }
            | Self::Closed { at, .. }
            | Self::TransferredOut { at, .. }
            | Self::TransferredIn { at, .. }
            | Self::TransferRefused { at, .. }
            | Self::TransferArrived { at, .. }
            | Self::TransferReturned { at, .. }
            | Self::Collected { at, .. }
            | Self::PaidOut { at, .. }
            | Self::HoldEnded { at, .. }
            | Self::Held { at, .. }
            | Self::Debited { at, .. }
            | Self::Refused { at, .. } => *at,
            Self::Settled { settled, .. } => settled.at,
        }
    }
}

/// The part of a debit event that changes a session.
struct Debit<'a> {
    session: &'a SessionId,
    sequence: u32,
    meter: WattHours,
    by_period: [WattHours; PERIODS],
    time: MeteredTime,
    cumulative: Priced,
    paid: Priced,
    hold: Money,
}

impl Account {
    /// Applies what was decided of an account that is open. An error changes nothing.
    pub fn apply(&mut self, event: &AccountEvent) -> Result<(), ApplyError> {
        match event {
            AccountEvent::Opened { .. } => return Err(ApplyError::OpenedTwice),
            AccountEvent::ToppedUp { key, amount, at, .. } => {
                let balance = self.posted.checked_add(*amount).ok_or_else(|| overflow(event))?;
                self.paid_in = self.paid_in.checked_add(*amount).ok_or_else(|| overflow(event))?;
                self.posted = balance;
                let content = KeyContent::TopUp { amount: *amount };
                self.remember_key(key, content, Ok(AccountAnswer::ToppedUp { balance }), *at);
            }
            AccountEvent::Refunded { .. }
            | AccountEvent::Adjusted { .. }
            | AccountEvent::Frozen { .. }
            | AccountEvent::Unfrozen { .. }
            | AccountEvent::Released { .. }
            | AccountEvent::HoldEnded { .. }
            | AccountEvent::Closed { .. } => self.on_operated(event)?,
            AccountEvent::Collected { .. } | AccountEvent::PaidOut { .. } => self.on_till(event)?,
            AccountEvent::TransferredOut { .. }
            | AccountEvent::TransferredIn { .. }
            | AccountEvent::TransferRefused { .. }
            | AccountEvent::TransferArrived { .. }
            | AccountEvent::TransferReturned { .. } => self.on_transfer(event)?,
            AccountEvent::Held { session, .. } => self.on_held(session, event)?,
            AccountEvent::Debited {
                session,
                sequence,
                meter,
                by_period,
                time,
                cumulative,
                energy,
                service,
                fees,
                hold,
                ..
            } => {
                let debit = Debit {
                    session,
                    sequence: *sequence,
                    meter: *meter,
                    by_period: *by_period,
                    time: *time,
                    cumulative: *cumulative,
                    paid: Priced { energy: *energy, service: *service, fees: *fees },
                    hold: *hold,
                };
                self.on_debited(&debit, event)?;
            }
            AccountEvent::Settled { session, energy, service, fees, settled, .. } => {
                let due = Priced { energy: *energy, service: *service, fees: *fees };
                self.on_settled(session, due, settled, event)?;
            }
            AccountEvent::Refused { subject, rejection, at } => match subject {
                RefusedSubject::Key { key, content } => {
                    self.remember_key(key, content.clone(), Err(rejection.clone()), *at);
                }
                RefusedSubject::Session { session } => {
                    let refused = RefusedSession { rejection: rejection.clone(), at: *at };
                    self.refusals.remember(session.clone(), refused, REFUSALS_REMEMBERED);
                }
            },
        }
        self.clock = self.clock.max(event.at());
        match event {
            AccountEvent::Released { session, .. } | AccountEvent::HoldEnded { session, .. } => {
                self.closings.push_back((self.clock, session.clone()))
            }
            // One whose hold was released is in the list since then.
            AccountEvent::Settled { session, .. } if self.holds.get(session).is_some_and(|s| s.released.is_none()) => {
                self.closings.push_back((self.clock, session.clone()));
            }
            _ => {}
        }
        self.forget();
        Ok(())
    }

    fn on_held(&mut self, id: &SessionId, event: &AccountEvent) -> Result<(), ApplyError> {
        let AccountEvent::Held { operator, tariff, split, hold, reserve, at, .. } = event else {
            return Ok(());
        };
        if self.holds.contains_key(id) {
            return Err(ApplyError::HeldTwice { session: id.clone() });
        }
        self.held = self.held.checked_add(*hold).ok_or_else(|| overflow(event))?;
        let session = SessionAccount {
            operator: operator.clone(),
            tariff: tariff.clone(),
            split: split.clone(),
            opened_at: *at,
            authorised: *hold,
            reserve: *reserve,
            hold: *hold,
            sequence: 0,
            meter: WattHours::ZERO,
            metered_at: *at,
            by_period: [WattHours::ZERO; PERIODS],
            time: MeteredTime::NONE,
            cumulative: Priced::ZERO,
            billed: Priced::ZERO,
            billed_wh: WattHours::ZERO,
            last_debit: None,
            closed: None,
            released: None,
        };
        self.holds.insert(id.clone(), session);
        Ok(())
    }

    fn on_debited(&mut self, debit: &Debit<'_>, event: &AccountEvent) -> Result<(), ApplyError> {
        let limit = self.kind.limit();
        let session = next_open(&mut self.holds, debit.session, debit.sequence, event)?;
        if session.released.is_some() {
            return Err(ApplyError::NoOpenSession { event: event.kind(), session: debit.session.clone() });
        }
        let billed = session.billed.checked_add(&debit.paid).ok_or_else(|| overflow(event))?;
        let posted = self.posted.checked_sub(debit.paid.total()).ok_or_else(|| overflow(event))?;
        let held = self.held.checked_sub(session.hold).and_then(|held| held.checked_add(debit.hold));
        self.held = held.ok_or_else(|| overflow(event))?;
        self.posted = posted;
        session.hold = debit.hold;
        session.metered_at = event.at();
        session.advance(debit.sequence, debit.meter, debit.by_period, debit.time, debit.cumulative, billed);
        session.last_debit = Some(DebitAnswer {
            sequence: debit.sequence,
            meter: debit.meter,
            by_period: debit.by_period,
            time: debit.time,
            cumulative: debit.cumulative,
            hold_left: debit.hold,
            available: posted.saturating_sub(self.held).saturating_add(limit),
        });
        Ok(())
    }

    fn on_settled(
        &mut self,
        id: &SessionId,
        due: Priced,
        settled: &Settled,
        event: &AccountEvent,
    ) -> Result<(), ApplyError> {
        let session = next_open(&mut self.holds, id, settled.sequence, event)?;
        let paid = due.total().checked_sub(settled.overshoot).ok_or_else(|| overflow(event))?;
        // Of what is given back nothing is left out: only what is taken can be more than there is.
        let settles = if settled.overshoot.is_positive() { due.capped(paid) } else { due };
        let billed = session.billed.checked_add(&settles).ok_or_else(|| overflow(event))?;
        let posted = self.posted.checked_sub(paid).ok_or_else(|| overflow(event))?;
        let held = self.held.checked_sub(session.hold).ok_or_else(|| overflow(event))?;
        let overshoot = self.overshoot.checked_add(settled.overshoot).ok_or_else(|| overflow(event))?;
        self.posted = posted;
        self.held = held;
        self.overshoot = overshoot;
        session.hold = Money::ZERO;
        session.metered_at = event.at();
        let Settled { sequence, meter, by_period, time, cumulative, .. } = *settled;
        session.advance(sequence, meter, by_period, time, cumulative, billed);
        session.closed = Some(*settled);
        Ok(())
    }

    pub(super) fn remember_key(
        &mut self,
        key: &str,
        content: KeyContent,
        answer: Result<AccountAnswer, AccountRejection>,
        at: Timestamp,
    ) {
        let outcome = KeyOutcome { content, answer, at };
        self.keys.remember_while(key.to_owned(), outcome, KEYS_REMEMBERED, |oldest| oldest.is_kept_at(at));
    }

    /// Forgets closed sessions by age and number. A function of the events alone, so that a replay forgets
    /// the same ones.
    fn forget(&mut self) {
        while let Some((closed_at, session)) = self.closings.front() {
            if self.clock.since(*closed_at) <= CLOSED_KEPT_MS && self.closings.len() <= CLOSED_REMEMBERED {
                break;
            }
            self.holds.remove(session);
            self.closings.pop_front();
        }
    }
}

impl KeyOutcome {
    /// True while the key is too young to be forgotten.
    pub(super) fn is_kept_at(&self, now: Timestamp) -> bool {
        now.since(self.at) <= KEYS_KEPT_MS
    }
}

impl SessionAccount {
    /// Takes over a reading and what is paid of it in all.
    fn advance(
        &mut self,
        sequence: u32,
        meter: WattHours,
        by_period: [WattHours; PERIODS],
        time: MeteredTime,
        cumulative: Priced,
        billed: Priced,
    ) {
        self.sequence = sequence;
        self.meter = meter;
        self.by_period = by_period;
        self.time = time;
        self.cumulative = cumulative;
        self.billed = billed;
        let unpaid = unpaid_energy(meter, cumulative.total(), self.unpaid());
        self.billed_wh = meter.saturating_sub(unpaid);
    }
}

/// The session of an event, if it is open and the sequence is its next one.
fn next_open<'a>(
    holds: &'a mut BTreeMap<SessionId, SessionAccount>,
    id: &SessionId,
    sequence: u32,
    event: &AccountEvent,
) -> Result<&'a mut SessionAccount, ApplyError> {
    let open = holds.get_mut(id).filter(|session| session.closed.is_none());
    let session = open.ok_or_else(|| ApplyError::NoOpenSession { event: event.kind(), session: id.clone() })?;
    let last = session.sequence;
    if sequence <= last || sequence != session.next_sequence() {
        return Err(ApplyError::Sequence { session: id.clone(), last, found: sequence });
    }
    Ok(session)
}

pub(super) fn overflow(event: &AccountEvent) -> ApplyError {
    ApplyError::Overflow { event: event.kind() }
}
