//! Revenue shared by agreement at settlement.

use super::*;
use crate::split::Split;
use proptest::prelude::*;

fn agreement() -> Split {
    let shares = [("op1", 2_500), ("agent", 1_500), ("owner", 6_000)];
    Split {
        shares: shares.into_iter().map(|(party, share)| (party.parse().unwrap(), share)).collect(),
        remainder: "agent".parse().unwrap(),
    }
}

fn agreed(number: usize, want: i64) -> AccountCommand {
    let mut command = authorise(number, want, 0);
    if let AccountCommand::Authorise { split, .. } = &mut command {
        *split = Some(agreement());
    }
    command
}

fn balance(bank: &Bank, account: &str) -> i64 {
    bank.books.balance(&account.parse().unwrap()).0
}

#[test]
fn a_settlement_passes_on_what_was_agreed_at_the_start() {
    let mut bank = Bank::with(AccountKind::Prepaid, 10_000);
    bank.tell(&agreed(1, 6_000)).unwrap();
    assert_eq!(code(bank.tell(&authorise(1, 6_000, 0))), "session_reused");
    bank.tell(&debit(1, 1, flat(500), 6_000)).unwrap();
    assert_eq!(balance(&bank, "share:main/owner:CNY"), 0);
    // 909 Wh cost 6,363 + 3,636 = 9,999: 5,999 to the owner, 1,499 and the two of rounding to the agent.
    bank.tell(&settle(1, 2, flat(909))).unwrap();
    let shares = ["owner", "agent", "op1"].map(|party| balance(&bank, &format!("share:main/{party}:CNY")));
    assert_eq!(shares, [5_999, 1_501, -7_500]);
    assert_eq!([balance(&bank, "energy:main/op1:CNY"), balance(&bank, "service:main/op1:CNY")], [6_363, 3_636]);
    let mut bad = agreed(2, 1_000);
    if let AccountCommand::Authorise { split: Some(split), .. } = &mut bad {
        split.shares.insert("more".parse().unwrap(), 1);
    }
    assert_eq!(code(bank.tell(&bad)), "invalid_split");
}

#[test]
fn what_no_driver_paid_is_borne_by_the_operator_alone() {
    let mut bank = Bank::with(AccountKind::Prepaid, 1_000);
    bank.tell(&agreed(1, 1_000)).unwrap();
    bank.tell(&settle(1, 1, flat(1_000))).unwrap(); // 11,000
    assert_eq!(balance(&bank, "overshoot:main/op1:CNY"), -10_000);
    assert_eq!(balance(&bank, "share:main/owner:CNY"), 6_600);
    let op1 = ["energy", "service", "overshoot", "share"].map(|kind| balance(&bank, &format!("{kind}:main/op1:CNY")));
    assert_eq!(op1.iter().sum::<i64>(), 1_000 - 6_600 - 1_650);
}

proptest! {
    /// However a session is cut into debits, and whatever was read wrongly before its end, the parties get their
    /// parts of the price of what was metered in the end.
    #[test]
    fn shares_are_of_the_final_price(
        money in 500_i64..30_000,
        readings in prop::collection::vec([0_i64..60, 0..60, 0..900, 0..60], 0..8),
        truth in [0_i64..60, 0..60, 0..900, 0..60],
    ) {
        let mut bank = Bank::with(AccountKind::Prepaid, money);
        bank.tell(&agreed(1, 4_000)).unwrap();
        let mut by_period = truth.map(WattHours);
        let mut sequence = 0;
        for more in &readings {
            by_period.iter_mut().zip(more).for_each(|(sum, more)| sum.0 += more);
            sequence += 1;
            bank.tell(&debit(1, sequence, by_period, 4_000)).unwrap();
        }
        let end = settled(bank.tell(&settle(1, sequence + 1, truth.map(WattHours))));
        let price = end.cumulative.total().0;
        let (owner, op1) = (price * 6_000 / 10_000, price * 2_500 / 10_000);
        prop_assert_eq!(balance(&bank, "share:main/owner:CNY"), owner);
        prop_assert_eq!(balance(&bank, "share:main/agent:CNY"), price - owner - op1);
        prop_assert_eq!(balance(&bank, "share:main/op1:CNY"), op1 - price);
    }
}
