//! What a reading costs by the tariff of its session, worked out from the journal's text. All amounts are 1/10,000 of the
//! currency unit; what is exact is kept in 1/1,000 of that for energy and in 1/60,000 for time.

use super::{Checked, field};
use rmpv::Value;

/// What a session used so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Wh by period.
    pub by_period: Vec<i128>,
    charging_ms: i128,
    idle_ms: i128,
}

/// What a tariff asks for.
#[derive(Debug)]
pub struct Prices {
    energy: Vec<i128>,
    service: Vec<i128>,
    flat: i128,
    minute: i128,
    idle_minute: i128,
    grace_ms: i128,
    min: i128,
    max: Option<i128>,
}

impl Used {
    /// Reads a debit or a settlement. Time is left out when there is none.
    pub fn read(value: &Value) -> Checked<Self> {
        let periods = field(value, "by_period").and_then(Value::as_array).ok_or("no energy by period")?;
        let ms = |name: &str| match field(value, "time") {
            Some(time) => amount(time, name),
            None => Ok(0),
        };
        Ok(Self {
            by_period: periods.iter().filter_map(Value::as_i64).map(i128::from).collect(),
            charging_ms: ms("charging_ms")?,
            idle_ms: ms("idle_ms")?,
        })
    }

    /// Milliseconds of charging, and idle.
    pub fn time(&self) -> (i128, i128) {
        (self.charging_ms, self.idle_ms)
    }

    /// True when no time is below what it was.
    pub fn passes(&self, before: &Self) -> bool {
        self.charging_ms >= before.charging_ms && self.idle_ms >= before.idle_ms
    }
}

impl Prices {
    /// Reads a tariff. Fees are left out when there are none.
    pub fn read(tariff: &Value) -> Checked<Self> {
        let periods = field(tariff, "prices").and_then(Value::as_array).ok_or("a tariff without prices")?;
        let of = |name: &str| periods.iter().map(|price| amount(price, name)).collect::<Checked<Vec<_>>>();
        let fees = field(tariff, "fees");
        let fee = |name: &str| fees.map_or(Ok(0), |fees| amount(fees, name));
        let max = fees.and_then(|fees| field(fees, "max")).filter(|max| !max.is_nil());
        Ok(Self {
            energy: of("energy")?,
            service: of("service")?,
            flat: fee("flat")?,
            minute: fee("per_minute")?,
            idle_minute: fee("idle_per_minute")?,
            grace_ms: fee("idle_grace_s")? * 1_000,
            min: fee("min")?,
            max: max.and_then(Value::as_i64).map(i128::from),
        })
    }

    /// Energy, service and fees of what was used; the least price is asked for in the end alone, and only where energy
    /// flowed, as are the flat fee and the minutes of charging.
    pub fn price(&self, used: &Used, last: bool) -> [i128; 3] {
        let kwh = |prices: &[i128]| half_even(prices.iter().zip(&used.by_period).map(|(p, wh)| p * wh).sum(), 1_000);
        let charged = used.by_period.iter().sum::<i128>() > 0;
        let idle = self.idle_minute * (used.idle_ms - self.grace_ms).max(0);
        let rest = if charged { self.flat * 60_000 + self.minute * used.charging_ms } else { 0 };
        let mut parts = [kwh(&self.energy), kwh(&self.service), half_even(idle + rest, 60_000)];
        // What is beyond the highest price is taken off the last parts first.
        let mut over = self.max.map_or(0, |max| (parts.iter().sum::<i128>() - max).max(0));
        for part in parts.iter_mut().rev() {
            let off = over.min(*part);
            (*part, over) = (*part - off, over - off);
        }
        let short = self.min - parts.iter().sum::<i128>();
        if last && charged && short > 0 {
            parts[2] += short;
        }
        parts
    }
}

fn amount(value: &Value, name: &str) -> Checked<i128> {
    let amount = field(value, name).and_then(Value::as_i64).map(i128::from);
    amount.ok_or_else(|| format!("field {name} is missing"))
}

/// To the nearest whole, from the middle to the even one.
fn half_even(exact: i128, unit: i128) -> i128 {
    let (below, rest) = (exact.div_euclid(unit), exact.rem_euclid(unit));
    match (rest * 2).cmp(&unit) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Equal => below + below.rem_euclid(2),
        std::cmp::Ordering::Greater => below + 1,
    }
}
