//! Admission: bounded lanes in front of ractor's unbounded mailboxes (LOAD-1).
//!
//! A message takes a permit in its lane, or is refused: nobody waits for one. The permit travels inside the
//! message and comes back when the message has been handled. Each lane has a budget of messages and of bytes,
//! so that telemetry can never crowd out a stop or a debit, and a shard takes the most urgent lane first.

use crate::metric;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The lanes, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Stops and limits, and what gateways say of ends and faults.
    Safety,
    /// Debits, holds, settlements, top-ups.
    Money,
    /// Starts and other commands, gateways' other events.
    Commands,
    /// Beats, digests, reads.
    Status,
    /// Telemetry batches.
    Telemetry,
}

impl Lane {
    /// All lanes, most urgent first.
    pub const ALL: [Self; 5] = [Self::Safety, Self::Money, Self::Commands, Self::Status, Self::Telemetry];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safety => "safety",
            Self::Money => "money",
            Self::Commands => "commands",
            Self::Status => "status",
            Self::Telemetry => "telemetry",
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Safety => 0,
            Self::Money => 1,
            Self::Commands => 2,
            Self::Status => 3,
            Self::Telemetry => 4,
        }
    }
}

/// What may be under way in a lane at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Messages.
    pub messages: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

/// Budgets of all lanes, in the order of [`Lane::ALL`].
pub type Budgets = [Budget; 5];

/// Budgets of a node's router. A charger's events and debits come in waves of thousands when a station's
/// gateways reconnect; telemetry is bounded by its bytes.
pub const ROUTER_BUDGETS: Budgets = [
    Budget { messages: 20_000, bytes: 16 << 20 },
    Budget { messages: 20_000, bytes: 16 << 20 },
    Budget { messages: 20_000, bytes: 32 << 20 },
    Budget { messages: 40_000, bytes: 32 << 20 },
    Budget { messages: 4_000, bytes: 64 << 20 },
];

/// Budgets of one shard: a hot shard must not use up the node's.
pub const SHARD_BUDGETS: Budgets = [
    Budget { messages: 8_000, bytes: 8 << 20 },
    Budget { messages: 8_000, bytes: 8 << 20 },
    Budget { messages: 8_000, bytes: 16 << 20 },
    Budget { messages: 16_000, bytes: 16 << 20 },
    Budget { messages: 2_000, bytes: 48 << 20 },
];

#[derive(Debug, Default)]
struct Usage {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    peak: AtomicUsize,
}

/// The lanes of one place: the router, or a shard.
#[derive(Debug)]
pub struct Lanes {
    budgets: Budgets,
    usage: [Usage; 5],
}

impl Lanes {
    /// Lanes with these budgets.
    pub fn new(budgets: Budgets) -> Arc<Self> {
        Arc::new(Self { budgets, usage: Default::default() })
    }

    /// Takes a place for one message of `bytes`, or refuses at once.
    pub fn take(self: &Arc<Self>, lane: Lane, bytes: usize) -> Option<LanePermit> {
        let (budget, usage) = (&self.budgets[lane.index()], &self.usage[lane.index()]);
        let messages = usage.messages.fetch_add(1, Ordering::AcqRel) + 1;
        let held = usage.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        // The permit exists from here on, so that a refusal gives the place back like any other drop.
        let permit = LanePermit { lanes: Arc::clone(self), lane, bytes };
        // One message may always pass an empty lane, however large: it was bounded where it came in.
        if messages > budget.messages || (held > budget.bytes && messages > 1) {
            return None;
        }
        usage.peak.fetch_max(messages, Ordering::AcqRel);
        Some(permit)
    }

    /// Messages under way in a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        self.usage[lane.index()].messages.load(Ordering::Acquire)
    }

    /// Shows depth, peak and limit of every lane in the metrics. Called once a second.
    pub fn export(&self) {
        for lane in Lane::ALL {
            let (budget, usage) = (&self.budgets[lane.index()], &self.usage[lane.index()]);
            let label = lane.as_str();
            metrics::gauge!(metric::LANE_LIMIT_MESSAGES, "lane" => label).set(as_f64(budget.messages));
            metrics::gauge!(metric::LANE_DEPTH_MESSAGES, "lane" => label).set(as_f64(self.depth(lane)));
            let peak = usage.peak.load(Ordering::Acquire);
            metrics::gauge!(metric::LANE_PEAK_MESSAGES, "lane" => label).set(as_f64(peak));
            metrics::counter!(metric::SHED_TOTAL, "lane" => label).increment(0);
        }
    }
}

/// A count as a metric's value; counts here are far below 2^52.
pub(crate) fn as_f64(count: usize) -> f64 {
    count as f64
}

/// A place in a lane; given back on drop.
#[derive(Debug)]
pub struct LanePermit {
    lanes: Arc<Lanes>,
    lane: Lane,
    bytes: usize,
}

impl Drop for LanePermit {
    fn drop(&mut self) {
        let usage = &self.lanes.usage[self.lane.index()];
        usage.messages.fetch_sub(1, Ordering::AcqRel);
        usage.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The places of one message in the router's lane and in the shard's.
#[derive(Default)]
pub struct Permit(#[allow(dead_code, reason = "held for its drop")] Option<(LanePermit, LanePermit)>);

/// Nothing worth reading in the summary of a message.
impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Permit")
    }
}

impl Permit {
    /// For messages that the node sends to itself under a bound of its own.
    pub fn internal() -> Self {
        Self(None)
    }

    /// Takes both places or none. The shard's is asked first and given back when the router is full.
    pub fn take(router: &Arc<Lanes>, shard: &Arc<Lanes>, lane: Lane, bytes: usize) -> Option<Self> {
        let taken = shard.take(lane, bytes).and_then(|inner| Some((router.take(lane, bytes)?, inner)));
        if taken.is_none() {
            metrics::counter!(metric::SHED_TOTAL, "lane" => lane.as_str()).increment(1);
        }
        taken.map(|both| Self(Some(both)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arc<Lanes> {
        Lanes::new([Budget { messages: 2, bytes: 100 }; 5])
    }

    #[test]
    fn a_full_lane_refuses_and_a_dropped_permit_frees_it() {
        let lanes = small();
        let first = lanes.take(Lane::Money, 10).expect("room");
        let _second = lanes.take(Lane::Money, 10).expect("room");
        assert!(lanes.take(Lane::Money, 10).is_none());
        assert!(lanes.take(Lane::Safety, 10).is_some(), "another lane is not disturbed");
        drop(first);
        assert!(lanes.take(Lane::Money, 10).is_some());
        assert_eq!(lanes.depth(Lane::Money), 1);
    }

    #[test]
    fn bytes_are_bounded_too_but_one_message_always_passes() {
        let lanes = small();
        let large = lanes.take(Lane::Telemetry, 1_000).expect("an empty lane takes any one message");
        assert!(lanes.take(Lane::Telemetry, 1).is_none());
        drop(large);
        assert!(lanes.take(Lane::Telemetry, 1).is_some());
    }

    #[test]
    fn a_full_router_gives_the_shards_place_back() {
        let (router, shard) = (small(), small());
        let _a = router.take(Lane::Status, 1).expect("room");
        let _b = router.take(Lane::Status, 1).expect("room");
        assert!(Permit::take(&router, &shard, Lane::Status, 1).is_none());
        assert_eq!(shard.depth(Lane::Status), 0);
    }
}
