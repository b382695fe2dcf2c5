//! The priced CDR: costs summed as fractions, rounded once each to four decimals, and what led to them.

use super::compare::differences;
use super::periods::Period;
use super::{Fee, HOUR_MS, KWH, Part, Place, VOLUMES};
use crate::ocpi::cdr::Cdr;
use crate::ocpi::exact::{Exact, round_half_even};
use crate::ocpi::number::{Number, serialize_digits};
use crate::ocpi::tariff::{Price, PriceComponent, Tariff};
use serde::{Serialize, Serializer};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// What is priced, as the lines call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Dimension {
    /// Energy.
    Energy,
    /// Time charging.
    Time,
    /// Time connected without charging.
    ParkingTime,
    /// The fee of a session.
    Flat,
    /// Time reserved.
    ReservationTime,
    /// The fee of a reservation.
    ReservationFlat,
}

/// An amount in 1/10,000 of the currency unit, printed with four decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub i128);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs().div_euclid(10_000), self.0.unsigned_abs().rem_euclid(10_000));
        write!(f, "{sign}{whole}.{rest:04}")
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_digits(&self.to_string(), serializer)
    }
}

/// A cost before and after tax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Before tax.
    pub excl_vat: Amount,
    /// After tax.
    pub incl_vat: Amount,
}

/// The time zone that was used, and where it is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsedZone {
    /// IANA name.
    pub name: String,
    /// `argument`, or the field of the CDR.
    pub source: &'static str,
}

/// What one price component, or none, costs over the whole session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentCost {
    /// What it prices.
    pub dimension: Dimension,
    /// Index of the tariff's element, and of the component in it; none for what nothing prices.
    pub element: Option<usize>,
    /// The same for the component.
    pub component: Option<usize>,
    /// Consumed: kWh, hours to nine decimals, or times.
    pub volume: Number,
    /// Billed after rounding up to the step.
    pub billed_volume: Number,
    /// Price a unit before tax.
    pub price: Option<Number>,
    /// Tax in percent.
    pub vat: Option<Number>,
    /// The cost.
    #[serde(flatten)]
    pub cost: Cost,
}

/// One dimension of a period, or of a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Index of the charging period.
    pub period: usize,
    /// The part of it, from 0, and of how many.
    pub part: usize,
    /// Parts of the period; more than 1 where it was cut.
    pub parts: usize,
    /// Start of the part.
    pub start_date_time: String,
    /// End of the part.
    pub end_date_time: String,
    /// What and how much.
    #[serde(flatten)]
    pub cost: ComponentCost,
}

/// `min_price` or `max_price` in effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// The field of the tariff.
    pub limit: &'static str,
    /// The field of it that was in effect.
    pub field: &'static str,
    /// What it added to the sum of the components; negative for what it took away.
    pub adjustment: Amount,
}

/// A total of the CDR that is not what was computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// JSON path in the CDR.
    pub path: String,
    /// What the CDR says.
    pub cdr: Number,
    /// What was computed.
    pub priced: Number,
    /// The CDR's is the computed one rounded to the decimals it is written with.
    pub rounding: bool,
}

/// A CDR, priced. The names of the totals are the CDR's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PricedCdr {
    /// The CDR.
    pub cdr_id: String,
    /// The tariff.
    pub tariff_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The zone the local times were read in; none if the tariff has none.
    pub time_zone: Option<UsedZone>,
    /// Everything, within the tariff's limits.
    pub total_cost: Cost,
    /// The fee of the session.
    pub total_fixed_cost: Cost,
    /// kWh consumed.
    pub total_energy: Number,
    /// Their cost.
    pub total_energy_cost: Cost,
    /// Hours of the session.
    pub total_time: Number,
    /// Cost of the time charging.
    pub total_time_cost: Cost,
    /// Hours without charging.
    pub total_parking_time: Number,
    /// Their cost.
    pub total_parking_cost: Cost,
    /// Cost of the reservation with its fee.
    pub total_reservation_cost: Cost,
    /// Sum of the components, before `min_price` and `max_price`.
    pub cost_before_limits: Cost,
    /// Where these were in effect.
    pub limits: Vec<Limit>,
    /// Cost by price component.
    pub components: Vec<ComponentCost>,
    /// Cost by period.
    pub lines: Vec<Line>,
    /// Totals of the CDR that differ.
    pub differences: Vec<Difference>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// A cost that is not rounded yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    pub excl: Exact,
    pub incl: Exact,
}

