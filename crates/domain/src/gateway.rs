//! What the node durably knows of a gateway: how far each of its streams has been taken.
//!
//! A cursor says that every batch up to its sequence is durable or refused. It is written after the data
//! (DATA-1), never goes back, and is kept per stream and boot, because several boots are alive at once: a
//! gateway that restarted still sends what its ring held before. A boot counts under one key only: a gateway
//! that is enrolled anew with an empty ring begins with boot 1 again, and that is another boot ([`BootId`]).
//!
//! What was refused is durable together with the cursor that passes it, so that an acknowledgement after a
//! crash never reads as "stored" what was not.
//!
//! ```
//! use chargeplane_domain::gateway::{BootId, GatewayCommand, GatewayState};
//! let mut gateway = GatewayState::default();
//! let boot = BootId::new(1, 3);
//! let moved = GatewayCommand::MoveCursor { stream: 0, boot, upto: 17, refused: None };
//! let event = gateway.decide(&moved).unwrap().unwrap();
//! gateway.apply(&event).unwrap();
//! assert_eq!(gateway.cursor(0, boot), 17);
//! assert_eq!(gateway.cursor(0, BootId::new(2, 3)), 0); // the same number under another key
//! assert_eq!(gateway.decide(&moved), Ok(None)); // again: nothing to do
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Boots remembered a stream. A ring keeps 24 h; a gateway that restarts more often than this within one
/// ring has lost its older boots' order anyway, and the node answers them as stale.
pub const BOOTS_KEPT: usize = 8;

/// Refusals remembered a stream and boot. A gateway has at most 32 batches of events under way, so every
/// refusal that it has not seen is among the newest of them.
pub const REFUSALS_KEPT: usize = 64;

/// Longest reason of a refusal that is kept, in bytes; reasons are short codes.
const MAX_REASON_LEN: usize = 64;

/// One run of a gateway under one key: what sequences count in, and nonces and the monotonic clock belong to.
///
/// The key epoch comes first, because it rises with every enrolment, and a new ring counts its boots from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId {
    /// Which root key its batches are sealed under.
    pub key_epoch: u32,
    /// The boot epoch within the gateway's ring.
    pub boot: u32,
}

impl BootId {
    /// The boot `boot` under the key `key_epoch`.
    pub const fn new(key_epoch: u32, boot: u32) -> Self {
        Self { key_epoch, boot }
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} under key {}", self.boot, self.key_epoch)
    }
}

/// Durable state of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// Highest sequence up to which everything is durable or refused, by (stream, boot).
    #[serde(with = "pairs")]
    pub cursors: BTreeMap<(u8, BootId), u64>,
    /// The newest refused sequences with their reasons, by (stream, boot).
    #[serde(with = "pairs")]
    pub refusals: BTreeMap<(u8, BootId), BTreeMap<u64, String>>,
}

/// What may be asked of a gateway's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayCommand {
    /// Everything of this stream and boot up to `upto` is durable or refused. `refused`: the batch `upto`
    /// itself could not be used, for this reason.
    MoveCursor { stream: u8, boot: BootId, upto: u64, refused: Option<String> },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayEvent {
    /// The cursor of (stream, boot) is now `upto`; the batch `upto` was refused when there is a reason.
    CursorMoved { stream: u8, boot: BootId, upto: u64, refused: Option<String> },
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayRejection {
    /// The boot is older than the boots remembered of this stream.
    #[error("boot {boot} of stream {stream} is older than the {BOOTS_KEPT} newest")]
    StaleBoot { stream: u8, boot: BootId },
}

impl GatewayRejection {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::StaleBoot { .. } => "stale_boot",
        }
    }
}

/// An event that does not fit the state: the log is damaged, or was written by other code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cursor of stream {stream}, boot {boot} cannot move from {from} to {upto}")]
pub struct ApplyError {
    pub stream: u8,
    pub boot: BootId,
    pub from: u64,
    pub upto: u64,
}

