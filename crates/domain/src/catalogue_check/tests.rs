use super::*;
use crate::catalogue::Gateway;
use crate::tariff::book::{TariffBook, TariffRule};
use crate::tariff::{Price, Slots};
use crate::units::{Currency, Money, Timestamp};
use proptest::prelude::*;

fn tariff() -> Tariff {
    let price = Price { energy: Money(7_000), service: Money(4_000) };
    let slots = Slots::uniform(2).unwrap();
    Tariff { currency: Currency::new("CNY").unwrap(), prices: [price; 4], slots, fees: Fees::NONE }
}

fn node(id: &str, parent: Option<&str>, limit_w: i64) -> LimitNode {
    LimitNode { id: id.into(), parent: parent.map(Into::into), limit_w: Watts(limit_w), base_w: Watts(0) }
}

fn charger(child: u16) -> Charger {
    Charger {
        gateway: "g1".parse().unwrap(),
        child,
        limit: "f1".into(),
        rated_w: Watts(120_000),
        min_w: Watts(12_000),
        step_w: Watts(100),
        fallback_w: Watts(0),
        weight: 100,
        connectors: 1,
    }
}

/// A good catalogue: one station of three nodes, one gateway, two chargers.
fn good() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.tariffs.insert("t1".parse().unwrap(), tariff());
    let limits = vec![node("grid", None, 200_000), node("f1", Some("grid"), 150_000), node("f2", Some("grid"), 90_000)];
    let station = Station {
        operator: "op1".parse().unwrap(),
        city: "Shanghai".into(),
        time_zone: "Asia/Shanghai".into(),
        tariff: "t1".parse().unwrap(),
        split: None,
        limits,
        power: Default::default(),
    };
    catalogue.stations.insert("s1".parse().unwrap(), station);
    catalogue.gateways.insert("g1".parse().unwrap(), Gateway { station: "s1".parse().unwrap() });
    catalogue.chargers.insert("c1".parse().unwrap(), charger(0));
    catalogue.chargers.insert("c2".parse().unwrap(), charger(1));
    catalogue
}

fn station(catalogue: &mut Catalogue) -> &mut Station {
    catalogue.stations.values_mut().next().unwrap()
}

fn first(catalogue: &mut Catalogue) -> &mut Charger {
    catalogue.chargers.values_mut().next().unwrap()
}

#[test]
fn an_agreement_is_of_one_whole_and_of_one_tenant() {
    let split = |shares: &[(&str, u32)]| {
        let shares = shares.iter().map(|(party, share)| (party.parse().unwrap(), *share)).collect();
        Some(crate::split::Split { shares, remainder: "op1".parse().unwrap() })
    };
    assert!(after(|catalogue| station(catalogue).split = split(&[("op1", 4_000), ("owner", 6_000)])).is_empty());
    let off = after(|catalogue| station(catalogue).split = split(&[("op1", 4_000), ("owner", 6_001)]));
    assert!(off.len() == 1 && off[0].contains("stations.main/s1.split") && off[0].contains("10001"), "{off:?}");
    let foreign = after(|catalogue| station(catalogue).split = split(&[("op1", 4_000), ("acme/owner", 6_000)]));
    assert!(foreign.len() == 1 && foreign[0].contains("another tenant"), "{foreign:?}");
}

#[test]
fn fees_are_checked_one_by_one() {
    let fees =
        |change: fn(&mut Fees)| after(|catalogue| change(&mut catalogue.tariffs.values_mut().next().unwrap().fees));
    let bounded = |fees: &mut Fees| {
        *fees = Fees { flat: Money(1), idle_grace_s: 300, min: Money(5), max: Some(Money(5)), ..*fees };
    };
    assert!(fees(bounded).is_empty());
    let wrong = fees(|fees| {
        *fees = Fees {
            flat: Money(-1),
            per_minute: Money(MAX_PRICE.0 + 1),
            idle_grace_s: -1,
            min: Money(8),
            max: Some(Money(7)),
            ..*fees
        };
    });
    let paths = ["flat", "per_minute", "idle_grace_s", "min"].map(|fee| format!("tariffs.main/t1.fees.{fee}"));
    assert_eq!(wrong.len(), paths.len(), "{wrong:?}");
    assert!(wrong.iter().zip(&paths).all(|(problem, path)| problem.contains(path.as_str())), "{wrong:?}");
    let mut changed = self::good();
    changed.tariffs.values_mut().next().unwrap().fees.flat = Money(1);
    assert_eq!(diff(&self::good(), &changed), ["~ tariff main/t1: fees"]);
}

