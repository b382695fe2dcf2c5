//! After the load: wait until the node has settled everything, take down what it serves, drain it.
//!
//! The node may be killed by hand here as at any other moment: what is taken down is taken down again until one
//! process served all of it.

use crate::http::{Answer, Client};
use crate::judge::ledger::Balance;
use crate::metrics::{Totals, scrape};
use crate::node::{DrainOutcome, LOST_FOR, Node};
use crate::setup::{Setup, write_json};
use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// After the fleet has drained, open sessions are settled and read models are current within this time.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

/// What the node serves is taken down within this time, whoever kills it meanwhile.
const TAKE_DOWN_LIMIT: Duration = Duration::from_secs(300);

/// Chargers whose telemetry is read back over the API.
const READ_BACK_CHARGERS: usize = 12;

/// Most readings of one answer, as the API has it.
const READ_BACK_SAMPLES: u32 = 100_000;

/// How often the node is asked for its last metrics.
const LAST_SCRAPES: u32 = 10;

/// Names of files within a run directory.
pub const BALANCES: &str = "balances.json";
/// Charge records as served.
pub const RECORDS: &str = "records.json";
/// Ranges of telemetry as served.
pub const TELEMETRY: &str = "telemetry.json";
/// The node's metrics over all its processes.
pub const METRICS: &str = "node-metrics.json";

/// What the node measured and said of itself, as the judges and the report need it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Per lane: most messages at once, and the bound.
    pub lanes: BTreeMap<String, (f64, f64)>,
    /// Messages shed, all lanes and HTTP.
    pub shed: f64,
    /// Most memory that any of its processes had resident, KiB, as the kernel says.
    #[serde(default)]
    pub resident_peak_kib: u64,
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
pub fn finish(setup: &Setup, mut totals: Totals, resident_peak_kib: u64, keep: bool) -> anyhow::Result<Finished> {
    setup.node.wait_ready(LOST_FOR)?;
    setup.traffic.repeat_kept();
    setup.traffic.burst_if_none_counted(&setup.burst_plan());
    let served = take_down(setup)?;
    write_json(&setup.dir.join(BALANCES), &served.balances)?;
    write_json(&setup.dir.join(RECORDS), &served.records)?;
    write_json(&setup.dir.join(TELEMETRY), &served.telemetry)?;
    let unsettled = served.unsettled;
    // The last word counts for everything since the last scrape, so it is worth asking again.
    let asked = (0..LAST_SCRAPES).find_map(|n| {
        std::thread::sleep(Duration::from_millis(500) * u32::from(n > 0));
        scrape(&setup.client)
    });
    if let Some((process, scrape)) = asked {
        totals.observe(process, scrape);
    }
    let resident_peak_kib = resident_peak_kib.max(setup.node.state().pid.and_then(resident_kib).unwrap_or(0));
    write_json(&setup.dir.join(METRICS), &NodeFigures { resident_peak_kib, ..figures(&totals) })?;
    let drain = if keep {
        setup.node.leave();
        None
    } else {
        println!("draining the node");
        Some(setup.node.drain())
    };
    Ok(Finished { unsettled, drain })
}

/// What one process of the node served after it had settled.
#[derive(Debug, Default)]
struct Served {
    unsettled: Option<String>,
    balances: Vec<Balance>,
    records: Vec<Value>,
    telemetry: Vec<ReadBack>,
}

/// Readings of one charger as the API served them: those from `from` to before `to`, ms since 1970.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReadBack {
    /// The charger.
    pub charger: String,
    /// From this moment ...
    pub from: i64,
    /// ... to before this one.
    pub to: i64,
    /// Number, time, voltage, current, temperature, state of charge, power, register; in the order served.
    pub samples: Vec<(u64, [i64; 7])>,
}

/// Who answers: another process has another incarnation.
fn incarnation(client: &Client) -> anyhow::Result<u64> {
    let answer = client.get("/api/v1/node")?;
    ensure!(answer.ok(), "/api/v1/node: {}", answer.problem());
    answer.body.get("incarnation").and_then(Value::as_u64).context("a node without an incarnation")
}

/// Takes down everything from one process. After a restart read models may still be catching up, so whatever was
/// read across one is read again.
fn take_down(setup: &Setup) -> anyhow::Result<Served> {
    let chargers = crate::catalogue::lay_out(&setup.plan.scenario.station).chargers;
    let every = chargers.len().div_ceil(READ_BACK_CHARGERS).max(1);
    let chosen: Vec<&str> = chargers.iter().step_by(every).map(|charger| charger.id.as_str()).collect();
    let wait = || setup.node.wait_ready(LOST_FOR);
    until_one_process_did(
        wait,
        || incarnation(&setup.client),
        || {
            Ok(Served {
                unsettled: wait_settled(&setup.node, &setup.client)?,
                balances: balances(&setup.client)?,
                records: records(&setup.client)?,
                telemetry: read_back_telemetry(&setup.client, &chosen)?,
            })
        },
    )
}

/// Repeats `work` until it succeeded and the same process, by what `who` says, served before and after it. When
/// waiting for one is in vain, so is everything else.
fn until_one_process_did<T>(
    mut wait: impl FnMut() -> anyhow::Result<()>,
    mut who: impl FnMut() -> anyhow::Result<u64>,
    mut work: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        wait()?;
        let tried = who().and_then(|before| {
            let done = work()?;
            ensure!(who()? == before, "another process took over meanwhile");
            Ok(done)
        });
        match tried {
            Err(error) if begin.elapsed() < TAKE_DOWN_LIMIT => {
                println!("taking down what the node serves, again: {error:#}");
                std::thread::sleep(Duration::from_millis(500));
            }
            result => return result,
        }
    }
}

