//! The node under test: starts it, kills it on order, and notices when somebody else did.
//!
//! One keeper thread owns the child. A node that dies without an order is *lost*: the restart command is
//! printed, a node that somebody starts with it is adopted as soon as it answers, and after
//! [`OWN_RESTART`] the keeper starts one by itself. When none serves within [`LOST_FOR`], the run is over.
//! That holds at every moment: a node killed before it ever served is started again at once, and one killed
//! while it drains is started again and drained again.

use crate::http::{Answer, Client};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so long without a node the keeper starts one by itself.
pub const OWN_RESTART: Duration = Duration::from_secs(15);

/// After so long without a serving node the run ends with a harness error.
pub const LOST_FOR: Duration = Duration::from_secs(120);

/// How long a node may take to drain after SIGTERM.
const DRAIN: Duration = Duration::from_secs(60);

/// A drain that somebody's signal broke off is begun again so often.
const DRAINS: u32 = 5;

/// A node that signals end before it ever served is started again so often.
const FIRST_STARTS: u32 = 5;

const POLL: Duration = Duration::from_millis(200);

/// How the node is started, the first time and every other.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// The `chargeplane` binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where its output goes, appended.
    pub log: PathBuf,
    /// Base URL of its API.
    pub base: String,
    /// Where the node keeps its API token.
    pub token_file: PathBuf,
}

/// A process of the node: incarnation, pid, start time. No two of a run are alike.
pub type Process = (u64, u32, String);

/// What is known of the node.
#[derive(Debug, Clone, Default)]
pub struct NodeState {
    /// The process that serves or starts now.
    pub pid: Option<u32>,
    /// True when `/readyz` answered 200 at the last look.
    pub ready: bool,
    /// Processes that were seen serving.
    pub seen: BTreeSet<Process>,
    /// Kills ordered by the scenario that were carried out.
    pub ordered_kills: u32,
    /// Stops (SIGTERM) ordered by the scenario, and how each ended.
    pub ordered_stops: Vec<DrainOutcome>,
    /// Deaths nobody ordered.
    pub unexpected_deaths: u32,
    /// It ended by itself before it was ever ready: there is no point in waiting.
    pub failed_to_start: Option<String>,
    /// The process was started by somebody else.
    pub adopted: bool,
    /// Lines for the person who watches.
    pub news: Vec<String>,
    /// The run cannot go on.
    pub fatal: Option<String>,
}

impl NodeState {
    /// How often another process took over, by what was observed.
    pub fn restarts(&self) -> u64 {
        (self.seen.len() as u64).saturating_sub(1)
    }
}

enum Order {
    Kill,
    Stop,
    Drain(Sender<DrainOutcome>),
    End(Sender<DrainOutcome>),
    Leave,
}

/// How the node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainOutcome {
    /// It exited after SIGTERM with this code.
    Exit(i32),
    /// SIGTERM ended it: it did not drain.
    Signalled,
    /// Another signal ended it, which was not ours.
    Killed(i32),
    /// It was not our child: it is gone, its code is not to be learnt.
    GoneUnseen,
    /// It did not exit in time and was killed.
    TimedOut,
    /// There was no node to drain.
    NoNode,
}

/// Handle on the keeper.
#[derive(Clone)]
pub struct Node {
    state: Arc<Mutex<NodeState>>,
    orders: Sender<Order>,
}

impl NodeSpec {
    /// The command a person can paste to start the node again.
    pub fn restart_command(&self) -> String {
        let quote = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
            if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
        };
        let mut words = vec![quote(&self.binary.display().to_string())];
        words.extend(self.args.iter().map(|arg| quote(arg)));
        words.join(" ")
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        Command::new(&self.binary)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))
    }
}

/// How a child ended that had been sent SIGTERM.
fn ended(status: std::process::ExitStatus) -> DrainOutcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => DrainOutcome::Exit(code),
        (None, Some(signal)) if signal != Signal::TERM.as_raw() => DrainOutcome::Killed(signal),
        _ => DrainOutcome::Signalled,
    }
}

/// What the node said last under this name when it began to serve (`journal   Redis ...`), from its log.
pub fn said(log: &Path, name: &str) -> Option<String> {
    let log = std::fs::read(log).ok()?;
    let log = String::from_utf8_lossy(&log);
    let words = log.lines().rev().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    words.map(str::trim).find(|words| !words.is_empty()).map(str::to_owned)
}

/// True while a process of that id exists.
pub fn alive(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn signal(pid: u32, signal: Signal) {
    // Whatever an API says of itself, the first process of a machine is no node.
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) {
        // It may be gone already: that is what was wanted.
        let _ = kill_process(pid, signal);
    }
}

