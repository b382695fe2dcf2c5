//! One session through a whole node on memory stores, a gateway driven by hand: the main path, and what it
//! must survive.

use crate::support::*;
use chargeplane_actors::handle::CallError;
use chargeplane_actors::testing::{MemoryStores, Poison, beat_of};
use chargeplane_actors::views::{KnownSession, StartRequest};
use chargeplane_domain::account::{AccountCommand, AccountRejection};
use chargeplane_domain::command::CommandOutcome;
use chargeplane_domain::ids::{ConnectorNo, SessionId};
use chargeplane_domain::session::{Flow, SessionState, StopReason};
use chargeplane_domain::tariff::book::TariffRule;
use chargeplane_domain::tariff::fees::Fees;
use chargeplane_domain::tariff::{Price, Tariff};
use chargeplane_domain::units::{Money, Timestamp, WattHours};
use chargeplane_protocol::message::{Beat, BeatCharger, CommandEnd, Down, GatewayEvent, Stream};
use std::time::Duration;

#[tokio::test]
async fn a_session_is_held_debited_settled_and_recorded() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(200)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 1_000).await;
    assert!(handle.account(&id("a1")).await.expect("open").held > Money::ZERO);

    // 250 Wh flow; a debit is due each 100.
    let base = now();
    for second in 0..6i64 {
        let at = base.plus_ms(second * 1_000 - 6_000);
        let number = u64::try_from(second).expect("small");
        let seq = gateway.samples(0, number, vec![sample(at, 1_000 + second * 50)]);
        if second == 5 {
            gateway.until_acked(Stream::Fast, seq).await;
        }
    }
    for _ in 0..400 {
        if handle.account(&id("a1")).await.expect("open").balance < Money(100_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let billed_early = handle.account(&id("a1")).await.expect("open").balance;
    assert!(billed_early < Money(100_000), "debited while energy flows, not only at the end");

    let (register, reason) = (WattHours(1_300), StopReason::TargetReached);
    let stopped = GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason };
    let (seq, sealed) = gateway.event(stopped);
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&node, &session).await;
    assert_eq!(record.energy, WattHours(300));
    assert_eq!((record.billed_wh, record.overshoot_wh), (WattHours(300), WattHours::ZERO));
    // 0.3 kWh at 1.2 + 0.3 a kWh.
    assert_eq!(record.billed, Money(4_500));
    let account = handle.account(&id("a1")).await.expect("open");
    assert_eq!((account.balance, account.held), (Money(100_000 - 4_500), Money::ZERO));

    // The batch again, byte for byte: acknowledged, and nothing happens twice.
    gateway.down.clear();
    gateway.publish(Stream::Events, sealed);
    gateway.until_acked(Stream::Events, seq).await;
    let balances = handle.balances(None, 1_000).await.expect("balances");
    assert_eq!(balances.iter().map(|line| line.balance.0).sum::<i64>(), 0, "{balances:#?}");
    let raw = handle.telemetry_raw(&id("c0"), Timestamp(0), now().plus_ms(10_000), 100).await.expect("raw");
    assert_eq!(raw.iter().map(|sample| sample.number).collect::<Vec<_>>(), vec![0, 1, 2, 3, 4, 5]);
    assert!(node.drain().await);
}

#[tokio::test]
async fn a_session_is_priced_with_the_tariff_of_its_group_from_start_to_end() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    let mut special = catalogue();
    let own = special.tariffs[&id("t1")].clone();
    let price = Price { energy: Money(5_000), service: Money(0) };
    special.tariffs.insert(id("t2"), Tariff { prices: [price; 4], ..own });
    special.tariff_book.customer_groups.insert("staff".to_owned(), [id("a1")].into());
    special.tariff_book.rules.push(TariffRule {
        tariff: id("t2"),
        station_group: None,
        customer_group: Some("staff".to_owned()),
        valid_from: None,
        valid_until: None,
    });
    handle.apply_catalogue(special, false).await.expect("a good catalogue");
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 1_000).await;

    // The rule goes; the session keeps what it began with.
    handle.apply_catalogue(catalogue(), false).await.expect("a good catalogue");
    let (register, reason) = (WattHours(1_300), StopReason::TargetReached);
    let stopped = GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason };
    let (seq, _) = gateway.event(stopped);
    gateway.until_acked(Stream::Events, seq).await;
    // 0.3 kWh at 0.5, not at 1.2 + 0.3.
    assert_eq!(record_of(&node, &session).await.billed, Money(1_500));
    assert!(node.drain().await);
}

