//! Two brokers to run the same tests against, and a sink that remembers.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chargeplane_mqtt::{EmbeddedBroker, MqttLink, Options, client_id_of};
use chargeplane_protocol::link::{Link, LinkEvent, LinkRefused, LinkSink};
use tokio::sync::mpsc;

/// Longest wait for anything a test expects.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The password of every user of a test broker.
pub const PASSWORD: &str = "correct horse";

/// The users that every test broker knows: one node and twenty gateways.
pub fn users() -> Vec<String> {
    let gateways = (1..=20).map(|number| format!("main/gw-{number}"));
    std::iter::once("main/node-1".to_owned()).chain(gateways).collect()
}

/// A broker that a test can kill and start again on the same port.
pub trait TestBroker {
    fn start() -> Self;
    fn address(&self) -> String;
    fn kill(&mut self);
    fn start_again(&mut self);
}

pub struct Embedded {
    address: SocketAddr,
    broker: Option<EmbeddedBroker>,
}

fn start_embedded(address: SocketAddr) -> EmbeddedBroker {
    let users = users();
    let knows = move |_: &str, user: &str, password: &str| {
        let known = users.iter().any(|known| known == user) && password == PASSWORD;
        known.then_some(chargeplane_mqtt::Rights::Everything)
    };
    EmbeddedBroker::start(address, Arc::new(knows)).expect("the embedded broker starts")
}

impl TestBroker for Embedded {
    fn start() -> Self {
        let broker = start_embedded("127.0.0.1:0".parse().unwrap());
        Self { address: broker.address(), broker: Some(broker) }
    }

    fn address(&self) -> String {
        self.address.to_string()
    }

    fn kill(&mut self) {
        self.broker = None;
    }

    fn start_again(&mut self) {
        self.broker = Some(start_embedded(self.address));
    }
}

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A Mosquitto process of our own, with its queue limits raised: by default it confirms publishes and
/// then drops them.
pub struct Mosquitto {
    port: u16,
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Mosquitto {
    fn write_config(&self) {
        let directory = self.directory.path();
        let passwords = directory.join("passwords");
        let lines: Vec<String> = users().iter().map(|user| format!("{user}:{PASSWORD}\n")).collect();
        std::fs::write(&passwords, lines.concat()).unwrap();
        let hashed = Command::new("mosquitto_passwd").arg("-U").arg(&passwords).status();
        assert!(hashed.is_ok_and(|status| status.success()), "mosquitto_passwd failed");
        let config = format!(
            "listener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\nuser root\n\
             max_queued_messages 0\nmax_inflight_messages 0\nmax_packet_size 300000\n",
            self.port,
            passwords.display()
        );
        std::fs::write(directory.join("mosquitto.conf"), config).unwrap();
    }
}

impl TestBroker for Mosquitto {
    fn start() -> Self {
        assert!(
            Path::new(MOSQUITTO).exists(),
            "{MOSQUITTO} is not installed; run the tests with ./dev test, which installs it"
        );
        let port = free_port();
        let mut broker = Self { port, directory: tempfile::tempdir().unwrap(), child: None };
        broker.write_config();
        broker.start_again();
        broker
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn start_again(&mut self) {
        let mut child = Command::new(MOSQUITTO)
            .arg("-c")
            .arg(self.directory.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address()).is_err() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "mosquitto ended at once: {ended:?}");
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child = Some(child);
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Passes events on to the test, as slowly as asked.
struct Sink {
    events: mpsc::UnboundedSender<LinkEvent>,
    pause: Duration,
}

impl LinkSink for Sink {
    fn on_event(&self, event: LinkEvent) {
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        let _ = self.events.send(event);
    }
}

/// A link and what it told.
pub struct Client {
    pub link: MqttLink,
    events: mpsc::UnboundedReceiver<LinkEvent>,
}

impl Client {
    /// Starts connecting `user` to the brokers, with the right password.
    pub fn start(brokers: Vec<String>, user: &str, filters: &[&str]) -> Self {
        Self::start_with(Options::new(brokers, &client_id_of(user), user, PASSWORD), filters)
    }

    pub fn start_with(options: Options, filters: &[&str]) -> Self {
        Self::start_slow(options, filters, Duration::ZERO)
    }

    /// As [`Client::start_with`]; each event holds the link up for `pause`.
    pub fn start_slow(options: Options, filters: &[&str], pause: Duration) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let sink = Sink { events: sender, pause };
        let link = MqttLink::start(options, Arc::new(sink)).unwrap();
        for filter in filters {
            link.subscribe(filter).unwrap();
        }
        Self { link, events }
    }

    /// As [`Client::start`], and waits for the first session.
    pub async fn connected(broker: &impl TestBroker, user: &str, filters: &[&str]) -> Self {
        let mut client = Self::start(vec![broker.address()], user, filters);
        assert_eq!(client.event().await, LinkEvent::Connected { session: 1 });
        client
    }

    /// The next event.
    pub async fn event(&mut self) -> LinkEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event within the test's patience").expect("the link lives")
    }

    pub async fn message(&mut self) -> (String, Bytes) {
        match self.event().await {
            LinkEvent::Message { topic, payload } => (topic, payload),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    pub async fn disconnected(&mut self) -> String {
        match self.event().await {
            LinkEvent::Disconnected { reason } => reason,
            other => panic!("expected the end of the session, got {other:?}"),
        }
    }

    /// Fails when anything is told within `quiet`.
    pub async fn expect_silence(&mut self, quiet: Duration) {
        if let Ok(event) = tokio::time::timeout(quiet, self.events.recv()).await {
            panic!("expected silence, got {event:?}");
        }
    }

    /// Publishes, waiting while the queue is full.
    pub async fn publish(&self, topic: &str, payload: Bytes) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(refused) = self.link.publish(topic, payload.clone(), true) {
            assert_eq!(refused, LinkRefused::Full);
            assert!(Instant::now() < deadline, "the queue stays full");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Bytes in which a shift, a cut or a repeat shows.
pub fn pattern(len: usize) -> Bytes {
    (0..len).map(|index| (index.wrapping_mul(31) ^ (index >> 8)) as u8).collect()
}
