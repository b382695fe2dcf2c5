use super::*;
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::month::Month;
use chargeplane_domain::session::StopReason;
use chargeplane_domain::tariff::{Price, Slots, zone};
use chargeplane_domain::units::Currency;
use proptest::prelude::*;
use serde_json::Value;

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

/// 11:30 to 12:30 in Shanghai: half an hour in the peak, half an hour in the flat period.
pub(crate) fn record() -> ChargeRecord {
    let price = |energy| Price { energy: Money(energy), service: Money(3_000) };
    let slots: String = (0..SLOTS).map(|slot| if (16..24).contains(&slot) { '1' } else { '2' }).collect();
    let zone = "Asia/Shanghai";
    let ended_at = at("2026-01-05T04:30:00Z");
    ChargeRecord {
        session: "c1.7".parse().unwrap(),
        account: "a1".parse().unwrap(),
        station: "s1".parse().unwrap(),
        charger: "c1".parse().unwrap(),
        connector: ConnectorNo(2),
        operator: "op".parse().unwrap(),
        city: "苏州 Suzhou".to_owned(),
        time_zone: zone.to_owned(),
        started_at: at("2026-01-05T03:30:00Z"),
        ended_at,
        month: Month::of(ended_at, &zone::parse(zone).unwrap()),
        meter_start: WattHours(1_000),
        meter_stop: WattHours(12_000),
        energy: WattHours(11_000),
        billed_wh: WattHours(11_000),
        overshoot_wh: WattHours(0),
        by_period: [WattHours(0), WattHours(4_000), WattHours(7_000), WattHours(0)],
        time: MeteredTime { charging_ms: 3_300_000, idle_ms: 300_000 },
        energy_amount: Money(100_000),
        service_amount: Money(33_000),
        fees_amount: Money(0),
        total: Money(133_000),
        billed: Money(133_000),
        overshoot: Money(0),
        currency: Currency::new("CNY").unwrap(),
        stop_reason: StopReason::TargetReached,
        tariff: Tariff {
            currency: Currency::new("CNY").unwrap(),
            prices: [price(12_000), price(10_000), price(7_000), price(3_000)],
            slots: Slots::try_from(slots).unwrap(),
            fees: Fees::NONE,
        },
    }
}

/// A field's name and its rule.
type Field<'a> = (&'a str, &'a dyn Fn(&Value) -> bool);

/// The field rules of OCPI 2.2.1 for what is written here: every field is there, and no other.
fn check(value: &Value, fields: &[Field<'_>]) {
    let object = value.as_object().unwrap();
    for (name, rule) in fields {
        let field = object.get(*name).unwrap_or_else(|| panic!("{name} is missing in {value}"));
        assert!(rule(field), "{name}: {field}");
    }
    for name in object.keys() {
        assert!(fields.iter().any(|(known, _)| known == name), "{name} is no field of OCPI's");
    }
}

fn string(most: usize) -> impl Fn(&Value) -> bool {
    move |value| value.as_str().is_some_and(|text| (1..=most).contains(&text.chars().count()))
}

fn ci_string(most: usize) -> impl Fn(&Value) -> bool {
    move |value| {
        let printable = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        value.as_str().is_some_and(|text| (1..=most).contains(&text.len()) && printable(text))
    }
}

fn date_time(value: &Value) -> bool {
    value.as_str().is_some_and(|t| t.len() <= 25 && t.ends_with('Z') && t.parse::<jiff::Timestamp>().is_ok())
}

fn one_of(values: &'static [&'static str]) -> impl Fn(&Value) -> bool {
    move |value| value.as_str().is_some_and(|text| values.contains(&text))
}

fn number(value: &Value) -> bool {
    value.is_number()
}

fn check_price(value: &Value) -> bool {
    check(value, &[("excl_vat", &number)]);
    true
}

fn check_period(value: &Value) -> bool {
    let dimensions = |value: &Value| {
        value.as_array().is_some_and(|list| {
            list.iter()
                .for_each(|d| check(d, &[("type", &one_of(&["ENERGY", "TIME", "PARKING_TIME"])), ("volume", &number)]));
            !list.is_empty()
        })
    };
    check(value, &[("start_date_time", &date_time), ("dimensions", &dimensions), ("tariff_id", &ci_string(36))]);
    true
}

