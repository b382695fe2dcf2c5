//! Money between accounts: examples, and any number of accounts under any order of messages.

use super::*;
use proptest::prelude::*;

fn send(key: &str, to: &str, amount: i64) -> AccountCommand {
    AccountCommand::TransferOut {
        key: key.into(),
        to: to.parse().unwrap(),
        amount: Money(amount),
        currency: None,
        target: TransferTarget::Open { currency: cny() },
        at: Timestamp(6),
    }
}

fn towards(key: &str, to: &str, target: TransferTarget) -> AccountCommand {
    let AccountCommand::TransferOut { key, to, amount, currency, at, .. } = send(key, to, 5) else { panic!() };
    AccountCommand::TransferOut { key, to, amount, currency, target, at }
}

fn transfer(number: u64) -> TransferId {
    TransferId { from: "a1".parse().unwrap(), number }
}

fn arrive(number: u64, ended_below: u64, amount: i64) -> AccountCommand {
    let (currency, at) = (cny(), Timestamp(7));
    AccountCommand::TransferIn { transfer: transfer(number), ended_below, currency, amount: Money(amount), at }
}

fn end(number: u64, refused: Option<AccountRejection>) -> AccountCommand {
    AccountCommand::EndTransfer { number, refused, at: Timestamp(8) }
}

fn receiver() -> Bank {
    let mut bank = Bank::new();
    bank.id = "a2".parse().unwrap();
    bank.tell(&open("open", AccountKind::Prepaid, Holder::Personal)).unwrap();
    bank
}

fn in_flight(bank: &Bank) -> i64 {
    bank.books.balance(&"in-flight:main:CNY".parse().unwrap()).0
}

#[test]
fn money_leaves_once_arrives_once_and_is_confirmed() {
    let (mut from, mut to) = (Bank::with(AccountKind::Prepaid, 10_000), receiver());
    let left = from.tell(&send("t", "a2", 4_000));
    let answer = AccountAnswer::TransferredOut { transfer: transfer(1), balance: Money(6_000) };
    assert_eq!(left, Ok(answer));
    assert_eq!(from.tell_again(&send("t", "a2", 4_000)), (false, left));
    assert_eq!(code(from.tell(&send("t", "a3", 4_000))), "key_reused");
    assert_eq!((in_flight(&from), in_flight(&to)), (4_000, 0));
    for first in [true, false, false] {
        assert_eq!(to.tell_again(&arrive(1, 1, 4_000)), (first, Ok(AccountAnswer::TransferredIn)));
    }
    assert_eq!(code(to.tell(&arrive(1, 1, 4_001))), "key_reused");
    assert_eq!(to.account().posted, Money(4_000));
    assert_eq!((in_flight(&from), in_flight(&to)), (4_000, -4_000));
    assert_eq!(from.tell_again(&end(1, None)), (true, Ok(AccountAnswer::TransferEnded)));
    // Whatever is heard of it later, it has ended.
    assert_eq!(
        from.tell_again(&end(1, Some(AccountRejection::AccountClosed))),
        (false, Ok(AccountAnswer::TransferEnded))
    );
    assert_eq!(from.account().outgoing.get(1).unwrap().end.as_ref().unwrap().returned, None);
    assert_eq!(from.account().outgoing.ended_below(), 2);
    // The next one tells the target that the first has ended: it is forgotten, and stale should it come again.
    from.tell(&send("t2", "a2", 100)).unwrap();
    to.tell(&arrive(2, 2, 100)).unwrap();
    assert_eq!(to.account().incoming[&from.id].seen.len(), 1);
    assert_eq!(code(to.tell(&arrive(1, 1, 4_000))), "stale_transfer");
    assert_eq!(to.account().posted, Money(4_100));
    // What came by a transfer was not paid in here.
    assert_eq!(to.account().refundable(), Money(0));
}

