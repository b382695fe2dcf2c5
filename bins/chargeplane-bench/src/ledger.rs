//! Durable debits on one hot account, through the node's own actors, journal and settings.
//!
//! A child process runs a node (SQLite, its default durability, holds, keys and double entry on) and callers in
//! it that keep so many debits outstanding, each on a session of its own. After each shape's measurement the
//! load goes on while the parent kills the child with -9; the parent then opens the journal again with the
//! node's code and looks for every debit that the child had noted as acknowledged.

use crate::Output;
use crate::redis_peer::RedisServer;
use crate::report::Report;
use anyhow::Context;
use chargeplane_actors::entry::{self, StoredEntry};
use chargeplane_actors::handle::CallError;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_cluster::journal::Journal;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountEvent, AccountKind, Holder};
use chargeplane_domain::allocation::lp::{Programme, SolveDone, Solver, SolverBusy};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::placement::{Family, shard_of};
use chargeplane_domain::tariff::{PERIODS, Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use chargeplane_sqlite::{DataDir, SqliteJournal, Stores};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Watt-hours of one debit.
const DEBIT_WH: i64 = 100;

/// How often the child writes down what was acknowledged.
const NOTE_EVERY: Duration = Duration::from_millis(100);

/// How long the child runs on after it said its figures, until it is killed.
const RUN_ON: Duration = Duration::from_millis(700);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Directory on the disk to measure [default: the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    acknowledged: PathBuf,
    #[arg(long)]
    callers: usize,
    #[arg(long)]
    outstanding: usize,
    #[arg(long)]
    seconds: u64,
}

/// Callers, and debits that each has outstanding.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub callers: usize,
    pub outstanding: usize,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Figures {
    debits_per_s: f64,
    ack_ms_p50: f64,
    ack_ms_p99: f64,
}

const HOT: Shape = Shape { callers: 64, outstanding: 16 };
const WIDE: Shape = Shape { callers: 256, outstanding: 1 };
const FEW: Shape = Shape { callers: 64, outstanding: 1 };

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

    let hot = measure(dir.path(), HOT, args.seconds, &mut report)?;
    report.result("hot_account_debits_per_s", hot.debits_per_s);
    report.result("hot_account_ack_ms_p50", hot.ack_ms_p50);
    report.result("hot_account_ack_ms_p99", hot.ack_ms_p99);
    for (shape, suffix) in [(WIDE, ""), (FEW, "_64")] {
        let ours = measure(dir.path(), shape, args.seconds, &mut report)?;
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
    for name in ["tcp_vs_redis_always_p1", "tcp_vs_redis_always_p16", "tcp_vs_redis_everysec_p16"] {
        report.missing(name, "there is no TCP front for debits yet");
    }
    for name in ["redis_journal_debits_per_s", "cql_journal_debits_per_s"] {
        report.missing(name, "this journal does not exist yet");
    }
    for name in ["spread_accounts_debits_per_s", "reopen_s_10m_entries", "record_query_ms_p99"] {
        report.missing(name, "not measured yet");
    }
    report.note("callers", "hot_account_debits_per_s: 64 callers with 16 debits outstanding each, in process");
    report.finish(args.output.json.as_deref())
}

/// One shape: a child under load, its figures, a kill, and the look at the books.
fn measure(dir: &Path, shape: Shape, seconds: u64, report: &mut Report) -> anyhow::Result<Figures> {
    let data = tempfile::tempdir_in(dir)?;
    let noted = dir.join("acknowledged");
    let mut child = Command::new(std::env::current_exe()?)
        .arg("ledger-node")
        .arg("--data-dir")
        .arg(data.path())
        .arg("--acknowledged")
        .arg(&noted)
        .args(["--callers", &shape.callers.to_string(), "--outstanding", &shape.outstanding.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line);
    std::thread::sleep(RUN_ON);
    child.kill()?;
    child.wait()?;
    read?;
    let figures: Figures = serde_json::from_str(&line).context("the node under load said no figures")?;
    let log_bytes = std::fs::metadata(data.path().join("journal.sqlite"))?.len();
    let acknowledged: Vec<u32> = serde_json::from_slice(&std::fs::read(&noted)?)?;
    let stored = reopen(data.path(), shape, &acknowledged)?;
    let name = format!("{}x{}", shape.callers, shape.outstanding);
    if shape.outstanding == HOT.outstanding {
        report.result("bytes_per_entry", log_bytes as f64 / stored as f64);
    }
    let sum: u64 = acknowledged.iter().map(|count| u64::from(*count)).sum();
    let text = format!("after kill -9: {sum} debits noted as acknowledged, every one found among {stored} stored");
    report.note(&format!("kill_{name}"), text);
    Ok(figures)
}

/// Opens the books again and compares: the log as it is read back, and the balance that a new node serves.
/// Returns the debits stored.
fn reopen(data: &Path, shape: Shape, acknowledged: &[u32]) -> anyhow::Result<u64> {
    let slots = shape.callers * shape.outstanding;
    anyhow::ensure!(acknowledged.len() == slots, "sessions are missing from the notes");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (stored, taken) = read_log(data).await?;
        for (slot, count) in acknowledged.iter().enumerate() {
            let found = stored.get(&session(slot)?).copied().unwrap_or(0);
            anyhow::ensure!(found >= *count, "session {slot}: {count} acknowledged, {found} in the log");
        }
        let node = start_node(data).await?;
        let served = node.handle().account(&account()?).await?.balance;
        anyhow::ensure!(served == taken.negated(), "the log took {taken:?}, the node serves {served:?}");
        node.drain().await;
        Ok(stored.values().map(|sequence| u64::from(*sequence)).sum())
    })
}

