//! After the load: wait until the node has settled everything, take down what it serves, drain it.

use crate::http::{Answer, Client};
use crate::judge::ledger::Balance;
use crate::metrics::{Scrape, Totals};
use crate::node::DrainOutcome;
use crate::setup::{Setup, write_json};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// After the fleet has drained, open sessions are settled and read models are current within this time.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// Names of files within a run directory.
pub const BALANCES: &str = "balances.json";
/// Charge records as served.
pub const RECORDS: &str = "records.json";
/// The node's metrics over all its processes.
pub const METRICS: &str = "node-metrics.json";

/// What the node measured and said of itself, as the judges and the report need it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Per lane: most messages at once, and the bound.
    pub lanes: BTreeMap<String, (f64, f64)>,
    /// Messages shed, all lanes and HTTP.
    pub shed: f64,
    /// Violations the node found on itself, by invariant.
    pub violations: BTreeMap<String, f64>,
    /// Checks the node made on itself, by invariant.
    pub checks: BTreeMap<String, f64>,
    /// Station ticks with sessions.
    pub ticks: f64,
    /// Answered by HiGHS.
    pub solves: f64,
    /// Answered by water-filling.
    pub fallbacks: f64,
    /// Duration of a tick, ms.
    pub tick_ms: crate::metrics::Quantiles,
    /// Duration of a solve, ms.
    pub solve_ms: crate::metrics::Quantiles,
}

/// What the end of a run left behind.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// What kept the node from settling, if anything did.
    pub unsettled: Option<String>,
    /// How the node ended; none with `--keep`.
    pub drain: Option<DrainOutcome>,
}

/// Takes down what the node serves and ends it.
///
/// # Errors
/// The node does not answer what it must.
pub fn finish(setup: &Setup, mut totals: Totals, keep: bool) -> anyhow::Result<Finished> {
    setup.node.wait_ready(Duration::from_secs(120))?;
    setup.traffic.repeat_kept();
    let unsettled = wait_settled(&setup.client);
    let balances = balances(&setup.client)?;
    write_json(&setup.dir.join(BALANCES), &balances)?;
    write_json(&setup.dir.join(RECORDS), &records(&setup.client)?)?;
    if let Ok(text) = setup.client.text("/metrics") {
        totals.observe(Scrape::parse(&text));
    }
    write_json(&setup.dir.join(METRICS), &figures(&totals))?;
    let drain = if keep {
        setup.node.leave();
        None
    } else {
        println!("draining the node");
        Some(setup.node.drain())
    };
    Ok(Finished { unsettled, drain })
}

/// No open session, and read models at the journal's end. Says what is missing when it does not come to that.
fn wait_settled(client: &Client) -> Option<String> {
    let begin = Instant::now();
    loop {
        let node = client.get("/api/v1/node").ok().filter(Answer::ok).map(|answer| answer.body);
        let count = |name: &str| node.as_ref().and_then(|n| n.get(name)).and_then(Value::as_u64);
        match (count("open_sessions"), count("projection_lag")) {
            (Some(0), Some(0)) => return None,
            state if begin.elapsed() > SETTLE_LIMIT => {
                return Some(format!("after {} s: (open sessions, projection lag) {state:?}", SETTLE_LIMIT.as_secs()));
            }
            _ => std::thread::sleep(Duration::from_millis(250)),
        }
    }
}

/// All items of a paged list.
fn pages(client: &Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut after = String::new();
    loop {
        let answer = client.get(&format!("{path}?limit=1000{after}")).with_context(|| path.to_owned())?;
        ensure!(answer.ok(), "{path}: {}", answer.problem());
        let Value::Object(mut body) = answer.body else { anyhow::bail!("{path}: not a list") };
        if let Some(Value::Array(page)) = body.remove("items") {
            items.extend(page);
        }
        match body.remove("next") {
            Some(Value::String(next)) => after = format!("&after={}", encoded(&next)),
            _ => return Ok(items),
        }
    }
}

/// A cursor as it stands in a query.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let one = |byte: u8| {
        if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(one).collect()
}

