//! Presence: who is online, by when it was last heard.
//!
//! Soft state of a station's shard, on the node's monotonic clock. A restart reloads nothing: everybody is
//! offline until heard, which takes a heartbeat. Presence decides nothing about power or money: a silent
//! gateway is counted by its grants and ceilings, not by this table.

use crate::units::Mono;
use std::collections::BTreeMap;

/// An idle gateway beats every 5 s: it is offline after three lost beats and a second for the way.
pub const OFFLINE_AFTER_MS: u64 = 16_000;

/// A change of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PresenceEffect<K> {
    /// Heard for the first time, or again after having been offline.
    CameOnline(K),
    /// Not heard for the time-out.
    WentOffline(K),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    last_heard: Mono,
    online: bool,
}

/// The presence of many: gateways or chargers, by their id (or their number at a gateway).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence<K> {
    rows: BTreeMap<K, Row>,
    offline_after_ms: u64,
    online: usize,
}

impl<K: Ord + Clone> Presence<K> {
    /// Nobody is online; `offline_after_ms` is normally [`OFFLINE_AFTER_MS`].
    pub fn new(offline_after_ms: u64) -> Self {
        Self { rows: BTreeMap::new(), offline_after_ms, online: 0 }
    }

    /// Something authenticated came from `who`.
    pub fn on_heard(&mut self, now: Mono, who: &K, effects: &mut Vec<PresenceEffect<K>>) {
        if let Some(row) = self.rows.get_mut(who) {
            row.last_heard = row.last_heard.max(now);
            if row.online {
                return;
            }
            row.online = true;
        } else {
            self.rows.insert(who.clone(), Row { last_heard: now, online: true });
        }
        self.online = self.online.saturating_add(1);
        effects.push(PresenceEffect::CameOnline(who.clone()));
    }

    /// `who` left the catalogue.
    pub fn on_removed(&mut self, who: &K) {
        if self.rows.remove(who).is_some_and(|row| row.online) {
            self.online = self.online.saturating_sub(1);
        }
    }

    /// Time passed: finds those not heard for the time-out, in the order of their ids.
    pub fn on_tick(&mut self, now: Mono, effects: &mut Vec<PresenceEffect<K>>) {
        for (who, row) in self.rows.iter_mut().filter(|(_, row)| row.online) {
            if now.since(row.last_heard) >= self.offline_after_ms {
                row.online = false;
                self.online = self.online.saturating_sub(1);
                effects.push(PresenceEffect::WentOffline(who.clone()));
            }
        }
    }

    /// Whether `who` is online, as of the last tick.
    pub fn is_online(&self, who: &K) -> bool {
        self.rows.get(who).is_some_and(|row| row.online)
    }

    /// Everybody who was ever heard and is in the catalogue, in the order of their ids.
    pub fn known(&self) -> impl Iterator<Item = &K> {
        self.rows.keys()
    }

    /// When `who` was last heard.
    pub fn last_heard(&self, who: &K) -> Option<Mono> {
        self.rows.get(who).map(|row| row.last_heard)
    }

    /// How many are online.
    pub fn online_count(&self) -> usize {
        self.online
    }
}

#[cfg(test)]
mod tests {
    use super::PresenceEffect::{CameOnline, WentOffline};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comes_and_goes() {
        let mut presence = Presence::new(1_000);
        let mut effects = Vec::new();
        presence.on_heard(Mono(0), &"a", &mut effects);
        presence.on_heard(Mono(500), &"b", &mut effects);
        presence.on_heard(Mono(900), &"a", &mut effects);
        assert_eq!(effects, [CameOnline("a"), CameOnline("b")]);
        effects.clear();
        presence.on_tick(Mono(1_499), &mut effects);
        assert_eq!(effects, []);
        presence.on_tick(Mono(1_500), &mut effects);
        assert_eq!(effects, [WentOffline("b")]);
        assert!(presence.is_online(&"a") && !presence.is_online(&"b"));
        effects.clear();
        presence.on_tick(Mono(1_900), &mut effects);
        presence.on_tick(Mono(1_900), &mut effects);
        presence.on_heard(Mono(1_950), &"b", &mut effects);
        assert_eq!(effects, [WentOffline("a"), CameOnline("b")]);
        presence.on_removed(&"b");
        assert_eq!(presence.online_count(), 0);
        assert_eq!(presence.last_heard(&"a"), Some(Mono(900)));
    }

    proptest! {
        /// Effects alternate per id, and the count is the number of ids whose last effect was "online".
        #[test]
        fn effects_tell_the_whole_story(steps in proptest::collection::vec((0u8..4, 0u8..5, 0u64..3_000), 0..60)) {
            let mut presence = Presence::new(2_000);
            let mut believed = BTreeMap::new();
            let mut now = 0;
            for (step, who, wait) in steps {
                now += wait;
                let mut effects = Vec::new();
                match step {
                    0 | 1 => presence.on_heard(Mono(now), &who, &mut effects),
                    2 => {
                        presence.on_removed(&who);
                        believed.remove(&who);
                    }
                    _ => presence.on_tick(Mono(now), &mut effects),
                }
                for effect in effects {
                    let (who, online) = match effect { CameOnline(who) => (who, true), WentOffline(who) => (who, false) };
                    prop_assert_eq!(believed.insert(who, online).unwrap_or(false), !online);
                }
                prop_assert_eq!(presence.online_count(), believed.values().filter(|online| **online).count());
                for (who, online) in &believed {
                    prop_assert_eq!(presence.is_online(who), *online);
                }
            }
        }
    }
}
