//! One node put together: stores, solver, broker, link, actors, HTTP, the books' TCP front; and its orderly end.
//!
//! The order matters. The data directory is locked first, ports are bound before anything is written,
//! the link is attached once the node listens. At the end: HTTP and TCP stop taking requests, the node flushes and
//! gives up its shards and its lease, the link hands over what is queued, the broker goes last.

mod broker;
pub mod journal;
mod ledger;
mod records;
pub mod telemetry;

use crate::cli::{Connection, DevArgs, NodeArgs};
use crate::client::new_key;
use crate::config::{self, Config, Loaded};
use crate::data_dir;
use crate::exit::{Code, Failure};
use crate::output;
use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::node::Node;
use chargeplane_actors::shared::{NodeConfig, Ports};
use chargeplane_actors::views::CatalogueDiff;
use chargeplane_api::auth::Tokens;
use chargeplane_api::{ApiOptions, catalogue_text, metrics::UPKEEP_EVERY};
use chargeplane_domain::catalogue::Catalogue;
use chargeplane_domain::catalogue_check;
use chargeplane_highs::HighsSolver;
use chargeplane_mqtt::{EmbeddedBroker, MqttLink, Options, QUIET_LOGS, client_id_of};
use chargeplane_protocol::link::Link;
use chargeplane_sqlite::{DataDir, OpenError, Stores};
use ledger::LedgerServer;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// Everything of a drain together takes less than this; after it the process ends without.
const DRAIN_LIMIT: Duration = Duration::from_secs(45);

/// How long requests that are in hand may take when the node drains.
const HTTP_DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long a catalogue file waits for shards that open.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// After a store failed, how long the process may take to end by itself.
const FATAL_LIMIT: Duration = Duration::from_secs(2);

/// What to start.
pub struct Start {
    loaded: Loaded,
    /// Print the token.
    dev: bool,
}

impl Start {
    /// `chargeplane node`.
    pub fn node(connection: &Connection, args: &NodeArgs) -> Result<Self, Failure> {
        let mut loaded = config::load(Some(&args.config), config::environment())?;
        place_data(&mut loaded, connection)?;
        Ok(Self { loaded, dev: false })
    }

    /// `chargeplane dev`: the embedded broker, and ports by option.
    pub fn dev(connection: &Connection, args: &DevArgs) -> Result<Self, Failure> {
        let mut loaded = config::load(args.config.as_deref(), config::environment())?;
        place_data(&mut loaded, connection)?;
        let ports = [
            ("--http-port", "http", args.http_port, loaded.config.http.listen.clone()),
            ("--mqtt-port", "mqtt", args.mqtt_port, loaded.config.mqtt.listen.clone()),
        ];
        for (option, section, port, listen) in ports {
            if let (Some(port), Some(mut address)) = (port, config::address(&listen)) {
                address.set_port(port);
                loaded.set_by_option(option, section, "listen", &address.to_string())?;
            }
        }
        Ok(Self { loaded, dev: true })
    }
}

/// The configuration of a command that works on a node's stores while the node does not run.
pub fn loaded(connection: &Connection, file: Option<&Path>) -> Result<Loaded, Failure> {
    let mut loaded = config::load(file, config::environment())?;
    place_data(&mut loaded, connection)?;
    Ok(loaded)
}

fn place_data(loaded: &mut Loaded, connection: &Connection) -> Result<(), Failure> {
    match &connection.data_dir {
        Some(dir) => loaded.set_by_option("--data-dir", "node", "data_dir", &dir.display().to_string()),
        None => Ok(()),
    }
}

/// Runs a node until it is told to end or a store fails.
pub fn run(start: Start) -> Result<(), Failure> {
    start_logging(&start.loaded.config.node.log)?;
    let workers = usize::try_from(start.loaded.config.node.worker_threads).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("node")
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("the runtime cannot start: {e}")))?;
    let result = runtime.block_on(serve(&start));
    runtime.shutdown_background();
    result
}

