//! Examples of what a session costs beside its energy.

use super::*;

/// 0.50 once, 0.06 a minute, 0.60 an idle minute after a minute, at least 1.00, at most 3.00; a kWh costs 1.10.
fn dear() -> Tariff {
    let fees = Fees {
        flat: Money(5_000),
        per_minute: Money(600),
        idle_per_minute: Money(6_000),
        idle_grace_s: 60,
        min: Money(10_000),
        max: Some(Money(30_000)),
    };
    Tariff { fees, ..tariff() }
}

fn time(charging_s: i64, idle_s: i64) -> MeteredTime {
    MeteredTime { charging_ms: charging_s * 1_000, idle_ms: idle_s * 1_000 }
}

fn hold(number: usize, want: i64) -> AccountCommand {
    timed(authorise(number, want, 0), &dear(), MeteredTime::NONE)
}

fn debit_for(sequence: u32, wh: i64, ms: MeteredTime) -> AccountCommand {
    timed(debit(1, sequence, flat(wh), 20_000), &dear(), ms)
}

fn settle_for(sequence: u32, wh: i64, ms: MeteredTime) -> AccountCommand {
    timed(settle(1, sequence, flat(wh)), &dear(), ms)
}

fn revenue(bank: &Bank) -> [i64; 3] {
    ["energy", "service", "fees"].map(|kind| bank.books.balance(&format!("{kind}:main/op1:CNY").parse().unwrap()).0)
}

#[test]
fn fees_are_taken_as_they_come_and_have_their_own_account() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    let first = debited(bank.tell(&debit_for(1, 1_000, time(60, 0))));
    assert_eq!((first.cumulative.fees, first.available), (Money(5_600), Money(63_400)));
    bank.tell(&debit_for(2, 1_000, time(120, 90))).unwrap();
    assert_eq!(revenue(&bank), [7_000, 4_000, 9_200]);
    let end = settled(bank.tell(&settle_for(3, 1_000, time(120, 120))));
    assert_eq!((end.billed, end.time, end.cumulative.fees), (Money(23_200), time(120, 120), Money(12_200)));
    assert_eq!(bank.account().posted, Money(76_800));
    let lines: Vec<_> = bank.log.iter().flat_map(statement_entries).map(|line| line.note).collect();
    assert_eq!(lines[2], "energy 0.7000, service 0.4000, fees 0.5600, up to 1000 Wh");
}

#[test]
fn the_highest_price_moves_fees_to_energy_and_takes_nothing_more() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    bank.tell(&debit_for(1, 1_000, time(0, 1_000))).unwrap();
    assert_eq!(revenue(&bank), [7_000, 4_000, 19_000]);
    assert_eq!(bank.account().posted, Money(70_000));
    bank.tell(&debit_for(2, 2_000, time(60, 1_000))).unwrap();
    assert_eq!(revenue(&bank), [14_000, 8_000, 8_000]);
    let end = settled(bank.tell(&settle_for(3, 9_000, time(600, 1_000))));
    assert_eq!(revenue(&bank), [30_000, 0, 0]);
    assert_eq!((end.billed, end.overshoot, bank.account().posted), (Money(30_000), Money(0), Money(70_000)));
}

#[test]
fn the_least_price_is_asked_for_at_the_end_and_was_held() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    let (written, answer) = bank.tell_again(&hold(2, 9_999));
    assert_eq!((written, code(answer)), (true, "insufficient_funds"), "less than the least price");
    bank.tell(&hold(1, 10_000)).unwrap();
    let first = debited(bank.tell(&debit_for(1, 100, time(0, 0))));
    assert_eq!((first.cumulative.total(), first.hold_left), (Money(6_100), Money(3_900)));
    let end = settled(bank.tell(&settle_for(2, 100, time(1, 0))));
    assert_eq!((end.billed, end.overshoot), (Money(10_000), Money(0)));
    assert_eq!(revenue(&bank), [700, 400, 8_900]);
}

#[test]
fn without_energy_only_the_time_that_a_full_car_stands_there_is_paid() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    bank.tell(&debit_for(1, 0, time(300, 60))).unwrap();
    assert_eq!(bank.account().posted, Money(100_000));
    let end = settled(bank.tell(&settle_for(2, 0, time(300, 90))));
    assert_eq!((end.billed, end.billed_wh), (Money(3_000), WattHours(0)));
    bank.tell(&hold(2, 20_000)).unwrap();
    let end = settled(bank.tell(&timed(settle(2, 1, flat(0)), &dear(), MeteredTime::NONE)));
    assert_eq!(end.billed, Money(0), "nothing happened");
}

#[test]
fn the_end_has_the_last_word_about_time() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    // The word that the charger was paused for the last 30 s comes after the debit.
    bank.tell(&debit_for(1, 1_000, time(90, 0))).unwrap();
    assert_eq!(code(bank.tell(&debit_for(2, 1_000, time(60, 0)))), "time_went_back");
    let end = settled(bank.tell(&settle_for(2, 1_000, time(60, 0))));
    assert_eq!((end.billed, bank.account().posted), (Money(16_600), Money(83_400)));
    assert_eq!(bank.tell_again(&settle_for(2, 1_000, time(60, 0))), (false, Ok(AccountAnswer::Settled(end))));
    assert_eq!(code(bank.tell(&settle_for(2, 1_000, time(61, 0)))), "sequence_reused");
}

#[test]
fn time_is_part_of_the_price_and_in_range() {
    let mut bank = Bank::with(AccountKind::Prepaid, 100_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    let mut wrong = debit_for(1, 1_000, time(60, 0));
    if let AccountCommand::Debit { time, .. } = &mut wrong {
        time.charging_ms += 60_000;
    }
    assert_eq!(code(bank.tell(&wrong)), "price_mismatch");
    for absurd in [time(-1, 0), time(0, -1), time(400 * 86_400, 0), time(200 * 86_400, 200 * 86_400)] {
        assert_eq!(code(bank.tell(&debit_for(1, 1_000, absurd))), "time_out_of_range");
    }
    let unfinished = timed(settle(1, 1, flat(10)), &dear(), time(1, 0));
    let AccountCommand::Settle { session, sequence, meter, by_period, time, at, .. } = unfinished else { panic!() };
    let cumulative = dear().price(&by_period, &time);
    let cheap = AccountCommand::Settle { session, sequence, meter, by_period, time, cumulative, at };
    assert_eq!(code(bank.tell(&cheap)), "price_mismatch", "below the least price");
}

#[test]
fn what_the_money_does_not_pay_of_the_fees_is_the_operators() {
    let mut bank = Bank::with(AccountKind::Prepaid, 12_000);
    bank.tell(&hold(1, 20_000)).unwrap();
    let end = settled(bank.tell(&settle_for(1, 1_000, time(60, 0))));
    // 11,000 of energy and service and 5,600 of fees.
    assert_eq!((end.billed, end.overshoot), (Money(12_000), Money(4_600)));
    assert_eq!((end.billed_wh, end.overshoot_wh), (WattHours(722), WattHours(278)));
    assert_eq!(revenue(&bank), [7_000, 4_000, 5_600]);
    assert_eq!(bank.account().position(&session(1)).unwrap().billed.fees, Money(1_000));
}
