//! Charge records as CDR objects of OCPI 2.2.1 (chapter 10 of the specification), with exact decimals.
//!
//! The record says what was metered and billed; [`CdrTerms`] says what OCPI wants beyond it. Where a field's length
//! is bounded, longer ids are cut and end with 16 hex digits of their SHA-256, so that they stay apart. What follows
//! from a record that is not billed in full is in `remark`. The mapping is described in
//! `docs/reference/charge-records.md`.

mod json;
mod periods;

use chargeplane_actors::ports::RecordId;
use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Priced, SLOTS, Tariff};
use chargeplane_domain::units::{MONEY_SCALE, Money, Timestamp, WattHours};
use json::{Object, array};
use sha2::{Digest, Sha256};

/// What a CDR says beyond its record: who the operator is in the roaming network, and where stations are when nothing
/// more is known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdrTerms {
    /// ISO 3166-1 alpha-2 code of the country the operator acts in.
    pub country_code: String,
    /// The operator's three characters in that country.
    pub party_id: String,
    /// ISO 3166-1 alpha-3 code of the country the stations are in.
    pub country: String,
    /// Latitude of stations, decimal degrees.
    pub latitude: String,
    /// Longitude of stations, decimal degrees.
    pub longitude: String,
    /// OCPI's ConnectorType, such as `GBT_DC`.
    pub connector_standard: String,
    /// OCPI's ConnectorFormat: `SOCKET` or `CABLE`.
    pub connector_format: String,
    /// OCPI's PowerType, such as `DC`.
    pub power_type: String,
}

impl Default for CdrTerms {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            country_code: text("CN"),
            party_id: text("CPL"),
            country: text("CHN"),
            latitude: text("0.000000"),
            longitude: text("0.000000"),
            connector_standard: text("GBT_DC"),
            connector_format: text("CABLE"),
            power_type: text("DC"),
        }
    }
}

impl CdrTerms {
    /// What is wrong, with the name of the field and what to write; empty when everything can be used.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut need = |ok: bool, field: &'static str, advice: &str| {
            if !ok {
                wrong.push((field, format!("write {advice}")));
            }
        };
        let letters = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_uppercase());
        let party =
            self.party_id.len() == 3 && self.party_id.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        need(letters(&self.country_code, 2), "country_code", "two capital letters of ISO 3166, such as CN");
        need(party, "party_id", "three capital letters or digits");
        need(letters(&self.country, 3), "country", "three capital letters of ISO 3166, such as CHN");
        need(degrees(&self.latitude, 2, 90), "latitude", "degrees with 5 to 7 decimals, such as 31.298886");
        need(degrees(&self.longitude, 3, 180), "longitude", "degrees with 5 to 7 decimals, such as 120.585316");
        need(
            CONNECTORS.contains(&self.connector_standard.as_str()),
            "connector_standard",
            &format!("one of {}", CONNECTORS.join(", ")),
        );
        need(FORMATS.contains(&self.connector_format.as_str()), "connector_format", "SOCKET or CABLE");
        need(POWERS.contains(&self.power_type.as_str()), "power_type", &format!("one of {}", POWERS.join(", ")));
        wrong
    }
}

/// OCPI's pattern of a coordinate, and its bound.
fn degrees(text: &str, digits: usize, most: u32) -> bool {
    let Some((whole, part)) = text.strip_prefix('-').unwrap_or(text).split_once('.') else { return false };
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let shaped = (1..=digits).contains(&whole.len()) && (5..=7).contains(&part.len());
    let zero = part.bytes().all(|b| b == b'0');
    shaped
        && all_digits(whole)
        && all_digits(part)
        && whole.parse::<u32>().is_ok_and(|whole| whole < most || whole == most && zero)
}

