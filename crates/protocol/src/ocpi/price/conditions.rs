//! Which price component applies: the first element with one for the dimension whose restrictions all hold.

use super::periods::{Bounds, Period};
use super::{Dimension, KWH, Place, SECOND_MS};
use crate::ocpi::number::Number;
use crate::ocpi::tariff::{DayOfWeek, ReservationRestrictionType, Tariff, TariffElement, TariffRestrictions};
use jiff::civil::{self, Weekday};
use jiff::tz::TimeZone;
use std::collections::BTreeSet;

/// The tariff with what of a session it depends on, and the points at which a restriction may begin or end to hold.
pub(super) struct Frame<'a> {
    pub tariff: &'a Tariff,
    /// The location's zone; there if the tariff asks for the local time.
    pub zone: Option<TimeZone>,
    /// Start of the session, and of its reservation, in ms.
    pub session_start: Option<i64>,
    pub reservation_start: Option<i64>,
    /// Amounts of energy, in billionths of a kWh.
    pub energies: BTreeSet<i128>,
    /// Durations, in ms.
    pub durations: BTreeSet<i64>,
    /// Times of the local day.
    pub times: BTreeSet<civil::Time>,
}

/// A moment of a session.
pub(super) struct Moment<'a> {
    pub at: i64,
    /// Energy of the session until then.
    pub energy: i128,
    pub local: Option<civil::DateTime>,
    pub period: &'a Period,
}

impl<'a> Frame<'a> {
    pub(super) fn new(tariff: &'a Tariff, periods: &[Period], zone: Option<TimeZone>) -> Self {
        let mut frame = Self {
            tariff,
            zone,
            session_start: periods.iter().find(|p| p.in_session).map(|p| p.start),
            reservation_start: periods.iter().find(|p| p.in_reservation).map(|p| p.start),
            energies: BTreeSet::new(),
            durations: BTreeSet::new(),
            times: BTreeSet::new(),
        };
        for r in tariff.elements.iter().filter_map(|e| e.restrictions.as_ref()) {
            frame.energies.extend([r.min_kwh, r.max_kwh].into_iter().flatten().filter_map(|n| n.scaled(KWH)));
            let durations = [r.min_duration, r.max_duration].into_iter().flatten();
            frame.durations.extend(durations.map(|seconds| i64::from(seconds).saturating_mul(1_000)));
            frame.times.extend([r.start_time, r.end_time].into_iter().flatten().map(|t| t.0));
            if r.start_date.is_some() || r.end_date.is_some() || r.day_of_week.is_some() {
                frame.times.insert(civil::Time::midnight());
            }
        }
        frame
    }

    /// What prices `dimension` at a moment.
    pub(super) fn choose(&self, dimension: Dimension, moment: &Moment<'_>) -> Option<Place> {
        if !dimension.is_reservation() {
            return self.first(dimension, moment, |reservation| reservation.is_none());
        }
        // A reservation that no session followed: its own time price goes before that of reservations in general,
        // whatever the order of the elements; fees are looked up in their order.
        let expires = ReservationRestrictionType::ReservationExpires;
        if self.session_start.is_some() {
            return self.first(dimension, moment, |r| r == Some(ReservationRestrictionType::Reservation));
        }
        let own = self.first(dimension, moment, |r| r == Some(expires));
        match dimension {
            Dimension::ReservationTime if own.is_some() => own,
            _ => self.first(dimension, moment, |r| r.is_some()),
        }
    }

    fn first(
        &self,
        dimension: Dimension,
        moment: &Moment<'_>,
        fits: impl Fn(Option<ReservationRestrictionType>) -> bool,
    ) -> Option<Place> {
        let start = if dimension.is_reservation() { self.reservation_start } else { self.session_start };
        let elapsed = moment.at.saturating_sub(start.unwrap_or(moment.at));
        self.tariff.elements.iter().enumerate().find_map(|(index, element)| {
            let restrictions = element.restrictions.as_ref();
            if !fits(restrictions.and_then(|r| r.reservation)) || !restrictions.is_none_or(|r| hold(r, moment, elapsed))
            {
                return None;
            }
            component(element, dimension).map(|component| Place { element: index, component })
        })
    }
}

fn component(element: &TariffElement, dimension: Dimension) -> Option<usize> {
    element.price_components.iter().position(|c| c.dimension == dimension.priced_by())
}

