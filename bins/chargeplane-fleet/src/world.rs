//! The station as it stands in the yard: all chargers, the drivers on their way, the meter at every node.
//!
//! Pure. One call steps everything, so that a load reading is one instant of the whole station and no race between
//! gateways can blur it: a limit that was lowered before the step is obeyed in it, everywhere.

use crate::bay::{Bay, BayEvent, Finished, Rating, Tally};
use crate::config::FleetConfig;
use crate::load::{Draw, LoadMeter};
use crate::physics::STEP_MS;
use crate::schedule::{Driver, Fault, Schedule};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::{Timestamp, WattHours};
use std::collections::{BTreeMap, VecDeque};

/// Steps between the samples of an idle charger: one in ten seconds.
const IDLE_STEPS: u64 = 100;
/// A charger is left alone for this long before the next driver takes it.
const BREATH_MS: u64 = 1_000;
/// A fault hits a session that has lasted at least this long.
const FAULT_AFTER_MS: u64 = 3_000;

/// At the close drivers leave one after the other, this many ms apart: nobody drives two thousand cars out of one
/// gate at once.
const LEAVE_APART_MS: u64 = 4;

/// What a charger has to say to its gateway after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A reading.
    Sample {
        /// The charger's number at the gateway.
        child: u16,
        /// The open session.
        session: Option<SessionId>,
        /// What the car would take now, W.
        demand_w: i64,
        /// The reading.
        sample: Sample,
    },
    /// Something happened.
    Event {
        /// The charger's number at the gateway.
        child: u16,
        /// What.
        event: BayEvent,
    },
}

/// Counts over all chargers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions open.
    pub charging: u64,
    /// Drivers at a charger without a session, and drivers in line.
    pub waiting: u64,
    /// Faults injected.
    pub faults: u64,
    /// Sum over the chargers.
    pub tally: Tally,
}

/// The station.
#[derive(Debug, Clone)]
pub struct World {
    bays: Vec<Bay>,
    /// Gateway (index in the configuration) and child of each charger.
    place: Vec<(usize, u16)>,
    index: BTreeMap<(usize, u16), usize>,
    arrivals: VecDeque<Driver>,
    line: VecDeque<Driver>,
    faults: VecDeque<Fault>,
    faulted: u64,
    meter: LoadMeter,
    steps: u64,
    /// When the run closed.
    closed_ms: Option<u64>,
    quiet: bool,
}

impl World {
    /// The station before the first driver. `request_base` is above every request number of earlier runs.
    pub fn new(config: &FleetConfig, schedule: &Schedule, request_base: u64) -> Self {
        let gateway: BTreeMap<_, _> = config.gateways.iter().enumerate().map(|(i, g)| (&g.id, i)).collect();
        let place: Vec<(usize, u16)> =
            config.chargers.iter().map(|c| (gateway.get(&c.gateway).copied().unwrap_or(0), c.child)).collect();
        let bays = config.chargers.iter().enumerate().map(|(i, charger)| {
            let rating = Rating { rated_w: charger.rated_w.0, min_w: charger.min_w.0 };
            let jitter = config.seed ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Registers have a past, so that nobody mistakes a reading for a session's energy.
            Bay::new(rating, 10_000 + (i as i64) * 37, request_base, jitter)
        });
        Self {
            bays: bays.collect(),
            index: place.iter().enumerate().map(|(i, place)| (*place, i)).collect(),
            place,
            arrivals: schedule.drivers.iter().cloned().collect(),
            line: VecDeque::new(),
            faults: schedule.faults.iter().copied().collect(),
            faulted: 0,
            meter: LoadMeter::new(&config.limits, config.chargers.iter().map(|c| c.limit.as_str())),
            steps: 0,
            closed_ms: None,
            quiet: false,
        }
    }

    /// ms of the run that have been simulated.
    pub fn now_ms(&self) -> u64 {
        self.steps * STEP_MS
    }

    /// Steps everything by [`STEP_MS`]. `at` is the gateways' clock; `out` has a list for every gateway.
    pub fn step(&mut self, at: Timestamp, out: &mut [Vec<Report>]) {
        self.steps += 1;
        let now = self.now_ms();
        match self.closed_ms {
            None => {
                self.admit(now);
                self.inject(now);
            }
            Some(since) => self.send_home(now, since),
        }
        for (i, bay) in self.bays.iter_mut().enumerate() {
            bay.step(now);
            let (gateway, child) = self.place[i];
            let Some(out) = out.get_mut(gateway) else {
                continue;
            };
            let session = bay.session().cloned();
            let idle_turn = !self.quiet && (self.steps + i as u64).is_multiple_of(IDLE_STEPS);
            // The reading goes before what ended in this step, so the last of a session is among its samples.
            if session.is_some() || !bay.events.is_empty() || idle_turn {
                out.push(Report::Sample { child, session, demand_w: bay.demand_w(), sample: bay.sample(at) });
            }
            out.extend(bay.events.drain(..).map(|event| Report::Event { child, event }));
        }
        self.meter.read(self.bays.iter().map(|bay| Draw {
            power_w: bay.power_w(),
            limit_w: bay.limit_w(),
            demand_w: bay.demand_w(),
            charging: bay.is_charging(),
        }));
    }

