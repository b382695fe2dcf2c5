//! Holds end by time: on virtual time, of accounts with and without an actor, after a restart, and not too early.

use crate::support::*;
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::shared::{Clock, NodeConfig};
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::account::{AccountAnswer, AccountRejection};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::units::{Money, Timestamp};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The moment at which the tests begin.
const START: Timestamp = Timestamp(1_767_600_000_000);

/// A hold ends 60 s after the last reading, and is given back 30 s later. Idle accounts leave after two seconds.
fn configure(config: &mut NodeConfig, origin: Instant) {
    config.clock = Clock::with_wall_at(origin, START);
    config.hold_lasts = Duration::from_secs(60);
    config.ring_age = Duration::from_secs(30);
    config.passivate_after = Duration::from_secs(2);
}

fn at(seconds: i64) -> Timestamp {
    START.plus_ms(seconds * 1_000)
}

async fn until(origin: Instant, seconds: u64) {
    tokio::time::sleep_until(origin + Duration::from_secs(seconds)).await;
}

async fn held(handle: &NodeHandle, account: &str) -> i64 {
    handle.account(&id(account)).await.expect("open").held.0
}

async fn live_accounts(handle: &NodeHandle) -> usize {
    let shards = handle.shards().await.expect("shards");
    shards.iter().filter(|shard| shard.shard.starts_with("account")).map(|shard| shard.live).sum()
}

async fn kinds(handle: &NodeHandle, account: &str) -> Vec<String> {
    let page = handle.statement(&id(account), (0, 0), 100).await.expect("lines");
    page.entries.iter().map(|line| line.kind.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_session_that_never_began_gives_its_hold_back() {
    let (stores, origin) = (MemoryStores::default(), Instant::now());
    let (node, _link) = stores.start(|config| configure(config, origin)).await;
    let handle = node.handle();
    for account in ["never", "renewed", "both"] {
        open_account(&handle, account, 10_000).await;
    }
    Metered::begin(&handle, "never", "c1.1", 6_000, at(0)).await;
    let mut renewed = Metered::begin(&handle, "renewed", "c2.1", 6_000, at(0)).await;
    Metered::begin(&handle, "both", "c3.1", 4_000, at(0)).await;
    let mut other = Metered::begin(&handle, "both", "c4.1", 4_000, at(20)).await;
    until(origin, 40).await;
    // A debit of nothing renews it too: the meter was read.
    renewed.debit(&handle, 0, at(40)).await.expect("debits");
    assert_eq!(live_accounts(&handle).await, 1, "the accounts are rows of the map");
    until(origin, 88).await;
    assert_eq!((held(&handle, "never").await, held(&handle, "both").await), (6_000, 8_000));
    until(origin, 93).await;
    assert_eq!((held(&handle, "never").await, held(&handle, "renewed").await), (0, 6_000));
    assert_eq!(held(&handle, "both").await, 4_000, "the other session's end is later");
    other.settle(&handle, 1_000, at(95)).await.expect("its end has not come");
    until(origin, 128).await;
    assert_eq!(held(&handle, "renewed").await, 6_000);
    until(origin, 133).await;
    assert_eq!(held(&handle, "renewed").await, 0);
    assert_eq!(kinds(&handle, "never").await, ["opened", "top_up", "hold_ended"]);
    assert_eq!(kinds(&handle, "both").await, ["opened", "top_up", "hold_ended", "settlement"]);
    // Heard of all the same: refused while it goes on, and in the end the operator's.
    let late = renewed.debit(&handle, 500, at(134)).await;
    assert_eq!(late, Err(CallError::Account(AccountRejection::SessionReleased)));
    let audited = handle.audit_statement(&id("never"), (0, 0), 10).await.expect("audits").entries;
    let cause = &audited[2].cause;
    assert_eq!((cause.event, cause.session.clone()), ("hold_ended", Some(id("c1.1"))));
    assert!(cause.note.contains("0.6000 was held"), "{}", cause.note);
}

/// A session that is settled after its hold ended: what it metered is the operator's.
#[tokio::test(start_paused = true)]
async fn what_is_metered_after_the_end_is_the_operators() {
    let (stores, origin) = (MemoryStores::default(), Instant::now());
    let (node, _link) = stores.start(|config| configure(config, origin)).await;
    let handle = node.handle();
    open_account(&handle, "a1", 10_000).await;
    let mut session = Metered::begin(&handle, "a1", "c1.1", 6_000, at(0)).await;
    until(origin, 95).await;
    assert_eq!(held(&handle, "a1").await, 0);
    let Ok(AccountAnswer::Settled(settled)) = session.settle(&handle, 1_000, at(95)).await else {
        panic!("a settlement is taken");
    };
    assert_eq!((settled.billed, settled.overshoot), (Money(0), Money(15_000)));
    assert_eq!(handle.account(&id("a1")).await.expect("open").balance, Money(10_000));
}

/// The node that held is gone when the end comes; its successor ends the hold, once, and a later one finds it ended.
#[tokio::test(start_paused = true)]
async fn a_hold_ends_after_a_restart_and_stays_ended() {
    let (stores, origin) = (MemoryStores::default(), Instant::now());
    let (first, _link) = stores.start(|config| configure(config, origin)).await;
    open_account(&first.handle(), "a1", 10_000).await;
    Metered::begin(&first.handle(), "a1", "c1.1", 6_000, at(0)).await;
    first.kill();
    until(origin, 100).await;
    let named = |name: &'static str| {
        move |config: &mut NodeConfig| {
            configure(config, origin);
            config.node = NodeId(name.into());
        }
    };
    let (second, _link) = stores.start(named("n2")).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(held(&second.handle(), "a1").await, 0);
    let before = second.handle().balances(None, 100).await.expect("balances");
    second.kill();
    let (third, _link) = stores.start(named("n3")).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(held(&third.handle(), "a1").await, 0);
    assert_eq!(third.handle().balances(None, 100).await.expect("balances"), before);
    assert_eq!(kinds(&third.handle(), "a1").await, ["opened", "top_up", "hold_ended"]);
}
