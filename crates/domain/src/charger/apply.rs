//! Applying a charger's events. Replay uses this alone; an error changes nothing.

use crate::charger::{
    COMMANDS_REMEMBERED, Charger, ChargerEvent, ClosedSession, KEYS_KEPT_MS, KEYS_REMEMBERED, KeyTarget, KeyedContent,
    KeyedRequest, Refusal, SESSIONS_REMEMBERED,
};
use crate::command::{Action, Command, CommandOutcome};
use crate::ids::{CommandId, SessionId};
use crate::session::{ChargingSession, Origin, SessionClock, SessionState};
use crate::units::Timestamp;
use std::collections::VecDeque;

/// An event that does not fit the state: the log is damaged, or was written by other code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A session is requested while another is current.
    #[error("session {session} is requested while another is current")]
    Busy { session: SessionId },
    /// The session is not current, or in another state than the event follows.
    #[error("event {event} does not follow the state of session {session}")]
    Session { event: &'static str, session: SessionId },
    /// The command exists already, does not exist, or has ended otherwise.
    #[error("event {event} does not follow the state of command {command}")]
    Command { event: &'static str, command: CommandId },
    /// A counter is at its end.
    #[error("the charger's numbers are used up")]
    Exhausted,
}

impl Charger {
    /// Applies what was decided. An error changes nothing.
    pub fn apply(&mut self, event: &ChargerEvent) -> Result<(), ApplyError> {
        match event {
            ChargerEvent::SessionRequested { session } => self.on_requested(session),
            ChargerEvent::SessionAuthorised { session, allowance, .. } => {
                let current = self.expect(session, &[SessionState::Requested], "session_authorised")?;
                current.state = SessionState::Authorised;
                current.allowance = Some(*allowance);
                Ok(())
            }
            ChargerEvent::SessionRefused { session, code, .. } => {
                let from = [SessionState::Requested, SessionState::Stopped];
                let current = self.expect(session, &from, "session_refused")?.clone();
                self.remember_refusal(&current, code);
                self.close(SessionState::Refused, Some(code.clone()));
                Ok(())
            }
            ChargerEvent::CommandAccepted { command } => self.on_command_accepted(command),
            ChargerEvent::CommandResolved { command, outcome, .. } => self.on_command_resolved(command, outcome),
            ChargerEvent::SessionStarted { session, register, at } => {
                let current = self.expect(session, &[SessionState::Authorised], "session_started")?;
                current.state = SessionState::Charging;
                current.meter_start = Some(*register);
                current.started_at = Some(*at);
                current.clock = Some(SessionClock::begin(*at));
                Ok(())
            }
            ChargerEvent::FlowChanged { session, flow, at } => {
                let current = self.expect(session, &[SessionState::Charging], "flow_changed")?;
                if let Some(clock) = &mut current.clock {
                    clock.turn(*flow, *at);
                }
                Ok(())
            }
            ChargerEvent::SessionStopped { session, register, at, reason, refused } => {
                let from = [SessionState::Requested, SessionState::Authorised, SessionState::Charging];
                let current = self.expect(session, &from, "session_stopped")?;
                current.state = SessionState::Stopped;
                current.meter_stop = Some(*register);
                current.meter_refused = *refused;
                current.stopped_at = Some(*at);
                current.stop_reason = Some(*reason);
                Ok(())
            }
            ChargerEvent::SessionSettled { session, .. } => {
                self.expect(session, &[SessionState::Stopped], "session_settled")?;
                self.close(SessionState::Settled, None);
                Ok(())
            }
            ChargerEvent::StatusChanged { available, fault, .. } => {
                self.available = *available;
                self.fault.clone_from(fault);
                Ok(())
            }
        }
    }

    fn on_requested(&mut self, session: &ChargingSession) -> Result<(), ApplyError> {
        if self.current.is_some() {
            return Err(ApplyError::Busy { session: session.id.clone() });
        }
        self.sessions_count = self.sessions_count.checked_add(1).ok_or(ApplyError::Exhausted)?;
        match &session.origin {
            Origin::Driver { request } => self.last_request = self.last_request.max(Some(*request)),
            Origin::Api { key } => {
                let content = KeyedContent::Start { account: session.account.clone(), connector: session.connector };
                self.remember_key(key, content, KeyTarget::Session(session.id.clone()), session.requested_at);
            }
            Origin::Node => {}
        }
        self.current = Some(session.clone());
        Ok(())
    }

    fn on_command_accepted(&mut self, command: &Command) -> Result<(), ApplyError> {
        if self.commands.contains_key(&command.id) {
            return Err(ApplyError::Command { event: "command_accepted", command: command.id.clone() });
        }
        self.commands_count = self.commands_count.checked_add(1).ok_or(ApplyError::Exhausted)?;
        if let Some(key) = &command.key {
            let content = KeyedContent::Command { action: command.action.clone() };
            self.remember_key(key, content, KeyTarget::Command(command.id.clone()), command.accepted_at);
        }
        self.commands.insert(command.id.clone(), command.clone());
        Ok(())
    }

    fn on_command_resolved(&mut self, id: &CommandId, outcome: &CommandOutcome) -> Result<(), ApplyError> {
        let misfit = || ApplyError::Command { event: "command_resolved", command: id.clone() };
        let command = self.commands.get_mut(id).ok_or_else(misfit)?;
        if !command.may_become(outcome) {
            return Err(misfit());
        }
        let ends = command.is_unresolved() && outcome.is_final();
        command.outcome = Some(outcome.clone());
        if let (Action::SetAvailability { available }, CommandOutcome::Done) = (&command.action, outcome) {
            self.available = *available;
        }
        if ends && let Some(oldest) = push_bounded(&mut self.ended, id.clone(), COMMANDS_REMEMBERED) {
            self.commands.remove(&oldest);
        }
        Ok(())
    }

    /// The current session, if it is this one and in one of these states.
    fn expect(
        &mut self,
        session: &SessionId,
        states: &[SessionState],
        event: &'static str,
    ) -> Result<&mut ChargingSession, ApplyError> {
        match &mut self.current {
            Some(current) if current.id == *session && states.contains(&current.state) => Ok(current),
            _ => Err(ApplyError::Session { event, session: session.clone() }),
        }
    }

    fn close(&mut self, state: SessionState, code: Option<String>) {
        let Some(session) = self.current.take() else {
            return;
        };
        let closed = ClosedSession {
            session: session.id,
            account: session.account,
            connector: session.connector,
            origin: session.origin,
            state,
            meter_start: session.meter_start,
            meter_stop: session.meter_stop,
            code,
        };
        push_bounded(&mut self.recent, closed, SESSIONS_REMEMBERED);
    }

    /// Keeps why a keyed start was refused with its key: the answer to a repetition, and to whoever asks.
    fn remember_refusal(&mut self, session: &ChargingSession, code: &str) {
        let of = |request: &&mut KeyedRequest| matches!(&request.target, KeyTarget::Session(id) if *id == session.id);
        if let Some(request) = self.keys.iter_mut().rev().find(of) {
            request.refusal = Some(Refusal {
                code: code.to_owned(),
                operator: session.operator.clone(),
                station: session.station.clone(),
                city: session.city.clone(),
                currency: session.tariff.currency,
            });
        }
    }

    /// Remembers a key, and forgets the oldest ones: a function of the events alone, so that a replay forgets
    /// the same ones.
    fn remember_key(&mut self, key: &str, content: KeyedContent, target: KeyTarget, at: Timestamp) {
        self.keys.push_back(KeyedRequest { key: key.to_owned(), content, target, at, refusal: None });
        while self.keys.len() > KEYS_REMEMBERED && self.keys.front().is_some_and(|oldest| !oldest.is_kept_at(at)) {
            self.keys.pop_front();
        }
    }
}

impl KeyedRequest {
    /// True while the key is too young to be forgotten.
    pub(super) fn is_kept_at(&self, now: Timestamp) -> bool {
        now.since(self.at) <= KEYS_KEPT_MS
    }
}

/// Appends, and gives back the oldest entry when there are more than `bound`.
fn push_bounded<T>(queue: &mut VecDeque<T>, entry: T, bound: usize) -> Option<T> {
    queue.push_back(entry);
    if queue.len() > bound { queue.pop_front() } else { None }
}
