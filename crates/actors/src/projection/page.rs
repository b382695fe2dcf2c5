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
use chargeplane_domain::account::{self, AccountEvent};
use chargeplane_domain::charger::ChargerEvent;
use chargeplane_domain::ids::{AccountId, OperatorId, Till};
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::{Currency, Money};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
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
            let entries = off_the_runtime(move || fold(&frames, entries_of)).await?;
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

fn fold<T>(
    frames: &[Frame],
    rows_of: impl Fn(&Frame, &mut Vec<T>) -> Result<(), entry::PayloadError>,
) -> Result<Vec<T>, StoreError> {
    let mut rows = Vec::new();
    for frame in frames {
        let read = rows_of(frame, &mut rows);
        read.map_err(|error| StoreError::Corrupt(format!("{} frame {}: {error}", frame.shard, frame.lsn)))?;
    }
    Ok(rows)
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
        if let Some(StationFamilyEvent::Charger(ChargerEvent::SessionSettled { record, .. })) = known(frame, key, event)
        {
            records.push(StoredRecord { shard: frame.shard, lsn: frame.lsn, index, record });
        }
    }
    Ok(())
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

/// The lines of a frame: one for each entry of an account, and for each operator one a kind of ledger account, which
/// is what all entries of the frame did to it. Those are lines of the operator's till in this shard.
fn entries_of(frame: &Frame, entries: &mut Vec<LedgerEntry>) -> Result<(), entry::PayloadError> {
    let mut tills = TillLines::default();
    let payload = entry::unpack(&frame.payload)?;
    for (index, entry) in (0u32..).zip(entry::read(&payload)?) {
        let StoredEntry::Entity { key, event } = entry else { continue };
        let Ok(AccountKey(account)) = key.parse() else { continue };
        let Some(event) = known::<AccountEvent>(frame, key, event) else { continue };
        tills.earn(frame, &account, &event);
        let Some(line) = account::statement_entries(&event).into_iter().next() else { continue };
        let entry = LedgerEntry {
            shard: frame.shard,
            lsn: frame.lsn,
            index,
            account,
            kind: Cow::Borrowed(line.kind.code()),
            amount: line.amount,
            // The store adds it to the account's balance before.
            balance: Money::ZERO,
            session: line.session,
            key: line.key,
            at: line.at,
        };
        match &event {
            // From what he earned in this shard into his till in this shard: it was his before.
            AccountEvent::Collected { .. } => {}
            _ if entry.account.is_till() => tills.lines.push(entry),
            _ => entries.push(entry),
        }
    }
    tills.number(entries);
    Ok(())
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
        let lines = &mut self.lines;
        account::operator_lines(account, event, |operator, kind, amount| {
            // A frame has a handful of operators, mostly one.
            let known =
                lines.iter_mut().find(|line| line.kind == kind && is_till_of(&line.account, operator, currency));
            match known.map(|line| (line.amount.checked_add(amount), line)) {
                Some((Some(sum), line)) => (line.amount, line.at) = (sum, line.at.max(event.at())),
                // The first, or a sum that would not fit: two lines say the same.
                _ => lines.push(LedgerEntry {
                    shard: frame.shard,
                    lsn: frame.lsn,
                    index: 0,
                    account: Till { operator: operator.clone(), currency, shard: frame.shard.index }.account(),
                    kind: Cow::Borrowed(kind),
                    amount,
                    balance: Money::ZERO,
                    session: None,
                    key: None,
                    at: event.at(),
                }),
            }
        });
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
