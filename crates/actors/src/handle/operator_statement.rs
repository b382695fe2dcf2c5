//! An operator's statement: what his ledger accounts and tills did in all shards, in one order and with one balance.
//!
//! Each shard's lines are those of the operator's till there, a line a frame and kind of ledger account. They are merged
//! by time, shard and place in the log; the balance is the fold over the shards. Lines of one kind within an hour are
//! told as one, so that a month is a few thousand lines, and what tills did one by one. Whoever wants to follow a sum
//! asks for the lines of the frames, and audits those.

use super::*;
use crate::ports::LedgerEntry;
use chargeplane_domain::ids::{OperatorId, Till};
use chargeplane_domain::units::{Currency, Money};
use std::collections::VecDeque;

/// Lines of a shard read at a time.
const PAGE: usize = 512;

/// Lines read for one answer at most: then it is cut, in the middle of an hour if need be.
const MOST_READ: usize = 200_000;

const HOUR_MS: i64 = 3_600_000;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct OperatorQuery {
    /// Whose.
    pub operator: OperatorId,
    /// In which currency.
    pub currency: Currency,
    /// Lines at or after this moment ...
    pub from: Option<Timestamp>,
    /// ... and before this one.
    pub to: Option<Timestamp>,
    /// Where the page before ended: the `next` of it.
    pub after: Positions,
    /// Most lines, and those that the hour of the last one has besides.
    pub limit: usize,
    /// The lines of each frame as they are, instead of their sum over an hour: each has the entry to audit.
    pub frames: bool,
}

/// How far each shard is told: log number and place of the last line, by shard. Text: `0-12.3,4-7.0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions(BTreeMap<u16, (u64, u32)>);

impl std::fmt::Display for Positions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, (shard, (lsn, index))) in self.0.iter().enumerate() {
            write!(f, "{}{shard}-{lsn}.{index}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Positions {
    type Err = CallError;

    fn from_str(text: &str) -> Result<Self, CallError> {
        let place = |part: &str| {
            let (shard, place) = part.split_once('-')?;
            let (lsn, index) = place.split_once('.')?;
            Some((shard.parse().ok()?, (lsn.parse().ok()?, index.parse().ok()?)))
        };
        let all = text.split(',').map(place).collect::<Option<_>>();
        all.map(Self).ok_or_else(|| CallError::Invalid("after: give back the `next` of the page before".to_owned()))
    }
}

/// A line of an operator's statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorLine {
    /// `energy`, `service`, `fees`, `overshoot`, `share`: what one hour or, when frames are asked for, one frame did; or
    /// `payout`, `transfer_out`, ...: one entry.
    pub kind: String,
    /// What it did to what he is owed.
    pub amount: Money,
    /// What he is owed after it, over all shards: what he earned and was not paid out.
    pub balance: Money,
    /// When; of several, the last.
    pub at: Timestamp,
    /// How many lines of the log's frames it sums up.
    pub lines: u64,
    /// The till, for a line that is no sum over an hour.
    pub till: Option<AccountId>,
    /// Its name in an audit of that till.
    pub entry: Option<EntryId>,
    /// The key of the request, for an entry of a till.
    pub key: Option<String>,
}

/// A page of an operator's statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorStatement {
    /// Oldest first.
    pub lines: Vec<OperatorLine>,
    /// Where the next page begins; none at the end.
    pub next: Option<Positions>,
    /// False when the read models are behind: what was answered lately may be missing at the end.
    pub complete: bool,
}

/// The lines of one shard, as far as they are read.
struct Stream {
    till: Till,
    lines: VecDeque<LedgerEntry>,
    /// Where to read on; none at the end.
    after: Option<(u64, u32)>,
}

impl NodeHandle {
    /// A page of an operator's statement.
    pub async fn operator_statement(&self, query: OperatorQuery) -> Result<OperatorStatement, CallError> {
        let mut complete = true;
        for index in 0..self.shared.config.shards {
            complete &= self.is_projected(ShardId { family: Family::Account, index }).await;
        }
        let (mut streams, mut told) = (Vec::new(), Telling::new(query.from, query.to, query.frames));
        for shard in 0..self.shared.config.shards {
            let till = Till { operator: query.operator.clone(), currency: query.currency, shard };
            let mut stream = Stream { till, lines: VecDeque::new(), after: Some((0, 0)) };
            if let Some(place) = query.after.0.get(&shard) {
                let balance = self.balance_at(&stream.till, *place).await?;
                told.resume(shard, *place, balance)?;
                stream.after = Some(*place);
            }
            self.read_on(&mut stream).await?;
            streams.push(stream);
        }
        let mut read = 0usize;
        loop {
            let first = streams.iter_mut().filter(|stream| !stream.lines.is_empty());
            let first = first.min_by_key(|stream| stream.lines.front().map(|line| (line.at, line.lsn, line.index)));
            let Some(stream) = first else { break };
            let Some(line) = stream.lines.front() else { break };
            // An hour is told whole, so a page may have a few lines more.
            if (told.lines.len() >= query.limit && told.begins(line)) || read >= MOST_READ {
                let next = Some(told.positions.clone());
                return Ok(OperatorStatement { lines: told.lines, next, complete });
            }
            read = read.saturating_add(1);
            let (shard, line) = (stream.till.shard, stream.lines.pop_front());
            if let Some(line) = line {
                told.take(shard, line)?;
            }
            if stream.lines.is_empty() {
                self.read_on(stream).await?;
            }
        }
        Ok(OperatorStatement { lines: told.lines, next: None, complete })
    }

