//! Tills: examples, and any order of sessions, collections and payouts in the books of one shard.

use super::*;
use crate::ids::{OperatorId, Till};
use crate::split::Split;
use proptest::prelude::*;

fn op() -> OperatorId {
    "op1".parse().unwrap()
}

fn till() -> AccountId {
    Till { operator: op(), currency: cny(), shard: 0 }.account()
}

fn collect(key: &str, amount: i64) -> AccountCommand {
    AccountCommand::Collect { key: key.into(), amount: Money(amount), at: Timestamp(7) }
}

fn pay_out(key: &str, amount: i64, reference: &str) -> AccountCommand {
    let (amount, reference, at) = (Money(amount), reference.into(), Timestamp(8));
    AccountCommand::PayOut { key: key.into(), reference, amount, currency: None, at }
}

/// A till without books of its own: what it collects is always there.
fn opened() -> Bank {
    let mut bank = Bank::new();
    bank.id = till();
    bank.tell(&open("till", AccountKind::Prepaid, Holder::Fleet)).unwrap();
    bank
}

#[test]
fn the_name_of_a_till_has_one_text_and_nobody_else_has_an_at() {
    assert_eq!(till().as_str(), "main/op1@CNY-0000");
    let far = Till { operator: "acme/a.b-c_9".parse().unwrap(), currency: cny(), shard: 0xabcd };
    assert_eq!(far.account().as_str(), "acme/a.b-c_9@CNY-abcd");
    assert_eq!(far.account().as_str().parse::<AccountId>().unwrap().till(), Some(far));
    assert_eq!("a1".parse::<AccountId>().unwrap().till(), None);
    for text in [
        "op1@",
        "@CNY-0000",
        "op1@CNY",
        "op1@CNY-",
        "op1@cny-0000",
        "op1@CNY-00000",
        "op1@CNY-00",
        "op1@CNY-00AB",
        "op1@CNY-00g0",
        "op1@CNY-+001",
        "op1@CNY-0000@",
        "op@1@CNY-0000",
        "op1@CNY-0000/x",
    ] {
        assert!(text.parse::<AccountId>().is_err(), "{text}");
    }
    assert!("op1@CNY-0000".parse::<OperatorId>().is_err());
}

#[test]
fn a_till_pays_out_once_what_it_collected() {
    let mut bank = opened();
    assert_eq!(bank.tell(&collect("c1", 9_000)), Ok(AccountAnswer::Collected { amount: Money(9_000) }));
    assert_eq!(bank.tell_again(&collect("c1", 9_000)), (false, Ok(AccountAnswer::Collected { amount: Money(9_000) })));
    assert_eq!(code(bank.tell(&collect("c1", 9_001))), "key_reused");
    // Not enough: nothing is remembered, so the same key may ask again when there is more.
    let (written, answer) = bank.tell_again(&pay_out("p1", 10_000, "IBAN 1"));
    assert_eq!((written, code(answer)), (false, "insufficient_funds"));
    bank.tell(&collect("c2", 1_500)).unwrap();
    let first = bank.tell(&pay_out("p1", 10_000, "IBAN 1"));
    assert_eq!(first, Ok(AccountAnswer::PaidOut { balance: Money(500) }));
    assert_eq!(bank.tell_again(&pay_out("p1", 10_000, "IBAN 1")), (false, first));
    assert_eq!(code(bank.tell(&pay_out("p1", 10_000, "IBAN 2"))), "key_reused");
    assert_eq!(code(bank.tell(&pay_out("p1", 9_999, "IBAN 1"))), "key_reused");
    let balance = |account: &str| bank.books.balance(&account.parse::<LedgerAccount>().unwrap()).0;
    let balances = ["collected:main/op1:CNY", "payout:main:CNY", "driver:main/op1@CNY-0000"].map(balance);
    assert_eq!(balances, [-10_500, 10_000, 500]);
    assert_eq!(bank.log.iter().flat_map(statement_entries).map(|line| line.amount.0).sum::<i64>(), 500);
}