impl Node {
    /// Starts the node and its keeper.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn start(spec: NodeSpec) -> anyhow::Result<Self> {
        let child = spec.spawn()?;
        let state = Arc::new(Mutex::new(NodeState { pid: Some(child.id()), ..NodeState::default() }));
        let (orders, inbox) = channel();
        let mut keeper =
            Keeper { spec, probe: None, state: state.clone(), child: Some(child), lost: None, tried: None };
        std::thread::Builder::new().name("node-keeper".into()).spawn(move || keeper.run(&inbox))?;
        Ok(Self { state, orders })
    }

    /// A copy of what is known now.
    pub fn state(&self) -> NodeState {
        lock(&self.state).clone()
    }

    /// Takes the lines nobody has shown yet.
    pub fn take_news(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).news)
    }

    /// Waits until the node is ready. A node that ends before it ever was is not waited for.
    ///
    /// # Errors
    /// It is not within `limit`, it ended, or the run is over.
    pub fn wait_ready(&self, limit: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let state = self.state();
            if let Some(fatal) = state.fatal {
                anyhow::bail!(fatal);
            }
            if state.ready {
                return Ok(());
            }
            if let Some(how) = state.failed_to_start {
                anyhow::bail!("the node ended before it was ready: {how}");
            }
            anyhow::ensure!(begin.elapsed() < limit, "the node was not ready within {} s", limit.as_secs());
            std::thread::sleep(POLL);
        }
    }

    /// Orders SIGKILL and a new start.
    pub fn kill(&self) {
        let _ = self.orders.send(Order::Kill);
    }

    /// Orders SIGTERM, and a new start when the node has ended.
    pub fn stop(&self) {
        let _ = self.orders.send(Order::Stop);
    }

    /// SIGTERM; waits for the end. A node that somebody else kills meanwhile is started and drained again.
    pub fn drain(&self) -> DrainOutcome {
        self.order_and_wait(Order::Drain)
    }

    /// SIGTERM; waits for the end, whatever it is: the run is given up.
    pub fn end(&self) -> DrainOutcome {
        self.order_and_wait(Order::End)
    }

    fn order_and_wait(&self, order: impl FnOnce(Sender<DrainOutcome>) -> Order) -> DrainOutcome {
        let (answer, outcome) = channel();
        if self.orders.send(order(answer)).is_err() {
            return DrainOutcome::NoNode;
        }
        outcome.recv().unwrap_or(DrainOutcome::NoNode)
    }

    /// Stops keeping; the node goes on.
    pub fn leave(&self) {
        let _ = self.orders.send(Order::Leave);
    }
}

fn lock(state: &Mutex<NodeState>) -> MutexGuard<'_, NodeState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keeper {
    spec: NodeSpec,
    /// Made when the node has written its token.
    probe: Option<Client>,
    state: Arc<Mutex<NodeState>>,
    /// Our own child; none when the node is somebody else's or there is none.
    child: Option<Child>,
    /// Since when no node serves, after one did or should have.
    lost: Option<Instant>,
    /// When the keeper last started one by itself.
    tried: Option<Instant>,
}

