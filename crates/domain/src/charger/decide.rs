//! What a charger's machine makes of requests and of the gateway's words. Nothing is changed here:
//! [`Charger::apply`] does. An empty list means: known already, nothing to do.

mod commands;
mod sessions;

use crate::account::MAX_KEY_LEN;
use crate::charger::{Charger, ChargerCommand, ChargerEvent, ChargerRejection, KeyedContent, MAX_KEYS};
use crate::ids::{ChargerId, CommandId, SessionId};
use crate::session::Origin;
use crate::units::{Timestamp, WattHours};

/// What a decision gives: events to apply and make durable, in order.
type Decided = Result<Vec<ChargerEvent>, ChargerRejection>;

/// Longest fault code or refusal reason kept, in characters. It comes from a charger's firmware.
const MAX_TEXT: usize = 120;

impl Charger {
    /// Decides a request or a report. An empty list is a repetition: answer as if it had been new.
    pub fn decide(&self, id: &ChargerId, command: &ChargerCommand) -> Decided {
        match command {
            ChargerCommand::RequestStart { .. } => self.request_start(id, command),
            ChargerCommand::Authorised { session, allowance, deadline, at } => {
                self.authorised(id, session, *allowance, *deadline, *at)
            }
            ChargerCommand::AuthorisationRefused { session, code, at } => {
                self.authorisation_refused(id, session, code, *at)
            }
            ChargerCommand::GatewayStarted { session, register, at } => self.gateway_started(session, *register, *at),
            ChargerCommand::GatewayStopped { session, register, reason, most, at } => {
                self.gateway_stopped(id, session, *register, *reason, *most, *at)
            }
            ChargerCommand::CloseAtLastReading { session, energy, refused, at } => {
                self.close_at_last_reading(id, session, *energy, *refused, *at)
            }
            ChargerCommand::GatewayResult { command, outcome, at } => self.gateway_result(id, command, outcome, *at),
            ChargerCommand::GatewayFault { code, at } => Ok(self.status(self.available, Some(code), *at)),
            ChargerCommand::GatewayStatus { available, at } => {
                let fault = if *available { None } else { self.fault.as_deref() };
                Ok(self.status(*available, fault, *at))
            }
            ChargerCommand::GatewayFlow { session, flow, at } => Ok(self.gateway_flow(session, *flow, *at)),
            ChargerCommand::RequestStop { session, origin, reason, at, deadline } => {
                self.request_stop(id, session, origin, *reason, *at, *deadline)
            }
            ChargerCommand::Settled { session, settled, .. } => self.settled(id, session, settled),
            ChargerCommand::ExpireCommand { command, at, heard } => self.expire_command(id, command, *at, *heard),
            ChargerCommand::RequestCommand { action, key, at, deadline } => {
                self.request_command(id, action, key.as_deref(), *at, *deadline)
            }
        }
    }

    /// The id that the next session gets.
    fn next_session_id(&self, id: &ChargerId) -> Result<SessionId, ChargerRejection> {
        let number = self.sessions_count.checked_add(1).ok_or(ChargerRejection::IdTooLong)?;
        let local = format!("{}.{number}", id.local());
        SessionId::new(&id.tenant_id(), &local).map_err(|_| ChargerRejection::IdTooLong)
    }

    /// The id that the next command gets.
    fn next_command_id(&self, id: &ChargerId) -> Result<CommandId, ChargerRejection> {
        let number = self.commands_count.checked_add(1).ok_or(ChargerRejection::IdTooLong)?;
        let local = format!("{}.c{number}", id.local());
        CommandId::new(&id.tenant_id(), &local).map_err(|_| ChargerRejection::IdTooLong)
    }

    /// True when a key was used for exactly this before; an error when it was used for something else, or when
    /// it is new and there is no room to remember it.
    fn is_repeated(&self, key: &str, content: &KeyedContent, at: Timestamp) -> Result<bool, ChargerRejection> {
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(ChargerRejection::InvalidKey);
        }
        match self.keyed(key) {
            None if self.keys.len() >= MAX_KEYS && self.keys.front().is_some_and(|oldest| oldest.is_kept_at(at)) => {
                Err(ChargerRejection::TooManyKeys)
            }
            None => Ok(false),
            Some(known) if known.content == *content => Ok(true),
            Some(_) => Err(ChargerRejection::KeyReused),
        }
    }

    /// The register where the charger stood when it was last seen to stop, for sessions that never began.
    fn last_register(&self) -> WattHours {
        self.recent.iter().rev().find_map(|closed| closed.meter_stop).unwrap_or(WattHours::ZERO)
    }
}

/// The idempotency key of an origin.
fn key_of(origin: &Origin) -> Option<&str> {
    match origin {
        Origin::Api { key } => Some(key),
        Origin::Driver { .. } | Origin::Node => None,
    }
}

/// The number in the id of a charger's session or command: what follows the charger's id and `mark`.
fn number_after(text: &str, charger: &str, mark: &str) -> Option<u64> {
    text.strip_prefix(charger)?.strip_prefix(mark)?.parse().ok()
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
