//! The lives of entities through a whole node on memory stores, with time under the tests' control: restarts,
//! parking and dead letters, passivation, quarantine. A poisonous event for each kind of entity.

use crate::support::*;
use chargeplane_actors::entry::{EncodedEntries, Entry};
use chargeplane_actors::family::{AccountFamily, AccountKey, AccountMap};
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::node::Node;
use chargeplane_actors::shard::Family as _;
use chargeplane_actors::shared::NodeConfig;
use chargeplane_actors::testing::{MemoryStores, Poison};
use chargeplane_actors::views::{DeadLetterView, PageOf, ShardView};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::Journal;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountEvent, AccountKind, Holder};
use chargeplane_domain::charger::ChargerEvent;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{CommandId, NodeId};
use chargeplane_domain::placement::{Family, shard_of};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Currency, Money, WattHours, Watts};
use chargeplane_protocol::message::{GatewayEvent, NumberedEvent, Stream, UpBatch};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A gateway sends again what was not acknowledged.
const REPEAT: Duration = Duration::from_secs(3);

fn fault(child: u16, code: &str) -> GatewayEvent {
    GatewayEvent::Fault { child, code: code.to_owned(), at: now() }
}

async fn letters(handle: &NodeHandle) -> Vec<DeadLetterView> {
    handle.dead_letters().await.expect("letters")
}

/// Sums over the shards of the node.
async fn count(handle: &NodeHandle, of: fn(&ShardView) -> usize) -> usize {
    handle.shards().await.expect("shards").iter().map(of).sum()
}

async fn put_in_service(handle: &NodeHandle, charger: &str, key: &str) -> Result<CommandId, CallError> {
    let action = Action::SetAvailability { available: true };
    handle.request_command(&id(charger), action, key.to_owned()).await
}

async fn top_up(handle: &NodeHandle, account: &str, key: &str, amount: i64) -> Result<AccountAnswer, CallError> {
    let command = AccountCommand::TopUp { key: key.to_owned(), amount: Money(amount), currency: None, at: now() };
    handle.account_command(id(account), command).await
}

async fn charger_state(handle: &NodeHandle, charger: &str) -> String {
    handle.charger(&id(charger)).await.expect("a charger").state
}

/// Delivers a batch again and again, at a gateway's pace.
async fn deliver(gateway: &TestGateway, sealed: &[u8], times: usize) {
    for _ in 0..times {
        gateway.publish(Stream::Events, sealed.to_vec());
        sleep(REPEAT).await;
    }
}

async fn station(stores: &MemoryStores) -> (Node, TestGateway) {
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    let gateway = TestGateway::new(&node, link, &enrolment);
    (node, gateway)
}

#[tokio::test(start_paused = true)]
async fn a_failed_entity_is_back_after_a_pause_and_its_neighbours_notice_nothing() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = station(&stores).await;
    let handle = node.handle();
    let poison = Poison::new("charger:main/c0", "burnt-once");
    let (seq, sealed) = gateway.event(fault(0, "burnt-once"));
    sleep(Duration::from_millis(10)).await;

    let failed = Instant::now();
    put_in_service(&handle, "c1", "k1").await.expect("a neighbour works");
    assert_eq!(failed.elapsed(), Duration::ZERO);
    put_in_service(&handle, "c0", "k0").await.expect("waits for the restart and is handled");
    let pause = failed.elapsed();
    assert!((Duration::from_millis(50)..=Duration::from_millis(150)).contains(&pause), "{pause:?}");

    gateway.receive();
    assert!(!gateway.down.iter().any(|down| is_ack(down, seq)), "what failed is not acknowledged");
    drop(poison);
    gateway.publish(Stream::Events, sealed);
    gateway.until_acked(Stream::Events, seq).await;
    assert_eq!(charger_state(&handle, "c0").await, "faulted");
    assert!(letters(&handle).await.is_empty());
}

fn is_ack(down: &chargeplane_protocol::message::Down, seq: u64) -> bool {
    matches!(down, chargeplane_protocol::message::Down::Ack(ack) if ack.stream == Stream::Events && ack.upto_seq >= seq)
}

