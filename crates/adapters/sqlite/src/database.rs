//! One SQLite file: how it is opened, the thread that writes it, and the threads that read it.

use crate::data_dir::{DataDir, OpenError};
use crate::fault::{Fault, Poison};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for a thread. Callers beyond it wait for a place: memory is bounded.
const QUEUE: usize = 1_024;

/// How long another process (a person with a shell) may hold the file's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a store asks for the lock before its caller fails, and with it the node: a minute in all. The
/// journal asks once: its callers offer their frames again.
const LOCK_ATTEMPTS: usize = 12;

/// Pages of WAL before a commit also checkpoints. 8,000 instead of SQLite's 1,000 took the p99 of busy commits
/// from 10 ms to 2 ms (measured).
const WAL_AUTOCHECKPOINT: i64 = 8_000;

/// The WAL file is cut back to this when it was reset.
const WAL_SIZE_LIMIT: i64 = 64 * 1024 * 1024;

/// Niceness of threads that write what is rebuilt at will.
const BACKGROUND_NICE: i32 = 10;

/// Whether a commit is synced before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Synced at every commit.
    Full,
    /// Synced at checkpoints: a power cut may undo the last commits, in order and whole. For what is rebuilt.
    Normal,
}

/// What a file is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a> {
    /// File name in the data directory.
    pub(crate) file: &'a str,
    /// The schema, step by step: step `n` takes a file from `user_version` n to n + 1.
    pub(crate) steps: &'static [&'static str],
    /// Page size in bytes of a new file.
    pub(crate) page_size: i64,
    /// When commits are synced.
    pub(crate) sync: Sync,
}

/// Opens the file for its writer, creates it or brings its schema up to date, and refuses newer ones.
pub(crate) fn open_writer(dir: &DataDir, layout: &Layout) -> Result<Connection, OpenError> {
    let path = dir.path().join(layout.file);
    // SQLite would create it readable by all; the WAL takes over the mode of the file.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    let fail = |source| OpenError::Database { path: path.clone(), source };
    let mut connection = Connection::open_with_flags(&path, flags()).map_err(fail)?;
    prepare(&connection, layout).map_err(fail)?;
    let known = i64::try_from(layout.steps.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| layout.steps.get(found..)) else {
        return Err(OpenError::Newer { path, found, known });
    };
    if !missing.is_empty() {
        let upgrade = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            missing.iter().try_for_each(|step| transaction.execute_batch(step))?;
            transaction.pragma_update(None, "user_version", known)?;
            transaction.commit()
        };
        upgrade(&mut connection).map_err(fail)?;
    }
    // What a former process wrote may be in the kernel's cache only, if its sync failed. Copied into the file
    // and synced before anything is built on it.
    let checkpoint = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    let held_up: bool = checkpoint.map_err(fail)?;
    if held_up {
        tracing::warn!(path = %path.display(), "another process reads the file; its WAL was not copied");
    }
    Ok(connection)
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn prepare(connection: &Connection, layout: &Layout) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "page_size", layout.page_size)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match layout.sync {
        Sync::Full => "FULL",
        Sync::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT)?;
    connection.pragma_update(None, "journal_size_limit", WAL_SIZE_LIMIT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Opens a connection that reads what is committed and can change nothing.
fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags())?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Waits for a thread when it is dropped. Comes after the thread's channel in a struct, whose end ends it.
pub(crate) struct JoinOnDrop(Option<JoinHandle<()>>);

impl JoinOnDrop {
    pub(crate) fn new(thread: JoinHandle<()>) -> Self {
        Self(Some(thread))
    }
}

impl Drop for JoinOnDrop {
    fn drop(&mut self) {
        if self.0.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a store's thread panicked");
        }
    }
}

/// A thread with a connection, which runs one call after the other. Dropping it waits until the calls that
/// wait are done and the file is closed.
struct Worker {
    jobs: mpsc::Sender<Job>,
    _thread: JoinOnDrop,
}

impl Worker {
    fn spawn(name: String, dir: DataDir, mut connection: Connection, sync: Sync) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            if sync == Sync::Normal {
                // What is rebuilt at will must not take time from what is waited for. Linux sets it for the thread.
                let _ = rustix::process::setpriority_process(None, BACKGROUND_NICE);
            }
            while let Some(job) = queue.blocking_recv() {
                job(&mut connection);
            }
            drop(connection);
            // The directory stays locked until the file is closed.
            drop(dir);
        })?;
        Ok(Self { jobs, _thread: JoinOnDrop::new(thread) })
    }

    async fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let gone = || Fault::Io("the store's thread is gone".to_owned());
        let (answer, answered) = oneshot::channel();
        // A caller that gave up is no reason to stop: what it asked for is done all the same.
        let job: Job = Box::new(move |connection| drop(answer.send(run(connection))));
        self.jobs.send(job).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Worker {
    /// [`Self::call`] where there is no runtime: before the file is served.
    fn call_blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let gone = || Fault::Io("the store's thread is gone".to_owned());
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let job: Job = Box::new(move |connection| drop(answer.send(run(connection))));
        // Not `blocking_send`, which refuses to be called from a thread of the runtime. Nobody else asks yet.
        self.jobs.try_send(job).map_err(|_| gone())?;
        answered.recv().map_err(|_| gone())?
    }
}

