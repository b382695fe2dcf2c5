//! What a session costs beside its energy: a flat fee, minutes, and the bounds of its price.
//!
//! Like energy it is computed from the whole of the session so far and rounded once, so it does not matter into how
//! many debits a session is cut. All of it is one amount, `fees`: the flat fee, the minutes of charging and the minutes
//! of standing there full (beyond the grace) are added as exact numbers before the rounding.
//!
//! A session in which no energy flowed costs nothing but the time it stood there full: what failed to charge is not
//! paid for. The least price is asked for at the settlement alone; the highest bounds the price at every moment.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

use super::{MAX_PRICE, Priced, TariffError, round_half_even};
use crate::units::Money;
use serde::{Deserialize, Serialize};

/// Milliseconds in the minute that fees refer to.
const MS_PER_MINUTE: i128 = 60_000;

/// Longest grace before idle time is paid: a day.
pub const MAX_GRACE_S: i64 = 86_400;

/// Most time of one session that is counted, charging and idle together: a year. With [`MAX_PRICE`] a minute it costs
/// less than 10^15.
pub const MAX_TIME_MS: i64 = 365 * 86_400 * 1_000;

/// What is paid beside energy. All zero and no `max`: nothing.
///
/// Stored without leaving fields out, because charge records are stored by the order of their fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fees {
    /// Once a session, as soon as energy flowed.
    pub flat: Money,
    /// A minute of charging.
    pub per_minute: Money,
    /// A minute in which the car is full and still occupies the charger.
    pub idle_per_minute: Money,
    /// Seconds of idle time of a session that cost nothing.
    pub idle_grace_s: i64,
    /// Least that a session costs in which energy flowed, energy and service included.
    pub min: Money,
    /// Most that a session costs, energy and service included.
    pub max: Option<Money>,
}

/// The time of a session so far that can cost something, in milliseconds by its gateway's stamps. Time in which the
/// charger was paused is in neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteredTime {
    /// The car charged.
    pub charging_ms: i64,
    /// The car was full.
    pub idle_ms: i64,
}

impl MeteredTime {
    /// No time at all.
    pub const NONE: Self = Self { charging_ms: 0, idle_ms: 0 };

    /// True without any time: it need not be stored.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Both together, held at the bound of the type.
    pub fn total_ms(&self) -> i64 {
        self.charging_ms.saturating_add(self.idle_ms)
    }

    /// True when neither part is negative and both together are at most [`MAX_TIME_MS`].
    pub fn is_in_range(&self) -> bool {
        let parts = [self.charging_ms, self.idle_ms];
        parts.iter().all(|ms| (0..=MAX_TIME_MS).contains(ms)) && self.total_ms() <= MAX_TIME_MS
    }

    /// True when no part is below the other's.
    pub fn follows(&self, before: &Self) -> bool {
        self.charging_ms >= before.charging_ms && self.idle_ms >= before.idle_ms
    }

    /// The larger of each part.
    pub fn at_least(&self, other: &Self) -> Self {
        Self { charging_ms: self.charging_ms.max(other.charging_ms), idle_ms: self.idle_ms.max(other.idle_ms) }
    }

    /// At most `most_ms` in all: what is too much is taken off the idle time first.
    pub fn at_most(&self, most_ms: i64) -> Self {
        let most = most_ms.clamp(0, MAX_TIME_MS);
        let charging_ms = self.charging_ms.clamp(0, most);
        Self { charging_ms, idle_ms: self.idle_ms.clamp(0, most.saturating_sub(charging_ms)) }
    }
}

impl Fees {
    /// Energy and service are all that is paid.
    pub const NONE: Self = Self {
        flat: Money::ZERO,
        per_minute: Money::ZERO,
        idle_per_minute: Money::ZERO,
        idle_grace_s: 0,
        min: Money::ZERO,
        max: None,
    };

    /// True when energy and service are all that is paid.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// True when time costs something.
    pub fn is_timed(&self) -> bool {
        self.per_minute.is_positive() || self.idle_per_minute.is_positive()
    }

    /// Checks every bound, and that the least price is not above the highest.
    pub fn check(&self) -> Result<(), TariffError> {
        let amounts = [
            ("flat", self.flat),
            ("per_minute", self.per_minute),
            ("idle_per_minute", self.idle_per_minute),
            ("min", self.min),
            ("max", self.max.unwrap_or(Money::ZERO)),
        ];
        if let Some((fee, _)) = amounts.into_iter().find(|(_, amount)| !(Money::ZERO..=MAX_PRICE).contains(amount)) {
            return Err(TariffError::Fee { fee });
        }
        if !(0..=MAX_GRACE_S).contains(&self.idle_grace_s) {
            return Err(TariffError::Grace);
        }
        match self.max {
            Some(max) if max < self.min => Err(TariffError::MinAboveMax),
            _ => Ok(()),
        }
    }

    /// The fees of a session so far; `charged`: energy flowed in it.
    pub(super) fn price(&self, charged: bool, time: &MeteredTime) -> Money {
        if self.is_none() {
            return Money::ZERO;
        }
        let grace_ms = self.idle_grace_s.saturating_mul(1_000);
        let idle_ms = time.idle_ms.saturating_sub(grace_ms).max(0);
        let of = |price: Money, ms: i64| i128::from(price.0).saturating_mul(i128::from(ms.max(0)));
        let mut exact = of(self.idle_per_minute, idle_ms);
        if charged {
            exact = exact.saturating_add(of(self.per_minute, time.charging_ms));
            exact = exact.saturating_add(i128::from(self.flat.0).saturating_mul(MS_PER_MINUTE));
        }
        Money(round_half_even(exact, MS_PER_MINUTE))
    }

    /// A price held at the highest: what is beyond it is taken off the fees, then the service, then the energy.
    pub(super) fn capped(&self, price: Priced) -> Priced {
        match self.max {
            Some(max) if price.total() > max => price.capped(max),
            _ => price,
        }
    }

    /// A final price raised to the least one, as a fee.
    pub(super) fn raised(&self, charged: bool, price: Priced) -> Priced {
        let missing = self.min.saturating_sub(price.total());
        if !charged || !missing.is_positive() {
            return price;
        }
        Priced { fees: price.fees.saturating_add(missing), ..price }
    }

    /// Most that `ms` cost, whatever is done in them, rounded up.
    pub(super) fn most_for(&self, ms: i64) -> Money {
        if !self.is_timed() {
            return Money::ZERO;
        }
        let dearest = i128::from(self.per_minute.max(self.idle_per_minute).0);
        let exact = dearest.saturating_mul(i128::from(ms.max(0)));
        let whole = exact.checked_div(MS_PER_MINUTE).unwrap_or(0).saturating_add(1);
        Money(i64::try_from(whole).unwrap_or(i64::MAX))
    }
}
