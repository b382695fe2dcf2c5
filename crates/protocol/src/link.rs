//! The port to a message broker, as both ends see it.
//!
//! Synchronous on purpose: cores and actors call it and go on. Adapters queue, connect and reconnect.

use bytes::Bytes;

/// The sending side of a broker connection.
pub trait Link: Send + Sync {
    /// Queues a publication. Never blocks; refused when the bounded queue is full or the link is closed.
    /// With `qos1` the adapter repeats until the broker has it (which says nothing about the other end).
    fn publish(&self, topic: &str, payload: Bytes, qos1: bool) -> Result<(), LinkRefused>;

    /// Queues a subscription, at QoS 1. Never blocks. Sessions are clean: subscribe again after `Connected`.
    fn subscribe(&self, filter: &str) -> Result<(), LinkRefused>;
}

/// Where an adapter delivers what happens on a connection. Called from the adapter's task; must not block.
pub trait LinkSink: Send + Sync {
    /// Takes one event.
    fn on_event(&self, event: LinkEvent);
}

/// What happens on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The broker accepted the connection; `session` counts connections of this link.
    Connected {
        /// Counts connections of this link, from 1.
        session: u64,
    },
    /// The connection ended; the adapter tries again by itself.
    Disconnected {
        /// For the log.
        reason: String,
    },
    /// A publication arrived.
    Message {
        /// Its topic, not yet checked.
        topic: String,
        /// Its payload, not yet checked.
        payload: Bytes,
    },
}

/// Why a link did not take a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkRefused {
    /// The bounded queue is full: try again later.
    #[error("the link's queue is full")]
    Full,
    /// The link is closed for good.
    #[error("the link is closed")]
    Closed,
}
