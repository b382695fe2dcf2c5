//! The client: one task that keeps one session with one of several brokers, for ever.
//!
//! [`MqttLink`] is the handle, cheap and never blocking; the task owns rumqttc's client and event
//! loop and throws both away at the end of every session. That is the answer to rumqttc's traps:
//! it forgets unconfirmed publishes when the broker lost the session, it can wait for ever for a
//! packet id that will never be confirmed (`CollisionTimeout`), and it blocks while it writes. A
//! fresh event loop has none of that, and a clean session makes "lost" mean the same everywhere.
//!
//! What a user of the link can rely on:
//!
//! * `Connected` comes after the broker confirmed every subscription, and no `Message` of a session
//!   comes before its `Connected`, or after its `Disconnected`.
//! * A publish is refused while there is no session (as `Full`: try again later). One that was accepted and not confirmed when
//!   `Disconnected` comes is lost to this link; whoever needs it sends it again.
//! * `Disconnected` comes once for each session, and again when connecting fails for a new reason,
//!   such as a refused password.

mod session;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chargeplane_protocol::limits::{MAX_PACKET, MAX_TOPIC_LEN};
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused, LinkSink};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use session::Session;

/// Shortest keep-alive: rumqttc accepts no less.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// A session that ended sooner does not reset the back-off: two clients with one client id would
/// throw each other out without pause.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// How to reach a broker, and as whom.
#[derive(Clone)]
pub struct Options {
    /// `host:port` of each broker; after a failure the next one is tried.
    pub brokers: Vec<String>,
    /// MQTT client id, by house rule [`client_id_of`](crate::client_id_of) the user name.
    pub client_id: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Ping interval, at least 5 s. A dead broker is noticed after at most two of them.
    pub keep_alive: Duration,
    /// Publishes that may wait to be written, at most 256 KiB each; more are refused.
    pub queue: usize,
    /// Publishes that may be written and not yet confirmed. Costs about 200 bytes each, used or not.
    pub in_flight: u16,
}

impl Options {
    /// Options with the usual limits: 10 s keep-alive, 256 queued, 100 in flight.
    pub fn new(brokers: Vec<String>, client_id: &str, username: &str, password: &str) -> Self {
        Self {
            brokers,
            client_id: client_id.to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
            keep_alive: Duration::from_secs(10),
            queue: 256,
            in_flight: 100,
        }
    }

    fn check(&self) -> Result<Vec<(String, u16)>, OptionsError> {
        if self.brokers.is_empty() {
            return Err(OptionsError::NoBroker);
        }
        if self.keep_alive < SHORTEST_KEEP_ALIVE || self.keep_alive.as_secs() > u64::from(u16::MAX) {
            return Err(OptionsError::KeepAlive { found: self.keep_alive });
        }
        if self.queue == 0 || self.in_flight == 0 {
            return Err(OptionsError::NoRoom);
        }
        self.brokers.iter().map(|text| parse_address(text)).collect()
    }
}

/// Does not print the password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("keep_alive", &self.keep_alive)
            .field("queue", &self.queue)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// What is wrong with [`Options`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The list of brokers is empty.
    #[error("no broker address is given; name at least one as host:port")]
    NoBroker,
    /// Not `host:port`.
    #[error("broker address {text:?} is not host:port")]
    Address { text: String },
    /// rumqttc refuses short intervals, MQTT long ones.
    #[error("the MQTT keep-alive must be 5 s to 65,535 s, not {found:?}")]
    KeepAlive { found: Duration },
    /// `queue` or `in_flight` is zero, and nothing could ever be published.
    #[error("the MQTT queue and the number in flight must be at least 1")]
    NoRoom,
}

fn parse_address(text: &str) -> Result<(String, u16), OptionsError> {
    text.rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
        .ok_or_else(|| OptionsError::Address { text: text.to_owned() })
}

