//! Limits that cross the tree: what HiGHS proves, and what it earns.

use super::{leaf, node, solve_now};
use crate::HighsSolver;
use chargeplane_domain::allocation::lp::{Programme, SolveStatus, Source, allocate_with, worth};
use chargeplane_domain::allocation::{Allocation, Cap, Leaf, Node, Phase, Phases, Policy, Problem, check, water_fill};
use chargeplane_domain::units::Watts;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// Random stations with caps and phases.
pub(super) fn crossing_problems() -> impl Strategy<Value = Problem> {
    let node_parts = (0_usize..4, 20_000_i64..400_000, prop::option::of(6_000_i64..120_000));
    let leaf_parts =
        (any::<prop::sample::Index>(), 0_i64..8_000, 0_i64..110_000, 50_u32..300, 0_usize..6, 0_i64..90_000);
    let caps = prop::collection::vec((40_000_i64..500_000, any::<u64>()), 0..4);
    let parts = (
        100_000_i64..2_000_000,
        prop::collection::vec(node_parts, 0..15),
        prop::collection::vec(leaf_parts, 1..50),
        caps,
    );
    parts.prop_map(|(root, tail, leaves, caps)| {
        let mut nodes = vec![Node { limit: Watts(root), phase_limit: Some(Watts(root * 2 / 5)), ..Node::default() }];
        for (up, limit, phase) in tail {
            let mut parent = nodes.len() - 1;
            for _ in 0..up {
                parent = nodes[parent].parent.map_or(0, |p| p as usize);
            }
            nodes.push(Node { phase_limit: phase.map(Watts), ..node(Some(parent as u32), limit, 0) });
        }
        let leaves = leaves.into_iter().enumerate().map(|(id, (at, min, more, weight, phase, need))| Leaf {
            phases: Phase::ALL.get(phase).map_or(Phases::Three, |phase| Phases::One(*phase)),
            need: Watts(need),
            ..leaf(id as u32, at.index(nodes.len()) as u32, min, min + more, 100, weight)
        });
        let leaves: Vec<Leaf> = leaves.collect();
        let cap = |(limit, bits): (i64, u64)| Cap {
            limit: Watts(limit),
            base: Watts::ZERO,
            leaves: (0..leaves.len() as u32).filter(|at| bits >> (at % 64) & 1 == 1).collect(),
        };
        let caps = caps.into_iter().map(cap).collect();
        Problem::new(nodes, leaves.clone()).and_then(|problem| problem.with_caps(caps)).expect("well formed")
    })
}

/// The answer that a tick uses, and whose it is.
fn answer(problem: &Problem) -> (Allocation, Source) {
    let solver = HighsSolver::start(1).expect("a thread");
    let outcome = solve_now(&solver, Programme::build(problem), 10_000);
    assert_eq!(outcome.status, SolveStatus::Optimal);
    allocate_with(problem, Some(&outcome))
}

/// Of random stations, how many HiGHS answers itself; the others are answered by water-filling. All the same
/// within a step under the policies whose exact answer is known.
#[test]
fn what_highs_answers_is_the_policys_exact_answer() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for policy in [Policy::Fair, Policy::Needs] {
        let (mut by_highs, mut all) = (0, 0);
        for _ in 0..150 {
            let problem = crossing_problems().new_tree(&mut runner).expect("a problem").current().with_policy(policy);
            let (allocation, source) = answer(&problem);
            assert_eq!(check(&problem, &allocation), Ok(()));
            for ((got, want), leaf) in allocation.watts.iter().zip(&water_fill(&problem).watts).zip(problem.leaves()) {
                assert!((got.0 - want.0).abs() <= leaf.step.0, "{policy:?} {source:?}: {got} instead of {want}");
            }
            all += 1;
            by_highs += i32::from(source == Source::Solver);
        }
        println!("{policy:?}: {by_highs} of {all} by HiGHS");
        assert!(by_highs * 10 >= all * 8, "{policy:?}: only {by_highs} of {all} by HiGHS");
    }
}

