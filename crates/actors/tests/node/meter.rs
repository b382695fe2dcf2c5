//! Meters that lie: absurd registers cost nobody money, and a session always ends.

use crate::support::*;
use chargeplane_actors::handle::NodeHandle;
use chargeplane_actors::node::Node;
use chargeplane_actors::ports::RecordQuery;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{ConnectorNo, SessionId};
use chargeplane_domain::session::{ChargeRecord, StopReason};
use chargeplane_domain::units::{Money, Timestamp, WattHours};
use chargeplane_protocol::message::{CommandEnd, Down, DownCommand, GatewayEvent, Stream};
use std::time::Duration;

fn command(down: &Down) -> Option<DownCommand> {
    match down {
        Down::Commands(commands) => commands.first().cloned(),
        _ => None,
    }
}

/// Brings a session up to the point where energy flows.
async fn start(gateway: &mut TestGateway, request: u64, register: i64) -> SessionId {
    let (account, connector) = (id("a1"), ConnectorNo(1));
    gateway.event(GatewayEvent::StartRequested { child: 0, connector, account, request, at: now() });
    let start = gateway.until("start command", command).await;
    gateway.down.clear();
    let Action::Start { session, .. } = start.action.clone() else { panic!("{start:?}") };
    gateway.event(GatewayEvent::CommandResult { child: 0, command: start.id, outcome: CommandEnd::Done, at: now() });
    let (child, register) = (0, WattHours(register));
    let started = GatewayEvent::SessionStarted { child, session: session.clone(), register, at: now() };
    let (seq, _) = gateway.event(started);
    gateway.until_acked(Stream::Events, seq).await;
    session
}

fn stopped(session: &SessionId, register: i64) -> GatewayEvent {
    let (register, reason) = (WattHours(register), StopReason::Driver);
    GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason }
}

async fn record_of(node: &Node, session: &SessionId) -> ChargeRecord {
    for _ in 0..2_000 {
        let query = RecordQuery { session: Some(session.clone()), limit: 10, ..RecordQuery::default() };
        let records = node.handle().charge_records(query).await.expect("records");
        if let Some(stored) = records.into_iter().next() {
            return stored.record;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no charge record for {session}");
}

async fn balance(handle: &NodeHandle) -> Money {
    handle.account(&id("a1")).await.expect("open").balance
}

async fn until_balance(handle: &NodeHandle, expected: i64) {
    for _ in 0..2_000 {
        if balance(handle).await == Money(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("expected a balance of {expected}, found {}", balance(handle).await.0);
}

/// Books, held money and the charger after a session.
async fn all_is_settled(handle: &NodeHandle, expected: i64) {
    let account = handle.account(&id("a1")).await.expect("open");
    assert_eq!((account.balance, account.held), (Money(expected), Money::ZERO));
    let balances = handle.balances(None, 1_000).await.expect("balances");
    assert_eq!(balances.iter().map(|line| line.balance.0).sum::<i64>(), 0, "{balances:#?}");
}

async fn node_with_money(stores: &MemoryStores) -> (Node, TestGateway) {
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(200)).await;
    let enrolment = set_up(&node.handle()).await;
    open_account(&node.handle(), "a1", 1_000_000).await;
    let gateway = TestGateway::new(&node, link, &enrolment);
    (node, gateway)
}

#[tokio::test]
async fn an_end_below_the_start_closes_at_the_last_reading() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let session = start(&mut gateway, 1, 1_000).await;
    gateway.samples(0, 0, vec![sample(now(), 1_200)]);
    until_balance(&node.handle(), 1_000_000 - 3_000).await;
    // The meter was swapped: the register begins anew.
    let (seq, sealed) = gateway.event(stopped(&session, 3));
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!((record.meter_start, record.meter_stop), (WattHours(1_000), WattHours(1_200)));
    assert_eq!((record.energy, record.billed_wh), (WattHours(200), WattHours(200)));
    assert_eq!(record.stop_reason, StopReason::MeterFault);
    all_is_settled(&node.handle(), 1_000_000 - 3_000).await;
    // Said again it changes nothing, and the charger takes the next car.
    gateway.publish(Stream::Events, sealed);
    let next = start(&mut gateway, 2, 3).await;
    let (seq, _) = gateway.event(stopped(&next, 103));
    gateway.until_acked(Stream::Events, seq).await;
    assert_eq!(record_of(&node, &next).await.energy, WattHours(100));
    assert!(node.handle().dead_letters().await.expect("letters").is_empty());
}

#[tokio::test]
async fn an_absurd_end_closes_at_the_last_reading() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let session = start(&mut gateway, 1, 1_000).await;
    let (seq, _) = gateway.event(stopped(&session, 51_000));
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!((record.energy, record.stop_reason), (WattHours::ZERO, StopReason::MeterFault));
    all_is_settled(&node.handle(), 1_000_000).await;
}

#[tokio::test]
async fn an_absurd_sample_is_stored_and_not_billed() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let handle = node.handle();
    let session = start(&mut gateway, 1, 1_000).await;
    let base = now();
    gateway.samples(0, 0, vec![sample(base, 1_100)]);
    gateway.samples(0, 1, vec![sample(base.plus_ms(1_000), 51_100)]);
    let code = gateway
        .until("notice", |down| match down {
            Down::Notice(notice) => Some(notice.code.clone()),
            _ => None,
        })
        .await;
    assert_eq!(code, "reading_refused");
    let seq = gateway.samples(0, 2, vec![sample(base.plus_ms(2_000), 1_250)]);
    gateway.until_acked(Stream::Fast, seq).await;
    until_balance(&handle, 1_000_000 - 3_750).await;
    let (seq, _) = gateway.event(stopped(&session, 1_300));
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!((record.energy, record.stop_reason), (WattHours(300), StopReason::Driver));
    all_is_settled(&handle, 1_000_000 - 4_500).await;
    let raw = handle.telemetry_raw(&id("c0"), Timestamp(0), Timestamp(i64::MAX), 100).await.expect("raw");
    assert_eq!(raw.iter().map(|stored| stored.sample.register.0).collect::<Vec<_>>(), [1_100, 51_100, 1_250]);
}