#[test]
fn what_the_target_refuses_for_good_comes_back() {
    let (mut from, mut to) = (Bank::with(AccountKind::Prepaid, 10_000), receiver());
    from.tell(&send("t1", "a2", 4_000)).unwrap();
    assert_eq!(code(from.tell(&close("c"))), "transfers_open");
    to.tell(&close("closed")).unwrap();
    let (written, answer) = to.tell_again(&arrive(1, 1, 4_000));
    assert_eq!((written, code(answer.clone())), (false, "account_closed"));
    from.tell(&end(1, answer.err())).unwrap();
    assert_eq!((from.account().posted, in_flight(&from)), (Money(10_000), 0));
    let returned = from.account().outgoing.get(1).unwrap().end.clone().unwrap().returned;
    assert_eq!(returned, Some(AccountRejection::AccountClosed));
    // Too full: the refusal stays when there is room again.
    let mut full = receiver();
    full.tell(&top_up("full", MAX_BALANCE.0)).unwrap();
    from.tell(&send("t2", "a2", 5)).unwrap();
    assert_eq!(code(full.tell(&arrive(2, 2, 5))), "balance_limit");
    full.tell(&refund("room", 500)).unwrap();
    let (written, answer) = full.tell_again(&arrive(2, 2, 5));
    assert_eq!((written, code(answer)), (false, "balance_limit"));
    // Another currency stays another currency.
    let euros = AccountCommand::TransferIn {
        transfer: transfer(3),
        ended_below: 1,
        currency: Currency::new("EUR").unwrap(),
        amount: Money(5),
        at: Timestamp(7),
    };
    let refused = full.tell(&euros).unwrap_err();
    assert!(refused.code() == "currency_mismatch" && refused.returns_transfer());
}

#[test]
fn an_answer_that_may_change_returns_nothing() {
    let mut from = Bank::with(AccountKind::Prepaid, 10_000);
    from.tell(&send("t", "a2", 4_000)).unwrap();
    let nobody = decide(None, &"a2".parse().unwrap(), &arrive(1, 1, 4_000));
    assert_eq!((nobody.event, code(nobody.answer)), (None, "unknown_account"));
    for rejection in [AccountRejection::UnknownAccount, AccountRejection::StaleTransfer, AccountRejection::KeyReused] {
        assert!(from.tell(&end(1, Some(rejection))).is_err());
    }
    assert_eq!((from.account().posted, in_flight(&from)), (Money(6_000), 4_000));
}

#[test]
fn nothing_leaves_for_who_cannot_take_it_or_without_money() {
    let mut from = Bank::with(AccountKind::Credit { limit: Money(5_000) }, 10_000);
    let euros = TransferTarget::Open { currency: Currency::new("EUR").unwrap() };
    let unknown = towards("k1", "a2", TransferTarget::Unknown);
    assert_eq!(code(from.tell(&unknown)), "unknown_target");
    // Remembered, though it was opened meanwhile.
    let (written, answer) = from.tell_again(&towards("k1", "a2", TransferTarget::Open { currency: cny() }));
    assert_eq!((written, code(answer)), (false, "unknown_target"));
    assert_eq!(code(from.tell(&towards("k2", "a2", TransferTarget::Closed))), "target_closed");
    assert_eq!(code(from.tell(&towards("k3", "a2", euros))), "currency_mismatch");
    assert_eq!(code(from.tell(&send("k4", "a1", 5))), "invalid_target");
    assert_eq!(code(from.tell(&send("k5", "acme/a2", 5))), "invalid_target");
    for (key, amount) in [("k6", 0), ("k7", -1), ("k8", i64::MIN), ("k9", i64::MAX)] {
        assert_eq!(code(from.tell(&send(key, "a2", amount))), "invalid_amount");
    }
    from.tell(&authorise(1, 4_000, 0)).unwrap();
    assert_eq!(code(from.tell(&send("k10", "a2", 6_001))), "insufficient_funds");
    from.tell(&freeze("f")).unwrap();
    assert_eq!(code(from.tell(&send("k11", "a2", 5))), "account_frozen");
    from.tell(&unfreeze("u")).unwrap();
    from.tell(&send("k12", "a2", 6_000)).unwrap();
}