#[test]
fn proportional_is_never_worth_less_than_max_min_and_often_more() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut more, mut all, mut watts, mut fair_watts) = (0, 0, 0, 0);
    for _ in 0..150 {
        let problem = crossing_problems().new_tree(&mut runner).expect("a problem").current();
        let problem = problem.with_policy(Policy::Proportional);
        let (allocation, source) = answer(&problem);
        let max_min = water_fill(&problem);
        assert_eq!(check(&problem, &allocation), Ok(()));
        let (ours, theirs) = (worth(&problem, &allocation), worth(&problem, &max_min));
        assert!(ours >= theirs - 1e-4 * theirs.abs(), "{ours} {theirs}");
        all += 1;
        more += i32::from(source == Source::Solver && ours > theirs * 1.001);
        watts += allocation.total().0;
        fair_watts += max_min.total().0;
    }
    println!("worth 0.1 % more in {more} of {all}; power {watts} W, max-min {fair_watts} W");
    assert!(more > 0 && watts > fair_watts, "{more} of {all}, {watts} W, max-min {fair_watts} W");
}

/// A tenant with one car at a full feeder and one car elsewhere: the case in which limits cross.
fn tenants() -> Problem {
    // Feeder 1 has room for 30 kW and three cars, one of them of the tenant; feeder 2 for 100 kW.
    let nodes = vec![node(None, 200_000, 0), node(Some(0), 30_000, 0), node(Some(0), 100_000, 0)];
    let at = [1, 1, 1, 2, 2];
    let leaves = at.iter().enumerate().map(|(id, at)| leaf(id as u32, *at, 0, 60_000, 100, 100)).collect();
    let cap = Cap { limit: Watts(18_000), base: Watts::ZERO, leaves: vec![0, 3] };
    Problem::new(nodes, leaves).unwrap().with_caps(vec![cap]).unwrap()
}

#[test]
fn a_tenants_cap_moves_power_to_where_it_displaces_nobody() {
    // Max-min gives the tenant's cars 9 kW each; the first displaces its neighbours at the full feeder.
    let fair = answer(&tenants());
    assert_eq!(fair.0.watts.iter().map(|w| w.0).collect::<Vec<_>>(), [9_000, 10_500, 10_500, 9_000, 60_000]);
    assert_eq!(fair.1, Source::Solver);
    let (proportional, source) = answer(&tenants().with_policy(Policy::Proportional));
    assert_eq!(source, Source::Solver);
    // Proportional fairness gives the neighbours more and the tenant the same in sum.
    assert!(proportional.watts[0] < Watts(9_000) && proportional.watts[3] > Watts(9_000), "{proportional:?}");
    assert_eq!(proportional.watts[0].0 + proportional.watts[3].0, 18_000);
    assert_eq!(proportional.watts[0].0 + proportional.watts[1].0 + proportional.watts[2].0, 30_000);
}

#[test]
fn one_full_phase_is_shared_with_those_who_load_it_less() {
    // Six single-phase cars on L1 and six three-phase ones behind 8 kW a phase.
    let root = Node { phase_limit: Some(Watts(8_000)), ..node(None, 24_000, 0) };
    let car = |id: u32| Leaf {
        phases: if id < 6 { Phases::One(Phase::L1) } else { Phases::Three },
        ..leaf(id, 0, 0, 11_000, 10, 100)
    };
    let problem = Problem::new(vec![root], (0..12).map(car).collect()).unwrap();
    let (fair, _) = answer(&problem);
    assert_eq!(fair.watts, vec![Watts(1_000); 12], "equal cars have equal shares, whatever they load");
    let (proportional, source) = answer(&problem.with_policy(Policy::Proportional));
    assert_eq!(source, Source::Solver);
    // A three-phase car loads L1 with a third: the same room gives it more.
    assert!(proportional.total() > fair.total(), "{} {}", proportional.total(), fair.total());
    assert!(proportional.watts[6] > proportional.watts[0] && proportional.watts[0] > Watts::ZERO, "{proportional:?}");
}

#[test]
fn needs_by_departure_go_first_under_crossing_limits() {
    let mut problem = tenants();
    let mut leaves = problem.leaves().to_vec();
    leaves[0].need = Watts(16_000);
    let caps = problem.caps().to_vec();
    problem =
        Problem::new(problem.nodes().to_vec(), leaves).unwrap().with_caps(caps).unwrap().with_policy(Policy::Needs);
    let (allocation, source) = answer(&problem);
    assert_eq!(source, Source::Solver);
    assert_eq!(allocation.watts.iter().map(|w| w.0).collect::<Vec<_>>(), [17_000, 6_500, 6_500, 1_000, 60_000]);
}
