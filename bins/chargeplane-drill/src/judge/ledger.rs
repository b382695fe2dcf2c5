//! The books once more, simply and slowly: every account event of the journal, in order, by our own rules.
//!
//! The driver's side and the operator's side are taken from different fields where the event has both, so that
//! a wrong event shows as a sum that is not zero (MONEY-1). One effect a key and (session, sequence): MONEY-2.
//! Nothing below the credit limit, and reserves and overshoot within what catalogue and scenario allow: MONEY-4.

use super::bounds::Bounds;
use super::findings::Findings;
use super::frame::{EntityEvent, Frame};
use super::price::{Prices, Used};
use super::value::{field, int, text, variant};
use rmpv::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Everything the account shards' logs say.
#[derive(Debug, Clone)]
pub struct Ledger {
    bounds: Bounds,
    /// Balance by (shard, ledger account), 1/10,000.
    pub balances: BTreeMap<(String, String), i128>,
    /// Sessions by id.
    pub sessions: BTreeMap<String, SessionMoney>,
    /// Top-ups by (account, key): amount.
    pub top_ups: BTreeMap<(String, String), i128>,
    /// Accounts opened.
    pub opened: BTreeSet<String>,
    /// Debits posted while energy flowed.
    pub debits: u64,
    accounts: BTreeMap<String, AccountMoney>,
    /// Keys of operators' commands that had an effect, by account.
    keys: BTreeSet<(String, String)>,
    /// Transfers by name, as the accounts they left and reached tell of them.
    transfers: BTreeMap<String, Journey>,
    sums: BTreeMap<(String, String), i128>,
}

#[derive(Debug, Clone, Default)]
struct AccountMoney {
    limit: i128,
    posted: i128,
    held: i128,
    paid_in: i128,
    frozen: bool,
    closed: bool,
}

/// What the log says of a session's money.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionMoney {
    /// Who pays.
    pub account: String,
    /// The settlement, once there is one.
    pub settled: Option<Settled>,
    hold: i128,
    released: bool,
    /// When something was last read of it.
    read_at: i128,
    sequence: i64,
    meter: i128,
    used: Used,
    paid: i128,
    revenue: i128,
    prices: Prices,
    agreement: Option<Agreement>,
}

/// Who gets how much of the revenue, in basis points.
#[derive(Debug, Clone, PartialEq)]
struct Agreement {
    shares: Vec<(String, i128)>,
    remainder: String,
}

impl Agreement {
    fn read(value: &Value) -> Option<Self> {
        let shares = field(value, "shares")?.as_map()?;
        let shares = shares.iter().map(|(party, share)| Some((party.as_str()?.to_owned(), share.as_i64()?.into())));
        Some(Self { shares: shares.collect::<Option<_>>()?, remainder: text(value, "remainder")?.to_owned() })
    }

    /// What each party but the operator is owed of a price: its share rounded down, one with what that leaves.
    fn owed(&self, operator: &str, price: i128) -> BTreeMap<String, i128> {
        let mut parts: BTreeMap<String, i128> =
            self.shares.iter().map(|(party, share)| (party.clone(), price * share / 10_000)).collect();
        let rest = price - parts.values().sum::<i128>();
        *parts.entry(self.remainder.clone()).or_default() += rest;
        parts.retain(|party, part| party != operator && *part != 0);
        parts
    }
}

/// A transfer as far as the logs tell: the logs of its two accounts come in any order.
#[derive(Debug, Clone, Default)]
struct Journey {
    /// Where it left for, in which currency and how much.
    left: Option<(String, String, i128)>,
    /// Where it arrived, in which currency and how much.
    arrived: Option<(String, String, i128)>,
    /// It was refused there.
    refused: bool,
    /// It was confirmed to have arrived.
    confirmed: bool,
    /// It came back.
    returned: bool,
}

/// A settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Metered energy, Wh.
    pub meter: i128,
    /// Energy the driver paid, Wh.
    pub billed_wh: i128,
    /// Energy the operator bore, Wh.
    pub overshoot_wh: i128,
    /// Paid by the driver.
    pub billed: i128,
    /// Borne by the operator.
    pub overshoot: i128,
    /// Time in which the car charged, ms.
    pub charging_ms: i128,
    /// Time in which it was full, ms.
    pub idle_ms: i128,
    /// What all of it costs beside energy and service.
    pub fees: i128,
}

