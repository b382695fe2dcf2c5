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
        Self::start_with(dir, &node.mqtt, &["--sample-ms", "50"])
    }

    fn start_with(dir: &Path, broker: &str, options: &[&str]) -> Self {
        let mut child = Command::new(python())
            .arg(format!("{ROOT}/examples/gateway.py"))
            .arg("--identity")
            .arg(dir.join("identity.json"))
            .arg("--state")
            .arg(dir.join("ring"))
            .args(["--broker", broker])
            .args(options)
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
    assert!(!output.stdout.is_empty());
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

/// Everything that the gateway made so far is stored once, as it was made.
fn all_is_stored(node: &Node, told: &[Value]) {
    for (child, charger) in [(0, "main%2Fc-0001"), (1, "main%2Fc-0002")] {
        let made = made(told, child);
        assert!(made.len() > 20, "{} samples", made.len());
        until("all samples are stored", || {
            let found = stored(node, charger);
            made.keys().all(|number| found.contains_key(number)).then_some(())
        });
        let found = stored(node, charger);
        for (number, reading) in &made {
            assert_eq!(&found[number], reading, "sample {number} of {charger}");
        }
    }
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
    assert_eq!(node.get("/gateways").expect("gateways")["items"][0]["rotating"], false, "it was heard");

    // A stop is answered, and the session is settled.
    node.post(&format!("/sessions/{session}/stop"), "s2", json!({})).expect("accepted");
    gateway.until("command", |told| told["action"] == "stop");
    let records = format!("/charge-records?session={session}");
    let record = until("a charge record", || node.get(&records).ok()?["items"].as_array()?.first().cloned());
    assert_eq!(record["charger"], "main/c-0001", "{record}");

    told.extend(gateway.told());
    all_is_stored(&node, &told);
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

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A Mosquitto with the access rules of a deployment and a queue of a few messages a client. Beyond it, as beyond its
/// default of a thousand, it confirms what is published and drops it. It keeps nothing on disk.
struct Mosquitto {
    dir: PathBuf,
    address: String,
    child: Option<Child>,
}

impl Mosquitto {
    fn start(dir: &Path, gateway: &Value) -> Self {
        assert!(Path::new(MOSQUITTO).exists(), "{MOSQUITTO} is not there; run the tests with ./dev test");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        let text = |field: &str| gateway[field].as_str().expect("text").to_owned();
        let passwords = format!("node:secret\n{}:{}\n", text("username"), text("password"));
        std::fs::write(dir.join("passwords"), passwords).expect("written");
        let hashed = Command::new("mosquitto_passwd").arg("-U").arg(dir.join("passwords")).status();
        assert!(hashed.is_ok_and(|status| status.success()), "mosquitto_passwd failed");
        let topics = format!("cp/v1/{}/{}", text("gateway").replace('/', &format!("/{}/", text("shard"))), "");
        let rules = format!(
            "user node\ntopic readwrite cp/v1/#\n\nuser {}\ntopic write {topics}up/+\ntopic read {topics}down\n",
            text("username"),
        );
        std::fs::write(dir.join("rules"), rules).expect("written");
        let config = format!(
            "listener {port} 127.0.0.1\nuser root\nallow_anonymous false\npassword_file {0}/passwords\nacl_file {0}/rules\n\
             max_queued_messages 20\nlog_dest file {0}/broker.log\nlog_type all\n",
            dir.display()
        );
        std::fs::write(dir.join("mosquitto.conf"), config).expect("written");
        let mut broker = Self { dir: dir.to_owned(), address: format!("127.0.0.1:{port}"), child: None };
        broker.start_again();
        broker
    }

    fn start_again(&mut self) {
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(self.dir.join("mosquitto.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("mosquitto starts"));
        until("mosquitto listens", || std::net::TcpStream::connect(&self.address).ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn what_a_broker_drops_or_forgets_comes_again_from_the_ring() {
    let (data, dir) = (temp_dir(), temp_dir());
    let config = dir.path().join("node.toml");
    std::fs::write(&config, "[telemetry]\nflush_ms = 500\n").expect("written");
    // The gateway is enrolled first: the broker needs its password, the node a broker.
    let node = Node::start_with_config(data.path(), &config);
    let catalogue = format!("{ROOT}/scenarios/example-catalogue.yaml");
    assert!(chargeplane(data.path(), &["apply", "-f", &catalogue]).status.success());
    let identity = credentials(data.path(), dir.path(), "enroll");
    assert!(node.terminate().success());
    let mut broker = Mosquitto::start(dir.path(), &identity);
    std::fs::write(dir.path().join("password"), "secret\n").expect("written");
    let external = format!(
        "[telemetry]\nflush_ms = 500\n[mqtt]\nmode = \"external\"\nbrokers = [\"{}\"]\nusername = \"node\"\n\
         password_file = \"{}\"\n",
        broker.address,
        dir.path().join("password").display()
    );
    std::fs::write(&config, external).expect("written");
    let node = Node::start_with_config(data.path(), &config);
    let gateway = Gateway::start_with(
        dir.path(),
        &broker.address,
        &["--sample-ms", "20", "--batch-ms", "20", "--retry-ms", "2000"],
    );
    gateway.until("acked", |told| told["stream"] == "slow");

    // A node that does not read for a moment: the broker confirms what it then drops.
    node.signal("STOP");
    until("the broker drops messages", || broker.log().contains("being dropped").then_some(()));
    node.signal("CONT");
    // And a broker that forgets what it had taken, twice.
    for _ in 0..2 {
        let before = gateway.told().len();
        broker.kill();
        until("samples without a broker", || (gateway.told().len() > before + 40).then_some(()));
        broker.start_again();
        let connected = gateway.told().iter().filter(|told| told["what"] == "connected").count();
        until("a new connection", || {
            (gateway.told().iter().filter(|told| told["what"] == "connected").count() > connected).then_some(())
        });
    }
    all_is_stored(&node, &gateway.told());
    assert!(gateway.told().iter().all(|told| told["what"] != "refused" && told["what"] != "gap"));
    assert!(node.terminate().success());
}