impl Sum {
    const ZERO: Self = Self { excl: Exact::ZERO, incl: Exact::ZERO };

    fn add(self, other: Self) -> Option<Self> {
        Some(Self { excl: self.excl.checked_add(other.excl)?, incl: self.incl.checked_add(other.incl)? })
    }

    fn rounded(self) -> Option<Cost> {
        Some(Cost { excl_vat: Amount(self.excl.rounded(10_000)?), incl_vat: Amount(self.incl.rounded(10_000)?) })
    }
}

/// Makes the report. `None` when something does not fit.
pub(super) fn report(
    tariff: &Tariff,
    cdr: &Cdr,
    periods: &[Period],
    parts: &[Part],
    fees: &[Fee],
    mut notes: Vec<String>,
) -> Option<PricedCdr> {
    let lines = lines(tariff, parts, fees)?;
    let (components, sums) = components(tariff, parts, fees)?;
    let of = |dimensions: &[Dimension]| -> Option<Sum> {
        dimensions.iter().filter_map(|d| sums.get(d)).try_fold(Sum::ZERO, |sum, more| sum.add(*more))
    };
    let before = sums.values().try_fold(Sum::ZERO, |sum, more| sum.add(*more))?;
    let (total, limits) = limited(tariff, before)?;
    let volume = |index: usize| periods.iter().filter_map(|p| p.volumes.get(index)).sum::<i128>();
    let session: i64 = periods.iter().filter(|p| p.in_session).map(|p| p.end.saturating_sub(p.start)).sum();
    let mut cut: Vec<String> = lines.iter().filter(|line| line.parts > 1).map(|line| line.period.to_string()).collect();
    cut.dedup();
    if !cut.is_empty() {
        let cut = cut.join(", ");
        notes.push(format!("charging_periods {cut} straddle a change of price and were cut there, evenly in time"));
    }
    let mut priced = PricedCdr {
        cdr_id: cdr.id.clone(),
        tariff_id: tariff.id.clone(),
        currency: tariff.currency.to_ascii_uppercase(),
        time_zone: None,
        total_cost: total.rounded()?,
        total_fixed_cost: of(&[Dimension::Flat])?.rounded()?,
        total_energy: Number::new(volume(0), 9),
        total_energy_cost: of(&[Dimension::Energy])?.rounded()?,
        total_time: hours(i128::from(session), 4)?,
        total_time_cost: of(&[Dimension::Time])?.rounded()?,
        total_parking_time: hours(volume(2), 4)?,
        total_parking_cost: of(&[Dimension::ParkingTime])?.rounded()?,
        total_reservation_cost: of(&[Dimension::ReservationTime, Dimension::ReservationFlat])?.rounded()?,
        cost_before_limits: before.rounded()?,
        limits,
        components,
        lines,
        differences: Vec::new(),
        notes,
    };
    priced.differences = differences(cdr, &priced);
    Some(priced)
}

fn lines(tariff: &Tariff, parts: &[Part], fees: &[Fee]) -> Option<Vec<Line>> {
    let mut lines = Vec::new();
    for fee in fees {
        let (cost, _) = cost(tariff, fee.dimension, Some(fee.place), 1, 1)?;
        let at = moment(fee.at);
        lines.push(Line {
            period: fee.period,
            part: 0,
            parts: 1,
            start_date_time: at.clone(),
            end_date_time: at,
            cost,
        });
    }
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    let mut numbered = Vec::with_capacity(parts.len());
    for part in parts {
        let count = counts.entry(part.period).or_default();
        numbered.push((*count, part));
        *count = count.saturating_add(1);
    }
    for (number, part) in numbered {
        for (dimension, volume) in VOLUMES.into_iter().zip(&part.volumes).filter(|(_, v)| v.consumed != 0) {
            let (cost, _) = cost(tariff, dimension, volume.place, volume.consumed, volume.billed)?;
            lines.push(Line {
                period: part.period,
                part: number,
                parts: counts.get(&part.period).copied().unwrap_or(1),
                start_date_time: moment(part.start),
                end_date_time: moment(part.end),
                cost,
            });
        }
    }
    lines.sort_by_key(|line| (line.period, line.part, line.cost.dimension));
    Some(lines)
}

fn moment(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map(|t| t.to_string()).unwrap_or_default()
}

