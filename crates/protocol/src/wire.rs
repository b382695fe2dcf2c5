//! Messages as bytes: Protocol Buffers, version 1. `docs/reference/wire.md` has them as proto3 text.
//!
//! Samples travel as columns: one run after the other, each column the difference to the row before, the first
//! row of a run absolute. Packed signed deltas are about half the bytes of rows.
//!
//! Compatibility: the version is refused when unknown; unknown fields and unknown kinds of events and commands
//! are skipped. Bounds are checked before values reach anybody (see [`crate::limits`]).

mod down;
mod proto;
mod up;

use crate::limits::{MAX_ID_LEN, MAX_TEXT_LEN, MAX_TIME_MS, MAX_WATTS, MIN_TIME_MS};
use crate::message::{Cursor, Down, Stream, UpBatch};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::units::{Timestamp, WattHours, Watts};
use prost::Message;
use std::str::FromStr;

/// Version of the messages.
pub const VERSION: u32 = 1;

/// Largest number of a sample or event, and largest register in Wh: far from where sums overflow.
pub const MAX_NUMBER: u64 = 1 << 60;

/// Why bytes are not a message of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not Protocol Buffers, or not these.
    #[error("not a message: {0}")]
    Decode(String),
    /// Another version.
    #[error("message version {found} is not spoken here, only {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A kind of message that this version does not know.
    #[error("unknown kind of message")]
    UnknownKind,
    /// The message does not belong on its stream.
    #[error("this kind of message does not belong on stream {stream}")]
    WrongStream {
        /// The stream.
        stream: Stream,
    },
    /// More than the limit.
    #[error("too many {what}")]
    TooMany {
        /// What there was too much of.
        what: &'static str,
    },
    /// A value outside its range.
    #[error("{what} is out of range")]
    Range {
        /// The field.
        what: &'static str,
    },
    /// Not an id.
    #[error("{what} is not an id")]
    Id {
        /// The field.
        what: &'static str,
    },
    /// A field that must be there is not, or columns differ in length.
    #[error("{what} is missing or does not fit")]
    Shape {
        /// The field.
        what: &'static str,
    },
    /// A moment outside 2000 to 2200.
    #[error("{what} is an absurd moment")]
    Time {
        /// The field.
        what: &'static str,
    },
}

impl WireError {
    /// A stable code for counters and refusals.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Decode(_) => "message_malformed",
            Self::Version { .. } => "message_version",
            Self::UnknownKind => "message_unknown_kind",
            Self::WrongStream { .. } => "message_wrong_stream",
            Self::TooMany { .. } => "message_too_many",
            Self::Range { .. } => "message_range",
            Self::Id { .. } => "message_id",
            Self::Shape { .. } => "message_shape",
            Self::Time { .. } => "message_time",
        }
    }
}

/// Writes a batch.
pub fn encode_up(batch: &UpBatch) -> Vec<u8> {
    proto::Up { version: VERSION, body: Some(up::to_proto(batch)) }.encode_to_vec()
}

/// Reads a batch that came on `stream`.
pub fn decode_up(stream: Stream, bytes: &[u8]) -> Result<UpBatch, WireError> {
    let message = proto::Up::decode(bytes).map_err(|e| WireError::Decode(e.to_string()))?;
    check_version(message.version)?;
    up::from_proto(stream, message.body.ok_or(WireError::UnknownKind)?)
}

/// Writes a message to a gateway.
pub fn encode_down(message: &Down) -> Vec<u8> {
    proto::Down { version: VERSION, body: Some(down::to_proto(message)) }.encode_to_vec()
}

/// Reads a message to a gateway.
pub fn decode_down(bytes: &[u8]) -> Result<Down, WireError> {
    let message = proto::Down::decode(bytes).map_err(|e| WireError::Decode(e.to_string()))?;
    check_version(message.version)?;
    down::from_proto(message.body.ok_or(WireError::UnknownKind)?)
}

fn check_version(found: u32) -> Result<(), WireError> {
    if found == VERSION { Ok(()) } else { Err(WireError::Version { found }) }
}

fn child(value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::Range { what: "child" })
}

fn id<T: FromStr>(what: &'static str, text: &str) -> Result<T, WireError> {
    if text.len() > MAX_ID_LEN {
        return Err(WireError::Id { what });
    }
    text.parse().map_err(|_| WireError::Id { what })
}

fn text(what: &'static str, text: String) -> Result<String, WireError> {
    if text.len() > MAX_TEXT_LEN { Err(WireError::TooMany { what }) } else { Ok(text) }
}

/// Texts are cut to the limit when written, so that what we send can be read.
fn clip(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn moment(what: &'static str, ms: i64) -> Result<Timestamp, WireError> {
    if (MIN_TIME_MS..MAX_TIME_MS).contains(&ms) { Ok(Timestamp(ms)) } else { Err(WireError::Time { what }) }
}

fn watts(what: &'static str, value: i64) -> Result<Watts, WireError> {
    if (-MAX_WATTS..=MAX_WATTS).contains(&value) { Ok(Watts(value)) } else { Err(WireError::Range { what }) }
}

/// Grants and demands are never negative.
fn watts_from_zero(what: &'static str, value: i64) -> Result<Watts, WireError> {
    if value < 0 { Err(WireError::Range { what }) } else { watts(what, value) }
}

fn energy(what: &'static str, value: i64) -> Result<WattHours, WireError> {
    match u64::try_from(value) {
        Ok(positive) if positive <= MAX_NUMBER => Ok(WattHours(value)),
        _ => Err(WireError::Range { what }),
    }
}

fn number(what: &'static str, value: u64) -> Result<u64, WireError> {
    if value <= MAX_NUMBER { Ok(value) } else { Err(WireError::Range { what }) }
}

fn at_most(what: &'static str, len: usize, limit: usize) -> Result<(), WireError> {
    if len > limit { Err(WireError::TooMany { what }) } else { Ok(()) }
}

fn stream(value: u32) -> Result<Stream, WireError> {
    u8::try_from(value).ok().and_then(Stream::from_u8).ok_or(WireError::Range { what: "stream" })
}

fn cursor_to_proto(cursor: &Cursor) -> proto::Cursor {
    let Cursor { stream, boot: BootId { key_epoch, boot }, seq } = *cursor;
    proto::Cursor { stream: u32::from(stream.as_u8()), boot, seq, key_epoch }
}

fn cursors(what: &'static str, from: Vec<proto::Cursor>) -> Result<Vec<Cursor>, WireError> {
    at_most(what, from.len(), crate::limits::MAX_CURSORS)?;
    let cursor = |from: proto::Cursor| {
        Ok(Cursor { stream: stream(from.stream)?, boot: BootId::new(from.key_epoch, from.boot), seq: from.seq })
    };
    from.into_iter().map(cursor).collect()
}

#[cfg(test)]
mod tests;
