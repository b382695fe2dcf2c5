use super::*;
use bytes::Bytes;
use chargeplane_cluster::conformance::{Writer, check_journal, node, read_all, shard};
use chargeplane_domain::units::Timestamp;
use rusqlite::{Connection, params};
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Opens a journal, in some tests one that was closed a moment ago. A child that another test starts has all our
/// descriptors between its fork and its exec, the lock's too, so it may be held a little longer.
fn open(path: &Path) -> SqliteJournal {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    let dir = loop {
        match DataDir::lock(path) {
            Err(OpenError::Locked { pid, .. })
                if pid == Some(std::process::id()) && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            locked => break locked.expect("locks"),
        }
    };
    SqliteJournal::open(&dir).expect("opens")
}

async fn take(journal: &SqliteJournal, index: u16) -> Writer {
    Writer::new(&journal.open(shard(index), node("n1")).await.expect("opens"))
}

async fn fill(journal: &SqliteJournal, writer: &mut Writer, count: usize) {
    for n in 0..count {
        let outcomes = journal.commit(vec![writer.next(&format!("entry {n}"))]).await;
        assert_eq!(outcomes, Ok(vec![CommitOutcome::Committed]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let dirs = Mutex::new(Vec::new());
    check_journal(|| {
        let dir = tempfile::tempdir().expect("temporary directory");
        let journal = Arc::new(open(dir.path()));
        dirs.lock().expect("not poisoned").push(dir);
        journal
    })
    .await;
}

#[tokio::test]
async fn a_restart_finds_everything_and_raises_the_epoch() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 3).await;
    drop(journal);
    let journal = open(dir.path());
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!((opened.epoch, opened.last_lsn, opened.last_hash), (2, 3, writer.hash));
    assert_eq!(opened.tail.len(), 3);
}

/// Waits until another connection holds the write lock, then queues commits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_queued_becomes_one_transaction() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = Arc::new(open(dir.path()));
    let mut writers = Vec::new();
    for index in 0..50 {
        writers.push(take(&journal, index).await);
    }
    let before = journal.transactions();
    let lock = Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let commits: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move { journal.commit(vec![writer.next("x")]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    lock.execute_batch("COMMIT").expect("unlocks");
    for commit in commits {
        assert_eq!(commit.await.expect("runs"), Ok(vec![CommitOutcome::Committed]));
    }
    // The first goes alone, or with a few, into the transaction that waits for the lock.
    assert!(journal.transactions() - before <= 3, "{} transactions", journal.transactions() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_given_leaves_the_outcome_open_and_the_journal_serving() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut writer = take(&journal, 0).await;
    let frame = writer.next("x");
    let lock = Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let outcome = journal.commit(vec![frame.clone()]).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
    lock.execute_batch("ROLLBACK").expect("unlocks");
    assert_eq!(journal.commit(vec![frame]).await, Ok(vec![CommitOutcome::Committed]));
}

fn stored(connection: &Connection, lsn: i64) -> Vec<u8> {
    let sql = "SELECT frame FROM frames WHERE lsn = ?1";
    connection.query_row(sql, [lsn], |row| row.get(0)).expect("there")
}

fn replace(connection: &Connection, lsn: i64, frame: &[u8]) {
    let changed = connection.execute("UPDATE frames SET frame = ?2 WHERE lsn = ?1", params![lsn, frame]);
    assert_eq!(changed.expect("updates"), 1);
}

type Damage = fn(&Connection);

/// (what, the log number that is reported, how it is done) to a log of four frames.
const DAMAGES: [(&str, u64, Damage); 11] = [
    ("a flipped bit", 2, |db| {
        let mut frame = stored(db, 2);
        frame[66] ^= 0x10;
        replace(db, 2, &frame);
    }),
    ("a torn frame", 4, |db| replace(db, 4, &stored(db, 4)[..40])),
    ("an empty frame", 1, |db| replace(db, 1, &[])),
    ("a lost tail", 4, |db| {
        db.execute("DELETE FROM frames WHERE lsn = 4", []).expect("deletes");
    }),
    ("a hole", 2, |db| {
        db.execute("DELETE FROM frames WHERE lsn = 2", []).expect("deletes");
    }),
    ("another shard's frame", 3, |db| {
        let mut frame = Frame::decode(&stored(db, 3)).expect("intact");
        frame.shard = shard(9);
        replace(db, 3, &frame.encode());
    }),
    ("a rewritten frame", 3, |db| {
        // With a right checksum: the frame after it no longer continues the chain.
        let mut frame = Frame::decode(&stored(db, 2)).expect("intact");
        frame.payload = Bytes::from_static(b"forged");
        replace(db, 2, &frame.encode());
    }),
    ("a rewritten last frame", 4, |db| {
        let mut frame = Frame::decode(&stored(db, 4)).expect("intact");
        frame.payload = Bytes::from_static(b"forged");
        replace(db, 4, &frame.encode());
    }),
    ("a frame after the head", 5, |db| {
        let last = Frame::decode(&stored(db, 4)).expect("intact");
        let next = Frame::following(last.shard, 1, 4, last.hash(), Timestamp(0), Bytes::new());
        let insert = "INSERT INTO frames(shard, lsn, frame) SELECT shard, 5, ?1 FROM frames LIMIT 1";
        db.execute(insert, [next.encode()]).expect("inserts");
    }),
    ("an epoch that went down", 3, |db| {
        let second = Frame { epoch: 7, ..Frame::decode(&stored(db, 2)).expect("intact") };
        let third = Frame { prev_hash: second.hash(), ..Frame::decode(&stored(db, 3)).expect("intact") };
        replace(db, 2, &second.encode());
        replace(db, 3, &third.encode());
    }),
    ("a head with another hash", 4, |db| {
        db.execute("UPDATE heads SET last_hash = zeroblob(32)", []).expect("updates");
    }),
];

#[tokio::test]
async fn damage_is_found_at_open_with_shard_and_number_and_nothing_is_dropped() {
    for (what, lsn, damage) in DAMAGES {
        let dir = tempfile::tempdir().expect("temporary directory");
        let journal = open(dir.path());
        let mut writer = take(&journal, 5).await;
        fill(&journal, &mut writer, 4).await;
        let db = Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
        damage(&db);
        let frames = |db: &Connection| db.query_row("SELECT count(*) FROM frames", [], |row| row.get::<_, i64>(0));
        let before = frames(&db).expect("counts");
        for _ in 0..2 {
            match journal.open(shard(5), node("n1")).await {
                Err(JournalError::Corrupt { shard: found, lsn: at, .. }) => {
                    assert_eq!((found, at), (shard(5), lsn), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        assert_eq!(frames(&db), Ok(before), "{what}");
        take(&journal, 6).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_file_itself_is_found() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 20).await;
    // Closing the journal copies the WAL into the file.
    drop(journal);
    let path = dir.path().join(LAYOUT.file);
    let mut file = std::fs::read(&path).expect("reads");
    let at = file.windows(8).position(|window| window == b"entry 12").expect("the payload is in the file");
    file[at] ^= 1;
    std::fs::write(&path, file).expect("writes");
    let journal = open(dir.path());
    match journal.open(shard(0), node("n1")).await {
        Err(JournalError::Corrupt { lsn: 13, what, .. }) => {
            assert!(what.contains("checksum"), "{what}")
        }
        other => panic!("{other:?}"),
    }
    let page = journal.read(shard(0), 0, 100).await;
    assert!(matches!(page, Err(JournalError::Corrupt { lsn: 13, .. })), "{page:?}");
}

#[tokio::test]
async fn a_lost_tail_is_found_by_readers_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 3).await;
    let db = Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
    db.execute("DELETE FROM frames WHERE lsn = 3", []).expect("deletes");
    assert_eq!(journal.read(shard(0), 0, 2).await.map(|frames| frames.len()), Ok(2));
    let rest = journal.read(shard(0), 2, 2).await;
    assert!(matches!(rest, Err(JournalError::Corrupt { lsn: 3, .. })), "{rest:?}");
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_and_said() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let journal = open(dir.path());
    let mut writer = take(&journal, 0).await;
    for n in [2u64, 4, 6] {
        fill(&journal, &mut writer, 2).await;
        let snapshot = Snapshot { lsn: writer.lsn, hash: writer.hash, bytes: Bytes::from(vec![7; 100]) };
        assert_eq!(journal.put_snapshot(shard(0), 1, snapshot).await, Ok(true), "{n}");
    }
    let db = Connection::open(dir.path().join(LAYOUT.file)).expect("opens");
    let lsns = "SELECT group_concat(lsn) FROM (SELECT lsn FROM snapshots ORDER BY lsn)";
    assert_eq!(db.query_row(lsns, [], |row| row.get(0)), Ok("4,6".to_owned()), "two are kept");
    db.execute("UPDATE snapshots SET bytes = zeroblob(100) WHERE lsn = 6", []).expect("damages");
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!(opened.damaged_snapshots, [6]);
    assert_eq!((opened.snapshot.map(|snapshot| snapshot.lsn), opened.tail.len()), (Some(4), 2));
    db.execute("UPDATE snapshots SET hash = zeroblob(32) WHERE lsn = 4", []).expect("damages");
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!(opened.damaged_snapshots, [6, 4]);
    assert_eq!((opened.snapshot, opened.tail.len()), (None, 6), "from the beginning of the log");
}

const CHILD_DIR: &str = "CHARGEPLANE_TEST_JOURNAL_DIR";

/// Not a test of its own: the process that the next one kills. Prints each frame once it is acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let journal = Arc::new(open(Path::new(&dir)));
    let tasks: Vec<_> = (0..8u16)
        .map(|index| {
            let journal = Arc::clone(&journal);
            tokio::spawn(async move {
                let mut writer = take(&journal, index).await;
                while journal.commit(vec![writer.next(&"x".repeat(300))]).await == Ok(vec![CommitOutcome::Committed]) {
                    let line = format!("acknowledged {index} {} {}\n", writer.lsn, writer.hash);
                    // One write a line: a killed process leaves no halves before the last line.
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("does not panic");
    }
}

/// Starts the child, lets it run, kills it with SIGKILL and returns what it acknowledged.
fn run_and_kill(dir: &Path, run: Duration) -> Vec<(u16, u64, String)> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "journal::tests::child_that_commits_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let stdout = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let fields = |line: String| {
            let mut fields = line.strip_prefix("acknowledged ")?.split(' ').map(str::to_owned);
            let (index, lsn, hash) = (fields.next()?, fields.next()?, fields.next()?);
            (hash.len() == 64).then(|| (index.parse().ok(), lsn.parse().ok(), hash))
        };
        let full = lines.filter_map(fields).filter_map(|(index, lsn, hash)| Some((index?, lsn?, hash)));
        full.collect::<Vec<_>>()
    });
    std::thread::sleep(run);
    match DataDir::lock(dir) {
        Err(OpenError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(child.id()), "the error names the holder")
        }
        other => panic!("the child holds the directory: {other:?}"),
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    reader.join().expect("reads")
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_frame() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut acknowledged = 0;
    for round in 1..=4u64 {
        let lines = run_and_kill(dir.path(), Duration::from_millis(250 + 70 * round));
        assert!(!lines.is_empty(), "round {round}: the child acknowledged nothing");
        acknowledged += lines.len();
        let journal = open(dir.path());
        for (index, lsn, hash) in lines {
            let frames = journal.read(shard(index), lsn - 1, 1).await.expect("reads");
            assert_eq!(frames[0].hash().to_string(), hash, "round {round}, shard {index}, frame {lsn}");
        }
        for index in 0..8 {
            let head = journal.open(shard(index), node("n2")).await.expect("the whole log is intact");
            assert_eq!(head.epoch, round * 2, "the child raised it once, this test once");
            assert_eq!(read_all(&journal, shard(index), 1_000).await.len() as u64, head.last_lsn);
        }
    }
    println!("{acknowledged} acknowledged frames, all found");
}

/// A small file system of its own, which can be filled.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None, with the reason printed, where it cannot be mounted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(dir)),
            Ok(output) => {
                println!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: cannot run mount: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("left mounted: {}", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn a_full_disk_stops_acknowledging_and_what_was_acknowledged_stays() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.0.path().join("data");
    let journal = open(&path);
    let mut writer = take(&journal, 0).await;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 5 << 19]).expect("there is room");
    let payload = "x".repeat(10_000);
    let error = loop {
        let before = writer.clone();
        match journal.commit(vec![writer.next(&payload)]).await {
            Ok(outcomes) => assert_eq!(outcomes, [CommitOutcome::Committed]),
            Err(error) => {
                writer = before;
                break error;
            }
        }
        assert!(writer.lsn < 1_000, "1.5 MB are full by now");
    };
    assert!(matches!(error, JournalError::Full(_)), "{error}");
    assert!(error.is_fatal());
    // Room again: whatever the disk says now, this process acknowledges nothing more.
    std::fs::remove_file(ballast).expect("removes");
    assert_eq!(journal.commit(vec![writer.peek("small")]).await, Err(error.clone()));
    assert_eq!(journal.open(shard(0), node("n1")).await, Err(error.clone()));
    assert_eq!(journal.heads().await, Err(error));
    drop(journal);
    // Only a restart serves again, from what is there. It needs room to copy the WAL into the file.
    let journal = open(&path);
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert!(writer.lsn > 0 && opened.last_lsn >= writer.lsn, "{} of {}", opened.last_lsn, writer.lsn);
    let mut writer = Writer::new(&opened);
    fill(&journal, &mut writer, 1).await;
}
