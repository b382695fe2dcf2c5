//! Plans ahead of departures, solved by HiGHS.

use chargeplane_domain::allocation::horizon::{Horizon, Stay};
use chargeplane_domain::allocation::lp::{Fallback, SolveStatus, Solver};
use chargeplane_domain::allocation::phasor::LinearLimit;
use chargeplane_domain::units::Watts;
use chargeplane_highs::HighsSolver;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::sync::mpsc::channel;

const TICK_S: u32 = 300;

fn stay(most: i64, need_wh: i64, leaves_in_s: u32) -> Stay {
    Stay { most: Watts(most), need_ws: need_wh * 3_600, leaves_in_s }
}

fn horizon(stays: &[Stay], limits: &[(i64, Vec<u32>)]) -> Horizon {
    let row = |(room, members): &(i64, Vec<u32>)| LinearLimit {
        room: *room as f64,
        loads: members.iter().map(|at| (*at, 1.0)).collect(),
    };
    let rows: Vec<LinearLimit> = limits.iter().map(row).collect();
    Horizon::new(TICK_S, stays.to_vec(), rows.clone(), rows).expect("makes sense")
}

fn planned(horizon: &Horizon, solver: &HighsSolver) -> Result<Vec<Watts>, Fallback> {
    let (tell, told) = channel();
    let done = Box::new(move |outcome| drop(tell.send(outcome)));
    solver.submit(horizon.programme(), 60_000, done).expect("not busy");
    let outcome = told.recv().expect("every solve is answered");
    assert_eq!(outcome.status, SolveStatus::Optimal);
    horizon.shares(&outcome)
}

/// What a rule delivers when nobody else comes, in watt-seconds.
fn delivered(mut stays: Vec<Stay>, limits: &[(i64, Vec<u32>)], rule: impl Fn(&Horizon) -> Vec<Watts>) -> i64 {
    let wanted: i64 = stays.iter().map(|stay| stay.need_ws).sum();
    while stays.iter().any(|stay| stay.leaves_in_s > 0 && stay.need_ws > 0) {
        let watts = rule(&horizon(&stays, limits));
        for (stay, watts) in stays.iter_mut().zip(watts) {
            stay.need_ws = (stay.need_ws - watts.0 * i64::from(TICK_S)).max(0);
            stay.leaves_in_s = stay.leaves_in_s.saturating_sub(TICK_S);
            if stay.leaves_in_s == 0 {
                stay.most = Watts::ZERO;
            }
        }
    }
    wanted - stays.iter().map(|stay| stay.need_ws).sum::<i64>()
}

/// The published flaw of sorting by departure: the first of the order fills its phase, and what is left of the
/// transformer cannot be used by the others on that phase.
#[test]
fn the_other_phase_is_kept_busy() {
    let solver = HighsSolver::start(1).expect("threads");
    // Two on one phase (6 kW), one on the other; 9 kW together. The one on the other phase stays longest.
    let stays = [stay(6_000, 6_000, 7_200), stay(6_000, 6_000, 7_200), stay(6_000, 12_000, 7_800)];
    let limits = [(9_000, vec![0, 1, 2]), (6_000, vec![0, 1])];
    let plan =
        |horizon: &Horizon| horizon.everybody().map_or_else(|| planned(horizon, &solver), Ok).expect("a proven plan");
    let by_plan = delivered(stays.to_vec(), &limits, plan);
    // Two hours of 9 kW, and then ten minutes of 6 kW for the last.
    let most = (18_000 + 1_000) * 3_600;
    assert!(by_plan <= most && by_plan >= most - most / 10_000, "{by_plan} of {most} Ws");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, rng_seed: RngSeed::Fixed(26), ..ProptestConfig::default() })]

    /// A plan is within every limit, gives nobody more than it can take, and delivers over the whole stays about
    /// what the rule without a solver does, or more; early energy may cost a little where nobody else comes.
    #[test]
    fn plans_are_feasible_and_worth_it(
        parts in prop::collection::vec((1_000_i64..11_000, 200_i64..15_000, 1_u32..24), 2..9),
        rooms in prop::collection::vec((3_000_i64..25_000, prop::collection::vec(any::<bool>(), 9)), 1..4),
    ) {
        let solver = HighsSolver::start(1).expect("threads");
        let stays: Vec<Stay> = parts.iter().map(|(most, need, ticks)| stay(*most, *need, ticks * TICK_S)).collect();
        let members = |chosen: &Vec<bool>| (0..stays.len() as u32).filter(|at| chosen[*at as usize]).collect();
        let limits: Vec<(i64, Vec<u32>)> = rooms.iter().map(|(room, chosen)| (*room, members(chosen))).collect();
        let first = horizon(&stays, &limits);
        let watts = planned(&first, &solver).expect("a proven plan");
        for (stay, watts) in stays.iter().zip(&watts) {
            prop_assert!((Watts::ZERO..=stay.most).contains(watts));
        }
        for (room, members) in &limits {
            prop_assert!(members.iter().map(|at| watts[*at as usize].0).sum::<i64>() <= *room);
        }
        let plan = |horizon: &Horizon| horizon.everybody().map_or_else(|| planned(horizon, &solver), Ok).expect("a proven plan");
        let (ours, simple) =
            (delivered(stays.clone(), &limits, plan), delivered(stays.clone(), &limits, Horizon::without_solver));
        prop_assert!(ours as f64 >= simple as f64 * 0.9, "{ours} Ws by plan, {simple} Ws without");
    }
}
