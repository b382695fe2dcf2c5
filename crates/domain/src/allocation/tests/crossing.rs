//! Examples of limits that cross the tree, of policies, and of what binds.

use super::{leaf, node, watts};
use crate::allocation::*;
use crate::units::Watts;

fn cap(limit: i64, leaves: &[u32]) -> Cap {
    Cap { limit: Watts(limit), base: Watts::ZERO, leaves: leaves.to_vec() }
}

fn by_node(limit: Limit) -> Binding {
    Binding::Limit(limit)
}

#[test]
fn a_tenant_that_is_full_leaves_the_rest_to_the_others() {
    let leaves = (0..4).map(|id| leaf(id, 0, 0, 50_000)).collect();
    let problem = Problem::new(vec![node(None, 80_000, 0)], leaves).unwrap();
    let problem = problem.with_caps(vec![cap(20_000, &[0, 1])]).unwrap();
    let answer = water_fill(&problem);
    assert_eq!(watts(&answer), [10_000, 10_000, 30_000, 30_000]);
    let (tenant, grid) = (by_node(Limit::Cap(0)), by_node(Limit::Node(0)));
    assert_eq!(bindings(&problem, &answer), [tenant, tenant, grid, grid]);
}

#[test]
fn a_phase_that_is_full_holds_its_own_cars_and_the_three_phase_ones() {
    let mut leaves: Vec<Leaf> = (0..3).map(|id| leaf(id, 0, 0, 7_000)).collect();
    leaves[0].phases = Phases::One(Phase::L1);
    leaves[1].phases = Phases::One(Phase::L2);
    leaves[2].max = Watts(30_000);
    let mut root = node(None, 100_000, 0);
    root.phase_limit = Some(Watts(8_000));
    let problem = Problem::new(vec![root], leaves).unwrap();
    let answer = water_fill(&problem);
    // L1: 6,000 + 6,000 / 3 = 8,000, all three at the same level.
    assert_eq!(watts(&answer), [6_000, 6_000, 6_000]);
    assert_eq!(bindings(&problem, &answer)[0], by_node(Limit::Phase(0, Phase::L1)));
    assert_eq!(check(&problem, &answer), Ok(()));
    let over = Allocation { watts: vec![Watts(6_100), Watts(6_000), Watts(6_000)] };
    assert!(matches!(check(&problem, &over).unwrap_err()[0], Violation::OverPhase { phase: Phase::L1, .. }));
}

#[test]
fn base_load_on_one_phase_counts_there_alone() {
    let mut root = node(None, 100_000, 3_000);
    root.phase_limit = Some(Watts(5_000));
    root.base_on = [Watts(3_000), Watts::ZERO, Watts::ZERO];
    let mut leaves: Vec<Leaf> = (0..2).map(|id| leaf(id, 0, 0, 7_000)).collect();
    leaves[0].phases = Phases::One(Phase::L1);
    leaves[1].phases = Phases::One(Phase::L2);
    let problem = Problem::new(vec![root], leaves).unwrap();
    assert_eq!(watts(&water_fill(&problem)), [2_000, 5_000]);
}

#[test]
fn strict_priority_serves_the_higher_in_full() {
    let mut leaves: Vec<Leaf> = (0..4).map(|id| leaf(id, 0, 10_000, 40_000)).collect();
    leaves[2].weight = 300;
    leaves[3].weight = 200;
    let problem = Problem::new(vec![node(None, 95_000, 0)], leaves).unwrap().with_policy(Policy::Strict);
    // The lowest class gets what is left: one minimum fits, the other charger is paused.
    assert_eq!(watts(&water_fill(&problem)), [15_000, 0, 40_000, 40_000]);
}

#[test]
fn needs_go_first_and_the_rest_is_shared() {
    let mut leaves: Vec<Leaf> = (0..3).map(|id| leaf(id, 0, 0, 50_000)).collect();
    leaves[0].need = Watts(20_000);
    let posed = |grid| Problem::new(vec![node(None, grid, 0)], leaves.clone()).unwrap().with_policy(Policy::Needs);
    assert_eq!(watts(&water_fill(&posed(50_000))), [30_000, 10_000, 10_000]);
    assert_eq!(watts(&water_fill(&posed(15_000))), [15_000, 0, 0]);
}

#[test]
fn a_ramp_holds_the_rise_and_never_the_fall() {
    let mut leaves = vec![leaf(0, 0, 1_000, 50_000), leaf(1, 0, 1_000, 50_000), leaf(2, 0, 1_000, 50_000)];
    (leaves[0].prev, leaves[0].ramp) = (Watts(4_000), Some(Watts(2_000)));
    (leaves[1].prev, leaves[1].ramp) = (Watts(50_000), Some(Watts(0)));
    leaves[2].ramp = Some(Watts(900)); // not enough to start on its minimum
    let problem = Problem::new(vec![node(None, 26_000, 0)], leaves).unwrap();
    let answer = water_fill(&problem);
    assert_eq!(watts(&answer), [6_000, 20_000, 0]);
    assert_eq!(bindings(&problem, &answer), [Binding::Ramp, by_node(Limit::Node(0)), Binding::Ramp]);
    let steep = Allocation { watts: vec![Watts(6_100), Watts(19_000), Watts::ZERO] };
    assert!(matches!(check(&problem, &steep).unwrap_err()[0], Violation::TooSteep { leaf: 0, .. }));
}

#[test]
fn what_binds_is_the_limit_that_more_would_be_shared_of() {
    let mut leaves =
        vec![leaf(0, 1, 0, 50_000), leaf(1, 1, 0, 2_000), leaf(2, 0, 0, 90_000), leaf(3, 0, 40_000, 90_000)];
    leaves.push(leaf(4, 0, 60_000, 90_000));
    let problem = Problem::new(vec![node(None, 80_000, 0), node(Some(0), 12_000, 0)], leaves).unwrap();
    let answer = water_fill(&problem);
    assert_eq!(watts(&answer), [10_000, 2_000, 28_000, 40_000, 0]);
    let (cabinet, grid) = (by_node(Limit::Node(1)), by_node(Limit::Node(0)));
    assert_eq!(bindings(&problem, &answer), [cabinet, Binding::Maximum, grid, Binding::Minimum, grid]);
}

#[test]
fn a_cap_over_a_leaf_that_is_not_there_is_refused() {
    let problem = || Problem::new(vec![node(None, 10, 0)], vec![leaf(0, 0, 0, 1)]).unwrap();
    for bad in [cap(5, &[1]), cap(5, &[0, 0]), cap(-1, &[0])] {
        assert!(matches!(problem().with_caps(vec![bad]), Err(TreeError::BadCap { .. })));
    }
}
