//! The line that the fleet prints every second, for the drill's live view.

use crate::book;
use crate::evidence::{Evidence, Outcome};
use crate::gateway::Gateway;
use crate::load::{LoadRow, LoadTotals};
use crate::world::Counts;
use serde::Serialize;

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for the gateways to connect.
    Connecting,
    /// Drivers come and go.
    Running,
    /// Everybody left; waiting until all is acknowledged.
    Draining,
    /// The report is written; remote starts are served.
    Idle,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Seconds from the start of the run.
    pub t: u64,
    /// Where the run is.
    pub phase: Phase,
    /// Chargers whose gateway is connected.
    pub online: u64,
    /// Gateways connected.
    pub gateways_up: u64,
    /// Gateways that decide by themselves.
    pub gateways_local: u64,
    /// Sessions open.
    pub charging: u64,
    /// Most sessions open at one instant so far.
    pub charging_peak: u64,
    /// Drivers who wait.
    pub waiting: u64,
    /// Sessions that began.
    pub sessions_started: u64,
    /// Sessions that ended normally.
    pub completed: u64,
    /// Sessions ended by the end of the money.
    pub cut_for_funds: u64,
    /// Sessions ended by a fault.
    pub faulted: u64,
    /// Starts denied.
    pub denied: u64,
    /// Highest load at the grid connection in this second, W.
    pub load_w: i64,
    /// Highest uncapped demand in this second, W.
    pub demand_w: i64,
    /// Limit of the grid connection, W.
    pub limit_w: i64,
    /// Energy of the sessions that ended, Wh.
    pub wh: i64,
    /// Energy that all registers moved, Wh.
    pub wh_flowed: i64,
    /// Samples that got a number.
    pub samples_sent: u64,
    /// Samples acknowledged.
    pub samples_acked: u64,
    /// Samples declared lost.
    pub samples_gap: u64,
    /// Events that got a number.
    pub events_sent: u64,
    /// Events acknowledged.
    pub events_acked: u64,
    /// 99th percentile of the acknowledgement of samples, ms.
    pub ack_ms_p99: u64,
    /// 99th percentile of the acknowledgement of events, ms.
    pub event_ack_ms_p99: u64,
    /// Node readings above a limit so far.
    pub violations: u64,
    /// Seconds so far with an uncapped demand of at least 1.5 times the limit.
    pub limit_bound_seconds: u64,
}

/// What the yard knows of this second.
pub struct Seen<'a> {
    /// The second.
    pub t: u64,
    /// Where the run is.
    pub phase: Phase,
    /// Counts.
    pub counts: Counts,
    /// Load so far.
    pub totals: LoadTotals,
    /// Load in this second.
    pub row: &'a LoadRow,
    /// Energy that all registers moved, Wh.
    pub wh_flowed: i64,
}

impl Status {
    /// Puts the line together. `children` has the number of chargers of each gateway.
    pub fn new(seen: &Seen<'_>, evidence: &Evidence, gateways: &[Gateway], children: &[u64]) -> Self {
        let (ack, event_ack) = evidence.latencies.quantiles();
        let up = |i: &usize| gateways[*i].is_up();
        let mut status = Self {
            t: seen.t,
            phase: seen.phase,
            online: (0..gateways.len()).filter(up).map(|i| children.get(i).copied().unwrap_or(0)).sum(),
            gateways_up: (0..gateways.len()).filter(up).count() as u64,
            gateways_local: 0,
            charging: seen.counts.charging,
            charging_peak: seen.totals.charging_peak,
            waiting: seen.counts.waiting,
            sessions_started: seen.counts.tally.started,
            completed: evidence.count(Outcome::Completed) + evidence.count(Outcome::LeftEarly),
            cut_for_funds: evidence.count(Outcome::Funds),
            faulted: evidence.count(Outcome::Fault),
            denied: seen.counts.tally.denied,
            load_w: seen.row.load_w,
            demand_w: seen.row.demand_w,
            limit_w: seen.row.limit_w,
            wh: evidence.energy_wh(),
            wh_flowed: seen.wh_flowed,
            samples_sent: 0,
            samples_acked: 0,
            samples_gap: 0,
            events_sent: 0,
            events_acked: 0,
            ack_ms_p99: ack.p99,
            event_ack_ms_p99: event_ack.p99,
            violations: seen.totals.limit_violations,
            limit_bound_seconds: seen.totals.limit_bound_seconds,
        };
        for gateway in gateways {
            let book = book::open(&gateway.book);
            status.gateways_local += u64::from(book.local);
            status.samples_sent += book.stats.samples_created;
            status.samples_acked += book.stats.samples_acked();
            status.samples_gap += book.stats.samples_gap();
            status.events_sent += book.stats.events_created;
            status.events_acked += book.stats.events_acked();
        }
        status
    }

    /// Prints it. A reader who is gone is not the fleet's problem.
    pub fn print(&self) {
        use std::io::Write;
        if let Ok(line) = serde_json::to_string(self) {
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}
