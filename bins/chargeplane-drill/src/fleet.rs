//! The fleet's process and its files: configuration out, evidence in.

use crate::catalogue::{Layout, gateway_id, price_range};
use crate::evidence::{each_line, read_lines};
use crate::judge::outside::{ChargerSamples, CutOff, Executed, FleetSession, LoadSecond, Outside};
use crate::scenario::cuts::SILENT_AFTER;
use crate::scenario::{Plan, Scenario};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the fleet's configuration within a run directory.
pub const CONFIG: &str = "fleet.json";

/// Name of the fleet's evidence directory within a run directory.
pub const OUT: &str = "fleet";

/// What the node handed out to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The gateway.
    pub gateway: String,
    /// Its shard, four hex digits.
    pub shard: String,
    /// Epoch of its key.
    pub key_epoch: u32,
    /// Which enrolment it is.
    pub incarnation: u32,
    /// Root key, hex.
    pub key: String,
    /// Password at the broker.
    pub password: String,
}

/// Who pays, as the fleet is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payers {
    /// Accounts whose money does not end.
    pub rich: Vec<String>,
    /// Accounts whose money ends in mid-session, and what they have, 1/10,000.
    pub poor: Vec<(String, i64)>,
}

/// Energy that a hold must cover to begin with: its reserve, rounded up as the node may.
fn reserve_wh(s: &Scenario) -> i64 {
    i64::from(s.station.charger_kw) * i64::from(s.node.stop_time_ms) / 3_600 + 3
}

/// What a poor driver has: 81 Wh at the highest price in a run of 120 s, less in a shorter one, and the reserve.
pub fn poor_balance(s: &Scenario) -> i64 {
    let wh = (81 * i64::from(s.seconds.min(120)) / 120).max(41);
    price_range().0 * (reserve_wh(s) + wh) / 1000
}

/// What a poor driver has whose charger stops late: hardly enough to begin, so that the money is surely gone when
/// the charger stops, even at the lowest price.
pub fn late_balance(s: &Scenario) -> i64 {
    price_range().0 * (reserve_wh(s) + 24) / 1000
}

/// A late charger is this much faster than the worst that is stated: the stop has to reach it first.
const STOP_ON_ITS_WAY_MS: u64 = 3_000;

/// How long a late charger goes on after it was told to stop.
fn late_stop_ms(s: &Scenario) -> u64 {
    (u64::from(s.station.worst_stop_s) * 1_000).saturating_sub(STOP_ON_ITS_WAY_MS)
}

/// The fleet's configuration.
pub fn config(
    plan: &Plan,
    layout: &Layout,
    enrolments: &[Enrolment],
    payers: &Payers,
    broker: &str,
    run_dir: &Path,
    keep: bool,
) -> Value {
    let gateways: Vec<Value> = enrolments
        .iter()
        .map(|e| {
            let local = e.gateway.rsplit('/').next().unwrap_or(&e.gateway);
            json!({
                "id": e.gateway, "shard": e.shard, "key": e.key, "key_epoch": e.key_epoch, "password": e.password,
                "ring_dir": run_dir.join("rings").join(local),
            })
        })
        .collect();
    let cuts: Vec<Value> = plan
        .cuts
        .iter()
        .flat_map(|cut| cut.gateways.iter().map(move |number| (cut, *number)))
        .map(|(cut, number)| json!({ "gateway": gateway_id(number), "at_s": cut.at, "for_s": cut.until - cut.at }))
        .collect();
    let poor: Vec<Value> =
        payers.poor.iter().map(|(account, balance)| json!({ "account": account, "balance": balance })).collect();
    let (max_price, min_price) = price_range();
    json!({
        "version": 1,
        "brokers": [broker],
        "seed": plan.scenario.seed,
        "seconds": plan.scenario.seconds,
        "time_compression": plan.scenario.load.time_compression,
        "keep": keep,
        "out_dir": run_dir.join(OUT),
        "sessions_csv": plan.sessions_csv,
        "gateways": gateways,
        "chargers": layout.fleet_chargers(),
        "limits": layout.fleet_limits(),
        "rich_accounts": payers.rich,
        "poor_accounts": poor,
        "max_price": max_price,
        "min_price": min_price,
        "cuts": cuts,
        "plan": {
            "faults": plan.scenario.load.faults,
            "poor": plan.scenario.load.poor_drivers,
            "late": plan.scenario.load.late_stops,
            "late_stop_ms": late_stop_ms(&plan.scenario),
        },
    })
}

