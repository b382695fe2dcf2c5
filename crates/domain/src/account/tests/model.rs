//! The account against a naive one, which forgets nothing and knows no events.

use super::properties::{kinds, play, steps, tariffs};
use super::*;
use proptest::prelude::*;

/// A session as the naive bank sees it.
#[derive(Default)]
struct NaiveSession {
    hold: i64,
    paid: i64,
    bill: i64,
    energies: [i64; PERIODS],
    time: MeteredTime,
    sequence: u32,
    closed: bool,
    overshoot: i64,
    released: bool,
    read_at: i64,
}

/// Remembers every command it ever took, and computes with plain integers.
struct NaiveBank {
    tariff: Tariff,
    limit: i64,
    balance: i64,
    sessions: BTreeMap<SessionId, NaiveSession>,
    keys: Vec<String>,
    refused: Vec<SessionId>,
    paid_in: i64,
    frozen: bool,
    closed: bool,
}

/// The bill by the tariff's text: exact parts of a unit, then the nearest, from the middle to the even one. `last`: it
/// is the final one.
fn bill(tariff: &Tariff, by_period: &[WattHours; PERIODS], time: &MeteredTime, last: bool) -> i64 {
    let round = |parts: i64, unit: i64| match (parts % unit) * 2 {
        rest if rest < unit => parts / unit,
        rest if rest == unit => parts / unit + (parts / unit) % 2,
        _ => parts / unit + 1,
    };
    let Tariff { prices, fees, .. } = tariff;
    let energy = (0..PERIODS).map(|p| prices[p].energy.0 * by_period[p].0).sum();
    let service = (0..PERIODS).map(|p| prices[p].service.0 * by_period[p].0).sum();
    let charged = by_period.iter().any(|energy| energy.0 > 0);
    let mut parts = fees.idle_per_minute.0 * (time.idle_ms - 1_000 * fees.idle_grace_s).max(0);
    if charged {
        parts += fees.flat.0 * 60_000 + fees.per_minute.0 * time.charging_ms;
    }
    let mut bill = round(energy, 1_000) + round(service, 1_000) + round(parts, 60_000);
    if last && charged {
        bill = bill.max(fees.min.0);
    }
    bill.min(fees.max.map_or(i64::MAX, |max| max.0))
}

impl NaiveSession {
    /// An open session takes the next reading, in which no period's energy went back.
    fn takes(&self, sequence: u32, energies: &[WattHours; PERIODS]) -> bool {
        let grows = (0..PERIODS).all(|p| energies[p].0 >= self.energies[p]);
        !self.closed && sequence == self.sequence + 1 && grows
    }

    /// ... or, at its end, one below the last, in which no period's energy grew.
    fn corrects(&self, sequence: u32, energies: &[WattHours; PERIODS]) -> bool {
        let shrinks = (0..PERIODS).all(|p| energies[p].0 <= self.energies[p]);
        !self.closed && sequence == self.sequence + 1 && shrinks
    }

    fn pay(&mut self, energies: &[WattHours; PERIODS], time: &MeteredTime, sequence: u32, bill: i64, paid: i64) {
        self.bill = bill;
        self.time = *time;
        self.energies = energies.map(|energy| energy.0);
        self.sequence = sequence;
        self.paid += paid;
    }
}

impl NaiveBank {
    /// A key counts once, whatever comes of it; in a closed account none counts.
    fn is_new(&mut self, key: &str) -> bool {
        let new = !self.closed && !self.keys.iter().any(|known| known == key);
        if new {
            self.keys.push(key.to_owned());
        }
        new
    }

    fn free(&self) -> i64 {
        self.balance + self.limit - self.sessions.values().map(|session| session.hold).sum::<i64>()
    }

