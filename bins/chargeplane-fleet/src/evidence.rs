//! What the fleet saw, written where the judge finds it, without a look into any store of the node.
//!
//! Files in the output directory, one JSON value a line unless said otherwise. Times are ms from the start of the
//! run (`t0` of `summary.json`, Unix ms), energies Wh, powers W.
//!
//! | file | line |
//! |---|---|
//! | `schedule.jsonl` | a driver or a fault; written before the run, the same for one seed |
//! | `sessions.jsonl` | a session that ended ([`SessionLine`]) |
//! | `commands.jsonl` | a command that reached a gateway, once for every time it was executed or refused ([`CommandLine`]) |
//! | `load.jsonl` | first `{"limits": {...}}`, then a second ([`LoadRow`]) |
//! | `gateways.jsonl` | a gateway at the end ([`GatewayLine`]) |
//! | `latency.json` | one object: `ack_ms` and `event_ack_ms` |
//! | `summary.json` | one object ([`Summary`]) |
//!
//! `acked` of a charger is what the node *promised*: ranges of sample numbers that were acknowledged as durable, and
//! so must be readable.

use crate::bay::Finished;
use crate::load::{LoadRow, LoadTotals};
use chargeplane_domain::ids::{AccountId, ChargerId, CommandId, GatewayId, SessionId};
use chargeplane_domain::session::StopReason;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// How a session ended, for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The car had what its driver wanted.
    Completed,
    /// The driver left before that.
    LeftEarly,
    /// The money ended.
    Funds,
    /// The charger broke.
    Fault,
    /// Stopped over the API.
    Remote,
    /// The run closed.
    ClosedAtEnd,
    /// The node did not want it.
    Other,
}

/// The outcome of a session that ended for `reason`.
pub fn outcome(reason: StopReason) -> Outcome {
    match reason {
        StopReason::TargetReached => Outcome::Completed,
        StopReason::LeftEarly => Outcome::LeftEarly,
        StopReason::Funds => Outcome::Funds,
        StopReason::Fault => Outcome::Fault,
        StopReason::Remote => Outcome::Remote,
        // The only driver who stops without being through or leaving early is the one whom the close sends home.
        StopReason::Driver => Outcome::ClosedAtEnd,
        StopReason::PowerLoss | StopReason::Unwanted | StopReason::NotStarted | StopReason::MeterFault => {
            Outcome::Other
        }
    }
}

/// A line of `sessions.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionLine {
    /// The session.
    pub session: SessionId,
    /// The charger.
    pub charger: ChargerId,
    /// Who pays; none for a remote start, which does not tell the charger.
    pub account: Option<AccountId>,
    /// Number of the driver in the schedule.
    pub driver: Option<u32>,
    /// Register at the start.
    pub meter_start_wh: i64,
    /// Register at the end.
    pub meter_stop_wh: i64,
    /// Their difference.
    pub energy_wh: i64,
    /// When it started.
    pub started_ms: u64,
    /// When it stopped.
    pub stopped_ms: u64,
    /// Why, as told to the node.
    pub reason: StopReason,
    /// How it ended.
    pub outcome: Outcome,
}

/// A line of `commands.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandLine {
    /// The command.
    pub command: CommandId,
    /// The charger.
    pub charger: Option<ChargerId>,
    /// What it is.
    pub action: &'static str,
    /// The session it starts or stops.
    pub session: Option<SessionId>,
    /// When the hardware was asked.
    pub at_ms: u64,
    /// `done`, or the code of the refusal.
    pub end: String,
}

/// One charger in a [`GatewayLine`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChargerLine {
    /// The charger.
    pub charger: String,
    /// Its number at the gateway.
    pub child: u16,
    /// The energy register.
    pub register_wh: i64,
    /// Number of its newest sample in this run.
    pub last_number: Option<u64>,
    /// Highest number acknowledged.
    pub highest_acked: Option<u64>,
    /// All numbers acknowledged, as ranges with both ends.
    pub acked: Vec<(u64, u64)>,
    /// First number, last number and hash of the samples of every range of 256 numbers: FNV-1a (64 bits, hex) over
    /// number, time, voltage, current, temperature, state of charge, power and register of each, eight bytes each.
    pub digests: Vec<(u64, u64, String)>,
}

/// One stream in a [`GatewayLine`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StreamLine {
    /// Batches sealed.
    pub batches: u64,
    /// Samples or events in them.
    pub items: u64,
    /// Of them acknowledged as durable.
    pub acked_items: u64,
    /// Acknowledgements of batches.
    pub acked_batches: u64,
    /// Batches refused by the node.
    pub refused_batches: u64,
    /// Publications, repetitions included.
    pub published: u64,
    /// Batches still held.
    pub held_batches: u64,
}