/// A [`Link`] over MQTT. Dropping it ends the session.
#[derive(Debug)]
pub struct MqttLink {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl MqttLink {
    /// Starts connecting, in a task of the tokio runtime that the caller runs in. `sink` is called
    /// from that task, one event at a time, and must not block.
    pub fn start(options: Options, sink: Arc<dyn LinkSink>) -> Result<Self, OptionsError> {
        let brokers = options.check()?;
        let shared = Arc::new(Shared { state: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        let runner = Runner { shared: shared.clone(), sink, options };
        let task = tokio::spawn(runner.run(brokers, stopped));
        Ok(Self { shared, stop, task: Mutex::new(Some(task)) })
    }

    fn is_closed(&self) -> bool {
        *self.stop.borrow()
    }

    /// Why nothing is taken while there is no session.
    fn refusal(&self) -> LinkRefused {
        if self.is_closed() { LinkRefused::Closed } else { LinkRefused::Full }
    }

    /// Hands what is queued to the broker, says goodbye and ends, within 2 s. The sink gets a last
    /// `Disconnected`; publishes are refused from now on.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let task = lock(&self.task).take();
        if let Some(task) = task {
            // The task does not panic of itself; a sink that did has told already.
            let _ = task.await;
        }
    }
}

impl Link for MqttLink {
    fn publish(&self, topic: &str, payload: Bytes, qos1: bool) -> Result<(), LinkRefused> {
        if payload.len() > MAX_PACKET || topic.len() > MAX_TOPIC_LEN {
            // The broker would answer by closing the connection, and all in flight would go with it.
            tracing::error!(topic, bytes = payload.len(), "a publish beyond the protocol's limits was refused");
            return Err(LinkRefused::Full);
        }
        let qos = if qos1 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let mut state = self.shared.lock();
        let live = state.live.as_mut().ok_or_else(|| self.refusal())?;
        live.client.try_publish(topic, qos, false, payload).map_err(|_| LinkRefused::Full)?;
        live.accepted += 1;
        Ok(())
    }

    /// Accepted while there is no session as well: the filter is subscribed with the next one, and
    /// with every one after.
    fn subscribe(&self, filter: &str) -> Result<(), LinkRefused> {
        let mut state = self.shared.lock();
        if self.is_closed() {
            return Err(LinkRefused::Closed);
        }
        if state.filters.contains(filter) {
            return Ok(());
        }
        if let Some(live) = &state.live {
            live.client.try_subscribe(filter, QoS::AtLeastOnce).map_err(|_| LinkRefused::Full)?;
            state.queued.push_back(vec![filter.to_owned()]);
        }
        state.filters.insert(filter.to_owned());
        Ok(())
    }
}

/// What the handle and the task share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Everything to subscribe, now and after every reconnect.
    filters: BTreeSet<String>,
    /// The client of the session, while there is one.
    live: Option<Live>,
    /// The filters of each SUBSCRIBE that was queued and has no packet id yet, in order.
    queued: VecDeque<Vec<String>>,
}

#[derive(Debug)]
struct Live {
    client: AsyncClient,
    /// Publishes taken in this session.
    accepted: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// No user of these locks leaves a half-made state behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task.
struct Runner {
    shared: Arc<Shared>,
    sink: Arc<dyn LinkSink>,
    options: Options,
}

impl Runner {
    async fn run(self, brokers: Vec<(String, u16)>, mut stopped: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        let mut sessions = 0u64;
        let mut told = String::new();
        for (host, port) in brokers.iter().cycle() {
            let begun = Instant::now();
            let mut session = Session::new(&self, host, *port, sessions + 1);
            let Some(failure) = or_stop(session.run(), &mut stopped).await else {
                session.say_goodbye().await;
                break;
            };
            let established = session.established;
            let reason = session.end(&failure, &format!("{host}:{port}"));
            sessions += u64::from(established);
            if established && begun.elapsed() >= STABLE_AFTER {
                backoff.succeeded();
            }
            if established || reason != told {
                tracing::debug!(client_id = self.options.client_id, reason, "MQTT link down");
                self.sink.on_event(LinkEvent::Disconnected { reason: reason.clone() });
                told = reason;
            }
            let wait = backoff.next_wait(RandomState::new().hash_one(sessions));
            if or_stop(tokio::time::sleep(wait), &mut stopped).await.is_none() {
                break;
            }
        }
        self.sink.on_event(LinkEvent::Disconnected { reason: "closed".into() });
    }
}

/// The work's result, or nothing when the link was closed or dropped first.
async fn or_stop<T>(work: impl Future<Output = T>, stopped: &mut watch::Receiver<bool>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = stopped.wait_for(|stop| *stop) => None,
    }
}

#[cfg(test)]
mod tests;