/// The last sequence of each session in the log, none left out or doubled, and all money taken.
async fn read_log(data: &Path) -> anyhow::Result<(BTreeMap<SessionId, u32>, Money)> {
    let journal = SqliteJournal::open(&DataDir::lock(data)?)?;
    let shard = shard_of(Family::Account, account()?.as_str(), NodeConfig::new("bench").shards);
    let (mut last, mut taken, mut after) = (BTreeMap::<SessionId, u32>::new(), Money::ZERO, 0);
    loop {
        let frames = journal.read(shard, after, 64).await?;
        let Some(end) = frames.last() else { return Ok((last, taken)) };
        after = end.lsn;
        for frame in &frames {
            for entry in entry::read(&frame.payload)? {
                let StoredEntry::Entity { event, .. } = entry else { continue };
                let AccountEvent::Debited { session, sequence, energy, service, .. } = event.decode()? else {
                    continue;
                };
                taken = Money(taken.0 + energy.0 + service.0);
                let before = last.insert(session.clone(), sequence).unwrap_or(0);
                anyhow::ensure!(sequence == before + 1, "{session}: {sequence} follows {before}");
            }
        }
    }
}

/// The child: load until it is killed.
pub fn run_node(args: &NodeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(load(args))
}

struct Counts {
    acknowledged: Vec<AtomicU32>,
    debits: AtomicU64,
    times: Mutex<Option<Histogram<u64>>>,
}

