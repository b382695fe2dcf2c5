use super::*;
use chargeplane_domain::sample::GapReason;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};

fn sample() -> Sample {
    Sample {
        at: Timestamp(1_795_392_000_000),
        voltage_dv: 0,
        current_da: 0,
        temperature_dc: 0,
        soc_permille: 0,
        power: Watts(0),
        register: WattHours(0),
    }
}

fn gap(first: u64, last: u64) -> Gap {
    Gap { first, last, reason: GapReason::Dropped }
}

#[test]
fn a_lone_item_has_a_deadline_of_its_own() {
    let policy = BatchPolicy::default();
    let mut batcher = Batcher::default();
    assert_eq!(batcher.deadline(&policy), None);
    batcher.push_sample(Mono(1_000), 1, 0, sample());
    assert_eq!(batcher.deadline(&policy), Some(Mono(1_500)));
    assert!(!batcher.is_due(Mono(1_499), &policy));
    assert!(batcher.is_due(Mono(1_500), &policy));
}

#[test]
fn full_batches_leave_at_once_and_the_rest_keeps_its_own_age() {
    let policy = BatchPolicy { max_items: 3, max_age_ms: 500 };
    let mut batcher = Batcher::default();
    for number in 0..7 {
        batcher.push_sample(Mono(number * 10), 1, number, sample());
    }
    assert!(batcher.is_due(Mono(60), &policy));
    assert!(batcher.holds(1) && !batcher.holds(2));
    let firsts: Vec<u64> = (0..2).filter_map(|_| batcher.take(&policy)).map(|c| c.runs[0].first_number).collect();
    assert_eq!(firsts, [0, 3]);
    assert!(!batcher.is_due(Mono(60), &policy));
    assert_eq!(batcher.deadline(&policy), Some(Mono(560)));
    assert_eq!(batcher.take(&policy).map(|c| c.spans()), Some(vec![Span { child: 1, first: 6, last: 6 }]));
    assert_eq!(batcher.take(&policy), None);
    assert!(!batcher.holds(1));
}

#[test]
fn runs_follow_chargers_and_break_at_holes() {
    let mut batcher = Batcher::default();
    for (child, number) in [(1, 10), (2, 5), (1, 11), (2, 7), (1, 12)] {
        batcher.push_sample(Mono(0), child, number, sample());
    }
    let contents = batcher.take(&BatchPolicy::default()).unwrap();
    let spans = [(1, 10, 12), (2, 5, 5), (2, 7, 7)].map(|(child, first, last)| Span { child, first, last });
    assert_eq!(contents.spans(), spans);
}

#[test]
fn neighbouring_gaps_become_one() {
    let mut batcher = Batcher::default();
    batcher.push_gap(Mono(5), 1, gap(10, 19));
    batcher.push_gap(Mono(6), 1, gap(20, 29));
    batcher.push_gap(Mono(7), 1, gap(5, 9));
    batcher.push_gap(Mono(8), 1, gap(40, 40));
    batcher.push_gap(Mono(9), 2, gap(30, 39));
    batcher.push_gap(Mono(9), 1, Gap { reason: GapReason::Refused, ..gap(30, 30) });
    assert_eq!(batcher.deadline(&BatchPolicy::default()), Some(Mono(505)));
    let contents = batcher.take(&BatchPolicy::default()).unwrap();
    let refused = Gap { reason: GapReason::Refused, ..gap(30, 30) };
    assert_eq!(contents.gaps, [(1, gap(5, 29)), (1, gap(40, 40)), (2, gap(30, 39)), (1, refused)]);
    assert!(batcher.gaps_are_out());
}
