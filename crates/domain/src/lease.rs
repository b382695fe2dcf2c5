//! Node leases as two pure machines: the node that holds one, and the nodes that watch it.
//!
//! A lease is advice (DESIGN: the journal's fence keeps the books safe whatever a node believes). It decides
//! when a node may serve and when others may take over. Both sides count on their own monotonic clock only,
//! and the order of the constants makes the holder stop first: it counts from *sending* its last successful
//! beat ([`SERVE_MS`]), the observer from *seeing* it ([`EXPIRES_MS`]), which is never earlier.
//! A restart reloads nothing: a new process joins with a new incarnation.

use crate::ids::NodeId;
use crate::units::Mono;
use std::collections::BTreeMap;

/// A holder sends a beat this often.
pub const BEAT_MS: u64 = 1_000;

/// A holder serves this long after it *sent* its last successful beat.
pub const SERVE_MS: u64 = 4_000;

/// An observer takes a lease for expired this long after it saw its last new beat.
pub const EXPIRES_MS: u64 = 5_000;

/// What the shell of a [`LeaseHolder`] has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEffect {
    /// Write this beat, conditional on the incarnation not being declared dead; then report what became of it.
    SendBeat {
        /// Counts up from 1 within the incarnation.
        beat: u64,
    },
}

/// What became of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatResult {
    /// It is written.
    Written,
    /// The incarnation was declared dead or replaced: this process may never serve again.
    Refused,
    /// It failed, or nobody knows: try again at the next second.
    Failed,
}

/// The node that holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    next_beat_at: Mono,
    beat: u64,
    /// When the beat in flight was sent. One at a time: a second one behind a slow store learns nothing.
    in_flight: Option<Mono>,
    /// When the last beat that is known to be written was *sent*.
    confirmed_sent: Option<Mono>,
    ended: bool,
}

impl LeaseHolder {
    /// A holder that joined; `joined_sent` is when it *sent* the join that succeeded, which counts as a beat.
    pub fn new(joined_sent: Mono) -> Self {
        Self {
            next_beat_at: joined_sent.plus_ms(BEAT_MS),
            beat: 0,
            in_flight: None,
            confirmed_sent: Some(joined_sent),
            ended: false,
        }
    }

    /// Time passed: sends a beat when one is due.
    pub fn on_tick(&mut self, now: Mono, effects: &mut Vec<LeaseEffect>) {
        if self.ended || self.in_flight.is_some() || now < self.next_beat_at {
            return;
        }
        self.beat = self.beat.saturating_add(1);
        self.in_flight = Some(now);
        self.next_beat_at = now.plus_ms(BEAT_MS);
        effects.push(LeaseEffect::SendBeat { beat: self.beat });
    }

    /// The beat in flight came back.
    pub fn on_beat_result(&mut self, result: BeatResult) {
        let Some(sent) = self.in_flight.take() else {
            return;
        };
        match result {
            BeatResult::Written => self.confirmed_sent = self.confirmed_sent.max(Some(sent)),
            BeatResult::Refused => self.ended = true,
            BeatResult::Failed => {}
        }
    }

    /// The node gives its lease up: it may not serve from now on.
    pub fn on_release(&mut self) {
        self.ended = true;
    }

    /// Until when this node may serve; none when it may not, ever again.
    pub fn serve_until(&self) -> Option<Mono> {
        if self.ended {
            return None;
        }
        self.confirmed_sent.map(|sent| sent.plus_ms(SERVE_MS))
    }

    /// Whether this node may serve now.
    pub fn may_serve(&self, now: Mono) -> bool {
        self.serve_until().is_some_and(|until| now < until)
    }

    /// When [`on_tick`](Self::on_tick) has something to do next; none while a beat is in flight or at the end.
    pub fn next_tick(&self) -> Option<Mono> {
        (!self.ended && self.in_flight.is_none()).then_some(self.next_beat_at)
    }

    /// True when the incarnation was refused or released.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    incarnation: u64,
    beat: u64,
    changed_at: Mono,
}

/// What one node knows of the leases of all nodes: it reads their records and times their beats itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseObserver {
    seen: BTreeMap<NodeId, Seen>,
}

impl LeaseObserver {
    /// Knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// A record was read. The first sight of a node counts as a beat: nothing is known of its age.
    pub fn on_record(&mut self, now: Mono, node: &NodeId, incarnation: u64, beat: u64) {
        match self.seen.get_mut(node) {
            Some(seen) if (seen.incarnation, seen.beat) < (incarnation, beat) => {
                *seen = Seen { incarnation, beat, changed_at: now };
            }
            Some(_) => {}
            None => {
                self.seen.insert(node.clone(), Seen { incarnation, beat, changed_at: now });
            }
        }
    }

    /// A node released its lease, was declared dead, or its record is gone.
    pub fn on_gone(&mut self, node: &NodeId) {
        self.seen.remove(node);
    }

    /// Whether a node's lease is in force, as far as this node can tell.
    pub fn is_live(&self, now: Mono, node: &NodeId) -> bool {
        self.seen.get(node).is_some_and(|seen| now.since(seen.changed_at) < EXPIRES_MS)
    }

