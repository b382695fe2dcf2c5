//! The node under load: it runs in a child process until the parent kills it.

use super::journals::JournalAt;
use super::world::{self, Slot};
use anyhow::Context;
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::node::Node;
use chargeplane_actors::reply::{Answer, Answers};
use chargeplane_domain::account::AccountAnswer;
use chargeplane_domain::ids::{AccountId, SessionId};
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Zipf};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

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
    let counts = Arc::new(Counts::new(args.callers * args.outstanding));
    let mut ready = Vec::new();
    for caller in 0..args.callers {
        let (told, is_ready) = tokio::sync::oneshot::channel();
        let first = caller * args.outstanding;
        let caller = Caller::new(node.handle(), Arc::clone(&counts), first..first + args.outstanding, args.accounts)?;
        tokio::spawn(async move {
            if let Err(error) = caller.run(told).await {
                eprintln!("slots from {first}: {error:#}");
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

/// Answers to a caller, in the order of their arrival: one wake-up for as many as a commit lets out.
#[derive(Default)]
struct Collected {
    answers: Mutex<Vec<(u64, Answer<AccountAnswer>)>>,
    some: Notify,
}

impl Answers<AccountAnswer> for Collected {
    fn take(&self, number: u64, answer: Answer<AccountAnswer>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push((number, answer));
        if answers.len() == 1 {
            self.some.notify_one();
        }
    }
}

/// What a slot debits: a session on an account, authorised before its first debit.
struct Place {
    account: AccountId,
    session: SessionId,
    sequence: u32,
}

/// One debit outstanding at any time, on a session of the slot's own.
struct Outstanding {
    slot: Slot,
    random: ChaCha8Rng,
    places: BTreeMap<usize, Place>,
    /// The account of the command under way.
    on: usize,
    began: Instant,
}

/// A caller keeps a debit outstanding for each of its slots.
struct Caller {
    handle: NodeHandle,
    counts: Arc<Counts>,
    slots: Vec<Outstanding>,
    accounts: usize,
    popularity: Zipf<f64>,
    collected: Arc<Collected>,
}

impl Caller {
    fn new(
        handle: NodeHandle,
        counts: Arc<Counts>,
        slots: std::ops::Range<usize>,
        accounts: usize,
    ) -> anyhow::Result<Self> {
        let outstanding = |slot: usize| Outstanding {
            slot: Slot(slot),
            random: ChaCha8Rng::seed_from_u64(slot as u64),
            places: BTreeMap::new(),
            on: 0,
            began: Instant::now(),
        };
        let popularity = Zipf::new(accounts as f64, ZIPF)?;
        let collected = Arc::new(Collected::default());
        Ok(Self { handle, counts, slots: slots.map(outstanding).collect(), accounts, popularity, collected })
    }

    async fn run(mut self, ready: tokio::sync::oneshot::Sender<()>) -> anyhow::Result<()> {
        (0..self.slots.len()).try_for_each(|at| self.next(at))?;
        let (mut ready, mut authorised) = (Some(ready), 0usize);
        loop {
            self.collected.some.notified().await;
            let answers = std::mem::take(&mut *self.collected.answers.lock().unwrap_or_else(PoisonError::into_inner));
            for (number, answer) in answers {
                let at = usize::try_from(number)?;
                authorised += usize::from(self.answered(at, answer)?);
                if authorised == self.slots.len()
                    && let Some(ready) = ready.take()
                {
                    // Nobody waits for the last caller before the load begins: an error only where the parent is gone.
                    let _ = ready.send(());
                    // So that the callers do not march in step.
                    let micros = self.slots[0].random.random_range(0..1_000);
                    tokio::time::sleep(Duration::from_micros(micros)).await;
                }
                self.next(at)?;
            }
        }
    }

    /// Takes an answer in. True when it is that of an authorisation.
    fn answered(&mut self, at: usize, answer: Answer<AccountAnswer>) -> anyhow::Result<bool> {
        let slot = &self.slots[at];
        match answer {
            Ok(AccountAnswer::Debited(_)) => {
                self.counts.acknowledged(slot.slot.0, slot.began);
                Ok(false)
            }
            Ok(AccountAnswer::Authorised { .. }) => Ok(true),
            other => anyhow::bail!("slot {}, account {}: {other:?}", slot.slot.0, slot.on),
        }
    }

    /// Sends a slot's next debit, or the authorisation before its first on an account.
    fn next(&mut self, at: usize) -> anyhow::Result<()> {
        let slot = &mut self.slots[at];
        let waits_for_its_first = slot.places.get(&slot.on).is_some_and(|place| place.sequence == 0);
        if !waits_for_its_first && self.accounts > 1 {
            slot.on = (self.popularity.sample(&mut slot.random) as usize).clamp(1, self.accounts) - 1;
        }
        let (place, command) = match slot.places.entry(slot.on) {
            Entry::Occupied(known) => {
                let place = known.into_mut();
                place.sequence += 1;
                let command = world::debit(place.session.clone(), place.sequence);
                (place, command)
            }
            Entry::Vacant(free) => {
                let (account, session) = (world::account(slot.on)?, slot.slot.session(slot.on)?);
                let command = world::authorise(&session)?;
                (free.insert(Place { account, session, sequence: 0 }), command)
            }
        };
        slot.began = Instant::now();
        let answers: Arc<dyn Answers<AccountAnswer>> = Arc::clone(&self.collected) as _;
        self.handle.post(&place.account, command, &answers, at as u64);
        Ok(())
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
