//! What the drill does over the API while the fleet charges: top-ups, repeats, conflicts, remote starts, bursts.
//!
//! A request without an answer, or shed, is repeated with its key until it is answered: that is what a client
//! of an API with idempotency keys does, and what MONEY-2 and MONEY-3 are about.

use crate::burst::{self, Outcome, Post};
use crate::catalogue::{CURRENCY, TENANT, decimal};
use crate::evidence::{Line, Writer};
use crate::http::{Answer, Client, NoAnswer, path_id};
use crate::node::Node;
use anyhow::{bail, ensure};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests under way at once while accounts are opened.
const OPENERS: usize = 8;

/// A request is given up after so long without an answer: the node's own limit is shorter.
const GIVE_UP: Duration = Duration::from_secs(150);

/// Every so many-th top-up is repeated with the same content ...
const REPEAT_EVERY: u64 = 4;

/// ... and every so many-th with another content.
const CONFLICT_EVERY: u64 = 7;

/// A remote session lasts so long before the drill stops it.
const REMOTE_SESSION: Duration = Duration::from_secs(8);

/// Every idempotency key of the drill begins so.
pub const KEY_PREFIX: &str = "drill-";

/// After the threads were told to stop, a request is still repeated for so long: a node that was killed by hand at
/// that moment is back within half of it.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Every so many-th remote start is repeated.
const REPEAT_START_EVERY: usize = 2;

/// A burst that met another node than it began with is tried again so often.
const BURST_TRIES: usize = 3;

/// What each request of a burst pays in, 1/10,000.
const BURST_AMOUNT: i64 = 10_000;

/// What the drill's threads share.
pub struct Traffic {
    client: Client,
    writer: Writer,
    node: Node,
    /// Distinguishes the keys of this run from those of any other on the same store.
    run: String,
    stop: AtomicBool,
    /// Acknowledged top-ups to be repeated once more at the end: across every kill and restart in between.
    kept: Mutex<Vec<(String, String, i64, Value)>>,
    /// Acknowledged starts to be repeated once more at the end: key, content, session.
    kept_starts: Mutex<Vec<(String, Value, String)>>,
    /// Bursts so far, for their keys, and those that judge something.
    bursts: AtomicU64,
    bursts_counted: AtomicU64,
}

/// An account to open and what to put on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The account's id.
    pub account: String,
    /// First top-up, 1/10,000 of the currency unit.
    pub amount: i64,
}

impl Traffic {
    /// Shared state for one run.
    pub fn new(client: Client, writer: Writer, node: Node, run: &str) -> Arc<Self> {
        Arc::new(Self {
            client,
            writer,
            node,
            run: run.to_owned(),
            stop: AtomicBool::new(false),
            kept: Mutex::default(),
            kept_starts: Mutex::default(),
            bursts: AtomicU64::new(0),
            bursts_counted: AtomicU64::new(0),
        })
    }

