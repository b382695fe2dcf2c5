//! The schedule: who comes when, with which car, for how long, and what breaks.
//!
//! Pure: a function of the seed, the recorded sessions and the configuration, so two runs with one seed have the
//! same arrivals, to the byte. How the recorded days at a campus become a morning at a DC station:
//!
//! - **energies** are stretched from the recorded range (5th to 95th percentile) onto 20 to 60 kWh, **stays** onto
//!   60 to 180 minutes, keeping the shape of the distribution; then both are divided by the time compression
//!   (60: 333 to 1,000 Wh, 60 to 180 s);
//! - **arrivals** keep the profile of the day: the recorded morning (05:00 to 13:00) becomes the ramp that fills the
//!   station, the rest of the day the stream of drivers who come for chargers that become free;
//! - a third of the chargers start in **mid-session**, with a car that has charged elsewhere in the story already;
//! - the first driver of every charger wants so much that nobody is through before all are on: early on few cars
//!   share the connection, so who comes early must want more ([`first_need_wh`]);
//! - the last drivers of the ramp are the **poor** ones, whose account ends before their need does.
//!
//! Windows are drawn for [`NOMINAL_SECONDS`](crate::config::NOMINAL_SECONDS); a shorter run has the same picture at
//! a higher pace, energies included.

use crate::config::FleetConfig;
use crate::data::Recorded;
use chargeplane_domain::ids::AccountId;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;
use std::io::Write;

/// Mid-session cars are plugged in by then, ms of the nominal run.
pub const EARLY_END_MS: u64 = 3_000;
/// The ramp ends: every charger has had its first driver.
pub const RAMP_END_MS: u64 = 24_000;
/// Before this moment nobody is meant to go and nothing is made to break.
pub const FREE_FROM_MS: u64 = 38_000;
/// No fault is injected in the last seconds, so that each is seen through.
const LAST_FAULT_BEFORE_END_MS: u64 = 12_000;
/// No driver comes in the last seconds.
const LAST_ARRIVAL_BEFORE_END_MS: u64 = 6_000;

/// Counts for the nominal fleet; 20 of each must be seen, the rest is margin.
const FAULTS: u32 = 36;
const POOR: u32 = 36;
/// Drivers a second who come for freed chargers: what the connection can serve, so that demand never dries up.
const NEXT_PER_SECOND: u32 = 28;

/// Recorded minutes of the day that become the ramp.
const MORNING: std::ops::Range<i64> = 5 * 60..13 * 60;
/// Recorded minutes of the day that become the stream afterwards.
const AFTERNOON: std::ops::Range<i64> = 13 * 60..23 * 60;

/// Most power that cars accept, W: a mix of models.
const CAR_POWER_W: [i64; 6] = [80_000, 100_000, 120_000, 120_000, 150_000, 180_000];

/// Why a driver is in the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In mid-session when the run starts.
    Early,
    /// First driver of a charger during the ramp.
    First,
    /// First driver of a charger, with too little money.
    Poor,
    /// Comes for a charger that becomes free.
    Next,
}

/// A car as it is plugged in. Energies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CarSpec {
    /// Battery, Wh.
    pub capacity_wh: i64,
    /// In the battery at the start, Wh.
    pub stored_wh: i64,
    /// What the driver wants, Wh.
    pub need_wh: i64,
    /// What the car accepts at most, W.
    pub max_w: i64,
}

/// One driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Number, from 0, in the order of the draw.
    pub no: u32,
    /// Why he is here.
    pub kind: Kind,
    /// When he comes, ms from the start.
    pub arrive_ms: u64,
    /// His charger (index in the configuration); none takes the first that is free.
    pub charger: Option<u32>,
    /// Who pays.
    pub account: AccountId,
    /// How long he stays at most, ms from plugging in.
    pub stay_ms: u64,
    /// But not before this moment, ms from the start.
    pub not_before_ms: u64,
    /// How long his charger goes on after it was told to stop for want of money, ms.
    pub late_stop_ms: u64,
    /// His car.
    pub car: CarSpec,
}