#[tokio::test]
async fn a_session_pays_for_its_time_as_the_gateway_tells_it_also_after_the_node_died() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.debit_every = Duration::from_millis(50)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    let mut timed = catalogue();
    // 0.0010 a millisecond of charging, 0.0020 of standing full beyond none of grace, 1.00 for the start.
    let fees =
        Fees { flat: Money(10_000), per_minute: Money(600_000), idle_per_minute: Money(1_200_000), ..Fees::NONE };
    timed.tariffs.get_mut(&id("t1")).expect("there").fees = fees;
    handle.apply_catalogue(timed, false).await.expect("a good catalogue");
    open_account(&handle, "a1", 100_000_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 1_000).await;
    let begun = now();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let flow = |flow, ms| GatewayEvent::FlowChanged { child: 0, session: session.clone(), flow, at: begun.plus_ms(ms) };
    gateway.event(flow(Flow::Paused, 100));
    gateway.event(flow(Flow::Charging, 300));
    let (seq, _) = gateway.event(flow(Flow::Full, 400));
    gateway.until_acked(Stream::Events, seq).await;
    // Nothing flows any more, and time is debited all the same.
    gateway.samples(0, 0, vec![sample(begun.plus_ms(350), 1_010)]);
    let paid = async |more: i64| {
        for _ in 0..400 {
            if node.handle().account(&id("a1")).await.expect("open").balance < Money(100_000_000 - more) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("time is not debited");
    };
    paid(10_000).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let base = 100_000_000 - node.handle().account(&id("a1")).await.expect("open").balance.0;
    gateway.samples(0, 1, vec![sample(begun.plus_ms(1_600), 1_010)]);
    paid(base).await;
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    drop(node);

    gateway.reconnect(&second, link);
    let (register, reason, at) = (WattHours(1_010), StopReason::Driver, begun.plus_ms(1_700));
    let (seq, _) =
        gateway.event(GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at, reason });
    gateway.until_acked(Stream::Events, seq).await;
    let record = record_of(&second, &session).await;
    let before = begun.since(record.started_at);
    assert_eq!((record.time.charging_ms, record.time.idle_ms), (before + 200, 1_300));
    assert_eq!(record.fees_amount, Money(10_000 + (before + 200) * 10 + 1_300 * 20));
    assert_eq!(record.total, Money(record.fees_amount.0 + 120 + 30));
    assert_eq!((record.billed, record.overshoot), (record.total, Money::ZERO));
    let earned = second.handle().operator_balance(&id("op1")).await.expect("there");
    assert_eq!(earned.first().map(|balance| balance.fees), Some(record.fees_amount));
    assert!(second.drain().await);
}

