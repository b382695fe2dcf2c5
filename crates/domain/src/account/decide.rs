//! What an account answers, and what happens to it. Nothing is changed here: [`apply`](super::apply()) does.

use crate::account::{
    Account, AccountAnswer, AccountCommand, AccountEvent, AccountKind, AccountRejection, AccountSummary,
    DebitAnswer, KeyContent, MAX_BALANCE, MAX_KEY_LEN, MAX_OPEN_SESSIONS, MIN_START, RefusedSubject,
    SessionAccount, Settled, unpaid_energy,
};
use crate::ids::{AccountId, OperatorId, SessionId};
use crate::tariff::{MAX_METER, PERIODS, Priced, Tariff};
use crate::units::{Currency, Money, Timestamp, WattHours};

/// A decision: what to write, if anything, and what to answer once that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// To be applied and made durable; none when nothing changes.
    pub event: Option<AccountEvent>,
    /// To be answered, after the event is durable.
    pub answer: Result<AccountAnswer, AccountRejection>,
}

/// What a session's meter says, and what its caller thinks it costs.
struct Reading<'a> {
    session: &'a SessionId,
    sequence: u32,
    meter: WattHours,
    by_period: &'a [WattHours; PERIODS],
    cumulative: Priced,
}

/// Decides a command. `state` is none for an account that was never opened.
pub fn decide(state: Option<&Account>, id: &AccountId, command: &AccountCommand) -> Decision {
    match (state, command) {
        (None, AccountCommand::Open { key, currency, kind, at }) => open(id, key, *currency, *kind, *at),
        (None, _) => refuse(AccountRejection::UnknownAccount),
        (Some(account), AccountCommand::Open { key, currency, kind, at }) => {
            let content = KeyContent::Open { currency: *currency, kind: *kind };
            let refused = |_: &Account| Err(AccountRejection::AlreadyOpen);
            account.keyed(key, content, *at, refused)
        }
        (Some(account), AccountCommand::TopUp { key, amount, at }) => account.top_up(key, *amount, *at),
        (Some(account), AccountCommand::Authorise { session, operator, tariff, want, reserve, at }) => {
            account.authorise(session, operator, tariff, *want, *reserve, *at)
        }
        (
            Some(account),
            AccountCommand::Debit { session, sequence, meter, by_period, cumulative, hold_target, at },
        ) => {
            let reading = Reading {
                session,
                sequence: *sequence,
                meter: *meter,
                by_period,
                cumulative: *cumulative,
            };
            account.debit(&reading, *hold_target, *at)
        }
        (
            Some(account),
            AccountCommand::Settle { session, sequence, meter, by_period, cumulative, at },
        ) => {
            let reading = Reading {
                session,
                sequence: *sequence,
                meter: *meter,
                by_period,
                cumulative: *cumulative,
            };
            account.settle(&reading, *at)
        }
    }
}

fn answer(answer: AccountAnswer) -> Decision {
    Decision { event: None, answer: Ok(answer) }
}

fn refuse(rejection: AccountRejection) -> Decision {
    Decision { event: None, answer: Err(rejection) }
}

fn check_key(key: &str) -> Result<(), AccountRejection> {
    if key.is_empty() || key.len() > MAX_KEY_LEN { Err(AccountRejection::InvalidKey) } else { Ok(()) }
}

/// Opens an account. A refusal leaves no trace, because there is no account to remember it; it is a
/// function of the content alone, so its repetition is answered the same.
fn open(id: &AccountId, key: &str, currency: Currency, kind: AccountKind, at: Timestamp) -> Decision {
    if let Err(rejection) = check_key(key) {
        return refuse(rejection);
    }
    let limit = kind.limit();
    if !(Money::ZERO..=MAX_BALANCE).contains(&limit) {
        return refuse(AccountRejection::InvalidAmount { amount: limit });
    }
    Decision {
        event: Some(AccountEvent::Opened { key: key.to_owned(), currency, kind, at }),
        answer: Ok(AccountAnswer::Opened(AccountSummary::opened(id, currency, kind, at))),
    }
}

