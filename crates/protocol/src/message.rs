//! What is said between a gateway and a node, as plain values. [`crate::wire`] turns them into bytes and back.

use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{AccountId, CommandId, ConnectorNo, SessionId};
use chargeplane_domain::sample::{Gap, Sample};
use chargeplane_domain::session::{Flow, StopReason};
use chargeplane_domain::units::{Mono, Timestamp, WattHours, Watts};
use std::fmt;

/// An upward stream. Each has its own topic, its own key and its own sequence of batches per boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Transactions and events: to the journal, acknowledged in milliseconds.
    Events = 0,
    /// Samples of charging chargers.
    Fast = 1,
    /// Samples of idle chargers.
    Slow = 2,
    /// Samples kept while the gateway was cut off, sent at the credit granted.
    Replay = 3,
    /// Heartbeats: neither acknowledged nor stored.
    Beat = 4,
}

impl Stream {
    /// All streams, in the order of their numbers.
    pub const ALL: [Stream; 5] = [Self::Events, Self::Fast, Self::Slow, Self::Replay, Self::Beat];

    /// The last level of the topic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Fast => "fast",
            Self::Slow => "slow",
            Self::Replay => "replay",
            Self::Beat => "beat",
        }
    }

    /// The stream with this topic level.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }

    /// The stream with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == number)
    }

    /// The number in headers and acknowledgements.
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// True for the three streams that carry samples.
    pub fn is_telemetry(self) -> bool {
        matches!(self, Self::Fast | Self::Slow | Self::Replay)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A batch from a gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum UpBatch {
    /// Stream `events`: transactions and events, in the order of their numbers.
    Events(Vec<NumberedEvent>),
    /// Streams `fast`, `slow`, `replay`: samples, and numbers that will never come.
    Samples {
        /// Runs of consecutive samples.
        runs: Vec<SampleRun>,
        /// Declared losses, with the child they belong to.
        gaps: Vec<(u16, Gap)>,
    },
    /// Stream `beat`.
    Beat(Beat),
}

impl UpBatch {
    /// Number of items, as it appears in the header.
    pub fn items(&self) -> usize {
        match self {
            Self::Events(events) => events.len(),
            Self::Samples { runs, gaps } => runs.iter().map(|r| r.samples.len()).sum::<usize>() + gaps.len(),
            Self::Beat(_) => 1,
        }
    }
}

/// Consecutive samples of one charger: the n-th has the number `first_number + n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRun {
    /// The charger's number at its gateway.
    pub child: u16,
    /// The number of the first sample.
    pub first_number: u64,
    /// At least one.
    pub samples: Vec<Sample>,
}

/// An event with its number: per gateway, from 1, across boots of one enrolment, without holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedEvent {
    /// The number.
    pub number: u64,
    /// What happened.
    pub event: GatewayEvent,
}

/// What happened at a charger. Moments are the gateway's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayEvent {
    /// A driver identified at the charger and asks to start.
    StartRequested {
        /// The charger.
        child: u16,
        /// Where the car is plugged in.
        connector: ConnectorNo,
        /// Who pays.
        account: AccountId,
        /// Counts the requests of this charger, so that a repetition is recognised.
        request: u64,
        /// When.
        at: Timestamp,
    },
    /// Energy may flow.
    SessionStarted {
        /// The charger.
        child: u16,
        /// The session, as named by the start command.
        session: SessionId,
        /// The energy register at the start.
        register: WattHours,
        /// When.
        at: Timestamp,
    },
    /// No more energy flows.
    SessionStopped {
        /// The charger.
        child: u16,
        /// The session.
        session: SessionId,
        /// The energy register at the end.
        register: WattHours,
        /// When.
        at: Timestamp,
        /// Why.
        reason: StopReason,
    },
    /// The end of a command.
    CommandResult {
        /// The charger.
        child: u16,
        /// The command.
        command: CommandId,
        /// Its end.
        outcome: CommandEnd,
        /// When.
        at: Timestamp,
    },
    /// Samples with these numbers will never come. (The gateways of this house declare losses in the telemetry
    /// streams; this form is for those that cannot.)
    Gap {
        /// The charger.
        child: u16,
        /// The numbers.
        gap: Gap,
    },
    /// The charger is faulted.
    Fault {
        /// The charger.
        child: u16,
        /// The maker's or the standard's code.
        code: String,
        /// When.
        at: Timestamp,
    },
    /// A car came or went, or the charger went in or out of service.
    StatusChanged {
        /// The charger.
        child: u16,
        /// A car is plugged in.
        plugged: bool,
        /// The charger is in service.
        available: bool,
        /// When.
        at: Timestamp,
    },
    /// What the time of an open session is used for from now on. A session charges until this is said.
    FlowChanged {
        /// The charger.
        child: u16,
        /// The session.
        session: SessionId,
        /// The car charges, is full, or waits for power.
        flow: Flow,
        /// Since when.
        at: Timestamp,
    },
}

impl GatewayEvent {
    /// The charger it belongs to.
    pub fn child(&self) -> u16 {
        match self {
            Self::StartRequested { child, .. }
            | Self::SessionStarted { child, .. }
            | Self::SessionStopped { child, .. }
            | Self::CommandResult { child, .. }
            | Self::Gap { child, .. }
            | Self::Fault { child, .. }
            | Self::StatusChanged { child, .. }
            | Self::FlowChanged { child, .. } => *child,
        }
    }
}

/// The end of a command, as the gateway knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandEnd {
    /// It took effect.
    Done,
    /// It surely took no effect; the text is a code such as `not_plugged`.
    Refused(String),
    /// It arrived after its deadline and surely took no effect.
    Expired,
}

