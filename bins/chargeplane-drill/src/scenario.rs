//! What a scenario file says, how flags change it, and what comes out: a plan with nothing left open.
//!
//! The file is strict: an unknown key, a missing one or a value of the wrong shape stops the start with file,
//! line and column; a value that makes no sense stops it with the path of the key and what to write instead.

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub mod cuts;
#[cfg(test)]
mod tests;

use crate::live::grouped;
use cuts::Choice;

/// The only version of the format so far.
pub const API_VERSION: &str = "chargeplane/v1";

/// How long a grant outlives the heartbeat it answers: the lease of the power grants, in seconds.
pub const LEASE_SECONDS: u32 = 30;

/// A scenario as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scenario {
    /// Version of the format: [`API_VERSION`].
    pub api_version: String,
    /// `Scenario`.
    pub kind: String,
    /// Short name, used for the run directory: letters, digits and `-`.
    pub name: String,
    /// One sentence for the person who runs it.
    pub summary: String,
    /// Seed of all chance: one seed, one set of arrivals.
    pub seed: u64,
    /// How long drivers come, in seconds.
    pub seconds: u32,
    /// What is built.
    pub station: StationPlan,
    /// How the node is configured, where that is part of what is tried.
    #[serde(default)]
    pub node: NodePlan,
    /// Who comes to charge.
    pub load: Load,
    /// Faults and other happenings.
    #[serde(default)]
    pub timeline: Vec<Step>,
    /// Which invariants are judged: `default` is all of DESIGN.md section 10.
    pub invariants: Vec<String>,
}

/// One station: how many of everything, and how tight the limits are.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StationPlan {
    /// Number of chargers.
    pub chargers: u32,
    /// Rating of a charger, kW.
    pub charger_kw: u32,
    /// Least power a charger can charge with, kW.
    pub min_kw: u32,
    /// What a charger falls to when its grants have ended, kW: 0 or at least `min_kw`.
    pub fallback_kw: u32,
    /// The longest that a charger takes to stop when the money ends, s.
    #[serde(default = "default_worst_stop")]
    pub worst_stop_s: u32,
    /// Number of gateways; the chargers are shared out among them in order.
    pub gateways: u32,
    /// Limit of the grid connection, kW.
    pub grid_kw: u32,
    /// Transformers below the grid connection.
    pub transformers: Level,
    /// Feeders below the transformers.
    pub feeders: Level,
    /// Cabinets below the feeders; chargers hang from cabinets.
    pub cabinets: Level,
}

fn default_worst_stop() -> u32 {
    5
}

/// What the scenario states of the node, and what it is held to. What is left out has the node's own default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodePlan {
    /// Requests in hand at once (`http.max_in_flight`): the burst must be larger.
    pub max_in_flight: u32,
    /// The time to stop that a hold's reserve pays for, ms (`sessions.stop_time_ms`).
    pub stop_time_ms: u32,
    /// Most memory the node may have resident, MiB.
    pub max_resident_mib: u32,
}

impl Default for NodePlan {
    fn default() -> Self {
        Self { max_in_flight: 256, stop_time_ms: 5_000, max_resident_mib: 2_048 }
    }
}

impl NodePlan {
    /// The configuration file that the node is started with.
    pub fn toml(&self) -> String {
        let Self { max_in_flight, stop_time_ms, .. } = self;
        format!("[http]\nmax_in_flight = {max_in_flight}\n\n[sessions]\nstop_time_ms = {stop_time_ms}\n")
    }
}

/// One level of the tree of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// How many nodes in the whole station.
    pub count: u32,
    /// Sum of the level's limits as a percentage of the grid connection's limit.
    pub percent_of_grid: u32,
}

/// Where the drivers come from and how they are scaled.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// CSV of real sessions, relative to the scenario file.
    pub sessions: PathBuf,
    /// Minutes of life in one minute of the run, for time and energy alike.
    pub time_compression: u32,
    /// Drivers whose money ends in mid-session.
    pub poor_drivers: u32,
    /// Of them, those whose charger takes almost `station.worst_stop_s` to stop: energy flows beyond the money.
    #[serde(default)]
    pub late_stops: u32,
    /// Chargers that fail in mid-session.
    pub faults: u32,
    /// Top-ups a second that the drill makes over the API while cars charge.
    pub top_ups_per_second: u32,
    /// Requests that the drill sends at once to see that shed load is answered.
    pub burst_requests: u32,
}

