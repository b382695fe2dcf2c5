//! A charger's durable machine: its sessions one after another, and the commands sent to it.
//!
//! The station shard's `ChargerActor` owns one per charger id and carries out what the state asks for:
//! authorise with the account while [`Charger::needs_authorisation`], send [`Charger::unresolved_commands`],
//! debit while a session charges, settle while [`Charger::needs_settlement`]. After a restart the same four
//! questions, asked of the replayed state, say what is left to do; so nothing is lost between two steps.
//!
//! ```text
//! Requested --Authorised--> Authorised --GatewayStarted--> Charging --GatewayStopped--> Stopped --Settled--> gone
//!     |                         |                                                         ^
//!     |                         +-- start refused, or surely not executed: zero energy ---+
//!     +-- AuthorisationRefused --> gone (nothing was held)
//! ```
//!
//! Invariants kept here:
//! - SESS-1: at most one session is current; a record's energy is the meter's difference;
//! - CMD-1: a command has one true end, and a session begins at most once;
//! - whatever the gateway says again (same session, same command) changes nothing.
//!
//! Late and repeated words are told from new ones by the last [`SESSIONS_REMEMBERED`] sessions and the last
//! [`COMMANDS_REMEMBERED`] ended commands; ids count upwards, so what is older is known to be old. Idempotency
//! keys have no order: they are kept for a day ([`KEYS_KEPT_MS`]), and no more are taken than are kept.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod apply;
mod decide;

pub use apply::ApplyError;

use crate::account::Settled;
use crate::command::{Action, Command, CommandOutcome};
use crate::ids::{AccountId, CommandId, ConnectorNo, OperatorId, SessionId, StationId};
use crate::session::{ChargeRecord, ChargingSession, Flow, Origin, SessionState, StopReason};
use crate::split::Split;
use crate::tariff::Tariff;
use crate::units::{Currency, Timestamp, WattHours};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Sessions that are over and still recognised. A gateway repeats what was not acknowledged for a day;
/// more than eight sessions in that backlog of one charger arrive in order, so the newest eight suffice.
pub const SESSIONS_REMEMBERED: usize = 8;

/// Ended commands whose outcome can still be asked for.
pub const COMMANDS_REMEMBERED: usize = 32;

/// How long an idempotency key is remembered, by the node's clock in the events: longer than anybody repeats.
pub const KEYS_KEPT_MS: i64 = 24 * 3_600 * 1_000;

/// Keys remembered whatever their age, newest first.
pub const KEYS_REMEMBERED: usize = 64;

/// Keys younger than [`KEYS_KEPT_MS`] that a charger takes: more than one a minute, all day. What is beyond is
/// refused, because forgetting a key that is still repeated would start a second session.
pub const MAX_KEYS: usize = 2_048;

/// Commands whose end is not known, before others than stops are refused.
pub const MAX_UNRESOLVED: usize = 16;

/// The same for stops, which may use what the others left.
pub const MAX_UNRESOLVED_STOPS: usize = 64;

/// How long after the deadline of a start an event of its charger must be stamped to show that the start was not
/// carried out. Hardware that was given it in time has answered by then, also after a restart of its gateway.
pub const HEARD_AFTER_MS: i64 = 60_000;

/// Durable state of a charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charger {
    /// Sessions ever requested: the number of the newest.
    pub sessions_count: u64,
    /// Commands ever accepted: the number of the newest.
    pub commands_count: u64,
    /// The session that is not settled yet.
    pub current: Option<ChargingSession>,
    /// The last sessions that are over, oldest first.
    pub recent: VecDeque<ClosedSession>,
    /// Commands without a true end, and the last ones with.
    pub commands: BTreeMap<CommandId, Command>,
    /// Those of `commands` that ended, oldest first.
    pub ended: VecDeque<CommandId>,
    /// Highest number of a driver's request.
    pub last_request: Option<u64>,
    /// The idempotency keys of the last day, and the last few whatever their age, oldest first.
    pub keys: VecDeque<KeyedRequest>,
    /// In service, as far as the charger said.
    pub available: bool,
    /// The fault it reported last, until it reports that it is available.
    pub fault: Option<String>,
}