#[tokio::test]
async fn a_session_goes_on_after_the_node_died() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    open_account(&node.handle(), "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 0).await;
    gateway.samples(0, 0, vec![sample(now(), 150)]);
    for _ in 0..400 {
        if node.handle().account(&id("a1")).await.expect("open").balance < Money(100_000) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = node.handle().account(&id("a1")).await.expect("open");
    assert!(before.balance < Money(100_000));
    // A second node opens the shards while the first still runs: the first can commit nothing any more.
    let (second, link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    let top_up = AccountCommand::TopUp { key: "late".into(), amount: Money(1), currency: None, at: now() };
    let stale = node.handle().account_command(id("a1"), top_up.clone()).await;
    assert!(stale.is_err(), "a fenced node acknowledged {stale:?}");
    drop(node);

    gateway.reconnect(&second, link);
    let (register, reason) = (WattHours(400), StopReason::Driver);
    let stopped = GatewayEvent::SessionStopped { child: 0, session: session.clone(), register, at: now(), reason };
    gateway.event(stopped);
    let record = record_of(&second, &session).await;
    assert_eq!((record.energy, record.billed_wh), (WattHours(400), WattHours(400)));
    assert_eq!(record.billed, Money(6_000), "what was billed before the crash is not billed again");
    assert_eq!(second.handle().account(&id("a1")).await.expect("open").balance, Money(94_000));
}

#[tokio::test]
async fn unlisted_money_and_busy_chargers_are_denied_at_the_charger() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "poor", 0).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    gateway.event(start_requested("poor", 1));
    let code = gateway
        .until("denial", |down| match down {
            Down::Deny { child: 0, request: 1, code } => Some(code.clone()),
            _ => None,
        })
        .await;
    assert_eq!(code, "insufficient_funds");
    gateway.event(start_requested("nobody", 2));
    let code = gateway
        .until("denial", |down| match down {
            Down::Deny { child: 0, request: 2, code } => Some(code.clone()),
            _ => None,
        })
        .await;
    assert_eq!(code, "unknown_account");
    assert!(gateway.down.iter().all(|down| !matches!(down, Down::Commands(_))), "nothing was started");
}

#[tokio::test]
async fn a_start_over_the_api_is_one_start_however_often_it_is_repeated() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    beat_of(&handle, &id("g1")).await;
    let request = |key: &str| StartRequest {
        charger: id("c0"),
        connector: ConnectorNo(1),
        account: id("a1"),
        key: key.to_owned(),
    };
    let first = handle.start_session(request("k1")).await.expect("starts");
    let again = handle.start_session(request("k1")).await.expect("the same answer");
    assert_eq!(first, again);
    let busy = handle.start_session(request("k2")).await;
    assert!(matches!(busy, Err(CallError::Charger(_))), "{busy:?}");
    let start = gateway.until("start command", command).await;
    let outcome = CommandEnd::Refused("not_plugged".into());
    gateway.event(GatewayEvent::CommandResult { child: 0, command: start.id.clone(), outcome, at: now() });
    for _ in 0..400 {
        if handle.session(&first).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ended = handle.command(&start.id).await.expect("known").command.outcome;
    assert_eq!(ended, Some(CommandOutcome::Refused { reason: "not_plugged".into() }));
    assert_eq!(handle.account(&id("a1")).await.expect("open").held, Money::ZERO, "the hold is released");
}

#[tokio::test]
async fn a_start_over_the_api_is_answered_with_what_the_account_says() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "poor", 1).await;
    open_account(&handle, "a1", 100_000).await;
    let _gateway = TestGateway::new(&node, link, &enrolment);
    beat_of(&handle, &id("g1")).await;
    let request = |account: &str, key: &str| StartRequest {
        charger: id("c0"),
        connector: ConnectorNo(1),
        account: id(account),
        key: key.to_owned(),
    };
    for (number, account, reason) in [(1, "nobody", "unknown_account"), (2, "poor", "insufficient_funds")] {
        let session: SessionId = id(&format!("c0.{number}"));
        let refused = Err(CallError::StartRefused { session: session.clone(), code: reason.to_owned() });
        assert_eq!(handle.start_session(request(account, account)).await, refused);
        assert_eq!(handle.start_session(request(account, account)).await, refused, "the same key, the same answer");
        match handle.known_session(&session).await.expect("stays readable") {
            KnownSession::Refused(view) => {
                assert_eq!((view.refusal.code.as_str(), view.account), (reason, id(account)))
            }
            open @ KnownSession::Open(_) => panic!("refused, and still {open:?}"),
        }
    }
    // The money came meanwhile: the old key keeps its answer, a new one starts.
    let top_up = AccountCommand::TopUp { key: "more".into(), amount: Money(100_000), currency: None, at: now() };
    handle.account_command(id("poor"), top_up).await.expect("tops up");
    assert!(handle.start_session(request("poor", "poor")).await.is_err());
    let session = handle.start_session(request("poor", "again")).await.expect("starts");
    let open = handle.session(&session).await.expect("open").session;
    assert_eq!(open.state, SessionState::Authorised, "the answer came behind the account's");

    // After the node died, the answers are those of the log.
    let (second, _link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    let again = second.handle().start_session(request("nobody", "nobody")).await;
    assert_eq!(again, Err(CallError::StartRefused { session: id("c0.1"), code: "unknown_account".to_owned() }));
    assert_eq!(second.handle().start_session(request("poor", "again")).await, Ok(session));
}

