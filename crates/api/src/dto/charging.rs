//! Sessions, charge records, commands.

use crate::catalogue_text::FeesDocument;
use crate::extract::rfc3339;
use chargeplane_actors::ports::{RecordId, StoredRecord};
use chargeplane_actors::views::{CommandView, KnownSession, RefusedSessionView, SessionView};
use chargeplane_domain::charger::Refusal;
use chargeplane_domain::command::{Action, Command, CommandOutcome};
use chargeplane_domain::session::{Origin, SessionState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A session to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartSessionRequest {
    /// Where.
    pub charger: String,
    /// Which connector, from 1.
    #[serde(default = "first_connector")]
    pub connector: u8,
    /// Who pays.
    pub account: String,
}

fn first_connector() -> u8 {
    1
}

/// The id of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionIdDto {
    /// The session.
    pub session: String,
}

/// A session that is open, or was refused lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionDto {
    /// The session.
    pub id: String,
    /// `requested`, `authorised`, `charging`, `stopped`, `settled`, `refused`.
    pub state: String,
    /// The charger.
    pub charger: String,
    /// Its connector.
    pub connector: u8,
    /// The station.
    pub station: String,
    /// City of the station.
    pub city: String,
    /// Who pays.
    pub account: String,
    /// Who earns.
    pub operator: String,
    /// ISO 4217 code.
    pub currency: String,
    /// `driver` or `api`.
    pub origin: String,
    /// When it was asked for, by the node's clock.
    pub requested_at: String,
    /// When it started, by the gateway's clock.
    pub started_at: Option<String>,
    /// When it ended, by the gateway's clock.
    pub stopped_at: Option<String>,
    /// Register at the start.
    pub meter_start_wh: Option<i64>,
    /// Register at the end.
    pub meter_stop_wh: Option<i64>,
    /// Why it ended.
    pub stop_reason: Option<String>,
    /// Why the account refused it: a code of `/errors/account`.
    pub refusal: Option<String>,
}

impl From<KnownSession> for SessionDto {
    fn from(known: KnownSession) -> Self {
        match known {
            KnownSession::Open(view) => view.into(),
            KnownSession::Refused(view) => view.into(),
        }
    }
}

impl From<RefusedSessionView> for SessionDto {
    fn from(view: RefusedSessionView) -> Self {
        let Refusal { code, operator, station, city, currency } = view.refusal;
        Self {
            id: view.session.to_string(),
            state: SessionState::Refused.code().to_owned(),
            charger: view.charger.to_string(),
            connector: view.connector.0,
            station: station.to_string(),
            city,
            account: view.account.to_string(),
            operator: operator.to_string(),
            currency: currency.to_string(),
            // Only what came with a key is remembered.
            origin: "api".to_owned(),
            requested_at: rfc3339(view.requested_at),
            started_at: None,
            stopped_at: None,
            meter_start_wh: None,
            meter_stop_wh: None,
            stop_reason: None,
            refusal: Some(code),
        }
    }
}

impl From<SessionView> for SessionDto {
    fn from(view: SessionView) -> Self {
        let session = view.session;
        let origin = match session.origin {
            Origin::Driver { .. } => "driver",
            Origin::Api { .. } => "api",
            Origin::Node => "node",
        };
        Self {
            id: session.id.to_string(),
            state: session.state.code().to_owned(),
            charger: view.charger.to_string(),
            connector: session.connector.0,
            station: session.station.to_string(),
            city: session.city,
            account: session.account.to_string(),
            operator: session.operator.to_string(),
            currency: session.tariff.currency.to_string(),
            origin: origin.to_owned(),
            requested_at: rfc3339(session.requested_at),
            started_at: session.started_at.map(rfc3339),
            stopped_at: session.stopped_at.map(rfc3339),
            meter_start_wh: session.meter_start.map(|m| m.0),
            meter_stop_wh: session.meter_stop.map(|m| m.0),
            stop_reason: session.stop_reason.map(|r| r.code().to_owned()),
            refusal: None,
        }
    }
}

