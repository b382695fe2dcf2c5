//! Drivers of the accounts. Each is one after the other with its own requests and repeats one until it is told
//! something that lasts; together they load the same few accounts, at whatever nodes there are.

use crate::books::Told;
use crate::dice::Dice;
use crate::net::fate;
use crate::nodes::Cluster;
use crate::world::{FROM_NODE, Gate, Point, TO_NODE, World, lock};
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountKind, AccountRejection, Holder};
use chargeplane_domain::ids::{AccountId, OperatorId};
use chargeplane_domain::placement::{self, ShardId, shard_of};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

pub const CLIENTS: u64 = 6;

/// Accounts: few, so that they are contended.
pub const ACCOUNTS: u64 = 4;

/// Shards a family.
pub const SHARDS: u16 = 2;

/// A client gives up on an answer after so long and repeats.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// So often may a request be answered in the calm by what cannot be, before that counts as the last word.
const TRIES_IN_THE_CALM: u32 = 20;

pub fn account_id(number: u64) -> AccountId {
    format!("a{number}").parse().expect("an id")
}

/// The name of an account in the journal.
pub fn account_key(number: u64) -> String {
    format!("account:{}", account_id(number))
}

fn account_shard(number: u64) -> ShardId {
    shard_of(placement::Family::Account, account_id(number).as_str(), SHARDS)
}

fn cny() -> Currency {
    Currency::new("CNY").expect("a currency")
}

fn tariff() -> Tariff {
    let price = Price { energy: Money(11_003), service: Money(4_001) };
    let fees = Fees {
        flat: Money(101),
        per_minute: Money(907),
        idle_per_minute: Money(1_503),
        idle_grace_s: 5,
        min: Money(700),
        max: Some(Money(21_000)),
    };
    Tariff { currency: cny(), prices: [price; 4], slots: Slots::uniform(2).expect("a period"), fees }
}

struct Session {
    account: u64,
    number: u64,
    sequence: u32,
    wh: i64,
    time: MeteredTime,
}

impl Session {
    /// Time that passed while this much flowed, part of it with a full car.
    fn pass(&mut self, wh: i64) {
        self.wh += wh;
        self.time.charging_ms += wh * 137;
        self.time.idle_ms += wh * 41;
    }
}

pub struct Client {
    pub world: Arc<World>,
    pub cluster: Arc<Cluster>,
    pub number: u64,
    dice: Dice,
    calls: u64,
    made: u64,
    seat: usize,
    sessions: Vec<Session>,
    /// What it was told of, to be repeated: account and command.
    past: Vec<(u64, AccountCommand)>,
}

/// When the storm ends.
pub const STORM_MS: u64 = 30_000;

impl Client {
    pub fn new(world: Arc<World>, cluster: Arc<Cluster>, number: u64) -> Self {
        let dice = Dice::of(world.seed, &[10, number]);
        let (sessions, past) = (Vec::new(), Vec::new());
        Self { world, cluster, number, dice, calls: 0, made: 0, seat: 0, sessions, past }
    }

    /// Drives until the storm is over, then ends what it began.
    pub async fn drive(mut self) {
        for account in 0..ACCOUNTS {
            // All clients open all accounts under the same keys.
            self.ask(account, |at| open(account, at)).await;
        }
        let think = self.dice.between(20, 700);
        while self.world.now_ms() < STORM_MS {
            let pause = self.dice.below(think);
            self.world.rest(self.number, pause).await;
            match self.dice.below(100) {
                0..20 => self.top_up().await,
                20..23 => self.shared_top_up().await,
                23..40 => self.authorise().await,
                40..75 => self.debit().await,
                75..80 => self.settle().await,
                80..88 => self.repeat().await,
                88..92 => self.change().await,
                _ => self.look().await,
            }
        }
        while !self.sessions.is_empty() {
            self.settle().await;
        }
        self.look().await;
    }

