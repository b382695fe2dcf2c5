//! The lines of one account in one blob.
//!
//! Numbers are LEB128 varints, those that may be negative zigzag. Layout: version (1); number of texts, each with its
//! length; number of lines. A line: log number minus the line's before; index, minus the one before where the log
//! number is the same; moment minus the one before; amount; kind, session and key as the number of their text, session
//! and key from 1 with 0 for none. Texts are there once, so the debits of a session share its id.

use crate::fault::Fault;
use chargeplane_actors::ports::LedgerEntry;
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::units::{Money, Timestamp};
use std::borrow::Cow;
use std::collections::BTreeMap;

const VERSION: u64 = 1;

/// Longest varint of 64 bits.
const MAX_VARINT: u32 = 10;

/// A line as a block has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) lsn: u64,
    pub(super) index: u32,
    pub(super) amount: Money,
    at: Timestamp,
    kind: &'a str,
    session: Option<&'a str>,
    key: Option<&'a str>,
}

impl Line<'_> {
    pub(super) fn entry(&self, shard: ShardId, account: &AccountId, balance: Money) -> Result<LedgerEntry, Fault> {
        Ok(LedgerEntry {
            shard,
            lsn: self.lsn,
            index: self.index,
            account: account.clone(),
            kind: Cow::Owned(self.kind.to_owned()),
            amount: self.amount,
            balance,
            session: self.session.map(crate::database::parsed).transpose()?,
            key: self.key.map(str::to_owned),
            at: self.at,
        })
    }
}

/// Encodes lines in the order of the log.
pub(super) fn encode(lines: &[&LedgerEntry]) -> Vec<u8> {
    let mut texts = Texts::default();
    let mut body = Vec::with_capacity(lines.len().saturating_mul(12));
    let (mut lsn, mut index, mut at) = (0u64, 0u32, 0i64);
    for line in lines {
        let ahead = line.lsn.wrapping_sub(lsn);
        varint(&mut body, ahead);
        let base = if ahead == 0 { index } else { 0 };
        varint(&mut body, u64::from(line.index.wrapping_sub(base)));
        varint(&mut body, zigzag(line.at.0.wrapping_sub(at)));
        varint(&mut body, zigzag(line.amount.0));
        varint(&mut body, texts.number(&line.kind));
        varint(&mut body, line.session.as_ref().map_or(0, |session| texts.number(session.as_str()).saturating_add(1)));
        varint(&mut body, line.key.as_ref().map_or(0, |key| texts.number(key).saturating_add(1)));
        (lsn, index, at) = (line.lsn, line.index, line.at.0);
    }
    let mut block = Vec::with_capacity(body.len().saturating_add(64));
    varint(&mut block, VERSION);
    varint(&mut block, texts.list.len() as u64);
    for text in &texts.list {
        varint(&mut block, text.len() as u64);
        block.extend_from_slice(text.as_bytes());
    }
    varint(&mut block, lines.len() as u64);
    block.extend_from_slice(&body);
    block
}

/// Texts in the order of their first use.
#[derive(Default)]
struct Texts<'a> {
    list: Vec<&'a str>,
    numbers: BTreeMap<&'a str, u64>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> u64 {
        let next = self.list.len() as u64;
        *self.numbers.entry(text).or_insert_with(|| {
            self.list.push(text);
            next
        })
    }
}

/// Decodes a whole block.
pub(super) fn decode(block: &[u8]) -> Result<Vec<Line<'_>>, Fault> {
    let mut rest = block;
    if take(&mut rest)? != VERSION {
        return Err(Fault::corrupt("a block of lines of an unknown version"));
    }
    let count = bounded(take(&mut rest)?, rest)?;
    let mut texts = Vec::with_capacity(count);
    for _ in 0..count {
        let length = bounded(take(&mut rest)?, rest)?;
        let (text, after) = rest.split_at_checked(length).ok_or_else(cut)?;
        texts.push(std::str::from_utf8(text).map_err(Fault::corrupt)?);
        rest = after;
    }
    let count = bounded(take(&mut rest)?, rest)?;
    let mut lines = Vec::with_capacity(count);
    let (mut lsn, mut index, mut at) = (0u64, 0u32, 0i64);
    for _ in 0..count {
        let ahead = take(&mut rest)?;
        lsn = lsn.wrapping_add(ahead);
        let base = if ahead == 0 { index } else { 0 };
        let step = u32::try_from(take(&mut rest)?).map_err(Fault::corrupt)?;
        index = base.wrapping_add(step);
        at = at.wrapping_add(unzigzag(take(&mut rest)?));
        let amount = Money(unzigzag(take(&mut rest)?));
        let kind = text(&texts, take(&mut rest)?)?;
        let session = optional(&texts, take(&mut rest)?)?;
        let key = optional(&texts, take(&mut rest)?)?;
        lines.push(Line { lsn, index, amount, at: Timestamp(at), kind, session, key });
    }
    if rest.is_empty() { Ok(lines) } else { Err(Fault::corrupt("a block of lines with something behind it")) }
}