#[tokio::test(start_paused = true)]
async fn the_fifth_failure_in_a_minute_parks_an_idle_charger_and_frees_its_gateway() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = station(&stores).await;
    let handle = node.handle();
    let poison = Poison::new("charger:main/c0", "burnt-park");
    let (seq, sealed) = gateway.event(fault(0, "burnt-park"));
    sleep(REPEAT).await;
    deliver(&gateway, &sealed, 3).await;
    assert_eq!((letters(&handle).await.len(), count(&handle, |shard| shard.parked).await), (0, 0));
    deliver(&gateway, &sealed, 1).await;
    assert_eq!((letters(&handle).await.len(), count(&handle, |shard| shard.parked).await), (1, 1));

    // The gateway's stream goes on; the same event again is not another letter.
    deliver(&gateway, &sealed, 1).await;
    gateway.until_acked(Stream::Events, seq).await;
    let (next, _) = gateway.event(fault(1, "neighbour"));
    gateway.until_acked(Stream::Events, next).await;
    assert_eq!(charger_state(&handle, "c1").await, "faulted");
    assert!(matches!(put_in_service(&handle, "c0", "k").await, Err(CallError::Parked(_))));
    let listed = letters(&handle).await;
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!(listed[0].entity, "charger:main/c0");
    assert!(listed[0].message.contains("burnt-park"), "{listed:#?}");

    // Retried too early, the letter stays; then it is handled, and gone, also after a restart of the node.
    let early = handle.retry_dead_letter(&listed[0].id).await;
    assert_eq!(early, Err(CallError::Interrupted));
    assert_eq!(letters(&handle).await.len(), 1);
    drop(poison);
    handle.retry_dead_letter(&listed[0].id).await.expect("handled");
    assert!(letters(&handle).await.is_empty());
    assert_eq!(charger_state(&handle, "c0").await, "faulted");
    assert_eq!(count(&handle, |shard| shard.parked).await, 0);
    let missing = handle.retry_dead_letter(&listed[0].id).await;
    assert!(matches!(missing, Err(CallError::NotFound(_))), "{missing:?}");
    assert!(node.drain().await);
    let (node, _) = stores.start(|_| ()).await;
    assert!(letters(&node.handle()).await.is_empty());
    assert_eq!(charger_state(&node.handle(), "c0").await, "faulted");
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_a_minute_apart_never_park() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = station(&stores).await;
    let _poison = Poison::new("charger:main/c0", "burnt-slowly");
    let (_, sealed) = gateway.event(fault(0, "burnt-slowly"));
    for _ in 0..12 {
        sleep(Duration::from_secs(20)).await;
        gateway.publish(Stream::Events, sealed.clone());
    }
    sleep(REPEAT).await;
    assert_eq!(count(&node.handle(), |shard| shard.parked).await, 0);
    assert!(letters(&node.handle()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_list_acknowledges_nothing_and_drops_no_letter() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = station(&stores).await;
    let handle = node.handle();
    let _poison = Poison::new("charger:main/c0", "burnt-many");
    let (seq, sealed) = gateway.event(fault(0, "burnt-many"));
    deliver(&gateway, &sealed, 6).await;
    gateway.until_acked(Stream::Events, seq).await;

    let events = (0..1_000u64).map(|n| NumberedEvent { number: 10 + n, event: fault(0, &format!("later-{n}")) });
    let (seq, sealed) = gateway.send(Stream::Events, &UpBatch::Events(events.collect()));
    deliver(&gateway, &sealed, 3).await;
    gateway.receive();
    assert!(!gateway.down.iter().any(|down| is_ack(down, seq)), "one event of the batch found no room");
    let listed = letters(&handle).await;
    assert_eq!(listed.len(), 1_000);
    assert!(listed[0].message.contains("burnt-many"), "the oldest is still there");

    // Dropping one makes room; it also revives the charger, which takes the rest.
    handle.drop_dead_letter(&listed[0].id).await.expect("dropped");
    gateway.publish(Stream::Events, sealed);
    gateway.until_acked(Stream::Events, seq).await;
    assert_eq!(letters(&handle).await.len(), 999);
}

#[tokio::test(start_paused = true)]
async fn a_parked_account_refuses_without_more_letters_until_its_letter_is_dropped() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100).await;
    open_account(&handle, "a2", 100).await;
    let poison = Poison::new("account:main/a1", "burnt-top-up");
    for _ in 0..5 {
        assert_eq!(top_up(&handle, "a1", "burnt-top-up", 7).await, Err(CallError::Interrupted));
        sleep(REPEAT).await;
    }
    for n in 0..3 {
        let refused = top_up(&handle, "a1", &format!("other-{n}"), 1).await;
        assert!(matches!(refused, Err(CallError::Parked(_))), "{refused:?}");
    }
    top_up(&handle, "a2", "k", 1).await.expect("a neighbour works");
    let listed = letters(&handle).await;
    assert_eq!(listed.iter().map(|letter| &*letter.entity).collect::<Vec<_>>(), ["account:main/a1"]);
    drop(poison);
    handle.drop_dead_letter(&listed[0].id).await.expect("dropped");
    assert_eq!(handle.account(&id("a1")).await.expect("lives again").balance, Money(100));
    assert!(letters(&handle).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_parked_accounts_letter_is_handled_when_it_is_retried() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100).await;
    let poison = Poison::new("account:main/a1", "burnt-retried");
    for _ in 0..5 {
        assert_eq!(top_up(&handle, "a1", "burnt-retried", 7).await, Err(CallError::Interrupted));
        sleep(REPEAT).await;
    }
    drop(poison);
    handle.retry_dead_letter(&letters(&handle).await[0].id).await.expect("handled");
    assert_eq!(handle.account(&id("a1")).await.expect("lives again").balance, Money(107));
    assert!(letters(&handle).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_message_parks_a_station_and_the_letter_says_what_it_was() {
    let stores = MemoryStores::default();
    let (node, _gateway) = station(&stores).await;
    let handle = node.handle();
    let _poison = Poison::new("station:main/s1", "burnt-limit");
    for _ in 0..5 {
        assert_eq!(
            handle.set_limit(&id("s1"), "burnt-limit", Some(Watts(1)), "main").await,
            Err(CallError::Interrupted)
        );
        sleep(REPEAT).await;
    }
    let parked = handle.set_limit(&id("s1"), "grid", Some(Watts(50_000)), "main").await;
    assert!(matches!(parked, Err(CallError::Parked(_))), "{parked:?}");
    let listed = letters(&handle).await;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].message.contains("SetLimit") && listed[0].message.contains("burnt-limit"), "{listed:#?}");
    let retried = handle.retry_dead_letter(&listed[0].id).await;
    assert!(matches!(retried, Err(CallError::Invalid(_))), "{retried:?}");
    handle.drop_dead_letter(&listed[0].id).await.expect("dropped");
    handle.set_limit(&id("s1"), "grid", Some(Watts(50_000)), "main").await.expect("lives again");
    assert_eq!(handle.station(&id("s1")).await.expect("a station").limit_w, Watts(50_000));
}

