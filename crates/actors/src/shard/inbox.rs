//! What waits in front of a shard: one bounded queue a lane, of which the most urgent is taken first (LOAD-1).
//!
//! ractor's mailbox is one queue in the order of arrival, so admitted messages do not go into it: they wait here,
//! and the shard gets one note that there is something. Within a lane the order of arrival is kept. What follows
//! from that for the order between lanes: docs/decisions/0008-lanes-are-queues.md.

use super::Family;
use crate::admission::{Lane, SHARD_BUDGETS};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

type Waiting<F> = (<F as Family>::Key, <F as Family>::Message);

/// The queues of one life of a shard. Whoever drops the last handle drops what is in them, and the messages'
/// reply guards answer.
pub struct Inbox<F: Family>(Mutex<Queues<F>>);

struct Queues<F: Family> {
    lanes: [VecDeque<Waiting<F>>; Lane::ALL.len()],
    /// The shard has a note that it has not worked off.
    noted: bool,
}

impl<F: Family> Default for Inbox<F> {
    fn default() -> Self {
        Self(Mutex::new(Queues { lanes: std::array::from_fn(|_| VecDeque::new()), noted: false }))
    }
}

impl<F: Family> Inbox<F> {
    /// Queues a message, or hands it back when its lane is full. True when the shard must be sent a note.
    pub fn push(&self, lane: Lane, key: F::Key, message: F::Message) -> Result<bool, F::Message> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Most messages carry a permit of their lane and are bounded by it; this bounds those without.
        let (queue, budget) = (&mut queues.lanes[lane.index()], &SHARD_BUDGETS[lane.index()]);
        if queue.len() >= budget.messages {
            return Err(message);
        }
        queue.push_back((key, message));
        Ok(!std::mem::replace(&mut queues.noted, true))
    }

    /// Takes up to so many, the most urgent first. True when there are more: the caller then keeps the note.
    pub(crate) fn take(&self, most: usize) -> (Vec<Waiting<F>>, bool) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queues = &mut *guard;
        let all = queues.lanes.iter_mut().flat_map(|queue| std::iter::from_fn(|| queue.pop_front()));
        let taken = all.take(most).collect();
        queues.noted = queues.lanes.iter().any(|queue| !queue.is_empty());
        (taken, queues.noted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountMessage;
    use crate::admission::Permit;
    use crate::family::{AccountFamily, AccountKey};
    use crate::reply::Reply;

    fn push(inbox: &Inbox<AccountFamily>, lane: Lane, name: &str) -> Option<bool> {
        let message = AccountMessage::View { reply: Reply::ignored(), permit: Permit::internal() };
        inbox.push(lane, AccountKey(name.parse().unwrap()), message).ok()
    }

    fn take(inbox: &Inbox<AccountFamily>, most: usize) -> (Vec<String>, bool) {
        let (taken, more) = inbox.take(most);
        (taken.into_iter().map(|(key, _)| key.0.local().to_owned()).collect(), more)
    }

    #[test]
    fn the_most_urgent_is_taken_first_and_a_lane_keeps_its_order() {
        let inbox = Inbox::default();
        assert!(push(&inbox, Lane::Status, "beat1").unwrap(), "the first message needs a note");
        for (lane, name) in [(Lane::Status, "beat2"), (Lane::Commands, "start1"), (Lane::Commands, "start2")] {
            assert!(!push(&inbox, lane, name).unwrap(), "one note is enough");
        }
        assert_eq!(take(&inbox, 1), (vec!["start1".to_owned()], true));
        push(&inbox, Lane::Safety, "stop").unwrap();
        push(&inbox, Lane::Money, "debit").unwrap();
        let rest = ["stop", "debit", "start2", "beat1", "beat2"].map(str::to_owned).to_vec();
        assert_eq!(take(&inbox, 64), (rest, false));
        assert!(push(&inbox, Lane::Status, "beat3").unwrap(), "the note was worked off");
    }

    #[test]
    fn a_full_lane_hands_the_message_back_and_disturbs_no_other() {
        let inbox = Inbox::default();
        for _ in 0..SHARD_BUDGETS[Lane::Safety.index()].messages {
            push(&inbox, Lane::Safety, "stop").unwrap();
        }
        assert!(push(&inbox, Lane::Safety, "stop").is_none());
        assert!(push(&inbox, Lane::Money, "debit").is_some());
    }
}