impl GatewayState {
    /// Version of the stored form of the state and its events.
    pub const VERSION: u16 = 1;

    /// The cursor of a stream and boot; 0 when nothing was taken (sequences start at 1).
    pub fn cursor(&self, stream: u8, boot: BootId) -> u64 {
        self.cursors.get(&(stream, boot)).copied().unwrap_or(0)
    }

    /// The refused sequences of a stream and boot that are remembered, with their reasons.
    pub fn refusals(&self, stream: u8, boot: BootId) -> impl Iterator<Item = (u64, &str)> {
        let refused = self.refusals.get(&(stream, boot));
        refused.into_iter().flat_map(|refused| refused.iter().map(|(seq, reason)| (*seq, reason.as_str())))
    }

    /// Decides. `None` when there is nothing to do. The state is not changed.
    pub fn decide(&self, command: &GatewayCommand) -> Result<Option<GatewayEvent>, GatewayRejection> {
        let GatewayCommand::MoveCursor { stream, boot, upto, ref refused } = *command;
        if self.is_stale(stream, boot) {
            return Err(GatewayRejection::StaleBoot { stream, boot });
        }
        let moves = upto > self.cursor(stream, boot);
        let refused = || refused.as_ref().map(|reason| clipped(reason));
        Ok(moves.then(|| GatewayEvent::CursorMoved { stream, boot, upto, refused: refused() }))
    }

    /// Applies what was decided. An error changes nothing.
    pub fn apply(&mut self, event: &GatewayEvent) -> Result<(), ApplyError> {
        let GatewayEvent::CursorMoved { stream, boot, upto, ref refused } = *event;
        let from = self.cursor(stream, boot);
        if upto <= from || self.is_stale(stream, boot) {
            return Err(ApplyError { stream, boot, from, upto });
        }
        self.cursors.insert((stream, boot), upto);
        if let Some(reason) = refused {
            let known = self.refusals.entry((stream, boot)).or_default();
            known.insert(upto, reason.clone());
            while known.len() > REFUSALS_KEPT {
                known.pop_first();
            }
        }
        while self.boots(stream).count() > BOOTS_KEPT {
            let Some(oldest) = self.boots(stream).next() else {
                break;
            };
            self.cursors.remove(&(stream, oldest));
            self.refusals.remove(&(stream, oldest));
        }
        Ok(())
    }

    /// Boots remembered of a stream, oldest first.
    fn boots(&self, stream: u8) -> impl Iterator<Item = BootId> {
        let (first, last) = (BootId::default(), BootId::new(u32::MAX, u32::MAX));
        self.cursors.range((stream, first)..=(stream, last)).map(|((_, boot), _)| *boot)
    }

    /// True for a boot older than those remembered of the stream: where it stood is not known any more.
    pub fn is_stale(&self, stream: u8, boot: BootId) -> bool {
        let full = self.boots(stream).count() >= BOOTS_KEPT;
        full && self.boots(stream).next().is_some_and(|oldest| boot < oldest)
    }
}

/// The beginning of a reason: what is durable is bounded.
fn clipped(reason: &str) -> String {
    let end = reason.char_indices().map(|(at, char)| at.saturating_add(char.len_utf8()));
    let end = end.take_while(|end| *end <= MAX_REASON_LEN).last().unwrap_or(0);
    reason.get(..end).unwrap_or_default().to_owned()
}

/// Text formats have no pairs as map keys: what is kept by (stream, boot) is stored as a list.
mod pairs {
    use super::BootId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    type Kept<V> = BTreeMap<(u8, BootId), V>;

    pub(super) fn serialize<V: Serialize, S: Serializer>(kept: &Kept<V>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(kept.iter().map(|((stream, boot), value)| (*stream, *boot, value)))
    }

    pub(super) fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Kept<V>, D::Error> {
        let list = Vec::<(u8, BootId, V)>::deserialize(from)?;
        Ok(list.into_iter().map(|(stream, boot, value)| ((stream, boot), value)).collect())
    }
}

#[cfg(test)]
mod tests;
