use super::*;
use proptest::prelude::*;

/// A transformer's winding between two lines of a delta, and one that sees three angles.
fn limits() -> impl Strategy<Value = PhasorLimit> {
    let load = (0.0_f64..360.0, 0.2_f64..2.0);
    (1_000.0_f64..50_000.0, prop::collection::vec(load, 1..8)).prop_map(|(most, loads)| {
        let current = |(at, (degrees, size)): (usize, (f64, f64))| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            (at as u32, [size * cos, size * sin])
        };
        PhasorLimit { most, loads: loads.into_iter().enumerate().map(current).collect() }
    })
}

/// The greatest multiple of `watts` that the rows allow.
fn scaled(rows: &[LinearLimit], watts: &[Watts], at_most: f64) -> Vec<Watts> {
    let load = |row: &LinearLimit| row.load(watts) / row.room;
    let worst = rows.iter().map(load).fold(1.0 / at_most, f64::max);
    watts.iter().map(|w| Watts((w.0 as f64 / worst).floor() as i64)).collect()
}

proptest! {
    #[test]
    fn rows_inside_keep_the_limit_whatever_is_taken(
        limit in limits(),
        watts in prop::collection::vec(0_i64..20_000, 8),
        taken in prop::collection::vec(0.0_f64..=1.0, 8),
        facets in prop::sample::select(vec![4_u32, 12, 24, 96]),
    ) {
        let watts: Vec<Watts> = watts.into_iter().map(Watts).collect();
        let allowed = scaled(&limit.inside(facets), &watts, 4.0);
        prop_assert!(limit.magnitude(&allowed) <= limit.most);
        let less: Vec<Watts> =
            allowed.iter().zip(taken).map(|(w, share)| Watts((w.0 as f64 * share) as i64)).collect();
        prop_assert!(limit.magnitude(&less) <= limit.most);
    }

    /// Where no current relieves another (all within a right angle), little is given away.
    #[test]
    fn rows_inside_and_around_meet(
        most in 1_000.0_f64..50_000.0,
        degrees in prop::collection::vec(10.0_f64..100.0, 8),
        watts in prop::collection::vec(1_000_i64..20_000, 8),
    ) {
        let loads = degrees.iter().enumerate().map(|(at, degrees)| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            (at as u32, [cos, sin])
        });
        let limit = PhasorLimit { most, loads: loads.collect() };
        let watts: Vec<Watts> = watts.into_iter().map(Watts).collect();
        let worst = |rows: &[LinearLimit]| rows.iter().map(|row| row.load(&watts) / row.room).fold(0.0, f64::max);
        let exact = limit.magnitude(&watts) / most;
        prop_assert!(worst(&limit.inside(96)) >= exact);
        prop_assert!(worst(&limit.inside(96)) <= exact * 1.000_6);
        prop_assert!(worst(&limit.around(96)) <= exact * 1.000_01);
        prop_assert!(worst(&limit.around(96)) >= exact * 0.999_4);
    }
}

#[test]
fn currents_of_one_angle_need_one_row() {
    let limit = PhasorLimit { most: 80.0, loads: vec![(0, [0.0, 0.5]), (1, [0.0, 1.0])] };
    let rows = limit.inside(24);
    assert_eq!(rows.len(), 1);
    assert!((rows[0].load(&[Watts(60), Watts(50)]) - 80.0).abs() < 1e-9);
}
