//! One allocation of a large station: HiGHS on its thread as the node calls it, and water-filling.

use crate::Output;
use crate::report::Report;
use chargeplane_domain::allocation::lp::{Programme, Solver, Source, allocate_with};
use chargeplane_domain::allocation::{Leaf, Node, Problem, Standing, check, water_fill};
use chargeplane_domain::units::Watts;
use chargeplane_highs::HighsSolver;
use std::sync::mpsc::channel;
use std::time::Instant;

/// As the node asks for.
const TIME_LIMIT_MS: u64 = 200;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Allocations to measure
    #[arg(long, default_value_t = 300)]
    ticks: u32,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut report = Report::new("tick", dir.path());
    let solver = HighsSolver::start(1)?;
    let (mut water, mut solve, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let mut by_highs = 0u32;
    for tick in 0..args.ticks {
        let problem = station(i64::from(tick));
        let began = Instant::now();
        let filled = water_fill(&problem);
        water.push(ms(began));
        anyhow::ensure!(check(&problem, &filled).is_ok(), "water-filling broke a limit");
        let began = Instant::now();
        let programme = Programme::build(&problem);
        let (tell, told) = channel();
        let asked = Instant::now();
        let busy = solver.submit(programme, TIME_LIMIT_MS, Box::new(move |outcome| drop(tell.send(outcome))));
        anyhow::ensure!(busy.is_ok(), "the solver is busy");
        let outcome = told.recv()?;
        solve.push(ms(asked));
        let (allocation, source) = allocate_with(&problem, Some(&outcome));
        whole.push(ms(began));
        anyhow::ensure!(check(&problem, &allocation).is_ok(), "the allocation broke a limit");
        by_highs += u32::from(matches!(source, Source::Solver));
    }
    for (name, times) in [("tick_ms", &mut whole), ("solve_ms", &mut solve)] {
        report.result(&format!("{name}_p50"), quantile(times, 0.50));
        report.result(&format!("{name}_p99"), quantile(times, 0.99));
    }
    report.result("answered_by_highs_share", f64::from(by_highs) / f64::from(args.ticks.max(1)));
    report.peer("water_filling_ms_p50", quantile(&mut water, 0.50));
    report.peer("water_filling_ms_p99", quantile(&mut water, 0.99));
    report.note("tick_ms", "2,000 chargers under 225 nodes: build, solve, round, check, compare with water-filling");
    report.finish(args.output.json.as_deref())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn quantile(times: &mut [f64], q: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times.get(((times.len() as f64 * q) as usize).min(last)).copied().unwrap_or(f64::NAN)
}

/// 2,000 chargers under a grid connection, 4 transformers, 20 feeders, 200 cabinets; demands change with `seed`.
fn station(seed: i64) -> Problem {
    let node = |parent, limit, base| Node { parent, limit: Watts(limit), base: Watts(base) };
    let mut nodes = vec![node(None, 60_000_000, 400_000)];
    let mut leaves: Vec<Leaf> = Vec::new();
    for transformer in 0..4 {
        let t = nodes.len() as u32;
        nodes.push(node(Some(0), 15_500_000 + 400_000 * transformer, 0));
        for feeder in 0..5 {
            let f = nodes.len() as u32;
            nodes.push(node(Some(t), 2_900_000 + 100_000 * feeder, 0));
            for cabinet in 0..10 {
                let c = nodes.len() as u32;
                nodes.push(node(Some(f), 250_000 + 20_000 * ((cabinet + seed) % 10), 0));
                for at in 0..10 {
                    let demand = 12_000 + (i64::from(c) * 7_919 + at * 10_007 + seed * 3_001) % 108_000;
                    leaves.push(Leaf {
                        id: leaves.len() as u32,
                        node: c,
                        min: Watts(12_000),
                        max: Watts(demand),
                        step: Watts(100),
                        weight: 100,
                        prev: Watts::ZERO,
                        reserve: Watts::ZERO,
                        standing: Standing::Running,
                        since: 0,
                    });
                }
            }
        }
    }
    // The tree above is well formed for every seed.
    Problem::new(nodes, leaves).unwrap_or_else(|error| unreachable!("{error}"))
}
