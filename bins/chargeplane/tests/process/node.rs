//! A node as a child process, and requests to it.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_chargeplane");

/// How long a node may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn temp_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A command of the program that ends by itself.
pub fn chargeplane(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--data-dir")
        .arg(data_dir)
        .args(arguments)
        .env_remove("CHARGEPLANE_URL")
        .env_remove("CHARGEPLANE_TOKEN");
    command.output().expect("the program starts")
}

pub struct Node {
    child: Child,
    url: String,
    token: String,
    /// Where the embedded broker listens.
    pub mqtt: String,
    _stdout: BufReader<ChildStdout>,
}

impl Node {
    pub fn start(data_dir: &Path) -> Self {
        Self::spawn(Command::new(PROGRAM), data_dir)
    }

    /// A node with a configuration file.
    pub fn start_with_config(data_dir: &Path, config: &Path) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("--data-dir").arg(data_dir).args(["dev", "--http-port", "0", "--mqtt-port", "0", "--config"]);
        command.arg(config);
        Self::started(command)
    }

    /// A node none of whose files may grow beyond so many KiB.
    pub fn start_with_file_limit(data_dir: &Path, kib: u32) -> Self {
        let mut shell = Command::new("bash");
        // With the signal ignored, a write beyond the limit fails like one on a full disk.
        shell.args(["-c", &format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\""), PROGRAM]);
        Self::spawn(shell, data_dir)
    }

    fn spawn(mut command: Command, data_dir: &Path) -> Self {
        command.arg("--data-dir").arg(data_dir).args(["dev", "--http-port", "0", "--mqtt-port", "0"]);
        Self::started(command)
    }

    fn started(mut command: Command) -> Self {
        command.env("RUST_LOG", "error").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (mut url, mut token, mut mqtt) = (String::new(), String::new(), String::new());
        while url.is_empty() || token.is_empty() || mqtt.is_empty() {
            let mut line = String::new();
            if stdout.read_line(&mut line).expect("readable") == 0 {
                let mut said = String::new();
                let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
                panic!("the node ended before it listened: {said}");
            }
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["url", value] => url = value.to_owned(),
                ["token", value] => token = value.to_owned(),
                ["mqtt", value] => mqtt = value.to_owned(),
                _ => {}
            }
        }
        let node = Self { child, url, token, mqtt, _stdout: stdout };
        let deadline = Instant::now() + PATIENCE;
        while ureq::get(format!("{}/readyz", node.url)).call().is_err() {
            assert!(Instant::now() < deadline, "the node never got ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        node
    }

    pub fn http_port(&self) -> u16 {
        self.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Asks for something, by its path below /api/v1; the error is what the node said.
    pub fn get(&self, path: &str) -> Result<serde_json::Value, String> {
        let request = ureq::get(format!("{}/api/v1{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let mut response = request.call().map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    pub fn post(&self, path: &str, key: &str, body: serde_json::Value) -> Result<serde_json::Value, String> {
        let request = ureq::post(format!("{}/api/v1{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        let mut response = request.send(body.to_string()).map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    pub fn open_account(&self, account: &str) -> Result<(), String> {
        let body = serde_json::json!({ "account": format!("main/{account}"), "currency": "CNY", "kind": "prepaid" });
        self.post("/accounts", &format!("open-{account}"), body).map(drop)
    }

    /// Returns the balance that was answered.
    pub fn top_up(&self, account: &str, key: &str, amount: &str) -> Result<String, String> {
        let path = format!("/accounts/main%2F{account}/top-ups");
        let answer = self.post(&path, key, serde_json::json!({ "amount": amount }))?;
        answer["balance"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())
    }

    pub fn balance(&self, account: &str) -> String {
        let request = ureq::get(format!("{}/api/v1/accounts/main%2F{account}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let text = request.call().expect("answered").body_mut().read_to_string().expect("a body");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        answer["balance"].as_str().expect("a balance").to_owned()
    }

    /// SIGTERM, and how the node ended.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        self.ended().0
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill").success());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        let _ = self.child.wait();
    }

    /// Waits for a node that ends by itself; also what it wrote to standard error.
    pub fn wait_for_end(mut self) -> (ExitStatus, String) {
        self.ended()
    }

    fn ended(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "the node does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut said);
        }
        (status, said)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
