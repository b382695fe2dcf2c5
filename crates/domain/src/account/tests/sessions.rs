//! Examples of sessions: debits and settlements.

use super::*;

#[test]
fn a_session_from_hold_to_settlement() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    let hold = bank.tell(&authorise(1, 30_000, 5_000));
    assert_eq!(hold, Ok(AccountAnswer::Authorised { hold: Money(30_000) }));
    assert_eq!(bank.available(), 70_000);
    // 1,000 Wh at 1.10 a kWh cost 11,000.
    let first = debited(bank.tell(&debit(1, 1, flat(1_000), 30_000)));
    assert_eq!((first.hold_left, first.available), (Money(30_000), Money(59_000)));
    // Without a target the hold is used up and not renewed.
    let second = debited(bank.tell(&debit(1, 2, flat(2_000), 0)));
    assert_eq!((second.hold_left, second.available), (Money(19_000), Money(59_000)));
    let end = settled(bank.tell(&settle(1, 3, flat(2_500))));
    assert_eq!((end.billed, end.overshoot, end.released), (Money(27_500), Money(0), Money(13_500)));
    assert_eq!((end.billed_wh, end.overshoot_wh), (WattHours(2_500), WattHours(0)));
    assert_eq!((bank.account().posted, bank.available()), (Money(72_500), 72_500));
    let revenue = |account: &str| bank.books.balance(&account.parse().unwrap());
    assert_eq!(revenue("energy:main/op1:CNY"), Money(17_500));
    assert_eq!(revenue("service:main/op1:CNY"), Money(10_000));
    assert_eq!(revenue("top-up:main:CNY"), Money(-100_000));
}

#[test]
fn a_debit_is_repeated_or_refused() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&authorise(1, 30_000, 0)).unwrap();
    let first = bank.tell(&debit(1, 1, flat(1_000), 30_000));
    bank.tell(&top_up("meanwhile", 5)).unwrap();
    assert_eq!(bank.tell_again(&debit(1, 1, flat(1_000), 12)), (false, first.clone()));
    assert_eq!(code(bank.tell(&debit(1, 1, flat(1_001), 30_000))), "sequence_reused");
    assert_eq!(code(bank.tell(&debit(1, 3, flat(1_001), 30_000))), "sequence_gap");
    bank.tell(&debit(1, 2, flat(1_500), 30_000)).unwrap();
    assert_eq!(code(bank.tell(&debit(1, 1, flat(1_000), 30_000))), "stale_sequence");
    assert_eq!(code(bank.tell(&debit(1, 0, flat(0), 30_000))), "stale_sequence");
    assert_eq!(code(bank.tell(&debit(1, 3, flat(1_499), 30_000))), "meter_went_back");
    assert_eq!(code(bank.tell(&debit(1, 3, [0, 101, 1_400, 0].map(WattHours), 0))), "not_monotone");
    assert_eq!(code(bank.tell(&debit(1, 3, flat(-1), 30_000))), "meter_out_of_range");
    assert_eq!(code(bank.tell(&debit(1, 3, flat(1_600), -1))), "invalid_amount");
    assert_eq!(code(bank.tell(&debit(2, 1, flat(1), 30_000))), "unknown_session");
}

#[test]
fn the_account_prices_the_reading_itself() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&authorise(1, 30_000, 0)).unwrap();
    let mut wrong = debit(1, 1, flat(1_000), 30_000);
    if let AccountCommand::Debit { cumulative, .. } = &mut wrong {
        cumulative.service = Money(3_999);
    }
    let expected = Priced { energy: Money(7_000), service: Money(4_000), fees: Money(0) };
    assert_eq!(bank.tell(&wrong), Err(AccountRejection::PriceMismatch { expected }));
    let mut wrong = debit(1, 1, flat(1_000), 30_000);
    if let AccountCommand::Debit { meter, .. } = &mut wrong {
        *meter = WattHours(1_001);
    }
    assert_eq!(code(bank.tell(&wrong)), "periods_mismatch");
    let mut absurd = settle(1, 1, flat(crate::tariff::MAX_METER.0 + 1));
    if let AccountCommand::Settle { by_period, .. } = &mut absurd {
        by_period[0] = WattHours(i64::MAX);
    }
    assert_eq!(code(bank.tell(&absurd)), "meter_out_of_range");
    assert_eq!(bank.account().posted, Money(100_000));
}

