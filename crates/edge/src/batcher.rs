//! What waits to be sealed: samples and declared losses of one stream, under the batch policy.

use crate::config::BatchPolicy;
use crate::effect::Span;
use chargeplane_domain::sample::{Gap, Sample};
use chargeplane_domain::units::Mono;
use chargeplane_protocol::message::SampleRun;
use std::collections::{BTreeMap, VecDeque};

/// The contents of one batch of samples.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contents {
    pub runs: Vec<SampleRun>,
    pub gaps: Vec<(u16, Gap)>,
}

impl Contents {
    /// The samples, as spans.
    pub fn spans(&self) -> Vec<Span> {
        let span = |run: &SampleRun| Span {
            child: run.child,
            first: run.first_number,
            last: run.first_number.saturating_add(run.samples.len() as u64).saturating_sub(1),
        };
        self.runs.iter().map(span).collect()
    }
}

/// Samples and gaps in the order they came, each with the time it came.
#[derive(Debug, Default)]
pub(crate) struct Batcher {
    samples: VecDeque<(Mono, u16, u64, Sample)>,
    /// How many samples of each charger wait.
    waiting: BTreeMap<u16, usize>,
    gaps: VecDeque<(u16, Gap)>,
    first_gap: Option<Mono>,
}

impl Batcher {
    /// A sample came.
    pub fn push_sample(&mut self, now: Mono, child: u16, number: u64, sample: Sample) {
        self.samples.push_back((now, child, number, sample));
        *self.waiting.entry(child).or_default() += 1;
    }

    /// True when a sample of this charger waits here.
    pub fn holds(&self, child: u16) -> bool {
        self.waiting.contains_key(&child)
    }

    /// A loss is to be declared. Neighbours of one charger and reason become one gap.
    pub fn push_gap(&mut self, now: Mono, child: u16, gap: Gap) {
        self.first_gap.get_or_insert(now);
        let neighbour = self.gaps.iter_mut().find(|(other, waiting)| {
            *other == child
                && waiting.reason == gap.reason
                && gap.first <= waiting.last.saturating_add(1)
                && waiting.first <= gap.last.saturating_add(1)
        });
        match neighbour {
            Some((_, waiting)) => {
                waiting.first = waiting.first.min(gap.first);
                waiting.last = waiting.last.max(gap.last);
            }
            None => self.gaps.push_back((child, gap)),
        }
    }

    /// True when a batch must leave now.
    pub fn is_due(&self, now: Mono, policy: &BatchPolicy) -> bool {
        self.len() >= policy.max_items || self.deadline(policy).is_some_and(|deadline| deadline <= now)
    }

    /// When the first item that waits must leave, whether or not others come.
    pub fn deadline(&self, policy: &BatchPolicy) -> Option<Mono> {
        let first_sample = self.samples.front().map(|(at, ..)| *at);
        let first = match (first_sample, self.first_gap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        first.map(|at| at.plus_ms(policy.max_age_ms))
    }

    /// Takes one batch: gaps first, then samples, at most `max_items` together. `None` when nothing waits.
    pub fn take(&mut self, policy: &BatchPolicy) -> Option<Contents> {
        if self.len() == 0 {
            return None;
        }
        let room = policy.max_items.max(1);
        let gaps: Vec<_> = self.gaps.drain(..self.gaps.len().min(room)).collect();
        if self.gaps.is_empty() {
            self.first_gap = None;
        }
        let mut contents = Contents { runs: Vec::new(), gaps };
        let mut open: BTreeMap<u16, usize> = BTreeMap::new();
        let count = self.samples.len().min(room - contents.gaps.len());
        for (_, child, number, sample) in self.samples.drain(..count) {
            if let Some(waiting) = self.waiting.get_mut(&child) {
                *waiting -= 1;
                if *waiting == 0 {
                    self.waiting.remove(&child);
                }
            }
            let runs = &mut contents.runs;
            let current = open.get(&child).and_then(|at| runs.get_mut(*at));
            match current {
                Some(run) if run.first_number.saturating_add(run.samples.len() as u64) == number => {
                    run.samples.push(sample);
                }
                _ => {
                    open.insert(child, runs.len());
                    runs.push(SampleRun { child, first_number: number, samples: vec![sample] });
                }
            }
        }
        Some(contents)
    }

    /// True when no loss waits to be declared.
    pub fn gaps_are_out(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Items that wait.
    pub fn len(&self) -> usize {
        self.samples.len() + self.gaps.len()
    }
}

#[cfg(test)]
mod tests;
