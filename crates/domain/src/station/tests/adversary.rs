//! POWER-1 against everything at once, on virtual time: a network that loses, delays, repeats and reorders, gateways
//! that go deaf, mute or start anew, owners that start anew, are built anew or hand over to a node with another
//! clock, a solver that is late, dead or wrong, limits that fall and rise, meters that are stuck, and one charger in
//! twenty that draws what it likes. The judge is the cars' physics, ten times a second.

use super::limit;
use super::sim::{Network, Plant, Setting, Sim, Solving};
use crate::station::*;

/// Chargers of a gateway: half of them hang from its feeder, half from a cabinet below it.
const CHARGERS: usize = 10;

/// Connector-ticks of the quick run, and of the long one (`CHARGEPLANE_LONG`); `CHARGEPLANE_TICKS` names another
/// number. One is a second of one charger.
const QUICK: u64 = 300_000;
const LONG: u64 = 100_000_000;

fn setting(seed: u64, plant: Option<Plant>) -> Setting {
    let mut dice = super::sim::Dice(seed ^ 0xad5e_75a7);
    let gateways = dice.range(2, 9);
    let grid = gateways * CHARGERS as i64 * dice.range(36_000, 70_000);
    let mut limits = vec![limit("grid", None, grid, dice.range(0, 30_000))];
    for f in 0..gateways {
        let feeder = CHARGERS as i64 * dice.range(40_000, 90_000);
        limits.push(limit(&format!("f{f}"), Some("grid"), feeder, 1_000));
        limits.push(limit(&format!("k{f}"), Some(&format!("f{f}")), feeder * dice.range(35, 70) / 100, 0));
    }
    Setting {
        seed,
        limits,
        gateways: gateways as usize,
        chargers: CHARGERS,
        node_of: |at| format!("{}{}", if at % 2 == 0 { "f" } else { "k" }, at / CHARGERS),
        fallback: if seed.is_multiple_of(4) { 0 } else { 12_000 },
        network: Network {
            delay_ms: (20, 100 + 600 * (seed as i64 % 6)),
            lost: 3 * (seed % 7),
            repeated: 5 * (seed % 4),
            late_ms: 10_000,
        },
        session_kj: (500, 8_000),
        config: PowerConfig::default(),
        plant,
    }
}

/// One of the troubles.
fn trouble(sim: &mut Sim) {
    let gateways = sim.gateways.len();
    let at = sim.dice.range(0, gateways as i64) as usize;
    match sim.dice.range(0, 24) {
        0..3 => sim.gateways[at].cut = true,
        3 => sim.gateways[at].mute = true,
        4 => sim.gateways[at].deaf = true,
        5..9 => heal(sim),
        9 => sim.reboot(at),
        10 => sim.open_station(),
        11 => sim.build(),
        12 => sim.take_over(),
        13 => {
            sim.power = None;
            let gone = sim.dice.range(100, 40_000) as u64;
            sim.run(gone, |_| ());
            sim.take_over();
        }
        14..18 => change_a_limit(sim),
        18 => sim.solving = Solving::Late,
        19 => sim.solving = Solving::Wrong,
        20..22 => sim.solving = Solving::Dead,
        22 => {
            let meter = sim.dice.range(0, 130_000);
            let pole = sim.dice.range(0, CHARGERS as i64) as usize;
            let pole = &mut sim.gateways[at].poles[pole];
            pole.stuck = if pole.stuck.is_some() { None } else { Some(meter) };
            pole.has_disobeyed = true;
        }
        _ => sim.gateways.iter_mut().for_each(|gateway| gateway.poles.iter_mut().for_each(|pole| pole.stuck = None)),
    }
    disobey(sim);
}

fn heal(sim: &mut Sim) {
    for gateway in &mut sim.gateways {
        (gateway.cut, gateway.mute, gateway.deaf) = (false, false, false);
    }
}

/// One charger in twenty draws what it likes, another one every now and then.
fn disobey(sim: &mut Sim) {
    if !sim.dice.chance(20) {
        return;
    }
    for gateway in 0..sim.gateways.len() {
        for pole in 0..CHARGERS {
            let disobeys = sim.dice.chance(5);
            let pole = &mut sim.gateways[gateway].poles[pole];
            pole.disobeys = disobeys;
            pole.has_disobeyed |= disobeys;
        }
    }
}