#[test]
fn names_of_transfers_have_one_text() {
    for text in ["main/a1.t7", "acme/x.t3.t12"] {
        assert_eq!(text.parse::<TransferId>().unwrap().to_string(), text);
    }
    assert_eq!("a1.t7".parse::<TransferId>().unwrap(), transfer(7));
    for text in ["", "a1", "a1.t", "a1.t0", "a1.t07", "a1.t+7", "a1.t-7", "a 1.t7", ".t1", "a1.t99999999999999999999"] {
        assert!(text.parse::<TransferId>().is_err(), "{text}");
    }
}

/// A step among three accounts. A message is delivered, delivered and kept, or lost; so is its answer.
#[derive(Debug, Clone)]
enum Hop {
    Send {
        from: usize,
        to: usize,
        amount: i64,
    },
    /// The `pick`-th open transfer is sent (again).
    Offer {
        pick: usize,
    },
    /// The `pick`-th message on its way arrives; `again`: it will once more.
    Deliver {
        pick: usize,
        again: bool,
    },
    Fill {
        account: usize,
    },
    Close {
        account: usize,
    },
}

fn hops() -> impl Strategy<Value = Vec<Hop>> {
    let account = || 0_usize..3;
    let hop = prop_oneof![
        4 => (account(), account(), 1_i64..5_000).prop_map(|(from, to, amount)| Hop::Send { from, to, amount }),
        6 => (0_usize..8).prop_map(|pick| Hop::Offer { pick }),
        12 => (0_usize..16, any::<bool>()).prop_map(|(pick, again)| Hop::Deliver { pick, again }),
        1 => account().prop_map(|account| Hop::Fill { account }),
        1 => account().prop_map(|account| Hop::Close { account }),
    ];
    prop::collection::vec(hop, 1..120)
}

#[derive(Clone)]
enum Letter {
    In(usize, AccountCommand),
    Answer { to: usize, number: u64, refused: Option<AccountRejection> },
}

/// Three banks, each in a shard of its own, and what is between them.
struct World {
    banks: Vec<Bank>,
    letters: Vec<Letter>,
    /// What a naive clerk wrote down: everything paid in, and refilled.
    paid_in: i64,
    keys: usize,
}

impl World {
    fn new() -> Self {
        let bank = |n: usize| {
            let mut bank = Bank::new();
            bank.id = format!("a{n}").parse().unwrap();
            bank.tell(&open("open", AccountKind::Prepaid, Holder::Personal)).unwrap();
            bank.tell(&top_up("first", 10_000)).unwrap();
            bank
        };
        Self { banks: (0..3).map(bank).collect(), letters: vec![], paid_in: 30_000, keys: 0 }
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("k{}", self.keys)
    }

    fn offers(&self) -> Vec<Letter> {
        let of = |bank: &Bank| {
            let account = bank.account().clone();
            let below = account.outgoing.ended_below();
            let offer = move |(number, transfer): (&u64, &Transfer)| {
                let to: usize = transfer.to.local()[1..].parse().unwrap();
                let command = AccountCommand::TransferIn {
                    transfer: TransferId { from: account.id.clone(), number: *number },
                    ended_below: below,
                    currency: cny(),
                    amount: transfer.amount,
                    at: Timestamp(9),
                };
                Letter::In(to, command)
            };
            bank.account().outgoing.open.iter().map(offer).collect::<Vec<_>>()
        };
        self.banks.iter().flat_map(of).collect()
    }

    fn deliver(&mut self, letter: Letter) {
        match letter {
            Letter::In(to, command) => {
                let AccountCommand::TransferIn { transfer, .. } = &command else { return };
                let (from, number) = (transfer.from.local()[1..].parse().unwrap(), transfer.number);
                let refused = self.banks[to].tell(&command).err();
                self.letters.push(Letter::Answer { to: from, number, refused });
            }
            Letter::Answer { to, number, refused } => drop(self.banks[to].tell(&end(number, refused))),
        }
    }

