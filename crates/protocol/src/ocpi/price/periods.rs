//! The CDR's charging periods, checked and in counted units.

use super::{HOUR_MS, KWH};
use crate::ocpi::cdr::{Cdr, CdrDimensionType, ChargingPeriod};
use crate::ocpi::moment::DateTime;
use crate::ocpi::number::Number;
use crate::ocpi::read::{Document, DocumentError};
use crate::ocpi::tariff::{Price, Tariff};
use std::collections::BTreeMap;

/// Longest session, a year and a month: longer is a broken clock.
const MAX_SPAN_MS: i64 = 400 * 24 * 3_600_000;

/// Most energy of a period, in kWh.
const MAX_KWH: i128 = 1_000_000_000;

/// A time that differs from the length of its period by no more than this, in ms, is that length: OCPI's four
/// decimals of an hour are 0.36 s, so a true 10 minutes are written as 0.1667 h, which is 600.12 s.
const ROUNDED_HOURS_MS: i128 = 180;

/// A period.
#[derive(Debug, Clone)]
pub(super) struct Period {
    /// Milliseconds since 1970.
    pub start: i64,
    /// End, the same: the start of the next one, or the end of the session.
    pub end: i64,
    /// Energy, time charging, time parked, time reserved, in counted units.
    pub volumes: [i128; 4],
    /// Whether anything but a reservation is in it.
    pub in_session: bool,
    /// Whether a reservation is in it.
    pub in_reservation: bool,
    /// Current, as far as it is told.
    pub current: Bounds,
    /// Power, as far as it is told.
    pub power: Bounds,
}

/// The least and the most of something that varies in a period, in billionths of its unit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    pub low: Option<i128>,
    pub high: Option<i128>,
}

/// Checks the documents as far as no single field can, and reads the periods.
pub(super) fn read(tariff: &Tariff, cdr: &Cdr, notes: &mut Vec<String>) -> Result<Vec<Period>, DocumentError> {
    check_tariff(tariff, cdr)?;
    check_cdr(tariff, cdr, notes)?;
    let ends = cdr.charging_periods.iter().skip(1).map(|p| p.start_date_time).chain([cdr.end_date_time]);
    cdr.charging_periods
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(index, (period, end))| read_one(index, period, end))
        .collect()
}

fn check_tariff(tariff: &Tariff, cdr: &Cdr) -> Result<(), DocumentError> {
    let wrong = |path: String, message: String| Err(DocumentError::at(Document::Tariff, path, message));
    if tariff.elements.is_empty() {
        return wrong("elements".to_owned(), "empty: expected at least one element".to_owned());
    }
    if let Some(index) = tariff.elements.iter().position(|e| e.price_components.is_empty()) {
        let path = format!("elements[{index}].price_components");
        return wrong(path, "empty: expected at least one component".to_owned());
    }
    let start = cdr.start_date_time;
    if tariff.start_date_time.is_some_and(|from| start < from) {
        let message = format!("the session starts earlier, at {start}: expected a tariff that is in force then");
        return wrong("start_date_time".to_owned(), message);
    }
    if tariff.end_date_time.is_some_and(|until| start >= until) {
        let message = format!("the session starts later, at {start}: expected a tariff that is in force then");
        return wrong("end_date_time".to_owned(), message);
    }
    if let (Some(min), Some(max)) = (&tariff.min_price, &tariff.max_price)
        && (above(min.excl_vat, max.excl_vat) || incl(min).zip(incl(max)).is_some_and(|(min, max)| above(min, max)))
    {
        return wrong("min_price".to_owned(), "above max_price: expected at most that".to_owned());
    }
    Ok(())
}

fn incl(price: &Price) -> Option<Number> {
    price.incl_vat
}

fn above(left: Number, right: Number) -> bool {
    left.scaled(KWH).zip(right.scaled(KWH)).is_some_and(|(left, right)| left > right)
}

