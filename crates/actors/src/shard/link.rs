//! What an entity actor holds to reach its shard, and what it leaves there should it fail.

use super::{AfterCommit, Covered, EntityMessage as _, Family, ShardMessage};
use crate::entry::EncodedEntries;
use chargeplane_domain::placement::ShardId;
use ractor::{ActorProcessingErr, ActorRef};
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Characters kept of a text that is shown to people.
const MAX_TEXT: usize = 300;

/// What an entity actor holds to reach its shard.
pub struct EntityLink<F: Family> {
    /// The entity.
    pub key: F::Key,
    /// The shard's actor: supervisor and journal.
    pub shard: ActorRef<ShardMessage<F>>,
    /// The shard's epoch.
    pub epoch: u64,
    /// The shard's id.
    pub shard_id: ShardId,
    /// What all entities of this opening share.
    pub common: F::Common,
    /// The key as the journal spells it.
    pub(super) name: String,
    pub(super) in_hand: InHandSlot<F>,
}

impl<F: Family> EntityLink<F> {
    /// Makes events durable; `after` runs when they are, and never otherwise.
    pub fn persist(&self, events: Vec<F::Event>, after: AfterCommit) {
        // Encoded here, so that the entities of a shard share that work and the shard does not do all of it.
        let encoded = EncodedEntries::of(&self.name, &events);
        // The shard is gone only when this actor is about to be: `after` is then dropped unrun.
        let _ = self.shard.cast(ShardMessage::Persist { key: self.key.clone(), events, encoded, after });
    }

    /// Makes an event durable that rests on more than this entity's state, if the shard finds it covered; `told` runs
    /// with its word when the event has its place, before it is durable.
    pub fn persist_if(&self, event: F::Event, told: Covered) {
        let encoded = EncodedEntries::of(&self.name, std::slice::from_ref(&event));
        let _ = self.shard.cast(ShardMessage::PersistIf { key: self.key.clone(), event, encoded, told });
    }

    /// Keeps a message that cannot be applied, for an operator to retry or drop; `after` runs when that is durable.
    pub fn dead_letter(&self, message: F::Message, error: String, after: AfterCommit) {
        let _ = self.shard.cast(ShardMessage::Unusable { key: self.key.clone(), message, error, after });
    }

    /// Remembers the message in hand, for the dead-letter list should handling it fail: `kept` when it can be
    /// handled again, else what it looks like. Never an error in a node; a test can make a message poisonous.
    pub fn begin(&self, message: &impl fmt::Debug, kept: Option<F::Message>) -> Result<(), ActorProcessingErr> {
        let summary = if kept.is_some() { String::new() } else { shortened(message) };
        self.in_hand.set(InHand { summary, kept });
        #[cfg(any(test, feature = "testing"))]
        crate::testing::check_poison(&self.key, message)?;
        Ok(())
    }

    /// For an entity that catches its own failures and so need not remember each message before it works on it:
    /// this is the one that failed.
    pub fn failed_on(&self, message: &F::Message) {
        let kept = message.keep();
        let summary = if kept.is_some() { String::new() } else { shortened(message) };
        self.in_hand.set(InHand { summary, kept });
    }

    /// Never an error in a node; a test can make a message poisonous.
    pub fn check(&self, message: &F::Message) -> Result<(), ActorProcessingErr> {
        #[cfg(any(test, feature = "testing"))]
        if let Err(error) = crate::testing::check_poison(&self.key, message) {
            self.failed_on(message);
            return Err(error);
        }
        #[cfg(not(any(test, feature = "testing")))]
        let _ = message;
        Ok(())
    }
}

/// The message that an entity works on.
pub(super) struct InHand<F: Family> {
    pub(super) summary: String,
    pub(super) kept: Option<F::Message>,
}

impl<F: Family> InHand<F> {
    /// Something that cannot be handled again.
    pub(super) fn only(summary: &str) -> Self {
        Self { summary: summary.to_owned(), kept: None }
    }
}

/// Shared by an entity's actor, which fills it, and the shard, which reads it when the actor has failed.
pub(super) struct InHandSlot<F: Family>(Arc<Mutex<InHand<F>>>);

impl<F: Family> Clone for InHandSlot<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: Family> InHandSlot<F> {
    pub(super) fn new(in_hand: InHand<F>) -> Self {
        Self(Arc::new(Mutex::new(in_hand)))
    }

    pub(super) fn set(&self, in_hand: InHand<F>) {
        drop(self.replace(in_hand));
    }

    pub(super) fn replace(&self, in_hand: InHand<F>) -> InHand<F> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), in_hand)
    }
}

/// The beginning of what something looks like. Formatting ends where the text does, so that a message of
/// thousands of lines costs no more than a short one.
pub(super) fn shortened(what: &impl fmt::Debug) -> String {
    struct Bounded(String, usize);
    impl Write for Bounded {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let Some((end, _)) = text.char_indices().nth(self.1) else {
                self.0.push_str(text);
                self.1 = self.1.saturating_sub(text.chars().count());
                return Ok(());
            };
            self.0.push_str(text.get(..end).unwrap_or_default());
            self.0.push_str("...");
            Err(fmt::Error)
        }
    }
    let mut bounded = Bounded(String::new(), MAX_TEXT);
    // The only error is that the text is long enough.
    let _ = write!(bounded, "{what:?}");
    bounded.0
}

/// The beginning of a text.
pub(super) fn shorten(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_and_not_formatted_to_its_end() {
        struct Endless;
        impl fmt::Debug for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("ä")?;
                }
            }
        }
        assert_eq!(shortened(&Endless), format!("{}...", "ä".repeat(MAX_TEXT)));
        assert_eq!(shortened(&Some(7)), "Some(7)");
        assert_eq!(shorten("ä".repeat(MAX_TEXT + 1)), shortened(&Endless));
    }
}
