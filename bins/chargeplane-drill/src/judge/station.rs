//! What the station shards' logs say of sessions and commands, compared with what the fleet saw.
//!
//! SESS-1: a session has one record, its energy is the meter's difference as the fleet read it, and what was
//! billed and borne add up to it, in the record and in the account's log alike. Its time is no more than its gateway
//! told: nobody pays for time in which the charger was paused.
//! CMD-1: nothing took effect twice, and an end that was recorded is what the fleet did.

use super::findings::Findings;
use super::frame::Frame;
use super::ledger::{Ledger, key_id};
use super::outside::{Executed, FleetSession};
use super::value::{field, int, text, variant};
use rmpv::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A charge record out of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who paid.
    pub account: String,
    /// The charger.
    pub charger: String,
    /// Register at the start, Wh.
    pub meter_start: i64,
    /// Register at the end, Wh.
    pub meter_stop: i64,
    /// Metered energy, Wh.
    pub energy: i64,
    /// Paid by the driver, Wh.
    pub billed_wh: i64,
    /// Borne by the operator, Wh.
    pub overshoot_wh: i64,
    /// Paid by the driver, 1/10,000.
    pub billed: i64,
    /// Borne by the operator, 1/10,000.
    pub overshoot: i64,
    /// Time in which the car charged, ms.
    pub charging_ms: i64,
    /// Time in which it was full, ms.
    pub idle_ms: i64,
    /// The price beside energy and service, 1/10,000.
    pub fees: i64,
    /// Why it ended.
    pub reason: String,
}

/// The time of a session as its charger's log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    flow: String,
    upto: i64,
    charging_ms: i64,
    idle_ms: i64,
}

impl Told {
    /// Counts up to a moment; one before the latest adds nothing.
    fn count(&mut self, at: i64) {
        let passed = (at - self.upto).max(0);
        match self.flow.as_str() {
            "charging" => self.charging_ms += passed,
            "full" => self.idle_ms += passed,
            _ => {}
        }
        self.upto = self.upto.max(at);
    }
}

/// A command out of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The outcome recorded last: `done`, `refused`, `expired`, `unconfirmed`.
    pub outcome: Option<String>,
    /// Times it was accepted; once, or the log is wrong.
    pub accepted: u32,
}

/// Everything the station shards' logs say.
#[derive(Debug, Clone, Default)]
pub struct StationLog {
    /// Records by session.
    pub records: BTreeMap<String, Record>,
    /// Commands by id.
    pub commands: BTreeMap<String, Command>,
    /// Sessions that were asked for: charger and who pays.
    pub requested: BTreeMap<String, (String, String)>,
    open: BTreeSet<String>,
    times: BTreeMap<String, Told>,
}

/// The reason of a session that never began: it has a record of nothing, and the fleet never saw it.
const NOT_STARTED: &str = "not_started";

impl StationLog {
    /// Takes one frame of a station shard.
    pub fn take(&mut self, frame: &Frame, findings: &mut Findings) {
        for event in frame.events() {
            let at = format!("{} frame {}, {}", frame.shard, frame.lsn, event.key);
            // The family wraps its members' events: {charger: {session_settled: {...}}}.
            let inner = match variant(event.event) {
                Some(("charger", inner)) => inner,
                Some(("gateway" | "station", _)) => continue,
                _ => event.event,
            };
            if self.take_event(key_id(event.key), inner, &at, findings).is_none() {
                findings.violated("SESS-1", format!("{at}: an event that cannot be read: {}", event.event));
            }
        }
    }

