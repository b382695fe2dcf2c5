//! What gateways were promised: the acknowledgements as somebody outside the node wrote them down.
//!
//! A line a gateway, as the simulated fleet (`fleet/gateways.jsonl` of a run) and the benchmarks write them:
//!
//! ```text
//! {"gateway": "main/g1", "incarnation": 1, "chargers": [{"charger": "main/c1", "acked": [[0, 299], [310, 400]]}]}
//! ```
//!
//! `acked` has first and last numbers; without `incarnation` the newest enrolment that is stored is meant. Other fields
//! are passed over.

use crate::exit::Failure;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Numbers of one charger that were acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) incarnation: Option<u32>,
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Promise {
    pub(super) fn numbers(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// Everything that was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    promises: BTreeMap<String, Vec<Promise>>,
}

impl Evidence {
    /// Reads a file.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let fail = |what: String| Failure::usage(format!("{}: {what}", path.display()));
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|e| fail(e.to_string()))?;
            if !line.trim().is_empty() {
                self.take(&line).map_err(|what| fail(format!("line {}: {what}", number + 1)))?;
            }
        }
        Ok(())
    }

    /// Takes a line.
    pub(super) fn take(&mut self, line: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let incarnation = value["incarnation"].as_u64().and_then(|number| u32::try_from(number).ok());
        for charger in value["chargers"].as_array().ok_or("no `chargers`")? {
            let name = charger["charger"].as_str().ok_or("a charger without `charger`")?;
            let name = if name.contains('/') { name.to_owned() } else { format!("main/{name}") };
            for span in charger["acked"].as_array().ok_or("a charger without `acked`")? {
                let (first, last) = (span[0].as_u64(), span[1].as_u64());
                let (Some(first), Some(last)) = (first, last) else { return Err(format!("{name}: {span}")) };
                if last < first {
                    return Err(format!("{name}: {span} ends before it begins"));
                }
                self.promises.entry(name.clone()).or_default().push(Promise { incarnation, first, last });
            }
        }
        Ok(())
    }

    /// Whom anything was promised of.
    pub(super) fn chargers(&self) -> BTreeSet<String> {
        self.promises.keys().cloned().collect()
    }

    /// What was promised of a charger.
    pub(super) fn of(&self, charger: &str) -> &[Promise] {
        self.promises.get(charger).map_or(&[], Vec::as_slice)
    }
}
