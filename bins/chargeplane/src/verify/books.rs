//! The books, added up from the account events as they are stored, by rules of its own.
//!
//! A debit takes from the driver what it gives to the operator. A settlement's legs come from different fields:
//! the operator's from its own amounts, the driver's from the running total of what he paid, the rest from the
//! overshoot: so a settlement that is wrong in any of them leaves a sum that is not zero (MONEY-1). A settlement gives
//! money back only when less was metered in the end, energy or time, than was read before. Every price is worked out
//! anew from the tariff that the session began under.

use super::price::{Prices, Used};
use super::{Checked, field};
use rmpv::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything the account shards' logs say.
#[derive(Debug, Default)]
pub struct Books {
    /// Sums by shard and currency, in 1/10,000: zero after each frame.
    sums: BTreeMap<(String, String), i128>,
    opened: BTreeSet<String>,
    /// Accounts that are closed.
    closed: BTreeSet<String>,
    keys: BTreeSet<(String, String)>,
    top_ups: usize,
    /// By account what was paid in and not refunded.
    paid_in: BTreeMap<String, i128>,
    /// By account what it has.
    balances: BTreeMap<String, i128>,
    transfers: BTreeMap<String, Transfer>,
    sessions: BTreeMap<String, Session>,
    /// By shard, operator and currency what he earned there and did not collect.
    earned: BTreeMap<(String, String, String), i128>,
    debits: u64,
    settled: u64,
    energy_wh: i128,
    overshoot_wh: i128,
}

/// How long a gateway that is cut off may keep what it read, in ms.
const RING_AGE_MS: i128 = 24 * 3_600_000;

/// A transfer as the logs of its two accounts tell of it; they come in any order.
#[derive(Debug, Default)]
struct Transfer {
    /// For which account, in which currency and how much.
    out: Option<(String, String, i128)>,
    /// At which account, in which currency and how much.
    arrived: Option<(String, String, i128)>,
    refused: bool,
    confirmed: bool,
    returned: bool,
}

#[derive(Debug, Default)]
struct Session {
    account: String,
    sequence: i128,
    meter: i128,
    used: Used,
    prices: Option<Prices>,
    paid: i128,
    overshoot: i128,
    revenue: i128,
    settled: bool,
    released: bool,
    /// When something was last read of it, ms.
    read_at: i128,
    /// Basis points by party, and who gets what rounding leaves.
    agreement: Option<(BTreeMap<String, i128>, String)>,
}

/// What a session was settled for.
#[derive(Debug, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// Who paid.
    pub account: &'a str,
    /// Metered, Wh.
    pub energy: i128,
    /// Paid by the driver, 1/10,000.
    pub billed: i128,
    /// Paid by the operator.
    pub overshoot: i128,
}

impl Books {
    /// Accounts that were opened.
    pub fn accounts(&self) -> usize {
        self.opened.len()
    }