#[test]
fn a_till_is_no_drivers_account_and_a_drivers_account_no_till() {
    let mut bank = opened();
    for command in [top_up("k", 5), refund("k", 5), adjust("k", 5, "why"), close("k"), authorise(1, 5, 0)] {
        let (written, answer) = bank.tell_again(&command);
        assert_eq!((written, code(answer)), (false, "operators_till"));
    }
    let mut driver = Bank::with(AccountKind::Prepaid, 10_000);
    for command in [collect("k", 5), pay_out("k", 5, "IBAN")] {
        let (written, answer) = driver.tell_again(&command);
        assert_eq!((written, code(answer)), (false, "operators_till"));
    }
    let mut other = Bank::new();
    other.id = "op1@EUR-0000".parse().unwrap();
    assert_eq!(code(other.tell(&open("till", AccountKind::Prepaid, Holder::Fleet))), "operators_till");
    let mut credit = Bank::new();
    credit.id = till();
    let limit = Money(5);
    assert_eq!(code(credit.tell(&open("till", AccountKind::Credit { limit }, Holder::Fleet))), "operators_till");
}

#[test]
fn bad_payouts_are_refused_and_remembered() {
    let mut bank = opened();
    bank.tell(&collect("c", 1_000)).unwrap();
    for (key, amount) in [("k1", 0), ("k2", -1), ("k3", i64::MIN), ("k4", i64::MAX)] {
        assert_eq!(code(bank.tell(&pay_out(key, amount, "IBAN"))), "invalid_amount");
        assert_eq!(code(bank.tell(&collect(&format!("c{key}"), amount))), "invalid_amount");
    }
    let long = "x".repeat(MAX_REASON_LEN + 1);
    for (key, reference) in [("k5", " "), ("k6", long.as_str())] {
        assert_eq!(code(bank.tell(&pay_out(key, 5, reference))), "invalid_reason");
        let (written, answer) = bank.tell_again(&pay_out(key, 5, reference));
        assert_eq!((written, code(answer)), (false, "invalid_reason"));
    }
    bank.tell(&freeze("f")).unwrap();
    assert_eq!(code(bank.tell(&pay_out("k7", 5, "IBAN"))), "account_frozen");
    bank.tell(&unfreeze("u")).unwrap();
    let (written, answer) = bank.tell_again(&pay_out("k7", 5, "IBAN"));
    assert_eq!((written, code(answer)), (false, "account_frozen"));
}

/// Three drivers, a till and the books of their shard, of which the last events are not durable yet.
struct Shard {
    accounts: BTreeMap<AccountId, Option<Account>>,
    durable: Books,
    queued: Vec<(AccountId, AccountEvent)>,
    log: Vec<(AccountId, AccountEvent)>,
}

impl Shard {
    fn new() -> Self {
        let (accounts, durable) = (BTreeMap::new(), Books::default());
        let mut shard = Self { accounts, durable, queued: vec![], log: vec![] };
        for n in 0..3 {
            let id: AccountId = format!("a{n}").parse().unwrap();
            shard.tell(&id, &open("open", AccountKind::Prepaid, Holder::Fleet));
            shard.tell(&id, &top_up("first", 6_000));
        }
        shard.tell(&till(), &open("till", AccountKind::Prepaid, Holder::Fleet));
        shard
    }

    fn tell(&mut self, id: &AccountId, command: &AccountCommand) -> bool {
        let state = self.accounts.entry(id.clone()).or_default();
        let Some(event) = decide(state.as_ref(), id, command).event else { return false };
        if !is_covered(&self.durable, self.queued.iter().map(|(id, event)| (id, event)), &event) {
            return false;
        }
        apply(state, id, &event).unwrap();
        self.queued.push((id.clone(), event.clone()));
        self.log.push((id.clone(), event));
        true
    }

    fn commit(&mut self) {
        for (id, event) in self.queued.drain(..) {
            self.durable.apply(&postings(&id, &event)).unwrap();
        }
    }

