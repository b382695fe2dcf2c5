//! Durable debits through the node's own actors, journal and settings, against a corrected Lua script in Redis.
//!
//! A child process runs a node (SQLite, its default durability, holds, keys and double entry on) and callers in
//! it that keep so many debits outstanding, each on a session of its own. After each shape's measurement the
//! load goes on while the parent kills the child with -9; the parent then opens the journal again with the
//! node's code and looks for every debit that the child had noted as acknowledged. Over TCP the callers are a
//! process of their own. Method: docs/measurements/ledger.md.

mod books;
mod journals;
mod load;
mod tcp;
mod world;

pub use load::{NodeArgs, run_node};
pub use tcp::{CallersArgs, run_callers};
pub(crate) use world::{ports, tariff};

use crate::Output;
use crate::redis_peer::RedisServer;
use crate::report::Report;
use anyhow::Context;
use journals::JournalAt;
use load::Figures;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the child runs on after it said its figures, until it is killed.
const RUN_ON: Duration = Duration::from_millis(700);

/// Accounts of the spread load.
const SPREAD: usize = 100_000;

/// How long a shard may take to fill, in seconds, before the reopening is given up.
const FILL_LIMIT: Duration = Duration::from_secs(900);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Entries in the shard that is opened again; 0 leaves that out
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Only the rows over TCP and those of the Redis and CQL journals
    #[arg(long)]
    wires: bool,
    /// Charge records in a store of which pages are asked for; ten million take long to make, so none unless given
    #[arg(long, default_value_t = 0)]
    records: u64,
    /// Directory on the disk to measure [default: the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Callers, debits that each has outstanding, and the accounts they are on.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub callers: usize,
    pub outstanding: usize,
    pub accounts: usize,
}

const HOT: Shape = Shape { callers: 64, outstanding: 16, accounts: 1 };
const WIDE: Shape = Shape { callers: 256, outstanding: 1, accounts: 1 };
const FEW: Shape = Shape { callers: 64, outstanding: 1, accounts: 1 };
const MANY: Shape = Shape { callers: 64, outstanding: 16, accounts: SPREAD };

/// The rows over TCP that have a goal.
const TCP_ROWS: [&str; 3] = ["tcp_vs_redis_always_p1", "tcp_vs_redis_always_p16", "tcp_vs_redis_everysec_p16"];

pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut report = Report::new("ledger", dir.path());
    let time = Duration::from_secs(args.seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let always = RedisServer::start(dir.path(), "always")?;
    let everysec = RedisServer::start(dir.path(), "everysec")?;

    let mut failed = Vec::new();
    if args.wires {
        let rows = over_tcp(dir.path(), args.seconds, (&runtime, &always, &everysec), &mut report);
        failed.extend(without(&mut report, &TCP_ROWS, rows));
        drop((always, everysec));
        failed.extend(on_servers(dir.path(), args.seconds, &mut report));
        return finish(&report, args, &failed);
    }
    let sqlite = JournalAt::Sqlite;
    let hot = measure(dir.path(), HOT, &sqlite, args.seconds, &mut report)?;
    report.result("hot_account_debits_per_s", hot.debits_per_s);
    report.result("hot_account_ack_ms_p50", hot.ack_ms_p50);
    report.result("hot_account_ack_ms_p99", hot.ack_ms_p99);
    for (shape, suffix) in [(WIDE, ""), (FEW, "_64")] {
        let ours = measure(dir.path(), shape, &sqlite, args.seconds, &mut report)?;
        report.result(&format!("hot_account_debits_per_s_{}x1", shape.callers), ours.debits_per_s);
        if shape.callers == FEW.callers {
            report.result("debit_ack_ms_p99_64_clients", ours.ack_ms_p99);
        }
        for (name, server) in [("always", &always), ("everysec", &everysec)] {
            let peer = runtime.block_on(server.debits_per_s(shape, time))?;
            report.peer(&format!("redis_{name}_debits_per_s_{}x1", shape.callers), peer);
            report.result(&format!("hot_account_vs_redis_{name}{suffix}"), ours.debits_per_s / peer);
        }
    }
    let rows = over_tcp(dir.path(), args.seconds, (&runtime, &always, &everysec), &mut report);
    failed.extend(without(&mut report, &TCP_ROWS, rows));
    drop((always, everysec));
    let spread = measure(dir.path(), MANY, &sqlite, args.seconds, &mut report)?;
    report.result("spread_accounts_debits_per_s", spread.debits_per_s);
    report.result("spread_accounts_ack_ms_p99", spread.ack_ms_p99);
    match args.entries {
        0 => report.missing("reopen_s_10m_entries", "left out by --entries 0"),
        entries => {
            let rows = reopen(dir.path(), entries, &mut report);
            failed.extend(without(&mut report, &["reopen_s_10m_entries"], rows));
        }
    }
    failed.extend(on_servers(dir.path(), args.seconds, &mut report));
    match args.records {
        0 => report.missing("record_query_ms_p99", "./dev bench records measures it; here with --records 10000000"),
        records => crate::records::measure(dir.path(), records, &mut report)?,
    }
    report.note("callers", "hot_account_debits_per_s: 64 callers with 16 debits outstanding each, in process");
    finish(&report, args, &failed)
}

