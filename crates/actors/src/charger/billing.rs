//! Money of one session in progress: what the account has billed, what has flowed since, what is in flight.
//!
//! Soft: after a restart it is rebuilt from the account's answer. One step is in flight at a time, so the
//! sequence of debits is the order they were decided in (MONEY-2).
//!
//! Time is read off the session's clock ([`SessionClock`]), which its charger's log holds, at the stamp of the last
//! reading; the settlement reads it at the end of the session and has the final word.

use crate::shared::NodeConfig;
use chargeplane_domain::account::{AccountCommand, DebitAnswer, SessionAccount};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::metering::{self, Implausible, MeterWatch};
use chargeplane_domain::session::{ChargingSession, SessionClock};
use chargeplane_domain::tariff::fees::MeteredTime;
use chargeplane_domain::tariff::{MAX_METER, PERIODS, Priced, Tariff, zone::TimeZone};
use chargeplane_domain::units::{Money, Timestamp, WattHours, Watts};
use std::time::Duration;
use tokio::time::Instant;

/// A hold is renewed when less than this share of its target is left, in percent.
const RENEW_BELOW_PERCENT: i64 = 30;

/// A hold pays for this much time beside its energy, where time costs something.
const HOLD_MS: i64 = 10 * 60_000;

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
    /// Kept back in every hold: what may flow and pass while the charger stops.
    pub reserve: Money,
    tariff: Tariff,
    zone: Option<TimeZone>,
    reserve_wh: WattHours,
    /// What the time costs at most in which the charger stops.
    reserve_fees: Money,
    synced: bool,
    /// An operator gave the hold back: nothing is debited any more, and the charger is stopped.
    released: bool,
    in_flight: Option<(Step, Instant)>,
    last_asked: Option<Instant>,
    /// As the account has it.
    sequence: u32,
    billed: WattHours,
    billed_by_period: [WattHours; PERIODS],
    billed_time: MeteredTime,
    /// What that costs.
    billed_price: Priced,
    hold_left: Money,
    available: Money,
    /// As the meter has it.
    running: WattHours,
    by_period: [WattHours; PERIODS],
    time: MeteredTime,
    /// When that was, by the gateway's clock.
    read_at: Timestamp,
    /// True when it is the stamp of a reading.
    is_read: bool,
    /// By the node's clock: the session began later than this.
    held_at: Timestamp,
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
        let hold_wh = WattHours(config.hold_wh.saturating_add(reserve_wh.0));
        let for_use = tariff.most_for(hold_wh, HOLD_MS.saturating_add(stop_ms)).saturating_add(tariff.fees.flat);
        Self {
            session: session.id.clone(),
            hold_target: tariff.at_most(for_use).max(tariff.fees.min),
            reserve: tariff.at_most(tariff.most_for(reserve_wh, stop_ms)),
            reserve_fees: tariff.most_for(WattHours::ZERO, stop_ms),
            zone,
            reserve_wh,
            synced: false,
            released: false,
            in_flight: None,
            last_asked: None,
            sequence: 0,
            billed: WattHours::ZERO,
            billed_by_period: [WattHours::ZERO; PERIODS],
            billed_time: MeteredTime::NONE,
            billed_price: Priced::ZERO,
            hold_left: Money::ZERO,
            available: Money::ZERO,
            running: WattHours::ZERO,
            by_period: [WattHours::ZERO; PERIODS],
            time: MeteredTime::NONE,
            read_at: now,
            is_read: false,
            held_at: now,
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
        self.billed_time = position.time;
        self.billed_price = position.cumulative;
        self.held_at = position.opened_at;
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
        self.billed_time = answer.time;
        self.billed_price = answer.cumulative;
        self.hold_left = answer.hold_left;
        self.available = answer.available;
        self.last_debit = Instant::now();
        Some(self.allowance())
    }

    /// Energy of the whole session that the hold pays for, less what may flow while the charger stops. What the hold
    /// pays of fees until the next debit is taken out of the reserve of time.
    fn allowance(&self) -> WattHours {
        if self.pays_all(self.hold_left) {
            return MAX_METER;
        }
        let left = self.left(self.hold_left, self.billed).unwrap_or(WattHours::ZERO);
        self.billed.saturating_add(left.max(WattHours::ZERO)).min(MAX_METER)
    }

    /// True when `funds` pay, beyond what is billed, for the most that the session may cost: then it is not bounded.
    fn pays_all(&self, funds: Money) -> bool {
        self.tariff.fees.max.is_some_and(|max| funds >= max.saturating_sub(self.billed_price.total()))
    }

    /// Energy that `funds` pay after energy up to `since` is paid, less what may flow while the charger stops; none
    /// when they do not even pay the fees that are to come by then.
    fn left(&self, funds: Money, since: WattHours) -> Option<WattHours> {
        let to_come = if since.is_positive() { Money::ZERO } else { self.tariff.fees.flat };
        let free = funds.saturating_sub(self.reserve_fees).saturating_sub(to_come);
        let left = (free >= Money::ZERO).then(|| self.tariff.affordable(free))?;
        Some(left.saturating_sub(self.reserve_wh))
    }

    /// Fees since the last debit.
    fn accrued(&self) -> Money {
        if self.tariff.fees.is_none() {
            return Money::ZERO;
        }
        let now = self.tariff.price(&self.by_period, &self.time);
        now.fees.saturating_sub(self.billed_price.fees).max(Money::ZERO)
    }

    /// True when neither the hold nor what is available beyond it pays for more than the reserve, or when the hold
    /// was given back.
    pub fn is_spent(&self) -> bool {
        if self.released {
            return true;
        }
        // Before the first debit the money beyond the hold is not known.
        if self.sequence == 0 {
            return false;
        }
        let funds = self.hold_left.saturating_add(self.available.max(Money::ZERO));
        if self.pays_all(funds) {
            return false;
        }
        let left = self.left(funds.saturating_sub(self.accrued()), self.running);
        left.is_none_or(|left| self.running.saturating_sub(self.billed) >= left)
    }

    /// Counts the session's time up to the last reading. What was billed stays counted until the end: the word that
    /// the charger was paused may come behind a reading.
    pub fn count_time(&mut self, clock: &SessionClock, now: Timestamp) {
        if self.is_read {
            let counted = self.passed(clock.until(self.read_at), now);
            self.time = counted.at_least(&self.billed_time);
        }
    }

    /// No more than passed by the node's clock: a gateway's clock that is set forward costs nobody anything.
    fn passed(&self, counted: MeteredTime, now: Timestamp) -> MeteredTime {
        counted.at_most(now.since(self.held_at))
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
            (self.read_at, self.is_read) = (at, true);
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

    /// The next debit when enough has flowed, or when some has, or fees have come up, and it is time.
    pub fn debit_if_due(&mut self, every: Duration, least: WattHours, at: Timestamp) -> Option<AccountCommand> {
        let flowed = self.running.saturating_sub(self.billed);
        let accrued = self.accrued();
        let some = flowed.is_positive() || accrued.is_positive();
        let due = flowed >= least || (some && self.last_debit.elapsed() >= every);
        if !due || !self.begin(Step::Debit) {
            return None;
        }
        Some(AccountCommand::Debit {
            session: self.session.clone(),
            sequence: self.sequence.saturating_add(1),
            meter: self.running,
            by_period: self.by_period,
            time: self.time,
            cumulative: self.tariff.price(&self.by_period, &self.time),
            hold_target: self.renewed_hold(flowed, accrued),
            at,
        })
    }

    /// The hold is brought back to its target when, after this debit, little of it would be left.
    fn renewed_hold(&self, flowed: WattHours, accrued: Money) -> Money {
        let cost = self.tariff.highest_price().0.saturating_mul(flowed.0) / 1_000;
        let left = self.hold_left.0.saturating_sub(cost).saturating_sub(accrued.0).saturating_mul(100);
        if left >= self.hold_target.0.saturating_mul(RENEW_BELOW_PERCENT) {
            return Money::ZERO;
        }
        // More than the session may still cost need not be held.
        let spent = self.tariff.price(&self.by_period, &self.time).total();
        self.tariff.fees.max.map_or(self.hold_target, |max| self.hold_target.min(max.saturating_sub(spent)))
    }

    /// The settlement of a session that ended at `metered`; `clock` has its time, if it began.
    pub fn settle(
        &mut self,
        clock: Option<&SessionClock>,
        stopped_at: Timestamp,
        metered: WattHours,
        at: Timestamp,
    ) -> Option<AccountCommand> {
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
        self.time = clock.map_or(MeteredTime::NONE, |clock| self.passed(clock.until(stopped_at), at));
        Some(AccountCommand::Settle {
            session: self.session.clone(),
            sequence: self.sequence.saturating_add(1),
            meter: metered,
            by_period: self.by_period,
            time: self.time,
            cumulative: self.tariff.final_price(&self.by_period, &self.time),
            at,
        })
    }
}

#[cfg(test)]
mod tests;
