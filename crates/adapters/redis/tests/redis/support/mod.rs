//! Servers of our own, and what the tests do to them.

#![allow(dead_code, reason = "every module uses a part of it")]

pub mod proxy;

use chargeplane_cluster::conformance::{Writer, node, shard};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, Journal};
use chargeplane_redis::{RedisJournal, RedisOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the journal asks of a server.
pub const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// A server with its directory.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more arguments, which overrule those that make it durable.
    pub fn with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let arguments = DURABLE.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { child: None, port: 0, dir, arguments };
        // A port that was free may be taken by another test until the server has it.
        for _ in 0..10 {
            server.port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.try_start() {
            assert!(Instant::now() < deadline, "the server does not start again on its port");
        }
    }

    fn try_start(&mut self) -> bool {
        let tls = self.arguments.iter().any(|argument| argument == "--tls-port");
        let mut command = Command::new("redis-server");
        command.args([if tls { "--tls-port" } else { "--port" }, &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", "", "--daemonize", "no", "--repl-diskless-sync-delay", "0"]);
        command.arg("--dir").arg(self.dir.path());
        command.args(self.arguments.iter().filter(|argument| *argument != "--tls-port"));
        let mut child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().expect("can be asked").is_none() && Instant::now() < deadline {
            // Whoever answers on the port may be another server: ours ends then.
            if self.serves(tls) {
                std::thread::sleep(Duration::from_millis(20));
                if child.try_wait().expect("can be asked").is_none() {
                    self.child = Some(child);
                    return true;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop((child.kill(), child.wait()));
        false
    }

    /// Whether somebody answers on the port who is not loading any more.
    fn serves(&self, tls: bool) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        if tls {
            return true;
        }
        let mut answer = [0; 8];
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
        let asked = stream.write_all(b"PING\r\n").and_then(|()| stream.read(&mut answer));
        asked.is_ok() && (answer.starts_with(b"+PONG") || answer.starts_with(b"-NOAUTH"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill is there");
        assert!(sent.success());
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn options(&self) -> RedisOptions {
        RedisOptions::new(&self.url()).expect("a URL")
    }

    pub async fn journal(&self) -> RedisJournal {
        RedisJournal::connect(self.options()).await.expect("a durable server")
    }

    /// A client of its own, for damage and for a look at what is stored.
    pub async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("a URL");
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
        client.get_multiplexed_async_connection_with_config(&config).await.expect("connects")
    }

    /// Returns when a replica has everything up to here. It confirms only what the asking connection wrote.
    pub async fn until_replicated(&self) {
        let mut client = self.client().await;
        redis::cmd("SET").arg("marker").arg(1).exec_async(&mut client).await.expect("sets");
        let received: u64 = redis::cmd("WAIT").arg(1).arg(0).query_async(&mut client).await.expect("waits");
        assert_eq!(received, 1);
    }

    /// The directory of the append-only file.
    pub fn append_only_dir(&self) -> PathBuf {
        self.dir.path().join("appendonlydir")
    }

    /// The file that grows.
    pub fn append_only_file(&self) -> PathBuf {
        let files = std::fs::read_dir(self.append_only_dir()).expect("is there");
        let paths = files.map(|file| file.expect("readable").path());
        paths.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().expect("has one")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("creates");
    for file in std::fs::read_dir(from).expect("is there") {
        let file = file.expect("readable");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copies");
    }
}

pub async fn take(journal: &dyn Journal, index: u16) -> Writer {
    Writer::new(&journal.open(shard(index), node("n1")).await.expect("opens"))
}

pub async fn fill(journal: &dyn Journal, writer: &mut Writer, count: usize) {
    for n in 0..count {
        let outcomes = journal.commit(vec![writer.next(&format!("entry {n}"))]).await;
        assert_eq!(outcomes, Ok(vec![CommitOutcome::Committed]));
    }
}

/// Offers a frame until its outcome is known, as the journal's actor does.
pub async fn offer(journal: &dyn Journal, frame: Frame) -> CommitOutcome {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match journal.commit(vec![frame.clone()]).await {
            Ok(outcomes) => return outcomes[0],
            Err(error @ chargeplane_cluster::journal::JournalError::OutcomeUnknown(_)) => {
                assert!(Instant::now() < deadline, "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
