//! Money of one session in progress: what the account has billed, what has flowed since, what is in flight.
//!
//! Soft: after a restart it is rebuilt from the account's answer. One step is in flight at a time, so the
//! sequence of debits is the order they were decided in (MONEY-2).

use crate::shared::NodeConfig;
use chargeplane_domain::account::{AccountCommand, DebitAnswer, SessionAccount};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::metering::{self, Implausible, MeterWatch};
use chargeplane_domain::session::ChargingSession;
use chargeplane_domain::tariff::{PERIODS, Tariff, zone::TimeZone};
use chargeplane_domain::units::{Money, Timestamp, WattHours, Watts};
use std::time::Duration;
use tokio::time::Instant;

/// A hold is renewed when less than this share of its target is left, in percent.
const RENEW_BELOW_PERCENT: i64 = 30;

/// A step without any answer is given up after this; the account is then asked where it stands.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// After a lost step the account is asked again at most this often.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A session's readings that cannot be used are said at most this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What the account is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A hold.
    Authorise,
    /// Where it stands.
    Position,
    /// A debit.
    Debit,
    /// The end.
    Settle,
}

/// Money of one session in progress.
#[derive(Debug)]
pub struct Billing {
    /// The session.
    pub session: SessionId,
    /// What a hold should be.
    pub hold_target: Money,
    /// Kept back in every hold: what may flow while the charger stops.
    pub reserve: Money,
    tariff: Tariff,
    zone: Option<TimeZone>,
    reserve_wh: WattHours,
    synced: bool,
    /// An operator gave the hold back: nothing is debited any more, and the charger is stopped.
    released: bool,
    in_flight: Option<(Step, Instant)>,
    last_asked: Option<Instant>,
    /// As the account has it.
    sequence: u32,
    billed: WattHours,
    billed_by_period: [WattHours; PERIODS],
    hold_left: Money,
    available: Money,
    /// As the meter has it.
    running: WattHours,
    by_period: [WattHours; PERIODS],
    /// When that was, by the gateway's clock.
    read_at: Timestamp,
    /// What the meter may say next; made when the session has begun.
    watch: Option<MeterWatch>,
    rated: Option<Watts>,
    made_at: Timestamp,
    /// When it was last said that readings of this session are not used: the flag of a meter to be looked at.
    said: Option<Instant>,
    last_debit: Instant,
}

impl Billing {
    /// For a session that begins, or that the charger's actor finds after a restart.
    pub fn new(
        session: &ChargingSession,
        zone: Option<TimeZone>,
        rated: Option<Watts>,
        config: &NodeConfig,
        now: Timestamp,
    ) -> Self {
        let tariff = session.tariff.clone();
        let known = rated;
        let stop_ms = i64::try_from(config.stop_time.as_millis()).unwrap_or(i64::MAX);
        let rated = rated.unwrap_or(Watts::ZERO).0;
        // Rounded up to whole Wh, and one more for the register's own rounding.
        let reserve_wh = WattHours(rated.saturating_mul(stop_ms) / 3_600_000 + 2);
        let cost = |wh: i64| Money(tariff.highest_price().0.saturating_mul(wh) / 1_000 + 1);
        Self {
            session: session.id.clone(),
            hold_target: cost(config.hold_wh.saturating_add(reserve_wh.0)),
            reserve: cost(reserve_wh.0),
            zone,
            reserve_wh,
            synced: false,
            released: false,
            in_flight: None,
            last_asked: None,
            sequence: 0,
            billed: WattHours::ZERO,
            billed_by_period: [WattHours::ZERO; PERIODS],
            hold_left: Money::ZERO,
            available: Money::ZERO,
            running: WattHours::ZERO,
            by_period: [WattHours::ZERO; PERIODS],
            read_at: now,
            watch: None,
            rated: known,
            // A session that was found under way began when it says; one that is to begin begins later than now.
            made_at: session.started_at.map_or(now, |started| started.min(now)),
            said: None,
            last_debit: Instant::now(),
            tariff,
        }
    }