/// A session that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedSession {
    pub session: SessionId,
    pub account: AccountId,
    pub connector: ConnectorNo,
    pub origin: Origin,
    /// [`SessionState::Settled`] or [`SessionState::Refused`].
    pub state: SessionState,
    /// Register at its start; none when it never began.
    pub meter_start: Option<WattHours>,
    /// Register at its end.
    pub meter_stop: Option<WattHours>,
    /// Why the account refused.
    pub code: Option<String>,
}

/// An idempotency key, what it was used for and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedRequest {
    pub key: String,
    pub content: KeyedContent,
    pub target: KeyTarget,
    /// When it was first used, by the node's clock.
    pub at: Timestamp,
    /// For a start that the account refused: kept with its key, because nothing else of the session stays.
    pub refusal: Option<Refusal>,
}

/// A session that the account refused, as far as its keyed request does not tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why: the account's code.
    pub code: String,
    pub operator: OperatorId,
    pub station: StationId,
    pub city: String,
    pub currency: Currency,
}

/// What came of a start, as far as it is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOutcome<'a> {
    /// The account has not answered yet.
    Pending,
    /// Money was held, or the session is over already.
    Accepted,
    /// The account refused, with this code.
    Refused(&'a str),
}

/// What a key was used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyedContent {
    /// To start a session.
    Start { account: AccountId, connector: ConnectorNo },
    /// To send a command.
    Command { action: Action },
}

/// What a keyed request created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyTarget {
    Session(SessionId),
    Command(CommandId),
}

/// What may be asked of, or reported to, a charger's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargerCommand {
    /// Somebody wants to charge. The catalogue's facts come along, because the machine does not read it.
    RequestStart {
        account: AccountId,
        connector: ConnectorNo,
        /// Number of connectors the charger has.
        connectors: u8,
        origin: Origin,
        tariff: Tariff,
        #[serde(default)]
        split: Option<Split>,
        operator: OperatorId,
        station: StationId,
        city: String,
        time_zone: String,
        at: Timestamp,
    },
    /// The account holds money. `deadline` is that of the start command, by the node's clock.
    Authorised { session: SessionId, allowance: WattHours, deadline: Timestamp, at: Timestamp },
    /// The account refused with this code.
    AuthorisationRefused { session: SessionId, code: String, at: Timestamp },
    /// The gateway reports that the session began at this register.
    GatewayStarted { session: SessionId, register: WattHours, at: Timestamp },
    /// The gateway reports that the session ended at this register. `most` is the energy that can have flowed
    /// at most ([`crate::metering`]).
    GatewayStopped { session: SessionId, register: WattHours, reason: StopReason, most: WattHours, at: Timestamp },
    /// It reported an end at a register that is refused: the session ends where it was last read, at `energy`
    /// since its start. The refused register is kept in the event.
    CloseAtLastReading { session: SessionId, energy: WattHours, refused: WattHours, at: Timestamp },
    /// The gateway reports the end of a command.
    GatewayResult { command: CommandId, outcome: CommandOutcome, at: Timestamp },
    /// The charger failed.
    GatewayFault { code: String, at: Timestamp },
    /// The charger is, or is not, in service. In service ends a fault.
    GatewayStatus { available: bool, at: Timestamp },
    /// The gateway reports what the session's time is used for from `at` on.
    GatewayFlow { session: SessionId, flow: Flow, at: Timestamp },
    /// Somebody wants the session to end.
    RequestStop { session: SessionId, origin: Origin, reason: StopReason, at: Timestamp, deadline: Timestamp },
    /// The account has settled.
    Settled { session: SessionId, settled: Settled, at: Timestamp },
    /// The deadline of a command passed. `heard`: everything the gateway said about the time up to the
    /// deadline has been read (its event stream, not only its heartbeats) and does not report the command.
    ExpireCommand { command: CommandId, at: Timestamp, heard: bool },
    /// Send a command other than a start.
    RequestCommand { action: Action, key: Option<String>, at: Timestamp, deadline: Timestamp },
}

