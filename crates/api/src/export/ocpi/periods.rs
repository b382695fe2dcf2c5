//! The charging periods of a record: one for each stretch with the same price, as far as the record tells.
//!
//! A record has its energy by price, not by moment. Where every price that was used was in force once, the two are the
//! same, and each stretch is a charging period with its energy and time. Else (a session through a peak, the hours
//! after it and the next peak) the record is one charging period with everything.
//!
//! Where time is paid, the time of a period is the time in which the car charged, and beside it stands the idle time
//! that is paid. A record has both in all: they are put into the stretches from the first on, charging before idle.

use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::tariff::{PERIODS, zone};
use chargeplane_domain::units::{Timestamp, WattHours};

/// Every wall clock's half hours begin at a multiple of this in UTC: a quarter of an hour.
const STEP_MS: i64 = 900_000;

/// Longest session that is looked at stretch by stretch: a week of steps.
const MOST_STEPS: i64 = 7 * 96;

/// Milliseconds of 1/10,000 hour.
const HOUR_PART_MS: i128 = 360;

/// A charging period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) from: Timestamp,
    pub(super) energy: WattHours,
    /// 1/10,000 hours.
    pub(super) time: i64,
    /// Idle time that is paid, in 1/10,000 hours.
    pub(super) parking: i64,
}

/// A stretch of one price.
struct Stretch {
    from: Timestamp,
    to: Timestamp,
    period: usize,
}

/// Length of the session in 1/10,000 hours, never negative.
pub(super) fn length(record: &ChargeRecord) -> i64 {
    parts(record.started_at, record.ended_at)
}

/// Idle time of the record beyond the grace, in milliseconds.
fn paid_idle_ms(record: &ChargeRecord) -> i64 {
    let grace_ms = record.tariff.fees.idle_grace_s.saturating_mul(1_000);
    record.time.idle_ms.saturating_sub(grace_ms).max(0)
}

/// The same in 1/10,000 hours.
pub(super) fn parking(record: &ChargeRecord) -> i64 {
    parts(Timestamp(0), Timestamp(paid_idle_ms(record)))
}

/// From one moment to a later one in 1/10,000 hours, rounded half up.
fn parts(from: Timestamp, to: Timestamp) -> i64 {
    let ms = (i128::from(to.0) - i128::from(from.0)).max(0);
    i64::try_from((ms + HOUR_PART_MS / 2) / HOUR_PART_MS).unwrap_or(i64::MAX)
}

/// The charging periods, at least one.
pub(super) fn of(record: &ChargeRecord) -> Vec<Period> {
    let mut periods = by_price(record);
    if record.tariff.fees.is_timed() {
        put_times(record, &mut periods);
    }
    periods
}

/// Puts the time that is paid into the periods: charging from the first on, idle into what they have left.
fn put_times(record: &ChargeRecord, periods: &mut [Period]) {
    let mut charging = parts(Timestamp(0), Timestamp(record.time.charging_ms));
    let mut idle = parking(record);
    let last = periods.len().saturating_sub(1);
    for (at, period) in periods.iter_mut().enumerate() {
        // A gateway's clock that was set leaves more time than there is: the last period has the rest.
        let room = if at == last { i64::MAX } else { period.time };
        period.time = charging.min(room);
        period.parking = idle.min(room.saturating_sub(period.time));
        charging = charging.saturating_sub(period.time);
        idle = idle.saturating_sub(period.parking);
    }
}

fn by_price(record: &ChargeRecord) -> Vec<Period> {
    let whole = || vec![Period { from: record.started_at, energy: record.energy, time: length(record), parking: 0 }];
    let Some(stretches) = stretches(record) else { return whole() };
    for (period, energy) in record.by_period.iter().enumerate() {
        let times = stretches.iter().filter(|stretch| stretch.period == period).count();
        if *energy != WattHours::ZERO && times != 1 {
            return whole();
        }
    }
    let start = record.started_at;
    let period = |stretch: &Stretch| Period {
        from: stretch.from,
        energy: record.by_period.get(stretch.period).copied().unwrap_or_default(),
        // Both ends are rounded alike, so that the parts add up to the whole.
        time: parts(start, stretch.to).saturating_sub(parts(start, stretch.from)),
        parking: 0,
    };
    stretches.iter().map(period).collect()
}

/// The stretches from start to end; none when the session is too long, has no length, or its zone is not known.
fn stretches(record: &ChargeRecord) -> Option<Vec<Stretch>> {
    let (start, end) = (record.started_at, record.ended_at);
    let steps = end.since(start).checked_div(STEP_MS)?;
    if end <= start || steps > MOST_STEPS {
        return None;
    }
    let zone = zone::parse(&record.time_zone).ok()?;
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut from = start;
    while from < end {
        let next = from.0.checked_div_euclid(STEP_MS)?.checked_add(1)?.checked_mul(STEP_MS)?;
        let to = Timestamp(next.min(end.0));
        let period = record.tariff.period_at(&zone, from).min(PERIODS - 1);
        match stretches.last_mut() {
            Some(last) if last.period == period => last.to = to,
            _ => stretches.push(Stretch { from, to, period }),
        }
        from = to;
    }
    Some(stretches)
}
