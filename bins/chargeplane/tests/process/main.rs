//! The program as a process: how it starts, ends, refuses to start, and what a kill or a full disk leaves behind.

mod gateway;
mod node;

use node::{Node, chargeplane, temp_dir};
use std::path::Path;
use std::process::Output;

const EXIT_USAGE: i32 = 2;
const EXIT_STORE: i32 = 4;
const EXIT_BUSY: i32 = 5;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn failed(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn verify(dir: &Path) {
    let output = chargeplane(dir, &["ledger", "verify"]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn sigterm_drains_and_a_new_start_has_everything() {
    let dir = temp_dir();
    let node = Node::start(dir.path());
    node.open_account("alice").unwrap();
    node.top_up("alice", "k1", "12.50").unwrap();
    assert!(node.terminate().success(), "a drained node exits with 0");
    verify(dir.path());
    let node = Node::start(dir.path());
    assert_eq!(node.balance("alice"), "12.5000");
    assert_eq!(node.top_up("alice", "k1", "12.50").unwrap(), "12.5000", "the key's answer, not its effect again");
    assert_eq!(node.balance("alice"), "12.5000");
    assert!(node.terminate().success());
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let dir = temp_dir();
    let mut acknowledged = 0i64;
    for round in 0..4 {
        let node = Node::start(dir.path());
        if round == 0 {
            node.open_account("bob").unwrap();
        }
        assert_eq!(node.balance("bob"), format!("{acknowledged}.0000"));
        for number in 0..=(round * 7) {
            node.top_up("bob", &format!("{round}-{number}"), "1").unwrap();
            acknowledged += 1;
        }
        node.kill();
        verify(dir.path());
    }
    let node = Node::start(dir.path());
    assert_eq!(node.balance("bob"), format!("{acknowledged}.0000"));
    node.kill();
}

#[test]
fn a_full_disk_stops_the_acknowledgements_and_the_node() {
    let dir = temp_dir();
    let node = Node::start(dir.path());
    node.open_account("carol").unwrap();
    assert!(node.terminate().success());

    // No file may grow beyond this: the journal's log of writes gets there after some hundred top-ups.
    let node = Node::start_with_file_limit(dir.path(), 1_500);
    let mut acknowledged = 0i64;
    let refused = (0..20_000).find(|number| match node.top_up("carol", &format!("k{number}"), "1") {
        Ok(balance) => {
            acknowledged += 1;
            assert_eq!(balance, format!("{acknowledged}.0000"));
            false
        }
        Err(_) => true,
    });
    assert!(refused.is_some(), "the limit was never met");
    let (status, said) = node.wait_for_end();
    assert_eq!(status.code(), Some(EXIT_STORE), "{said}");
    assert!(said.contains("a store failed"), "{said}");

    verify(dir.path());
    let node = Node::start(dir.path());
    let balance: f64 = node.balance("carol").parse().unwrap();
    // The one that was not answered may be there or not.
    assert!((0.0..=1.0).contains(&(balance - acknowledged as f64)), "{balance} after {acknowledged}");
    assert!(node.terminate().success());
}

#[test]
fn a_second_node_on_one_data_directory_is_refused() {
    let dir = temp_dir();
    let node = Node::start(dir.path());
    let second = chargeplane(dir.path(), &["dev", "--http-port", "0", "--mqtt-port", "0"]);
    let said = failed(&second, EXIT_BUSY);
    assert!(said.contains(&dir.path().display().to_string()), "{said}");
    let port = node.http_port().to_string();
    let other = temp_dir();
    let said = failed(&chargeplane(other.path(), &["dev", "--http-port", &port, "--mqtt-port", "0"]), EXIT_BUSY);
    assert!(said.contains(&port) && said.contains("--http-port"), "{said}");
    assert!(node.terminate().success());
}

#[test]
fn a_wrong_configuration_or_catalogue_stops_the_start_with_what_and_where() {
    let dir = temp_dir();
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "[node]\nname = \"n1\"\nshrads = 8\n").unwrap();
    let path = config.display().to_string();
    let data = dir.path().join("data");
    let said = failed(&chargeplane(&data, &["node", "--config", &path]), EXIT_USAGE);
    assert!(said.contains("node.toml:3") && said.contains("shrads") && said.contains("shards"), "{said}");
    assert!(!data.exists(), "nothing was written");

    let catalogue = dir.path().join("catalogue.yaml");
    std::fs::write(&catalogue, "stations:\n  main/s1:\n    colour: red\n").unwrap();
    std::fs::write(&config, format!("[node]\ncatalogue_file = \"{}\"\n", catalogue.display())).unwrap();
    let said = failed(&chargeplane(&data, &["node", "--config", &path]), EXIT_USAGE);
    assert!(said.contains("catalogue.yaml:3") && said.contains("colour"), "{said}");
}