/// A decimal amount in 1/10,000.
pub fn amount(text: &str) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let fits = part.len() <= 4 && [whole, part].iter().all(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
    let value = whole.parse::<i64>().ok()?.checked_mul(10_000)?.checked_add(format!("{part:0<4}").parse().ok()?)?;
    fits.then_some(sign * value)
}

fn balances(client: &Client) -> anyhow::Result<Vec<Balance>> {
    let text = |item: &Value, name: &str| item.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let one = |item: Value| {
        let balance = amount(&text(&item, "balance")).with_context(|| format!("not a balance: {item}"))?;
        let (shard, account, currency) = (text(&item, "shard"), text(&item, "account"), text(&item, "currency"));
        Ok(Balance { shard, account, currency, balance })
    };
    pages(client, "/api/v1/ledger/balances")?.into_iter().map(one).collect()
}

fn records(client: &Client) -> anyhow::Result<Vec<Value>> {
    pages(client, "/api/v1/charge-records")
}

/// What the metrics say over all processes.
fn figures(totals: &Totals) -> NodeFigures {
    let label = |labels: &str| crate::metrics::label(labels, "lane").unwrap_or("").to_owned();
    let peaks = |name: &str| -> BTreeMap<String, f64> {
        totals.gauge_peaks(name).map(|(labels, value)| (label(labels), value)).collect()
    };
    let (reached, bounds) = (peaks("chargeplane_lane_peak_messages"), peaks("chargeplane_lane_limit_messages"));
    let lanes = bounds.iter().map(|(lane, bound)| {
        let peak = reached.get(lane).copied().unwrap_or(f64::MAX);
        (lane.clone(), (peak, *bound))
    });
    let counter = |name: &str| totals.counter(name).unwrap_or(0.0);
    let max = |name: &str| totals.gauge_peaks(name).map(|(_, value)| value).fold(0.0, f64::max) * 1000.0;
    let quantiles = |name: &str, max_name: &str| {
        let mut quantiles = totals.histogram(name).quantiles(1000.0);
        if max(max_name) > 0.0 {
            quantiles.max = max(max_name);
            // Interpolated in a bucket, a quantile may come out above the greatest value there was.
            (quantiles.p50, quantiles.p99) = (quantiles.p50.min(quantiles.max), quantiles.p99.min(quantiles.max));
        }
        quantiles
    };
    NodeFigures {
        lanes: lanes.collect(),
        shed: counter("chargeplane_shed_total") + counter("chargeplane_http_shed_total"),
        violations: totals.counter_by("chargeplane_invariant_violations_total", "invariant"),
        checks: totals.counter_by("chargeplane_invariant_checks_total", "invariant"),
        ticks: counter("chargeplane_station_ticks_total"),
        solves: counter("chargeplane_highs_solves_total"),
        fallbacks: counter("chargeplane_solver_fallbacks_total"),
        tick_ms: quantiles("chargeplane_station_tick_seconds", "chargeplane_station_tick_max_seconds"),
        solve_ms: quantiles("chargeplane_allocation_solve_seconds", "chargeplane_allocation_solve_max_seconds"),
    }
}

/// Reads one of the files written here.
///
/// # Errors
/// It is missing or not what it should be.
pub fn read_back<T: serde::de::DeserializeOwned>(dir: &Path, name: &str) -> anyhow::Result<T> {
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        assert_eq!(amount("12.5000"), Some(125_000));
        assert_eq!(amount("-0.0001"), Some(-1));
        assert_eq!(amount("7"), Some(70_000));
        for wrong in ["", "1.", "1.23456", "x", "1e3", "--1", "99999999999999999999"] {
            assert_eq!(amount(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn cursors_survive_a_query() {
        assert_eq!(encoded("account-0003/driver:main/a1"), "account-0003%2Fdriver%3Amain%2Fa1");
    }

    #[test]
    fn a_lane_without_a_peak_is_over_its_bound() {
        let mut totals = Totals::default();
        let text = "# TYPE chargeplane_lane_limit_messages gauge\nchargeplane_lane_limit_messages{lane=\"money\"} 10\n";
        totals.observe(Scrape::parse(text));
        assert_eq!(figures(&totals).lanes["money"], (f64::MAX, 10.0));
    }
}