#[tokio::test(start_paused = true)]
async fn a_poisonous_batch_parks_its_gateway_and_is_acknowledged_once_it_lives_again() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = station(&stores).await;
    let handle = node.handle();
    let poison = Poison::new("gateway:main/g1", "burnt-batch");
    let (seq, sealed) = gateway.event(fault(0, "burnt-batch"));
    sleep(REPEAT).await;
    deliver(&gateway, &sealed, 5).await;
    let listed = letters(&handle).await;
    assert_eq!(listed.iter().map(|letter| &*letter.entity).collect::<Vec<_>>(), ["gateway:main/g1"]);
    assert!(listed[0].message.contains("Events"), "{listed:#?}");
    drop(poison);
    handle.drop_dead_letter(&listed[0].id).await.expect("dropped");
    gateway.publish(Stream::Events, sealed);
    gateway.until_acked(Stream::Events, seq).await;
    assert_eq!(charger_state(&handle, "c0").await, "faulted");
}

#[tokio::test(start_paused = true)]
async fn idle_entities_leave_and_their_successors_know_all_they_did() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.passivate_after = Duration::from_secs(5)).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100).await;
    assert_eq!(count(&handle, |shard| shard.live).await, 1);
    let mut balance = 100;
    // Around the moment of leaving, at which a message may meet any state of the entity.
    for round in 0..40u64 {
        let first = top_up(&handle, "a1", &format!("k{round}"), 1).await;
        balance += 1;
        assert_eq!(first, Ok(AccountAnswer::ToppedUp { balance: Money(balance) }));
        sleep(Duration::from_millis(4_990 + 50 * round)).await;
        assert_eq!(top_up(&handle, "a1", &format!("k{round}"), 1).await, first, "its successor knows the key");
    }
    sleep(Duration::from_secs(7)).await;
    assert_eq!(count(&handle, |shard| shard.live).await, 0);

    // What is not durable yet keeps it: a successor must find it in the map.
    stores.journal.hold(true);
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { top_up(&handle, "a1", "held", 1).await }
    });
    sleep(Duration::from_secs(8)).await;
    assert_eq!(count(&handle, |shard| shard.live).await, 1);
    stores.journal.hold(false);
    assert!(waiting.await.expect("no panic").is_ok());
    assert_eq!(handle.account(&id("a1")).await.expect("open").balance, Money(balance + 1));
}

