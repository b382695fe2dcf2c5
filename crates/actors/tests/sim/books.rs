//! The naive books: what a log of frames amounts to, by other code than the node's. It reads the store's file itself,
//! checks the chain of frames by their documented layout, and recomputes balances, holds and answers one event after
//! the other.

use crate::disk;
use crate::trace::Counts;
use chargeplane_actors::entry::{self, StoredEntry};
use chargeplane_domain::account::{
    AccountAnswer, AccountCommand, AccountEvent, AccountRejection, AccountStatus, AccountSummary, DebitAnswer,
    KeyContent, RefusedSubject, Settled,
};
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::tariff::Tariff;
use chargeplane_domain::units::{Currency, Money};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// An objection: the invariant and what is wrong.
pub type Objection = (&'static str, String);

pub type Told = Result<AccountAnswer, AccountRejection>;

/// The one place that knows how events are encoded in a frame's payload.
fn events_of(payload: &[u8]) -> Result<Vec<(String, AccountEvent)>, String> {
    let payload = entry::unpack(payload).map_err(|error| error.to_string())?;
    let entries = entry::read(&payload).map_err(|error| error.to_string())?;
    let mut events = Vec::new();
    for entry in entries {
        if let StoredEntry::Entity { key, event } = entry {
            events.push((key.to_owned(), event.decode().map_err(|error| format!("{key}: {error}"))?));
        }
    }
    Ok(events)
}

#[derive(Default)]
struct Chain {
    opened: u64,
    epoch: u64,
    lsn: u64,
    hash: Vec<u8>,
}

struct Session {
    content: (String, Tariff),
    authorised: i64,
    hold: i64,
    sequence: u32,
    /// Energy, service and fees paid so far.
    paid: [i64; 3],
    debits: BTreeMap<u32, DebitAnswer>,
    closed: Option<Settled>,
}

struct Account {
    id: String,
    currency: Currency,
    limit: i64,
    posted: i64,
    keys: BTreeMap<String, (KeyContent, Told)>,
    sessions: BTreeMap<String, Session>,
    refused: BTreeMap<String, AccountRejection>,
    /// Balance and held money after each of its events.
    history: BTreeSet<(i64, i64)>,
}

impl Account {
    fn held(&self) -> i64 {
        self.sessions.values().map(|session| session.hold).sum()
    }

    fn available(&self) -> i64 {
        self.posted - self.held() + self.limit
    }
}

#[derive(Default)]
pub struct Books {
    at: usize,
    chains: BTreeMap<ShardId, Chain>,
    accounts: BTreeMap<String, Account>,
    /// By shard and account of the ledger.
    pub balances: BTreeMap<(String, String), i64>,
    pub objections: Vec<Objection>,
    pub counts: Counts,
}

impl Books {
    /// Reads on in the store's file. What was read before must still be there.
    pub fn read(&mut self, file: &[u8]) {
        if file.len() < self.at {
            return;
        }
        while let Some(record) = disk::record_at(file, self.at) {
            self.at = record.end;
            let result = match record.kind {
                disk::OPENED => self.opened(record.shard, record.body),
                disk::FRAME => self.frame(record.shard, record.body),
                _ => Ok(()),
            };
            self.objections.extend(result.err());
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn opened(&mut self, shard: ShardId, body: &[u8]) -> Result<(), Objection> {
        let chain = self.chains.entry(shard).or_default();
        let epoch = u64::from_le_bytes(body[..8].try_into().expect("an epoch"));
        if epoch != chain.opened + 1 {
            return Err(("OWN-1", format!("{shard}: opened as epoch {epoch} after {}", chain.opened)));
        }
        chain.opened = epoch;
        Ok(())
    }

    /// A frame by its documented layout: docs/reference/storage.md.
    fn frame(&mut self, shard: ShardId, bytes: &[u8]) -> Result<(), Objection> {
        self.count("OWN-1 frames");
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (epoch, lsn, before) = (number(4), number(12), &bytes[28..60]);
        let body = &bytes[..bytes.len() - 4];
        let chain = self.chains.entry(shard).or_default();
        if chain.lsn == 0 {
            chain.hash = Sha256::digest(format!("chargeplane/journal/{shard}")).to_vec();
        }
        let wrong = |what: String| Err(("OWN-1", format!("{shard} frame {lsn}: {what}")));
        if lsn != chain.lsn + 1 {
            return wrong(format!("follows {}", chain.lsn));
        }
        if before != chain.hash {
            return wrong("names another hash".to_owned());
        }
        if epoch != chain.opened || epoch < chain.epoch {
            return wrong(format!("of epoch {epoch}, when the shard was opened as {}", chain.opened));
        }
        *chain = Chain { opened: chain.opened, epoch, lsn, hash: Sha256::digest(body).to_vec() };
        if shard.family == chargeplane_domain::placement::Family::Station {
            return Ok(());
        }
        let events = events_of(&body[64..]).map_err(|error| ("OWN-1", error))?;
        if events.len() > 1 {
            self.count("frame of several entries");
        }
        for (key, event) in events {
            let applied = self.event(shard, &key, &event);
            self.objections.extend(applied.err());
            self.check(shard, &key)?;
        }
        Ok(())
    }

    /// What must hold of an account and of its shard after each event.
    fn check(&mut self, shard: ShardId, key: &str) -> Result<(), Objection> {
        self.count("MONEY-1 entries");
        self.count("MONEY-4 events");
        let shard = shard.to_string();
        let sum: i64 = self.balances.iter().filter(|((of, _), _)| *of == shard).map(|(_, balance)| balance).sum();
        if sum != 0 {
            return Err(("MONEY-1", format!("the balances of {shard} sum to {sum}")));
        }
        if let Some(account) = self.accounts.get_mut(key) {
            let state = (account.posted, account.held());
            account.history.insert(state);
            if account.available() < 0 {
                return Err(("MONEY-4", format!("{key}: {} available", account.available())));
            }
        }
        Ok(())
    }

    fn post(&mut self, shard: ShardId, legs: [(String, i64); 5]) {
        for (account, amount) in legs.into_iter().filter(|(_, amount)| *amount != 0) {
            *self.balances.entry((shard.to_string(), account)).or_default() += amount;
        }
    }

    fn event(&mut self, shard: ShardId, key: &str, event: &AccountEvent) -> Result<(), Objection> {
        let id = key.strip_prefix("account:").unwrap_or(key).to_owned();
        if let AccountEvent::Opened { key: with, currency, kind, holder, at } = event {
            let summary = AccountSummary {
                id: id.parse().map_err(|_| ("OWN-1", format!("{key} is no account")))?,
                currency: *currency,
                kind: *kind,
                holder: *holder,
                status: AccountStatus::Active,
                balance: Money(0),
                held: Money(0),
                available: kind.limit(),
                open_sessions: 0,
                opened_at: *at,
            };
            let content = KeyContent::Open { currency: *currency, kind: *kind, holder: *holder };
            let keys = BTreeMap::from([(with.clone(), (content, Ok(AccountAnswer::Opened(summary))))]);
            let (limit, sessions, refused) = (kind.limit().0, BTreeMap::new(), BTreeMap::new());
            let history = BTreeSet::new();
            let account = Account { id, currency: *currency, limit, posted: 0, keys, sessions, refused, history };
            return match self.accounts.insert(key.to_owned(), account) {
                None => Ok(()),
                Some(_) => Err(("MONEY-2", format!("{key} is opened twice"))),
            };
        }
        let account = self.accounts.get_mut(key).ok_or_else(|| ("MONEY-2", format!("{key} was never opened")))?;
        let legs = account.event(event)?;
        self.post(shard, legs);
        if matches!(event, AccountEvent::Settled { settled, .. } if settled.overshoot.is_positive()) {
            self.count("MONEY-4 overshoots");
        }
        Ok(())
    }
}

const NONE: [(String, i64); 5] = [const { (String::new(), 0) }; 5];

impl Account {
    /// Takes an event and returns its legs in the books.
    fn event(&mut self, event: &AccountEvent) -> Result<[(String, i64); 5], Objection> {
        let twice = |what: &str| Err(("MONEY-2", format!("{what} has two effects")));
        match event {
            AccountEvent::ToppedUp { key, amount, .. } => {
                self.posted += amount.0;
                let answer = AccountAnswer::ToppedUp { balance: Money(self.posted) };
                if self.keys.insert(key.clone(), (KeyContent::TopUp { amount: *amount }, Ok(answer))).is_some() {
                    return twice(key);
                }
                let (driver, source) = (format!("driver:{}", self.id), format!("top-up:main:{}", self.currency));
                let [_, _, third, fourth, fifth] = NONE;
                Ok([(driver, amount.0), (source, -amount.0), third, fourth, fifth])
            }
            AccountEvent::Held { session, operator, tariff, hold, .. } => {
                let name = session.to_string();
                let session = Session {
                    content: (operator.to_string(), tariff.clone()),
                    authorised: hold.0,
                    hold: hold.0,
                    sequence: 0,
                    paid: [0; 3],
                    debits: BTreeMap::new(),
                    closed: None,
                };
                if self.refused.contains_key(&name) || self.sessions.insert(name.clone(), session).is_some() {
                    return twice(&name);
                }
                Ok(NONE)
            }
            AccountEvent::Debited { session, operator, sequence, meter, by_period, time, cumulative, hold, .. } => {
                let AccountEvent::Debited { energy, service, fees, .. } = event else { return Ok(NONE) };
                let (free, name) = (self.available(), session.to_string());
                let parts = [energy.0, service.0, fees.0];
                let cost = [cumulative.energy.0, cumulative.service.0, cumulative.fees.0];
                let (due, before) = self.next(&name, *sequence, cost)?;
                let (paid, expected) = (parts.iter().sum::<i64>(), due.iter().sum::<i64>().min(before + free));
                if paid != expected || parts.iter().zip(&due).any(|(part, due)| part > due) {
                    return Err(("MONEY-2", format!("{name}: {paid} taken where {expected} was to be paid")));
                }
                self.posted -= paid;
                let hold_left = *hold;
                let session = self.sessions.get_mut(&name).ok_or(("MONEY-2", name.clone()))?;
                session.paid.iter_mut().zip(parts).for_each(|(paid, part)| *paid += part);
                session.hold = hold.0;
                let available = Money(self.available());
                let (sequence, meter, by_period, time) = (*sequence, *meter, *by_period, *time);
                let cumulative = *cumulative;
                let answer = DebitAnswer { sequence, meter, by_period, time, cumulative, hold_left, available };
                if let Some(session) = self.sessions.get_mut(&name) {
                    session.debits.insert(sequence, answer);
                }
                Ok(self.revenue(&operator.to_string(), parts, 0))
            }
            AccountEvent::Settled { session, operator, energy, service, fees, settled, .. } => {
                let (free, name) = (self.available(), session.to_string());
                let parts = [energy.0, service.0, fees.0];
                let cost = settled.cumulative;
                let cost = [cost.energy.0, cost.service.0, cost.fees.0];
                let (due, before) = self.next(&name, settled.sequence, cost)?;
                let taken: i64 = due.iter().sum();
                let overshoot = (taken - before - free).max(0);
                let metered = settled.billed.0 + settled.overshoot.0 == cost.iter().sum::<i64>();
                if parts != due || settled.overshoot.0 != overshoot || !metered {
                    return Err(("MONEY-4", format!("{name}: {overshoot} was the overshoot, not {settled:?}")));
                }
                self.posted -= taken - overshoot;
                if let Some(session) = self.sessions.get_mut(&name) {
                    (session.hold, session.closed) = (0, Some(*settled));
                }
                Ok(self.revenue(&operator.to_string(), parts, overshoot))
            }
            event => self.refused(event),
        }
    }

    fn refused(&mut self, event: &AccountEvent) -> Result<[(String, i64); 5], Objection> {
        let AccountEvent::Refused { subject, rejection, .. } = event else {
            return Err(("MONEY-2", format!("the judge does not know {event:?}")));
        };
        let known = match subject {
            RefusedSubject::Key { key, content } => {
                self.keys.insert(key.clone(), (content.clone(), Err(rejection.clone()))).is_some()
            }
            RefusedSubject::Session { session } => {
                let name = session.to_string();
                self.refused.insert(name.clone(), rejection.clone()).is_some() || self.sessions.contains_key(&name)
            }
        };
        if known { Err(("MONEY-2", format!("refused twice: {subject:?}"))) } else { Ok(NONE) }
    }

    /// What is due of an open session under its next sequence, and what is held for it.
    fn next(&mut self, name: &str, sequence: u32, cost: [i64; 3]) -> Result<([i64; 3], i64), Objection> {
        let wrong = |what: &str| ("MONEY-2", format!("{name} sequence {sequence}: {what}"));
        let session = self.sessions.get_mut(name).ok_or_else(|| wrong("no such session"))?;
        if session.closed.is_some() {
            return Err(wrong("the session is closed"));
        }
        if session.sequence + 1 != sequence {
            return Err(wrong("does not follow"));
        }
        session.sequence = sequence;
        let [energy, service, fees] = session.paid;
        Ok(([cost[0] - energy, cost[1] - service, cost[2] - fees], session.hold))
    }

    fn revenue(&self, operator: &str, [energy, service, fees]: [i64; 3], overshoot: i64) -> [(String, i64); 5] {
        let of = |kind: &str| format!("{kind}:{operator}:{}", self.currency);
        [
            (format!("driver:{}", self.id), overshoot - energy - service - fees),
            (of("overshoot"), -overshoot),
            (of("energy"), energy),
            (of("service"), service),
            (of("fees"), fees),
        ]
    }
}

impl Books {
    /// Compares what a client was told with the log: what was accepted is there with one effect and this answer, what
    /// was refused for good is remembered.
    pub fn verify(&self, key: &str, command: &AccountCommand, told: &Told) -> Result<(), Objection> {
        let Some(account) = self.accounts.get(key) else {
            return match told {
                Err(AccountRejection::UnknownAccount) => Ok(()),
                _ => Err(("MONEY-3", format!("{key} is not in the log, and {command:?} was told {told:?}"))),
            };
        };
        if *told == Err(AccountRejection::UnknownAccount) {
            return Ok(());
        }
        let lost = || Err(("MONEY-3", format!("not in the log: {command:?}, told {told:?}")));
        let changed = |kept: &dyn std::fmt::Debug| {
            Err(("MONEY-2", format!("{command:?} was told {told:?}, and the log says {kept:?}")))
        };
        match command {
            AccountCommand::Open { key, currency, kind, holder, .. } => {
                account.verify_key(key, &KeyContent::Open { currency: *currency, kind: *kind, holder: *holder }, told)
            }
            AccountCommand::TopUp { key, amount, .. } => {
                account.verify_key(key, &KeyContent::TopUp { amount: *amount }, told)
            }
            AccountCommand::Authorise { session, operator, tariff, .. } => {
                let content = (operator.to_string(), tariff.clone());
                let known = account.sessions.get(&session.to_string());
                let refused = account.refused.get(&session.to_string());
                match (told, known) {
                    (Ok(AccountAnswer::Authorised { hold }), Some(known)) if known.content == content => {
                        if known.authorised == hold.0 { Ok(()) } else { changed(&known.authorised) }
                    }
                    (Err(AccountRejection::SessionReused), Some(known)) if known.content != content => Ok(()),
                    (Err(AccountRejection::SessionClosed), Some(known)) if known.closed.is_some() => Ok(()),
                    (Err(rejection), _) if refused == Some(rejection) => Ok(()),
                    _ => lost(),
                }
            }
            AccountCommand::Debit { session, sequence, meter, cumulative, .. } => {
                let session = account.sessions.get(&session.to_string());
                let debit = session.and_then(|session| session.debits.get(sequence));
                let same = debit.is_some_and(|debit| debit.meter == *meter && debit.cumulative == *cumulative);
                match (told, debit) {
                    (Ok(AccountAnswer::Debited(told)), Some(kept)) if same && told == kept => Ok(()),
                    (Ok(_), Some(kept)) => changed(kept),
                    (Ok(_), None) => lost(),
                    (Err(AccountRejection::SequenceReused { .. }), Some(kept)) if same => changed(kept),
                    // Other refusals are not remembered: they tell where the session stands.
                    (Err(_), _) => Ok(()),
                }
            }
            AccountCommand::Settle { session, meter, .. } => {
                let closed = account.sessions.get(&session.to_string()).and_then(|session| session.closed.as_ref());
                match (told, closed) {
                    (Ok(AccountAnswer::Settled(told)), Some(kept)) if told == kept && kept.meter == *meter => Ok(()),
                    (Ok(_), Some(kept)) => changed(kept),
                    (Ok(_), None) => lost(),
                    (Err(_), _) => Ok(()),
                }
            }
            #[allow(unreachable_patterns, reason = "an account may learn commands that no client of this run sends")]
            _ => Err(("MONEY-2", format!("the judge does not know {command:?}"))),
        }
    }

    /// A strong read shows a state that the log had, and nothing that is not durable.
    pub fn verify_read(&self, key: &str, seen: (i64, i64)) -> Result<(), Objection> {
        let known = self.accounts.get(key).is_some_and(|account| account.history.contains(&seen));
        if known { Ok(()) } else { Err(("MONEY-3", format!("{key}: {seen:?} was read, and never was in the log"))) }
    }

    /// The latest balance and held money.
    pub fn latest(&self, key: &str) -> Option<(i64, i64)> {
        self.accounts.get(key).map(|account| (account.posted, account.held()))
    }

    /// Every effect in the log, as [`crate::judge::effect_of`] names the command that asked for it.
    pub fn effects(&self) -> Vec<String> {
        let mut effects = Vec::new();
        for (name, account) in &self.accounts {
            effects.extend(account.keys.iter().map(|(key, (content, _))| format!("{name} {key} {content:?}")));
            for (id, session) in &account.sessions {
                effects.push(format!("{name} {id} held"));
                effects
                    .extend(session.debits.values().map(|one| format!("{name} {id} {} {}", one.sequence, one.meter)));
                let closed = session.closed.iter();
                effects.extend(closed.map(|one| format!("{name} {id} {} {}", one.sequence, one.meter)));
            }
        }
        effects
    }
}

impl Account {
    fn verify_key(&self, key: &str, content: &KeyContent, told: &Told) -> Result<(), Objection> {
        match self.keys.get(key) {
            Some((kept, answer)) if kept == content && answer == told => Ok(()),
            Some((kept, _)) if kept != content && *told == Err(AccountRejection::KeyReused) => Ok(()),
            Some(kept) => Err(("MONEY-2", format!("{key} was told {told:?}, and the log says {kept:?}"))),
            None => Err(("MONEY-3", format!("{key} is not in the log, and was told {told:?}"))),
        }
    }
}