/// The problems after a change to the good catalogue, as text.
fn after(change: impl FnOnce(&mut Catalogue)) -> Vec<String> {
    let mut catalogue = good();
    change(&mut catalogue);
    validate(&catalogue).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[track_caller]
fn expect(change: impl FnOnce(&mut Catalogue), start: &str, part: &str) {
    let found = after(change);
    assert!(found.iter().any(|line| line.starts_with(start) && line.contains(part)), "{start} {part}: {found:#?}");
}

#[test]
fn a_good_catalogue_has_no_problem() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
    assert_eq!(validate(&Catalogue::default()), Ok(()));
}

#[test]
fn references_must_exist_and_the_nearest_name_is_offered() {
    expect(|c| station(c).tariff = "t2".parse().unwrap(), "stations.main/s1.tariff", "did you mean main/t1?");
    expect(|c| first(c).gateway = "gg".parse().unwrap(), "chargers.main/c1.gateway", "did you mean main/g1?");
    expect(|c| first(c).limit = "f3".into(), "chargers.main/c1.limit", "did you mean f");
    let elsewhere = |c: &mut Catalogue| {
        let gateway = c.gateways.values_mut().next().unwrap();
        gateway.station = "somewhere-else".parse().unwrap();
    };
    expect(elsewhere, "gateways.main/g1.station", "such as main/s1");
    expect(|c| c.tariffs.clear(), "stations.main/s1.tariff", "add the tariff");
}

#[test]
fn nothing_refers_to_another_tenant() {
    expect(
        |c| {
            c.tariffs.insert("acme/t1".parse().unwrap(), tariff());
            station(c).tariff = "acme/t1".parse().unwrap();
        },
        "stations.main/s1.tariff",
        "another tenant",
    );
    expect(|c| station(c).operator = "acme/op".parse().unwrap(), "stations.main/s1.operator", "another tenant");
    expect(
        |c| {
            let own = charger(7);
            c.chargers.insert("acme/c9".parse().unwrap(), own);
        },
        "chargers.acme/c9.gateway",
        "another tenant",
    );
}

#[test]
fn a_child_number_is_given_once() {
    expect(|c| first(c).child = 1, "chargers.main/c2.child", "main/c1 is already number 1");
}

#[test]
fn the_limits_of_a_station_are_a_tree() {
    let limits = |nodes: Vec<LimitNode>| move |c: &mut Catalogue| station(c).limits = nodes;
    expect(limits(vec![]), "stations.main/s1.limits", "no node without a parent");
    let two = vec![node("grid", None, 9), node("f1", None, 9)];
    expect(limits(two), "stations.main/s1.limits", "grid, f1");
    let circle = vec![node("grid", None, 9), node("f1", Some("f2"), 9), node("f2", Some("f1"), 9)];
    expect(limits(circle), "stations.main/s1.limits.f1.parent", "circle");
    let lost = vec![node("grid", None, 9), node("f1", Some("gird"), 9)];
    expect(limits(lost), "stations.main/s1.limits.f1.parent", "did you mean grid?");
    let twice = vec![node("grid", None, 9), node("f1", Some("grid"), 9), node("f1", Some("grid"), 9)];
    expect(limits(twice), "stations.main/s1.limits.f1.id", "two nodes");
    let zero = vec![node("grid", None, 0), node("f1", Some("grid"), 9)];
    expect(limits(zero), "stations.main/s1.limits.grid.limit_w", "not a limit");
    let mut deep = vec![node("n0", None, 9)];
    deep.extend((1..40).map(|i| node(&format!("n{i}"), Some(&format!("n{}", i - 1)), 9)));
    expect(limits(deep), "stations.main/s1.limits.n39.parent", "more than 32 nodes");
}

#[test]
fn figures_of_a_charger_fit_each_other() {
    expect(|c| first(c).min_w = Watts(120_001), "chargers.main/c1.min_w", "write 1 to 120000");
    expect(|c| first(c).min_w = Watts(0), "chargers.main/c1.min_w", "minimum");
    expect(|c| first(c).rated_w = Watts(-1), "chargers.main/c1.rated_w", "not a rating");
    expect(|c| first(c).step_w = Watts(0), "chargers.main/c1.step_w", "step");
    expect(|c| first(c).fallback_w = Watts(5), "chargers.main/c1.fallback_w", "neither 0 nor");
    expect(|c| first(c).weight = 0, "chargers.main/c1.weight", "100 is normal");
    expect(|c| first(c).connectors = 0, "chargers.main/c1.connectors", "1 or more");
    let long = |c: &mut Catalogue| {
        let name = "x".repeat(MAX_CHARGER_LOCAL_LEN + 1);
        c.chargers.insert(name.parse().unwrap(), charger(9));
    };
    expect(long, "chargers.main/xxx", "at most 42 characters");
}

#[test]
fn tariffs_and_time_zones_are_checked() {
    expect(|c| station(c).time_zone = "Asia/Shangai".into(), "stations.main/s1.time_zone", "Asia/Shanghai");
    let negative = |c: &mut Catalogue| c.tariffs.values_mut().next().unwrap().prices[1].energy = Money(-1);
    expect(negative, "tariffs.main/t1.prices.peak.energy", "not a price");
}

