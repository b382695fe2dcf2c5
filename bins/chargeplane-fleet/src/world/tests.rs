//! The schedule against an idealised station: every start is granted after 300 ms, and once a second the connection
//! is shared fairly among what the cars would take.

use super::*;
use crate::schedule;
use crate::testing::{config, recorded};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::Timestamp;

/// How an allocation treats charger `i`: its share in 1/1000 of the fair one.
type Favour = fn(usize) -> i64;

/// What the ideal run showed.
struct Seen {
    totals: crate::load::LoadTotals,
    all_on_ms: (u64, u64),
    reasons: BTreeMap<StopReason, u64>,
    before_all_on: u64,
    counts: Counts,
}

/// The level at which everybody gets `level x favour`, or what he would take, and the sum is `limit`.
fn level(mut wants: Vec<(i64, i64)>, limit: i64) -> i64 {
    wants.sort_unstable_by_key(|(demand, favour)| demand * 1_000 / favour);
    let mut weight: i64 = wants.iter().map(|(_, favour)| favour).sum();
    let mut left = limit;
    for (demand, favour) in wants {
        let level = left * 1_000 / weight;
        if demand > level * favour / 1_000 {
            return level;
        }
        left -= demand;
        weight -= favour;
    }
    i64::from(u32::MAX)
}

fn allocate(world: &mut World, favour: Favour) {
    let bays = world.bays.iter().enumerate();
    let wants = bays.filter(|(_, b)| b.is_charging()).map(|(i, b)| (b.demand_w(), favour(i))).collect();
    let level = level(wants, world.meter.limit_w());
    for (i, bay) in world.bays.iter_mut().enumerate() {
        bay.set_limit(if bay.is_charging() { level * favour(i) / 1_000 } else { 0 });
    }
}

/// Poor drivers are stopped once they have drawn `poor_wh`. While the node is `away` (seconds), limits stay and
/// nothing is answered.
fn simulate(config: &FleetConfig, favour: Favour, poor_wh: i64, away: std::ops::Range<u64>) -> Seen {
    let schedule = schedule::build(config, &recorded());
    let poor: Vec<u32> =
        schedule.drivers.iter().filter(|d| d.kind == schedule::Kind::Poor).filter_map(|d| d.charger).collect();
    let mut world = World::new(config, &schedule, 0);
    let mut out = vec![Vec::new(); config.gateways.len()];
    let mut asked: VecDeque<(u64, usize, u16)> = VecDeque::new();
    let mut finished = Vec::new();
    let mut all_on = (u64::MAX, 0);
    let mut sessions = 0;
    for step in 1..=u64::from(config.seconds) * 10 {
        let now = step * STEP_MS;
        world.step(Timestamp(0), &mut out);
        for (gateway, reports) in out.iter_mut().enumerate() {
            for report in reports.drain(..) {
                if let Report::Event { child, event: BayEvent::Ask { .. } } = report {
                    asked.push_back((now + 300, gateway, child));
                }
            }
        }
        let node = !away.contains(&(now / 1_000));
        while node && asked.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, gateway, child) = asked.pop_front().unwrap();
            sessions += 1;
            let id: SessionId = format!("s.{sessions}").parse().unwrap();
            // Asked twice while the node was away: the second start finds the place taken.
            let _ = world.start(gateway, child, &id);
        }
        for i in &poor {
            let bay = &mut world.bays[*i as usize];
            let first = 10_000 + i64::from(*i) * 37;
            if let Some(id) = bay.session().cloned().filter(|_| bay.register_wh() - first >= poor_wh) {
                // Only the first driver of this charger starts at this register.
                if bay.finished.is_empty() && !finished.iter().any(|(at, _)| *at == *i as usize) {
                    bay.stop(&id, StopReason::Funds, now);
                }
            }
        }
        if node && step % 10 == 0 {
            allocate(&mut world, favour);
        }
        if world.counts().charging == config.chargers.len() as u64 {
            all_on = (all_on.0.min(now), now);
        }
        finished.extend(world.take_finished());
        if step % 10 == 0 {
            world.meter().end_second(now / 1_000);
        }
    }
    let mut reasons = BTreeMap::new();
    for (_, session) in &finished {
        *reasons.entry(session.reason).or_insert(0) += 1;
    }
    let before_all_on = finished.iter().filter(|(_, f)| f.stopped_ms < all_on.0).count() as u64;
    Seen { totals: world.meter.totals(), all_on_ms: all_on, reasons, before_all_on, counts: world.counts() }
}