#[test]
fn a_debit_never_overdraws_and_the_rest_is_taken_later() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 6_000, 0)).unwrap();
    // 1,000 Wh cost 11,000; 10,000 are there.
    let short = debited(bank.tell(&debit(1, 1, flat(1_000), 6_000)));
    assert_eq!((short.hold_left, short.available), (Money(0), Money(0)));
    assert_eq!(bank.account().position(&session(1)).unwrap().unpaid(), Money(1_000));
    assert_eq!(bank.account().position(&session(1)).unwrap().billed_wh, WattHours(909));
    bank.tell(&top_up("more", 2_500)).unwrap();
    // The next debit takes the 1,000 that were missing, then renews the hold.
    let next = debited(bank.tell(&debit(1, 2, flat(1_000), 1_200)));
    assert_eq!((next.hold_left, next.available), (Money(1_200), Money(300)));
    assert_eq!(bank.account().position(&session(1)).unwrap().billed_wh, WattHours(1_000));
}

#[test]
fn settlement_takes_what_was_metered_and_the_operator_bears_the_rest() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&authorise(1, 5_000, 0)).unwrap();
    let end = settled(bank.tell(&settle(1, 1, flat(1_000))));
    assert_eq!((end.billed, end.overshoot, end.released), (Money(10_000), Money(1_000), Money(0)));
    // 1,000 Wh x 1,000 / 11,000 = 90.9, rounded up.
    assert_eq!((end.billed_wh, end.overshoot_wh), (WattHours(909), WattHours(91)));
    assert_eq!(bank.books.balance(&"overshoot:main/op1:CNY".parse().unwrap()), Money(-1_000));
    assert_eq!((bank.account().posted, bank.account().overshoot), (Money(0), Money(1_000)));
    assert_eq!(bank.tell_again(&settle(1, 1, flat(1_000))), (false, Ok(AccountAnswer::Settled(end))));
    assert_eq!(code(bank.tell(&settle(1, 1, flat(1_001)))), "sequence_reused");
    assert_eq!(code(bank.tell(&settle(1, 2, flat(1_000)))), "session_closed");
    assert_eq!(code(bank.tell(&debit(1, 2, flat(1_000), 0))), "session_closed");
    assert_eq!(code(bank.tell(&authorise(1, 5_000, 0))), "session_closed");
}

#[test]
fn a_settlement_below_what_was_billed_gives_the_difference_back() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&authorise(1, 30_000, 0)).unwrap();
    // A reading that was wrong: 6,000 Wh cost 66,000, of which the hold and the rest are taken.
    bank.tell(&debit(1, 1, flat(6_000), 30_000)).unwrap();
    assert_eq!(bank.account().posted, Money(34_000));
    let end = settled(bank.tell(&settle(1, 2, flat(1_000))));
    assert_eq!((end.billed, end.overshoot, end.released), (Money(11_000), Money(0), Money(30_000)));
    assert_eq!((end.meter, end.billed_wh, end.overshoot_wh), (WattHours(1_000), WattHours(1_000), WattHours(0)));
    assert_eq!((bank.account().posted, bank.available()), (Money(89_000), 89_000));
    assert_eq!(bank.books.balance(&"energy:main/op1:CNY".parse().unwrap()), Money(7_000));
    let line = bank.log.last().map(statement_entries).unwrap().remove(0);
    assert_eq!(
        (line.amount, line.note.as_str()),
        (Money(55_000), "1000 Wh for 1.1000 in all; 5.5000 of what was taken before given back")
    );
    assert_eq!(bank.tell_again(&settle(1, 2, flat(1_000))), (false, Ok(AccountAnswer::Settled(end))));
}

