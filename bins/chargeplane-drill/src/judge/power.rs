//! POWER-1 and POWER-2, by what flowed at the station: the fleet's readings, every 100 ms, against the limits.

use super::findings::Findings;
use super::outside::{LoadSecond, Outside};

/// Judges all seconds.
pub fn judge(outside: &Outside, findings: &mut Findings) {
    for second in &outside.load {
        judge_limits(second, outside, findings);
    }
    for cut in &outside.cuts {
        for second in outside.load.iter().filter(|row| (cut.from..cut.until).contains(&row.second)) {
            for (node, fallback) in &cut.nodes {
                let load = second.nodes.get(node).copied().unwrap_or(0);
                // Where nothing is drawn, nothing is exercised.
                if load > 0 {
                    findings.check("POWER-2", load <= *fallback, || {
                        format!("second {}: {node} draws {load} W, its fallbacks are {fallback} W", second.second)
                    });
                }
            }
        }
    }
}

fn judge_limits(second: &LoadSecond, outside: &Outside, findings: &mut Findings) {
    for (node, load) in &second.nodes {
        match outside.limits.get(node) {
            Some(limit) if load <= limit => findings.held("POWER-1", second.steps),
            Some(limit) => findings.violated(
                "POWER-1",
                format!("second {}: {node} draws {load} W, its limit is {limit} W", second.second),
            ),
            None => findings.violated("POWER-1", format!("second {}: {node} has no limit", second.second)),
        }
    }
    findings.check("POWER-1", second.violations == 0, || {
        format!("second {}: {} readings above a limit", second.second, second.violations)
    });
}