/// A line of `gateways.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GatewayLine {
    /// The gateway.
    pub gateway: GatewayId,
    /// Samples that got a number.
    pub samples_sent: u64,
    /// Of them acknowledged.
    pub samples_acked: u64,
    /// Of them declared lost.
    pub samples_gap: u64,
    /// Declared lost, by reason.
    pub gaps: BTreeMap<String, u64>,
    /// Events that got a number.
    pub events_sent: u64,
    /// Of them acknowledged.
    pub events_acked: u64,
    /// Of them refused by the node.
    pub events_refused: u64,
    /// By stream name.
    pub streams: BTreeMap<String, StreamLine>,
    /// Times connected.
    pub connections: u64,
    /// Beats sent.
    pub beats: u64,
    /// Grants messages taken and dropped.
    pub grants: (u64, u64),
    /// Leases that ended by time.
    pub leases_expired: u64,
    /// Commands executed, repeated and refused by the gateway itself.
    pub commands: (u64, u64, u64),
    /// Messages it could not use, by code.
    pub bad_messages: BTreeMap<String, u64>,
    /// Denied starts, by code.
    pub denials: BTreeMap<String, u64>,
    /// What the node could not use, by code.
    pub notices: BTreeMap<String, u64>,
    /// Its chargers.
    pub chargers: Vec<ChargerLine>,
}

/// The totals, `summary.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Unix time of the run's start, ms.
    pub t0: i64,
    /// Seconds from the start to the close.
    pub seconds: u64,
    /// True when every event and every sample was acknowledged or declared lost before the end.
    pub drained: bool,
    /// Chargers configured.
    pub chargers: u64,
    /// Most chargers with an open session at one instant.
    pub chargers_online: u64,
    /// Sessions that began.
    pub sessions_started: u64,
    /// Sessions that ended because the car was through or its driver left.
    pub sessions_completed: u64,
    /// Of them, those whose driver left early.
    pub sessions_left_early: u64,
    /// Sessions ended by the end of the money.
    pub sessions_cut_for_funds: u64,
    /// Sessions ended by a fault.
    pub sessions_faulted: u64,
    /// Sessions that the close ended.
    pub sessions_closed_at_end: u64,
    /// Sessions by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// Starts that were denied.
    pub starts_denied: u64,
    /// Drivers who drove on without charging.
    pub drivers_gave_up: u64,
    /// Starts asked for again for want of an answer.
    pub starts_unanswered: u64,
    /// Sum of the energy of all sessions that ended.
    pub energy_wh_metered: i64,
    /// Sum of what all registers moved: at least the above.
    pub energy_wh_registers: i64,
    /// Samples that got a number, over all gateways.
    pub samples_sent: u64,
    /// Of them acknowledged.
    pub samples_acked: u64,
    /// Of them declared lost.
    pub samples_gap: u64,
    /// Events that got a number.
    pub events_sent: u64,
    /// Of them acknowledged.
    pub events_acked: u64,
    /// Of them refused.
    pub events_refused: u64,
    /// Commands executed.
    pub commands_executed: u64,
    /// Commands refused by the hardware.
    pub commands_refused: u64,
    /// Commands executed more than once: CMD-1 is broken if there is one.
    pub commands_twice: u64,
    /// Limit of the grid connection at the end.
    pub grid_limit_w: i64,
    /// Load as measured.
    #[serde(flatten)]
    pub load: LoadTotals,
    /// Gateways configured.
    pub gateways: u64,
    /// Gateways that stopped because their ring failed.
    pub gateways_failed: u64,
    /// Times a gateway lost its connection and came back.
    pub reconnects: u64,
    /// Leases that ended by time, over all gateways.
    pub leases_expired: u64,
    /// Denied starts by code, over all gateways.
    pub denials: BTreeMap<String, u64>,
}

/// Quantiles of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Values recorded.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// Latencies of acknowledgements, ms.
#[derive(Debug)]
pub struct Latencies {
    telemetry: Histogram<u64>,
    events: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        // Three digits; the sizes grow by themselves, so no value is refused.
        let histogram = || Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are allowed"));
        Self { telemetry: histogram(), events: histogram() }
    }
}

impl Latencies {
    /// One acknowledged batch.
    pub fn record(&mut self, events: bool, ms: u64) {
        let histogram = if events { &mut self.events } else { &mut self.telemetry };
        // `saturating_record` would clamp to the present size instead of growing.
        if histogram.record(ms).is_err() {
            tracing::error!(ms, "a latency that cannot be counted");
        }
    }

