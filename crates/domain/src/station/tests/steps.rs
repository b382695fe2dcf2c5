//! The machine by hand: one gateway, few chargers, one input at a time.

use crate::allocation::water_fill;
use crate::catalogue::{Charger, LimitNode, Station};
use crate::station::*;

pub(super) const LEASE_MS: u64 = 30_000;

pub(super) fn charger(child: u16, gateway: &str) -> Charger {
    Charger {
        gateway: gateway.parse().unwrap(),
        child,
        limit: "grid".into(),
        rated_w: Watts(120_000),
        min_w: Watts(12_000),
        step_w: Watts(100),
        fallback_w: Watts(12_000),
        weight: 100,
        connectors: 1,
    }
}

pub(super) fn id(child: u16) -> ChargerId {
    format!("c{child}").parse().unwrap()
}

fn gateway() -> GatewayId {
    "g".parse().unwrap()
}

/// A gateway that does what it is told at once.
pub(super) struct Desk {
    pub(super) power: StationPower,
    pub(super) now: u64,
    nonce: u64,
    epoch: u64,
    applied: u64,
    granted: Vec<i64>,
    pub(super) demand: Vec<i64>,
    pub(super) drawn: Vec<Option<i64>>,
    durable: StationState,
    effects: Vec<StationEffect>,
}

impl Desk {
    pub(super) fn new(limit: i64, chargers: u16) -> Self {
        Self::opened(limit, chargers, 1_000, 7, StationState::default(), &[])
    }

    pub(super) fn opened(limit: i64, chargers: u16, now: u64, epoch: u64, durable: StationState, open: &[u16]) -> Self {
        let limits = vec![LimitNode { id: "grid".into(), parent: None, limit_w: Watts(limit), base_w: Watts::ZERO }];
        let station = Station {
            operator: "op".parse().unwrap(),
            city: String::new(),
            time_zone: "UTC".into(),
            tariff: "t".parse().unwrap(),
            split: None,
            limits,
            power: Default::default(),
        };
        let of: BTreeMap<ChargerId, Charger> = (0..chargers).map(|child| (id(child), charger(child, "g"))).collect();
        let mut power = StationPower::new(Mono(now), epoch, &station, &of, PowerConfig::default()).unwrap();
        power.on_ceilings(Mono(now), &durable);
        open.iter().for_each(|child| power.on_session_restored(Mono(now), &id(*child)));
        let count = usize::from(chargers);
        let (granted, demand, drawn) = (vec![0; count], vec![0; count], vec![None; count]);
        Self { power, now, nonce: 0, epoch: 0, applied: 0, granted, demand, drawn, durable, effects: Vec::new() }
    }

    pub(super) fn session(&mut self, child: u16, demand: i64) {
        self.power.on_session_expected(Mono(self.now), &id(child));
        self.demand[usize::from(child)] = demand;
    }

    pub(super) fn report(&mut self) -> BeatReport {
        self.nonce += 1;
        let chargers = self.granted.iter().zip(&self.demand).enumerate().map(|(at, (granted, demand))| ChargerBeat {
            child: at as u16,
            granted: Watts(*granted),
            demand: Watts(*demand),
            power: Watts(self.drawn[at].unwrap_or(*granted.min(demand))),
            charging: *demand > 0,
        });
        let (mono, nonce, boot) = (self.now + 77, self.nonce, BootId::new(1, 1));
        BeatReport { mono, nonce, boot, epoch: self.epoch, applied_seq: self.applied, chargers: chargers.collect() }
    }

