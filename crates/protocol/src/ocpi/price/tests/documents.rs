//! What is said of documents that cannot be priced, and of totals that differ.

use super::*;

fn elements() -> Value {
    json!([element(&[("ENERGY", 1.0, None, 1)], Value::Null)])
}

fn session() -> Value {
    serde_json::from_str(&cdr(&[("2024-01-08T12:00:00Z", json!({"ENERGY": 3}))], "2024-01-08T13:00:00Z")).unwrap()
}

/// Path and message of the error.
fn error(tariff: &str, cdr: &Value) -> (Document, String) {
    let error = price_documents(tariff, &cdr.to_string(), None).unwrap_err();
    (error.document, error.to_string())
}

#[test]
fn errors_name_the_document_the_path_and_what_is_expected() {
    let ok = tariff(&elements(), &json!({}));
    let cases: [(&str, Value, &str); 9] = [
        ("/currency", json!("USD"), "$.currency: \"USD\": expected \"EUR\""),
        ("/charging_periods", json!([]), "$.charging_periods: empty: expected at least one period"),
        (
            "/charging_periods/0/dimensions/0/volume",
            json!("3"),
            "$.charging_periods[0].dimensions[0].volume: \"3\": expected a JSON number",
        ),
        (
            "/charging_periods/0/dimensions/0/type",
            json!("HEAT"),
            "$.charging_periods[0].dimensions[0].type: unknown variant `HEAT`, expected one of",
        ),
        (
            "/charging_periods/0/start_date_time",
            json!("noon"),
            "$.charging_periods[0].start_date_time: \"noon\": expected a moment in UTC",
        ),
        (
            "/charging_periods/0/start_date_time",
            json!("2024-01-09T00:00:00Z"),
            "$.charging_periods[0].start_date_time: 2024-01-09T00:00:00Z: expected",
        ),
        (
            "/end_date_time",
            json!("2026-01-01T00:00:00Z"),
            "$.end_date_time: 2026-01-01T00:00:00Z: expected at most 400 days",
        ),
        (
            "/charging_periods/0/dimensions",
            json!([{"type": "ENERGY", "volume": 1}, {"type": "ENERGY", "volume": 1}]),
            "$.charging_periods[0].dimensions[1].type: there twice",
        ),
        (
            "/charging_periods/0/dimensions/0",
            json!({"type": "TIME", "volume": -1}),
            "$.charging_periods[0].dimensions[0].volume: -1: expected 0 to",
        ),
    ];
    for (pointer, value, expected) in cases {
        let mut document = session();
        *document.pointer_mut(pointer).unwrap() = value;
        let (which, message) = error(&ok, &document);
        assert!(which == Document::Cdr && message.starts_with(expected), "{message}");
    }
}

#[test]
fn a_tariff_that_is_wrong_is_refused() {
    let cases = [
        (tariff(&json!([]), &json!({})), "$.elements: empty"),
        (tariff(&json!([{"price_components": []}]), &json!({})), "$.elements[0].price_components: empty"),
        (
            tariff(&json!([{"price_components": [{"type": "ENERGY", "price": 1}]}]), &json!({})),
            "$.elements[0].price_components[0]: missing field `step_size`",
        ),
        (
            tariff(&json!([element(&[("ENERGY", 1.0, None, 1)], json!({"start_time": "9:00"}))]), &json!({})),
            "$.elements[0].restrictions.start_time: \"9:00\": expected a time of the day",
        ),
        (
            tariff(&elements(), &json!({"start_date_time": "2024-02-01T00:00:00Z"})),
            "$.start_date_time: the session starts earlier",
        ),
        (
            tariff(&elements(), &json!({"end_date_time": "2024-01-08T12:00:00Z"})),
            "$.end_date_time: the session starts later",
        ),
        (
            tariff(&elements(), &json!({"min_price": {"excl_vat": 2}, "max_price": {"excl_vat": 1}})),
            "$.min_price: above max_price",
        ),
        (tariff(&elements(), &json!({})) + "}", "$: trailing characters"),
        ("[1".to_owned(), "$"),
    ];
    for (tariff, expected) in cases {
        let (which, message) = error(&tariff, &session());
        assert!(which == Document::Tariff && message.starts_with(expected), "{message}");
    }
}

#[test]
fn the_zone_is_given_or_follows_from_the_cdr() {
    let t = tariff(&json!([element(&[("ENERGY", 1.0, None, 1)], json!({"start_time": "13:00"}))]), &json!({}));
    let used =
        |document: &Value, given| price_documents(&t, &document.to_string(), given).map(|p| p.time_zone.unwrap());
    let mut document = session();
    assert_eq!(used(&document, None).unwrap().name, "Europe/Berlin");
    assert_eq!(used(&document, Some("Asia/Tokyo")).unwrap().source, "argument");
    document["cdr_location"]["country"] = json!("USA");
    assert!(used(&document, None).unwrap_err().to_string().contains("expected --time-zone"));
    document["cdr_location"]["time_zone"] = json!("America/New_York");
    assert_eq!(used(&document, None).unwrap().source, "cdr_location.time_zone");
    assert!(used(&document, Some("Mars/Olympus")).unwrap_err().to_string().contains("IANA"));
}

#[test]
fn totals_that_differ_are_told_apart_from_totals_that_are_rounded() {
    let t = tariff(&json!([element(&[("ENERGY", 0.2525, Some(10.0), 1)], Value::Null)]), &json!({}));
    let mut document = session();
    merge(
        &mut document,
        &json!({
            "total_cost": {"excl_vat": 0.76, "incl_vat": 0.84}, "total_energy_cost": {"excl_vat": 0.7575},
            "total_energy": 3, "total_time": 1
        }),
    );
    let differences = priced(&t, &document.to_string()).differences;
    let told: Vec<_> = differences.iter().map(|d| (d.path.as_str(), d.priced.to_string(), d.rounding)).collect();
    let expected = [("$.total_cost.excl_vat", "0.7575", true), ("$.total_cost.incl_vat", "0.8332", false)];
    assert_eq!(told, expected.map(|(path, priced, rounding)| (path, priced.to_owned(), rounding)));
}

#[test]
fn the_objects_survive_being_written_and_read() {
    let t = tariff(
        &elements(),
        &json!({"min_price": {"excl_vat": 0.12345678901234568}, "start_date_time": "2024-01-01T00:00:00"}),
    );
    let first: Tariff = read(Document::Tariff, &t).unwrap();
    let again: Tariff = read(Document::Tariff, &serde_json::to_string(&first).unwrap()).unwrap();
    assert_eq!(first, again);
    let first: Cdr = read(Document::Cdr, &session().to_string()).unwrap();
    let again: Cdr = read(Document::Cdr, &serde_json::to_string(&first).unwrap()).unwrap();
    assert_eq!(first, again);
}

#[test]
fn the_example_in_the_reference_is_what_is_printed() {
    let read = |file: &str| {
        std::fs::read_to_string(format!("{}/../../docs/reference/examples/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let priced = priced(&read("ocpi-tariff.json"), &read("ocpi-cdr.json"));
    let shown = serde_json::to_string_pretty(&priced).unwrap() + "\n";
    assert_eq!(shown, read("ocpi-priced.json"));
    assert!(priced.differences.iter().all(|d| d.rounding), "{:?}", priced.differences);
}