    /// Takes the one place in flight; false while another step is there, or one was asked a moment ago.
    pub fn begin(&mut self, step: Step) -> bool {
        let now = Instant::now();
        if let Some((_, since)) = self.in_flight {
            if now.saturating_duration_since(since) < STEP_TIMEOUT {
                return false;
            }
            self.synced = false;
        }
        let repeated = matches!(step, Step::Authorise | Step::Position);
        if repeated && self.last_asked.is_some_and(|at| now.saturating_duration_since(at) < ASK_AGAIN) {
            return false;
        }
        if repeated {
            self.last_asked = Some(now);
        }
        self.in_flight = Some((step, now));
        true
    }

    /// The step in flight has ended.
    pub fn end(&mut self) -> Option<Step> {
        self.in_flight.take().map(|(step, _)| step)
    }

    /// True when the account's side is known.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// The account must be asked where it stands.
    pub fn lose_sync(&mut self) {
        self.synced = false;
    }

    /// The hold was placed. Returns how much energy it allows.
    pub fn on_authorised(&mut self, hold: Money) -> WattHours {
        self.synced = true;
        self.hold_left = hold;
        // What is available beyond the hold is learnt from the first debit; until then it is not spent.
        self.available = Money::ZERO;
        self.last_debit = Instant::now();
        self.allowance()
    }

    /// The account's truth after a restart or a lost answer.
    pub fn on_position(&mut self, position: &SessionAccount) {
        self.synced = true;
        self.sequence = position.sequence;
        self.billed = position.meter;
        self.billed_by_period = position.by_period;
        self.hold_left = position.hold;
        self.released = position.released.is_some();
        self.available = position.last_debit.as_ref().map_or(Money::ZERO, |answer| answer.available);
        let read = self.running;
        if read < position.meter {
            let mut watch = MeterWatch::new(self.rated, position.metered_at, position.metered_at);
            watch.accept(position.meter, position.metered_at, position.metered_at);
            self.watch = Some(watch);
        }
        let follows = self.by_period.iter().zip(&position.by_period).all(|(mine, theirs)| mine >= theirs);
        if !follows {
            // Readings came before this answer and were counted in the period of that moment: only what is not
            // billed yet belongs there.
            (self.running, self.by_period) = (position.meter, position.by_period);
            self.advance_to(self.read_at, read);
        }
    }

    /// The account never held anything for the session.
    pub fn on_nothing_held(&mut self) {
        self.synced = true;
        self.sequence = 0;
    }

    /// A debit was posted. Returns the new allowance.
    pub fn on_debited(&mut self, answer: &DebitAnswer) -> Option<WattHours> {
        self.sequence = answer.sequence;
        self.billed = answer.meter;
        self.billed_by_period = answer.by_period;
        self.hold_left = answer.hold_left;
        self.available = answer.available;
        self.last_debit = Instant::now();
        Some(self.allowance())
    }

    /// Energy of the whole session that the hold pays for, less what may flow while the charger stops.
    fn allowance(&self) -> WattHours {
        let left = self.tariff.affordable(self.hold_left).saturating_sub(self.reserve_wh);
        self.billed.saturating_add(left.max(WattHours::ZERO))
    }

    /// True when neither the hold nor what is available beyond it pays for more than the reserve, or when the hold
    /// was given back.
    pub fn is_spent(&self) -> bool {
        if self.released {
            return true;
        }
        let funds = self.hold_left.saturating_add(self.available.max(Money::ZERO));
        let left = self.tariff.affordable(funds).saturating_sub(self.reserve_wh);
        // Before the first debit the money beyond the hold is not known.
        self.sequence > 0 && self.running.saturating_sub(self.billed) >= left
    }

