//! The clients: what they ask for, and their own record of what they were told.
//!
//! A slot is a client with one request outstanding. Its requests are numbered, and a number always means the same
//! request: so it can be asked again, by whoever, and be found in the books.

use super::books::Books;
use chargeplane_domain::account::{AccountCommand, AccountKind, Holder};
use chargeplane_domain::ids::{AccountId, SessionId};
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Priced, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};

/// Requests outstanding at once.
pub(super) const SLOTS: usize = 16;

/// The last slots pay in, the others debit a session each.
const PAYERS: usize = 4;

/// Two accounts of one shard: their events meet in its frames.
pub(super) const ACCOUNTS: usize = 2;

/// Watt-hours of a debit, and what they cost, 1/10,000: energy at 0.80, service at 0.10 a kWh.
pub(super) const DEBIT_WH: i64 = 100;
pub(super) const DEBIT_PRICE: i64 = 900;

/// What a slot asks for at most at first: its account, then its session.
const OPEN: u32 = 0;
const AUTHORISE: u32 = 1;

pub(super) fn pays(slot: usize) -> bool {
    slot >= SLOTS - PAYERS
}

/// The account of a slot, without its tenant.
pub(super) fn account_name(slot: usize) -> String {
    format!("a{}", slot % ACCOUNTS)
}

/// The session of a slot, without its tenant.
pub(super) fn session_name(slot: usize) -> String {
    format!("s{slot:02}.0")
}

/// The key of a slot's payment.
pub(super) fn payment_key(slot: usize, number: u32) -> String {
    format!("p{slot:02}-{number}")
}

/// The amount of a payment.
pub(super) fn payment(number: u32) -> i64 {
    i64::from(number % 7) * 1_000 + 1
}

/// What a number means at a slot. None for an id or tariff that cannot be, which would be a defect here.
pub(super) fn request(slot: usize, number: u32) -> Option<(AccountId, AccountCommand)> {
    let account = format!("main/{}", account_name(slot)).parse().ok()?;
    let at = Timestamp(i64::from(number));
    let command = match number {
        OPEN => AccountCommand::Open {
            key: "open".into(),
            currency: Currency::new("CNY").ok()?,
            kind: AccountKind::Credit { limit: Money(5_000_000_000_000) },
            holder: Holder::Fleet,
            at,
        },
        _ if pays(slot) => {
            AccountCommand::TopUp { key: payment_key(slot, number), amount: Money(payment(number)), currency: None, at }
        }
        AUTHORISE => AccountCommand::Authorise {
            session: session(slot)?,
            operator: "main/op".parse().ok()?,
            tariff: tariff()?,
            split: None,
            want: Money(20_000),
            reserve: Money(2_000),
            at,
        },
        _ => debit(slot, number - AUTHORISE, at)?,
    };
    Some((account, command))
}

fn session(slot: usize) -> Option<SessionId> {
    format!("main/{}", session_name(slot)).parse().ok()
}

fn tariff() -> Option<Tariff> {
    let price = Price { energy: Money(8_000), service: Money(1_000) };
    let slots = Slots::uniform(0)?;
    Some(Tariff { currency: Currency::new("CNY").ok()?, prices: [price; PERIODS], slots, fees: Fees::NONE })
}

fn debit(slot: usize, sequence: u32, at: Timestamp) -> Option<AccountCommand> {
    let meter = WattHours(i64::from(sequence) * DEBIT_WH);
    let mut by_period = [WattHours::ZERO; PERIODS];
    by_period[0] = meter;
    let (session, hold_target) = (session(slot)?, Money(20_000));
    let time = MeteredTime::NONE;
    let cumulative: Priced = tariff()?.price(&by_period, &time);
    Some(AccountCommand::Debit { session, sequence, meter, by_period, time, cumulative, hold_target, at })
}

/// What one client knows.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Requests that were acknowledged: all below this number.
    acknowledged: u32,
    /// The answer to the last of them.
    answer: String,
    /// Requests that were sent: all below this number.
    asked: u32,
}

/// What the books have and lack beyond what clients were told, in slots.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Behind {
    /// Slots whose request is not in the books.
    pub lost: u32,
    /// Slots whose request is in the books, and nobody was told.
    pub untold: u32,
}

/// The record of all clients.
#[derive(Debug)]
pub(super) struct Clients(Vec<Record>);

impl Default for Clients {
    fn default() -> Self {
        Self(vec![Record::default(); SLOTS])
    }
}

impl Clients {
    /// Requests that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.0.iter().map(|record| u64::from(record.acknowledged)).sum()
    }

    /// The first request of a slot that was not answered, as a line; noted as asked for.
    pub fn next_request(&mut self, slot: usize) -> String {
        let Some(record) = self.0.get_mut(slot) else { return String::new() };
        record.asked = record.asked.max(record.acknowledged + 1);
        format!("{slot} {}\n", record.acknowledged)
    }

    /// Takes an answer (slot, number, `ok`, the answer); the slot.
    pub fn take(&mut self, line: &str) -> Result<usize, String> {
        let mut words = line.splitn(4, ' ');
        let slot = words.next().and_then(|word| word.parse::<usize>().ok());
        let number = words.next().and_then(|word| word.parse::<u32>().ok());
        let (Some(slot), Some(number), Some("ok"), Some(answer)) = (slot, number, words.next(), words.next()) else {
            return Err(format!("not an answer to any request: {line}"));
        };
        let record = self.0.get_mut(slot).ok_or_else(|| format!("an answer to nobody: {line}"))?;
        if number == record.acknowledged {
            (record.acknowledged, record.answer) = (number + 1, answer.to_owned());
        } else if number + 1 != record.acknowledged {
            return Err(format!("slot {slot} was not waiting for this: {line}"));
        } else if record.answer != answer {
            return Err(format!("slot {slot}, request {number}: {} at first, {answer} when repeated", record.answer));
        }
        Ok(slot)
    }

    /// Last acknowledged requests that must be answered again as they were. Those of slots of which the books know a
    /// later request are not among them, nor the opening of a session, whose answer tells of the present.
    pub fn repeats(&self, books: &Books) -> Vec<(usize, u32)> {
        let last = |(slot, record): (usize, &Record)| {
            let number = record.acknowledged.checked_sub(1)?;
            let newest = books.stored(slot) == record.acknowledged;
            (newest && (pays(slot) || number != AUTHORISE)).then_some((slot, number))
        };
        self.0.iter().enumerate().filter_map(last).collect()
    }

    /// All that was acknowledged is in the books, and nothing that was not asked for.
    pub fn compare(&self, books: &Books) -> Result<Behind, String> {
        let mut behind = Behind::default();
        for (slot, Record { acknowledged, asked, .. }) in self.0.iter().enumerate() {
            let stored = books.stored(slot);
            if stored < *acknowledged {
                return Err(format!("slot {slot}: {acknowledged} requests acknowledged, {stored} in the books"));
            }
            // Another slot opens the account as well.
            if stored > (*asked).max(1) {
                return Err(format!("slot {slot}: {asked} requests made, {stored} in the books"));
            }
            behind.lost += u32::from(stored < *asked);
            behind.untold += u32::from(stored > *acknowledged && stored <= *asked);
        }
        Ok(behind)
    }
}
