//! Everything before the first car comes: run directory, node, catalogue, enrolments, accounts, fleet.

use crate::catalogue::{Layout, lay_out, price_range};
use crate::cli::RunArgs;
use crate::evidence::Writer;
use crate::fleet::{self, Enrolment, Payers};
use crate::http::{Client, path_id};
use crate::journal::Journal;
use crate::judge::bounds::{self, Bounds};
use crate::node::{self, LOST_FOR, Node, NodeSpec};
use crate::scenario::{self, Plan};
use crate::traffic::{BurstPlan, KEY_PREFIX, Opening, Traffic, account_ids};
use anyhow::{Context, ensure};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the node's configuration within a run directory.
const NODE_CONFIG: &str = "node.toml";

/// Where the node's word about its journal should be.
const NOT_SAID: &str = "the node does not say how durable it is";

/// What a killed node interrupts during the setup is tried again for so long.
const SETUP_PATIENCE: Duration = Duration::from_secs(150);

/// A node with fresh stores is ready within this time, or something is wrong.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Drivers with enough money share so many accounts: every account has a few sessions at once.
const RICH_ACCOUNTS: u32 = 400;

/// What each of them has, 1/10,000: 10,000 currency units.
const RICH_BALANCE: i64 = 100_000_000;

/// Accounts of the sessions that the drill starts over the API.
const REMOTE_ACCOUNTS: u32 = 5;

/// A run that has been set up: everything is there, nobody charges yet.
pub struct Setup {
    /// What will happen.
    pub plan: Plan,
    /// The run directory.
    pub dir: PathBuf,
    /// The node.
    pub node: Node,
    /// Its API.
    pub client: Client,
    /// The drill's own requests.
    pub traffic: Arc<Traffic>,
    /// Accounts that are topped up.
    pub rich: Vec<String>,
    /// Accounts of remote sessions.
    pub remote: Vec<String>,
    /// The directory of the node's stores.
    pub data_dir: PathBuf,
    /// Where the node has its journal.
    pub journal: Arc<Journal>,
    /// What an acknowledgement of it stands on, as the node says.
    pub durability: String,
}

impl Setup {
    /// The bursts of this run.
    pub fn burst_plan(&self) -> BurstPlan {
        let scenario = &self.plan.scenario;
        BurstPlan {
            requests: scenario.load.burst_requests,
            max_in_flight: scenario.node.max_in_flight,
            accounts: self.rich.clone(),
        }
    }
}

/// A program of this workspace: it lies beside this one.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot learn where this program lies")?;
    let path = own.with_file_name(name);
    ensure!(path.is_file(), "no program {}; build it with: cargo build --release --workspace", path.display());
    Ok(path)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Makes `runs/<name>/<utc>-<seed>`, never one that exists. Only its owner may look into it: the gateways' keys
/// are in it.
fn run_dir(plan: &Plan) -> anyhow::Result<PathBuf> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let parent = std::env::current_dir()?.join("runs").join(&plan.scenario.name);
    for n in 0..100 {
        let again = if n == 0 { String::new() } else { format!("-{n}") };
        let dir = parent.join(format!("{now}-{}{again}", plan.scenario.seed));
        if !dir.exists() {
            make_private_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            return Ok(dir);
        }
    }
    anyhow::bail!("cannot find a free name in {}", parent.display())
}

fn make_private_dir(dir: &Path) -> std::io::Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir)
}

