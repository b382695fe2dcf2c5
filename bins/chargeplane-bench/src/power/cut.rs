//! A limit that falls, and a limit that is tight, at a large station: through a node, gateways and leases.

use super::{Args, station};
use crate::report::Report;

/// Fewer cuts than this have no 99th percentile worth the name; the greatest stands for it.
const ENOUGH: usize = 100;

pub fn run(args: &Args, report: &mut Report) -> anyhow::Result<()> {
    let station::Measured { mut cut_ms, use_of_limit } = station::measure(args.cuts, args.seconds)?;
    cut_ms.sort_by(f64::total_cmp);
    let at = ((cut_ms.len() as f64 * 0.99) as usize).min(cut_ms.len().saturating_sub(1));
    match cut_ms.get(at) {
        Some(p99) => report.result("limit_cut_to_commands_ms_p99", *p99),
        None => report.missing("limit_cut_to_commands_ms_p99", "no cut was asked for"),
    }
    let median = cut_ms.get(cut_ms.len() / 2).copied().unwrap_or(f64::NAN);
    let few = if cut_ms.len() < ENOUGH { ", so this is the greatest" } else { "" };
    report.note(
        "limit_cut_to_commands_ms_p99",
        format!(
            "{} cuts by 30 % at 2,000 chargers, from the call to the publication after which all grants in force at the \
             gateways are within the new limit{few}; median {median:.0} ms",
            cut_ms.len()
        ),
    );
    match use_of_limit.iter().map(|(_, used)| *used).min_by(f64::total_cmp) {
        Some(least) => report.result("congested_use_of_limit", least),
        None => report.missing("congested_use_of_limit", "no time was given to it"),
    }
    let each: Vec<String> = use_of_limit.iter().map(|(share, used)| format!("{used:.4} at {share} %")).collect();
    report.note(
        "congested_use_of_limit",
        format!(
            "the least of: {} of the demand; drawn by 2,000 cars that take up to 120 kW, to the limit less base load; a \
             tenth of the cars changes every second; nothing is reserved, since no charger has a fallback",
            each.join(", ")
        ),
    );
    Ok(())
}
