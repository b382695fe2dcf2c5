//! Payouts and operators' statements on a whole node: revenue of several shards, paid out whole, once, and told.

use crate::support::*;
use chargeplane_actors::handle::{
    CallError, NodeHandle, OperatorLine, OperatorQuery, OperatorStatement, PaidOut, Payee, Positions,
};
use chargeplane_actors::projection::compare::Comparison;
use chargeplane_actors::projection::rebuild::Model;
use chargeplane_actors::testing::{MemoryStores, Poison};
use chargeplane_domain::account::{AccountAnswer, AccountCommand};
use chargeplane_domain::ids::{NodeId, OperatorId};
use chargeplane_domain::units::{Currency, Money};
use std::collections::BTreeMap;
use std::time::Duration;

const SHARDS: u16 = 4;

fn op() -> OperatorId {
    id("op1")
}

fn cny() -> Currency {
    Currency::new("CNY").expect("a code")
}

/// Sixteen drivers over four shards have charged a kWh each, for 1.5: 24,000 - 8,000 are the operator's, 8,000 the
/// owner's of the site.
async fn earn(handle: &NodeHandle) {
    for n in 0..16 {
        let account = format!("a{n}");
        open_account(handle, &account, 20_000).await;
        let mut session = Metered::begin(handle, &account, &format!("c{n}.1"), 6_000, now()).await;
        session.debit(handle, 400, now()).await.expect("debits");
        session.settle(handle, 1_000, now()).await.expect("settles");
    }
}

async fn pay(handle: &NodeHandle, operator: &str, key: &str, amount: i64) -> Result<PaidOut, CallError> {
    let payee = Payee::Bank("IBAN 1".to_owned());
    handle.pay_out(&id(operator), None, payee, key.to_owned(), Money(amount)).await
}

/// What he has and what was paid out.
async fn owed(handle: &NodeHandle, operator: &str) -> (i64, i64) {
    let balances = handle.operator_balance(&id(operator)).await.expect("all shards");
    balances.first().map_or((0, 0), |sum| (sum.total().0, sum.paid_out.0))
}

/// All balances by ledger account, over the shards; of each shard they sum to zero.
async fn ledger(handle: &NodeHandle) -> BTreeMap<String, i64> {
    let (mut by_shard, mut all) = (BTreeMap::<_, i64>::new(), BTreeMap::new());
    for line in handle.balances(None, 10_000).await.expect("balances") {
        *by_shard.entry(line.shard).or_default() += line.balance.0;
        *all.entry(line.account).or_default() += line.balance.0;
    }
    assert!(by_shard.values().all(|sum| *sum == 0), "{by_shard:?}");
    all
}

fn code(result: Result<PaidOut, CallError>) -> &'static str {
    match result {
        Err(CallError::Account(rejection)) => rejection.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_payout_takes_from_all_shards_and_happens_once() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.shards = SHARDS).await;
    let handle = node.handle();
    assert!(matches!(pay(&handle, "op1", "k0", 5).await, Err(CallError::NotFound(_))));
    earn(&handle).await;
    assert_eq!((owed(&handle, "op1").await, owed(&handle, "owner").await), ((160_000, 0), (80_000, 0)));
    let shards = handle.balances(None, 10_000).await.expect("balances");
    let most = shards.iter().filter(|line| line.account == "energy:main/op1:CNY").map(|line| line.balance.0).max();
    assert!(most < Some(150_000), "no shard could pay alone");

    let first = pay(&handle, "op1", "k1", 150_000).await.expect("there is enough");
    let again = pay(&handle, "op1", "k1", 150_000).await;
    assert_eq!(again.as_ref(), Ok(&first), "the same key, the same answer");
    assert!(matches!(first.answer, AccountAnswer::PaidOut { .. }));
    assert_eq!(code(pay(&handle, "op1", "k1", 150_001).await), "key_reused");
    let other = handle.pay_out(&op(), None, Payee::Bank("IBAN 2".to_owned()), "k1".to_owned(), Money(150_000)).await;
    assert_eq!(code(other), "key_reused");
    assert_eq!(owed(&handle, "op1").await, (10_000, -150_000));
    let books = ledger(&handle).await;
    assert_eq!((books["payout:main:CNY"], books.get("in-flight:main:CNY").copied().unwrap_or(0)), (150_000, 0));

    // More than there is: refused as a whole, and not remembered.
    assert_eq!(code(pay(&handle, "op1", "k2", 10_001).await), "insufficient_funds");
    assert_eq!(code(pay(&handle, "op1", "k3", 0).await), "invalid_amount");
    assert_eq!(code(pay(&handle, "op1", "k3", -5).await), "invalid_amount");
    open_account(&handle, "b1", 20_000).await;
    Metered::begin(&handle, "b1", "d1.1", 6_000, now()).await.settle(&handle, 1_000, now()).await.expect("settles");
    pay(&handle, "op1", "k2", 10_001).await.expect("now there is more");
    assert_eq!(owed(&handle, "op1").await, (10_000 - 10_001 + 10_000, -160_001));
    // The other party has its own.
    pay(&handle, "owner", "k1", 85_000).await.expect("all of it");
    assert_eq!(owed(&handle, "owner").await, (0, -85_000));
    assert_eq!(code(pay(&handle, "owner", "k4", 1).await), "insufficient_funds");
    assert_eq!(ledger(&handle).await["payout:main:CNY"], 160_001 + 85_000);
    assert!(node.drain().await);
}

