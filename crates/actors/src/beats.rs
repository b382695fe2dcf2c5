//! The last heartbeat of each gateway: what deadlines of commands count from.
//!
//! Filled by the bridge, read where commands leave. Soft: after a start nothing is known, and commands wait for
//! the first beat, which is at most a few seconds away. One entry a gateway of the directory.

use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::units::Mono;
use chargeplane_protocol::limits::{MAX_LEASE_MS, MAX_WITHIN_MS};
use chargeplane_protocol::message::Deadline;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A gateway remembers its beats for so long; an older one dates nothing any more.
const REMEMBERED_MS: u64 = MAX_LEASE_MS as u64;

/// A beat, named for answers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBeat {
    /// The boot that sent it, with its key.
    pub boot: BootId,
    /// Its nonce.
    pub nonce: u64,
    /// The gateway's monotonic clock when it left.
    pub sent: Mono,
    /// Our monotonic clock when it came.
    pub came: Mono,
}

impl LastBeat {
    /// A moment of our clocks as a deadline on the gateway's: `left_ms` from `now`, counted from this beat. The
    /// beat left before it came, so the gateway's deadline is never the later one.
    pub fn deadline(&self, now: Mono, left_ms: i64) -> Deadline {
        let age = i64::try_from(now.since(self.came)).unwrap_or(i64::MAX);
        let within = age.saturating_add(left_ms).clamp(0, i64::from(MAX_WITHIN_MS));
        let within_ms = u32::try_from(within).unwrap_or(MAX_WITHIN_MS);
        Deadline { answers_nonce: self.nonce, boot: self.boot.boot, within_ms }
    }
}

/// The last beats of all gateways.
#[derive(Debug, Default)]
pub struct Beats(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    last: HashMap<GatewayId, LastBeat>,
    /// Gateways whose next beat something waits for.
    awaited: HashSet<GatewayId>,
}

impl Beats {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a beat; one that was overtaken changes nothing. True when somebody waits for it.
    pub fn take(&self, gateway: &GatewayId, beat: LastBeat) -> bool {
        let mut book = self.lock();
        let known = book.last.get(gateway);
        if known.is_some_and(|known| (beat.boot, beat.sent) <= (known.boot, known.sent)) {
            return false;
        }
        book.last.insert(gateway.clone(), beat);
        book.awaited.remove(gateway)
    }

    /// The last beat of the gateway with this key, if the gateway still remembers it. Without one, the next
    /// [`Self::take`] says that it is awaited.
    pub fn last(&self, gateway: &GatewayId, key_epoch: u32, now: Mono) -> Option<LastBeat> {
        let mut book = self.lock();
        let fits = |beat: &LastBeat| beat.boot.key_epoch == key_epoch && now.since(beat.came) <= REMEMBERED_MS;
        let found = book.last.get(gateway).copied().filter(fits);
        if found.is_none() {
            book.awaited.insert(gateway.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(boot: BootId, sent: u64, came: u64) -> LastBeat {
        LastBeat { boot, nonce: sent, sent: Mono(sent), came: Mono(came) }
    }

    #[test]
    fn a_deadline_is_the_same_moment_on_both_sides_or_earlier_at_the_gateway() {
        // The gateway's monotonic clock is 5,000 behind ours, and the beat took 200 ms.
        let beat = beat(BootId::new(1, 1), 1_000, 6_200);
        let deadline = beat.deadline(Mono(10_000), 60_000);
        assert_eq!(deadline, Deadline { answers_nonce: 1_000, boot: 1, within_ms: 63_800 });
        let at_the_gateway = 1_000 + u64::from(deadline.within_ms);
        assert_eq!(at_the_gateway + 5_000, 10_000 + 60_000 - 200);
        assert_eq!(beat.deadline(Mono(10_000), -5_000).within_ms, 0, "past: surely expired");
        assert_eq!(beat.deadline(Mono(10_000), i64::MAX).within_ms, MAX_WITHIN_MS);
    }

    #[test]
    fn the_newest_beat_of_the_present_key_counts_while_it_is_remembered() {
        let (beats, gateway) = (Beats::default(), "g1".parse().expect("an id"));
        assert_eq!(beats.last(&gateway, 1, Mono(0)), None);
        let first = beat(BootId::new(1, 9), 800_000, 10);
        assert!(beats.take(&gateway, first), "it was asked for");
        assert_eq!(beats.last(&gateway, 1, Mono(20)), Some(first));
        assert!(!beats.take(&gateway, beat(BootId::new(1, 9), 800_000, 30)), "the same again");
        assert_eq!(beats.last(&gateway, 1, Mono(40)), Some(first));
        assert_eq!(beats.last(&gateway, 1, Mono(11 + REMEMBERED_MS)), None);
        // Enrolled anew: boots and clock begin again.
        assert_eq!(beats.last(&gateway, 2, Mono(50)), None);
        let anew = beat(BootId::new(2, 1), 5, 60);
        assert!(beats.take(&gateway, anew));
        assert!(!beats.take(&gateway, beat(BootId::new(1, 9), 900_000, 70)));
        assert_eq!(beats.last(&gateway, 2, Mono(80)), Some(anew));
    }
}
