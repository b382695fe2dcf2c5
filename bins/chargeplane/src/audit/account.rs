//! One charger's numbers: stored, declared lost, open.

use chargeplane_domain::chunk::{CHUNK_SAMPLES, Chunk};
use chargeplane_domain::sample::{Gap, GapReason, Sample};
use std::collections::BTreeMap;

pub(super) const DAY_MS: i64 = 86_400_000;

/// A version of a range, as the store has it.
#[derive(Debug, Clone)]
pub(super) struct StoredChunk {
    pub(super) incarnation: u32,
    pub(super) epoch: u64,
    pub(super) bytes: Vec<u8>,
}

/// Numbers of some chargers, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) stored: u64,
    pub(super) thinned: u64,
    pub(super) dropped: u64,
    pub(super) refused: u64,
    /// Neither stored nor declared, below a number that is.
    pub(super) open: u64,
    /// Stored with a time before that of a lower number: the clock was set back.
    pub(super) late: u64,
    /// Stored in several versions.
    pub(super) twice: u64,
}

impl Losses {
    /// Numbers that the gateway gave: each is stored, declared or open.
    pub(super) fn sent(&self) -> u64 {
        [self.stored, self.thinned, self.dropped, self.refused, self.open].into_iter().fold(0, u64::saturating_add)
    }

