//! The debit of the published stack, a Lua script in Redis, has five known faults. Each is shown here on a script of
//! that kind, and the same is tried on our books: a whole node whose journal is in Redis.

use crate::support::proxy::Proxy;
use crate::support::*;
use chargeplane_actors::handle::CallError;
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountKind, AccountRejection, DebitAnswer, Holder};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use chargeplane_redis::{RedisJournal, RedisOptions};
use redis::RedisError;
use redis::aio::MultiplexedConnection;
use std::sync::Arc;
use std::time::Duration;

/// As it is published, in our words: called with the shard's hash and an account.
const PUBLISHED: &str = "
local balance = tonumber(redis.call('HGET', KEYS[1], 'balance'))
if balance < amount then return 'insufficient' end
redis.call('HSET', KEYS[1], 'balance', balance - amount)
return 'debited'";

/// With the least that makes it run, so that its other faults can be seen.
fn running() -> String {
    format!("local amount = tonumber(ARGV[2])\n{PUBLISHED}")
}

const SHARD: &str = "billing:shard:0";

async fn published_debit(
    client: &mut MultiplexedConnection,
    script: &str,
    account: &str,
    amount: i64,
) -> Result<String, RedisError> {
    redis::cmd("EVAL").arg(script).arg(1).arg(SHARD).arg(account).arg(amount).query_async(client).await
}

async fn set_published_balance(client: &mut MultiplexedConnection, amount: i64) {
    redis::cmd("HSET").arg(SHARD).arg("balance").arg(amount).exec_async(client).await.expect("sets");
}

async fn published_balance(client: &mut MultiplexedConnection) -> i64 {
    redis::cmd("HGET").arg(SHARD).arg("balance").query_async(client).await.expect("has one")
}

pub fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a good id")
}

fn tariff() -> Tariff {
    let price = Price { energy: Money(12_000), service: Money(3_000) };
    Tariff {
        currency: Currency::new("CNY").expect("a code"),
        prices: [price; PERIODS],
        slots: Slots::uniform(0).expect("a period"),
        fees: Fees::NONE,
    }
}

