//! Nodes on the Redis journal, killed with -9 at named points and anywhere else, under load. The books are read from
//! the keys by commands of this test. The server lives: what happens when it dies is told by its other tests.

use crate::support::Server;
use chargeplane_actors::testing::kills::{self, Plan, RawLog, RawShard};
use chargeplane_redis::{RedisJournal, RedisOptions};
use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;

/// The server of the node's journal.
const URL: &str = "CHARGEPLANE_TEST_REDIS";

#[test]
#[ignore = "the node that the test below starts as a process, and kills"]
fn node() {
    kills::serve(async || {
        let options = RedisOptions::new(&std::env::var(URL).expect("a URL")).expect("a good one");
        let journal = RedisJournal::connect(options).await.expect("connects");
        Arc::new(journal) as Arc<dyn chargeplane_cluster::journal::Journal>
    });
}

struct Keys(redis::Connection);

impl Keys {
    fn of(&mut self, command: &str, key: &str, arguments: &[u64]) -> redis::Cmd {
        let mut command = redis::cmd(command);
        command.arg(format!("{{chargeplane:account-0000}}:{key}"));
        for argument in arguments {
            command.arg(*argument);
        }
        command
    }

    fn shard(&mut self, after: u64) -> redis::RedisResult<Option<RawShard>> {
        let head: HashMap<String, Vec<u8>> = self.of("HGETALL", "head", &[]).query(&mut self.0)?;
        if head.is_empty() {
            return Ok(None);
        }
        let digits = |name: &str| -> u64 {
            let text = head.get(name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
        };
        let (epoch, last_lsn) = (digits("epoch"), digits("lsn"));
        let last_hash = head.get("hash").cloned().unwrap_or_default();
        let mut range = self.of("ZRANGE", "segments", &[0]);
        let segments: Vec<String> = range.arg(-1).query(&mut self.0)?;
        let mut frames = Vec::new();
        for (at, first) in segments.iter().enumerate() {
            let first_lsn: u64 = first.parse().unwrap_or(u64::MAX);
            let next: Option<u64> = segments.get(at + 1).and_then(|next| next.parse().ok());
            if next.is_some_and(|next| next <= after + 1) {
                continue;
            }
            // What was there when the head was read: more may come meanwhile.
            let wanted = [(after + 1).saturating_sub(first_lsn), last_lsn.saturating_sub(first_lsn)];
            if first_lsn <= last_lsn {
                let page: Vec<Vec<u8>> = self.of("LRANGE", &format!("log:{first}"), &wanted).query(&mut self.0)?;
                frames.extend(page);
            }
        }
        Ok(Some(RawShard { epoch, last_lsn, last_hash, frames }))
    }
}

impl RawLog for Keys {
    fn read(&mut self, after: u64) -> Result<Option<RawShard>, String> {
        self.shard(after).map_err(|error| error.to_string())
    }
}

#[test]
fn kill_9_anywhere_in_a_commit_loses_and_doubles_nothing() {
    let server = Server::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let mut keys = Keys(client.get_connection().expect("connects"));
    let program = || -> Command {
        let mut command = kills::this_program("kills::node");
        command.env(URL, server.url());
        command
    };
    let outcome = kills::run(&Plan::default(), &program, &mut keys).unwrap_or_else(|difference| panic!("{difference}"));
    println!("{outcome:?}");
    outcome.exercised().unwrap_or_else(|what| panic!("{what}: {outcome:?}"));
}