/// The threads that read a file, each with a connection of its own.
pub(crate) struct Readers {
    workers: Vec<Worker>,
    next: AtomicUsize,
}

impl Readers {
    /// Starts `count` of them.
    pub(crate) fn start(dir: &DataDir, layout: &Layout, count: usize) -> Result<Self, OpenError> {
        let path = dir.path().join(layout.file);
        let mut workers = Vec::with_capacity(count);
        for n in 0..count {
            let connection = open_reader(&path).map_err(|source| OpenError::Database { path: path.clone(), source })?;
            let worker = Worker::spawn(thread_name(layout, &format!("r{n}")), dir.clone(), connection, Sync::Full);
            workers.push(worker.map_err(|source| OpenError::Io { path: path.clone(), source })?);
        }
        Ok(Self { workers, next: AtomicUsize::new(0) })
    }

    /// Runs `read` on one of them, in one read transaction: it sees one state of the file.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
        let worker = self.workers.get(turn).ok_or_else(|| Fault::Io("no reader".to_owned()))?;
        let run = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            read(&transaction)
        };
        worker.call(run).await
    }
}

/// A file with its writer and its readers.
pub(crate) struct Database {
    file: Arc<str>,
    writer: Worker,
    readers: Readers,
    poison: Poison,
}

impl Database {
    /// Opens the file and starts its threads.
    pub(crate) fn open(dir: &DataDir, layout: &Layout, readers: usize) -> Result<Self, OpenError> {
        let connection = open_writer(dir, layout)?;
        let readers = Readers::start(dir, layout, readers)?;
        let path = dir.path().join(layout.file);
        let writer = Worker::spawn(thread_name(layout, "w"), dir.clone(), connection, layout.sync);
        let writer = writer.map_err(|source| OpenError::Io { path, source })?;
        Ok(Self { file: layout.file.into(), writer, readers, poison: Poison::default() })
    }

    /// Runs `write` in one transaction and returns when it is committed. After a failed write all calls fail.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.poison.check()?;
        let (poison, file) = (self.poison.clone(), Arc::clone(&self.file));
        let run = move |connection: &mut Connection| {
            // It may have been poisoned while this call waited.
            poison.check()?;
            poison.watch(&file, in_transaction(connection, LOCK_ATTEMPTS, write))
        };
        self.writer.call(run).await
    }

    /// Copies the WAL into the file and syncs it: what is committed stays, also in a file of [`Sync::Normal`].
    pub(crate) async fn checkpoint(&self) -> Result<(), Fault> {
        self.poison.check()?;
        let (poison, file) = (self.poison.clone(), Arc::clone(&self.file));
        let run = move |connection: &mut Connection| {
            let done = connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| row.get(0));
            let done = done.map_err(Fault::from).and_then(|held_up: bool| match held_up {
                true => Err(Fault::Busy("another process reads the file".to_owned())),
                false => Ok(()),
            });
            poison.watch(&file, done)
        };
        self.writer.call(run).await
    }

    /// [`Self::write`] where there is no runtime: before the file is served.
    pub(crate) fn write_blocking<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.writer.call_blocking(move |connection| in_transaction(connection, LOCK_ATTEMPTS, write))
    }

    /// Runs `read` on a reader.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.poison.check()?;
        self.readers.read(read).await
    }
}

/// Runs `write` between BEGIN IMMEDIATE and COMMIT; undone when it fails. `attempts` is how often the file's
/// lock is asked for, each time for [`BUSY_TIMEOUT`].
pub(crate) fn in_transaction<T>(
    connection: &Connection,
    attempts: usize,
    write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    for _ in 1..attempts {
        match begun.map_err(Fault::from) {
            Err(Fault::Busy(text)) => tracing::warn!(text, "another process holds a store's lock"),
            other => return finish(other?, write),
        }
        begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate);
    }
    finish(begun?, write)
}

fn finish<T>(
    transaction: Transaction<'_>,
    write: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let result = write(&transaction)?;
    transaction.commit()?;
    Ok(result)
}

/// The name of a thread: Linux shows fifteen characters.
pub(crate) fn thread_name(layout: &Layout, role: &str) -> String {
    let stem: String = layout.file.chars().take_while(|c| *c != '.').take(9).collect();
    format!("{stem}-{role}")
}

