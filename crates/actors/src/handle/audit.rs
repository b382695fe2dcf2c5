//! Audits: an entry of a statement back to the event, the session, the meter reading and the samples behind it.
//!
//! The event is read from the journal itself, the record and the line from the read models, the samples from the
//! telemetry store: as far as the stores know them.

use super::*;
use crate::entry::{self, StoredEntry};
use crate::family::AccountKey;
use crate::ports::LedgerEntry;
use chargeplane_domain::account::{AccountEvent, Cause, cause};

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
    /// One entry of an account's statement with its cause.
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

    /// A page of an account's statement with the causes, oldest first, after (log number, index).
    pub async fn audit_statement(
        &self,
        account: &AccountId,
        after: (u64, u32),
        limit: usize,
    ) -> Result<Audited, CallError> {
        let page = self.statement(account, after, limit).await?;
        let mut audited = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            audited.push(self.audit(entry).await?);
        }
        Ok(Audited { entries: audited, complete: page.complete })
    }

    async fn audit(&self, entry: LedgerEntry) -> Result<AuditView, CallError> {
        if entry.account.is_till() {
            let what = "a line of a till is the sum of many entries; audit the accounts of the drivers instead";
            return Err(CallError::Invalid(what.to_owned()));
        }
        let cause = cause(&self.event_of(&entry).await?);
        let session = match &cause.session {
            Some(session) => self.audit_session(session, entry.at).await?,
            None => None,
        };
        Ok(AuditView { entry, cause, session })
    }

    /// The event behind an entry, from the journal.
    async fn event_of(&self, line: &LedgerEntry) -> Result<AccountEvent, CallError> {
        let corrupt = |what: String| CallError::Store(StoreError::Corrupt(what));
        let here = format!("{} frame {}, entry {}", line.shard, line.lsn, line.index);
        let frames = self.shared.ports.journal.read(line.shard, line.lsn.saturating_sub(1), 1).await;
        let frames = frames.map_err(|error| StoreError::Io(error.to_string()))?;
        let frame = frames.first().filter(|frame| frame.lsn == line.lsn);
        let frame = frame.ok_or_else(|| corrupt(format!("{here} is not in the journal")))?;
        let payload = entry::unpack(&frame.payload).map_err(|error| corrupt(format!("{here}: {error}")))?;
        let entries = entry::read(&payload).map_err(|error| corrupt(format!("{here}: {error}")))?;
        let at = usize::try_from(line.index).unwrap_or(usize::MAX);
        match entries.into_iter().nth(at) {
            Some(StoredEntry::Entity { key, event }) if key.parse() == Ok(AccountKey(line.account.clone())) => {
                event.decode().map_err(|error| corrupt(format!("{here}: {error}")))
            }
            _ => Err(corrupt(format!("{here} is not of {}", line.account))),
        }
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