    async fn top_up(&mut self) {
        let (account, amount) = (self.dice.below(ACCOUNTS), Money(self.dice.between(500, 12_000) as i64));
        self.made += 1;
        let key = format!("top-up-{}-{}", self.number, self.made);
        self.ask(account, |at| AccountCommand::TopUp { key: key.clone(), amount, currency: None, at }).await;
    }

    /// Several clients ask for the same, maybe at two nodes at once.
    async fn shared_top_up(&mut self) {
        let round = self.world.now_ms() / 5_000;
        let (account, key) = (round % ACCOUNTS, format!("shared-{round}"));
        let amount = Money(700 + round as i64);
        self.ask(account, |at| AccountCommand::TopUp { key: key.clone(), amount, currency: None, at }).await;
    }

    async fn authorise(&mut self) {
        if self.sessions.len() >= 3 {
            return self.debit().await;
        }
        self.made += 1;
        let session = Session {
            account: self.dice.below(ACCOUNTS),
            number: self.made,
            sequence: 0,
            wh: 0,
            time: MeteredTime::NONE,
        };
        let want = Money(self.dice.between(1_500, 9_000) as i64);
        let command = |at| self.authorisation(&session, "op1", want, at);
        let made = [command(Timestamp(0))];
        let told = self.ask(session.account, |at| at_time(&made[0], at)).await;
        if told.is_some_and(|told| told.is_ok()) {
            self.sessions.push(session);
        }
    }

    fn authorisation(&self, session: &Session, operator: &str, want: Money, at: Timestamp) -> AccountCommand {
        let (operator, tariff) = (operator.parse::<OperatorId>().expect("an id"), tariff());
        let session = format!("c{}.{}", self.number, session.number).parse().expect("a session");
        AccountCommand::Authorise { session, operator, tariff, split: None, want, reserve: Money(300), at }
    }

    fn reading(&self, session: &Session, hold_target: Option<Money>) -> AccountCommand {
        let by_period = [0, 0, session.wh, 0].map(WattHours);
        let (meter, sequence, time) = (WattHours(session.wh), session.sequence, session.time);
        let session = format!("c{}.{}", self.number, session.number).parse().expect("a session");
        let at = Timestamp(0);
        match hold_target {
            Some(hold_target) => {
                let cumulative = tariff().price(&by_period, &time);
                AccountCommand::Debit { session, sequence, meter, by_period, time, cumulative, hold_target, at }
            }
            None => {
                let cumulative = tariff().final_price(&by_period, &time);
                AccountCommand::Settle { session, sequence, meter, by_period, time, cumulative, at }
            }
        }
    }

    async fn debit(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let at = self.dice.below(self.sessions.len() as u64) as usize;
        let mut session = self.sessions.swap_remove(at);
        session.sequence += 1;
        session.pass(self.dice.between(0, 400) as i64);
        let target = Money(self.dice.below(6_000) as i64);
        let command = self.reading(&session, Some(target));
        self.ask(session.account, |at| at_time(&command, at)).await;
        self.sessions.push(session);
    }

    async fn settle(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let at = self.dice.below(self.sessions.len() as u64) as usize;
        let mut session = self.sessions.swap_remove(at);
        session.sequence += 1;
        session.pass(self.dice.between(0, 300) as i64);
        let command = self.reading(&session, None);
        self.ask(session.account, |at| at_time(&command, at)).await;
    }

    /// Asks again for what it was told already.
    async fn repeat(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let (account, command) = self.dice.pick(&self.past).clone();
        self.world.count("request repeated after its answer");
        // A session that went on meanwhile answers where it stands: no answer is waited for.
        self.ask_once(account, at_time(&command, self.now())).await;
    }

