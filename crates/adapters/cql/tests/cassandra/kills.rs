//! Nodes on the CQL journal, killed with -9 at named points and anywhere else, under load. The books are read from the
//! tables by statements of this test. The server lives: what happens when it dies is told by its other tests.

use crate::support::{Space, address, undisturbed};
use chargeplane_actors::testing::kills::{self, Plan, RawLog, RawShard};
use chargeplane_cql::{CqlJournal, CqlOptions, SegmentLimits};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::unprepared::Statement;
use scylla::statement::{Consistency, SerialConsistency};
use std::process::Command;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// The keyspace of the node's journal.
const KEYSPACE: &str = "CHARGEPLANE_TEST_KEYSPACE";

/// `account-0000`, as the tables number shards.
const SHARD: i32 = 1 << 16;

#[test]
#[ignore = "the node that the test below starts as a process, and kills"]
fn node() {
    kills::serve(async || {
        let keyspace = std::env::var(KEYSPACE).expect("a keyspace");
        // Short segments: nodes die around their ends too.
        let segment = SegmentLimits { frames: 50, ..SegmentLimits::default() };
        let options = CqlOptions { segment, ..CqlOptions::new(vec![address().to_string()], &keyspace) };
        let journal = CqlJournal::connect(&options).await.expect("connects");
        Arc::new(journal) as Arc<dyn chargeplane_cluster::journal::Journal>
    });
}

type HeadRow = (Option<i64>, Option<i64>, Option<Vec<u8>>);

struct Tables {
    runtime: Runtime,
    session: Session,
    keyspace: String,
    /// The segment that ended the last reading.
    segment: i64,
}

impl Tables {
    fn new(runtime: Runtime, keyspace: &str) -> Self {
        let builder = SessionBuilder::new().known_node_addr(address()).fetch_schema_metadata(false);
        let session = runtime.block_on(builder.build()).expect("the server answers");
        Self { runtime, session, keyspace: keyspace.to_owned(), segment: 0 }
    }

    /// Of a segment; none when there is no such one. With SERIAL, which ends what is under way first: what is read stays.
    async fn head(&self, segment: i64) -> Result<Option<HeadRow>, String> {
        let cql = format!(
            "SELECT epoch, last_lsn, last_hash FROM {}.log WHERE shard = {SHARD} AND segment = {segment} LIMIT 1",
            self.keyspace
        );
        let mut statement = Statement::new(cql);
        statement.set_consistency(Consistency::Serial);
        statement.set_serial_consistency(Some(SerialConsistency::Serial));
        let rows = self.session.query_unpaged(statement, ()).await.map_err(|e| e.to_string())?;
        let rows = rows.into_rows_result().map_err(|e| e.to_string())?;
        rows.maybe_first_row::<HeadRow>().map_err(|e| e.to_string())
    }

    async fn frames(&self, segment: i64, after: u64, upto: i64) -> Result<Vec<Vec<u8>>, String> {
        let cql = format!(
            "SELECT frame FROM {}.log WHERE shard = {SHARD} AND segment = {segment} AND lsn > {after} AND lsn <= {upto}",
            self.keyspace
        );
        let rows = self.session.query_unpaged(cql, ()).await.map_err(|e| e.to_string())?;
        let rows = rows.into_rows_result().map_err(|e| e.to_string())?;
        rows.rows::<(Vec<u8>,)>()
            .map_err(|e| e.to_string())?
            .map(|row| row.map(|(frame,)| frame).map_err(|e| e.to_string()))
            .collect()
    }

    async fn shard(&self, after: u64) -> Result<Option<(RawShard, i64)>, String> {
        let (mut found, mut frames) = (None, Vec::new());
        for segment in self.segment.. {
            let Some((Some(epoch), Some(last_lsn), Some(last_hash))) = self.head(segment).await? else { break };
            frames.extend(self.frames(segment, after, last_lsn).await?);
            let (epoch, last_lsn) = (epoch.cast_unsigned(), last_lsn.cast_unsigned());
            found = Some((RawShard { epoch, last_lsn, last_hash, frames: Vec::new() }, segment));
        }
        Ok(found.map(|(shard, segment)| (RawShard { frames, ..shard }, segment)))
    }
}

impl RawLog for Tables {
    fn read(&mut self, after: u64) -> Result<Option<RawShard>, String> {
        let found = self.runtime.block_on(self.shard(after))?;
        Ok(found.map(|(shard, segment)| {
            self.segment = segment;
            shard
        }))
    }
}

#[test]
fn kill_9_anywhere_in_a_commit_loses_and_doubles_nothing() {
    let runtime = Runtime::new().expect("a runtime");
    let (space, _server) = runtime.block_on(async {
        let server = undisturbed().await;
        let space = Space::new().await;
        // Makes the tables, so that no node dies while it does.
        drop(space.journal().await);
        (space, server)
    });
    let keyspace = space.options().keyspace;
    let program = || -> Command {
        let mut command = kills::this_program("kills::node");
        command.env(KEYSPACE, &keyspace);
        command
    };
    let mut tables = Tables::new(runtime, &keyspace);
    let outcome = kills::run(&Plan::default(), &program, &mut tables).unwrap_or_else(|what| panic!("{what}"));
    println!("{outcome:?}");
    outcome.exercised().unwrap_or_else(|what| panic!("{what}: {outcome:?}"));
}