#[tokio::test]
async fn what_a_wrong_reading_was_billed_is_given_back_at_the_end() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let session = start(&mut gateway, 1, 1_000).await;
    // Wrong, but within what can have flowed.
    gateway.samples(0, 0, vec![sample(now(), 1_900)]);
    until_balance(&node.handle(), 1_000_000 - 13_500).await;
    let (seq, _) = gateway.event(stopped(&session, 1_300));
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!((record.energy, record.billed_wh, record.billed), (WattHours(300), WattHours(300), Money(4_500)));
    all_is_settled(&node.handle(), 1_000_000 - 4_500).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_does_not_stop_the_billing() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    start(&mut gateway, 1, 1_000).await;
    let base = now();
    gateway.samples(0, 0, vec![sample(base, 1_200)]);
    until_balance(&node.handle(), 1_000_000 - 3_000).await;
    gateway.samples(0, 1, vec![sample(base.plus_ms(-240_000), 1_400)]);
    until_balance(&node.handle(), 1_000_000 - 6_000).await;
    gateway.samples(0, 2, vec![sample(base.plus_ms(-238_000), 1_600)]);
    until_balance(&node.handle(), 1_000_000 - 9_000).await;
}

#[tokio::test]
async fn an_unusable_end_after_a_restart_settles_nothing_below_what_was_billed() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let session = start(&mut gateway, 1, 1_000).await;
    gateway.samples(0, 0, vec![sample(now(), 1_200)]);
    until_balance(&node.handle(), 1_000_000 - 3_000).await;
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    drop(node);
    gateway.reconnect(&second, link);
    let (seq, sealed) = gateway.event(stopped(&session, 0));
    // Not acknowledged while the account has not said what it billed; a gateway sends it again.
    for _ in 0..400 {
        gateway.receive();
        if gateway
            .down
            .iter()
            .any(|down| matches!(down, Down::Ack(ack) if ack.stream == Stream::Events && ack.upto_seq >= seq))
        {
            break;
        }
        gateway.publish(Stream::Events, sealed.clone());
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let record = record_of(&second, &session).await;
    assert_eq!((record.energy, record.stop_reason), (WattHours(200), StopReason::MeterFault));
    all_is_settled(&second.handle(), 1_000_000 - 3_000).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_applied_is_kept_as_a_dead_letter() {
    let stores = MemoryStores::default();
    let (node, mut gateway) = node_with_money(&stores).await;
    let (seq, _) = gateway.event(stopped(&id("c0.7"), 5));
    gateway.until_acked(Stream::Events, seq).await;
    let letters = node.handle().dead_letters().await.expect("letters");
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].error.contains("does not know session"), "{letters:?}");
    // The charger goes on.
    start(&mut gateway, 1, 1_000).await;
    node.handle().drop_dead_letter(&letters[0].id).await.expect("dropped");
    assert!(node.handle().dead_letters().await.expect("letters").is_empty());
}
