//! Where the CDR's own totals are not what was computed.

use super::KWH;
use super::report::{Amount, Cost, Difference, PricedCdr};
use crate::ocpi::cdr::{Cdr, CdrDimensionType};
use crate::ocpi::exact::power_of_ten;
use crate::ocpi::number::Number;
use crate::ocpi::tariff::Price;

/// All differences. A total that the CDR does not have, or whose volumes it does not list, is not compared.
pub(super) fn differences(cdr: &Cdr, priced: &PricedCdr) -> Vec<Difference> {
    let costs: [(&str, Option<&Price>, Cost); 6] = [
        ("total_cost", Some(&cdr.total_cost), priced.total_cost),
        ("total_fixed_cost", cdr.total_fixed_cost.as_ref(), priced.total_fixed_cost),
        ("total_energy_cost", cdr.total_energy_cost.as_ref(), priced.total_energy_cost),
        ("total_time_cost", cdr.total_time_cost.as_ref(), priced.total_time_cost),
        ("total_parking_cost", cdr.total_parking_cost.as_ref(), priced.total_parking_cost),
        ("total_reservation_cost", cdr.total_reservation_cost.as_ref(), priced.total_reservation_cost),
    ];
    let number = |amount: Amount| Number::new(amount.0, 4);
    let mut pairs: Vec<(String, Option<Number>, Number)> = Vec::new();
    for (name, own, cost) in costs {
        pairs.push((format!("$.{name}.excl_vat"), own.map(|p| p.excl_vat), number(cost.excl_vat)));
        pairs.push((format!("$.{name}.incl_vat"), own.and_then(|p| p.incl_vat), number(cost.incl_vat)));
    }
    let mut dimensions = cdr.charging_periods.iter().flat_map(|p| &p.dimensions);
    if dimensions.any(|d| d.dimension == CdrDimensionType::Energy) {
        pairs.push(("$.total_energy".to_owned(), Some(cdr.total_energy), priced.total_energy));
    }
    pairs.push(("$.total_time".to_owned(), Some(cdr.total_time), priced.total_time));
    pairs.push(("$.total_parking_time".to_owned(), cdr.total_parking_time, priced.total_parking_time));
    pairs
        .into_iter()
        .filter_map(|(path, own, priced)| Some((path, own?, priced)))
        .filter(|(_, own, priced)| own != priced)
        .map(|(path, own, priced)| Difference { path, cdr: own, priced, rounding: is_rounding(own, priced) })
        .collect()
}

/// Whether `own` is `priced` rounded to the decimals of `own`, two at least, whichever way the middle goes.
fn is_rounding(own: Number, priced: Number) -> bool {
    let apart = || {
        let apart = own.scaled(KWH)?.checked_sub(priced.scaled(KWH)?)?.checked_abs()?;
        let unit = KWH.checked_div(power_of_ten(own.decimals().clamp(2, 9))?)?;
        Some(apart.checked_mul(2)? <= unit)
    };
    apart().unwrap_or(false)
}
