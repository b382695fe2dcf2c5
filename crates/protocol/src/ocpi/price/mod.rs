//! What a charge detail record costs under a tariff.
//!
//! Volumes are counted in whole billionths of a kWh and in milliseconds, both far below the four decimals of
//! OCPI's numbers; prices and taxes are taken as written. A period is cut wherever a restriction begins or
//! ends to hold within it (`split`), a price component is chosen for every part (`conditions`), what is billed
//! is rounded up to the step once a session (`steps`), and costs are summed as fractions and rounded once, half to
//! even, to four decimals (`report`).
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod compare;
mod conditions;
mod periods;
mod report;
mod split;
mod steps;
mod zone;

use super::cdr::Cdr;
use super::read::{Document, DocumentError, read};
use super::tariff::{Tariff, TariffDimensionType};
use conditions::Frame;

pub use report::{Amount, ComponentCost, Cost, Difference, Dimension, Limit, Line, PricedCdr, UsedZone};

/// Billionths of a kWh in a kWh: the unit in which energy is counted.
pub(super) const KWH: i128 = 1_000_000_000;

/// The same in a Wh, the step of energy.
const WH: i128 = 1_000_000;

/// Milliseconds in an hour.
pub(super) const HOUR_MS: i128 = 3_600_000;

/// Milliseconds in a second, the step of time.
const SECOND_MS: i128 = 1_000;

/// A price component: which element, and which component of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    element: usize,
    component: usize,
}

/// A part of a period in which the same price components apply from start to end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The period in the CDR.
    period: usize,
    /// Milliseconds since 1970.
    start: i64,
    /// End, the same.
    end: i64,
    /// Energy, time charging, time parked, time reserved: how much of each, and which component prices it.
    volumes: [Volume; 4],
}

/// How much of a dimension a part has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Volume {
    /// What was consumed, in the dimension's unit.
    consumed: i128,
    /// What is billed: the same, or more where the step rounds up.
    billed: i128,
    /// What prices it; nothing means that it is free.
    place: Option<Place>,
}

/// A fee that is due once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fee {
    period: usize,
    at: i64,
    place: Place,
    dimension: Dimension,
}

/// Indices of [`Part::volumes`], in their order.
const VOLUMES: [Dimension; 4] =
    [Dimension::Energy, Dimension::Time, Dimension::ParkingTime, Dimension::ReservationTime];

impl Dimension {
    /// What prices it.
    fn priced_by(self) -> TariffDimensionType {
        match self {
            Self::Energy => TariffDimensionType::Energy,
            Self::Time | Self::ReservationTime => TariffDimensionType::Time,
            Self::ParkingTime => TariffDimensionType::ParkingTime,
            Self::Flat | Self::ReservationFlat => TariffDimensionType::Flat,
        }
    }

    /// Whether it belongs to a reservation.
    fn is_reservation(self) -> bool {
        matches!(self, Self::ReservationTime | Self::ReservationFlat)
    }

    /// Counted units in the unit that is priced: a kWh, an hour, or once.
    fn unit(self) -> i128 {
        match self {
            Self::Energy => KWH,
            Self::Time | Self::ParkingTime | Self::ReservationTime => HOUR_MS,
            Self::Flat | Self::ReservationFlat => 1,
        }
    }
}

/// Prices a CDR.
///
/// `time_zone` is the location's, as an IANA name; without it the CDR's own or its country's is used, and only
/// if the tariff asks for the local time.
///
/// # Errors
///
/// What in which document cannot be priced, with its path and what is expected there.
pub fn price(tariff: &Tariff, cdr: &Cdr, time_zone: Option<&str>) -> Result<PricedCdr, DocumentError> {
    let mut notes = Vec::new();
    let periods = periods::read(tariff, cdr, &mut notes)?;
    let zone = zone::choose(tariff, cdr, time_zone)?;
    let frame = Frame::new(tariff, &periods, zone.as_ref().map(|z| z.zone.clone()));
    conditions::unknown_bounds(tariff, &periods, &mut notes);
    let (mut parts, fees) = split::parts(&frame, &periods);
    steps::apply(tariff, &mut parts).ok_or_else(too_large)?;
    let priced = report::report(tariff, cdr, &periods, &parts, &fees, notes).ok_or_else(too_large)?;
    Ok(PricedCdr { time_zone: zone.map(|z| UsedZone { name: z.name, source: z.source }), ..priced })
}

/// Reads both documents and prices the CDR: what `chargeplane tariff price` does with its files.
///
/// # Errors
///
/// What in which document is wrong, with its path and what is expected there.
pub fn price_documents(tariff: &str, cdr: &str, time_zone: Option<&str>) -> Result<PricedCdr, DocumentError> {
    let tariff = read(Document::Tariff, tariff)?;
    let cdr = read(Document::Cdr, cdr)?;
    price(&tariff, &cdr, time_zone)
}

fn too_large() -> DocumentError {
    let message = "prices and volumes are too large, or have too many decimals, for an exact result: \
                   expected prices of up to 12 decimals and totals below 1,000,000,000";
    DocumentError::at(Document::Tariff, "", message)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::float_arithmetic)]
mod tests;