    pub(super) fn add(&mut self, more: &Self) {
        for (sum, more) in [
            (&mut self.stored, more.stored),
            (&mut self.thinned, more.thinned),
            (&mut self.dropped, more.dropped),
            (&mut self.refused, more.refused),
            (&mut self.open, more.open),
            (&mut self.late, more.late),
            (&mut self.twice, more.twice),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A range, united: a word of day and time for each number that is there, and the checksum of its content.
#[derive(Default)]
struct Range {
    samples: BTreeMap<u8, (i64, u64)>,
    twice: u64,
}

/// One enrolment's numbers.
#[derive(Default)]
struct Numbers {
    ranges: BTreeMap<u64, Range>,
    gaps: Vec<Gap>,
}

/// Everything of one charger.
#[derive(Default)]
pub(super) struct Account {
    by_incarnation: BTreeMap<u32, Numbers>,
}

/// A number's place in its range, and the range.
fn place(number: u64) -> (u64, u8) {
    let width = CHUNK_SAMPLES as u64;
    (number / width, u8::try_from(number % width).unwrap_or(u8::MAX))
}

/// FNV-1a over all values of a sample.
fn content(sample: &Sample) -> u64 {
    let values = [
        sample.at.0,
        sample.voltage_dv.into(),
        sample.current_da.into(),
        sample.temperature_dc.into(),
        sample.soc_permille.into(),
        sample.power.0,
        sample.register.0,
    ];
    let bytes = values.into_iter().flat_map(i64::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Account {
    /// Takes a stored chunk in; what is wrong with it, in words.
    pub(super) fn take(&mut self, stored: &StoredChunk) -> Result<(), String> {
        let chunk = Chunk::decode(&stored.bytes)
            .map_err(|error| format!("a chunk of epoch {} cannot be read: {error}", stored.epoch))?;
        let ranges = &mut self.by_incarnation.entry(stored.incarnation).or_default().ranges;
        let range = ranges.entry(chunk.range()).or_default();
        let mut difference = None;
        for numbered in chunk.samples() {
            let (of, offset) = place(numbered.number);
            if of != chunk.range() {
                return Err(format!("number {} is in range {}", numbered.number, chunk.range()));
            }
            let new = (numbered.sample.at.0, content(&numbered.sample));
            match range.samples.insert(offset, new) {
                None => {}
                Some(known) if known == new => range.twice = range.twice.saturating_add(1),
                Some(_) => drop(difference.get_or_insert(numbered.number)),
            }
        }
        match difference {
            Some(number) => Err(format!("number {number} is stored with two contents, one of epoch {}", stored.epoch)),
            None => Ok(()),
        }
    }

    /// Takes a declared gap in.
    pub(super) fn take_gap(&mut self, incarnation: u32, gap: Gap) {
        self.by_incarnation.entry(incarnation).or_default().gaps.push(gap);
    }

    /// The newest enrolment.
    pub(super) fn newest(&self) -> Option<u32> {
        self.by_incarnation.keys().next_back().copied()
    }

    /// Of these numbers, the first that is neither stored nor declared, and how many are; none when all are there.
    pub(super) fn missing(&self, incarnation: u32, first: u64, last: u64) -> Option<(u64, u64)> {
        let nothing = Numbers::default();
        let holes = self.by_incarnation.get(&incarnation).unwrap_or(&nothing).holes(first, last);
        let count = holes.iter().map(|(first, last)| (last - first).saturating_add(1)).fold(0, u64::saturating_add);
        holes.first().map(|(first, _)| (*first, count))
    }

    /// Numbers that are neither stored nor declared, below one that is: enrolment, first and last.
    pub(super) fn open(&self) -> Vec<(u32, u64, u64)> {
        let of = |(incarnation, numbers): (&u32, &Numbers)| {
            let holes = numbers.highest().map_or_else(Vec::new, |highest| numbers.holes(0, highest));
            holes.into_iter().map(|(first, last)| (*incarnation, first, last)).collect::<Vec<_>>()
        };
        self.by_incarnation.iter().flat_map(of).collect()
    }

    /// What became of the numbers, by day of gateway time. A number that is not stored has the day of the stored one
    /// before it, or else of the first.
    pub(super) fn by_day(&self) -> BTreeMap<i64, Losses> {
        let mut days: BTreeMap<i64, Losses> = BTreeMap::new();
        for numbers in self.by_incarnation.values() {
            numbers.by_day(&mut days);
        }
        days
    }
}

impl Numbers {
    fn highest(&self) -> Option<u64> {
        let stored = self.ranges.iter().next_back().and_then(|(range, content)| {
            let offset = content.samples.keys().next_back()?;
            Some(range.saturating_mul(CHUNK_SAMPLES as u64).saturating_add((*offset).into()))
        });
        stored.into_iter().chain(self.gaps.iter().map(|gap| gap.last)).max()
    }

    /// Stored numbers with their times, in order.
    fn stored(&self) -> impl Iterator<Item = (u64, i64)> + '_ {
        self.ranges.iter().flat_map(|(range, content)| {
            let first = range.saturating_mul(CHUNK_SAMPLES as u64);
            content.samples.iter().map(move |(offset, (at, _))| (first.saturating_add((*offset).into()), *at))
        })
    }

    /// Runs of numbers in `first..=last` that are neither stored nor declared.
    fn holes(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let width = CHUNK_SAMPLES as u64;
        let ranges = self.ranges.range(first / width..=last / width);
        let stored = ranges.flat_map(|(range, content)| {
            let first = range.saturating_mul(width);
            content.samples.keys().map(move |offset| first.saturating_add((*offset).into()))
        });
        let mut there: Vec<(u64, u64)> = stored.map(|number| (number, number)).collect();
        there.extend(self.gaps.iter().map(|gap| (gap.first, gap.last)));
        there.sort_unstable();
        without(first, last, &there)
    }

    fn by_day(&self, days: &mut BTreeMap<i64, Losses>) {
        let day = |at: i64| at.div_euclid(DAY_MS);
        let times: Vec<(u64, i64)> = self.stored().collect();
        let day_before = |number: u64| {
            let place = times.partition_point(|(stored, _)| *stored <= number);
            times.get(place.saturating_sub(1)).map_or(0, |(_, at)| day(*at))
        };
        let mut newest = i64::MIN;
        for (_, at) in &times {
            let losses = days.entry(day(*at)).or_default();
            losses.stored = losses.stored.saturating_add(1);
            losses.late = losses.late.saturating_add((*at < newest).into());
            newest = newest.max(*at);
        }
        for (range, content) in self.ranges.iter().filter(|(_, content)| content.twice > 0) {
            let losses = days.entry(day_before(range.saturating_mul(CHUNK_SAMPLES as u64))).or_default();
            losses.twice = losses.twice.saturating_add(content.twice);
        }
        // A number may lie in several gaps, and a declared one may be stored after all: each counts once, the first
        // reason that was declared.
        let mut declared: Vec<(u64, u64)> = Vec::new();
        for gap in &self.gaps {
            for (first, last) in self.unstored(gap.first, gap.last) {
                for (first, last) in without(first, last, &declared) {
                    let losses = days.entry(day_before(first)).or_default();
                    let slot = match gap.reason {
                        GapReason::Thinned => &mut losses.thinned,
                        GapReason::Dropped => &mut losses.dropped,
                        GapReason::Refused => &mut losses.refused,
                    };
                    *slot = slot.saturating_add((last - first).saturating_add(1));
                }
            }
            declared.push((gap.first, gap.last));
            declared.sort_unstable();
        }
        for (first, last) in self.highest().map_or_else(Vec::new, |highest| self.holes(0, highest)) {
            let losses = days.entry(day_before(first)).or_default();
            losses.open = losses.open.saturating_add((last - first).saturating_add(1));
        }
    }

    /// Runs of numbers of a gap that are not stored.
    fn unstored(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let width = CHUNK_SAMPLES as u64;
        let stored: Vec<(u64, u64)> = self
            .ranges
            .range(first / width..=last / width)
            .flat_map(|(range, content)| {
                let first = range.saturating_mul(width);
                content.samples.keys().map(move |offset| first.saturating_add((*offset).into()))
            })
            .map(|number| (number, number))
            .collect();
        without(first, last, &stored)
    }
}

/// Runs of `first..=last` outside sorted `spans`.
fn without(first: u64, last: u64, spans: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    let mut next = Some(first);
    for (from, to) in spans {
        let Some(at) = next.filter(|at| *at <= last) else { return left };
        if *from > at {
            left.push((at, last.min(from - 1)));
        }
        next = if *to >= at { to.checked_add(1) } else { Some(at) };
    }
    if let Some(at) = next.filter(|at| *at <= last) {
        left.push((at, last));
    }
    left
}
