//! The embedded broker: rumqttd's router in the node's process, for one node, the demo and the tests.
//!
//! It owns the router's thread and a small runtime for the connections, and replaces both when the
//! router dies: rumqttd's router trusts connection numbers that may be gone, and would otherwise
//! leave a port that accepts and never answers. Nothing here is durable and nothing needs to be: the
//! gateway's ring is the write-ahead log, and what a broker drops is sent again (DATA-1 never rests
//! on a PUBACK).
//!
//! MQTT 5 and 3.1.1 on one port. What to know of the router:
//!
//! * It keeps the newest messages of each *filter* in memory, read or not, and a reader that falls
//!   behind by more jumps ahead, silently. The limits below bound the memory, [`flow`] lets
//!   gateways wait for a node before it falls behind, and the application's acknowledgements notice
//!   when it did all the same.
//! * It has at most 100 messages in flight to a client, and delivers at the subscription's QoS.
//! * It has no access rules for topics; [`rights`] has them. A client that publishes or subscribes beyond
//!   its rights is disconnected and counted. (Messages are sealed per gateway all the same.)

mod connection;
mod flow;
mod rights;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rumqttd::local::LinkBuilder;
use rumqttd::protocol;
use rumqttd::{Router, RouterConfig, SegmentConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::PACKETS_REFUSED_TOTAL;
use connection::Common;
use flow::Flow;
use rights::Connections;
pub use rights::Rights;

/// Decides whether a client may connect, by `(client id, user name, password)`, and what it may do then.
///
/// It is asked at every connect, on a thread that may block, so an enrolment takes effect at once.
pub type Authenticate = dyn Fn(&str, &str, &str) -> Option<Rights> + Send + Sync;

/// Most clients at once. A process may have 20,000 open files, and the node needs some itself.
const MAX_CONNECTIONS: usize = 18_000;

/// Messages that the router hands to one connection before the others get their turn.
const ROUTER_BURST: u64 = 200;

/// Filters that carry many gateways' batches to a node: room for a second of a full load.
const UP_FILTERS: &str = "cp/v1/+/+/+/up/+";
const UP_SEGMENT: SegmentLimit = SegmentLimit { bytes: 4 << 20, count: 8 };

/// All other filters, of which there is one a gateway: small, because they are many.
const OTHER_SEGMENT: SegmentLimit = SegmentLimit { bytes: 256 << 10, count: 4 };

/// How often the watcher looks whether the router still lives, and the pause after a failure.
const WATCH_EVERY: Duration = Duration::from_millis(100);

struct SegmentLimit {
    bytes: usize,
    count: usize,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Somebody else listens there.
    #[error(
        "the embedded broker cannot listen on {address}: the port is taken; \
         stop the program that uses it or choose another port"
    )]
    PortTaken { address: SocketAddr },
    /// Any other failure to listen, for example an address that is not this machine's.
    #[error("the embedded broker cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The threads could not be started.
    #[error("the embedded broker cannot start its threads: {source}")]
    Threads { source: io::Error },
}

/// A running broker. Dropping it closes every connection and frees the port; rumqttd has no way to
/// end its router, whose idle thread stays until the process ends.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    counters: Arc<Counters>,
    connections: Arc<Connections>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counters {
    refused: AtomicU64,
    restarts: AtomicU64,
    bad_packets: AtomicU64,
    forbidden: AtomicU64,
    /// When a bad packet was last logged.
    logged: Mutex<Option<Instant>>,
    /// A way into the router of the present generation, to kill it.
    #[cfg(test)]
    way_in: tests::WayIn,
}

/// Reasons of an MQTT 5 DISCONNECT.
const MALFORMED_PACKET: u8 = 0x81;
const PACKET_TOO_LARGE: u8 = 0x95;
const NOT_AUTHORIZED: u8 = 0x87;
const ADMINISTRATIVE_ACTION: u8 = 0x98;

/// Bad packets are logged at most this often; all are counted.
const LOG_EVERY: Duration = Duration::from_secs(30);