impl AccountSummary {
    /// An account as it is opened: the answer that its key gives ever after.
    pub(super) fn opened(id: &AccountId, currency: Currency, kind: AccountKind, at: Timestamp) -> Self {
        Self {
            id: id.clone(),
            currency,
            kind,
            balance: Money::ZERO,
            held: Money::ZERO,
            available: kind.limit(),
            open_sessions: 0,
            opened_at: at,
        }
    }
}

impl Account {
    /// A keyed command: what its key was answered, or what `decide` says, remembered even when it refuses.
    fn keyed(
        &self,
        key: &str,
        content: KeyContent,
        at: Timestamp,
        decide: impl FnOnce(&Self) -> Result<(AccountEvent, AccountAnswer), AccountRejection>,
    ) -> Decision {
        if let Err(rejection) = check_key(key) {
            return refuse(rejection);
        }
        if let Some(known) = self.keys.get(&key.to_owned()) {
            if known.content != content {
                return refuse(AccountRejection::KeyReused);
            }
            return Decision { event: None, answer: known.answer.clone() };
        }
        match decide(self) {
            Ok((event, answer)) => Decision { event: Some(event), answer: Ok(answer) },
            Err(rejection) => {
                let subject = RefusedSubject::Key { key: key.to_owned(), content };
                refuse_and_remember(subject, rejection, at)
            }
        }
    }

    fn top_up(&self, key: &str, amount: Money, at: Timestamp) -> Decision {
        self.keyed(key, KeyContent::TopUp { amount }, at, |account| {
            if !amount.is_positive() || amount > MAX_BALANCE {
                return Err(AccountRejection::InvalidAmount { amount });
            }
            let balance = account.posted.checked_add(amount).filter(|balance| *balance <= MAX_BALANCE);
            let balance = balance.ok_or(AccountRejection::BalanceLimit)?;
            let event =
                AccountEvent::ToppedUp { key: key.to_owned(), currency: account.currency, amount, at };
            Ok((event, AccountAnswer::ToppedUp { balance }))
        })
    }

    fn authorise(
        &self,
        session: &SessionId,
        operator: &OperatorId,
        tariff: &Tariff,
        want: Money,
        reserve: Money,
        at: Timestamp,
    ) -> Decision {
        if let Some(known) = self.position(session) {
            return if known.operator != *operator || known.tariff != *tariff {
                refuse(AccountRejection::SessionReused)
            } else if known.closed.is_some() {
                refuse(AccountRejection::SessionClosed)
            } else {
                answer(AccountAnswer::Authorised { hold: known.authorised })
            };
        }
        if let Some(refused) = self.refusals.get(session) {
            return refuse(refused.rejection.clone());
        }
        match self.first_hold(tariff, want, reserve) {
            Ok(hold) => Decision {
                event: Some(AccountEvent::Held {
                    session: session.clone(),
                    operator: operator.clone(),
                    tariff: tariff.clone(),
                    hold,
                    reserve,
                    at,
                }),
                answer: Ok(AccountAnswer::Authorised { hold }),
            },
            Err(rejection) => {
                refuse_and_remember(RefusedSubject::Session { session: session.clone() }, rejection, at)
            }
        }
    }

    fn first_hold(&self, tariff: &Tariff, want: Money, reserve: Money) -> Result<Money, AccountRejection> {
        if let Some(amount) = [want, reserve].into_iter().find(|amount| *amount < Money::ZERO) {
            return Err(AccountRejection::InvalidAmount { amount });
        }
        if tariff.currency != self.currency {
            return Err(AccountRejection::CurrencyMismatch {
                account: self.currency,
                tariff: tariff.currency,
            });
        }
        tariff.check().map_err(|_| AccountRejection::InvalidTariff)?;
        if self.open_sessions() >= MAX_OPEN_SESSIONS {
            return Err(AccountRejection::TooManySessions);
        }
        let available = self.available();
        let hold = want.min(available);
        let beyond_reserve = hold.saturating_sub(reserve);
        if beyond_reserve < Money::ZERO || tariff.affordable(beyond_reserve) < MIN_START {
            return Err(AccountRejection::InsufficientFunds { available });
        }
        Ok(hold)
    }