/// A position in one stream of one boot: every sequence up to `seq` is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The stream.
    pub stream: Stream,
    /// The boot, with the key that its batches are sealed under.
    pub boot: BootId,
    /// The sequence, 0 for "none yet".
    pub seq: u64,
}

/// A heartbeat: proof of life, the clock that grants are counted on, and the grants in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// The gateway's monotonic clock when this left.
    pub mono: Mono,
    /// Names this beat within the boot; a grant answers it.
    pub nonce: u64,
    /// Highest epoch seen from any owner of the shard; 0 for none in this boot.
    pub epoch_seen: u64,
    /// `seq` of the newest grants message taken under that epoch; 0 for none.
    pub applied_grant_seq: u64,
    /// True when the gateway decides by itself (three seconds without an answer).
    pub local: bool,
    /// The acknowledgements last seen, per stream and boot.
    pub acked: Vec<Cursor>,
    /// Per stream and boot: every sequence below `seq` was acknowledged or dropped and will not be sent
    /// again, so the node's cursor may move to `seq - 1`.
    pub floors: Vec<Cursor>,
    /// Every charger of the gateway that has reported a status.
    pub chargers: Vec<BeatCharger>,
}

/// One charger in a [`Beat`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BeatCharger {
    /// The charger's number at its gateway.
    pub child: u16,
    /// The limit in force at the charger now (a grant, the fallback, or nothing).
    pub granted: Watts,
    /// Milliseconds until the grant behind it ends; 0 when no grant is in force.
    pub lease_left_ms: u32,
    /// What the car would take now, at most the charger's rating.
    pub demand: Watts,
    /// What it takes.
    pub power: Watts,
    /// The energy register.
    pub register: WattHours,
    /// The session that is open at the charger.
    pub session: Option<SessionId>,
    /// Energy may flow.
    pub charging: bool,
}

/// A message to a gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Batches are durable, or refused.
    Ack(Ack),
    /// Send again what is above these cursors.
    Resume(Resume),
    /// Power, as leases.
    Grants(Grants),
    /// Commands.
    Commands(Vec<DownCommand>),
    /// A driver's request to start was refused.
    Deny {
        /// The charger.
        child: u16,
        /// The request, as numbered by the gateway.
        request: u64,
        /// Why, such as `insufficient_funds`.
        code: String,
    },
    /// Something of the gateway's could not be used; nothing changes by it.
    Notice(Notice),
}

/// Everything up to `upto_seq` of one stream and boot is durable or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The stream.
    pub stream: Stream,
    /// The boot, with the key that its batches are sealed under: a gateway that was enrolled anew with an empty
    /// ring counts its boots from 1 again, and what is said of its former batches is not about the new ones.
    pub boot: BootId,
    /// The owner's epoch; lower than the highest seen is ignored.
    pub epoch: u64,
    /// Cumulative.
    pub upto_seq: u64,
    /// Sequences that the node could not use. Repeated until a beat echoes a cursor at or above them.
    pub refused: Vec<Refusal>,
    /// Batches of the replay stream that may be under way at a time; 0 is a pause. Only read on the
    /// acknowledgements of telemetry streams.
    pub credit: u32,
}

/// One refused batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its sequence.
    pub seq: u64,
    /// A stable code.
    pub reason: String,
}

/// A (new) owner's positions, as far as it has received: the gateway sends everything above them again, in
/// order. It frees nothing; only an [`Ack`] does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resume {
    /// The owner's epoch.
    pub epoch: u64,
    /// The cursors. A stream and boot without one starts from the beginning of what the gateway has.
    pub cursors: Vec<Cursor>,
}

/// Power for the charging chargers of a gateway, as leases on the gateway's monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// The beat this answers; the leases end [`Grants::lease_ms`] after it was sent.
    pub answers_nonce: u64,
    /// The boot of that beat.
    pub boot: u32,
    /// The owner's epoch.
    pub epoch: u64,
    /// Increases with every message of an epoch to this gateway.
    pub seq: u64,
    /// Length of the leases, in milliseconds, counted from the sending of the beat.
    pub lease_ms: u32,
    /// Chargers that are not listed keep what they have until it ends.
    pub entries: Vec<GrantEntry>,
}

/// The grant of one charger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantEntry {
    /// The charger's number at its gateway.
    pub child: u16,
    /// Most power it may draw.
    pub w: Watts,
    /// Most energy the current session may take, counted from its start register; none leaves it as it is.
    pub allowance: Option<WattHours>,
}

/// A command on its way to a charger.
#[derive(Debug, Clone, PartialEq)]
pub struct DownCommand {
    /// The id: the same id is the same command, and is executed once.
    pub id: CommandId,
    /// The charger's number at its gateway.
    pub child: u16,
    /// What to do.
    pub action: Action,
    /// After it, the command is not executed.
    pub deadline: Deadline,
}

/// A moment on the gateway's monotonic clock, counted from a beat as grants are: whatever the wall clocks of
/// node and gateway say, a command is late on both sides at about the same time, and never later at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The beat this counts from.
    pub answers_nonce: u64,
    /// The boot of that beat.
    pub boot: u32,
    /// So long after that beat was sent.
    pub within_ms: u32,
}

/// Something of the gateway's could not be used, and why. Unlike a [`Refusal`] it frees nothing by its code,
/// because what it speaks of was not authenticated (or was no batch at all).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// A stable code.
    pub code: String,
    /// For the gateway's log.
    pub detail: String,
    /// The node's own knowledge, whatever made it speak: keys up to this epoch are revoked, and nothing sealed
    /// under them will ever be read. The gateway declares what it still holds of them as lost. 0 for none.
    pub revoked_upto: u32,
}