/// A charger breaks: this one if it is charging then, else the next that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// When, ms from the start.
    pub at_ms: u64,
    /// Index in the configuration.
    pub charger: u32,
}

/// All that will happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Drivers by arrival.
    pub drivers: Vec<Driver>,
    /// Faults by time.
    pub faults: Vec<Fault>,
}

/// Draws of one part of the schedule; parts do not disturb each other, because each has its own stream.
struct Draw(ChaCha8Rng);

impl Draw {
    fn new(seed: u64, part: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(part);
        Self(rng)
    }

    /// A number in `low..=high`.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high.saturating_sub(low) + 1)
    }

    fn signed(&mut self, low: i64, high: i64) -> i64 {
        low + self.between(0, high.abs_diff(low)) as i64
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let last = from.len().saturating_sub(1) as u64;
        &from[self.between(0, last) as usize]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.between(0, i as u64) as usize);
        }
    }
}

/// Where a recorded value lies between two bounds, 0 to 1000.
fn position(value: i64, low: i64, high: i64) -> i64 {
    (value.clamp(low, high) - low) * 1_000 / (high - low).max(1)
}

/// The `permille` quantile of sorted values.
fn quantile(sorted: &[i64], permille: usize) -> i64 {
    sorted.get(sorted.len() * permille / 1_000).or(sorted.last()).copied().unwrap_or(0)
}

/// The recorded sessions with what is needed to draw from them.
struct Source<'a> {
    all: &'a [Recorded],
    morning: Vec<Recorded>,
    afternoon: Vec<Recorded>,
    energy: (i64, i64),
    stay: (i64, i64),
    compression: i64,
    pace: i64,
}

impl<'a> Source<'a> {
    fn new(all: &'a [Recorded], config: &FleetConfig) -> Self {
        let bounds = |mut values: Vec<i64>| {
            values.sort_unstable();
            (quantile(&values, 50), quantile(&values, 950))
        };
        // A file without mornings (or afternoons) serves all its sessions for both.
        let within = |hours: &std::ops::Range<i64>| {
            let some: Vec<_> = all.iter().filter(|s| hours.contains(&s.arrival_min)).copied().collect();
            if some.is_empty() { all.to_vec() } else { some }
        };
        Self {
            all,
            morning: within(&MORNING),
            afternoon: within(&AFTERNOON),
            energy: bounds(all.iter().map(|s| s.requested_wh).collect()),
            stay: bounds(all.iter().map(|s| s.stay_min).collect()),
            compression: i64::from(config.time_compression),
            pace: config.pace_permille(),
        }
    }

    /// An uncompressed energy in the run's Wh.
    fn compress_wh(&self, wh: i64) -> i64 {
        (wh * self.pace / 1_000 / self.compression).max(1)
    }

    /// Energy of a session scaled to DC, 20 to 60 kWh.
    fn energy_wh(&self, session: &Recorded) -> i64 {
        20_000 + 40 * position(session.requested_wh, self.energy.0, self.energy.1)
    }

    /// Stay of a session scaled to DC, in the run's ms.
    fn stay_ms(&self, session: &Recorded) -> u64 {
        let seconds = 60 * 60 + position(session.stay_min, self.stay.0, self.stay.1) * 120 * 60 / 1_000;
        (seconds * self.pace / self.compression) as u64
    }

    /// Arrival within the hours of `range`, mapped onto `from..to`. Recorded minutes come in steps of five, so the
    /// step is filled evenly.
    fn arrival_ms(&self, draw: &mut Draw, minute: i64, range: &std::ops::Range<i64>, from: u64, to: u64) -> u64 {
        let span_s = range.end.abs_diff(range.start) * 60;
        let second = minute.clamp(range.start, range.end - 5).abs_diff(range.start) * 60 + draw.between(0, 299);
        from + to.saturating_sub(from) * second.min(span_s) / span_s
    }
}