async fn load(args: &NodeArgs) -> anyhow::Result<()> {
    let node = start_node(&args.data_dir).await?;
    let account = account()?;
    let open = AccountCommand::Open {
        key: "open".into(),
        currency: currency()?,
        kind: AccountKind::Credit { limit: Money(5_000_000_000_000) },
        holder: Holder::Fleet,
        at: Timestamp(0),
    };
    node.handle().account_command(account.clone(), open).await?;
    let slots = args.callers * args.outstanding;
    let counts = Arc::new(Counts {
        acknowledged: (0..slots).map(|_| AtomicU32::new(0)).collect(),
        debits: AtomicU64::new(0),
        times: Mutex::new(None),
    });
    for slot in 0..slots {
        let (handle, counts) = (node.handle(), Arc::clone(&counts));
        let (account, session, tariff) = (account.clone(), session(slot)?, tariff()?);
        let operator = "main/op".parse()?;
        let (want, reserve) = (Money(20_000), Money(2_000));
        let hold = AccountCommand::Authorise {
            session: session.clone(),
            operator,
            tariff: tariff.clone(),
            split: None,
            want,
            reserve,
            at: Timestamp(1),
        };
        handle.account_command(account.clone(), hold).await?;
        tokio::spawn(async move {
            for sequence in 1u32.. {
                let meter = WattHours(i64::from(sequence) * DEBIT_WH);
                let mut by_period = [WattHours::ZERO; PERIODS];
                by_period[0] = meter;
                let cumulative = tariff.price(&by_period);
                let debit = AccountCommand::Debit {
                    session: session.clone(),
                    sequence,
                    meter,
                    by_period,
                    cumulative,
                    hold_target: Money(20_000),
                    at: Timestamp(i64::from(sequence)),
                };
                let began = Instant::now();
                match handle.account_command(account.clone(), debit).await {
                    Ok(AccountAnswer::Debited(_)) => counts.acknowledged(slot, sequence, began),
                    other => {
                        eprintln!("slot {slot}, sequence {sequence}: {other:?}");
                        std::process::exit(1);
                    }
                }
            }
        });
    }
    note(Arc::clone(&counts), args.acknowledged.clone());
    let time = Duration::from_secs(args.seconds);
    tokio::time::sleep(time / 4).await;
    *counts.times() = Some(Histogram::new_with_bounds(1, 60_000_000, 3)?);
    let (before, began) = (counts.debits.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(time).await;
    let rate = (counts.debits.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    let times = counts.times().take().context("measured")?;
    let quantile = |q: f64| times.value_at_quantile(q) as f64 / 1e3;
    let figures = Figures { debits_per_s: rate, ack_ms_p50: quantile(0.50), ack_ms_p99: quantile(0.99) };
    println!("{}", serde_json::to_string(&figures)?);
    std::future::pending::<()>().await;
    Ok(())
}

impl Counts {
    fn times(&self) -> std::sync::MutexGuard<'_, Option<Histogram<u64>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self, slot: usize, sequence: u32, began: Instant) {
        self.acknowledged[slot].store(sequence, Ordering::Release);
        let count = self.debits.fetch_add(1, Ordering::Relaxed);
        // One in eight is timed: the lock must not be what is measured.
        if count.is_multiple_of(8)
            && let Some(times) = self.times().as_mut()
        {
            times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// Writes down what was acknowledged, whole or not at all.
fn note(counts: Arc<Counts>, file: PathBuf) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(NOTE_EVERY);
            let seen: Vec<u32> = counts.acknowledged.iter().map(|count| count.load(Ordering::Acquire)).collect();
            let fresh = file.with_extension("new");
            let written = serde_json::to_vec(&seen).map_err(std::io::Error::other);
            let written = written.and_then(|bytes| std::fs::write(&fresh, bytes));
            if written.and_then(|()| std::fs::rename(&fresh, &file)).is_err() {
                std::process::exit(1);
            }
        }
    });
}

async fn start_node(data: &Path) -> anyhow::Result<Node> {
    let dir = DataDir::lock(data)?;
    let stores = tokio::task::spawn_blocking(move || Stores::open(&dir)).await??;
    let ports = Ports {
        journal: Arc::new(stores.journal),
        coordination: Arc::new(stores.coordination),
        telemetry: Arc::new(stores.telemetry),
        catalogue: Arc::new(stores.catalogue),
        projections: Arc::new(stores.projections),
        solver: Arc::new(NoSolver),
    };
    let node = Node::start(NodeConfig::new("bench"), ports).await?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while let Err(CallError::NotServing(shard)) = node.handle().account(&account()?).await {
        anyhow::ensure!(Instant::now() < deadline, "{shard} does not open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(node)
}

/// No station is in this node's catalogue.
struct NoSolver;

impl Solver for NoSolver {
    fn submit(&self, _: Programme, _: u64, _: SolveDone) -> Result<(), SolverBusy> {
        Err(SolverBusy)
    }
}

fn currency() -> anyhow::Result<Currency> {
    Ok(Currency::new("CNY")?)
}

fn account() -> anyhow::Result<AccountId> {
    Ok("main/fleet".parse()?)
}

fn session(slot: usize) -> anyhow::Result<SessionId> {
    Ok(format!("main/s{slot:05}").parse()?)
}

fn tariff() -> anyhow::Result<Tariff> {
    let price = Price { energy: Money(8_000), service: Money(1_000) };
    Ok(Tariff { currency: currency()?, prices: [price; PERIODS], slots: Slots::uniform(0).context("period 0 exists")? })
}