fn check_cdr(tariff: &Tariff, cdr: &Cdr, notes: &mut Vec<String>) -> Result<(), DocumentError> {
    let wrong = |path: String, message: String| Err(DocumentError::at(Document::Cdr, path, message));
    if !tariff.currency.eq_ignore_ascii_case(&cdr.currency) {
        let message = format!("{:?}: expected {:?}, the tariff's", shown(&cdr.currency), shown(&tariff.currency));
        return wrong("currency".to_owned(), message);
    }
    let Some(first) = cdr.charging_periods.first() else {
        return wrong("charging_periods".to_owned(), "empty: expected at least one period".to_owned());
    };
    let mut before = first.start_date_time;
    for (index, period) in cdr.charging_periods.iter().enumerate() {
        let start = period.start_date_time;
        if start < before || start > cdr.end_date_time {
            let message = format!("{start}: expected {before} to {}, the session's end", cdr.end_date_time);
            return wrong(format!("charging_periods[{index}].start_date_time"), message);
        }
        before = start;
        if let Some(id) = period.tariff_id.as_ref().filter(|id| !id.eq_ignore_ascii_case(&tariff.id)) {
            let (id, used) = (shown(id), shown(&tariff.id));
            notes.push(format!("charging_periods[{index}] names tariff {id:?} and is priced with {used:?}"));
        }
    }
    let span = millis(cdr.end_date_time).saturating_sub(millis(first.start_date_time));
    if span > MAX_SPAN_MS {
        let message = format!("{}: expected at most 400 days after the first period", cdr.end_date_time);
        return wrong("end_date_time".to_owned(), message);
    }
    if first.start_date_time != cdr.start_date_time {
        let (first, start) = (first.start_date_time, cdr.start_date_time);
        notes.push(format!("the first period starts at {first}, the session at {start}; the periods are priced"));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

fn millis(moment: DateTime) -> i64 {
    moment.0.as_millisecond()
}

fn read_one(index: usize, period: &ChargingPeriod, end: DateTime) -> Result<Period, DocumentError> {
    let (start, end) = (millis(period.start_date_time), millis(end));
    let mut told = BTreeMap::new();
    for (at, dimension) in period.dimensions.iter().enumerate() {
        let path = format!("charging_periods[{index}].dimensions[{at}]");
        let (low, high, per_unit) = match dimension.dimension {
            CdrDimensionType::ParkingTime | CdrDimensionType::Time | CdrDimensionType::ReservationTime => {
                (0, i128::from(MAX_SPAN_MS), HOUR_MS)
            }
            _ => (MAX_KWH.saturating_mul(KWH).saturating_neg(), MAX_KWH.saturating_mul(KWH), KWH),
        };
        let counted = dimension.volume.scaled(per_unit).filter(|volume| (low..=high).contains(volume));
        let Some(counted) = counted else {
            let message = format!(
                "{}: expected {} to {}",
                dimension.volume,
                low.checked_div(per_unit).unwrap_or(0),
                high.checked_div(per_unit).unwrap_or(0)
            );
            return Err(DocumentError::at(Document::Cdr, format!("{path}.volume"), message));
        };
        if told.insert(dimension.dimension, counted).is_some() {
            let message = "there twice: expected each dimension once a period";
            return Err(DocumentError::at(Document::Cdr, format!("{path}.type"), message));
        }
    }
    let get = |dimension| told.get(&dimension).copied();
    let bounds = |low, average, high| {
        let (low, average, high) = (get(low), get(average), get(high));
        Bounds { low: low.or(average).or(high), high: high.or(average).or(low) }
    };
    let (charging, parked) = (get(CdrDimensionType::Time), get(CdrDimensionType::ParkingTime));
    let reserved = get(CdrDimensionType::ReservationTime).filter(|time| *time > 0);
    let times = [charging.unwrap_or(0), parked.unwrap_or(0), reserved.unwrap_or(0)];
    let [charging_ms, parked_ms, reserved_ms] =
        times.map(|time| unrounded(time, &times, i128::from(end.saturating_sub(start))));
    Ok(Period {
        start,
        end,
        volumes: [get(CdrDimensionType::Energy).unwrap_or(0), charging_ms, parked_ms, reserved_ms],
        in_session: reserved.is_none()
            || charging_ms > 0
            || parked_ms > 0
            || get(CdrDimensionType::Energy).is_some_and(|e| e != 0),
        in_reservation: reserved.is_some(),
        current: bounds(CdrDimensionType::MinCurrent, CdrDimensionType::Current, CdrDimensionType::MaxCurrent),
        power: bounds(CdrDimensionType::MinPower, CdrDimensionType::Power, CdrDimensionType::MaxPower),
    })
}

/// A time that is the period's length rounded to four decimals of an hour becomes that length, if it is the
/// only time of the period.
fn unrounded(time: i128, times: &[i128; 3], length: i128) -> i128 {
    let alone = times.iter().filter(|t| **t > 0).count() == 1;
    let near = time.saturating_sub(length).saturating_abs() <= ROUNDED_HOURS_MS;
    if alone && time > 0 && near && length > 0 { length } else { time }
}
