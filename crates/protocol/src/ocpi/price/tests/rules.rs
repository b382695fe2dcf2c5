//! One vector for each restriction and rule that the specification's examples leave out.

use super::*;

/// Energy at 1 a kWh while the restrictions hold, free otherwise.
fn energy_while(restrictions: Value) -> String {
    tariff(&json!([element(&[("ENERGY", 1.0, None, 1)], restrictions)]), &json!({}))
}

/// What `kwh` cost between two moments, spread evenly.
fn between(tariff: &str, start: &str, end: &str, kwh: f64) -> String {
    total(tariff, &cdr(&[(start, json!({"ENERGY": kwh}))], end)).0
}

#[test]
fn a_window_across_midnight() {
    let t = energy_while(json!({"start_time": "22:00", "end_time": "06:00"}));
    // 21:00 to 07:00 in Berlin: 10 h, 8 of them in the window.
    assert_eq!(between(&t, "2024-01-08T20:00:00Z", "2024-01-09T06:00:00Z", 10.0), "8.0000");
}

#[test]
fn an_end_of_00_00_is_the_end_of_the_day() {
    assert_eq!(
        between(&energy_while(json!({"end_time": "00:00"})), "2024-01-08T20:00:00Z", "2024-01-09T06:00:00Z", 10.0),
        "10.0000"
    );
    let t = energy_while(json!({"start_time": "22:00", "end_time": "00:00"}));
    assert_eq!(between(&t, "2024-01-08T20:00:00Z", "2024-01-09T06:00:00Z", 10.0), "2.0000");
    let t = energy_while(json!({"start_time": "00:00", "end_time": "00:00"}));
    assert_eq!(between(&t, "2024-01-08T20:00:00Z", "2024-01-09T06:00:00Z", 10.0), "10.0000");
}

#[test]
fn a_start_that_is_the_end_is_empty() {
    let t = energy_while(json!({"start_time": "08:00", "end_time": "08:00"}));
    assert_eq!(between(&t, "2024-01-08T20:00:00Z", "2024-01-09T20:00:00Z", 10.0), "0.0000");
}

#[test]
fn dates_are_local_from_the_first_until_before_the_last() {
    let t = energy_while(json!({"start_date": "2024-01-09", "end_date": "2024-01-10"}));
    // Local midnights are 23:00 UTC: from 8th 23:00 to 9th 23:00, 24 of 48 h.
    assert_eq!(between(&t, "2024-01-08T12:00:00Z", "2024-01-10T12:00:00Z", 48.0), "24.0000");
}

#[test]
fn days_of_the_week_change_at_local_midnight() {
    let t = energy_while(json!({"day_of_week": ["TUESDAY"]}));
    assert_eq!(between(&t, "2024-01-08T22:00:00Z", "2024-01-09T00:00:00Z", 2.0), "1.0000");
    let every_day = energy_while(json!({"day_of_week": []}));
    assert_eq!(between(&every_day, "2024-01-08T22:00:00Z", "2024-01-09T00:00:00Z", 2.0), "2.0000");
}

#[test]
fn a_clock_set_forward_skips_an_hour_of_the_window() {
    let t = energy_while(json!({"start_time": "01:00", "end_time": "04:00"}));
    // 31 March 2024, 00:00 to 06:00 in Berlin: five hours, of which 01-02 and 03-04 are in the window.
    assert_eq!(between(&t, "2024-03-30T23:00:00Z", "2024-03-31T04:00:00Z", 5.0), "2.0000");
    // A time that does not exist on that day begins where the clock jumps over it.
    let t = energy_while(json!({"start_time": "02:30", "end_time": "04:00"}));
    assert_eq!(between(&t, "2024-03-30T23:00:00Z", "2024-03-31T04:00:00Z", 5.0), "1.0000");
}

#[test]
fn a_clock_set_back_passes_an_hour_of_the_window_twice() {
    let t = energy_while(json!({"start_time": "02:30", "end_time": "04:00"}));
    // 27 October 2024, 00:00 to 06:00 in Berlin: seven hours; 02:30-03:00 twice, and 03-04.
    assert_eq!(between(&t, "2024-10-26T22:00:00Z", "2024-10-27T05:00:00Z", 7.0), "2.0000");
}

