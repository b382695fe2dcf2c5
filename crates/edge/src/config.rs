//! What a gateway is told at enrolment, and its timings.

use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::units::Watts;
use chargeplane_protocol::GatewayKey;
use std::collections::BTreeMap;

/// Everything a gateway must know to speak. The key comes from enrolment, the rest from the catalogue.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Who it is.
    pub gateway: GatewayId,
    /// The station shard its topics name.
    pub shard: u16,
    /// Its root key.
    pub key: GatewayKey,
    /// The chargers it speaks for, by their number. Samples and events of others are refused.
    pub children: BTreeMap<u16, ChildConfig>,
    /// When a batch leaves.
    pub policy: BatchPolicy,
    /// Most bytes of sealed telemetry in the ring; beyond it the oldest is dropped and declared.
    pub telemetry_capacity: u64,
    /// What becomes of older telemetry while the ring fills up.
    pub thinning: Thinning,
    /// The other timings.
    pub timings: Timings,
}

impl GatewayConfig {
    /// How many hours of telemetry the ring holds without an answer, when all chargers together make so many samples a
    /// second: as they are, and with the older ones thinned. An estimate from [`SAMPLE_BYTES`] and [`THINNED_BYTES`].
    pub fn hours_held(&self, samples_per_s: u64) -> (f64, f64) {
        let capacity = self.telemetry_capacity as f64;
        let rate = samples_per_s.max(1) as f64 * 3_600.0;
        let whole = capacity / (rate * SAMPLE_BYTES);
        let young = self.thinning.after_ms as f64 / 3_600_000.0;
        let kept = 1.0 / self.thinning.keep_one_in.max(1) as f64;
        let rest = (capacity - young * rate * SAMPLE_BYTES) / (rate * kept * THINNED_BYTES);
        (whole, if rest > 0.0 { (young + rest).max(whole) } else { whole })
    }

    /// A configuration with the usual policy, timings and a ring of 256 MiB.
    pub fn new(gateway: GatewayId, shard: u16, key: GatewayKey, children: BTreeMap<u16, ChildConfig>) -> Self {
        Self {
            gateway,
            shard,
            key,
            children,
            policy: BatchPolicy::default(),
            telemetry_capacity: 256 << 20,
            thinning: Thinning::default(),
            timings: Timings::default(),
        }
    }
}

/// Bytes that a sample takes in the ring, sealed in a full batch of a few chargers.
pub const SAMPLE_BYTES: f64 = 11.0;

/// Bytes that a sample takes which thinning kept, with the gap before it.
pub const THINNED_BYTES: f64 = 32.0;

/// When telemetry in the ring is thinned, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinning {
    /// From this share of the capacity on, in percent.
    pub from_percent: u8,
    /// What is older than so many milliseconds, by the wall clock of its sealing.
    pub after_ms: i64,
    /// One sample in so many of each charger is kept: those whose number it divides. 1 keeps all.
    pub keep_one_in: u64,
}

impl Default for Thinning {
    /// From half of the ring on, what is older than an hour, to a thirtieth: of ten samples a second one every three
    /// seconds.
    fn default() -> Self {
        Self { from_percent: 50, after_ms: 3_600_000, keep_one_in: 30 }
    }
}

/// What a gateway knows of one charger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildConfig {
    /// What it may draw when no grant is in force; the station keeps it reserved at all times.
    pub fallback: Watts,
    /// Most power it can give.
    pub rated: Watts,
}

/// When a batch leaves: at so many items, so long after the first item, or at once when something is urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Items that fill a batch.
    pub max_items: usize,
    /// How long the first item may wait for others, in milliseconds.
    pub max_age_ms: u64,
}

impl Default for BatchPolicy {
    fn default() -> Self {
        Self { max_items: 200, max_age_ms: 500 }
    }
}

/// Waits, in milliseconds of the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Between beats while something charges.
    pub beat_busy_ms: u64,
    /// Between beats otherwise.
    pub beat_idle_ms: u64,
    /// Without an answer to its beats for so long, a gateway decides by itself.
    pub local_after_ms: u64,
    /// Until an unacknowledged batch of events is sent again.
    pub events_retry_ms: u64,
    /// Until an unacknowledged batch of samples is sent again; acknowledgements take up to 31 s.
    pub telemetry_retry_ms: u64,
    /// After a connection, how long old telemetry waits for the node to say where to resume.
    pub resume_wait_ms: u64,
    /// Longest time that telemetry stays unsynced in the ring.
    pub sync_ms: u64,
    /// How long commands are remembered after their end, by the wall clock.
    pub command_memory_ms: i64,
    /// How long a session without any grant waits at 0 W before it takes the fallback.
    pub first_grant_wait_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            beat_busy_ms: 1_000,
            beat_idle_ms: 5_000,
            local_after_ms: 3_000,
            events_retry_ms: 3_000,
            telemetry_retry_ms: 60_000,
            resume_wait_ms: 1_000,
            sync_ms: 1_000,
            command_memory_ms: 24 * 3_600_000,
            first_grant_wait_ms: 30_000,
        }
    }
}