    /// Carries out what the machine wants; `obey` is whether the gateway hears it. Returns what else it says.
    pub(super) fn carry_out(&mut self, obey: bool) -> Vec<StationEffect> {
        let mut rest = Vec::new();
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    StationEffect::SendGrants { seq, lease_ms, entries, .. } => {
                        assert_eq!(lease_ms, LEASE_MS);
                        if obey {
                            assert!(seq > self.applied);
                            (self.applied, self.epoch) = (seq, 7.max(self.epoch));
                            entries.iter().for_each(|(child, watts)| self.granted[usize::from(*child)] = watts.0);
                        }
                    }
                    StationEffect::RaiseCeilings(ceilings) => {
                        self.durable.apply(&StationEvent::CeilingsSet(ceilings.clone()));
                        self.power.on_ceilings_durable(Mono(self.now), &ceilings, &mut self.effects);
                    }
                    other => rest.push(other),
                }
            }
        }
        rest
    }

    pub(super) fn beat(&mut self, obey: bool) -> Vec<StationEffect> {
        let beat = self.report();
        assert_eq!(self.power.on_beat(Mono(self.now), &gateway(), &beat, &mut self.effects), BeatVerdict::Taken);
        self.carry_out(obey)
    }

    pub(super) fn tick(&mut self, obey: bool) -> Vec<StationEffect> {
        if let Some(problem) = self.power.on_tick(Mono(self.now)) {
            let allocation = water_fill(&problem);
            self.power.on_allocation(Mono(self.now), &problem, &allocation, &mut self.effects);
        }
        self.carry_out(obey)
    }

    /// A second in which everything arrives.
    pub(super) fn second(&mut self) -> Vec<StationEffect> {
        self.now += 1_000;
        let mut said = self.beat(true);
        said.extend(self.tick(true));
        assert_eq!(self.power.self_check(Mono(self.now)), Vec::new());
        said
    }

    /// A second in which a charger may draw more than it may.
    pub(super) fn second_over(&mut self) -> Vec<StationEffect> {
        self.now += 1_000;
        let mut said = self.beat(true);
        said.extend(self.tick(true));
        said
    }

    pub(super) fn worst(&mut self) -> i64 {
        self.power.worst_now(Mono(self.now))[0].0
    }
}

#[test]
fn beats_are_taken_once_in_order_and_from_known_gateways() {
    let mut desk = Desk::new(60_000, 1);
    let first = desk.report();
    desk.now += 1_000;
    let second = desk.report();
    let mut take = |now: u64, gateway: &GatewayId, beat: &BeatReport| {
        let before = desk.effects.len();
        let verdict = desk.power.on_beat(Mono(now), gateway, beat, &mut desk.effects);
        (verdict, desk.effects.len() - before)
    };
    assert_eq!(take(2_100, &gateway(), &second), (BeatVerdict::Taken, 1));
    assert_eq!(take(2_110, &gateway(), &second), (BeatVerdict::Stale, 0));
    assert_eq!(take(2_120, &gateway(), &first), (BeatVerdict::Stale, 0));
    assert_eq!(take(2_130, &"x".parse().unwrap(), &second), (BeatVerdict::UnknownGateway, 0));
    let of_a_former_boot = BeatReport { boot: BootId::new(1, 0), mono: 99_000, ..second.clone() };
    assert_eq!(take(2_140, &gateway(), &of_a_former_boot), (BeatVerdict::Stale, 0));
    let of_a_later_owner = BeatReport { epoch: 8, mono: 99_000, ..second };
    assert_eq!(take(2_150, &gateway(), &of_a_later_owner), (BeatVerdict::Fenced, 0));
}

/// Enrolled anew with an empty ring, a gateway counts its boots and its clock from the beginning.
#[test]
fn a_new_key_is_a_later_boot_whatever_its_number() {
    let mut desk = Desk::new(60_000, 1);
    let boot = |key_epoch, boot| BootId::new(key_epoch, boot);
    let old = BeatReport { boot: boot(1, 40), mono: 900_000, ..desk.report() };
    let new = BeatReport { boot: boot(2, 1), mono: 50, ..desk.report() };
    let mut take = |now, beat: &BeatReport| desk.power.on_beat(Mono(now), &gateway(), beat, &mut desk.effects);
    assert_eq!(take(2_000, &old), BeatVerdict::Taken);
    assert_eq!(take(2_100, &new), BeatVerdict::Taken);
    let late = BeatReport { mono: 901_000, ..old };
    assert_eq!(take(2_200, &late), BeatVerdict::Stale, "the former enrolment's is over");
    let answered = desk.effects.iter().filter_map(|effect| match effect {
        StationEffect::SendGrants { boot, .. } => Some(*boot),
        _ => None,
    });
    assert_eq!(answered.collect::<Vec<_>>(), [boot(1, 40), boot(2, 1)]);
}

