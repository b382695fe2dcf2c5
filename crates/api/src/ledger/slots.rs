//! The requests of one connection that have no answer yet: a bounded table, so that counting them, finding whose an
//! answer is, and finding those that are late costs no map and no timer for each.

use std::time::{Duration, Instant};

/// One place of the table.
struct Slot {
    /// The client's number for the request that has it.
    number: u64,
    since: Instant,
    /// Counts the requests that have had this place, so that a late answer to a former one is told apart.
    generation: u32,
    open: bool,
}

/// The table.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    most: usize,
}

/// A request's key: what the node is given as its number.
fn key(index: u32, generation: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(index)
}

impl Slots {
    /// Room for `most` requests; memory for as many as there have been at once.
    pub(super) fn new(most: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), most }
    }

    /// Requests without an answer.
    pub(super) fn open(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// True while there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.open() < self.most
    }

    /// Takes a place; the caller has seen that there is room. The answer comes under the key.
    pub(super) fn begin(&mut self, number: u64, now: Instant) -> u64 {
        if let Some((index, slot)) = self.free.pop().and_then(|at| Some((at, self.slots.get_mut(at as usize)?))) {
            slot.generation = slot.generation.wrapping_add(1);
            (slot.number, slot.since, slot.open) = (number, now, true);
            return key(index, slot.generation);
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { number, since: now, generation: 0, open: true });
        key(index, 0)
    }

    /// The client's number of the request whose answer has come, and since when it waited; none when it was answered
    /// for lateness before.
    pub(super) fn end(&mut self, key: u64) -> Option<(u64, Instant)> {
        let (index, generation) = (key as u32, (key >> 32) as u32);
        let slot = self.slots.get_mut(index as usize)?;
        if !slot.open || slot.generation != generation {
            return None;
        }
        slot.open = false;
        self.free.push(index);
        Some((slot.number, slot.since))
    }

    /// Gives up what has waited for `limit` or longer: the client's numbers.
    pub(super) fn give_up(&mut self, now: Instant, limit: Duration) -> Vec<u64> {
        let mut given_up = Vec::new();
        for (index, slot) in (0..).zip(&mut self.slots) {
            if slot.open && now.saturating_duration_since(slot.since) >= limit {
                slot.open = false;
                self.free.push(index);
                given_up.push(slot.number);
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_and_a_late_answer_is_nobodys() {
        let (mut slots, now) = (Slots::new(2), Instant::now());
        let (first, second) = (slots.begin(10, now), slots.begin(11, now));
        assert!(!slots.has_room());
        assert_eq!(slots.end(first), Some((10, now)));
        assert_eq!(slots.end(first), None, "an answer counts once");
        let third = slots.begin(12, now);
        assert_eq!(slots.end(first), None, "its place is another's now");
        assert_eq!((slots.end(third), slots.end(second)), (Some((12, now)), Some((11, now))));
        assert_eq!((slots.open(), slots.end(u64::MAX)), (0, None));
    }

    #[test]
    fn what_waits_too_long_is_given_up_and_frees_its_place() {
        let (mut slots, now) = (Slots::new(2), Instant::now());
        let limit = Duration::from_secs(10);
        let old = slots.begin(1, now);
        slots.begin(2, now + Duration::from_secs(5));
        assert!(slots.give_up(now + Duration::from_secs(9), limit).is_empty());
        assert_eq!(slots.give_up(now + limit, limit), [1]);
        assert!(slots.has_room());
        assert_eq!(slots.end(old), None);
    }
}
