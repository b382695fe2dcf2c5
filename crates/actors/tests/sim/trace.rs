//! What happened in a run, in order: a hash by which two runs of one seed are compared, the last events for whoever
//! must look at a failing one, and how often everything was exercised.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// Events shown of a failing run.
const SHOWN: usize = 80;

/// How often each fault and each check happened, by name.
pub type Counts = BTreeMap<&'static str, u64>;

type Event = (u64, &'static str, [u64; 4]);

#[derive(Default)]
pub struct Trace {
    hash: u64,
    last: VecDeque<Event>,
    pub counts: Counts,
}

impl Trace {
    /// An event at a virtual time in milliseconds.
    pub fn event(&mut self, at_ms: u64, what: &'static str, numbers: [u64; 4]) {
        let mut mix = |value: u64| {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        };
        mix(at_ms);
        what.bytes().for_each(|byte| mix(byte.into()));
        numbers.into_iter().for_each(&mut mix);
        if self.last.len() == SHOWN {
            self.last.pop_front();
        }
        self.last.push_back((at_ms, what, numbers));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn tail(&self) -> String {
        let mut text = String::new();
        for (at, what, [a, b, c, d]) in &self.last {
            let _ = writeln!(text, "  {:>8.3} s  {what} {a} {b} {c} {d}", *at as f64 / 1_000.0);
        }
        text
    }
}
