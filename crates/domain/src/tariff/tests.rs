use super::*;
use proptest::prelude::*;

fn price(energy: i64, service: i64) -> Price {
    Price { energy: Money(energy), service: Money(service) }
}

fn tariff(prices: [Price; PERIODS], slots: &str) -> Tariff {
    Tariff { currency: Currency::new("CNY").unwrap(), prices, slots: Slots::try_from(slots.to_owned()).unwrap() }
}

/// Valley until 08:00, sharp 08:00-10:00, flat until 18:00, peak 18:00-21:00, valley.
const DAY: &str = "3333333333333333 0000 2222222222222222 111111 333333";

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
    let cost = |energy| tariff.price(&wh([energy, 0, 0, 0]));
    assert_eq!(cost(1), Priced { energy: Money(0), service: Money(2) });
    assert_eq!(cost(3), Priced { energy: Money(2), service: Money(4) });
    // The halves of two periods are added before the rounding, not after it.
    assert_eq!(tariff.price(&wh([1, 1, 0, 0])), Priced { energy: Money(1), service: Money(3) });
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
    let priced = broken.price(&wh([i64::MAX; PERIODS]));
    assert_eq!(priced, Priced { energy: Money(i64::MAX), service: Money(i64::MIN) });
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
fn money_too_small_for_both_components_pays_energy_first() {
    let priced = Priced { energy: Money(70), service: Money(40) };
    assert_eq!(priced.capped(Money(100)), Priced { energy: Money(70), service: Money(30) });
    assert_eq!(priced.capped(Money(60)), Priced { energy: Money(60), service: Money(0) });
    assert_eq!(priced.capped(Money(-1)), Priced::ZERO);
    assert_eq!(priced.capped(Money(1_000)), priced);
}

fn prices() -> impl Strategy<Value = [Price; PERIODS]> {
    let one = (0_i64..30_000, 0_i64..9_000).prop_map(|(energy, service)| price(energy, service));
    let round = (0_i64..30, 0_i64..9).prop_map(|(energy, service)| price(energy * 1_000, service * 1_000));
    let any = prop_oneof![one, round];
    [any.clone(), any.clone(), any.clone(), any]
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
        prop_assert!(tariff.price(&wh(by_period)).total() <= Money(amount));
        prop_assert!((energy + 2) * tariff.highest_price().0 > amount * 1_000);
    }

    /// More energy never costs less, in either component.
    #[test]
    fn price_is_monotone(
        prices in prices(),
        before in [0_i64..200_000, 0..200_000, 0..200_000, 0..200_000],
        more in [0_i64..500, 0..500, 0..500, 0..500],
    ) {
        let tariff = tariff(prices, DAY);
        let mut after = before;
        after.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        let (low, high) = (tariff.price(&wh(before)), tariff.price(&wh(after)));
        prop_assert!(low.energy <= high.energy && low.service <= high.service);
    }
}
