use super::*;
use crate::data;
use crate::testing::{config, recorded};

fn text(config: &FleetConfig) -> String {
    let mut bytes = Vec::new();
    build(config, &recorded()).write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn one_seed_is_one_schedule_and_another_seed_another() {
    let config = config(200, 120, 7);
    assert_eq!(text(&config), text(&config));
    let mut other = config.clone();
    other.seed = 8;
    assert_ne!(text(&config), text(&other));
    // Asking for more faults moves no driver.
    let mut more = config.clone();
    more.plan.faults = Some(99);
    assert_eq!(build(&config, &recorded()).drivers, build(&more, &recorded()).drivers);
}

#[test]
fn every_charger_has_one_first_driver_and_a_third_is_in_mid_session() {
    let schedule = build(&config(2_000, 120, 1), &recorded());
    let mut chargers: Vec<u32> = schedule.drivers.iter().filter_map(|d| d.charger).collect();
    chargers.sort_unstable();
    assert_eq!(chargers, (0..2_000).collect::<Vec<u32>>());
    let count = |kind| schedule.drivers.iter().filter(|d| d.kind == kind).count();
    assert_eq!((count(Kind::Early), count(Kind::Poor)), (667, 36));
    assert_eq!(schedule.faults.len(), 36);
    for driver in &schedule.drivers {
        let (from, to) = match driver.kind {
            Kind::Early => (0, EARLY_END_MS),
            Kind::First | Kind::Poor => (EARLY_END_MS, RAMP_END_MS),
            Kind::Next => (FREE_FROM_MS, 120_000 - LAST_ARRIVAL_BEFORE_END_MS),
        };
        assert!((from..=to).contains(&driver.arrive_ms), "{driver:?}");
        assert!((333..=1_000).contains(&driver.car.need_wh), "{driver:?}");
        assert!(driver.car.stored_wh + driver.car.need_wh <= driver.car.capacity_wh, "{driver:?}");
        assert!((60_000..=180_000).contains(&driver.stay_ms) || driver.kind == Kind::Poor, "{driver:?}");
    }
}

#[test]
fn a_poor_driver_wants_more_than_his_money_buys() {
    let config = config(2_000, 120, 1);
    for driver in build(&config, &recorded()).drivers.iter().filter(|d| d.kind == Kind::Poor) {
        let poor = config.poor_accounts.iter().find(|poor| poor.account == driver.account).unwrap();
        let most_wh = poor.balance.0 * 1_000 / config.min_price.unwrap().0;
        assert!(driver.car.need_wh * 10 >= most_wh * 13 - 10, "{driver:?}");
    }
}

#[test]
fn the_ramp_has_the_profile_of_the_recorded_morning() {
    let schedule = build(&config(2_000, 120, 3), &recorded());
    let ramp: Vec<u64> =
        schedule.drivers.iter().filter(|d| matches!(d.kind, Kind::First | Kind::Poor)).map(|d| d.arrive_ms).collect();
    let morning: Vec<_> = recorded().into_iter().filter(|s| MORNING.contains(&s.arrival_min)).collect();
    for hour in 0..8u64 {
        let (from, width) = (EARLY_END_MS + hour * 2_625, 2_625);
        let drawn = ramp.iter().filter(|ms| (from..from + width).contains(*ms)).count() as f64 / ramp.len() as f64;
        let hour = 300 + 60 * hour as i64;
        let real = morning.iter().filter(|s| (hour..hour + 60).contains(&s.arrival_min)).count() as f64;
        assert!((drawn - real / morning.len() as f64).abs() < 0.05, "hour {hour}: {drawn}");
    }
}

#[test]
fn short_runs_have_everything_at_least_once() {
    let config = config(50, 30, 1);
    let schedule = build(&config, &recorded());
    let count = |kind| schedule.drivers.iter().filter(|d| d.kind == kind).count();
    assert_eq!((count(Kind::Early), count(Kind::First), count(Kind::Poor)), (17, 31, 2));
    assert!(count(Kind::Next) > 10 && schedule.faults.len() == 2);
    assert!(schedule.drivers.iter().all(|d| d.arrive_ms < 30_000));
    assert!(schedule.drivers.iter().all(|d| d.kind == Kind::Poor || d.car.need_wh <= 250));
}

#[test]
fn a_file_of_evenings_still_makes_a_schedule() {
    let evenings = data::parse("arrival_min,departure_min,requested_kwh,connector\n1200,1300,5.0,x\n").unwrap();
    let schedule = build(&config(10, 60, 1), &evenings);
    assert!(schedule.drivers.iter().filter(|d| d.charger.is_some()).count() == 10);
}
