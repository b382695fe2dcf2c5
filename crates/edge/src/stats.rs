//! The gateway's account of what it made, sent and was promised: what an outside judge compares with the stores.

use chargeplane_protocol::message::Stream;
use std::collections::BTreeMap;

/// Counters since the boot, plus what was found in the ring at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// Samples that got a number.
    pub samples_created: u64,
    /// Samples refused at the door: unknown charger.
    pub samples_rejected: u64,
    /// Samples that were created (in this boot or an earlier one) and then declared lost, by reason.
    pub gap_samples: BTreeMap<&'static str, u64>,
    /// Numbers left out and declared at the start of a boot, because the boot before may have used them.
    pub numbers_skipped: u64,
    /// Events that got a number.
    pub events_created: u64,
    /// Events in batches that the node refused.
    pub events_refused: u64,
    /// Per stream, indexed by its number.
    pub streams: [StreamStats; Stream::ALL.len()],
    /// Beats sent.
    pub beats: u64,
    /// Grants messages taken.
    pub grants_applied: u64,
    /// Grants messages dropped: lower epoch, old, unknown beat without a decrease.
    pub grants_dropped: u64,
    /// Leases that ended by time.
    pub leases_expired: u64,
    /// Acknowledgements from a lower epoch, ignored.
    pub lower_epoch_acks: u64,
    /// Messages that could not be used, by code.
    pub bad_messages: BTreeMap<&'static str, u64>,
    /// Commands executed.
    pub commands_executed: u64,
    /// Commands that came again and were only answered again.
    pub commands_repeated: u64,
    /// Commands refused by the core: expired, unknown charger, memory full.
    pub commands_refused: u64,
    /// Commands left alone: their deadline counts from a beat that is not remembered, so they may be from any time.
    pub commands_undated: u64,
    /// Times the gateway began to decide by itself.
    pub local_entries: u64,
    /// Connections.
    pub connections: u64,
    /// Sessions stopped by the core because the allowance was used up.
    pub allowance_stops: u64,
}

/// Counters of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Batches sealed.
    pub batches: u64,
    /// Items sealed (samples without gaps, or events).
    pub items: u64,
    /// Batches published, repetitions included.
    pub published: u64,
    /// Items acknowledged as durable.
    pub acked_items: u64,
    /// Batches acknowledged.
    pub acked_batches: u64,
    /// Batches refused by the node.
    pub refused_batches: u64,
    /// Batches dropped because the ring was full.
    pub dropped_batches: u64,
    /// Batches replaced by a part of their samples, because the ring filled up.
    pub thinned_batches: u64,
    /// Batches in the ring.
    pub held_batches: u64,
    /// Items in the ring.
    pub held_items: u64,
}

impl GatewayStats {
    /// The counters of a stream.
    pub fn stream(&self, stream: Stream) -> &StreamStats {
        &self.streams[stream as usize]
    }

    pub(crate) fn stream_mut(&mut self, stream: Stream) -> &mut StreamStats {
        &mut self.streams[stream as usize]
    }

    /// Samples acknowledged as durable, over all streams.
    pub fn samples_acked(&self) -> u64 {
        self.streams[1..=3].iter().map(|stream| stream.acked_items).sum()
    }

    /// Events acknowledged as durable.
    pub fn events_acked(&self) -> u64 {
        self.stream(Stream::Events).acked_items
    }

    /// Samples declared lost, over all reasons.
    pub fn samples_gap(&self) -> u64 {
        self.gap_samples.values().sum()
    }

    /// Batches in the ring that are not acknowledged, over all streams.
    pub fn held_batches(&self) -> u64 {
        self.streams.iter().map(|stream| stream.held_batches).sum()
    }
}
