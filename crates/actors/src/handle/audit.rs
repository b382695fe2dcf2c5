//! Audits: an entry of a statement back to the event, the session, the meter reading and the samples behind it.
//!
//! A line of an operator's till that sums a frame up leads to the drivers' entries in that frame, and those are audited
//! in their own accounts.
//!
//! The event is read from the journal itself, the record and the line from the read models, the samples from the
//! telemetry store: as far as the stores know them.

use super::*;
use crate::entry::{self, StoredEntry};
use crate::family::AccountKey;
use crate::handle::operator_statement::is_of_till;
use crate::ports::LedgerEntry;
use chargeplane_cluster::frame::Frame;
use chargeplane_domain::account::{AccountEvent, Cause, StatementKind, cause, operator_lines, statement_line};
use chargeplane_domain::units::Money;
use std::collections::BTreeSet;

/// Where an entry stands in the journal: shard, log number, index in the frame. Text: `account-0003/12/0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryId {
    /// The shard.
    pub shard: ShardId,
    /// The frame.
    pub lsn: u64,
    /// The event's place in it.
    pub index: u32,
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.shard, self.lsn, self.index)
    }
}

impl std::str::FromStr for EntryId {
    type Err = CallError;

    fn from_str(text: &str) -> Result<Self, CallError> {
        let mut parts = text.split('/');
        let mut read = || {
            let (shard, lsn, index) = (parts.next()?, parts.next()?, parts.next()?);
            let id = Self { shard: shard.parse().ok()?, lsn: lsn.parse().ok()?, index: index.parse().ok()? };
            parts.next().is_none().then_some(id)
        };
        let wrong = || CallError::Invalid("entry: write SHARD/LSN/INDEX, such as account-0003/12/0".to_owned());
        read().ok_or_else(wrong)
    }
}

/// An entry and what is known of its cause.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditView {
    /// The line of the statement.
    pub entry: LedgerEntry,
    /// The event behind it.
    pub cause: Cause,
    /// The session, when one caused it and something is known of it.
    pub session: Option<AuditedSession>,
    /// Of a till's line that sums a frame up: the entries that it is the sum of.
    pub parts: Vec<AuditedPart>,
}

/// A driver's entry that earned an operator something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedPart {
    /// The entry.
    pub entry: EntryId,
    /// The account that it is of.
    pub account: AccountId,
    /// The session.
    pub session: Option<SessionId>,
    /// The event's stable name.
    pub event: &'static str,
    /// What it did to what the operator earned, in the line's kind of ledger account.
    pub amount: Money,
}

/// The session behind an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditedSession {
    /// The charger.
    pub charger: ChargerId,
    /// The charge record, when it is settled.
    pub record: Option<StoredRecord>,
    /// From its start, by the gateway's clock ...
    pub from: Option<Timestamp>,
    /// ... to its end or, while it goes on or for a debit before that, the time of the entry.
    pub to: Timestamp,
    /// The charger's stored samples in that time; none when the start is not known.
    pub samples: Option<Vec<SampleRange>>,
}

/// A page of an account's entries with their causes.
#[derive(Debug, Clone, PartialEq)]
pub struct Audited {
    /// Oldest first.
    pub entries: Vec<AuditView>,
    /// False when the read models are behind: the last entries may be missing.
    pub complete: bool,
}

/// Samples of one enrolment's numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleRange {
    /// The enrolment of the gateway that numbered them.
    pub incarnation: u32,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// How many of them are stored; less than the range holds when some are missing or were thinned.
    pub stored: u64,
}

impl NodeHandle {
    /// One entry of an account's statement with its cause. An entry of a till that is a sum has its parts, all of them:
    /// a frame has 8 MiB at most.
    pub async fn audit_entry(&self, account: &AccountId, id: EntryId) -> Result<AuditView, CallError> {
        let missing = || {
            let EntryId { shard, lsn, index } = id;
            CallError::NotFound(format!("entry {shard}/{lsn}/{index} in the statement of {account}"))
        };
        if id.shard != self.shared.router.shard_of_account(account) {
            return Err(missing());
        }
        let before = match id.index.checked_sub(1) {
            Some(index) => (id.lsn, index),
            None => (id.lsn.saturating_sub(1), u32::MAX),
        };
        let page = self.statement(account, before, 1).await?;
        let found = page.entries.into_iter().find(|entry| (entry.lsn, entry.index) == (id.lsn, id.index));
        let missing = || if page.complete { missing() } else { CallError::Behind(account.to_string()) };
        self.audit(found.ok_or_else(missing)?).await
    }

