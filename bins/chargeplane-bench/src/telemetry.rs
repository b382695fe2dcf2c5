//! Telemetry from sealed batches to durable and acknowledged chunks, through the node's own actors and stores.
//!
//! A child process runs a node with its default settings and a generator in it. At the end of each measurement the
//! load goes on while the parent kills the child with -9; a fresh process then compares what the gateways were told
//! is durable with what is in the files. Method: docs/measurements/telemetry.md.

mod audit;
mod broker;
pub mod codec;
mod curve;
mod load;
mod stores;
mod world;

pub use audit::{AuditArgs, run as run_audit};
pub use load::{NodeArgs, run_node};

use crate::Output;
use crate::report::Report;
use anyhow::Context;
use audit::Found;
use load::Figures;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long the child runs on after it said its figures, until it is killed.
const RUN_ON: Duration = Duration::from_millis(700);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Ten minutes of steady load instead of one
    #[arg(long)]
    long: bool,
    /// Seconds of the steady load [default: 60, with --long 600]
    #[arg(long)]
    seconds: Option<u64>,
    /// Distinct chargers
    #[arg(long, default_value_t = 50_000)]
    chargers: usize,
    /// Directory on the disk to measure [default: the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// One run of the child.
struct Shape {
    /// Samples a second; 0 for as many as it takes.
    rate: u64,
    warm: u64,
    seconds: u64,
    events: bool,
    /// Through a broker.
    broker: Option<String>,
}

impl Shape {
    fn new(rate: u64, warm: u64, seconds: u64) -> Self {
        Self { rate, warm, seconds, events: false, broker: None }
    }
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let dir = dir.path();
    let mut report = Report::new("telemetry", dir);
    let seconds = args.seconds.unwrap_or(if args.long { 600 } else { 60 });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    let (full, found) = measure(dir, args, &Shape::new(0, 15, seconds), &mut report, "full")?;
    report.result("samples_per_s_sqlite", full.samples_per_s);
    report.result("bytes_per_value", found.file_bytes as f64 / (found.stored * 6) as f64);
    report.result("bytes_per_value_codec", found.chunk_bytes as f64 / (found.stored * 6) as f64);

    let at_500k = Shape::new(500_000, 35, 30.min(seconds));
    let (half_million, _) = measure(dir, args, &at_500k, &mut report, "500k")?;
    report.result("cores_at_500k", half_million.node_cores);
    report.result("rss_bytes_per_charging_charger", half_million.rss_bytes_per_charger);
    let text = "resident memory of the whole process, load included, less the empty node's, by chargers, at ten samples \
                a second each; their actors are not live, as no session is open: an idle ractor actor is another 10 KB";
    report.note("rss_bytes_per_charging_charger", text);
    match half_million.disk_busy_ratio {
        Some(busy) => report.result("disk_busy_ratio", busy),
        None => report.missing("disk_busy_ratio", "the directory is on no block device of its own"),
    }
    match half_million.disk_flushes_per_s {
        Some(flushes) => report.result("fsyncs_per_s_at_500k", flushes),
        None => report.missing("fsyncs_per_s_at_500k", "the directory is on no block device of its own"),
    }
    report.note("fsyncs_per_s_at_500k", "flush requests that the disk completed, those of other programs among them");

    let at_half = Shape { events: true, ..Shape::new(1_000_000, 20, 30.min(seconds)) };
    let (half, _) = measure(dir, args, &at_half, &mut report, "half")?;
    match (half.event_ack_ms_p50, half.event_ack_ms_p99) {
        (Some(p50), Some(p99)) => {
            report.result("event_ack_ms_p50", p50);
            report.result("event_ack_ms_p99", p99);
        }
        _ => {
            report.missing("event_ack_ms_p50", "no event was acknowledged");
            report.missing("event_ack_ms_p99", "no event was acknowledged");
        }
    }
    report.note("event_ack_ms", format!("{} events beside 1,000,000 samples/s", half.events));

