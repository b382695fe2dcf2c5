//! Examples here; properties and the comparison with a naive account in the modules below.

use super::*;
use crate::ledger::{Books, LedgerAccount};
use crate::tariff::fees::{Fees, MeteredTime};
use crate::tariff::{Price, Slots};

mod fees;
mod model;
mod operated;
mod properties;
mod sessions;
mod shares;
mod tills;
mod transfers;

pub(super) fn cny() -> Currency {
    Currency::new("CNY").unwrap()
}

/// Four different prices; in the flat period 0.70 + 0.40 a kWh.
pub(super) fn tariff() -> Tariff {
    let price = |energy, service| Price { energy: Money(energy), service: Money(service) };
    Tariff {
        currency: cny(),
        prices: [price(12_345, 4_001), price(10_000, 4_000), price(7_000, 4_000), price(3_333, 777)],
        slots: Slots::uniform(2).unwrap(),
        fees: Fees::NONE,
    }
}

pub(super) fn session(number: usize) -> SessionId {
    format!("c1.{number}").parse().unwrap()
}

/// Energy in the flat period only.
pub(super) fn flat(wh: i64) -> [WattHours; PERIODS] {
    [0, 0, wh, 0].map(WattHours)
}

pub(super) fn total(by_period: &[WattHours; PERIODS]) -> WattHours {
    WattHours(by_period.iter().map(|wh| wh.0).sum())
}

/// An account with its books and its log, checked after every step.
pub(super) struct Bank {
    pub id: AccountId,
    pub state: Option<Account>,
    pub books: Books,
    pub log: Vec<AccountEvent>,
}

impl Bank {
    pub(super) fn new() -> Self {
        Self { id: "a1".parse().unwrap(), state: None, books: Books::default(), log: vec![] }
    }

    pub(super) fn with(kind: AccountKind, money: i64) -> Self {
        let mut bank = Self::new();
        let open = open("open", kind, Holder::Personal);
        bank.tell(&open).unwrap();
        if money > 0 {
            bank.tell(&top_up("first", money)).unwrap();
        }
        bank
    }

    pub(super) fn tell(&mut self, command: &AccountCommand) -> Result<AccountAnswer, AccountRejection> {
        let decision = decide(self.state.as_ref(), &self.id, command);
        if let Some(event) = decision.event {
            apply(&mut self.state, &self.id, &event).unwrap();
            self.books.apply(&postings(&self.id, &event)).unwrap();
            self.log.push(event);
        }
        self.check();
        decision.answer
    }

    /// Like `tell`, and says whether anything was written.
    fn tell_again(&mut self, command: &AccountCommand) -> (bool, Result<AccountAnswer, AccountRejection>) {
        let before = self.log.len();
        let answer = self.tell(command);
        (self.log.len() > before, answer)
    }

    pub(super) fn account(&self) -> &Account {
        self.state.as_ref().unwrap()
    }

    pub(super) fn available(&self) -> i64 {
        self.account().available().0
    }

    /// What holds after every event, whatever it was.
    fn check(&self) {
        assert!(self.books.imbalance().is_empty(), "MONEY-1");
        let Some(account) = &self.state else { return };
        assert_eq!(self.books.balance(&LedgerAccount::Driver(self.id.clone())), account.posted);
        assert!(account.available() >= Money::ZERO, "MONEY-4");
        assert!(account.posted.saturating_sub(account.held).0 >= -account.kind.limit().0, "MONEY-4");
        let held: i64 = account.holds.values().map(|session| session.hold.0).sum();
        assert_eq!(account.held, Money(held));
        assert_eq!(account.open_sessions(), account.holds.values().filter(|session| session.is_open()).count());
        assert!(!account.is_closed() || (account.posted, account.held) == (Money::ZERO, Money::ZERO));
        for session in account.holds.values() {
            assert!(session.unpaid() >= Money::ZERO && session.hold >= Money::ZERO);
            if let Some(closed) = &session.closed {
                assert_eq!(closed.billed_wh.0 + closed.overshoot_wh.0, closed.meter.0, "SESS-1");
                assert_eq!(closed.billed.0 + closed.overshoot.0, closed.cumulative.total().0, "SESS-1");
                let unpaid = (closed.overshoot == Money::ZERO, closed.overshoot_wh == WattHours::ZERO);
                assert!(unpaid.0 == unpaid.1 || closed.meter == WattHours::ZERO, "fees alone are of no energy");
                assert_eq!(closed.billed, session.billed.total());
                assert_eq!(closed.billed_wh, session.billed_wh);
            }
        }
    }
}

