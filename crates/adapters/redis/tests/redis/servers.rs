//! The conformance suite, the layout of the keys, and which servers are refused.

use crate::support::proxy::Proxy;
use crate::support::*;
use bytes::Bytes;
use chargeplane_cluster::archive;
use chargeplane_cluster::conformance::{check_journal, node, read_all, shard};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError, Snapshot};
use chargeplane_cluster::memory::MemoryJournal;
use chargeplane_redis::{RedisJournal, RedisOptions, StartError};
use std::io::Cursor;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let server = Server::start();
    let made = AtomicUsize::new(0);
    check_journal(|| {
        let prefix = format!("journal-{}", made.fetch_add(1, Ordering::Relaxed));
        let options = server.options().prefix(&prefix).expect("a prefix");
        let connected = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| Arc::new(connected.block_on(RedisJournal::connect(options)).expect("connects")))
    })
    .await;
}

async fn segments(client: &mut redis::aio::MultiplexedConnection, shard: &str) -> Vec<(u64, usize, usize)> {
    let base = format!("{{chargeplane:{shard}}}");
    let firsts: Vec<String> =
        redis::cmd("ZRANGE").arg(format!("{base}:segments")).arg(0).arg(-1).query_async(client).await.expect("lists");
    let mut found = Vec::new();
    for first in firsts {
        let range = redis::cmd("LRANGE").arg(format!("{base}:log:{first}")).arg(0).arg(-1).to_owned();
        let frames: Vec<Vec<u8>> = range.query_async(client).await.expect("reads");
        found.push((first.parse().expect("a number"), frames.len(), frames.iter().map(Vec::len).sum()));
    }
    found
}

#[tokio::test]
async fn a_segment_is_bounded_in_frames_and_bytes_and_the_log_goes_on_in_the_next() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut many = take(&journal, 0).await;
    let mut written = Vec::new();
    for _ in 0..25 {
        let frames: Vec<_> = (0..100).map(|n| many.next(&format!("entry {n}"))).collect();
        let outcomes = journal.commit(frames.clone()).await.expect("commits");
        assert!(outcomes.iter().all(|outcome| *outcome == CommitOutcome::Committed));
        written.extend(frames);
    }
    let mut large = take(&journal, 1).await;
    let payload = "x".repeat(1_500_000);
    for _ in 0..7 {
        assert_eq!(offer(&journal, large.next(&payload)).await, CommitOutcome::Committed);
    }
    let mut client = server.client().await;
    let counts = |found: Vec<(u64, usize, usize)>| found.iter().map(|f| (f.0, f.1)).collect::<Vec<_>>();
    assert_eq!(counts(segments(&mut client, "account-0000").await), [(1, 1_024), (1_025, 1_024), (2_049, 452)]);
    let found = segments(&mut client, "account-0001").await;
    assert!(found.iter().all(|(_, _, bytes)| *bytes < (4 << 20) + 1_600_000), "{found:?}");
    assert_eq!(counts(found), [(1, 3), (4, 3), (7, 1)]);

    assert_eq!(read_all(&journal, shard(0), 700).await, written);
    assert_eq!(journal.read(shard(0), 1_023, 10).await, Ok(written[1_023..1_024].to_vec()), "to the segment's end");
    assert_eq!(journal.read(shard(0), 5, 0).await, Ok(vec![]));
    for index in [0, 1] {
        let opened = journal.open(shard(index), node("n2")).await.expect("opens");
        assert_eq!(opened.tail.len() as u64, opened.last_lsn);
    }
}

#[tokio::test]
async fn large_snapshots_travel_in_pieces_two_are_kept_and_a_damaged_one_is_passed_over() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    let state = |n: u64| Bytes::from(vec![u8::try_from(n).expect("small"); 5 << 20]);
    for n in 1..=4 {
        fill(&journal, &mut writer, 2).await;
        let snapshot = Snapshot { lsn: writer.lsn, hash: writer.hash, bytes: state(n) };
        assert_eq!(journal.put_snapshot(shard(0), 1, snapshot).await, Ok(true));
    }
    fill(&journal, &mut writer, 1).await;
    let mut client = server.client().await;
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*snapshot:*").query_async(&mut client).await.expect("lists");
    keys.sort();
    let name = |lsn| format!("{{chargeplane:account-0000}}:snapshot:{lsn:020}");
    assert_eq!(keys, [name(6), name(8)]);
    let uploads: Vec<String> = redis::cmd("KEYS").arg("*upload*").query_async(&mut client).await.expect("lists");
    assert_eq!(uploads, [""; 0], "nothing is left of the uploads");
    let life: i64 = redis::cmd("TTL").arg(name(8)).query_async(&mut client).await.expect("answers");
    assert_eq!(life, -1, "a snapshot does not end by itself");

    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    let snapshot = opened.snapshot.expect("there");
    assert_eq!((snapshot.lsn, snapshot.bytes == state(4), opened.tail.len()), (8, true, 1));
    redis::cmd("LSET").arg(name(8)).arg(2).arg("other").exec_async(&mut client).await.expect("damages");
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!(opened.damaged_snapshots, [8]);
    assert_eq!((opened.snapshot.map(|s| s.lsn), opened.tail.len()), (Some(6), 3));
    redis::cmd("SET").arg(name(6)).arg("no list").exec_async(&mut client).await.expect("damages");
    let opened = journal.open(shard(0), node("n1")).await.expect("opens");
    assert_eq!((opened.damaged_snapshots, opened.snapshot, opened.tail.len()), (vec![8, 6], None, 9));
}