/// POWER-2: two chargers fall back to 50 kW each under a feeder of 90 kW.
#[test]
fn a_station_that_is_cut_off_fits_its_limits_by_itself() {
    let fallbacks = |watts: i64| {
        move |c: &mut Catalogue| {
            for charger in c.chargers.values_mut() {
                charger.fallback_w = Watts(watts);
                charger.limit = "f2".into();
            }
        }
    };
    assert_eq!(after(fallbacks(45_000)), Vec::<String>::new());
    expect(fallbacks(45_001), "stations.main/s1.limits.f2.limit_w", "90002 W");
    let with_base = |c: &mut Catalogue| {
        fallbacks(45_000)(c);
        station(c).limits[2].base_w = Watts(1);
    };
    expect(with_base, "stations.main/s1.limits.f2.limit_w", "POWER-2");
    // Each feeder holds, the grid connection above them does not.
    let base_above = |c: &mut Catalogue| {
        fallbacks(45_000)(c);
        station(c).limits[0].base_w = Watts(110_001);
    };
    expect(base_above, "stations.main/s1.limits.grid.limit_w", "200001 W");
}

#[test]
fn everything_is_told_at_once_but_not_without_bound() {
    let found = after(|c| {
        for i in 0..300 {
            let mut bad = charger(10 + i);
            bad.weight = 0;
            c.chargers.insert(format!("x{i}").parse().unwrap(), bad);
        }
    });
    assert_eq!(found.len(), MAX_PROBLEMS + 1);
    assert!(found.last().unwrap().contains("200 more problems"));
}

#[test]
fn a_difference_names_what_changed() {
    let (old, mut new) = (good(), good());
    assert_eq!(diff(&old, &new), Vec::<String>::new());
    first(&mut new).weight = 50;
    new.chargers.remove(&"c2".parse().unwrap());
    new.chargers.insert("c3".parse().unwrap(), charger(2));
    station(&mut new).limits[0].limit_w = Watts(180_000);
    station(&mut new).limits.pop();
    new.tariffs.values_mut().next().unwrap().slots = Slots::uniform(3).unwrap();
    assert_eq!(
        diff(&old, &new),
        [
            "~ tariff main/t1: slots",
            "~ station main/s1: - limit f2, ~ limit grid: limit_w 200000 -> 180000",
            "~ charger main/c1: weight 100 -> 50",
            "- charger main/c2",
            "+ charger main/c3",
        ]
    );
    assert_eq!(diff(&Catalogue::default(), &old).len(), 5);
}

#[test]
fn distance_counts_edits() {
    assert_eq!(distance("grid", "gird"), 1);
    assert_eq!(distance("grid", "grd"), 1);
    assert_eq!(distance("abc", "xyz"), 3);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("rated_w", "rated_kw"), 1);
}

proptest! {
    /// What passes fits every limit when cut off, summed here in another way than there.
    #[test]
    fn what_is_accepted_holds_power_2(
        fallbacks in prop::collection::vec(0_i64..60_000, 1..8),
        grid in 1_i64..200_000,
        feeder in 1_i64..200_000,
    ) {
        let mut catalogue = good();
        catalogue.chargers.clear();
        station(&mut catalogue).limits = vec![node("grid", None, grid), node("f1", Some("grid"), feeder)];
        for (i, fallback) in fallbacks.iter().enumerate() {
            let mut one = charger(u16::try_from(i).unwrap());
            one.fallback_w = Watts(*fallback);
            one.min_w = Watts(1);
            catalogue.chargers.insert(format!("c{i}").parse().unwrap(), one);
        }
        let sum: i64 = fallbacks.iter().sum();
        prop_assert_eq!(validate(&catalogue).is_ok(), sum <= grid.min(feeder));
    }
}

fn rule(tariff: &str) -> TariffRule {
    let tariff = tariff.parse().unwrap();
    TariffRule { tariff, station_group: None, customer_group: None, valid_from: None, valid_until: None }
}

