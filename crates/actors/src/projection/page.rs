//! From frames to rows: the next page of a shard's journal into a generation of its read model.

use crate::entry::{self, StoredEntry, StoredEvent};
use crate::family::{AccountKey, StationFamilyEvent};
use crate::metric;
use crate::ports::{
    ChargeRecords, Generation, LedgerEntry, RecordBatch, RecordConflict, StatementBatch, Statements, StoreError,
    StoredRecord,
};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{Journal, JournalError};
use chargeplane_domain::account::{self, AccountEvent, StatementKind};
use chargeplane_domain::charger::ChargerEvent;
use chargeplane_domain::ids::{AccountId, OperatorId, SessionId, Till};
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::tariff::fees::MeteredTime;
use chargeplane_domain::tariff::{PERIODS, Priced};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

/// Most frames read at a time, and so the most that one transaction of a read model takes.
pub const PAGE: usize = 500;

/// Pause before the journal is asked again that could not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Projects up to `page` frames after frame `after` and returns the last log number that is in; `after` itself at the log's end.
/// Projecting a page again changes nothing.
pub async fn project_page(
    journal: &dyn Journal,
    (records, statements): (&dyn ChargeRecords, &dyn Statements),
    to: Generation,
    shard: ShardId,
    (after, page): (u64, usize),
) -> Result<u64, StoreError> {
    let frames = loop {
        match journal.read(shard, after, page).await {
            // A journal over the network is away for a while.
            Err(JournalError::OutcomeUnknown(why)) => {
                tracing::warn!(%shard, %why, "the journal cannot be read; asking again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            frames => break frames.map_err(|error| StoreError::Io(error.to_string()))?,
        }
    };
    let Some(last) = frames.last() else { return Ok(after) };
    let upto_lsn = last.lsn;
    match shard.family {
        Family::Station => {
            // Thousands of events are read here: not on the threads that answer requests.
            let found = off_the_runtime(move || fold(&frames, records_of)).await?;
            let batch = RecordBatch { shard, after_lsn: after, upto_lsn, records: found };
            tell(&records.add(to, batch).await?.conflicts);
        }
        Family::Account => {
            let entries = off_the_runtime(move || lines_of(&frames)).await?;
            statements.add(to, StatementBatch { shard, after_lsn: after, upto_lsn, entries }).await?;
        }
    }
    Ok(upto_lsn)
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Io(format!("a page of the journal was not read: {error}"))))
}

/// The rows of all frames, in their order.
fn fold<T>(
    frames: &[Frame],
    mut rows_of: impl FnMut(&Frame, &mut Vec<T>) -> Result<(), entry::PayloadError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = Vec::new();
    for frame in frames {
        rows_of(frame, &mut rows).map_err(|error| unreadable(frame, &error))?;
    }
    Ok(rows)
}

/// The lines of all frames, in their order.
fn lines_of(frames: &[Frame]) -> Result<Vec<LedgerEntry>, StoreError> {
    let mut payloads = Vec::with_capacity(frames.len());
    for frame in frames {
        payloads.push(entry::unpack(&frame.payload).map_err(|error| unreadable(frame, &error))?);
    }
    let (mut lines, mut entries) = (Lines::default(), Vec::new());
    for (frame, payload) in frames.iter().zip(&payloads) {
        lines.of(frame, payload, &mut entries).map_err(|error| unreadable(frame, &error))?;
    }
    Ok(entries)
}

fn unreadable(frame: &Frame, error: &entry::PayloadError) -> StoreError {
    StoreError::Corrupt(format!("{} frame {}: {error}", frame.shard, frame.lsn))
}

/// Records that cannot both be true: a person must look, and the one that was first stays.
fn tell(conflicts: &[RecordConflict]) {
    for RecordConflict { shard, lsn, index, session, stays } in conflicts {
        metrics::counter!(metric::RECORD_CONFLICTS_TOTAL).increment(1);
        tracing::error!(%shard, lsn, index, %session, %stays, "a charge record differs from the one that is there");
    }
}