/// A node with one shard a family, its journal in Redis and the rest in memory.
pub async fn node(options: RedisOptions, name: &str, stores: &MemoryStores) -> Node {
    let journal = Arc::new(RedisJournal::connect(options).await.expect("connects"));
    let mut config = NodeConfig::new(name);
    // The commands here count their own time from zero: by the node's clock all holds would have ended.
    config.hold_lasts = Duration::MAX;
    config.node = NodeId(name.into());
    config.shards = 1;
    let node = Node::start(config, Ports { journal, ..stores.ports() }).await.expect("starts");
    for _ in 0..1_000 {
        let shards = node.handle().shards().await.unwrap_or_default();
        if shards.len() == 2 && node.handle().account(&id("nobody")).await.is_err_and(|e| is_unknown(&e)) {
            return node;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the node does not serve");
}

fn is_unknown(error: &CallError) -> bool {
    matches!(error, CallError::NotFound(_) | CallError::Account(AccountRejection::UnknownAccount))
}

/// A command until it is answered: callers repeat what was interrupted.
pub async fn ask(node: &Node, account: &str, command: AccountCommand) -> Result<AccountAnswer, AccountRejection> {
    for _ in 0..500 {
        match node.handle().account_command(id(account), command.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(CallError::Account(rejection)) => return Err(rejection),
            Err(CallError::Interrupted | CallError::Timeout | CallError::NotServing(_)) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("{command:?} is not answered");
}

pub async fn open(node: &Node, account: &str, amount: i64) {
    let (currency, kind, at) = (tariff().currency, AccountKind::Prepaid, Timestamp(1_000));
    let open = AccountCommand::Open { key: format!("open-{account}"), currency, kind, holder: Holder::Personal, at };
    ask(node, account, open).await.expect("opens");
    if amount > 0 {
        let top_up = AccountCommand::TopUp { key: format!("pay-{account}"), amount: Money(amount), currency: None, at };
        ask(node, account, top_up).await.expect("tops up");
    }
}

pub fn authorise(session: &str) -> AccountCommand {
    AccountCommand::Authorise {
        session: id(session),
        operator: id("op1"),
        tariff: tariff(),
        split: None,
        want: Money(10_000),
        reserve: Money(100),
        at: Timestamp(2_000),
    }
}

/// The debit of the first `wh` of a session.
pub fn debit(session: &str, sequence: u32, wh: i64) -> AccountCommand {
    let mut by_period = [WattHours::ZERO; PERIODS];
    by_period[0] = WattHours(wh);
    AccountCommand::Debit {
        session: id(session),
        sequence,
        meter: WattHours(wh),
        by_period,
        time: MeteredTime::NONE,
        cumulative: tariff().price(&by_period, &MeteredTime::NONE),
        hold_target: Money(10_000),
        at: Timestamp(3_000),
    }
}

pub async fn balance(node: &Node, account: &str) -> Money {
    for _ in 0..500 {
        if let Ok(account) = node.handle().account(&id(account)).await {
            return account.balance;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the account cannot be read");
}

/// In the whole shard nothing came from nowhere.
pub async fn balanced(node: &Node) {
    let balances = node.handle().balances(None, 1_000).await.expect("balances");
    assert_eq!(balances.iter().map(|line| line.balance.0).sum::<i64>(), 0, "{balances:#?}");
}

pub fn debited(answer: Result<AccountAnswer, AccountRejection>) -> DebitAnswer {
    match answer {
        Ok(AccountAnswer::Debited(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_accounts_of_a_shard_share_one_balance_field() {
    let server = Server::start();
    let mut client = server.client().await;
    // `rich` paid in 100,000; `poor` never paid anything and spends it.
    set_published_balance(&mut client, 100_000).await;
    assert_eq!(published_debit(&mut client, &running(), "poor", 60_000).await.as_deref(), Ok("debited"));
    assert_eq!(published_debit(&mut client, &running(), "rich", 60_000).await.as_deref(), Ok("insufficient"));

    let node = node(server.options(), "n1", &MemoryStores::default()).await;
    open(&node, "rich", 100_000).await;
    open(&node, "poor", 0).await;
    let refused = ask(&node, "poor", authorise("s-poor")).await;
    assert!(matches!(refused, Err(AccountRejection::InsufficientFunds { .. })), "{refused:?}");
    ask(&node, "rich", authorise("s-rich")).await.expect("has the money");
    debited(ask(&node, "rich", debit("s-rich", 1, 400)).await);
    assert_eq!((balance(&node, "rich").await, balance(&node, "poor").await), (Money(94_000), Money::ZERO));
    balanced(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_amount_is_never_defined() {
    let server = Server::start();
    let mut client = server.client().await;
    set_published_balance(&mut client, 100_000).await;
    let error = published_debit(&mut client, PUBLISHED, "a1", 600).await.expect_err("it cannot run");
    assert!(error.to_string().contains("'amount'"), "{error}");
    assert_eq!(published_balance(&mut client).await, 100_000, "the energy was free");

    // Ours prices the reading itself and takes that; a caller's amount that differs is refused.
    let node = node(server.options(), "n1", &MemoryStores::default()).await;
    open(&node, "a1", 100_000).await;
    ask(&node, "a1", authorise("s1")).await.expect("has the money");
    let mut wrong = debit("s1", 1, 400);
    if let AccountCommand::Debit { cumulative, .. } = &mut wrong {
        cumulative.energy = Money(1);
    }
    assert!(ask(&node, "a1", wrong).await.is_err(), "an amount that the energy does not cost");
    assert_eq!(balance(&node, "a1").await, Money(100_000));
    // 0.4 kWh at 1.2 + 0.3 a kWh.
    debited(ask(&node, "a1", debit("s1", 1, 400)).await);
    assert_eq!(balance(&node, "a1").await, Money(94_000));
    balanced(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_charges_twice_without_an_idempotency_key() {
    let server = Server::start();
    let mut client = server.client().await;
    set_published_balance(&mut client, 100_000).await;
    for _ in 0..2 {
        // The answer to the first one is lost, so the caller repeats it.
        published_debit(&mut client, &running(), "a1", 6_000).await.expect("debits");
    }
    assert_eq!(published_balance(&mut client).await, 88_000, "one debit was taken twice");

    let proxy = Proxy::start(server.port).await;
    let options = RedisOptions::new(&proxy.url()).expect("a URL");
    let node = node(options, "n1", &MemoryStores::default()).await;
    open(&node, "a1", 100_000).await;
    ask(&node, "a1", authorise("s-retried")).await.expect("has the money");
    // Lost between Redis and the node, and then again between the node and its caller.
    proxy.swallow("s-retried");
    let first = debited(ask(&node, "a1", debit("s-retried", 1, 400)).await);
    assert_eq!(proxy.swallowed(), 1);
    for _ in 0..3 {
        assert_eq!(debited(ask(&node, "a1", debit("s-retried", 1, 400)).await), first, "the same answer");
    }
    assert!(ask(&node, "a1", debit("s-retried", 1, 401)).await.is_err(), "the same number with another content");
    assert_eq!(balance(&node, "a1").await, Money(94_000));
    balanced(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_node_still_debits() {
    let server = Server::start();
    let proxy = Proxy::start(server.port).await;
    let mut client = server.client().await;
    set_published_balance(&mut client, 100_000).await;
    // The shard was handed to another node, which debits the session; what the old one has in flight is taken too.
    published_debit(&mut client, &running(), "a1", 6_000).await.expect("the new node debits");
    published_debit(&mut client, &running(), "a1", 6_000).await.expect("the stale node debits");
    assert_eq!(published_balance(&mut client).await, 88_000, "two nodes debited one session");

    let stores = MemoryStores::default();
    let stale = node(RedisOptions::new(&proxy.url()).expect("a URL"), "n1", &stores).await;
    open(&stale, "a1", 100_000).await;
    ask(&stale, "a1", authorise("s-moved")).await.expect("has the money");
    proxy.hold("s-moved");
    let handle = stale.handle();
    let in_flight = tokio::spawn(async move { handle.account_command(id("a1"), debit("s-moved", 1, 400)).await });
    proxy.until_held().await;
    let owner = node(server.options(), "n2", &stores).await;
    let answer = debited(ask(&owner, "a1", debit("s-moved", 1, 400)).await);
    assert_eq!(answer.cumulative.energy, Money(4_800));
    proxy.let_go().await;
    let told = in_flight.await.expect("does not panic");
    assert!(told.is_err(), "the stale node acknowledged {told:?}");
    assert_eq!(balance(&owner, "a1").await, Money(94_000), "one debit");
    balanced(&owner).await;
    drop(stale);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_debits_vanish_on_fail_over() {
    let primary = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let mut client = primary.client().await;
    set_published_balance(&mut client, 100_000).await;

    // Books that ask for a replica: what is acknowledged is there after the fail-over.
    let careful = primary.options().replicas(1).prefix("careful").expect("a prefix");
    let stores = MemoryStores::default();
    let before = node(careful, "n1", &stores).await;
    open(&before, "a1", 100_000).await;
    ask(&before, "a1", authorise("s1")).await.expect("has the money");
    debited(ask(&before, "a1", debit("s1", 1, 400)).await);
    drop(before);
    // Books that do not.
    let proxy = Proxy::start(primary.port).await;
    let alone = node(RedisOptions::new(&proxy.url()).expect("a URL"), "n1", &MemoryStores::default()).await;
    open(&alone, "a1", 100_000).await;
    ask(&alone, "a1", authorise("s1")).await.expect("has the money");
    primary.until_replicated().await;

    // The replica falls behind, debits are acknowledged, the primary is lost and the replica takes over.
    let mut promoted = replica.client().await;
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(&mut promoted).await.expect("promotes");
    assert_eq!(published_debit(&mut client, &running(), "a1", 6_000).await.as_deref(), Ok("debited"));
    debited(ask(&alone, "a1", debit("s1", 1, 400)).await);
    proxy.fail_over(replica.port);
    drop(primary);
    assert_eq!(published_balance(&mut promoted).await, 100_000, "an acknowledged debit is gone, and nobody knows");

    let careful = replica.options().prefix("careful").expect("a prefix");
    let after = node(careful, "n2", &MemoryStores::default()).await;
    assert_eq!(balance(&after, "a1").await, Money(94_000), "an acknowledged debit is there");
    balanced(&after).await;
    // Without a replica the loss cannot be helped, but it is known: the shard is closed and no wrong balance served.
    let mut closed = None;
    for _ in 0..500 {
        match alone.handle().account_command(id("a1"), debit("s1", 2, 800)).await {
            Err(CallError::NotServing(shard)) => {
                closed = Some(shard);
                break;
            }
            Ok(answer) => panic!("served from lost books: {answer:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    assert_eq!(closed.as_deref(), Some("account-0000"));
    assert!(alone.handle().account(&id("a1")).await.is_err(), "no balance of lost books");
}
