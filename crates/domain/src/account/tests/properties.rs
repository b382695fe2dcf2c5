//! Whatever is asked in whatever order, the account keeps its books.

use super::*;
use proptest::prelude::*;

/// Milliseconds of charging and idle time that are added to the last reading; below zero: taken off it.
pub(super) type Ms = [i64; 2];

/// A step of a random history. Sessions and keys are few, so that histories collide with themselves.
#[derive(Debug, Clone)]
pub(super) enum Step {
    TopUp {
        key: u8,
        amount: i64,
    },
    Authorise {
        number: usize,
        want: i64,
        reserve: i64,
    },
    /// `skip` is added to the right sequence; `more` to the last reading.
    Debit {
        number: usize,
        skip: u32,
        more: [i64; PERIODS],
        ms: Ms,
        hold_target: i64,
    },
    Settle {
        number: usize,
        more: [i64; PERIODS],
        ms: Ms,
    },
    /// The end of a session of which more was billed than was metered: `less` is taken off the last reading.
    Correct {
        number: usize,
        less: [i64; PERIODS],
        ms: Ms,
    },
    /// All that may go back, or this much.
    Refund {
        key: u8,
        amount: Option<i64>,
    },
    /// Down to nothing, or by this much.
    Adjust {
        key: u8,
        amount: Option<i64>,
    },
    Freeze {
        key: u8,
        frozen: bool,
    },
    /// Of a session of which something was read a moment ago, or long ago.
    Release {
        key: u8,
        number: usize,
        late: bool,
    },
    Close {
        key: u8,
    },
    /// By time: of a session of which something was read since, or nothing.
    EndHold {
        number: usize,
        quiet_since: i64,
    },
    /// The command that was sent this many steps ago, once more.
    Repeat {
        back: usize,
    },
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let more = || [0_i64..40, 0..40, 0..400, 0..40];
    let ms = || {
        let part = || prop_oneof![2 => Just(0), 6 => 0_i64..90_000, 1 => -90_000_i64..0];
        [part(), part()]
    };
    let number = || 0_usize..4;
    // Some of them collide with those of the top-ups.
    let keys = || 8_u8..60;
    let step = prop_oneof![
        2 => (0_u8..12, -50_i64..9_000).prop_map(|(key, amount)| Step::TopUp { key, amount }),
        3 => (number(), 0_i64..9_000, 0_i64..900)
            .prop_map(|(number, want, reserve)| Step::Authorise { number, want, reserve }),
        8 => (number(), prop_oneof![9 => Just(1_u32), 1 => 0_u32..4], more(), ms(), 0_i64..6_000).prop_map(
            |(number, skip, more, ms, hold_target)| Step::Debit { number, skip, more, ms, hold_target }
        ),
        2 => (number(), more(), ms()).prop_map(|(number, more, ms)| Step::Settle { number, more, ms }),
        2 => (number(), more(), ms()).prop_map(|(number, less, ms)| Step::Correct { number, less, ms }),
        4 => (1_usize..12).prop_map(|back| Step::Repeat { back }),
        1 => (keys(), prop::option::of(-50_i64..4_000)).prop_map(|(key, amount)| Step::Refund { key, amount }),
        1 => (keys(), prop::option::of(-4_000_i64..4_000)).prop_map(|(key, amount)| Step::Adjust { key, amount }),
        1 => (keys(), prop::bool::weighted(0.4)).prop_map(|(key, frozen)| Step::Freeze { key, frozen }),
        1 => (keys(), number(), any::<bool>()).prop_map(|(key, number, late)| Step::Release { key, number, late }),
        1 => keys().prop_map(|key| Step::Close { key }),
        1 => (number(), 0_i64..6).prop_map(|(number, quiet_since)| Step::EndHold { number, quiet_since }),
    ];
    prop::collection::vec(step, 1..70)
}

pub(super) fn kinds() -> impl Strategy<Value = AccountKind> {
    prop_oneof![
        Just(AccountKind::Prepaid),
        (0_i64..6_000).prop_map(|limit| AccountKind::Credit { limit: Money(limit) }),
    ]
}