/// Writes a frame as a node of another version might have.
async fn write<E: Serialize>(stores: &MemoryStores, family: Family, id_text: &str, entries: Vec<(&str, E)>) {
    let shard = shard_of(family, id_text, 2);
    let opened = stores.journal.open(shard, NodeId("other".into())).await.expect("opens");
    let mut encoded = EncodedEntries::default();
    for (key, event) in entries {
        encoded.push(&Entry::Entity { key: key.to_owned(), event }).expect("encodes");
    }
    let payload = encoded.into_payload();
    let frame = Frame::following(shard, opened.epoch, opened.last_lsn, opened.last_hash, now(), payload);
    stores.journal.commit(vec![frame]).await.expect("commits");
}

#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Known(AccountEvent),
    Unknown { frozen_by_a_later_version: Vec<u32> },
}

fn opened() -> Written {
    let currency = Currency::new("CNY").expect("a code");
    Written::Known(AccountEvent::Opened {
        key: "open".into(),
        currency,
        kind: AccountKind::Prepaid,
        holder: Holder::Personal,
        at: now(),
    })
}

fn topped_up(key: &str, amount: i64) -> Written {
    let currency = Currency::new("CNY").expect("a code");
    Written::Known(AccountEvent::ToppedUp { key: key.into(), currency, amount: Money(amount), at: now() })
}