/// Whether all restrictions hold at a moment, `elapsed` ms after the start.
fn hold(r: &TariffRestrictions, moment: &Moment<'_>, elapsed: i64) -> bool {
    let billionths = |number: Option<Number>| number.and_then(|n| n.scaled(KWH));
    let at_least = |value: Option<i128>, limit: Option<Number>| {
        billionths(limit).zip(value).is_none_or(|(limit, value)| value >= limit)
    };
    let below = |value: Option<i128>, limit: Option<Number>| {
        billionths(limit).zip(value).is_none_or(|(limit, value)| value < limit)
    };
    let (energy, current, power) = (Some(moment.energy), moment.period.current, moment.period.power);
    let seconds = |limit: u32| i64::from(limit).saturating_mul(1_000);
    local_holds(r, moment.local)
        && at_least(energy, r.min_kwh)
        && below(energy, r.max_kwh)
        && at_least(current.low, r.min_current)
        && below(current.high, r.max_current)
        && at_least(power.low, r.min_power)
        && below(power.high, r.max_power)
        && r.min_duration.is_none_or(|limit| elapsed >= seconds(limit))
        && r.max_duration.is_none_or(|limit| elapsed < seconds(limit))
}

/// Whether the restrictions on the local time hold. Without a zone the tariff has none of them.
fn local_holds(r: &TariffRestrictions, local: Option<civil::DateTime>) -> bool {
    let Some(local) = local else { return true };
    let (time, date) = (local.time(), local.date());
    // An end of 00:00 is the end of the day.
    let end = r.end_time.map(|t| t.0).filter(|t| *t != civil::Time::midnight());
    let in_time = match (r.start_time.map(|t| t.0), end) {
        (Some(start), Some(end)) if end < start => time >= start || time < end,
        (start, end) => start.is_none_or(|start| time >= start) && end.is_none_or(|end| time < end),
    };
    in_time
        && r.start_date.is_none_or(|start| date >= start.0)
        && r.end_date.is_none_or(|end| date < end.0)
        && r.day_of_week.as_ref().is_none_or(|days| days.is_empty() || days.contains(&day(date.weekday())))
}

fn day(weekday: Weekday) -> DayOfWeek {
    match weekday {
        Weekday::Monday => DayOfWeek::Monday,
        Weekday::Tuesday => DayOfWeek::Tuesday,
        Weekday::Wednesday => DayOfWeek::Wednesday,
        Weekday::Thursday => DayOfWeek::Thursday,
        Weekday::Friday => DayOfWeek::Friday,
        Weekday::Saturday => DayOfWeek::Saturday,
        Weekday::Sunday => DayOfWeek::Sunday,
    }
}

/// Whether the tariff asks for the local time.
pub(super) fn asks_local_time(tariff: &Tariff) -> bool {
    tariff.elements.iter().filter_map(|e| e.restrictions.as_ref()).any(|r| {
        r.start_time.is_some()
            || r.end_time.is_some()
            || r.start_date.is_some()
            || r.end_date.is_some()
            || r.day_of_week.as_ref().is_some_and(|days| !days.is_empty())
    })
}

/// Notes the periods that do not say what a restriction asks for: it counts as met.
pub(super) fn unknown_bounds(tariff: &Tariff, periods: &[Period], notes: &mut Vec<String>) {
    type Asks = fn(&TariffRestrictions) -> bool;
    type Told = fn(&Period) -> Bounds;
    let kinds: [(&str, Asks, Told); 2] = [
        ("current", |r| r.min_current.is_some() || r.max_current.is_some(), |p| p.current),
        ("power", |r| r.min_power.is_some() || r.max_power.is_some(), |p| p.power),
    ];
    for (name, asks, told) in kinds {
        if !tariff.elements.iter().filter_map(|e| e.restrictions.as_ref()).any(asks) {
            continue;
        }
        let silent: Vec<String> = (0_usize..)
            .zip(periods)
            .filter(|(_, p)| p.in_session && told(p).low.is_none())
            .map(|(index, _)| index.to_string())
            .collect();
        if !silent.is_empty() {
            let silent = silent.join(", ");
            notes.push(format!("charging_periods {silent} do not say the {name}: restrictions on it count as met"));
        }
    }
}

/// The step of a component in counted units; 0 for none.
pub(super) fn step(tariff: &Tariff, place: Place, dimension: Dimension) -> Option<i128> {
    let component = tariff.elements.get(place.element)?.price_components.get(place.component)?;
    let unit = if dimension == Dimension::Energy { super::WH } else { SECOND_MS };
    i128::from(component.step_size).checked_mul(unit)
}
