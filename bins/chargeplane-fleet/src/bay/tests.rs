use super::*;
use crate::schedule::Kind;

const RATING: Rating = Rating { rated_w: 120_000, min_w: 12_000 };

fn bay() -> Bay {
    Bay::new(RATING, 5_000, 700, 1)
}

fn driver(need_wh: i64, stay_ms: u64) -> Driver {
    Driver {
        no: 4,
        kind: Kind::First,
        arrive_ms: 0,
        charger: None,
        account: "a-1".parse().unwrap(),
        stay_ms,
        not_before_ms: 0,
        late_stop_ms: 0,
        car: CarSpec { capacity_wh: 2_000, stored_wh: 200, need_wh, max_w: 150_000 },
    }
}

fn session(n: u32) -> SessionId {
    format!("c-1.{n}").parse().unwrap()
}

/// Steps until `until_ms` and answers what happened, without changes of status.
fn run(bay: &mut Bay, from_ms: u64, until_ms: u64) -> Vec<BayEvent> {
    let mut events = Vec::new();
    for now in (from_ms..until_ms).step_by(100) {
        bay.step(now);
        events.extend(bay.events.drain(..).filter(|e| !matches!(e, BayEvent::Status { .. })));
    }
    events
}

fn charging(need_wh: i64, stay_ms: u64) -> Bay {
    let mut bay = bay();
    bay.arrive(driver(need_wh, stay_ms), 0);
    assert_eq!(run(&mut bay, 0, 400), [BayEvent::Ask { account: "a-1".parse().unwrap(), request: 701 }]);
    assert_eq!(bay.start(&session(1), 400), Ok(WattHours(5_000)));
    bay
}

#[test]
fn a_session_meters_what_the_car_took() {
    let mut bay = charging(100, 60_000);
    assert_eq!(run(&mut bay, 400, 1_400), [], "no energy without a limit");
    assert_eq!((bay.power_w(), bay.demand_w()), (0, 120_000));
    bay.set_limit(60_000);
    let events = run(&mut bay, 1_400, 30_000);
    let register = WattHours(5_100);
    assert_eq!(events, [BayEvent::Stopped { session: session(1), register, reason: StopReason::TargetReached }]);
    let finished = &bay.finished[0];
    assert_eq!((finished.meter_start, finished.meter_stop, finished.driver), (5_000, 5_100, Some(4)));
    // 100 Wh at 60 kW take six seconds, and the ramp up a little more.
    assert!((6_000..8_500).contains(&(finished.stopped_ms - 1_400)), "{}", finished.stopped_ms);
    assert!(bay.is_free() && bay.power_w() == 0);
}

#[test]
fn a_lower_limit_is_obeyed_before_the_next_step() {
    let mut bay = charging(1_000, 60_000);
    bay.set_limit(120_000);
    run(&mut bay, 400, 5_000);
    assert_eq!(bay.power_w(), 120_000);
    bay.set_limit(30_000);
    assert_eq!(bay.power_w(), 30_000);
    bay.set_limit(11_000);
    assert_eq!(bay.power_w(), 0, "below its least power it cannot charge");
    bay.set_limit(500_000);
    run(&mut bay, 5_000, 9_000);
    assert_eq!(bay.power_w(), 120_000, "never above its rating");
}

#[test]
fn a_driver_leaves_early_and_a_fault_ends_the_session() {
    let mut bay = charging(1_000, 4_000);
    bay.set_limit(50_000);
    assert!(matches!(run(&mut bay, 400, 5_000)[..], [BayEvent::Stopped { reason: StopReason::LeftEarly, .. }]));

    let mut bay = charging(1_000, 60_000);
    bay.fault(1_000);
    assert!(matches!(
        bay.events[..],
        [
            BayEvent::Stopped { reason: StopReason::Fault, .. },
            BayEvent::Fault,
            BayEvent::Status { plugged: false, available: false }
        ]
    ));
    assert_eq!(bay.start(&session(2), 2_000), Err("faulted"));
    run(&mut bay, 1_100, 1_100 + REPAIR_MS);
    assert!(bay.is_free());
}

#[test]
fn a_denied_driver_asks_three_times_more_and_drives_on() {
    let mut bay = bay();
    bay.arrive(driver(500, 60_000), 0);
    let mut asked = 0;
    for now in (0..60_000).step_by(100) {
        bay.step(now);
        for event in std::mem::take(&mut bay.events) {
            if let BayEvent::Ask { request, .. } = event {
                asked += 1;
                bay.denied(request + 100, now);
                bay.denied(request, now + 100);
                bay.denied(request, now + 100);
            }
        }
    }
    assert_eq!((asked, bay.tally.denied, bay.tally.gave_up, bay.tally.unanswered), (4, 4, 1, 0));
    assert!(bay.is_free() && !bay.is_plugged());
    // Nothing is open: a start now is a remote one, with its own car.
    assert!(bay.start(&session(3), 60_000).is_ok() && bay.is_plugged());
}

#[test]
fn a_silent_node_is_asked_again_and_a_late_start_finds_nobody() {
    let mut bay = bay();
    bay.arrive(driver(500, 60_000), 0);
    let asks = run(&mut bay, 0, PATIENCE_MS + 500).len();
    assert_eq!((asks, bay.tally.unanswered), (2, 1));
    bay.close(11_000);
    assert_eq!(bay.start(&session(1), 11_100), Err("not_plugged"), "still leaving");
    run(&mut bay, 11_100, 13_000);
    // Two requests are open; their starts, should they come, are for a driver who is gone.
    assert_eq!(bay.start(&session(1), 13_000), Err("not_plugged"));
    assert_eq!(bay.start(&session(2), 13_000), Err("not_plugged"));
    assert!(bay.start(&session(3), 13_000).is_ok());
    assert_eq!(bay.start(&session(3), 13_100), Ok(WattHours(5_000)), "the same start again");
    assert_eq!(bay.start(&session(4), 13_100), Err("occupied"));
}

#[test]
fn out_of_service_nobody_comes_and_nobody_starts() {
    let mut bay = bay();
    bay.set_available(false);
    assert!(!bay.is_free() && bay.free_for_ms(9_000).is_none());
    assert_eq!(bay.start(&session(1), 100), Err("unavailable"));
    bay.set_available(true);
    assert!(bay.is_free() && bay.start(&session(1), 100).is_ok());
    bay.set_available(false);
    assert!(bay.is_charging(), "an open session goes on");
    bay.reset(200);
    assert_eq!(bay.finished[0].reason, StopReason::PowerLoss);
}

#[test]
fn a_late_charger_goes_on_for_a_while_when_the_money_ends() {
    let mut bay = bay();
    bay.arrive(Driver { late_stop_ms: 9_000, ..driver(1_000, 60_000) }, 0);
    run(&mut bay, 0, 400);
    bay.start(&session(1), 400).unwrap();
    assert_eq!(bay.stops_at(&session(1), StopReason::Remote, 1_000), 1_000, "an operator is obeyed at once");
    assert_eq!(bay.stops_at(&session(1), StopReason::Funds, 1_000), 10_000);
    assert_eq!(bay.stops_at(&session(1), StopReason::Funds, 5_000), 10_000, "told again, it is no later");
    assert_eq!(bay.stops_at(&session(2), StopReason::Funds, 5_000), 5_000, "another session is not here");
    assert_eq!(bay.stops_at(&session(1), StopReason::Funds, 11_000), 11_000);
    let mut punctual = charging(1_000, 60_000);
    assert_eq!(punctual.stops_at(&session(1), StopReason::Funds, 1_000), 1_000);
}