/// What happened to a charger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChargerEvent {
    /// The whole session as it was asked for.
    SessionRequested { session: ChargingSession },
    /// Money is held.
    SessionAuthorised { session: SessionId, allowance: WattHours, at: Timestamp },
    /// The account refused; the session is over.
    SessionRefused { session: SessionId, code: String, at: Timestamp },
    /// To be sent, now that this is durable.
    CommandAccepted { command: Command },
    /// The command ended, or its end is not known ([`CommandOutcome::Unconfirmed`]).
    CommandResolved { command: CommandId, outcome: CommandOutcome, at: Timestamp },
    /// The session began.
    SessionStarted { session: SessionId, register: WattHours, at: Timestamp },
    /// From `at` on the session's time is used for something else.
    FlowChanged { session: SessionId, flow: Flow, at: Timestamp },
    /// The session ended, or is known never to have begun. `refused` is the register the gateway reported, when
    /// that could not be used and `register` is where the session was last read.
    SessionStopped {
        session: SessionId,
        register: WattHours,
        at: Timestamp,
        reason: StopReason,
        refused: Option<WattHours>,
    },
    /// The account has settled; the session is over.
    SessionSettled { session: SessionId, record: ChargeRecord },
    /// Service or fault changed.
    StatusChanged { available: bool, fault: Option<String>, at: Timestamp },
}

/// Why a charger's machine refuses. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ChargerRejection {
    /// Another session is not settled yet.
    #[error("session {current} is not over on this charger")]
    Busy { current: SessionId },
    /// The charger reported a fault.
    #[error("the charger reports the fault {code:?}")]
    Faulted { code: String },
    /// Out of service.
    #[error("the charger is out of service")]
    Unavailable,
    /// It has no such connector.
    #[error("connector {} does not exist: the charger has 1 to {connectors}", connector.0)]
    UnknownConnector { connector: ConnectorNo, connectors: u8 },
    /// The key was used for something else.
    #[error("this idempotency key was used for another request: use a new key")]
    KeyReused,
    /// Too many keys are remembered.
    #[error("this charger was sent {MAX_KEYS} idempotency keys within a day: nothing was done, try again later")]
    TooManyKeys,
    /// The key is empty or too long.
    #[error("an idempotency key has 1 to {} bytes", crate::account::MAX_KEY_LEN)]
    InvalidKey,
    /// The driver's request number was used for another account or connector.
    #[error("request {request} was made for another account or connector")]
    RequestReused { request: u64 },
    /// Starts come from drivers or the API.
    #[error("a start needs a driver's request or an idempotency key")]
    InvalidOrigin,
    /// A price is out of range or the time zone is not known.
    #[error("the station's tariff or time zone is not usable")]
    InvalidTariff,
    /// The charger's id leaves no room for the numbers of its sessions and commands.
    #[error("the charger's id is too long to number its sessions and commands")]
    IdTooLong,
    /// Neither current nor remembered.
    #[error("the charger does not know session {session}")]
    UnknownSession { session: SessionId },
    /// Neither unresolved nor remembered.
    #[error("the charger does not know command {command}")]
    UnknownCommand { command: CommandId },
    /// The gateway started what nobody wants (any more): stop it.
    #[error("session {session} is not wanted (any more)")]
    Unwanted { session: SessionId },
    /// A register is negative, or absurdly far from the start.
    #[error("the register {register} is out of range")]
    MeterOutOfRange { register: WattHours },
    /// The register is below that of the start: registers never go back.
    #[error("the register went back: {register} after {start}")]
    MeterWentBack { start: WattHours, register: WattHours },
    /// The register is further from the start than can have flowed.
    #[error("the register {register} is implausible: at most {most} can have flowed since the start")]
    MeterImplausible { register: WattHours, most: WattHours },
    /// What is reported contradicts what is known.
    #[error("{what}")]
    Contradiction { what: String },
    /// A start goes through `RequestStart`.
    #[error("a start is requested as a session, not as a command")]
    InvalidAction,
    /// The ends of too many commands are not known.
    #[error("{unresolved} commands of this charger have not ended")]
    TooManyCommands { unresolved: u64 },
}

impl ChargerRejection {
    /// Stable code, for the API, logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "charger_busy",
            Self::Faulted { .. } => "charger_faulted",
            Self::Unavailable => "charger_unavailable",
            Self::UnknownConnector { .. } => "unknown_connector",
            Self::KeyReused => "key_reused",
            Self::TooManyKeys => "too_many_keys",
            Self::InvalidKey => "invalid_key",
            Self::RequestReused { .. } => "request_reused",
            Self::InvalidOrigin => "invalid_origin",
            Self::InvalidTariff => "invalid_tariff",
            Self::IdTooLong => "id_too_long",
            Self::UnknownSession { .. } => "unknown_session",
            Self::UnknownCommand { .. } => "unknown_command",
            Self::Unwanted { .. } => "unwanted",
            Self::MeterOutOfRange { .. } => "meter_out_of_range",
            Self::MeterWentBack { .. } => "meter_went_back",
            Self::MeterImplausible { .. } => "meter_implausible",
            Self::Contradiction { .. } => "contradiction",
            Self::InvalidAction => "invalid_action",
            Self::TooManyCommands { .. } => "too_many_commands",
        }
    }
}

