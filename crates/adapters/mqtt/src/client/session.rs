//! One session: connect, subscribe, pass messages on, end.
//!
//! A session is made for one attempt and thrown away with everything rumqttc remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chargeplane_protocol::link::LinkEvent;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAck, PubAckReason, Publish, SubAck, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing};
use tokio::time::timeout;

use super::{Live, Options, Runner};
use crate::MAX_MQTT_PACKET;

/// How long TCP and the CONNACK may take together, in seconds.
const CONNECT_PATIENCE_S: u64 = 3;

/// rumqttc's event loop returns at least once a keep-alive, to ping. This much later it hangs: both
/// ends wait for the other to read. The session is given up.
const STALL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a closing link may take to hand its queue to the broker.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(2);

/// Filters in one SUBSCRIBE packet.
const FILTERS_A_PACKET: usize = 64;

/// Messages held back until `Connected` was told. A broker sends them only between its first and
/// its last SUBACK, so there are few; beyond this many they are passed on early.
const MOST_HELD: usize = 1_024;

/// Why a session ended, or never began.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("the broker refused the subscription to {filter:?}: {reason:?}")]
    Subscription { filter: String, reason: SubscribeReasonCode },
    #[error("the subscriptions were not taken: one is no filter, or they do not fit the queue of {queue}")]
    Queue { queue: usize },
    #[error("the connection stalled")]
    Stalled,
}