async fn refusal(options: RedisOptions) -> StartError {
    match RedisJournal::connect(options).await {
        Err(error) => error,
        Ok(journal) => panic!("accepted: {}", journal.durability()),
    }
}

#[tokio::test]
async fn a_server_that_answers_before_it_syncs_is_refused() {
    for (arguments, setting, found) in [
        (["--appendfsync", "everysec"], "appendfsync", "everysec"),
        (["--appendfsync", "no"], "appendfsync", "no"),
        (["--appendonly", "no"], "appendonly", "no"),
        (["--no-appendfsync-on-rewrite", "yes"], "no-appendfsync-on-rewrite", "yes"),
    ] {
        let server = Server::with(&arguments);
        match refusal(server.options()).await {
            StartError::NotDurable { setting: at, found: is, .. } => assert_eq!((at, &*is), (setting, found)),
            other => panic!("{arguments:?}: {other}"),
        }
        let mut client = server.client().await;
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut client).await.expect("answers");
        assert_eq!(keys, 0, "nothing was written");
    }
    let server = Server::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    assert!(matches!(refusal(server.options()).await, StartError::Evicts { .. }));
}

#[tokio::test]
async fn replicas_clusters_and_servers_that_do_not_answer_are_refused() {
    let primary = Server::start();
    let replica = Server::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    match refusal(replica.options()).await {
        StartError::Replica { primary: named, .. } => assert_eq!(named, format!("127.0.0.1:{}", primary.port)),
        other => panic!("{other}"),
    }
    let cluster = Server::with(&["--cluster-enabled", "yes"]);
    assert!(matches!(refusal(cluster.options()).await, StartError::Cluster { .. }));
    let mut gone = Server::start();
    gone.kill();
    assert!(matches!(refusal(gone.options()).await, StartError::Unreachable { .. }));
    for url in ["", "http://127.0.0.1/", "redis://127.0.0.1:port/", "redis://127.0.0.1/books"] {
        assert!(matches!(RedisOptions::new(url), Err(StartError::Url(_))), "{url:?}");
    }
    for prefix in ["", "a{b", "a b", "ü"] {
        assert!(matches!(primary.options().prefix(prefix), Err(StartError::Prefix(_))), "{prefix:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_config_needs_somebody_who_vouches_for_it() {
    let server = Server::with(&["--rename-command", "CONFIG", ""]);
    let error = refusal(server.options()).await;
    assert!(matches!(error, StartError::Unverifiable { .. }), "{error}");
    assert!(error.to_string().contains("journal.redis_durability_check"), "{error}");
    let journal = RedisJournal::connect(server.options().unverified(true)).await.expect("vouched for");
    assert!(!journal.durability().verified);
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 2).await;
    // What the server does say still counts.
    let off = Server::with(&["--rename-command", "CONFIG", "", "--appendonly", "no"]);
    assert!(matches!(refusal(off.options().unverified(true)).await, StartError::NotDurable { .. }));
}

#[tokio::test]
async fn user_and_password_are_used_and_never_shown() {
    let server = Server::with(&["--user", "books", "on", ">s3cret", "~*", "+@all", "--requirepass", "0ther"]);
    let authority = |user: &str| format!("redis://{user}127.0.0.1:{}/0", server.port);
    for wrong in ["", ":wr0ng@", "books:wr0ng@"] {
        let error = refusal(RedisOptions::new(&authority(wrong)).expect("a URL")).await;
        assert!(matches!(error, StartError::Refused { .. }), "{wrong}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error}");
    }
    RedisJournal::connect(RedisOptions::new(&authority("books:s3cret@")).expect("a URL")).await.expect("in the URL");
    let options = RedisOptions::new(&authority("books@")).expect("a URL").password("s3cret");
    RedisJournal::connect(options).await.expect("beside the URL");
    let options = RedisOptions::new(&authority("")).expect("a URL").password("0ther");
    let journal = RedisJournal::connect(options).await.expect("the default user");
    assert!(!journal.durability().to_string().contains("0ther"));
}

fn openssl(dir: &std::path::Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn tls_is_spoken_with_a_server_whose_certificate_is_known_and_with_no_other() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir.path(), &format!("req -x509 {new} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"));
    openssl(dir.path(), &format!("req {new} -keyout key.pem -out csr.pem -subj /CN=redis"));
    std::fs::write(dir.path().join("names"), "subjectAltName=IP:127.0.0.1\n").expect("writes");
    openssl(
        dir.path(),
        "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    );
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (cert, key, ca) = (file("cert.pem"), file("key.pem"), file("ca.pem"));
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let server = Server::with(&[&["--tls-port", "--port", "0", "--tls-auth-clients", "no"][..], &files].concat());
    let options = || RedisOptions::new(&format!("rediss://127.0.0.1:{}/0", server.port)).expect("a URL");
    let error = refusal(options()).await;
    assert!(matches!(&error, StartError::Unreachable { what, .. } if what.contains("certificate")), "{error}");
    let plain = refusal(server.options()).await;
    assert!(matches!(plain, StartError::Unreachable { .. }), "{plain}");
    let pem = std::fs::read(ca).expect("reads");
    let journal = RedisJournal::connect(options().ca_pem(pem)).await.expect("its authority is known");
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 3).await;
    assert_eq!(read_all(&journal, shard(0), 10).await.len(), 3);
}