/// All readings of each charger, and those of the middle third of the time they span.
fn read_back_telemetry(client: &Client, chargers: &[&str]) -> anyhow::Result<Vec<ReadBack>> {
    let tomorrow = jiff::Timestamp::now().as_millisecond() + 86_400_000;
    let mut ranges = Vec::new();
    for charger in chargers {
        let all = read_range(client, charger, 0, tomorrow)?;
        let at = |sample: Option<&(u64, [i64; 7])>| sample.map_or(0, |(_, values)| values[0]);
        let (first, last) = (at(all.samples.first()), at(all.samples.last()));
        let third = (last - first) / 3;
        ranges.push(all);
        if third > 0 {
            ranges.push(read_range(client, charger, first + third, first + 2 * third)?);
        }
    }
    Ok(ranges)
}

fn read_range(client: &Client, charger: &str, from: i64, to: i64) -> anyhow::Result<ReadBack> {
    let id = crate::http::path_id(charger);
    let path = format!("/api/v1/chargers/{id}/telemetry?from={from}&to={to}&limit={READ_BACK_SAMPLES}");
    let answer = client.get(&path).with_context(|| path.clone())?;
    ensure!(answer.ok(), "{path}: {}", answer.problem());
    let samples =
        answer.body.get("samples").and_then(Value::as_array).with_context(|| format!("{path}: no samples"))?;
    let samples = samples.iter().map(|s| sample(s).with_context(|| format!("{path}: not a sample: {s}")));
    Ok(ReadBack { charger: charger.to_owned(), from, to, samples: samples.collect::<anyhow::Result<_>>()? })
}

fn sample(value: &Value) -> Option<(u64, [i64; 7])> {
    let number = |name: &str| value.get(name).and_then(Value::as_i64);
    let at: jiff::Timestamp = value.get("at")?.as_str()?.parse().ok()?;
    let values = [
        at.as_millisecond(),
        number("voltage_dv")?,
        number("current_da")?,
        number("temperature_dc")?,
        number("soc_permille")?,
        number("power_w")?,
        number("register_wh")?,
    ];
    Some((value.get("number")?.as_u64()?, values))
}

/// The most memory that a process has had resident, as Linux says it.
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// No open session, and read models at the journal's end. Says what is missing when it does not come to that.
fn wait_settled(node: &Node, client: &Client) -> anyhow::Result<Option<String>> {
    let (begin, pid) = (Instant::now(), node.state().pid);
    loop {
        ensure!(node.state().pid == pid, "the node ended while it settled");
        let node = client.get("/api/v1/node").ok().filter(Answer::ok).map(|answer| answer.body);
        let count = |name: &str| node.as_ref().and_then(|n| n.get(name)).and_then(Value::as_u64);
        match (count("open_sessions"), count("projection_lag")) {
            (Some(0), Some(0)) => return Ok(None),
            state if begin.elapsed() > SETTLE_LIMIT => {
                let waited = SETTLE_LIMIT.as_secs();
                return Ok(Some(format!("after {waited} s: (open sessions, projection lag) {state:?}")));
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
        ..NodeFigures::default()
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
    use crate::metrics::Scrape;

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
    fn readings_are_taken_as_served() {
        let served = serde_json::json!({ "number": 7, "at": "2026-01-05T08:00:00.001Z", "voltage_dv": 3_500,
            "current_da": -1, "temperature_dc": 220, "soc_permille": 500, "power_w": 60_000, "register_wh": 9 });
        let values = [1_767_600_000_001, 3_500, -1, 220, 500, 60_000, 9];
        assert_eq!(sample(&served), Some((7, values)));
        assert_eq!(sample(&serde_json::json!({ "number": 7 })), None);
    }

    #[test]
    fn what_is_served_is_read_again_when_the_node_was_killed_meanwhile() {
        // The first process answers nothing, the second is replaced while it answers, the third does it all.
        let mut processes = [1, 2, 3, 3, 3].into_iter();
        let mut works = [Err(anyhow::anyhow!("no answer")), Ok("of two"), Ok("of one")].into_iter();
        let who = || processes.next().context("nobody");
        let done = until_one_process_did(|| Ok(()), who, || works.next().context("asked too often")?);
        assert_eq!(done.unwrap(), "of one");
        let lost = until_one_process_did(|| anyhow::bail!("lost"), || Ok(1), || Ok(()));
        assert_eq!(lost.unwrap_err().to_string(), "lost");
    }

    #[test]
    fn the_memory_of_a_process_is_known() {
        assert!(resident_kib(std::process::id()).is_some_and(|kib| kib > 1_000));
        assert_eq!(resident_kib(u32::MAX), None);
    }

    #[test]
    fn cursors_survive_a_query() {
        assert_eq!(encoded("account-0003/driver:main/a1"), "account-0003%2Fdriver%3Amain%2Fa1");
    }

    #[test]
    fn a_lane_without_a_peak_is_over_its_bound() {
        let mut totals = Totals::default();
        let text = "# TYPE chargeplane_lane_limit_messages gauge\nchargeplane_lane_limit_messages{lane=\"money\"} 10\n";
        totals.observe((1, 2, String::new()), Scrape::parse(text));
        assert_eq!(figures(&totals).lanes["money"], (f64::MAX, 10.0));
    }
}
