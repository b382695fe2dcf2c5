//! One charger with its connector, the car in front of it and the driver beside it. Pure.
//!
//! ```text
//! Free -> Wanting -> Asking -> Charging -> Leaving -> Free
//!           ^---------'  |        '-> Faulted -> Free
//!        (denied, silent)'-> Free (gives up)
//! ```
//!
//! The charger obeys the limit the gateway sets: it never draws more, and a lower limit takes effect in the call
//! that sets it, not in the next step.

use crate::physics::{self, Car, TICK_PER_WH};
use crate::schedule::{CarSpec, Driver};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::sample::Sample;
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use std::collections::BTreeSet;

/// A start without an answer is asked for again after this long (the node may be down).
pub const PATIENCE_MS: u64 = 10_000;
/// A denied driver asks again this often before he drives on.
pub const RETRIES: u32 = 3;
/// How long a car takes to leave, and the next to find the place.
const LEAVE_MS: u64 = 1_500;
/// How long a charger is out of service after a fault.
pub const REPAIR_MS: u64 = 10_000;

/// The car of a driver who starts over the app without one in the schedule.
const APP_CAR: CarSpec = CarSpec { capacity_wh: 1_400, stored_wh: 280, need_wh: 900, max_w: 150_000 };

/// What a charger can do, from the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rating {
    /// Most power, W.
    pub rated_w: i64,
    /// Least power, W.
    pub min_w: i64,
}

/// What happens at the charger that its gateway must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BayEvent {
    /// A car came or went, or the charger went in or out of service.
    Status { plugged: bool, available: bool },
    /// A driver asks to start.
    Ask { account: AccountId, request: u64 },
    /// A session ended here.
    Stopped { session: SessionId, register: WattHours, reason: StopReason },
    /// The charger broke.
    Fault,
}

/// A session as the charger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The session.
    pub session: SessionId,
    /// Who pays, as far as the charger knows: a remote start does not say.
    pub account: Option<AccountId>,
    /// Number of the driver in the schedule.
    pub driver: Option<u32>,
    /// Register at the start, Wh.
    pub meter_start: i64,
    /// Register at the end, Wh.
    pub meter_stop: i64,
    /// ms from the start of the run.
    pub started_ms: u64,
    /// ms from the start of the run.
    pub stopped_ms: u64,
    /// Why.
    pub reason: StopReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Charging {
    session: SessionId,
    meter_start: i64,
    started_ms: u64,
    /// When it was first told to stop for want of money.
    told_to_stop_ms: Option<u64>,
    /// The driver's requests that this session may answer. Once the node has denied them all, it is known to
    /// have been started from elsewhere, on an account that the charger is not told.
    answers: BTreeSet<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Free { since_ms: u64 },
    Wanting { ask_ms: u64, denials: u32 },
    Asking { request: u64, asked_ms: u64, denials: u32 },
    Charging(Charging),
    Leaving { until_ms: u64 },
    Faulted { until_ms: u64 },
}

/// How often things happened at one charger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sessions that began.
    pub started: u64,
    /// Answers that a start was refused.
    pub denied: u64,
    /// Drivers who drove on without charging.
    pub gave_up: u64,
    /// Starts asked for again for want of an answer.
    pub unanswered: u64,
}

/// The charger.
#[derive(Debug, Clone)]
pub struct Bay {
    rating: Rating,
    phase: Phase,
    driver: Option<Driver>,
    car: Option<Car>,
    plugged_ms: u64,
    limit_w: i64,
    power_w: i64,
    register_wh: i64,
    /// Drawn beyond the register, in 1/[`TICK_PER_WH`] Wh.
    part: i64,
    last_request: u64,
    /// Requests that were neither granted nor denied: a start may still come for a driver who is gone.
    open_requests: BTreeSet<u64>,
    /// Taken out of service by command.
    withdrawn: bool,
    /// Moves with every use; spreads what drivers do at one moment.
    jitter: u64,
    /// What the gateway must be told.
    pub events: Vec<BayEvent>,
    /// Sessions that ended, for the evidence.
    pub finished: Vec<Finished>,
    /// Counts.
    pub tally: Tally,
}