/// Least need of the first driver of a charger, in uncompressed Wh, who arrives at `arrive_ms` of the nominal run.
///
/// A car that is alone gets 120 kW, 2 kWh of the story a second, and until the station is full it gets well over its
/// fair share of 30 kW. Falls from 46 kWh for the first of the ramp to 20 kWh for the last.
pub fn first_need_wh(arrive_ms: u64) -> i64 {
    let into = arrive_ms.clamp(EARLY_END_MS, RAMP_END_MS) - EARLY_END_MS;
    46_000 - (26_000 * into / (RAMP_END_MS - EARLY_END_MS)) as i64
}

/// Builds the schedule.
pub fn build(config: &FleetConfig, recorded: &[Recorded]) -> Schedule {
    let source = Source::new(recorded, config);
    let pace = config.pace_permille() as u64;
    let paced = |ms: u64| ms * pace / 1_000;
    let mut order: Vec<u32> = (0..config.chargers.len() as u32).collect();
    Draw::new(config.seed, 1).shuffle(&mut order);
    let early = order.len().div_ceil(3);

    let mut drivers = early_drivers(&source, config, &order[..early], paced(EARLY_END_MS));
    drivers.extend(first_drivers(&source, config, &order[early..], &paced));
    drivers.extend(next_drivers(&source, config, &paced));
    for (no, driver) in drivers.iter_mut().enumerate() {
        driver.no = no as u32;
        if driver.kind != Kind::Poor {
            driver.account = config.rich_accounts[no % config.rich_accounts.len()].clone();
        }
    }
    drivers.sort_by_key(|driver| (driver.arrive_ms, driver.no));
    Schedule { drivers, faults: faults(config, &paced) }
}

fn driver(config: &FleetConfig, kind: Kind, arrive_ms: u64, charger: Option<u32>) -> Driver {
    Driver {
        no: 0,
        kind,
        arrive_ms,
        charger,
        account: config.rich_accounts[0].clone(),
        stay_ms: 0,
        not_before_ms: 0,
        late_stop_ms: 0,
        car: CarSpec { capacity_wh: 0, stored_wh: 0, need_wh: 0, max_w: 0 },
    }
}

/// A car that wants `need_wh` more, from a state of charge in `soc` to one in 850 to 950 (1/1000).
fn car(draw: &mut Draw, need_wh: i64, soc: (i64, i64)) -> CarSpec {
    let (from, to) = (draw.signed(soc.0, soc.1), draw.signed(850, 950));
    let capacity_wh = need_wh * 1_000 / (to - from).max(1);
    CarSpec { capacity_wh, stored_wh: capacity_wh * from / 1_000, need_wh, max_w: *draw.pick(&CAR_POWER_W) }
}

/// Cars in mid-session: they have had part of what they want, and still want 48 to 60 kWh of the story.
fn early_drivers(source: &Source, config: &FleetConfig, chargers: &[u32], end_ms: u64) -> Vec<Driver> {
    let mut draw = Draw::new(config.seed, 2);
    let guard = FREE_FROM_MS * source.pace as u64 / 1_000;
    chargers
        .iter()
        .map(|charger| {
            let session = *draw.pick(source.all);
            let wanted = 48_000 + (source.energy_wh(&session) - 20_000) * 12 / 40;
            let mut early = driver(config, Kind::Early, draw.between(0, end_ms), Some(*charger));
            early.car = car(&mut draw, source.compress_wh(wanted), (300, 400));
            early.stay_ms = source.stay_ms(&session);
            early.not_before_ms = guard + draw.between(0, guard);
            early
        })
        .collect()
}

