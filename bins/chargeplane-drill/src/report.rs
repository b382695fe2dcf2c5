//! The report: what was measured and judged, as JSON and as a table. Sources of the fields are documented in
//! `docs/reference/demo-report.md`.

use crate::judge::findings::{Findings, Outcome};
use crate::live::grouped;
use crate::metrics::Quantiles;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Everything a run ends with. Energies in Wh, powers in W, money in 1/10,000 of the currency unit, times in ms
/// unless the name says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// `passed` or `failed`.
    pub verdict: &'static str,
    /// The scenario.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// The store of the node's journal.
    pub journal: String,
    /// The store of the node's telemetry.
    pub telemetry: String,
    /// What an acknowledgement of it stands on, as the node says.
    pub journal_durability: String,
    /// Commit of the program, as it says itself.
    pub commit: String,
    /// Length of the load in seconds.
    pub seconds: u32,
    /// Most chargers with an open session at one instant.
    pub chargers_online: u64,
    /// Most chargers whose gateway was connected at once.
    pub chargers_connected: u64,
    /// Sessions the fleet started.
    pub sessions_started: u64,
    /// Sessions that ended because the car had enough or its driver left, before the load ended.
    pub sessions_completed: u64,
    /// Sessions that ended for lack of money.
    pub sessions_cut_for_funds: u64,
    /// Sessions that ended by a charger's fault.
    pub sessions_faulted: u64,
    /// Sessions that were stopped over the API.
    pub sessions_stopped_remotely: u64,
    /// Sessions that ended otherwise, such as by the node's order because it did not want them.
    pub sessions_ended_otherwise: u64,
    /// Sessions that were still open when the load ended and were closed then.
    pub sessions_closed_at_end: u64,
    /// Sessions started over the API.
    pub sessions_remote: u64,
    /// Energy by the chargers' registers.
    pub energy_wh_metered: i64,
    /// Energy drivers paid, from the journal.
    pub energy_wh_billed: i64,
    /// Energy operators bore, from the journal.
    pub energy_wh_overshoot: i64,
    /// Money taken from drivers, from the journal.
    pub billed_money: i64,
    /// Debits in the journal.
    pub debits: u64,
    /// Top-ups acknowledged by the API.
    pub top_ups: u64,
    /// Sum of all balances as served, credit side included.
    pub ledger_sum: i64,
    /// Charge records as served.
    pub charge_records: u64,
    /// Of them, those of sessions that never began at a charger.
    pub sessions_not_started: u64,
    /// Samples that gateways numbered.
    pub samples_sent: u64,
    /// Samples found in the store, each number once.
    pub samples_stored: u64,
    /// Samples in declared gaps.
    pub samples_gap: u64,
    /// Limit of the grid connection.
    pub grid_limit_w: i64,
    /// Highest uncapped demand.
    pub peak_demand_w: i64,
    /// Highest load at the grid connection.
    pub peak_load_w: i64,
    /// Seconds in which uncapped demand was at least 1.5 times the limit throughout.
    pub limit_bound_seconds: u64,
    /// Readings above the limit of their node, plus violations the node counted on itself.
    pub limit_violations: u64,
    /// Station ticks with sessions.
    pub ticks: u64,
    /// Ticks answered by HiGHS.
    pub highs_solves: u64,
    /// Ticks answered by water-filling instead.
    pub solver_fallbacks: u64,
    /// Duration of a tick.
    pub tick_ms: Quantiles,
    /// Duration of a solve.
    pub solve_ms: Quantiles,
    /// Telemetry: from publishing to acknowledgement.
    pub ack_ms: Quantiles,
    /// Events: from publishing to acknowledgement.
    pub event_ack_ms: Quantiles,
    /// Times another process took over the node.
    pub node_restarts: u64,
    /// Times the node was stopped (SIGTERM) during the load and ended with exit code 0.
    pub node_stops: u64,
    /// Most memory that any of the node's processes had resident, KiB.
    pub node_resident_peak_kib: u64,
    /// Requests of the bursts that were shed, and answered so.
    pub requests_shed: u64,
    /// Sessions in which energy flowed beyond the money.
    pub sessions_overshot: u64,
    /// How the node ended.
    pub node_drain: String,
    /// How the fleet ended: its exit code, or what it said.
    pub fleet_exit: String,
    /// Per invariant: exercised and held.
    pub invariants: BTreeMap<&'static str, bool>,
    /// Per invariant: times checked.
    pub invariant_checks: BTreeMap<&'static str, u64>,
    /// The first violations in words, by invariant.
    pub differences: BTreeMap<&'static str, Vec<String>>,
    /// What failed beside the invariants.
    pub failures: Vec<String>,
}