pub(super) fn open(key: &str, kind: AccountKind, holder: Holder) -> AccountCommand {
    AccountCommand::Open { key: key.into(), currency: cny(), kind, holder, at: Timestamp(0) }
}

pub(super) fn top_up(key: &str, amount: i64) -> AccountCommand {
    AccountCommand::TopUp { key: key.into(), amount: Money(amount), currency: None, at: Timestamp(1) }
}

pub(super) fn refund(key: &str, amount: i64) -> AccountCommand {
    AccountCommand::Refund { key: key.into(), amount: Money(amount), currency: None, at: Timestamp(5) }
}

pub(super) fn adjust(key: &str, amount: i64, reason: &str) -> AccountCommand {
    let (key, reason) = (key.into(), reason.into());
    AccountCommand::Adjust { key, amount: Money(amount), currency: Some(cny()), reason, at: Timestamp(5) }
}

pub(super) fn freeze(key: &str) -> AccountCommand {
    AccountCommand::Freeze { key: key.into(), reason: "lost card".into(), at: Timestamp(5) }
}

pub(super) fn unfreeze(key: &str) -> AccountCommand {
    AccountCommand::Unfreeze { key: key.into(), at: Timestamp(5) }
}

pub(super) fn release(key: &str, number: usize, at: i64) -> AccountCommand {
    AccountCommand::Release { key: key.into(), session: session(number), at: Timestamp(at) }
}

pub(super) fn end_hold(number: usize, quiet_since: i64) -> AccountCommand {
    let (quiet_since, at) = (Timestamp(quiet_since), Timestamp(6));
    AccountCommand::EndHold { session: session(number), quiet_since, at }
}

pub(super) fn close(key: &str) -> AccountCommand {
    AccountCommand::Close { key: key.into(), at: Timestamp(5) }
}

pub(super) fn authorise(number: usize, want: i64, reserve: i64) -> AccountCommand {
    AccountCommand::Authorise {
        session: session(number),
        operator: "op1".parse().unwrap(),
        tariff: tariff(),
        split: None,
        want: Money(want),
        reserve: Money(reserve),
        at: Timestamp(2),
    }
}

pub(super) fn debit(number: usize, sequence: u32, by_period: [WattHours; PERIODS], hold_target: i64) -> AccountCommand {
    AccountCommand::Debit {
        session: session(number),
        sequence,
        meter: total(&by_period),
        by_period,
        time: MeteredTime::NONE,
        cumulative: tariff().price(&by_period, &MeteredTime::NONE),
        hold_target: Money(hold_target),
        at: Timestamp(3),
    }
}

pub(super) fn settle(number: usize, sequence: u32, by_period: [WattHours; PERIODS]) -> AccountCommand {
    AccountCommand::Settle {
        session: session(number),
        sequence,
        meter: total(&by_period),
        by_period,
        time: MeteredTime::NONE,
        cumulative: tariff().final_price(&by_period, &MeteredTime::NONE),
        at: Timestamp(4),
    }
}

/// The command under another tariff and with the time of its session so far.
pub(super) fn timed(mut command: AccountCommand, under: &Tariff, ms: MeteredTime) -> AccountCommand {
    match &mut command {
        AccountCommand::Authorise { tariff, .. } => *tariff = under.clone(),
        AccountCommand::Debit { by_period, time, cumulative, .. } => {
            (*time, *cumulative) = (ms, under.price(by_period, &ms));
        }
        AccountCommand::Settle { by_period, time, cumulative, .. } => {
            (*time, *cumulative) = (ms, under.final_price(by_period, &ms));
        }
        _ => {}
    }
    command
}

fn debited(answer: Result<AccountAnswer, AccountRejection>) -> DebitAnswer {
    match answer {
        Ok(AccountAnswer::Debited(debit)) => debit,
        other => panic!("expected a debit, got {other:?}"),
    }
}

fn settled(answer: Result<AccountAnswer, AccountRejection>) -> Settled {
    match answer {
        Ok(AccountAnswer::Settled(settled)) => settled,
        other => panic!("expected a settlement, got {other:?}"),
    }
}

fn code(answer: Result<AccountAnswer, AccountRejection>) -> &'static str {
    answer.unwrap_err().code()
}

