//! Accounts on a whole node: transfers between shards, releases of holds, audits.

use crate::support::*;
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::testing::{MemoryStores, Poison};
use chargeplane_domain::account::{
    AccountAnswer, AccountCommand, AccountRejection, RELEASE_QUIET_MS, Transfer, TransferId,
};
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{AccountId, NodeId};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Money, WattHours};
use chargeplane_protocol::message::{Down, GatewayEvent, Stream};
use std::time::Duration;

async fn ended(handle: &NodeHandle, id: &TransferId) -> Transfer {
    for _ in 0..2_000 {
        let transfer = handle.transfer_state(id).await.expect("known");
        if transfer.end.is_some() {
            return transfer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("transfer {id} does not end");
}

async fn send(handle: &NodeHandle, from: &str, to: &str, key: &str, amount: i64) -> Result<TransferId, CallError> {
    match handle.transfer(id(from), id(to), key.to_owned(), Money(amount), None).await? {
        AccountAnswer::TransferredOut { transfer, .. } => Ok(transfer),
        other => panic!("{other:?}"),
    }
}

async fn balance(handle: &NodeHandle, account: &str) -> i64 {
    handle.account(&id(account)).await.expect("open").balance.0
}

async fn in_flight(handle: &NodeHandle) -> i64 {
    let balances = handle.balances(None, 1_000).await.expect("balances");
    assert_eq!(balances.iter().map(|line| line.balance.0).sum::<i64>(), 0, "{balances:#?}");
    balances.iter().filter(|line| line.account == "in-flight:main:CNY").map(|line| line.balance.0).sum()
}

#[tokio::test]
async fn a_transfer_leaves_once_and_arrives_once() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100_000).await;
    for n in 2..10 {
        open_account(&handle, &format!("a{n}"), 0).await;
    }
    // To eight accounts, most of them in other shards.
    for n in 2..10 {
        let (to, key) = (format!("a{n}"), format!("k{n}"));
        let first = send(&handle, "a1", &to, &key, 1_000).await.expect("leaves");
        assert_eq!(send(&handle, "a1", &to, &key, 1_000).await.as_ref(), Ok(&first), "the same key, the same answer");
        let end = ended(&handle, &first).await.end.expect("ended");
        assert_eq!(end.returned, None);
        assert_eq!(balance(&handle, &to).await, 1_000);
    }
    assert_eq!((balance(&handle, "a1").await, in_flight(&handle).await), (92_000, 0));
    let refusal = |result: Result<TransferId, CallError>| match result {
        Err(CallError::Account(rejection)) => rejection.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(send(&handle, "a1", "nobody", "n", 5).await), "unknown_target");
    assert_eq!(refusal(send(&handle, "nobody", "a1", "n", 5).await), "unknown_account");
    assert_eq!(refusal(send(&handle, "a2", "a1", "n", 1_001).await), "insufficient_funds");
    let close = |key: &str| AccountCommand::Close { key: key.to_owned(), at: now() };
    let back = send(&handle, "a2", "a1", "back", 1_000).await.expect("leaves");
    ended(&handle, &back).await;
    handle.account_command(id("a2"), close("c")).await.expect("empty");
    assert_eq!(refusal(send(&handle, "a1", "a2", "late", 5).await), "target_closed");
    let kinds: Vec<_> = handle.statement(&id("a2"), (0, 0), 10).await.expect("lines").entries;
    let kinds: Vec<_> = kinds.iter().map(|line| (line.kind.to_string(), line.amount.0, line.balance.0)).collect();
    let line = |kind: &str, amount, balance| (kind.to_owned(), amount, balance);
    let expected = [
        line("opened", 0, 0),
        line("transfer_in", 1_000, 1_000),
        line("transfer_out", -1_000, 0),
        line("closed", 0, 0),
    ];
    assert_eq!(kinds, expected);
    assert!(node.drain().await);
}

/// The target fails on every arrival until it is parked; meanwhile the node dies. Its successor sends again.
#[tokio::test]
async fn a_transfer_goes_on_after_the_node_died() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100_000).await;
    open_account(&handle, "burnt-target", 0).await;
    let poison = Poison::new("account:main/burnt-target", "TransferIn");
    let transfer = send(&handle, "a1", "burnt-target", "k", 30_000).await.expect("leaves");
    assert_eq!(handle.transfer_state(&transfer).await.expect("known").end, None);
    assert_eq!((balance(&handle, "a1").await, in_flight(&handle).await), (70_000, 30_000));
    let (second, _link) = stores.start(|config| config.node = NodeId("n2".into())).await;
    drop(node);
    drop(poison);
    let handle = second.handle();
    assert_eq!(ended(&handle, &transfer).await.end.expect("ended").returned, None);
    assert_eq!((balance(&handle, "burnt-target").await, in_flight(&handle).await), (30_000, 0));
    assert_eq!(send(&handle, "a1", "burnt-target", "k", 30_000).await, Ok(transfer), "the same key, the same answer");
    assert_eq!(balance(&handle, "a1").await, 70_000);
}

