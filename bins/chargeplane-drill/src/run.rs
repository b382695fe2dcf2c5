//! A run from beginning to end, and judging one again.

use crate::cli::RunArgs;
use crate::finish::{self, Finished, METRICS, NodeFigures};
use crate::fleet::{self, Figures};
use crate::journal::{Backend, TelemetryBackend};
use crate::judge::{self, Tally, findings::Findings};
use crate::node::DrainOutcome;
use crate::report::Report;
use crate::setup::{self, Setup};
use crate::watch::{self, Fleet, Watched};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What judging again needs to know beyond the evidence: `run.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RunFacts {
    data_dir: PathBuf,
    scenario: String,
    seed: u64,
    seconds: u32,
    commit: String,
    online_peak: u64,
    restarts: u64,
    #[serde(default)]
    stops: u64,
    node_drain: String,
    fleet_exit: String,
    failures: Vec<String>,
    #[serde(default)]
    journal: Backend,
    /// The store of the telemetry.
    #[serde(default)]
    telemetry: TelemetryBackend,
    #[serde(default)]
    journal_durability: String,
}

const RUN_FACTS: &str = "run.json";

/// Runs a scenario and judges it. True when every invariant held and was exercised.
///
/// # Errors
/// The scenario or the machine does not allow a run.
pub fn run(args: &RunArgs) -> anyhow::Result<bool> {
    watch::watch_signals()?;
    let setup = setup::set_up(args)?;
    let result = drive(&setup, args);
    if result.is_err() {
        setup.traffic.stop();
        setup.node.end();
    }
    result
}

fn drive(setup: &Setup, args: &RunArgs) -> anyhow::Result<bool> {
    let fleet = Fleet::start(&setup.dir, args.keep)?;
    println!("fleet pid      {}", fleet.pid());
    let mut watched = std::thread::scope(|scope| {
        let per_second = setup.plan.scenario.load.top_ups_per_second;
        // Remote sessions end before the load does, so that every command is answered before the fleet drains.
        let last = Duration::from_secs(u64::from(setup.plan.scenario.seconds.saturating_sub(20)));
        scope.spawn(move || setup.traffic.run_top_ups(&setup.rich, per_second));
        scope.spawn(move || setup.traffic.run_remote(&setup.remote, last));
        let watched = watch::watch(setup, fleet, args.headless, args.keep);
        setup.traffic.stop();
        watched
    })?;
    let totals = std::mem::take(&mut watched.totals);
    let finished = finish::finish(setup, totals, watched.resident_peak_kib, args.keep)?;
    setup.journal.copy_into(&setup.dir)?;
    let facts = facts(setup, (args.journal, args.telemetry), &watched, &finished);
    setup::write_json(&setup.dir.join(RUN_FACTS), &facts)?;
    if args.keep {
        println!("kept running: node pid {}, fleet pid {}", setup.node.state().pid.unwrap_or(0), watched.fleet.pid());
        setup.journal.leave().iter().for_each(|journal| println!("kept as well: {journal}"));
    }
    conclude(&setup.dir, &facts, args.report.as_deref())
}

fn facts(
    setup: &Setup,
    (journal, telemetry): (Backend, TelemetryBackend),
    watched: &Watched,
    finished: &Finished,
) -> RunFacts {
    let scenario = &setup.plan.scenario;
    let state = setup.node.state();
    let mut failures = Vec::new();
    if !watched.fleet_ok {
        failures.push(format!("the fleet did not end well: {}", watched.fleet_exit));
    }
    if let Some(unsettled) = &finished.unsettled {
        failures.push(format!("the node did not settle {unsettled}"));
    }
    let node_drain = match finished.drain {
        None => "kept running".to_owned(),
        Some(DrainOutcome::Exit(0)) => "drained, exit 0".to_owned(),
        Some(DrainOutcome::GoneUnseen) => "ended; started by somebody else, so its exit code is not known".to_owned(),
        Some(other) => {
            failures.push(format!("the node did not drain: {other:?}"));
            format!("{other:?}")
        }
    };
    let well = |outcome: &&DrainOutcome| matches!(outcome, DrainOutcome::Exit(0));
    let stops = state.ordered_stops.iter().filter(well).count() as u64;
    // A node that somebody else killed, or started, meanwhile has no exit code that says anything.
    let excused = |outcome: &&DrainOutcome| matches!(outcome, DrainOutcome::Killed(_) | DrainOutcome::GoneUnseen);
    for outcome in state.ordered_stops.iter().filter(|outcome| !well(outcome) && !excused(outcome)) {
        failures.push(format!("the node did not end well when it was stopped: {outcome:?}"));
    }
    let version =
        setup.client.get("/api/v1/node").ok().and_then(|answer| Some(answer.body.get("version")?.to_string()));
    RunFacts {
        data_dir: setup.data_dir.clone(),
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        seconds: scenario.seconds,
        commit: version.unwrap_or_else(commit),
        online_peak: watched.online_peak,
        restarts: state.restarts(),
        stops,
        node_drain,
        fleet_exit: watched.fleet_exit.clone(),
        failures,
        journal,
        telemetry,
        journal_durability: setup.durability.clone(),
    }
}

/// The commit of the working directory, for the report.
fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let text = output.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
    text.map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Judges a finished run again.
///
/// # Errors
/// The directory is not that of a finished run.
pub fn judge_again(dir: &Path, report: Option<&Path>) -> anyhow::Result<bool> {
    let facts: RunFacts = finish::read_back(dir, RUN_FACTS)?;
    conclude(dir, &facts, report)
}

fn conclude(dir: &Path, facts: &RunFacts, report_file: Option<&Path>) -> anyhow::Result<bool> {
    println!("judging from outside");
    let (findings, tally) = judge::judge(dir, &facts.data_dir)?;
    let figures = fleet::figures(dir)?;
    let node: NodeFigures = finish::read_back(dir, METRICS)?;
    let report = report(facts, &figures, &node, &tally, &findings);
    print!("\n{}", report.table(&findings));
    setup::write_json(&dir.join("report.json"), &report)?;
    if let Some(path) = report_file {
        setup::write_json(path, &report)?;
    }
    println!("  report         {}", dir.join("report.json").display());
    Ok(report.passed())
}

fn report(facts: &RunFacts, fleet: &Figures, node: &NodeFigures, tally: &Tally, findings: &Findings) -> Report {
    let whole = |value: f64| value.max(0.0) as u64;
    let narrow = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
    let mut report = Report {
        scenario: facts.scenario.clone(),
        seed: facts.seed,
        journal: facts.journal.to_string(),
        telemetry: facts.telemetry.to_string(),
        journal_durability: facts.journal_durability.clone(),
        commit: facts.commit.clone(),
        seconds: facts.seconds,
        chargers_online: fleet.count("chargers_online"),
        chargers_connected: facts.online_peak,
        sessions_started: fleet.count("sessions_started"),
        sessions_completed: fleet.count("sessions_completed"),
        sessions_cut_for_funds: fleet.count("sessions_cut_for_funds"),
        sessions_faulted: fleet.count("sessions_faulted"),
        sessions_stopped_remotely: fleet.outcome("remote"),
        sessions_ended_otherwise: fleet.outcome("other"),
        sessions_closed_at_end: fleet.count("sessions_closed_at_end"),
        sessions_remote: tally.remote_starts,
        energy_wh_metered: fleet.signed("energy_wh_metered"),
        energy_wh_billed: narrow(tally.billed_wh),
        energy_wh_overshoot: narrow(tally.overshoot_wh),
        billed_money: narrow(tally.billed),
        debits: tally.debits,
        top_ups: tally.top_ups,
        ledger_sum: tally.ledger_sum,
        charge_records: tally.records,
        sessions_not_started: tally.not_started,
        samples_sent: tally.samples.sent,
        samples_stored: tally.samples.stored,
        samples_gap: tally.samples.gap,
        grid_limit_w: fleet.signed("grid_limit_w"),
        peak_demand_w: fleet.signed("peak_demand_w"),
        peak_load_w: fleet.signed("peak_load_w"),
        limit_bound_seconds: fleet.count("limit_bound_seconds"),
        limit_violations: tally.limit_violations,
        ticks: whole(node.ticks),
        highs_solves: whole(node.solves),
        solver_fallbacks: whole(node.fallbacks),
        tick_ms: node.tick_ms,
        solve_ms: node.solve_ms,
        ack_ms: fleet.quantiles("ack_ms"),
        event_ack_ms: fleet.quantiles("event_ack_ms"),
        node_restarts: facts.restarts,
        node_stops: facts.stops,
        node_resident_peak_kib: node.resident_peak_kib,
        requests_shed: tally.requests_shed,
        sessions_overshot: tally.overshot,
        node_drain: facts.node_drain.clone(),
        fleet_exit: facts.fleet_exit.clone(),
        failures: facts.failures.clone(),
        ..Report::default()
    };
    if fleet.summary.get("drained").and_then(Value::as_bool) == Some(false) {
        report.failures.push("the fleet ended with samples or events that were never acknowledged".to_owned());
    }
    report.failures.extend(report.wrong_sums());
    report.conclude(findings);
    report
}
