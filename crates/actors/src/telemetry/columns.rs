//! Open columns of one charger: the ranges of its numbering that are not finished, ready to be encoded.

use crate::ports::ChunkRow;
use chargeplane_domain::chunk::{self, ChunkError};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::sample::Sample;

/// Open ranges of a charger, few at a time, in the order of (enrolment, range).
#[derive(Debug, Default)]
pub(super) struct Columns {
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    incarnation: u32,
    columns: chunk::Columns,
    /// Something was added since the last write began.
    dirty: bool,
}

impl Open {
    fn key(&self) -> (u32, u64) {
        (self.incarnation, self.columns.range())
    }
}

/// What is written of one charger: ranges with their content at the time.
pub(super) type ToWrite = Vec<(u32, chunk::Columns)>;

impl Columns {
    /// Adds consecutive samples; returns how many were new.
    pub(super) fn append(&mut self, incarnation: u32, first_number: u64, samples: &[Sample]) -> usize {
        let (mut number, mut rest, mut fresh) = (first_number, samples, 0);
        while !rest.is_empty() {
            let open = self.open_range(incarnation, chunk::range_of(number));
            let (belong, new) = open.columns.append_run(number, rest);
            open.dirty |= new > 0;
            fresh += new;
            // The numbers end where 64 bits do: nothing belongs behind them.
            let (Some(next), Some(after)) = (number.checked_add(belong as u64), rest.get(belong..)) else { break };
            if belong == 0 {
                break;
            }
            (number, rest) = (next, after);
        }
        fresh
    }

    fn open_range(&mut self, incarnation: u32, range: u64) -> &mut Open {
        // Mostly it is the last.
        let at = self.open.iter().rposition(|open| open.key() <= (incarnation, range));
        let at = match at {
            Some(at) if self.open[at].key() == (incarnation, range) => at,
            below => {
                let at = below.map_or(0, |below| below + 1);
                self.open.insert(at, Open { incarnation, columns: chunk::Columns::new(range), dirty: false });
                at
            }
        };
        &mut self.open[at]
    }

    /// The ranges that changed since the last write, as they are now.
    pub(super) fn take_changed(&mut self) -> Option<ToWrite> {
        let mut changed = Vec::new();
        for open in &mut self.open {
            if std::mem::take(&mut open.dirty) {
                changed.push((open.incarnation, open.columns.clone()));
            }
        }
        (!changed.is_empty()).then_some(changed)
    }

    /// Forgets ranges that are written and full, or left behind by later ones, or all that are written. Should more
    /// of such a range come, the store unites both. Returns how many samples are forgotten.
    pub(super) fn drop_written(&mut self, all: bool) -> usize {
        let newest = self.open.last().map(Open::key);
        let mut forgotten = 0;
        self.open.retain(|open| {
            let keep = open.dirty || (!all && !open.columns.is_full() && Some(open.key()) == newest);
            forgotten += if keep { 0 } else { open.columns.len() };
            keep
        });
        forgotten
    }

    /// True when nothing is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// Compresses; runs on a blocking thread.
pub(super) fn encode(open: Vec<(ChargerId, ToWrite)>, epoch: u64) -> Result<Vec<ChunkRow>, ChunkError> {
    let mut rows = Vec::with_capacity(open.iter().map(|(_, ranges)| ranges.len()).sum());
    for (charger, ranges) in open {
        for (incarnation, columns) in ranges {
            rows.push(ChunkRow { charger: charger.clone(), incarnation, epoch, chunk: columns.encode()? });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::units::{Timestamp, WattHours, Watts};

    fn samples(count: usize) -> Vec<Sample> {
        let sample = Sample {
            at: Timestamp(1),
            voltage_dv: 1,
            current_da: 2,
            temperature_dc: 3,
            soc_permille: 4,
            power: Watts(5),
            register: WattHours(6),
        };
        vec![sample; count]
    }

    fn ranges(columns: &Columns) -> Vec<(u32, u64, usize)> {
        columns.open.iter().map(|open| (open.incarnation, open.columns.range(), open.columns.len())).collect()
    }

    #[test]
    fn runs_are_cut_at_ranges_and_counted_once() {
        let mut columns = Columns::default();
        assert_eq!(columns.append(2, 250, &samples(600)), 600);
        assert_eq!(columns.append(2, 200, &samples(60)), 50);
        assert_eq!(columns.append(1, 5, &samples(1)), 1, "of a former enrolment");
        assert_eq!(ranges(&columns), [(1, 0, 1), (2, 0, 56), (2, 1, 256), (2, 2, 256), (2, 3, 82)]);
        assert_eq!(columns.append(2, u64::MAX - 1, &samples(9)), 2, "numbers end with 64 bits");
    }

    #[test]
    fn what_is_written_is_forgotten_but_for_the_range_that_grows() {
        let mut columns = Columns::default();
        columns.append(1, 0, &samples(300));
        assert_eq!(columns.take_changed().map(|ranges| ranges.len()), Some(2));
        columns.append(1, 300, &samples(1));
        assert_eq!(columns.drop_written(false), 256);
        assert_eq!(columns.drop_written(true), 0, "what is not written stays");
        assert_eq!(columns.append(1, 256, &samples(45)), 0, "duplicates of the open range are known");
        assert!(columns.take_changed().is_some() && columns.take_changed().is_none());
        assert_eq!(columns.drop_written(true), 45);
        assert!(columns.is_empty());
    }
}