/// First drivers of the ramp; the last of them are the poor ones.
fn first_drivers(source: &Source, config: &FleetConfig, chargers: &[u32], paced: &dyn Fn(u64) -> u64) -> Vec<Driver> {
    let mut draw = Draw::new(config.seed, 3);
    let (from, to, guard) = (paced(EARLY_END_MS), paced(RAMP_END_MS), paced(FREE_FROM_MS));
    let mut drivers: Vec<Driver> = chargers
        .iter()
        .map(|charger| {
            let session = *draw.pick(&source.morning);
            let arrive = source.arrival_ms(&mut draw, session.arrival_min, &MORNING, from, to);
            let nominal = arrive * 1_000 / (source.pace as u64).max(1);
            let wanted = source.energy_wh(&session).max(first_need_wh(nominal));
            let mut first = driver(config, Kind::First, arrive, Some(*charger));
            first.car = car(&mut draw, source.compress_wh(wanted), (100, 300));
            first.stay_ms = source.stay_ms(&session);
            first.not_before_ms = guard + draw.between(0, guard);
            first
        })
        .collect();
    drivers.sort_by_key(|driver| (driver.arrive_ms, driver.charger));
    let poor = config.plan.poor.unwrap_or_else(|| config.scaled(POOR).max(2)) as usize;
    let poor = poor.min(config.poor_accounts.len()).min(drivers.len());
    let first_poor = drivers.len() - poor;
    for (i, (driver, account)) in drivers[first_poor..].iter_mut().zip(&config.poor_accounts).enumerate() {
        driver.late_stop_ms = if i < config.plan.late as usize { config.plan.late_stop_ms } else { 0 };
        let need = poor_need_wh(source, config, account.balance.0);
        driver.kind = Kind::Poor;
        driver.account = account.account.clone();
        driver.car = car(&mut draw, need, (100, 200));
        // He waits for the end of his money, however long it takes.
        driver.not_before_ms = u64::from(config.seconds) * 1_000 * 2;
    }
    drivers
}

/// More than the balance can ever buy, and at least what a big car wants.
fn poor_need_wh(source: &Source, config: &FleetConfig, balance: i64) -> i64 {
    let lowest = config.min_price.unwrap_or(config.max_price).0.max(1);
    let affordable = balance.saturating_mul(1_000) / lowest;
    source.compress_wh(60_000).max(affordable.saturating_mul(13) / 10)
}

/// Drivers who come for chargers that become free.
fn next_drivers(source: &Source, config: &FleetConfig, paced: &dyn Fn(u64) -> u64) -> Vec<Driver> {
    let mut draw = Draw::new(config.seed, 4);
    let from = paced(FREE_FROM_MS);
    let to = (u64::from(config.seconds) * 1_000).saturating_sub(paced(LAST_ARRIVAL_BEFORE_END_MS)).max(from + 1);
    // Cars of a faster run want less, so more of them come a second.
    let rate = u64::from(config.scaled(config.plan.next_per_second.unwrap_or(NEXT_PER_SECOND)));
    let count = rate * (to - from) / (source.pace as u64).max(1);
    (0..count)
        .map(|_| {
            let session = *draw.pick(&source.afternoon);
            let arrive = source.arrival_ms(&mut draw, session.arrival_min, &AFTERNOON, from, to);
            let mut next = driver(config, Kind::Next, arrive, None);
            next.car = car(&mut draw, source.compress_wh(source.energy_wh(&session)), (100, 300));
            next.stay_ms = source.stay_ms(&session);
            next
        })
        .collect()
}

fn faults(config: &FleetConfig, paced: &dyn Fn(u64) -> u64) -> Vec<Fault> {
    let mut draw = Draw::new(config.seed, 5);
    let from = paced(FREE_FROM_MS);
    let to = (u64::from(config.seconds) * 1_000).saturating_sub(paced(LAST_FAULT_BEFORE_END_MS)).max(from + 1);
    let last = config.chargers.len().saturating_sub(1) as u64;
    let count = config.plan.faults.unwrap_or_else(|| config.scaled(FAULTS).max(2));
    let mut faults: Vec<Fault> =
        (0..count).map(|_| Fault { at_ms: draw.between(from, to), charger: draw.between(0, last) as u32 }).collect();
    faults.sort_by_key(|fault| (fault.at_ms, fault.charger));
    faults
}

impl Schedule {
    /// One JSON line a driver, then one a fault.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for driver in &self.drivers {
            serde_json::to_writer(&mut *out, driver)?;
            out.write_all(b"\n")?;
        }
        for fault in &self.faults {
            serde_json::to_writer(&mut *out, &serde_json::json!({ "fault": fault }))?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests;