fn holds(seen: &Seen, seed: u64, all_on_by_ms: u64) {
    let reason = |reason| seen.reasons.get(&reason).copied().unwrap_or(0);
    let normal = reason(StopReason::TargetReached) + reason(StopReason::LeftEarly);
    assert!(seen.all_on_ms.0 <= all_on_by_ms, "seed {seed}: all on at {} ms", seen.all_on_ms.0);
    assert!(seen.all_on_ms.1 >= 34_000, "seed {seed}: all on until {} ms", seen.all_on_ms.1);
    assert_eq!(seen.before_all_on, 0, "seed {seed}");
    assert!(normal >= 1_300, "seed {seed}: {:?}", seen.reasons);
    assert!(reason(StopReason::LeftEarly) >= 50, "seed {seed}: {:?}", seen.reasons);
    assert!(reason(StopReason::TargetReached) >= 800, "seed {seed}: {:?}", seen.reasons);
    assert!(reason(StopReason::Funds) >= 30, "seed {seed}: {:?}", seen.reasons);
    assert_eq!(reason(StopReason::Fault), 36, "seed {seed}: {:?}", seen.reasons);
    assert!(seen.totals.limit_bound_seconds >= 45, "seed {seed}: {:?}", seen.totals);
    assert_eq!(seen.totals.limit_violations, 0, "seed {seed}: {:?}", seen.totals);
    let limit = 60_000_000;
    assert!(seen.totals.peak_load_w * 100 >= limit * 98, "seed {seed}: {:?}", seen.totals);
    assert!(seen.totals.peak_demand_w * 10 >= limit * 15, "seed {seed}: {:?}", seen.totals);
}

#[test]
fn the_default_morning_is_what_was_promised() {
    for seed in [1, 2, 20_250_301] {
        let seen = simulate(&config(2_000, 120, seed), |_| 1_000, 240, 0..0);
        println!("{seed}: {:?} {:?} {:?} {:?}", seen.totals, seen.all_on_ms, seen.reasons, seen.counts);
        holds(&seen, seed, 26_000);
    }
}

#[test]
fn it_holds_when_shares_are_far_from_fair() {
    let seen = simulate(&config(2_000, 120, 1), |i| if i % 2 == 0 { 700 } else { 1_300 }, 200, 0..0);
    println!("{:?} {:?} {:?} {:?}", seen.totals, seen.all_on_ms, seen.reasons, seen.counts);
    holds(&seen, 1, 26_000);
}

#[test]
fn it_holds_when_the_node_is_away_for_ten_seconds_of_the_ramp() {
    for away in [4..14, 14..24] {
        let seen = simulate(&config(2_000, 120, 1), |_| 1_000, 240, away);
        println!("{:?} {:?} {:?} {:?}", seen.totals, seen.all_on_ms, seen.reasons, seen.counts);
        holds(&seen, 1, 34_000);
    }
}

#[test]
fn a_short_run_of_a_small_station_shows_everything() {
    let config = config(50, 30, 1);
    let seen = simulate(&config, |_| 1_000, 100, 0..0);
    println!("{:?} {:?} {:?} {:?}", seen.totals, seen.all_on_ms, seen.reasons, seen.counts);
    for reason in [StopReason::TargetReached, StopReason::LeftEarly, StopReason::Funds, StopReason::Fault] {
        assert!(seen.reasons.contains_key(&reason), "{reason:?}: {:?}", seen.reasons);
    }
    assert_eq!(seen.totals.charging_peak, 50);
    assert!(seen.totals.limit_bound_seconds >= 5);
}

#[test]
fn the_close_ends_every_session_and_admits_nobody() {
    let config = config(1_000, 30, 1);
    let schedule = schedule::build(&config, &recorded());
    let mut world = World::new(&config, &schedule, 0);
    let mut out = vec![Vec::new(); 10];
    for _ in 0..100 {
        world.step(Timestamp(0), &mut out);
    }
    for i in 0..1_000 {
        let id: SessionId = format!("s.{i}").parse().unwrap();
        world.start(i / 100, (i % 100) as u16, &id).unwrap();
    }
    world.close();
    out.iter_mut().for_each(Vec::clear);
    for _ in 0..world.close_ms() / STEP_MS + 20 {
        world.step(Timestamp(0), &mut out);
    }
    let finished = world.take_finished();
    assert_eq!(finished.len(), 1_000);
    let first = finished.iter().map(|(_, f)| f.stopped_ms).min();
    let last = finished.iter().map(|(_, f)| f.stopped_ms).max();
    assert!(last > first.map(|ms| ms + 3_000), "they leave one after the other");
    let stops = |r: &Report| matches!(r, Report::Event { event: BayEvent::Stopped { .. }, .. });
    assert_eq!(out.iter().flatten().filter(|r| stops(r)).count(), 1_000);
    assert!(!out.iter().flatten().any(|r| matches!(r, Report::Event { event: BayEvent::Ask { .. }, .. })));
    assert_eq!(world.counts().charging + world.counts().waiting, 0);
    let id: SessionId = "s.later".parse().unwrap();
    world.start(3, 7, &id).unwrap();
    world.step(Timestamp(0), &mut out);
    assert_eq!(world.session(3, 7), Some(&id), "after the close a remote start is served");
}
