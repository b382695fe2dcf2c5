//! One day's file: chunks, and marks of the hours that have to be rolled up again.
//!
//! A charger is a small number here, given within the file: as text in the row and in the index its id took a third
//! of a small chunk's room. Marks are rows, so that a crash forgets none; which change a mark stands for is counted
//! in memory, as a rollup that is under way when the process ends is made again anyway.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, parsed, unsigned, unsigned32};
use crate::fault::Fault;
use chargeplane_actors::ports::{ChunkQuery, ChunkRow, ChunkSpan, DirtyHour};
use chargeplane_domain::chunk::{Chunk, ChunkHeader, EncodedChunk};
use chargeplane_domain::ids::ChargerId;
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, hours_of};
use chargeplane_domain::units::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rowid tables and pages of 8 KiB: as WITHOUT ROWID a chunk takes 2.15 bytes a value instead of 0.74 (measured).
const STEPS: &[&str] = &["
    CREATE TABLE chargers(number INTEGER PRIMARY KEY, charger TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE chunks(
        charger INTEGER NOT NULL,
        incarnation INTEGER NOT NULL,
        range INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        ends INTEGER NOT NULL,
        spans INTEGER NOT NULL,
        samples INTEGER NOT NULL,
        chunk BLOB NOT NULL
    ) STRICT;
    -- The one writer keeps the first four unique. The times are in it so that a range of time is found without
    -- touching a row.
    CREATE UNIQUE INDEX chunks_by_key ON chunks(charger, incarnation, range, epoch, ends, spans);
    CREATE TABLE dirty(
        charger INTEGER NOT NULL,
        hour INTEGER NOT NULL,
        shard TEXT NOT NULL,
        PRIMARY KEY(charger, hour)
    ) STRICT, WITHOUT ROWID;
"];

/// Threads that read a day.
const READERS: usize = 1;

/// Hours of one chunk that are marked: eight days, the oldest that a sample may be, and a clock's jump.
const MOST_HOURS: usize = 240;

/// A day's file with its threads.
pub(super) struct Day {
    database: Database,
    memory: Arc<Mutex<Memory>>,
}

/// What the file says, to hand.
#[derive(Default)]
struct Memory {
    /// False until it was read from the file, and again after a transaction was undone.
    is_read: bool,
    numbers: HashMap<ChargerId, i64>,
    names: HashMap<i64, ChargerId>,
    marks: HashMap<(i64, Hour), Mark>,
}

/// Numbers changes, of all files: a mark of one is not taken for a mark of another.
static CHANGES: AtomicU64 = AtomicU64::new(1);

fn change() -> u64 {
    CHANGES.fetch_add(1, Ordering::Relaxed)
}

struct Mark {
    shard: ShardId,
    change: u64,
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Day {
    /// Opens the file, or makes it.
    pub(super) fn open(dir: &DataDir, file: &str) -> Result<Self, OpenError> {
        let layout = Layout { file, steps: STEPS, page_size: 8_192, sync: Sync::Full };
        Ok(Self { database: Database::open(dir, &layout, READERS)?, memory: Arc::default() })
    }

    /// Writes chunks, each with its shard, and the marks of their hours, in one transaction.
    pub(super) async fn write(&self, rows: Vec<(ShardId, ChunkRow)>) -> Result<(), Fault> {
        self.change(move |transaction, memory| {
            rows.iter().try_for_each(|(shard, row)| {
                let charger = memory.number(transaction, &row.charger)?;
                put_chunk(transaction, charger, row)?;
                hours_of(&row.chunk.header, MOST_HOURS)
                    .try_for_each(|hour| memory.mark(transaction, (charger, hour), *shard))
            })
        })
        .await
    }

    /// Runs `change` in one transaction with the memory; when it is undone, the memory is too.
    async fn change(
        &self,
        change: impl FnOnce(&Transaction<'_>, &mut Memory) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), Fault> {
        let shared = Arc::clone(&self.memory);
        let written = self.database.write(move |transaction| {
            let mut memory = lock(&shared);
            memory.read(transaction)?;
            change(transaction, &mut memory)
        });
        let written = written.await;
        if written.is_err() {
            // Its transaction was undone, or nobody knows: what the file says counts.
            *lock(&self.memory) = Memory::default();
        }
        written
    }

    /// At most `limit` marked hours of a shard before `before`.
    pub(super) async fn marked(&self, shard: ShardId, before: Hour, limit: usize) -> Result<Vec<DirtyHour>, Fault> {
        if !lock(&self.memory).is_read {
            self.change(|_, _| Ok(())).await?;
        }
        let memory = lock(&self.memory);
        let due = memory.marks.iter().filter(|((_, hour), mark)| mark.shard == shard && *hour < before);
        let due = due.filter_map(|((charger, hour), mark)| {
            let charger = memory.names.get(charger)?.clone();
            Some(DirtyHour { charger, hour: *hour, mark: mark.change })
        });
        Ok(due.take(limit).collect())
    }

    /// Takes these marks away, but for hours that were marked again.
    pub(super) async fn clear_marks(&self, marks: &[DirtyHour]) -> Result<(), Fault> {
        let of_day = lock(&self.memory).of_day(marks);
        if of_day.is_empty() {
            return Ok(());
        }
        self.change(move |transaction, memory| {
            let mut delete = transaction.prepare_cached("DELETE FROM dirty WHERE charger = ?1 AND hour = ?2")?;
            for (key, change) in of_day {
                if memory.marks.get(&key).is_some_and(|mark| mark.change == change) {
                    memory.marks.remove(&key);
                    delete.execute(params![key.0, key.1.0])?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Chunks of a charger whose time overlaps the query, those that end first first.
    pub(super) async fn chunks(&self, query: ChunkQuery) -> Result<Vec<ChunkRow>, Fault> {
        self.database.read(move |transaction| chunks(transaction, &query)).await
    }

    /// When these chunks begin and end, to the second, and how many samples they have.
    pub(super) async fn spans(&self, query: ChunkQuery) -> Result<Vec<ChunkSpan>, Fault> {
        self.database.read(move |transaction| spans(transaction, &query)).await
    }

    /// The chargers that have chunks here.
    pub(super) async fn chargers(&self) -> Result<BTreeSet<ChargerId>, Fault> {
        self.database.read(|transaction| super::promises::ids(transaction, "SELECT charger FROM chargers")).await
    }
}

impl Memory {
    fn read(&mut self, transaction: &Transaction<'_>) -> Result<(), Fault> {
        if self.is_read {
            return Ok(());
        }
        let mut chargers = transaction.prepare("SELECT number, charger FROM chargers")?;
        for row in chargers.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))? {
            let (number, charger) = row?;
            self.learn(number, &parsed(&charger)?);
        }
        let mut dirty = transaction.prepare("SELECT charger, hour, shard FROM dirty")?;
        let fields =
            |row: &Row<'_>| -> rusqlite::Result<(i64, i64, String)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
        for row in dirty.query_map([], fields)? {
            let (charger, hour, shard) = row?;
            self.marks.insert((charger, Hour(hour)), Mark { shard: parsed(&shard)?, change: change() });
        }
        self.is_read = true;
        Ok(())
    }

    /// Those of these marks that are in this file.
    fn of_day(&self, marks: &[DirtyHour]) -> Vec<((i64, Hour), u64)> {
        let of_day = |dirty: &DirtyHour| {
            let key = (*self.numbers.get(&dirty.charger)?, dirty.hour);
            self.marks.contains_key(&key).then_some((key, dirty.mark))
        };
        marks.iter().filter_map(of_day).collect()
    }

    fn learn(&mut self, number: i64, charger: &ChargerId) {
        self.numbers.insert(charger.clone(), number);
        self.names.insert(number, charger.clone());
    }

    /// The charger's number, given if it has none.
    fn number(&mut self, transaction: &Transaction<'_>, charger: &ChargerId) -> Result<i64, Fault> {
        if let Some(number) = self.numbers.get(charger) {
            return Ok(*number);
        }
        transaction.prepare_cached("INSERT INTO chargers(charger) VALUES(?1)")?.execute([charger.as_str()])?;
        let number = transaction.last_insert_rowid();
        self.learn(number, charger);
        Ok(number)
    }

    fn mark(&mut self, transaction: &Transaction<'_>, key: (i64, Hour), shard: ShardId) -> Result<(), Fault> {
        let change = change();
        if let Some(mark) = self.marks.get_mut(&key)
            && mark.shard == shard
        {
            mark.change = change;
            return Ok(());
        }
        let mut mark = transaction.prepare_cached(
            "INSERT INTO dirty(charger, hour, shard) VALUES(?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET shard = excluded.shard",
        )?;
        mark.execute(params![key.0, key.1.0, shard.to_string()])?;
        self.marks.insert(key, Mark { shard, change });
        Ok(())
    }
}

/// The second that a moment is in, and how many seconds lie before it in the chunk.
fn seconds(header: &ChunkHeader) -> (i64, i64) {
    let second = |at: Timestamp| at.0.div_euclid(1_000);
    (second(header.last_at()), second(header.last_at()).saturating_sub(second(header.first_at())))
}

fn put_chunk(transaction: &Transaction<'_>, charger: i64, row: &ChunkRow) -> Result<(), Fault> {
    let (range, epoch) = (ordered(row.chunk.header.range), ordered(row.epoch));
    let mut select = transaction.prepare_cached(
        "SELECT rowid, samples, chunk FROM chunks
         WHERE charger = ?1 AND incarnation = ?2 AND range = ?3 AND epoch = ?4",
    )?;
    let key = params![charger, row.incarnation, range, epoch];
    let stored: Option<(i64, i64, Vec<u8>)> =
        select.query_row(key, |stored| Ok((stored.get(0)?, stored.get(1)?, stored.get(2)?))).optional()?;
    let Some((rowid, samples, bytes)) = stored else {
        let EncodedChunk { bytes, header } = &row.chunk;
        let (ends, spans) = seconds(header);
        let samples = ordered(header.count() as u64);
        let mut insert = transaction.prepare_cached(
            "INSERT INTO chunks(charger, incarnation, range, epoch, ends, spans, samples, chunk)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        insert.execute(params![charger, row.incarnation, range, epoch, ends, spans, samples, bytes])?;
        return Ok(());
    };
    if let Some(union) = united(samples, &bytes, &row.chunk)? {
        let EncodedChunk { bytes, header } = &union;
        let (ends, spans) = seconds(header);
        let samples = ordered(header.count() as u64);
        let mut update = transaction
            .prepare_cached("UPDATE chunks SET ends = ?2, spans = ?3, samples = ?4, chunk = ?5 WHERE rowid = ?1")?;
        update.execute(params![rowid, ends, spans, samples, bytes])?;
    }
    Ok(())
}

/// What to store where `stored` is and `new` comes: none when it has all there is.
fn united(samples: i64, stored: &[u8], new: &EncodedChunk) -> Result<Option<EncodedChunk>, Fault> {
    let header = match ChunkHeader::decode(stored) {
        Ok(header) => header,
        // The row is damaged. What comes from the ring again may heal it, if it has no less.
        Err(_) if ordered(new.header.count() as u64) >= samples => return Ok(Some(new.clone())),
        Err(error) => return Err(Fault::corrupt(error)),
    };
    if header.present.covers(&new.header.present) {
        return Ok(None);
    }
    if new.header.present.covers(&header.present) {
        return Ok(Some(new.clone()));
    }
    let mut union = Chunk::decode(stored).map_err(Fault::corrupt)?;
    let more = Chunk::decode(&new.bytes).map_err(Fault::corrupt)?;
    union.merge(&more).map_err(Fault::corrupt)?;
    union.encode().map(Some).map_err(Fault::corrupt)
}

fn chunks(transaction: &Transaction<'_>, query: &ChunkQuery) -> Result<Vec<ChunkRow>, Fault> {
    let number: Option<i64> = transaction
        .prepare_cached("SELECT number FROM chargers WHERE charger = ?1")?
        .query_row([query.charger.as_str()], |row| row.get(0))
        .optional()?;
    let Some(number) = number else { return Ok(Vec::new()) };
    let mut select = transaction.prepare_cached(
        "SELECT ends, ends - spans, rowid FROM chunks
         WHERE charger = ?1 AND ends >= ?2 AND ends - spans <= ?3
         ORDER BY ends, ends - spans, range, epoch",
    )?;
    let second = |at: Timestamp| at.0.div_euclid(1_000);
    let rowids: Vec<i64> = select
        .query_map(params![number, second(query.from), second(query.to)], |row| row.get(2))?
        .collect::<Result<_, _>>()?;
    let mut select = transaction.prepare_cached("SELECT incarnation, epoch, chunk FROM chunks WHERE rowid = ?1")?;
    let mut rows = Vec::new();
    for rowid in rowids {
        if rows.len() >= query.limit {
            break;
        }
        let fields =
            |row: &Row<'_>| -> rusqlite::Result<(i64, i64, Vec<u8>)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
        let (incarnation, epoch, bytes) = select.query_row([rowid], fields)?;
        let header = ChunkHeader::decode(&bytes).map_err(Fault::corrupt)?;
        if header.last_at() >= query.from && header.first_at() < query.to {
            let (charger, incarnation, epoch) = (query.charger.clone(), unsigned32(incarnation)?, unsigned(epoch)?);
            rows.push(ChunkRow { charger, incarnation, epoch, chunk: EncodedChunk { bytes, header } });
        }
    }
    Ok(rows)
}

/// By the index of the key and the count beside it: no chunk is read.
fn spans(transaction: &Transaction<'_>, query: &ChunkQuery) -> Result<Vec<ChunkSpan>, Fault> {
    let mut select = transaction.prepare_cached(
        "SELECT ends, ends - spans, samples FROM chunks
         WHERE charger = (SELECT number FROM chargers WHERE charger = ?1) AND ends >= ?2 AND ends - spans <= ?3",
    )?;
    let second = |at: Timestamp| at.0.div_euclid(1_000);
    let fields = |row: &Row<'_>| -> rusqlite::Result<(i64, i64, i64)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let mut found = Vec::new();
    for row in select.query_map(params![query.charger.as_str(), second(query.from), second(query.to)], fields)? {
        let (ends, begins, samples) = row?;
        let first_at = Timestamp(begins.saturating_mul(1_000));
        let last_at = Timestamp(ends.saturating_mul(1_000).saturating_add(999));
        if last_at >= query.from && first_at < query.to && found.len() < query.limit {
            found.push(ChunkSpan { first_at, last_at, samples: unsigned(samples)? });
        }
    }
    Ok(found)
}
