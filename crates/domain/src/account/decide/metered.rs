//! Commands that carry a meter reading: debits and the settlement.

use super::{Decision, answer, refuse, refuse_and_remember};
use crate::account::{
    Account, AccountAnswer, AccountEvent, AccountRejection, AccountStatus, DebitAnswer, RefusedSubject, SessionAccount,
    Settled, unpaid_energy,
};
use crate::ids::SessionId;
use crate::split::PartyShare;
use crate::tariff::fees::MeteredTime;
use crate::tariff::{MAX_METER, PERIODS, Priced};
use crate::units::{Money, Timestamp, WattHours};

/// What a session's meter says, and what its caller thinks it costs.
pub(super) struct Reading<'a> {
    pub session: &'a SessionId,
    pub sequence: u32,
    pub meter: WattHours,
    pub by_period: &'a [WattHours; PERIODS],
    pub time: &'a MeteredTime,
    pub cumulative: Priced,
    /// It is the settlement's: nothing follows.
    pub last: bool,
}

impl Account {
    pub(super) fn debit(&self, reading: &Reading<'_>, hold_target: Money, at: Timestamp) -> Decision {
        let Some(session) = self.position(reading.session) else {
            return refuse(AccountRejection::UnknownSession);
        };
        if let Some(last) = session.last_debit.filter(|last| last.sequence == reading.sequence) {
            return if reading.says(last.meter, &last.by_period, &last.time, last.cumulative) {
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
                    time: *reading.time,
                    cumulative: reading.cumulative,
                    energy: paid.energy,
                    service: paid.service,
                    fees: paid.fees,
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
        if session.released.is_some() {
            return Err(AccountRejection::SessionReleased);
        }
        if hold_target < Money::ZERO {
            return Err(AccountRejection::InvalidAmount { amount: hold_target });
        }
        let due = reading.follows(session)?.due(session)?;
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
            time: *reading.time,
            cumulative: reading.cumulative,
            hold_left: held.saturating_add(renewed),
            available: free.saturating_sub(renewed),
        };
        Ok((paid, debit))
    }

    pub(super) fn settle(&self, reading: &Reading<'_>, at: Timestamp) -> Decision {
        let Some(session) = self.position(reading.session) else {
            return self.settle_unknown(reading, at);
        };
        if let Some(closed) = session.closed {
            return if closed.sequence != reading.sequence {
                refuse(AccountRejection::SessionClosed)
            } else if reading.says(closed.meter, &closed.by_period, &closed.time, closed.cumulative) {
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
                    fees: due.fees,
                    shares: session.shares(&settled),
                    settled,
                }),
                answer: Ok(AccountAnswer::Settled(settled)),
            },
            Err(rejection) => refuse(rejection),
        }
    }

    /// What a settlement takes: all that is due, from the hold, then from what is available, then from the
    /// operator's overshoot account. When less was metered in the end than was taken so far, because a reading
    /// in between was wrong, what is due is negative: the difference goes back to the driver, out of the
    /// revenue it was booked to. When the hold was released before, nothing is taken: all that is due is the
    /// operator's, who gave up the driver's money.
    fn settlement(
        &self,
        session: &SessionAccount,
        reading: &Reading<'_>,
        at: Timestamp,
    ) -> Result<(Priced, Settled), AccountRejection> {
        let reading =
            if reading.meter < session.meter { reading.corrects(session)? } else { reading.follows(session)? };
        let due = reading.due(session)?;
        let available = if session.released.is_some() { Money::ZERO } else { self.available().max(Money::ZERO) };
        let paid = due.total().min(session.hold.saturating_add(available));
        let overshoot = due.total().saturating_sub(paid);
        let overshoot_wh = unpaid_energy(reading.meter, reading.cumulative.total(), overshoot);
        let settled = Settled {
            sequence: reading.sequence,
            meter: reading.meter,
            by_period: *reading.by_period,
            time: *reading.time,
            cumulative: reading.cumulative,
            billed: session.billed.total().saturating_add(paid),
            billed_wh: reading.meter.saturating_sub(overshoot_wh),
            overshoot,
            overshoot_wh,
            released: session.hold.saturating_sub(paid.max(Money::ZERO)).max(Money::ZERO),
            at,
        };
        Ok((due, settled))
    }

    /// Settles a session that never got a hold: only with nothing metered, and remembered, so that an
    /// authorisation that arrives late cannot hold money that nobody would release.
    fn settle_unknown(&self, reading: &Reading<'_>, at: Timestamp) -> Decision {
        if !reading.says(WattHours::ZERO, &[WattHours::ZERO; PERIODS], &MeteredTime::NONE, Priced::ZERO) {
            return refuse(AccountRejection::UnknownSession);
        }
        if let (AccountStatus::Closed { at }, None) = (&self.status, self.refusals.get(reading.session)) {
            // A closed account authorises nothing ever, so there is nothing to remember.
            return answer(AccountAnswer::Settled(Settled::nothing(reading.sequence, *at)));
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

impl SessionAccount {
    /// What the operator passes on by the agreement: of the whole price, paid or not.
    fn shares(&self, settled: &Settled) -> Vec<PartyShare> {
        self.split.as_ref().map(|split| split.owed(&self.operator, settled.cumulative.total())).unwrap_or_default()
    }
}

impl Settled {
    /// The settlement of a session that never drew anything.
    fn nothing(sequence: u32, at: Timestamp) -> Self {
        Self {
            sequence,
            meter: WattHours::ZERO,
            by_period: [WattHours::ZERO; PERIODS],
            time: MeteredTime::NONE,
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
    fn says(&self, meter: WattHours, by_period: &[WattHours; PERIODS], time: &MeteredTime, cumulative: Priced) -> bool {
        self.meter == meter && self.by_period == by_period && self.time == time && self.cumulative == cumulative
    }

    /// The reading itself, when no period's energy is below the session's last one, nor, but for the settlement, its
    /// time: what was told while the session went on may have come before the word that it was paused.
    fn follows(&self, session: &SessionAccount) -> Result<&Self, AccountRejection> {
        self.is_next(session)?;
        if self.meter < session.meter {
            return Err(AccountRejection::MeterWentBack { last: session.meter });
        }
        if self.by_period.iter().zip(&session.by_period).any(|(now, before)| now < before) {
            return Err(AccountRejection::NotMonotone);
        }
        if !self.last && !self.time.follows(&session.time) {
            return Err(AccountRejection::TimeWentBack { last: session.time });
        }
        Ok(self)
    }

    /// The reading itself, when no period's energy is above the session's last one: the end of a session of
    /// which more was billed than was metered.
    fn corrects(&self, session: &SessionAccount) -> Result<&Self, AccountRejection> {
        self.is_next(session)?;
        if self.by_period.iter().zip(&session.by_period).any(|(now, before)| now > before) {
            return Err(AccountRejection::NotMonotone);
        }
        Ok(self)
    }

    fn is_next(&self, session: &SessionAccount) -> Result<(), AccountRejection> {
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
        if !self.time.is_in_range() {
            return Err(AccountRejection::TimeOutOfRange);
        }
        Ok(())
    }

    /// What the reading leaves to pay, or why it contradicts itself or the tariff.
    fn due(&self, session: &SessionAccount) -> Result<Priced, AccountRejection> {
        let negative = self.by_period.iter().any(|wh| *wh < WattHours::ZERO);
        let sum = self.by_period.iter().try_fold(WattHours::ZERO, |sum, wh| sum.checked_add(*wh));
        if negative || sum != Some(self.meter) {
            return Err(AccountRejection::PeriodsMismatch);
        }
        let expected = match self.last {
            true => session.tariff.final_price(self.by_period, self.time),
            false => session.tariff.price(self.by_period, self.time),
        };
        if self.cumulative != expected {
            return Err(AccountRejection::PriceMismatch { expected });
        }
        self.cumulative.checked_sub(&session.billed).ok_or(AccountRejection::MeterOutOfRange)
    }
}