#[test]
fn energy_between_two_amounts() {
    let t = energy_while(json!({"min_kwh": 2.5, "max_kwh": 6}));
    assert_eq!(between(&t, "2024-01-08T12:00:00Z", "2024-01-08T13:00:00Z", 10.0), "3.5000");
    let periods = [
        ("2024-01-08T12:00:00Z", json!({"ENERGY": 2.5})),
        ("2024-01-08T12:10:00Z", json!({"ENERGY": 3.5})),
        ("2024-01-08T13:00:00Z", json!({"ENERGY": 1})),
    ];
    let priced = priced(&t, &cdr(&periods, "2024-01-08T14:00:00Z"));
    assert_eq!(priced.total_cost.excl_vat.to_string(), "3.5000");
    assert!(priced.notes.is_empty(), "a well-made CDR is not cut: {:?}", priced.notes);
}

#[test]
fn durations_count_from_the_start_of_the_session() {
    let t = energy_while(json!({"min_duration": 600, "max_duration": 1800}));
    assert_eq!(between(&t, "2024-01-08T12:00:00Z", "2024-01-08T13:00:00Z", 6.0), "2.0000");
}

#[test]
fn currents_and_powers_are_from_inclusive_to_exclusive() {
    let of = |restriction: &str, dimension: &str, value: f64| {
        let t = energy_while(json!({restriction: 16}));
        total(&t, &cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 1, dimension: value}))], "2024-01-08T13:00:00Z")).0
    };
    for kind in ["current", "power"] {
        let upper = kind.to_uppercase();
        let (min, max) = (format!("min_{kind}"), format!("max_{kind}"));
        let (low, high) = (format!("MIN_{upper}"), format!("MAX_{upper}"));
        assert_eq!([15.999, 16.0, 16.001].map(|v| of(&min, &low, v)), ["0.0000", "1.0000", "1.0000"]);
        assert_eq!([15.999, 16.0, 16.001].map(|v| of(&max, &high, v)), ["1.0000", "0.0000", "0.0000"]);
        // The average stands in for a bound that is not told, and one bound for the other.
        assert_eq!([of(&min, &upper, 15.0), of(&max, &upper, 17.0), of(&max, &low, 17.0)], ["0.0000"; 3]);
    }
}

#[test]
fn a_period_that_does_not_say_its_power_is_noted() {
    let t = energy_while(json!({"max_power": 16}));
    let priced = priced(&t, &cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 1}))], "2024-01-08T13:00:00Z"));
    assert_eq!(priced.total_cost.excl_vat.to_string(), "1.0000");
    assert!(priced.notes.iter().any(|note| note.contains("do not say the power")), "{:?}", priced.notes);
}

#[test]
fn all_restrictions_must_hold_together() {
    let t = energy_while(json!({"start_time": "13:00", "min_kwh": 2}));
    // From 12:00 in Berlin: 2 kWh are reached at 14:00, an hour after 13:00.
    assert_eq!(between(&t, "2024-01-08T11:00:00Z", "2024-01-08T15:00:00Z", 4.0), "2.0000");
}

#[test]
fn each_dimension_looks_for_its_own_first_element() {
    let elements = json!([
        element(&[("TIME", 1.0, None, 1)], json!({"max_kwh": 100})),
        element(&[("ENERGY", 0.5, None, 1), ("TIME", 9.0, None, 1)], Value::Null),
        element(&[("ENERGY", 7.0, None, 1), ("FLAT", 3.0, None, 1)], Value::Null),
    ]);
    let c = cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 2, "TIME": 1}))], "2024-01-08T13:00:00Z");
    let priced = priced(&tariff(&elements, &json!({})), &c);
    assert_eq!(priced.total_cost.excl_vat.to_string(), "5.0000");
    assert_eq!(priced.components.iter().map(|c| c.element).collect::<Vec<_>>(), [Some(1), Some(0), Some(2)]);
}

