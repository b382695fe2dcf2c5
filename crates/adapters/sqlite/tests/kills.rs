//! Nodes on the SQLite journal, killed with -9 at named points and anywhere else, under load. The books are read from
//! the file by statements of this test.

use chargeplane_actors::testing::kills::{self, Plan, RawLog, RawShard};
use chargeplane_sqlite::{DataDir, SqliteJournal};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// Where the node keeps its journal.
const DATA: &str = "CHARGEPLANE_TEST_DATA";

/// `account-0000`, as the tables number shards.
const SHARD: i64 = 1 << 16;

#[test]
#[ignore = "the node that the tests below start as a process, and kill"]
fn node() {
    kills::serve(async || {
        let dir = DataDir::lock(std::env::var(DATA).expect("a directory")).expect("nobody else has it");
        Arc::new(SqliteJournal::open(&dir).expect("opens")) as Arc<dyn chargeplane_cluster::journal::Journal>
    });
}

struct File(PathBuf);

impl RawLog for File {
    fn read(&mut self, after: u64) -> Result<Option<RawShard>, String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut database = match Connection::open_with_flags(&self.0, flags) {
            Ok(database) => database,
            Err(_) if !self.0.exists() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let read = |database: &mut Connection| -> rusqlite::Result<Option<RawShard>> {
            let view = database.transaction()?;
            let head = "SELECT epoch, last_lsn, last_hash FROM heads WHERE shard = ?1";
            let head = view.query_row(head, [SHARD], |row| {
                let (epoch, last_lsn): (i64, i64) = (row.get(0)?, row.get(1)?);
                let (epoch, last_lsn) = (epoch.cast_unsigned(), last_lsn.cast_unsigned());
                Ok(RawShard { epoch, last_lsn, last_hash: row.get(2)?, frames: Vec::new() })
            });
            let Some(mut shard) = head.optional()? else { return Ok(None) };
            let mut frames = view.prepare("SELECT frame FROM frames WHERE shard = ?1 AND lsn > ?2 ORDER BY lsn")?;
            let frames = frames.query_map((SHARD, after.cast_signed()), |row| row.get(0))?;
            shard.frames = frames.collect::<Result<_, _>>()?;
            Ok(Some(shard))
        };
        read(&mut database).map_err(|error| error.to_string())
    }
}

fn killed(plan: &Plan) -> Result<kills::Outcome, String> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let program = || -> Command {
        let mut command = kills::this_program("node");
        command.env(DATA, dir.path());
        command
    };
    kills::run(plan, &program, &mut File(dir.path().join("journal.sqlite")))
}

#[test]
fn kill_9_anywhere_in_a_commit_loses_and_doubles_nothing() {
    let outcome = killed(&Plan::default()).unwrap_or_else(|difference| panic!("{difference}"));
    println!("{outcome:?}");
    outcome.exercised().unwrap_or_else(|what| panic!("{what}: {outcome:?}"));
}

/// The comparison can fail: nodes with a planted fault do not get through.
#[test]
fn planted_faults_are_found() {
    let found = |plant: &'static str| {
        let difference = killed(&Plan { kills: 40, seed: 7, plant: Some(plant) }).err();
        let difference = difference.unwrap_or_else(|| panic!("{plant} was not found in 40 kills"));
        println!("{plant}: {difference}");
        difference
    };
    let lost = found("ack-before-durable");
    assert!(lost.contains("requests acknowledged"), "{lost}");
    let doubled = found("debit-twice");
    // In the books, or by its answer, whichever shows first.
    assert!(doubled.contains("due is") || doubled.contains("when repeated"), "{doubled}");
}