    report.result(
        "bytes_per_value_hard",
        runtime.block_on(stores::hard_bytes_per_value(dir, args.chargers.min(20_000)))?,
    );
    let (raw, month) = runtime.block_on(stores::queries(dir))?;
    report.result("query_raw_hour_ms_p99", raw);
    report.result("query_rollup_month_ms_p99", month);
    let (rows, bytes) = stores::row_per_sample(dir, Duration::from_secs(15.min(seconds)))?;
    report.peer("sqlite_row_per_sample_samples_per_s", rows);
    report.peer("sqlite_row_per_sample_bytes_per_value", bytes);
    report.result("samples_per_s_vs_row_per_sample", full.samples_per_s / rows);

    for name in ["samples_per_s_cql", "cql_writes_per_s"] {
        report.missing(name, "this benchmark does not drive the CQL store yet");
    }
    let mqtt = over_mqtt(dir, args, seconds, &mut report);
    if let Err(error) = &mqtt {
        report.missing("samples_per_s_mqtt_sqlite", &format!("failed: {error:#}"));
    }
    report.finish(args.output.json.as_deref())?;
    mqtt
}

/// The same through a real Mosquitto, which shares the cores.
fn over_mqtt(dir: &Path, args: &Args, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
    let config = tempfile::tempdir_in(dir)?;
    let broker = broker::Mosquitto::start(config.path())?;
    let shape = Shape { broker: Some(broker.address()), ..Shape::new(0, 15, 30.min(seconds)) };
    let (mqtt, _) = measure(dir, args, &shape, report, "mqtt")?;
    report.result("samples_per_s_mqtt_sqlite", mqtt.samples_per_s);
    Ok(())
}

/// A child under load, its figures, a kill, and the audit by a fresh process.
fn measure(
    dir: &Path,
    args: &Args,
    shape: &Shape,
    report: &mut Report,
    name: &str,
) -> anyhow::Result<(Figures, Found)> {
    let data = tempfile::tempdir_in(dir)?;
    let noted = dir.join("acknowledged");
    let _ = std::fs::remove_file(&noted);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("telemetry-node").arg("--data-dir").arg(data.path()).arg("--acknowledged").arg(&noted);
    command.args(["--chargers", &args.chargers.to_string(), "--rate", &shape.rate.to_string()]);
    command.args(["--warm", &shape.warm.to_string(), "--seconds", &shape.seconds.to_string()]);
    if shape.events {
        command.arg("--events");
    }
    if let Some(broker) = &shape.broker {
        command.args(["--broker", broker]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line);
    std::thread::sleep(RUN_ON);
    child.kill()?;
    child.wait()?;
    read?;
    let figures: Figures = serde_json::from_str(&line).context("the node under load said no figures")?;
    let mut audit = Command::new(std::env::current_exe()?);
    audit.arg("telemetry-audit").arg("--data-dir").arg(data.path()).arg("--acknowledged").arg(&noted);
    let output = audit.args(["--start-ms", &figures.start_ms.to_string()]).stderr(Stdio::inherit()).output()?;
    let found: Found = serde_json::from_slice(&output.stdout).context("the audit said nothing")?;
    println!("{name}: {figures:?}");
    println!("{name}: {found:?}");
    anyhow::ensure!(found.missing == 0 && found.different == 0, "{name}: {found:?}");
    anyhow::ensure!(
        figures.shed == 0,
        "{name}: the node shed {} batches, which the load does not repeat",
        figures.shed
    );
    let text = format!(
        "{:.0} samples/s acknowledged of {:.0} offered in {} s, {:.0} chunks/s, acknowledged after {:.0} ms (p50) and \
         {:.0} ms (p99), the node used {:.2} cores and the generator {:.2}; after kill -9 all of {} acknowledged \
         samples were found among {} stored, in {} chunks",
        figures.samples_per_s,
        figures.offered_per_s,
        shape.seconds,
        figures.chunks_per_s,
        figures.sample_ack_ms_p50,
        figures.sample_ack_ms_p99,
        figures.node_cores,
        figures.maker_cores,
        found.acknowledged,
        found.stored,
        found.chunks,
    );
    report.note(&format!("run_{name}"), text);
    Ok((figures, found))
}
