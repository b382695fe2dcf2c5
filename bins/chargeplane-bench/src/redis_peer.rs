//! The peer of the ledger: the published stack's debit, a Lua script in Redis, with its faults corrected.
//!
//! One hash an account and not one a shard, an epoch that a stale node fails on, and idempotency by (session,
//! sequence): the same again gets the same answer, another content is refused. No double entry, no tariff, no
//! hold: it does less than ours.

use crate::ledger::Shape;
use anyhow::Context;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SCRIPT: &str = r"
local account = KEYS[1]
if redis.call('HGET', account, 'epoch') ~= ARGV[1] then return {'fenced'} end
local field = 's:' .. ARGV[2]
local last = redis.call('HGET', account, field)
local sequence, cumulative = tonumber(ARGV[3]), tonumber(ARGV[4])
local last_sequence, last_cumulative = 0, 0
if last then
  local at = string.find(last, ':', 1, true)
  last_sequence, last_cumulative = tonumber(string.sub(last, 1, at - 1)), tonumber(string.sub(last, at + 1))
end
local balance = tonumber(redis.call('HGET', account, 'balance'))
if sequence == last_sequence and cumulative == last_cumulative then return {'ok', balance} end
if sequence ~= last_sequence + 1 or cumulative < last_cumulative then return {'conflict'} end
local amount = cumulative - last_cumulative
if balance < amount then return {'funds', balance} end
redis.call('HSET', account, 'balance', string.format('%d', balance - amount), field, sequence .. ':' .. cumulative)
return {'ok', balance - amount}
";

const EPOCH: &str = "7";

/// How many connections the callers share, and how they use them.
#[derive(Debug, Clone, Copy)]
enum Wiring {
    /// All share one.
    One,
    /// Each has one.
    OneEach,
    /// Each has one, and sends what it has outstanding together, as one pipeline.
    Pipelines,
}

/// A Redis server of our own.
pub struct RedisServer {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl RedisServer {
    /// Starts a server below `dir` with this `appendfsync`.
    pub fn start(dir: &Path, appendfsync: &str) -> anyhow::Result<Self> {
        let data = tempfile::tempdir_in(dir)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]);
        command.args(["--appendfsync", appendfsync, "--daemonize", "no", "--dir"]).arg(data.path());
        let child = command.stdout(Stdio::null()).spawn().context("redis-server does not start; is it installed?")?;
        let server = Self { child, port, _dir: data };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            anyhow::ensure!(Instant::now() < deadline, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Debits a second by the best of one multiplexed connection, one a caller, and pipelines.
    pub async fn debits_per_s(&self, shape: Shape, time: Duration) -> anyhow::Result<f64> {
        let one = self.run(shape, time, Wiring::One).await?;
        let many = self.run(shape, time, Wiring::OneEach).await?;
        if shape.outstanding == 1 {
            return Ok(one.max(many));
        }
        let pipelines = self.run(shape, time, Wiring::Pipelines).await?;
        Ok(one.max(many).max(pipelines))
    }

    async fn run(&self, shape: Shape, time: Duration, wiring: Wiring) -> anyhow::Result<f64> {
        let client = redis::Client::open(self.url())?;
        let mut first = client.get_multiplexed_async_connection().await?;
        redis::cmd("FLUSHALL").exec_async(&mut first).await?;
        let digest: String = redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT).query_async(&mut first).await?;
        let mut account = redis::cmd("HSET");
        account.arg("account:hot").arg("epoch").arg(EPOCH).arg("balance").arg(1_000_000_000_000i64);
        account.exec_async(&mut first).await?;
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for caller in 0..shape.callers {
            let connection = match wiring {
                Wiring::One => first.clone(),
                Wiring::OneEach | Wiring::Pipelines => client.get_multiplexed_async_connection().await?,
            };
            let session = |slot: usize| format!("main/s{caller:03}-{slot:02}");
            let sessions: Vec<String> = (0..shape.outstanding).map(session).collect();
            let groups = match wiring {
                Wiring::Pipelines => vec![sessions],
                Wiring::One | Wiring::OneEach => sessions.into_iter().map(|session| vec![session]).collect(),
            };
            for sessions in groups {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                tasks.push(tokio::spawn(debit_on(connection.clone(), digest.clone(), sessions, stop, done)));
            }
        }
        tokio::time::sleep(time / 4).await;
        let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await??;
        }
        Ok(rate)
    }
}

/// A debit of each session at a time, in one pipeline when they are several.
async fn debit_on(
    mut connection: MultiplexedConnection,
    digest: String,
    sessions: Vec<String>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut sequence = 0u64;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        let mut commands = sessions.iter().map(|session| {
            let mut command = redis::cmd("EVALSHA");
            command.arg(&digest).arg(1).arg("account:hot").arg(EPOCH).arg(session).arg(sequence).arg(sequence * 900);
            command
        });
        let answers: Vec<(String, i64)> = match sessions.len() {
            1 => {
                let command = commands.next().context("there is a session")?;
                vec![redis::from_redis_value(connection.req_packed_command(&command).await?)?]
            }
            _ => {
                let mut pipeline = redis::Pipeline::with_capacity(sessions.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.query_async(&mut connection).await?
            }
        };
        for (word, _) in &answers {
            anyhow::ensure!(word == "ok", "the script answered {word}");
        }
        done.fetch_add(answers.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
