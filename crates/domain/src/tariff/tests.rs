use super::*;
use proptest::prelude::*;

fn price(energy: i64, service: i64) -> Price {
    Price { energy: Money(energy), service: Money(service) }
}

fn tariff(prices: [Price; PERIODS], slots: &str) -> Tariff {
    let slots = Slots::try_from(slots.to_owned()).unwrap();
    Tariff { currency: Currency::new("CNY").unwrap(), prices, slots, fees: Fees::NONE }
}

/// Valley until 08:00, sharp 08:00-10:00, flat until 18:00, peak 18:00-21:00, valley.
const DAY: &str = "3333333333333333 0000 2222222222222222 111111 333333";

fn priced(energy: i64, service: i64, fees: i64) -> Priced {
    Priced { energy: Money(energy), service: Money(service), fees: Money(fees) }
}

fn wh(by_period: [i64; PERIODS]) -> [WattHours; PERIODS] {
    by_period.map(WattHours)
}

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

#[test]
fn the_period_is_read_in_the_stations_zone() {
    let tariff = tariff([price(0, 0); PERIODS], DAY);
    let shanghai = zone::parse("Asia/Shanghai").unwrap();
    let berlin = zone::parse("Europe/Berlin").unwrap();
    for (moment, in_shanghai, in_berlin) in [
        ("2026-01-10T00:00:00Z", 0, 3),     // 08:00 and 01:00
        ("2026-01-10T23:59:59.999Z", 3, 3), // 07:59:59.999 and 00:59:59.999
        ("2026-01-10T10:29:00Z", 1, 2),     // 18:29 and 11:29
        ("2026-07-10T06:00:00Z", 2, 0),     // 14:00 and, in summer, 08:00
    ] {
        let periods = (tariff.period_at(&shanghai, at(moment)), tariff.period_at(&berlin, at(moment)));
        assert_eq!(periods, (in_shanghai, in_berlin), "{moment}");
    }
}

#[test]
fn absurd_moments_have_a_period_and_no_panic() {
    let tariff = tariff([price(0, 0); PERIODS], DAY);
    let zone = zone::parse("America/St_Johns").unwrap();
    for at in [i64::MIN, -1, 0, i64::MAX] {
        assert!(tariff.period_at(&zone, Timestamp(at)) < PERIODS);
    }
    assert_eq!(zone::parse("Mars/Olympus").unwrap_err().name, "Mars/Olympus");
}

#[test]
fn slots_are_48_digits() {
    let slots = Slots::try_from(DAY.to_owned()).unwrap();
    assert_eq!(slots.to_string(), DAY.replace(' ', ""));
    assert_eq!((slots.period(16), slots.period(15), slots.period(1_000)), (0, 3, 3));
    let json = serde_json::to_string(&slots).unwrap();
    assert_eq!(serde_json::from_str::<Slots>(&json).unwrap(), slots);
    let wrong = ["", &"0".repeat(47), &"0".repeat(49), &"4".repeat(48), &"x".repeat(48)];
    for text in wrong {
        let error = Slots::try_from(text.to_owned()).unwrap_err();
        assert!(error.to_string().contains("48 digits"), "{error}");
    }
    assert_eq!(Slots::uniform(4), None);
}

#[test]
fn each_component_is_rounded_once_half_to_even() {
    // 0.0500 a kWh is half a unit a Wh.
    let tariff = tariff([price(500, 1_500); PERIODS], DAY);
    let cost = |energy| tariff.price(&wh([energy, 0, 0, 0]), &MeteredTime::NONE);
    assert_eq!(cost(1), priced(0, 2, 0));
    assert_eq!(cost(3), priced(2, 4, 0));
    // The halves of two periods are added before the rounding, not after it.
    assert_eq!(tariff.price(&wh([1, 1, 0, 0]), &MeteredTime::NONE), priced(1, 3, 0));
}

