//! What a session's time was used for, from what its gateway says, by the gateway's stamps alone.
//!
//! The gateway says when the car is full and when the charger is paused (it may draw nothing, because the station's
//! power is needed elsewhere or the charger cannot); before and between, the car charges. So the time of a session is
//! a function of the events in its charger's log: a replay counts the same.
//!
//! Time never goes back. What a clock that was set back counts for the second time is not counted again; a stamp before
//! the last one changes what the time from then on is used for, and adds nothing.
//!
//! ```
//! use chargeplane_domain::session::{Flow, SessionClock};
//! use chargeplane_domain::tariff::fees::MeteredTime;
//! use chargeplane_domain::units::Timestamp;
//!
//! let mut clock = SessionClock::begin(Timestamp(0));
//! clock.turn(Flow::Paused, Timestamp(10_000));
//! clock.turn(Flow::Charging, Timestamp(25_000));
//! clock.turn(Flow::Full, Timestamp(60_000));
//! assert_eq!(clock.until(Timestamp(90_000)), MeteredTime { charging_ms: 45_000, idle_ms: 30_000 });
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::tariff::fees::MeteredTime;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// What the time of a session is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// The car takes energy, or nothing else is known.
    Charging,
    /// The car takes nothing, although it might.
    Full,
    /// The car would take energy, and the charger gives none.
    Paused,
}

impl Flow {
    /// Every value, in order.
    pub const ALL: [Self; 3] = [Self::Charging, Self::Full, Self::Paused];

    /// Stable name, the same as in stored text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Charging => "charging",
            Self::Full => "full",
            Self::Paused => "paused",
        }
    }
}

/// The time of a session that has begun, as far as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionClock {
    /// What the time since `upto` is used for.
    pub flow: Flow,
    /// The latest stamp so far.
    upto: Timestamp,
    /// Counted until then.
    counted: MeteredTime,
}

impl SessionClock {
    /// A session begins, and charges until something else is said.
    pub fn begin(at: Timestamp) -> Self {
        Self { flow: Flow::Charging, upto: at, counted: MeteredTime::NONE }
    }

    /// From `at` on the time is used for something else.
    pub fn turn(&mut self, flow: Flow, at: Timestamp) {
        self.counted = self.until(at);
        self.upto = self.upto.max(at);
        self.flow = flow;
    }

    /// All time until `at`, if nothing else is said by then. A moment before the latest stamp is that stamp.
    pub fn until(&self, at: Timestamp) -> MeteredTime {
        let passed = at.since(self.upto).max(0);
        let MeteredTime { charging_ms, idle_ms } = self.counted;
        match self.flow {
            Flow::Charging => MeteredTime { charging_ms: charging_ms.saturating_add(passed), idle_ms },
            Flow::Full => MeteredTime { charging_ms, idle_ms: idle_ms.saturating_add(passed) },
            Flow::Paused => self.counted,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_clock_that_is_set_back_counts_nothing_twice() {
        let minute = |n: i64| Timestamp(n * 60_000);
        let mut clock = SessionClock::begin(minute(100));
        clock.turn(Flow::Full, minute(110));
        // Set back by half an hour: nothing is added until it has caught up.
        clock.turn(Flow::Charging, minute(85));
        assert_eq!(clock.until(minute(109)), MeteredTime { charging_ms: 600_000, idle_ms: 0 });
        assert_eq!(clock.until(minute(111)), MeteredTime { charging_ms: 660_000, idle_ms: 0 });
        assert_eq!(SessionClock::begin(Timestamp(i64::MAX)).until(Timestamp(i64::MIN)), MeteredTime::NONE);
        let long = SessionClock::begin(Timestamp(i64::MIN)).until(Timestamp(i64::MAX));
        assert_eq!(long.charging_ms, i64::MAX, "held at the bound");
    }

    fn flow() -> impl Strategy<Value = Flow> {
        prop::sample::select(Flow::ALL.to_vec())
    }

    proptest! {
        /// However stamps jump: no part ever shrinks, and together they are no more than the clock ever showed.
        #[test]
        fn time_is_monotone(turns in prop::collection::vec((flow(), -50_000_i64..50_000), 0..30)) {
            let mut clock = SessionClock::begin(Timestamp(0));
            let (mut now, mut latest) = (0, 0);
            for (flow, step) in turns {
                now += step;
                latest = latest.max(now);
                let before = clock.until(Timestamp(now));
                clock.turn(flow, Timestamp(now));
                let after = clock.until(Timestamp(now));
                prop_assert_eq!(before, after, "saying it adds nothing");
                prop_assert!(clock.until(Timestamp(now + 1)).follows(&after));
                prop_assert!(after.total_ms() <= latest);
            }
        }

        /// Said in one turn or in many that say the same, the time is the same.
        #[test]
        fn repeating_what_is_said_changes_nothing(
            flow in flow(), from in 0_i64..100_000, cuts in prop::collection::vec(0_i64..10_000, 0..20),
        ) {
            let mut once = SessionClock::begin(Timestamp(0));
            once.turn(flow, Timestamp(from));
            let mut often = once;
            let mut at = from;
            for cut in cuts {
                at += cut;
                often.turn(flow, Timestamp(at));
            }
            prop_assert_eq!(once.until(Timestamp(at + 7)), often.until(Timestamp(at + 7)));
        }
    }
}