    fn take_event(&mut self, charger: &str, event: &Value, at: &str, findings: &mut Findings) -> Option<()> {
        let (kind, value) = variant(event)?;
        match kind {
            "session_requested" => {
                let inner = field(value, "session")?;
                let (session, account) = (text(inner, "id")?, text(inner, "account")?);
                self.requested.insert(session.to_owned(), (charger.to_owned(), account.to_owned()));
                let fresh = self.open.insert(session.to_owned()) && !self.records.contains_key(session);
                findings.check("SESS-1", fresh, || format!("{at}: {session} was opened twice"));
            }
            "session_refused" => {
                self.open.remove(text(value, "session")?);
            }
            "session_started" => {
                let (session, upto) = (text(value, "session")?, int(value, "at")?);
                let told = Told { flow: "charging".to_owned(), upto, charging_ms: 0, idle_ms: 0 };
                self.times.insert(session.to_owned(), told);
            }
            "flow_changed" => {
                let (flow, at) = (text(value, "flow")?, int(value, "at")?);
                let told = self.times.get_mut(text(value, "session")?)?;
                told.count(at);
                flow.clone_into(&mut told.flow);
            }
            "session_stopped" => {
                let ended = int(value, "at")?;
                if let Some(told) = self.times.get_mut(text(value, "session")?) {
                    told.count(ended);
                }
            }
            "session_settled" => {
                let (session, record) = (text(value, "session")?, record(field(value, "record")?)?);
                let was_open = self.open.remove(session);
                findings.check("SESS-1", was_open, || format!("{at}: {session} was settled but not open"));
                let told = self.times.remove(session).map_or((0, 0), |told| (told.charging_ms, told.idle_ms));
                let fits = record.charging_ms <= told.0 && record.idle_ms <= told.1;
                findings.check("SESS-1", fits, || {
                    let Record { charging_ms, idle_ms, .. } = record;
                    format!("{at}: {session} pays for {charging_ms} ms and {idle_ms} ms idle, told were {told:?}")
                });
                let before = self.records.insert(session.to_owned(), record);
                findings.check("SESS-1", before.is_none(), || format!("{at}: {session} has two records"));
            }
            "command_accepted" => {
                let id = text(field(value, "command")?, "id")?;
                let command = self.commands.entry(id.to_owned()).or_default();
                command.accepted += 1;
                let once = command.accepted == 1;
                findings.check("CMD-1", once, || format!("{at}: {id} was accepted twice"));
            }
            "command_resolved" => {
                let (id, (outcome, _)) = (text(value, "command")?, variant(field(value, "outcome")?)?);
                let command = self.commands.entry(id.to_owned()).or_default();
                let final_before = command.outcome.as_deref().is_some_and(|o| matches!(o, "done" | "refused"));
                findings.check("CMD-1", !final_before, || format!("{at}: {id} ended twice, now {outcome}"));
                command.outcome = Some(outcome.to_owned());
            }
            _ => {}
        }
        Some(())
    }

    /// True when a session was asked for and is not open any more: it has a record, or was refused.
    pub fn is_over(&self, session: &str) -> bool {
        self.requested.contains_key(session) && !self.open.contains(session)
    }

    /// Records against the fleet's meters and against the accounts' settlements, both ways. `remote` names who
    /// pays for sessions that were started over the API: the charger is not told, and takes its driver for him.
    pub fn judge_sessions(
        &self,
        fleet: &[FleetSession],
        remote: &BTreeMap<&str, &str>,
        ledger: &Ledger,
        findings: &mut Findings,
    ) {
        let mut seen = BTreeSet::new();
        for session in fleet {
            let id = &session.session;
            findings.check("SESS-1", seen.insert(id.as_str()), || format!("{id}: the fleet ended it twice"));
            let Some(record) = self.records.get(id) else {
                findings.violated("SESS-1", format!("{id}: the fleet ended it, there is no record"));
                continue;
            };
            let metered = session.meter_stop - session.meter_start;
            findings.check("SESS-1", record.energy == metered, || {
                format!("{id}: the meter says {metered} Wh, the record {} Wh", record.energy)
            });
            findings.check("SESS-1", record.charger == session.charger, || {
                format!("{id}: charged at {}, the record says {}", session.charger, record.charger)
            });
            if let Some(account) = remote.get(id.as_str()).copied().or(session.account.as_deref()) {
                findings.check("SESS-1", record.account == account, || {
                    format!("{id}: {account} charged, the record says {}", record.account)
                });
            }
        }
        for (id, record) in &self.records {
            self.judge_record(id, record, ledger, findings);
            let known = seen.contains(id.as_str()) || (record.reason == NOT_STARTED && record.energy == 0);
            findings.check("SESS-1", known, || format!("{id}: there is a record, the fleet never ended it"));
        }
        for id in &self.open {
            findings.violated("SESS-1", format!("{id}: still open in the log"));
        }
    }

