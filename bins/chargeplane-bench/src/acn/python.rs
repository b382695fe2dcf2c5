//! Asking the other side.

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What acnportal's simulator says of a run.
#[derive(Debug, Clone, Deserialize)]
pub struct Judged {
    pub energy_percent: f64,
    pub peak_kw: f64,
    /// By acnportal's own check of the granted currents.
    pub feasible: bool,
    /// Amperes over the nearest limit, of what cars drew and of what they were granted; below zero: room.
    pub worst_over_a_drawn: f64,
    pub worst_over_a_granted: f64,
    pub seconds: f64,
}

/// The most that could have been delivered.
#[derive(Debug, Clone, Deserialize)]
pub struct Optimum {
    /// From above: limits on magnitudes are polygons around their circles.
    pub energy_percent: f64,
    /// From below: polygons within them.
    #[serde(default)]
    pub lower_bound_percent: Option<f64>,
}

/// `scripts/acn/acn.py` and what it runs on.
pub struct Python<'a> {
    pub program: &'a Path,
    pub script: &'a Path,
    pub sessions: &'a Path,
}

impl Python<'_> {
    /// Runs one question to its end.
    pub fn ask<T: DeserializeOwned>(&self, question: &[&str], input: Option<&serde_json::Value>) -> anyhow::Result<T> {
        let mut command = Command::new(self.program);
        command.arg(self.script).arg(self.sessions).args(question).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            // It reads everything before it writes.
            stdin.write_all(&serde_json::to_vec(input)?)?;
        }
        let output = child.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "{} {question:?} ended with {}", self.script.display(), output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("the answer to {question:?}"))
    }
}