fn start_logging(config: &str) -> Result<(), Failure> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| config.to_owned());
    let filter = EnvFilter::try_new(format!("{directives},{QUIET_LOGS}")).map_err(|e| {
        Failure::usage(format!("node.log or RUST_LOG: {e}; write `info` or `info,chargeplane_actors=debug`"))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// The catalogue of `node.catalogue_file`, read and checked; none when the key is empty.
pub fn catalogue_of(config: &Config) -> Result<Option<Catalogue>, Failure> {
    let file = &config.node.catalogue_file;
    if file.is_empty() {
        return Ok(None);
    }
    let text =
        std::fs::read_to_string(file).map_err(|e| Failure::usage(format!("node.catalogue_file: {file}: {e}")))?;
    let catalogue = catalogue_text::from_yaml(&text)
        .map_err(|e| Failure::usage(format!("{file}:{}:{}: {}", e.line, e.column, e.message)))?;
    catalogue_check::validate(&catalogue).map_err(|found| {
        let lines: Vec<String> = found.iter().map(|problem| format!("{file}: {problem}")).collect();
        Failure::usage(lines.join("\n"))
    })?;
    Ok(Some(catalogue))
}

async fn serve(start: &Start) -> Result<(), Failure> {
    let config = &start.loaded.config;
    let catalogue = catalogue_of(config)?;
    let mut signals = Signals::new()?;
    let dir = DataDir::lock(&config.node.data_dir).map_err(open_failure)?;
    let tokens = tokens(config, dir.path())?;
    let http = bind(&config.http.listen).await?;
    let books = ledger::bind(config).await?;
    let metrics = chargeplane_api::install_metrics()
        .map_err(|e| Failure::internal(format!("the metrics cannot be installed: {e}")))?;
    let (node, durability) = start_node(config, &dir).await?;
    let handle = node.handle();
    if let Some(catalogue) = catalogue {
        let diff = apply_file(&handle, catalogue).await?;
        tracing::info!(changes = diff.changes.len(), version = diff.to_version, "applied the catalogue file");
    }
    let (link, broker) = connect(config, &node).await?;
    let http_address = http.local_addr().map_err(|e| Failure::internal(format!("HTTP: {e}")))?;
    let render = metrics.clone();
    let options = ApiOptions {
        tokens: tokens.clone(),
        metrics: Arc::new(move || render.render()),
        open_pages: http_address.ip().is_loopback(),
        max_in_flight: usize::try_from(config.http.max_in_flight).unwrap_or(usize::MAX),
        cdr_terms: config.cdr_terms(),
    };
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            metrics.run_upkeep();
        }
    });
    let books = books.map(|listener| LedgerServer::start(listener, handle.clone(), tokens, config)).transpose()?;
    let server = HttpServer::start(http, chargeplane_api::router(handle, options), config);
    announce(start, dir.path(), (http_address, books.as_ref()), broker.as_ref(), &durability)?;
    let ending = tokio::select! {
        () = signals.next() => Ok(()),
        reason = node.fatal() => Err(reason),
    };
    match ending {
        Ok(()) => drain(node, link, broker, (server, books), signals).await,
        Err(reason) => {
            // Threads that wait for a disk must not keep a process alive that acknowledges nothing any more.
            end_after(FATAL_LIMIT, Code::Store as i32);
            Err(Failure::new(
                Code::Store,
                format!(
                    "a store failed: {reason}\nThe node acknowledges nothing any more and ends. What was acknowledged \
                     is stored. Look at the disk of {}, then start it again",
                    dir.path().display()
                ),
            ))
        }
    }
}

/// Applies `node.catalogue_file`. What it takes away is asked for in the shards, which may still be opening.
async fn apply_file(handle: &NodeHandle, catalogue: Catalogue) -> Result<CatalogueDiff, Failure> {
    let deadline = tokio::time::Instant::now() + OPEN_LIMIT;
    loop {
        match handle.apply_catalogue(catalogue.clone(), false).await {
            Err(CallError::NotServing(_)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error @ CallError::Store(_)) => {
                return Err(Failure::new(Code::Store, format!("node.catalogue_file cannot be applied: {error}")));
            }
            Err(error) => return Err(Failure::usage(format!("node.catalogue_file cannot be applied: {error}"))),
            Ok(diff) => return Ok(diff),
        }
    }
}

pub fn open_failure(error: OpenError) -> Failure {
    let code = if matches!(error, OpenError::Locked { .. }) { Code::Busy } else { Code::Store };
    Failure::new(code, error.to_string())
}

/// The tokens of `http.token_file`, or those of the data directory, made when they are not there.
fn tokens(config: &Config, dir: &Path) -> Result<Tokens, Failure> {
    let path = if config.http.token_file.is_empty() {
        data_dir::ensure_token(dir)?;
        data_dir::token_path(dir)
    } else {
        PathBuf::from(&config.http.token_file)
    };
    read_tokens(&path)
}

