//! What a run is held to, worked out by the drill from the catalogue and the scenario before the node is asked
//! anything: `bounds.json`.

use crate::scenario::Scenario;
use serde::{Deserialize, Serialize};

/// Name of the file within a run directory.
pub const FILE: &str = "bounds.json";

/// Meters read whole Wh, and a charger is looked at every so often: what a bound in Wh allows for.
const ROUNDING_WH: i128 = 3;

/// ms in an hour.
const HOUR_MS: i128 = 3_600_000;

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Rating of the chargers, W.
    pub rated_w: i64,
    /// Highest price of a kWh, 1/10,000, energy and service fee together.
    pub max_price: i64,
    /// The time to stop that a hold's reserve pays for, ms.
    pub stop_time_ms: i64,
    /// The longest that a charger takes to stop, ms.
    pub worst_stop_ms: i64,
    /// Requests in hand at once.
    pub max_in_flight: u64,
    /// Most memory the node may have resident, KiB.
    pub max_resident_kib: u64,
}

impl Bounds {
    /// The bounds of a scenario whose catalogue has this highest price.
    pub fn of(s: &Scenario, max_price: i64) -> Self {
        Self {
            rated_w: i64::from(s.station.charger_kw) * 1_000,
            max_price,
            stop_time_ms: i64::from(s.node.stop_time_ms),
            worst_stop_ms: i64::from(s.station.worst_stop_s) * 1_000,
            max_in_flight: u64::from(s.node.max_in_flight),
            max_resident_kib: u64::from(s.node.max_resident_mib) * 1_024,
        }
    }

    /// Most that a hold may keep back: rating x time to stop x highest price.
    pub fn reserve(&self) -> i128 {
        self.cost_of(i128::from(self.stop_time_ms))
    }

    /// Most that one session may cost its operator. The gateway ends a session when all but the reserve is used
    /// up; so what flows beyond the money is what flows after the time that the reserve pays for, until the
    /// slowest charger has stopped.
    pub fn overshoot(&self) -> i128 {
        self.cost_of(i128::from(self.worst_stop_ms - self.stop_time_ms).max(0))
    }

    /// What full power for `ms` costs at most, rounded up.
    fn cost_of(&self, ms: i128) -> i128 {
        let wh = i128::from(self.rated_w) * ms / HOUR_MS + ROUNDING_WH;
        i128::from(self.max_price) * wh / 1_000 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_rating_times_time_times_price() {
        let bounds = Bounds {
            rated_w: 120_000,
            max_price: 16_000,
            stop_time_ms: 1_000,
            worst_stop_ms: 18_000,
            max_in_flight: 256,
            max_resident_kib: 1,
        };
        // 33 Wh and 566 Wh, each and 3 Wh of rounding.
        assert_eq!((bounds.reserve(), bounds.overshoot()), (16 * 36 + 1, 16 * 569 + 1));
        let fast = Bounds { worst_stop_ms: 500, ..bounds };
        assert_eq!(fast.overshoot(), 16 * 3 + 1, "the reserve pays for all of it");
    }
}