    /// Asks for something else under a key that was used.
    async fn change(&mut self) {
        if self.past.is_empty() {
            return;
        }
        let (account, mut command) = self.dice.pick(&self.past).clone();
        match &mut command {
            AccountCommand::TopUp { amount, .. } => *amount = Money(amount.0 + 1),
            AccountCommand::Open { kind, .. } => *kind = AccountKind::Credit { limit: Money(77) },
            AccountCommand::Authorise { operator, .. } => *operator = "op2".parse().expect("an id"),
            AccountCommand::Debit { meter, by_period, time, cumulative, .. } => {
                *meter = WattHours(meter.0 + 1);
                by_period[2] = *meter;
                *cumulative = tariff().price(by_period, time);
            }
            AccountCommand::Settle { meter, by_period, time, cumulative, .. } => {
                *meter = WattHours(meter.0 + 1);
                by_period[2] = *meter;
                *cumulative = tariff().final_price(by_period, time);
            }
            #[allow(unreachable_patterns, reason = "an account may learn commands that are not sent here")]
            _ => return,
        }
        self.world.count("another content under a known key");
        self.ask_once(account, at_time(&command, self.now())).await;
    }

    /// A strong read.
    async fn look(&mut self) {
        let account = self.dice.below(ACCOUNTS);
        let Some((gate, handle)) = self.choose() else { return };
        let (world, slot) = (Arc::clone(&self.world), self.number);
        let (sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            world.rest(TO_NODE, 1).await;
            gate.go_through(&world, TO_NODE).await;
            let view = handle.account(&account_id(account)).await;
            gate.go_through(&world, FROM_NODE).await;
            if let Ok(view) = view {
                check_serving(&world, &gate, account);
                let seen = (view.balance.0, view.held.0);
                if !world.judge(|judge| judge.read_of(&account_key(account), seen)) {
                    world.count("read of a node that was not the owner any more, or raced");
                }
                let _ = sender.send(());
            }
        });
        let _ = tokio::time::timeout(PATIENCE, receiver).await;
        self.world.rest(slot, 1).await;
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.world.now_ms() as i64)
    }

    /// A node to ask; mostly the one asked before.
    fn choose(&mut self) -> Option<(Arc<Gate>, NodeHandle)> {
        if self.dice.chance(100) || self.cluster.reach(self.seat).is_none() {
            self.seat = self.dice.below(2) as usize;
        }
        self.cluster.reach(self.seat)
    }

    /// Asks until it is told something that lasts. None when the run's time is over.
    async fn ask(&mut self, account: u64, make: impl Fn(Timestamp) -> AccountCommand) -> Option<Told> {
        let mut refusals = 0;
        loop {
            let command = make(self.now());
            let told = self.ask_once(account, command.clone()).await;
            if let Some(told) = told {
                if told.as_ref().map_or_else(lasts, |_| true) {
                    if self.past.len() >= 12 {
                        let at = self.dice.below(12) as usize;
                        self.past.swap_remove(at);
                    }
                    self.past.push((account, command));
                    return Some(told);
                }
                refusals += u32::from(self.world.is_calm());
                if refusals > TRIES_IN_THE_CALM {
                    let what = format!("account {account} insists on {told:?} to {command:?}");
                    self.world.judge(|judge| judge.object("MONEY-3", what));
                    return None;
                }
            }
            self.world.count("request repeated without an answer");
            self.seat = self.dice.below(2) as usize;
            let pause = self.dice.between(20, 400);
            self.world.rest(self.number, pause).await;
        }
    }

    async fn ask_once(&mut self, account: u64, command: AccountCommand) -> Option<Told> {
        let (gate, handle) = self.choose()?;
        self.calls += 1;
        let (world, heard) = (&self.world, Heard::default());
        world.judge(|judge| judge.sent(&account_key(account), &command));
        let mut dice = Dice::of(world.seed, &[11, self.number, self.calls]);
        let (sender, receiver) = oneshot::channel();
        *lock(&heard) = Some(sender);
        for (copy, delay) in fate(world, &mut dice).into_iter().enumerate() {
            let dice = Dice::of(world.seed, &[12, self.number, self.calls, copy as u64]);
            let visit = Visit { world: Arc::clone(world), gate: Arc::clone(&gate), handle: handle.clone(), dice };
            tokio::spawn(visit.make(account, command.clone(), delay, Arc::clone(&heard)));
        }
        drop(heard);
        let answer = tokio::time::timeout(PATIENCE, receiver).await;
        self.world.rest(self.number, 1).await;
        let (told, code) = match answer {
            Ok(Ok(Ok(answer))) => (Some(Ok(answer)), 1),
            Ok(Ok(Err(CallError::Account(rejection)))) => (Some(Err(rejection)), 2),
            Ok(Ok(Err(CallError::Interrupted))) => (None, 3),
            Ok(Ok(Err(_))) => (None, 4),
            _ => (None, 5),
        };
        self.world.trace("client was told", [self.number, self.calls, account, code]);
        told
    }
}

