//! Reply guards: nobody waits for ever.
//!
//! A [`Reply`] answers exactly once. Dropped for whatever reason (a crash, a fenced commit, a full lane), it
//! answers [`CallError::Interrupted`]: maybe executed, repeat with the same key.

use crate::handle::CallError;
use std::time::Duration;

/// What a reply carries.
pub type Answer<T> = Result<T, CallError>;

/// The right to answer one request, once.
pub struct Reply<T>(Option<Box<dyn FnOnce(Answer<T>) + Send>>);

impl<T> Reply<T> {
    /// A reply that runs `deliver` with the answer. `deliver` must not block.
    pub fn new(deliver: impl FnOnce(Answer<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(deliver)))
    }

    /// A reply nobody waits for.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Answers.
    pub fn answer(mut self, answer: Answer<T>) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl<T: Send + 'static> Reply<T> {
    /// A reply and the future that waits for it, at most `timeout`.
    pub fn channel(timeout: Duration) -> (Self, impl Future<Output = Answer<T>> + Send) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply = Self::new(move |answer| {
            // The caller may have given up: its answer is then nobody's.
            let _ = sender.send(answer);
        });
        let wait = async move {
            match tokio::time::timeout(timeout, receiver).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(CallError::Interrupted),
                Err(_) => Err(CallError::Timeout),
            }
        };
        (reply, wait)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            deliver(Err(CallError::Interrupted));
        }
    }
}

impl<T> std::fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Reply(open)" } else { "Reply(none)" })
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

    #[tokio::test(start_paused = true)]
    async fn a_held_reply_times_out() {
        let (reply, wait) = Reply::<u32>::channel(Duration::from_secs(5));
        assert_eq!(wait.await, Err(CallError::Timeout));
        reply.answer(Ok(1));
    }
}
