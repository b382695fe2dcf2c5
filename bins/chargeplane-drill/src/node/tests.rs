use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

/// A stand-in for the node's API: ready, and whoever `pid` says it is.
fn serve(pid: &'static std::sync::atomic::AtomicU32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut buffer = [0; 2048];
            let _ = stream.read(&mut buffer);
            let pid = pid.load(std::sync::atomic::Ordering::SeqCst);
            let body = format!("{{\"pid\":{pid},\"incarnation\":{pid},\"started_at\":\"t{pid}\"}}");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    format!("http://{address}")
}

fn spec(base: &str, name: &str) -> NodeSpec {
    let file = |what: &str| std::env::temp_dir().join(format!("drill-node-test-{}-{name}.{what}", std::process::id()));
    std::fs::write(file("token"), "t\n").expect("the token is written");
    NodeSpec {
        binary: "/bin/sleep".into(),
        args: vec!["600".into()],
        log: file("log"),
        base: base.to_owned(),
        token_file: file("token"),
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_ordered_kill_starts_another_process_which_counts_as_a_restart() {
    static PID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let base = serve(&PID);
    let node = Node::start(spec(&base, "kill")).expect("starts");
    let first = node.state().pid.expect("a pid");
    PID.store(first, std::sync::atomic::Ordering::SeqCst);
    node.wait_ready(Duration::from_secs(10)).expect("ready");
    assert_eq!(node.state().restarts(), 0);
    node.kill();
    eventually("another process", || node.state().pid.is_some_and(|pid| pid != first));
    assert!(!alive(first), "the first is dead");
    let second = node.state().pid.expect("a pid");
    PID.store(second, std::sync::atomic::Ordering::SeqCst);
    eventually("a restart is counted", || node.state().restarts() == 1);
    assert_eq!((node.state().ordered_kills, node.state().unexpected_deaths), (1, 0));
    assert_eq!(node.drain(), DrainOutcome::Signalled, "sleep does not handle SIGTERM");
    assert!(!alive(second));
}

#[test]
fn a_death_nobody_ordered_is_told_with_the_restart_command() {
    static PID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let base = serve(&PID);
    let node = Node::start(spec(&base, "death")).expect("starts");
    let first = node.state().pid.expect("a pid");
    PID.store(first, std::sync::atomic::Ordering::SeqCst);
    node.wait_ready(Duration::from_secs(10)).expect("ready");
    signal(first, Signal::KILL);
    eventually("the death is noticed", || node.state().unexpected_deaths == 1);
    let news = node.take_news().join("\n");
    assert!(news.contains("/bin/sleep 600"), "{news}");
    // Somebody starts it by hand: it is adopted by what the API says.
    let mut by_hand = Command::new("/bin/sleep").arg("600").spawn().expect("spawns");
    PID.store(by_hand.id(), std::sync::atomic::Ordering::SeqCst);
    eventually("adopted", || node.state().adopted && node.state().pid == Some(by_hand.id()));
    assert_eq!(node.state().restarts(), 1);
    node.leave();
    by_hand.kill().expect("killed");
    let _ = by_hand.wait();
}

#[test]
fn the_restart_command_can_be_pasted() {
    let spec = NodeSpec {
        binary: "/opt/charge plane/bin".into(),
        args: vec!["dev".into(), "--data-dir".into(), "it's".into()],
        log: PathBuf::new(),
        base: String::new(),
        token_file: PathBuf::new(),
    };
    assert_eq!(spec.restart_command(), r"'/opt/charge plane/bin' dev --data-dir 'it'\''s'");
}

/// A node that takes a second to drain.
fn slow_drain(base: &str, name: &str) -> NodeSpec {
    let script = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    NodeSpec { binary: "/bin/sh".into(), args: vec!["-c".into(), script.into()], ..spec(base, name) }
}

#[test]
fn an_ordered_stop_is_a_drain_and_a_new_start() {
    static PID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let base = serve(&PID);
    let node = Node::start(slow_drain(&base, "stop")).expect("starts");
    let first = node.state().pid.expect("a pid");
    PID.store(first, std::sync::atomic::Ordering::SeqCst);
    node.wait_ready(Duration::from_secs(10)).expect("ready");
    // The shell has to have come to its trap.
    std::thread::sleep(Duration::from_millis(500));
    node.stop();
    eventually("another process", || node.state().pid.is_some_and(|pid| pid != first) && !alive(first));
    let state = node.state();
    assert_eq!((state.ordered_stops, state.unexpected_deaths), (vec![DrainOutcome::Exit(0)], 0));
    node.end();
}

#[test]
fn a_node_killed_while_it_drains_is_started_and_drained_again() {
    static PID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let base = serve(&PID);
    let node = Node::start(slow_drain(&base, "drain")).expect("starts");
    let first = node.state().pid.expect("a pid");
    PID.store(first, std::sync::atomic::Ordering::SeqCst);
    node.wait_ready(Duration::from_secs(10)).expect("ready");
    std::thread::sleep(Duration::from_millis(500));
    let draining = {
        let node = node.clone();
        std::thread::spawn(move || node.drain())
    };
    std::thread::sleep(Duration::from_millis(500));
    signal(first, Signal::KILL);
    assert_eq!(draining.join().expect("drains"), DrainOutcome::Exit(0));
    let state = node.state();
    assert_eq!(state.unexpected_deaths, 1);
    assert!(state.pid.is_some_and(|pid| pid != first && !alive(pid)));
}

#[test]
fn a_node_killed_before_it_ever_served_is_started_again_but_one_that_gives_up_is_not() {
    static PID: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let base = serve(&PID);
    let late = spec(&base, "early");
    std::fs::remove_file(&late.token_file).expect("no token yet");
    let node = Node::start(late.clone()).expect("starts");
    let first = node.state().pid.expect("a pid");
    signal(first, Signal::KILL);
    eventually("another process", || node.state().pid.is_some_and(|pid| pid != first));
    let second = node.state().pid.expect("a pid");
    PID.store(second, std::sync::atomic::Ordering::SeqCst);
    std::fs::write(&late.token_file, "t\n").expect("the token is written");
    node.wait_ready(Duration::from_secs(10)).expect("ready");
    node.end();

    let wrong = NodeSpec { args: vec!["wrong".into()], ..spec(&base, "wrong") };
    std::fs::remove_file(&wrong.token_file).expect("no token");
    let node = Node::start(wrong).expect("starts");
    let error = node.wait_ready(Duration::from_secs(10)).expect_err("sleep does not know `wrong`");
    assert!(error.to_string().contains("before it was ready"), "{error}");
    node.end();
}

#[test]
fn what_a_node_says_at_its_start_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("node.log");
    assert_eq!(said(&log, "journal"), None);
    std::fs::write(&log, "url       http://h\njournal   a file\n 12:00 INFO journal: no\njournalled by others\n")
        .expect("in");
    assert_eq!(said(&log, "journal").as_deref(), Some("a file"));
    // Started again, it says it again.
    std::fs::write(&log, "journal   a file\njournal   another\njournal  \n").expect("in");
    assert_eq!(said(&log, "journal").as_deref(), Some("another"));
}