    /// Batches of samples, then batches of events.
    pub fn quantiles(&self) -> (Quantiles, Quantiles) {
        let of = |histogram: &Histogram<u64>| Quantiles {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        };
        (of(&self.telemetry), of(&self.events))
    }
}

/// The files that grow during the run.
#[derive(Debug)]
pub struct Evidence {
    directory: PathBuf,
    sessions: BufWriter<File>,
    commands: BufWriter<File>,
    load: BufWriter<File>,
    executed: BTreeMap<CommandId, u64>,
    outcomes: BTreeMap<Outcome, u64>,
    refused: u64,
    energy_wh: i64,
    /// Latencies so far.
    pub latencies: Latencies,
}

impl Evidence {
    /// Creates the directory and the files; earlier ones of the same name are replaced.
    pub fn create(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let file = |name: &str| File::create(directory.join(name)).map(BufWriter::new);
        Ok(Self {
            sessions: file("sessions.jsonl")?,
            commands: file("commands.jsonl")?,
            load: file("load.jsonl")?,
            directory: directory.to_owned(),
            executed: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            refused: 0,
            energy_wh: 0,
            latencies: Latencies::default(),
        })
    }

    /// Another file of the directory.
    pub fn file(&self, name: &str) -> io::Result<BufWriter<File>> {
        File::create(self.directory.join(name)).map(BufWriter::new)
    }

    /// A session ended.
    pub fn session(&mut self, charger: &ChargerId, finished: Finished) -> io::Result<()> {
        let energy_wh = finished.meter_stop - finished.meter_start;
        let outcome = outcome(finished.reason);
        self.energy_wh += energy_wh;
        *self.outcomes.entry(outcome).or_default() += 1;
        let line = SessionLine {
            session: finished.session,
            charger: charger.clone(),
            account: finished.account,
            driver: finished.driver,
            meter_start_wh: finished.meter_start,
            meter_stop_wh: finished.meter_stop,
            energy_wh,
            started_ms: finished.started_ms,
            stopped_ms: finished.stopped_ms,
            reason: finished.reason,
            outcome,
        };
        write_line(&mut self.sessions, &line)
    }

    /// A command was given to the hardware.
    pub fn command(&mut self, line: &CommandLine) -> io::Result<()> {
        if line.end == "done" {
            *self.executed.entry(line.command.clone()).or_default() += 1;
        } else {
            self.refused += 1;
        }
        write_line(&mut self.commands, line)
    }

    /// The limits that loads are compared with.
    pub fn limits(&mut self, limits: &BTreeMap<&str, i64>) -> io::Result<()> {
        write_line(&mut self.load, &serde_json::json!({ "limits": limits }))
    }

    /// A second passed.
    pub fn second(&mut self, row: &LoadRow) -> io::Result<()> {
        write_line(&mut self.load, row)?;
        // Whoever looks while the run goes on sees whole seconds.
        self.load.flush()?;
        self.sessions.flush()?;
        self.commands.flush()
    }

    /// Sessions by outcome so far.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }

    /// Energy of the sessions that ended, Wh.
    pub fn energy_wh(&self) -> i64 {
        self.energy_wh
    }

    /// What these files say, as part of the summary.
    pub fn summarise(&self, summary: &mut Summary) {
        summary.outcomes = self.outcomes.clone();
        summary.sessions_left_early = self.count(Outcome::LeftEarly);
        summary.sessions_completed = self.count(Outcome::Completed) + summary.sessions_left_early;
        summary.sessions_cut_for_funds = self.count(Outcome::Funds);
        summary.sessions_faulted = self.count(Outcome::Fault);
        summary.sessions_closed_at_end = self.count(Outcome::ClosedAtEnd);
        summary.energy_wh_metered = self.energy_wh;
        summary.commands_executed = self.executed.len() as u64;
        summary.commands_twice = self.executed.values().filter(|times| **times > 1).count() as u64;
        summary.commands_refused = self.refused;
    }

    /// Writes what is only known at the end.
    pub fn finish(&mut self, gateways: &[GatewayLine], summary: &Summary) -> io::Result<()> {
        for file in [&mut self.sessions, &mut self.commands, &mut self.load] {
            file.flush()?;
        }
        let mut out = self.file("gateways.jsonl")?;
        for gateway in gateways {
            write_line(&mut out, gateway)?;
        }
        out.flush()?;
        let (ack_ms, event_ack_ms) = self.latencies.quantiles();
        let mut out = self.file("latency.json")?;
        write_line(&mut out, &serde_json::json!({ "ack_ms": ack_ms, "event_ack_ms": event_ack_ms }))?;
        out.flush()?;
        let mut out = self.file("summary.json")?;
        write_line(&mut out, summary)?;
        out.flush()
    }
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}