fn read_tokens(path: &Path) -> Result<Tokens, Failure> {
    let fail = |e: String| Failure::usage(format!("tokens of {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    Tokens::parse(&text).map_err(fail)
}

/// Whether `http.token_file` can be used, when it is given.
pub fn check_token_file(config: &Config) -> Result<(), Failure> {
    let file = &config.http.token_file;
    if file.is_empty() { Ok(()) } else { read_tokens(Path::new(file)).map(drop) }
}

async fn bind(listen: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen).await.map_err(|e| {
        let code = if e.kind() == std::io::ErrorKind::AddrInUse { Code::Busy } else { Code::Usage };
        let advice = "stop what uses it, or choose another with --http-port or http.listen";
        Failure::new(code, format!("HTTP cannot listen on {listen}: {e}; {advice}"))
    })
}

/// The node, and what an acknowledgement of its journal stands on.
async fn start_node(config: &Config, dir: &DataDir) -> Result<(Node, String), Failure> {
    let opened = dir.clone();
    let stores = tokio::task::spawn_blocking(move || Stores::open(&opened))
        .await
        .map_err(|_| Failure::internal("opening the stores failed"))?
        .map_err(open_failure)?;
    let solver = HighsSolver::start(usize::try_from(config.power.solver_threads).unwrap_or(1))
        .map_err(|e| Failure::internal(format!("the solver cannot start: {e}")))?;
    let opened = journal::journal(config, stores.journal).await?;
    let remedy = records::remedy(dir.path(), "statements");
    records::refuse_ahead(&stores.statements, &*opened.journal, &remedy).await?;
    let ports = Ports {
        records: records::records(config, stores.records, &*opened.journal).await?,
        journal: opened.journal,
        coordination: Arc::new(stores.coordination),
        telemetry: telemetry::telemetry(config, stores.telemetry).await?,
        catalogue: Arc::new(stores.catalogue),
        statements: Arc::new(stores.statements),
        solver: Arc::new(solver),
    };
    let node = Node::start(node_config(config), ports).await;
    let node = node.map_err(|e| Failure::new(Code::Store, format!("the node does not start: {e}")))?;
    Ok((node, opened.durability))
}

fn node_config(config: &Config) -> NodeConfig {
    let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (node, power, telemetry, sessions) = (&config.node, &config.power, &config.telemetry, &config.sessions);
    NodeConfig {
        shards: u16::try_from(node.shards).unwrap_or(u16::MAX),
        passivate_after: Duration::from_secs(node.passivate_after_s),
        snapshot_after_bytes: node.snapshot_after_mib.saturating_mul(1 << 20),
        lease: Duration::from_millis(power.lease_ms),
        solve_limit: Duration::from_millis(power.solve_limit_ms),
        flush_every: Duration::from_millis(telemetry.flush_ms),
        max_buffered_samples: usize::try_from(telemetry.max_buffered_samples).unwrap_or(usize::MAX),
        hold_wh: whole(sessions.hold_wh),
        stop_time: Duration::from_millis(sessions.stop_time_ms),
        debit_every: Duration::from_millis(sessions.debit_ms),
        debit_wh: whole(sessions.debit_wh),
        hold_lasts: Duration::from_secs(sessions.hold_lasts_s),
        command_deadline: Duration::from_millis(sessions.command_deadline_ms),
        call_timeout: Duration::from_millis(node.call_timeout_ms),
        ..NodeConfig::new(&node.name)
    }
}

/// The broker, if it is ours, and the node's own link to it.
async fn connect(config: &Config, node: &Node) -> Result<(Arc<MqttLink>, Option<EmbeddedBroker>), Failure> {
    let mqtt = &config.mqtt;
    let own = format!("node/{}", config.node.name);
    let (broker, brokers, username, password) = if mqtt.mode == "embedded" {
        let password = new_key()?;
        let broker = broker::start(&mqtt.listen, node, own.clone(), password.clone()).await?;
        let brokers = vec![reachable(broker.address()).to_string()];
        (Some(broker), brokers, own, password)
    } else {
        let username = if mqtt.username.is_empty() { own } else { mqtt.username.clone() };
        (None, mqtt.brokers.clone(), username, password_of("mqtt.password_file", &mqtt.password_file)?)
    };
    let options = Options {
        keep_alive: Duration::from_secs(mqtt.keep_alive_s),
        queue: usize::try_from(mqtt.queue).unwrap_or(usize::MAX),
        in_flight: u16::try_from(mqtt.in_flight).unwrap_or(u16::MAX),
        ..Options::new(brokers, &client_id_of(&username), &username, &password)
    };
    let link = MqttLink::start(options, node.link_sink()).map_err(|e| Failure::usage(format!("mqtt: {e}")))?;
    let link = Arc::new(link);
    let shared: Arc<dyn Link> = link.clone();
    node.attach_link(shared).map_err(|e| Failure::internal(format!("the link refuses the node's topics: {e}")))?;
    Ok((link, broker))
}

/// The password in the first line of a file; none when no file is named.
fn password_of(key: &str, file: &str) -> Result<String, Failure> {
    if file.is_empty() {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(file).map_err(|e| Failure::usage(format!("{key}: {file}: {e}")))?;
    Ok(text.lines().next().unwrap_or("").to_owned())
}

/// An address that this machine can connect to: where "all addresses" is listened on, loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

/// Tells people and programs where the node is.
fn announce(
    start: &Start,
    dir: &Path,
    (http, books): (SocketAddr, Option<&LedgerServer>),
    broker: Option<&EmbeddedBroker>,
    durability: &str,
) -> Result<(), Failure> {
    let url = format!("http://{}", reachable(http));
    let mqtt = broker
        .map_or_else(|| start.loaded.config.mqtt.brokers.join(","), |broker| reachable(broker.address()).to_string());
    data_dir::record(dir, &url, &mqtt)?;
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let mut text = format!("url       {url}\n");
    if start.dev {
        text.push_str(&format!("token     {}\n", data_dir::read_token(&dir).unwrap_or_default()));
    }
    if let Some(books) = books {
        text.push_str(&format!("books     {}\n", reachable(books.address)));
    }
    text.push_str(&format!("mqtt      {mqtt}\njournal   {durability}\n"));
    text.push_str(&format!("data dir  {}\npid       {}\n", dir.display(), std::process::id()));
    output::write(&text)
}

struct HttpServer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl HttpServer {
    fn start(listener: TcpListener, router: axum::Router, config: &Config) -> Self {
        let (stop, stopped) = oneshot::channel();
        let most = usize::try_from(config.http.max_connections).unwrap_or(usize::MAX);
        let stopped = async {
            let _ = stopped.await;
        };
        Self { stop, task: tokio::spawn(chargeplane_api::serve(listener, router, most, stopped)) }
    }

    /// Takes no more requests and lets those in hand end.
    async fn end(self) {
        let _ = self.stop.send(());
        if tokio::time::timeout(HTTP_DRAIN_LIMIT, self.task).await.is_err() {
            tracing::warn!("requests in hand did not end in time");
        }
    }
}

async fn drain(
    node: Node,
    link: Arc<MqttLink>,
    broker: Option<EmbeddedBroker>,
    (server, books): (HttpServer, Option<LedgerServer>),
    mut signals: Signals,
) -> Result<(), Failure> {
    tracing::info!("draining; a second signal ends at once");
    end_after(DRAIN_LIMIT, Code::Undrained as i32);
    tokio::spawn(async move {
        signals.next().await;
        tracing::warn!("second signal: ending without draining");
        std::process::exit(Code::Interrupted as i32);
    });
    let fatal = node.fatal();
    tokio::select! {
        clean = wind_down(node, link, broker, (server, books)) => {
            if !clean {
                return Err(Failure::new(
                    Code::Undrained,
                    "not everything was flushed in time. What was not was not acknowledged, and is sent again; the log \
                     names the shards that were not given up, and the next start opens them",
                ));
            }
            tracing::info!("drained");
            Ok(())
        }
        reason = fatal => Err(Failure::new(Code::Store, format!("a store failed while draining: {reason}"))),
    }
}

/// Takes no more requests, drains the node and ends everything else; true when everything was flushed. Afterwards nothing
/// of the node is left, so the data directory can be opened again.
async fn wind_down(
    node: Node,
    link: Arc<MqttLink>,
    broker: Option<EmbeddedBroker>,
    (server, books): (HttpServer, Option<LedgerServer>),
) -> bool {
    let books_end = async {
        if let Some(books) = books {
            books.end().await;
        }
    };
    let ((), (), clean) = tokio::join!(server.end(), books_end, node.drain());
    link.close().await;
    // Its drop waits for threads.
    let _ = tokio::task::spawn_blocking(move || drop(broker)).await;
    clean
}

/// Ends the process after `limit`, whatever else it waits for.
fn end_after(limit: Duration, code: i32) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        std::process::exit(code);
    });
}

/// SIGTERM and SIGINT.
struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|e| Failure::internal(format!("signals: {e}")));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
