//! What the drill does over the API while the fleet charges: top-ups, repeats, conflicts, remote starts, bursts.
//!
//! A request without an answer, or shed, is repeated with its key until it is answered: that is what a client
//! of an API with idempotency keys does, and what MONEY-2 and MONEY-3 are about.

use crate::catalogue::{CURRENCY, TENANT, decimal};
use crate::evidence::{Line, Writer};
use crate::http::{Answer, Client, NoAnswer, path_id};
use crate::node::Node;
use anyhow::{bail, ensure};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
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

/// After the threads were told to stop, a request is still repeated for so long.
const LAST_WORDS: Duration = Duration::from_secs(20);

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
        let body = json!({ "account": opening.account, "currency": CURRENCY, "kind": "prepaid" });
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
        if let Ok(answer) = answer {
            let (key, first) = (key.to_owned(), first.clone());
            self.writer.write(&Line::Repeat { key, first, status: answer.status, again: answer.body });
        }
    }

    /// Repeats old top-ups once more, after all that happened since.
    pub fn repeat_kept(&self) {
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
        self.writer.write(&Line::Start { key, charger, account, status, session: session.clone() });
        session
    }

    fn stop_session(&self, session: &str) {
        let key = format!("{}-stop-{}", self.run, local(session));
        let path = format!("/api/v1/sessions/{}/stop", path_id(session));
        if let Ok(answer) = self.insist(&path, &key, &json!({})) {
            self.writer.write(&Line::Stop { key, session: session.to_owned(), status: answer.status });
        }
    }

    /// Many requests at once, more than the node takes in: every one must be answered, if only with *no*.
    pub fn burst(&self, requests: u32, account: &str) {
        let before = self.node.state();
        let path = format!("/api/v1/accounts/{}", path_id(account));
        let path = &path;
        // All threads wait for one moment; a thread that could not be started holds nobody up.
        let together = Instant::now() + Duration::from_millis(300);
        let results: Vec<Result<Answer, NoAnswer>> = std::thread::scope(|scope| {
            let ask = move || {
                std::thread::sleep(together.saturating_duration_since(Instant::now()));
                self.client.get(path)
            };
            let small = || std::thread::Builder::new().stack_size(256 << 10);
            let threads: Vec<_> = (0..requests).map(|_| small().spawn_scoped(scope, ask)).collect();
            let join = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, _>>| match thread {
                Ok(handle) => handle.join().unwrap_or_else(|_| Err(NoAnswer("thread failed".into()))),
                Err(error) => Err(NoAnswer(error.to_string())),
            };
            threads.into_iter().map(join).collect()
        });
        let after = self.node.state();
        let count = |p: &dyn Fn(&Answer) -> bool| results.iter().flatten().filter(|a| p(a)).count() as u64;
        let shed = |answer: &Answer| answer.shed() && answer.content_type.contains("problem+json");
        let (done, shed) = (count(&Answer::ok), count(&shed));
        let answered = results.iter().filter(|result| result.is_ok()).count() as u64;
        self.writer.write(&Line::Burst {
            sent: u64::from(requests),
            done,
            shed,
            other: answered - done - shed,
            unanswered: u64::from(requests) - answered,
            node_changed: !before.ready || !after.ready || before.seen != after.seen || before.pid != after.pid,
        });
    }
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