impl Keeper {
    fn run(&mut self, inbox: &Receiver<Order>) {
        loop {
            match inbox.recv_timeout(POLL) {
                Ok(Order::Kill) => self.on_kill(),
                Ok(Order::Stop) => self.on_stop(),
                Ok(Order::Drain(answer)) => {
                    let _ = answer.send(self.on_drain());
                    return;
                }
                Ok(Order::End(answer)) => {
                    let _ = answer.send(self.terminate());
                    return;
                }
                Ok(Order::Leave) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look();
        }
    }

    fn on_kill(&mut self) {
        let Some(pid) = lock(&self.state).pid else {
            return;
        };
        signal(pid, Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        {
            let mut state = lock(&self.state);
            state.ordered_kills += 1;
            state.ready = false;
            state.news.push(format!("node.kill: SIGKILL to pid {pid}, starting it again"));
        }
        self.lost = Some(Instant::now());
        self.start_own();
    }

    fn on_stop(&mut self) {
        let Some(pid) = lock(&self.state).pid else {
            return;
        };
        lock(&self.state).news.push(format!("node.stop: SIGTERM to pid {pid}, started again when it has ended"));
        let outcome = self.terminate();
        self.forget(outcome, |state| state.ordered_stops.push(outcome));
        self.start_own();
    }

    /// The process has ended.
    fn forget(&mut self, outcome: DrainOutcome, note: impl FnOnce(&mut NodeState)) {
        self.child = None;
        self.lost = Some(Instant::now());
        let mut state = lock(&self.state);
        (state.pid, state.ready) = (None, false);
        state.news.push(format!("the node has ended: {outcome:?}"));
        note(&mut state);
    }

    fn on_drain(&mut self) -> DrainOutcome {
        for _ in 1..DRAINS {
            let outcome = self.terminate();
            if !matches!(outcome, DrainOutcome::Killed(_) | DrainOutcome::NoNode) {
                return outcome;
            }
            let killed_now = u32::from(outcome != DrainOutcome::NoNode);
            self.forget(outcome, |state| state.unexpected_deaths += killed_now);
            lock(&self.state).news.push("it was not the drain that ended it: starting it to drain it again".to_owned());
            self.start_own();
            while !lock(&self.state).ready {
                if lock(&self.state).fatal.is_some() {
                    return outcome;
                }
                std::thread::sleep(POLL);
                self.look();
            }
        }
        self.terminate()
    }

    /// SIGTERM, and SIGKILL when that does not end it in time.
    fn terminate(&mut self) -> DrainOutcome {
        let Some(pid) = lock(&self.state).pid else {
            return DrainOutcome::NoNode;
        };
        signal(pid, Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < DRAIN {
            match &mut self.child {
                Some(child) => match child.try_wait() {
                    Ok(Some(status)) => return ended(status),
                    Ok(None) => {}
                    Err(_) => return DrainOutcome::GoneUnseen,
                },
                None if !alive(pid) => return DrainOutcome::GoneUnseen,
                None => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(pid, Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        DrainOutcome::TimedOut
    }

    /// One look at the process and at its answers.
    fn look(&mut self) {
        let gone = match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => lock(&self.state).pid.is_none_or(|pid| !alive(pid)),
        };
        if gone {
            self.on_gone();
        }
        self.ask();
        let Some(since) = self.lost else { return };
        if since.elapsed() > LOST_FOR {
            lock(&self.state).fatal = Some(format!("no node served for {} s", LOST_FOR.as_secs()));
            return;
        }
        let waited = self.tried.map_or(since.elapsed(), |tried| tried.elapsed());
        if lock(&self.state).pid.is_none() && waited > OWN_RESTART {
            lock(&self.state).news.push("nobody started the node again: starting it".to_owned());
            self.start_own();
        }
    }

    fn on_gone(&mut self) {
        let status = self.child.take().and_then(|mut child| child.wait().ok());
        let mut state = lock(&self.state);
        let Some(pid) = state.pid.take() else { return };
        state.ready = false;
        state.unexpected_deaths += 1;
        let how = status.map_or_else(String::new, |status| format!(" ({status})"));
        if state.seen.is_empty() {
            // Nobody has been told how to start it, so nobody else will.
            let killed = status.is_some_and(|status| status.signal().is_some());
            if killed && state.unexpected_deaths < FIRST_STARTS {
                state.news.push(format!("the node, pid {pid}, is gone{how} before it ever served: starting it again"));
                drop(state);
                self.start_own();
            } else {
                state.failed_to_start = Some(format!("pid {pid}{how}"));
            }
            return;
        }
        state.news.push(format!("the node, pid {pid}, is gone{how}; waiting for it to come back"));
        state.news.push(format!("  start it again with: {}", self.spec.restart_command()));
        state.news.push(format!("  or wait {} s and it is started for you", OWN_RESTART.as_secs()));
        drop(state);
        self.lost.get_or_insert_with(Instant::now);
    }

    fn start_own(&mut self) {
        self.tried = Some(Instant::now());
        match self.spec.spawn() {
            Ok(child) => {
                let mut state = lock(&self.state);
                state.pid = Some(child.id());
                state.adopted = false;
                self.child = Some(child);
            }
            Err(error) => lock(&self.state).fatal = Some(format!("{error:#}")),
        }
    }

    /// Asks who serves and whether it is ready.
    fn ask(&mut self) {
        if self.probe.is_none() {
            let token = std::fs::read_to_string(&self.spec.token_file).ok();
            self.probe = token.map(|t| Client::with_deadline(&self.spec.base, t.trim(), Duration::from_secs(2)));
        }
        let Some(probe) = &self.probe else { return };
        let ready = probe.get("/readyz").is_ok_and(|answer| answer.ok());
        let answer = probe.get("/api/v1/node").ok();
        if ready && answer.as_ref().is_some_and(Answer::shed) {
            // It serves, and is too busy to say who it is: what was known stays.
            return;
        }
        let identity = answer.filter(Answer::ok).and_then(|a| identity(&a.body));
        let mut state = lock(&self.state);
        state.ready = ready && identity.is_some();
        let Some((incarnation, pid, started)) = identity else {
            return;
        };
        if state.seen.insert((incarnation, pid, started)) && state.seen.len() > 1 {
            state.news.push(format!("the node serves again, pid {pid}, incarnation {incarnation}"));
        }
        if state.pid != Some(pid) && pid > 1 && alive(pid) && self.child.as_ref().is_none_or(|child| child.id() != pid)
        {
            state.pid = Some(pid);
            state.adopted = true;
            self.child = None;
        }
        if state.ready {
            self.lost = None;
            self.tried = None;
        }
    }
}

/// Which process answers now; none when none does, or when it is too busy to say.
pub fn serving(client: &Client) -> Option<Process> {
    client.get("/api/v1/node").ok().filter(Answer::ok).and_then(|answer| identity(&answer.body))
}

fn identity(node: &Value) -> Option<Process> {
    let pid = u32::try_from(node.get("pid")?.as_u64()?).ok()?;
    Some((node.get("incarnation")?.as_u64()?, pid, node.get("started_at")?.to_string()))
}

#[cfg(test)]
mod tests;
