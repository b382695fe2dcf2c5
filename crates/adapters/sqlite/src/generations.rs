//! A read model's files: the one that is served, and at times a fresh one that is built beside it.
//!
//! There are two file names, taken in turn. Each file says which generation it is and whether it is complete; the
//! complete one with the highest number is served, any other is removed at open. So a process that ends at any moment
//! leaves one generation that is whole.
//!
//! A fresh one is filled without most of its indexes. Rows come in the order of the log, so each would change a page
//! somewhere in every index; made at the end, an index is sorted and written once. Whoever reads rows of it, and
//! whoever publishes it, has it finished first.

use crate::data_dir::{DataDir, OpenError};
use crate::database::{Database, Layout, Sync, ordered, parsed, path_of, unsigned};
use crate::fault::Fault;
use chargeplane_actors::ports::Generation;
use chargeplane_domain::placement::ShardId;
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What the files of every read model have.
macro_rules! read_model_tables {
    () => {
        "
        CREATE TABLE generation(
            number INTEGER NOT NULL,
            complete INTEGER NOT NULL,
            filling INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE cursors(
            shard TEXT NOT NULL,
            upto_lsn INTEGER NOT NULL
        ) STRICT;
        CREATE UNIQUE INDEX cursors_by_shard ON cursors(shard);
        "
    };
}
pub(crate) use read_model_tables;

/// What a read model keeps in its files.
pub(crate) struct Model {
    /// The two files, taken in turn.
    pub(crate) layouts: [Layout<'static>; 2],
    /// The indexes that a file gets once it was filled; making one again changes nothing.
    pub(crate) indexes: &'static [&'static str],
    /// Holds what was filled in against itself, as soon as the indexes are there.
    pub(crate) settle: fn(&Transaction<'_>) -> Result<(), Fault>,
    /// How many records or lines there are.
    pub(crate) count: fn(&Transaction<'_>) -> Result<u64, Fault>,
}

/// A file of a read model, with its tables.
pub(crate) const fn layout(file: &'static str, steps: &'static [&'static str]) -> Layout<'static> {
    Layout { file, steps, page_size: 4_096, sync: Sync::Normal }
}

/// A store with `generations` of this [`Model`]: how it is opened, and all of its port that is the same for each.
macro_rules! read_model {
    ($name:ident, $model:expr) => {
        impl $name {
            /// Opens what a data directory has of it and starts its threads.
            pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
                Ok(Self { generations: Generations::open(dir, $model)? })
            }
        }

        impl ReadModel for $name {
            fn cursors(&self, of: Generation) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>> {
                Box::pin(async move { Ok(self.generations.of(of)?.read(cursors).await?) })
            }

            fn count(&self, of: Generation) -> BoxFuture<'_, Result<u64, StoreError>> {
                Box::pin(async move { Ok(self.generations.of(of)?.read($model.count).await?) })
            }

            fn begin(&self) -> BoxFuture<'_, Result<(), StoreError>> {
                Box::pin(async move { Ok(self.generations.begin().await?) })
            }

            fn publish(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
                Box::pin(async move { Ok(self.generations.publish().await?) })
            }

            fn discard(&self) -> BoxFuture<'_, Result<(), StoreError>> {
                Box::pin(async move { Ok(self.generations.discard().await?) })
            }
        }
    };
}
pub(crate) use read_model;

/// Threads that read each file.
const READERS: usize = 2;

/// Pages that the writer keeps in memory, in KiB: the upper parts of the indexes, into which rows go everywhere.
const WRITER_CACHE_KIB: i64 = 64 * 1_024;

/// How often the readers of a replaced generation are looked for.
const RETIRE_PAUSE: Duration = Duration::from_millis(5);

#[derive(Clone)]
struct File {
    slot: usize,
    number: u64,
    database: Arc<Database>,
}

struct Files {
    served: File,
    fresh: Option<File>,
}

/// The generations of one read model.
pub(crate) struct Generations {
    dir: DataDir,
    model: &'static Model,
    files: RwLock<Files>,
    /// Held while files come and go.
    change: tokio::sync::Mutex<()>,
}

impl Generations {
    /// Opens the complete generation, or makes the first one. Blocks.
    pub(crate) fn open(dir: &DataDir, model: &'static Model) -> Result<Self, OpenError> {
        let mut found: Vec<File> = Vec::new();
        for (slot, layout) in model.layouts.iter().enumerate() {
            if !path_of(dir, layout).exists() {
                continue;
            }
            let database = Database::open(dir, layout, READERS)?;
            match database.write_blocking(generation_of).map_err(|fault| unreadable(dir, layout, &fault))? {
                Some(number) => found.push(File { slot, number, database: Arc::new(database) }),
                None => {
                    drop(database);
                    remove(dir, layout)?;
                }
            }
        }
        found.sort_by_key(|file| file.number);
        let served = match found.pop() {
            Some(served) => served,
            None => {
                let layout = &model.layouts[0];
                let first = create(dir, model, 0, 1)?;
                // What comes in is read at once: it is never filled.
                let complete = first.database.write_blocking(move |transaction| {
                    model.indexes.iter().try_for_each(|index| transaction.execute_batch(index))?;
                    transaction.execute("UPDATE generation SET filling = 0", [])?;
                    complete(transaction)
                });
                complete.map_err(|fault| unreadable(dir, layout, &fault))?;
                first
            }
        };
        for File { slot, database, .. } in found {
            drop(database);
            remove(dir, &model.layouts[slot])?;
        }
        let files = RwLock::new(Files { served, fresh: None });
        Ok(Self { dir: dir.clone(), model, files, change: tokio::sync::Mutex::default() })
    }

    /// The file of a generation.
    pub(crate) fn of(&self, generation: Generation) -> Result<Arc<Database>, Fault> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let file = match generation {
            Generation::Served => Some(&files.served),
            Generation::Fresh => files.fresh.as_ref(),
        };
        file.map(|file| Arc::clone(&file.database)).ok_or_else(|| Fault::Io("there is no fresh generation".to_owned()))
    }

    /// The file of a generation, with all of its indexes: to read rows from.
    pub(crate) async fn finished(&self, generation: Generation) -> Result<Arc<Database>, Fault> {
        let database = self.of(generation)?;
        if generation == Generation::Fresh && database.read(is_filling).await? {
            for index in self.model.indexes {
                // Each in a transaction of its own, so that the WAL takes one of them at most.
                database.write(move |transaction| Ok(transaction.execute_batch(index)?)).await?;
            }
            let settle = self.model.settle;
            let settled = database.write(move |transaction| match is_filling(transaction)? {
                true => {
                    settle(transaction)?;
                    transaction.execute("UPDATE generation SET filling = 0", [])?;
                    Ok(())
                }
                false => Ok(()),
            });
            settled.await?;
        }
        Ok(database)
    }

    /// Makes an empty fresh generation; a former one is removed.
    pub(crate) async fn begin(&self) -> Result<(), Fault> {
        let _change = self.change.lock().await;
        self.drop_fresh().await?;
        let (slot, number) = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            (1 - files.served.slot, files.served.number.saturating_add(1))
        };
        let (dir, model) = (self.dir.clone(), self.model);
        let fresh = blocking(move || {
            // Of a process that could not remove it.
            remove(&dir, &model.layouts[slot]).and_then(|()| create(&dir, model, slot, number)).map_err(Fault::from)
        });
        let fresh = fresh.await?;
        self.files.write().unwrap_or_else(PoisonError::into_inner).fresh = Some(fresh);
        Ok(())
    }

    /// Removes the fresh generation, if there is one.
    pub(crate) async fn discard(&self) -> Result<(), Fault> {
        let _change = self.change.lock().await;
        self.drop_fresh().await
    }

    async fn drop_fresh(&self) -> Result<(), Fault> {
        let fresh = self.files.write().unwrap_or_else(PoisonError::into_inner).fresh.take();
        match fresh {
            Some(fresh) => self.retire(fresh).await,
            None => Ok(()),
        }
    }

    /// Serves the fresh generation if every shard is as far in it as in the served one.
    pub(crate) async fn publish(&self) -> Result<bool, Fault> {
        let _change = self.change.lock().await;
        if self.of(Generation::Fresh).is_err() {
            return Ok(false);
        }
        let fresh = self.finished(Generation::Fresh).await?;
        let served = self.of(Generation::Served)?;
        // The served one must not move on between the look and the change, or readers would go back.
        let (enter, entered) = tokio::sync::oneshot::channel();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let held = served.write(move |transaction| {
            drop(enter.send(cursors(transaction)?));
            let _ = left.recv();
            Ok(())
        });
        let change = async {
            let held_at = entered.await.map_err(|_| Fault::Io("the served generation cannot be held".to_owned()))?;
            let changed = self.change_if_level(&fresh, held_at).await;
            drop(leave);
            changed
        };
        let (held, changed) = tokio::join!(held, change);
        held?;
        drop((served, fresh));
        match changed? {
            Some(former) => self.retire(former).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Makes the fresh file complete, in the file and here; what was served before comes back.
    async fn change_if_level(&self, fresh: &Database, served: Vec<(ShardId, u64)>) -> Result<Option<File>, Fault> {
        let at: BTreeMap<_, _> = fresh.read(cursors).await?.into_iter().collect();
        if !served.iter().all(|(shard, lsn)| at.get(shard).copied().unwrap_or(0) >= *lsn) {
            return Ok(None);
        }
        fresh.write(complete).await?;
        // On the disk before the former one is removed.
        fresh.checkpoint().await?;
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = files.fresh.take() else { return Ok(None) };
        Ok(Some(std::mem::replace(&mut files.served, file)))
    }

    /// Closes a file that nobody finds any more, once its last call has ended, and removes it. Before that its name
    /// must not be used again: SQLite removes the WAL by name when it closes.
    async fn retire(&self, file: File) -> Result<(), Fault> {
        let File { slot, mut database, .. } = file;
        let database = loop {
            match Arc::try_unwrap(database) {
                Ok(last) => break last,
                Err(shared) => database = shared,
            }
            tokio::time::sleep(RETIRE_PAUSE).await;
        };
        let (dir, model) = (self.dir.clone(), self.model);
        blocking(move || {
            drop(database);
            remove(&dir, &model.layouts[slot]).map_err(Fault::from)
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fault::Io(format!("a read model's file was not handled: {error}"))))
}

fn unreadable(dir: &DataDir, layout: &Layout, fault: &Fault) -> OpenError {
    OpenError::Io { path: path_of(dir, layout), source: std::io::Error::other(fault.text()) }
}

/// An empty file that is to be filled.
fn create(dir: &DataDir, model: &'static Model, slot: usize, number: u64) -> Result<File, OpenError> {
    let layout = &model.layouts[slot];
    let database = Database::open(dir, layout, READERS)?;
    let written = database.write_blocking(move |transaction| {
        size_cache(transaction)?;
        let sql = "INSERT INTO generation(number, complete, filling) VALUES(?1, 0, 1)";
        transaction.execute(sql, [ordered(number)])?;
        Ok(())
    });
    written.map_err(|fault| unreadable(dir, layout, &fault))?;
    Ok(File { slot, number, database: Arc::new(database) })
}

/// Removes a file that is closed, with what SQLite keeps beside it. The file itself first: without it the others are
/// nothing.
fn remove(dir: &DataDir, layout: &Layout) -> Result<(), OpenError> {
    for end in ["", "-wal", "-shm"] {
        let path = dir.path().join(format!("{}{end}", layout.file));
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(OpenError::Io { path, source }),
            _ => {}
        }
    }
    Ok(())
}

/// The number of a complete generation.
fn generation_of(transaction: &Transaction<'_>) -> Result<Option<u64>, Fault> {
    size_cache(transaction)?;
    let row = transaction.query_row("SELECT number, complete FROM generation", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
    });
    match row.optional()? {
        Some((number, true)) => Ok(Some(unsigned(number)?)),
        _ => Ok(None),
    }
}

