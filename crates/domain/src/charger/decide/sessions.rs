//! The life of a session (SESS-1), from the request to the settlement.

use super::{Decided, number_after};
use crate::account::Settled;
use crate::charger::{Charger, ChargerCommand, ChargerEvent, ChargerRejection, KeyedContent};
use crate::command::{Action, CommandOutcome};
use crate::ids::{AccountId, ChargerId, ConnectorNo, SessionId};
use crate::session::{ChargeRecord, ChargingSession, Flow, Origin, SessionState, StopReason};
use crate::tariff::{MAX_METER, zone};
use crate::units::{Timestamp, WattHours};

impl Charger {
    /// Somebody wants to charge. A refusal leaves no trace: nothing was begun, so the same key or request
    /// may try again once the charger is free.
    pub(super) fn request_start(&self, id: &ChargerId, command: &ChargerCommand) -> Decided {
        let ChargerCommand::RequestStart {
            account,
            connector,
            connectors,
            origin,
            tariff,
            split,
            operator,
            station,
            city,
            time_zone,
            at,
        } = command
        else {
            return Ok(vec![]);
        };
        if self.is_start_repeated(origin, account, *connector, *at)? {
            return Ok(vec![]);
        }
        if !(1..=*connectors).contains(&connector.0) {
            let (connector, connectors) = (*connector, *connectors);
            return Err(ChargerRejection::UnknownConnector { connector, connectors });
        }
        if let Some(current) = &self.current {
            return Err(ChargerRejection::Busy { current: current.id.clone() });
        }
        if let Some(code) = &self.fault {
            return Err(ChargerRejection::Faulted { code: code.clone() });
        }
        if !self.available {
            return Err(ChargerRejection::Unavailable);
        }
        if split.as_ref().is_some_and(|split| split.check().is_err()) {
            return Err(ChargerRejection::InvalidTariff);
        }
        if tariff.check().is_err() || zone::parse(time_zone).is_err() {
            return Err(ChargerRejection::InvalidTariff);
        }
        // The start command will need a number too: better refused here than after money is held.
        self.next_command_id(id)?;
        let session = ChargingSession {
            id: self.next_session_id(id)?,
            account: account.clone(),
            connector: *connector,
            operator: operator.clone(),
            tariff: tariff.clone(),
            split: split.clone(),
            time_zone: time_zone.clone(),
            city: city.clone(),
            station: station.clone(),
            origin: origin.clone(),
            requested_at: *at,
            state: SessionState::Requested,
            allowance: None,
            meter_start: None,
            started_at: None,
            clock: None,
            meter_stop: None,
            meter_refused: None,
            stopped_at: None,
            stop_reason: None,
        };
        Ok(vec![ChargerEvent::SessionRequested { session }])
    }

    /// True when this request made a session before, or is older than one that did.
    fn is_start_repeated(
        &self,
        origin: &Origin,
        account: &AccountId,
        connector: ConnectorNo,
        at: Timestamp,
    ) -> Result<bool, ChargerRejection> {
        match origin {
            Origin::Node => Err(ChargerRejection::InvalidOrigin),
            Origin::Api { key } => {
                let content = KeyedContent::Start { account: account.clone(), connector };
                self.is_repeated(key, &content, at)
            }
            Origin::Driver { request } => {
                let current = self.current.iter().map(|s| (&s.origin, &s.account, s.connector));
                let closed = self.recent.iter().map(|s| (&s.origin, &s.account, s.connector));
                let known = current.chain(closed).find(|(known, _, _)| *known == origin);
                match known {
                    Some((_, payer, place)) if payer != account || place != connector => {
                        Err(ChargerRejection::RequestReused { request: *request })
                    }
                    _ => Ok(self.last_request.is_some_and(|last| *request <= last)),
                }
            }
        }
    }

    /// Money is held: the start command is accepted in the same step, so neither exists without the other.
    /// For a session that was stopped meanwhile there is nothing to do: settling it releases the hold.
    pub(super) fn authorised(
        &self,
        id: &ChargerId,
        session: &SessionId,
        allowance: WattHours,
        deadline: Timestamp,
        at: Timestamp,
    ) -> Decided {
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        if current.state != SessionState::Requested {
            return Ok(vec![]);
        }
        let action = Action::Start { session: session.clone(), connector: current.connector, allowance };
        Ok(vec![
            ChargerEvent::SessionAuthorised { session: session.clone(), allowance, at },
            ChargerEvent::CommandAccepted { command: self.new_command(id, action, None, at, deadline)? },
        ])
    }

    /// The account refused. Nothing is held, so the session is over at once.
    pub(super) fn authorisation_refused(
        &self,
        id: &ChargerId,
        session: &SessionId,
        code: &str,
        at: Timestamp,
    ) -> Decided {
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        match (current.state, current.allowance) {
            (SessionState::Requested, _) | (SessionState::Stopped, None) => {
                let (session, code) = (session.clone(), super::shorten(code));
                Ok(vec![ChargerEvent::SessionRefused { session, code, at }])
            }
            _ => {
                let what = format!("session {session} was authorised, and is now said to be refused");
                Err(ChargerRejection::Contradiction { what })
            }
        }
    }

