//! MQTT: the client side of the [`Link`](chargeplane_protocol::link::Link) port over rumqttc
//! ([`MqttLink`]) and a broker inside the process over rumqttd ([`EmbeddedBroker`]).
//!
//! MQTT 5 on both sides, checked against rumqttd 0.20 and Mosquitto 2.0 by the same tests; nothing
//! that matters travels in MQTT 5 properties, so the messages are the same for a 3.1.1 client of
//! another broker. No TLS yet: a broker that is reached over a foreign network needs a tunnel.
//!
//! Neither side keeps anything: sessions are clean, and what was not confirmed when a session ends
//! is reported and forgotten. The gateway's ring and the node's own acknowledgements carry DATA-1;
//! every queue here is bounded and refuses when full (LOAD-1).
//!
//! Both crates log much, and rumqttd at level ERROR what is an everyday event, such as a client
//! that went away. A program that installs a log filter appends [`QUIET_LOGS`] to its directives.

mod backoff;
mod broker;
mod client;

pub use broker::{Authenticate, BrokerError, EmbeddedBroker, Rights, client_id_of};
pub use client::{MqttLink, Options, OptionsError};

/// Largest MQTT packet: the largest sealed packet and room for its topic and headers.
pub const MAX_MQTT_PACKET: usize = chargeplane_protocol::limits::MAX_PACKET + (4 << 10);

/// Counter: connections of the embedded broker that were ended because a client sent what no gateway may,
/// label `reason`: `packet_too_large`, `protocol`.
pub const PACKETS_REFUSED_TOTAL: &str = "chargeplane_broker_packets_refused_total";

/// Directives for a `tracing` filter that silence the MQTT crates; what matters of them is logged
/// by this crate.
pub const QUIET_LOGS: &str = "rumqttc=off,rumqttd=off";
