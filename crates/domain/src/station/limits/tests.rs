//! Limits at moments and ahead of them.

use super::*;
use crate::catalogue::PowerSettings;
use crate::station::{LimitCommand, LimitOrder, LimitRejection, StationEvent};
use proptest::prelude::*;

const DAY_MS: i64 = 24 * 3_600_000;

/// A schedule in a zone, windows as `(node, from, until, watts)`.
fn schedule(zone: &str, windows: &[(&str, &str, &str, i64)]) -> LimitSchedule {
    let window = |(node, from, until, watts): &(&str, &str, &str, i64)| ScheduledLimit {
        node: (*node).to_owned(),
        from: (*from).to_owned().try_into().unwrap(),
        until: (*until).to_owned().try_into().unwrap(),
        limit_w: Watts(*watts),
    };
    let station = Station {
        operator: "op".parse().unwrap(),
        city: String::new(),
        time_zone: zone.to_owned(),
        tariff: "t".parse().unwrap(),
        split: None,
        limits: Vec::new(),
        power: PowerSettings { schedule: windows.iter().map(window).collect(), ..PowerSettings::default() },
    };
    LimitSchedule::of(&station)
}

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

fn limit(state: &StationState, schedule: &LimitSchedule, when: &str) -> i64 {
    state.limit_at(schedule, "grid", Watts(100), at(when)).limit.0
}

#[test]
fn windows_are_read_on_the_stations_wall_clock_also_across_midnight_and_daylight_saving() {
    let state = StationState::default();
    let evening = schedule("Asia/Shanghai", &[("grid", "17:00", "21:30", 40), ("grid", "21:00", "06:00", 70)]);
    for (utc, watts) in [
        ("2026-01-05T08:59:59Z", 100), // 16:59:59 there
        ("2026-01-05T09:00:00Z", 40),
        ("2026-01-05T13:15:00Z", 40), // both: the lower one
        ("2026-01-05T13:30:00Z", 70),
        ("2026-01-05T21:59:59Z", 70),
        ("2026-01-05T22:00:00Z", 100),
    ] {
        assert_eq!(limit(&state, &evening, utc), watts, "{utc}");
    }
    let berlin = schedule("Europe/Berlin", &[("grid", "17:00", "18:00", 40)]);
    assert_eq!(limit(&state, &berlin, "2026-01-05T16:30:00Z"), 40, "an hour from UTC in winter");
    assert_eq!(limit(&state, &berlin, "2026-07-05T15:30:00Z"), 40, "two in summer");
    assert_eq!(limit(&state, &berlin, "2026-07-05T16:30:00Z"), 100);
    assert_eq!(limit(&state, &schedule("Nowhere/None", &[("grid", "17:00", "18:00", 40)]), "2026-07-05T03:00:00Z"), 40);
}

