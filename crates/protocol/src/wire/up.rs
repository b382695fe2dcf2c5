//! Batches from gateways.

use super::proto::{self, EventBody, UpBody};
use super::{WireError, at_most, child, clip, cursor_to_proto, cursors, energy, id, moment, number, text};
use super::{watts, watts_from_zero};
use crate::limits::{MAX_ITEMS, MAX_RUNS};
use crate::message::{Beat, BeatCharger, CommandEnd, GatewayEvent, NumberedEvent, SampleRun, Stream, UpBatch};
use chargeplane_domain::ids::ConnectorNo;
use chargeplane_domain::sample::{Gap, GapReason, Sample};
use chargeplane_domain::session::{Flow, StopReason};
use chargeplane_domain::units::{Mono, Timestamp, WattHours, Watts};

pub(super) fn to_proto(batch: &UpBatch) -> UpBody {
    match batch {
        UpBatch::Events(events) => {
            UpBody::Events(proto::Events { events: events.iter().map(event_to_proto).collect() })
        }
        UpBatch::Samples { runs, gaps } => UpBody::Samples(samples_to_proto(runs, gaps)),
        UpBatch::Beat(beat) => UpBody::Beat(beat_to_proto(beat)),
    }
}

pub(super) fn from_proto(stream: Stream, body: UpBody) -> Result<UpBatch, WireError> {
    match (stream, body) {
        (Stream::Events, UpBody::Events(events)) => {
            at_most("events", events.events.len(), MAX_ITEMS)?;
            let known = events.events.into_iter().filter_map(|event| event_from_proto(event).transpose());
            Ok(UpBatch::Events(known.collect::<Result<_, _>>()?))
        }
        (Stream::Fast | Stream::Slow | Stream::Replay, UpBody::Samples(samples)) => samples_from_proto(samples),
        (Stream::Beat, UpBody::Beat(beat)) => Ok(UpBatch::Beat(beat_from_proto(beat)?)),
        _ => Err(WireError::WrongStream { stream }),
    }
}

/// One row of the columns, as differences or as values.
type Row = [i64; 7];

fn row_of(sample: &Sample) -> Row {
    [
        sample.at.0,
        i64::from(sample.voltage_dv),
        i64::from(sample.current_da),
        i64::from(sample.temperature_dc),
        i64::from(sample.soc_permille),
        sample.power.0,
        sample.register.0,
    ]
}

fn sample_of(row: Row) -> Result<Sample, WireError> {
    let [at, voltage, current, temperature, soc, power, register] = row;
    let int = |what, value: i64| i32::try_from(value).map_err(|_| WireError::Range { what });
    Ok(Sample {
        at: moment("at_ms", at)?,
        voltage_dv: int("voltage_dv", voltage)?,
        current_da: int("current_da", current)?,
        temperature_dc: int("temperature_dc", temperature)?,
        soc_permille: int("soc_permille", soc)?,
        power: watts("power_w", power)?,
        register: energy("register_wh", register)?,
    })
}

fn samples_to_proto(runs: &[SampleRun], gaps: &[(u16, Gap)]) -> proto::Samples {
    let rows = runs.iter().map(|run| run.samples.len()).sum();
    let base_ms = runs.first().and_then(|run| run.samples.first()).map_or(0, |sample| sample.at.0);
    let column = || Vec::with_capacity(rows);
    let mut out = proto::Samples {
        base_ms,
        at_ms: column(),
        voltage_dv: column(),
        current_da: column(),
        temperature_dc: column(),
        soc_permille: column(),
        power_w: column(),
        register_wh: column(),
        gaps: gaps.iter().map(|(child, gap)| gap_to_proto(*child, gap)).collect(),
        ..proto::Samples::default()
    };
    for run in runs {
        out.child.push(u32::from(run.child));
        out.first_number.push(run.first_number);
        out.count.push(u32::try_from(run.samples.len()).unwrap_or(u32::MAX));
        let mut before: Row = [base_ms, 0, 0, 0, 0, 0, 0];
        for sample in &run.samples {
            let row = row_of(sample);
            let delta: Row = std::array::from_fn(|i| row[i].wrapping_sub(before[i]));
            before = row;
            out.at_ms.push(delta[0]);
            out.voltage_dv.push(delta[1]);
            out.current_da.push(delta[2]);
            out.temperature_dc.push(delta[3]);
            out.soc_permille.push(delta[4]);
            out.power_w.push(delta[5]);
            out.register_wh.push(delta[6]);
        }
    }
    out
}