/// One happening. Times are seconds from the start of the load.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, in seconds.
    pub at: u32,
    /// What.
    #[serde(rename = "do")]
    pub act: Act,
    /// Gateways it is about, numbered from 1, or `one` (`gateway.cut`).
    #[serde(default, skip_serializing_if = "Choice::is_empty")]
    pub gateways: Choice,
    /// How long, in seconds (`gateway.cut`).
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<u32>,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum Act {
    /// The gateways lose their link to the broker.
    #[serde(rename = "gateway.cut")]
    GatewayCut,
    /// The node gets SIGKILL and is started again with the same command.
    #[serde(rename = "node.kill")]
    NodeKill,
    /// The node gets SIGTERM, must end with exit code 0, and is started again with the same command.
    #[serde(rename = "node.stop")]
    NodeStop,
}

/// What the command line changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Number of chargers; the limits scale with it unless `grid_kw` is given as well.
    pub chargers: Option<u32>,
    /// Number of gateways.
    pub gateways: Option<u32>,
    /// Length of the load; the times of the timeline scale with it.
    pub seconds: Option<u32>,
    /// Limit of the grid connection, kW.
    pub grid_kw: Option<u32>,
    /// Seed.
    pub seed: Option<u64>,
    /// Further kills of the node, in seconds.
    pub kill_at: Vec<u32>,
    /// Further stops of the node, in seconds.
    pub stop_at: Vec<u32>,
}

/// A cut of gateways, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Second it begins.
    pub at: u32,
    /// Second it ends.
    pub until: u32,
    /// Gateways, numbered from 1.
    pub gateways: Vec<u32>,
}

/// A scenario with the flags applied and the timeline expanded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The scenario after the flags.
    pub scenario: Scenario,
    /// The session CSV, as an absolute or working path.
    pub sessions_csv: PathBuf,
    /// Cuts in order of their beginning.
    pub cuts: Vec<Cut>,
    /// Kills of the node, seconds, ascending.
    pub kills: Vec<u32>,
    /// Stops of the node, seconds, ascending.
    pub stops: Vec<u32>,
}

/// Reads a scenario.
///
/// # Errors
/// The file cannot be read, is not YAML, has unknown or missing keys, or a value that makes no sense.
pub fn read(path: &Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the scenario {}", path.display()))?;
    let scenario = parse(&text).with_context(|| path.display().to_string())?;
    let csv = csv_path(path, &scenario.load.sessions);
    ensure!(csv.is_file(), "{}: load.sessions: no file {}", path.display(), csv.display());
    Ok(scenario)
}

/// Parses and checks a scenario's text.
///
/// # Errors
/// As [`read`], without the file.
pub fn parse(text: &str) -> anyhow::Result<Scenario> {
    let scenario: Scenario = serde_saphyr::from_str(text)?;
    check(&scenario)?;
    Ok(scenario)
}

fn csv_path(scenario: &Path, csv: &Path) -> PathBuf {
    scenario.parent().unwrap_or(Path::new(".")).join(csv)
}

fn check(s: &Scenario) -> anyhow::Result<()> {
    ensure!(s.api_version == API_VERSION, "apiVersion: {:?} is not known; write {API_VERSION}", s.api_version);
    ensure!(s.kind == "Scenario", "kind: {:?} is not known; write Scenario", s.kind);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !s.name.is_empty() && s.name.len() <= 40 && s.name.chars().all(plain),
        "name: {:?}: write 1 to 40 characters of a-z, 0-9 and '-'",
        s.name
    );
    ensure!((10..=86_400).contains(&s.seconds), "seconds: {} is not within 10 to 86400", s.seconds);
    ensure!(s.invariants == ["default"], "invariants: write [default]; a choice of single invariants is not supported");
    check_station(&s.station)?;
    check_node(&s.node)?;
    check_load(&s.load)?;
    ensure!(
        s.load.burst_requests == 0 || s.load.burst_requests > s.node.max_in_flight,
        "load.burst_requests: {} are not more than node.max_in_flight, {}: nothing would be shed",
        s.load.burst_requests,
        s.node.max_in_flight
    );
    for (index, step) in s.timeline.iter().enumerate() {
        check_step(step, s).with_context(|| format!("timeline[{index}]"))?;
    }
    Ok(())
}

