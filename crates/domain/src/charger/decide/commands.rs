//! The life of commands (CMD-1), and the charger's status.

use super::{Decided, key_of, number_after, shorten};
use crate::charger::{Charger, ChargerEvent, ChargerRejection, KeyedContent, MAX_UNRESOLVED, MAX_UNRESOLVED_STOPS};
use crate::command::{Action, Command, CommandOutcome};
use crate::ids::{ChargerId, CommandId, SessionId};
use crate::session::{Origin, SessionState, StopReason};
use crate::units::Timestamp;

impl Charger {
    /// A session is to end. One that was not sent to the charger yet ends here; otherwise the charger is
    /// told, once: a stop whose end is not known is not followed by another.
    pub(super) fn request_stop(
        &self,
        id: &ChargerId,
        session: &SessionId,
        origin: &Origin,
        reason: StopReason,
        at: Timestamp,
        deadline: Timestamp,
    ) -> Decided {
        let action = Action::Stop { session: session.clone(), reason };
        let key = key_of(origin);
        if self.is_key_repeated(key, &action, at)? {
            return Ok(vec![]);
        }
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        match current.state {
            SessionState::Requested => Ok(vec![ChargerEvent::SessionStopped {
                session: session.clone(),
                register: self.last_register(),
                at,
                reason,
                refused: None,
            }]),
            SessionState::Authorised | SessionState::Charging => self.accept(id, action, key, at, deadline),
            SessionState::Stopped | SessionState::Settled | SessionState::Refused => Ok(vec![]),
        }
    }

    /// A command of its own. Stops of sessions that are not current are taken too: so an unwanted session
    /// is stopped.
    pub(super) fn request_command(
        &self,
        id: &ChargerId,
        action: &Action,
        key: Option<&str>,
        at: Timestamp,
        deadline: Timestamp,
    ) -> Decided {
        if matches!(action, Action::Start { .. }) {
            return Err(ChargerRejection::InvalidAction);
        }
        if self.is_key_repeated(key, action, at)? {
            return Ok(vec![]);
        }
        self.accept(id, action.clone(), key, at, deadline)
    }

    /// Accepts a command, unless it is a stop of a session that another stop is under way for.
    fn accept(&self, id: &ChargerId, action: Action, key: Option<&str>, at: Timestamp, deadline: Timestamp) -> Decided {
        let unresolved = || self.commands.values().filter(|command| command.is_unresolved());
        let bound = match &action {
            Action::Stop { session, .. } if unresolved().any(|c| c.action.stops(session)) => {
                return Ok(vec![]);
            }
            Action::Stop { .. } => MAX_UNRESOLVED_STOPS,
            _ => MAX_UNRESOLVED,
        };
        let count = unresolved().count();
        if count >= bound {
            let unresolved = u64::try_from(count).unwrap_or(u64::MAX);
            return Err(ChargerRejection::TooManyCommands { unresolved });
        }
        let command = self.new_command(id, action, key, at, deadline)?;
        Ok(vec![ChargerEvent::CommandAccepted { command }])
    }

    pub(super) fn new_command(
        &self,
        id: &ChargerId,
        action: Action,
        key: Option<&str>,
        at: Timestamp,
        deadline: Timestamp,
    ) -> Result<Command, ChargerRejection> {
        Ok(Command {
            id: self.next_command_id(id)?,
            action,
            accepted_at: at,
            deadline,
            outcome: None,
            key: key.map(str::to_owned),
        })
    }

    fn is_key_repeated(&self, key: Option<&str>, action: &Action, at: Timestamp) -> Result<bool, ChargerRejection> {
        let content = KeyedContent::Command { action: action.clone() };
        key.map_or(Ok(false), |key| self.is_repeated(key, &content, at))
    }

    /// The gateway says how a command ended.
    pub(super) fn gateway_result(
        &self,
        id: &ChargerId,
        command: &CommandId,
        outcome: &CommandOutcome,
        at: Timestamp,
    ) -> Decided {
        let outcome = match outcome {
            CommandOutcome::Unconfirmed => {
                let what = format!("command {command}: a gateway cannot report unconfirmed");
                return Err(ChargerRejection::Contradiction { what });
            }
            CommandOutcome::Refused { reason } => CommandOutcome::Refused { reason: shorten(reason) },
            CommandOutcome::Done | CommandOutcome::Expired => outcome.clone(),
        };
        match self.known_command(id, command)? {
            Some(command) => Ok(self.resolve(command, outcome, at)),
            None => Ok(vec![]),
        }
    }

    /// The deadline passed. Unless everything was heard up to it, the end is not known.
    pub(super) fn expire_command(&self, id: &ChargerId, command: &CommandId, at: Timestamp, heard: bool) -> Decided {
        let outcome = if heard { CommandOutcome::Expired } else { CommandOutcome::Unconfirmed };
        match self.known_command(id, command)? {
            Some(command) if command.is_unresolved() => Ok(self.resolve(command, outcome, at)),
            _ => Ok(vec![]),
        }
    }

    /// A command that is remembered; none when it ended long ago; an error when there never was one.
    fn known_command(&self, id: &ChargerId, command: &CommandId) -> Result<Option<&Command>, ChargerRejection> {
        if let Some(known) = self.commands.get(command) {
            return Ok(Some(known));
        }
        let number = number_after(command.as_str(), id.as_str(), ".c");
        let is_old = number.is_some_and(|number| (1..=self.commands_count).contains(&number));
        if is_old { Ok(None) } else { Err(ChargerRejection::UnknownCommand { command: command.clone() }) }
    }

    /// Ends a command. A start that surely was not executed ends its session with zero energy. One whose
    /// session began is done already ([`Charger::gateway_started`] saw to it) and stays done.
    fn resolve(&self, command: &Command, outcome: CommandOutcome, at: Timestamp) -> Vec<ChargerEvent> {
        if !command.may_become(&outcome) {
            return vec![];
        }
        let fails = matches!(outcome, CommandOutcome::Refused { .. } | CommandOutcome::Expired);
        let mut events = vec![ChargerEvent::CommandResolved { command: command.id.clone(), outcome, at }];
        if let Action::Start { session, .. } = &command.action {
            let waits = self.current_session(session).is_some_and(|current| current.state == SessionState::Authorised);
            if fails && waits {
                events.push(ChargerEvent::SessionStopped {
                    session: session.clone(),
                    register: self.last_register(),
                    at,
                    reason: StopReason::NotStarted,
                    refused: None,
                });
            }
        }
        events
    }

    /// Service or fault, if either changed.
    pub(super) fn status(&self, available: bool, fault: Option<&str>, at: Timestamp) -> Vec<ChargerEvent> {
        let fault = fault.map(shorten);
        if available == self.available && fault == self.fault {
            return vec![];
        }
        vec![ChargerEvent::StatusChanged { available, fault, at }]
    }
}
