//! Tariffs: what a kilowatt-hour costs, when, and the one place where money is rounded.
//!
//! A tariff has four periods (sharp, peak, flat, valley) over 48 half-hour slots of the station's local
//! day, each with an energy price and a service price a kWh. An amount is always computed from the *whole*
//! energy of a session so far, per period, in exact integers, and rounded once per component, half to even.
//! So it does not matter into how many debits a session is cut: the total is the same (SESS-1, MONEY-2).
//! Beside energy a tariff may have [`fees`]: once a session, for minutes, and bounds of the whole price.
//!
//! ```
//! use chargeplane_domain::tariff::{Price, Slots, Tariff, fees::{Fees, MeteredTime}};
//! use chargeplane_domain::units::{Currency, Money, WattHours};
//!
//! let price = |energy, service| Price { energy: Money(energy), service: Money(service) };
//! let tariff = Tariff {
//!     currency: Currency::new("CNY").unwrap(),
//!     prices: [price(12_000, 4_000), price(10_000, 4_000), price(7_000, 4_000), price(3_000, 4_000)],
//!     slots: Slots::uniform(2).unwrap(),
//!     fees: Fees { per_minute: Money(100), ..Fees::NONE },
//! };
//! // 2,500 Wh in the flat period at 0.70 + 0.40 a kWh, in 90 seconds at 0.01 a minute.
//! let time = MeteredTime { charging_ms: 90_000, idle_ms: 0 };
//! let priced = tariff.price(&[WattHours(0), WattHours(0), WattHours(2_500), WattHours(0)], &time);
//! assert_eq!((priced.energy, priced.service, priced.fees), (Money(17_500), Money(10_000), Money(150)));
//! assert_eq!(priced.total().to_string(), "2.7650");
//! ```
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

pub mod book;
pub mod fees;

use crate::units::{Currency, Money, Timestamp, WattHours};
use fees::{Fees, MeteredTime};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of tariff periods: sharp, peak, flat, valley, in this order everywhere.
pub const PERIODS: usize = 4;

/// Number of half-hour slots in a day.
pub const SLOTS: usize = 48;

/// Names of the periods, in order.
pub const PERIOD_NAMES: [&str; PERIODS] = ["sharp", "peak", "flat", "valley"];

/// Highest price component a kWh: 100,000 currency units. With [`MAX_METER`] it keeps every amount of a
/// session below 10^15, far from the bounds of `i64`.
pub const MAX_PRICE: Money = Money(1_000_000_000);

/// Most energy of one session: 1 GWh, ten thousand full cars. A larger reading is a broken meter.
pub const MAX_METER: WattHours = WattHours(1_000_000_000);

/// Watt-hours in the kilowatt-hour that prices refer to.
const WH_PER_KWH: i128 = 1_000;

/// Price of one period, a kWh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Energy price a kWh.
    pub energy: Money,
    /// Service fee a kWh.
    pub service: Money,
}

/// Which period each half hour of the local day belongs to.
///
/// Stored as text of 48 digits `0` to `3`, from 00:00 on; spaces between the digits are ignored on reading.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slots([u8; SLOTS]);

/// A tariff in force. Part of the session's start event, so later changes do not touch running sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tariff {
    /// Currency of all prices.
    pub currency: Currency,
    /// Prices of sharp, peak, flat, valley.
    pub prices: [Price; PERIODS],
    /// The period of each half hour.
    pub slots: Slots,
    /// What is paid beside energy and service. The last field, so that leaving it out is not another order of fields.
    #[serde(default, skip_serializing_if = "Fees::is_none")]
    pub fees: Fees,
}

/// An amount in its components, each rounded once. Of what a single event takes, a component may be negative: at the
/// highest price of a session more energy leaves less of it for the fees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Priced {
    /// For energy.
    pub energy: Money,
    /// For service.
    pub service: Money,
    /// For everything else. The last field, left out when zero.
    #[serde(default, skip_serializing_if = "Money::is_zero")]
    pub fees: Money,
}

/// Why a tariff is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TariffError {
    /// The slots have another length than 48 or another digit than 0 to 3.
    #[error("slots: expected 48 digits 0 to 3 (sharp, peak, flat, valley), one a half hour from 00:00; found {found}")]
    Slots { found: String },
    /// A price is negative or above [`MAX_PRICE`].
    #[error("prices[{period}]: each component must be between 0 and {MAX_PRICE} a kWh")]
    Price { period: usize },
    /// A fee, or a bound of the price, is negative or above [`MAX_PRICE`].
    #[error("fees.{fee}: must be between 0 and {MAX_PRICE}")]
    Fee { fee: &'static str },
    /// The grace is negative or longer than [`fees::MAX_GRACE_S`].
    #[error("fees.idle_grace_s: must be between 0 and {} seconds", fees::MAX_GRACE_S)]
    Grace,
    /// The least price is above the highest.
    #[error("fees.min: must not be above fees.max")]
    MinAboveMax,
}