/// Totals and quantiles out of the fleet's own summary.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// `summary.json`.
    pub summary: Value,
    /// `latency.json`.
    pub latency: Value,
}

impl Figures {
    /// A number of the summary; zero when it is not there.
    pub fn count(&self, name: &str) -> u64 {
        self.summary.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Sessions that ended in one way, by the fleet's word for it.
    pub fn outcome(&self, name: &str) -> u64 {
        self.summary.get("outcomes").and_then(|outcomes| outcomes.get(name)).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A signed number of the summary.
    pub fn signed(&self, name: &str) -> i64 {
        self.summary.get(name).and_then(Value::as_i64).unwrap_or(0)
    }

    /// Quantiles of a latency, ms.
    pub fn quantiles(&self, name: &str) -> crate::metrics::Quantiles {
        let of = |q: &str| self.latency.get(name).and_then(|l| l.get(q)).and_then(Value::as_f64).unwrap_or(0.0);
        crate::metrics::Quantiles { p50: of("p50"), p99: of("p99"), max: of("max") }
    }
}

/// Reads the fleet's totals of a run.
///
/// # Errors
/// A file is missing or not JSON.
pub fn figures(run_dir: &Path) -> anyhow::Result<Figures> {
    Ok(Figures { summary: read_json(run_dir, "summary.json")?, latency: read_json(run_dir, "latency.json")? })
}

fn read_json(run_dir: &Path, name: &str) -> anyhow::Result<Value> {
    let path = run_dir.join(OUT).join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[derive(Deserialize)]
struct SessionLine {
    session: String,
    charger: String,
    account: Option<String>,
    meter_start_wh: i64,
    meter_stop_wh: i64,
    reason: String,
}

#[derive(Deserialize)]
struct CommandLine {
    command: String,
    end: String,
}

#[derive(Deserialize)]
struct GatewayLine {
    gateway: String,
    chargers: Vec<ChargerLine>,
}

#[derive(Deserialize)]
struct ChargerLine {
    charger: String,
    register_wh: i64,
    last_number: Option<u64>,
    acked: Vec<(u64, u64)>,
    /// (first number, last number, hash in hex) of each range of 256 numbers.
    digests: Vec<(u64, u64, String)>,
}

/// A line of `load.jsonl`: the limits first, then a second each.
#[derive(Deserialize)]
#[serde(untagged)]
enum LoadLine {
    Limits {
        limits: BTreeMap<String, i64>,
    },
    Second {
        t: u64,
        steps: u64,
        violations: u64,
        nodes: BTreeMap<String, i64>,
        over_granted: u64,
        granted: BTreeMap<String, i64>,
    },
}

/// Reads everything the fleet saw in a run.
///
/// # Errors
/// A file is missing or has a line that is not what it should be.
pub fn outside(run_dir: &Path) -> anyhow::Result<Outside> {
    let file = |name: &str| run_dir.join(OUT).join(name);
    let config: Value = serde_json::from_str(&std::fs::read_to_string(run_dir.join(CONFIG))?)?;
    let incarnations = incarnations(run_dir)?;
    let mut outside = Outside { limits: limits_of(&config), cuts: cuts_of(&config), ..Outside::default() };
    each_line(&file("sessions.jsonl"), |line: SessionLine| {
        outside.sessions.push(FleetSession {
            session: line.session,
            account: line.account,
            charger: line.charger,
            meter_start: line.meter_start_wh,
            meter_stop: line.meter_stop_wh,
            reason: line.reason,
        });
        Ok(())
    })?;
    each_line(&file("commands.jsonl"), |line: CommandLine| {
        outside.commands.push(Executed { command: line.command, effects: u64::from(line.end == "done") });
        Ok(())
    })?;
    for gateway in read_lines::<GatewayLine>(&file("gateways.jsonl"))? {
        let incarnation = incarnations.get(&gateway.gateway).copied().unwrap_or(1);
        outside.samples.extend(gateway.chargers.into_iter().map(|charger| ChargerSamples {
            digests: charger.digests.iter().map(|(first, last, hash)| (*first, *last, hex(hash))).collect(),
            charger: charger.charger,
            gateway: gateway.gateway.clone(),
            incarnation,
            count: charger.last_number.map_or(0, |last| last + 1),
            acked: charger.acked,
            register_wh: charger.register_wh,
        }));
    }
    each_line(&file("load.jsonl"), |line: LoadLine| {
        match line {
            LoadLine::Limits { limits } => {
                let same = limits == outside.limits;
                anyhow::ensure!(same, "the fleet measured against other limits than it was given");
            }
            LoadLine::Second { t, steps, violations, nodes, over_granted, granted } => {
                outside.load.push(LoadSecond { second: t, steps, violations, nodes, over_granted, granted });
            }
        }
        Ok(())
    })?;
    Ok(outside)
}

/// A hash as the fleet writes it; what cannot be read is no hash that anything has.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Name of the file with the enrolments, without keys, within a run directory.
pub const ENROLMENTS: &str = "enrolments.json";

fn incarnations(run_dir: &Path) -> anyhow::Result<BTreeMap<String, u32>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(run_dir.join(ENROLMENTS))?)?)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

fn number(value: &Value, name: &str) -> i64 {
    value.get(name).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn limits_of(config: &Value) -> BTreeMap<String, i64> {
    let limits = list(config, "limits").iter();
    limits.map(|node| (text(node, "id").to_owned(), number(node, "limit_w"))).collect()
}

/// Cuts that outlast a lease, with the nodes that feed cut-off chargers only. Gateways that are cut at the same time
/// may have a node together.
fn cuts_of(config: &Value) -> Vec<CutOff> {
    let mut together: BTreeMap<(u64, u64), BTreeSet<&str>> = BTreeMap::new();
    for cut in list(config, "cuts") {
        let (at, lasting) = (number(cut, "at_s").unsigned_abs(), number(cut, "for_s").unsigned_abs());
        let span = (at + u64::from(SILENT_AFTER), at + lasting);
        together.entry(span).or_default().insert(text(cut, "gateway"));
    }
    let lasting = together.into_iter().filter(|((from, until), _)| from < until);
    lasting.map(|((from, until), silent)| CutOff { from, until, nodes: cut_nodes(config, &silent) }).collect()
}

fn cut_nodes(config: &Value, silent: &BTreeSet<&str>) -> Vec<(String, i64)> {
    let mut fallbacks: BTreeMap<&str, i64> = BTreeMap::new();
    let mut shared: BTreeSet<&str> = BTreeSet::new();
    for charger in list(config, "chargers") {
        let node = text(charger, "limit");
        if silent.contains(text(charger, "gateway")) {
            *fallbacks.entry(node).or_default() += number(charger, "fallback_w");
        } else {
            shared.insert(node);
        }
    }
    let own = fallbacks.into_iter().filter(|(node, _)| !shared.contains(node));
    own.map(|(node, fallback)| (node.to_owned(), fallback)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_found_by_the_fleets_words() {
        let summary = json!({ "outcomes": { "remote": 15, "left_early": 3 } });
        let figures = Figures { summary, ..Figures::default() };
        assert_eq!((figures.outcome("remote"), figures.outcome("other")), (15, 0));
    }

    #[test]
    fn gateways_that_are_cut_together_have_nodes_together() {
        let charger = |gateway: &str, limit: &str| json!({ "gateway": gateway, "limit": limit, "fallback_w": 12_000 });
        let cut = |gateway: &str, at: u32, lasting: u32| json!({ "gateway": gateway, "at_s": at, "for_s": lasting });
        let chargers = [charger("a", "one"), charger("b", "one"), charger("b", "two"), charger("c", "two")];
        let of = |cuts: Vec<Value>| cuts_of(&json!({ "chargers": chargers, "cuts": cuts }));
        let both = of(vec![cut("a", 10, 45), cut("b", 10, 45)]);
        assert_eq!(both, [CutOff { from: 41, until: 55, nodes: vec![("one".to_owned(), 24_000)] }]);
        let alone = of(vec![cut("a", 10, 45), cut("b", 11, 45)]);
        assert!(alone.len() == 2 && alone.iter().all(|cut| cut.nodes.is_empty()), "{alone:?}");
        assert_eq!(of(vec![cut("a", 10, 31)]), [], "no lease ends in it for a whole second");
    }
}
