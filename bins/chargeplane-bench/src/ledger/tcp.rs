//! The books over TCP: a node that serves them, callers in a process of their own, and the rows made of both.
//!
//! Every connection keeps so many debits outstanding, each on a session of its own: when answers come, as many as the
//! read brought, their successors leave in one write.

use super::journals::JournalAt;
use super::load::{Counts, Figures};
use super::world::{self, Slot};
use super::{RUN_ON, Shape, books, read_acknowledged, sum};
use crate::report::Report;
use anyhow::Context;
use chargeplane_actors::node::Node;
use chargeplane_api::auth::{Scope, Tokens};
use chargeplane_api::ledger::client::{ClientError, LedgerClient};
use chargeplane_api::ledger::{self, LedgerOptions};
use chargeplane_domain::account::AccountAnswer;
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_protocol::ledger::{Outcome, Response};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The node is this run's own, and listens on loopback.
const TOKEN: &str = "the-bench-shows-this-to-its-node";

/// Linux tells processor times in hundredths of a second, whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, clap::Args)]
pub struct CallersArgs {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    callers: usize,
    #[arg(long)]
    outstanding: usize,
    #[arg(long)]
    seconds: u64,
    #[arg(long)]
    acknowledged: PathBuf,
}

/// The child that is the node: it says where it listens, and serves until it is killed.
pub async fn serve(node: &Node) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let options = LedgerOptions::new(Tokens::new([(TOKEN.to_owned(), Scope::AllTenants)]));
    ledger::serve(listener, node.handle(), options, std::future::pending()).await;
    Ok(())
}

/// The child that calls it: load until the node is gone; then what was acknowledged is written down.
pub fn run_callers(args: &CallersArgs) -> anyhow::Result<()> {
    // One thread: it needs no more than what it leaves the node of two cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(call(args))
}

async fn call(args: &CallersArgs) -> anyhow::Result<()> {
    let account = world::account(0)?;
    let opened = LedgerClient::connect(args.address, TOKEN).await?.call(&account, &world::open()?).await?;
    anyhow::ensure!(matches!(opened, Outcome::Done(AccountAnswer::Opened(_))), "opening: {opened:?}");
    let counts = Arc::new(Counts::new(args.callers * args.outstanding));
    let mut pipelines = Vec::new();
    for caller in 0..args.callers {
        let slots = (caller * args.outstanding..).take(args.outstanding);
        pipelines.push(Pipeline::start(args.address, account.clone(), slots, Arc::clone(&counts)).await?);
    }
    let mut callers: JoinSet<anyhow::Result<()>> = JoinSet::new();
    for pipeline in pipelines {
        callers.spawn(pipeline.run());
    }
    let figures = tokio::select! {
        figures = counts.measure(Duration::from_secs(args.seconds)) => figures?,
        ended = callers.join_next() => anyhow::bail!("a caller ended: {ended:?}"),
    };
    println!("{}", serde_json::to_string(&figures)?);
    while let Some(ended) = callers.join_next().await {
        let error = ended?.err().context("a caller ended by itself")?;
        // The node was killed. Anything else is a wrong answer.
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::Io(_) | ClientError::Ended) => {}
            _ => return Err(error),
        }
    }
    counts.write_to(&args.acknowledged)?;
    Ok(())
}

/// One connection and its debits.
struct Pipeline {
    client: LedgerClient,
    account: AccountId,
    lines: Vec<Line>,
    counts: Arc<Counts>,
}

/// One debit outstanding.
struct Line {
    slot: Slot,
    session: SessionId,
    sequence: u32,
    began: Instant,
}