    async fn read_on(&self, stream: &mut Stream) -> Result<(), CallError> {
        let Some(after) = stream.after.take() else { return Ok(()) };
        let store = &self.shared.ports.statements;
        let page = store.lines(Generation::Served, stream.till.account(), after, PAGE).await?;
        stream.after = page.last().filter(|_| page.len() >= PAGE).map(|last| (last.lsn, last.index));
        stream.lines = page.into();
        Ok(())
    }

    /// The balance that a shard's line left, which the page before told last.
    async fn balance_at(&self, till: &Till, (lsn, index): (u64, u32)) -> Result<Money, CallError> {
        let before = match index.checked_sub(1) {
            Some(index) => (lsn, index),
            None => (lsn.saturating_sub(1), u32::MAX),
        };
        let store = &self.shared.ports.statements;
        let page = store.lines(Generation::Served, till.account(), before, 1).await?;
        let line = page.into_iter().find(|line| (line.lsn, line.index) == (lsn, index));
        let missing = || CallError::Invalid("after: give back the `next` of the page before".to_owned());
        line.map(|line| line.balance).ok_or_else(missing)
    }
}

/// What is told of the merged lines.
struct Telling {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    /// Nothing is summed up.
    frames: bool,
    lines: Vec<OperatorLine>,
    /// Where the lines of the hour that is told begin.
    hour_from: usize,
    hour: i64,
    balance: Money,
    positions: Positions,
}

impl Telling {
    fn new(from: Option<Timestamp>, to: Option<Timestamp>, frames: bool) -> Self {
        let (lines, positions) = (Vec::new(), Positions::default());
        Self { from, to, frames, lines, hour_from: 0, hour: i64::MIN, balance: Money::ZERO, positions }
    }

    fn resume(&mut self, shard: u16, place: (u64, u32), balance: Money) -> Result<(), CallError> {
        self.balance = self.balance.checked_add(balance).ok_or_else(overflow)?;
        self.positions.0.insert(shard, place);
        Ok(())
    }

    fn is_wanted(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }

    /// Told as a line of its own.
    fn is_alone(&self, line: &LedgerEntry) -> bool {
        self.frames || is_of_till(line)
    }

    /// The line of this hour that takes another one of its kind; what tills did is told alone. Clocks of nodes differ
    /// by a little: what is of the hour before is told with this one.
    fn open(&self, line: &LedgerEntry) -> Option<usize> {
        if self.is_alone(line) || line.at.0.div_euclid(HOUR_MS) > self.hour {
            return None;
        }
        let told = self.lines.iter().enumerate().skip(self.hour_from);
        told.filter(|(_, told)| told.till.is_none() && told.kind == line.kind).map(|(n, _)| n).next()
    }

    /// True when it belongs to no line or hour that is told.
    fn begins(&self, line: &LedgerEntry) -> bool {
        self.is_wanted(line.at) && (self.is_alone(line) || line.at.0.div_euclid(HOUR_MS) > self.hour)
    }

    fn take(&mut self, shard: u16, line: LedgerEntry) -> Result<(), CallError> {
        self.balance = self.balance.checked_add(line.amount).ok_or_else(overflow)?;
        self.positions.0.insert(shard, (line.lsn, line.index));
        if !self.is_wanted(line.at) {
            return Ok(());
        }
        let open = self.open(&line);
        let hour = line.at.0.div_euclid(HOUR_MS);
        let alone = self.is_alone(&line);
        // What comes behind an entry of a till is not told before it.
        if hour > self.hour || alone {
            (self.hour, self.hour_from) = (hour.max(self.hour), self.lines.len());
        }
        match open.and_then(|n| self.lines.get_mut(n)) {
            Some(told) => {
                told.amount = told.amount.checked_add(line.amount).ok_or_else(overflow)?;
                (told.at, told.lines) = (told.at.max(line.at), told.lines.saturating_add(1));
            }
            None => self.lines.push(OperatorLine {
                till: alone.then(|| line.account.clone()),
                entry: alone.then_some(EntryId { shard: line.shard, lsn: line.lsn, index: line.index }),
                kind: line.kind.into_owned(),
                amount: line.amount,
                balance: Money::ZERO,
                at: line.at,
                lines: 1,
                key: line.key,
            }),
        }
        self.balances()
    }

    /// The balances of the lines from the open hour on, from the last one back.
    fn balances(&mut self) -> Result<(), CallError> {
        let mut balance = self.balance;
        for line in self.lines.iter_mut().skip(self.hour_from).rev() {
            line.balance = balance;
            balance = balance.checked_sub(line.amount).ok_or_else(overflow)?;
        }
        Ok(())
    }
}

/// An entry of a till, and not a sum of what drivers' accounts did.
pub(super) fn is_of_till(line: &LedgerEntry) -> bool {
    !matches!(&*line.kind, "energy" | "service" | "fees" | "overshoot" | "share" | "other")
}

fn overflow() -> CallError {
    CallError::Store(StoreError::Corrupt("an operator's balance does not fit in 64 bits".to_owned()))
}