    /// The session began. That also ends its start command, whatever is said of it later.
    /// What nobody wants (any more) is refused as unwanted, for the caller to stop it.
    pub(super) fn gateway_started(&self, session: &SessionId, register: WattHours, at: Timestamp) -> Decided {
        if register < WattHours::ZERO {
            return Err(ChargerRejection::MeterOutOfRange { register });
        }
        let unwanted = || ChargerRejection::Unwanted { session: session.clone() };
        let Some(current) = self.current_session(session) else {
            let begun = self.closed_session(session).is_some_and(|closed| closed.meter_start.is_some());
            return if begun { Ok(vec![]) } else { Err(unwanted()) };
        };
        match (current.state, current.meter_start) {
            (_, Some(known)) if known == register => Ok(vec![]),
            (_, Some(known)) => {
                let what = format!("session {session} began at {known}, and is now said to at {register}");
                Err(ChargerRejection::Contradiction { what })
            }
            (SessionState::Authorised, None) => {
                let mut events = self.start_is_done(session, at);
                events.push(ChargerEvent::SessionStarted { session: session.clone(), register, at });
                Ok(events)
            }
            (_, None) => Err(unwanted()),
        }
    }

    fn start_is_done(&self, session: &SessionId, at: Timestamp) -> Vec<ChargerEvent> {
        let starts = self.commands.values().filter(|command| {
            let of_session = matches!(&command.action, Action::Start { session: started, .. } if started == session);
            of_session && command.may_become(&CommandOutcome::Done)
        });
        let done = |id| ChargerEvent::CommandResolved { command: id, outcome: CommandOutcome::Done, at };
        starts.map(|command| done(command.id.clone())).collect()
    }

    /// The session's time is used for something else. Of one that does not charge it is nothing to know.
    pub(super) fn gateway_flow(&self, session: &SessionId, flow: Flow, at: Timestamp) -> Vec<ChargerEvent> {
        let clock = self.charging().filter(|current| current.id == *session).and_then(|current| current.clock);
        match clock.is_some_and(|clock| clock.flow != flow) {
            true => vec![ChargerEvent::FlowChanged { session: session.clone(), flow, at }],
            false => vec![],
        }
    }

    /// The session ended. One that never began (its start was refused by the hardware) ends with zero
    /// energy wherever the register stands.
    pub(super) fn gateway_stopped(
        &self,
        id: &ChargerId,
        session: &SessionId,
        register: WattHours,
        reason: StopReason,
        most: WattHours,
        at: Timestamp,
    ) -> Decided {
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        if current.state == SessionState::Stopped {
            return match (current.meter_start, current.meter_stop) {
                _ if current.meter_refused == Some(register) => Ok(vec![]),
                (Some(_), Some(known)) if known != register => {
                    let what = format!("session {session} ended at {known}, and is now said to at {register}");
                    Err(ChargerRejection::Contradiction { what })
                }
                _ => Ok(vec![]),
            };
        }
        if register < WattHours::ZERO {
            return Err(ChargerRejection::MeterOutOfRange { register });
        }
        match (current.meter_start, current.energy_at(register)) {
            (Some(start), None) => return Err(ChargerRejection::MeterWentBack { start, register }),
            (_, Some(energy)) if energy > MAX_METER => {
                return Err(ChargerRejection::MeterOutOfRange { register });
            }
            (_, Some(energy)) if energy > most => return Err(ChargerRejection::MeterImplausible { register, most }),
            _ => {}
        }
        Ok(vec![ChargerEvent::SessionStopped { session: session.clone(), register, at, reason, refused: None }])
    }

    /// The gateway has freed a session whose end cannot be used. It would be open for ever otherwise, so it ends
    /// at the last reading: SESS-1 holds for that register, and the other one stays in the log.
    pub(super) fn close_at_last_reading(
        &self,
        id: &ChargerId,
        session: &SessionId,
        energy: WattHours,
        refused: WattHours,
        at: Timestamp,
    ) -> Decided {
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        if current.state == SessionState::Stopped {
            return Ok(vec![]);
        }
        let energy = energy.clamp(WattHours::ZERO, MAX_METER);
        let register = match current.meter_start {
            Some(start) => start.checked_add(energy).ok_or(ChargerRejection::MeterOutOfRange { register: start })?,
            None => self.last_register(),
        };
        let reason = StopReason::MeterFault;
        Ok(vec![ChargerEvent::SessionStopped {
            session: session.clone(),
            register,
            at,
            reason,
            refused: Some(refused),
        }])
    }

    /// The account has settled. Its energy must be the meter's difference, or the two books differ.
    pub(super) fn settled(&self, id: &ChargerId, session: &SessionId, settled: &Settled) -> Decided {
        let Some(current) = self.current_or_over(id, session)? else {
            return Ok(vec![]);
        };
        if current.state != SessionState::Stopped {
            let what = format!("session {session} is settled while it is {}", current.state.code());
            return Err(ChargerRejection::Contradiction { what });
        }
        let record = ChargeRecord::of(id, current, settled).ok_or_else(|| {
            let (metered, settled) = (current.metered(), settled.meter);
            let what = format!("session {session} metered {metered:?} and is settled for {settled:?}");
            ChargerRejection::Contradiction { what }
        })?;
        Ok(vec![ChargerEvent::SessionSettled { session: session.clone(), record }])
    }

    /// The session if it is current; none when it is over; an error when it never was.
    pub(super) fn current_or_over(
        &self,
        id: &ChargerId,
        session: &SessionId,
    ) -> Result<Option<&ChargingSession>, ChargerRejection> {
        if let Some(current) = self.current_session(session) {
            return Ok(Some(current));
        }
        let number = number_after(session.as_str(), id.as_str(), ".");
        match number.is_some_and(|number| (1..=self.sessions_count).contains(&number)) {
            true => Ok(None),
            false => Err(ChargerRejection::UnknownSession { session: session.clone() }),
        }
    }
}
