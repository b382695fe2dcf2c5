//! The file of a benchmark, the same shape for all of them.

use crate::machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A result: null, with a note, for what was not measured.
#[derive(Debug, Serialize)]
pub struct Report {
    bench: &'static str,
    commit: String,
    machine: String,
    /// Median of an fdatasync after a write of 4 KiB, in the directory that the benchmark used.
    fdatasync_us: Option<f64>,
    results: BTreeMap<String, Option<f64>>,
    peers: BTreeMap<String, Option<f64>>,
    notes: BTreeMap<String, String>,
}

impl Report {
    /// An empty report; the disk below `dir` is measured.
    pub fn new(bench: &'static str, dir: &Path) -> Self {
        Self {
            bench,
            commit: machine::commit(),
            machine: machine::describe(),
            fdatasync_us: machine::fdatasync_us(dir),
            results: BTreeMap::new(),
            peers: BTreeMap::new(),
            notes: BTreeMap::new(),
        }
    }

    pub fn result(&mut self, name: &str, value: f64) {
        self.results.insert(name.to_owned(), Some(rounded(value)));
    }

    /// True when the run has this result.
    pub fn has(&self, name: &str) -> bool {
        self.results.contains_key(name)
    }

    pub fn peer(&mut self, name: &str, value: f64) {
        self.peers.insert(name.to_owned(), Some(rounded(value)));
    }

    pub fn note(&mut self, name: &str, text: impl Into<String>) {
        self.notes.insert(name.to_owned(), text.into());
    }

    /// A result that this run does not have, and why.
    pub fn missing(&mut self, name: &str, why: &str) {
        self.results.insert(name.to_owned(), None);
        self.note(name, why);
    }

    pub fn finish(&self, json: Option<&Path>) -> anyhow::Result<()> {
        for (name, value) in self.results.iter().chain(&self.peers) {
            let value = value.map_or_else(|| "-".to_owned(), |value| value.to_string());
            println!("{name:<44} {value:>14}");
        }
        for (name, note) in &self.notes {
            println!("note {name}: {note}");
        }
        if let Some(path) = json {
            std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        }
        Ok(())
    }
}

/// Four significant digits say all that a run can.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}
