//! Commands to a charger: their life from *accepted* (durable, before anything is sent) to a true end.
//!
//! Keeps CMD-1: a command takes effect at most once (the gateway writes its id before it acts), and its
//! reported end is true. Ends: done, refused, expired (surely not executed) and unconfirmed, which is told
//! at the deadline and becomes one of the others when the gateway is heard.

use crate::ids::{CommandId, ConnectorNo, SessionId};
use crate::session::StopReason;
use crate::units::{Timestamp, WattHours};
use serde::{Deserialize, Serialize};

/// What a charger is told to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Start a session; deliver at most `allowance` before stopping by itself for lack of funds.
    Start { session: SessionId, connector: ConnectorNo, allowance: WattHours },
    /// Stop a session.
    Stop { session: SessionId, reason: StopReason },
    /// Restart the charger.
    Reset,
    /// Release the plug.
    Unlock { connector: ConnectorNo },
    /// Take the charger into or out of service.
    SetAvailability { available: bool },
}

impl Action {
    /// Stable name, for logs, metrics and the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Reset => "reset",
            Self::Unlock { .. } => "unlock",
            Self::SetAvailability { .. } => "set_availability",
        }
    }

    /// True for a stop of this session.
    pub fn stops(&self, session: &SessionId) -> bool {
        matches!(self, Self::Stop { session: stopped, .. } if stopped == session)
    }

    /// The session it starts or stops.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Start { session, .. } | Self::Stop { session, .. } => Some(session),
            Self::Reset | Self::Unlock { .. } | Self::SetAvailability { .. } => None,
        }
    }
}

/// An accepted command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// `{charger}.c{n}`.
    pub id: CommandId,
    /// What to do.
    pub action: Action,
    /// When it was accepted, by the node's clock.
    pub accepted_at: Timestamp,
    /// Not to be executed after this, by the node's clock; what is sent counts from a beat on the gateway's.
    pub deadline: Timestamp,
    /// How it ended; none while it is not known.
    pub outcome: Option<CommandOutcome>,
    /// The idempotency key it was asked for with.
    pub key: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandOutcome {
    /// Executed.
    Done,
    /// The charger or gateway refused it; not executed.
    Refused { reason: String },
    /// Surely not executed.
    Expired,
    /// The deadline passed without word from the gateway. Becomes one of the others when it is heard.
    Unconfirmed,
}

impl CommandOutcome {
    /// Stable name, for logs, metrics and the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused { .. } => "refused",
            Self::Expired => "expired",
            Self::Unconfirmed => "unconfirmed",
        }
    }

    /// False for [`CommandOutcome::Unconfirmed`] only: the true end is still to come.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Unconfirmed)
    }
}

impl Command {
    /// True while its true end is not known: it is sent again after an open, under its id.
    pub fn is_unresolved(&self) -> bool {
        !self.outcome.as_ref().is_some_and(CommandOutcome::is_final)
    }

    /// Whether `next` may replace the outcome so far. What the gateway did is final; a conclusion from its
    /// silence (unconfirmed) gives way to its word, and so does *expired* to the report that it was done,
    /// because a reported end must be true.
    ///
    /// ```
    /// use chargeplane_domain::command::{Action, Command, CommandOutcome as O};
    /// use chargeplane_domain::units::Timestamp;
    /// let command = |outcome| Command {
    ///     id: "c1.c1".parse().unwrap(), action: Action::Reset, accepted_at: Timestamp(0),
    ///     deadline: Timestamp(9), outcome, key: None,
    /// };
    /// assert!(command(None).may_become(&O::Unconfirmed));
    /// assert!(command(Some(O::Unconfirmed)).may_become(&O::Expired));
    /// assert!(command(Some(O::Expired)).may_become(&O::Done));
    /// assert!(!command(Some(O::Done)).may_become(&O::Expired));
    /// ```
    pub fn may_become(&self, next: &CommandOutcome) -> bool {
        match (&self.outcome, next) {
            (None, _) => true,
            (Some(CommandOutcome::Unconfirmed), next) => next.is_final(),
            (Some(CommandOutcome::Expired), CommandOutcome::Done) => true,
            (Some(_), _) => false,
        }
    }
}
