//! Examples of what operators do: refund, correct, freeze, release, close.

use super::*;
use crate::ledger::LedgerAccount;

#[test]
fn a_refund_gives_back_what_was_paid_in_and_is_free() {
    let mut bank = Bank::with(AccountKind::Credit { limit: Money(50_000) }, 100_000);
    bank.tell(&authorise(1, 30_000, 0)).unwrap();
    // 70,000 are free; the credit is nobody's to take out.
    assert_eq!(bank.tell(&refund("r1", 70_001)), Err(AccountRejection::RefundLimit { refundable: Money(70_000) }));
    let first = bank.tell(&refund("r2", 60_000));
    assert_eq!(first, Ok(AccountAnswer::Refunded { balance: Money(40_000) }));
    assert_eq!(bank.tell_again(&refund("r2", 60_000)), (false, first));
    assert_eq!(code(bank.tell(&refund("r2", 59_999))), "key_reused");
    bank.tell(&settle(1, 1, flat(0))).unwrap();
    // The refusal stays, though it would fit now.
    let again = bank.tell_again(&refund("r1", 70_001));
    assert_eq!((again.0, code(again.1)), (false, "refund_limit"));
    // What an operator gave is not paid out as a refund.
    bank.tell(&adjust("gift", 5_000, "sorry for the trouble")).unwrap();
    assert_eq!(bank.account().refundable(), Money(40_000));
    bank.tell(&refund("r3", 40_000)).unwrap();
    assert_eq!(code(bank.tell(&refund("r4", 1))), "refund_limit");
    let balance = |account: &str| bank.books.balance(&account.parse::<LedgerAccount>().unwrap()).0;
    assert_eq!((balance("top-up:main:CNY"), balance("adjustment:main:CNY")), (0, -5_000));
    for (amount, key) in [(0, "z"), (-1, "n"), (i64::MIN, "m"), (i64::MAX, "o")] {
        assert_eq!(code(bank.tell(&refund(key, amount))), "invalid_amount");
    }
}

#[test]
fn another_currency_is_refused_and_always_will_be() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    let euros = Some(Currency::new("EUR").unwrap());
    let (amount, at) = (Money(5), Timestamp(5));
    let commands = [
        AccountCommand::TopUp { key: "k1".into(), amount, currency: euros, at },
        AccountCommand::Refund { key: "k2".into(), amount, currency: euros, at },
        AccountCommand::Adjust { key: "k3".into(), amount, currency: euros, reason: "why".into(), at },
    ];
    for command in commands.iter().chain(&commands) {
        let (written, answer) = bank.tell_again(command);
        assert_eq!((written, code(answer)), (false, "currency_mismatch"));
    }
}

#[test]
fn a_correction_needs_a_reason_and_stays_within_the_credit() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    assert_eq!(code(bank.tell(&adjust("a0", 0, "why"))), "invalid_amount");
    assert_eq!(code(bank.tell(&adjust("a1", i64::MIN, "why"))), "invalid_amount");
    assert_eq!(code(bank.tell(&adjust("a2", 5, " "))), "invalid_reason");
    let long = "x".repeat(MAX_REASON_LEN + 1);
    assert_eq!(code(bank.tell(&adjust("a3", 5, &long))), "invalid_reason");
    let again = bank.tell_again(&adjust("a3", 5, &long));
    assert_eq!((again.0, code(again.1)), (false, "invalid_reason"));
    assert_eq!(code(bank.tell(&adjust("a4", -4_001, "why"))), "insufficient_funds");
    assert_eq!(bank.tell(&adjust("a5", -4_000, "why")), Ok(AccountAnswer::Adjusted { balance: Money(6_000) }));
    assert_eq!(code(bank.tell(&adjust("a5", -4_000, "why not"))), "key_reused");
    assert_eq!(code(bank.tell(&adjust("a6", MAX_BALANCE.0, "why"))), "balance_limit");
}