#[test]
fn the_first_answer_has_no_entries_and_every_beat_is_answered() {
    let mut desk = Desk::new(60_000, 2);
    desk.session(0, 50_000);
    let beat = desk.report();
    desk.power.on_beat(Mono(desk.now), &gateway(), &beat, &mut desk.effects);
    let entries = |effects: &[StationEffect]| match effects {
        [StationEffect::SendGrants { entries, answers_nonce, .. }] => (entries.clone(), *answers_nonce),
        other => panic!("{other:?}"),
    };
    assert_eq!(entries(&desk.effects), (Vec::new(), 1));
    desk.carry_out(true);
    desk.now += 1_000;
    let beat = desk.report();
    desk.power.on_beat(Mono(desk.now), &gateway(), &beat, &mut desk.effects);
    assert_eq!(entries(&desk.effects), (vec![(0, Watts(0)), (1, Watts(0))], 2));
}

#[test]
fn a_car_gets_what_it_can_use_and_a_ceiling_first() {
    let mut desk = Desk::new(200_000, 1);
    desk.session(0, 50_000);
    (0..4).for_each(|_| drop(desk.second()));
    assert_eq!(desk.granted, [50_900]);
    // Quarters of the rating: durable before the grant beyond it.
    assert_eq!(desk.durable.ceilings[&id(0)], Watts(60_000));
    desk.demand[0] = 120_000;
    desk.now += 1_000;
    desk.beat(true);
    let problem = desk.power.on_tick(Mono(desk.now)).unwrap();
    let allocation = water_fill(&problem);
    desk.power.on_allocation(Mono(desk.now), &problem, &allocation, &mut desk.effects);
    assert!(desk.effects.contains(&StationEffect::RaiseCeilings(vec![(id(0), Watts(120_000))])));
    let most = desk.effects.iter().filter_map(|effect| match effect {
        StationEffect::SendGrants { entries, .. } => entries.iter().map(|(_, watts)| watts.0).max(),
        _ => None,
    });
    assert_eq!(most.max(), Some(60_000), "no grant is above a ceiling that is not durable");
    desk.carry_out(true);
    assert_eq!(desk.granted, [120_000]);
}

#[test]
fn a_decrease_leaves_at_once_and_frees_room_only_when_confirmed() {
    let mut desk = Desk::new(100_000, 2);
    desk.session(0, 120_000);
    (0..4).for_each(|_| drop(desk.second()));
    assert_eq!(desk.granted, [100_000, 0]);
    desk.session(1, 120_000);
    desk.now += 1_000;
    desk.beat(true);
    desk.tick(true);
    assert_eq!(desk.granted, [50_000, 0], "the decrease is out, the increase waits");
    assert_eq!(desk.worst(), 100_000);
    desk.now += 1_000;
    desk.beat(true);
    assert_eq!(desk.granted, [50_000, 50_000]);
    assert_eq!(desk.worst(), 100_000);
}

#[test]
fn small_changes_of_demand_move_nobody() {
    let mut desk = Desk::new(300_000, 3);
    (0..3).for_each(|child| desk.session(child, 60_000));
    (0..5).for_each(|_| drop(desk.second()));
    let settled = desk.granted.clone();
    for change in [-200, 150, -100, 250] {
        desk.demand.iter_mut().for_each(|demand| *demand = 60_000 + change);
        desk.second();
        assert_eq!(desk.granted, settled);
    }
}

#[test]
fn a_silent_gateway_counts_its_grants_then_its_fallbacks() {
    let mut desk = Desk::new(100_000, 2);
    desk.session(0, 120_000);
    (0..4).for_each(|_| drop(desk.second()));
    assert_eq!(desk.worst(), 100_000);
    let heard = desk.now;
    desk.now = heard + LEASE_MS + 599;
    assert_eq!(desk.worst(), 100_000);
    desk.now = heard + LEASE_MS + 600;
    assert_eq!(desk.worst(), 12_000);
    assert_eq!(desk.power.self_check(Mono(desk.now)), Vec::new());
}

#[test]
fn a_lost_increase_counts_until_a_later_message_is_taken() {
    let mut desk = Desk::new(100_000, 1);
    desk.session(0, 30_000);
    (0..4).for_each(|_| drop(desk.second()));
    let before = desk.worst();
    desk.demand[0] = 90_000;
    desk.now += 1_000;
    desk.beat(false);
    desk.tick(false);
    assert!(desk.worst() > 90_000);
    // The car wants less again; the lost message could still arrive.
    desk.demand[0] = 30_000;
    desk.now += 1_000;
    desk.beat(false);
    desk.tick(false);
    assert!(desk.worst() > 90_000);
    desk.second();
    desk.second();
    assert_eq!(desk.worst(), before);
}

