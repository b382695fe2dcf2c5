//! What caused an entry of an account: the event behind a line of its statement, told in full.

use super::{AccountEvent, statement_entries};
use crate::ids::{OperatorId, SessionId};
use crate::tariff::fees::MeteredTime;
use crate::tariff::{PERIODS, Priced};
use crate::units::WattHours;

/// What caused an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The event's stable name.
    pub event: &'static str,
    /// In words: the energy, an operator's reason, what was borne by whom. Empty for an event without a line.
    pub note: String,
    /// The idempotency key of the request.
    pub key: Option<String>,
    /// The session.
    pub session: Option<SessionId>,
    /// The meter reading, for what was metered.
    pub reading: Option<CausingReading>,
}

/// The meter reading that an entry rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CausingReading {
    /// Who earns.
    pub operator: OperatorId,
    /// The debit's or settlement's number in its session, from 1.
    pub sequence: u32,
    /// All energy of the session so far.
    pub meter: WattHours,
    /// The same by period.
    pub by_period: [WattHours; PERIODS],
    /// All metered time of the session so far.
    pub time: MeteredTime,
    /// What energy and time cost by the session's tariff.
    pub cumulative: Priced,
}

/// What caused an event's entry.
pub fn cause(event: &AccountEvent) -> Cause {
    let line = statement_entries(event).into_iter().next();
    let reading = match event {
        AccountEvent::Debited { operator, sequence, meter, by_period, time, cumulative, .. } => Some(CausingReading {
            operator: operator.clone(),
            sequence: *sequence,
            meter: *meter,
            by_period: *by_period,
            time: *time,
            cumulative: *cumulative,
        }),
        AccountEvent::Settled { operator, settled, .. } => Some(CausingReading {
            operator: operator.clone(),
            sequence: settled.sequence,
            meter: settled.meter,
            by_period: settled.by_period,
            time: settled.time,
            cumulative: settled.cumulative,
        }),
        _ => None,
    };
    Cause {
        event: event.kind(),
        note: line.as_ref().map(|line| line.note.clone()).unwrap_or_default(),
        key: line.as_ref().and_then(|line| line.key.clone()),
        session: line.and_then(|line| line.session),
        reading,
    }
}