impl Report {
    /// Sums that the rows above claim and that are not so, in words.
    pub fn wrong_sums(&self) -> Vec<String> {
        let ends: u64 = self.ends().iter().map(|(_, count)| count).sum();
        let energy = i128::from(self.energy_wh_billed) + i128::from(self.energy_wh_overshoot);
        let records = self.sessions_started.saturating_add(self.sessions_not_started);
        let sums = [
            (
                ends == self.sessions_started,
                format!("{} sessions started at the chargers, {ends} ended there", self.sessions_started),
            ),
            (
                records == self.charge_records,
                format!("{} charge records, {records} sessions started or never began", self.charge_records),
            ),
            (
                energy == i128::from(self.energy_wh_metered),
                format!("{} Wh metered, {energy} Wh billed and overshoot", self.energy_wh_metered),
            ),
        ];
        sums.into_iter().filter(|(right, _)| !right).map(|(_, words)| words).collect()
    }

    /// How sessions ended at the chargers: every one of them in one of these ways.
    fn ends(&self) -> [(&'static str, u64); 6] {
        [
            ("completed", self.sessions_completed),
            ("cut for funds", self.sessions_cut_for_funds),
            ("faulted", self.sessions_faulted),
            ("stopped over the API", self.sessions_stopped_remotely),
            ("ended otherwise", self.sessions_ended_otherwise),
            ("closed at the end", self.sessions_closed_at_end),
        ]
    }

    /// Fills in what was judged and settles the verdict.
    pub fn conclude(&mut self, findings: &Findings) {
        for (id, outcome) in findings.all() {
            self.invariants.insert(id, outcome.holds());
            self.invariant_checks.insert(id, outcome.checks);
            let missing = outcome.missing.iter().map(|part| format!("not exercised: {part}"));
            let words: Vec<String> = outcome.first.iter().cloned().chain(missing).collect();
            if !words.is_empty() {
                self.differences.insert(id, words);
            }
        }
        self.verdict = if findings.all_hold() && self.failures.is_empty() { "passed" } else { "failed" };
    }

    /// True when the run passed.
    pub fn passed(&self) -> bool {
        self.verdict == "passed"
    }

    /// The report for people.
    pub fn table(&self, findings: &Findings) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<34}{value}");
        };
        self.figures(&mut row);
        let _ = writeln!(text, "\n  {:<10}{:>14}{:>12}   result", "invariant", "checks", "violations");
        for (id, Outcome { checks, violations, .. }) in findings.all() {
            let word = findings.of(id).word();
            let _ = writeln!(text, "  {id:<10}{:>14}{:>12}   {word}", unsigned(*checks), unsigned(*violations));
        }
        for (id, outcome) in findings.all() {
            for part in &outcome.missing {
                let _ = writeln!(text, "  {id}: not exercised: {part}");
            }
            for difference in outcome.first.iter().take(5) {
                let _ = writeln!(text, "  {id}: {difference}");
            }
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  failed: {failure}");
        }
        let _ = writeln!(text, "\n  {}", self.verdict);
        text
    }

    fn figures(&self, row: &mut impl FnMut(&str, String)) {
        row(
            "chargers on at once, connected",
            format!("{}, {}", unsigned(self.chargers_online), unsigned(self.chargers_connected)),
        );
        row("sessions started", unsigned(self.sessions_started));
        for (name, count) in self.ends() {
            row(&format!("  {name}"), unsigned(count));
        }
        let records = [self.charge_records, self.sessions_started, self.sessions_not_started].map(unsigned);
        row("records = started + not started", format!("{} = {} + {}", records[0], records[1], records[2]));
        let energy = (self.energy_wh_metered, self.energy_wh_billed, self.energy_wh_overshoot);
        row(
            "metered = billed + overshoot, Wh",
            format!("{} = {} + {}", grouped(energy.0), grouped(energy.1), grouped(energy.2)),
        );
        row("debits, top-ups", format!("{}, {}", unsigned(self.debits), unsigned(self.top_ups)));
        row("sum of all balances", grouped(self.ledger_sum));
        let samples = [self.samples_sent, self.samples_stored, self.samples_gap].map(unsigned);
        row("samples sent = stored + gaps", format!("{} = {} + {}", samples[0], samples[1], samples[2]));
        let kw = [self.peak_demand_w, self.peak_load_w, self.grid_limit_w].map(|watts| grouped(watts / 1000));
        row("peak demand, peak load, limit, kW", kw.join(", "));
        row("limit bound, s; violations", format!("{}; {}", self.limit_bound_seconds, self.limit_violations));
        let ticks = [self.ticks, self.highs_solves, self.solver_fallbacks].map(unsigned);
        row("ticks, by HiGHS, by water-filling", ticks.join(", "));
        let times = [
            ("tick", self.tick_ms),
            ("solve", self.solve_ms),
            ("telemetry acknowledged after", self.ack_ms),
            ("events acknowledged after", self.event_ack_ms),
        ];
        for (name, q) in times {
            row(&format!("{name}, ms"), format!("p50 {:.1}, p99 {:.1}, max {:.1}", q.p50, q.p99, q.max));
        }
        let shed = format!("{}; {}", unsigned(self.requests_shed), unsigned(self.node_resident_peak_kib / 1024));
        row("requests shed; peak memory, MiB", shed);
        row("node restarts; its end", format!("{}; {}", self.node_restarts, self.node_drain));
        row("journal", format!("{}: {}", self.journal, self.journal_durability));
        row("telemetry", self.telemetry.clone());
    }
}