/// Sets a run up to the point where the fleet can be started.
///
/// # Errors
/// Whatever keeps the run from beginning.
pub fn set_up(args: &RunArgs) -> anyhow::Result<Setup> {
    let written = scenario::read(&args.scenario)?;
    let plan = scenario::plan(&args.scenario, written, &(&args.flags).into())?;
    let dir = run_dir(&plan)?;
    print!("{}", plan.describe());
    println!("run directory  {}", dir.display());
    write_json(&dir.join("plan.json"), &plan)?;
    let layout = lay_out(&plan.scenario.station);

    let data_dir = match &args.data_dir {
        Some(path) => std::path::absolute(path)?,
        None => dir.join("data"),
    };
    let used = data_dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !used,
        "--data-dir {}: not empty; the judges compare all that is stored with this run, so it must be a new one",
        data_dir.display()
    );
    let (http, mqtt) = (args.port.map_or_else(free_port, Ok)?, free_port()?);
    write_json(&dir.join(bounds::FILE), &Bounds::of(&plan.scenario, price_range().0))?;
    let journal = Arc::new(Journal::start(args.journal, args.telemetry, args.cql_node.as_deref(), &dir)?);
    std::fs::write(dir.join(NODE_CONFIG), format!("{}\n{}", plan.scenario.node.toml(), journal.toml()))?;
    let spec = node_spec(&dir, &data_dir, http, mqtt)?;
    if journal.needs_migration() {
        migrate(&spec, &dir)?;
    }
    let node = Node::start(spec.clone())?;
    // Held here as well, so that the store is there until the node has ended.
    let setup = connect(args, plan, dir, data_dir, node.clone(), spec, &layout, mqtt, Arc::clone(&journal));
    if setup.is_err() {
        node.end();
    }
    setup
}

