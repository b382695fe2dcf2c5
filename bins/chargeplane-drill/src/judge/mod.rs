//! The judges: what the outside saw against what the stores hold, by code that shares nothing with the node.
//!
//! Inputs are files only: the run directory (the bounds of the scenario, the drill's promises, the fleet's
//! evidence, balances, records and telemetry as served, the node's metrics, the copy of a journal that is no file) and the node's SQLite stores.
//! So a run can be judged again, and by another version of the judges.

pub mod bounds;
pub mod chunk;
pub mod findings;
pub mod frame;
pub mod ledger;
pub mod load;
pub mod outside;
pub mod power;
pub mod price;
pub mod promises;
pub mod station;
pub mod store;
pub mod telemetry;
pub mod value;

use crate::evidence;
use crate::finish::{BALANCES, METRICS, NodeFigures, RECORDS, ReadBack, TELEMETRY, amount, read_back};
use crate::fleet;
use bounds::Bounds;
use findings::Findings;
use ledger::{Balance, Ledger};
use serde_json::Value;
use station::StationLog;
use std::collections::BTreeSet;
use std::path::Path;
use telemetry::SampleTotals;

/// Figures that only the judges have.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Debits in the journal.
    pub debits: u64,
    /// Energy drivers paid, Wh.
    pub billed_wh: i128,
    /// Energy operators bore, Wh.
    pub overshoot_wh: i128,
    /// Money drivers paid for energy, 1/10,000.
    pub billed: i128,
    /// Samples.
    pub samples: SampleTotals,
    /// Charge records as served.
    pub records: u64,
    /// Sessions with a record that the fleet never saw, because they never began at a charger.
    pub not_started: u64,
    /// Sum of all balances as served.
    pub ledger_sum: i64,
    /// Violations of limits: readings outside, and what the node counted on itself.
    pub limit_violations: u64,
    /// Top-ups that were acknowledged.
    pub top_ups: u64,
    /// Sessions started over the API.
    pub remote_starts: u64,
    /// Requests of bursts that were shed, and answered so.
    pub requests_shed: u64,
    /// Sessions in which energy flowed beyond the money.
    pub overshot: u64,
}

/// Judges a run.
///
/// # Errors
/// Evidence is missing or cannot be read, so that nothing can be said.
pub fn judge(run_dir: &Path, data_dir: &Path) -> anyhow::Result<(Findings, Tally)> {
    let mut findings = Findings::default();
    let outside = fleet::outside(run_dir)?;
    let lines = evidence::read(run_dir)?;
    let served: Vec<Balance> = read_back(run_dir, BALANCES)?;
    let records: Vec<Value> = read_back(run_dir, RECORDS)?;
    let telemetry: Vec<ReadBack> = read_back(run_dir, TELEMETRY)?;
    let node: NodeFigures = read_back(run_dir, METRICS)?;
    let bounds: Bounds = read_back(run_dir, bounds::FILE)?;

    let mut ledger = Ledger::new(bounds);
    let mut stations = StationLog::default();
    store::walk_journal(&store::journal_of(run_dir, data_dir), &mut findings, |frame, findings| {
        if frame.shard.starts_with("account-") {
            ledger.take(frame, findings);
        } else {
            stations.take(frame, findings);
        }
    })?;
    ledger.judge_transfers(&mut findings);
    ledger.compare_balances(&served, &mut findings);
    let ledger_sum = judge_sums(&served, &mut findings);
    promises::judge(&lines, &ledger, &stations, &mut findings);
    let remote = promises::remote_payers(&lines);
    stations.judge_sessions(&outside.sessions, &remote, &ledger, &mut findings);
    stations.judge_commands(&outside.commands, &mut findings);
    judge_served_records(&records, &stations, &mut findings);
    power::judge(&outside, &mut findings);
    load::judge(&node, &lines, &bounds, &mut findings);
    let samples =
        store::judge_telemetry(&store::telemetry_of(run_dir, data_dir)?, &outside, &telemetry, &mut findings)?;

    let settled = || ledger.sessions.values().filter_map(|session| session.settled);
    let overshot = settled().filter(|settled| settled.overshoot > 0).count() as u64;
    findings.needs("MONEY-4", overshot > 0, "no energy flowed beyond the money of a session");
    let own_power = node.violations.get("POWER-1").copied().unwrap_or(0.0) as u64;
    let outside_power: u64 = outside.load.iter().map(|second| second.violations + second.over_granted).sum();
    let count = |p: fn(&evidence::Line) -> bool| lines.iter().filter(|line| p(line)).count() as u64;
    let tally = Tally {
        debits: ledger.debits,
        billed_wh: settled().map(|s| s.billed_wh).sum(),
        overshoot_wh: settled().map(|s| s.overshoot_wh).sum(),
        billed: settled().map(|s| s.billed).sum(),
        samples,
        records: records.len() as u64,
        not_started: stations.not_started(&outside.sessions),
        ledger_sum,
        limit_violations: outside_power + own_power,
        top_ups: count(|line| matches!(line, evidence::Line::TopUp { .. })),
        remote_starts: count(|line| matches!(line, evidence::Line::Start { session: Some(_), .. })),
        requests_shed: load::shed(&lines),
        overshot,
    };
    Ok((findings, tally))
}

/// Sum of the balances as served, per currency: zero each (MONEY-1). Returns the sum over all.
fn judge_sums(served: &[Balance], findings: &mut Findings) -> i64 {
    let currencies: BTreeSet<&str> = served.iter().map(|balance| balance.currency.as_str()).collect();
    for currency in currencies {
        let of = served.iter().filter(|balance| balance.currency == currency);
        let sum: i128 = of.map(|balance| i128::from(balance.balance)).sum();
        findings.check("MONEY-1", sum == 0, || format!("balances in {currency} as served sum to {sum}"));
    }
    served.iter().map(|balance| balance.balance).sum()
}

/// Records as served are the ones of the journal, each once.
fn judge_served_records(records: &[Value], stations: &StationLog, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for record in records {
        let number = |name: &str| record.get(name).and_then(Value::as_i64);
        let money = |name: &str| record.get(name).and_then(Value::as_str).and_then(amount);
        let id = record.get("session").and_then(Value::as_str).unwrap_or("");
        findings.check("SESS-1", seen.insert(id), || format!("{id}: two records are served"));
        let own = stations.records.get(id);
        let fits = own.is_some_and(|own| {
            number("energy_wh") == Some(own.energy)
                && number("billed_wh") == Some(own.billed_wh)
                && number("overshoot_wh") == Some(own.overshoot_wh)
                && money("billed") == Some(own.billed)
                && money("overshoot") == Some(own.overshoot)
                && money("fees_amount") == Some(own.fees)
                && number("charging_ms") == Some(own.charging_ms)
                && number("idle_ms") == Some(own.idle_ms)
        });
        findings.check("MONEY-3", fits, || format!("{id}: served {record}, the journal has {own:?}"));
    }
    for id in stations.records.keys().filter(|id| !seen.contains(id.as_str())) {
        findings.violated("SESS-1", format!("{id}: the journal has its record, none is served"));
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
