//! What a session costs by its tariff, worked out from the journal's own text: long-hand and in wide integers.

use super::value::{field, int};
use rmpv::Value;

/// A tariff's prices: energy and service fee a kWh by period, and the fees of a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    by_period: Vec<(i128, i128)>,
    flat: i128,
    per_minute: i128,
    idle_per_minute: i128,
    grace_ms: i128,
    min: i128,
    max: Option<i128>,
}

/// What a reading says was used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Wh by period.
    pub by_period: Vec<i128>,
    /// Time in which the car charged, ms.
    pub charging_ms: i128,
    /// Time in which it was full, ms.
    pub idle_ms: i128,
}

impl Used {
    /// Reads a debit or a settlement; time that is left out is none.
    pub fn read(value: &Value) -> Option<Self> {
        let by_period = field(value, "by_period")?.as_array()?;
        let time = field(value, "time");
        let ms = |name: &str| time.map_or(Some(0), |time| int(time, name)).map(i128::from);
        Some(Self {
            by_period: by_period.iter().filter_map(Value::as_i64).map(i128::from).collect(),
            charging_ms: ms("charging_ms")?,
            idle_ms: ms("idle_ms")?,
        })
    }
}

impl Prices {
    /// Reads a tariff of the journal.
    pub fn read(tariff: &Value) -> Option<Self> {
        let amount = |value: &Value, name: &str| int(value, name).map(i128::from);
        let periods = field(tariff, "prices")?.as_array()?.iter();
        let by_period = periods.map(|price| Some((amount(price, "energy")?, amount(price, "service")?)));
        let mut prices = Self { by_period: by_period.collect::<Option<_>>()?, ..Self::default() };
        if let Some(fees) = field(tariff, "fees") {
            prices.flat = amount(fees, "flat")?;
            prices.per_minute = amount(fees, "per_minute")?;
            prices.idle_per_minute = amount(fees, "idle_per_minute")?;
            prices.grace_ms = amount(fees, "idle_grace_s")? * 1_000;
            prices.min = amount(fees, "min")?;
            prices.max = field(fees, "max").filter(|max| !max.is_nil()).and_then(Value::as_i64).map(i128::from);
        }
        Some(prices)
    }

    /// Energy, service and fees of everything so far; `last`: of the settlement, which asks for the least price.
    pub fn price(&self, used: &Used, last: bool) -> [i128; 3] {
        let sum = |price: fn(&(i128, i128)) -> i128| {
            nearest(used.by_period.iter().zip(&self.by_period).map(|(wh, p)| wh * price(p)).sum(), 1_000)
        };
        let (mut energy, mut service) = (sum(|p| p.0), sum(|p| p.1));
        // In 1/60,000 of an amount: prices are a minute, times milliseconds.
        let mut exact = self.idle_per_minute * (used.idle_ms - self.grace_ms).max(0);
        let charged = used.by_period.iter().any(|wh| *wh > 0);
        if charged {
            exact += self.flat * 60_000 + self.per_minute * used.charging_ms;
        }
        let mut fees = nearest(exact, 60_000);
        if let Some(max) = self.max {
            energy = energy.min(max);
            service = service.min(max - energy);
            fees = fees.min(max - energy - service);
        }
        if last && charged {
            fees += (self.min - energy - service - fees).max(0);
        }
        [energy, service, fees]
    }
}

/// Half to even, in one place, as the tariff's contract says.
fn nearest(exact: i128, unit: i128) -> i128 {
    let (whole, rest) = (exact.div_euclid(unit), exact.rem_euclid(unit) * 2);
    whole + i128::from(rest > unit || (rest == unit && whole % 2 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices() -> Prices {
        Prices {
            by_period: vec![(10_000, 5_000); 4],
            flat: 1_000,
            per_minute: 600,
            idle_per_minute: 6_000,
            grace_ms: 60_000,
            min: 3_000,
            max: Some(20_000),
        }
    }

    fn used(wh: i128, charging_s: i128, idle_s: i128) -> Used {
        Used { by_period: vec![0, 0, wh, 0], charging_ms: charging_s * 1_000, idle_ms: idle_s * 1_000 }
    }

    #[test]
    fn money_is_rounded_half_to_even() {
        let exact = [500, 1_500, 501, 499, 2_500, 1_501];
        assert_eq!(exact.map(|exact| nearest(exact, 1_000)), [0, 2, 1, 0, 2, 2]);
    }

    #[test]
    fn everything_a_tariff_may_ask_for() {
        let prices = prices();
        assert_eq!(prices.price(&used(1_000, 90, 60), false), [10_000, 5_000, 1_900]);
        assert_eq!(prices.price(&used(1_000, 90, 61), false), [10_000, 5_000, 2_000]);
        assert_eq!(prices.price(&used(100, 0, 0), false), [1_000, 500, 1_000]);
        assert_eq!(prices.price(&used(100, 0, 0), true), [1_000, 500, 1_500], "the least price, in the end");
        assert_eq!(prices.price(&used(1_500, 90, 0), true), [15_000, 5_000, 0], "the highest price");
        assert_eq!(prices.price(&used(1_900, 90, 0), true), [19_000, 1_000, 0]);
        assert_eq!(prices.price(&used(0, 90, 90), true), [0, 0, 3_000], "no energy: idle time alone");
    }
}
