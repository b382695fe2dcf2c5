//! The dead letters of a shard: messages that could not be handled, kept until an operator retries or drops them.
//!
//! A letter is durable before the sender of its message is told, so a letter that is there is never given up for
//! a newer one: a full list refuses, and nothing is acknowledged then. The same message again is the same letter.

use crate::entry::{DeadLetter, ShardEvent};
use crate::metric;
use std::collections::BTreeMap;

/// Dead letters kept by a shard.
pub(super) const MAX_LETTERS: usize = 1_000;

/// Whether a letter can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// An equal one is there, or on its way to the journal.
    Known,
    /// There is room.
    Free,
    /// There is none: whoever waits is refused.
    Full,
}

struct Kept {
    letter: DeadLetter,
    durable: bool,
}

/// The dead letters of a shard.
pub(super) struct Letters {
    all: BTreeMap<u64, Kept>,
    next: u64,
    told_full: bool,
}

impl Default for Letters {
    fn default() -> Self {
        Self { all: BTreeMap::new(), next: 1, told_full: false }
    }
}

impl Letters {
    /// Those of a snapshot.
    pub(super) fn restore(letters: Vec<DeadLetter>, next: u64) -> Self {
        let kept = letters.into_iter().map(|letter| (letter.number, Kept { letter, durable: true }));
        Self { all: kept.collect(), next: next.max(1), told_full: false }
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What operators see: the durable ones.
    pub(super) fn list(&self) -> Vec<DeadLetter> {
        self.all.values().filter(|kept| kept.durable).map(|kept| kept.letter.clone()).collect()
    }

    /// How many there are, on their way to the journal included.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A durable one.
    pub(super) fn get(&self, number: u64) -> Option<&DeadLetter> {
        self.all.get(&number).filter(|kept| kept.durable).map(|kept| &kept.letter)
    }

    /// Whether this one can be kept. A refusal is counted, and said once until there is room again.
    pub(super) fn place(&mut self, letter: &DeadLetter) -> Place {
        if self.all.values().any(|kept| is_same(&kept.letter, letter)) {
            return Place::Known;
        }
        if self.all.len() < MAX_LETTERS {
            return Place::Free;
        }
        metrics::counter!(metric::DEAD_LETTERS_REFUSED_TOTAL).increment(1);
        if !std::mem::replace(&mut self.told_full, true) {
            let entity = &letter.entity;
            tracing::error!(%entity, "the list of dead letters is full: what does not fit is refused, not dropped");
        }
        Place::Full
    }

    /// Takes one in and gives it its number. It is not durable before its event is.
    pub(super) fn add(&mut self, mut letter: DeadLetter) -> DeadLetter {
        letter.number = self.next;
        self.next = self.next.saturating_add(1);
        self.all.insert(letter.number, Kept { letter: letter.clone(), durable: false });
        letter
    }

    /// Its event cannot be written.
    pub(super) fn forget(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// An event of the shard is durable.
    pub(super) fn apply(&mut self, event: &ShardEvent) {
        match event {
            ShardEvent::DeadLettered(letter) => {
                self.next = self.next.max(letter.number.saturating_add(1));
                self.all.insert(letter.number, Kept { letter: letter.clone(), durable: true });
            }
            ShardEvent::DeadLetterTaken { number } => {
                self.all.remove(number);
                self.told_full = false;
            }
        }
    }
}

/// One message however often it comes: by its bytes, or by its looks when it has none.
fn is_same(a: &DeadLetter, b: &DeadLetter) -> bool {
    a.entity == b.entity && a.body == b.body && (a.body.is_some() || a.summary == b.summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::units::Timestamp;

    fn letter(entity: &str, body: Option<u32>, at: i64) -> DeadLetter {
        let body = body.map(|body| body.to_be_bytes().to_vec());
        let (entity, summary, error) = (entity.to_owned(), "stop".to_owned(), "panic".to_owned());
        DeadLetter { number: 0, entity, summary, body, error, at: Timestamp(at) }
    }

    #[test]
    fn the_same_message_again_is_the_same_letter() {
        let mut letters = Letters::default();
        for body in [Some(1), None] {
            assert_eq!(letters.place(&letter("c1", body, 1)), Place::Free);
            letters.add(letter("c1", body, 1));
            assert_eq!(letters.place(&letter("c1", body, 2)), Place::Known);
            assert_eq!(letters.place(&letter("c2", body, 2)), Place::Free);
        }
        assert_eq!(letters.place(&letter("c1", Some(2), 2)), Place::Free);
    }

    #[test]
    fn a_full_list_refuses_and_drops_nothing() {
        let mut letters = Letters::default();
        for body in 0..u32::try_from(MAX_LETTERS).unwrap() {
            assert_eq!(letters.place(&letter("c1", Some(body), 0)), Place::Free);
            let added = letters.add(letter("c1", Some(body), 0));
            letters.apply(&ShardEvent::DeadLettered(added));
        }
        assert_eq!(letters.place(&letter("c1", Some(u32::MAX), 0)), Place::Full);
        assert_eq!(letters.place(&letter("c1", Some(0), 0)), Place::Known, "what is there needs no room");
        assert_eq!((letters.list().len(), letters.list()[0].number), (MAX_LETTERS, 1));
        letters.apply(&ShardEvent::DeadLetterTaken { number: 5 });
        assert_eq!(letters.place(&letter("c1", Some(u32::MAX), 0)), Place::Free);
    }

    #[test]
    fn a_letter_is_shown_when_it_is_durable() {
        let mut letters = Letters::default();
        let added = letters.add(letter("c1", Some(1), 0));
        assert_eq!((letters.list(), letters.get(added.number)), (Vec::new(), None));
        letters.apply(&ShardEvent::DeadLettered(added.clone()));
        assert_eq!(letters.get(added.number), Some(&added));
        assert_eq!(letters.add(letter("c1", Some(2), 0)).number, added.number + 1);
    }
}