#[test]
fn prices_out_of_range_are_named() {
    let mut broken = tariff([price(1, 1); PERIODS], DAY);
    assert_eq!(broken.check(), Ok(()));
    broken.prices[2].service = Money(-1);
    assert_eq!(broken.check(), Err(TariffError::Price { period: 2 }));
    broken.prices[1].energy = Money(MAX_PRICE.0 + 1);
    assert_eq!(broken.check(), Err(TariffError::Price { period: 1 }));
    // Even so nothing overflows.
    broken.prices = [price(i64::MAX, i64::MIN); PERIODS];
    let absurd = broken.price(&wh([i64::MAX; PERIODS]), &MeteredTime::NONE);
    assert_eq!(absurd, priced(i64::MAX, i64::MIN, 0));
}

#[test]
fn affordable_examples() {
    let round = tariff([price(8_000, 4_000); PERIODS], DAY);
    assert_eq!(round.affordable(Money(12_000)), WattHours(1_000));
    assert_eq!(round.affordable(Money(11_999)), WattHours(999));
    // 1 Wh costs 0.5 + 1.5: exactly 2, but 0.5 and 1.5 round to 0 and 2, 1.5 and 4.5 to 2 and 4.
    let halves = tariff([price(500, 1_500); PERIODS], DAY);
    assert_eq!(halves.affordable(Money(2)), WattHours(0));
    assert_eq!(halves.affordable(Money(3)), WattHours(1));
    let free = tariff([price(0, 0); PERIODS], DAY);
    assert_eq!(free.affordable(Money(-5)), MAX_METER);
    assert_eq!(round.affordable(Money(-5)), WattHours(0));
    assert_eq!(round.affordable(Money(i64::MAX)), MAX_METER);
}

#[test]
fn money_too_small_for_all_components_pays_energy_first_and_fees_last() {
    let price = priced(70, 40, 5);
    assert_eq!(price.capped(Money(112)), priced(70, 40, 2));
    assert_eq!(price.capped(Money(100)), priced(70, 30, 0));
    assert_eq!(price.capped(Money(60)), priced(60, 0, 0));
    assert_eq!(price.capped(Money(-1)), Priced::ZERO);
    assert_eq!(price.capped(Money(1_000)), price);
    // What goes back of one pays for the others.
    let moved = priced(30, -10, -20);
    assert_eq!((moved.capped(Money(0)), moved.capped(Money(9))), (moved, moved));
    assert_eq!(priced(50, -10, 7).capped(Money(20)), priced(30, -10, 0));
}

/// 1.00 once, 0.10 a minute, 0.50 an idle minute after one minute, at least 2.00, at most 6.00.
fn fees() -> Fees {
    Fees {
        flat: Money(10_000),
        per_minute: Money(1_000),
        idle_per_minute: Money(5_000),
        idle_grace_s: 60,
        min: Money(20_000),
        max: Some(Money(60_000)),
    }
}

fn time(charging_s: i64, idle_s: i64) -> MeteredTime {
    MeteredTime { charging_ms: charging_s * 1_000, idle_ms: idle_s * 1_000 }
}

#[test]
fn fees_are_for_the_start_for_minutes_and_within_bounds() {
    let tariff = Tariff { fees: fees(), ..tariff([price(8_000, 2_000); PERIODS], DAY) };
    let cost = |wh_: i64, charging, idle| {
        let (by_period, time) = (wh([0, wh_, 0, 0]), time(charging, idle));
        (tariff.price(&by_period, &time), tariff.final_price(&by_period, &time).total().0)
    };
    // 90 s of charging, idle within the grace.
    assert_eq!(cost(1_000, 90, 60), (priced(8_000, 2_000, 11_500), 21_500));
    assert_eq!(cost(1_000, 90, 84), (priced(8_000, 2_000, 13_500), 23_500));
    // Below the least price: only in the end.
    assert_eq!(cost(100, 0, 0), (priced(800, 200, 10_000), 20_000));
    // The highest price takes off the fees first.
    assert_eq!(cost(4_000, 600, 600), (priced(32_000, 8_000, 20_000), 60_000));
    assert_eq!(cost(9_000, 600, 600), (priced(60_000, 0, 0), 60_000));
    // No energy: nothing but idle time beyond the grace.
    assert_eq!(cost(0, 600, 0), (Priced::ZERO, 0));
    assert_eq!(cost(0, 0, 120), (priced(0, 0, 5_000), 5_000));
}