#[test]
fn a_new_owner_counts_ceilings_until_the_gateway_has_heard_of_it() {
    let mut old = Desk::new(100_000, 2);
    old.session(0, 50_000);
    (0..4).for_each(|_| drop(old.second()));
    let mut new = Desk::opened(100_000, 2, old.now, 8, old.durable.clone(), &[0]);
    (new.epoch, new.applied, new.granted, new.demand) = (7, old.applied, old.granted.clone(), old.demand.clone());
    assert_eq!(new.worst(), 60_000);
    new.now += 100;
    new.beat(true); // still of the old owner's epoch
    assert_eq!(new.worst(), 60_000);
    assert_eq!(new.granted, [50_900, 0], "what was in force goes on");
    new.epoch = 8;
    new.now += 1_000;
    new.beat(true);
    assert_eq!(new.worst(), 50_900);
    assert_eq!(new.power.self_check(Mono(new.now)), Vec::new());
}

#[test]
fn a_machine_built_anew_under_the_same_epoch_numbers_above_its_predecessor() {
    let mut old = Desk::new(100_000, 1);
    old.session(0, 50_000);
    (0..4).for_each(|_| drop(old.second()));
    let mut new = Desk::opened(100_000, 1, old.now + 1_000, 7, old.durable.clone(), &[0]);
    (new.epoch, new.applied, new.granted, new.demand) = (7, old.applied, old.granted.clone(), old.demand.clone());
    new.now += 1_000;
    new.beat(true); // asserts that the sequence is above the one applied
    assert_eq!(new.worst(), 60_000, "the predecessor's last message may still be on its way");
    new.second();
    assert_eq!(new.worst(), 50_900);
}

#[test]
fn a_charger_that_disobeys_is_counted_at_its_rating_and_listed() {
    let mut desk = Desk::new(300_000, 2);
    desk.session(0, 30_000);
    (0..4).for_each(|_| drop(desk.second()));
    desk.drawn[0] = Some(45_000);
    assert_eq!(desk.second(), Vec::new());
    assert_eq!(desk.second(), Vec::new());
    let said = desk.second();
    assert!(
        matches!(&said[..], [StationEffect::ReportDisobedience { charger, power: Watts(45_000), .. }] if *charger == id(0)),
        "{said:?}"
    );
    assert_eq!(desk.worst(), 120_000);
    assert_eq!(desk.power.overview(Mono(desk.now)).disobedient, 1);
    desk.drawn[0] = None;
    let said: Vec<StationEffect> = (0..12).flat_map(|_| desk.second()).collect();
    assert_eq!(said, [StationEffect::ReportObedience { charger: id(0) }]);
    assert!(desk.worst() < 40_000);
}

#[test]
fn a_new_owner_keeps_the_limit_an_operator_set() {
    let mut desk = Desk::new(100_000, 1);
    desk.session(0, 120_000);
    (0..4).for_each(|_| drop(desk.second()));
    assert_eq!(desk.worst(), 100_000);
    let at = crate::units::Timestamp(0);
    let limit = OperatorLimit { limit: Watts(40_000), by: "op".into(), at, from: None, before: None };
    desk.durable.apply(&StationEvent::LimitSet { node: "grid".into(), limit });

    let mut next = Desk::opened(100_000, 1, desk.now, 7, desk.durable.clone(), &[0]);
    let kept = next.durable.limit_at(&LimitSchedule::default(), "grid", Watts(100_000), at);
    next.power.on_limit_changed(Mono(next.now), "grid", kept.limit).unwrap();
    assert_eq!(next.power.tree().nodes()[0].limit, Watts(40_000));
    // The former owner's grant may be in force until its lease ends; then the cut holds.
    assert_eq!(next.power.self_check(Mono(next.now)), Vec::new());
    assert_eq!(next.power.deficits_now(Mono(next.now))[0].limit, Watts(40_000));
    next.demand[0] = 120_000;
    next.now += LEASE_MS + 600;
    (0..4).for_each(|_| drop(next.second()));
    assert_eq!(next.power.self_check(Mono(next.now)), Vec::new());
    assert_eq!((next.worst(), next.granted[0]), (40_000, 40_000));
}

