//! What an answer must prove before it is used.

use super::*;
use crate::allocation::{Admitted, Cap, Leaf, Node, Policy, Problem, Standing, admit, water_fill};
use crate::units::Watts;

/// The prices that a solver's duals would show at `watts`: at a node where power is short, the price of the
/// level in which its leaves stand; 0 where nobody below a node can use more.
pub(in crate::allocation) fn prices_at(
    problem: &Problem,
    programme: &Programme,
    admitted: &Admitted,
    watts: &[f64],
) -> Vec<f64> {
    let spans = levels::Spans::of(problem, admitted);
    let prices: Vec<f64> = programme.levels.prices().collect();
    (0..problem.nodes().len())
        .map(|node| {
            let here = problem.leaves().iter().enumerate().filter(|(_, leaf)| leaf.node as usize == node);
            // The dearest level that a leaf of this node has not filled to within a watt.
            let open = here.map(|(at, _)| {
                let next = (1..=prices.len()).find(|full| programme.levels.watts(&spans, at, *full) > watts[at] + 1e-3);
                next.map_or(0.0, |level| prices[level - 1])
            });
            open.fold(0.0, f64::max)
        })
        .collect()
}

fn problem() -> Problem {
    let nodes = vec![
        Node { parent: None, limit: Watts(60_000), base: Watts::ZERO, ..Node::default() },
        Node { parent: Some(0), limit: Watts(20_000), base: Watts::ZERO, ..Node::default() },
    ];
    let leaf = |id: u32, node: u32| Leaf {
        id,
        node,
        min: Watts(2_000),
        max: Watts(120_000),
        step: Watts(100),
        weight: 100,
        prev: Watts::ZERO,
        reserve: Watts::ZERO,
        standing: Standing::Running,
        since: 0,
        ..Leaf::default()
    };
    Problem::new(nodes, vec![leaf(0, 1), leaf(1, 1), leaf(2, 0)]).unwrap()
}

/// The optimum by hand: prices and lengths of levels, filled from the dearest down under both limits.
fn solved(problem: &Problem) -> SolveOutcome {
    let programme = Programme::build(problem);
    // Leaves 0 and 1 share 20 kW (10 each, in the level that ends at 14); leaf 2 has 40 kW (ends at 60).
    let duals = prices_at(problem, &programme, &admit(problem), &[10_000.0, 10_000.0, 40_000.0]);
    let (cabinet, grid) = (duals[1], duals[0]);
    let mut primal = vec![0.0; programme.columns.len()];
    let mut left = [40.0 - 2.0, 20.0 - 4.0];
    for (node, row) in programme.rows.iter().enumerate() {
        for (column, by) in &row.entries {
            if *by > 0.0 && programme.columns[*column as usize].price > 0.0 {
                let upper = programme.columns[*column as usize].upper;
                primal[*column as usize] = upper.min(left[node]);
                left[node] -= primal[*column as usize];
            }
        }
    }
    for (node, flow) in [(0, 54.0), (1, 16.0)] {
        let own = programme.rows[node].entries.iter().find(|(_, by)| *by < 0.0).unwrap().0;
        primal[own as usize] = flow;
    }
    SolveOutcome { programme, status: SolveStatus::Optimal, primal, duals: vec![grid, cabinet], solve_us: 1 }
}

#[test]
fn a_proven_answer_is_taken_and_is_the_water_filling_point() {
    let problem = problem();
    let (allocation, source) = allocate_with(&problem, Some(&solved(&problem)));
    assert_eq!(source, Source::Solver);
    assert_eq!(allocation, water_fill(&problem));
    assert_eq!(allocation.watts, [Watts(10_000), Watts(10_000), Watts(40_000)]);
}

#[test]
fn anything_unproven_falls_back() {
    let problem = problem();
    let good = solved(&problem);
    let source = |change: &dyn Fn(&mut SolveOutcome)| {
        let mut outcome = good.clone();
        change(&mut outcome);
        let (allocation, source) = allocate_with(&problem, Some(&outcome));
        assert_eq!(allocation, water_fill(&problem));
        source
    };
    assert_eq!(source(&|_| ()), Source::Solver);
    let fell = Source::WaterFilling;
    assert_eq!(source(&|o| o.status = SolveStatus::TimeLimit), fell(Fallback::TimeLimit));
    assert_eq!(source(&|o| o.status = SolveStatus::Failed("panic".into())), fell(Fallback::NotOptimal));
    assert_eq!(source(&|o| o.primal.clear()), fell(Fallback::Malformed));
    assert_eq!(source(&|o| o.duals[0] = f64::NAN), fell(Fallback::Malformed));
    assert_eq!(source(&|o| o.programme.columns[0].upper += 1.0), fell(Fallback::Malformed));
    assert_eq!(source(&|o| o.primal[0] += 0.1), fell(Fallback::Infeasible));
    assert_eq!(source(&|o| o.duals[1] *= 1.01), fell(Fallback::Gap));
    assert_eq!(allocate_with(&problem, None).1, fell(Fallback::Late));
}

#[test]
fn an_answer_to_an_older_question_is_not_used() {
    let problem = problem();
    let outcome = solved(&problem);
    let mut nodes = problem.nodes().to_vec();
    nodes[0].limit = Watts(30_000);
    let cut = Problem::new(nodes, problem.leaves().to_vec()).unwrap();
    let (allocation, source) = allocate_with(&cut, Some(&outcome));
    assert_eq!(source, Source::WaterFilling(Fallback::Malformed));
    assert_eq!(allocation.total(), Watts(30_000));
}

#[test]
fn prices_fall_from_level_to_level_under_every_policy() {
    for policy in [Policy::Fair, Policy::Proportional, Policy::Needs] {
        let crossing = problem().with_caps(vec![Cap { limit: Watts(50_000), base: Watts::ZERO, leaves: vec![0, 2] }]);
        let mut needy = crossing.unwrap().leaves().to_vec();
        needy[0].need = Watts(9_000);
        let problem = Problem::new(problem().nodes().to_vec(), needy).unwrap().with_policy(policy);
        let prices: Vec<f64> = Programme::build(&problem).levels.prices().collect();
        assert!(prices.windows(2).all(|pair| pair[0] > pair[1]), "{policy:?} {prices:?}");
    }
}

pub(in crate::allocation) fn filled(
    problem: &Problem,
    admitted: &Admitted,
    programme: &Programme,
    duals: &[f64],
) -> crate::allocation::Allocation {
    accept::fill_from(problem, admitted, programme, duals)
}