    /// Sessions that money was held for.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions that are settled.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// What a session was settled for; none when it was not.
    pub fn settlement(&self, session: &str) -> Option<Settlement<'_>> {
        let Session { account, meter, paid, overshoot, .. } = self.sessions.get(session).filter(|s| s.settled)?;
        Some(Settlement { account, energy: *meter, billed: *paid, overshoot: *overshoot })
    }

    /// Debits.
    pub fn debits(&self) -> u64 {
        self.debits
    }

    /// Top-ups.
    pub fn top_ups(&self) -> usize {
        self.top_ups
    }

    /// Energy of all settled sessions.
    pub fn energy_wh(&self) -> i128 {
        self.energy_wh
    }

    /// The part of it that nobody paid for.
    pub fn overshoot_wh(&self) -> i128 {
        self.overshoot_wh
    }

    /// Sums by currency over all shards.
    pub fn sums(&self) -> impl Iterator<Item = (&str, i128)> {
        let mut total: BTreeMap<&str, i128> = BTreeMap::new();
        for ((_, currency), sum) in &self.sums {
            *total.entry(currency).or_default() += sum;
        }
        total.into_iter()
    }

    /// MONEY-1: every currency of a shard adds up to zero.
    pub fn check_shard(&self, shard: &str) -> Checked<()> {
        match self.sums.iter().find(|((of, _), sum)| of == shard && **sum != 0) {
            Some(((_, currency), sum)) => Err(format!("the balances in {currency} add up to {sum}/10000, not to zero")),
            None => Ok(()),
        }
    }

    /// Takes one event of an account.
    pub fn take(&mut self, shard: &str, account: &str, event: &Value) -> Checked<()> {
        let Some([(kind, value)]) = event.as_map().map(Vec::as_slice) else {
            return Err("not an event this program knows".to_owned());
        };
        match kind.as_str().unwrap_or("") {
            "opened" => self.take_opened(account, value),
            "topped_up" => self.take_top_up(shard, account, value),
            "refunded" => self.take_refund(shard, account, value),
            "adjusted" => self.take_adjustment(shard, account, value),
            "frozen" | "unfrozen" => self.take_status(account, value),
            "released" => {
                self.take_status(account, value)?;
                self.take_released(account, value)
            }
            "hold_ended" => self.take_hold_end(account, value),
            "collected" => self.take_collected(shard, account, value),
            "paid_out" => self.take_paid_out(shard, account, value),
            "closed" => self.take_closed(account, value),
            "transferred_out" => self.take_out(shard, account, value),
            "transferred_in" => self.take_in(shard, account, value),
            "transfer_refused" | "transfer_arrived" | "transfer_returned" => {
                self.take_end(shard, account, kind.as_str().unwrap_or(""), value)
            }
            "held" => self.take_held(account, value),
            "debited" => self.take_debit(shard, account, value),
            "settled" => self.take_settled(shard, account, value),
            "refused" => Ok(()),
            other => Err(format!("not an event this program knows: {other}")),
        }
    }

    fn take_opened(&mut self, account: &str, value: &Value) -> Checked<()> {
        self.use_key(account, text(value, "key")?)?;
        if self.opened.insert(account.to_owned()) { Ok(()) } else { Err("opened twice".to_owned()) }
    }

    fn take_top_up(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        self.use_key(account, text(value, "key")?)?;
        let (currency, amount) = (text(value, "currency")?, number(value, "amount")?);
        if amount <= 0 {
            return Err(format!("a top-up of {amount}/10000"));
        }
        self.top_ups += 1;
        *self.paid_in.entry(account.to_owned()).or_default() += amount;
        self.post_driver(shard, account, currency, amount);
        self.post(shard, currency, -amount);
        Ok(())
    }

    fn take_refund(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        self.use_key(account, text(value, "key")?)?;
        let (currency, amount) = (text(value, "currency")?, number(value, "amount")?);
        let paid_in = self.paid_in.entry(account.to_owned()).or_default();
        *paid_in -= amount;
        if amount <= 0 || *paid_in < 0 {
            return Err(format!("a refund of {amount}/10000, {}/10000 were paid in", *paid_in + amount));
        }
        self.post_driver(shard, account, currency, -amount);
        self.post(shard, currency, amount);
        Ok(())
    }

    fn take_adjustment(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        self.use_key(account, text(value, "key")?)?;
        let (currency, amount) = (text(value, "currency")?, number(value, "amount")?);
        if amount == 0 || text(value, "reason")?.trim().is_empty() {
            return Err(format!("a correction of {amount}/10000 without an amount or a reason"));
        }
        self.post_driver(shard, account, currency, amount);
        self.post(shard, currency, -amount);
        Ok(())
    }

    fn take_status(&mut self, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        self.use_key(account, text(value, "key")?)
    }

    /// A hold that was given back: nothing is taken for the session from here on.
    fn take_released(&mut self, account: &str, value: &Value) -> Checked<()> {
        let id = text(value, "session")?;
        let session = self.sessions.get_mut(id).ok_or_else(|| format!("no money was held for session {id}"))?;
        if session.account != account || session.settled || session.released {
            return Err(format!("session {id} of account {} is released and holds nothing", session.account));
        }
        session.released = true;
        Ok(())
    }

    /// A hold that ended by time, and not before a gateway's ring had nothing of its session any more.
    fn take_hold_end(&mut self, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        let (id, at) = (text(value, "session")?, number(value, "at")?);
        let read_at = self.sessions.get(id).map_or(at, |session| session.read_at);
        if at - read_at < RING_AGE_MS {
            return Err(format!("the hold of session {id} ends {} ms after its last reading (MONEY-4)", at - read_at));
        }
        self.take_released(account, value)
    }

    /// Revenue that comes into a till: of its own operator, shard and currency, and no more than was earned there.
    fn take_collected(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.take_status(account, value)?;
        let (operator, currency) = (text(value, "operator")?, text(value, "currency")?);
        let amount = number(value, "amount")?;
        let number_of_shard = shard.strip_prefix("account-").unwrap_or(shard);
        if account != format!("{operator}@{currency}-{number_of_shard}") || amount <= 0 {
            return Err(format!("{amount}/10000 {currency} of {operator} in {shard} come into the till {account}"));
        }
        let left = self.earn(shard, operator, currency, -amount);
        if left < 0 {
            let earned = left + amount;
            return Err(format!("{amount}/10000 are collected, {operator} earned {earned}/10000 (MONEY-4)"));
        }
        self.post(shard, currency, -amount);
        self.post_driver(shard, account, currency, amount);
        Ok(())
    }

    /// What leaves a till and the system was in it.
    fn take_paid_out(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.take_status(account, value)?;
        let (currency, amount) = (text(value, "currency")?, number(value, "amount")?);
        self.post(shard, currency, amount);
        self.post_driver(shard, account, currency, -amount);
        let left = self.balances.get(account).copied().unwrap_or(0);
        if !account.contains('@') || amount <= 0 || left < 0 || text(value, "reference")?.trim().is_empty() {
            return Err(format!("{amount}/10000 are paid out, {left}/10000 are left then (MONEY-4)"));
        }
        Ok(())
    }

    /// Adds to what an operator earned in a shard and did not collect; what that is then.
    fn earn(&mut self, shard: &str, operator: &str, currency: &str, amount: i128) -> i128 {
        let key = (shard.to_owned(), operator.to_owned(), currency.to_owned());
        let earned = self.earned.entry(key).or_default();
        *earned += amount;
        *earned
    }

    fn take_closed(&mut self, account: &str, value: &Value) -> Checked<()> {
        self.take_status(account, value)?;
        let balance = self.balances.get(account).copied().unwrap_or(0);
        if balance != 0 {
            return Err(format!("closed with {balance}/10000 in it"));
        }
        let holds = |session: &&Session| session.account == account && !session.settled && !session.released;
        if self.sessions.values().any(|session| holds(&session)) {
            return Err("closed with sessions that hold money".to_owned());
        }
        self.closed.insert(account.to_owned());
        Ok(())
    }

    fn take_out(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.take_status(account, value)?;
        let (to, currency, amount) = (text(value, "to")?, text(value, "currency")?, number(value, "amount")?);
        let name = format!("{account}.t{}", number(value, "number")?);
        let transfer = self.transfers.entry(name.clone()).or_default();
        let before = transfer.out.replace((to.to_owned(), currency.to_owned(), amount));
        if before.is_some() || amount <= 0 {
            return Err(format!("transfer {name} of {amount}/10000 leaves twice, or nothing leaves"));
        }
        self.post_driver(shard, account, currency, -amount);
        self.post(shard, currency, amount);
        Ok(())
    }

    fn take_in(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        let (name, currency, amount) = (text(value, "transfer")?, text(value, "currency")?, number(value, "amount")?);
        let transfer = self.transfers.entry(name.to_owned()).or_default();
        let before = transfer.arrived.replace((account.to_owned(), currency.to_owned(), amount));
        if before.is_some() || transfer.refused {
            return Err(format!("transfer {name} arrives twice, or after it was refused (MONEY-2)"));
        }
        self.post_driver(shard, account, currency, amount);
        self.post(shard, currency, -amount);
        Ok(())
    }

    fn take_end(&mut self, shard: &str, account: &str, kind: &str, value: &Value) -> Checked<()> {
        if kind == "transfer_refused" {
            let name = text(value, "transfer")?;
            let transfer = self.transfers.entry(name.to_owned()).or_default();
            if transfer.refused || transfer.arrived.is_some() {
                return Err(format!("transfer {name} is refused twice, or after it arrived (MONEY-2)"));
            }
            transfer.refused = true;
            return Ok(());
        }
        let name = format!("{account}.t{}", number(value, "number")?);
        let transfer = self.transfers.entry(name.clone()).or_default();
        let Some((_, currency, amount)) = transfer.out.clone().filter(|_| !transfer.confirmed && !transfer.returned)
        else {
            return Err(format!("transfer {name} ends and is not under way"));
        };
        if kind == "transfer_arrived" {
            transfer.confirmed = true;
            return Ok(());
        }
        transfer.returned = true;
        if number(value, "amount")? != amount || text(value, "currency")? != currency {
            return Err(format!("transfer {name} of {amount}/10000 {currency} comes back as something else"));
        }
        self.post_driver(shard, account, &currency, amount);
        self.post(shard, &currency, -amount);
        Ok(())
    }

    /// MONEY-1 across shards, when every log is read: what arrived had left, for there and whole; what is confirmed
    /// arrived, and what is back did not.
    pub fn check_transfers(&self) -> Checked<()> {
        for (name, transfer) in &self.transfers {
            let Transfer { out, arrived, confirmed, returned, .. } = transfer;
            if out.is_none() || (arrived.is_some() && arrived != out) {
                return Err(format!("transfer {name} arrived as {arrived:?} and had left as {out:?} (MONEY-1)"));
            }
            if (*confirmed && arrived.is_none()) || (*returned && arrived.is_some()) {
                return Err(format!("transfer {name} is confirmed and never arrived, or is back and did (MONEY-1)"));
            }
        }
        Ok(())
    }

    fn take_held(&mut self, account: &str, value: &Value) -> Checked<()> {
        self.must_be_open(account)?;
        let session = text(value, "session")?;
        let agreement = match field(value, "split") {
            None | Some(Value::Nil) => None,
            Some(split) => Some(agreement(split)?),
        };
        let prices = field(value, "tariff").map(Prices::read).transpose()?;
        let read_at = number(value, "at")?;
        let fresh = Session { account: account.to_owned(), agreement, prices, read_at, ..Session::default() };
        match self.sessions.insert(session.to_owned(), fresh) {
            None => Ok(()),
            Some(_) => Err(format!("session {session} was held for twice")),
        }
    }

    fn take_debit(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        let currency = text(value, "currency")?;
        let amount = number(value, "energy")? + number(value, "service")? + number_or_zero(value, "fees")?;
        let read_at = number(value, "at")?;
        let session = self.reading(account, text(value, "session")?, value, false)?;
        session.read_at = read_at;
        session.paid += amount;
        session.revenue += amount;
        if amount < 0 || session.paid > cumulative(value)? {
            return Err(format!("more was taken ({}/10000) than everything so far costs", session.paid));
        }
        if session.released {
            return Err("a debit of a session whose hold was released".to_owned());
        }
        self.earn(shard, text(value, "operator")?, currency, amount);
        self.post(shard, currency, amount);
        self.post_driver(shard, account, currency, -amount);
        self.debits += 1;
        Ok(())
    }

    fn take_settled(&mut self, shard: &str, account: &str, value: &Value) -> Checked<()> {
        let currency = text(value, "currency")?;
        let revenue = number(value, "energy")? + number(value, "service")? + number_or_zero(value, "fees")?;
        let settled = field(value, "settled").ok_or("settled without its settlement")?;
        let (meter, billed_wh) = (number(settled, "meter")?, number(settled, "billed_wh")?);
        let overshoot_wh = number(settled, "overshoot_wh")?;
        let (billed, overshoot) = (number(settled, "billed")?, number(settled, "overshoot")?);
        let total = cumulative(settled)?;
        let before = self.sessions.get(text(value, "session")?);
        let (read_before, time_before) = before.map_or((0, (0, 0)), |session| (session.meter, session.used.time()));
        let session = self.reading(account, text(value, "session")?, settled, true)?;
        let paid_now = billed - session.paid;
        if session.released && paid_now > 0 {
            return Err(format!("{paid_now}/10000 are taken for a session whose hold was released"));
        }
        session.paid = billed;
        session.overshoot = overshoot;
        session.revenue += revenue;
        session.settled = true;
        if session.revenue != total {
            return Err(format!("{}/10000 became revenue, everything costs {total}/10000", session.revenue));
        }
        let operator = text(value, "operator")?;
        let agreed = session.agreement.as_ref().map(|agreed| owed(agreed, operator, total)).unwrap_or_default();
        let shares = shares(value)?;
        if shares != agreed {
            return Err(format!("the parties get {shares:?}, agreed were {agreed:?} of {total}/10000"));
        }
        if billed_wh + overshoot_wh != meter {
            return Err(format!("{meter} Wh metered, {billed_wh} billed and {overshoot_wh} overshoot (SESS-1)"));
        }
        let time = session.used.time();
        let more = meter >= read_before && time.0 >= time_before.0 && time.1 >= time_before.1;
        if (paid_now < 0 && more) || overshoot < 0 || overshoot_wh < 0 {
            return Err("a settlement that gives money or energy back".to_owned());
        }
        let passed_on: i128 = shares.values().sum();
        self.earn(shard, operator, currency, revenue - overshoot - passed_on);
        for (party, amount) in &shares {
            self.earn(shard, party, currency, *amount);
        }
        self.post(shard, currency, revenue);
        self.post_driver(shard, account, currency, -paid_now);
        self.post(shard, currency, -overshoot);
        self.settled += 1;
        self.energy_wh += meter;
        self.overshoot_wh += overshoot_wh;
        Ok(())
    }

    /// MONEY-2: the next sequence of an open session of this account, with a meter that does not go back; but the
    /// `last` one may correct it, and then no period grows.
    fn reading(&mut self, account: &str, id: &str, value: &Value, last: bool) -> Checked<&mut Session> {
        let session = self.sessions.get_mut(id).ok_or_else(|| format!("no money was held for session {id}"))?;
        if session.account != account {
            return Err(format!("session {id} is of account {}", session.account));
        }
        if session.settled {
            return Err(format!("session {id} is settled already"));
        }
        let (sequence, meter) = (number(value, "sequence")?, number(value, "meter")?);
        if sequence != session.sequence + 1 {
            return Err(format!("sequence {sequence} of session {id} after {}", session.sequence));
        }
        let used = Used::read(value)?;
        let corrects = last && meter < session.meter;
        let changes = || session.used.by_period.iter().zip(&used.by_period);
        let follows = match corrects {
            true => changes().all(|(before, now)| now <= before),
            false => meter >= session.meter && changes().all(|(before, now)| now >= before),
        };
        if used.by_period.iter().sum::<i128>() != meter || !follows {
            let by_period = used.by_period;
            return Err(format!("session {id}: the meter reads {meter} Wh after {} Wh, {by_period:?}", session.meter));
        }
        if !last && !used.passes(&session.used) {
            return Err(format!("session {id}: time goes back, from {:?} to {used:?}", session.used));
        }
        let cost = components(value)?;
        if let Some(should) = session.prices.as_ref().map(|prices| prices.price(&used, last)).filter(|s| *s != cost) {
            return Err(format!("session {id}: energy, service and fees are {cost:?}/10000, should be {should:?}"));
        }
        (session.sequence, session.meter, session.used) = (sequence, meter, used);
        Ok(session)
    }

    fn use_key(&mut self, account: &str, key: &str) -> Checked<()> {
        match self.keys.insert((account.to_owned(), key.to_owned())) {
            true => Ok(()),
            false => Err(format!("key {key} had an effect twice (MONEY-2)")),
        }
    }

    fn must_be_open(&self, account: &str) -> Checked<()> {
        match self.opened.contains(account) && !self.closed.contains(account) {
            true => Ok(()),
            false => Err("the account is not open, or closed".to_owned()),
        }
    }

    fn post_driver(&mut self, shard: &str, account: &str, currency: &str, amount: i128) {
        *self.balances.entry(account.to_owned()).or_default() += amount;
        self.post(shard, currency, amount);
    }

    fn post(&mut self, shard: &str, currency: &str, amount: i128) {
        *self.sums.entry((shard.to_owned(), currency.to_owned())).or_default() += amount;
    }
}

