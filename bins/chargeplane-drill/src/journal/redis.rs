//! A Redis server of the run, and the reader of the logs in its keys.

use super::copy::{Head, Source, code_of};
use anyhow::{Context, ensure};
use redis::{Connection, cmd};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server listens within this time, and ends within it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody else may take the port that was free a moment ago.
const STARTS: u32 = 5;

/// The server.
pub struct Server {
    child: Child,
    port: u16,
    prefix: String,
}

impl Server {
    /// Starts it in a new directory, which is readable by its owner only.
    pub fn start(dir: &Path, prefix: &str) -> anyhow::Result<Self> {
        DirBuilder::new().mode(0o700).create(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut failed = anyhow::anyhow!("redis-server was not started");
        for _ in 0..STARTS {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            match spawn(dir, port) {
                Ok(child) => return Ok(Self { child, port, prefix: prefix.to_owned() }),
                Err(error) => failed = error,
            }
        }
        Err(failed.context(format!("see {}", dir.join("redis.log").display())))
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the node's configuration says of it.
    pub fn toml(&self) -> String {
        let (url, prefix) = (self.url(), &self.prefix);
        format!("[journal]\nbackend = \"redis\"\nredis_url = \"{url}\"\nredis_prefix = \"{prefix}\"\n")
    }

    /// A reader of its own connection.
    pub fn reader(&self) -> anyhow::Result<Reader> {
        let connection = redis::Client::open(self.url())?.get_connection_with_timeout(PATIENCE)?;
        Ok(Reader { connection, prefix: self.prefix.clone() })
    }

    /// Ends it. What it acknowledged is in its append-only file.
    pub fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone: that is what is wanted.
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop((self.child.kill(), self.child.wait()));
    }
}

/// A server that answers on this port and is ours.
fn spawn(dir: &Path, port: u16) -> anyhow::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"]);
    // Both absolute: the one is opened before the other is entered.
    command.arg("--logfile").arg(dir.join("redis.log")).arg("--dir").arg(dir);
    // Of its own group, so that a Ctrl-C ends the node before the store under it.
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
    let mut child = child.context("redis-server does not start; is it installed?")?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("redis-server ended: {status}");
        }
        if process_on(port).is_some_and(|pid| pid == child.id()) {
            return Ok(child);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((child.kill(), child.wait()));
    anyhow::bail!("redis-server does not answer on port {port}")
}

/// Which process serves a port; none when no Redis does, or not yet.
fn process_on(port: u16) -> Option<u32> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).ok()?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
    let info: String = cmd("INFO").arg("server").query(&mut connection).ok()?;
    info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
}

/// Reads the keys of the journal.
pub struct Reader {
    connection: Connection,
    prefix: String,
}

impl Reader {
    fn key(&self, shard: &str, rest: &str) -> String {
        format!("{{{}:{shard}}}:{rest}", self.prefix)
    }

    fn head(&mut self, shard: &str) -> anyhow::Result<Option<Head>> {
        let key = self.key(shard, "head");
        let fields: BTreeMap<String, Vec<u8>> = cmd("HGETALL").arg(&key).query(&mut self.connection)?;
        if fields.is_empty() {
            return Ok(None);
        }
        let number = |name: &str| {
            let text = fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.and_then(|text| text.parse().ok()).with_context(|| format!("{key} has no number `{name}`"))
        };
        let last_hash = fields.get("hash").cloned().with_context(|| format!("{key} has no hash"))?;
        Ok(Some(Head { code: code_of(shard)?, epoch: number("epoch")?, last_lsn: number("lsn")?, last_hash }))
    }
}

impl Source for Reader {
    fn heads(&mut self) -> anyhow::Result<Vec<Head>> {
        let key = format!("{}:shards", self.prefix);
        let mut shards: Vec<String> = cmd("SMEMBERS").arg(key).query(&mut self.connection)?;
        shards.sort_unstable();
        let heads = shards.iter().filter_map(|shard| self.head(shard).transpose());
        heads.collect()
    }

    fn frames(&mut self, head: &Head, take: &mut dyn FnMut(u64, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let family = if head.code >> 16 == 0 { "station" } else { "account" };
        let shard = format!("{family}-{:04x}", head.code & 0xffff);
        let key = self.key(&shard, "segments");
        let segments: Vec<String> = cmd("ZRANGE").arg(&key).arg(0).arg(-1).query(&mut self.connection)?;
        for name in segments {
            let first: u64 = name.parse().with_context(|| format!("{key} has a segment `{name}`"))?;
            let Some(last) = head.last_lsn.checked_sub(first) else { continue };
            let key = self.key(&shard, &format!("log:{name}"));
            let frames: Vec<Vec<u8>> = cmd("LRANGE").arg(&key).arg(0).arg(last).query(&mut self.connection)?;
            ensure!(!frames.is_empty(), "{key} is empty");
            for (lsn, frame) in (first..).zip(&frames) {
                take(lsn, frame)?;
            }
        }
        Ok(())
    }
}