    fn debit(&self, reading: &Reading<'_>, hold_target: Money, at: Timestamp) -> Decision {
        let Some(session) = self.position(reading.session) else {
            return refuse(AccountRejection::UnknownSession);
        };
        if let Some(last) = session.last_debit.filter(|last| last.sequence == reading.sequence) {
            return if reading.says(last.meter, &last.by_period, last.cumulative) {
                answer(AccountAnswer::Debited(last))
            } else {
                refuse(AccountRejection::SequenceReused { sequence: last.sequence })
            };
        }
        match self.next_debit(session, reading, hold_target) {
            Ok((paid, debit)) => Decision {
                event: Some(AccountEvent::Debited {
                    session: reading.session.clone(),
                    operator: session.operator.clone(),
                    currency: self.currency,
                    sequence: reading.sequence,
                    meter: reading.meter,
                    by_period: *reading.by_period,
                    cumulative: reading.cumulative,
                    energy: paid.energy,
                    service: paid.service,
                    hold: debit.hold_left,
                    at,
                }),
                answer: Ok(AccountAnswer::Debited(debit)),
            },
            Err(rejection) => refuse(rejection),
        }
    }

    /// What a new debit takes, and its answer.
    fn next_debit(
        &self,
        session: &SessionAccount,
        reading: &Reading<'_>,
        hold_target: Money,
    ) -> Result<(Priced, DebitAnswer), AccountRejection> {
        if session.closed.is_some() {
            return Err(AccountRejection::SessionClosed);
        }
        if hold_target < Money::ZERO {
            return Err(AccountRejection::InvalidAmount { amount: hold_target });
        }
        let due = reading.due(session)?;
        let available = self.available().max(Money::ZERO);
        let paid = due.capped(session.hold.saturating_add(available));
        let from_hold = paid.total().min(session.hold);
        let held = session.hold.saturating_sub(from_hold);
        let free = available.saturating_sub(paid.total().saturating_sub(from_hold));
        let renewed = hold_target.saturating_sub(held).max(Money::ZERO).min(free);
        let debit = DebitAnswer {
            sequence: reading.sequence,
            meter: reading.meter,
            by_period: *reading.by_period,
            cumulative: reading.cumulative,
            hold_left: held.saturating_add(renewed),
            available: free.saturating_sub(renewed),
        };
        Ok((paid, debit))
    }

    fn settle(&self, reading: &Reading<'_>, at: Timestamp) -> Decision {
        let Some(session) = self.position(reading.session) else {
            return self.settle_unknown(reading, at);
        };
        if let Some(closed) = session.closed {
            return if closed.sequence != reading.sequence {
                refuse(AccountRejection::SessionClosed)
            } else if reading.says(closed.meter, &closed.by_period, closed.cumulative) {
                answer(AccountAnswer::Settled(closed))
            } else {
                refuse(AccountRejection::SequenceReused { sequence: closed.sequence })
            };
        }
        match self.settlement(session, reading, at) {
            Ok((due, settled)) => Decision {
                event: Some(AccountEvent::Settled {
                    session: reading.session.clone(),
                    operator: session.operator.clone(),
                    currency: self.currency,
                    energy: due.energy,
                    service: due.service,
                    settled,
                }),
                answer: Ok(AccountAnswer::Settled(settled)),
            },
            Err(rejection) => refuse(rejection),
        }
    }

