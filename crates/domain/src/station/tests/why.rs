//! What holds a charger, told from the machine's own state.

use super::steps::{Desk, id};
use crate::catalogue::{Charger, LimitNode, PowerSettings, SharePolicy, Station};
use crate::station::*;
use proptest::prelude::*;

fn explain(desk: &mut Desk, child: u16) -> PowerExplanation {
    desk.power.explain(Mono(desk.now), &id(child)).expect("known")
}

fn settled(limit: i64, demands: &[i64]) -> Desk {
    let mut desk = Desk::new(limit, demands.len() as u16);
    for (child, demand) in demands.iter().enumerate().filter(|(_, demand)| **demand > 0) {
        desk.session(child as u16, *demand);
    }
    (0..10).for_each(|_| drop(desk.second()));
    desk
}

#[test]
fn a_full_node_is_named_with_its_level_and_what_would_give_more() {
    let mut desk = settled(100_000, &[120_000, 120_000, 20_000]);
    let told = explain(&mut desk, 0);
    let HeldBy::Node { node, limit, level } = &told.held_by else { panic!("{told:?}") };
    assert_eq!((node.as_str(), *limit), ("grid", Watts(100_000)));
    // 20.5 kW are set aside for the car that takes 20 kW (a margin, in whole steps); two share the rest, to a step.
    let about = 39_700..=39_800;
    assert!(about.contains(&told.granted.0) && level.is_some_and(|level| about.contains(&level.0)), "{told:?}");
    // Both rise together: what this one needs is needed twice, but for the step that is left over.
    let [more] = &told.more[..] else { panic!("{told:?}") };
    let missing = 120_000 - told.share.expect("it takes part").0;
    assert_eq!((&more.nodes[..], more.gives.0), (&["grid".to_owned()][..], missing));
    assert!((2 * missing - 400..=2 * missing + 400).contains(&more.by.0), "{more:?}");
    assert_eq!(told.sentences().len(), 2, "nobody holds anything back: {:?}", told.sentences());
    assert!(told.sentences()[0].contains("grid is full at its limit of 100.0 kW"), "{:?}", told.sentences());
    assert_eq!(explain(&mut desk, 2).held_by, HeldBy::Demand);
}

#[test]
fn the_charger_and_the_car_are_causes_of_their_own() {
    let mut desk = settled(500_000, &[120_000, 20_000, 0]);
    assert_eq!(explain(&mut desk, 0).held_by, HeldBy::Rating);
    assert_eq!(explain(&mut desk, 1).held_by, HeldBy::Demand);
    assert_eq!(explain(&mut desk, 2).held_by, HeldBy::NoSession);
    desk.power.on_session_expected(Mono(desk.now), &id(2));
    assert_eq!(explain(&mut desk, 2).held_by, HeldBy::NotStarted);
    assert_eq!(desk.power.explain(Mono(desk.now), &id(9)), None);
}

#[test]
fn who_waits_for_its_minimum_knows_its_place() {
    // 12 kW each under 30 kW: two are on, two wait.
    let mut desk = settled(50_000, &[120_000; 4]);
    desk.power.books.piles.iter_mut().for_each(|pile| pile.fallback = 0);
    desk.power.on_limit_changed(Mono(desk.now), "grid", Watts(30_000)).unwrap();
    // Beyond the minimum time on.
    (0..320).for_each(|_| drop(desk.second()));
    let told: Vec<PowerExplanation> = (0..4).map(|child| explain(&mut desk, child)).collect();
    let mut places = Vec::new();
    for paused in told.iter().filter(|told| told.granted == Watts::ZERO) {
        let HeldBy::Paused { node, needs, free, place, waiting, .. } = &paused.held_by else { panic!("{paused:?}") };
        assert_eq!((node.as_str(), *needs, *waiting), ("grid", Watts(12_000), 2));
        assert!(free < needs, "{paused:?}");
        places.push(*place);
        assert!(paused.sentences()[0].contains(&format!("place {place} of 2")), "{:?}", paused.sentences());
    }
    places.sort_unstable();
    assert_eq!(places, [1, 2]);
}

#[test]
fn room_that_others_may_still_draw_is_told_with_who_holds_it() {
    let mut desk = settled(80_000, &[120_000, 0]);
    desk.session(1, 120_000);
    desk.now += 1_000;
    // The decrease of the first charger leaves and does not arrive: the second one waits for its lease.
    desk.beat(false);
    desk.tick(false);
    let told = explain(&mut desk, 1);
    let HeldBy::HeadRoom { node, missing } = &told.held_by else { panic!("{told:?}") };
    assert_eq!(node, "grid");
    assert!(missing.is_positive() && *missing <= told.target, "{told:?}");
    let [holder] = &told.holders[..] else { panic!("{told:?}") };
    assert_eq!((&holder.charger, holder.kind), (&id(0), HolderKind::Unconfirmed));
    assert!(holder.watts >= *missing, "{told:?}");
    assert!(holder.within_ms.is_some_and(|ms| ms <= 30_600), "{told:?}");
    assert!(told.sentences().iter().any(|line| line.starts_with("main/c0 holds")), "{:?}", told.sentences());
}

#[test]
fn silence_and_disobedience_are_told() {
    let mut desk = settled(80_000, &[120_000, 120_000]);
    desk.drawn[0] = Some(90_000);
    (0..5).for_each(|_| drop(desk.second_over()));
    assert_eq!(explain(&mut desk, 0).held_by, HeldBy::Disobedience);
    let other = explain(&mut desk, 1);
    assert!(other.holders.iter().any(|holder| holder.kind == HolderKind::Disobeys), "{other:?}");
    desk.now += 5_000;
    let told = explain(&mut desk, 0);
    assert_eq!(told.held_by, HeldBy::SilentGateway { heard_ms_ago: Some(5_000) });
}

