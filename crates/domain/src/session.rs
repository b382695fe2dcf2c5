//! A charging session and its record: one car, one connector, one account, from request to settlement.
//!
//! The session's life is decided by [`crate::charger::Charger`], its money by [`crate::account::Account`].
//! Keeps SESS-1: a record's energy equals the meter's difference, and metered = billed + overshoot.
#![deny(clippy::float_arithmetic, clippy::arithmetic_side_effects)]

mod time;

pub use time::{Flow, SessionClock};

use crate::account::Settled;
use crate::ids::{AccountId, ChargerId, ConnectorNo, OperatorId, SessionId, StationId};
use crate::month::Month;
use crate::split::Split;
use crate::tariff::fees::MeteredTime;
use crate::tariff::{PERIODS, Tariff, zone};
use crate::units::{Currency, Money, Timestamp, WattHours};
use serde::{Deserialize, Serialize};

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The driver stopped it at the charger.
    Driver,
    /// The car has what it asked for.
    TargetReached,
    /// The driver left before the car had what it asked for.
    LeftEarly,
    /// The money ended.
    Funds,
    /// The charger failed.
    Fault,
    /// Stopped over the API.
    Remote,
    /// The charger lost its supply.
    PowerLoss,
    /// Nobody wanted it (any more).
    Unwanted,
    /// It never began: the start was refused or surely not executed.
    NotStarted,
    /// The register of its start or end cannot be used: it ends at the last reading that could.
    MeterFault,
}

impl StopReason {
    /// Every reason, in order.
    pub const ALL: [Self; 10] = [
        Self::Driver,
        Self::TargetReached,
        Self::LeftEarly,
        Self::Funds,
        Self::Fault,
        Self::Remote,
        Self::PowerLoss,
        Self::Unwanted,
        Self::NotStarted,
        Self::MeterFault,
    ];

    /// Stable name, the same as in stored text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::TargetReached => "target_reached",
            Self::LeftEarly => "left_early",
            Self::Funds => "funds",
            Self::Fault => "fault",
            Self::Remote => "remote",
            Self::PowerLoss => "power_loss",
            Self::Unwanted => "unwanted",
            Self::NotStarted => "not_started",
            Self::MeterFault => "meter_fault",
        }
    }
}

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Asked for; the account has not answered yet.
    Requested,
    /// Money is held and the start command is accepted.
    Authorised,
    /// The gateway reported the start.
    Charging,
    /// Ended (or never begun), to be settled.
    Stopped,
    /// Settled: the record is final.
    Settled,
    /// The account refused; nothing was held.
    Refused,
}

impl SessionState {
    /// Stable name, the same as in stored text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Authorised => "authorised",
            Self::Charging => "charging",
            Self::Stopped => "stopped",
            Self::Settled => "settled",
            Self::Refused => "refused",
        }
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A driver at the charger; `request` is the gateway's own number and grows per charger.
    Driver { request: u64 },
    /// The API, with its idempotency key.
    Api { key: String },
    /// The node itself, such as a stop for lack of funds. Never the origin of a start.
    Node,
}

/// A session that is not settled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargingSession {
    /// `{charger}.{n}`.
    pub id: SessionId,
    /// Who pays.
    pub account: AccountId,
    /// Where the car is plugged.
    pub connector: ConnectorNo,
    /// Who earns.
    pub operator: OperatorId,
    /// The tariff in force when it was asked for.
    pub tariff: Tariff,
    /// The agreement about the station's revenue in force then.
    #[serde(default)]
    pub split: Option<Split>,
    /// IANA zone of the station, in which the tariff's slots are read.
    pub time_zone: String,
    /// City of the station, for reports.
    pub city: String,
    /// The station.
    pub station: StationId,
    /// Who asked.
    pub origin: Origin,
    /// When, by the node's clock.
    pub requested_at: Timestamp,
    /// Where it is in its life.
    pub state: SessionState,
    /// Energy the gateway may deliver on the first hold.
    pub allowance: Option<WattHours>,
    /// The charger's register at the start.
    pub meter_start: Option<WattHours>,
    /// When it started, by the gateway's clock.
    pub started_at: Option<Timestamp>,
    /// What its time was used for since then; none when it never began.
    #[serde(default)]
    pub clock: Option<SessionClock>,
    /// The charger's register at the end.
    pub meter_stop: Option<WattHours>,
    /// The register reported at the end, when it could not be used and `meter_stop` is the last that could.
    pub meter_refused: Option<WattHours>,
    /// When it ended.
    pub stopped_at: Option<Timestamp>,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
}

