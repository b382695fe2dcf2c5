//! A keyspace of the run in Cassandra or ScyllaDB, and the reader of the logs in its tables.

use super::copy::{Head, Source};
use anyhow::Context;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Of a read, and of the dropping of a keyspace.
const PATIENCE: Duration = Duration::from_secs(60);

/// Frames of one request; each has 8 MiB at most and usually a few hundred bytes.
const PAGE: i32 = 100;

/// Rows of one page of a scan; a chunk has some 1 KB.
const SCAN_PAGE: i32 = 1_000;

/// The keyspace: the node makes it, the run drops it.
#[derive(Clone)]
pub struct Keyspace {
    node: String,
    name: String,
}

/// Something that is under way with the database.
struct Client {
    runtime: Runtime,
    session: Session,
}

impl Client {
    fn connect(node: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let builder = SessionBuilder::new().known_node(node).connection_timeout(Duration::from_secs(5));
        let session = runtime.block_on(builder.build());
        let session = session.with_context(|| format!("no connection to a CQL database at {node}"))?;
        Ok(Self { runtime, session })
    }

    /// Runs a statement. What was answered to anybody before is seen, and what is under way is ended first.
    fn read(&self, cql: String, values: impl SerializeRow) -> anyhow::Result<QueryRowsResult> {
        let mut statement = Statement::new(cql);
        statement.set_consistency(Consistency::Serial);
        statement.set_request_timeout(Some(PATIENCE));
        let result = self.runtime.block_on(self.session.query_unpaged(statement, values))?;
        Ok(result.into_rows_result()?)
    }
}

impl Keyspace {
    /// Names it. The database must answer.
    pub fn new(node: &str, name: &str) -> anyhow::Result<Self> {
        Client::connect(node)?;
        Ok(Self { node: node.to_owned(), name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the node's configuration says of it.
    pub fn toml(&self) -> String {
        format!("[journal]\nbackend = \"cql\"\n{}", self.keys())
    }

    /// The keys of section `journal` that say where it is.
    pub fn keys(&self) -> String {
        let Self { node, name } = self;
        format!("cql_nodes = [\"{node}\"]\ncql_keyspace = \"{name}\"\ncql_replication = \"1\"\n")
    }

    /// A reader of its own connection.
    pub fn reader(&self) -> anyhow::Result<Reader> {
        Ok(Reader { client: Client::connect(&self.node)?, keyspace: self.name.clone() })
    }

    /// Drops it with all that is in it.
    pub fn drop_it(&self) -> anyhow::Result<()> {
        let client = Client::connect(&self.node)?;
        let mut statement = Statement::new(format!("DROP KEYSPACE IF EXISTS {}", self.name));
        statement.set_request_timeout(Some(PATIENCE));
        client.runtime.block_on(client.session.query_unpaged(statement, ()))?;
        Ok(())
    }
}

/// Reads the tables of the journal.
pub struct Reader {
    client: Client,
    keyspace: String,
}

/// Epoch, number and hash of the last frame: all are there, or the segment is not.
type HeadRow = (Option<i64>, Option<i64>, Option<Vec<u8>>);

impl Reader {
    /// Hands over every row of a statement without values, page after page; `%k` is the keyspace.
    pub fn scan<R>(&mut self, cql: &str, take: &mut dyn FnMut(R) -> anyhow::Result<()>) -> anyhow::Result<()>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        let mut statement = Statement::new(cql.replace("%k", &self.keyspace));
        statement.set_consistency(Consistency::Quorum);
        statement.set_request_timeout(Some(PATIENCE));
        statement.set_page_size(SCAN_PAGE);
        let mut state = PagingState::start();
        loop {
            let page = self.client.session.query_single_page(statement.clone(), (), state);
            let (result, more) = self.client.runtime.block_on(page)?;
            for row in result.into_rows_result()?.rows::<R>()? {
                take(row?)?;
            }
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }

    /// The head of a segment; none when there is no such segment.
    fn head(&self, shard: i32, segment: i64) -> anyhow::Result<Option<Head>> {
        let cql = format!(
            "SELECT epoch, last_lsn, last_hash FROM {}.log WHERE shard = ? AND segment = ? LIMIT 1",
            self.keyspace
        );
        let row = self.client.read(cql, (shard, segment))?.maybe_first_row::<HeadRow>()?;
        let Some((Some(epoch), Some(last_lsn), Some(last_hash))) = row else { return Ok(None) };
        let (epoch, last_lsn) = (epoch.cast_unsigned(), last_lsn.cast_unsigned());
        Ok(Some(Head { code: i64::from(shard), epoch, last_lsn, last_hash }))
    }
}

impl Source for Reader {
    fn heads(&mut self) -> anyhow::Result<Vec<Head>> {
        let rows = self.client.read(format!("SELECT shard FROM {}.shards WHERE part = 0", self.keyspace), ())?;
        let shards: Vec<(i32,)> = rows.rows::<(i32,)>()?.collect::<Result<_, _>>()?;
        let mut heads = Vec::new();
        for (shard,) in shards {
            let mut newest = None;
            for segment in 0.. {
                let Some(head) = self.head(shard, segment)? else { break };
                newest = Some(head);
            }
            heads.extend(newest);
        }
        Ok(heads)
    }

    fn frames(&mut self, head: &Head, take: &mut dyn FnMut(u64, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let shard = i32::try_from(head.code)?;
        let (cql, upto) = (
            format!(
                "SELECT lsn, frame FROM {}.log WHERE shard = ? AND segment = ? AND lsn > ? AND lsn <= ? LIMIT {PAGE}",
                self.keyspace
            ),
            head.last_lsn.cast_signed(),
        );
        let mut after = 0_i64;
        for segment in 0_i64.. {
            if self.head(shard, segment)?.is_none() {
                break;
            }
            loop {
                let rows = self.client.read(cql.clone(), (shard, segment, after, upto))?;
                let mut count = 0;
                for row in rows.rows::<(i64, &[u8])>()? {
                    let (lsn, frame) = row?;
                    take(lsn.cast_unsigned(), frame)?;
                    (after, count) = (lsn, count + 1);
                }
                if count < PAGE {
                    break;
                }
            }
        }
        Ok(())
    }
}