fn check_tariff(value: &Value) -> bool {
    let clock = |value: &Value| value.as_str().is_some_and(|t| t.len() == 5 && t.as_bytes()[2] == b':');
    let hours = |value: &Value| {
        check(value, &[("start_time", &clock), ("end_time", &clock)]);
        true
    };
    let components = |value: &Value| {
        let list = value.as_array().unwrap();
        let fields: &[Field<'_>] = &[
            ("type", &one_of(&["ENERGY", "FLAT", "TIME", "PARKING_TIME"])),
            ("price", &number),
            ("step_size", &number),
        ];
        list.iter().for_each(|component| check(component, fields));
        !list.is_empty()
    };
    let (country, party, id, code) = (ci_string(2), ci_string(3), ci_string(36), string(3));
    let elements = |value: &Value| {
        let list = value.as_array().unwrap();
        for element in list {
            let mut fields: Vec<Field<'_>> = vec![("price_components", &components)];
            if element.get("restrictions").is_some() {
                fields.push(("restrictions", &hours));
            }
            check(element, &fields);
        }
        !list.is_empty()
    };
    let mut fields: Vec<Field<'_>> = vec![
        ("country_code", &country),
        ("party_id", &party),
        ("id", &id),
        ("currency", &code),
        ("elements", &elements),
        ("last_updated", &date_time),
    ];
    let bounds: [Field<'_>; 2] = [("min_price", &check_price), ("max_price", &check_price)];
    fields.extend(bounds.into_iter().filter(|(name, _)| value.get(*name).is_some()));
    check(value, &fields);
    true
}

fn check_cdr(cdr: &Value) {
    let coordinates = |value: &Value| {
        check(value, &[("latitude", &string(10)), ("longitude", &string(11))]);
        true
    };
    let token = |value: &Value| {
        let fields: &[Field<'_>] = &[
            ("country_code", &ci_string(2)),
            ("party_id", &ci_string(3)),
            ("uid", &ci_string(36)),
            ("type", &one_of(&["AD_HOC_USER", "APP_USER", "OTHER", "RFID"])),
            ("contract_id", &ci_string(36)),
        ];
        check(value, fields);
        true
    };
    let location = |value: &Value| {
        let fields: &[Field<'_>] = &[
            ("id", &ci_string(36)),
            ("name", &string(255)),
            ("address", &string(45)),
            ("city", &string(45)),
            ("country", &string(3)),
            ("coordinates", &coordinates),
            ("evse_uid", &ci_string(36)),
            ("evse_id", &ci_string(48)),
            ("connector_id", &ci_string(36)),
            ("connector_standard", &one_of(CONNECTORS)),
            ("connector_format", &one_of(FORMATS)),
            ("connector_power_type", &one_of(POWERS)),
        ];
        check(value, fields);
        true
    };
    let periods =
        |value: &Value| value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(check_period));
    let tariffs = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(check_tariff));
    let (country, party, id, session) = (ci_string(2), ci_string(3), ci_string(39), ci_string(36));
    let (method, code, text) = (one_of(&["AUTH_REQUEST", "COMMAND", "WHITELIST"]), string(3), string(255));
    let mut fields: Vec<Field<'_>> = vec![
        ("country_code", &country),
        ("party_id", &party),
        ("id", &id),
        ("start_date_time", &date_time),
        ("end_date_time", &date_time),
        ("session_id", &session),
        ("cdr_token", &token),
        ("auth_method", &method),
        ("cdr_location", &location),
        ("currency", &code),
        ("tariffs", &tariffs),
        ("charging_periods", &periods),
        ("total_cost", &check_price),
        ("total_energy", &number),
        ("total_energy_cost", &check_price),
        ("total_time", &number),
        ("remark", &text),
        ("last_updated", &date_time),
    ];
    let optional: [Field<'_>; 4] = [
        ("total_fixed_cost", &check_price),
        ("total_time_cost", &check_price),
        ("total_parking_time", &number),
        ("total_parking_cost", &check_price),
    ];
    fields.extend(optional.into_iter().filter(|(name, _)| cdr.get(*name).is_some()));
    check(cdr, &fields);
}