    /// Ends the threads after the request in hand.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Opens accounts and tops them up, a bounded number at a time.
    ///
    /// # Errors
    /// The first refusal or the first request that never got an answer.
    pub fn open_accounts(&self, openings: &[Opening]) -> anyhow::Result<()> {
        let chunk = openings.len().div_ceil(OPENERS).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = openings
                .chunks(chunk)
                .map(|part| scope.spawn(move || part.iter().try_for_each(|opening| self.open_account(opening))))
                .collect();
            workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| bail!("an opening thread failed")))
        })
    }

    fn open_account(&self, opening: &Opening) -> anyhow::Result<()> {
        let key = format!("{}-open-{}", self.run, local(&opening.account));
        let body = json!({ "account": opening.account, "currency": CURRENCY, "kind": "prepaid", "holder": "fleet" });
        let answer = self.insist("/api/v1/accounts", &key, &body)?;
        ensure!(answer.ok(), "opening {}: {}", opening.account, answer.problem());
        self.writer.write(&Line::Opened { account: opening.account.clone(), key });
        let key = format!("{}-first-{}", self.run, local(&opening.account));
        let answer = self.top_up(&key, &opening.account, opening.amount)?;
        ensure!(answer.ok(), "topping up {}: {}", opening.account, answer.problem());
        Ok(())
    }

    /// Posts until an answer comes that is not *shed*.
    fn insist(&self, path: &str, key: &str, body: &Value) -> Result<Answer, NoAnswer> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let result = self.client.post(path, Some(key), body);
            let unfinished = match &result {
                Ok(answer) => answer.shed() || matches!(answer.status, 500 | 504),
                Err(_) => true,
            };
            let limit = if self.stopped() { LAST_WORDS } else { GIVE_UP };
            if !unfinished || begin.elapsed() > limit || self.node.state().fatal.is_some() {
                return result;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// One top-up; what is acknowledged is written down before anything else happens.
    fn top_up(&self, key: &str, account: &str, amount: i64) -> Result<Answer, NoAnswer> {
        let answer = self.insist(&top_up_path(account), key, &json!({ "amount": decimal(amount) }))?;
        if answer.ok() {
            let (key, account) = (key.to_owned(), account.to_owned());
            self.writer.write(&Line::TopUp { key, account, amount, answer: answer.body.clone() });
        }
        Ok(answer)
    }

    /// A steady trickle of top-ups on `accounts` until stopped.
    pub fn run_top_ups(&self, accounts: &[String], per_second: u32) {
        if per_second == 0 || accounts.is_empty() {
            return;
        }
        let period = Duration::from_secs(1) / per_second;
        let mut n: u64 = 0;
        while !self.stopped() {
            let began = Instant::now();
            n += 1;
            let index = usize::try_from(n).unwrap_or(0).wrapping_mul(17) % accounts.len();
            let amount = 10_000 + i64::try_from(n % 97).unwrap_or(0) * 100;
            let key = format!("{}-topup-{n}", self.run);
            if let Ok(answer) = self.top_up(&key, &accounts[index], amount)
                && answer.ok()
            {
                self.after_top_up(n, key, &accounts[index], amount, answer.body);
            }
            std::thread::sleep(period.saturating_sub(began.elapsed()));
        }
    }

    fn after_top_up(&self, n: u64, key: String, account: &str, amount: i64, answer: Value) {
        if n.is_multiple_of(REPEAT_EVERY) {
            self.repeat(&key, account, amount, &answer);
        }
        if n.is_multiple_of(CONFLICT_EVERY) {
            let body = json!({ "amount": decimal(amount + 1) });
            if let Ok(answer) = self.insist(&top_up_path(account), &key, &body) {
                let (status, problem) = (answer.status, answer.problem());
                self.writer.write(&Line::Conflict { key: key.clone(), status, problem });
            }
        }
        if n.is_multiple_of(5) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < 200 {
                kept.push((key, account.to_owned(), amount, answer));
            }
        }
    }

    fn repeat(&self, key: &str, account: &str, amount: i64, first: &Value) {
        let answer = self.insist(&top_up_path(account), key, &json!({ "amount": decimal(amount) }));
        if let Some(answer) = answer.ok().filter(|answer| !answer.shed()) {
            let (key, first) = (key.to_owned(), first.clone());
            self.writer.write(&Line::Repeat { key, first, status: answer.status, again: answer.body });
        }
    }

    /// Repeats old top-ups and starts once more, after all that happened since.
    pub fn repeat_kept(&self) {
        let starts = std::mem::take(&mut *self.kept_starts.lock().unwrap_or_else(PoisonError::into_inner));
        starts.iter().for_each(|(key, body, session)| self.repeat_start(key, body, session));
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        for (key, account, amount, first) in &kept {
            self.repeat(key, account, *amount, first);
        }
    }

    /// Remote starts on idle chargers, each stopped a little later, until stopped or `last` has passed.
    pub fn run_remote(&self, accounts: &[String], last: Duration) {
        let began = Instant::now();
        let mut open: Vec<(Instant, String)> = Vec::new();
        let mut n: usize = 0;
        while !self.stopped() {
            std::thread::sleep(Duration::from_secs(3));
            n += 1;
            if began.elapsed() < last
                && !accounts.is_empty()
                && let Some(session) = self.start_somewhere(n, &accounts[n % accounts.len()])
            {
                open.push((Instant::now(), session));
            }
            let (due, waiting) = open.into_iter().partition(|(since, _)| since.elapsed() > REMOTE_SESSION);
            open = waiting;
            let due: Vec<(Instant, String)> = due;
            due.iter().for_each(|(_, session)| self.stop_session(session));
        }
        open.iter().for_each(|(_, session)| self.stop_session(session));
    }

    fn start_somewhere(&self, n: usize, account: &str) -> Option<String> {
        let list = self.client.get("/api/v1/chargers?limit=10000").ok().filter(Answer::ok)?;
        let items = list.body.get("items")?.as_array()?;
        let idle = |item: &&Value| item.get("state").and_then(Value::as_str) == Some("idle");
        let online = |item: &&Value| item.get("online").and_then(Value::as_bool) == Some(true);
        let idle: Vec<&str> = items.iter().filter(idle).filter(online).filter_map(|c| c.get("id")?.as_str()).collect();
        let charger = *idle.get(n.wrapping_mul(7919) % idle.len().max(1))?;
        let key = format!("{}-start-{n}", self.run);
        let body = json!({ "charger": charger, "connector": 1, "account": account });
        let answer = self.insist("/api/v1/sessions", &key, &body).ok()?;
        let session = answer.body.get("session").and_then(Value::as_str).map(str::to_owned).filter(|_| answer.ok());
        let (charger, account, status) = (charger.to_owned(), account.to_owned(), answer.status);
        self.writer.write(&Line::Start { key: key.clone(), charger, account, status, session: session.clone() });
        if let Some(session) = &session {
            if n.is_multiple_of(REPEAT_START_EVERY) {
                self.repeat_start(&key, &body, session);
            }
            let mut kept = self.kept_starts.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push((key, body, session.clone()));
        }
        session
    }

    /// A start again, as by a client that did not get the answer: it must be the same session.
    fn repeat_start(&self, key: &str, body: &Value, session: &str) {
        // A node that is away for so long says nothing about the key.
        if let Some(answer) = self.insist("/api/v1/sessions", key, body).ok().filter(|answer| !answer.shed()) {
            let again = answer.body.get("session").and_then(Value::as_str).map(str::to_owned);
            let (key, session, status) = (key.to_owned(), session.to_owned(), answer.status);
            self.writer.write(&Line::StartRepeat { key, session, status, again });
        }
    }

    fn stop_session(&self, session: &str) {
        let key = format!("{}-stop-{}", self.run, local(session));
        let path = format!("/api/v1/sessions/{}/stop", path_id(session));
        if let Ok(answer) = self.insist(&path, &key, &json!({})) {
            self.writer.write(&Line::Stop { key, session: session.to_owned(), status: answer.status });
        }
    }

    /// More top-ups at once than the node takes in: every one must be answered, if only with *no*. A burst that a
    /// restart of the node spoilt judges nothing and is tried again.
    pub fn burst(&self, plan: &BurstPlan) {
        if plan.requests == 0 || plan.accounts.is_empty() {
            return;
        }
        for _ in 0..BURST_TRIES {
            if self.node.wait_ready(LAST_WORDS).is_err() || self.burst_once(plan) {
                return;
            }
        }
    }

    /// A burst after the load, when every one before met a node that went away.
    pub fn burst_if_none_counted(&self, plan: &BurstPlan) {
        if self.bursts_counted.load(Ordering::Relaxed) == 0 {
            self.burst(plan);
        }
    }

    fn burst_once(&self, plan: &BurstPlan) -> bool {
        let number = self.bursts.fetch_add(1, Ordering::Relaxed);
        let (before, key) = (self.node.state(), |n: usize| format!("{}-burst-{number}-{n}", self.run));
        let posts: Vec<Post> = (0..plan.requests as usize)
            .map(|n| Post {
                path: top_up_path(&plan.accounts[n % plan.accounts.len()]),
                key: key(n),
                body: json!({ "amount": decimal(BURST_AMOUNT) }),
            })
            .collect();
        let Outcome { answers, in_hand } = burst::run(&self.client, &posts, u64::from(plan.max_in_flight));
        // The keeper looks every so often: a death is known a moment later.
        std::thread::sleep(Duration::from_secs(1));
        let after = self.node.state();
        let node_changed = !before.ready || !after.ready || before.seen != after.seen || before.pid != after.pid;
        for (n, answer) in answers.iter().enumerate() {
            self.settle_burst_request(&key(n), &plan.accounts[n % plan.accounts.len()], answer.as_ref());
        }
        let count = |p: &dyn Fn(&Answer) -> bool| answers.iter().flatten().filter(|a| p(a)).count() as u64;
        let (done, shed, answered) = (count(&Answer::ok), count(&is_shed), count(&|_| true));
        let sent = posts.len() as u64;
        let (other, unanswered) = (answered - done - shed, sent - answered);
        self.writer.write(&Line::Burst { sent, done, shed, other, unanswered, in_hand, node_changed });
        self.bursts_counted.fetch_add(u64::from(!node_changed), Ordering::Relaxed);
        !node_changed
    }

    /// What was done is a promise. What was shed must have had no effect, and is not repeated. Whatever else may
    /// have been done: it is repeated until that is known.
    fn settle_burst_request(&self, key: &str, account: &str, answer: Option<&Answer>) {
        match answer {
            Some(answer) if answer.ok() => {
                let (key, account, answer) = (key.to_owned(), account.to_owned(), answer.body.clone());
                self.writer.write(&Line::TopUp { key, account, amount: BURST_AMOUNT, answer });
            }
            Some(answer) if is_shed(answer) => {}
            _ => {
                // Written down by the top-up itself when it is acknowledged.
                let _ = self.top_up(key, account, BURST_AMOUNT);
            }
        }
    }
}

/// What a burst is made of.
#[derive(Debug, Clone)]
pub struct BurstPlan {
    /// Requests; none with 0.
    pub requests: u32,
    /// Requests that the node takes in at once.
    pub max_in_flight: u32,
    /// Who is paid in for.
    pub accounts: Vec<String>,
}

/// Refused for want of room, and said so properly.
fn is_shed(answer: &Answer) -> bool {
    let coded = answer.body.get("code").and_then(Value::as_str).is_some();
    answer.shed() && coded && answer.content_type.contains("problem+json")
}

/// The part of an id after its tenant.
fn local(id: &str) -> &str {
    id.split_once('/').map_or(id, |(_, local)| local)
}

fn top_up_path(account: &str) -> String {
    format!("/api/v1/accounts/{}/top-ups", path_id(account))
}

/// Ids of `count` accounts with a prefix.
pub fn account_ids(prefix: &str, count: u32) -> Vec<String> {
    (1..=count).map(|n| format!("{TENANT}/{prefix}-{n:04}")).collect()
}
