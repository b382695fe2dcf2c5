//! Which meter readings may be used for money: a register cannot rise faster than its charger can deliver.
//!
//! Soft state of a session in progress, judged with both clocks: the time between two readings is the longer of
//! what the gateway's clock and the node's say. So a gateway's clock that is set back does not stop the billing,
//! and readings that were held up on their way are not taken for a jump. A clock that is set forward widens the
//! bound once, by the jump.
//!
//! A reading that is not used changes nothing here: the next one is judged against the last that was used, so a
//! single absurd value costs nobody anything. A register that stays too high is believed once the time since
//! allows it; long before, the gateway has stopped the session, because its allowance counts the same register.
//!
//! ```
//! use chargeplane_domain::metering::MeterWatch;
//! use chargeplane_domain::units::{Timestamp, WattHours, Watts};
//! let mut watch = MeterWatch::new(Some(Watts(120_000)), Timestamp(0), Timestamp(0));
//! let minute = |n: i64| Timestamp(n * 60_000);
//! assert_eq!(watch.judge(WattHours(2_000), minute(1), minute(1)), Ok(()));
//! watch.accept(WattHours(2_000), minute(1), minute(1));
//! assert!(watch.judge(WattHours(52_000), minute(2), minute(2)).is_err());
//! assert_eq!(watch.judge(WattHours(4_000), minute(2), minute(2)), Ok(()));
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use crate::tariff::{MAX_METER, PERIODS, Tariff};
use crate::units::{Timestamp, WattHours, Watts};

/// Room above the rating, in percent: meters sit before the power modules, whose losses the rating leaves out,
/// and hardware exceeds its plate a little.
const MARGIN_PERCENT: i64 = 25;

/// What may flow between a reading and its stamp, as time at the rating: chargers read their meters every few
/// seconds, and the node learns of a start or of a debit with some delay.
const SLACK_MS: i64 = 30_000;

/// ... and the coarsest step of a register: a tenth of a kWh.
const SLACK_WH: i64 = 100;

/// The last reading of a session that was used for money, and how far the next may be above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterWatch {
    /// What the charger can deliver; none when it is not known, and then only [`MAX_METER`] bounds a reading.
    rated: Option<Watts>,
    /// Energy since the start of the session.
    energy: WattHours,
    /// When, by the gateway's clock.
    at: Timestamp,
    /// When it was used, by the node's clock.
    seen: Timestamp,
}

/// A reading that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{energy} since the start of the session: at most {most} can have flowed")]
pub struct Implausible {
    /// What was read.
    pub energy: WattHours,
    /// What can have flowed.
    pub most: WattHours,
}

impl MeterWatch {
    /// For a session that begins at `at` by the gateway's clock, no earlier than `seen` by the node's.
    pub fn new(rated: Option<Watts>, at: Timestamp, seen: Timestamp) -> Self {
        Self { rated, energy: WattHours::ZERO, at, seen }
    }

    /// Most energy since the start that a reading of the moment `at`, known at `now`, may say.
    pub fn most(&self, at: Timestamp, now: Timestamp) -> WattHours {
        let Some(rated) = self.rated else { return MAX_METER };
        let elapsed = at.since(self.at).max(now.since(self.seen)).max(0);
        let at_rating = |ms: i64| i128::from(rated.0.max(0)).saturating_mul(i128::from(ms));
        let percent = i128::from(MARGIN_PERCENT.saturating_add(100));
        let flowed = at_rating(elapsed).saturating_mul(percent).checked_div(100).unwrap_or(0);
        let watt_ms = flowed.saturating_add(at_rating(SLACK_MS));
        let rise = i64::try_from(watt_ms.checked_div(3_600_000).unwrap_or(0)).unwrap_or(i64::MAX);
        self.energy.saturating_add(WattHours(rise.saturating_add(SLACK_WH))).min(MAX_METER)
    }

    /// Whether a reading may be used.
    pub fn judge(&self, energy: WattHours, at: Timestamp, now: Timestamp) -> Result<(), Implausible> {
        let most = self.most(at, now);
        if energy > most { Err(Implausible { energy, most }) } else { Ok(()) }
    }

    /// A reading is used: later ones are judged against it.
    pub fn accept(&mut self, energy: WattHours, at: Timestamp, now: Timestamp) {
        (self.energy, self.at, self.seen) = (energy, at, now);
    }
}