/// The rows on journals that are servers. What failed.
fn on_servers(dir: &Path, seconds: u64, report: &mut Report) -> Vec<String> {
    let rows = journals::redis(dir, seconds, report);
    let redis = without(report, &["redis_journal_debits_per_s"], rows);
    let rows = journals::cql(dir, seconds, report);
    let cql = without(report, &["cql_journal_debits_per_s"], rows);
    redis.into_iter().chain(cql).collect()
}

/// Rows that failed are missing, with the reason, and the others are reported all the same.
fn without(report: &mut Report, names: &[&str], rows: anyhow::Result<()>) -> Option<String> {
    let why = format!("failed: {:#}", rows.err()?);
    for name in names {
        if !report.has(name) {
            report.missing(name, &why);
        }
    }
    Some(why)
}

/// Writes the report; a failure is one of the whole run.
fn finish(report: &Report, args: &Args, failed: &[String]) -> anyhow::Result<()> {
    report.finish(args.output.json.as_deref())?;
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Both sides over loopback TCP, 64 connections with 1 and 16 debits outstanding each.
fn over_tcp(
    dir: &Path,
    seconds: u64,
    (runtime, always, everysec): (&tokio::runtime::Runtime, &RedisServer, &RedisServer),
    report: &mut Report,
) -> anyhow::Result<()> {
    let time = Duration::from_secs(seconds);
    for shape in [FEW, HOT] {
        let outstanding = shape.outstanding;
        let ours = tcp::measure(dir, shape, seconds, report)?;
        report.result(&format!("tcp_debits_per_s_p{outstanding}"), ours.debits_per_s);
        report.result(&format!("tcp_ack_ms_p50_p{outstanding}"), ours.ack_ms_p50);
        report.result(&format!("tcp_ack_ms_p99_p{outstanding}"), ours.ack_ms_p99);
        for (name, server) in [("always", always), ("everysec", everysec)] {
            let peer = runtime.block_on(server.debits_per_s(shape, time))?;
            report.peer(&format!("redis_{name}_debits_per_s_tcp_p{outstanding}"), peer);
            report.result(&format!("tcp_vs_redis_{name}_p{outstanding}"), ours.debits_per_s / peer);
        }
    }
    Ok(())
}

fn start(data: &Path, noted: &Path, shape: Shape, journal: &JournalAt, seconds: u64) -> anyhow::Result<Child> {
    let _ = std::fs::remove_file(noted);
    let child = Command::new(std::env::current_exe()?)
        .arg("ledger-node")
        .arg("--data-dir")
        .arg(data)
        .arg("--acknowledged")
        .arg(noted)
        .args(["--journal", &journal.to_string()])
        .args(["--callers", &shape.callers.to_string(), "--outstanding", &shape.outstanding.to_string()])
        .args(["--accounts", &shape.accounts.to_string(), "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(child)
}

/// The counts that the callers wrote down last.
fn read_acknowledged(noted: &Path) -> anyhow::Result<Vec<u32>> {
    Ok(serde_json::from_slice(&std::fs::read(noted)?)?)
}

fn sum(acknowledged: &[u32]) -> u64 {
    acknowledged.iter().map(|count| u64::from(*count)).sum()
}

/// Bytes of a data directory's journal, the part of it included that is not copied into the file yet.
fn journal_bytes(data: &Path) -> anyhow::Result<u64> {
    let size = |name: &str| std::fs::metadata(data.join(name)).map_or(0, |file| file.len());
    Ok(size("journal.sqlite") + size("journal.sqlite-wal"))
}

/// One shape: a child under load, its figures, a kill, and the look at the books.
fn measure(
    dir: &Path,
    shape: Shape,
    journal: &JournalAt,
    seconds: u64,
    report: &mut Report,
) -> anyhow::Result<Figures> {
    let data = tempfile::tempdir_in(dir)?;
    let noted = dir.join("acknowledged");
    let mut child = start(data.path(), &noted, shape, journal, seconds)?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line);
    std::thread::sleep(RUN_ON);
    child.kill()?;
    child.wait()?;
    read?;
    let figures: Figures = serde_json::from_str(&line).context("the node under load said no figures")?;
    let acknowledged = read_acknowledged(&noted)?;
    let found = books::check(data.path(), journal, &acknowledged, shape.accounts)?;
    if *journal == JournalAt::Sqlite && shape.outstanding == HOT.outstanding && shape.accounts == 1 {
        report.result("bytes_per_entry", journal_bytes(data.path())? as f64 / found.stored as f64);
    }
    let on = match journal {
        JournalAt::Sqlite => "",
        JournalAt::Redis(_) => "redis_",
        JournalAt::Cql { .. } => "cql_",
    };
    let name = format!("kill_{on}{}x{}_{}_accounts", shape.callers, shape.outstanding, shape.accounts);
    let (sum, stored) = (sum(&acknowledged), found.stored);
    let text = format!("after kill -9: {sum} debits noted as acknowledged, every one found among {stored} stored");
    report.note(&name, text);
    Ok(figures)
}

/// Fills one shard through the node, kills it, and times how long it takes until the account is served again.
fn reopen(dir: &Path, entries: u64, report: &mut Report) -> anyhow::Result<()> {
    let data = tempfile::tempdir_in(dir)?;
    let noted = dir.join("acknowledged");
    let mut child = start(data.path(), &noted, HOT, &JournalAt::Sqlite, 1)?;
    let began = Instant::now();
    let mut filled = 0;
    while filled < entries && began.elapsed() < FILL_LIMIT {
        std::thread::sleep(Duration::from_millis(200));
        anyhow::ensure!(child.try_wait()?.is_none(), "the node under load ended by itself");
        filled = read_acknowledged(&noted).map_or(0, |counts| sum(&counts));
    }
    child.kill()?;
    child.wait()?;
    let found = books::check(data.path(), &JournalAt::Sqlite, &read_acknowledged(&noted)?, 1)?;
    let (stored, seconds) = (found.stored, found.reopened_in.as_secs_f64());
    if filled < entries {
        let why = format!("the shard had {stored} entries after {} s", FILL_LIMIT.as_secs());
        report.missing("reopen_s_10m_entries", &why);
    } else {
        report.result("reopen_s_10m_entries", seconds);
    }
    let text =
        format!("after kill -9: a node with a shard of {stored} debits serves it {seconds:.2} s after its start");
    report.note("reopen", text);
    Ok(())
}
