use super::*;
use crate::tariff::zone::parse;
use proptest::prelude::*;

fn moment(text: &str) -> LocalMoment {
    text.to_owned().try_into().unwrap()
}

fn rule(tariff: &str) -> TariffRule {
    TariffRule {
        tariff: tariff.parse().unwrap(),
        station_group: None,
        customer_group: None,
        valid_from: None,
        valid_until: None,
    }
}

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

/// City stations s1, s2; staff a1; the rules given.
fn book(rules: Vec<TariffRule>) -> TariffBook {
    TariffBook {
        station_groups: BTreeMap::from([("city".into(), ["s1", "s2"].map(|s| s.parse().unwrap()).into())]),
        customer_groups: BTreeMap::from([("staff".into(), ["a1"].map(|s| s.parse().unwrap()).into())]),
        rules,
    }
}

fn chosen(book: &TariffBook, station: &str, account: &str, zone: &str, when: &str) -> Option<String> {
    let chosen = book.select(&station.parse().unwrap(), &account.parse().unwrap(), &parse(zone).unwrap(), at(when));
    chosen.map(|id| id.local().to_owned())
}

#[test]
fn the_first_rule_that_fits_is_taken() {
    let both = TariffRule { station_group: Some("city".into()), customer_group: Some("staff".into()), ..rule("both") };
    let staff = TariffRule { customer_group: Some("staff".into()), ..rule("staff") };
    let city = TariffRule { station_group: Some("city".into()), ..rule("city") };
    let book = book(vec![both, staff, city]);
    let chosen = |station, account| chosen(&book, station, account, "UTC", "2026-01-01T00:00:00Z");
    assert_eq!(chosen("s1", "a1").as_deref(), Some("both"));
    assert_eq!(chosen("s3", "a1").as_deref(), Some("staff"));
    assert_eq!(chosen("s2", "a2").as_deref(), Some("city"));
    assert_eq!(chosen("s3", "a2"), None);
    assert_eq!(chosen("t2/s1", "a1"), None, "another tenant's station");
}

#[test]
fn a_group_that_is_not_there_has_no_members() {
    let book = book(vec![TariffRule { station_group: Some("forest".into()), ..rule("t") }]);
    assert_eq!(chosen(&book, "s1", "a1", "UTC", "2026-01-01T00:00:00Z"), None);
}

#[test]
fn validity_is_read_on_the_clock_of_the_station() {
    let new_year = TariffRule {
        valid_from: Some(moment("2026-01-01T00:00")),
        valid_until: Some(moment("2027-01-01T00:00")),
        ..rule("t")
    };
    let book = book(vec![new_year]);
    let valid = |zone, when| chosen(&book, "s1", "a1", zone, when).is_some();
    assert!(!valid("Asia/Shanghai", "2025-12-31T15:59:59.999Z"));
    assert!(valid("Asia/Shanghai", "2025-12-31T16:00:00Z"));
    assert!(!valid("Europe/Berlin", "2025-12-31T16:00:00Z"));
    assert!(valid("Europe/Berlin", "2026-12-31T22:59:59.999Z"));
    assert!(!valid("Europe/Berlin", "2026-12-31T23:00:00Z"));
}

#[test]
fn a_tariff_changes_once_where_the_clock_is_set() {
    // Set back from 03:00 to 02:00 at 01:00Z: 02:30 is 00:30Z, and stays so when it is shown again.
    let back = book(vec![TariffRule { valid_from: Some(moment("2026-10-25T02:30")), ..rule("t") }]);
    let valid = |book: &TariffBook, when| chosen(book, "s1", "a1", "Europe/Berlin", when).is_some();
    assert!(!valid(&back, "2026-10-25T00:29:59Z"));
    assert!(valid(&back, "2026-10-25T00:30:00Z"));
    assert!(valid(&back, "2026-10-25T01:10:00Z"), "02:10 again");
    // Set forward from 02:00 to 03:00 at 01:00Z: 02:30 is never shown; it is 03:30.
    let forward = book(vec![TariffRule { valid_from: Some(moment("2026-03-29T02:30")), ..rule("t") }]);
    assert!(!valid(&forward, "2026-03-29T01:29:59Z"));
    assert!(valid(&forward, "2026-03-29T01:30:00Z"));
}

#[test]
fn a_local_moment_has_no_zone() {
    let read = |text: &str| LocalMoment::try_from(text.to_owned()).map(|m| m.to_string()).ok();
    assert_eq!(read("2026-01-01T00:00").as_deref(), Some("2026-01-01T00:00:00"));
    assert_eq!(read("2026-01-01T07:30:15").as_deref(), Some("2026-01-01T07:30:15"));
    let wrong = ["2026-01-01", "2026-01-01T00:00Z", "2026-01-01T00:00-08:00", "2026-01-01T00:00+08:00", "", "noon"];
    assert_eq!(wrong.map(read), [const { None }; 6]);
}

proptest! {
    /// Whatever the zone and the clock changes in it: valid from its start until before its end, in one piece.
    #[test]
    fn a_validity_is_one_piece_of_time(
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("Asia/Shanghai")],
        from in 0_i64..500_000,
        minutes in 0_i64..500_000,
        probe in 0_i64..1_200_000,
    ) {
        let base: civil::DateTime = "2026-01-01T00:00".parse().unwrap();
        let local = |m: i64| LocalMoment(base.checked_add(jiff::SignedDuration::from_mins(m)).unwrap());
        let rule = TariffRule { valid_from: Some(local(from)), valid_until: Some(local(from + minutes)), ..rule("t") };
        let zone = parse(zone).unwrap();
        let (start, end) = (rule.valid_from.unwrap().in_zone(&zone), rule.valid_until.unwrap().in_zone(&zone));
        prop_assert!(start <= end);
        let when = Timestamp(at("2025-12-31T00:00:00Z").0 + probe * 60_000);
        let chosen = book(vec![rule]).select(&"s1".parse().unwrap(), &"a1".parse().unwrap(), &zone, when).is_some();
        prop_assert_eq!(chosen, start <= when && when < end);
    }
}
