//! What the judges found: per invariant, how often it was checked, how often it did not hold, and where first.

use serde::Serialize;
use std::collections::BTreeMap;

/// The invariants of DESIGN.md section 10 that a run judges, in reading order.
pub const INVARIANTS: [&str; 11] =
    ["MONEY-1", "MONEY-2", "MONEY-3", "MONEY-4", "OWN-1", "POWER-1", "POWER-2", "DATA-1", "CMD-1", "SESS-1", "LOAD-1"];

/// Differences kept a invariant; the rest is counted.
const KEPT: usize = 20;

/// How one invariant fared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Times it was checked where it could have failed.
    pub checks: u64,
    /// Times it did not hold.
    pub violations: u64,
    /// The first violations in words.
    pub first: Vec<String>,
    /// Parts of it that nothing in the run put to the test, in words.
    pub missing: Vec<String>,
}

impl Outcome {
    /// It was exercised and always held.
    pub fn holds(&self) -> bool {
        self.checks > 0 && self.violations == 0 && self.missing.is_empty()
    }

    /// `OK`, `FAILED` or `NOT EXERCISED`.
    pub fn word(&self) -> &'static str {
        match (self.violations, self.checks) {
            (0, 0) => "NOT EXERCISED",
            (0, _) if !self.missing.is_empty() => "NOT EXERCISED",
            (0, _) => "OK",
            _ => "FAILED",
        }
    }
}

/// All invariants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    outcomes: BTreeMap<&'static str, Outcome>,
}

impl Default for Findings {
    fn default() -> Self {
        Self { outcomes: INVARIANTS.iter().map(|id| (*id, Outcome::default())).collect() }
    }
}

impl Findings {
    /// Counts one check; when it does not hold, `what` says where and how.
    pub fn check(&mut self, id: &'static str, holds: bool, what: impl FnOnce() -> String) {
        let outcome = self.outcomes.entry(id).or_default();
        outcome.checks += 1;
        if !holds {
            outcome.violations += 1;
            if outcome.first.len() < KEPT {
                outcome.first.push(what());
            }
        }
    }

    /// Counts `n` checks that held, where counting them one by one would only cost time.
    pub fn held(&mut self, id: &'static str, n: u64) {
        self.outcomes.entry(id).or_default().checks += n;
    }

    /// A part of an invariant that must have been put to the test: without it, the rest does not count either.
    pub fn needs(&mut self, id: &'static str, exercised: bool, part: &str) {
        if !exercised {
            self.outcomes.entry(id).or_default().missing.push(part.to_owned());
        }
    }

    /// A violation outside any counted check, such as evidence that cannot be read.
    pub fn violated(&mut self, id: &'static str, what: String) {
        self.check(id, false, || what);
    }

    /// One invariant.
    pub fn of(&self, id: &str) -> Outcome {
        self.outcomes.get(id).cloned().unwrap_or_default()
    }

    /// All, in reading order.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Outcome)> {
        INVARIANTS.iter().filter_map(|id| Some((*id, self.outcomes.get(id)?)))
    }

    /// True when every invariant was exercised and held.
    pub fn all_hold(&self) -> bool {
        self.all().all(|(_, outcome)| outcome.holds())
    }
}