fn records_of(frame: &Frame, records: &mut Vec<StoredRecord>) -> Result<(), entry::PayloadError> {
    let payload = entry::unpack(&frame.payload)?;
    for (index, entry) in (0u32..).zip(entry::read(&payload)?) {
        let StoredEntry::Entity { key, event } = entry else { continue };
        if !settles(event) {
            continue;
        }
        if let Some(StationFamilyEvent::Charger(ChargerEvent::SessionSettled { record, .. })) = known(frame, key, event)
        {
            records.push(StoredRecord { shard: frame.shard, lsn: frame.lsn, index, record });
        }
    }
    Ok(())
}

/// Whether an event is a charger's settlement of a session: by its name, as few are.
fn settles(event: StoredEvent<'_>) -> bool {
    let of_charger = event.variant().and_then(|(family, event)| (family == "charger").then_some(event));
    of_charger.and_then(StoredEvent::variant).is_some_and(|(name, _)| name == "session_settled")
}

/// An event this program can read. Another one has quarantined its entity in the shard; the read models go on
/// without it, and are built again by a program that knows it.
fn known<E: DeserializeOwned>(frame: &Frame, key: &str, event: StoredEvent<'_>) -> Option<E> {
    let decoded = event.decode();
    if let Err(error) = &decoded {
        let (shard, lsn) = (frame.shard, frame.lsn);
        tracing::error!(%shard, lsn, entity = key, %error, "not in the read models: the event cannot be read");
    }
    decoded.ok()
}

/// Lines from frames. Nine of ten are debits, of few accounts and sessions again and again: a debit is read without
/// making what no line needs, and an id is made once a page.
#[derive(Default)]
struct Lines<'f> {
    accounts: Ids<'f, AccountKey>,
    sessions: Ids<'f, SessionId>,
    operators: Ids<'f, OperatorId>,
}

/// Ids by their text; none for a text that is no such id.
struct Ids<'f, T>(HashMap<&'f str, Option<T>>);

impl<T> Default for Ids<'_, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'f, T: FromStr> Ids<'f, T> {
    fn get(&mut self, text: &'f str) -> Option<&T> {
        self.0.entry(text).or_insert_with(|| text.parse().ok()).as_ref()
    }
}

/// A debit as it is stored. It has all fields of [`AccountEvent::Debited`], though its line needs five: an event
/// that cannot be read is in no read model.
#[derive(Deserialize)]
#[expect(dead_code, reason = "read to be sure that they can be read")]
struct StoredDebit<'a> {
    session: &'a str,
    operator: &'a str,
    currency: Currency,
    sequence: u32,
    meter: WattHours,
    by_period: [WattHours; PERIODS],
    #[serde(default)]
    time: MeteredTime,
    cumulative: Priced,
    energy: Money,
    service: Money,
    #[serde(default)]
    fees: Money,
    hold: Money,
    at: Timestamp,
}

/// What a line says beside its place and its account.
struct Said {
    kind: StatementKind,
    amount: Money,
    session: Option<SessionId>,
    key: Option<String>,
    at: Timestamp,
}

/// A debit as its line says it, and whom it earned what.
struct Debit<'a> {
    operator: &'a OperatorId,
    session: &'a SessionId,
    stored: StoredDebit<'a>,
}

impl<'f> Lines<'f> {
    /// The lines of a frame: one for each entry of an account, and for each operator one a kind of ledger account,
    /// which is what all entries of the frame did to it. Those are lines of the operator's till in this shard.
    fn of(
        &mut self,
        frame: &Frame,
        payload: &'f [u8],
        entries: &mut Vec<LedgerEntry>,
    ) -> Result<(), entry::PayloadError> {
        let mut tills = TillLines::default();
        for (index, entry) in (0u32..).zip(entry::read(payload)?) {
            let StoredEntry::Entity { key, event } = entry else { continue };
            let Some(AccountKey(account)) = self.accounts.get(key).cloned() else { continue };
            let said = match self.debit(event) {
                Some(debit) => debit.told(frame, &mut tills),
                None => known::<AccountEvent>(frame, key, event).and_then(|event| {
                    tills.earn(frame, &account, &event);
                    Said::of(&event)
                }),
            };
            let Some(Said { kind, amount, session, key, at }) = said else { continue };
            let entry = LedgerEntry {
                shard: frame.shard,
                lsn: frame.lsn,
                index,
                account,
                kind: Cow::Borrowed(kind.code()),
                amount,
                // The store adds it to the account's balance before.
                balance: Money::ZERO,
                session,
                key,
                at,
            };
            match kind {
                // From what he earned in this shard into his till in this shard: it was his before.
                StatementKind::Collected => {}
                _ if entry.account.is_till() => tills.lines.push(entry),
                _ => entries.push(entry),
            }
        }
        tills.number(entries);
        Ok(())
    }

