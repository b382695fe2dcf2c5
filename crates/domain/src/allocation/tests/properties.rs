//! Properties on random problems: thousands every day, a million by `./dev test --long power`.

use super::oracle::{lines, progressive_filling};
use super::random::{Shape, TREE, problem, seeds};
use crate::allocation::{Allocation, Policy, Problem, Standing, admit, check, lp, steps::quantise, water, water_fill};
use crate::units::Watts;

const POLICIES: [Policy; 4] = [Policy::Fair, Policy::Proportional, Policy::Strict, Policy::Needs];

/// The shapes in turn, so that every seed is another problem.
fn any(seed: u64) -> Problem {
    let policy = POLICIES[(seed / 2 % 4) as usize];
    problem(seed, Shape { crossing: seed % 2 == 1, policy, ..TREE })
}

fn raised(allocation: &Allocation, at: usize, by: i64) -> Allocation {
    let mut raised = allocation.clone();
    raised.watts[at].0 += by;
    raised
}

#[test]
fn every_answer_keeps_every_limit_to_the_watt() {
    for seed in seeds() {
        let problem = any(seed);
        assert_eq!(check(&problem, &water_fill(&problem)), Ok(()), "seed {seed}");
    }
}

#[test]
fn nobody_who_is_on_can_be_raised_a_step() {
    for seed in seeds() {
        let problem = any(seed);
        let answer = water_fill(&problem);
        for (at, leaf) in problem.leaves().iter().enumerate().filter(|(at, _)| answer.watts[*at].is_positive()) {
            let could = check(&problem, &raised(&answer, at, leaf.step.0)).is_ok();
            assert!(!could, "seed {seed}: leaf {at} could have more of {answer:?}");
        }
    }
}

#[test]
fn nobody_who_is_off_would_have_fitted() {
    for seed in seeds() {
        let problem = problem(seed, Shape { crossing: seed % 2 == 1, ..TREE });
        let admitted = admit(&problem);
        let lowest = Allocation { watts: admitted.lower.iter().map(|w| Watts(*w)).collect() };
        for (at, leaf) in problem.leaves().iter().enumerate().filter(|(at, _)| admitted.upper[*at] == 0) {
            let least = leaf.min.0.max(leaf.reserve.0).max(1);
            let least = (least + leaf.step.0 - 1) / leaf.step.0 * leaf.step.0;
            assert!(check(&problem, &raised(&lowest, at, least)).is_err(), "seed {seed}: leaf {at} could be on");
        }
    }
}

#[test]
fn fair_shares_are_those_of_progressive_filling() {
    for seed in seeds() {
        let problem = problem(seed, Shape { crossing: seed % 2 == 1, ..TREE });
        let admitted = admit(&problem);
        let bound = |bound: &[i64]| bound.iter().map(|w| *w as f64).collect::<Vec<_>>();
        let lines = lines(&problem, &admitted);
        let slow = progressive_filling(&problem, &lines, &bound(&admitted.lower), &bound(&admitted.upper));
        let fast = water::shares(&problem, &admitted);
        let near = fast.iter().zip(&slow).all(|(fast, slow)| (fast - slow).abs() < 1e-2);
        assert!(near, "seed {seed}: {fast:?} {slow:?}");
    }
}

/// On a tree, with steps of one size: whoever is on and below its maximum stands under a full limit in which
/// nobody has more by weight, but for a step and but for those whose minimum is more.
#[test]
fn nobody_envies_more_than_a_step() {
    for seed in seeds() {
        let step = 1 + 99 * (seed % 2) as i64;
        let problem = problem(seed, Shape { step: Some(step), ..TREE });
        let (admitted, answer) = (admit(&problem), water_fill(&problem));
        let lines = lines(&problem, &admitted);
        let leaves = problem.leaves();
        let level = |at: usize, steps: i64| (answer.watts[at].0 + steps * step) as f64 / f64::from(leaves[at].weight);
        for at in (0..leaves.len()).filter(|at| answer.watts[*at].is_positive()) {
            if answer.watts[at].0 + step > admitted.upper[at] {
                continue;
            }
            let no_envy = lines.iter().any(|line| {
                let Some((_, part)) = line.parts.iter().find(|(member, _)| *member == at) else { return false };
                let used: f64 = line.parts.iter().map(|(member, part)| part * answer.watts[*member].0 as f64).sum();
                let full = used + part * step as f64 > line.room + 1e-6;
                let has_more = |other: usize| {
                    answer.watts[other].0 > admitted.lower[other] && level(other, -1) > level(at, 1) + 1e-9
                };
                full && !line.parts.iter().any(|(other, _)| has_more(*other))
            });
            assert!(no_envy, "seed {seed}: leaf {at} of {answer:?}");
        }
    }
}

/// On a tree more power at the grid connection lowers nobody's share (before steps, and with the same leaves
/// on). Where limits cross, somebody may be lowered, but only for somebody who has less: the shares in order,
/// by weight and from the lowest up, never get worse.
#[test]
fn a_higher_grid_limit_is_never_worse() {
    for seed in seeds() {
        let problem = problem(seed, Shape { crossing: seed % 2 == 1, ..TREE });
        let before = admit(&problem);
        let more = 1 + (seed % 50_000) as i64;
        let mut after = before.clone();
        after.room[0] += more;
        let (low, high) = (water::shares(&problem, &before), water::shares(&problem, &after));
        if seed % 2 == 0 {
            assert!(low.iter().zip(&high).all(|(low, high)| *low <= high + 1e-6), "seed {seed}: {low:?} {high:?}");
        }
        let ordered = |shares: &[f64]| {
            let level = |(share, leaf): (&f64, &crate::allocation::Leaf)| share / f64::from(leaf.weight);
            let mut levels: Vec<f64> = shares.iter().zip(problem.leaves()).map(level).collect();
            levels.sort_by(f64::total_cmp);
            levels
        };
        let (low, high) = (ordered(&low), ordered(&high));
        let first_other = low.iter().zip(&high).find(|(low, high)| (*low - *high).abs() > 1e-6);
        assert!(first_other.is_none_or(|(low, high)| low < high), "seed {seed}: {low:?} {high:?}");
    }
}