#[tokio::test]
async fn a_start_whose_account_does_not_answer_is_told_as_pending() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.call_timeout = Duration::from_secs(2)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    open_account(&handle, "mute", 100_000).await;
    let _gateway = TestGateway::new(&node, link, &enrolment);
    beat_of(&handle, &id("g1")).await;
    let _poison = Poison::new("account:main/mute", "Authorise");
    let (charger, account) = (id("c0"), id("mute"));
    let request = StartRequest { charger, connector: ConnectorNo(1), account, key: "k".to_owned() };
    let session = handle.start_session(request).await.expect("durable, and not decided");
    assert_eq!(handle.session(&session).await.expect("open").session.state, SessionState::Requested);
}

#[tokio::test]
async fn a_start_at_a_charger_that_is_not_heard_holds_no_money() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    set_up(&handle).await;
    open_account(&handle, "a1", 100_000).await;
    let request =
        || StartRequest { charger: id("c0"), connector: ConnectorNo(1), account: id("a1"), key: "k".to_owned() };
    let offline = CallError::ChargerOffline { charger: id("c0"), gateway: id("g1") };
    assert_eq!(handle.start_session(request()).await, Err(offline));
    assert_eq!(handle.account(&id("a1")).await.expect("open").held, Money::ZERO);
    beat_of(&handle, &id("g1")).await;
    let session = handle.start_session(request()).await.expect("the key was not used up");
    // The same key gets its answer while the charger is away.
    drop(node);
    let (second, _link) = stores.start(|config| config.node = chargeplane_domain::ids::NodeId("n2".into())).await;
    assert_eq!(second.handle().start_session(request()).await, Ok(session));
    let other = StartRequest { key: "other".to_owned(), ..request() };
    assert!(matches!(second.handle().start_session(other).await, Err(CallError::ChargerOffline { .. })));
}

#[tokio::test]
async fn grants_answer_beats_and_stay_within_the_limit() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|_| ()).await;
    let enrolment = set_up(&node.handle()).await;
    open_account(&node.handle(), "a1", 100_000).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let session = start(&mut gateway, "a1", 0).await;
    let charger = BeatCharger {
        child: 0,
        demand: chargeplane_domain::units::Watts(120_000),
        session: Some(session),
        charging: true,
        ..BeatCharger::default()
    };
    let mut granted = 0;
    let mut beat = Beat { chargers: vec![charger], ..Beat::default() };
    for round in 0..40u64 {
        beat.mono = chargeplane_domain::units::Mono(1_000 + round * 100);
        let nonce = gateway.beat(beat.clone());
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.receive();
        for down in std::mem::take(&mut gateway.down) {
            if let Down::Grants(grants) = down {
                assert!(grants.answers_nonce <= nonce);
                for entry in grants.entries.iter().filter(|entry| entry.child == 0) {
                    granted = entry.w.0;
                    assert!(entry.w.0 <= 100_000, "over the grid's limit: {entry:?}");
                }
                beat.applied_grant_seq = grants.seq;
                beat.epoch_seen = grants.epoch;
                beat.chargers[0].granted = chargeplane_domain::units::Watts(granted);
            }
        }
        if granted >= 99_000 {
            return;
        }
    }
    panic!("the only charger of a 100 kW station was granted {granted} W");
}