#[test]
fn a_correction_moves_no_energy_between_periods() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&authorise(1, 30_000, 0)).unwrap();
    bank.tell(&debit(1, 1, flat(1_000), 30_000)).unwrap();
    assert_eq!(code(bank.tell(&settle(1, 2, [1, 0, 900, 0].map(WattHours)))), "not_monotone");
    assert_eq!(code(bank.tell(&settle(1, 2, [-1, 0, 900, 0].map(WattHours)))), "periods_mismatch");
    assert_eq!(code(bank.tell(&debit(1, 2, flat(900), 30_000))), "meter_went_back", "only the end corrects");
    settled(bank.tell(&settle(1, 2, flat(0))));
    assert_eq!(bank.account().posted, Money(100_000));
}

#[test]
fn the_last_debit_answers_its_duplicates_even_after_the_settlement() {
    let mut bank = Bank::with(AccountKind::Prepaid, 50_000);
    bank.tell(&authorise(1, 5_000, 0)).unwrap();
    let answer = bank.tell(&debit(1, 1, flat(100), 5_000));
    bank.tell(&settle(1, 2, flat(200))).unwrap();
    assert_eq!(bank.tell_again(&debit(1, 1, flat(100), 5_000)), (false, answer));
}

#[test]
fn a_settlement_overtaking_its_authorisation_leaves_no_hold() {
    let mut bank = Bank::with(AccountKind::Prepaid, 50_000);
    assert_eq!(code(bank.tell(&settle(1, 1, flat(1)))), "unknown_session");
    let first = bank.tell(&settle(1, 1, flat(0)));
    assert_eq!(settled(first.clone()).billed, Money(0));
    assert_eq!(bank.tell_again(&settle(1, 1, flat(0))), (false, first));
    assert_eq!(code(bank.tell(&authorise(1, 5_000, 0))), "session_closed");
    assert_eq!((bank.account().open_sessions(), bank.available()), (0, 50_000));
}

#[test]
fn credit_reaches_its_limit_and_not_beyond() {
    let mut bank = Bank::with(AccountKind::Credit { limit: Money(15_000) }, 0);
    assert_eq!(bank.tell(&authorise(1, 20_000, 0)), Ok(AccountAnswer::Authorised { hold: Money(15_000) }));
    let end = settled(bank.tell(&settle(1, 1, flat(2_000))));
    assert_eq!((end.billed, end.overshoot), (Money(15_000), Money(7_000)));
    assert_eq!((bank.account().posted, bank.available()), (Money(-15_000), 0));
    assert_eq!(code(bank.tell(&authorise(2, 1, 0))), "insufficient_funds");
}

#[test]
fn closed_sessions_answer_for_thirty_days() {
    let mut bank = Bank::with(AccountKind::Prepaid, 50_000);
    bank.tell(&authorise(1, 5_000, 0)).unwrap();
    bank.tell(&authorise(2, 5_000, 0)).unwrap();
    let end = bank.tell(&settle(1, 1, flat(100)));
    let later =
        |key: &str, at| AccountCommand::TopUp { key: key.into(), amount: Money(1), currency: None, at: Timestamp(at) };
    bank.tell(&later("day 30", 4 + CLOSED_KEPT_MS)).unwrap();
    assert_eq!(bank.tell(&settle(1, 1, flat(100))), end);
    bank.tell(&later("day 31", 5 + CLOSED_KEPT_MS)).unwrap();
    assert_eq!(code(bank.tell(&settle(1, 1, flat(100)))), "unknown_session");
    assert!(bank.account().position(&session(2)).is_some(), "an open session is never forgotten");
}