#[tokio::test]
async fn a_server_that_stops_syncing_ends_the_journal() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 1).await;
    let mut client = server.client().await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("appendfsync").arg("everysec");
    set.exec_async(&mut client).await.expect("sets");
    let error = journal.commit(vec![writer.next("b")]).await.expect_err("not durable");
    assert!(error.is_fatal() && error.to_string().contains("appendfsync everysec"), "{error}");
}

#[tokio::test]
async fn a_full_server_takes_nothing_and_says_so() {
    let server = Server::start();
    let journal = server.journal().await;
    let mut writer = take(&journal, 0).await;
    fill(&journal, &mut writer, 1).await;
    let mut client = server.client().await;
    let mut limit = redis::cmd("CONFIG");
    limit.arg("SET").arg("maxmemory").arg("1mb");
    limit.exec_async(&mut client).await.expect("sets");
    let error = journal.commit(vec![writer.next("b")]).await.expect_err("no memory");
    assert!(matches!(error, JournalError::Full(_)) && error.is_fatal(), "{error}");
    assert_eq!(read_all(&journal, shard(0), 10).await.len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_leaves_the_outcome_open_after_a_second() {
    let server = Server::start();
    let proxy = Proxy::start(server.port).await;
    let journal = RedisJournal::connect(RedisOptions::new(&proxy.url()).expect("a URL")).await.expect("connects");
    let mut writer = take(&journal, 0).await;
    let frame = writer.next("hangs");
    proxy.hold("hangs");
    let began = std::time::Instant::now();
    let outcome = journal.commit(vec![frame.clone()]).await;
    assert!(matches!(outcome, Err(JournalError::OutcomeUnknown(_))), "{outcome:?}");
    let took = began.elapsed().as_millis();
    assert!((900..3_000).contains(&took), "{took} ms");
    assert_eq!(offer(&journal, frame).await, CommitOutcome::Committed);
    proxy.let_go().await;
    assert_eq!(read_all(&journal, shard(0), 10).await.len(), 1, "delivered twice, stored once");
}

#[tokio::test]
async fn a_journal_moves_to_redis_and_back_without_a_changed_byte() {
    let from = MemoryJournal::new();
    for (index, lives) in [(0, 3), (1, 1)] {
        for _ in 0..lives {
            let mut writer = take(&from, index).await;
            fill(&from, &mut writer, 700).await;
        }
    }
    let mut file = Vec::new();
    let summary = archive::export(&from, &mut file).await.expect("exports");
    assert_eq!((summary.shards, summary.frames), (2, 2_800));
    let server = Server::start();
    let journal = server.journal().await;
    archive::import(&journal, &mut Cursor::new(&file), &node("import")).await.expect("imports");
    let mut again = Vec::new();
    archive::export(&journal, &mut again).await.expect("exports");
    assert!(file == again, "the same file");
    let refused = archive::import(&journal, &mut Cursor::new(&file), &node("import")).await;
    assert!(matches!(refused, Err(archive::ArchiveError::NotEmpty { last_lsn: 2_100, .. })), "{refused:?}");
    let mut writer = take(&journal, 0).await;
    assert_eq!((writer.epoch, writer.lsn), (4, 2_100));
    fill(&journal, &mut writer, 1).await;
}
