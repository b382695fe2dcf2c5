//! Ticks by water-filling, on the tree: admission, shares, steps. And how equal the shares are.

use super::world::World;
use super::{Args, LARGE, Ticks, USUAL, exact};
use crate::report::Report;
use chargeplane_domain::allocation::{Allocation, Binding, Limit, Problem, bindings, check, water_fill};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut jain = Vec::new();
    for (chargers, ticks) in [(LARGE, args.ticks), (USUAL, args.ticks * 10)] {
        let mut world = World::new(args.seed, chargers, false);
        let mut filled = Ticks::default();
        for at in 0..ticks {
            let problem = world.tick();
            let began = Instant::now();
            let allocation = black_box(water_fill(black_box(&problem)));
            let ended = Instant::now();
            anyhow::ensure!(check(&problem, &allocation).is_ok(), "water-filling broke a limit");
            filled.take(began, ended, exact::within_a_step(&problem, &allocation));
            if chargers == LARGE && at % 10 == 0 {
                jain.extend(unsaturated(&problem, &allocation));
            }
        }
        report.result(&format!("water_us_p99_{chargers}"), 1e6 * filled.quantile(0.99));
        report.peer(&format!("water_us_p50_{chargers}"), 1e6 * filled.quantile(0.5));
        report.note(&format!("water_us_p99_{chargers}"), filled.counted());
    }
    let mut crossing = Ticks::default();
    let mut world = World::new(args.seed, LARGE, true);
    for _ in 0..args.ticks.min(100) {
        let problem = world.tick();
        let began = Instant::now();
        let allocation = black_box(water_fill(black_box(&problem)));
        crossing.take(began, Instant::now(), exact::within_a_step(&problem, &allocation));
    }
    report.peer("water_us_p99_2000_crossing", 1e6 * crossing.quantile(0.99));
    report.note("water_us_p99_2000_crossing", format!("under tenants' caps and phase limits: {}", crossing.counted()));
    stations(args, report)?;
    let mean = jain.iter().map(|(index, leaves)| index * leaves).sum::<f64>()
        / jain.iter().map(|(_, leaves)| leaves).sum::<f64>();
    report.result("jain_unsaturated", mean);
    let least = jain.iter().map(|(index, _)| *index).fold(1.0, f64::min);
    report.note(
        "jain_unsaturated",
        format!("grants by weight, of connectors below their own bounds that the same limit binds; least of any limit {least:.5}"),
    );
    Ok(())
}

/// How many stations of 50 a core serves a second: posed, filled, checked.
fn stations(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut worlds: Vec<World> = (0..40).map(|at| World::new(args.seed + at, USUAL, false)).collect();
    let (mut spent, mut ticks, mut not) = (Duration::ZERO, 0u32, 0u32);
    for _ in 0..args.ticks {
        for world in &mut worlds {
            drop(world.tick());
            let began = Instant::now();
            let problem = world.posed();
            let allocation = water_fill(&problem);
            let kept = check(&problem, &allocation).is_ok();
            let took = began.elapsed();
            anyhow::ensure!(kept, "water-filling broke a limit");
            if exact::within_a_step(&problem, &allocation) {
                spent += took;
                ticks += 1;
            } else {
                not += 1;
            }
        }
    }
    report.result("station_ticks_per_s_50_water", f64::from(ticks) / spent.as_secs_f64());
    report.note(
        "station_ticks_per_s_50_water",
        format!("posed, filled and checked; {ticks} ticks counted, {not} did not"),
    );
    Ok(())
}

/// Jain's index of each limit with at least two connectors that it binds, and how many these are.
fn unsaturated(problem: &Problem, allocation: &Allocation) -> Vec<(f64, f64)> {
    let mut bound: BTreeMap<Limit, Vec<f64>> = BTreeMap::new();
    for ((leaf, watts), binding) in problem.leaves().iter().zip(&allocation.watts).zip(bindings(problem, allocation)) {
        let free = *watts > leaf.min && watts.0 + leaf.step.0 <= leaf.max.0;
        if let (Binding::Limit(limit), true) = (binding, free) {
            bound.entry(limit).or_default().push(watts.0 as f64 / f64::from(leaf.weight));
        }
    }
    let index = |shares: &Vec<f64>| {
        let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        (sum * sum / (shares.len() as f64 * squares), shares.len() as f64)
    };
    bound.values().filter(|shares| shares.len() > 1).map(index).collect()
}
