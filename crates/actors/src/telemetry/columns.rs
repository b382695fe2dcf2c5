//! Open columns of one charger: the ranges of its numbering that are not finished, ready to be encoded.

use crate::ports::ChunkRow;
use chargeplane_domain::chunk::{self, Append, ChunkError};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::sample::Sample;
use std::collections::BTreeMap;

/// Open ranges by (enrolment, range).
#[derive(Debug, Default)]
pub(super) struct Columns {
    open: BTreeMap<(u32, u64), Open>,
}

#[derive(Debug)]
struct Open {
    columns: chunk::Columns,
    /// Something was added since the last write began.
    dirty: bool,
}

/// What is written of one charger: ranges with their content at the time.
pub(super) type ToWrite = Vec<(u32, chunk::Columns)>;

impl Columns {
    /// Adds consecutive samples; returns how many were new.
    pub(super) fn append(&mut self, incarnation: u32, first_number: u64, samples: &[Sample]) -> usize {
        let numbers = (first_number..=u64::MAX).zip(samples);
        let mut fresh = 0;
        for (number, sample) in numbers {
            let range = chunk::range_of(number);
            let new = || Open { columns: chunk::Columns::new(range), dirty: false };
            let open = self.open.entry((incarnation, range)).or_insert_with(new);
            if open.columns.append(number, sample) == Append::Appended {
                open.dirty = true;
                fresh += 1;
            }
        }
        fresh
    }

    /// The ranges that changed since the last write, as they are now.
    pub(super) fn take_changed(&mut self) -> Option<ToWrite> {
        let mut changed = Vec::new();
        for ((incarnation, _), open) in &mut self.open {
            if std::mem::take(&mut open.dirty) {
                changed.push((*incarnation, open.columns.clone()));
            }
        }
        (!changed.is_empty()).then_some(changed)
    }

    /// Forgets ranges that are written and full, or left behind by later ones. Should more of such a range
    /// come, the store unites both.
    pub(super) fn drop_written(&mut self) {
        let newest = self.open.keys().next_back().copied();
        self.open.retain(|key, open| open.dirty || (!open.columns.is_full() && Some(*key) == newest));
    }

    /// True when nothing is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// Compresses; runs on a blocking thread.
pub(super) fn encode(open: Vec<(ChargerId, ToWrite)>, epoch: u64) -> Result<Vec<ChunkRow>, ChunkError> {
    let ranges = open.into_iter().flat_map(|(charger, ranges)| {
        ranges.into_iter().map(move |(incarnation, columns)| (charger.clone(), incarnation, columns))
    });
    let row = |(charger, incarnation, columns): (ChargerId, u32, chunk::Columns)| {
        let chunk = columns.encode()?;
        Ok(ChunkRow { charger, incarnation, epoch, chunk })
    };
    ranges.map(row).collect()
}