/// Tariffs without fees, and with all sorts of them.
pub(super) fn tariffs() -> impl Strategy<Value = Tariff> {
    let amounts = (0_i64..400, 0_i64..900, 0_i64..2_000, 0_i64..90);
    let bounds = (0_i64..2_000, prop::option::of(0_i64..5_000));
    let fees = (amounts, bounds).prop_map(|((flat, minute, idle, grace), (min, more))| Fees {
        flat: Money(flat),
        per_minute: Money(minute),
        idle_per_minute: Money(idle),
        idle_grace_s: grace,
        min: Money(min),
        max: more.map(|more| Money(min + more)),
    });
    prop_oneof![1 => Just(Fees::NONE), 2 => fees].prop_map(|fees| Tariff { fees, ..tariff() })
}

/// The command of a step in the state of the account.
fn command(bank: &Bank, tariff: &Tariff, step: &Step, sent: &[AccountCommand]) -> Option<AccountCommand> {
    let position = |number| bank.account().position(&session(number));
    let reading = |number: usize, more: &[i64; PERIODS]| {
        let mut by_period = position(number).map_or(flat(0), |known| known.by_period);
        by_period.iter_mut().zip(more).for_each(|(sum, more)| sum.0 += more);
        by_period
    };
    let time = |number: usize, [charging, idle]: &Ms| {
        let MeteredTime { charging_ms, idle_ms } = position(number).map_or(MeteredTime::NONE, |known| known.time);
        MeteredTime { charging_ms: (charging_ms + charging).max(0), idle_ms: (idle_ms + idle).max(0) }
    };
    let sequence = |number| position(number).map_or(0, |known| known.sequence);
    Some(match step {
        Step::TopUp { key, amount } => top_up(&format!("k{key}"), *amount),
        Step::Authorise { number, want, reserve } => {
            timed(authorise(*number, *want, *reserve), tariff, MeteredTime::NONE)
        }
        Step::Debit { number, skip, more, ms, hold_target } => {
            let debit = debit(*number, sequence(*number) + skip, reading(*number, more), *hold_target);
            timed(debit, tariff, time(*number, ms))
        }
        Step::Settle { number, more, ms } => {
            timed(settle(*number, sequence(*number) + 1, reading(*number, more)), tariff, time(*number, ms))
        }
        Step::Correct { number, less, ms } => {
            let by_period = reading(*number, &less.map(|less| -less)).map(|wh| wh.max(WattHours(0)));
            timed(settle(*number, sequence(*number) + 1, by_period), tariff, time(*number, ms))
        }
        Step::Refund { key, amount } => {
            refund(&format!("k{key}"), amount.unwrap_or_else(|| bank.account().refundable().0))
        }
        Step::Adjust { key, amount } => adjust(&format!("k{key}"), amount.unwrap_or(-bank.account().posted.0), "why"),
        Step::Freeze { key, frozen: true } => freeze(&format!("k{key}")),
        Step::Freeze { key, frozen: false } => unfreeze(&format!("k{key}")),
        Step::Release { key, number, late } => release(&format!("k{key}"), *number, if *late { 700_000 } else { 5 }),
        Step::Close { key } => close(&format!("k{key}")),
        Step::EndHold { number, quiet_since } => end_hold(*number, *quiet_since),
        Step::Repeat { back } => sent.get(sent.len().checked_sub(*back)?)?.clone(),
    })
}

/// Plays a history; `tell` checks the invariants after every step. Gives what was sent and answered.
pub(super) fn play(
    bank: &mut Bank,
    tariff: &Tariff,
    steps: &[Step],
) -> Vec<(AccountCommand, Result<AccountAnswer, AccountRejection>)> {
    let mut sent = Vec::new();
    let mut answered = Vec::new();
    for step in steps {
        let Some(command) = command(bank, tariff, step, &sent) else {
            continue;
        };
        let answer = bank.tell(&command);
        sent.push(command.clone());
        answered.push((command, answer));
    }
    answered
}