#[test]
fn all_fees_are_one_amount_that_is_rounded_once() {
    let halves = Fees { per_minute: Money(1), idle_per_minute: Money(1), ..Fees::NONE };
    let tariff = Tariff { fees: halves, ..tariff([price(0, 0); PERIODS], DAY) };
    let fee = |charging, idle| tariff.price(&wh([1, 0, 0, 0]), &time(charging, idle)).fees.0;
    assert_eq!([fee(30, 0), fee(90, 0), fee(30, 30), fee(29, 30), fee(31, 0)], [0, 2, 1, 1, 1]);
    let long = MeteredTime { charging_ms: i64::MAX, idle_ms: i64::MAX };
    let dear = Tariff { fees: Fees { per_minute: MAX_PRICE, max: None, ..fees() }, ..tariff.clone() };
    assert_eq!(dear.price(&wh([1, 0, 0, 0]), &long).fees, Money(i64::MAX), "held at the bound");
}

#[test]
fn fees_out_of_range_are_named() {
    let check = |change: fn(&mut Fees)| {
        let mut tariff = Tariff { fees: fees(), ..tariff([price(1, 1); PERIODS], DAY) };
        change(&mut tariff.fees);
        tariff.check()
    };
    assert_eq!(check(|_| ()), Ok(()));
    assert_eq!(check(|fees| fees.flat = Money(-1)), Err(TariffError::Fee { fee: "flat" }));
    assert_eq!(check(|fees| fees.per_minute = Money(MAX_PRICE.0 + 1)), Err(TariffError::Fee { fee: "per_minute" }));
    assert_eq!(check(|fees| fees.idle_per_minute = Money(-1)), Err(TariffError::Fee { fee: "idle_per_minute" }));
    assert_eq!(check(|fees| fees.min = Money(-1)), Err(TariffError::Fee { fee: "min" }));
    assert_eq!(check(|fees| fees.max = Some(Money(-1))), Err(TariffError::Fee { fee: "max" }));
    assert_eq!(check(|fees| fees.max = Some(Money(19_999))), Err(TariffError::MinAboveMax));
    assert_eq!(check(|fees| fees.idle_grace_s = -1), Err(TariffError::Grace));
    assert_eq!(check(|fees| fees.idle_grace_s = 86_401), Err(TariffError::Grace));
}

#[test]
fn a_start_needs_the_flat_fee_and_the_least_price_and_no_more_than_the_highest() {
    let tariff = |fees| Tariff { fees, ..tariff([price(8_000, 2_000); PERIODS], DAY) };
    let starts = |fees, hold, reserve| tariff(fees).can_start(Money(hold), Money(reserve), WattHours(20));
    let none = Fees::NONE;
    assert!(starts(none, 1_200, 1_000) && !starts(none, 1_199, 1_000) && !starts(none, 900, 1_000));
    let flat = Fees { flat: Money(500), ..none };
    assert!(starts(flat, 1_700, 1_000) && !starts(flat, 1_699, 1_000));
    let min = Fees { min: Money(3_000), ..none };
    assert!(starts(min, 3_000, 1_000) && !starts(min, 2_999, 1_000));
    let max = Fees { max: Some(Money(1_100)), ..none };
    assert!(starts(max, 1_100, 1_000) && !starts(max, 1_099, 1_000));
}