/// An unsigned number as SQLite stores it, for numbers that SQL compares: held at the largest.
pub(crate) fn ordered(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number that cannot be negative.
pub(crate) fn unsigned(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::corrupt(format!("{number} where no negative number can be")))
}

/// A stored number of 32 bits.
pub(crate) fn unsigned32(number: i64) -> Result<u32, Fault> {
    u32::try_from(number).map_err(|_| Fault::corrupt(format!("{number} where a number of 32 bits must be")))
}

/// A stored text that must be an id or the like.
pub(crate) fn parsed<T: std::str::FromStr<Err: ToString>>(text: &str) -> Result<T, Fault> {
    text.parse().map_err(|error: T::Err| Fault::corrupt(error.to_string()))
}

/// The path of a store's file, for messages.
pub(crate) fn path_of(dir: &DataDir, layout: &Layout) -> PathBuf {
    dir.path().join(layout.file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LAYOUT: Layout = Layout {
        file: "test.sqlite",
        steps: &["CREATE TABLE t(x INTEGER NOT NULL) STRICT;"],
        page_size: 4_096,
        sync: Sync::Full,
    };

    fn dir() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let data = DataDir::lock(dir.path()).expect("locks");
        (dir, data)
    }

    #[test]
    fn files_are_the_owner_s_and_synced_at_every_commit() {
        let (_dir, data) = dir();
        let connection = open_writer(&data, &LAYOUT).expect("opens");
        connection.execute("INSERT INTO t VALUES(1)", []).expect("inserts");
        for file in ["test.sqlite", "test.sqlite-wal"] {
            let mode = std::fs::metadata(data.path().join(file)).expect("exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).expect(name);
        assert_eq!(pragma("synchronous"), 2, "FULL");
        assert_eq!(pragma("wal_autocheckpoint"), 8_000);
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("reads");
        assert_eq!(mode, "wal");
    }

    #[test]
    fn older_schemas_are_brought_up_and_newer_ones_refused() {
        let (_dir, data) = dir();
        drop(open_writer(&data, &LAYOUT).expect("opens"));
        let steps = &["CREATE TABLE t(x INTEGER NOT NULL) STRICT;", "ALTER TABLE t ADD COLUMN y TEXT;"];
        let newer = Layout { steps, ..LAYOUT };
        let connection = open_writer(&data, &newer).expect("upgrades");
        connection.execute("INSERT INTO t VALUES(1, 'y')", []).expect("has the column");
        drop(connection);
        let error = open_writer(&data, &LAYOUT).expect_err("newer");
        assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("test.sqlite has schema version 2"), "{error}");
    }

    #[test]
    fn what_is_no_database_is_refused() {
        let (_dir, data) = dir();
        std::fs::write(data.path().join("test.sqlite"), vec![7; 8_192]).expect("writes");
        assert!(matches!(open_writer(&data, &LAYOUT), Err(OpenError::Database { .. })));
    }

    #[tokio::test]
    async fn readers_cannot_write_and_do_not_wait_for_the_writer() {
        let (_dir, data) = dir();
        let database = Database::open(&data, &LAYOUT, 1).expect("opens");
        let denied = database.read(|t| Ok(t.execute("INSERT INTO t VALUES(1)", [])?)).await;
        assert!(denied.is_err());
        let (enter, entered) = oneshot::channel();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let write = database.write(move |t| {
            t.execute("INSERT INTO t VALUES(1)", [])?;
            let _ = enter.send(());
            let _ = left.recv();
            Ok(())
        });
        let count = async {
            entered.await.expect("the writer is inside");
            let count = database.read(|t| Ok(t.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?)).await;
            drop(leave);
            count
        };
        let (written, count) = tokio::join!(write, count);
        assert_eq!((written, count), (Ok(()), Ok(0)));
    }

    #[tokio::test]
    async fn a_failed_write_poisons_and_a_busy_or_refused_one_does_not() {
        let (_dir, data) = dir();
        let database = Database::open(&data, &LAYOUT, 1).expect("opens");
        let conflict = Fault::Conflict { expected: 1, found: 2 };
        for harmless in [conflict, Fault::Busy(String::new())] {
            let given = harmless.clone();
            assert_eq!(database.write::<()>(move |_| Err(given)).await, Err(harmless));
        }
        assert_eq!(database.write(|_| Ok(())).await, Ok(()));
        let full = Fault::Full("injected".to_owned());
        let given = full.clone();
        assert_eq!(database.write::<()>(move |_| Err(given)).await, Err(full.clone()));
        assert_eq!(database.write(|_| Ok(())).await, Err(full.clone()));
        assert_eq!(database.read(|_| Ok(())).await, Err(full));
    }
}
