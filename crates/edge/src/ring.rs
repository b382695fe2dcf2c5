//! The ring: the gateway's write-ahead log. What is in it survives the gateway; what the node acknowledged
//! leaves it.
//!
//! A port with two adapters: [`FileRing`] on disk, [`MemoryRing`] for tests and for simulated gateways. The ring
//! stores and recovers; which batch is dropped, sent or freed is decided by the core.
//!
//! Contract of every adapter:
//! - a boot epoch is durable before [`Ring::next_boot`] returns, and never given twice;
//! - events and commands are durable when their call returns, samples after [`Ring::sync`];
//! - recovery returns every batch up to the first damaged record of a file, never a damaged one;
//! - of samples that were not synced, a crash loses the last ones appended, whatever their streams;
//! - the highest sample number per charger and the highest event number survive the release of their batches.

mod file;
mod memory;
mod record;

pub use file::{FileRing, FileRingConfig};
pub use memory::MemoryRing;

use crate::effect::{Span, Ticket};
use bytes::Bytes;
use chargeplane_domain::ids::CommandId;
use chargeplane_domain::sample::Gap;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::message::{CommandEnd, Cursor, DownCommand};
use std::collections::BTreeMap;

/// Storage of sealed batches, the boot epoch and the memory of commands.
pub trait Ring: Send {
    /// Reads everything back. Called once, before anything else.
    fn recover(&mut self) -> Result<Recovered, RingError>;

    /// Raises the boot epoch and makes it durable. Called once per start, before the first seal.
    fn next_boot(&mut self) -> Result<u32, RingError>;

    /// Appends a sealed batch. A batch of events is durable on return.
    fn append(&mut self, meta: &BatchMeta, sealed: &Bytes) -> Result<Place, RingError>;

    /// Reads a sealed batch back, byte by byte as it was appended.
    fn read(&mut self, place: Place) -> Result<Bytes, RingError>;

    /// The batch at `place` is not needed any more.
    fn release(&mut self, place: Place) -> Result<(), RingError>;

    /// Makes everything appended durable, and notes how far each stream was acknowledged (a hint: what is lost
    /// of it is only sent and acknowledged again).
    fn sync(&mut self, acked: &[Cursor]) -> Result<(), RingError>;

    /// Notes commands or their ends; durable on return.
    fn remember(&mut self, notes: &[CommandNote]) -> Result<(), RingError>;

    /// Forgets commands: the ones given are all that is kept.
    fn compact_commands(&mut self, keep: &[CommandNote]) -> Result<(), RingError>;
}

/// Where a batch lies; only its ring knows what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(crate) log: u8,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What the gateway must know of a batch without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchMeta {
    /// Its name.
    pub ticket: Ticket,
    /// The samples in it.
    pub spans: Vec<Span>,
    /// The losses it declares.
    pub gaps: Vec<(u16, Gap)>,
    /// First and last event number in it.
    pub events: Option<(u64, u64)>,
}

impl BatchMeta {
    /// Samples without gaps, or events.
    pub fn items(&self) -> u64 {
        match self.events {
            Some((first, last)) => last.saturating_sub(first).saturating_add(1),
            None => self.spans.iter().map(Span::count).sum(),
        }
    }
}

/// A batch that was found at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What is in it.
    pub meta: BatchMeta,
    /// Where it lies.
    pub place: Place,
    /// Bytes of the packet.
    pub len: u64,
    /// The key it is sealed under; the gateway may have been enrolled anew since.
    pub key_epoch: u32,
    /// When it was sealed, by its header: microseconds since 1970.
    pub made_us: u64,
}

pub(crate) use record::sealed_under;

/// What was found at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Batches in the order of their streams, boots and sequences.
    pub batches: Vec<Found>,
    /// Per charger, the number after the highest known.
    pub next_sample: BTreeMap<u16, u64>,
    /// The number after the highest known event; at least 1.
    pub next_event: u64,
    /// Commands and their ends, in the order they were noted.
    pub commands: Vec<CommandNote>,
}

/// A line in the memory of commands.
#[derive(Debug, Clone, PartialEq)]
pub enum CommandNote {
    /// Written before the command is carried out.
    Accepted {
        /// The command.
        command: DownCommand,
        /// When.
        at: Timestamp,
    },
    /// Its end.
    Ended {
        /// The command.
        id: CommandId,
        /// Its charger.
        child: u16,
        /// The end.
        end: CommandEnd,
        /// When.
        at: Timestamp,
    },
}

impl Eq for CommandNote {}

impl CommandNote {
    /// The command it is about.
    pub fn id(&self) -> &CommandId {
        match self {
            Self::Accepted { command, .. } => &command.id,
            Self::Ended { id, .. } => id,
        }
    }

    /// When it was noted.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Accepted { at, .. } | Self::Ended { at, .. } => *at,
        }
    }
}

/// Why the ring did not do it. The gateway must stop: going on would break what it promised.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file system said no.
    #[error("ring: {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// There are batches, but the boot epoch cannot be read: starting anew would use nonces twice.
    #[error(
        "ring: the boot epoch in {path} is missing or damaged while batches exist; enrol the gateway anew (a new key) before removing them"
    )]
    BootLost {
        /// The file.
        path: String,
    },
    /// A batch that was appended cannot be read back.
    #[error("ring: a record in {path} is damaged")]
    Damaged {
        /// The file.
        path: String,
    },
    /// The boot epochs of this enrolment are used up.
    #[error("ring: no boot epoch left; enrol the gateway anew (a new key)")]
    BootsExhausted,
    /// Another process has the ring open.
    #[error("ring: {path} is in use by another process")]
    InUse {
        /// The lock file.
        path: String,
    },
}

#[cfg(test)]
mod tests;