impl ChargingSession {
    /// Energy from start to `register`; zero for a session that never began, `None` when the register went
    /// back or the difference does not fit.
    pub fn energy_at(&self, register: WattHours) -> Option<WattHours> {
        match self.meter_start {
            None => Some(WattHours::ZERO),
            Some(start) => register.checked_sub(start).filter(|energy| *energy >= WattHours::ZERO),
        }
    }

    /// Metered energy of a session that has ended; `None` while it goes on.
    pub fn metered(&self) -> Option<WattHours> {
        self.meter_stop.and_then(|stop| self.energy_at(stop))
    }
}

/// The final record of a session: what was metered, what it cost, who paid.
///
/// `energy == meter_stop - meter_start == billed_wh + overshoot_wh == sum(by_period)` and
/// `total == energy_amount + service_amount + fees_amount == billed + overshoot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeRecord {
    pub session: SessionId,
    pub account: AccountId,
    pub station: StationId,
    pub charger: ChargerId,
    pub connector: ConnectorNo,
    pub operator: OperatorId,
    pub city: String,
    /// IANA zone of the station.
    pub time_zone: String,
    /// Gateway's clock; the time of the request for a session that never began.
    pub started_at: Timestamp,
    /// Gateway's clock, or the node's for a session that never began.
    pub ended_at: Timestamp,
    /// The month of `ended_at` on the station's wall clock. Fixed here once: a later edition of the time zones does
    /// not move a record into another month.
    pub month: Month,
    pub meter_start: WattHours,
    pub meter_stop: WattHours,
    /// Metered energy.
    pub energy: WattHours,
    /// Energy that the driver paid.
    pub billed_wh: WattHours,
    /// Energy that the operator's overshoot account paid.
    pub overshoot_wh: WattHours,
    /// Metered energy in sharp, peak, flat, valley.
    pub by_period: [WattHours; PERIODS],
    /// Metered time. Time in which the charger was paused is not in it.
    pub time: MeteredTime,
    pub energy_amount: Money,
    pub service_amount: Money,
    /// For the start, for time, and what the least price asks for beyond the others.
    pub fees_amount: Money,
    /// Energy, service and fees.
    pub total: Money,
    /// Paid by the driver.
    pub billed: Money,
    /// Paid by the overshoot account.
    pub overshoot: Money,
    pub currency: Currency,
    pub stop_reason: StopReason,
    /// What it was priced with: the prices of each period. The last field, because many records share it and
    /// stores keep it once.
    pub tariff: Tariff,
}

impl ChargeRecord {
    /// The record of a stopped session and its settlement. `None` when the two contradict each other: the
    /// session has not ended, or the account settled another energy than was metered (SESS-1).
    pub fn of(charger: &ChargerId, session: &ChargingSession, settled: &Settled) -> Option<Self> {
        let energy = session.metered()?;
        let meter_stop = session.meter_stop?;
        let covered = settled.billed_wh.checked_add(settled.overshoot_wh)?;
        let paid = settled.billed.checked_add(settled.overshoot)?;
        let total = settled.cumulative.total();
        let mut periods = settled.by_period.iter();
        let by_period = periods.try_fold(WattHours::ZERO, |sum, wh| sum.checked_add(*wh))?;
        if [settled.meter, by_period, covered] != [energy; 3] || paid != total {
            return None;
        }
        let ended_at = session.stopped_at?;
        // A zone that was known when the session began and is no more must not keep a session open.
        let zone = zone::parse(&session.time_zone).unwrap_or(zone::TimeZone::UTC);
        Some(Self {
            session: session.id.clone(),
            account: session.account.clone(),
            station: session.station.clone(),
            charger: charger.clone(),
            connector: session.connector,
            operator: session.operator.clone(),
            city: session.city.clone(),
            time_zone: session.time_zone.clone(),
            started_at: session.started_at.unwrap_or(session.requested_at),
            ended_at,
            month: Month::of(ended_at, &zone),
            meter_start: session.meter_start.unwrap_or(meter_stop),
            meter_stop,
            energy,
            billed_wh: settled.billed_wh,
            overshoot_wh: settled.overshoot_wh,
            by_period: settled.by_period,
            time: settled.time,
            energy_amount: settled.cumulative.energy,
            service_amount: settled.cumulative.service,
            fees_amount: settled.cumulative.fees,
            total,
            billed: settled.billed,
            overshoot: settled.overshoot,
            currency: session.tariff.currency,
            stop_reason: session.stop_reason?,
            tariff: session.tariff.clone(),
        })
    }
}