#[test]
fn stored_forms_without_fees_are_what_they_were() {
    let plain = tariff([price(1, 1); PERIODS], DAY);
    let json = serde_json::to_string(&plain).unwrap();
    assert!(!json.contains("fees"), "{json}");
    let dear = Tariff { fees: fees(), ..plain.clone() };
    for tariff in [plain, dear] {
        let json = serde_json::to_string(&tariff).unwrap();
        assert_eq!(serde_json::from_str::<Tariff>(&json).unwrap(), tariff);
        // By name in the journal, by order in the read model of charge records.
        let (named, ordered) = (rmp_serde::to_vec_named(&tariff).unwrap(), rmp_serde::to_vec(&tariff).unwrap());
        assert_eq!(rmp_serde::from_slice::<Tariff>(&named).unwrap(), tariff);
        assert_eq!(rmp_serde::from_slice::<Tariff>(&ordered).unwrap(), tariff);
    }
}

fn prices() -> impl Strategy<Value = [Price; PERIODS]> {
    let one = (0_i64..30_000, 0_i64..9_000).prop_map(|(energy, service)| price(energy, service));
    let round = (0_i64..30, 0_i64..9).prop_map(|(energy, service)| price(energy * 1_000, service * 1_000));
    let any = prop_oneof![one, round];
    [any.clone(), any.clone(), any.clone(), any]
}

fn some_fees() -> impl Strategy<Value = Fees> {
    let amounts = (0_i64..9_000, 0_i64..2_000, 0_i64..9_000);
    let bounds = (0_i64..90_000, prop::option::of(0_i64..900_000));
    let any = (amounts, 0_i64..600, bounds).prop_map(|((flat, minute, idle), grace, (min, more))| Fees {
        flat: Money(flat),
        per_minute: Money(minute),
        idle_per_minute: Money(idle),
        idle_grace_s: grace,
        min: Money(min),
        max: more.map(|more| Money(min + more)),
    });
    prop_oneof![1 => Just(Fees::NONE), 4 => any]
}