#[test]
fn keyed_commands_have_one_effect_and_one_answer() {
    let mut bank = Bank::with(AccountKind::Prepaid, 0);
    let first = bank.tell(&top_up("k", 500));
    assert_eq!(first, Ok(AccountAnswer::ToppedUp { balance: Money(500) }));
    bank.tell(&top_up("other", 100)).unwrap();
    assert_eq!(bank.tell_again(&top_up("k", 500)), (false, first));
    assert_eq!(code(bank.tell(&top_up("k", 501))), "key_reused");
    assert_eq!(code(bank.tell(&top_up("open", 500))), "key_reused");
    assert_eq!(bank.account().posted, Money(600));
    assert_eq!(code(bank.tell(&top_up("", 1))), "invalid_key");
    assert_eq!(code(bank.tell(&top_up(&"x".repeat(MAX_KEY_LEN + 1), 1))), "invalid_key");
}

#[test]
fn refusals_of_keyed_commands_are_remembered() {
    let mut bank = Bank::with(AccountKind::Prepaid, MAX_BALANCE.0);
    assert_eq!(code(bank.tell(&top_up("full", 100))), "balance_limit");
    // Room is made; the answer of the key stays.
    bank.tell(&authorise(1, 50_000, 0)).unwrap();
    bank.tell(&settle(1, 1, flat(1_000))).unwrap();
    let (written, answer) = bank.tell_again(&top_up("full", 100));
    assert_eq!((written, code(answer)), (false, "balance_limit"));
    assert_eq!(code(bank.tell(&top_up("full", 99))), "key_reused");
    for amount in [0, -1, i64::MIN, MAX_BALANCE.0 + 1] {
        let key = format!("k{amount}");
        let first = bank.tell_again(&top_up(&key, amount));
        let (written, answer) = bank.tell_again(&top_up(&key, amount));
        assert_eq!((first.0, code(first.1), written, code(answer)), (true, "invalid_amount", false, "invalid_amount"));
    }
}

#[test]
fn an_account_opens_once() {
    let mut bank = Bank::new();
    assert_eq!(code(bank.tell(&top_up("early", 100))), "unknown_account");
    let open = |key: &str, kind| AccountCommand::Open {
        key: key.into(),
        currency: cny(),
        kind,
        holder: Holder::Personal,
        at: Timestamp(7),
    };
    let bad = AccountKind::Credit { limit: Money(-1) };
    assert_eq!(code(bank.tell(&open("k0", bad))), "invalid_amount");
    assert!(bank.state.is_none());
    let first = bank.tell(&open("k1", AccountKind::Credit { limit: Money(900) })).unwrap();
    bank.tell(&top_up("more", 50)).unwrap();
    let again = bank.tell_again(&open("k1", AccountKind::Credit { limit: Money(900) }));
    assert_eq!(again, (false, Ok(first.clone())));
    let AccountAnswer::Opened(summary) = first else { panic!() };
    assert_eq!((summary.balance, summary.available, summary.opened_at), (Money(0), Money(900), Timestamp(7)));
    assert_eq!(code(bank.tell(&open("k1", AccountKind::Prepaid))), "key_reused");
    assert_eq!(code(bank.tell(&open("k2", AccountKind::Prepaid))), "already_open");
    assert_eq!(code(bank.tell(&open("k2", bad))), "key_reused");
}

#[test]
fn authorisation_holds_what_is_there_or_refuses_for_good() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    assert_eq!(bank.tell(&authorise(1, 8_000, 1_000)), Ok(AccountAnswer::Authorised { hold: Money(8_000) }));
    // Another size is the same authorisation; another tariff is not.
    let (written, answer) = bank.tell_again(&authorise(1, 9_000, 0));
    assert_eq!((written, answer), (false, Ok(AccountAnswer::Authorised { hold: Money(8_000) })));
    let AccountCommand::Authorise { session, operator, mut tariff, split, want, reserve, at } =
        authorise(1, 8_000, 1_000)
    else {
        panic!()
    };
    tariff.prices[0].energy = Money(1);
    let other = AccountCommand::Authorise { session, operator, tariff, split, want, reserve, at };
    assert_eq!(code(bank.tell(&other)), "session_reused");
    // 2,000 are left: enough beyond a reserve of 1,600 for 24 Wh at the highest price, not for 20 Wh beyond 1,700.
    assert_eq!(code(bank.tell(&authorise(2, 9_000, 1_700))), "insufficient_funds");
    assert_eq!(bank.tell(&authorise(3, 9_000, 1_600)), Ok(AccountAnswer::Authorised { hold: Money(2_000) }));
    bank.tell(&top_up("later", 100_000)).unwrap();
    let (written, answer) = bank.tell_again(&authorise(2, 9_000, 1_700));
    assert_eq!((written, code(answer)), (false, "insufficient_funds"));
    assert_eq!(code(bank.tell(&authorise(4, -1, 0))), "invalid_amount");
}