fn samples_from_proto(from: proto::Samples) -> Result<UpBatch, WireError> {
    let rows = from.at_ms.len();
    at_most("samples", rows.saturating_add(from.gaps.len()), MAX_ITEMS)?;
    at_most("runs", from.child.len(), MAX_RUNS)?;
    let columns = [
        &from.voltage_dv,
        &from.current_da,
        &from.temperature_dc,
        &from.soc_permille,
        &from.power_w,
        &from.register_wh,
    ];
    if columns.iter().any(|column| column.len() != rows) {
        return Err(WireError::Shape { what: "a column" });
    }
    if from.first_number.len() != from.child.len() || from.count.len() != from.child.len() {
        return Err(WireError::Shape { what: "the list of runs" });
    }
    let mut runs = Vec::with_capacity(from.child.len());
    let mut at = 0_usize;
    for ((run_child, first), count) in from.child.iter().zip(&from.first_number).zip(&from.count) {
        let end = at.saturating_add(*count as usize);
        if *count == 0 || end > rows {
            return Err(WireError::Shape { what: "the length of a run" });
        }
        let mut samples = Vec::with_capacity(*count as usize);
        let mut row: Row = [from.base_ms, 0, 0, 0, 0, 0, 0];
        for i in at..end {
            let delta: Row = [
                from.at_ms[i],
                from.voltage_dv[i],
                from.current_da[i],
                from.temperature_dc[i],
                from.soc_permille[i],
                from.power_w[i],
                from.register_wh[i],
            ];
            row = std::array::from_fn(|i| row[i].wrapping_add(delta[i]));
            samples.push(sample_of(row)?);
        }
        at = end;
        runs.push(SampleRun { child: child(*run_child)?, first_number: number("first_number", *first)?, samples });
    }
    if at != rows {
        return Err(WireError::Shape { what: "the length of a run" });
    }
    let gaps = from.gaps.into_iter().map(gap_from_proto).collect::<Result<_, _>>()?;
    Ok(UpBatch::Samples { runs, gaps })
}

fn gap_to_proto(child: u16, gap: &Gap) -> proto::Gap {
    let reason = match gap.reason {
        GapReason::Thinned => 1,
        GapReason::Dropped => 2,
        GapReason::Refused => 3,
    };
    proto::Gap { child: u32::from(child), first: gap.first, last: gap.last, reason }
}

fn gap_from_proto(from: proto::Gap) -> Result<(u16, Gap), WireError> {
    let reason = match from.reason {
        1 => GapReason::Thinned,
        2 => GapReason::Dropped,
        3 => GapReason::Refused,
        _ => return Err(WireError::Range { what: "gap reason" }),
    };
    let (first, last) = (number("gap", from.first)?, number("gap", from.last)?);
    if first > last {
        return Err(WireError::Range { what: "gap" });
    }
    Ok((child(from.child)?, Gap { first, last, reason }))
}

/// The number of a reason on the wire. 0 is never written.
pub(super) fn reason_to_proto(reason: StopReason) -> u32 {
    match reason {
        StopReason::Driver => 1,
        StopReason::TargetReached => 2,
        StopReason::LeftEarly => 3,
        StopReason::Funds => 4,
        StopReason::Fault => 5,
        StopReason::Remote => 6,
        StopReason::PowerLoss => 7,
        StopReason::Unwanted => 8,
        StopReason::NotStarted => 9,
        StopReason::MeterFault => 10,
    }
}

/// A stop is never skipped for its reason: one that is not known here reads as `Unwanted`.
pub(super) fn reason_from_proto(reason: u32) -> StopReason {
    match reason {
        1 => StopReason::Driver,
        2 => StopReason::TargetReached,
        3 => StopReason::LeftEarly,
        4 => StopReason::Funds,
        5 => StopReason::Fault,
        6 => StopReason::Remote,
        7 => StopReason::PowerLoss,
        9 => StopReason::NotStarted,
        10 => StopReason::MeterFault,
        _ => StopReason::Unwanted,
    }
}

fn event_to_proto(event: &NumberedEvent) -> proto::Event {
    let (at, body) = match &event.event {
        GatewayEvent::StartRequested { connector, account, request, at, .. } => {
            let connector = u32::from(connector.0);
            (
                *at,
                EventBody::StartRequested(proto::StartRequested {
                    connector,
                    account: account.to_string(),
                    request: *request,
                }),
            )
        }
        GatewayEvent::SessionStarted { session, register, at, .. } => (
            *at,
            EventBody::SessionStarted(proto::SessionStarted { session: session.to_string(), register_wh: register.0 }),
        ),
        GatewayEvent::SessionStopped { session, register, at, reason, .. } => {
            let reason = reason_to_proto(*reason);
            (
                *at,
                EventBody::SessionStopped(proto::SessionStopped {
                    session: session.to_string(),
                    register_wh: register.0,
                    reason,
                }),
            )
        }
        GatewayEvent::CommandResult { command, outcome, at, .. } => {
            let (end, refusal) = match outcome {
                CommandEnd::Done => (1, String::new()),
                CommandEnd::Refused(code) => (2, clip(code)),
                CommandEnd::Expired => (3, String::new()),
            };
            (*at, EventBody::CommandResult(proto::CommandResult { command: command.to_string(), end, refusal }))
        }
        GatewayEvent::Gap { child, gap } => (Timestamp(0), EventBody::Gap(gap_to_proto(*child, gap))),
        GatewayEvent::Fault { code, at, .. } => (*at, EventBody::Fault(proto::Fault { code: clip(code) })),
        GatewayEvent::StatusChanged { plugged, available, at, .. } => {
            (*at, EventBody::StatusChanged(proto::StatusChanged { plugged: *plugged, available: *available }))
        }
        GatewayEvent::FlowChanged { session, flow, at, .. } => {
            let flow = match flow {
                Flow::Charging => 1,
                Flow::Full => 2,
                Flow::Paused => 3,
            };
            (*at, EventBody::FlowChanged(proto::FlowChanged { session: session.to_string(), flow }))
        }
    };
    proto::Event { number: event.number, child: u32::from(event.event.child()), at_ms: at.0, body: Some(body) }
}

