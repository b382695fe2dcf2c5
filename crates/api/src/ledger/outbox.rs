//! Where the answers to one connection's requests are collected until its task writes them.

use chargeplane_actors::reply::{Answer, Answers};
use chargeplane_domain::account::AccountAnswer;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

/// An answer and the number that the connection gave its request.
pub(super) type Numbered = (u64, Answer<AccountAnswer>);

/// Filled wherever answers are made, emptied by the connection's task. Bounded by the requests that the connection has
/// under way. The task is woken once for all answers that come before it looks.
#[derive(Default)]
pub(super) struct Outbox(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    answers: Vec<Numbered>,
    waker: Option<Waker>,
    stop: bool,
}

impl Outbox {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what is there into `into`, which is empty. When there is nothing, the task is woken by what comes.
    pub(super) fn collect(&self, into: &mut Vec<Numbered>, cx: &Context<'_>) {
        let mut inner = self.inner();
        if !inner.answers.is_empty() {
            std::mem::swap(&mut inner.answers, into);
        } else if inner.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
    }

    /// True once the front stops.
    pub(super) fn is_stopped(&self) -> bool {
        self.inner().stop
    }

    /// The front stops: the connection is to end.
    pub(super) fn stop(&self) {
        let waker = {
            let mut inner = self.inner();
            inner.stop = true;
            inner.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Answers<AccountAnswer> for Outbox {
    fn take(&self, number: u64, answer: Answer<AccountAnswer>) {
        let waker = {
            let mut inner = self.inner();
            inner.answers.push((number, answer));
            inner.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}