#[test]
fn a_cut_is_a_deficit_that_only_falls_and_then_a_violation() {
    let mut desk = Desk::new(100_000, 1);
    desk.session(0, 120_000);
    (0..4).for_each(|_| drop(desk.second()));
    assert_eq!(desk.power.on_limit_changed(Mono(desk.now), "grid", Watts(40_000)), Ok(Watts(100_000)));
    // The gateway hears nothing: its grant of 100 kW stays until it ends.
    desk.tick(false);
    assert_eq!(desk.power.self_check(Mono(desk.now)), Vec::new());
    let deficits = desk.power.deficits_now(Mono(desk.now));
    assert_eq!((deficits[0].worst, deficits[0].limit, deficits[0].within_ms), (Watts(100_000), Watts(40_000), 30_600));
    desk.now += LEASE_MS + 600;
    assert_eq!(desk.worst(), 12_000);
    assert_eq!(desk.power.self_check(Mono(desk.now)), Vec::new());
    // A cut that even the fallbacks break is a violation once the leases have ended.
    desk.power.on_limit_changed(Mono(desk.now), "grid", Watts(5_000)).unwrap();
    assert_eq!(desk.power.self_check(Mono(desk.now)), Vec::new());
    desk.now += LEASE_MS + 600;
    let found = desk.power.self_check(Mono(desk.now));
    assert_eq!((found[0].node.as_str(), found[0].worst, found[0].allowed), ("grid", Watts(12_000), Watts(5_000)));
    assert!(desk.power.on_limit_changed(Mono(desk.now), "gird", Watts(1)).is_err());
    assert!(desk.power.on_limit_changed(Mono(desk.now), "grid", Watts(-1)).is_err());
}

#[test]
fn when_not_all_minima_fit_everybody_gets_a_turn() {
    // Fallbacks of 0 here, so that being off is being off; room for two of three.
    let mut desk = Desk::new(30_000, 3);
    desk.power.books.piles.iter_mut().for_each(|pile| pile.fallback = 0);
    (desk.power.config.min_on_ms, desk.power.config.min_off_ms, desk.power.config.starved_ms) = (20_000, 5_000, 60_000);
    (0..3).for_each(|child| desk.session(child, 50_000));
    let mut on = [0; 3];
    let mut off = [0; 3];
    let mut longest_off = 0;
    for _ in 0..600 {
        desk.second();
        for child in 0..3 {
            off[child] = if desk.granted[child] > 0 { 0 } else { off[child] + 1 };
            on[child] += i32::from(desk.granted[child] > 0);
            longest_off = longest_off.max(off[child]);
        }
    }
    assert!(longest_off <= 60 + 20 + 5, "off for {longest_off} s");
    assert!(on.iter().all(|seconds| *seconds > 250), "{on:?}");
}

#[test]
fn fallbacks_must_fit_and_bounds_make_sense() {
    let limits = [
        LimitNode { id: "grid".into(), parent: None, limit_w: Watts(100_000), base_w: Watts(2_000) },
        LimitNode { id: "k".into(), parent: Some("grid".into()), limit_w: Watts(30_000), base_w: Watts(1_000) },
    ];
    let tree = Tree::build(&limits).unwrap();
    let on = |node: &str, count: u16| -> BTreeMap<ChargerId, Charger> {
        (0..count).map(|child| (id(child), Charger { limit: node.into(), ..charger(child, "g") })).collect()
    };
    assert_eq!(check_fallbacks(&tree, &on("k", 2)), Ok(()));
    let over = check_fallbacks(&tree, &on("k", 3)).unwrap_err();
    assert_eq!(over, TreeError::FallbackOverLimit { path: "grid/k".into(), sum: Watts(37_000), limit: Watts(30_000) });
    assert!(
        matches!(check_fallbacks(&tree, &on("grid", 9)), Err(TreeError::FallbackOverLimit { path, .. }) if path == "grid")
    );
    assert!(matches!(check_fallbacks(&tree, &on("x", 1)), Err(TreeError::UnknownNode { .. })));
    let bad = |change: fn(&mut Charger)| {
        let mut chargers = on("k", 1);
        chargers.values_mut().for_each(change);
        matches!(check_fallbacks(&tree, &chargers), Err(TreeError::BadLeaf { path, .. }) if path == "grid/k")
    };
    assert!(bad(|c| c.min_w = Watts(130_000)));
    assert!(bad(|c| c.fallback_w = Watts(3_000)));
    assert!(bad(|c| c.step_w = Watts(0)));
    assert!(bad(|c| c.rated_w = Watts(0)));
    assert!(bad(|c| c.weight = 0));
    assert!(bad(|c| (c.rated_w, c.step_w) = (Watts(13_000), Watts(9_000))));
}
