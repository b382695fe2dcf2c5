//! What the drill itself was told by the API: one JSON object a line, written as it happens.
//!
//! `promises.jsonl` holds what the node acknowledged and how it answered repeats, conflicts and bursts. The
//! judge reads this file, not the memory of the run, so that a run can be judged again later.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Name of the file within a run directory.
pub const FILE: &str = "promises.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// An account was opened.
    Opened {
        /// The account.
        account: String,
        /// The request's key.
        key: String,
    },
    /// A top-up was acknowledged.
    TopUp {
        /// The request's key.
        key: String,
        /// The account.
        account: String,
        /// 1/10,000 of the currency unit.
        amount: i64,
        /// The answer's body.
        answer: Value,
    },
    /// A top-up was repeated with the same key and content.
    Repeat {
        /// The key.
        key: String,
        /// The body of the first answer.
        first: Value,
        /// Status of the repeat's answer.
        status: u16,
        /// Its body.
        again: Value,
    },
    /// A key was used again with another content.
    Conflict {
        /// The key.
        key: String,
        /// Status of the answer; must be a refusal.
        status: u16,
        /// The problem, shortened.
        problem: String,
    },
    /// A remote start was asked for.
    Start {
        /// The key.
        key: String,
        /// The charger.
        charger: String,
        /// Who pays.
        account: String,
        /// Status of the answer.
        status: u16,
        /// The session, when it was accepted.
        session: Option<String>,
    },
    /// A remote start was repeated with the same key and content.
    StartRepeat {
        /// The key.
        key: String,
        /// The session of the first answer.
        session: String,
        /// Status of the repeat's answer.
        status: u16,
        /// The session of the repeat's answer.
        again: Option<String>,
    },
    /// A remote stop was asked for.
    Stop {
        /// The key.
        key: String,
        /// The session.
        session: String,
        /// Status of the answer.
        status: u16,
    },
    /// Many keyed top-ups at once, whose clients hold them open until as many are in hand as the node takes. What
    /// was done is there as a [`Line::TopUp`] as well.
    Burst {
        /// Requests sent.
        sent: u64,
        /// Answered with success.
        done: u64,
        /// Answered 429 or 503 with a problem document that has a code.
        shed: u64,
        /// Answered otherwise.
        other: u64,
        /// Not answered at all.
        unanswered: u64,
        /// Without any answer when their clients let go: in hand all at once.
        in_hand: u64,
        /// The node was another process after than before: the burst judges nothing.
        node_changed: bool,
    },
}

/// Appends lines to the file; shared by the drill's threads.
pub struct Writer(Mutex<File>);

impl Writer {
    /// Opens the file in a run directory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(run_dir: &Path) -> std::io::Result<Self> {
        Ok(Self(Mutex::new(File::create(run_dir.join(FILE))?)))
    }

    /// Writes a line. Evidence that cannot be written must not pass for none, so this stops the program.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn write(&self, line: &Line) {
        let mut text = serde_json::to_string(line).expect("evidence is plain JSON");
        text.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).expect("the run directory can be written");
    }
}

/// Reads all lines of a run.
///
/// # Errors
/// The file cannot be read, or a line is not one of ours.
pub fn read(run_dir: &Path) -> anyhow::Result<Vec<Line>> {
    read_lines(&run_dir.join(FILE))
}

/// Reads a file of JSON lines.
///
/// # Errors
/// The file cannot be read, or a line is not of that type; the message names file and line.
pub fn read_lines<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let mut lines = Vec::new();
    each_line(path, |line| {
        lines.push(line);
        Ok(())
    })?;
    Ok(lines)
}

/// Hands every line of a file of JSON lines to `each`, without keeping them.
///
/// # Errors
/// As [`read_lines`], or what `each` returns.
pub fn each_line<T: serde::de::DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    use anyhow::Context;
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (index, line) in BufReader::with_capacity(1 << 18, file).lines().enumerate() {
        let line = line?;
        if !line.is_empty() {
            let at = || format!("{}, line {}", path.display(), index + 1);
            each(serde_json::from_str(&line).with_context(at)?).with_context(at)?;
        }
    }
    Ok(())
}