    fn step(&mut self, hop: &Hop) {
        match hop {
            Hop::Send { from, to, amount } => {
                let command = send(&self.key(), &format!("a{to}"), *amount);
                let _ = self.banks[*from].tell(&command);
            }
            Hop::Offer { pick } => {
                let offers = self.offers();
                self.letters.extend(offers.into_iter().nth(*pick));
            }
            Hop::Deliver { pick, again } if *pick < self.letters.len() => {
                let letter = if *again { self.letters[*pick].clone() } else { self.letters.swap_remove(*pick) };
                self.deliver(letter);
            }
            Hop::Deliver { .. } => {}
            Hop::Fill { account } => {
                // Leaves room for less than most transfers.
                let amount = MAX_BALANCE.0 - self.banks[*account].account().posted.0 - 1_000;
                let command = top_up(&self.key(), amount);
                self.paid_in += if self.banks[*account].tell(&command).is_ok() { amount } else { 0 };
            }
            Hop::Close { account } => {
                let amount = self.banks[*account].account().posted.0;
                let (out, close) = (adjust(&self.key(), -amount, "out"), close(&self.key()));
                if self.banks[*account].account().outgoing.open.is_empty() && amount > 0 {
                    self.paid_in -= if self.banks[*account].tell(&out).is_ok() { amount } else { 0 };
                }
                let _ = self.banks[*account].tell(&close);
            }
        }
    }

    /// Out-entries without their in-entry or return, from the logs alone.
    fn outstanding(&self) -> i64 {
        let mut sum = 0;
        for event in self.banks.iter().flat_map(|bank| &bank.log) {
            sum += match event {
                AccountEvent::TransferredOut { amount, .. } => amount.0,
                AccountEvent::TransferredIn { amount, .. } | AccountEvent::TransferReturned { amount, .. } => -amount.0,
                _ => 0,
            };
        }
        sum
    }

    fn check(&self) {
        let posted: i64 = self.banks.iter().map(|bank| bank.account().posted.0).sum();
        let flying: i64 = self.banks.iter().map(in_flight).sum();
        assert_eq!(flying, self.outstanding(), "MONEY-1");
        assert!(flying >= 0, "never an in-entry without its out-entry");
        assert_eq!(posted + flying, self.paid_in);
    }
}

proptest! {
    /// However messages are lost, doubled, delayed and mixed up, no money is made or lost; and once everything is
    /// delivered, each transfer has arrived once or is back.
    #[test]
    fn transfers_keep_all_money(hops in hops()) {
        let mut world = World::new();
        for hop in &hops {
            world.step(hop);
            world.check();
        }
        // Late letters of all kinds, then every transfer until nothing is under way.
        for letter in std::mem::take(&mut world.letters) {
            world.deliver(letter);
            world.check();
        }
        for _ in 0..3 {
            let offers = world.offers();
            world.letters.extend(offers);
            while let Some(letter) = world.letters.pop() {
                world.deliver(letter);
                world.check();
            }
        }
        prop_assert!(world.banks.iter().all(|bank| bank.account().outgoing.open.is_empty()));
        prop_assert_eq!(world.outstanding(), 0);
        for bank in &world.banks {
            let lines = bank.log.iter().flat_map(statement_entries);
            prop_assert_eq!(lines.map(|line| line.amount.0).sum::<i64>(), bank.account().posted.0);
            let mut replayed = None;
            for event in &bank.log {
                let packed = rmp_serde::to_vec_named(event).unwrap();
                apply(&mut replayed, &bank.id, &rmp_serde::from_slice(&packed).unwrap()).unwrap();
            }
            prop_assert_eq!(&replayed, &bank.state);
        }
    }
}