/// ConnectorType of OCPI 2.2.1.
const CONNECTORS: &[&str] = &[
    "CHADEMO",
    "CHAOJI",
    "DOMESTIC_A",
    "DOMESTIC_B",
    "DOMESTIC_C",
    "DOMESTIC_D",
    "DOMESTIC_E",
    "DOMESTIC_F",
    "DOMESTIC_G",
    "DOMESTIC_H",
    "DOMESTIC_I",
    "DOMESTIC_J",
    "DOMESTIC_K",
    "DOMESTIC_L",
    "DOMESTIC_M",
    "DOMESTIC_N",
    "DOMESTIC_O",
    "GBT_AC",
    "GBT_DC",
    "IEC_60309_2_single_16",
    "IEC_60309_2_three_16",
    "IEC_60309_2_three_32",
    "IEC_60309_2_three_64",
    "IEC_62196_T1",
    "IEC_62196_T1_COMBO",
    "IEC_62196_T2",
    "IEC_62196_T2_COMBO",
    "IEC_62196_T3A",
    "IEC_62196_T3C",
    "NEMA_5_20",
    "NEMA_6_30",
    "NEMA_6_50",
    "NEMA_10_30",
    "NEMA_10_50",
    "NEMA_14_30",
    "NEMA_14_50",
    "PANTOGRAPH_BOTTOM_UP",
    "PANTOGRAPH_TOP_DOWN",
    "TESLA_R",
    "TESLA_S",
];

/// ConnectorFormat of OCPI 2.2.1.
const FORMATS: &[&str] = &["SOCKET", "CABLE"];

/// PowerType of OCPI 2.2.1.
const POWERS: &[&str] = &["AC_1_PHASE", "AC_2_PHASE", "AC_2_PHASE_SPLIT", "AC_3_PHASE", "DC"];

/// The CDR of a record, as JSON.
pub(super) fn cdr(record: &ChargeRecord, terms: &CdrTerms) -> String {
    let mut cdr = Object::new();
    cdr.text("country_code", &terms.country_code);
    cdr.text("party_id", &terms.party_id);
    cdr.text("id", &RecordId::of(&record.session).to_string());
    cdr.text("start_date_time", &moment(record.started_at));
    cdr.text("end_date_time", &moment(record.ended_at.max(record.started_at)));
    cdr.text("session_id", &fitted(record.session.as_str(), 36));
    cdr.raw("cdr_token", &token(record, terms));
    // The account of this operator is asked at every start.
    cdr.text("auth_method", "AUTH_REQUEST");
    cdr.raw("cdr_location", &location(record, terms));
    cdr.text("currency", record.currency.as_str());
    cdr.raw("tariffs", &format!("[{}]", tariff(record, terms)));
    cdr.raw("charging_periods", &charging_periods(record));
    cdr.raw("total_cost", &price(record.billed));
    cdr.raw("total_energy", &kwh(record.energy.0));
    let costs = Costs::of(record);
    if costs.fixed != Money::ZERO {
        cdr.raw("total_fixed_cost", &price(costs.fixed));
    }
    cdr.raw("total_energy_cost", &price(costs.energy));
    cdr.raw("total_time", &hours(periods::length(record)));
    if record.tariff.fees.is_timed() {
        cdr.raw("total_time_cost", &price(costs.time));
        cdr.raw("total_parking_time", &hours(periods::parking(record)));
        cdr.raw("total_parking_cost", &price(costs.parking));
    }
    cdr.text("remark", &remark(record));
    cdr.text("last_updated", &moment(record.ended_at));
    cdr.finish()
}

/// What the driver paid, by OCPI's dimensions; together `billed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Costs {
    /// Energy and service: both are prices of a kWh.
    energy: Money,
    /// The flat fee, and what the least price of a session asks for beyond the others.
    fixed: Money,
    time: Money,
    parking: Money,
}

impl Costs {
    /// What was billed pays the energy first and the fees last. Of the fees the fixed ones are known; idle time has its
    /// own rounded price, and the rest of the fees, which were rounded together, is charging time.
    fn of(record: &ChargeRecord) -> Self {
        let ChargeRecord { energy_amount, service_amount, fees_amount, tariff, by_period, time, .. } = record;
        let whole = Priced { energy: *energy_amount, service: *service_amount, fees: *fees_amount };
        let paid = whole.capped(record.billed);
        let so_far = tariff.price(by_period, time);
        let lifted = tariff.final_price(by_period, time).fees.saturating_sub(so_far.fees);
        let idle = MeteredTime { charging_ms: 0, idle_ms: time.idle_ms };
        let uncapped = Tariff { fees: Fees { max: None, ..tariff.fees }, ..tariff.clone() };
        let idle = uncapped.price(&[WattHours::ZERO; PERIODS], &idle).fees;
        let flat = if record.energy.is_positive() { tariff.fees.flat } else { Money::ZERO };
        let fixed = paid.fees.min(flat.saturating_add(lifted));
        let rest = paid.fees.saturating_sub(fixed);
        let parking = if tariff.fees.per_minute.is_positive() { rest.min(idle) } else { rest };
        let energy = paid.energy.saturating_add(paid.service);
        Self { energy, fixed, time: rest.saturating_sub(parking), parking }
    }
}