#[test]
fn a_frozen_account_finishes_what_is_under_way_and_begins_nothing() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    assert_eq!(bank.tell(&freeze("f1")), Ok(AccountAnswer::Frozen));
    assert_eq!(code(bank.tell(&authorise(2, 6_000, 0))), "account_frozen");
    assert_eq!(code(bank.tell(&refund("r1", 5))), "account_frozen");
    // The hold is renewed, money may come in, the operator may correct.
    let debit = debited(bank.tell(&debit(1, 1, flat(500), 6_000)));
    assert_eq!(debit.hold_left, Money(6_000));
    bank.tell(&top_up("in", 5)).unwrap();
    bank.tell(&adjust("a", 1, "why")).unwrap();
    bank.tell(&settle(1, 2, flat(1_000))).unwrap();
    assert_eq!(bank.tell(&unfreeze("f2")), Ok(AccountAnswer::Unfrozen));
    // Refusals stay; the repeated freeze is answered and does not freeze again.
    assert_eq!(bank.tell_again(&freeze("f1")), (false, Ok(AccountAnswer::Frozen)));
    assert!(!bank.account().is_frozen());
    assert_eq!(code(bank.tell(&authorise(2, 6_000, 0))), "account_frozen");
    assert_eq!(code(bank.tell(&refund("r1", 5))), "account_frozen");
    bank.tell(&authorise(3, 6_000, 0)).unwrap();
    bank.tell(&refund("r2", 5)).unwrap();
}

#[test]
fn a_hold_that_was_released_is_never_drawn_on() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    assert_eq!(code(bank.tell(&release("r0", 2, 5))), "unknown_session");
    let released = bank.tell(&release("r1", 1, 5));
    assert_eq!(released, Ok(AccountAnswer::Released { hold: Money(6_000) }));
    assert_eq!(bank.tell_again(&release("r1", 1, 5)), (false, released));
    assert_eq!(code(bank.tell(&release("r2", 1, 5))), "session_released");
    assert_eq!((bank.available(), bank.account().open_sessions()), (10_000, 0));
    // It began all the same: nothing is taken, and the operator bears what it metered.
    assert_eq!(code(bank.tell(&authorise(1, 6_000, 0))), "session_released");
    assert_eq!(code(bank.tell(&debit(1, 1, flat(500), 6_000))), "session_released");
    let end = settled(bank.tell(&settle(1, 1, flat(500))));
    assert_eq!((end.billed, end.overshoot, end.overshoot_wh), (Money(0), Money(5_500), WattHours(500)));
    assert_eq!(bank.tell_again(&settle(1, 1, flat(500))), (false, Ok(AccountAnswer::Settled(end))));
    assert_eq!((bank.available(), bank.account().open_sessions()), (10_000, 0));
    assert_eq!(code(bank.tell(&release("r3", 1, 5))), "session_closed");
}

#[test]
fn a_session_under_way_is_stopped_and_not_released() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    bank.tell(&debit(1, 1, flat(100), 6_000)).unwrap(); // read at 3
    assert_eq!(code(bank.tell(&release("r1", 1, 2 + RELEASE_QUIET_MS))), "session_active");
    bank.tell(&release("r2", 1, 3 + RELEASE_QUIET_MS)).unwrap();
    // What was paid stays paid; a lower end gives back what was taken too much.
    let end = settled(bank.tell(&settle(1, 2, flat(40))));
    assert_eq!((end.billed, end.overshoot, bank.available()), (Money(440), Money(0), 10_000 - 440));
}