impl Priced {
    /// Nothing.
    pub const ZERO: Self = Self { energy: Money::ZERO, service: Money::ZERO, fees: Money::ZERO };

    /// All components together, held at the type's bounds.
    pub fn total(&self) -> Money {
        self.energy.saturating_add(self.service).saturating_add(self.fees)
    }

    /// Component-wise sum, or `None` when it does not fit.
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            energy: self.energy.checked_add(other.energy)?,
            service: self.service.checked_add(other.service)?,
            fees: self.fees.checked_add(other.fees)?,
        })
    }

    /// Component-wise difference, or `None` when it does not fit.
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        Some(Self {
            energy: self.energy.checked_sub(other.energy)?,
            service: self.service.checked_sub(other.service)?,
            fees: self.fees.checked_sub(other.fees)?,
        })
    }

    /// The part of this that `funds` can pay: energy first, then service, then fees. What goes back, a negative
    /// component, goes back whole and pays for the others. Without one never more than `funds` nor than this; with
    /// enough funds it is this.
    pub fn capped(&self, funds: Money) -> Self {
        let parts = [self.energy, self.service, self.fees];
        let back = parts.iter().fold(Money::ZERO, |sum, part| sum.saturating_add((*part).min(Money::ZERO)));
        let mut left = funds.max(Money::ZERO).saturating_sub(back);
        let [energy, service, fees] = parts.map(|part| {
            let paid = part.min(left);
            left = left.saturating_sub(paid.max(Money::ZERO));
            paid
        });
        Self { energy, service, fees }
    }
}

impl Slots {
    /// One period all day. `None` unless `period` is 0 to 3.
    pub fn uniform(period: u8) -> Option<Self> {
        Self::new([period; SLOTS])
    }

    /// Checks and wraps. `None` unless every entry is 0 to 3.
    pub fn new(slots: [u8; SLOTS]) -> Option<Self> {
        slots.iter().all(|p| usize::from(*p) < PERIODS).then_some(Self(slots))
    }

    /// Period of a slot; slots past the day count as its last.
    pub fn period(&self, slot: usize) -> usize {
        usize::from(self.0[slot.min(SLOTS.saturating_sub(1))])
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|period| write!(f, "{period}"))
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Slots> for String {
    fn from(slots: Slots) -> Self {
        slots.to_string()
    }
}

impl TryFrom<String> for Slots {
    type Error = TariffError;

    fn try_from(text: String) -> Result<Self, TariffError> {
        let fail = || TariffError::Slots { found: format!("{:?}", text.chars().take(60).collect::<String>()) };
        let mut slots = [0; SLOTS];
        let mut digits = text.chars().filter(|c| *c != ' ');
        for slot in &mut slots {
            let digit = digits.next().and_then(|c| c.to_digit(10)).ok_or_else(fail)?;
            *slot = u8::try_from(digit).map_err(|_| fail())?;
        }
        if digits.next().is_some() {
            return Err(fail());
        }
        Self::new(slots).ok_or_else(fail)
    }
}

impl Tariff {
    /// Checks that every price is between zero and [`MAX_PRICE`], and the fees.
    pub fn check(&self) -> Result<(), TariffError> {
        let fits = |money: Money| (Money::ZERO..=MAX_PRICE).contains(&money);
        match self.prices.iter().position(|p| !fits(p.energy) || !fits(p.service)) {
            Some(period) => Err(TariffError::Price { period }),
            None => self.fees.check(),
        }
    }

    /// The period in force at a moment, read in the station's zone: the slot of its local wall time.
    /// Where clocks are set back an hour of slots is passed twice, where they are set forward it is skipped.
    pub fn period_at(&self, zone: &TimeZone, at: Timestamp) -> usize {
        let bound = if at.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        let local = zone.to_datetime(jiff::Timestamp::from_millisecond(at.0).unwrap_or(bound));
        let half_hours = i32::from(local.hour()).saturating_mul(2);
        let second_half = i32::from(local.minute() >= 30);
        self.slots.period(usize::try_from(half_hours.saturating_add(second_half)).unwrap_or(0))
    }

    /// The dearest period's energy and service price together, a kWh. Periods without a slot count too.
    pub fn highest_price(&self) -> Money {
        let totals = self.prices.iter().map(|p| p.energy.saturating_add(p.service));
        totals.max().unwrap_or(Money::ZERO)
    }

    /// What a session so far costs: its whole energy by period, and its whole time. The numerators are exact; each
    /// component is rounded once, half to even, to 1/10,000 of the currency unit. Never more than the highest price
    /// of a session, and never less for more energy or time. Within [`MAX_PRICE`], [`MAX_METER`] and
    /// [`fees::MAX_TIME_MS`] nothing can overflow; beyond them amounts are held at the bounds of `i64`.
    pub fn price(&self, by_period: &[WattHours; PERIODS], time: &MeteredTime) -> Priced {
        let component = |price: fn(&Price) -> Money| {
            let numerator = self.prices.iter().zip(by_period).fold(0_i128, |sum, (p, energy)| {
                sum.saturating_add(i128::from(price(p).0).saturating_mul(i128::from(energy.0)))
            });
            Money(round_half_even(numerator, WH_PER_KWH))
        };
        let fees = self.fees.price(has_energy(by_period), time);
        self.fees.capped(Priced { energy: component(|p| p.energy), service: component(|p| p.service), fees })
    }

