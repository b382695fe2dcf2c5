//! Periods cut where a price component may change within them.
//!
//! The specification asks for a new period whenever that happens, so a well-made CDR is not cut at all. Where one
//! is cut, energy and times are taken as spread evenly over the period; what the parts have is together what the
//! period has, to the last unit.

use super::conditions::{Frame, Moment};
use super::periods::Period;
use super::{Dimension, Fee, Part, VOLUMES, Volume};
use crate::ocpi::exact::round_half_even;
use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// A point within a period: milliseconds from its start, and its energy until there.
type Cut = (i64, i128);

/// All parts in order, and the fees that are due once.
pub(super) fn parts(frame: &Frame<'_>, periods: &[Period]) -> (Vec<Part>, Vec<Fee>) {
    let mut parts: Vec<Part> = Vec::new();
    let mut fees: Vec<Fee> = Vec::new();
    let mut energy_before = 0_i128;
    for (index, period) in periods.iter().enumerate() {
        let mut from: Cut = (0, 0);
        for to in cuts(frame, period, energy_before) {
            let at = period.start.saturating_add(from.0);
            let local = frame.zone.as_ref().zip(Timestamp::from_millisecond(at).ok()).map(|(z, t)| z.to_datetime(t));
            let moment = Moment { at, energy: energy_before.saturating_add(from.1), local, period };
            add_fees(frame, index, &moment, &mut fees);
            let part = part(frame, index, &moment, from, to);
            match parts.last_mut().filter(|last| last.period == index && same_prices(last, &part)) {
                Some(last) => extend(last, &part),
                None => parts.push(part),
            }
            from = to;
        }
        energy_before = energy_before.saturating_add(period.volumes.first().copied().unwrap_or(0));
    }
    (parts, fees)
}

fn add_fees(frame: &Frame<'_>, period: usize, moment: &Moment<'_>, fees: &mut Vec<Fee>) {
    let due = [(Dimension::ReservationFlat, moment.period.in_reservation), (Dimension::Flat, moment.period.in_session)];
    for (dimension, applies) in due {
        if applies
            && !fees.iter().any(|fee| fee.dimension == dimension)
            && let Some(place) = frame.choose(dimension, moment)
        {
            fees.push(Fee { period, at: moment.at, place, dimension });
        }
    }
}

fn part(frame: &Frame<'_>, index: usize, moment: &Moment<'_>, from: Cut, to: Cut) -> Part {
    let period = moment.period;
    let length = i128::from(period.end.saturating_sub(period.start));
    let mut volumes = [Volume::default(); 4];
    for ((volume, dimension), whole) in volumes.iter_mut().zip(VOLUMES).zip(period.volumes) {
        let until = |cut: Cut| match dimension {
            Dimension::Energy => cut.1,
            _ => share(whole, i128::from(cut.0), length),
        };
        let consumed = until(to).saturating_sub(until(from));
        let place = if consumed == 0 { None } else { frame.choose(dimension, moment) };
        *volume = Volume { consumed, billed: consumed, place };
    }
    Part { period: index, start: moment.at, end: period.start.saturating_add(to.0), volumes }
}

/// The share of `whole` that `elapsed` of `length` has; all of it at the end.
fn share(whole: i128, elapsed: i128, length: i128) -> i128 {
    if elapsed >= length {
        return whole;
    }
    whole.checked_mul(elapsed).and_then(|part| round_half_even(part, length)).unwrap_or(0)
}

/// Parts can be one if what they have is priced by the same components; what one of them has not does not matter.
fn same_prices(last: &Part, next: &Part) -> bool {
    last.volumes.iter().zip(&next.volumes).all(|(a, b)| a.consumed == 0 || b.consumed == 0 || a.place == b.place)
}

fn extend(last: &mut Part, next: &Part) {
    last.end = next.end;
    for (volume, more) in last.volumes.iter_mut().zip(&next.volumes) {
        volume.consumed = volume.consumed.saturating_add(more.consumed);
        volume.billed = volume.billed.saturating_add(more.billed);
        volume.place = volume.place.or(more.place);
    }
}

/// Where to cut a period, its end included, in order of time and energy.
fn cuts(frame: &Frame<'_>, period: &Period, energy_before: i128) -> Vec<Cut> {
    let length = period.end.saturating_sub(period.start);
    let energy = period.volumes.first().copied().unwrap_or(0);
    let mut moments: Vec<i64> = Vec::new();
    for start in [frame.session_start, frame.reservation_start].into_iter().flatten() {
        let passed = period.start.saturating_sub(start);
        let range = passed..passed.saturating_add(length);
        moments.extend(frame.durations.range(range).map(|d| d.saturating_sub(passed)));
    }
    if let Some(zone) = &frame.zone {
        moments.extend(local_cuts(frame, zone, period).into_iter().map(|at| at.saturating_sub(period.start)));
    }
    let mut cuts: Vec<Cut> = moments
        .into_iter()
        .filter(|offset| *offset > 0 && *offset < length)
        .map(|offset| (offset, share(energy, i128::from(offset), i128::from(length))))
        .collect();
    if energy > 0 {
        let end = energy_before.saturating_add(energy);
        for at in frame.energies.range(energy_before..end) {
            let until = at.saturating_sub(energy_before);
            let offset = share(i128::from(length), until, energy);
            if until > 0 {
                cuts.push((i64::try_from(offset).unwrap_or(length), until));
            }
        }
    }
    cuts.sort_unstable();
    cuts.dedup();
    // Rounding to whole milliseconds may set two cuts of one moment in the wrong order of energy.
    let mut highest = if energy >= 0 { 0 } else { i128::MIN };
    for cut in &mut cuts {
        cut.1 = cut.1.max(highest);
        highest = cut.1;
    }
    cuts.push((length, energy));
    cuts
}

/// The moments within a period at which a local time of the tariff is passed, or the clock is set.
fn local_cuts(frame: &Frame<'_>, zone: &TimeZone, period: &Period) -> Vec<i64> {
    let mut moments = Vec::new();
    let (Ok(start), Ok(end)) = (Timestamp::from_millisecond(period.start), Timestamp::from_millisecond(period.end))
    else {
        return moments;
    };
    moments.extend(zone.following(start).map(|t| t.timestamp().as_millisecond()).take_while(|at| *at < period.end));
    let last = zone.to_datetime(end).date();
    // A clock that is set back over midnight comes to a date again; one day more on either side covers it.
    let mut date = zone.to_datetime(start).date().yesterday().unwrap_or(jiff::civil::Date::MIN);
    let last = last.tomorrow().unwrap_or(last);
    while date <= last {
        for time in &frame.times {
            let civil = date.to_datetime(*time);
            let offsets = match zone.to_ambiguous_timestamp(civil).offset() {
                AmbiguousOffset::Unambiguous { offset } => [offset, offset],
                AmbiguousOffset::Gap { before, after } | AmbiguousOffset::Fold { before, after } => [before, after],
            };
            moments.extend(offsets.iter().filter_map(|o| o.to_timestamp(civil).ok()).map(|t| t.as_millisecond()));
        }
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    moments
}