    /// A page of an account's statement with the causes, oldest first, after (log number, index). Sums of tills say how
    /// many parts they have; the parts are told entry by entry.
    pub async fn audit_statement(
        &self,
        account: &AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> Result<Audited, CallError> {
        let page = self.statement(account, after, limit).await?;
        let mut audited = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            audited.push(AuditView { parts: Vec::new(), ..self.audit(entry).await? });
        }
        Ok(Audited { entries: audited, complete: page.complete })
    }

    async fn audit(&self, entry: LedgerEntry) -> Result<AuditView, CallError> {
        if entry.account.is_till() && !is_of_till(&entry) {
            return self.audit_sum(entry).await;
        }
        let cause = cause(&self.event_of(&entry).await?);
        let session = match &cause.session {
            Some(session) => self.audit_session(session, entry.at).await?,
            None => None,
        };
        Ok(AuditView { entry, cause, session, parts: Vec::new() })
    }

    /// What a till's line sums up.
    async fn audit_sum(&self, line: LedgerEntry) -> Result<AuditView, CallError> {
        let frame = self.frame_of(&line).await?;
        let parts = parts_of(&line, &frame).map_err(|what| corrupt(&line, &what))?;
        let sum = parts.iter().try_fold(Money::ZERO, |sum, part| sum.checked_add(part.amount));
        if sum != Some(line.amount) {
            return Err(corrupt(&line, "says another sum than the journal"));
        }
        let sessions: BTreeSet<_> = parts.iter().filter_map(|part| part.session.as_ref()).collect();
        let note = format!("the sum of {} entries of {} sessions in this frame", parts.len(), sessions.len());
        let cause = Cause { event: "frame", note, key: None, session: None, reading: None };
        Ok(AuditView { entry: line, cause, session: None, parts })
    }

    /// The event behind an entry, from the journal.
    async fn event_of(&self, line: &LedgerEntry) -> Result<AccountEvent, CallError> {
        let frame = self.frame_of(line).await?;
        // A till's lines are counted, an account's have the places of their entries.
        let event = match line.account.is_till() {
            true => self.place_in_till(line).await.map(|place| till_event(line, place, &frame))?,
            false => account_event(line, &frame),
        };
        event.map_err(|what| corrupt(line, &what))
    }

    /// The frame that an entry is of.
    async fn frame_of(&self, line: &LedgerEntry) -> Result<Frame, CallError> {
        let frames = self.shared.ports.journal.read(line.shard, line.lsn.saturating_sub(1), 1).await;
        let frames = frames.map_err(|error| StoreError::Io(error.to_string()))?;
        let frame = frames.into_iter().next().filter(|frame| frame.lsn == line.lsn);
        frame.ok_or_else(|| corrupt(line, "is not in the journal"))
    }

    /// How many of the till's own entries the frame has before this one.
    async fn place_in_till(&self, line: &LedgerEntry) -> Result<usize, CallError> {
        let before = (line.lsn.saturating_sub(1), u32::MAX);
        let count = usize::try_from(line.index).unwrap_or(usize::MAX);
        let store = &self.shared.ports.statements;
        let lines = store.lines(Generation::Served, line.account.clone(), before, count).await?;
        Ok(lines.iter().filter(|one| (one.lsn, one.index) < (line.lsn, line.index) && is_of_till(one)).count())
    }