fn size_cache(transaction: &Transaction<'_>) -> Result<(), Fault> {
    Ok(transaction.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?)
}

fn complete(transaction: &Transaction<'_>) -> Result<(), Fault> {
    transaction.execute("UPDATE generation SET complete = 1", [])?;
    Ok(())
}

/// Whether the file does not have all of its indexes yet.
pub(crate) fn is_filling(transaction: &Transaction<'_>) -> Result<bool, Fault> {
    Ok(transaction.prepare_cached("SELECT filling FROM generation")?.query_row([], |row| row.get(0))?)
}

/// How far each shard is in a file, in the order of the shards.
pub(crate) fn cursors(transaction: &Transaction<'_>) -> Result<Vec<(ShardId, u64)>, Fault> {
    let mut select = transaction.prepare_cached("SELECT shard, upto_lsn FROM cursors")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let cursor = |(shard, lsn): (String, i64)| Ok((parsed(&shard)?, unsigned(lsn)?));
    let mut cursors = rows.map(|row| cursor(row?)).collect::<Result<Vec<_>, Fault>>()?;
    cursors.sort_unstable();
    Ok(cursors)
}

/// The log number up to which everything of a shard is in.
pub(crate) fn cursor_of(transaction: &Transaction<'_>, shard: ShardId) -> Result<u64, Fault> {
    let mut select = transaction.prepare_cached("SELECT upto_lsn FROM cursors WHERE shard = ?1")?;
    unsigned(select.query_row([shard.to_string()], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Moves a shard's cursor forward; the log number up to which everything is in already. A batch that begins above it
/// would leave a hole.
pub(crate) fn advance(transaction: &Transaction<'_>, shard: ShardId, after: u64, upto: u64) -> Result<u64, Fault> {
    let cursor = cursor_of(transaction, shard)?;
    if after > cursor {
        return Err(Fault::Conflict { expected: cursor, found: after });
    }
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO cursors(shard, upto_lsn) VALUES(?1, ?2)
         ON CONFLICT(shard) DO UPDATE SET upto_lsn = max(upto_lsn, excluded.upto_lsn)",
    )?;
    upsert.execute(params![shard.to_string(), ordered(upto)])?;
    Ok(cursor)
}

#[cfg(test)]
mod tests;