/// Makes the tables that the node does not make itself, as its operator would.
fn migrate(spec: &NodeSpec, dir: &Path) -> anyhow::Result<()> {
    let output = Command::new(&spec.binary).args(["store", "migrate", "--config"]).arg(dir.join(NODE_CONFIG)).output();
    let output = output.context("cannot run `chargeplane store migrate`")?;
    ensure!(
        output.status.success(),
        "`chargeplane store migrate` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    print!("{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn node_spec(dir: &Path, data_dir: &Path, http: u16, mqtt: u16) -> anyhow::Result<NodeSpec> {
    let data = data_dir.display().to_string();
    let (http_text, mqtt_text) = (http.to_string(), mqtt.to_string());
    let config = dir.join(NODE_CONFIG).display().to_string();
    let args = ["dev", "--data-dir", &data, "--config", &config, "--http-port", &http_text, "--mqtt-port", &mqtt_text];
    Ok(NodeSpec {
        binary: sibling("chargeplane")?,
        args: args.map(str::to_owned).to_vec(),
        log: dir.join("node.log"),
        base: format!("http://127.0.0.1:{http}"),
        token_file: data_dir.join("api-token"),
    })
}

#[allow(clippy::too_many_arguments, reason = "the parts of a setup under way, in the order they came to be")]
fn connect(
    args: &RunArgs,
    plan: Plan,
    dir: PathBuf,
    data_dir: PathBuf,
    node: Node,
    spec: NodeSpec,
    layout: &Layout,
    mqtt: u16,
    journal: Arc<Journal>,
) -> anyhow::Result<Setup> {
    let log = spec.log.display().to_string();
    node.wait_ready(START_LIMIT).with_context(|| format!("see its log, {log}"))?;
    let token = std::fs::read_to_string(&spec.token_file)?.trim().to_owned();
    println!("node pid       {}", node.state().pid.unwrap_or(0));
    println!("data directory {}", data_dir.display());
    let durability = node::said(&spec.log, "journal").unwrap_or_else(|| NOT_SAID.to_owned());
    println!("journal        {}: {durability}", args.journal);
    println!("URL            {}", spec.base);
    println!("token          {token}");
    println!("restart with   {}", spec.restart_command());

    let client = Client::new(&spec.base, &token);
    through_kills(&node, || apply_catalogue(&spec, &dir, layout, &token))?;
    let enrolments = through_kills(&node, || enrol(&client, layout))?;
    let incarnations: BTreeMap<&str, u32> = enrolments.iter().map(|e| (e.gateway.as_str(), e.incarnation)).collect();
    write_json(&dir.join(fleet::ENROLMENTS), &incarnations)?;

    let run = format!("{KEY_PREFIX}{:x}", jiff::Timestamp::now().as_millisecond());
    let traffic = Traffic::new(client.clone(), Writer::create(&dir)?, node.clone(), &run);
    let payers = open_accounts(&plan, &traffic)?;
    let remote = account_ids("remote", REMOTE_ACCOUNTS);
    let broker = format!("127.0.0.1:{mqtt}");
    let config = fleet::config(&plan, layout, &enrolments, &payers, &broker, &dir, args.keep);
    write_private_json(&dir.join(fleet::CONFIG), &config)?;
    Ok(Setup { plan, dir, node, client, traffic, rich: payers.rich, remote, data_dir, journal, durability })
}

/// Tries again what failed because the node was killed meanwhile. An enrolment that is repeated replaces the one
/// before; a catalogue that was applied is applied again without a change.
fn through_kills<T>(node: &Node, mut work: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        let before = node.state();
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // The keeper looks every so often: a death is known a moment later.
        std::thread::sleep(Duration::from_secs(1));
        let after = node.state();
        let died = before.unexpected_deaths != after.unexpected_deaths || before.pid != after.pid || !after.ready;
        if !died || begin.elapsed() > SETUP_PATIENCE {
            return Err(error);
        }
        node.take_news().iter().for_each(|line| println!("{line}"));
        node.wait_ready(LOST_FOR)?;
    }
}

/// Applies the catalogue as an operator would.
fn apply_catalogue(spec: &NodeSpec, dir: &Path, layout: &Layout, token: &str) -> anyhow::Result<()> {
    let file = dir.join("catalogue.yaml");
    std::fs::write(&file, layout.yaml()?)?;
    let output = Command::new(&spec.binary)
        .arg("apply")
        .arg("-f")
        .arg(&file)
        .env("CHARGEPLANE_URL", &spec.base)
        .env("CHARGEPLANE_TOKEN", token)
        .output()
        .context("cannot run chargeplane apply")?;
    let said = [output.stdout, output.stderr].concat();
    std::fs::write(dir.join("apply.log"), &said)?;
    ensure!(output.status.success(), "chargeplane apply failed: {}", String::from_utf8_lossy(&said).trim());
    Ok(())
}

fn enrol(client: &Client, layout: &Layout) -> anyhow::Result<Vec<Enrolment>> {
    let one = |number| {
        let gateway = crate::catalogue::gateway_id(number);
        let path = format!("/api/v1/gateways/{}/enrolment", path_id(&gateway));
        let answer = client.post(&path, None, &json!({})).with_context(|| format!("enrolling {gateway}"))?;
        ensure!(answer.ok(), "enrolling {gateway}: {}", answer.problem());
        serde_json::from_value(answer.body).with_context(|| format!("enrolling {gateway}"))
    };
    (1..=layout.gateways).map(one).collect()
}

fn open_accounts(plan: &Plan, traffic: &Traffic) -> anyhow::Result<Payers> {
    let rich = account_ids("driver", RICH_ACCOUNTS.min(plan.scenario.station.chargers.max(10)));
    let poor = account_ids("poor", plan.scenario.load.poor_drivers);
    let (late, poor_balance) = (plan.scenario.load.late_stops as usize, fleet::poor_balance(&plan.scenario));
    let late_balance = fleet::late_balance(&plan.scenario);
    let opening = |amount: i64| move |account: &String| Opening { account: account.clone(), amount };
    let mut openings: Vec<Opening> = rich.iter().map(opening(RICH_BALANCE)).collect();
    // The first of the poor have the chargers that stop late, and less money still.
    openings.extend(poor.iter().take(late).map(opening(late_balance)));
    openings.extend(poor.iter().skip(late).map(opening(poor_balance)));
    openings.extend(account_ids("remote", REMOTE_ACCOUNTS).iter().map(opening(RICH_BALANCE)));
    println!("opening {} accounts, enrolled {} gateways", openings.len(), plan.scenario.station.gateways);
    traffic.open_accounts(&openings)?;
    let balance = |index: usize| if index < late { late_balance } else { poor_balance };
    let poor = poor.into_iter().enumerate().map(|(index, account)| (account, balance(index))).collect();
    Ok(Payers { rich, poor })
}

/// Writes a value as pretty JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// As [`write_json`], to a new file that only its owner can read from the moment it is there.
fn write_private_json(path: &Path, value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all((text + "\n").as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_for_their_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("runs").join("run");
        make_private_dir(&dir).unwrap();
        let file = dir.join("fleet.json");
        write_private_json(&file, &json!({ "key": "00" })).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
        assert!(make_private_dir(&dir).is_err(), "a run has a directory of its own");
        assert!(write_private_json(&file, &json!({})).is_err(), "nor is a file taken over that others may have open");
    }
}