type Heard = Arc<Mutex<Option<oneshot::Sender<Result<AccountAnswer, CallError>>>>>;

/// A copy of a request at a node.
struct Visit {
    world: Arc<World>,
    gate: Arc<Gate>,
    handle: NodeHandle,
    dice: Dice,
}

impl Visit {
    async fn make(self, account: u64, command: AccountCommand, delay: u64, heard: Heard) {
        let Self { world, gate, handle, mut dice } = self;
        let (world, gate) = (&world, &gate);
        world.rest(TO_NODE, delay).await;
        gate.go_through(world, TO_NODE).await;
        let answer = handle.account_command(account_id(account), command.clone()).await;
        gate.go_through(world, FROM_NODE).await;
        let told = match &answer {
            Ok(answer) => Some(Ok(answer.clone())),
            Err(CallError::Account(rejection)) => Some(Err(rejection.clone())),
            Err(CallError::Interrupted) => {
                world.count("interrupted request");
                None
            }
            Err(_) => None,
        };
        if let Some(told) = told {
            check_serving(world, gate, account);
            world.judge(|judge| judge.told(&account_key(account), &command, told));
            gate.pass(world, Point::Acknowledged);
        }
        if let Some(delay) = fate(world, &mut dice).first() {
            world.rest(FROM_NODE, *delay).await;
            if let Some(sender) = lock(&heard).take() {
                let _ = sender.send(answer);
            }
        }
    }
}

/// What was told last at the opening of a shard: a damaged one is not served.
fn check_serving(world: &World, gate: &Gate, account: u64) {
    let shard = account_shard(account);
    if lock(&gate.refused).get(&shard).copied().unwrap_or(false) {
        world.judge(|judge| judge.object("OWN-1", format!("{} serves {shard}, which is damaged", gate.node)));
    }
}

/// True for a refusal that repeating would not change: what the account remembers.
fn lasts(rejection: &AccountRejection) -> bool {
    matches!(rejection, AccountRejection::InsufficientFunds { .. } | AccountRejection::BalanceLimit)
}

fn open(account: u64, at: Timestamp) -> AccountCommand {
    let kind = if account == 0 { AccountKind::Credit { limit: Money(8_000) } } else { AccountKind::Prepaid };
    AccountCommand::Open { key: format!("open-{account}"), currency: cny(), kind, holder: Holder::Fleet, at }
}

/// The same command at another time.
fn at_time(command: &AccountCommand, now: Timestamp) -> AccountCommand {
    let mut command = command.clone();
    match &mut command {
        AccountCommand::Open { at, .. }
        | AccountCommand::TopUp { at, .. }
        | AccountCommand::Authorise { at, .. }
        | AccountCommand::Debit { at, .. }
        | AccountCommand::Settle { at, .. } => *at = now,
        #[allow(unreachable_patterns, reason = "an account may learn commands that are not sent here")]
        _ => {}
    }
    command
}