/// A charge record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChargeRecordDto {
    /// The record's id: a UUID, for ever the same.
    pub id: String,
    /// The tenant.
    pub tenant: String,
    /// The journal's shard that settled it.
    pub shard: String,
    /// The frame's log number.
    pub lsn: u64,
    /// The event's index in the frame.
    pub index: u32,
    /// The session.
    pub session: String,
    /// Who paid.
    pub account: String,
    /// The station.
    pub station: String,
    /// City of the station.
    pub city: String,
    /// The charger.
    pub charger: String,
    /// Its connector.
    pub connector: u8,
    /// Who earned.
    pub operator: String,
    /// Start, by the gateway's clock.
    pub started_at: String,
    /// End, by the gateway's clock.
    pub ended_at: String,
    /// IANA time zone of the station.
    pub time_zone: String,
    /// Month of the end on the station's wall clock.
    pub month: String,
    /// Register at the start.
    pub meter_start_wh: i64,
    /// Register at the end.
    pub meter_stop_wh: i64,
    /// What was metered: the difference of the two.
    pub energy_wh: i64,
    /// Energy the driver paid.
    pub billed_wh: i64,
    /// Energy nobody paid.
    pub overshoot_wh: i64,
    /// Energy by tariff period: sharp, peak, flat, valley.
    pub by_period_wh: [i64; 4],
    /// Time in which the car charged.
    pub charging_ms: i64,
    /// Time in which the car was full.
    pub idle_ms: i64,
    /// Prices a kWh by tariff period: sharp, peak, flat, valley.
    pub prices: Vec<PriceDto>,
    /// What the tariff asks for beside them; null when nothing.
    pub tariff_fees: Option<FeesDocument>,
    /// For the energy.
    pub energy_amount: String,
    /// For the service.
    pub service_amount: String,
    /// For everything else: the flat fee, time, and what the least price of a session asks for beyond the others.
    pub fees_amount: String,
    /// All together.
    pub total: String,
    /// What the driver paid.
    pub billed: String,
    /// What went to the operator's overshoot account.
    pub overshoot: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Why it ended.
    pub stop_reason: String,
}

/// Prices of a tariff period, a kWh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PriceDto {
    /// For the energy.
    pub energy: String,
    /// For the service.
    pub service: String,
}

impl From<StoredRecord> for ChargeRecordDto {
    fn from(stored: StoredRecord) -> Self {
        let record = stored.record;
        Self {
            id: RecordId::of(&record.session).to_string(),
            tenant: record.session.tenant().to_owned(),
            shard: stored.shard.to_string(),
            lsn: stored.lsn,
            index: stored.index,
            session: record.session.to_string(),
            account: record.account.to_string(),
            station: record.station.to_string(),
            city: record.city,
            charger: record.charger.to_string(),
            connector: record.connector.0,
            operator: record.operator.to_string(),
            started_at: rfc3339(record.started_at),
            ended_at: rfc3339(record.ended_at),
            time_zone: record.time_zone,
            month: record.month.to_string(),
            meter_start_wh: record.meter_start.0,
            meter_stop_wh: record.meter_stop.0,
            energy_wh: record.energy.0,
            billed_wh: record.billed_wh.0,
            overshoot_wh: record.overshoot_wh.0,
            by_period_wh: record.by_period.map(|wh| wh.0),
            charging_ms: record.time.charging_ms,
            idle_ms: record.time.idle_ms,
            tariff_fees: FeesDocument::of(&record.tariff.fees),
            prices: record
                .tariff
                .prices
                .iter()
                .map(|price| PriceDto { energy: price.energy.to_string(), service: price.service.to_string() })
                .collect(),
            energy_amount: record.energy_amount.to_string(),
            service_amount: record.service_amount.to_string(),
            fees_amount: record.fees_amount.to_string(),
            total: record.total.to_string(),
            billed: record.billed.to_string(),
            overshoot: record.overshoot.to_string(),
            currency: record.currency.to_string(),
            stop_reason: record.stop_reason.code().to_owned(),
        }
    }
}

/// What a charger is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum CommandRequest {
    /// Restart the charger.
    Reset,
    /// Release the plug of a connector.
    Unlock {
        /// The connector, from 1.
        connector: u8,
    },
    /// Take the charger into or out of service.
    SetAvailability {
        /// True: into service.
        available: bool,
    },
}

/// The id of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandIdDto {
    /// The command.
    pub command: String,
}

/// A command and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandDto {
    /// The command.
    pub id: String,
    /// The charger.
    pub charger: String,
    /// `start`, `stop`, `reset`, `unlock`, `set_availability`.
    pub action: String,
    /// The session of a start or stop.
    pub session: Option<String>,
    /// The connector of a start or unlock.
    pub connector: Option<u8>,
    /// Into (true) or out of service.
    pub available: Option<bool>,
    /// When it was accepted.
    pub accepted_at: String,
    /// Until when it may be executed, by the gateway's clock.
    pub deadline: String,
    /// `pending`, `done`, `refused`, `expired`, `unconfirmed`.
    pub outcome: String,
    /// Why it was refused.
    pub reason: Option<String>,
}

impl From<CommandView> for CommandDto {
    fn from(view: CommandView) -> Self {
        let Command { id, action, accepted_at, deadline, outcome, .. } = view.command;
        let (connector, available) = match &action {
            Action::Start { connector, .. } | Action::Unlock { connector } => (Some(connector.0), None),
            Action::SetAvailability { available } => (None, Some(*available)),
            Action::Stop { .. } | Action::Reset => (None, None),
        };
        let reason = match &outcome {
            Some(CommandOutcome::Refused { reason }) => Some(reason.clone()),
            _ => None,
        };
        Self {
            id: id.to_string(),
            charger: view.charger.to_string(),
            action: action.kind().to_owned(),
            session: action.session().map(ToString::to_string),
            connector,
            available,
            accepted_at: rfc3339(accepted_at),
            deadline: rfc3339(deadline),
            outcome: outcome.as_ref().map_or("pending", CommandOutcome::code).to_owned(),
            reason,
        }
    }
}
