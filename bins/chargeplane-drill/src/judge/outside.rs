//! What the fleet saw, as the judges need it; how it is read from the fleet's files is in `crate::fleet`.

use super::telemetry::Span;
use std::collections::BTreeMap;

/// A session that ended at a charger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetSession {
    /// The session.
    pub session: String,
    /// Who pays, where the charger knows.
    pub account: Option<String>,
    /// The charger.
    pub charger: String,
    /// Register at the start, Wh.
    pub meter_start: i64,
    /// Register at the end, Wh.
    pub meter_stop: i64,
    /// Why it ended.
    pub reason: String,
}

/// What a gateway numbered for one charger: 0 to `count - 1`, of one enrolment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChargerSamples {
    /// The charger.
    pub charger: String,
    /// Its gateway.
    pub gateway: String,
    /// The enrolment of its gateway.
    pub incarnation: u32,
    /// How many numbers were given.
    pub count: u64,
    /// Acknowledged numbers; the rest was not acknowledged when the fleet ended.
    pub acked: Vec<Span>,
    /// The energy register at the end, Wh.
    pub register_wh: i64,
    /// Hash of the samples as they were made, first to last number of each range of 256: [`super::telemetry::digest`].
    pub digests: Vec<(u64, u64, Option<u64>)>,
}

impl ChargerSamples {
    /// True when the node acknowledged this number.
    pub fn acknowledged(&self, number: u64) -> bool {
        self.acked.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }
}

/// A command that reached a gateway's hardware.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    /// The command.
    pub command: String,
    /// 1 when it took effect, 0 when it was refused.
    pub effects: u64,
}

/// One second at the station.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadSecond {
    /// Second of the run.
    pub second: u64,
    /// Readings of all nodes in it.
    pub steps: u64,
    /// Readings above a limit, as the fleet counted them at every step.
    pub violations: u64,
    /// Highest load of every node, W.
    pub nodes: BTreeMap<String, i64>,
    /// Readings in which what could be drawn was above a limit.
    pub over_granted: u64,
    /// Most that could be drawn at every node, W: grants in force, and fallbacks where they had ended.
    pub granted: BTreeMap<String, i64>,
}

/// A cut and what the cut-off chargers may draw once their leases ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CutOff {
    /// First whole second in which every lease has ended.
    pub from: u64,
    /// Second the cut ended.
    pub until: u64,
    /// Nodes that feed only chargers of the cut gateways: (node, sum of their fallbacks, W).
    pub nodes: Vec<(String, i64)>,
}

/// Everything the fleet saw.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Sessions that ended.
    pub sessions: Vec<FleetSession>,
    /// Samples by charger.
    pub samples: Vec<ChargerSamples>,
    /// Commands.
    pub commands: Vec<Executed>,
    /// Load, second by second.
    pub load: Vec<LoadSecond>,
    /// Limits of the nodes, W.
    pub limits: BTreeMap<String, i64>,
    /// Cuts that outlasted a lease.
    pub cuts: Vec<CutOff>,
}