    /// The meter stands at `energy` since the start of the session at `started_at`. A reading that cannot be true
    /// changes nothing.
    pub fn on_reading(
        &mut self,
        started_at: Timestamp,
        at: Timestamp,
        energy: WattHours,
        now: Timestamp,
    ) -> Result<(), Implausible> {
        let watch = self.watch(started_at);
        watch.judge(energy, at, now)?;
        if energy >= self.running {
            self.watch(started_at).accept(energy, at, now);
            self.read_at = at;
            self.advance_to(at, energy);
        }
        Ok(())
    }

    /// Most energy since the start that a reading may say.
    pub fn most(&mut self, started_at: Timestamp, at: Timestamp, now: Timestamp) -> WattHours {
        self.watch(started_at).most(at, now)
    }

    /// Energy at the last reading that was used.
    pub fn last_reading(&self) -> WattHours {
        self.running
    }

    /// True when it is time to say that a reading was not used.
    pub fn should_say(&mut self) -> bool {
        let due = self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if due {
            self.said = Some(Instant::now());
        }
        due
    }

    fn watch(&mut self, started_at: Timestamp) -> &mut MeterWatch {
        let (rated, made_at) = (self.rated, self.made_at);
        self.watch.get_or_insert_with(|| MeterWatch::new(rated, started_at, made_at))
    }

    fn advance_to(&mut self, at: Timestamp, energy: WattHours) {
        let flowed = energy.saturating_sub(self.running);
        if flowed.is_positive() {
            let period = self.period(at);
            self.by_period[period] = self.by_period[period].saturating_add(flowed);
            self.running = energy;
        }
    }

    fn period(&self, at: Timestamp) -> usize {
        self.zone.as_ref().map_or(0, |zone| self.tariff.period_at(zone, at))
    }

    /// The next debit when enough has flowed, or when some has and it is time.
    pub fn debit_if_due(&mut self, every: Duration, least: WattHours, at: Timestamp) -> Option<AccountCommand> {
        let flowed = self.running.saturating_sub(self.billed);
        let due = flowed >= least || (flowed.is_positive() && self.last_debit.elapsed() >= every);
        if !due || !self.begin(Step::Debit) {
            return None;
        }
        Some(AccountCommand::Debit {
            session: self.session.clone(),
            sequence: self.sequence.saturating_add(1),
            meter: self.running,
            by_period: self.by_period,
            cumulative: self.tariff.price(&self.by_period),
            hold_target: self.renewed_hold(flowed),
            at,
        })
    }

    /// The hold is brought back to its target when, after this debit, little of it would be left.
    fn renewed_hold(&self, flowed: WattHours) -> Money {
        let cost = self.tariff.highest_price().0.saturating_mul(flowed.0) / 1_000;
        let left = self.hold_left.0.saturating_sub(cost).saturating_mul(100);
        if left < self.hold_target.0.saturating_mul(RENEW_BELOW_PERCENT) { self.hold_target } else { Money::ZERO }
    }

    /// The settlement of a session that ended at `metered`.
    pub fn settle(&mut self, stopped_at: Timestamp, metered: WattHours, at: Timestamp) -> Option<AccountCommand> {
        if !self.begin(Step::Settle) {
            return None;
        }
        if metered < self.running {
            // A digest was ahead of the end that the gateway reported: start from what the account has. When even
            // that is more, a wrong reading was billed, and the settlement gives the difference back.
            let period = self.period(stopped_at);
            self.by_period = metering::lowered(&self.billed_by_period, metered, period, &self.tariff);
            self.running = self.billed.min(metered);
        }
        self.advance_to(stopped_at, metered);
        Some(AccountCommand::Settle {
            session: self.session.clone(),
            sequence: self.sequence.saturating_add(1),
            meter: metered,
            by_period: self.by_period,
            cumulative: self.tariff.price(&self.by_period),
            at,
        })
    }
}

#[cfg(test)]
mod tests;