    /// The short way for a debit. None for any other event, and for a debit that is not as it should be, of which the
    /// long way says why.
    fn debit(&mut self, event: StoredEvent<'f>) -> Option<Debit<'_>> {
        let (_, content) = event.variant().filter(|(name, _)| *name == "debited")?;
        let stored: StoredDebit<'f> = content.decode().ok()?;
        let operator = self.operators.get(stored.operator)?;
        let session = self.sessions.get(stored.session)?;
        Some(Debit { operator, session, stored })
    }
}

impl Debit<'_> {
    /// Adds what it earned, and returns what its line says, if it has one.
    fn told(&self, frame: &Frame, tills: &mut TillLines) -> Option<Said> {
        let StoredDebit { currency, energy, service, fees, at, .. } = self.stored;
        for (kind, amount) in [("energy", energy), ("service", service), ("fees", fees)] {
            if amount != Money::ZERO {
                tills.add(frame, (self.operator, currency), kind, amount, at);
            }
        }
        let amount = account::debited(&Priced { energy, service, fees })?;
        Some(Said { kind: StatementKind::Debit, amount, session: Some(self.session.clone()), key: None, at })
    }
}

impl Said {
    /// The long way.
    fn of(event: &AccountEvent) -> Option<Self> {
        let line = account::statement_line(event)?;
        let (session, key) = (line.session.cloned(), line.key.map(str::to_owned));
        Some(Self { kind: line.kind, amount: line.amount, session, key, at: line.at })
    }
}

/// Lines of tills in one frame.
#[derive(Default)]
struct TillLines {
    lines: Vec<LedgerEntry>,
}

impl TillLines {
    /// Adds what an event did to what operators earned.
    fn earn(&mut self, frame: &Frame, account: &AccountId, event: &AccountEvent) {
        let Some(currency) = event.metered_currency() else { return };
        account::operator_lines(account, event, |operator, kind, amount| {
            self.add(frame, (operator, currency), kind, amount, event.at());
        });
    }

    /// Adds an amount of one kind.
    fn add(
        &mut self,
        frame: &Frame,
        (operator, currency): (&OperatorId, Currency),
        kind: &'static str,
        amount: Money,
        at: Timestamp,
    ) {
        // A frame has a handful of operators, mostly one.
        let mut lines = self.lines.iter_mut();
        let known = lines.find(|line| line.kind == kind && is_till_of(&line.account, operator, currency));
        match known.map(|line| (line.amount.checked_add(amount), line)) {
            Some((Some(sum), line)) => (line.amount, line.at) = (sum, line.at.max(at)),
            // The first, or a sum that would not fit: two lines say the same.
            _ => self.lines.push(LedgerEntry {
                shard: frame.shard,
                lsn: frame.lsn,
                index: 0,
                account: Till { operator: operator.clone(), currency, shard: frame.shard.index }.account(),
                kind: Cow::Borrowed(kind),
                amount,
                balance: Money::ZERO,
                session: None,
                key: None,
                at,
            }),
        }
    }

    /// Their places in the frame: a till's lines are counted, because a line of many entries has no entry's place.
    fn number(self, entries: &mut Vec<LedgerEntry>) {
        let first = entries.len();
        for line in self.lines.into_iter().filter(|line| line.amount != Money::ZERO || line.key.is_some()) {
            let before = entries.iter().skip(first).filter(|other| other.account == line.account).count();
            entries.push(LedgerEntry { index: u32::try_from(before).unwrap_or(u32::MAX), ..line });
        }
    }
}

/// Without making the till's name for each entry.
fn is_till_of(account: &AccountId, operator: &OperatorId, currency: Currency) -> bool {
    let rest = account.as_str().strip_prefix(operator.as_str()).and_then(|rest| rest.strip_prefix('@'));
    rest.is_some_and(|rest| rest.starts_with(currency.as_str()))
}

#[cfg(test)]
mod tests;
