//! The books, from the frames as they are stored: read and added up by code that shares nothing with the node, after
//! `docs/reference/storage.md`.

use super::clients::{ACCOUNTS, DEBIT_PRICE, DEBIT_WH, SLOTS, account_name, payment, payment_key, pays, session_name};
use super::{RawLog, RawShard};
use rmpv::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

const SHARD: &str = "account-0000";
const HEADER: usize = 64;

/// What the log of the accounts says.
#[derive(Debug, Default)]
pub(super) struct Books {
    lsn: u64,
    epoch: u64,
    /// None before the first frame.
    hash: Option<[u8; 32]>,
    opened: BTreeSet<String>,
    /// By session: the account, and the last sequence.
    sessions: BTreeMap<String, (String, i64)>,
    /// By slot that pays in: the number of its last payment.
    payments: BTreeMap<usize, u32>,
    balances: BTreeMap<String, i128>,
}

impl Books {
    /// Reads on from where it was, up to the head.
    pub fn read(&mut self, log: &mut dyn RawLog) -> Result<(), String> {
        let Some(RawShard { epoch, last_lsn, last_hash, frames }) = log.read(self.lsn)? else {
            return Ok(());
        };
        for bytes in &frames {
            let at = self.lsn + 1;
            let payload = self.follow(bytes).map_err(|what| format!("frame {at}: {what} (OWN-1)"))?;
            self.take_payload(payload).map_err(|what| format!("frame {at}: {what}"))?;
        }
        let hash = self.hash.unwrap_or_else(genesis);
        if (self.lsn, &hash[..]) != (last_lsn, &last_hash[..]) || self.epoch > epoch {
            let (lsn, mine) = (self.lsn, self.epoch);
            return Err(format!("the log ends with frame {lsn} of epoch {mine}, its head names {last_lsn} of {epoch}"));
        }
        Ok(())
    }

