//! LOAD-1: bursts of more requests than the node takes in, what they and the node's memory looked like from outside;
//! and what the node found on itself, by its metrics over the whole run.

use super::bounds::Bounds;
use super::findings::{Findings, INVARIANTS};
use crate::evidence::Line;
use crate::finish::NodeFigures;

/// Nothing unanswered, no more in hand than stated, memory within its bound; exercised when something was shed.
pub fn judge(node: &NodeFigures, lines: &[Line], bounds: &Bounds, findings: &mut Findings) {
    lines.iter().for_each(|line| judge_burst(line, bounds, findings));
    findings.needs("LOAD-1", shed(lines) > 0, "no request was ever shed");
    let (peak, most) = (node.resident_peak_kib, bounds.max_resident_kib);
    findings.check("LOAD-1", peak <= most, || format!("the node had {peak} KiB resident, its bound is {most} KiB"));
    findings.needs("LOAD-1", peak > 0, "the node's memory was never seen");
    for (lane, (peak, bound)) in &node.lanes {
        findings.check("LOAD-1", peak <= bound, || format!("lane {lane}: {peak} messages, its bound is {bound}"));
    }
    for (invariant, count) in &node.violations {
        let known = INVARIANTS.iter().find(|id| **id == invariant.as_str());
        // A violation of something without a name of its own is laid at the door of the bounds.
        findings.check(known.copied().unwrap_or("LOAD-1"), *count == 0.0, || {
            format!("the node counted {count} violations of {invariant} on itself")
        });
    }
}

fn judge_burst(line: &Line, bounds: &Bounds, findings: &mut Findings) {
    let Line::Burst { sent, done, shed, other, unanswered, in_hand, node_changed: false } = line else {
        return;
    };
    findings.check("LOAD-1", *unanswered == 0, || format!("{unanswered} of {sent} requests at once got no answer"));
    findings.check("LOAD-1", *other == 0 && done + shed + unanswered == *sent, || {
        format!("{sent} requests at once: {done} done, {shed} shed with a problem document, {other} otherwise")
    });
    let most = bounds.max_in_flight;
    findings.check("LOAD-1", *in_hand <= most, || {
        format!("{in_hand} of {sent} requests at once were in hand, the node takes {most}")
    });
}

/// Requests that were shed, and answered so.
pub fn shed(lines: &[Line]) -> u64 {
    let shed = |line: &Line| match line {
        Line::Burst { shed, node_changed: false, .. } => *shed,
        _ => 0,
    };
    lines.iter().map(shed).sum()
}
