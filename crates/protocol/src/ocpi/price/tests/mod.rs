//! The specification's own examples as figures, one vector for each rule beside them, and properties.

mod documents;
mod properties;
mod rules;
mod specification;

use super::*;
use serde_json::{Value, json};

/// A tariff of these elements, with whatever else is given.
fn tariff(elements: &Value, more: &Value) -> String {
    let mut tariff = json!({
        "country_code": "DE", "party_id": "ALL", "id": "T1", "currency": "EUR", "elements": elements,
        "last_updated": "2018-12-17T11:44:10Z"
    });
    merge(&mut tariff, more);
    tariff.to_string()
}

/// An element: its components as (type, price, vat, step), and its restrictions.
fn element(components: &[(&str, f64, Option<f64>, u32)], restrictions: Value) -> Value {
    let components: Vec<Value> = components
        .iter()
        .map(|(kind, price, vat, step)| json!({"type": kind, "price": price, "vat": vat, "step_size": step}))
        .collect();
    json!({"price_components": components, "restrictions": restrictions})
}

/// A CDR of periods as (start, dimensions), in Berlin.
fn cdr(periods: &[(&str, Value)], end: &str) -> String {
    let start = periods.first().unwrap().0;
    let periods: Vec<Value> = periods
        .iter()
        .map(|(start, dimensions)| {
            let dimensions: Vec<Value> = dimensions
                .as_object()
                .unwrap()
                .iter()
                .map(|(kind, volume)| json!({"type": kind, "volume": volume}))
                .collect();
            json!({"start_date_time": start, "dimensions": dimensions, "tariff_id": "T1"})
        })
        .collect();
    json!({
        "country_code": "DE", "party_id": "ALL", "id": "C1", "start_date_time": start, "end_date_time": end,
        "cdr_token": {"country_code": "DE", "party_id": "TNM", "uid": "1", "type": "RFID", "contract_id": "DE1"},
        "auth_method": "WHITELIST",
        "cdr_location": {
            "id": "L1", "address": "A 1", "city": "Berlin", "country": "DEU",
            "coordinates": {"latitude": "52.5", "longitude": "13.4"}, "evse_uid": "1", "evse_id": "DE*ALL*E1",
            "connector_id": "1", "connector_standard": "IEC_62196_T2", "connector_format": "SOCKET",
            "connector_power_type": "AC_3_PHASE"
        },
        "currency": "EUR", "charging_periods": periods, "total_cost": {"excl_vat": 0}, "total_energy": 0,
        "total_time": 0, "last_updated": end
    })
    .to_string()
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        into[key] = value.clone();
    }
}

fn priced(tariff: &str, cdr: &str) -> PricedCdr {
    price_documents(tariff, cdr, None).unwrap_or_else(|error| panic!("{:?} {error}", error.document))
}

/// Total before and after tax.
fn total(tariff: &str, cdr: &str) -> (String, String) {
    shown(priced(tariff, cdr).total_cost)
}

fn shown(cost: Cost) -> (String, String) {
    (cost.excl_vat.to_string(), cost.incl_vat.to_string())
}

fn eur(excl: &str, incl: &str) -> (String, String) {
    (excl.to_owned(), incl.to_owned())
}