    fn position(&self, account: usize, number: usize) -> Option<&SessionAccount> {
        let id: AccountId = format!("a{account}").parse().unwrap();
        self.accounts.get(&id)?.as_ref()?.position(&session(account * 10 + number))
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin {
        account: usize,
        number: usize,
    },
    Debit {
        account: usize,
        number: usize,
        wh: i64,
    },
    /// Below the last reading when negative: gives back what was earned.
    Settle {
        account: usize,
        number: usize,
        wh: i64,
    },
    Collect {
        amount: i64,
    },
    PayOut {
        amount: i64,
    },
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (account, number) = (|| 0_usize..3, || 0_usize..3);
    let step = prop_oneof![
        3 => (account(), number()).prop_map(|(account, number)| Step::Begin { account, number }),
        6 => (account(), number(), 0_i64..400).prop_map(|(account, number, wh)| Step::Debit { account, number, wh }),
        3 => (account(), number(), -400_i64..400)
            .prop_map(|(account, number, wh)| Step::Settle { account, number, wh }),
        4 => (1_i64..4_000).prop_map(|amount| Step::Collect { amount }),
        2 => (1_i64..4_000).prop_map(|amount| Step::PayOut { amount }),
        4 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..90)
}

/// A third of the revenue is another party's.
fn begin(account: usize, number: usize) -> AccountCommand {
    let AccountCommand::Authorise { operator, tariff, want, reserve, at, .. } = authorise(0, 3_000, 0) else {
        panic!()
    };
    let shares = BTreeMap::from([(op(), 6_667), ("owner".parse().unwrap(), 3_333)]);
    let split = Some(Split { shares, remainder: op() });
    AccountCommand::Authorise { session: session(account * 10 + number), operator, tariff, split, want, reserve, at }
}

proptest! {
    /// MONEY-1, and what a till collects was there: right after each collection, in the order of the log, the operator
    /// has not collected more than he had earned. What he earned is in his ledger accounts, his till, or paid out.
    #[test]
    fn a_till_never_collects_what_was_not_earned(steps in steps()) {
        let mut shard = Shard::new();
        for (n, step) in steps.iter().enumerate() {
            let driver = |account: &usize| -> AccountId { format!("a{account}").parse().unwrap() };
            let reading = |shard: &Shard, account: usize, number: usize, wh: i64| {
                let known = shard.position(account, number);
                let last = known.map_or(0, |known| known.meter.0);
                (known.map_or(0, |known| known.sequence) + 1, flat((last + wh).max(0)))
            };
            match step {
                Step::Begin { account, number } => {
                    shard.tell(&driver(account), &begin(*account, *number));
                }
                Step::Debit { account, number, wh } => {
                    let (sequence, energies) = reading(&shard, *account, *number, *wh);
                    shard.tell(&driver(account), &debit(account * 10 + number, sequence, energies, 2_000));
                }
                Step::Settle { account, number, wh } => {
                    let (sequence, energies) = reading(&shard, *account, *number, *wh);
                    shard.tell(&driver(account), &settle(account * 10 + number, sequence, energies));
                }
                Step::Collect { amount } => {
                    shard.tell(&till(), &collect(&format!("c{n}"), *amount));
                }
                Step::PayOut { amount } => {
                    shard.tell(&till(), &pay_out(&format!("p{n}"), *amount, "IBAN"));
                }
                Step::Commit => shard.commit(),
            }
        }
        let (mut books, mut lines, mut paid) = (Books::default(), 0_i64, 0_i64);
        for (id, event) in &shard.log {
            books.apply(&postings(id, event)).unwrap();
            prop_assert!(books.imbalance().is_empty());
            operator_lines(id, event, |operator, _, amount| if *operator == op() { lines += amount.0 });
            match event {
                AccountEvent::Collected { .. } => prop_assert!(books.earned(&op(), cny()).0 >= 0),
                AccountEvent::PaidOut { amount, .. } => paid += amount.0,
                _ => {}
            }
            let in_till = books.balance(&LedgerAccount::Driver(till())).0;
            prop_assert!(in_till >= 0);
            prop_assert_eq!(books.earned(&op(), cny()).0 + in_till + paid, lines);
        }
    }
}