#[test]
fn authorisation_checks_the_tariff() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    let with = |number, change: fn(&mut Tariff)| {
        let mut command = authorise(number, 9_000, 0);
        if let AccountCommand::Authorise { tariff, .. } = &mut command {
            change(tariff);
        }
        command
    };
    let euros = with(1, |tariff| tariff.currency = Currency::new("EUR").unwrap());
    assert_eq!(code(bank.tell(&euros)), "currency_mismatch");
    assert_eq!(code(bank.tell(&with(2, |tariff| tariff.prices[3].energy = Money(-1)))), "invalid_tariff");
    let free = with(3, |tariff| tariff.prices = [Price { energy: Money(0), service: Money(0) }; PERIODS]);
    assert_eq!(bank.tell(&free), Ok(AccountAnswer::Authorised { hold: Money(9_000) }));
}

#[test]
fn memory_of_keys_is_bounded_and_a_young_key_is_never_forgotten() {
    let mut bank = Bank::with(AccountKind::Prepaid, 0);
    let top_up = |number: usize, at| AccountCommand::TopUp {
        key: format!("k{number}"),
        amount: Money(1),
        currency: None,
        at: Timestamp(at),
    };
    // With the key of the opening it is full.
    for number in 1..KEYS_REMEMBERED {
        let decision = decide(bank.state.as_ref(), &bank.id, &top_up(number, 1_000));
        apply(&mut bank.state, &bank.id, &decision.event.unwrap()).unwrap();
    }
    let late = 500 + KEYS_KEPT_MS;
    let refused = decide(bank.state.as_ref(), &bank.id, &top_up(0, KEYS_KEPT_MS));
    assert_eq!((refused.event, code(refused.answer)), (None, "too_many_keys"));
    let again = decide(bank.state.as_ref(), &bank.id, &top_up(1, late));
    assert_eq!((again.event, again.answer), (None, Ok(AccountAnswer::ToppedUp { balance: Money(1) })));
    // A day later the oldest one, of the opening, makes room; the next is not old enough.
    let taken = decide(bank.state.as_ref(), &bank.id, &top_up(0, late));
    apply(&mut bank.state, &bank.id, &taken.event.unwrap()).unwrap();
    assert_eq!(bank.account().keys.len(), KEYS_REMEMBERED);
    assert!(bank.account().keys.get(&"open".into()).is_none());
    let refused = decide(bank.state.as_ref(), &bank.id, &top_up(KEYS_REMEMBERED, late));
    assert_eq!(code(refused.answer), "too_many_keys");
}

#[test]
fn events_that_do_not_follow_change_nothing() {
    let mut bank = Bank::with(AccountKind::Prepaid, 50_000);
    bank.tell(&authorise(1, 5_000, 0)).unwrap();
    bank.tell(&debit(1, 1, flat(100), 5_000)).unwrap();
    bank.tell(&settle(1, 2, flat(200))).unwrap();
    let before = bank.account().clone();
    for event in bank.log.clone() {
        if matches!(event, AccountEvent::ToppedUp { .. }) {
            continue; // its key is what makes it one effect, and decide checks that
        }
        assert!(apply(&mut bank.state, &bank.id, &event).is_err(), "{event:?}");
        assert_eq!(bank.account(), &before);
        let mut nobody = None;
        let opens = matches!(event, AccountEvent::Opened { .. });
        assert_eq!(apply(&mut nobody, &bank.id, &event).is_ok(), opens);
        assert_eq!(nobody.is_some(), opens);
    }
}

#[test]
fn statement_lines_name_key_and_session() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 5_000, 0)).unwrap();
    bank.tell(&debit(1, 1, flat(500), 5_000)).unwrap();
    bank.tell(&debit(1, 2, flat(500), 5_000)).unwrap(); // takes nothing: no line
    bank.tell(&settle(1, 3, flat(1_000))).unwrap();
    let lines: Vec<_> = bank.log.iter().flat_map(statement_entries).collect();
    let short: Vec<_> = lines
        .iter()
        .map(|line| (line.kind.code(), line.amount.0, line.session.is_some(), line.key.as_deref()))
        .collect();
    assert_eq!(
        short,
        [
            ("opened", 0, false, Some("open")),
            ("top_up", 10_000, false, Some("first")),
            ("debit", -5_500, true, None),
            ("settlement", -4_500, true, None),
        ]
    );
    assert_eq!(lines[3].note, "1000 Wh for 1.0000 in all; 91 Wh of it, worth 0.1000, borne by the operator");
}