/// `None` for a kind of event that this version does not know.
fn event_from_proto(from: proto::Event) -> Result<Option<NumberedEvent>, WireError> {
    let Some(body) = from.body else {
        return Ok(None);
    };
    let child = child(from.child)?;
    let at = || moment("at_ms", from.at_ms);
    let event = match body {
        EventBody::StartRequested(e) => GatewayEvent::StartRequested {
            child,
            connector: connector(e.connector)?,
            account: id("account", &e.account)?,
            request: number("request", e.request)?,
            at: at()?,
        },
        EventBody::SessionStarted(e) => GatewayEvent::SessionStarted {
            child,
            session: id("session", &e.session)?,
            register: energy("register_wh", e.register_wh)?,
            at: at()?,
        },
        EventBody::SessionStopped(e) => GatewayEvent::SessionStopped {
            child,
            session: id("session", &e.session)?,
            register: energy("register_wh", e.register_wh)?,
            at: at()?,
            reason: reason_from_proto(e.reason),
        },
        EventBody::CommandResult(e) => GatewayEvent::CommandResult {
            child,
            command: id("command", &e.command)?,
            outcome: match e.end {
                1 => CommandEnd::Done,
                2 => CommandEnd::Refused(text("refusal", e.refusal)?),
                3 => CommandEnd::Expired,
                _ => return Err(WireError::Range { what: "end" }),
            },
            at: at()?,
        },
        EventBody::Gap(e) => {
            let (_, gap) = gap_from_proto(e)?;
            GatewayEvent::Gap { child, gap }
        }
        EventBody::Fault(e) => GatewayEvent::Fault { child, code: text("code", e.code)?, at: at()? },
        EventBody::StatusChanged(e) => {
            GatewayEvent::StatusChanged { child, plugged: e.plugged, available: e.available, at: at()? }
        }
        EventBody::FlowChanged(e) => {
            let flow = match e.flow {
                1 => Flow::Charging,
                2 => Flow::Full,
                3 => Flow::Paused,
                _ => return Err(WireError::Range { what: "flow" }),
            };
            GatewayEvent::FlowChanged { child, session: id("session", &e.session)?, flow, at: at()? }
        }
    };
    Ok(Some(NumberedEvent { number: number("number", from.number)?, event }))
}

pub(super) fn connector(value: u32) -> Result<ConnectorNo, WireError> {
    u8::try_from(value).map(ConnectorNo).map_err(|_| WireError::Range { what: "connector" })
}

fn beat_to_proto(beat: &Beat) -> proto::Beat {
    proto::Beat {
        mono_ms: beat.mono.0,
        nonce: beat.nonce,
        epoch_seen: beat.epoch_seen,
        applied_grant_seq: beat.applied_grant_seq,
        local: beat.local,
        acked: beat.acked.iter().map(cursor_to_proto).collect(),
        floors: beat.floors.iter().map(cursor_to_proto).collect(),
        chargers: beat.chargers.iter().map(beat_charger_to_proto).collect(),
    }
}

fn beat_charger_to_proto(charger: &BeatCharger) -> proto::BeatCharger {
    proto::BeatCharger {
        child: u32::from(charger.child),
        granted_w: charger.granted.0,
        lease_left_ms: charger.lease_left_ms,
        demand_w: charger.demand.0,
        power_w: charger.power.0,
        register_wh: charger.register.0,
        session: charger.session.as_ref().map(ToString::to_string).unwrap_or_default(),
        charging: charger.charging,
    }
}

fn beat_from_proto(from: proto::Beat) -> Result<Beat, WireError> {
    at_most("chargers", from.chargers.len(), MAX_ITEMS)?;
    Ok(Beat {
        mono: Mono(number("mono_ms", from.mono_ms)?),
        nonce: from.nonce,
        epoch_seen: from.epoch_seen,
        applied_grant_seq: from.applied_grant_seq,
        local: from.local,
        acked: cursors("acked", from.acked)?,
        floors: cursors("floors", from.floors)?,
        chargers: from.chargers.into_iter().map(beat_charger_from_proto).collect::<Result<_, _>>()?,
    })
}

fn beat_charger_from_proto(from: proto::BeatCharger) -> Result<BeatCharger, WireError> {
    let granted: Watts = watts_from_zero("granted_w", from.granted_w)?;
    let register: WattHours = energy("register_wh", from.register_wh)?;
    Ok(BeatCharger {
        child: child(from.child)?,
        granted,
        lease_left_ms: from.lease_left_ms,
        demand: watts_from_zero("demand_w", from.demand_w)?,
        power: watts("power_w", from.power_w)?,
        register,
        session: if from.session.is_empty() { None } else { Some(id("session", &from.session)?) },
        charging: from.charging,
    })
}
