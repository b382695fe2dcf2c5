//! What the node durably knows of a gateway: how far each of its streams has been taken.
//!
//! A cursor says that every batch up to its sequence is durable or refused. It is written after the data
//! (DATA-1), never goes back, and is kept per stream and boot, because several boots are alive at once: a
//! gateway that restarted still sends what its ring held before.
//!
//! ```
//! use chargeplane_domain::gateway::{GatewayCommand, GatewayState};
//! let mut gateway = GatewayState::default();
//! let moved = GatewayCommand::MoveCursor { stream: 0, boot: 3, upto: 17 };
//! let event = gateway.decide(&moved).unwrap().unwrap();
//! gateway.apply(&event).unwrap();
//! assert_eq!(gateway.cursor(0, 3), 17);
//! assert_eq!(gateway.decide(&moved), Ok(None)); // again: nothing to do
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Boots remembered a stream. A ring keeps 24 h; a gateway that restarts more often than this within one
/// ring has lost its older boots' order anyway, and the node answers them as stale.
pub const BOOTS_KEPT: usize = 8;

/// Durable state of a gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// Highest sequence up to which everything is durable or refused, by (stream, boot).
    #[serde(with = "cursor_list")]
    pub cursors: BTreeMap<(u8, u32), u64>,
}

/// What may be asked of a gateway's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayCommand {
    /// Everything of this stream and boot up to `upto` is durable or refused.
    MoveCursor { stream: u8, boot: u32, upto: u64 },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayEvent {
    /// The cursor of (stream, boot) is now `upto`.
    CursorMoved { stream: u8, boot: u32, upto: u64 },
}

/// Why a command is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayRejection {
    /// The boot is older than the boots remembered of this stream.
    #[error("boot {boot} of stream {stream} is older than the {BOOTS_KEPT} newest")]
    StaleBoot { stream: u8, boot: u32 },
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
    pub boot: u32,
    pub from: u64,
    pub upto: u64,
}

impl GatewayState {
    /// Version of the stored form of the state and its events.
    pub const VERSION: u16 = 1;

    /// The cursor of a stream and boot; 0 when nothing was taken (sequences start at 1).
    pub fn cursor(&self, stream: u8, boot: u32) -> u64 {
        self.cursors.get(&(stream, boot)).copied().unwrap_or(0)
    }

    /// Decides. `None` when there is nothing to do. The state is not changed.
    pub fn decide(&self, command: &GatewayCommand) -> Result<Option<GatewayEvent>, GatewayRejection> {
        let GatewayCommand::MoveCursor { stream, boot, upto } = *command;
        if self.is_stale(stream, boot) {
            return Err(GatewayRejection::StaleBoot { stream, boot });
        }
        let moves = upto > self.cursor(stream, boot);
        Ok(moves.then_some(GatewayEvent::CursorMoved { stream, boot, upto }))
    }

    /// Applies what was decided. An error changes nothing.
    pub fn apply(&mut self, event: &GatewayEvent) -> Result<(), ApplyError> {
        let GatewayEvent::CursorMoved { stream, boot, upto } = *event;
        let from = self.cursor(stream, boot);
        if upto <= from || self.is_stale(stream, boot) {
            return Err(ApplyError { stream, boot, from, upto });
        }
        self.cursors.insert((stream, boot), upto);
        while self.boots(stream).count() > BOOTS_KEPT {
            let Some(oldest) = self.boots(stream).next() else {
                break;
            };
            self.cursors.remove(&(stream, oldest));
        }
        Ok(())
    }

    /// Boots remembered of a stream, oldest first.
    fn boots(&self, stream: u8) -> impl Iterator<Item = u32> {
        self.cursors.range((stream, 0)..=(stream, u32::MAX)).map(|((_, boot), _)| *boot)
    }

    fn is_stale(&self, stream: u8, boot: u32) -> bool {
        let full = self.boots(stream).count() >= BOOTS_KEPT;
        full && self.boots(stream).next().is_some_and(|oldest| boot < oldest)
    }
}

/// Text formats have no pairs as map keys: the cursors are stored as a list of (stream, boot, sequence).
mod cursor_list {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    type Cursors = BTreeMap<(u8, u32), u64>;

    pub(super) fn serialize<S: Serializer>(cursors: &Cursors, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(cursors.iter().map(|((stream, boot), upto)| (*stream, *boot, *upto)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Cursors, D::Error> {
        let list = Vec::<(u8, u32, u64)>::deserialize(from)?;
        Ok(list.into_iter().map(|(stream, boot, upto)| ((stream, boot), upto)).collect())
    }
}

#[cfg(test)]
mod tests;