/// A station of two feeders with chargers of different weights, all of whose cars want everything.
fn two_feeders(grid: i64, feeders: [i64; 2], weights: &[u32], policy: SharePolicy) -> (StationPower, Vec<ChargerId>) {
    let node = |id: &str, parent: Option<&str>, watts| LimitNode {
        id: id.into(),
        parent: parent.map(Into::into),
        limit_w: Watts(watts),
        base_w: Watts::ZERO,
    };
    let station = Station {
        operator: "op".parse().unwrap(),
        city: String::new(),
        time_zone: "UTC".into(),
        tariff: "t".parse().unwrap(),
        split: None,
        limits: vec![
            node("grid", None, grid),
            node("f0", Some("grid"), feeders[0]),
            node("f1", Some("grid"), feeders[1]),
        ],
        power: PowerSettings { policy, ..PowerSettings::default() },
    };
    let charger = |(child, weight): (usize, &u32)| Charger {
        gateway: "g".parse().unwrap(),
        child: child as u16,
        limit: format!("f{}", child % 2),
        rated_w: Watts(60_000),
        min_w: Watts(100),
        step_w: Watts(100),
        fallback_w: Watts::ZERO,
        weight: *weight,
        connectors: 1,
    };
    let chargers: BTreeMap<ChargerId, Charger> =
        weights.iter().enumerate().map(|at| (id(at.0 as u16), charger(at))).collect();
    let mut power = StationPower::new(Mono(0), 1, &station, &chargers, PowerConfig::default()).unwrap();
    let ids: Vec<ChargerId> = chargers.into_keys().collect();
    ids.iter().for_each(|charger| power.on_session_expected(Mono(0), charger));
    (power, ids)
}

/// Beats of the one gateway, which obeys, and ticks, until nothing moves.
fn settle(power: &mut StationPower, chargers: usize) {
    let (mut granted, mut applied) = (vec![0; chargers], 0);
    for second in 1..12 {
        let now = Mono(second * 1_000);
        let report = |(child, watts): (usize, &i64)| ChargerBeat {
            child: child as u16,
            granted: Watts(*watts),
            demand: Watts(60_000),
            power: Watts(*watts),
            charging: true,
        };
        let chargers = granted.iter().enumerate().map(report).collect();
        let beat = BeatReport {
            mono: second,
            nonce: second,
            boot: BootId::new(1, 1),
            epoch: 1,
            applied_seq: applied,
            chargers,
        };
        let mut effects = Vec::new();
        power.on_beat(now, &"g".parse().unwrap(), &beat, &mut effects);
        if let Some(problem) = power.on_tick(now) {
            power.on_allocation(now, &problem, &crate::allocation::water_fill(&problem), &mut effects);
        }
        while let Some(effect) = effects.pop() {
            match effect {
                StationEffect::SendGrants { seq, entries, .. } => {
                    applied = applied.max(seq);
                    entries.iter().for_each(|(child, watts)| granted[usize::from(*child)] = watts.0);
                }
                StationEffect::RaiseCeilings(ceilings) => power.on_ceilings_durable(now, &ceilings, &mut effects),
                _ => {}
            }
        }
    }
}

#[test]
fn a_strict_station_serves_the_highest_weight_in_full() {
    let shares = |policy| {
        let (mut power, ids) = two_feeders(90_000, [90_000; 2], &[100, 200, 200], policy);
        settle(&mut power, ids.len());
        ids.iter().map(|charger| power.explain(Mono(11_000), charger).unwrap().granted.0).collect::<Vec<_>>()
    };
    assert_eq!(shares(SharePolicy::Fair), [18_000, 36_000, 36_000]);
    assert_eq!(shares(SharePolicy::Strict), [0, 45_000, 45_000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// What is said to free more does: with so much more the charger gets so much more, and it is not said
    /// where nothing would.
    #[test]
    fn what_is_said_to_give_more_does(
        grid in 1_000_i64..300_000,
        feeders in [1_000_i64..200_000, 1_000..200_000],
        weights in proptest::collection::vec(1_u32..400, 1..9),
        asked in 0_usize..8,
    ) {
        let (mut power, ids) = two_feeders(grid, feeders, &weights, SharePolicy::Fair);
        settle(&mut power, ids.len());
        let asked = &ids[asked % ids.len()];
        let told = power.explain(Mono(11_000), asked).expect("known");
        let share = told.share.expect("it takes part");
        let full = told.nodes.iter().any(|node| node.planned.0 + 100 > node.limit.0);
        match &told.held_by {
            HeldBy::Rating => prop_assert_eq!(share, Watts(60_000)),
            HeldBy::Node { .. } | HeldBy::Paused { .. } => {
                prop_assert!(full || share == Watts::ZERO, "{:?}", &told);
                prop_assert!(!told.more.is_empty(), "{:?}", &told);
            }
            other => prop_assert!(false, "{other:?}: {told:?}"),
        }
        for MorePower { nodes, by, gives } in &told.more {
            let mut raised = power.clone();
            for path in nodes {
                let name = path.rsplit('/').next().unwrap();
                let at = raised.tree().find(name).unwrap();
                let limit = raised.tree().nodes()[at].limit.saturating_add(*by);
                raised.on_limit_changed(Mono(11_000), name, limit).unwrap();
            }
            let after = raised.explain(Mono(11_000), asked).expect("known");
            prop_assert_eq!(after.share, Some(share.saturating_add(*gives)), "{:?} then {:?}", &told, after);
        }
    }
}
