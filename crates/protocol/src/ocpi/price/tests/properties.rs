//! What holds for any tariff and any session.

use super::*;
use proptest::prelude::*;

/// Start of every session: a Sunday evening in Berlin, hours before the clock is set back.
const START_S: i64 = 1_729_970_000;

/// Restrictions that cut a session anywhere.
fn restrictions() -> impl Strategy<Value = Value> {
    let hour = || (0_u32..24).prop_map(|hour| format!("{hour:02}:00"));
    prop_oneof![
        Just(Value::Null),
        (hour(), hour()).prop_map(|(start, end)| json!({"start_time": start, "end_time": end})),
        (0_u32..30).prop_map(|kwh| json!({"min_kwh": kwh})),
        (0_u32..30).prop_map(|kwh| json!({"max_kwh": kwh})),
        (0_u32..8_000).prop_map(|s| json!({"min_duration": s})),
        (0_u32..8_000).prop_map(|s| json!({"max_duration": s})),
        Just(json!({"day_of_week": ["SUNDAY"]})),
    ]
}

fn elements() -> impl Strategy<Value = Value> {
    let price = || (0_u32..500).prop_map(|cents| f64::from(cents) / 100.0);
    let step = || prop_oneof![Just(1_u32), Just(60), Just(900)];
    let vat = || prop_oneof![Just(None), Just(Some(21.0)), Just(Some(5.2))];
    let one =
        (restrictions(), price(), price(), price(), price(), vat(), step()).prop_map(|(r, e, t, p, f, vat, step)| {
            element(
                &[
                    ("ENERGY", e, vat, step),
                    ("TIME", t, vat, step),
                    ("PARKING_TIME", p, vat, step),
                    ("FLAT", f, None, 1),
                ],
                r,
            )
        });
    proptest::collection::vec(one, 1..5).prop_map(Value::Array)
}

fn at(second: i64) -> String {
    jiff::Timestamp::from_second(START_S + second).unwrap().to_string()
}

/// A session of so many seconds at a constant power, in periods that end at these seconds. A second has a
/// whole number of Wh, so energy splits without a rest; a step of 90 s is 0.025 h, so times do as well.
fn session(ends: &[i64], wh_per_second: i64) -> String {
    let mut start = 0;
    let mut periods = Vec::new();
    for end in ends {
        let kwh: serde_json::Number = format!("{}e-3", (end - start) * wh_per_second).parse().unwrap();
        let hours: serde_json::Number = format!("{}e-3", (end - start) / 90 * 25).parse().unwrap();
        periods.push((at(start), json!({"ENERGY": kwh, "TIME": hours})));
        start = *end;
    }
    let periods: Vec<(&str, Value)> = periods.iter().map(|(start, d)| (start.as_str(), d.clone())).collect();
    cdr(&periods, &at(start))
}

proptest! {
    /// However a session is cut into periods, it costs the same.
    #[test]
    fn more_periods_do_not_change_the_price(
        elements in elements(),
        length in 1_i64..200,
        cuts in proptest::collection::btree_set(1_i64..200, 0..8),
        power in 1_i64..4,
    ) {
        let t = tariff(&elements, &json!({}));
        let whole = priced(&t, &session(&[length * 90], power));
        let ends: Vec<i64> = cuts.into_iter().filter(|c| *c < length).chain([length]).map(|c| c * 90).collect();
        let split = priced(&t, &session(&ends, power));
        prop_assert_eq!(whole.total_cost, split.total_cost);
        prop_assert_eq!(whole.components, split.components);
    }

    /// The total is the sum of the components, before limits; rounding each apart moves it by half a unit at most.
    #[test]
    fn the_total_is_the_sum_of_the_components(elements in elements(), length in 1_i64..200) {
        let priced = priced(&tariff(&elements, &json!({})), &session(&[length * 90], 2));
        let sum: i128 = priced.components.iter().map(|c| c.cost.excl_vat.0).sum();
        let apart = (sum - priced.total_cost.excl_vat.0).unsigned_abs() as usize;
        prop_assert!(apart <= priced.components.len());
        let parts = [priced.total_energy_cost, priced.total_time_cost, priced.total_parking_cost, priced.total_fixed_cost];
        let sum: i128 = parts.iter().map(|c| c.incl_vat.0).sum();
        prop_assert!((sum - priced.total_cost.incl_vat.0).abs() <= 4);
    }

    /// More energy never costs less, where prices do not depend on the energy.
    #[test]
    fn more_energy_never_costs_less(price in 0_u32..500, step in 1_u32..1_000, less in 0_u32..100_000, more in 0_u32..10_000) {
        let t = tariff(&json!([element(&[("ENERGY", f64::from(price) / 100.0, Some(7.0), step)], Value::Null)]), &json!({}));
        let of = |wh: u32| {
            let kwh: serde_json::Number = format!("{wh}e-3").parse().unwrap();
            priced(&t, &cdr(&[(&at(0), json!({"ENERGY": kwh}))], &at(3_600))).total_cost
        };
        let (less, more) = (of(less), of(less + more));
        prop_assert!(less.excl_vat <= more.excl_vat && less.incl_vat <= more.incl_vat);
    }

    /// Documents with anything anywhere are priced or refused, and nothing else.
    #[test]
    fn mutated_documents_never_panic(
        elements in elements(),
        in_tariff in any::<bool>(),
        at in any::<prop::sample::Index>(),
        with in prop_oneof![
            Just("null".to_owned()), Just("-1".to_owned()), Just("1e23".to_owned()), Just("0.00000000000000000001".to_owned()),
            Just("[]".to_owned()), Just("{}".to_owned()), Just("\"9999-12-31T23:59:59Z\"".to_owned()),
            Just("\"-009999-01-01T00:00:00Z\"".to_owned()), Just("4294967295".to_owned()), Just("\"00:00\"".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()), "[ -~]{0,12}",
        ],
    ) {
        let documents = [tariff(&elements, &json!({"max_price": {"excl_vat": 5}})), session(&[900, 1_800], 3)];
        let mut documents = documents.map(|text| serde_json::from_str::<Value>(&text).unwrap());
        let index = usize::from(!in_tariff);
        let mut leaves = Vec::new();
        paths(&documents[index], String::new(), &mut leaves);
        *documents[index].pointer_mut(&leaves[at.index(leaves.len())]).unwrap() = json!("\u{1}");
        let [t, c] = documents.map(|d| d.to_string().replace("\"\\u0001\"", &with));
        let _ = price_documents(&t, &c, None);
    }

    /// Any text at all.
    #[test]
    fn arbitrary_text_never_panics(t in ".{0,200}", c in ".{0,200}") {
        prop_assert!(price_documents(&t, &c, None).is_err());
    }
}

/// JSON pointers of everything in a document.
fn paths(value: &Value, path: String, into: &mut Vec<String>) {
    match value {
        Value::Array(items) => (0..).zip(items).for_each(|(i, v): (i32, _)| paths(v, format!("{path}/{i}"), into)),
        Value::Object(fields) => fields.iter().for_each(|(k, v)| paths(v, format!("{path}/{k}"), into)),
        _ => {}
    }
    into.push(path);
}
