//! A month of sessions at one capacity, step by step: nothing is known of a car before it comes.

use super::site::{Session, Site};
use chargeplane_domain::allocation::horizon::{Horizon, Stay};
use chargeplane_domain::allocation::phasor::{LinearLimit, PhasorLimit};
use chargeplane_domain::units::Watts;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Facets of a full turn that hold the coming step: they give away at most 0.06 % of a winding.
const FACETS_NOW: u32 = 96;

/// Facets of a full turn for what is only foreseen.
const FACETS_LATER: u32 = 24;

/// A plan is for minutes, so it may take its time.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What a replay yields.
pub struct Replay {
    /// (step, station, watts), without zeros.
    grants: Vec<(u32, usize, i64)>,
    /// Time of each plan, from the question to the proven answer.
    pub plan_ms: Vec<f64>,
    /// Plans that the solver did not give.
    pub fallbacks: u32,
}

impl Replay {
    /// As the judge reads it.
    pub fn answer(&self, site: &Site) -> Value {
        json!({ "stations": site.stations, "grants": self.grants })
    }
}

struct Car {
    session: Session,
    left_ws: i64,
}

pub fn run(site: &Site, cap_kw: u32) -> anyhow::Result<Replay> {
    let mut coming = site.sessions()?;
    coming.sort_by_key(|session| std::cmp::Reverse((session.arrival, session.station)));
    let mut replay = Replay { grants: Vec::new(), plan_ms: Vec::new(), fallbacks: 0 };
    let mut cars: Vec<Car> = Vec::new();
    let mut step = 0;
    while !coming.is_empty() || !cars.is_empty() {
        cars.retain(|car| car.session.departure > step && car.left_ws > 0);
        while let Some(session) = coming.pop_if(|session| session.arrival <= step) {
            cars.push(Car { session, left_ws: session.need_ws });
        }
        if !cars.is_empty() {
            let watts = share(site, cap_kw, step, &cars, &mut replay)?;
            for (car, watts) in cars.iter_mut().zip(watts) {
                car.left_ws -= watts.0 * i64::from(site.period_s);
                if watts.is_positive() {
                    replay.grants.push((step, car.session.station, watts.0));
                }
            }
        }
        step += 1;
    }
    Ok(replay)
}

/// Everybody's watts for one step.
fn share(site: &Site, cap_kw: u32, step: u32, cars: &[Car], replay: &mut Replay) -> anyhow::Result<Vec<Watts>> {
    let began = Instant::now();
    let stations: Vec<usize> = cars.iter().map(|car| car.session.station).collect();
    let limits = site.limits(cap_kw, &stations)?;
    let rows = |rows: fn(&PhasorLimit) -> Vec<LinearLimit>| limits.iter().flat_map(rows).collect();
    let stay = |car: &Car| Stay {
        most: Watts(site.most_w as i64),
        need_ws: car.left_ws,
        leaves_in_s: (car.session.departure - step) * site.period_s,
    };
    let horizon = Horizon::new(
        site.period_s,
        cars.iter().map(stay).collect(),
        rows(|limit| limit.inside(FACETS_NOW)),
        rows(|limit| limit.around(FACETS_LATER)),
    )?;
    if let Some(watts) = horizon.everybody() {
        return Ok(watts);
    }
    let outcome = chargeplane_highs::solve_here(horizon.programme(), TIME_LIMIT);
    let watts = horizon.shares(&outcome).unwrap_or_else(|why| {
        eprintln!("{cap_kw} kW, step {step}: planned without the solver: {why:?}");
        replay.fallbacks += 1;
        horizon.without_solver()
    });
    replay.plan_ms.push(began.elapsed().as_secs_f64() * 1e3);
    for limit in &limits {
        anyhow::ensure!(limit.magnitude(&watts) <= limit.most, "step {step}: {limit:?} is exceeded by {watts:?}");
    }
    Ok(watts)
}