/// How long a gateway that is cut off may keep what it read, in ms.
const RING_AGE_MS: i128 = 24 * 3_600_000;

/// One reading with its price, out of a debit or a settlement.
struct Reading {
    sequence: i64,
    meter: i128,
    used: Used,
    /// Energy, service, fees.
    cost: [i128; 3],
}

impl Reading {
    fn total(&self) -> i128 {
        self.cost.iter().sum()
    }
}

/// An amount that is left out when it is zero.
fn wide_or_zero(value: &Value, name: &str) -> Option<i128> {
    field(value, name).map_or(Some(0), |_| wide(value, name))
}

fn wide(value: &Value, name: &str) -> Option<i128> {
    int(value, name).map(i128::from)
}

fn reading(value: &Value) -> Option<Reading> {
    let cumulative = field(value, "cumulative")?;
    Some(Reading {
        sequence: int(value, "sequence")?,
        meter: wide(value, "meter")?,
        used: Used::read(value)?,
        cost: [wide(cumulative, "energy")?, wide(cumulative, "service")?, wide_or_zero(cumulative, "fees")?],
    })
}

/// The part of a journal key after its kind: `account:main/a1` is `main/a1`.
pub fn key_id(key: &str) -> &str {
    key.split_once(':').map_or(key, |(_, id)| id)
}