/// Sets a node's limit to anything between what base load and fallbacks need and the catalogue's.
fn change_a_limit(sim: &mut Sim) {
    let at = sim.dice.range(0, sim.setting.limits.len() as i64) as usize;
    let node = sim.setting.limits[at].clone();
    let below = |id: &str| match id.split_at(1) {
        ("g", _) => sim.chargers.len(),
        ("f", _) => CHARGERS,
        _ => CHARGERS / 2,
    };
    let bases: i64 = sim.setting.limits.iter().map(|limit| limit.base_w.0).sum();
    let least = below(&node.id) as i64 * sim.setting.fallback + bases;
    let watts =
        if sim.dice.chance(30) { node.limit_w.0 } else { sim.dice.range(least.min(node.limit_w.0), node.limit_w.0) };
    sim.change_limit(&node.id, watts);
}

/// A seed's day: troubles for some minutes, then none.
fn day(seed: u64, plant: Option<Plant>) -> Sim {
    let mut sim = Sim::new(setting(seed, plant));
    sim.check_every_ms = 1_000;
    for _ in 0..60 {
        let calm = sim.dice.range(500, 9_000) as u64;
        sim.run(calm, |_| ());
        trouble(&mut sim);
        if plant.is_some() && sim.over_tenths > 0 {
            return sim;
        }
    }
    sim
}

/// Everything is well again: the station uses what it has.
fn recovers(sim: &mut Sim) -> f64 {
    heal(sim);
    sim.solving = Solving::Dead;
    for gateway in &mut sim.gateways {
        gateway.poles.iter_mut().for_each(|pole| (pole.disobeys, pole.stuck) = (false, None));
    }
    for node in sim.setting.limits.clone() {
        sim.change_limit(&node.id, node.limit_w.0);
    }
    sim.run(60_000, |_| ());
    let (mut drawn, mut could) = (0, 0);
    sim.run(20_000, |sim| {
        drawn += sim.draw();
        could += could_draw(sim);
    });
    drawn as f64 / could as f64
}

/// What the limits let the cars take.
fn could_draw(sim: &Sim) -> i64 {
    let nodes = sim.tree.nodes();
    let mut wants = sim.wants();
    for at in (0..nodes.len()).rev() {
        wants[at] = (wants[at] + nodes[at].base.0).min(nodes[at].limit.0);
        if let Some(parent) = nodes[at].parent {
            wants[parent] += wants[at];
        }
    }
    wants[0]
}

#[test]
fn nothing_that_happens_makes_obedient_chargers_exceed_a_limit() {
    let long = std::env::var_os("CHARGEPLANE_LONG").is_some();
    let asked = std::env::var("CHARGEPLANE_TICKS").ok().map(|ticks| ticks.parse().expect("a number of ticks"));
    let goal: u64 = asked.unwrap_or(if long { LONG } else { QUICK });
    let (mut seed, mut ticks) = (0, 0);
    let (mut sessions, mut messages, mut owners, mut limits, mut found, mut least) = (0, 0, 0, 0, 0, 1.0_f64);
    while ticks < goal {
        let mut sim = day(seed, None);
        let used = recovers(&mut sim);
        assert_eq!((sim.over_tenths, &sim.violations), (0, &Vec::new()), "seed {seed}");
        assert!(used > 0.8, "seed {seed}: {used:.3} of what is there is used after the troubles");
        least = least.min(used);
        ticks += sim.connector_ticks;
        (sessions, messages) = (sessions + sim.sessions_done, messages + sim.messages);
        (owners, limits, found) = (owners + sim.openings, limits + sim.limit_changes, found + sim.found_disobeying);
        seed += 1;
        if seed.is_multiple_of(1_000) {
            println!("{seed} seeds, {ticks} connector-ticks: 0 watt-seconds over any limit");
        }
    }
    println!(
        "{seed} seeds, {ticks} connector-ticks, {sessions} sessions, {messages} grant messages, {owners} machines, \
         {limits} limit changes, {found} times a charger found to disobey: 0 watt-seconds over any limit; least use \
         after the troubles {least:.3}"
    );
    assert!(sessions > 1_000 && found > 10 && limits > 100, "too little happened");
}

#[test]
fn planted_faults_are_found() {
    let plants = [Plant::TrustsWhatItSent, Plant::NoFallbackReserve, Plant::ForgetsLeasesEarly, Plant::ForgetsCeilings];
    for plant in plants {
        let found = (0..60).map(|seed| (seed, day(seed, Some(plant)))).find(|(_, sim)| sim.over_tenths > 0);
        let Some((seed, sim)) = found else { panic!("{plant:?} is not found by 60 seeds") };
        println!("{plant:?}: seed {seed}, {}", sim.violations.first().map_or("", |first| first));
    }
}
