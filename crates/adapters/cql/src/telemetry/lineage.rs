//! What this process has written, as far as it must know: under which key a version of a range goes, and which days are
//! noted.
//!
//! An owner writes a range again and again while it fills, and each version has what the one before had: it goes over
//! that one, under the same *lineage*. When a version lacks something of the one before (late samples, after the range
//! was closed), it gets a lineage of its own, and readers unite both. So nothing is read before it is written, and
//! nothing that was acknowledged is ever written over. What is forgotten here costs a row, not a sample.

use chargeplane_domain::chunk::Present;
use chargeplane_domain::ids::ChargerId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Versions of ranges that are remembered of a charger: the open ranges of its streams.
const OF_A_CHARGER: usize = 4;

/// Chargers that are remembered; beyond it all are forgotten.
const MOST_CHARGERS: usize = 200_000;

/// Days that are remembered; beyond it all are forgotten, and noted again.
const MOST_DAYS: usize = 400_000;

/// A day is noted again after so long, so that its entry outlives its chunks.
const NOTE_AGAIN_S: u64 = 86_400;

struct Version {
    range: u64,
    epoch: u64,
    lineage: i64,
    present: Present,
}

/// A number of 32 bits for this process: others that mark the same shard's hours have another, or are long gone.
pub(super) fn process_number() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::from(since_epoch.subsec_nanos() ^ std::process::id().rotate_left(16)) & 0xffff_ffff
}

/// Under which lineage versions of ranges were written.
pub(super) struct Lineages {
    next: i64,
    written: HashMap<(ChargerId, u32), VecDeque<Version>>,
}

impl Lineages {
    /// Lineages of this process: numbers that no other process of the same owner's epoch gives.
    pub(super) fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { next: i64::try_from(since_epoch.as_micros()).unwrap_or(0), written: HashMap::new() }
    }

    /// Where a version with these samples goes.
    pub(super) fn place(
        &mut self,
        charger: &ChargerId,
        incarnation: u32,
        range: u64,
        epoch: u64,
        present: Present,
    ) -> i64 {
        if self.written.len() >= MOST_CHARGERS {
            self.written.clear();
        }
        let versions = self.written.entry((charger.clone(), incarnation)).or_default();
        let known = versions
            .iter_mut()
            .find(|version| version.range == range && version.epoch == epoch && present.covers(&version.present));
        if let Some(version) = known {
            version.present = present;
            return version.lineage;
        }
        let lineage = self.next;
        self.next = self.next.saturating_add(1);
        if versions.len() >= OF_A_CHARGER {
            versions.pop_front();
        }
        versions.push_back(Version { range, epoch, lineage, present });
        lineage
    }
}

/// A day of a partition of chunks: charger, enrolment, part, day.
pub(super) type Day = (ChargerId, u32, i64, i32);

/// Which days are noted.
#[derive(Default)]
pub(super) struct Days {
    noted: HashSet<Day>,
    since: Option<Instant>,
}

impl Days {
    /// Of these days, those that are not noted.
    pub(super) fn unknown(&mut self, days: impl IntoIterator<Item = Day>) -> HashSet<Day> {
        let old = self.since.is_none_or(|since| since.elapsed().as_secs() >= NOTE_AGAIN_S);
        if old || self.noted.len() >= MOST_DAYS {
            self.noted.clear();
            self.since = Some(Instant::now());
        }
        days.into_iter().filter(|day| !self.noted.contains(day)).collect()
    }

    /// They are noted now.
    pub(super) fn note(&mut self, days: impl IntoIterator<Item = Day>) {
        self.noted.extend(days);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(of: std::ops::Range<u8>) -> Present {
        let mut present = Present::default();
        of.for_each(|offset| assert!(present.insert(offset)));
        present
    }

    fn charger() -> ChargerId {
        "c1".parse().expect("an id")
    }

    #[test]
    fn a_version_with_everything_goes_over_the_one_before_and_another_beside_it() {
        let mut lineages = Lineages::new();
        let mut place = |epoch, numbers| lineages.place(&charger(), 1, 7, epoch, present(numbers));
        let first = place(1, 0..10);
        assert_eq!(place(1, 0..30), first, "more of the same");
        assert_eq!(place(1, 0..30), first, "the same again");
        let late = place(1, 20..40);
        assert_ne!(late, first, "it lacks something");
        assert_eq!(place(1, 20..50), late);
        let less = place(1, 0..5);
        assert!(less != first && less != late, "less than there is must not go over it");
        assert_ne!(place(2, 0..200), first, "of another owner");
    }

    #[test]
    fn what_is_forgotten_goes_beside() {
        let mut lineages = Lineages::new();
        let first = lineages.place(&charger(), 1, 0, 1, present(0..10));
        for range in 1..=OF_A_CHARGER as u64 {
            lineages.place(&charger(), 1, range, 1, present(0..10));
        }
        assert_ne!(lineages.place(&charger(), 1, 0, 1, present(0..20)), first);
    }

    #[test]
    fn a_day_is_noted_once() {
        let mut days = Days::default();
        let day = |part| (charger(), 1, part, 20_458);
        assert_eq!(days.unknown([day(0), day(1), day(0)]).len(), 2);
        days.note([day(0)]);
        assert_eq!(days.unknown([day(0), day(1)]), HashSet::from([day(1)]));
    }
}
