use super::copy::{Head, Source, code_of, copy};
use super::{COPY, redis};
use rusqlite::Connection;
use std::path::Path;

/// Shard, number and frame of all frames, and shard, epoch, number and hash of all heads, as they are in a copy.
type Copied = (Vec<(i64, i64, Vec<u8>)>, Vec<(i64, i64, i64, Vec<u8>)>);

fn copied(dir: &Path) -> Copied {
    let database = Connection::open(dir.join(COPY)).unwrap();
    let mut frames = database.prepare("SELECT shard, lsn, frame FROM frames ORDER BY shard, lsn").unwrap();
    let frames = frames.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let mut heads = database.prepare("SELECT shard, epoch, last_lsn, last_hash FROM heads ORDER BY shard").unwrap();
    let heads = heads.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    (frames.map(Result::unwrap).collect(), heads.map(Result::unwrap).collect())
}

/// What both stores below are filled with: three frames of two segments of an account shard, and one beyond the head;
/// a station shard without a frame.
fn expected() -> Copied {
    let frames = vec![(65_539, 1, b"one".to_vec()), (65_539, 2, b"two".to_vec()), (65_539, 3, b"\0\xff".to_vec())];
    (frames, vec![(1, 1, 0, vec![9; 32]), (65_539, 7, 3, vec![8; 32])])
}

#[test]
fn shards_have_numbers() {
    assert_eq!((code_of("station-001f").unwrap(), code_of("account-0003").unwrap()), (31, 65_539));
    for wrong in ["", "account", "account-3", "account-000g", "wallet-0003"] {
        assert!(code_of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn logs_are_copied_out_of_redis() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = redis::Server::start(&dir.path().join("redis"), "p").unwrap();
    let url = server.toml().lines().find_map(|line| line.strip_prefix("redis_url = ").map(str::to_owned)).unwrap();
    let client = ::redis::Client::open(url.trim_matches('"')).unwrap();
    let mut connection = client.get_connection().unwrap();
    let durable: Vec<String> = ::redis::cmd("CONFIG").arg("GET").arg("appendfsync").query(&mut connection).unwrap();
    assert_eq!(durable, ["appendfsync", "always"]);
    let mut run = |words: &[&[u8]]| {
        let mut command = ::redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.exec(&mut connection).unwrap();
    };
    let digits = |number: u64| format!("{number:020}").into_bytes();
    run(&[b"SADD", b"p:shards", b"account-0003", b"station-0001", b"account-0004"]);
    for (shard, epoch, lsn, hash) in [("account-0003", 7, 3, [8; 32]), ("station-0001", 1, 0, [9; 32])] {
        let key = format!("{{p:{shard}}}:head");
        run(&[b"HSET", key.as_bytes(), b"epoch", &digits(epoch), b"lsn", &digits(lsn), b"hash", &hash, b"owner", b"n"]);
    }
    run(&[b"ZADD", b"{p:account-0003}:segments", b"0", &digits(1), b"0", &digits(3)]);
    let list = |first: u64| [b"{p:account-0003}:log:".to_vec(), digits(first)].concat();
    run(&[b"RPUSH", &list(1), b"one", b"two"]);
    run(&[b"RPUSH", &list(3), b"\0\xff", b"beyond the head"]);
    copy(&mut server.reader().unwrap(), &dir.path().join(COPY)).unwrap();
    assert_eq!(copied(dir.path()), expected());
    assert!(copy(&mut server.reader().unwrap(), &dir.path().join(COPY)).is_err(), "no copy is replaced");
    server.end();
    assert!(server.reader().is_err(), "it has ended");
}

/// `./dev test` starts the server.
#[test]
fn logs_are_copied_out_of_cassandra() {
    let node = std::env::var("CHARGEPLANE_CQL").expect("CHARGEPLANE_CQL: `./dev test drill` starts a Cassandra");
    let name = format!("drill_test_{}", std::process::id());
    let keyspace = super::cql::Keyspace::new(&node, &name).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let builder = scylla::client::session_builder::SessionBuilder::new().known_node(&node);
    let session = runtime.block_on(builder.build()).unwrap();
    let run = |cql: &str| {
        let mut statement = scylla::statement::unprepared::Statement::new(cql.replace("%k", &name));
        statement.set_request_timeout(Some(std::time::Duration::from_secs(60)));
        runtime.block_on(session.query_unpaged(statement, ())).unwrap_or_else(|error| panic!("{cql}: {error}"));
    };
    run("CREATE KEYSPACE %k WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
    run("CREATE TABLE %k.log (shard int, segment bigint, lsn bigint, frame blob, epoch bigint static, \
         last_lsn bigint static, last_hash blob static, PRIMARY KEY ((shard, segment), lsn))");
    run("CREATE TABLE %k.shards (part int, shard int, segment bigint, PRIMARY KEY (part, shard))");
    for shard in [65_539, 1, 65_540] {
        run(&format!("INSERT INTO %k.shards (part, shard, segment) VALUES (0, {shard}, 0)"));
    }
    let head = |shard: i32, segment: i64, epoch: i64, lsn: i64, byte: &str| {
        let hash = byte.repeat(32);
        run(&format!(
            "UPDATE %k.log SET epoch = {epoch}, last_lsn = {lsn}, last_hash = 0x{hash} \
             WHERE shard = {shard} AND segment = {segment} IF epoch = null"
        ));
    };
    head(65_539, 0, 6, 2, "07");
    head(65_539, 1, 7, 3, "08");
    head(1, 0, 1, 0, "09");
    for (segment, lsn, frame) in [(0, 1, "6f6e65"), (0, 2, "74776f"), (1, 3, "00ff"), (1, 4, "aa")] {
        run(&format!("INSERT INTO %k.log (shard, segment, lsn, frame) VALUES (65539, {segment}, {lsn}, 0x{frame})"));
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&mut keyspace.reader().unwrap(), &dir.path().join(COPY)).unwrap();
    assert_eq!(copied(dir.path()), expected());
    keyspace.drop_it().unwrap();
    assert!(keyspace.reader().unwrap().heads().is_err(), "it is gone");
}

struct Broken;

impl Source for Broken {
    fn heads(&mut self) -> anyhow::Result<Vec<Head>> {
        Ok(vec![Head { code: 0, epoch: 1, last_lsn: 1, last_hash: vec![0; 32] }])
    }

    fn frames(&mut self, _: &Head, _: &mut dyn FnMut(u64, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        anyhow::bail!("the server is gone")
    }
}

#[test]
fn half_a_copy_is_an_error_and_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let error = copy(&mut Broken, &dir.path().join(COPY)).unwrap_err();
    assert!(error.to_string().contains("the server is gone"), "{error:#}");
    assert!(Connection::open(dir.path().join(COPY)).unwrap().prepare("SELECT * FROM heads").is_err());
}
