//! Reply guards: nobody waits for ever.
//!
//! A [`Reply`] answers exactly once. Dropped for whatever reason (a crash, a fenced commit, a full lane), it
//! answers [`CallError::Interrupted`]: maybe executed, repeat with the same key.

use crate::handle::CallError;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What a reply carries.
pub type Answer<T> = Result<T, CallError>;

/// Takes the answers to many requests, each under the number that its asker gave it. For whoever has thousands of
/// requests under way and no task for each.
pub trait Answers<T>: Send + Sync {
    /// Takes an answer. Runs where the answer is made, so it must not block.
    fn take(&self, number: u64, answer: Answer<T>);
}

/// The right to answer one request, once.
pub struct Reply<T>(Way<T>);

/// How an answer gets to who asked.
enum Way<T> {
    /// Nobody waits, or not any more.
    None,
    /// A task waits.
    Channel(oneshot::Sender<Answer<T>>),
    /// Somebody collects many of them.
    Numbered(Arc<dyn Answers<T>>, u64),
    /// Something runs with it.
    Call(Box<dyn FnOnce(Answer<T>) + Send>),
}

impl<T> Way<T> {
    fn deliver(self, answer: Answer<T>) {
        match self {
            Self::None => {}
            // The caller may have given up: its answer is then nobody's.
            Self::Channel(sender) => drop(sender.send(answer)),
            Self::Numbered(answers, number) => answers.take(number, answer),
            Self::Call(deliver) => deliver(answer),
        }
    }
}

impl<T> Reply<T> {
    /// A reply that runs `deliver` with the answer. `deliver` must not block.
    pub fn new(deliver: impl FnOnce(Answer<T>) + Send + 'static) -> Self {
        Self(Way::Call(Box::new(deliver)))
    }

    /// A reply that is collected under a number. It has no time limit: who collects watches the time.
    pub fn numbered(answers: Arc<dyn Answers<T>>, number: u64) -> Self {
        Self(Way::Numbered(answers, number))
    }

    /// A reply nobody waits for.
    pub fn ignored() -> Self {
        Self(Way::None)
    }

    /// Answers.
    pub fn answer(mut self, answer: Answer<T>) {
        std::mem::replace(&mut self.0, Way::None).deliver(answer);
    }
}

impl<T: Send + 'static> Reply<T> {
    /// A reply and the future that waits for it, at most `timeout`.
    pub fn channel(timeout: Duration) -> (Self, impl Future<Output = Answer<T>> + Send) {
        let (sender, receiver) = oneshot::channel();
        let wait = async move {
            match tokio::time::timeout(timeout, receiver).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(CallError::Interrupted),
                Err(_) => Err(CallError::Timeout),
            }
        };
        (Self(Way::Channel(sender)), wait)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Way::None).deliver(Err(CallError::Interrupted));
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self.0, Way::None) { "Reply(none)" } else { "Reply(open)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_reply_answers_interrupted() {
        let (reply, wait) = Reply::<u32>::channel(Duration::from_secs(5));
        drop(reply);
        assert_eq!(wait.await, Err(CallError::Interrupted));
    }

    #[test]
    fn numbered_replies_are_collected_and_a_dropped_one_is_not_missing() {
        #[derive(Default)]
        struct Collected(std::sync::Mutex<Vec<(u64, Answer<u32>)>>);
        impl Answers<u32> for Collected {
            fn take(&self, number: u64, answer: Answer<u32>) {
                self.0.lock().unwrap().push((number, answer));
            }
        }
        let collected = Arc::new(Collected::default());
        let reply = |number| Reply::numbered(Arc::clone(&collected) as Arc<dyn Answers<u32>>, number);
        let (first, second) = (reply(1), reply(2));
        drop(second);
        first.answer(Ok(7));
        assert_eq!(*collected.0.lock().unwrap(), [(2, Err(CallError::Interrupted)), (1, Ok(7))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_reply_times_out() {
        let (reply, wait) = Reply::<u32>::channel(Duration::from_secs(5));
        assert_eq!(wait.await, Err(CallError::Timeout));
        reply.answer(Ok(1));
    }
}