    /// The nodes whose lease is in force, in order.
    pub fn live(&self, now: Mono) -> Vec<NodeId> {
        self.seen.keys().filter(|node| self.is_live(now, node)).cloned().collect()
    }

    /// The nodes whose lease expired, with the incarnation that may be declared dead.
    pub fn expired(&self, now: Mono) -> Vec<(NodeId, u64)> {
        let expired = self.seen.iter().filter(|(node, _)| !self.is_live(now, node));
        expired.map(|(node, seen)| (node.clone(), seen.incarnation)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tick(holder: &mut LeaseHolder, now: u64) -> Vec<LeaseEffect> {
        let mut effects = Vec::new();
        holder.on_tick(Mono(now), &mut effects);
        effects
    }

    #[test]
    fn beats_once_a_second_and_one_at_a_time() {
        let mut holder = LeaseHolder::new(Mono(0));
        assert_eq!(tick(&mut holder, 999), []);
        assert_eq!(tick(&mut holder, 1_000), [LeaseEffect::SendBeat { beat: 1 }]);
        assert_eq!(tick(&mut holder, 2_500), [], "the first has not come back");
        holder.on_beat_result(BeatResult::Failed);
        assert_eq!(tick(&mut holder, 2_500), [LeaseEffect::SendBeat { beat: 2 }]);
    }

    #[test]
    fn serves_four_seconds_from_sending_not_from_the_answer() {
        let mut holder = LeaseHolder::new(Mono(0));
        tick(&mut holder, 1_000);
        // The answer comes 3.9 s later: the lease is counted from 1,000 all the same.
        holder.on_beat_result(BeatResult::Written);
        assert!(holder.may_serve(Mono(4_999)));
        assert!(!holder.may_serve(Mono(5_000)));
    }

    #[test]
    fn a_refused_or_released_holder_never_serves_again() {
        let mut refused = LeaseHolder::new(Mono(0));
        tick(&mut refused, 1_000);
        refused.on_beat_result(BeatResult::Refused);
        assert!(refused.ended() && !refused.may_serve(Mono(1_001)));
        assert_eq!(tick(&mut refused, 9_000), []);
        let mut released = LeaseHolder::new(Mono(0));
        released.on_release();
        assert!(!released.may_serve(Mono(1)));
        assert_eq!(released.next_tick(), None);
    }

    #[test]
    fn an_observer_times_beats_on_its_own_clock() {
        let node = NodeId("n1".into());
        let mut observer = LeaseObserver::new();
        assert!(!observer.is_live(Mono(0), &node));
        observer.on_record(Mono(1_000), &node, 3, 10);
        observer.on_record(Mono(4_000), &node, 3, 10);
        assert!(observer.is_live(Mono(5_999), &node), "first seen at 1,000");
        assert_eq!(observer.expired(Mono(6_000)), [(node.clone(), 3)]);
        observer.on_record(Mono(6_500), &node, 3, 11);
        assert_eq!(observer.live(Mono(6_500)), std::slice::from_ref(&node));
        observer.on_record(Mono(9_000), &node, 2, 99);
        assert!(!observer.is_live(Mono(11_500), &node), "an older incarnation is no sign of life");
        observer.on_record(Mono(12_000), &node, 4, 0);
        assert!(observer.is_live(Mono(12_000), &node));
        observer.on_gone(&node);
        assert!(!observer.is_live(Mono(12_000), &node));
    }

    proptest! {
        /// Whatever the delays, the holder stopped serving before any observer takes its lease for expired.
        #[test]
        fn the_holder_stops_before_the_observer_takes_over(
            // Per beat: how long until it is written, how long from then to the answer, whether it is written,
            // and how long after the write the observer reads it.
            beats in proptest::collection::vec((0u64..4_000, 0u64..2_000, any::<bool>(), 0u64..2_000), 1..20),
            skew in 0u64..1_000_000,
        ) {
            let node = NodeId("n".into());
            let mut holder = LeaseHolder::new(Mono(0));
            let mut observer = LeaseObserver::new();
            observer.on_record(Mono(skew), &node, 1, 0);
            let mut now = 0;
            for (write, answer, written, read) in beats {
                now = holder.next_tick().map_or(now, |at| at.0.max(now));
                let effects = tick(&mut holder, now);
                let Some(LeaseEffect::SendBeat { beat }) = effects.first().copied() else { break };
                let written_at = now + write;
                now = written_at + answer;
                holder.on_beat_result(if written { BeatResult::Written } else { BeatResult::Failed });
                if written {
                    let seen_at = Mono(skew + written_at + read);
                    // An expired observer acts before it reads on: only what it saw in time counts.
                    if observer.is_live(seen_at, &node) {
                        observer.on_record(seen_at, &node, 1, beat);
                    } else {
                        break;
                    }
                }
                let until = holder.serve_until().map_or(0, |until| until.0);
                let expiry = (0..20_000).step_by(50).map(|d| skew + now + d)
                    .find(|at| !observer.is_live(Mono(*at), &node));
                if let Some(expiry) = expiry {
                    // The observer read this beat at or after it was sent: it waits a second longer at least.
                    prop_assert!(until + skew < expiry, "serves until {}, taken over at {}", until, expiry - skew);
                }
            }
        }
    }
}