fn unsigned(value: u64) -> String {
    grouped(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::findings::INVARIANTS;

    fn all_held() -> Findings {
        let mut findings = Findings::default();
        INVARIANTS.iter().for_each(|id| findings.held(id, 1));
        findings
    }

    #[test]
    fn an_invariant_that_was_never_exercised_fails_the_run() {
        let mut report = Report::default();
        report.conclude(&all_held());
        assert!(report.passed());
        let mut findings = Findings::default();
        INVARIANTS[1..].iter().for_each(|id| findings.held(id, 1));
        report.conclude(&findings);
        assert!(!report.passed() && !report.invariants["MONEY-1"]);
        assert!(report.table(&findings).contains("NOT EXERCISED"));
    }

    #[test]
    fn sessions_and_records_add_up_or_the_report_says_so() {
        let mut report = Report {
            sessions_started: 4_123,
            sessions_completed: 3_000,
            sessions_cut_for_funds: 36,
            sessions_faulted: 36,
            sessions_stopped_remotely: 15,
            sessions_ended_otherwise: 1,
            sessions_closed_at_end: 1_035,
            charge_records: 4_132,
            sessions_not_started: 9,
            energy_wh_metered: 10,
            energy_wh_billed: 7,
            energy_wh_overshoot: 3,
            ..Report::default()
        };
        assert_eq!(report.wrong_sums(), Vec::<String>::new());
        let table = report.table(&all_held());
        assert!(table.contains("4,132 = 4,123 + 9"), "{table}");
        assert!(table.lines().any(|line| line.contains("stopped over the API") && line.ends_with("15")), "{table}");
        report.sessions_stopped_remotely = 0;
        report.charge_records = 4_131;
        report.energy_wh_billed = 8;
        let wrong = report.wrong_sums();
        assert!(wrong.len() == 3 && wrong[0].contains("4108 ended"), "{wrong:?}");
    }

    #[test]
    fn a_violation_is_told_in_words() {
        let mut findings = all_held();
        findings.violated("DATA-1", "main/c-1: number 7 is missing".into());
        let mut report = Report::default();
        report.conclude(&findings);
        assert_eq!(report.verdict, "failed");
        assert!(report.table(&findings).contains("number 7 is missing"));
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let mut report = Report::default();
        report.conclude(&all_held());
        let json = serde_json::to_value(&report).unwrap();
        for name in "chargers_online sessions_started sessions_completed sessions_cut_for_funds sessions_faulted \
            sessions_stopped_remotely sessions_ended_otherwise sessions_closed_at_end sessions_not_started \
            energy_wh_metered energy_wh_billed energy_wh_overshoot debits ledger_sum charge_records samples_sent \
            samples_stored samples_gap grid_limit_w peak_demand_w peak_load_w limit_bound_seconds limit_violations \
            ticks highs_solves solver_fallbacks tick_ms solve_ms ack_ms event_ack_ms node_restarts invariants \
            invariant_checks seconds journal journal_durability telemetry"
            .split_whitespace()
        {
            assert!(json.get(name).is_some(), "{name}");
        }
        for quantiles in ["tick_ms", "solve_ms", "ack_ms", "event_ack_ms"] {
            assert!(["p50", "p99", "max"].iter().all(|q| json[quantiles].get(q).is_some()));
        }
    }
}
