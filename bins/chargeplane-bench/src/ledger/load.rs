//! The node under load: it runs in a child process until the parent kills it.

use super::journals::JournalAt;
use super::world::{self, Slot};
use anyhow::Context;
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::node::Node;
use chargeplane_domain::account::AccountAnswer;
use chargeplane_domain::ids::SessionId;
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Zipf};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the child writes down what was acknowledged.
const NOTE_EVERY: Duration = Duration::from_millis(100);

/// Accounts are opened so many at a time.
const OPENED_AT_ONCE: usize = 512;

/// Exponent of the accounts' popularity.
const ZIPF: f64 = 1.0;

#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    #[arg(long)]
    data_dir: PathBuf,
    /// Where the books are
    #[arg(long, default_value = "sqlite")]
    journal: JournalAt,
    /// Serve the books over TCP, and make no load
    #[arg(long, conflicts_with_all = ["acknowledged", "callers", "outstanding"])]
    serve: bool,
    #[arg(long, required_unless_present = "serve")]
    acknowledged: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    callers: usize,
    #[arg(long, default_value_t = 1)]
    outstanding: usize,
    /// 1: one hot account; more: drawn by Zipf's law for each debit
    #[arg(long, default_value_t = 1)]
    accounts: usize,
    #[arg(long, default_value_t = 1)]
    seconds: u64,
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Figures {
    pub debits_per_s: f64,
    pub ack_ms_p50: f64,
    pub ack_ms_p99: f64,
}

/// The child: load until it is killed.
pub fn run_node(args: &NodeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let node = world::start_node(&args.data_dir, &args.journal).await?;
        if args.serve { super::tcp::serve(&node).await } else { load(&node, args).await }
    })
}

/// What a process of callers knows of its debits.
pub struct Counts {
    /// Debits acknowledged, by slot.
    acknowledged: Vec<AtomicU32>,
    debits: AtomicU64,
    times: Mutex<Option<Histogram<u64>>>,
}

async fn load(node: &Node, args: &NodeArgs) -> anyhow::Result<()> {
    open_accounts(&node.handle(), args.accounts).await?;
    let slots = args.callers * args.outstanding;
    let counts = Arc::new(Counts::new(slots));
    let mut ready = Vec::new();
    for slot in 0..slots {
        let (told, is_ready) = tokio::sync::oneshot::channel();
        let caller = Caller { handle: node.handle(), counts: Arc::clone(&counts), slot: Slot(slot) };
        let accounts = args.accounts;
        tokio::spawn(async move {
            if let Err(error) = caller.run(accounts, told).await {
                eprintln!("slot {slot}: {error:#}");
                std::process::exit(1);
            }
        });
        ready.push(is_ready);
    }
    for is_ready in ready {
        is_ready.await?;
    }
    note(Arc::clone(&counts), args.acknowledged.clone().context("--acknowledged")?);
    let figures = counts.measure(Duration::from_secs(args.seconds)).await?;
    println!("{}", serde_json::to_string(&figures)?);
    std::future::pending::<()>().await;
    Ok(())
}

async fn open_accounts(handle: &NodeHandle, accounts: usize) -> anyhow::Result<()> {
    for first in (0..accounts).step_by(OPENED_AT_ONCE) {
        let mut waits = Vec::new();
        for number in first..accounts.min(first + OPENED_AT_ONCE) {
            let (handle, account, open) = (handle.clone(), world::account(number)?, world::open()?);
            waits.push(tokio::spawn(async move { handle.account_command(account, open).await }));
        }
        for wait in waits {
            wait.await??;
        }
    }
    Ok(())
}

/// One debit outstanding at any time, each on a session of its own.
struct Caller {
    handle: NodeHandle,
    counts: Arc<Counts>,
    slot: Slot,
}

impl Caller {
    async fn run(self, accounts: usize, ready: tokio::sync::oneshot::Sender<()>) -> anyhow::Result<()> {
        let mut sequences: BTreeMap<usize, (SessionId, u32)> = BTreeMap::new();
        let mut random = ChaCha8Rng::seed_from_u64(self.slot.0 as u64);
        let popularity = Zipf::new(accounts as f64, ZIPF)?;
        let draw = |random: &mut ChaCha8Rng| match accounts {
            1 => 0,
            _ => (popularity.sample(random) as usize).clamp(1, accounts) - 1,
        };
        let first = draw(&mut random);
        sequences.insert(first, (self.authorise(first).await?, 0));
        // Nobody waits for the last slot before the load begins: it is an error only where the parent is gone.
        let _ = ready.send(());
        // So that the slots do not march in step.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..1_000))).await;
        loop {
            let number = draw(&mut random);
            let (session, sequence) = match sequences.get_mut(&number) {
                Some(known) => known,
                None => {
                    let session = self.authorise(number).await?;
                    sequences.entry(number).or_insert((session, 0))
                }
            };
            *sequence += 1;
            self.debit(number, session.clone(), *sequence).await?;
        }
    }

    async fn authorise(&self, number: usize) -> anyhow::Result<SessionId> {
        let session = self.slot.session(number)?;
        self.handle.account_command(world::account(number)?, world::authorise(&session)?).await?;
        Ok(session)
    }

    async fn debit(&self, number: usize, session: SessionId, sequence: u32) -> anyhow::Result<()> {
        let debit = world::debit(session, sequence);
        let began = Instant::now();
        let answer: Result<AccountAnswer, CallError> =
            self.handle.account_command(world::account(number)?, debit).await;
        match answer {
            Ok(AccountAnswer::Debited(_)) => {
                self.counts.acknowledged(self.slot.0, began);
                Ok(())
            }
            other => anyhow::bail!("account {number}, sequence {sequence}: {other:?}"),
        }
    }
}

impl Counts {
    pub fn new(slots: usize) -> Self {
        Self {
            acknowledged: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            debits: AtomicU64::new(0),
            times: Mutex::new(None),
        }
    }

    /// Lets the load run in, then measures it for so long.
    pub async fn measure(&self, time: Duration) -> anyhow::Result<Figures> {
        tokio::time::sleep(time / 4).await;
        *self.times() = Some(Histogram::new_with_bounds(1, 60_000_000, 3)?);
        let (before, began) = (self.debits.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        let rate = (self.debits.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        let times = self.times().take().context("measured")?;
        let quantile = |q: f64| times.value_at_quantile(q) as f64 / 1e3;
        Ok(Figures { debits_per_s: rate, ack_ms_p50: quantile(0.50), ack_ms_p99: quantile(0.99) })
    }

    /// Writes down what was acknowledged, whole or not at all.
    pub fn write_to(&self, file: &Path) -> std::io::Result<()> {
        let seen: Vec<u32> = self.acknowledged.iter().map(|count| count.load(Ordering::Acquire)).collect();
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&seen).map_err(std::io::Error::other)?)?;
        std::fs::rename(&fresh, file)
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Option<Histogram<u64>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acknowledged(&self, slot: usize, began: Instant) {
        self.acknowledged[slot].fetch_add(1, Ordering::Release);
        let count = self.debits.fetch_add(1, Ordering::Relaxed);
        // One in eight is timed: the lock must not be what is measured.
        if count.is_multiple_of(8)
            && let Some(times) = self.times().as_mut()
        {
            times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    }
}

/// Writes down again and again what was acknowledged.
fn note(counts: Arc<Counts>, file: PathBuf) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(NOTE_EVERY);
            if counts.write_to(&file).is_err() {
                std::process::exit(1);
            }
        }
    });
}
