//! Which gateways a cut takes and when, so that POWER-2 is put to the test at every size and length of a run.
//!
//! POWER-2 looks at nodes of the tree that feed only cut-off chargers, after their leases have ended. So gateways
//! are cut that together have all chargers of a cabinet, and for longer than a lease, while cars are charging.

use super::{Act, Cut, LEASE_SECONDS, Plan, StationPlan, Step};
use crate::catalogue::lay_out;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A grant ends this many seconds, at most, after the last heartbeat that was answered: the lease, and one
/// second for the heartbeat that was under way when the link broke.
pub const SILENT_AFTER: u32 = LEASE_SECONDS + 1;

/// A cut that a short run pushes forward begins no earlier: by then cars charge at every gateway.
const CARS_CHARGE: u32 = 10;

/// The shortest run in which leases can end within a cut.
pub const SHORTEST: u32 = CARS_CHARGE + SILENT_AFTER + 1;

/// A charger makes a range of 256 readings, ten a second, within this time, s.
const WHOLE_RANGE: u32 = 30;

/// In the last seconds of a run no session is started over the API, and before these none has begun.
const REMOTE_MARGIN: u32 = 24;

/// The gateways of a step.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Choice {
    /// By number, from 1.
    Numbers(Vec<u32>),
    /// By what they are to be.
    Word(Word),
}

/// Gateways that the drill chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// One gateway; where no gateway has a cabinet to itself, the fewest that together have one.
    One,
}

impl Default for Choice {
    fn default() -> Self {
        Self::Numbers(Vec::new())
    }
}

impl Choice {
    /// True when nobody was named.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Their numbers, ascending: the same for one station and seed.
    pub fn resolve(&self, station: &StationPlan, seed: u64) -> Vec<u32> {
        let numbers: BTreeSet<u32> = match self {
            Self::Numbers(numbers) => numbers.iter().copied().collect(),
            Self::Word(Word::One) => {
                let feeding = gateways_of_cabinets(station);
                let least = feeding.iter().map(BTreeSet::len).min().unwrap_or(0);
                let least: Vec<BTreeSet<u32>> = feeding.into_iter().filter(|set| set.len() == least).collect();
                let count = u64::try_from(least.len()).unwrap_or(1).max(1);
                least.into_iter().nth(usize::try_from(seed % count).unwrap_or(0)).unwrap_or_default()
            }
        };
        numbers.into_iter().collect()
    }
}

/// The sets of gateways that have all chargers of some cabinet, in order, each once.
fn gateways_of_cabinets(station: &StationPlan) -> BTreeSet<BTreeSet<u32>> {
    let mut feeding: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for charger in lay_out(station).chargers {
        feeding.entry(charger.limit).or_default().insert(charger.gateway);
    }
    feeding.into_values().collect()
}

/// Moves a step to a run of another length: in proportion, but a cut so far forward that all of it fits.
pub fn rescale(step: &mut Step, from: u32, to: u32) {
    let scaled = u64::from(step.at) * u64::from(to) / u64::from(from.max(1));
    step.at = u32::try_from(scaled).unwrap_or(u32::MAX);
    if step.act == Act::GatewayCut {
        let fits = to.saturating_sub(step.lasting.unwrap_or(0)).max(CARS_CHARGE);
        step.at = step.at.min(fits);
    }
}

impl Cut {
    /// True when leases end within it.
    fn outlasts_leases(&self) -> bool {
        self.until - self.at > SILENT_AFTER
    }

    fn has_a_cabinet(&self, station: &StationPlan) -> bool {
        let cut: BTreeSet<u32> = self.gateways.iter().copied().collect();
        gateways_of_cabinets(station).iter().any(|feeding| feeding.is_subset(&cut))
    }
}

impl Plan {
    /// What this run cannot put to the test, and why: invariant and reason. A run with any of it fails.
    pub fn not_exercised(&self) -> Vec<(&'static str, String)> {
        let s = &self.scenario;
        let (seconds, mut missing) = (s.seconds, Vec::new());
        let long: Vec<&Cut> = self.cuts.iter().filter(|cut| cut.outlasts_leases()).collect();
        if long.is_empty() {
            let why = format!("no cut outlasts a lease of {LEASE_SECONDS} s; it takes at least {SHORTEST} s of load");
            missing.push(("POWER-2", why));
        } else if s.station.fallback_kw == 0 {
            missing.push(("POWER-2", "station.fallback_kw is 0, so cut-off chargers draw nothing".to_owned()));
        } else if !long.iter().any(|cut| cut.has_a_cabinet(&s.station)) {
            let why = "no cabinet feeds only cut-off chargers; write gateways: one, and they are chosen";
            missing.push(("POWER-2", why.to_owned()));
        }
        if s.load.late_stops == 0 {
            missing.push(("MONEY-4", "load.late_stops is 0, so no energy flows beyond the money".to_owned()));
        }
        if s.load.burst_requests == 0 {
            missing.push(("LOAD-1", "load.burst_requests is 0, so nothing is shed".to_owned()));
        }
        if seconds < REMOTE_MARGIN {
            missing.push(("MONEY-2", format!("in {seconds} s no session is started over the API")));
        }
        if seconds < WHOLE_RANGE {
            missing.push(("DATA-1", format!("in {seconds} s no charger makes a whole range of 256 readings")));
        }
        missing
    }
}