#[tokio::test]
async fn bad_batches_change_nothing_and_are_refused_by_sequence() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let handle = node.handle();
    let enrolment = set_up(&handle).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    // Malformed topic, unknown gateway, rubbish, a tampered packet.
    gateway.publish_on("cp/v1/main", vec![1, 2, 3]);
    gateway.publish_on("cp/v1/main/0000/nobody/up/events", vec![0; 100]);
    gateway.publish(Stream::Fast, vec![0; 70]);
    let batch = |child: u16, at: Timestamp| chargeplane_protocol::message::UpBatch::Samples {
        runs: vec![chargeplane_protocol::message::SampleRun { child, first_number: 0, samples: vec![sample(at, 1)] }],
        gaps: Vec::new(),
    };
    let mut tampered = gateway.seal(Stream::Fast, 1, 1, &batch(0, now()));
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    gateway.publish(Stream::Fast, tampered);
    gateway.until("notice", |down| matches!(down, Down::Notice(_)).then_some(())).await;
    // Authentic, but of a child that does not exist, and from the year 2100.
    let (unknown, _) = gateway.send(Stream::Fast, &batch(77, now()));
    let (absurd, _) = gateway.send(Stream::Fast, &batch(0, Timestamp(4_102_444_800_000)));
    let (good, _) = gateway.send(Stream::Fast, &batch(0, now()));
    gateway.until_acked(Stream::Fast, good).await;
    let refused: Vec<_> = gateway
        .down
        .iter()
        .filter_map(|down| match down {
            Down::Ack(ack) => Some(ack.refused.clone()),
            _ => None,
        })
        .flatten()
        .map(|refusal| (refusal.seq, refusal.reason))
        .collect();
    assert!(refused.contains(&(unknown, "unknown_child".to_owned())), "{refused:?}");
    assert!(refused.contains(&(absurd, "absurd_time".to_owned())), "{refused:?}");
    let raw = handle.telemetry_raw(&id("c0"), Timestamp(0), Timestamp(i64::MAX), 100).await.expect("raw");
    assert_eq!(raw.len(), 1, "only the good batch is stored");
}

#[tokio::test]
async fn a_failed_telemetry_store_is_never_acknowledged_and_stops_the_node() {
    let stores = MemoryStores::default();
    let (node, link) = stores.start(|config| config.flush_every = Duration::from_millis(100)).await;
    let enrolment = set_up(&node.handle()).await;
    let mut gateway = TestGateway::new(&node, link, &enrolment);
    let full = chargeplane_actors::ports::StoreError::Full("/data".into());
    *stores.telemetry.fail.lock().expect("not poisoned") = Some(full);
    gateway.samples(0, 0, vec![sample(now(), 1)]);
    let reason = tokio::time::timeout(Duration::from_secs(5), node.fatal()).await.expect("the node says stop");
    assert!(reason.contains("no space"), "{reason}");
    gateway.receive();
    let acked = gateway.down.iter().any(|down| matches!(down, Down::Ack(ack) if ack.upto_seq > 0));
    assert!(!acked, "acknowledged what is not stored: {:?}", gateway.down);
    assert!(!node.handle().live());
}

#[tokio::test]
async fn money_moves_once_a_key_and_refusals_are_remembered() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|_| ()).await;
    let handle = node.handle();
    open_account(&handle, "a1", 500).await;
    let top_up = |key: &str, amount: i64| AccountCommand::TopUp {
        key: key.into(),
        amount: Money(amount),
        currency: None,
        at: now(),
    };
    let first = handle.account_command(id("a1"), top_up("k", 7)).await;
    let again = handle.account_command(id("a1"), top_up("k", 7)).await;
    assert_eq!(first, again);
    let other = handle.account_command(id("a1"), top_up("k", 8)).await;
    assert!(matches!(other, Err(CallError::Account(AccountRejection::KeyReused))), "{other:?}");
    assert_eq!(handle.account(&id("a1")).await.expect("open").balance, Money(507));
    // At once: whoever was answered reads what was done.
    let statement = handle.statement(&id("a1"), (0, 0), 10).await.expect("statement");
    assert!(statement.complete);
    assert_eq!(statement.entries.iter().map(|line| line.balance.0).collect::<Vec<_>>(), vec![0, 500, 507]);
}