#[test]
fn times_of_day_are_strict() {
    for good in ["00:00", "09:05", "23:59", "24:00"] {
        assert_eq!(crate::catalogue::DayTime::try_from(good.to_owned()).unwrap().to_string(), good);
    }
    for bad in ["", "9:00", "24:01", "12:60", "12.30", "ab:cd", "+1:00", "12:00:00"] {
        assert!(crate::catalogue::DayTime::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

fn tree() -> crate::allocation::Tree {
    crate::allocation::Tree::build(&[crate::catalogue::LimitNode {
        id: "grid".into(),
        parent: None,
        limit_w: Watts(100),
        base_w: Watts::ZERO,
    }])
    .unwrap()
}

fn decide(state: &mut StationState, now: i64, order: LimitOrder) -> Result<bool, LimitRejection> {
    let least = BTreeMap::from([("grid", Watts(10))]);
    let command = LimitCommand { order, by: "main".into(), at: Timestamp(now) };
    let event = state.decide_limit(&tree(), &least, &command)?;
    event.iter().for_each(|event| state.apply(event));
    Ok(event.is_some())
}

fn set(limit: i64, from: Option<i64>) -> LimitOrder {
    LimitOrder::Set { node: "grid".into(), limit: Watts(limit), from: from.map(Timestamp) }
}

fn signal(name: &str, limit: i64, from: Option<i64>, until: i64) -> LimitOrder {
    let (signal, node, until) = (name.to_owned(), "grid".to_owned(), Timestamp(until));
    LimitOrder::Signal { signal, node, limit: Watts(limit), from: from.map(Timestamp), until }
}

fn in_effect(state: &StationState, now: i64) -> LimitInEffect {
    state.limit_at(&LimitSchedule::default(), "grid", Watts(100), Timestamp(now))
}

#[test]
fn an_announced_limit_leaves_the_former_one_in_effect_until_its_moment() {
    let mut state = StationState::default();
    assert_eq!(decide(&mut state, 1_000, set(80, None)), Ok(true));
    assert_eq!(decide(&mut state, 2_000, set(50, Some(9_000))), Ok(true));
    assert_eq!(decide(&mut state, 2_500, set(50, Some(9_000))), Ok(false), "the same again");
    assert_eq!([8_999, 9_000].map(|now| in_effect(&state, now).limit.0), [80, 50]);
    // Another announcement before it began: what was set before both stays until then.
    assert_eq!(decide(&mut state, 3_000, set(60, Some(5_000))), Ok(true));
    assert_eq!([4_999, 5_000, 9_000].map(|now| in_effect(&state, now).limit.0), [80, 60, 60]);
    assert_eq!(decide(&mut state, 9_500, LimitOrder::Lift { node: "grid".into() }), Ok(true));
    assert_eq!(in_effect(&state, 9_500).source, LimitSource::Catalogue);
}

#[test]
fn a_signal_ends_by_itself_and_can_be_repeated_replaced_and_lifted() {
    let mut state = StationState::default();
    assert_eq!(decide(&mut state, 1_000, signal("dr-1", 40, Some(5_000), 9_000)), Ok(true));
    assert_eq!(decide(&mut state, 6_000, signal("dr-1", 40, Some(5_000), 9_000)), Ok(false), "repeated while it runs");
    let running = in_effect(&state, 5_000);
    let source = LimitSource::Signal { signal: "dr-1".into(), until: Timestamp(9_000) };
    assert_eq!((running.limit, running.source), (Watts(40), source));
    assert_eq!([4_999, 8_999, 9_000].map(|now| in_effect(&state, now).limit.0), [100, 40, 100]);
    assert_eq!(decide(&mut state, 6_000, signal("dr-1", 60, None, 8_000)), Ok(true));
    assert_eq!([6_000, 8_000].map(|now| in_effect(&state, now).limit.0), [60, 100]);
    assert_eq!(decide(&mut state, 7_000, LimitOrder::LiftSignal { signal: "dr-1".into() }), Ok(true));
    assert_eq!(in_effect(&state, 7_000).limit, Watts(100));
    // Those that have ended go when the next one comes.
    assert_eq!(decide(&mut state, 7_000, signal("a", 50, None, 8_000)), Ok(true));
    assert_eq!(decide(&mut state, 8_000, signal("b", 50, None, 9_000)), Ok(true));
    assert_eq!(state.signals.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(state.changes.len(), 5);
}

#[test]
fn bad_orders_are_refused_and_change_nothing() {
    let mut state = StationState::default();
    let moment = |field, order| {
        let refused = decide(&mut StationState::default(), 10_000, order).unwrap_err();
        assert!(matches!(refused, LimitRejection::BadMoment { field: got, .. } if got == field), "{refused:?}");
    };
    moment("at", set(50, Some(10_000)));
    moment("at", set(50, Some(10_001 + 366 * DAY_MS)));
    moment("until", signal("s", 50, None, 10_000));
    moment("until", signal("s", 50, Some(12_000), 12_000));
    moment("from", signal("s", 50, Some(9_000), 12_000));
    for name in ["", "two words", &"x".repeat(65)] {
        assert_eq!(decide(&mut state, 0, signal(name, 50, None, 5)), Err(LimitRejection::BadSignalName), "{name}");
    }
    for (limit, out) in [(-1, true), (101, true), (9, false)] {
        for order in [set(limit, Some(99)), signal("s", limit, None, 99)] {
            match decide(&mut state, 0, order) {
                Err(LimitRejection::OutOfRange { .. }) => assert!(out, "{limit}"),
                Err(LimitRejection::BelowReserved { .. }) => assert!(!out, "{limit}"),
                other => panic!("{other:?}"),
            }
        }
    }
    let unknown = decide(&mut state, 0, LimitOrder::LiftSignal { signal: "x".into() }).unwrap_err();
    assert_eq!(unknown.to_string(), "the station has no signal \"x\"; it has none");
    assert_eq!(state, StationState::default());
    for at in 0..100 {
        assert_eq!(decide(&mut state, 0, signal(&format!("s{at}"), 50, None, 99)), Ok(true));
    }
    assert_eq!(decide(&mut state, 0, signal("one more", 50, None, 99)), Err(LimitRejection::BadSignalName));
    assert_eq!(decide(&mut state, 0, signal("more", 50, None, 99)), Err(LimitRejection::TooManySignals));
    assert_eq!(decide(&mut state, 99, signal("more", 50, None, 199)), Ok(true), "the others have ended");
}

proptest! {
    /// What grants keep now is the lowest of every moment until they have ended, by asking at every one of them.
    #[test]
    fn a_limit_ahead_is_the_lowest_until_grants_have_ended(
        orders in proptest::collection::vec((0_i64..3, 10_i64..100, 1_i64..400, 1_i64..400), 0..6),
        windows in proptest::collection::vec((0_u16..12, 0_u16..12, 10_i64..100), 0..3),
        now in 0_i64..500,
        lead in 0_i64..150,
    ) {
        // The unit of the orders is a second; a grant lasts up to two and a half minutes.
        let mut state = StationState::default();
        for (number, (kind, limit, from, lasts)) in orders.into_iter().enumerate() {
            let node = "grid".to_owned();
            let (from, until) = (Timestamp(from * 1_000), Timestamp((from + lasts) * 1_000));
            let event = match kind {
                0 => StationEvent::LimitSet { node, limit: OperatorLimit {
                    limit: Watts(limit), by: String::new(), at: Timestamp(0), from: Some(from), before: Some(Watts(90)),
                } },
                _ => StationEvent::SignalSet { signal: number.to_string(), content: LimitSignal {
                    node, limit: Watts(limit), from, until, by: String::new(), at: Timestamp(0),
                } },
            };
            state.apply(&event);
        }
        let times: Vec<_> = windows.iter().map(|(from, until, limit)| {
            (format!("00:{from:02}"), format!("00:{until:02}"), *limit)
        }).collect();
        let windows: Vec<_> = times.iter().map(|(from, until, limit)| ("grid", &**from, &**until, *limit)).collect();
        let schedule = schedule("UTC", &windows);
        let ahead = state.limit_ahead(&schedule, "grid", Watts(100), Timestamp(now * 1_000), lead * 1_000);
        let each = (0..=lead).map(|s| state.limit_at(&schedule, "grid", Watts(100), Timestamp((now + s) * 1_000)).limit);
        prop_assert_eq!(Some(ahead.limit), each.min());
    }
}
