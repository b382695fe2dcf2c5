//! The example gateway, another program in another language written from the page of the wire: what it says is
//! stored, what it is told is obeyed, through a kill, a rotation of its key and a revocation.

use crate::node::{Node, chargeplane, temp_dir};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for anything expected.
const PATIENCE: Duration = Duration::from_secs(60);

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The interpreter with the example's packages.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache"));
    let ours = cache.join("chargeplane/python/bin/python");
    let python = std::env::var_os("CHARGEPLANE_PYTHON").map_or(ours, PathBuf::from);
    assert!(python.exists(), "{} is not there; run the tests with ./dev test, which installs it", python.display());
    python
}

/// A run of the example, and what it told so far.
struct Gateway {
    child: Child,
    told: Arc<Mutex<Vec<Value>>>,
}

impl Gateway {
    fn start(dir: &Path, node: &Node) -> Self {
        let mut child = Command::new(python())
            .arg(format!("{ROOT}/examples/gateway.py"))
            .arg("--identity")
            .arg(dir.join("identity.json"))
            .arg("--state")
            .arg(dir.join("ring"))
            .args(["--broker", &node.mqtt, "--sample-ms", "50"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let told = Arc::new(Mutex::new(Vec::new()));
        let (lines, book) = (BufReader::new(child.stdout.take().expect("piped")), Arc::clone(&told));
        std::thread::spawn(move || {
            // A line that a kill cut off is no JSON.
            for told in lines.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
                book.lock().expect("not poisoned").push(told);
            }
        });
        Self { child, told }
    }

    fn told(&self) -> Vec<Value> {
        self.told.lock().expect("not poisoned").clone()
    }

    /// Waits until it tells this.
    fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.told().into_iter().find(|told| told["what"] == what && fits(told)) {
                return found;
            }
            let lately: Vec<_> = self.told().into_iter().filter(|told| told["what"] != "sample").collect();
            assert!(Instant::now() < deadline, "the gateway never told '{what}'; it told {lately:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Power off. What it told until then.
    fn kill(mut self) -> Vec<Value> {
        self.child.kill().expect("it runs");
        let _ = self.child.wait();
        self.told()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a command that prints credentials, and hands them to the gateway as a person would.
fn credentials(data: &Path, dir: &Path, command: &str) -> Value {
    let output = chargeplane(data, &["gateway", command, "main/gw-01", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(dir.join("identity.new"), &output.stdout).expect("written");
    std::fs::rename(dir.join("identity.new"), dir.join("identity.json")).expect("renamed");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Samples by number: voltage, current, temperature, state of charge, power, register.
type Samples = BTreeMap<u64, [i64; 6]>;

/// What the gateway made of a charger.
fn made(told: &[Value], child: u64) -> Samples {
    let of_child = told.iter().filter(|told| told["what"] == "sample" && told["child"] == child);
    let reading = |told: &Value| {
        let number = told["number"].as_u64().expect("a number");
        // Column 0 is the time.
        (number, std::array::from_fn(|at| told["reading"][at + 1].as_i64().expect("a whole number")))
    };
    of_child.map(reading).collect()
}

/// What the node has of it. A number that is there twice fails.
fn stored(node: &Node, charger: &str) -> Samples {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let (from, to) = (now - 3_600_000, now + 3_600_000);
    let path = format!("/chargers/{charger}/telemetry?from={from}&to={to}&limit=100000");
    let answer = node.get(&path).expect("telemetry");
    let mut samples = Samples::new();
    for sample in answer["samples"].as_array().expect("samples") {
        let columns = ["voltage_dv", "current_da", "temperature_dc", "soc_permille", "power_w", "register_wh"];
        let number = sample["number"].as_u64().expect("a number");
        let before = samples.insert(number, columns.map(|column| sample[column].as_i64().expect("a whole number")));
        assert_eq!(before, None, "{charger} has sample {number} twice");
    }
    samples
}

#[test]
fn a_gateway_in_another_language_is_stored_acknowledged_and_commanded() {
    let (data, dir) = (temp_dir(), temp_dir());
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "[telemetry]\nflush_ms = 500\n").expect("written");
    let node = Node::start_with_config(data.path(), &config);
    let catalogue = format!("{ROOT}/scenarios/example-catalogue.yaml");
    assert!(chargeplane(data.path(), &["apply", "-f", &catalogue]).status.success());
    let first = credentials(data.path(), dir.path(), "enroll");
    node.open_account("alice").expect("opens");
    node.top_up("alice", "t1", "100").expect("tops up");

    // A start is answered: the charger charges at what it is granted, and its samples are stored and acknowledged.
    let gateway = Gateway::start(dir.path(), &node);
    gateway.until("connected", |_| true);
    let body = json!({ "charger": "main/c-0001", "connector": 1, "account": "main/alice" });
    let started = until("a start of the session", || node.post("/sessions", "s1", body.clone()).ok());
    let session = started["session"].as_str().expect("a session").replace('/', "%2F");
    gateway.until("command", |told| told["action"] == "start" && told["child"] == 0);
    let state = || node.get(&format!("/sessions/{session}")).ok().map(|found| found["state"].clone());
    until("the session charges", || (state()? == "charging").then_some(()));
    until("energy flows", || made(&gateway.told(), 0).values().any(|reading| reading[4] > 0).then_some(()));
    gateway.until("acked", |told| told["stream"] == "fast");
    gateway.until("acked", |told| told["stream"] == "events" && told["held"] == 0);

    // Power off and on: what was not acknowledged is in its ring and comes again.
    let mut told = gateway.kill();
    let gateway = Gateway::start(dir.path(), &node);
    gateway.until("boot", |told| told["boot"] == 2);
    gateway.until("acked", |told| told["stream"] == "fast" && told["boot"] == 2);

    // A new key while it charges: a new boot under it, and nothing stops.
    let second = credentials(data.path(), dir.path(), "rotate");
    assert_eq!((&second["key_epoch"], &second["incarnation"]), (&json!(2), &first["incarnation"]));
    gateway.until("rotated", |told| told["key_epoch"] == 2);
    gateway.until("acked", |told| told["stream"] == "fast" && told["boot"] == 3);
    assert_eq!(state(), Some(json!("charging")));

    // A stop is answered, and the session is settled.
    node.post(&format!("/sessions/{session}/stop"), "s2", json!({})).expect("accepted");
    gateway.until("command", |told| told["action"] == "stop");
    let records = format!("/charge-records?session={session}");
    let record = until("a charge record", || node.get(&records).ok()?["items"].as_array()?.first().cloned());
    assert_eq!(record["charger"], "main/c-0001", "{record}");

    // Everything that it made is stored once, as it was made.
    told.extend(gateway.told());
    for (child, charger) in [(0, "main%2Fc-0001"), (1, "main%2Fc-0002")] {
        let made = made(&told, child);
        assert!(made.len() > 20, "{} samples", made.len());
        until("all samples are stored", || {
            let found = stored(&node, charger);
            made.keys().all(|number| found.contains_key(number)).then_some(())
        });
        let found = stored(&node, charger);
        for (number, reading) in &made {
            assert_eq!(&found[number], reading, "sample {number} of {charger}");
        }
    }
    assert!(gateway.told().iter().all(|told| told["what"] != "refused" && told["what"] != "gap"));

    // Revoked: cut off at once, and not let in again.
    assert!(chargeplane(data.path(), &["gateway", "revoke", "main/gw-01"]).status.success());
    gateway.until("disconnected", |_| true);
    std::thread::sleep(Duration::from_secs(3));
    let told = gateway.told();
    let last = told.iter().rfind(|told| told["what"] == "connected" || told["what"] == "disconnected");
    assert_eq!(last.expect("some")["what"], "disconnected", "a revoked gateway was let in");
    assert!(node.terminate().success());
}