#[test]
fn a_cdr_has_the_fields_of_ocpi_and_the_record_s_numbers_digit_by_digit() {
    let text = cdr(&record(), &CdrTerms::default());
    check_cdr(&serde_json::from_str(&text).unwrap());
    for part in [
        r#""total_cost":{"excl_vat":13.3000}"#,
        r#""total_energy":11.000"#,
        r#""total_time":1.0000"#,
        r#""evse_id":"CN*CPL*Ec1""#,
        r#"{"start_date_time":"2026-01-05T03:30:00.000Z","dimensions":[{"type":"ENERGY","volume":4.000},{"type":"TIME","volume":0.5000}]"#,
        r#"{"start_date_time":"2026-01-05T04:00:00.000Z","dimensions":[{"type":"ENERGY","volume":7.000},{"type":"TIME","volume":0.5000}]"#,
        r#"{"price_components":[{"type":"ENERGY","price":1.3000,"step_size":1}],"restrictions":{"start_time":"08:00","end_time":"12:00"}}"#,
        r#"{"start_time":"12:00","end_time":"00:00"}"#,
        r#""remark":"energy 10.0000, service 3.3000; stopped by: target_reached""#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// The record under a tariff with fees: 1.00 once, 0.02 a minute, 0.60 an idle minute after two.
fn with_fees() -> ChargeRecord {
    let mut record = record();
    record.tariff.fees = Fees {
        flat: Money(10_000),
        per_minute: Money(200),
        idle_per_minute: Money(6_000),
        idle_grace_s: 120,
        min: Money(20_000),
        max: Some(Money(500_000)),
    };
    record.fees_amount = record.tariff.final_price(&record.by_period, &record.time).fees;
    let total = record.energy_amount.saturating_add(record.service_amount).saturating_add(record.fees_amount);
    (record.total, record.billed) = (total, total);
    record
}

#[test]
fn fees_are_in_their_own_fields_of_the_cdr() {
    let record = with_fees();
    let text = cdr(&record, &CdrTerms::default());
    check_cdr(&serde_json::from_str(&text).unwrap());
    for part in [
        // 10.00 + 3.30 + 1.00 + 55 x 0.02 + 3 x 0.60.
        r#""total_cost":{"excl_vat":17.2000}"#,
        r#""total_energy_cost":{"excl_vat":13.3000}"#,
        r#""total_fixed_cost":{"excl_vat":1.0000}"#,
        r#""total_time_cost":{"excl_vat":1.1000}"#,
        r#""total_parking_time":0.0500,"total_parking_cost":{"excl_vat":1.8000}"#,
        r#"{"type":"TIME","volume":0.4167},{"type":"PARKING_TIME","volume":0.0500}"#,
        r#"{"type":"FLAT","price":1.0000,"step_size":1},{"type":"TIME","price":1.2000,"step_size":1},{"type":"PARKING_TIME","price":36.0000,"step_size":1}"#,
        r#""min_price":{"excl_vat":2.0000},"max_price":{"excl_vat":50.0000}"#,
        r#""remark":"energy 10.0000, service 3.3000, fees 3.9000; stopped by: target_reached""#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_price_that_was_in_force_twice_makes_one_charging_period() {
    let mut record = record();
    // From the flat period of the morning through the peak into the flat period again.
    record.started_at = at("2026-01-04T23:30:00Z");
    let periods = periods::of(&record);
    assert_eq!(periods.len(), 1);
    assert_eq!((periods[0].energy, periods[0].time), (WattHours(11_000), 50_000));
    // Unless nothing was charged in it: then the other stretches are known.
    record.by_period = [WattHours(0), WattHours(11_000), WattHours(0), WattHours(0)];
    let energies: Vec<_> = periods::of(&record).iter().map(|period| period.energy.0).collect();
    assert_eq!(energies, [0, 11_000, 0]);
}

#[test]
fn terms_are_held_against_ocpi_s_field_rules() {
    assert_eq!(CdrTerms::default().check(), []);
    let text = str::to_owned;
    let wrong = CdrTerms {
        country_code: text("cn"),
        party_id: text("ABCD"),
        country: text("CN"),
        latitude: text("91.00000"),
        longitude: text("120.5"),
        connector_standard: text("SCHUKO"),
        connector_format: text("PLUG"),
        power_type: text("AC"),
    };
    assert_eq!(wrong.check().len(), 8);
    assert!(degrees("-90.000000", 2, 90) && !degrees("90.000001", 2, 90) && degrees("180.00000", 3, 180));
}

proptest! {
    /// Whatever the record: the CDR keeps OCPI's rules, and its periods add up to its totals.
    #[test]
    fn every_record_is_a_valid_cdr(
        ids in proptest::array::uniform3("[A-Za-z0-9._-]{1,64}"),
        city in any::<String>(),
        (start, length) in (-9_000_000_000_000i64..9_000_000_000_000, -5_000_000i64..900_000_000),
        by_period in proptest::array::uniform4(0i64..100_000),
        zone in proptest::sample::select(vec!["Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "nowhere"]),
    ) {
        let mut record = record();
        record.session = format!("{}/{}", ids[0], ids[1]).parse().unwrap();
        record.charger = ids[1].parse().unwrap();
        record.station = ids[2].parse().unwrap();
        record.account = ids[0].parse().unwrap();
        record.city = city;
        record.time_zone = zone.to_owned();
        (record.started_at, record.ended_at) = (Timestamp(start), Timestamp(start + length));
        record.by_period = by_period.map(WattHours);
        record.energy = WattHours(by_period.iter().sum());
        check_cdr(&serde_json::from_str(&cdr(&record, &CdrTerms::default())).unwrap());
        let periods = periods::of(&record);
        prop_assert_eq!(periods.iter().map(|period| period.energy.0).sum::<i64>(), record.energy.0);
        prop_assert_eq!(periods.iter().map(|period| period.time).sum::<i64>(), periods::length(&record));
        prop_assert!(periods.windows(2).all(|pair| pair[0].from < pair[1].from));
    }

    /// Whatever was paid and however much of it: the parts of the cost add up to it.
    #[test]
    fn the_parts_of_the_cost_are_what_was_billed(
        by_period in proptest::array::uniform4(0i64..9_000),
        (charging_ms, idle_ms) in (0i64..9_000_000, 0i64..9_000_000),
        (min, max) in (0i64..90_000, proptest::option::of(90_000i64..200_000)),
        (per_minute, idle_per_minute) in (0i64..900, 0i64..9_000),
        share in 0i64..=100,
    ) {
        let mut record = with_fees();
        record.by_period = by_period.map(WattHours);
        record.energy = WattHours(by_period.iter().sum());
        record.time = MeteredTime { charging_ms, idle_ms };
        let fees = &mut record.tariff.fees;
        (fees.per_minute, fees.idle_per_minute) = (Money(per_minute), Money(idle_per_minute));
        (fees.min, fees.max) = (Money(min), max.map(Money));
        let price = record.tariff.final_price(&record.by_period, &record.time);
        (record.energy_amount, record.service_amount) = (price.energy, price.service);
        (record.fees_amount, record.total) = (price.fees, price.total());
        record.billed = Money(price.total().0 * share / 100);
        let Costs { energy, fixed, time, parking } = Costs::of(&record);
        prop_assert_eq!(energy.0 + fixed.0 + time.0 + parking.0, record.billed.0);
        prop_assert!([energy, fixed, time, parking].iter().all(|part| part.0 >= 0));
        check_cdr(&serde_json::from_str(&cdr(&record, &CdrTerms::default())).unwrap());
    }

    #[test]
    fn an_id_that_is_too_long_stays_apart_from_others(a in "[a-z]{37,64}", b in "[a-z]{37,64}") {
        prop_assert_eq!(a == b, fitted(&a, 36) == fitted(&b, 36));
        prop_assert_eq!(fitted(&a, 36).len(), 36);
    }
}