    /// What a session costs in the end: not less than the least price, if energy flowed.
    pub fn final_price(&self, by_period: &[WattHours; PERIODS], time: &MeteredTime) -> Priced {
        self.fees.raised(has_energy(by_period), self.price(by_period, time))
    }

    /// Most that this much more energy and time cost, whatever period they fall into, rounded up; without the flat
    /// fee. Not more than a session may cost at all.
    pub fn most_for(&self, energy: WattHours, ms: i64) -> Money {
        let cost = self.highest_price().0.saturating_mul(energy.0).checked_div(1_000).unwrap_or(0);
        self.at_most(Money(cost.saturating_add(1)).saturating_add(self.fees.most_for(ms)))
    }

    /// An amount, or the highest price of a session if that is less.
    pub fn at_most(&self, amount: Money) -> Money {
        self.fees.max.map_or(amount, |max| amount.min(max))
    }

    /// True when `hold` is worth a start: it pays for the least price; and it pays for all that a session may cost,
    /// or beyond `reserve` and the flat fee for `energy`.
    pub fn can_start(&self, hold: Money, reserve: Money, energy: WattHours) -> bool {
        if hold < self.fees.min || hold < reserve {
            return false;
        }
        if self.fees.max.is_some_and(|max| hold >= max) {
            return true;
        }
        let free = hold.saturating_sub(reserve).saturating_sub(self.fees.flat);
        free >= Money::ZERO && self.affordable(free) >= energy
    }

    /// Most energy that `amount` surely pays, whatever periods it falls into: the floor at the highest
    /// price, and one Wh less where the division is exact and rounding up could exceed the amount.
    /// A free tariff affords [`MAX_METER`]; nothing or less affords nothing unless the tariff is free.
    /// Fees are not looked at: whoever asks keeps back what they will be.
    pub fn affordable(&self, amount: Money) -> WattHours {
        let highest = i128::from(self.highest_price().0);
        if highest <= 0 {
            return MAX_METER;
        }
        let funds = i128::from(amount.0.max(0)).saturating_mul(WH_PER_KWH);
        let whole = funds.checked_div(highest).unwrap_or(0);
        let exact = whole > 0 && whole.saturating_mul(highest) == funds;
        let never_rounds =
            self.prices.iter().all(|p| is_multiple(p.energy, WH_PER_KWH) && is_multiple(p.service, WH_PER_KWH));
        let sure = if exact && !never_rounds { whole.saturating_sub(1) } else { whole };
        WattHours(i64::try_from(sure).unwrap_or(i64::MAX)).min(MAX_METER)
    }
}

/// True when energy flowed.
fn has_energy(by_period: &[WattHours; PERIODS]) -> bool {
    by_period.iter().any(|energy| energy.is_positive())
}

fn is_multiple(money: Money, of: i128) -> bool {
    i128::from(money.0).checked_rem(of) == Some(0)
}

/// The rounding rule of the whole program: to the nearest, and from the middle to the even neighbour.
/// Held at the bounds of `i64`; `denominator` must be positive (zero gives zero).
///
/// ```
/// use chargeplane_domain::tariff::round_half_even;
/// assert_eq!([500, 1_500, 2_500, 2_501, -1_500].map(|n| round_half_even(n, 1_000)), [0, 2, 2, 3, -2]);
/// ```
pub fn round_half_even(numerator: i128, denominator: i128) -> i64 {
    let floor = numerator.checked_div_euclid(denominator).unwrap_or(0);
    let rest = numerator.checked_rem_euclid(denominator).unwrap_or(0);
    let twice = rest.saturating_mul(2);
    let floor_is_odd = floor.checked_rem(2) != Some(0);
    let up = twice > denominator || (twice == denominator && floor_is_odd);
    let rounded = if up { floor.saturating_add(1) } else { floor };
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

/// Time zones by their IANA names, from the bundled database: the same answer on every machine.
pub mod zone {
    pub use jiff::tz::TimeZone;

    /// A name that is no time zone.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("time zone {name:?} is not known: expected an IANA name such as Asia/Shanghai")]
    pub struct ZoneError {
        /// The name, shortened.
        pub name: String,
    }

    /// Looks up an IANA name, such as `Asia/Shanghai`.
    pub fn parse(name: &str) -> Result<TimeZone, ZoneError> {
        TimeZone::get(name).map_err(|_| ZoneError { name: name.chars().take(80).collect() })
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
