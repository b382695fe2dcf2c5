//! Ticks by HiGHS: the programme built, solved on this thread, certified, filled, checked and compared.

use super::world::World;
use super::{Args, LARGE, Ticks, USUAL, exact, plain};
use crate::report::Report;
use chargeplane_domain::allocation::lp::{Programme, Source, allocate_with};
use chargeplane_domain::allocation::{Allocation, Problem, check};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// As the node asks for.
const TIME_LIMIT: Duration = Duration::from_millis(200);

/// Models kept alive at once, to see what one takes.
const KEPT: usize = 20;

/// The plain programme takes long: the first ticks are enough for a median.
const PLAIN: usize = 60;

pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut plain_times = Ticks::default();
    let mut same_ticks = Ticks::default();
    let mut refused = BTreeMap::new();
    let mut large = Ticks::default();
    let mut world = World::new(args.seed, LARGE, true);
    for at in 0..args.ticks {
        let problem = world.tick();
        let (began, ended, counts) = tick(&problem, &mut refused)?;
        large.take(began, ended, counts);
        if counts && at < PLAIN {
            same_ticks.take(began, ended, true);
            let began = Instant::now();
            drop(plain::solve(&problem)?);
            plain_times.take(began, Instant::now(), true);
        }
    }
    report.result("highs_tick_ms_p99_2000", 1e3 * large.quantile(0.99));
    report.peer("highs_tick_ms_p50_2000", 1e3 * large.quantile(0.5));
    report.note("highs_tick_ms_p99_2000", format!("{}; refused: {refused:?}", large.counted()));
    report.result("highs_tick_speedup_vs_plain", plain_times.quantile(0.5) / same_ticks.quantile(0.5));
    report.peer("plain_ms_p50_2000", 1e3 * plain_times.quantile(0.5));
    report.note(
        "highs_tick_speedup_vs_plain",
        "medians over the same ticks; the plain programme's time is build and solve alone",
    );

    let (mut usual, mut refused) = (Ticks::default(), BTreeMap::new());
    let mut world = World::new(args.seed, USUAL, true);
    for _ in 0..args.ticks * 10 {
        let problem = world.tick();
        let (began, ended, counts) = tick(&problem, &mut refused)?;
        usual.take(began, ended, counts);
    }
    report.result("highs_tick_ms_p99_50", 1e3 * usual.quantile(0.99));
    report.note("highs_tick_ms_p99_50", format!("{}; refused: {refused:?}", usual.counted()));
    stations(args, report)?;
    memory(args, report)
}

/// One tick, from the problem to the checked answer.
fn tick(problem: &Problem, refused: &mut BTreeMap<String, u32>) -> anyhow::Result<(Instant, Instant, bool)> {
    let began = Instant::now();
    let (allocation, source) = answer(problem);
    let ended = Instant::now();
    anyhow::ensure!(check(problem, &allocation).is_ok(), "the allocation broke a limit");
    let counts = match source {
        Source::Solver if exact::within_a_step(problem, &allocation) => true,
        other => {
            *refused.entry(format!("{other:?}")).or_default() += 1;
            false
        }
    };
    Ok((began, ended, counts))
}

fn answer(problem: &Problem) -> (Allocation, Source) {
    let outcome = chargeplane_highs::solve_here(Programme::build(problem), TIME_LIMIT);
    allocate_with(problem, Some(&outcome))
}

/// How many stations of 50 a core serves a second, each posed, solved and checked.
fn stations(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let mut worlds: Vec<World> = (0..40).map(|at| World::new(args.seed + at, USUAL, true)).collect();
    let (mut spent, mut ticks, mut not) = (Duration::ZERO, 0u32, 0u32);
    for _ in 0..args.ticks.div_ceil(10) {
        for world in &mut worlds {
            drop(world.tick());
            let began = Instant::now();
            let problem = world.posed();
            let (allocation, source) = answer(&problem);
            let took = began.elapsed();
            if source == Source::Solver && exact::within_a_step(&problem, &allocation) {
                spent += took;
                ticks += 1;
            } else {
                not += 1;
            }
        }
    }
    report.result("station_ticks_per_s_50", f64::from(ticks) / spent.as_secs_f64());
    report.note("station_ticks_per_s_50", format!("{ticks} ticks counted, {not} did not"));
    Ok(())
}

/// What a model takes with its solution: growth of the process with some of them alive.
fn memory(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let problem = World::new(args.seed, LARGE, true).tick();
    let programme = Programme::build(&problem);
    drop(chargeplane_highs::solved_model(&programme, TIME_LIMIT).map_err(anyhow::Error::msg)?);
    let before = resident()?;
    let kept = (0..KEPT).map(|_| chargeplane_highs::solved_model(&programme, Duration::from_secs(10)));
    let kept = kept.collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let grown = resident()?.saturating_sub(before);
    report.result("solver_memory_mb_2000", grown as f64 / 1e6 / kept.len() as f64);
    report.note("solver_memory_mb_2000", format!("resident memory of {KEPT} solved models alive at once, divided"));
    Ok(())
}

/// Resident bytes of this process.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb: u64 = line.and_then(|line| line.split_whitespace().next()).and_then(|kb| kb.parse().ok()).unwrap_or(0);
    Ok(kb * 1024)
}