impl Default for Charger {
    /// A charger that was never heard of is taken to be in service.
    fn default() -> Self {
        Self {
            sessions_count: 0,
            commands_count: 0,
            current: None,
            recent: VecDeque::new(),
            commands: BTreeMap::new(),
            ended: VecDeque::new(),
            last_request: None,
            keys: VecDeque::new(),
            available: true,
            fault: None,
        }
    }
}

impl Charger {
    /// Version of the stored form of the state and its events.
    pub const VERSION: u16 = 1;

    /// The session that is not settled yet.
    pub fn open_session(&self) -> Option<&ChargingSession> {
        self.current.as_ref()
    }

    /// The session whose account has to be asked, again after a restart.
    pub fn needs_authorisation(&self) -> Option<&ChargingSession> {
        self.current_in(SessionState::Requested)
    }

    /// The session whose energy flows: to be debited.
    pub fn charging(&self) -> Option<&ChargingSession> {
        self.current_in(SessionState::Charging)
    }

    /// The session that has ended and has to be settled, again after a restart.
    pub fn needs_settlement(&self) -> Option<&ChargingSession> {
        self.current_in(SessionState::Stopped)
    }

    /// Commands whose true end is not known, to be sent (again) under their ids, in order of acceptance.
    pub fn unresolved_commands(&self) -> Vec<&Command> {
        let mut unresolved: Vec<_> = self.commands.values().filter(|c| c.is_unresolved()).collect();
        // Ids sort as text, `c10` before `c2`; shorter ones are older.
        unresolved.sort_by_key(|c| (c.id.as_str().len(), c.id.as_str()));
        unresolved
    }

    /// The start that is told as unconfirmed, and of which the gateway would have spoken: an event of the charger
    /// stamped `heard_at` was read, events are read in their order, and none before it was about the start. Should
    /// it begin after all, its session is unwanted and is stopped, and the command's end becomes *done*.
    pub fn unheard_start(&self, heard_at: Timestamp) -> Option<&CommandId> {
        let waiting = self.current_in(SessionState::Authorised)?;
        let is_due = |command: &&Command| {
            matches!(&command.action, Action::Start { session, .. } if *session == waiting.id)
                && command.outcome == Some(CommandOutcome::Unconfirmed)
                && heard_at.since(command.deadline) > HEARD_AFTER_MS
        };
        self.commands.values().find(is_due).map(|command| &command.id)
    }

    /// What came of an idempotency key, while it is remembered.
    pub fn key_target(&self, key: &str) -> Option<&KeyTarget> {
        self.keyed(key).map(|request| &request.target)
    }

    /// A session that is over, while it is remembered.
    pub fn closed_session(&self, session: &SessionId) -> Option<&ClosedSession> {
        self.recent.iter().find(|closed| closed.session == *session)
    }

    /// The keyed request whose session the account refused, while its key is remembered.
    pub fn refused_request(&self, session: &SessionId) -> Option<(&KeyedRequest, &Refusal)> {
        let of = |request: &&KeyedRequest| matches!(&request.target, KeyTarget::Session(target) if target == session);
        let request = self.keys.iter().rev().find(of)?;
        request.refusal.as_ref().map(|refusal| (request, refusal))
    }

    /// What came of the start that made this session.
    pub fn start_outcome(&self, session: &SessionId) -> StartOutcome<'_> {
        if self.current_in(SessionState::Requested).is_some_and(|waiting| waiting.id == *session) {
            return StartOutcome::Pending;
        }
        let refused = self.refused_request(session);
        refused.map_or(StartOutcome::Accepted, |(_, refusal)| StartOutcome::Refused(&refusal.code))
    }

    fn current_in(&self, state: SessionState) -> Option<&ChargingSession> {
        self.current.as_ref().filter(|session| session.state == state)
    }

    fn keyed(&self, key: &str) -> Option<&KeyedRequest> {
        self.keys.iter().find(|request| request.key == key)
    }

    fn current_session(&self, session: &SessionId) -> Option<&ChargingSession> {
        self.current.as_ref().filter(|current| current.id == *session)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests;
