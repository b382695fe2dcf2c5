//! The judge: compares what the clients were told with the naive books, at the moment they were told and once more at
//! the end, when the store has been through everything.

use crate::books::{Books, Objection, Told};
use crate::trace::Counts;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, KeyContent};
use std::collections::{BTreeMap, BTreeSet};

/// Objections kept: the first ones tell the most.
const KEPT: usize = 10;

#[derive(Default)]
pub struct Judge {
    books: Books,
    told: Vec<(String, AccountCommand, Told)>,
    first: BTreeMap<String, AccountAnswer>,
    sent: BTreeSet<String>,
    objections: Vec<Objection>,
    counts: Counts,
}

/// The effect that a command asks for, by the key that makes it one.
pub fn effect_of(account: &str, command: &AccountCommand) -> String {
    match command {
        AccountCommand::Open { key, currency, kind, holder, .. } => {
            format!("{account} {key} {:?}", KeyContent::Open { currency: *currency, kind: *kind, holder: *holder })
        }
        AccountCommand::TopUp { key, amount, .. } => {
            format!("{account} {key} {:?}", KeyContent::TopUp { amount: *amount })
        }
        AccountCommand::Authorise { session, .. } => format!("{account} {session} held"),
        AccountCommand::Debit { session, sequence, meter, .. }
        | AccountCommand::Settle { session, sequence, meter, .. } => format!("{account} {session} {sequence} {meter}"),
        #[allow(unreachable_patterns, reason = "an account may learn commands that no client of this run sends")]
        _ => format!("{account} {command:?}"),
    }
}

impl Judge {
    /// More of the store's file is durable.
    pub fn read(&mut self, durable: &[u8]) {
        self.books.read(durable);
        let found = std::mem::take(&mut self.books.objections);
        self.objections.extend(found);
    }

    pub fn object(&mut self, invariant: &'static str, what: String) {
        if self.objections.len() < KEPT {
            self.objections.push((invariant, what));
        }
    }

    fn hear(&mut self, checked: Result<(), Objection>) {
        if let Err((invariant, what)) = checked {
            self.object(invariant, what);
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A client sends a command.
    pub fn sent(&mut self, account: &str, command: &AccountCommand) {
        self.sent.insert(effect_of(account, command));
    }

    /// A node let an answer out, whether or not it reaches anybody.
    pub fn told(&mut self, account: &str, command: &AccountCommand, told: Told) {
        self.count("MONEY-3 answers");
        let checked = self.books.verify(account, command, &told);
        self.hear(checked);
        if let Ok(answer) = &told {
            let effect = effect_of(account, command);
            match self.first.get(&effect) {
                None => drop(self.first.insert(effect, answer.clone())),
                Some(first) => {
                    let same = first == answer;
                    let what = format!("{effect} was told {first:?}, then {answer:?}");
                    self.count("MONEY-2 repeated requests");
                    self.hear(if same { Ok(()) } else { Err(("MONEY-2", what)) });
                }
            }
        }
        self.told.push((account.to_owned(), command.clone(), told));
    }

    /// A node let the view of an account out. Returns whether it is the latest.
    pub fn read_of(&mut self, account: &str, seen: (i64, i64)) -> bool {
        self.count("MONEY-3 reads");
        let checked = self.books.verify_read(account, seen);
        self.hear(checked);
        self.books.latest(account) == Some(seen)
    }

    /// A node's balances at the end: as in the log, and in sum zero.
    pub fn served(&mut self, balances: &BTreeMap<(String, String), i64>) {
        self.count("MONEY-1 balances as served");
        let kept = |of: &BTreeMap<(String, String), i64>| -> BTreeMap<_, _> {
            of.iter().filter(|(_, balance)| **balance != 0).map(|(name, balance)| (name.clone(), *balance)).collect()
        };
        let (served, expected) = (kept(balances), kept(&self.books.balances));
        if served != expected {
            self.object("MONEY-1", format!("served are {served:?}, the log says {expected:?}"));
        }
    }

    /// The end: the whole file once more, and everything that was ever told against it.
    pub fn end(&mut self, file: &[u8]) {
        let mut books = Books::default();
        books.read(file);
        let found = std::mem::take(&mut books.objections);
        found.into_iter().for_each(|(invariant, what)| self.object(invariant, what));
        for (account, command, told) in std::mem::take(&mut self.told) {
            let checked = books.verify(&account, &command, &told);
            self.hear(checked);
        }
        for effect in books.effects() {
            self.count("MONEY-2 effects");
            if !self.sent.contains(&effect) {
                self.object("MONEY-2", format!("nobody asked for {effect}"));
            }
        }
        self.books = books;
    }

    pub fn objections(&self) -> &[Objection] {
        &self.objections
    }

    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.counts.iter().chain(&self.books.counts).map(|(what, count)| (*what, *count))
    }
}