/// One session: a client, its event loop, and what is known of its subscriptions.
pub(super) struct Session<'a> {
    runner: &'a Runner,
    number: u64,
    client: AsyncClient,
    events: EventLoop,
    /// Filters that were asked for in this session.
    asked: BTreeSet<String>,
    /// SUBSCRIBE packets without their SUBACK, by packet id.
    unconfirmed: BTreeMap<u16, Vec<String>>,
    /// Messages that came before `Connected` was told.
    held: Vec<LinkEvent>,
    /// `Connected` was told.
    pub(super) established: bool,
    /// Publishes that the broker has: confirmed, or written when nobody confirms (QoS 0).
    confirmed: u64,
    /// A refused publish was logged.
    complained: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(runner: &'a Runner, host: &str, port: u16, number: u64) -> Self {
        let (client, events) = AsyncClient::new(mqtt_options(&runner.options, host, port), runner.options.queue);
        Self {
            runner,
            number,
            client,
            events,
            asked: BTreeSet::new(),
            unconfirmed: BTreeMap::new(),
            held: Vec::new(),
            established: false,
            confirmed: 0,
            complained: false,
        }
    }

    /// Connects, subscribes, then passes messages on until the session ends.
    pub(super) async fn run(&mut self) -> Failure {
        loop {
            if let Err(failure) = self.step().await {
                return failure;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Failure> {
        let patience = self.runner.options.keep_alive + STALL_PATIENCE;
        match timeout(patience, self.events.poll()).await {
            Err(_) => Err(Failure::Stalled),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(event)) => self.on_event(event),
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Incoming(Packet::Publish(publish)) => self.on_publish(publish),
            Event::Incoming(Packet::PubAck(puback)) => self.on_puback(&puback),
            Event::Outgoing(Outgoing::Publish(0)) => self.confirmed += 1,
            Event::Incoming(Packet::ConnAck(_)) => self.subscribe_or_establish()?,
            Event::Incoming(Packet::SubAck(suback)) => self.on_suback(&suback)?,
            Event::Outgoing(Outgoing::Subscribe(packet_id)) => {
                if let Some(filters) = self.runner.shared.lock().queued.pop_front() {
                    self.unconfirmed.insert(packet_id, filters);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_publish(&mut self, publish: Publish) {
        // A topic that is no UTF-8 is passed on mangled, so that its reader counts it as malformed.
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let message = LinkEvent::Message { topic, payload: publish.payload };
        if self.established {
            self.runner.sink.on_event(message);
            return;
        }
        self.held.push(message);
        if self.held.len() >= MOST_HELD {
            self.release_held();
        }
    }

    fn on_puback(&mut self, puback: &PubAck) {
        self.confirmed += 1;
        let taken = matches!(puback.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        if !taken && !self.complained {
            self.complained = true;
            let client_id = &self.runner.options.client_id;
            tracing::warn!(client_id, reason = ?puback.reason, "the broker refuses publishes");
        }
    }

    fn release_held(&mut self) {
        for message in self.held.drain(..) {
            self.runner.sink.on_event(message);
        }
    }

    fn on_suback(&mut self, suback: &SubAck) -> Result<(), Failure> {
        let filters = self.unconfirmed.remove(&suback.pkid).unwrap_or_default();
        for (filter, reason) in filters.into_iter().zip(&suback.return_codes) {
            if !matches!(reason, SubscribeReasonCode::Success(_)) {
                return Err(Failure::Subscription { filter, reason: *reason });
            }
        }
        if self.established { Ok(()) } else { self.subscribe_or_establish() }
    }

    /// Asks for the filters that were not asked for yet. When all are confirmed, tells `Connected`.
    fn subscribe_or_establish(&mut self) -> Result<(), Failure> {
        let mut state = self.runner.shared.lock();
        let missing: Vec<String> = state.filters.difference(&self.asked).cloned().collect();
        for filters in missing.chunks(FILTERS_A_PACKET) {
            let subscribe = filters.iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
            self.client
                .try_subscribe_many(subscribe)
                .map_err(|_| Failure::Queue { queue: self.runner.options.queue })?;
            state.queued.push_back(filters.to_vec());
        }
        self.asked.extend(missing);
        if !state.queued.is_empty() || !self.unconfirmed.is_empty() {
            return Ok(());
        }
        state.live = Some(Live { client: self.client.clone(), accepted: 0 });
        drop(state);
        self.established = true;
        self.runner.sink.on_event(LinkEvent::Connected { session: self.number });
        self.release_held();
        Ok(())
    }

    /// Closes the session for publishers and says why it ended, with the number of publishes that
    /// were accepted and not confirmed.
    pub(super) fn end(mut self, failure: &Failure, broker: &str) -> String {
        let accepted = self.refuse_publishers();
        // What came with the failure was read, and confirmed or confirming: it is not lost here.
        while let Some(event) = self.events.state.events.pop_front() {
            match event {
                Event::Incoming(Packet::Publish(publish)) if self.established => {
                    self.on_publish(publish);
                }
                Event::Incoming(Packet::PubAck(puback)) => self.on_puback(&puback),
                Event::Outgoing(Outgoing::Publish(0)) => self.confirmed += 1,
                _ => {}
            }
        }
        if !self.established {
            return format!("cannot connect to {broker}: {}", explain(failure));
        }
        let unconfirmed = accepted.saturating_sub(self.confirmed);
        format!("lost {broker}: {}; {unconfirmed} publishes were not confirmed", explain(failure))
    }

    /// Takes the session away from publishers. Returns how many publishes it had taken.
    fn refuse_publishers(&self) -> u64 {
        let mut state = self.runner.shared.lock();
        state.queued.clear();
        state.live.take().map_or(0, |live| live.accepted)
    }

    /// Waits until the broker confirmed what was queued, then disconnects. A socket that is closed
    /// with confirmations unread is reset, and takes what the broker has not read yet with it.
    pub(super) async fn say_goodbye(&mut self) {
        let accepted = self.refuse_publishers();
        if !self.established {
            return;
        }
        let client = self.client.clone();
        let goodbye = async {
            let mut asked = false;
            loop {
                asked = asked || (self.confirmed >= accepted && client.try_disconnect().is_ok());
                match self.events.poll().await {
                    Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(_) => return,
                    Ok(event) => {
                        if self.on_event(event).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        let _ = timeout(GOODBYE_PATIENCE, goodbye).await;
    }
}

/// rumqttc's words, and ours where a person would not know what to do.
fn explain(failure: &Failure) -> String {
    match failure {
        Failure::Connection(ConnectionError::MqttState(StateError::ConnectionAborted)) => {
            "the broker closed the connection".into()
        }
        Failure::Connection(ConnectionError::ConnectionRefused(code)) => {
            format!("the broker says {code:?}; check user name, password and client id")
        }
        Failure::Connection(ConnectionError::Timeout(_)) => {
            format!("no answer within {CONNECT_PATIENCE_S} s")
        }
        other => other.to_string(),
    }
}

fn mqtt_options(options: &Options, host: &str, port: u16) -> MqttOptions {
    let mut mqtt = MqttOptions::new(options.client_id.clone(), host, port);
    mqtt.set_credentials(options.username.clone(), options.password.clone())
        .set_keep_alive(options.keep_alive)
        .set_clean_start(true)
        .set_max_packet_size(Some(u32::try_from(MAX_MQTT_PACKET).unwrap_or(u32::MAX)))
        .set_outgoing_inflight_upper_limit(options.in_flight)
        .set_connection_timeout(CONNECT_PATIENCE_S);
    // Acknowledgements are small and wanted at once.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    mqtt.set_network_options(network);
    mqtt
}