impl Ledger {
    /// Books without an entry.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            balances: BTreeMap::new(),
            sessions: BTreeMap::new(),
            top_ups: BTreeMap::new(),
            opened: BTreeSet::new(),
            debits: 0,
            accounts: BTreeMap::new(),
            keys: BTreeSet::new(),
            transfers: BTreeMap::new(),
            sums: BTreeMap::new(),
        }
    }

    /// Takes one frame of an account shard and checks what must hold after it.
    pub fn take(&mut self, frame: &Frame, findings: &mut Findings) {
        let mut touched = BTreeSet::new();
        for event in frame.events() {
            let at = format!("{} frame {}, {}", frame.shard, frame.lsn, event.key);
            touched.insert(key_id(event.key).to_owned());
            if self.take_event(frame, event, &at, findings).is_none() {
                findings.violated("MONEY-1", format!("{at}: an event that cannot be read: {}", event.event));
            }
        }
        for ((shard, currency), sum) in self.sums.iter().filter(|((shard, _), _)| *shard == frame.shard) {
            let at = || format!("{shard} frame {}: balances in {currency} sum to {sum}, not to zero", frame.lsn);
            findings.check("MONEY-1", *sum == 0, at);
        }
        for account in touched {
            let Some(money) = self.accounts.get(&account) else {
                continue;
            };
            let available = money.posted - money.held + money.limit;
            findings.check("MONEY-4", available >= 0, || {
                format!("{} frame {}: {account} has {available} available", frame.shard, frame.lsn)
            });
        }
    }

    fn take_event(&mut self, frame: &Frame, event: EntityEvent<'_>, at: &str, findings: &mut Findings) -> Option<()> {
        let account = key_id(event.key).to_owned();
        let (kind, value) = variant(event.event)?;
        match kind {
            "opened" => {
                let limit = field(value, "kind").and_then(variant).and_then(|(_, credit)| wide(credit, "limit"));
                let fresh = self.opened.insert(account.clone());
                findings.check("MONEY-2", fresh, || format!("{at}: opened twice"));
                self.accounts.entry(account).or_default().limit = limit.unwrap_or(0);
            }
            "topped_up" => self.take_top_up(frame, account, value, at, findings)?,
            "held" => self.take_hold(account, value, at, findings)?,
            "debited" => self.take_debit(frame, account, value, at, findings)?,
            "settled" => self.take_settlement(frame, account, value, at, findings)?,
            "refunded" | "adjusted" => self.take_correction(frame, account, event.event, at, findings)?,
            "frozen" | "unfrozen" | "closed" => {
                self.take_key(&account, text(value, "key")?, at, findings);
                let money = self.accounts.entry(account).or_default();
                money.frozen = kind == "frozen";
                money.closed = kind == "closed";
                let left = (money.posted, money.held);
                findings.check("MONEY-4", !money.closed || left == (0, 0), || {
                    format!("{at}: closed with {} in it and {} held", left.0, left.1)
                });
            }
            "released" => {
                self.take_key(&account, text(value, "key")?, at, findings);
                self.take_release(account, value, at, findings)?;
            }
            "hold_ended" => self.take_hold_end(account, value, at, findings)?,
            "collected" => self.take_collection(frame, account, value, at, findings)?,
            "paid_out" => self.take_payout(frame, account, value, at, findings)?,
            "transferred_out" | "transferred_in" | "transfer_refused" | "transfer_arrived" | "transfer_returned" => {
                self.take_transfer(frame, account, event.event, at, findings)?;
            }
            "refused" => {}
            _ => return None,
        }
        Some(())
    }

    fn take_top_up(
        &mut self,
        frame: &Frame,
        account: String,
        value: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (key, currency, amount) = (text(value, "key")?, text(value, "currency")?, wide(value, "amount")?);
        let before = self.top_ups.insert((account.clone(), key.to_owned()), amount);
        findings.check("MONEY-2", before.is_none(), || format!("{at}: key {key} had an effect twice"));
        let tenant = account.split('/').next().unwrap_or("main").to_owned();
        self.accounts.entry(account.clone()).or_default().paid_in += amount;
        self.post(&frame.shard, currency, format!("top-up:{tenant}:{currency}"), -amount);
        self.post_driver(&frame.shard, currency, &account, amount);
        Some(())
    }

    /// A refund goes back where it came from, and no more than was paid in; a correction is an operator's word.
    fn take_correction(
        &mut self,
        frame: &Frame,
        account: String,
        event: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (kind, value) = variant(event)?;
        let (currency, amount) = (text(value, "currency")?, wide(value, "amount")?);
        self.take_key(&account, text(value, "key")?, at, findings);
        let tenant = account.split('/').next().unwrap_or("main").to_owned();
        if kind == "adjusted" {
            let reason = text(value, "reason")?;
            findings.check("MONEY-1", !reason.trim().is_empty(), || format!("{at}: corrected without a reason"));
            self.post(&frame.shard, currency, format!("adjustment:{tenant}:{currency}"), -amount);
            self.post_driver(&frame.shard, currency, &account, amount);
            return Some(());
        }
        let money = self.accounts.entry(account.clone()).or_default();
        money.paid_in -= amount;
        let owned = money.posted - money.held;
        findings.check("MONEY-4", amount > 0 && money.paid_in >= 0 && amount <= owned && !money.frozen, || {
            format!("{at}: {amount} refunded of {owned}, {} of it paid in", money.paid_in + amount)
        });
        self.post(&frame.shard, currency, format!("top-up:{tenant}:{currency}"), amount);
        self.post_driver(&frame.shard, currency, &account, -amount);
        Some(())
    }

    /// A hold that was given back is whole, and nothing is taken for its session afterwards.
    fn take_release(&mut self, account: String, value: &Value, at: &str, findings: &mut Findings) -> Option<()> {
        let (session, hold) = (text(value, "session")?, wide(value, "hold")?);
        let money = self.sessions.entry(session.to_owned()).or_default();
        let fits = money.account == account && money.hold == hold && money.settled.is_none() && !money.released;
        findings.check("MONEY-2", fits, || format!("{at}: {hold} released of {session}, which holds {}", money.hold));
        (money.hold, money.released) = (0, true);
        self.accounts.entry(account).or_default().held -= hold;
        Some(())
    }

    /// A hold that ended by time: nothing was read of its session for as long as a gateway's ring may keep something.
    fn take_hold_end(&mut self, account: String, value: &Value, at: &str, findings: &mut Findings) -> Option<()> {
        let (session, ended) = (text(value, "session")?, wide(value, "at")?);
        let read_at = self.sessions.get(session).map_or(ended, |money| money.read_at);
        findings.check("MONEY-4", ended - read_at >= RING_AGE_MS, || {
            format!("{at}: the hold of {session} ends {} ms after its last reading", ended - read_at)
        });
        self.take_release(account, value, at, findings)
    }

    /// Revenue that a till takes in is its operator's, of its own shard and currency, and was there.
    fn take_collection(
        &mut self,
        frame: &Frame,
        till: String,
        value: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (currency, amount) = (text(value, "currency")?, wide(value, "amount")?);
        let operator = text(value, "operator")?;
        self.take_key(&till, text(value, "key")?, at, findings);
        let own = frame.shard.strip_prefix("account-").map(|shard| format!("{operator}@{currency}-{shard}"));
        findings.check("MONEY-1", own.as_ref() == Some(&till) && amount > 0, || {
            format!("{at}: {till} collects {amount} of {operator} in {}", frame.shard)
        });
        self.post(&frame.shard, currency, format!("collected:{operator}:{currency}"), -amount);
        self.post_driver(&frame.shard, currency, &till, amount);
        let of_operator = |account: &str| {
            account.split_once(':').is_some_and(|(_, rest)| {
                rest.strip_prefix(operator).and_then(|rest| rest.strip_prefix(':')) == Some(currency)
            })
        };
        let earned = self.balances.iter().filter(|((shard, account), _)| *shard == frame.shard && of_operator(account));
        let left: i128 = earned.map(|(_, amount)| amount).sum();
        findings.check("MONEY-4", left >= 0, || format!("{at}: {amount} collected, {} were earned", left + amount));
        Some(())
    }

    /// What a till pays out it had.
    fn take_payout(
        &mut self,
        frame: &Frame,
        till: String,
        value: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (currency, amount) = (text(value, "currency")?, wide(value, "amount")?);
        self.take_key(&till, text(value, "key")?, at, findings);
        let tenant = till.split('/').next().unwrap_or("main").to_owned();
        self.post(&frame.shard, currency, format!("payout:{tenant}:{currency}"), amount);
        self.post_driver(&frame.shard, currency, &till, -amount);
        let money = self.accounts.entry(till.clone()).or_default();
        let fits = till.contains('@') && amount > 0 && money.posted >= 0 && !money.frozen;
        findings.check("MONEY-4", fits, || format!("{at}: {till} pays {amount} out and has {} then", money.posted));
        Some(())
    }

    /// One step of a transfer: each happens once, and no money is moved by another.
    fn take_transfer(
        &mut self,
        frame: &Frame,
        account: String,
        event: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (kind, value) = variant(event)?;
        let name = match text(value, "transfer") {
            Some(name) => name.to_owned(),
            None => format!("{account}.t{}", int(value, "number")?),
        };
        let journey = self.transfers.entry(name.clone()).or_default();
        let (fresh, moved) = match kind {
            "transferred_out" => {
                let (to, currency, amount) = (text(value, "to")?, text(value, "currency")?, wide(value, "amount")?);
                let before = journey.left.replace((to.to_owned(), currency.to_owned(), amount));
                (before.is_none() && amount > 0, -amount)
            }
            "transferred_in" => {
                let (currency, amount) = (text(value, "currency")?, wide(value, "amount")?);
                let before = journey.arrived.replace((account.clone(), currency.to_owned(), amount));
                (before.is_none() && !journey.refused, amount)
            }
            "transfer_returned" => {
                let amount = wide(value, "amount")?;
                let whole = journey.left.as_ref().is_some_and(|(_, _, left)| *left == amount);
                (!std::mem::replace(&mut journey.returned, true) && !journey.confirmed && whole, amount)
            }
            "transfer_arrived" => (!std::mem::replace(&mut journey.confirmed, true) && !journey.returned, 0),
            _ => (!std::mem::replace(&mut journey.refused, true) && journey.arrived.is_none(), 0),
        };
        findings
            .check("MONEY-2", fresh, || format!("{at}: {kind} of transfer {name} for the second time, or too late"));
        if kind == "transferred_out" {
            self.take_key(&account, text(value, "key")?, at, findings);
            let payer = self.accounts.entry(account.clone()).or_default();
            let owned = payer.posted - payer.held + moved;
            findings.check("MONEY-4", owned >= 0 && !payer.frozen && !payer.closed, || {
                format!("{at}: transfer {name} leaves {owned}, or leaves an account that is frozen or closed")
            });
        }
        if moved != 0 {
            let (currency, tenant) = (text(value, "currency")?, account.split('/').next().unwrap_or("main"));
            self.post(&frame.shard, currency, format!("in-flight:{tenant}:{currency}"), -moved);
            self.post_driver(&frame.shard, currency, &account, moved);
        }
        Some(())
    }

    /// MONEY-1 across shards, once all logs are read: what arrived had left, whole and for there; what is confirmed
    /// has arrived, what is back has not; and the in-flight balances are what has left and is nowhere yet.
    pub fn judge_transfers(&self, findings: &mut Findings) {
        let mut flying: BTreeMap<String, i128> = BTreeMap::new();
        for (name, journey) in &self.transfers {
            let fits = journey.arrived.is_none() || journey.arrived == journey.left;
            findings.check("MONEY-1", journey.left.is_some() && fits, || {
                format!("transfer {name}: left as {:?}, arrived as {:?}", journey.left, journey.arrived)
            });
            let once = !(journey.arrived.is_some() && journey.returned);
            findings.check("MONEY-1", once && (!journey.confirmed || journey.arrived.is_some()), || {
                format!("transfer {name}: {journey:?}")
            });
            if let (Some((_, currency, amount)), None, false) = (&journey.left, &journey.arrived, journey.returned) {
                let tenant = name.split('/').next().unwrap_or("main");
                *flying.entry(format!("in-flight:{tenant}:{currency}")).or_default() += amount;
            }
        }
        let mut served: BTreeMap<String, i128> = BTreeMap::new();
        for ((_, account), amount) in self.balances.iter().filter(|((_, account), _)| account.starts_with("in-flight:"))
        {
            *served.entry(account.clone()).or_default() += amount;
        }
        served.retain(|_, amount| *amount != 0);
        findings.check("MONEY-1", served == flying, || format!("in flight are {flying:?}, the books say {served:?}"));
    }

    /// MONEY-2: a key has one effect.
    fn take_key(&mut self, account: &str, key: &str, at: &str, findings: &mut Findings) {
        let top_up = self.top_ups.contains_key(&(account.to_owned(), key.to_owned()));
        let new = self.keys.insert((account.to_owned(), key.to_owned())) && !top_up;
        findings.check("MONEY-2", new, || format!("{at}: key {key} had an effect twice"));
    }

    fn take_hold(&mut self, account: String, value: &Value, at: &str, findings: &mut Findings) -> Option<()> {
        let (session, hold) = (text(value, "session")?, wide(value, "hold")?);
        let prices = Prices::read(field(value, "tariff")?)?;
        // The node's own word for it bounds nothing: it is held to what was worked out beforehand.
        let (reserve, most) = (wide(value, "reserve")?, self.bounds.reserve());
        findings.check("MONEY-4", (0..=most).contains(&reserve), || {
            format!("{at}: {session} keeps {reserve} in reserve, rating x time to stop x highest price are {most}")
        });
        let payer = self.accounts.entry(account.clone()).or_default();
        payer.held += hold;
        findings.check("MONEY-4", !payer.frozen && !payer.closed, || {
            format!("{at}: held for {session} by an account that is frozen or closed")
        });
        let agreement = field(value, "split").filter(|split| !split.is_nil());
        let agreement = agreement.map(|split| Agreement::read(split).ok_or(())).transpose().ok()?;
        let read_at = wide(value, "at").unwrap_or_default();
        let money = SessionMoney { account, hold, read_at, prices, agreement, ..SessionMoney::default() };
        let before = self.sessions.insert(session.to_owned(), money);
        findings.check("MONEY-2", before.is_none(), || format!("{at}: {session} was held for twice"));
        Some(())
    }

    fn take_debit(
        &mut self,
        frame: &Frame,
        account: String,
        value: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (session, currency) = (text(value, "session")?, text(value, "currency")?);
        let (energy, service, fees) = (wide(value, "energy")?, wide(value, "service")?, wide_or_zero(value, "fees")?);
        let taken = energy + service + fees;
        let (operator, hold) = (text(value, "operator")?, wide(value, "hold")?);
        let reading = reading(value)?;
        self.take_reading(session, &account, &reading, false, at, findings);
        let money = self.sessions.entry(session.to_owned()).or_default();
        findings.check("MONEY-2", !money.released, || format!("{at}: {session} is debited after its release"));
        let freed = money.hold - hold;
        money.hold = hold;
        money.read_at = wide(value, "at").unwrap_or(money.read_at);
        money.paid += taken;
        money.revenue += taken;
        let (paid, total) = (money.paid, reading.total());
        findings.check("SESS-1", taken >= 0 && paid <= total, || {
            format!("{at}: {session} has paid {paid} with {taken} of this debit, everything so far costs {total}")
        });
        self.debits += 1;
        self.accounts.entry(account.clone()).or_default().held -= freed;
        self.post(&frame.shard, currency, format!("energy:{operator}:{currency}"), energy);
        self.post(&frame.shard, currency, format!("service:{operator}:{currency}"), service);
        self.post(&frame.shard, currency, format!("fees:{operator}:{currency}"), fees);
        self.post_driver(&frame.shard, currency, &account, -taken);
        Some(())
    }

    fn take_settlement(
        &mut self,
        frame: &Frame,
        account: String,
        value: &Value,
        at: &str,
        findings: &mut Findings,
    ) -> Option<()> {
        let (session, currency) = (text(value, "session")?, text(value, "currency")?);
        let (energy, service, fees) = (wide(value, "energy")?, wide(value, "service")?, wide_or_zero(value, "fees")?);
        let (operator, inner) = (text(value, "operator")?, field(value, "settled")?);
        let reading = reading(inner)?;
        let settled = Settled {
            charging_ms: reading.used.charging_ms,
            idle_ms: reading.used.idle_ms,
            fees: reading.cost[2],
            meter: wide(inner, "meter")?,
            billed_wh: wide(inner, "billed_wh")?,
            overshoot_wh: wide(inner, "overshoot_wh")?,
            billed: wide(inner, "billed")?,
            overshoot: wide(inner, "overshoot")?,
        };
        let total = reading.total();
        self.take_reading(session, &account, &reading, true, at, findings);
        let money = self.sessions.entry(session.to_owned()).or_default();
        findings.check("MONEY-2", money.settled.is_none(), || format!("{at}: {session} was settled twice"));
        // The driver's leg comes from the running total of what he paid, the operator's from this event.
        let paid_now = settled.billed - money.paid;
        let freed = money.hold;
        money.revenue += energy + service + fees;
        (money.paid, money.hold, money.settled) = (settled.billed, 0, Some(settled));
        let (revenue, most) = (money.revenue, self.bounds.overshoot());
        let released = money.released;
        findings.check("MONEY-2", !released || paid_now <= 0, || {
            format!("{at}: {session} takes {paid_now} after its release")
        });
        findings.check("SESS-1", settled.billed_wh + settled.overshoot_wh == settled.meter, || {
            let Settled { meter, billed_wh, overshoot_wh, .. } = settled;
            format!("{at}: {session}: {meter} Wh metered, {billed_wh} billed, {overshoot_wh} overshoot")
        });
        findings.check("SESS-1", revenue == total && settled.billed + settled.overshoot == total, || {
            format!("{at}: {session} costs {total}, revenue {revenue}, paid {} + {}", settled.billed, settled.overshoot)
        });
        // The operator who gave a hold back took over what it would have paid.
        findings.check("MONEY-4", settled.overshoot >= 0 && (released || settled.overshoot <= most), || {
            format!("{at}: {session} overshoots by {}, the bound is {most}", settled.overshoot)
        });
        let owed = money.agreement.as_ref().map(|agreement| agreement.owed(operator, total)).unwrap_or_default();
        let mut shares = BTreeMap::new();
        for share in field(value, "shares").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
            *shares.entry(text(share, "party")?.to_owned()).or_default() += wide(share, "amount")?;
        }
        findings
            .check("MONEY-1", shares == owed, || format!("{at}: {session} shares {shares:?}, agreed were {owed:?}"));
        for (party, amount) in shares {
            self.post(&frame.shard, currency, format!("share:{operator}:{currency}"), -amount);
            self.post(&frame.shard, currency, format!("share:{party}:{currency}"), amount);
        }
        self.accounts.entry(account.clone()).or_default().held -= freed;
        self.post(&frame.shard, currency, format!("energy:{operator}:{currency}"), energy);
        self.post(&frame.shard, currency, format!("service:{operator}:{currency}"), service);
        self.post(&frame.shard, currency, format!("fees:{operator}:{currency}"), fees);
        self.post(&frame.shard, currency, format!("overshoot:{operator}:{currency}"), -settled.overshoot);
        self.post_driver(&frame.shard, currency, &account, -paid_now);
        Some(())
    }

    /// Sequence, meter and price of a reading against the ones before. Only the last, the settlement, may be below
    /// the one before: then no period grew, so that what goes back is what was taken for energy that never flowed. Its
    /// time may be below, because a pause may be told late.
    fn take_reading(
        &mut self,
        session: &str,
        account: &str,
        r: &Reading,
        last: bool,
        at: &str,
        findings: &mut Findings,
    ) {
        let Some(money) = self.sessions.get_mut(session) else {
            findings.violated("MONEY-2", format!("{at}: {session} is debited without a hold"));
            return;
        };
        findings.check("MONEY-2", r.sequence == money.sequence + 1 && money.settled.is_none(), || {
            format!("{at}: {session} sequence {} after {}", r.sequence, money.sequence)
        });
        findings.check("MONEY-2", money.account == account, || format!("{at}: {session} belongs to {}", money.account));
        let by_period: i128 = r.used.by_period.iter().sum();
        let (before, now) = (&money.used.by_period, &r.used.by_period);
        let grows = r.meter >= money.meter && before.iter().zip(now).all(|(before, now)| now >= before);
        let corrects = last && r.meter < money.meter && before.iter().zip(now).all(|(before, now)| now <= before);
        findings.check("SESS-1", (grows || corrects) && by_period == r.meter, || {
            format!("{at}: {session} at {} Wh after {}, periods sum to {by_period}", r.meter, money.meter)
        });
        let (ms_before, ms) = (&money.used, &r.used);
        let passes = ms.charging_ms >= ms_before.charging_ms && ms.idle_ms >= ms_before.idle_ms;
        let sane = ms.charging_ms >= 0 && ms.idle_ms >= 0;
        findings.check("SESS-1", sane && (passes || last), || {
            format!("{at}: {session} after {} ms and {} ms idle: {ms:?}", ms_before.charging_ms, ms_before.idle_ms)
        });
        let should = money.prices.price(&r.used, last);
        findings.check("SESS-1", should == r.cost, || {
            format!("{at}: {session} priced {:?} (energy, service, fees), should be {should:?}", r.cost)
        });
        (money.sequence, money.meter) = (r.sequence, r.meter);
        money.used = r.used.clone();
    }

    fn post_driver(&mut self, shard: &str, currency: &str, account: &str, amount: i128) {
        self.accounts.entry(account.to_owned()).or_default().posted += amount;
        self.post(shard, currency, format!("driver:{account}"), amount);
    }

    fn post(&mut self, shard: &str, currency: &str, account: String, amount: i128) {
        *self.balances.entry((shard.to_owned(), account)).or_default() += amount;
        *self.sums.entry((shard.to_owned(), currency.to_owned())).or_default() += amount;
    }

    /// What the node served as balances against the ones from its log (MONEY-1), both ways.
    pub fn compare_balances(&self, served: &[Balance], findings: &mut Findings) {
        let mut unseen: BTreeMap<_, _> = self.balances.iter().filter(|(_, amount)| **amount != 0).collect();
        for balance in served {
            let key = (balance.shard.clone(), balance.account.clone());
            let own = self.balances.get(&key).copied().unwrap_or(0);
            unseen.remove(&key);
            findings.check("MONEY-1", own == i128::from(balance.balance), || {
                format!("{} {}: served {}, the log gives {own}", balance.shard, balance.account, balance.balance)
            });
        }
        for ((shard, account), amount) in unseen {
            findings.violated("MONEY-1", format!("{shard} {account}: the log gives {amount}, nothing was served"));
        }
    }
}

/// A balance as the node served it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Balance {
    /// The shard.
    pub shard: String,
    /// The ledger account.
    pub account: String,
    /// ISO code.
    pub currency: String,
    /// 1/10,000 of the currency unit.
    pub balance: i64,
}