#[tokio::test]
async fn a_payout_to_an_account_arrives_or_comes_back() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.shards = SHARDS).await;
    let handle = node.handle();
    earn(&handle).await;
    open_account(&handle, "partner", 0).await;
    let to = |account: &str| Payee::Account(id(account));
    let paid = handle.pay_out(&op(), Some(cny()), to("partner"), "k1".into(), Money(120_000)).await.expect("leaves");
    let AccountAnswer::TransferredOut { transfer, .. } = &paid.answer else { panic!("{paid:?}") };
    for _ in 0..2_000 {
        if handle.transfer_state(transfer).await.expect("known").end.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(handle.account(&id("partner")).await.expect("open").balance, Money(120_000));
    assert_eq!(owed(&handle, "op1").await, (40_000, -120_000));
    assert_eq!(handle.pay_out(&op(), Some(cny()), to("partner"), "k1".into(), Money(120_000)).await, Ok(paid));
    let unknown = handle.pay_out(&op(), None, to("nobody"), "k2".into(), Money(5)).await;
    assert_eq!(code(unknown), "unknown_target");
    // Nothing left for somebody who is not there, and a till's account is no account of a driver.
    assert_eq!(owed(&handle, "op1").await, (40_000, -120_000));
    let till = handle.home_till(&op(), cny()).account();
    let top_up = AccountCommand::TopUp { key: "t".into(), amount: Money(5), currency: None, at: now() };
    let refused = handle.account_command(till.clone(), top_up).await;
    assert!(matches!(&refused, Err(CallError::Account(rejection)) if rejection.code() == "operators_till"));
    // A frozen till pays nobody.
    let freeze = AccountCommand::Freeze { key: "f".into(), reason: "disputed".into(), at: now() };
    handle.account_command(till, freeze).await.expect("freezes");
    assert_eq!(code(pay(&handle, "op1", "k5", 5).await), "account_frozen");
}