impl Pipeline {
    async fn start(
        address: SocketAddr,
        account: AccountId,
        slots: impl Iterator<Item = usize>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<Self> {
        let mut client = LedgerClient::connect(address, TOKEN).await?;
        let mut lines = Vec::new();
        for slot in slots.map(Slot) {
            let session = slot.session(0)?;
            client.put(0, &account, &world::authorise(&session)?)?;
            lines.push(Line { slot, session, sequence: 0, began: Instant::now() });
        }
        client.flush().await?;
        for _ in &lines {
            let Response(_, outcome) = client.answer().await?;
            anyhow::ensure!(matches!(outcome, Outcome::Done(AccountAnswer::Authorised { .. })), "a hold: {outcome:?}");
        }
        Ok(Self { client, account, lines, counts })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        for number in 0..self.lines.len() {
            self.put_next(number, now)?;
        }
        loop {
            self.client.flush().await?;
            let mut response = Some(self.client.answer().await?);
            let now = Instant::now();
            while let Some(Response(number, outcome)) = response {
                let number = usize::try_from(number)?;
                let line = self.lines.get(number).context("an answer under a number that was not given")?;
                match outcome {
                    Outcome::Done(AccountAnswer::Debited(debited)) if debited.sequence == line.sequence => {}
                    other => anyhow::bail!("{}, sequence {}: {other:?}", line.session, line.sequence),
                }
                self.counts.acknowledged(line.slot.0, line.began);
                self.put_next(number, now)?;
                response = self.client.arrived()?;
            }
        }
    }

    fn put_next(&mut self, number: usize, now: Instant) -> anyhow::Result<()> {
        let line = &mut self.lines[number];
        (line.sequence, line.began) = (line.sequence + 1, now);
        let debit = world::debit(line.session.clone(), line.sequence);
        Ok(self.client.put(number as u64, &self.account, &debit)?)
    }
}

/// One shape: a node, its callers, their figures, a kill of the node, and the look at the books.
pub fn measure(dir: &Path, shape: Shape, seconds: u64, report: &mut Report) -> anyhow::Result<Figures> {
    let data = tempfile::tempdir_in(dir)?;
    let noted = dir.join("acknowledged");
    let _ = std::fs::remove_file(&noted);
    let program = std::env::current_exe()?;
    let mut node = Command::new(&program)
        .args(["ledger-node", "--serve", "--data-dir"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let run = callers_of(&program, &mut node, shape, seconds, &noted);
    let cpu = cpu_seconds(node.id());
    node.kill()?;
    node.wait()?;
    let (figures, mut callers) = run?;
    anyhow::ensure!(callers.wait()?.success(), "the callers failed after the node was killed");
    let acknowledged = read_acknowledged(&noted)?;
    let found = books::check(data.path(), &JournalAt::Sqlite, &acknowledged, shape.accounts)?;
    let name = format!("tcp_{}x{}", shape.callers, shape.outstanding);
    if let Some(cpu) = cpu {
        report.result(&format!("{name}_node_cpu_us_per_debit"), cpu * 1e6 / found.stored as f64);
    }
    let (sum, stored) = (sum(&acknowledged), found.stored);
    let text = format!("after kill -9: {sum} debits acknowledged over TCP, every one found among {stored} stored");
    report.note(&format!("kill_{name}"), text);
    Ok(figures)
}

/// Starts the callers and waits for their figures; they run on.
fn callers_of(
    program: &Path,
    node: &mut Child,
    shape: Shape,
    seconds: u64,
    noted: &Path,
) -> anyhow::Result<(Figures, Child)> {
    let mut address = String::new();
    BufReader::new(node.stdout.take().context("piped")?).read_line(&mut address)?;
    let mut callers = Command::new(program)
        .args(["ledger-callers", "--address", address.trim()])
        .args(["--callers", &shape.callers.to_string(), "--outstanding", &shape.outstanding.to_string()])
        .args(["--seconds", &seconds.to_string(), "--acknowledged"])
        .arg(noted)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(callers.stdout.take().context("piped")?).read_line(&mut line)?;
    let figures = serde_json::from_str(&line).context("the callers said no figures");
    match figures {
        Ok(figures) => {
            std::thread::sleep(RUN_ON);
            Ok((figures, callers))
        }
        Err(error) => {
            let _ = callers.kill();
            callers.wait()?;
            Err(error)
        }
    }
}

/// Processor time that a process has used, its start included.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, which may hold anything, ends with the last parenthesis; fields 14 and 15 are user and system.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / TICKS_PER_SECOND)
}