fn cut() -> Fault {
    Fault::corrupt("a block of lines that is cut off")
}

/// A number of things of which each takes a byte at least: no memory is taken for more than there can be.
fn bounded(count: u64, rest: &[u8]) -> Result<usize, Fault> {
    usize::try_from(count).ok().filter(|count| *count <= rest.len()).ok_or_else(cut)
}

fn text<'a>(texts: &[&'a str], number: u64) -> Result<&'a str, Fault> {
    let text = usize::try_from(number).ok().and_then(|number| texts.get(number));
    text.copied().ok_or_else(|| Fault::corrupt("a block of lines names a text that it does not have"))
}

fn optional<'a>(texts: &[&'a str], number: u64) -> Result<Option<&'a str>, Fault> {
    number.checked_sub(1).map(|number| text(texts, number)).transpose()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0u64;
    for n in 0..MAX_VARINT {
        let (byte, after) = rest.split_first().ok_or_else(cut)?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(n.saturating_mul(7)).filter(|_| n < 9 || bits <= 1).ok_or_else(cut)?;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::corrupt("a number of more than 64 bits in a block of lines"))
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::placement::Family;
    use proptest::prelude::*;

    const SHARD: ShardId = ShardId { family: Family::Account, index: 3 };

    fn entry(lsn: u64, index: u32, amount: i64, at: i64, which: u8) -> LedgerEntry {
        LedgerEntry {
            shard: SHARD,
            lsn,
            index,
            account: "a1".parse().expect("an id"),
            kind: Cow::Borrowed(if which & 1 == 0 { "debit" } else { "top_up" }),
            amount: Money(amount),
            balance: Money(7),
            session: (which & 2 == 0).then(|| format!("c{}.1", which >> 4).parse().expect("an id")),
            key: (which & 4 == 0).then(|| format!("key {}", which >> 4)),
            at: Timestamp(at),
        }
    }

    fn entries() -> impl Strategy<Value = Vec<LedgerEntry>> {
        let line = (any::<u64>(), any::<u32>(), any::<i64>(), any::<i64>(), any::<u8>());
        proptest::collection::vec(line, 0..40).prop_map(|lines| {
            let mut lines: Vec<_> = lines.into_iter().map(|(l, i, m, t, w)| entry(l % 50, i, m, t, w)).collect();
            lines.sort_by_key(|line| (line.lsn, line.index));
            lines
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(lines in entries()) {
            let block = encode(&lines.iter().collect::<Vec<_>>());
            let account = "a1".parse().expect("an id");
            let read = decode(&block).expect("reads");
            let read: Vec<_> = read.iter().map(|l| l.entry(SHARD, &account, Money(7)).expect("reads")).collect();
            prop_assert_eq!(read, lines);
        }

        /// Damage is found or gives other lines: it never panics, and takes no memory beyond the block's size.
        #[test]
        fn a_damaged_block_is_no_panic(lines in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut block = encode(&lines.iter().collect::<Vec<_>>());
            let at = at.index(block.len());
            prop_assert!(decode(&block[..at]).is_err(), "cut off");
            block[at] = byte;
            drop(decode(&block));
        }

        #[test]
        fn numbers_read_back(value in any::<i64>()) {
            let mut out = Vec::new();
            varint(&mut out, zigzag(value));
            let mut rest = &out[..];
            prop_assert_eq!(take(&mut rest).map(unzigzag), Ok(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_debit_of_a_hot_account_takes_few_bytes() {
        let lines: Vec<_> = (0..512).map(|n| entry(9_000, n, -1_234, 1_767_600_000_000 + i64::from(n), 4)).collect();
        let block = encode(&lines.iter().collect::<Vec<_>>());
        assert!(block.len() < 512 * 9, "{} bytes", block.len());
    }
}
