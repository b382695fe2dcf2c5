//! Fewer samples for a plot, spikes and all.
//!
//! The range is cut into buckets of equal time, and of each bucket the samples with the least and the greatest value of
//! every wanted column stay, beside the first and the last sample of all. So a spike of a single sample is in the plot,
//! which a mean would hide and largest-triangle-three-buckets may pass over; what is shown was measured, each with its
//! own time; and it takes one pass in any order, with memory for the buckets only.

use crate::chunk::Column;
use crate::sample::Reading;
use crate::units::Timestamp;

/// Least number of points that can be asked for: the first, the last, and the extremes of one bucket.
pub const MIN_POINTS: usize = 4;

/// Thins readings of a range of time to a number of points.
#[derive(Debug, Clone)]
pub struct Thinner {
    from: Timestamp,
    to: Timestamp,
    points: usize,
    columns: Vec<Column>,
    seen: u64,
    /// Everything, while it is few enough.
    whole: Option<Vec<Reading>>,
    ends: Option<(Reading, Reading)>,
    /// Least and greatest by column, bucket after bucket.
    extremes: Vec<Option<(Reading, Reading)>>,
}

impl Thinner {
    /// For the range `from..to`, at most `points` (raised to what one bucket takes), the extremes of `columns` (power
    /// when there is none).
    pub fn new(from: Timestamp, to: Timestamp, points: usize, columns: &[Column]) -> Self {
        let mut columns = if columns.is_empty() { vec![Column::Power] } else { columns.to_vec() };
        columns.sort_unstable();
        columns.dedup();
        let each = columns.len().saturating_mul(2);
        let buckets = points.saturating_sub(2).checked_div(each).unwrap_or(0).max(1);
        let extremes = vec![None; buckets.saturating_mul(columns.len())];
        let points = points.max(each.saturating_add(2));
        Self { from, to, points, columns, seen: 0, whole: Some(Vec::new()), ends: None, extremes }
    }

    /// How many samples were taken in.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Takes a sample in, in any order. One outside the range counts to its nearest bucket.
    pub fn push(&mut self, reading: Reading) {
        self.seen = self.seen.saturating_add(1);
        if let Some(whole) = &mut self.whole {
            if whole.len() < self.points {
                whole.push(reading);
            } else {
                self.whole = None;
            }
        }
        self.ends = Some(match self.ends {
            None => (reading, reading),
            Some((first, last)) => (
                if reading.order() < first.order() { reading } else { first },
                if reading.order() > last.order() { reading } else { last },
            ),
        });
        let width = self.columns.len();
        let start = self.bucket_of(reading.sample.at).saturating_mul(width);
        let slots = self.extremes.iter_mut().skip(start).take(width);
        for (slot, column) in slots.zip(&self.columns) {
            // Of equal values the first by time stays, so that the order of coming does not show.
            let key = |of: &Reading| (column.of(&of.sample), of.order());
            let key_of_greatest = |of: &Reading| (column.of(&of.sample), std::cmp::Reverse(of.order()));
            *slot = Some(match *slot {
                None => (reading, reading),
                Some((least, greatest)) => (
                    if key(&reading) < key(&least) { reading } else { least },
                    if key_of_greatest(&reading) > key_of_greatest(&greatest) { reading } else { greatest },
                ),
            });
        }
    }

    fn bucket_of(&self, at: Timestamp) -> usize {
        let buckets = self.extremes.len().checked_div(self.columns.len()).unwrap_or(1);
        let span = i128::from(self.to.0) - i128::from(self.from.0);
        let place = (i128::from(at.0) - i128::from(self.from.0)).saturating_mul(buckets as i128);
        let bucket = place.checked_div(span.max(1)).unwrap_or(0).clamp(0, buckets as i128 - 1);
        usize::try_from(bucket).unwrap_or(0)
    }

    /// What stays, by time.
    pub fn finish(self) -> Vec<Reading> {
        let mut kept = match self.whole {
            Some(whole) => whole,
            None => {
                let pairs = self.extremes.into_iter().flatten().chain(self.ends);
                pairs.flat_map(|(one, other)| [one, other]).collect()
            }
        };
        kept.sort_by_key(Reading::order);
        kept.dedup_by_key(|reading| reading.order());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use crate::units::{WattHours, Watts};
    use proptest::prelude::*;

    fn reading(number: u64, at: i64, power: i64, voltage_dv: i32) -> Reading {
        let sample = Sample {
            at: Timestamp(at),
            voltage_dv,
            current_da: 0,
            temperature_dc: 250,
            soc_permille: 500,
            power: Watts(power),
            register: WattHours(0),
        };
        Reading { incarnation: 1, number, sample }
    }

    fn thinned(readings: &[Reading], points: usize, columns: &[Column]) -> Vec<Reading> {
        let mut thinner = Thinner::new(Timestamp(0), Timestamp(100_000), points, columns);
        readings.iter().for_each(|reading| thinner.push(*reading));
        assert_eq!(thinner.seen(), readings.len() as u64);
        thinner.finish()
    }

    #[test]
    fn a_spike_of_one_sample_stays() {
        let mut readings: Vec<_> = (0..10_000).map(|n| reading(n, n as i64 * 10, 60_000, 4_000)).collect();
        readings[6_543].sample.power = Watts(0);
        readings[6_544].sample.power = Watts(119_000);
        let kept = thinned(&readings, 100, &[]);
        assert!(kept.len() <= 100, "{}", kept.len());
        assert!(kept.contains(&readings[6_543]) && kept.contains(&readings[6_544]));
        assert_eq!((kept[0], kept[kept.len() - 1]), (readings[0], readings[9_999]));
    }

    #[test]
    fn nothing_is_thinned_to_nothing() {
        assert_eq!(thinned(&[], 100, &[]), []);
        let one = reading(3, -5, 1, 1);
        assert_eq!(thinned(&[one], 0, &[]), [one], "outside the range, and fewer points than there can be");
    }

    proptest! {
        #[test]
        fn what_stays_was_there_and_has_all_extremes(
            values in proptest::collection::vec((0i64..100_000, -50i64..50, 3_990i32..4_010), 1..400),
            points in 0usize..120,
            both: bool,
            turn in 0usize..400,
        ) {
            let columns: &[Column] = if both { &[Column::Voltage, Column::Power] } else { &[Column::Power] };
            let all: Vec<_> =
                (0u64..).zip(&values).map(|(n, (at, power, voltage))| reading(n, *at, *power, *voltage)).collect();
            let kept = thinned(&all, points, columns);
            prop_assert!(kept.len() <= points.max(2 + 2 * columns.len()));
            prop_assert!(kept.iter().all(|reading| all.contains(reading)));
            prop_assert!(kept.windows(2).all(|pair| pair[0].order() < pair[1].order()), "by time, each once");
            for column in columns {
                let range = |of: &[Reading]| {
                    let values = of.iter().map(|reading| column.of(&reading.sample));
                    (values.clone().min(), values.max())
                };
                prop_assert_eq!(range(&kept), range(&all));
            }
            prop_assert_eq!(kept.iter().map(Reading::order).min(), all.iter().map(Reading::order).min());
            prop_assert_eq!(kept.iter().map(Reading::order).max(), all.iter().map(Reading::order).max());
            if all.len() <= points {
                prop_assert_eq!(kept.len(), all.len(), "few enough already");
            }
            let mut turned = all.clone();
            turned.rotate_left(turn % all.len());
            prop_assert_eq!(thinned(&turned, points, columns), kept, "whatever the order of coming");
        }
    }
}