    /// Checks that a frame is the next one; its payload.
    fn follow<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or("shorter than its checksum")?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err("the checksum does not fit".to_owned());
        }
        let (header, payload) = body.split_at_checked(HEADER).ok_or("shorter than its header")?;
        let number = |from: usize, bytes: usize| {
            header.iter().skip(from).take(bytes).rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let place = (number(0, 1), number(1, 1), number(2, 2), number(60, 4));
        if place != (1, 1, 0, payload.len() as u64) {
            return Err(format!("version, family, index and length are {place:?}"));
        }
        let (epoch, lsn) = (number(4, 8), number(12, 8));
        if lsn != self.lsn + 1 || epoch < self.epoch {
            return Err(format!("number {lsn} of epoch {epoch} behind {} of {}", self.lsn, self.epoch));
        }
        if header.get(28..60) != Some(&self.hash.unwrap_or_else(genesis)[..]) {
            return Err("it does not name the hash of the frame before it".to_owned());
        }
        (self.lsn, self.epoch, self.hash) = (lsn, epoch, Some(Sha256::digest(body).into()));
        Ok(payload)
    }

    fn take_payload(&mut self, mut payload: &[u8]) -> Result<(), String> {
        let mut value = rmpv::decode::read_value(&mut payload).map_err(|e| e.to_string())?;
        if let Some(block) = field(&value, "lz4").and_then(Value::as_slice) {
            let size = field(&value, "size").and_then(Value::as_u64).filter(|size| *size <= 8 << 20);
            let size = size.and_then(|size| usize::try_from(size).ok()).ok_or("a block without a size")?;
            let plain = lz4_flex::block::decompress(block, size).map_err(|e| e.to_string())?;
            value = rmpv::decode::read_value(&mut &*plain).map_err(|e| e.to_string())?;
        }
        let entries = field(&value, "entries").and_then(Value::as_array).ok_or("a payload without entries")?;
        for entry in entries {
            let Some(entity) = field(entry, "entity") else { continue };
            let key = field(entity, "key").and_then(Value::as_str).unwrap_or("");
            let account = key.strip_prefix("account:main/").ok_or_else(|| format!("{key} is no account of ours"))?;
            let event = field(entity, "event").and_then(Value::as_map).map(Vec::as_slice);
            let Some([(kind, value)]) = event else { return Err(format!("{key}: not an event")) };
            self.take(account, kind.as_str().unwrap_or(""), value).map_err(|what| format!("{key}: {what}"))?;
        }
        Ok(())
    }

    fn take(&mut self, account: &str, kind: &str, value: &Value) -> Result<(), String> {
        match kind {
            "opened" if self.opened.insert(account.to_owned()) => Ok(()),
            "held" => {
                let session = local(value, "session")?;
                match self.sessions.insert(session.to_owned(), (account.to_owned(), 0)) {
                    None => Ok(()),
                    Some(_) => Err(format!("session {session} is authorised twice")),
                }
            }
            "topped_up" => self.take_payment(account, value),
            "debited" => self.take_debit(account, value),
            other => Err(format!("{other}: it has no place here, or is here twice")),
        }
    }

    /// The payments of a slot follow each other: none is missing, none is there twice.
    fn take_payment(&mut self, account: &str, value: &Value) -> Result<(), String> {
        let key = field(value, "key").and_then(Value::as_str).ok_or("no key")?;
        let expected = |slot: &usize| {
            let next = self.payments.get(slot).map_or(1, |last| last + 1);
            pays(*slot) && account_name(*slot) == account && payment_key(*slot, next) == key
        };
        let slot = (0..SLOTS).find(expected).ok_or_else(|| format!("payment {key} is doubled, or one is missing"))?;
        let number = self.payments.entry(slot).or_insert(0);
        *number += 1;
        if int(value, "amount")? != payment(*number) {
            return Err(format!("payment {key} has another amount"));
        }
        *self.balances.entry(account.to_owned()).or_default() += i128::from(payment(*number));
        Ok(())
    }

    fn take_debit(&mut self, account: &str, value: &Value) -> Result<(), String> {
        let session = local(value, "session")?;
        let (payer, last) = self.sessions.get_mut(session).ok_or_else(|| format!("{session} was never authorised"))?;
        let (sequence, meter) = (int(value, "sequence")?, int(value, "meter")?);
        // Fees are left out where there are none.
        let fees = field(value, "fees").map_or(Ok(0), |_| int(value, "fees"))?;
        let price = int(value, "energy")? + int(value, "service")? + fees;
        let next = *last + 1;
        if (payer.as_str(), sequence, meter, price) != (account, next, next * DEBIT_WH, DEBIT_PRICE) {
            let due = format!("sequence {next} of {payer} at {} Wh for {DEBIT_PRICE}", next * DEBIT_WH);
            return Err(format!("{session}: sequence {sequence} at {meter} Wh for {price}, due is {due}"));
        }
        *last = next;
        *self.balances.entry(account.to_owned()).or_default() -= i128::from(price);
        Ok(())
    }

    /// Requests of a slot that are in the books: all below this number.
    pub fn stored(&self, slot: usize) -> u32 {
        if !self.opened.contains(&account_name(slot)) {
            return 0;
        }
        if pays(slot) {
            return self.payments.get(&slot).map_or(1, |last| last + 1);
        }
        let debits = self.sessions.get(&session_name(slot)).map(|(_, last)| u32::try_from(*last).unwrap_or(u32::MAX));
        debits.map_or(1, |debits| debits.saturating_add(2))
    }

    /// Balances as the node served them: `balances`, then one for each account, `-` where there is none.
    pub fn compare_balances(&self, served: &str) -> Result<(), String> {
        let mut own = "balances".to_owned();
        for account in (0..ACCOUNTS).map(account_name) {
            own.push(' ');
            match self.opened.contains(&account) {
                true => own.push_str(&self.balances.get(&account).copied().unwrap_or(0).to_string()),
                false => own.push('-'),
            }
        }
        if served == own { Ok(()) } else { Err(format!("the node serves `{served}`, the log adds up to `{own}`")) }
    }
}

fn genesis() -> [u8; 32] {
    Sha256::digest(format!("chargeplane/journal/{SHARD}")).into()
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_map()?.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

fn int(value: &Value, name: &str) -> Result<i64, String> {
    field(value, name).and_then(Value::as_i64).ok_or_else(|| format!("no {name}"))
}

/// An id of the tenant `main`, without it.
fn local<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    let text = field(value, name).and_then(Value::as_str).ok_or_else(|| format!("no {name}"))?;
    text.strip_prefix("main/").ok_or_else(|| format!("{name} {text} is not ours"))
}