    /// What the stores know of the session behind an entry of time `at`.
    async fn audit_session(&self, session: &SessionId, at: Timestamp) -> Result<Option<AuditedSession>, CallError> {
        let Some(charger) = chargers::charger_of(session.tenant(), session.local()) else { return Ok(None) };
        let query = RecordQuery { session: Some(session.clone()), limit: 1, ..RecordQuery::default() };
        let record = self.charge_records(query).await?.into_iter().next();
        let (from, ended_at) = match &record {
            Some(stored) => (Some(stored.record.started_at), Some(stored.record.ended_at)),
            None => match self.known_session(session).await {
                Ok(KnownSession::Open(open)) => (open.session.started_at, open.session.stopped_at),
                Ok(KnownSession::Refused(_)) | Err(CallError::NotFound(_)) => (None, None),
                Err(error) => return Err(error),
            },
        };
        let to = ended_at.map_or(at, |ended| ended.min(at));
        let samples = match from {
            // A charger that left the catalogue has its samples still, but is not served.
            Some(from) if self.directory().charger(&charger).is_some() => {
                Some(self.sample_ranges(&charger, from, to.plus_ms(1)).await?)
            }
            _ => None,
        };
        Ok(Some(AuditedSession { charger, record, from, to, samples }))
    }
}

fn corrupt(line: &LedgerEntry, what: &str) -> CallError {
    let LedgerEntry { shard, lsn, index, account, .. } = line;
    CallError::Store(StoreError::Corrupt(format!("{shard} frame {lsn}, entry {index} of {account}: {what}")))
}

/// The event of an account's line: the entry at its place.
fn account_event(line: &LedgerEntry, frame: &Frame) -> Result<AccountEvent, String> {
    let payload = entry::unpack(&frame.payload).map_err(|error| error.to_string())?;
    let entries = entry::read(&payload).map_err(|error| error.to_string())?;
    let at = usize::try_from(line.index).unwrap_or(usize::MAX);
    match entries.into_iter().nth(at) {
        Some(StoredEntry::Entity { key, event }) if key.parse() == Ok(AccountKey(line.account.clone())) => {
            event.decode().map_err(|error| error.to_string())
        }
        _ => Err("the journal has something else there".to_owned()),
    }
}

/// The event of a till's own line: the one at this place among the entries of the till that have a line.
fn till_event(line: &LedgerEntry, place: usize, frame: &Frame) -> Result<AccountEvent, String> {
    let events = account_events(frame)?.into_iter().filter(|(_, account, _)| *account == line.account);
    let mut own = events.map(|(_, _, event)| event).filter(|event| {
        statement_line(event).is_some_and(|said| {
            said.kind != StatementKind::Collected && (said.amount != Money::ZERO || said.key.is_some())
        })
    });
    let found = own.nth(place).filter(|event| {
        statement_line(event).is_some_and(|said| (said.kind.code(), said.amount) == (&*line.kind, line.amount))
    });
    found.ok_or_else(|| "the journal has something else there".to_owned())
}

/// The entries that a till's line is the sum of.
fn parts_of(line: &LedgerEntry, frame: &Frame) -> Result<Vec<AuditedPart>, String> {
    let till = line.account.till().ok_or("this is no till")?;
    let mut parts = Vec::new();
    for (index, account, event) in account_events(frame)? {
        if event.metered_currency() != Some(till.currency) {
            continue;
        }
        let mut amount = Some(Money::ZERO);
        operator_lines(&account, &event, |operator, kind, part| {
            if *operator == till.operator && kind == line.kind {
                amount = amount.and_then(|sum| sum.checked_add(part));
            }
        });
        let amount = amount.ok_or("an amount does not fit")?;
        if amount == Money::ZERO {
            continue;
        }
        let entry = EntryId { shard: frame.shard, lsn: frame.lsn, index };
        let cause = cause(&event);
        parts.push(AuditedPart { entry, account, session: cause.session, event: cause.event, amount });
    }
    Ok(parts)
}

/// The accounts' events of a frame with their places. One that cannot be read is in no read model.
fn account_events(frame: &Frame) -> Result<Vec<(u32, AccountId, AccountEvent)>, String> {
    let payload = entry::unpack(&frame.payload).map_err(|error| error.to_string())?;
    let entries = entry::read(&payload).map_err(|error| error.to_string())?;
    let events = (0u32..).zip(entries).filter_map(|(index, entry)| {
        let StoredEntry::Entity { key, event } = entry else { return None };
        let AccountKey(account) = key.parse().ok()?;
        Some((index, account, event.decode().ok()?))
    });
    Ok(events.collect())
}