proptest! {
    /// The nearest integer, and the even one of two that are as near.
    #[test]
    fn rounding_is_to_the_nearest_and_even(numerator in -1_000_000_i128..1_000_000) {
        let rounded = i128::from(round_half_even(numerator, 1_000));
        let off = (rounded * 1_000 - numerator).abs();
        prop_assert!(off < 500 || (off == 500 && rounded % 2 == 0), "{numerator} gave {rounded}");
    }

    /// However affordable energy falls into periods, the amount pays it; and two Wh more it may not pay.
    #[test]
    fn affordable_energy_is_surely_paid(
        prices in prices(), amount in 0_i64..3_000_000, cuts in [0_u32..=100, 0..=100, 0..=100],
    ) {
        let tariff = tariff(prices, DAY);
        prop_assume!(tariff.highest_price().is_positive());
        let energy = tariff.affordable(Money(amount)).0;
        let mut left = energy;
        let mut by_period = [0; PERIODS];
        for (part, percent) in by_period.iter_mut().zip(cuts) {
            *part = left * i64::from(percent) / 100;
            left -= *part;
        }
        by_period[3] += left;
        prop_assert!(tariff.price(&wh(by_period), &MeteredTime::NONE).total() <= Money(amount));
        prop_assert!((energy + 2) * tariff.highest_price().0 > amount * 1_000);
    }

    /// More energy or time never costs less in all, nor, below the highest price, in any component; the highest price
    /// holds at every moment, the least one in the end.
    #[test]
    fn price_is_monotone_and_within_its_bounds(
        prices in prices(),
        fees in some_fees(),
        before in [0_i64..200_000, 0..200_000, 0..200_000, 0..200_000],
        more in [0_i64..500, 0..500, 0..500, 0..500],
        (charging, idle) in (0_i64..9_000_000, 0_i64..9_000_000),
        (longer, fuller) in (0_i64..90_000, 0_i64..90_000),
    ) {
        let tariff = Tariff { fees, ..tariff(prices, DAY) };
        let mut after = before;
        after.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        let early = MeteredTime { charging_ms: charging, idle_ms: idle };
        let late = MeteredTime { charging_ms: charging + longer, idle_ms: idle + fuller };
        let (low, high) = (tariff.price(&wh(before), &early), tariff.price(&wh(after), &late));
        prop_assert!(low.total() <= high.total());
        let capped = fees.max.is_some_and(|max| high.total() == max);
        prop_assert!(capped || (low.energy <= high.energy && low.service <= high.service && low.fees <= high.fees));
        prop_assert!([high.energy, high.service, high.fees].iter().all(|part| part.0 >= 0));
        for (by_period, time) in [(before, early), (after, late)] {
            let (so_far, end) = (tariff.price(&wh(by_period), &time), tariff.final_price(&wh(by_period), &time));
            prop_assert!(fees.max.is_none_or(|max| end.total() <= max));
            prop_assert!(end.total() >= so_far.total());
            let charged = by_period.iter().any(|energy| *energy > 0);
            prop_assert_eq!(end.total(), if charged { so_far.total().max(fees.min) } else { so_far.total() });
        }
    }

    /// The worst that a stretch of energy and time may cost is never exceeded by it, wherever in a session it lies.
    #[test]
    fn the_worst_cost_of_a_stretch_bounds_it(
        prices in prices(), fees in some_fees(), before in 1_i64..200_000, more in 0_i64..9_000,
        period in 0_usize..PERIODS, at in (0_i64..900_000, 0_i64..900_000), ms in 0_i64..90_000, idle in any::<bool>(),
    ) {
        let tariff = Tariff { fees, ..tariff(prices, DAY) };
        let mut by_period = wh([before, 0, 0, 0]);
        let mut time = MeteredTime { charging_ms: at.0, idle_ms: at.1 };
        let low = tariff.price(&by_period, &time).total();
        by_period[period].0 += more;
        *(if idle { &mut time.idle_ms } else { &mut time.charging_ms }) += ms;
        let high = tariff.price(&by_period, &time).total();
        // Three components may each round up once and down once.
        prop_assert!(high.0 - low.0 <= tariff.most_for(WattHours(more), ms).0 + 2);
    }

    /// By an implementation that shares nothing with the tariff's: in 1/60,000,000 of a ten-thousandth, long-hand.
    #[test]
    fn the_price_is_what_the_text_says(
        prices in prices(), fees in some_fees(), energy in [0_i64..90_000, 0..90_000, 0..90_000, 0..90_000],
        (charging_ms, idle_ms) in (0_i64..9_000_000, 0_i64..9_000_000),
    ) {
        let tariff = Tariff { fees, ..tariff(prices, DAY) };
        let nearest = |exact: i128, unit: i128| {
            let (whole, rest) = (exact / unit, exact % unit);
            whole + i128::from(rest * 2 > unit || (rest * 2 == unit && whole % 2 == 1))
        };
        let of = |price: fn(&Price) -> i64| {
            nearest((0..PERIODS).map(|p| i128::from(price(&prices[p])) * i128::from(energy[p])).sum(), 1_000)
        };
        let charged = energy.iter().sum::<i64>() > 0;
        let idle = (idle_ms - fees.idle_grace_s * 1_000).max(0);
        let mut minutes = i128::from(fees.idle_per_minute.0) * i128::from(idle);
        if charged {
            minutes += i128::from(fees.per_minute.0) * i128::from(charging_ms) + i128::from(fees.flat.0) * 60_000;
        }
        let total = of(|p| p.energy.0) + of(|p| p.service.0) + nearest(minutes, 60_000);
        let total = fees.max.map_or(total, |max| total.min(i128::from(max.0)));
        let time = MeteredTime { charging_ms, idle_ms };
        prop_assert_eq!(i128::from(tariff.price(&wh(energy), &time).total().0), total);
        let end = if charged { total.max(i128::from(fees.min.0)) } else { total };
        prop_assert_eq!(i128::from(tariff.final_price(&wh(energy), &time).total().0), end);
    }
}