#[test]
fn an_account_is_closed_when_nothing_is_left_and_then_refuses_everything() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    assert_eq!(code(bank.tell(&close("c1"))), "sessions_open");
    bank.tell(&debit(1, 1, flat(100), 6_000)).unwrap();
    bank.tell(&release("r1", 1, 700_000)).unwrap();
    assert_eq!(code(bank.tell(&close("c2"))), "sessions_open"); // its end may give money back
    bank.tell(&settle(1, 2, flat(100))).unwrap();
    bank.tell(&authorise(2, 6_000, 0)).unwrap();
    bank.tell(&release("r2", 2, 5)).unwrap();
    assert_eq!(code(bank.tell(&close("c3"))), "balance_not_zero");
    bank.tell(&refund("out", 10_000 - 1_100)).unwrap();
    assert_eq!(bank.tell(&close("c4")), Ok(AccountAnswer::Closed));
    // Repetitions have their answers, whatever is new is refused.
    assert_eq!(bank.tell_again(&close("c4")), (false, Ok(AccountAnswer::Closed)));
    assert_eq!(code(bank.tell(&close("c1"))), "sessions_open");
    assert_eq!(bank.tell(&top_up("first", 10_000)), Ok(AccountAnswer::ToppedUp { balance: Money(10_000) }));
    let commands = [
        open("again", AccountKind::Prepaid, Holder::Personal),
        top_up("t", 5),
        refund("r", 5),
        adjust("a", 5, "why"),
        freeze("f"),
        unfreeze("u"),
        release("r3", 2, 5),
        close("c5"),
        authorise(9, 6_000, 0),
    ];
    for command in commands {
        let (written, answer) = bank.tell_again(&command);
        assert_eq!((written, code(answer)), (false, "account_closed"), "{command:?}");
    }
    // The session whose hold was released ends all the same, at nobody's cost but the operator's.
    let end = settled(bank.tell(&settle(2, 1, flat(100))));
    assert_eq!((end.billed, end.overshoot, bank.available()), (Money(0), Money(1_100), 0));
}

#[test]
fn a_person_has_few_sessions_at_once_and_a_fleet_thousands() {
    for (holder, most) in [(Holder::Personal, PERSONAL_OPEN_SESSIONS), (Holder::Fleet, 2_000)] {
        let mut bank = Bank::new();
        bank.tell(&open("open", AccountKind::Prepaid, holder)).unwrap();
        bank.tell(&top_up("money", 100_000_000)).unwrap();
        for number in 0..most {
            let decision = decide(bank.state.as_ref(), &bank.id, &authorise(number, 1_000, 0));
            apply(&mut bank.state, &bank.id, &decision.event.unwrap()).unwrap();
            assert!(decision.answer.is_ok());
        }
        let more = decide(bank.state.as_ref(), &bank.id, &authorise(most, 1_000, 0)).answer;
        match holder {
            Holder::Personal => assert_eq!(more, Err(AccountRejection::TooManySessions { most })),
            Holder::Fleet => assert!(more.is_ok()),
        }
    }
}

#[test]
fn a_hold_that_ended_by_time_is_like_one_that_was_released() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap(); // at 2
    assert_eq!(code(bank.tell(&end_hold(1, 1))), "session_active");
    assert_eq!(code(bank.tell(&end_hold(2, 9))), "unknown_session");
    let (written, answer) = bank.tell_again(&end_hold(1, 2));
    assert_eq!((written, answer), (true, Ok(AccountAnswer::HoldEnded { hold: Money(6_000) })));
    let (written, answer) = bank.tell_again(&end_hold(1, 2));
    assert_eq!((written, code(answer)), (false, "session_released"));
    assert_eq!((bank.available(), bank.account().open_sessions()), (10_000, 0));
    assert_eq!(code(bank.tell(&debit(1, 1, flat(500), 6_000))), "session_released");
    let end = settled(bank.tell(&settle(1, 1, flat(500))));
    assert_eq!((end.billed, end.overshoot, bank.available()), (Money(0), Money(5_500), 10_000));
    assert_eq!(code(bank.tell(&end_hold(1, 9))), "session_closed");
    // A debit renews it, whatever it took.
    bank.tell(&authorise(2, 6_000, 0)).unwrap();
    bank.tell(&debit(2, 1, flat(0), 6_000)).unwrap(); // at 3
    assert_eq!(code(bank.tell(&end_hold(2, 2))), "session_active");
    bank.tell(&end_hold(2, 3)).unwrap();
    let line = statement_entries(bank.log.last().unwrap()).remove(0);
    assert_eq!((line.kind.code(), line.amount, line.session), ("hold_ended", Money(0), Some(session(2))));
}