#[test]
fn a_tariff_book_names_what_exists() {
    let problems = |change: fn(&mut TariffBook)| after(|catalogue| change(&mut catalogue.tariff_book));
    let good = problems(|book| {
        book.station_groups.insert("city".into(), ["s1".parse().unwrap()].into());
        book.customer_groups.insert("staff".into(), ["a1".parse().unwrap()].into());
        let (station_group, customer_group) = (Some("city".into()), Some("staff".into()));
        book.rules.push(TariffRule { station_group, customer_group, ..rule("t1") });
    });
    assert_eq!(good, Vec::<String>::new());
    let station = problems(|book| drop(book.station_groups.insert("city".into(), ["s2".parse().unwrap()].into())));
    assert_eq!(station, ["tariff_book.station_groups.city: there is no station main/s2; did you mean main/s1?"]);
    let tariff = problems(|book| book.rules.push(rule("t9")));
    assert_eq!(tariff, ["tariff_book.rules[0].tariff: there is no tariff main/t9; did you mean main/t1?"]);
    let groups = problems(|book| {
        let (station_group, customer_group) = (Some("city".into()), Some("staff".into()));
        book.rules.push(TariffRule { station_group, customer_group, ..rule("t1") });
    });
    assert_eq!(groups.len(), 2, "{groups:?}");
    let tenant = problems(|book| {
        book.station_groups.insert("city".into(), BTreeSet::new());
        book.rules.push(TariffRule { station_group: Some("city".into()), ..rule("t1") });
    });
    assert!(tenant[0].contains("no station of group \"city\" is of the tariff's tenant"), "{tenant:?}");
    let never = problems(|book| {
        let moment = |text: &str| Some(text.to_owned().try_into().unwrap());
        let (valid_from, valid_until) = (moment("2026-01-01T00:00"), moment("2026-01-01T00:00"));
        book.rules.push(TariffRule { valid_from, valid_until, ..rule("t1") });
    });
    assert!(never[0].starts_with("tariff_book.rules[0].valid_until: "), "{never:?}");
    let name = problems(|book| drop(book.customer_groups.insert(String::new(), BTreeSet::new())));
    assert!(name[0].contains("the name has 0 characters"), "{name:?}");
}

#[test]
fn a_rule_goes_before_the_tariff_of_the_station() {
    let mut catalogue = good();
    let special = Tariff { slots: Slots::uniform(3).unwrap(), ..tariff() };
    catalogue.tariffs.insert("t2".parse().unwrap(), special.clone());
    let (station, account) = ("s1".parse().unwrap(), "a1".parse().unwrap());
    let own = tariff();
    assert_eq!(catalogue.tariff_for(&station, &account, Timestamp(0)), Some(&own));
    let before = catalogue.clone();
    catalogue.tariff_book.customer_groups.insert("staff".into(), ["a1".parse().unwrap()].into());
    catalogue.tariff_book.rules.push(TariffRule { customer_group: Some("staff".into()), ..rule("t2") });
    assert_eq!(catalogue.tariff_for(&station, &account, Timestamp(0)), Some(&special));
    assert_eq!(catalogue.tariff_for(&station, &"a2".parse().unwrap(), Timestamp(0)), Some(&own));
    assert_eq!(catalogue.tariff_for(&"s2".parse().unwrap(), &account, Timestamp(0)), None);
    let changes = diff(&before, &catalogue);
    assert_eq!(changes, ["~ tariff_book: customer_groups", "~ tariff_book: rules"]);
}

#[test]
fn a_schedule_names_nodes_has_length_and_leaves_room_for_fallbacks() {
    let window = |node: &str, from: &str, until: &str, limit_w| crate::catalogue::ScheduledLimit {
        node: node.into(),
        from: from.to_owned().try_into().unwrap(),
        until: until.to_owned().try_into().unwrap(),
        limit_w: Watts(limit_w),
    };
    let found = |windows: &[crate::catalogue::ScheduledLimit], fallback: i64| {
        let mut catalogue = good();
        station(&mut catalogue).power.schedule = windows.to_vec();
        catalogue.chargers.values_mut().for_each(|charger| charger.fallback_w = Watts(fallback));
        match validate(&catalogue) {
            Ok(()) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.path).collect(),
        }
    };
    assert!(found(&[window("grid", "17:00", "21:00", 100_000), window("f1", "22:00", "06:00", 0)], 0).is_empty());
    let path = |field: &str| vec![format!("stations.main/s1.power.schedule[0].{field}")];
    assert_eq!(found(&[window("gird", "17:00", "21:00", 1)], 0), path("node"));
    assert_eq!(found(&[window("grid", "17:00", "17:00", 1)], 0), path("until"));
    assert_eq!(found(&[window("grid", "17:00", "21:00", 200_001)], 0), path("limit_w"));
    assert_eq!(found(&[window("grid", "17:00", "21:00", -1)], 0), path("limit_w"));
    let least = good().chargers.values().next().unwrap().min_w.0;
    assert_eq!(found(&[window("grid", "17:00", "21:00", 2 * least - 1)], least), path("limit_w"));
    assert!(found(&[window("grid", "17:00", "21:00", 2 * least)], least).is_empty());
    let (old, mut new) = (good(), good());
    station(&mut new).power.schedule = vec![window("grid", "17:00", "21:00", 1)];
    assert_eq!(diff(&old, &new), ["~ station main/s1: power.schedule 0 -> 1 windows"]);
}