/// The energies by period that sum to `meter`, when less was metered in the end than the readings so far said.
/// What is too much is taken out of `period`, in which the session ended, then out of the dearest periods: a
/// driver never pays more than the meter says.
pub fn lowered(
    by_period: &[WattHours; PERIODS],
    meter: WattHours,
    period: usize,
    tariff: &Tariff,
) -> [WattHours; PERIODS] {
    let mut lower = *by_period;
    let sum = by_period.iter().fold(WattHours::ZERO, |sum, wh| sum.saturating_add(*wh));
    let mut over = sum.saturating_sub(meter.max(WattHours::ZERO)).max(WattHours::ZERO);
    let mut order: Vec<usize> = (0..PERIODS).collect();
    order.sort_by_key(|at| {
        let price = tariff.prices.get(*at).map_or(0, |price| price.energy.saturating_add(price.service).0);
        (*at != period, price.saturating_neg(), *at)
    });
    for at in order {
        if let Some(energy) = lower.get_mut(at) {
            let taken = over.min(*energy);
            *energy = energy.saturating_sub(taken);
            over = over.saturating_sub(taken);
        }
    }
    lower
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::tariff::fees::Fees;
    use crate::tariff::{Price, Slots};
    use crate::units::{Currency, Money};
    use proptest::prelude::*;

    const RATED: i64 = 120_000;

    fn watch() -> MeterWatch {
        MeterWatch::new(Some(Watts(RATED)), Timestamp(0), Timestamp(0))
    }

    #[test]
    fn a_glitch_is_not_used_and_the_next_reading_is() {
        let mut watch = watch();
        let at = |s: i64| Timestamp(s * 1_000);
        watch.accept(WattHours(1_000), at(30), at(30));
        let refused = watch.judge(WattHours(51_000), at(31), at(31)).unwrap_err();
        assert_eq!((refused.energy, refused.most), (WattHours(51_000), WattHours(1_000 + 41 + 1_000 + 100)));
        assert_eq!(watch.judge(WattHours(1_033), at(31), at(31)), Ok(()));
        assert_eq!(watch.judge(WattHours(i64::MAX), at(i64::MAX / 1_000), at(31)).unwrap_err().most, MAX_METER);
    }

    #[test]
    fn a_clock_set_back_and_readings_held_up_do_not_stop_the_billing() {
        let mut watch = watch();
        let minute = |n: i64| Timestamp(n * 60_000);
        watch.accept(WattHours(10_000), minute(10), minute(10));
        // The gateway's clock went back by five minutes; six have passed.
        assert_eq!(watch.judge(WattHours(22_000), minute(11), minute(16)), Ok(()));
        // An old reading and a new one come together after an hour without a link.
        watch.accept(WattHours(22_000), minute(12), minute(72));
        assert_eq!(watch.judge(WattHours(142_000), minute(72), minute(72)), Ok(()));
        let unrated = MeterWatch::new(None, minute(0), minute(0));
        assert_eq!(unrated.judge(MAX_METER, minute(0), minute(0)), Ok(()));
    }

    proptest! {
        /// Whatever a charger delivers within its rating is used, however its clock and the link behave.
        #[test]
        fn what_can_flow_is_used(
            steps in prop::collection::vec((0_i64..600_000, 0_i64..=RATED, -300_000_i64..=300_000), 1..40),
        ) {
            let mut watch = watch();
            let (mut true_ms, mut watt_ms) = (0, 0);
            for (ms, power, skew) in steps {
                true_ms += ms;
                watt_ms += ms * power;
                let (energy, at, now) = (WattHours(watt_ms / 3_600_000), Timestamp(true_ms + skew), Timestamp(true_ms));
                prop_assert_eq!(watch.judge(energy, at, now), Ok(()));
                watch.accept(energy, at, now);
            }
        }

        /// What is taken off is exactly what is too much, and no period grows or falls below zero.
        #[test]
        fn lowering_takes_exactly_what_is_too_much(
            by_period in [0_i64..900, 0..900, 0..900, 0..900], meter in 0_i64..4_000, period in 0_usize..PERIODS,
            prices in [0_i64..9, 0..9, 0..9, 0..9],
        ) {
            let tariff = Tariff {
                currency: Currency::new("CNY").unwrap(),
                prices: prices.map(|price| Price { energy: Money(price), service: Money(1) }),
                slots: Slots::uniform(0).unwrap(),
                fees: Fees::NONE,
            };
            let before = by_period.map(WattHours);
            let after = lowered(&before, WattHours(meter), period, &tariff);
            let sum: i64 = after.iter().map(|wh| wh.0).sum();
            prop_assert_eq!(sum, meter.min(by_period.iter().sum()));
            prop_assert!(after.iter().zip(&before).all(|(now, then)| now.0 >= 0 && now <= then));
            prop_assert!(after[period] == WattHours(0) || (0..PERIODS).all(|p| p == period || after[p] == before[p]));
        }
    }
}