/// Many at once, some under one key: each is paid once, and never more than there is.
#[tokio::test]
async fn payouts_at_once_pay_no_more_than_there_is() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.shards = SHARDS).await;
    let handle = node.handle();
    earn(&handle).await;
    let payouts = (0..24).map(|n| {
        let handle = handle.clone();
        tokio::spawn(async move { (n / 2, pay(&handle, "op1", &format!("k{}", n / 2), 20_000).await) })
    });
    let mut paid = BTreeMap::new();
    for payout in payouts.collect::<Vec<_>>() {
        let (key, answer) = payout.await.expect("no panic");
        match answer {
            Ok(answer) => assert_eq!(paid.entry(key).or_insert_with(|| answer.clone()), &answer),
            Err(CallError::Account(rejection)) => assert_eq!(rejection.code(), "insufficient_funds"),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(paid.len(), 8, "8 x 20,000 are all there is");
    assert_eq!(owed(&handle, "op1").await, (0, -160_000));
    assert_eq!(ledger(&handle).await["payout:main:CNY"], 160_000);
}

/// The node dies while revenue is on its way to the home till; the same request at its successor goes on from there.
#[tokio::test]
async fn a_payout_that_was_interrupted_goes_on() {
    let stores = MemoryStores::default();
    let (node, _link) =
        stores.start(|config| (config.shards, config.call_timeout) = (SHARDS, Duration::from_secs(2))).await;
    let handle = node.handle();
    // Of an operator of its own: what is poisoned is poisoned for all tests of this process.
    for n in 0..16 {
        let account = format!("a{n}");
        open_account(&handle, &account, 20_000).await;
        let mut session = Metered::begin_at(&handle, "op7", None, &account, &format!("c{n}.1"), 6_000, now()).await;
        session.settle(&handle, 1_000, now()).await.expect("settles");
    }
    let home = handle.home_till(&id("op7"), cny()).account();
    let poison = Poison::new(&format!("account:{home}"), "TransferIn");
    let interrupted = pay(&handle, "op7", "k1", 230_000).await;
    assert!(
        matches!(interrupted, Err(CallError::Timeout | CallError::Interrupted | CallError::Parked(_))),
        "{interrupted:?}"
    );
    assert_eq!(ledger(&handle).await.get("payout:main:CNY"), None, "nothing is paid");
    assert_eq!(owed(&handle, "op7").await.0, 240_000, "nothing is lost");
    let (second, _link) = stores
        .start(|config| {
            (config.shards, config.node) = (SHARDS, NodeId("n2".into()));
        })
        .await;
    node.kill();
    drop(poison);
    let handle = second.handle();
    let paid = pay(&handle, "op7", "k1", 230_000).await.expect("goes on");
    assert_eq!(pay(&handle, "op7", "k1", 230_000).await, Ok(paid));
    assert_eq!(owed(&handle, "op7").await, (10_000, -230_000));
    assert_eq!(ledger(&handle).await["payout:main:CNY"], 230_000);
}

async fn statement(handle: &NodeHandle, operator: &str, after: Positions, limit: usize) -> OperatorStatement {
    let (operator, currency) = (id(operator), cny());
    let query = OperatorQuery { operator, currency, from: None, to: None, after, limit, frames: false };
    handle.operator_statement(query).await.expect("a statement")
}

#[tokio::test]
async fn a_statement_is_the_fold_over_shards_and_ends_at_the_balance() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.shards = SHARDS).await;
    let handle = node.handle();
    earn(&handle).await;
    pay(&handle, "op1", "k1", 150_000).await.expect("pays");
    // An overshoot: a session that outlived its money.
    open_account(&handle, "poor", 2_000).await;
    let mut session = Metered::begin(&handle, "poor", "e1.1", 2_000, now()).await;
    session.settle(&handle, 1_000, now()).await.expect("settles");
    let whole = statement(&handle, "op1", Positions::default(), 1_000).await;
    assert!(whole.complete && whole.next.is_none());
    let mut sums = BTreeMap::<&str, i64>::new();
    let mut balance = 0;
    for line in &whole.lines {
        *sums.entry(&line.kind).or_default() += line.amount.0;
        balance += line.amount.0;
        assert_eq!(line.balance.0, balance, "{:#?}", whole.lines);
    }
    assert_eq!((sums["energy"], sums["service"], sums["share"]), (17 * 12_000, 17 * 3_000, -17 * 5_000));
    assert_eq!((sums["overshoot"], sums["payout"]), (-13_000, -150_000));
    assert_eq!(sums["transfer_out"] + sums["transfer_in"], 0, "between his own tills");
    assert_eq!(owed(&handle, "op1").await.0, balance);
    let payout = whole.lines.iter().find(|line| line.kind == "payout").expect("told");
    assert_eq!(
        (payout.key.as_deref(), payout.till.clone()),
        (Some("k1"), Some(handle.home_till(&op(), cny()).account()))
    );

    // In pages: the same sums, the same end.
    let (mut after, mut paged, mut pages) = (Positions::default(), BTreeMap::<String, i64>::new(), 0);
    loop {
        let page = statement(&handle, "op1", after, 2).await;
        page.lines.iter().for_each(|line| *paged.entry(line.kind.clone()).or_default() += line.amount.0);
        balance = page.lines.last().map_or(balance, |line| line.balance.0);
        pages += 1;
        match page.next {
            // As it goes out and comes back.
            Some(next) => after = next.to_string().parse().expect("a cursor"),
            None => break,
        }
    }
    assert!(pages > 2);
    assert_eq!(paged, sums.iter().map(|(kind, sum)| ((*kind).to_owned(), *sum)).collect());
    assert_eq!(owed(&handle, "op1").await.0, balance);
    for cursor in ["", "x", "0-1", "0-1.x", "9-1.2", "0-99999.0"] {
        let query = |after| OperatorQuery {
            operator: op(),
            currency: cny(),
            from: None,
            to: None,
            after,
            limit: 5,
            frames: false,
        };
        match cursor.parse() {
            Ok(after) if cursor != "9-1.2" => {
                assert!(
                    matches!(handle.operator_statement(query(after)).await, Err(CallError::Invalid(_))),
                    "{cursor}"
                );
            }
            Ok(_) => {}
            Err(error) => assert!(matches!(error, CallError::Invalid(_)), "{cursor}"),
        }
    }
    // From and to: only what was between, with the balance of all before.
    let moment = payout.at;
    let query = OperatorQuery {
        operator: op(),
        currency: cny(),
        from: Some(moment),
        to: Some(moment.plus_ms(1)),
        after: Positions::default(),
        limit: 1_000,
        frames: false,
    };
    let between = handle.operator_statement(query).await.expect("a statement").lines;
    let told = between.iter().find(|line| line.kind == "payout").expect("told");
    assert_eq!((told.amount, told.balance), (payout.amount, payout.balance));
    assert_eq!(
        statement(&handle, "owner", Positions::default(), 10).await.lines.last().map(|l| l.balance.0),
        Some(85_000)
    );

    // Built from the journal again: equal, line by line.
    assert!(handle.rebuild(Model::Statements, true));
    let outcome = loop {
        match handle.rebuild_status(Model::Statements).and_then(|rebuild| rebuild.outcome) {
            Some(outcome) => break outcome,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(matches!(outcome, Ok(Comparison { difference: None, equal }) if equal > 60), "{outcome:?}");
}

/// From a payout and from each sum of a statement back to the drivers' entries, and from those to their sessions.
#[tokio::test]
async fn every_line_of_a_statement_leads_back_to_what_caused_it() {
    let stores = MemoryStores::default();
    let (node, _link) = stores.start(|config| config.shards = SHARDS).await;
    let handle = node.handle();
    earn(&handle).await;
    pay(&handle, "op1", "k1", 150_000).await.expect("pays");
    let hours = statement(&handle, "op1", Positions::default(), 1_000).await.lines;
    let mut query = OperatorQuery {
        operator: op(),
        currency: cny(),
        from: None,
        to: None,
        after: Positions::default(),
        limit: 7,
        frames: true,
    };
    let (mut lines, mut pages) = (Vec::new(), 0);
    loop {
        let page = handle.operator_statement(query.clone()).await.expect("a statement");
        assert!(page.lines.len() <= 7);
        lines.extend(page.lines);
        pages += 1;
        let Some(next) = page.next else { break };
        query.after = next;
    }
    assert!(pages > 1);
    let sum = |lines: &[OperatorLine], kind: &str| -> i64 {
        lines.iter().filter(|line| line.kind == kind).map(|line| line.amount.0).sum()
    };
    for kind in ["energy", "service", "share", "payout", "transfer_in", "transfer_out"] {
        assert_eq!(sum(&lines, kind), sum(&hours, kind), "{kind}");
    }
    assert_eq!(lines.last().map(|line| line.balance), hours.last().map(|line| line.balance));

    let mut earned = 0;
    for line in &lines {
        let (till, entry) = (line.till.clone().expect("its till"), line.entry.expect("its entry"));
        assert_eq!(entry.to_string().parse(), Ok(entry));
        let audited = handle.audit_entry(&till, entry).await.expect("audits");
        assert_eq!((&*audited.entry.kind, audited.entry.amount), (&*line.kind, line.amount));
        if ["energy", "service", "share"].contains(&&*line.kind) {
            assert_eq!(audited.parts.iter().map(|part| part.amount.0).sum::<i64>(), line.amount.0);
            for part in &audited.parts {
                let driver = handle.audit_entry(&part.account, part.entry).await.expect("the driver's entry");
                assert_eq!((driver.cause.session, driver.cause.event), (part.session.clone(), part.event));
                earned += part.amount.0;
            }
        } else {
            assert!(audited.parts.is_empty());
            let event = match &*line.kind {
                "payout" => "paid_out",
                "transfer_out" => "transferred_out",
                "transfer_in" => "transferred_in",
                kind => kind,
            };
            assert_eq!((audited.cause.event, audited.cause.key), (event, line.key.clone()));
        }
    }
    assert_eq!(earned, 160_000, "all that was earned is a driver's entry");
    let till = handle.home_till(&op(), cny()).account();
    let all = handle.audit_statement(&till, (0, 0), 1_000).await.expect("audits").entries;
    assert_eq!(all.len(), lines.iter().filter(|line| line.till.as_ref() == Some(&till)).count());
    assert!(all.iter().all(|line| line.parts.is_empty()), "told entry by entry");
    let absent = "account-0000/999999/0".parse().expect("a name");
    assert!(matches!(handle.audit_entry(&till, absent).await, Err(CallError::NotFound(_))));
}
