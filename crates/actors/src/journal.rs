//! The journal actor: group commit for all shards of a node.
//!
//! Supervised by the node. Shards hand it one frame at a time each; whatever queued during the previous commit
//! goes into the next one. It answers each shard with the outcome of its frame and never acknowledges what is
//! not durable: after a failed write the node is told to stop (MONEY-3). While an outcome is unknown it offers
//! the same frames again, never others in their place (OWN-1). A restart loses only unanswered frames, whose
//! shards then open anew.

use crate::metric;
#[cfg(any(test, feature = "testing"))]
use crate::testing::{crash, plants};
use chargeplane_cluster::frame::Frame;
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bytes of payload in one group commit: bounds the time of one transaction.
const MAX_GROUP_BYTES: usize = 4 << 20;

/// Pause before the same frames are offered again after an unknown outcome.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Runs with the outcome of a frame; dropped unrun when the journal stops.
pub type OnOutcome = Box<dyn FnOnce(CommitOutcome) + Send>;

/// Messages of the journal actor.
pub enum JournalMessage {
    /// A frame to commit.
    Commit { frame: Frame, done: OnOutcome },
    /// The commit under way ended.
    Ended { result: Result<Vec<CommitOutcome>, JournalError>, waiting: Vec<OnOutcome> },
}

/// Tells the bin that the node must stop: a store failed.
#[derive(Debug, Clone)]
pub struct FatalSignal(watch::Sender<Option<String>>);

impl Default for FatalSignal {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl FatalSignal {
    /// Declares the node unable to go on. The first reason stays.
    pub fn raise(&self, reason: String) {
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                tracing::error!(%reason, "the node must stop");
                *slot = Some(reason);
            }
            first
        });
    }

    /// Resolves with the reason once it is raised.
    pub async fn raised(&self) -> String {
        let mut receiver = self.0.subscribe();
        let reason = receiver.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match reason {
            Ok(reason) => reason.unwrap_or_default(),
            // The sender lives as long as this value.
            Err(_) => std::future::pending().await,
        }
    }

    /// True once raised.
    pub fn is_raised(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// The journal actor.
pub struct JournalActor;

/// What it is started with.
pub struct JournalArguments {
    /// The store.
    pub journal: Arc<dyn Journal>,
    /// Raised when the store fails.
    pub fatal: FatalSignal,
}

/// Its state.
pub struct JournalState {
    journal: Arc<dyn Journal>,
    fatal: FatalSignal,
    queue: Vec<(Frame, OnOutcome)>,
    committing: bool,
}

impl Actor for JournalActor {
    type Msg = JournalMessage;
    type State = JournalState;
    type Arguments = JournalArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<JournalMessage>,
        arguments: JournalArguments,
    ) -> Result<JournalState, ActorProcessingErr> {
        let JournalArguments { journal, fatal } = arguments;
        Ok(JournalState { journal, fatal, queue: Vec::new(), committing: false })
    }

    async fn handle(
        &self,
        myself: ActorRef<JournalMessage>,
        message: JournalMessage,
        state: &mut JournalState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            JournalMessage::Commit { frame, done } => {
                if state.fatal.is_raised() {
                    return Ok(());
                }
                state.queue.push((frame, done));
            }
            JournalMessage::Ended { result, waiting } => on_ended(state, result, waiting),
        }
        start_commit(state, &myself);
        Ok(())
    }
}

fn on_ended(state: &mut JournalState, result: Result<Vec<CommitOutcome>, JournalError>, waiting: Vec<OnOutcome>) {
    state.committing = false;
    match result {
        Ok(outcomes) => {
            for (outcome, done) in outcomes.into_iter().zip(waiting) {
                if outcome != CommitOutcome::Committed {
                    metrics::counter!(metric::FENCED_TOTAL).increment(1);
                }
                done(outcome);
            }
        }
        Err(error) => {
            // Nobody is answered: the guards of whoever waits say "interrupted".
            state.fatal.raise(format!("journal: {error}"));
            state.queue.clear();
        }
    }
}

/// Starts the next group commit unless one is under way.
fn start_commit(state: &mut JournalState, myself: &ActorRef<JournalMessage>) {
    if state.committing || state.queue.is_empty() {
        return;
    }
    let mut bytes = 0usize;
    let count = state.queue.iter().take_while(|(frame, _)| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(frame.payload.len().max(1));
        first || bytes <= MAX_GROUP_BYTES
    });
    let count = count.count();
    let (frames, waiting): (Vec<_>, Vec<_>) = state.queue.drain(..count).unzip();
    state.committing = true;
    let (journal, myself) = (Arc::clone(&state.journal), myself.clone());
    tokio::spawn(async move {
        let result = commit(&*journal, frames).await;
        // The actor is gone only when the node stops.
        let _ = myself.cast(JournalMessage::Ended { result, waiting });
    });
}

/// Commits, offering the same frames again for as long as their outcome is unknown.
async fn commit(journal: &dyn Journal, frames: Vec<Frame>) -> Result<Vec<CommitOutcome>, JournalError> {
    let count = frames.len();
    loop {
        let started = Instant::now();
        #[cfg(any(test, feature = "testing"))]
        crash::pass(crash::CrashPoint::BeforeStore);
        match journal.commit(frames.clone()).await {
            #[cfg(any(test, feature = "testing"))]
            Err(JournalError::OutcomeUnknown(_)) if plants::is_planted(plants::NodePlant::AnotherFrame) => {
                return journal.commit(plants::other_frames(frames)).await;
            }
            Err(JournalError::OutcomeUnknown(why)) => {
                tracing::warn!(%why, "a commit's outcome is unknown; offering the same frames again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Ok(outcomes) if outcomes.len() != count => {
                return Err(JournalError::Io(format!("{} outcomes for {count} frames", outcomes.len())));
            }
            other => {
                #[cfg(any(test, feature = "testing"))]
                crash::pass(crash::CrashPoint::AfterStore);
                metrics::histogram!(metric::COMMIT_SECONDS).record(started.elapsed().as_secs_f64());
                metrics::histogram!(metric::COMMIT_FRAMES).record(crate::admission::as_f64(count));
                metrics::counter!(metric::FRAMES_TOTAL).increment(count as u64);
                return other;
            }
        }
    }
}
