//! LOAD-1, and what the node found on itself: its metrics over the whole run.

use super::findings::{Findings, INVARIANTS};
use crate::finish::NodeFigures;

/// Queues within their bounds; something was shed or waited; no violation the node counted on itself.
pub fn judge(node: &NodeFigures, shed_answered: u64, findings: &mut Findings) {
    for (lane, (peak, bound)) in &node.lanes {
        findings.check("LOAD-1", peak <= bound, || format!("lane {lane}: {peak} messages, its bound is {bound}"));
    }
    let used = node.lanes.values().any(|(peak, _)| *peak > 0.0);
    findings.check("LOAD-1", !node.lanes.is_empty() && (used || shed_answered > 0), || {
        "no queue was ever used and nothing was shed: nothing was exercised".to_owned()
    });
    for (invariant, count) in &node.violations {
        let known = INVARIANTS.iter().find(|id| **id == invariant.as_str());
        // A violation of something without a name of its own is laid at the door of the bounds.
        findings.check(known.copied().unwrap_or("LOAD-1"), *count == 0.0, || {
            format!("the node counted {count} violations of {invariant} on itself")
        });
    }
}