/// Basis points by party, and who gets what rounding leaves; 10,000 in all.
fn agreement(split: &Value) -> Checked<(BTreeMap<String, i128>, String)> {
    let entries = field(split, "shares").and_then(Value::as_map).ok_or("an agreement without shares")?;
    let mut shares = BTreeMap::new();
    for (party, share) in entries {
        let read = party.as_str().zip(share.as_i64());
        let (party, share) = read.ok_or("a share that cannot be read")?;
        shares.insert(party.to_owned(), i128::from(share));
    }
    if shares.values().sum::<i128>() != 10_000 {
        return Err(format!("an agreement that is not of one whole: {shares:?}"));
    }
    Ok((shares, text(split, "remainder")?.to_owned()))
}

/// What the parties but the operator are owed of a price.
fn owed((shares, remainder): &(BTreeMap<String, i128>, String), operator: &str, price: i128) -> BTreeMap<String, i128> {
    let mut parts: BTreeMap<String, i128> =
        shares.iter().map(|(p, share)| (p.clone(), price * share / 10_000)).collect();
    let left = price - parts.values().sum::<i128>();
    *parts.entry(remainder.clone()).or_default() += left;
    parts.into_iter().filter(|(party, part)| party != operator && *part > 0).collect()
}

/// What a settlement says that the parties get; it moves from the operator to them.
fn shares(value: &Value) -> Checked<BTreeMap<String, i128>> {
    let mut found = BTreeMap::new();
    let listed = field(value, "shares").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for share in listed {
        *found.entry(text(share, "party")?.to_owned()).or_default() += number(share, "amount")?;
    }
    Ok(found)
}

fn text<'a>(value: &'a Value, name: &str) -> Checked<&'a str> {
    field(value, name).and_then(Value::as_str).ok_or_else(|| format!("field {name} is missing"))
}

fn number(value: &Value, name: &str) -> Checked<i128> {
    let number = field(value, name).and_then(Value::as_i64).map(i128::from);
    number.ok_or_else(|| format!("field {name} is missing"))
}

/// A number that is left out when it is zero.
fn number_or_zero(value: &Value, name: &str) -> Checked<i128> {
    field(value, name).map_or(Ok(0), |_| number(value, name))
}

/// Energy, service and fees of everything so far.
fn components(value: &Value) -> Checked<[i128; 3]> {
    let cumulative = field(value, "cumulative").ok_or("field cumulative is missing")?;
    Ok([number(cumulative, "energy")?, number(cumulative, "service")?, number_or_zero(cumulative, "fees")?])
}

/// The same together.
fn cumulative(value: &Value) -> Checked<i128> {
    Ok(components(value)?.iter().sum())
}
