//! Admission: bounded lanes in front of ractor's unbounded mailboxes (LOAD-1).
//!
//! A message takes a permit in its lane, or is refused: nobody waits for one. The permit travels inside the
//! message and comes back when the message has been handled. Each lane has a budget of messages and of bytes,
//! so that telemetry can never crowd out a stop or a debit, and a shard takes the most urgent lane first.

use crate::metric;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// What is under way in a lane. Callers on all cores count here, so the lanes do not share a cache line, and
/// messages and bytes are one number that is changed at once.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Usage {
    held: AtomicU64,
    peak: AtomicUsize,
}

/// Bits of [`Usage::held`] that count bytes; messages are above them. Both stay far below what fits: a message is
/// refused when it would go past its lane's budget.
const BYTE_BITS: u32 = 40;

fn held(messages: u64, bytes: usize) -> u64 {
    let most = (1 << BYTE_BITS) - 1;
    (messages << BYTE_BITS) | (bytes as u64).min(most)
}

impl Usage {
    fn messages(&self) -> usize {
        usize::try_from(self.held.load(Ordering::Acquire) >> BYTE_BITS).unwrap_or(usize::MAX)
    }

    /// Counts a message in unless it does not fit.
    fn take(&self, budget: &Budget, bytes: usize) -> bool {
        let more = held(1, bytes);
        let now = self.held.fetch_add(more, Ordering::AcqRel).wrapping_add(more);
        let (messages, sum) = (now >> BYTE_BITS, now & ((1 << BYTE_BITS) - 1));
        // One message may always pass an empty lane, however large: it was bounded where it came in.
        if messages > budget.messages as u64 || (sum > budget.bytes as u64 && messages > 1) {
            self.give_back(bytes);
            return false;
        }
        let messages = usize::try_from(messages).unwrap_or(usize::MAX);
        // Mostly it is no new peak, and then nothing is written.
        if messages > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(messages, Ordering::AcqRel);
        }
        true
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(held(1, bytes), Ordering::AcqRel);
    }
}

/// The lanes of one place: the router, or a shard.
#[derive(Debug)]
pub struct Lanes {
    budgets: Budgets,
    usage: [Usage; 5],
}

impl Lanes {
    /// Lanes with these budgets.
    pub fn new(budgets: Budgets) -> Self {
        Self { budgets, usage: Default::default() }
    }

    fn take(&self, lane: Lane, bytes: usize) -> bool {
        self.usage[lane.index()].take(&self.budgets[lane.index()], bytes)
    }

    fn give_back(&self, lane: Lane, bytes: usize) {
        self.usage[lane.index()].give_back(bytes);
    }

    /// Messages under way in a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        self.usage[lane.index()].messages()
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

/// The lanes of a shard, behind those of its router.
#[derive(Debug)]
pub struct ShardLanes {
    router: Arc<Lanes>,
    shard: Lanes,
}

impl ShardLanes {
    /// Lanes of a shard with these budgets.
    pub fn new(router: &Arc<Lanes>, budgets: Budgets) -> Arc<Self> {
        Arc::new(Self { router: Arc::clone(router), shard: Lanes::new(budgets) })
    }

    /// Takes a place for one message of `bytes` in both, or in none at once. The shard's is asked first and given
    /// back when the router is full.
    pub fn take(self: &Arc<Self>, lane: Lane, bytes: usize) -> Option<Permit> {
        if self.shard.take(lane, bytes) {
            if self.router.take(lane, bytes) {
                return Some(Permit(Some(Place { lanes: Arc::clone(self), lane, bytes })));
            }
            self.shard.give_back(lane, bytes);
        }
        metrics::counter!(metric::SHED_TOTAL, "lane" => lane.as_str()).increment(1);
        None
    }

    /// Messages under way to this shard in a lane.
    pub fn depth(&self, lane: Lane) -> usize {
        self.shard.depth(lane)
    }
}

/// A message's place in both lanes; given back on drop.
#[derive(Default)]
pub struct Permit(#[allow(dead_code, reason = "held for its drop")] Option<Place>);

struct Place {
    lanes: Arc<ShardLanes>,
    lane: Lane,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lanes.router.give_back(self.lane, self.bytes);
        self.lanes.shard.give_back(self.lane, self.bytes);
    }
}

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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> (Arc<Lanes>, Arc<ShardLanes>) {
        let router = Arc::new(Lanes::new(ROUTER_BUDGETS));
        let shard = ShardLanes::new(&router, [Budget { messages: 2, bytes: 100 }; 5]);
        (router, shard)
    }

    #[test]
    fn a_full_lane_refuses_and_a_dropped_permit_frees_it() {
        let (router, shard) = small();
        let first = shard.take(Lane::Money, 10).expect("room");
        let _second = shard.take(Lane::Money, 10).expect("room");
        assert!(shard.take(Lane::Money, 10).is_none());
        assert!(shard.take(Lane::Safety, 10).is_some(), "another lane is not disturbed");
        assert_eq!(router.depth(Lane::Money), 2);
        drop(first);
        assert!(shard.take(Lane::Money, 10).is_some());
        assert_eq!((shard.depth(Lane::Money), router.depth(Lane::Money)), (1, 1));
    }

    #[test]
    fn bytes_are_bounded_too_but_one_message_always_passes() {
        let (_, shard) = small();
        let large = shard.take(Lane::Telemetry, 1_000).expect("an empty lane takes any one message");
        assert!(shard.take(Lane::Telemetry, 1).is_none());
        drop(large);
        assert!(shard.take(Lane::Telemetry, 1).is_some());
    }

    #[test]
    fn a_full_router_gives_the_shards_place_back() {
        let router = Arc::new(Lanes::new([Budget { messages: 2, bytes: 100 }; 5]));
        let shards: Vec<_> = (0..3).map(|_| ShardLanes::new(&router, SHARD_BUDGETS)).collect();
        let _held: Vec<_> = shards.iter().take(2).map(|shard| shard.take(Lane::Status, 1).expect("room")).collect();
        assert!(shards[2].take(Lane::Status, 1).is_none());
        assert_eq!((shards[2].depth(Lane::Status), router.depth(Lane::Status)), (0, 2));
    }
}