#[tokio::test(start_paused = true)]
async fn an_event_nobody_here_can_read_quarantines_its_account_and_not_the_shard() {
    let stores = MemoryStores::default();
    let shard = |name: &str| shard_of(Family::Account, &format!("main/{name}"), 2);
    let names = (2..20).map(|n| format!("a{n}"));
    let beside = names.into_iter().find(|name| shard(name) == shard("a1")).expect("one of them shares a1's shard");
    let (a, neighbour) = ("account:main/a1", &*format!("account:main/{beside}"));
    let unknown = Written::Unknown { frozen_by_a_later_version: vec![1, 2, 3] };
    let entries = vec![
        (a, opened()),
        (neighbour, opened()),
        (a, topped_up("k1", 100)),
        (a, unknown),
        ("voucher:main/v1", topped_up("k", 1)),
        (neighbour, topped_up("k1", 5)),
        (a, topped_up("k2", 50)),
    ];
    write(&stores, Family::Account, "main/a1", entries).await;
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    assert_eq!(handle.account(&id(&beside)).await.expect("the neighbour").balance, Money(5));
    top_up(&handle, &beside, "k2", 1).await.expect("the shard writes");
    assert!(matches!(handle.account(&id("a1")).await, Err(CallError::Quarantined(_))));
    assert!(matches!(top_up(&handle, "a1", "k3", 1).await, Err(CallError::Quarantined(_))));
    assert!(letters(&handle).await.is_empty(), "callers are told");
    // The account, and a name that is no entity of this program.
    assert_eq!(count(&handle, |shard| shard.quarantined).await, 2);
    assert_eq!(count(&handle, |shard| shard.parked).await, 0);
    // Nothing behind the hole is in the books.
    let balances = handle.balances(None, 1_000).await.expect("balances");
    let of_a = balances.iter().find(|line| line.account == "driver:main/a1").expect("in the books");
    assert_eq!(of_a.balance, Money(100));
    assert_eq!(balances.iter().map(|line| line.balance.0).sum::<i64>(), 0);
    // The read models go on as well.
    for _ in 0..400 {
        if handle.statement(&id(&beside), (0, 0), 10).await.expect("statement").entries.len() == 3 {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("the statement of the neighbour stands still");
}

#[tokio::test(start_paused = true)]
async fn a_payload_without_sound_framing_closes_its_shard_and_no_other() {
    let stores = MemoryStores::default();
    let shard = shard_of(Family::Account, "main/a1", 2);
    let opened = stores.journal.open(shard, NodeId("other".into())).await.expect("opens");
    let cut = EncodedEntries::default().into_payload().slice(..5);
    let frame = Frame::following(shard, opened.epoch, opened.last_lsn, opened.last_hash, now(), cut);
    stores.journal.commit(vec![frame]).await.expect("commits");
    let mut config = NodeConfig::new("n1");
    config.shards = 2;
    let node = Node::start(config, stores.ports()).await.expect("starts");
    sleep(Duration::from_secs(1)).await;
    let views = node.handle().shards().await.expect("shards");
    let failed: Vec<_> = views.iter().filter(|view| view.state.starts_with("failed: frame 1")).collect();
    assert_eq!(failed.iter().map(|view| &*view.shard).collect::<Vec<_>>(), [shard.to_string()]);
    assert!(views.iter().all(|view| view.state == "open" || view.shard == shard.to_string()), "{views:#?}");
    // No list that would leave out what the shard has.
    assert!(
        matches!(node.handle().balances(None, 10).await, Err(CallError::NotServing(of)) if of == shard.to_string())
    );
    assert!(matches!(node.handle().accounts(PageOf::first(10)).await, Err(CallError::NotServing(_))));
}

#[tokio::test(start_paused = true)]
async fn no_dead_letter_revives_a_quarantined_charger() {
    let stores = MemoryStores::default();
    let (register, reason) = (WattHours(5), StopReason::Driver);
    let session = id("c0.1");
    let unfit = ChargerEvent::SessionStopped { session, register, at: now(), reason, refused: None };
    let unfit = chargeplane_actors::family::StationFamilyEvent::Charger(unfit);
    write(&stores, Family::Station, "main/s1", vec![("charger:main/c0", unfit)]).await;
    let (node, mut gateway) = station(&stores).await;
    let handle = node.handle();
    assert_eq!(count(&handle, |shard| shard.quarantined).await, 1);

    // What its gateway says of it is kept once, and the gateway goes on.
    let event = fault(0, "while-quarantined");
    let twice = [1, 2].map(|number| NumberedEvent { number, event: event.clone() });
    let (seq, _) = gateway.send(Stream::Events, &UpBatch::Events(twice.to_vec()));
    gateway.until_acked(Stream::Events, seq).await;
    let (seq, _) = gateway.event(fault(1, "neighbour"));
    gateway.until_acked(Stream::Events, seq).await;
    assert_eq!(charger_state(&handle, "c1").await, "faulted");
    let listed = letters(&handle).await;
    assert_eq!(listed.len(), 1);
    let retried = handle.retry_dead_letter(&listed[0].id).await;
    assert!(matches!(retried, Err(CallError::Quarantined(_))), "{retried:?}");
    assert_eq!(letters(&handle).await.len(), 1);
    handle.drop_dead_letter(&listed[0].id).await.expect("dropped");
    assert!(letters(&handle).await.is_empty());
    assert!(matches!(put_in_service(&handle, "c0", "k").await, Err(CallError::Quarantined(_))));
    assert_eq!(count(&handle, |shard| shard.quarantined).await, 1);
}

#[test]
fn books_and_account_take_an_event_both_or_neither() {
    let key = AccountKey(id("a1"));
    let mut map = AccountMap::default();
    let Written::Known(event) = topped_up("k", 100) else { return };
    assert!(
        AccountFamily::apply(&mut map, &key, std::slice::from_ref(&event)).is_err(),
        "the account was never opened"
    );
    assert!(map.accounts.is_empty() && map.books.balances.is_empty());
    let Written::Known(open) = opened() else { return };
    AccountFamily::apply(&mut map, &key, &[open]).expect("opens");
    AccountFamily::apply(&mut map, &key, std::slice::from_ref(&event)).expect("tops up");
    assert_eq!(map.books.balances.values().map(|(_, balance)| balance.0.abs()).collect::<Vec<_>>(), [100, 100]);
}