    /// Sends who has arrived to a charger.
    fn admit(&mut self, now: u64) {
        while self.arrivals.front().is_some_and(|driver| driver.arrive_ms <= now) {
            let Some(driver) = self.arrivals.pop_front() else {
                break;
            };
            let own = driver.charger.and_then(|i| self.bays.get_mut(i as usize)).filter(|bay| bay.is_free());
            match own {
                Some(bay) => bay.arrive(driver, now),
                None => self.line.push_back(driver),
            }
        }
        if self.line.is_empty() {
            return;
        }
        let breath = BREATH_MS.min(now);
        for bay in &mut self.bays {
            if bay.free_for_ms(now).is_some_and(|free| free >= breath) {
                match self.line.pop_front() {
                    Some(driver) => bay.arrive(driver, now),
                    None => break,
                }
            }
        }
    }

    /// Breaks what is due; a fault waits while nothing charges that it could hit.
    fn inject(&mut self, now: u64) {
        while let Some(fault) = self.faults.front().filter(|fault| fault.at_ms <= now) {
            let count = self.bays.len();
            let first = fault.charger as usize;
            let hit = (0..count)
                .map(|i| (first + i) % count)
                .find(|i| self.bays[*i].charging_for_ms(now).is_some_and(|ms| ms >= FAULT_AFTER_MS));
            let Some(hit) = hit else { return };
            self.bays[hit].fault(now);
            self.faulted += 1;
            self.faults.pop_front();
        }
    }

    /// How long it takes from the close until the last driver has left, ms.
    pub fn close_ms(&self) -> u64 {
        self.bays.len() as u64 * LEAVE_APART_MS
    }

    /// No more drivers and no more faults; whoever is here leaves within [`World::close_ms`].
    pub fn close(&mut self) {
        self.closed_ms.get_or_insert(self.steps * STEP_MS);
        self.arrivals.clear();
        self.line.clear();
        self.faults.clear();
    }

    /// Sends every charger's driver home in his turn; neighbours have turns far apart.
    fn send_home(&mut self, now: u64, since: u64) {
        let count = self.bays.len() as u64;
        if now > since + self.close_ms() + STEP_MS {
            // Whoever starts now does so over the app, and may stay.
            return;
        }
        for (i, bay) in self.bays.iter_mut().enumerate() {
            let turn = since + (i as u64 * 7_919 % count) * LEAVE_APART_MS;
            if now >= turn {
                bay.close(now);
            }
        }
    }

    /// Whether idle chargers keep their readings to themselves, so that what was sent can be counted to the end.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// The session that is open at a charger.
    pub fn session(&self, gateway: usize, child: u16) -> Option<&SessionId> {
        self.index.get(&(gateway, child)).and_then(|i| self.bays.get(*i)).and_then(Bay::session)
    }

    /// The charger itself.
    pub fn bay(&mut self, gateway: usize, child: u16) -> Option<&mut Bay> {
        let i = self.index.get(&(gateway, child))?;
        self.bays.get_mut(*i)
    }

    /// A gateway executes a start.
    pub fn start(&mut self, gateway: usize, child: u16, session: &SessionId) -> Result<WattHours, &'static str> {
        let now = self.now_ms();
        self.bay(gateway, child).ok_or("unknown_child")?.start(session, now)
    }

    /// Sessions that ended since the last call, with the index of their charger.
    pub fn take_finished(&mut self) -> Vec<(usize, Finished)> {
        let bays = self.bays.iter_mut().enumerate();
        bays.flat_map(|(i, bay)| std::mem::take(&mut bay.finished).into_iter().map(move |f| (i, f))).collect()
    }

    /// The meter.
    pub fn meter(&mut self) -> &mut LoadMeter {
        &mut self.meter
    }

    /// The chargers, in the order of the configuration.
    pub fn bays(&self) -> &[Bay] {
        &self.bays
    }

    /// Sum of the energy registers, Wh.
    pub fn registers_wh(&self) -> i64 {
        self.bays.iter().map(Bay::register_wh).sum()
    }

    /// Counts of this moment.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { waiting: self.line.len() as u64, faults: self.faulted, ..Counts::default() };
        for bay in &self.bays {
            counts.charging += u64::from(bay.is_charging());
            counts.waiting += u64::from(bay.is_waiting());
            let (sum, tally) = (&mut counts.tally, bay.tally);
            sum.started += tally.started;
            sum.denied += tally.denied;
            sum.gave_up += tally.gave_up;
            sum.unanswered += tally.unanswered;
        }
        counts
    }
}

#[cfg(test)]
mod tests;