    /// What a settlement takes: all that is due, from the hold, then from what is available, then from the
    /// operator's overshoot account.
    fn settlement(
        &self,
        session: &SessionAccount,
        reading: &Reading<'_>,
        at: Timestamp,
    ) -> Result<(Priced, Settled), AccountRejection> {
        let due = reading.due(session)?;
        let available = self.available().max(Money::ZERO);
        let paid = due.total().min(session.hold.saturating_add(available));
        let overshoot = due.total().saturating_sub(paid);
        let overshoot_wh = unpaid_energy(reading.meter, reading.cumulative.total(), overshoot);
        let settled = Settled {
            sequence: reading.sequence,
            meter: reading.meter,
            by_period: *reading.by_period,
            cumulative: reading.cumulative,
            billed: session.billed.total().saturating_add(paid),
            billed_wh: reading.meter.saturating_sub(overshoot_wh),
            overshoot,
            overshoot_wh,
            released: session.hold.saturating_sub(paid).max(Money::ZERO),
            at,
        };
        Ok((due, settled))
    }

    /// Settles a session that never got a hold: only with nothing metered, and remembered, so that an
    /// authorisation that arrives late cannot hold money that nobody would release.
    fn settle_unknown(&self, reading: &Reading<'_>, at: Timestamp) -> Decision {
        if !reading.says(WattHours::ZERO, &[WattHours::ZERO; PERIODS], Priced::ZERO) {
            return refuse(AccountRejection::UnknownSession);
        }
        match self.refusals.get(reading.session) {
            Some(refused) => answer(AccountAnswer::Settled(Settled::nothing(reading.sequence, refused.at))),
            None => Decision {
                answer: Ok(AccountAnswer::Settled(Settled::nothing(reading.sequence, at))),
                ..refuse_and_remember(
                    RefusedSubject::Session { session: reading.session.clone() },
                    AccountRejection::SessionClosed,
                    at,
                )
            },
        }
    }
}

fn refuse_and_remember(subject: RefusedSubject, rejection: AccountRejection, at: Timestamp) -> Decision {
    Decision {
        event: Some(AccountEvent::Refused { subject, rejection: rejection.clone(), at }),
        answer: Err(rejection),
    }
}

impl Settled {
    /// The settlement of a session that never drew anything.
    fn nothing(sequence: u32, at: Timestamp) -> Self {
        Self {
            sequence,
            meter: WattHours::ZERO,
            by_period: [WattHours::ZERO; PERIODS],
            cumulative: Priced::ZERO,
            billed: Money::ZERO,
            billed_wh: WattHours::ZERO,
            overshoot: Money::ZERO,
            overshoot_wh: WattHours::ZERO,
            released: Money::ZERO,
            at,
        }
    }
}

impl Reading<'_> {
    fn says(&self, meter: WattHours, by_period: &[WattHours; PERIODS], cumulative: Priced) -> bool {
        self.meter == meter && self.by_period == by_period && self.cumulative == cumulative
    }

    /// What the reading leaves to pay, or why it does not follow the session's last one.
    fn due(&self, session: &SessionAccount) -> Result<Priced, AccountRejection> {
        let (last, expected) = (session.sequence, session.next_sequence());
        if self.sequence == last {
            return Err(AccountRejection::SequenceReused { sequence: last });
        }
        if self.sequence < last {
            return Err(AccountRejection::StaleSequence { last });
        }
        if self.sequence != expected {
            return Err(AccountRejection::SequenceGap { expected });
        }
        if !(WattHours::ZERO..=MAX_METER).contains(&self.meter) {
            return Err(AccountRejection::MeterOutOfRange);
        }
        if self.meter < session.meter {
            return Err(AccountRejection::MeterWentBack { last: session.meter });
        }
        if self.by_period.iter().zip(&session.by_period).any(|(now, before)| now < before) {
            return Err(AccountRejection::NotMonotone);
        }
        let sum = self.by_period.iter().try_fold(WattHours::ZERO, |sum, wh| sum.checked_add(*wh));
        if sum != Some(self.meter) {
            return Err(AccountRejection::PeriodsMismatch);
        }
        let expected = session.tariff.price(self.by_period);
        if self.cumulative != expected {
            return Err(AccountRejection::PriceMismatch { expected });
        }
        self.cumulative.checked_sub(&session.billed).ok_or(AccountRejection::MeterOutOfRange)
    }
}