/// The account is closed after it was looked at, and before the money comes: it comes back.
#[tokio::test]
async fn a_refused_transfer_comes_back() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 100_000).await;
    open_account(&handle, "a2", 0).await;
    let close = AccountCommand::Close { key: "c".into(), at: now() };
    handle.account_command(id("a2"), close).await.expect("empty");
    let (to, currency) = (id::<AccountId>("a2"), handle.account(&id("a1")).await.expect("open").currency);
    let out = AccountCommand::TransferOut {
        key: "k".into(),
        to,
        amount: Money(5),
        currency: None,
        target: chargeplane_domain::account::TransferTarget::Open { currency },
        at: now(),
    };
    let Ok(AccountAnswer::TransferredOut { transfer, .. }) = handle.account_command(id("a1"), out).await else {
        panic!("it leaves");
    };
    let end = ended(&handle, &transfer).await.end.expect("ended");
    assert_eq!(end.returned, Some(AccountRejection::AccountClosed));
    assert_eq!((balance(&handle, "a1").await, in_flight(&handle).await), (100_000, 0));
}

#[tokio::test]
async fn a_released_session_is_stopped_and_costs_its_driver_nothing_more() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(200)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 1_000).await;
    // Nothing was metered yet: the operator believes that it never began.
    let release = |key: &str, at| AccountCommand::Release { key: key.into(), session: session.clone(), at };
    let released = handle.account_command(id("a1"), release("r", now())).await;
    assert!(matches!(released, Ok(AccountAnswer::Released { hold }) if hold > Money::ZERO), "{released:?}");
    assert_eq!(handle.account(&id("a1")).await.expect("open").held, Money::ZERO);
    // It did: the first debit is refused, and the charger stopped.
    gateway.down.clear();
    let at = now();
    gateway.samples(0, 0, vec![sample(at.plus_ms(1), 1_000), sample(at.plus_ms(5_000), 1_200)]);
    let stop = |down: &Down| command(down).filter(|command| matches!(command.action, Action::Stop { .. }));
    gateway.until("stop command", stop).await;
    let (register, reason) = (WattHours(1_300), StopReason::Funds);
    let stopped = GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason };
    let (seq, _) = gateway.event(stopped);
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!((record.billed, record.overshoot, record.overshoot_wh), (Money::ZERO, Money(4_500), WattHours(300)));
    assert_eq!(balance(&handle, "a1").await, 100_000);
    let late = handle.account_command(id("a1"), release("r2", now().plus_ms(RELEASE_QUIET_MS))).await;
    assert_eq!(late, Err(CallError::Account(AccountRejection::SessionClosed)));
}

#[tokio::test]
async fn an_audit_leads_from_the_entry_to_its_samples() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(200)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 1_000).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let at = now();
    let seq = gateway.samples(0, 7, vec![sample(at.plus_ms(-1), 1_100), sample(at, 1_150)]);
    gateway.until_acked(Stream::Fast, seq).await;
    for _ in 0..2_000 {
        if balance(&handle, "a1").await < 100_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (register, reason) = (WattHours(1_200), StopReason::TargetReached);
    let stopped = GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason };
    let (seq, _) = gateway.event(stopped);
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;

    let audited = handle.audit_statement(&id("a1"), (0, 0), 100).await.expect("audits");
    assert!(audited.complete);
    let audited = audited.entries;
    let events: Vec<_> = audited.iter().map(|line| line.cause.event).collect();
    assert_eq!(events, ["opened", "topped_up", "debited", "settled"]);
    assert_eq!(audited[1].cause.key.as_deref(), Some("top-up-a1"));
    assert_eq!(audited[1].session, None);
    let debit = audited[2].cause.reading.clone().expect("a reading");
    assert_eq!((debit.sequence, debit.meter), (1, WattHours(150)));
    let behind = audited[3].session.clone().expect("a session");
    assert_eq!((behind.charger, behind.record.map(|stored| stored.record)), (id("c0"), Some(record)));
    let samples = behind.samples.expect("its start is known");
    assert_eq!(samples.iter().map(|range| (range.first, range.last, range.stored)).collect::<Vec<_>>(), [(7, 8, 2)]);
    // What the driver paid, 200 Wh at 1.2 + 0.3 a kWh, is what the operator earned.
    let earned = handle.operator_balance(&id("op1")).await.expect("all shards");
    let earned: Vec<_> = earned.iter().map(|sum| (sum.energy.0, sum.service.0, sum.shares.0, sum.total().0)).collect();
    // 6,667 of 10,000 are his; the owner of the site gets the other third.
    assert_eq!(earned, [(2_400, 600, -1_000, 2_000)]);
    let owner = handle.operator_balance(&id("owner")).await.expect("all shards");
    assert_eq!(owner.iter().map(|sum| (sum.shares.0, sum.total().0)).collect::<Vec<_>>(), [(1_000, 1_000)]);
    assert_eq!(handle.operator_balance(&id("nobody")).await, Ok(vec![]));
    // One alone, by its name; and none by another's.
    let entry = &audited[3].entry;
    let name = format!("{}/{}/{}", entry.shard, entry.lsn, entry.index);
    let alone = handle.audit_entry(&id("a1"), name.parse().expect("an entry")).await.expect("audits");
    assert_eq!(alone, audited[3]);
    open_account(&handle, "a2", 5).await;
    let of_another = handle.audit_entry(&id("a2"), name.parse().expect("an entry")).await;
    assert!(matches!(of_another, Err(CallError::NotFound(_))), "{of_another:?}");
    assert!("account-0001/2".parse::<chargeplane_actors::handle::EntryId>().is_err());
    assert!(node.drain().await);
}