impl Counters {
    /// Counts a packet that ended its connection, says so once in a while, and finds the reason to tell the client.
    fn refuse_packet(&self, client_id: &str, error: &protocol::Error) -> u8 {
        let (reason, told) = match error {
            protocol::Error::PayloadSizeLimitExceeded(_) => ("packet_too_large", PACKET_TOO_LARGE),
            _ => ("protocol", MALFORMED_PACKET),
        };
        self.bad_packets.fetch_add(1, Ordering::Relaxed);
        self.say(client_id, reason, error);
        told
    }

    /// The same for a packet about a topic that is not the client's.
    fn forbid(&self, client_id: &str, topic: &str) -> u8 {
        self.forbidden.fetch_add(1, Ordering::Relaxed);
        self.say(client_id, "not_authorized", &format_args!("{topic:?} is not this client's"));
        NOT_AUTHORIZED
    }

    fn say(&self, client_id: &str, reason: &'static str, error: &dyn std::fmt::Display) {
        metrics::counter!(PACKETS_REFUSED_TOTAL, "reason" => reason).increment(1);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            *logged = Some(Instant::now());
            tracing::warn!(client_id, reason, %error, "MQTT connection ended by its packet (further ones only counted)");
        }
    }
}

impl EmbeddedBroker {
    /// Starts a broker and returns once it listens, after some milliseconds.
    ///
    /// Port 0 means any free port; [`EmbeddedBroker::address`] tells which. A client is let in
    /// when its client id belongs to its user name ([`client_id_of`]) and `authenticate` gives it rights.
    pub fn start(listen: SocketAddr, authenticate: Arc<Authenticate>) -> Result<Self, BrokerError> {
        let counters = Arc::new(Counters::default());
        let connections = Arc::new(Connections::default());
        let gate = Arc::new(Gate { authenticate, counters: counters.clone(), connections: connections.clone() });
        let (stop, stopped) = watch::channel(false);
        let (started, outcome) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || serve(listen, &gate, &stopped, &started))
            .map_err(|source| BrokerError::Threads { source })?;
        let mut broker = Self { address: listen, counters, connections, stop, thread: Some(thread) };
        let ended = || io::Error::other("its thread ended");
        match outcome.recv().unwrap_or_else(|_| Err(ended())) {
            Ok(address) => broker.address = address,
            Err(source) => return Err(listen_error(listen, source)),
        }
        Ok(broker)
    }

    /// Where it listens, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections refused because of their credentials or their client id.
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }

    /// Packets that were too large or no MQTT, and ended their connections.
    pub fn bad_packets(&self) -> u64 {
        self.counters.bad_packets.load(Ordering::Relaxed)
    }

    /// Packets about topics that were not their client's, and ended its connection.
    pub fn forbidden(&self) -> u64 {
        self.counters.forbidden.load(Ordering::Relaxed)
    }

    /// Ends the connections of a client at once, or everybody's; returns how many there were. Whoever comes back is
    /// asked for its credentials again.
    pub fn cutter(&self) -> impl Fn(Option<&str>) -> usize + Send + Sync + 'static {
        let connections = Arc::clone(&self.connections);
        move |client_id| client_id.map_or_else(|| connections.end_all(), |client_id| connections.end(client_id))
    }

    /// How often the router had died and was started again. Not zero means a bug in rumqttd was
    /// met; every client was disconnected and came back.
    pub fn restarts(&self) -> u64 {
        self.counters.restarts.load(Ordering::Relaxed)
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The client id that a user must use: the user name with `:` in place of `/`, so user
/// `main/gw-7` connects as `main:gw-7`. rumqttd allows no `/` in client ids, and ids have no `:`, so no two
/// users share one.
pub fn client_id_of(user: &str) -> String {
    user.replace('/', ":")
}

fn listen_error(address: SocketAddr, source: io::Error) -> BrokerError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BrokerError::PortTaken { address },
        _ => BrokerError::Listen { address, source },
    }
}