fn check_station(p: &StationPlan) -> anyhow::Result<()> {
    ensure!((1..=20_000).contains(&p.chargers), "station.chargers: {} is not within 1 to 20000", p.chargers);
    ensure!(p.gateways >= 1, "station.gateways: at least 1");
    ensure!(p.gateways <= p.chargers, "station.gateways: {} gateways for {} chargers", p.gateways, p.chargers);
    ensure!(
        p.chargers.div_ceil(p.gateways) <= 1000,
        "station.gateways: more than 1000 chargers a gateway; {} chargers need at least {} gateways",
        p.chargers,
        p.chargers.div_ceil(1000)
    );
    ensure!(p.min_kw >= 1 && p.min_kw <= p.charger_kw, "station.min_kw: must be within 1 to charger_kw");
    ensure!(
        p.fallback_kw == 0 || (p.min_kw..=p.charger_kw).contains(&p.fallback_kw),
        "station.fallback_kw: {} must be 0 or within min_kw to charger_kw",
        p.fallback_kw
    );
    ensure!(
        p.grid_kw >= p.min_kw,
        "station.grid_kw: {} is less than min_kw {}: no charger could ever charge",
        p.grid_kw,
        p.min_kw
    );
    ensure!(
        u64::from(p.fallback_kw) * u64::from(p.chargers) <= u64::from(p.grid_kw),
        "station.fallback_kw: {} chargers at {} kW exceed grid_kw {}; a cut-off station could not keep its limit",
        p.chargers,
        p.fallback_kw,
        p.grid_kw
    );
    for (name, level) in [("transformers", p.transformers), ("feeders", p.feeders), ("cabinets", p.cabinets)] {
        ensure!(level.count >= 1, "station.{name}.count: at least 1");
        ensure!(level.percent_of_grid >= 100, "station.{name}.percent_of_grid: at least 100");
    }
    Ok(())
}

fn check_node(node: &NodePlan) -> anyhow::Result<()> {
    ensure!((16..=4_096).contains(&node.max_in_flight), "node.max_in_flight: not within 16 to 4096");
    ensure!((100..=60_000).contains(&node.stop_time_ms), "node.stop_time_ms: not within 100 to 60000");
    ensure!(node.max_resident_mib >= 64, "node.max_resident_mib: at least 64");
    Ok(())
}

fn check_load(load: &Load) -> anyhow::Result<()> {
    ensure!((1..=1000).contains(&load.time_compression), "load.time_compression: not within 1 to 1000");
    ensure!(load.top_ups_per_second <= 100, "load.top_ups_per_second: more than 100");
    // Beyond its connections (1,024) a node does not read requests at all.
    ensure!(load.burst_requests <= 900, "load.burst_requests: more than 900");
    ensure!(load.late_stops <= load.poor_drivers, "load.late_stops: more than load.poor_drivers");
    Ok(())
}

fn check_step(step: &Step, s: &Scenario) -> anyhow::Result<()> {
    ensure!(step.at < s.seconds, "at: {} is after the end, {} s", step.at, s.seconds);
    match step.act {
        Act::GatewayCut => {
            ensure!(!step.gateways.is_empty(), "gateway.cut: write gateways: one, or name them: [1]");
            check_gateways(&step.gateways, &s.station)?;
            ensure!(step.lasting.is_some_and(|d| d > 0), "gateway.cut: say how long, such as for: 40");
        }
        Act::NodeKill => {
            ensure!(step.gateways.is_empty() && step.lasting.is_none(), "node.kill: takes neither gateways nor for");
        }
        Act::NodeStop => {
            ensure!(step.gateways.is_empty() && step.lasting.is_none(), "node.stop: takes neither gateways nor for");
        }
    }
    Ok(())
}

fn check_gateways(choice: &Choice, station: &StationPlan) -> anyhow::Result<()> {
    if let Choice::Numbers(numbers) = choice
        && let Some(wrong) = numbers.iter().find(|&&n| n == 0 || n > station.gateways)
    {
        let most = station.gateways;
        bail!("gateways: there is no gateway {wrong}; write one, or numbers of 1 to {most}");
    }
    Ok(())
}

/// Applies the flags and expands the timeline.
///
/// # Errors
/// A flag makes the scenario impossible; the message names the key.
pub fn plan(path: &Path, mut s: Scenario, flags: &Overrides) -> anyhow::Result<Plan> {
    apply(&mut s, flags)?;
    check_station(&s.station).context("with the flags given")?;
    ensure!((10..=86_400).contains(&s.seconds), "--seconds: {} is not within 10 to 86400", s.seconds);
    for (flag, times) in [("--kill-at", &flags.kill_at), ("--stop-at", &flags.stop_at)] {
        if let Some(late) = times.iter().find(|&&at| at >= s.seconds) {
            bail!("{flag} {late}: the load ends at {} s", s.seconds);
        }
    }
    let mut cuts = Vec::new();
    let (mut kills, mut stops) = (flags.kill_at.clone(), flags.stop_at.clone());
    for step in &s.timeline {
        match step.act {
            Act::NodeKill => kills.push(step.at),
            Act::NodeStop => stops.push(step.at),
            Act::GatewayCut => {
                check_gateways(&step.gateways, &s.station).context("with the flags given: gateway.cut")?;
                let gateways = step.gateways.resolve(&s.station, s.seed);
                let until = step.at.saturating_add(step.lasting.unwrap_or(0)).min(s.seconds);
                if !gateways.is_empty() && until > step.at {
                    cuts.push(Cut { at: step.at, until, gateways });
                }
            }
        }
    }
    for times in [&mut kills, &mut stops] {
        times.sort_unstable();
        times.dedup();
    }
    cuts.sort_by_key(|cut| cut.at);
    let sessions_csv = csv_path(path, &s.load.sessions);
    let sessions_csv = sessions_csv.canonicalize().unwrap_or(sessions_csv);
    Ok(Plan { sessions_csv, scenario: s, cuts, kills, stops })
}