fn token(record: &ChargeRecord, terms: &CdrTerms) -> String {
    let account = fitted(record.account.local(), 36);
    let mut token = Object::new();
    token.text("country_code", &terms.country_code);
    token.text("party_id", &terms.party_id);
    token.text("uid", &account);
    token.text("type", "OTHER");
    token.text("contract_id", &account);
    token.finish()
}

fn location(record: &ChargeRecord, terms: &CdrTerms) -> String {
    let city = if record.city.trim().is_empty() { "unknown" } else { &record.city };
    let mut coordinates = Object::new();
    coordinates.text("latitude", &terms.latitude);
    coordinates.text("longitude", &terms.longitude);
    let mut location = Object::new();
    location.text("id", &fitted(record.station.local(), 36));
    location.text("name", &shortened(record.station.local(), 255));
    location.text("address", &shortened(record.station.local(), 45));
    location.text("city", &shortened(city, 45));
    location.text("country", &terms.country);
    location.raw("coordinates", &coordinates.finish());
    location.text("evse_uid", &fitted(record.charger.local(), 36));
    location.text("evse_id", &evse_id(record, terms));
    location.text("connector_id", &record.connector.0.to_string());
    location.text("connector_standard", &terms.connector_standard);
    location.text("connector_format", &terms.connector_format);
    location.text("connector_power_type", &terms.power_type);
    location.finish()
}

/// As eMI3 writes it: country, party, `E`, and what the operator calls it, in letters, digits and `*`.
fn evse_id(record: &ChargeRecord, terms: &CdrTerms) -> String {
    let own = fitted(record.charger.local(), 39);
    let own = own.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '*' }).collect::<String>();
    format!("{}*{}*E{own}", terms.country_code, terms.party_id)
}

/// What the receiver cannot see in the numbers.
fn remark(record: &ChargeRecord) -> String {
    let mut remark = format!("energy {}, service {}", record.energy_amount, record.service_amount);
    if record.fees_amount != Money::ZERO {
        remark.push_str(&format!(", fees {}", record.fees_amount));
    }
    if record.overshoot != Money::ZERO {
        remark.push_str(&format!("; {} of it borne by the operator", record.overshoot));
    }
    remark.push_str(&format!("; stopped by: {}", record.stop_reason.code()));
    shortened(&remark, 255)
}

fn charging_periods(record: &ChargeRecord) -> String {
    array(periods::of(record).iter().map(|period| {
        let dimension = |kind: &str, volume: &str| {
            let mut dimension = Object::new();
            dimension.text("type", kind);
            dimension.raw("volume", volume);
            dimension.finish()
        };
        let mut dimensions = vec![dimension("ENERGY", &kwh(period.energy.0)), dimension("TIME", &hours(period.time))];
        if period.parking > 0 {
            dimensions.push(dimension("PARKING_TIME", &hours(period.parking)));
        }
        let mut object = Object::new();
        object.text("start_date_time", &moment(period.from));
        object.raw("dimensions", &array(dimensions));
        object.text("tariff_id", &tariff_id(&record.tariff));
        object.finish()
    }))
}

/// The tariff of a record: a price a kWh for every stretch of the local day, and one element with the fees. A grace
/// has no place in it.
fn tariff(record: &ChargeRecord, terms: &CdrTerms) -> String {
    let elements = stretches(&record.tariff).into_iter().map(|(from, to, period)| {
        let price = record.tariff.prices.get(period).map_or(0, |p| p.energy.saturating_add(p.service).0);
        let mut component = Object::new();
        component.text("type", "ENERGY");
        component.raw("price", &Money(price).to_string());
        component.raw("step_size", "1");
        let mut element = Object::new();
        element.raw("price_components", &array([component.finish()]));
        if (from, to) != (0, SLOTS) {
            let mut hours = Object::new();
            hours.text("start_time", &clock(from));
            hours.text("end_time", &clock(to));
            element.raw("restrictions", &hours.finish());
        }
        element.finish()
    });
    let mut tariff = Object::new();
    tariff.text("country_code", &terms.country_code);
    tariff.text("party_id", &terms.party_id);
    tariff.text("id", &tariff_id(&record.tariff));
    tariff.text("currency", record.tariff.currency.as_str());
    let fees = record.tariff.fees;
    if !fees.min.is_zero() {
        tariff.raw("min_price", &price(fees.min));
    }
    if let Some(max) = fees.max {
        tariff.raw("max_price", &price(max));
    }
    tariff.raw("elements", &array(elements.chain(fee_element(&fees))));
    tariff.text("last_updated", &moment(record.started_at));
    tariff.finish()
}

