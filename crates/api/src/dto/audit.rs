//! Audits: an entry of a statement and what caused it.

use super::{ChargeRecordDto, LedgerEntryDto};
use crate::extract::rfc3339;
use chargeplane_actors::handle::{AuditView, AuditedPart, AuditedSession, SampleRange};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An entry of an account's statement with its cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditDto {
    /// The line.
    #[serde(flatten)]
    pub line: LedgerEntryDto,
    /// The event behind it: `topped_up`, `debited`, `settled`, `adjusted`, ...
    pub event: String,
    /// What it says in words: the energy, an operator's reason, what was borne by whom.
    pub note: String,
    /// Who earned.
    pub operator: Option<String>,
    /// The number of the debit or settlement in its session.
    pub sequence: Option<u32>,
    /// All energy of the session so far.
    pub meter_wh: Option<i64>,
    /// The same in sharp, peak, flat, valley.
    pub meter_by_period_wh: Option<Vec<i64>>,
    /// Time of the session so far in which the car charged.
    pub charging_ms: Option<i64>,
    /// Time of the session so far in which the car was full.
    pub idle_ms: Option<i64>,
    /// What that energy and time cost.
    pub cumulative: Option<String>,
    /// The session behind it.
    pub session_detail: Option<AuditedSessionDto>,
    /// Of a till's line that sums a frame up, when it alone is asked for: the drivers' entries behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<AuditedPartDto>,
}

/// A driver's entry that earned an operator something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditedPartDto {
    /// The entry, to be audited in its account.
    pub entry: String,
    /// That account.
    pub account: String,
    /// The session.
    pub session: Option<String>,
    /// `debited` or `settled`.
    pub event: String,
    /// What it did to what the operator earned.
    pub amount: String,
}

/// What the stores know of the session behind an entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditedSessionDto {
    /// The charger.
    pub charger: String,
    /// Its start, by the gateway's clock.
    pub from: Option<String>,
    /// Its end, or the time of the entry when that was before.
    pub to: String,
    /// The charger's stored samples in that time; null when the start is not known.
    pub samples: Option<Vec<SampleRangeDto>>,
    /// The charge record, once it is settled.
    pub charge_record: Option<ChargeRecordDto>,
}

/// Samples of a charger by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SampleRangeDto {
    /// The enrolment of the gateway that numbered them.
    pub incarnation: u32,
    /// The first number.
    pub first: u64,
    /// The last number.
    pub last: u64,
    /// How many are stored.
    pub stored: u64,
}

/// A page of an account's entries with their causes.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AuditPageDto {
    /// The entries, oldest first.
    pub items: Vec<AuditDto>,
    /// Give it back as `?after=` for what follows; null at the end.
    pub next: Option<String>,
    /// False when the read models are behind: entries of requests that were answered may be missing at the end.
    pub complete: bool,
}

impl From<AuditView> for AuditDto {
    fn from(view: AuditView) -> Self {
        let reading = view.cause.reading;
        Self {
            line: view.entry.into(),
            event: view.cause.event.to_owned(),
            note: view.cause.note,
            operator: reading.as_ref().map(|reading| reading.operator.to_string()),
            sequence: reading.as_ref().map(|reading| reading.sequence),
            meter_wh: reading.as_ref().map(|reading| reading.meter.0),
            meter_by_period_wh: reading.as_ref().map(|reading| reading.by_period.iter().map(|wh| wh.0).collect()),
            charging_ms: reading.as_ref().map(|reading| reading.time.charging_ms),
            idle_ms: reading.as_ref().map(|reading| reading.time.idle_ms),
            cumulative: reading.map(|reading| reading.cumulative.total().to_string()),
            session_detail: view.session.map(AuditedSessionDto::from),
            parts: view.parts.into_iter().map(AuditedPartDto::from).collect(),
        }
    }
}

impl From<AuditedPart> for AuditedPartDto {
    fn from(part: AuditedPart) -> Self {
        Self {
            entry: part.entry.to_string(),
            account: part.account.to_string(),
            session: part.session.map(|session| session.to_string()),
            event: part.event.to_owned(),
            amount: part.amount.to_string(),
        }
    }
}

impl From<AuditedSession> for AuditedSessionDto {
    fn from(session: AuditedSession) -> Self {
        let range = |range: SampleRange| {
            let SampleRange { incarnation, first, last, stored } = range;
            SampleRangeDto { incarnation, first, last, stored }
        };
        Self {
            charger: session.charger.to_string(),
            from: session.from.map(rfc3339),
            to: rfc3339(session.to),
            samples: session.samples.map(|ranges| ranges.into_iter().map(range).collect()),
            charge_record: session.record.map(ChargeRecordDto::from),
        }
    }
}