    /// Takes a command; true when it moved money or holds or closed something.
    fn tell(&mut self, command: &AccountCommand) -> bool {
        match command {
            // Not among these steps: see the tests of transfers and tills.
            AccountCommand::TransferOut { .. }
            | AccountCommand::TransferIn { .. }
            | AccountCommand::EndTransfer { .. }
            | AccountCommand::Collect { .. }
            | AccountCommand::PayOut { .. }
            | AccountCommand::Open { .. } => false,
            AccountCommand::TopUp { key, amount, .. } => {
                if !self.is_new(key) || amount.0 <= 0 {
                    return false;
                }
                self.balance += amount.0;
                self.paid_in += amount.0;
                true
            }
            AccountCommand::Refund { key, amount, .. } => {
                let most = (self.free() - self.limit).min(self.paid_in);
                if !self.is_new(key) || amount.0 <= 0 || self.frozen || amount.0 > most {
                    return false;
                }
                self.balance -= amount.0;
                self.paid_in -= amount.0;
                true
            }
            AccountCommand::Adjust { key, amount, .. } => {
                if !self.is_new(key) || amount.0 == 0 || self.free() + amount.0 < 0 {
                    return false;
                }
                self.balance += amount.0;
                true
            }
            AccountCommand::Freeze { key, .. } => {
                let new = self.is_new(key);
                self.frozen |= new;
                new
            }
            AccountCommand::Unfreeze { key, .. } => {
                let new = self.is_new(key);
                self.frozen &= !new;
                new
            }
            AccountCommand::Release { key, session, at } => {
                let new = self.is_new(key);
                let Some(known) = self.sessions.get_mut(session).filter(|known| !known.closed && !known.released)
                else {
                    return false;
                };
                let quiet = known.sequence == 0 || at.0 - known.read_at >= 600_000;
                if !new || !quiet {
                    return false;
                }
                known.hold = 0;
                known.released = true;
                true
            }
            AccountCommand::EndHold { session, quiet_since, .. } => {
                let known = self.sessions.get_mut(session).filter(|known| !known.closed && !known.released);
                let Some(known) = known.filter(|known| known.read_at <= quiet_since.0) else { return false };
                known.hold = 0;
                known.released = true;
                true
            }
            AccountCommand::Close { key, .. } => {
                let over = |known: &NaiveSession| known.closed || (known.released && known.paid == 0);
                if !self.is_new(key) || !self.sessions.values().all(over) || self.balance != 0 {
                    return false;
                }
                self.closed = true;
                true
            }
            AccountCommand::Authorise { session, want, reserve, at, .. } => {
                if self.sessions.contains_key(session) || self.refused.contains(session) {
                    return false;
                }
                if self.closed {
                    return false;
                }
                if self.frozen {
                    self.refused.push(session.clone());
                    return false;
                }
                let hold = want.0.min(self.free());
                let fees = self.tariff.fees;
                let all = fees.max.is_some_and(|max| hold >= max.0);
                // 20 Wh at the highest price, 16,346 a kWh, and one unit for rounding.
                let pays = hold - reserve.0 - fees.flat.0 >= 327;
                if hold < reserve.0 || hold < fees.min.0 || (!all && !pays) {
                    self.refused.push(session.clone());
                    return false;
                }
                self.sessions.insert(session.clone(), NaiveSession { hold, read_at: at.0, ..Default::default() });
                true
            }
            AccountCommand::Debit { session, sequence, by_period, time, hold_target, at, .. } => {
                let (free, bill) = (self.free(), bill(&self.tariff, by_period, time, false));
                let Some(known) = self.sessions.get_mut(session) else {
                    return false;
                };
                let back = time.charging_ms < known.time.charging_ms || time.idle_ms < known.time.idle_ms;
                if !known.takes(*sequence, by_period) || known.released || back {
                    return false;
                }
                known.read_at = at.0;
                let paid = (bill - known.paid).min(known.hold + free);
                let purse = known.hold + free - paid;
                known.pay(by_period, time, *sequence, bill, paid);
                known.hold = (known.hold - paid).max(0).max(hold_target.0.min(purse));
                self.balance -= paid;
                true
            }
            AccountCommand::Settle { session, sequence, by_period, time, .. } => {
                let (free, bill) = (self.free(), bill(&self.tariff, by_period, time, true));
                let Some(known) = self.sessions.get_mut(session) else {
                    if time.is_none() && by_period.iter().all(|energy| energy.0 == 0) {
                        self.refused.push(session.clone());
                    }
                    return false;
                };
                if !known.takes(*sequence, by_period) && !known.corrects(*sequence, by_period) {
                    return false;
                }
                let purse = if known.released { 0 } else { known.hold + free };
                let paid = (bill - known.paid).min(purse);
                known.pay(by_period, time, *sequence, bill, paid);
                known.overshoot = known.bill - known.paid;
                known.hold = 0;
                known.closed = true;
                self.balance -= paid;
                true
            }
        }
    }
}

proptest! {
    #[test]
    fn the_account_does_what_a_naive_one_does(
        kind in kinds(), money in 1_i64..20_000, tariff in tariffs(), steps in steps(),
    ) {
        let mut bank = Bank::with(kind, money);
        let sent = play(&mut bank, &tariff, &steps);
        let mut naive = NaiveBank {
            tariff,
            limit: kind.limit().0,
            balance: money,
            sessions: BTreeMap::new(),
            keys: vec![],
            refused: vec![],
            paid_in: money,
            frozen: false,
            closed: false,
        };
        let moved = sent.iter().filter(|(command, _)| naive.tell(command)).count();
        let account = bank.account();
        prop_assert_eq!(account.posted.0, naive.balance);
        prop_assert_eq!(account.available().0, naive.free());
        prop_assert_eq!((account.is_frozen() && !naive.closed, account.is_closed()), (naive.frozen && !naive.closed, naive.closed));
        prop_assert_eq!(account.refundable().0, (naive.free() - naive.limit).min(naive.paid_in).max(0));
        prop_assert_eq!(account.holds.keys().collect::<Vec<_>>(), naive.sessions.keys().collect::<Vec<_>>());
        for (id, session) in &account.holds {
            let known = &naive.sessions[id];
            prop_assert_eq!(session.hold.0, known.hold);
            prop_assert_eq!(session.billed.total().0, known.paid);
            prop_assert_eq!(session.cumulative.total().0, known.bill);
            prop_assert_eq!(session.sequence, known.sequence);
            prop_assert_eq!(session.released.is_some(), known.released);
            prop_assert_eq!(session.closed.map(|closed| closed.overshoot.0), known.closed.then_some(known.overshoot));
        }
        let first = 2; // opened and topped up before the history
        let refusals = bank.log.iter().filter(|event| matches!(event, AccountEvent::Refused { .. })).count();
        prop_assert_eq!(bank.log.len() - first - refusals, moved);
    }
}