    /// Records of sessions that never began, and that the fleet therefore never saw.
    pub fn not_started(&self, fleet: &[FleetSession]) -> u64 {
        let seen: BTreeSet<&str> = fleet.iter().map(|session| session.session.as_str()).collect();
        let unseen = |(id, record): &(&String, &Record)| record.reason == NOT_STARTED && !seen.contains(id.as_str());
        self.records.iter().filter(unseen).count() as u64
    }

    fn judge_record(&self, id: &str, record: &Record, ledger: &Ledger, findings: &mut Findings) {
        let Record { meter_start, meter_stop, energy, billed_wh, overshoot_wh, .. } = *record;
        findings.check("SESS-1", energy == meter_stop - meter_start && energy == billed_wh + overshoot_wh, || {
            format!("{id}: {energy} Wh, registers {meter_start} to {meter_stop}, {billed_wh} billed, {overshoot_wh} overshoot")
        });
        let settled = ledger.sessions.get(id).and_then(|session| session.settled);
        let fits = settled.is_some_and(|settled| {
            settled.meter == i128::from(energy)
                && settled.billed_wh == i128::from(billed_wh)
                && settled.overshoot_wh == i128::from(overshoot_wh)
                && settled.billed == i128::from(record.billed)
                && settled.overshoot == i128::from(record.overshoot)
                && settled.charging_ms == i128::from(record.charging_ms)
                && settled.idle_ms == i128::from(record.idle_ms)
                && settled.fees == i128::from(record.fees)
        });
        findings.check("SESS-1", fits, || format!("{id}: record {record:?}, the account settled {settled:?}"));
        // A record is what the node promised of a session: its settlement must be in the account's log.
        findings.check("MONEY-3", settled.is_some(), || format!("{id}: a record without a settlement in the log"));
    }

    /// Recorded ends against what the fleet executed.
    pub fn judge_commands(&self, executed: &[Executed], findings: &mut Findings) {
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for execution in executed {
            *times.entry(&execution.command).or_default() += execution.effects;
            let known = self.commands.contains_key(&execution.command);
            findings.check("CMD-1", known, || format!("{}: executed, but never accepted", execution.command));
        }
        for (id, count) in &times {
            findings.check("CMD-1", *count <= 1, || format!("{id}: took effect {count} times"));
        }
        for (id, command) in &self.commands {
            let count = times.get(id.as_str()).copied().unwrap_or(0);
            let outcome = command.outcome.as_deref().unwrap_or("none");
            let holds = match outcome {
                "done" => count == 1,
                "refused" | "expired" => count == 0,
                // Not a claim about what happened; but after the drain every end must be known.
                _ => false,
            };
            findings.check("CMD-1", holds, || format!("{id}: recorded as {outcome}, took effect {count} times"));
        }
    }
}

fn record(value: &Value) -> Option<Record> {
    Some(Record {
        account: text(value, "account")?.to_owned(),
        charger: text(value, "charger")?.to_owned(),
        meter_start: int(value, "meter_start")?,
        meter_stop: int(value, "meter_stop")?,
        energy: int(value, "energy")?,
        billed_wh: int(value, "billed_wh")?,
        overshoot_wh: int(value, "overshoot_wh")?,
        billed: int(value, "billed")?,
        overshoot: int(value, "overshoot")?,
        charging_ms: int(field(value, "time")?, "charging_ms")?,
        idle_ms: int(field(value, "time")?, "idle_ms")?,
        fees: int(value, "fees_amount")?,
        reason: text(value, "stop_reason")?.to_owned(),
    })
}