impl Bay {
    /// A free charger. `request_base` is above every request number of earlier runs.
    pub fn new(rating: Rating, register_wh: i64, request_base: u64, jitter: u64) -> Self {
        Self {
            rating,
            phase: Phase::Free { since_ms: 0 },
            driver: None,
            car: None,
            plugged_ms: 0,
            limit_w: 0,
            power_w: 0,
            register_wh,
            part: 0,
            last_request: request_base,
            open_requests: BTreeSet::new(),
            withdrawn: false,
            jitter,
            events: Vec::new(),
            finished: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// True when a driver may come.
    pub fn is_free(&self) -> bool {
        matches!(self.phase, Phase::Free { .. }) && !self.withdrawn
    }

    /// True while a session is open.
    pub fn is_charging(&self) -> bool {
        matches!(self.phase, Phase::Charging(_))
    }

    /// The open session.
    pub fn session(&self) -> Option<&SessionId> {
        match &self.phase {
            Phase::Charging(charging) => Some(&charging.session),
            _ => None,
        }
    }

    /// True while a driver wants to start.
    pub fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Wanting { .. } | Phase::Asking { .. })
    }

    /// ms that the open session has lasted.
    pub fn charging_for_ms(&self, now_ms: u64) -> Option<u64> {
        match &self.phase {
            Phase::Charging(charging) => Some(now_ms.saturating_sub(charging.started_ms)),
            _ => None,
        }
    }

    /// True when a car is plugged in.
    pub fn is_plugged(&self) -> bool {
        self.car.is_some()
    }

    /// Power now, W.
    pub fn power_w(&self) -> i64 {
        self.power_w
    }

    /// The energy register, Wh.
    pub fn register_wh(&self) -> i64 {
        self.register_wh
    }

    /// What the car would take now if nothing but the charger's rating held it, W; 0 without a session.
    pub fn demand_w(&self) -> i64 {
        match (&self.phase, &self.car) {
            (Phase::Charging(_), Some(car)) => car.accept_w().min(self.rating.rated_w),
            _ => 0,
        }
    }

    /// The gateway sets a limit. Less is obeyed at once.
    pub fn set_limit(&mut self, limit_w: i64) {
        self.limit_w = limit_w.clamp(0, self.rating.rated_w);
        let allowed = if self.limit_w < self.rating.min_w { 0 } else { self.limit_w };
        self.power_w = self.power_w.min(allowed);
    }

    /// A driver comes and plugs in. The charger must be free.
    pub fn arrive(&mut self, driver: Driver, now_ms: u64) {
        self.car = Some(Car::new(&driver.car));
        self.driver = Some(driver);
        self.plugged_ms = now_ms;
        self.phase = Phase::Wanting { ask_ms: now_ms + 300, denials: 0 };
        self.tell_status();
    }