/// Who may connect, and as whom.
struct Gate {
    authenticate: Arc<Authenticate>,
    counters: Arc<Counters>,
    connections: Arc<Connections>,
}

impl Gate {
    fn admits(&self, client_id: &str, user: &str, password: &str) -> Option<Rights> {
        let fits = client_id == client_id_of(user);
        let rights = if fits { (self.authenticate)(client_id, user, password) } else { None };
        if rights.is_none() {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(client_id, user, "connection refused");
        }
        rights
    }
}

fn router_config() -> RouterConfig {
    let up = SegmentConfig { max_segment_size: UP_SEGMENT.bytes, max_segment_count: UP_SEGMENT.count };
    RouterConfig {
        max_connections: MAX_CONNECTIONS,
        max_outgoing_packet_count: ROUTER_BURST,
        max_segment_size: OTHER_SEGMENT.bytes,
        max_segment_count: OTHER_SEGMENT.count,
        custom_segment: Some(HashMap::from([(UP_FILTERS.to_owned(), up)])),
        ..RouterConfig::default()
    }
}

/// How one generation of router and connections ended.
enum Ended {
    Stopped,
    RouterDied,
}

/// The first start's outcome: where it listens.
type Started = mpsc::Sender<io::Result<SocketAddr>>;

/// Runs one generation after the other until told to stop, or until the first cannot start.
fn serve(listen: SocketAddr, gate: &Arc<Gate>, stopped: &watch::Receiver<bool>, started: &Started) {
    let mut address = listen;
    let mut is_first = true;
    loop {
        let wanted = address;
        let on_listening = |actual| {
            address = actual;
            let _ = started.send(Ok(actual));
        };
        match serve_generation(wanted, gate, stopped.clone(), on_listening) {
            Ok(Ended::Stopped) => return,
            Ok(Ended::RouterDied) => {
                is_first = false;
                gate.counters.restarts.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the embedded broker's router died; it starts again and every client reconnects");
            }
            Err(source) if is_first => {
                let _ = started.send(Err(source));
                return;
            }
            Err(source) => {
                tracing::error!(%source, %address, "the embedded broker cannot start again yet");
                std::thread::sleep(WATCH_EVERY);
            }
        }
        if *stopped.borrow() {
            return;
        }
    }
}

/// One router and one runtime. Dropping the runtime closes the listener and every connection.
fn serve_generation(
    address: SocketAddr,
    gate: &Arc<Gate>,
    mut stopped: watch::Receiver<bool>,
    on_listening: impl FnOnce(SocketAddr),
) -> io::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("mqtt-broker")
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind(address))?;
    let router = Router::new(0, router_config()).spawn();
    let channel = router.clone();
    let register = move |client_id: &str| {
        let link = LinkBuilder::new(client_id, channel.clone()).dynamic_filters(true);
        link.build().ok().map(|(sender, receiver, _)| (sender, receiver))
    };
    let common = Arc::new(Common { gate: gate.clone(), register: Box::new(register), flow: Flow::default() });
    #[cfg(test)]
    gate.counters.way_in.open(&common);
    on_listening(listener.local_addr()?);
    let ended = runtime.block_on(async {
        tokio::select! {
            never = accept(listener, &common) => match never {},
            () = async { while !router.is_disconnected() { tokio::time::sleep(WATCH_EVERY).await } } => {
                Ended::RouterDied
            }
            _ = stopped.wait_for(|stop| *stop) => Ended::Stopped,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(ended)
}

async fn accept(listener: TcpListener, common: &Arc<Common>) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let served = connection::serve(stream, common.clone());
                tokio::spawn(async move {
                    if let Err(lost) = served.await {
                        tracing::debug!(%peer, %lost, "MQTT connection ended");
                    }
                });
            }
            Err(source) => {
                // Out of file descriptors, most likely: those that are open must end first.
                tracing::warn!(%source, "the embedded broker cannot accept a connection");
                tokio::time::sleep(WATCH_EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
