use super::*;
use crate::allocation::lp::SolveStatus;
use proptest::prelude::*;

fn stay(most: i64, need_wh: i64, leaves_in_s: u32) -> Stay {
    Stay { most: Watts(most), need_ws: need_wh * 3_600, leaves_in_s }
}

fn limit(room: f64, loads: &[(u32, f64)]) -> LinearLimit {
    LinearLimit { room, loads: loads.to_vec() }
}

fn horizons() -> impl Strategy<Value = Horizon> {
    let stays = prop::collection::vec((0_i64..22_000, 0_i64..60_000, 0_u32..40_000), 1..30);
    let rows = prop::collection::vec((-500.0_f64..60_000.0, prop::collection::vec(0.0_f64..2.0, 30)), 0..8);
    (stays, rows, 1_u32..900).prop_map(|(stays, rows, tick_s)| {
        let stays: Vec<Stay> = stays.into_iter().map(|(most, need, leaves)| stay(most, need, leaves)).collect();
        let row = |(room, by): (f64, Vec<f64>)| {
            // A member in two; the rest does not load this limit.
            let members = by.into_iter().take(stays.len()).enumerate().filter(|(_, by)| *by > 1.0);
            LinearLimit { room, loads: members.map(|(at, by)| (at as u32, by)).collect() }
        };
        let rows: Vec<LinearLimit> = rows.into_iter().map(row).collect();
        Horizon::new(tick_s, stays.clone(), rows.clone(), rows).expect("makes sense")
    })
}

proptest! {
    #[test]
    fn without_a_solver_every_limit_holds_and_nothing_is_left(horizon in horizons()) {
        let watts = horizon.without_solver();
        prop_assert!(horizon.fits(&watts));
        for (at, stay) in horizon.stays.iter().enumerate() {
            let most = horizon.most_now(stay);
            prop_assert!((0..=most).contains(&watts[at].0));
            // Below its most only where a limit above it has less room than rounding takes.
            let full = |limit: &LinearLimit| {
                let by = limit.loads.iter().find(|(member, _)| *member as usize == at).map_or(0.0, |(_, by)| *by);
                let roundings: f64 = limit.loads.iter().map(|(_, by)| 2.0 * by).sum();
                by > 0.0 && limit.load(&watts) + roundings >= limit.room
            };
            prop_assert!(watts[at].0 >= most - 1 || horizon.now.iter().any(full), "stay {at} could have more");
        }
    }

    /// Nothing that is read of an answer passes over a limit, whatever a solver says.
    #[test]
    fn made_up_answers_are_refused(horizon in horizons(), value in 0.0_f64..50.0) {
        let programme = horizon.programme();
        let outcome = SolveOutcome {
            primal: vec![value; programme.columns.len()],
            duals: vec![0.0; programme.rows.len()],
            programme,
            status: SolveStatus::Optimal,
            solve_us: 0,
        };
        if let Ok(watts) = horizon.shares(&outcome) {
            prop_assert!(horizon.fits(&watts));
        }
    }
}

#[test]
fn time_is_cut_at_departures() {
    let stays = vec![stay(7_000, 9_000, 3_600), stay(7_000, 9_000, 100), stay(7_000, 9_000, 7_200)];
    let row = limit(10_000.0, &[(0, 1.0), (1, 1.0), (2, 1.0)]);
    let horizon = Horizon::new(300, stays, vec![row.clone()], vec![row]).expect("makes sense");
    let cells: Vec<(u32, u32)> = horizon.cells().iter().map(|cell| (cell.from, cell.to)).collect();
    assert_eq!(cells, [(0, 300), (300, 3_600), (3_600, 7_200)]);
    assert_eq!(horizon.everybody(), None);
    // Three shares now, two until an hour, one until two; one sum and its free room where 10 kW can bind: in
    // the tick and until the hour; three unmet needs.
    assert_eq!(horizon.programme().columns.len(), 3 + 2 + 1 + 2 * 2 + 3);
}

#[test]
fn many_departures_are_taken_together() {
    let stays: Vec<Stay> = (0..500).map(|at| stay(11_000, 20_000, 1_000 + at * 37)).collect();
    let horizon = Horizon::new(300, stays, Vec::new(), Vec::new()).expect("makes sense");
    let cells = horizon.cells();
    assert_eq!(cells.len(), MOST_CELLS);
    assert_eq!(cells.last().map(|cell| cell.to), Some(1_000 + 499 * 37));
    assert!(cells.windows(2).all(|pair| pair[0].to == pair[1].from && pair[1].from < pair[1].to));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let fine = stay(7_000, 9_000, 3_600);
    let new = |tick, stays, limits| Horizon::new(tick, stays, limits, Vec::new());
    assert_eq!(new(0, vec![fine], Vec::new()), Err(HorizonError::NoTick));
    let error = new(1, vec![fine, stay(-1, 0, 0)], Vec::new()).expect_err("negative power");
    assert!(matches!(error, HorizonError::BadStay { stay: 1, .. }));
    let error = new(1, vec![fine, stay(1, -1, 0)], Vec::new()).expect_err("negative energy");
    assert!(matches!(error, HorizonError::BadStay { stay: 1, .. }));
    for bad in [limit(f64::NAN, &[]), limit(1.0, &[(1, 1.0)]), limit(1.0, &[(0, -1.0)]), limit(1.0, &[(0, f64::NAN)])] {
        let error = new(1, vec![fine], vec![limit(5.0, &[]), bad]).expect_err("a bad limit");
        assert!(matches!(error, HorizonError::BadLimit { limit: 1, .. }));
    }
    assert_eq!(new(1, vec![fine; MAX_STAYS + 1], Vec::new()), Err(HorizonError::TooMany { count: MAX_STAYS + 1 }));
}

#[test]
fn a_stay_ends_its_need_within_the_tick() {
    // 10 Wh in 300 s are 120 W.
    let horizon = Horizon::new(300, vec![stay(7_000, 10, 9_000)], Vec::new(), Vec::new()).expect("makes sense");
    assert_eq!(horizon.everybody(), Some(vec![Watts(120)]));
}