#[test]
fn a_fee_is_due_once_however_many_periods_there_are() {
    let elements = json!([
        element(&[("FLAT", 1.0, None, 1)], json!({"min_kwh": 2})),
        element(&[("FLAT", 5.0, None, 1)], json!({"min_kwh": 3}))
    ]);
    let periods = [("2024-01-08T12:00:00Z", json!({"ENERGY": 2})), ("2024-01-08T12:30:00Z", json!({"ENERGY": 5}))];
    assert_eq!(total(&tariff(&elements, &json!({})), &cdr(&periods, "2024-01-08T13:00:00Z")).0, "1.0000");
}

#[test]
fn a_reservation_does_not_count_to_the_session() {
    let elements = json!([
        element(&[("TIME", 6.0, None, 60)], json!({"reservation": "RESERVATION"})),
        element(&[("ENERGY", 1.0, None, 1)], json!({"max_duration": 600}))
    ]);
    let periods =
        [("2024-01-08T11:00:00Z", json!({"RESERVATION_TIME": 1})), ("2024-01-08T12:00:00Z", json!({"ENERGY": 6}))];
    let priced = priced(&tariff(&elements, &json!({})), &cdr(&periods, "2024-01-08T13:00:00Z"));
    assert_eq!(priced.total_energy_cost.excl_vat.to_string(), "1.0000");
    assert_eq!(priced.total_reservation_cost.excl_vat.to_string(), "6.0000");
    assert_eq!(priced.total_time.to_string(), "1");
}

#[test]
fn a_step_of_0_rounds_nothing() {
    let t = tariff(&json!([element(&[("ENERGY", 1.0, None, 0)], Value::Null)]), &json!({}));
    assert_eq!(between(&t, "2024-01-08T12:00:00Z", "2024-01-08T13:00:00Z", 0.1234), "0.1234");
}

#[test]
fn no_parking_in_a_period_that_lists_none_leaves_the_step_of_the_time() {
    let t = tariff(
        &json!([element(&[("TIME", 6.0, None, 600), ("PARKING_TIME", 6.0, None, 600)], Value::Null)]),
        &json!({}),
    );
    let c = cdr(&[("2024-01-08T12:00:00Z", json!({"TIME": 0.25, "PARKING_TIME": 0}))], "2024-01-08T12:15:00Z");
    assert_eq!(total(&t, &c).0, "2.0000");
}

#[test]
fn energy_fed_back_is_taken_off() {
    let t = energy_while(Value::Null);
    let periods = [("2024-01-08T12:00:00Z", json!({"ENERGY": 5})), ("2024-01-08T13:00:00Z", json!({"ENERGY": -2}))];
    assert_eq!(total(&t, &cdr(&periods, "2024-01-08T14:00:00Z")).0, "3.0000");
}

#[test]
fn a_minimum_without_tax_never_leaves_the_total_after_tax_below_it() {
    let elements = json!([element(&[("ENERGY", 0.25, Some(10.0), 1)], Value::Null)]);
    let t = tariff(&elements, &json!({"min_price": {"excl_vat": 2}}));
    let c = cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 1}))], "2024-01-08T13:00:00Z");
    assert_eq!(total(&t, &c), eur("2.0000", "2.0000"));
}

#[test]
fn limits_before_and_after_tax_are_reached_apart() {
    let elements = json!([element(&[("ENERGY", 1.0, Some(25.0), 1)], Value::Null)]);
    let t = tariff(&elements, &json!({"max_price": {"excl_vat": 10, "incl_vat": 11}}));
    let c = cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 9}))], "2024-01-08T13:00:00Z");
    let priced = priced(&t, &c);
    assert_eq!(shown(priced.total_cost), eur("9.0000", "11.0000"));
    assert_eq!(priced.limits, [Limit { limit: "max_price", field: "incl_vat", adjustment: Amount(-2_500) }]);
}

#[test]
fn a_period_of_no_length_keeps_its_energy() {
    let periods = [("2024-01-08T12:00:00Z", json!({"ENERGY": 3})), ("2024-01-08T12:00:00Z", json!({"ENERGY": 1}))];
    let t = energy_while(json!({"min_kwh": 2, "start_time": "13:00"}));
    assert_eq!(total(&t, &cdr(&periods, "2024-01-08T12:30:00Z")).0, "2.0000");
}
