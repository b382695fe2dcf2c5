use super::*;
use utoipa::PartialSchema;

const EXAMPLE: &str = include_str!("../../../../docs/reference/http.md");

/// The YAML block of the reference page: what is written there must be readable.
fn example() -> &'static str {
    EXAMPLE.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0
}

#[test]
fn the_documented_example_is_valid_and_reads_back() {
    let catalogue = from_yaml(example()).unwrap();
    chargeplane_domain::catalogue_check::validate(&catalogue).unwrap();
    let tariff = catalogue.tariffs.values().next().unwrap();
    assert_eq!(tariff.prices[0], Price { energy: Money(12_000), service: Money(8_000) });
    assert_eq!((tariff.fees.per_minute, tariff.fees.max), (Money(200), Some(Money(2_000_000))));
    let charger = catalogue.chargers.values().next().unwrap();
    assert_eq!((charger.step_w.0, charger.weight, charger.connectors), (100, 100, 1));
    assert_eq!(from_yaml(&to_yaml(&catalogue).unwrap()).unwrap(), catalogue);
    let json = serde_json::to_vec(&CatalogueDocument::from(&catalogue)).unwrap();
    assert_eq!(from_json(&json).unwrap(), catalogue);
}

#[test]
fn the_catalogue_to_begin_with_is_valid_and_small() {
    let catalogue = from_yaml(include_str!("../../../../scenarios/example-catalogue.yaml")).unwrap();
    chargeplane_domain::catalogue_check::validate(&catalogue).unwrap();
    let counts =
        (catalogue.tariffs.len(), catalogue.stations.len(), catalogue.gateways.len(), catalogue.chargers.len());
    assert_eq!(counts, (1, 1, 1, 2));
    // What the README's commands name.
    assert!(catalogue.gateways.contains_key(&"main/gw-01".parse().unwrap()));
    assert!(catalogue.chargers.contains_key(&"main/c-0001".parse().unwrap()));
}

#[test]
fn amounts_are_currency_units_however_they_are_written() {
    let amount = |text: &str| serde_saphyr::from_str::<Amount>(text).map(|a| a.0);
    assert_eq!(amount("1.20").unwrap(), Money(12_000));
    assert_eq!(amount("\"1.20\"").unwrap(), Money(12_000));
    assert_eq!(amount("1").unwrap(), Money(10_000));
    assert_eq!(amount("-0.0001").unwrap(), Money(-1));
    assert_eq!(amount("0.1").unwrap(), Money(1_000));
    assert_eq!(amount("99999.9999").unwrap(), Money(999_999_999));
    assert!(amount("1.00001").is_err());
    assert!(amount("1e30").is_err());
    assert!(amount("much").is_err());
    assert_eq!(serde_json::from_str::<Amount>("0.7").unwrap(), Amount(Money(7_000)));
    assert!(serde_json::from_str::<Amount>("true").is_err());
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let error = |text: &str| from_yaml(text).unwrap_err();
    let unknown = error(&example().replace("rated_w", "rated_kw"));
    let line = 1 + example().lines().position(|l| l.contains("rated_w")).unwrap();
    assert_eq!(unknown.line, line as u64, "{unknown}");
    assert!(unknown.message.contains("rated_kw"), "{unknown}");
    let twice = error("gateways:\n  g1: {station: s1}\n  g1: {station: s2}\n");
    assert_eq!(twice.line, 3, "{twice}");
    let id = error("gateways:\n  \"a b\": {station: s1}\n");
    assert!(id.message.contains("not allowed"), "{id}");
    let json = from_json(b"{\n\"tariffs\": 3}").unwrap_err();
    assert_eq!(json.line, 2, "{json}");
}

#[test]
fn the_schema_has_the_fields_of_the_types_it_describes() {
    use chargeplane_domain::catalogue as domain;
    let catalogue = from_yaml(example()).unwrap();
    let fields = |value: serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let described = |schema: utoipa::openapi::RefOr<utoipa::openapi::Schema>| -> Vec<String> {
        fields(serde_json::to_value(schema).unwrap()["properties"].clone())
    };
    let station: &domain::Station = catalogue.stations.values().next().unwrap();
    let charger: &domain::Charger = catalogue.chargers.values().next().unwrap();
    let gateway: &domain::Gateway = catalogue.gateways.values().next().unwrap();
    let to = |value: &dyn erased::Json| fields(value.json());
    assert_eq!(to(station), described(StationSchema::schema()));
    assert_eq!(to(&station.limits[0]), described(LimitSchema::schema()));
    assert_eq!(to(&station.power), described(PowerSchema::schema()));
    assert_eq!(to(&station.power.schedule[0]), described(ScheduledLimitSchema::schema()));
    assert_eq!(to(charger), described(ChargerSchema::schema()));
    assert_eq!(to(gateway), described(GatewaySchema::schema()));
    // The example uses every field of both.
    assert_eq!(to(&catalogue.tariff_book), described(TariffBookSchema::schema()));
    assert_eq!(to(&catalogue.tariff_book.rules[0]), described(TariffRuleSchema::schema()));
}

mod erased {
    /// Anything that can be shown as JSON.
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}