    /// The gateway executes a start. Answers the register, or a code that says why not.
    pub fn start(&mut self, session: &SessionId, now_ms: u64) -> Result<WattHours, &'static str> {
        match &self.phase {
            Phase::Charging(charging) if charging.session == *session => Ok(WattHours(charging.meter_start)),
            Phase::Charging(_) => Err("occupied"),
            _ if self.withdrawn => Err("unavailable"),
            Phase::Faulted { .. } => Err("faulted"),
            Phase::Leaving { .. } => Err("not_plugged"),
            // The driver who asked for this one is gone: nobody may charge on his account.
            Phase::Free { .. } if self.open_requests.pop_first().is_some() => Err("not_plugged"),
            Phase::Free { .. } => {
                self.car = Some(Car::new(&APP_CAR));
                self.plugged_ms = now_ms;
                self.tell_status();
                Ok(self.begin(session, now_ms))
            }
            Phase::Wanting { .. } | Phase::Asking { .. } => Ok(self.begin(session, now_ms)),
        }
    }

    fn begin(&mut self, session: &SessionId, now_ms: u64) -> WattHours {
        let answers = std::mem::take(&mut self.open_requests);
        self.tally.started += 1;
        self.phase = Phase::Charging(Charging {
            session: session.clone(),
            meter_start: self.register_wh,
            started_ms: now_ms,
            told_to_stop_ms: None,
            answers,
        });
        WattHours(self.register_wh)
    }

    /// When a stop of this session that is asked for now takes effect, ms. Most chargers obey at once; some go on
    /// for a while when the money ends, however often they are told.
    pub fn stops_at(&mut self, session: &SessionId, reason: StopReason, now_ms: u64) -> u64 {
        let late_ms = self.driver.as_ref().map_or(0, |driver| driver.late_stop_ms);
        match &mut self.phase {
            Phase::Charging(charging) if charging.session == *session && reason == StopReason::Funds => {
                let told = *charging.told_to_stop_ms.get_or_insert(now_ms);
                (told + late_ms).max(now_ms)
            }
            _ => now_ms,
        }
    }

    /// What the charger may draw now: the limit in force, whether or not a car takes it, W.
    pub fn limit_w(&self) -> i64 {
        self.limit_w
    }

    /// The gateway stops a session: it was told to, or the allowance is used up. Answers the register.
    pub fn stop(&mut self, session: &SessionId, reason: StopReason, now_ms: u64) -> Option<WattHours> {
        if self.session() != Some(session) {
            return None;
        }
        self.end(reason, now_ms);
        Some(WattHours(self.register_wh))
    }

    /// Ends the open session at the charger; the gateway is told when it was not its own doing.
    fn end(&mut self, reason: StopReason, now_ms: u64) {
        let next = Phase::Leaving { until_ms: now_ms + LEAVE_MS };
        if let Phase::Charging(charging) = std::mem::replace(&mut self.phase, next) {
            self.power_w = 0;
            let theirs = self.driver.as_ref().filter(|_| !charging.answers.is_empty());
            self.finished.push(Finished {
                session: charging.session,
                account: theirs.map(|driver| driver.account.clone()),
                driver: self.driver.as_ref().map(|driver| driver.no),
                meter_start: charging.meter_start,
                meter_stop: self.register_wh,
                started_ms: charging.started_ms,
                stopped_ms: now_ms,
                reason,
            });
        }
    }

    fn end_here(&mut self, reason: StopReason, now_ms: u64) {
        if let Some(session) = self.session().cloned() {
            self.end(reason, now_ms);
            self.events.push(BayEvent::Stopped { session, register: WattHours(self.register_wh), reason });
        }
    }

    /// The node denied a request.
    pub fn denied(&mut self, request: u64, now_ms: u64) {
        self.open_requests.remove(&request);
        if let Phase::Charging(charging) = &mut self.phase {
            charging.answers.remove(&request);
        }
        if let Phase::Asking { request: asked, denials, .. } = self.phase
            && asked == request
        {
            self.tally.denied += 1;
            if denials >= RETRIES {
                self.give_up(now_ms);
            } else {
                let wait = 2_000 + self.spread(3_000);
                self.phase = Phase::Wanting { ask_ms: now_ms + wait, denials: denials + 1 };
            }
        }
    }

    fn give_up(&mut self, now_ms: u64) {
        self.tally.gave_up += 1;
        self.phase = Phase::Leaving { until_ms: now_ms + LEAVE_MS };
    }

    /// The charger breaks.
    pub fn fault(&mut self, now_ms: u64) {
        self.end_here(StopReason::Fault, now_ms);
        self.events.push(BayEvent::Fault);
        self.vacate();
        self.phase = Phase::Faulted { until_ms: now_ms + REPAIR_MS };
        self.tell_status();
    }

    /// Takes the charger out of service, or back into it. A session that is open goes on to its end.
    pub fn set_available(&mut self, available: bool) {
        self.withdrawn = !available;
        self.tell_status();
    }

    /// The charger is switched off and on again.
    pub fn reset(&mut self, now_ms: u64) {
        self.end_here(StopReason::PowerLoss, now_ms);
    }

    /// The run closes: whoever is here leaves.
    pub fn close(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Charging(_) => self.end_here(StopReason::Driver, now_ms),
            Phase::Wanting { .. } | Phase::Asking { .. } => self.give_up(now_ms),
            _ => {}
        }
    }

    /// One step of the simulation.
    pub fn step(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Free { .. } => {}
            Phase::Wanting { ask_ms, denials } if now_ms >= ask_ms => self.ask(now_ms, denials),
            Phase::Asking { asked_ms, denials, .. } if now_ms >= asked_ms + PATIENCE_MS => {
                self.tally.unanswered += 1;
                self.ask(now_ms, denials);
            }
            Phase::Wanting { .. } | Phase::Asking { .. } => {}
            Phase::Charging(_) => self.charge(now_ms),
            Phase::Leaving { until_ms } | Phase::Faulted { until_ms } if now_ms >= until_ms => {
                self.vacate();
                self.phase = Phase::Free { since_ms: now_ms };
                self.tell_status();
            }
            Phase::Leaving { .. } | Phase::Faulted { .. } => {}
        }
    }

    fn ask(&mut self, now_ms: u64, denials: u32) {
        let Some(account) = self.driver.as_ref().map(|driver| driver.account.clone()) else {
            return;
        };
        self.last_request += 1;
        let request = self.last_request;
        self.open_requests.insert(request);
        self.phase = Phase::Asking { request, asked_ms: now_ms, denials };
        self.events.push(BayEvent::Ask { account, request });
    }

    fn charge(&mut self, now_ms: u64) {
        let Some(car) = &mut self.car else { return };
        let accept = car.accept_w().min(self.rating.rated_w);
        self.power_w = physics::next_power(self.power_w, self.limit_w, self.rating.min_w, accept);
        car.charge(self.power_w);
        self.part += self.power_w;
        self.register_wh += self.part / TICK_PER_WH;
        self.part %= TICK_PER_WH;
        let satisfied = car.is_satisfied();
        let leaves = self
            .driver
            .as_ref()
            .is_some_and(|driver| now_ms >= (self.plugged_ms + driver.stay_ms).max(driver.not_before_ms));
        if satisfied {
            self.end_here(StopReason::TargetReached, now_ms);
        } else if leaves {
            self.end_here(StopReason::LeftEarly, now_ms);
        }
    }

    fn vacate(&mut self) {
        self.car = None;
        self.driver = None;
        self.power_w = 0;
    }

    fn tell_status(&mut self) {
        let available = !self.withdrawn && !matches!(self.phase, Phase::Faulted { .. });
        self.events.push(BayEvent::Status { plugged: self.car.is_some(), available });
    }

    /// A number below `range`, different from charger to charger and from time to time.
    fn spread(&mut self, range: u64) -> u64 {
        self.jitter = self.jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.jitter >> 33) % range
    }

    /// The reading of this moment.
    pub fn sample(&self, at: Timestamp) -> Sample {
        let (voltage_dv, temperature_dc, soc) = match &self.car {
            Some(car) => (car.voltage_dv(), car.temperature_dc(), car.soc_permille()),
            None => (0, 180, 0),
        };
        let current_da = if voltage_dv > 0 { self.power_w * 100 / i64::from(voltage_dv) } else { 0 };
        Sample {
            at,
            voltage_dv,
            current_da: current_da as i32,
            temperature_dc,
            soc_permille: soc as i32,
            power: Watts(self.power_w),
            register: WattHours(self.register_wh),
        }
    }

    /// How long the charger has been free, ms.
    pub fn free_for_ms(&self, now_ms: u64) -> Option<u64> {
        match self.phase {
            Phase::Free { since_ms } if !self.withdrawn => Some(now_ms.saturating_sub(since_ms)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