#[test]
fn strict_priority_takes_from_the_lower_whatever_the_higher_can_use() {
    for seed in seeds() {
        let problem = problem(seed, Shape { crossing: seed % 2 == 1, policy: Policy::Strict, ..TREE });
        let answer = water_fill(&problem);
        let leaves = problem.leaves();
        for (at, leaf) in leaves.iter().enumerate().filter(|(at, _)| answer.watts[*at].is_positive()) {
            let mut without = answer.clone();
            let lower = (0..leaves.len()).filter(|other| leaves[*other].weight < leaf.weight);
            lower.for_each(|other| without.watts[other] = Watts::ZERO);
            let could = check(&problem, &raised(&without, at, leaf.step.0)).is_ok();
            assert!(!could, "seed {seed}: leaf {at} could have more of {answer:?}");
        }
    }
}

/// With steps of a watt, and but for a watt a leaf that rounding leaves over.
#[test]
fn needs_are_met_before_anybody_has_more() {
    const LEFT_OVER: i64 = 20;
    for seed in seeds() {
        let shape = Shape { crossing: seed % 2 == 1, step: Some(1), policy: Policy::Needs, ..TREE };
        let problem = problem(seed, shape);
        let (admitted, answer) = (admit(&problem), water_fill(&problem));
        let leaves = problem.leaves();
        let mut plain = answer.clone();
        for (at, leaf) in leaves.iter().enumerate() {
            plain.watts[at] = plain.watts[at].min(Watts(leaf.need.0.max(admitted.lower[at])));
        }
        for (at, leaf) in leaves.iter().enumerate().filter(|(at, _)| answer.watts[*at].is_positive()) {
            let short = answer.watts[at].0 + LEFT_OVER <= leaf.need.0;
            let could = check(&problem, &raised(&plain, at, LEFT_OVER)).is_ok();
            assert!(!(short && could), "seed {seed}: leaf {at} could have more of {answer:?}");
        }
    }
}

/// Where only some minima fit, whoever waits long enough is on: who was off for three rounds goes first.
#[test]
fn nobody_starves() {
    for seed in seeds().take(2_000) {
        let shape = Shape { crossing: seed % 2 == 1, step: Some(100), ..TREE };
        let mut problem = problem(seed, shape);
        let alone = |problem: &Problem, at: usize| {
            let one = Allocation { watts: vec![Watts::ZERO; problem.leaves().len()] };
            let least = problem.leaves()[at].min.0.max(problem.leaves()[at].reserve.0).max(1);
            check(problem, &raised(&one, at, (least + 99) / 100 * 100)).is_ok()
        };
        let count = problem.leaves().len();
        let mut off_since: Vec<u64> = vec![0; count];
        let mut ever = vec![false; count];
        for round in 1..=(3 * count as u64 + 6) {
            let mut leaves = problem.leaves().to_vec();
            for (at, leaf) in leaves.iter_mut().enumerate() {
                let off = round - off_since[at];
                leaf.standing = if off > 3 {
                    Standing::Starved
                } else if off > 1 {
                    Standing::Waiting
                } else {
                    Standing::Running
                };
                leaf.since = off_since[at];
            }
            let caps = problem.caps().to_vec();
            problem = Problem::new(problem.nodes().to_vec(), leaves).unwrap().with_caps(caps).unwrap();
            for (at, watts) in water_fill(&problem).watts.iter().enumerate() {
                if watts.is_positive() {
                    (off_since[at], ever[at]) = (round, true);
                }
            }
        }
        // Who asks for no minimum is always on, also where its share is less than a step.
        let asks = |at: &usize| problem.leaves()[*at].min.0 + problem.leaves()[*at].reserve.0 > 0;
        for at in (0..count).filter(|at| !ever[*at]).filter(asks) {
            assert!(!alone(&problem, at), "seed {seed}: leaf {at} was never on");
        }
    }
}

#[test]
fn the_check_sees_a_watt_too_much() {
    for seed in seeds() {
        let problem = any(seed);
        let answer = water_fill(&problem);
        for at in (0..problem.leaves().len()).filter(|at| problem.leaves()[*at].step.0 > 1) {
            assert!(check(&problem, &raised(&answer, at, 1)).is_err(), "seed {seed}: leaf {at}");
        }
    }
}

#[test]
fn true_prices_lead_to_the_water_filling_point() {
    for seed in seeds() {
        // The marginal worth of power at a node is the price of the level that its dearest unfilled leaf is
        // in: read it off the water-filling point and fill from it, as a solver's duals would have it.
        let problem = problem(seed, Shape { rough: seed % 2 == 0, ..TREE });
        let admitted = admit(&problem);
        let programme = lp::Programme::build(&problem);
        let exact = water::shares(&problem, &admitted);
        let duals = lp::tests::prices_at(&problem, &programme, &admitted, &exact);
        let filled = lp::tests::filled(&problem, &admitted, &programme, &duals);
        assert_eq!(filled, quantise(&problem, &admitted, &exact), "seed {seed}");
    }
}
