//! What the core asks for, and what the hardware tells it.

use bytes::Bytes;
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Mono, Timestamp, WattHours, Watts};
use chargeplane_protocol::message::{DownCommand, Stream};
use std::sync::Arc;

/// The two clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic, of this boot: leases, waits and the deadlines of commands.
    pub mono: Mono,
    /// Wall clock: stamps.
    pub wall: Timestamp,
}

impl Now {
    /// Both clocks in milliseconds.
    pub fn new(mono_ms: u64, wall_ms: i64) -> Self {
        Self { mono: Mono(mono_ms), wall: Timestamp(wall_ms) }
    }
}

/// Names a batch in the ring, so that a refused publication can be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The stream.
    pub stream: Stream,
    /// The boot.
    pub boot: u32,
    /// The sequence.
    pub seq: u64,
}

/// Something to be done outside the core, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Publish; when the link refuses, tell [`crate::GatewayCore::on_publish_refused`].
    Publish {
        /// The topic.
        topic: Arc<str>,
        /// A sealed packet; the same bytes at every repetition.
        payload: Bytes,
        /// At least once, as far as the broker.
        qos1: bool,
        /// The batch, when it is one that is kept.
        ticket: Option<Ticket>,
    },
    /// Subscribe.
    Subscribe {
        /// The filter.
        filter: String,
    },
    /// Carry out a command, whose id is durable by now; then tell [`crate::GatewayCore::on_command_result`].
    Execute(DownCommand),
    /// A command that was given to the hardware before this boot, with an end that nobody noted. Must not be
    /// carried out: find out, and tell [`crate::GatewayCore::on_command_result`] whether it took effect.
    Inquire(DownCommand),
    /// Hold the charger to this power at once; comes whenever the limit in force changes.
    SetLimit {
        /// The charger.
        child: u16,
        /// Most power from now on.
        watts: Watts,
        /// Most energy of the current session from its start register, where there is a bound.
        allowance: Option<WattHours>,
    },
    /// Stop a session at once and report it: its allowance is used up.
    StopCharging {
        /// The charger.
        child: u16,
        /// The session.
        session: SessionId,
        /// What to report.
        reason: StopReason,
    },
    /// A driver's request to start was refused.
    Denied {
        /// The charger.
        child: u16,
        /// The request.
        request: u64,
        /// Why.
        code: String,
    },
    /// A batch is durable at the node. For the gateway's account of what it was promised.
    Acked(Acked),
    /// The node refused a batch of samples: they are declared as gaps.
    SamplesRefused {
        /// The batch.
        ticket: Ticket,
        /// Samples in it.
        items: u64,
        /// The node's code.
        reason: String,
    },
    /// The node refused a batch of events: they are lost, and a person must look.
    EventsRefused {
        /// The batch.
        ticket: Ticket,
        /// First and last number in it.
        numbers: (u64, u64),
        /// The node's code.
        reason: String,
    },
    /// The gateway decides by itself, or no longer does.
    ModeChanged {
        /// By itself.
        local: bool,
    },
    /// The node could not use something; for the log.
    Noticed {
        /// A stable code.
        code: String,
        /// Text.
        detail: String,
    },
}

/// A durable acknowledgement of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acked {
    /// The batch.
    pub ticket: Ticket,
    /// Samples (without gaps) or events in it.
    pub items: u64,
    /// The samples in it, per charger: first and last number.
    pub spans: Vec<Span>,
    /// First and last event number, for a batch of events.
    pub events: Option<(u64, u64)>,
    /// From the first publication on a live connection to the acknowledgement; none for batches of the replay
    /// stream and of earlier boots, which waited for a connection.
    pub latency_ms: Option<u64>,
}

/// Consecutive sample numbers of one charger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The charger.
    pub child: u16,
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
}

impl Span {
    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }
}

/// What the hardware says of a charger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChargerStatus {
    /// Energy may flow.
    pub charging: bool,
    /// What the car would take now, at most the rating.
    pub demand: Watts,
    /// What it takes.
    pub power: Watts,
    /// The energy register.
    pub register: WattHours,
    /// The open session.
    pub session: Option<SessionId>,
}
