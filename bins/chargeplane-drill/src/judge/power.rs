//! POWER-1 and POWER-2, by what flowed at the station and by what could have flowed: the fleet's readings, every
//! 100 ms, against the limits. What could have flowed is the sum of the limits in force at the chargers, grants and
//! fallbacks: cars that take less than they are granted would hide that too much was granted.

use super::findings::Findings;
use super::outside::{LoadSecond, Outside};

/// Judges all seconds.
pub fn judge(outside: &Outside, findings: &mut Findings) {
    for second in &outside.load {
        judge_limits(second, outside, findings);
    }
    let granted = outside.load.iter().flat_map(|second| second.granted.values()).any(|watts| *watts > 0);
    findings.needs("POWER-1", granted, "no grant was ever in force");
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
    let drawn = second.nodes.iter().map(|(node, watts)| (node, watts, "draws"));
    let granted = second.granted.iter().map(|(node, watts)| (node, watts, "may draw"));
    for (node, watts, what) in drawn.chain(granted) {
        match outside.limits.get(node) {
            Some(limit) if watts <= limit => findings.held("POWER-1", second.steps),
            Some(limit) => findings.violated(
                "POWER-1",
                format!("second {}: {node} {what} {watts} W, its limit is {limit} W", second.second),
            ),
            None => findings.violated("POWER-1", format!("second {}: {node} has no limit", second.second)),
        }
    }
    findings.check("POWER-1", second.over_granted == 0, || {
        format!("second {}: {} readings in which more than a limit was granted", second.second, second.over_granted)
    });
    findings.check("POWER-1", second.violations == 0, || {
        format!("second {}: {} readings above a limit", second.second, second.violations)
    });
}