/// The element that is in force at all times; none without fees.
fn fee_element(fees: &Fees) -> Option<String> {
    // OCPI's times are a price an hour, counted by the second.
    let an_hour = |a_minute: Money| Money(a_minute.0.saturating_mul(60));
    let prices =
        [("FLAT", fees.flat), ("TIME", an_hour(fees.per_minute)), ("PARKING_TIME", an_hour(fees.idle_per_minute))];
    let components: Vec<String> = prices
        .into_iter()
        .filter(|(_, price)| !price.is_zero())
        .map(|(kind, price)| {
            let mut component = Object::new();
            component.text("type", kind);
            component.raw("price", &price.to_string());
            component.raw("step_size", "1");
            component.finish()
        })
        .collect();
    let mut element = Object::new();
    element.raw("price_components", &array(components.iter().cloned()));
    (!components.is_empty()).then(|| element.finish())
}

/// From slot, to slot, period: the stretches of the day in which the period stays the same.
fn stretches(tariff: &Tariff) -> Vec<(usize, usize, usize)> {
    let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
    for slot in 0..SLOTS {
        let period = tariff.slots.period(slot).min(PERIODS - 1);
        match stretches.last_mut() {
            Some((_, to, last)) if *last == period => *to = slot + 1,
            _ => stretches.push((slot, slot + 1, period)),
        }
    }
    stretches
}

/// The wall clock at a slot's beginning; OCPI writes the day's end as its beginning.
fn clock(slot: usize) -> String {
    let slot = slot % SLOTS;
    format!("{:02}:{}", slot / 2, if slot.is_multiple_of(2) { "00" } else { "30" })
}

/// A name for a tariff: the same for the same prices.
fn tariff_id(tariff: &Tariff) -> String {
    let prices = tariff.prices.map(|price| format!("{}+{}", price.energy, price.service)).join(" ");
    let Fees { flat, per_minute, idle_per_minute, idle_grace_s, min, max } = tariff.fees;
    let fees = match tariff.fees.is_none() {
        true => String::new(),
        false => format!(" {flat} {per_minute} {idle_per_minute} {idle_grace_s} {min} {max:?}"),
    };
    format!("tou-{}", hash(&format!("{} {prices} {}{fees}", tariff.currency, tariff.slots)))
}

/// 16 hex digits of a text's SHA-256.
fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// An id in at most `most` characters (at least 18).
fn fitted(id: &str, most: usize) -> String {
    if id.len() <= most {
        return id.to_owned();
    }
    let kept: String = id.chars().take(most.saturating_sub(17)).collect();
    format!("{kept}-{}", hash(id))
}

/// A text in at most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// RFC 3339 in UTC in 24 characters; moments outside its years are held at their bounds.
fn moment(at: Timestamp) -> String {
    crate::extract::rfc3339(Timestamp(at.0.clamp(-62_135_596_800_000, 253_402_300_799_999)))
}

fn price(amount: Money) -> String {
    let mut price = Object::new();
    price.raw("excl_vat", &amount.to_string());
    price.finish()
}

/// Wh as kWh: exact.
fn kwh(wh: i64) -> String {
    decimal(wh, 1_000, 3)
}

/// Hours with four decimals, from 1/10,000 of an hour.
fn hours(parts: i64) -> String {
    decimal(parts, MONEY_SCALE, 4)
}

fn decimal(value: i64, scale: i64, places: usize) -> String {
    let (value, scale) = (i128::from(value), i128::from(scale));
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}.{:0places$}", value.abs() / scale, value.abs() % scale)
}

#[cfg(test)]
pub(super) mod tests;