fn apply(s: &mut Scenario, flags: &Overrides) -> anyhow::Result<()> {
    let before = u64::from(s.station.chargers);
    if let Some(chargers) = flags.chargers {
        ensure!(chargers >= 1, "--chargers: at least 1");
        s.station.chargers = chargers;
        // A smaller station keeps the same tightness, so that the limit still binds.
        let scaled = |value: u32| u32::try_from(u64::from(value) * u64::from(chargers) / before).unwrap_or(u32::MAX);
        s.station.grid_kw = scaled(s.station.grid_kw).max(s.station.charger_kw);
        s.load.poor_drivers = scaled(s.load.poor_drivers).max(s.load.poor_drivers.min(1));
        s.load.late_stops = scaled(s.load.late_stops).max(s.load.late_stops.min(2)).min(s.load.poor_drivers);
        s.load.faults = scaled(s.load.faults).max(s.load.faults.min(1));
        s.station.gateways = s.station.gateways.min(chargers);
    }
    if let Some(gateways) = flags.gateways {
        s.station.gateways = gateways;
    }
    if let Some(grid_kw) = flags.grid_kw {
        s.station.grid_kw = grid_kw;
    }
    if let Some(seed) = flags.seed {
        s.seed = seed;
    }
    // A level has never more nodes than the level below has things to hang from it.
    s.station.cabinets.count = s.station.cabinets.count.min(s.station.chargers);
    s.station.feeders.count = s.station.feeders.count.min(s.station.cabinets.count);
    s.station.transformers.count = s.station.transformers.count.min(s.station.feeders.count);
    if let Some(seconds) = flags.seconds {
        ensure!(seconds >= 1, "--seconds: at least 1");
        s.timeline.iter_mut().for_each(|step| cuts::rescale(step, s.seconds, seconds));
        s.seconds = seconds;
    }
    Ok(())
}

impl Plan {
    /// The schedule, one line a happening, in order.
    pub fn describe(&self) -> String {
        let s = &self.scenario;
        let p = &s.station;
        let mut lines: Vec<(u32, String)> = vec![
            (0, format!("load begins: {} chargers of {} kW, {} gateways", p.chargers, p.charger_kw, p.gateways)),
            (s.seconds, "load ends; sessions are stopped, the fleet drains".to_owned()),
        ];
        for cut in &self.cuts {
            let names: Vec<String> = cut.gateways.iter().map(u32::to_string).collect();
            let who = names.join(", ");
            lines.push((cut.at, format!("gateway.cut: gateways {who} lose their link for {} s", cut.until - cut.at)));
            lines.push((cut.until, format!("gateways {who} are connected again")));
        }
        for &at in &self.kills {
            lines.push((at, "node.kill: SIGKILL, started again with the same command".to_owned()));
        }
        for &at in &self.stops {
            lines.push((at, "node.stop: SIGTERM, must end with exit code 0, started again".to_owned()));
        }
        lines.sort_by_key(|(at, _)| *at);
        let mut text = format!("{}: {}\n", s.name, s.summary);
        text += &format!("{}\n", self.size());
        for (at, line) in lines {
            text += &format!("{at:>6} s  {line}\n");
        }
        for (invariant, why) in self.not_exercised() {
            text += &format!("note: {invariant} will not be exercised and the run fails: {why}\n");
        }
        text
    }
    /// How large and how long this run is, after the flags.
    fn size(&self) -> String {
        let (s, p) = (&self.scenario, &self.scenario.station);
        let count = |number: u32| grouped(i64::from(number));
        let off: Vec<String> = self
            .cuts
            .iter()
            .map(|cut| format!(", {} of them cut off for {} s", cut.gateways.len(), cut.until - cut.at))
            .collect();
        format!(
            "{} chargers behind {} gateways{} share {} kW for {} s; seed {}",
            count(p.chargers),
            count(p.gateways),
            off.concat(),
            count(p.grid_kw),
            count(s.seconds),
            s.seed
        )
    }
}