proptest! {
    /// MONEY-1, MONEY-4 and SESS-1 after every step (see `Bank::check`); and the statement is the balance.
    #[test]
    fn books_hold_after_every_step(
        kind in kinds(), money in 0_i64..20_000, tariff in tariffs(), steps in steps(),
    ) {
        let mut bank = Bank::with(kind, money);
        play(&mut bank, &tariff, &steps);
        let lines = bank.log.iter().flat_map(statement_entries);
        prop_assert_eq!(lines.map(|line| line.amount.0).sum::<i64>(), bank.account().posted.0);
    }

    /// MONEY-2: the same command at once again writes nothing and is answered the same. And however much
    /// later it comes, a keyed command, a refused authorisation or a settlement keeps its first answer.
    #[test]
    fn repeating_changes_nothing(kind in kinds(), money in 0_i64..20_000, tariff in tariffs(), steps in steps()) {
        let mut bank = Bank::with(kind, money);
        let mut sent = Vec::new();
        let mut first_answers = Vec::new();
        for step in &steps {
            let Some(command) = command(&bank, &tariff, step, &sent) else { continue };
            let answer = bank.tell(&command);
            let (state, written) = (bank.account().clone(), bank.log.len());
            let again = bank.tell(&command);
            // A hold that has ended has ended: nobody waits for that answer.
            let once = matches!(command, AccountCommand::EndHold { .. });
            prop_assert!(again == answer || once, "{:?}, then {:?}", answer, again);
            prop_assert_eq!(bank.account(), &state);
            prop_assert_eq!(bank.log.len(), written);
            let lasts = match (&command, &answer) {
                (AccountCommand::Settle { .. }, answer) => answer.is_ok(),
                (AccountCommand::Authorise { .. }, Err(rejection)) => {
                    !matches!(rejection, AccountRejection::SessionClosed | AccountRejection::SessionReleased)
                }
                (
                    AccountCommand::Authorise { .. } | AccountCommand::Debit { .. } | AccountCommand::EndHold { .. },
                    _,
                ) => false,
                // The keyed ones.
                _ => true,
            };
            if lasts && !sent.contains(&command) {
                first_answers.push((command.clone(), answer));
            }
            sent.push(command);
        }
        let (state, written) = (bank.account().clone(), bank.log.len());
        for (command, answer) in first_answers {
            prop_assert_eq!(bank.tell(&command), answer);
        }
        prop_assert_eq!(bank.account(), &state);
        prop_assert_eq!(bank.log.len(), written);
    }

    /// Replaying the log gives the live state, through either stored form of events and state.
    #[test]
    fn replay_equals_live(kind in kinds(), money in 0_i64..20_000, tariff in tariffs(), steps in steps()) {
        let mut bank = Bank::with(kind, money);
        play(&mut bank, &tariff, &steps);
        let (mut from_json, mut from_packed) = (None, None);
        for event in &bank.log {
            let json = serde_json::to_string(event).unwrap();
            apply(&mut from_json, &bank.id, &serde_json::from_str(&json).unwrap()).unwrap();
            let packed = rmp_serde::to_vec_named(event).unwrap();
            apply(&mut from_packed, &bank.id, &rmp_serde::from_slice(&packed).unwrap()).unwrap();
        }
        prop_assert_eq!(&from_json, &bank.state);
        prop_assert_eq!(&from_packed, &bank.state);
        let json = serde_json::to_string(&bank.state).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Option<Account>>(&json).unwrap(), &bank.state);
        let packed = rmp_serde::to_vec_named(&bank.state).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<Option<Account>>(&packed).unwrap(), &bank.state);
    }

    /// However the metered energy is cut into debits, and whether or not the money suffices, the books and
    /// the bill are the same in the end.
    #[test]
    fn cutting_into_debits_does_not_matter(
        money in 500_i64..30_000,
        readings in prop::collection::vec([0_i64..60, 0..60, 0..900, 0..60], 1..12),
        targets in [0_i64..9_000, 0..9_000],
        kept in prop::collection::vec(any::<bool>(), 12),
        tariff in tariffs(),
        times in prop::collection::vec((0_i64..200_000, 0_i64..200_000), 12),
        // Told too late: the time of a pause that a reading had counted.
        paused in 0_i64..30_000,
    ) {
        let run = |keep: &dyn Fn(usize) -> bool, target: i64| {
            let mut bank = Bank::with(AccountKind::Prepaid, money);
            let held = bank.tell(&timed(authorise(1, 4_000, 0), &tariff, MeteredTime::NONE));
            if held.is_err() {
                return (None, vec![]);
            }
            let (mut by_period, mut sequence, mut time) = (flat(0), 0, MeteredTime::NONE);
            for (step, (more, (charging, idle))) in readings.iter().zip(&times).enumerate() {
                by_period.iter_mut().zip(more).for_each(|(sum, more)| sum.0 += more);
                (time.charging_ms, time.idle_ms) = (time.charging_ms + charging, time.idle_ms + idle);
                if keep(step) {
                    sequence += 1;
                    bank.tell(&timed(debit(1, sequence, by_period, target), &tariff, time)).unwrap();
                }
            }
            time.charging_ms = (time.charging_ms - paused).max(0);
            let end = timed(settle(1, sequence + 1, by_period), &tariff, time);
            let Ok(AccountAnswer::Settled(end)) = bank.tell(&end) else {
                panic!("settling is never refused for money");
            };
            let bill = (end.billed, end.billed_wh, end.overshoot, end.overshoot_wh, end.cumulative);
            let books: Vec<_> = bank.books.balances.into_iter().filter(|b| b.1.1 != Money::ZERO).collect();
            (Some(bill), books)
        };
        let whole = run(&|_| false, 0);
        prop_assert_eq!(&run(&|_| true, targets[0]), &whole);
        prop_assert_eq!(&run(&|step| kept[step], targets[1]), &whole);
    }

    /// Whatever a wrong reading had billed, the settlement leaves driver, revenue and overshoot as if only the
    /// true energy had ever been read.
    #[test]
    fn a_wrong_reading_costs_nobody_anything_in_the_end(
        money in 500_i64..30_000,
        truth in [0_i64..60, 0..60, 0..900, 0..60],
        glitch in [0_i64..60, 0..60, 0..50_000, 0..60],
        target in 0_i64..9_000,
        other in prop::option::of(400_i64..4_000),
    ) {
        let end = truth.map(WattHours);
        let run = |wrong: bool| {
            let mut bank = Bank::with(AccountKind::Prepaid, money);
            bank.tell(&authorise(1, 4_000, 0)).unwrap();
            let _ = other.map(|want| bank.tell(&authorise(2, want, 0)));
            let mut sequence = 0;
            if wrong {
                let mut by_period = end;
                by_period.iter_mut().zip(&glitch).for_each(|(sum, more)| sum.0 += more);
                debited(bank.tell(&debit(1, 1, by_period, target)));
                sequence = 1;
            }
            let settled = settled(bank.tell(&settle(1, sequence + 1, end)));
            let bill = (settled.billed, settled.billed_wh, settled.overshoot, settled.overshoot_wh, settled.cumulative);
            prop_assert_eq!(bank.tell_again(&settle(1, sequence + 1, end)), (false, Ok(AccountAnswer::Settled(settled))));
            let books: Vec<_> = bank.books.balances.into_iter().filter(|b| b.1.1 != Money::ZERO).collect();
            Ok((bill, books))
        };
        prop_assert_eq!(run(true)?, run(false)?);
    }

    /// A debit takes from the hold first, then renews it out of the available money up to the target; it
    /// never makes the hold smaller otherwise, and what it takes is what is due as far as there is money.
    #[test]
    fn hold_arithmetic(
        money in 500_i64..30_000, want in 400_i64..9_000, more in 0_i64..2_000, target in 0_i64..9_000,
        other in 400_i64..4_000,
    ) {
        let mut bank = Bank::with(AccountKind::Prepaid, money);
        bank.tell(&authorise(1, want, 0)).unwrap();
        let _ = bank.tell(&authorise(2, other, 0)); // what another session holds is out of reach
        let (held, free) = (bank.account().position(&session(1)).unwrap().hold.0, bank.available());
        let other_held = bank.account().position(&session(2)).map_or(0, |known| known.hold.0);
        let due = tariff().price(&flat(more), &MeteredTime::NONE).total().0;
        let answer = debited(bank.tell(&debit(1, 1, flat(more), target)));
        let paid = due.min(held + free);
        let rest = held + free - paid;
        let unspent = (held - paid).max(0);
        prop_assert_eq!(answer.hold_left.0, unspent.max(target.min(rest)));
        prop_assert_eq!(answer.available.0, rest - answer.hold_left.0);
        prop_assert_eq!(bank.available(), answer.available.0);
        prop_assert_eq!(bank.account().posted.0, money - paid);
        let other_now = bank.account().position(&session(2)).map_or(0, |known| known.hold.0);
        prop_assert_eq!(other_now, other_held);
    }

    /// The unpaid part in watt-hours is zero exactly when the money is, and never more than was metered.
    #[test]
    fn unpaid_energy_is_a_proportion_rounded_up(meter in 1_i64..200_000, total in 1_i64..900_000, part in 0_i64..=1_000) {
        let unpaid = total * part / 1_000;
        let energy = unpaid_energy(WattHours(meter), Money(total), Money(unpaid)).0;
        prop_assert_eq!(energy == 0, unpaid == 0);
        prop_assert!(energy <= meter);
        prop_assert!(i128::from(energy) * i128::from(total) >= i128::from(meter) * i128::from(unpaid));
        prop_assert!(energy == 0 || i128::from(energy - 1) * i128::from(total) < i128::from(meter) * i128::from(unpaid));
    }
}
