//! HiGHS against the exact answer, and what happens when it cannot answer.

mod crossing;

use super::*;
use chargeplane_domain::allocation::lp::{Fallback, Source, allocate_with};
use chargeplane_domain::allocation::{Leaf, Node, Problem, Standing, check, water_fill};
use chargeplane_domain::units::Watts;
use proptest::prelude::*;
use std::sync::mpsc::channel;

fn node(parent: Option<u32>, limit: i64, base: i64) -> Node {
    Node { parent, limit: Watts(limit), base: Watts(base), ..Node::default() }
}

fn leaf(id: u32, node: u32, min: i64, max: i64, step: i64, weight: u32) -> Leaf {
    let (min, max, step) = (Watts(min), Watts(max), Watts(step));
    Leaf {
        id,
        node,
        min,
        max,
        step,
        weight,
        prev: Watts::ZERO,
        reserve: Watts::ZERO,
        standing: Standing::Running,
        since: 0,
        ..Leaf::default()
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let tail = prop::collection::vec((0_usize..4, 20_000_i64..400_000, 0_i64..3_000), 0..20);
    let leaf_parts = (any::<prop::sample::Index>(), 0_i64..12_000, 0_i64..110_000, 1_i64..1_500, 50_u32..300);
    (200_000_i64..2_000_000, tail, prop::collection::vec(leaf_parts, 1..60)).prop_map(|(root, tail, leaves)| {
        let mut nodes = vec![node(None, root, 0)];
        for (up, limit, base) in tail {
            let mut parent = nodes.len() - 1;
            for _ in 0..up {
                parent = nodes[parent].parent.map_or(0, |p| p as usize);
            }
            nodes.push(node(Some(parent as u32), limit, base));
        }
        let leaves = leaves.into_iter().enumerate().map(|(id, (at, min, more, step, weight))| {
            leaf(id as u32, at.index(nodes.len()) as u32, min, min + more, step, weight)
        });
        let leaves = leaves.collect();
        Problem::new(nodes, leaves).expect("well formed")
    })
}

fn solve_now(solver: &HighsSolver, programme: Programme, time_limit_ms: u64) -> SolveOutcome {
    let (tell, told) = channel();
    solver.submit(programme, time_limit_ms, Box::new(move |outcome| drop(tell.send(outcome)))).expect("not busy");
    told.recv().expect("every solve is answered")
}

/// 2,000 chargers under 225 nodes.
fn large(seed: i64) -> Problem {
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
                    leaves.push(leaf(leaves.len() as u32, c, 12_000, demand, 100, 100));
                }
            }
        }
    }
    Problem::new(nodes, leaves).expect("well formed")
}

fn equal_within_a_step(problem: &Problem, outcome: &SolveOutcome) -> Result<(), String> {
    let (allocation, source) = allocate_with(problem, Some(outcome));
    if source != Source::Solver {
        return Err(format!("{source:?}, status {:?}", outcome.status));
    }
    check(problem, &allocation).map_err(|violations| format!("{violations:?}"))?;
    for ((got, want), leaf) in allocation.watts.iter().zip(&water_fill(problem).watts).zip(problem.leaves()) {
        if (got.0 - want.0).abs() > leaf.step.0 {
            return Err(format!("leaf {}: {got} instead of {want}, step {}", leaf.id, leaf.step));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn highs_and_filling_equal_water_filling(problem in problems()) {
        let solver = HighsSolver::start(1).expect("a thread");
        let outcome = solve_now(&solver, Programme::build(&problem), 10_000);
        let equal = equal_within_a_step(&problem, &outcome);
        prop_assert!(equal.is_ok(), "{:?}", equal);
    }
}

#[test]
fn a_station_of_2000_is_solved_and_accepted() {
    let solver = HighsSolver::start(1).unwrap();
    let mut times = Vec::new();
    for seed in 0..20 {
        let problem = large(seed);
        let programme = Programme::build(&problem);
        let size = (programme.columns.len(), programme.rows.len());
        let outcome = solve_now(&solver, programme, 10_000);
        times.push((outcome.solve_us, size));
        assert_eq!(equal_within_a_step(&problem, &outcome), Ok(()), "seed {seed}");
    }
    times.sort_unstable();
    println!("2,000 chargers: p50 {} us, max {} us, (columns, rows) {:?}", times[10].0, times[19].0, times[10].1);
}

#[test]
fn the_time_limit_is_honoured_and_water_filling_takes_over() {
    let solver = HighsSolver::start(1).unwrap();
    let problem = large(3);
    let outcome = solve_now(&solver, Programme::build(&problem), 0);
    assert_eq!(outcome.status, SolveStatus::TimeLimit);
    assert_eq!(
        allocate_with(&problem, Some(&outcome)),
        (water_fill(&problem), Source::WaterFilling(Fallback::TimeLimit))
    );
    // A limit that fires inside HiGHS, as far as this machine is slow enough for it; never a broken answer.
    let outcome = solve_now(&solver, Programme::build(&problem), 1);
    assert!(matches!(outcome.status, SolveStatus::TimeLimit | SolveStatus::Optimal), "{:?}", outcome.status);
    assert_eq!(check(&problem, &allocate_with(&problem, Some(&outcome)).0), Ok(()));
}

#[test]
fn time_limits_do_not_add_up_over_solves() {
    let solver = HighsSolver::start(1).unwrap();
    let problem = large(1);
    for _ in 0..100 {
        let outcome = solve_now(&solver, Programme::build(&problem), 2_000);
        assert_eq!(outcome.status, SolveStatus::Optimal);
    }
}

#[test]
fn a_full_queue_refuses_at_once() {
    let solver = HighsSolver::start(1).unwrap();
    let programme = Programme::build(&large(0));
    let (release, hold) = channel::<()>();
    let (tell, told) = channel();
    let started = tell.clone();
    let blocking = move |_| {
        let _ = started.send(());
        let _ = hold.recv();
    };
    solver.submit(programme.clone(), 10_000, Box::new(blocking)).unwrap();
    told.recv().unwrap();
    for _ in 0..QUEUE {
        let tell = tell.clone();
        solver.submit(programme.clone(), 10_000, Box::new(move |_| tell.send(()).unwrap_or_default())).unwrap();
    }
    assert_eq!(solver.submit(programme, 10_000, Box::new(|_| ())), Err(SolverBusy));
    release.send(()).unwrap();
    for _ in 0..QUEUE {
        told.recv().unwrap();
    }
}

#[test]
fn nonsense_fails_and_a_receiver_that_panics_harms_nobody() {
    let solver = HighsSolver::start(1).unwrap();
    let problem = large(0);
    let mut programme = Programme::build(&problem);
    programme.columns[0].price = f64::NAN;
    assert!(matches!(solve_now(&solver, programme, 1_000).status, SolveStatus::Failed(_)));
    let mut programme = Programme::build(&problem);
    programme.columns[0].upper = -1.0;
    assert!(matches!(solve_now(&solver, programme, 1_000).status, SolveStatus::Failed(_)));
    solver.submit(Programme::build(&problem), 5_000, Box::new(|_| panic!("on purpose"))).unwrap();
    assert_eq!(solve_now(&solver, Programme::build(&problem), 5_000).status, SolveStatus::Optimal);
}