/// Cost by component, and by dimension. Volumes are summed before they are priced: that keeps fractions small.
fn components(tariff: &Tariff, parts: &[Part], fees: &[Fee]) -> Option<(Vec<ComponentCost>, BTreeMap<Dimension, Sum>)> {
    let mut volumes: BTreeMap<(Dimension, Option<Place>), (i128, i128)> = BTreeMap::new();
    for fee in fees {
        volumes.insert((fee.dimension, Some(fee.place)), (1, 1));
    }
    for part in parts {
        for (dimension, volume) in VOLUMES.into_iter().zip(&part.volumes).filter(|(_, v)| v.consumed != 0) {
            let sum = volumes.entry((dimension, volume.place)).or_default();
            *sum = (sum.0.checked_add(volume.consumed)?, sum.1.checked_add(volume.billed)?);
        }
    }
    let mut costs = Vec::new();
    let mut sums: BTreeMap<Dimension, Sum> = BTreeMap::new();
    for ((dimension, place), (consumed, billed)) in volumes {
        let (line, sum) = cost(tariff, dimension, place, consumed, billed)?;
        costs.push(line);
        let total = sums.entry(dimension).or_insert(Sum::ZERO);
        *total = total.add(sum)?;
    }
    Some((costs, sums))
}

/// What a volume costs.
fn cost(
    tariff: &Tariff,
    dimension: Dimension,
    place: Option<Place>,
    consumed: i128,
    billed: i128,
) -> Option<(ComponentCost, Sum)> {
    let component = |p: Place| tariff.elements.get(p.element)?.price_components.get(p.component);
    let component: Option<&PriceComponent> = place.and_then(component);
    let unit = dimension.unit();
    let sum = match component {
        None => Sum::ZERO,
        Some(component) => {
            let excl = component.price.exact()?.checked_mul(Exact::new(billed, unit)?)?;
            let incl = match component.vat {
                None => excl,
                Some(vat) => {
                    let factor = vat.exact()?.checked_mul(Exact::new(1, 100)?)?.checked_add(Exact::whole(1)?)?;
                    excl.checked_mul(factor)?
                }
            };
            Sum { excl, incl }
        }
    };
    let shown = |volume: i128| match unit {
        KWH => Some(Number::new(volume, 9)),
        HOUR_MS => hours(volume, 9),
        _ => Some(Number::whole(volume)),
    };
    let line = ComponentCost {
        dimension,
        element: place.map(|p| p.element),
        component: place.map(|p| p.component),
        volume: shown(consumed)?,
        billed_volume: shown(billed)?,
        price: component.map(|c| c.price),
        vat: component.and_then(|c| c.vat),
        cost: sum.rounded()?,
    };
    Some((line, sum))
}

/// Milliseconds as hours.
fn hours(ms: i128, decimals: u32) -> Option<Number> {
    let scale = 10_i128.checked_pow(decimals)?;
    Some(Number::new(round_half_even(ms.checked_mul(scale)?, HOUR_MS)?, decimals))
}

/// The total within `min_price` and `max_price`, each before and after tax by itself.
fn limited(tariff: &Tariff, before: Sum) -> Option<(Sum, Vec<Limit>)> {
    let mut total = before;
    let mut limits = Vec::new();
    let bounds: [(&'static str, Option<&Price>, Ordering); 2] = [
        ("min_price", tariff.min_price.as_ref(), Ordering::Less),
        ("max_price", tariff.max_price.as_ref(), Ordering::Greater),
    ];
    for (limit, price, beyond) in bounds {
        let Some(price) = price else { continue };
        let fields = [("excl_vat", Some(price.excl_vat)), ("incl_vat", price.incl_vat)];
        for (field, bound) in fields.into_iter().filter_map(|(field, bound)| Some((field, bound?))) {
            let bound = bound.exact()?;
            let value = if field == "excl_vat" { &mut total.excl } else { &mut total.incl };
            if value.checked_cmp(bound)? == beyond {
                let adjustment = Amount(bound.checked_sub(*value)?.rounded(10_000)?);
                *value = bound;
                limits.push(Limit { limit, field, adjustment });
            }
        }
        // A least price without tax says nothing about the total after tax, but that is never below it.
        if limit == "min_price"
            && price.incl_vat.is_none()
            && total.incl.checked_cmp(price.excl_vat.exact()?)? == beyond
        {
            let bound = price.excl_vat.exact()?;
            let adjustment = Amount(bound.checked_sub(total.incl)?.rounded(10_000)?);
            total.incl = bound;
            limits.push(Limit { limit, field: "incl_vat", adjustment });
        }
    }
    Some((total, limits))
}
