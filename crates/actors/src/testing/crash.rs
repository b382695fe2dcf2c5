//! Points at which a node that was built for tests kills itself.
//!
//! `CHARGEPLANE_TEST_CRASH=POINT:N`: SIGKILL when the process passes the point for the N-th time.

use rustix::process::{Signal, getpid, kill_process};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable.
pub const VARIABLE: &str = "CHARGEPLANE_TEST_CRASH";

/// Where a node may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A group commit is about to be handed to the store: nothing of it is durable, nothing is answered.
    BeforeStore,
    /// The store has made it durable: nothing is answered.
    AfterStore,
    /// The answers that waited for a frame were let out.
    AfterAck,
}

impl CrashPoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BeforeStore, Self::AfterStore, Self::AfterAck];

    /// Its name in the variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeStore => "before_store",
            Self::AfterStore => "after_store",
            Self::AfterAck => "after_ack",
        }
    }
}

/// Reads the variable's value: the point and the number of the pass that ends the process, from 1.
fn parse(text: &str) -> Option<(CrashPoint, u64)> {
    let (name, number) = text.split_once(':')?;
    let point = CrashPoint::ALL.into_iter().find(|point| point.name() == name)?;
    number.parse().ok().filter(|number| *number > 0).map(|number| (point, number))
}

/// The process passes a point, and is killed when it is the one that was asked for. A value that means nothing kills
/// at the first point of any kind, so that no test believes in a crash that never comes.
pub(crate) fn pass(point: CrashPoint) {
    static WANTED: OnceLock<Option<(CrashPoint, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        Some(parse(&text).unwrap_or((point, 1)))
    });
    let Some((at, number)) = wanted else { return };
    if *at == point && PASSED.fetch_add(1, Ordering::Relaxed).saturating_add(1) == *number {
        // To itself: it is dead before the call returns, and no other thread gets far.
        let _ = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_a_point_and_a_pass() {
        assert_eq!(parse("before_store:1"), Some((CrashPoint::BeforeStore, 1)));
        assert_eq!(parse("after_ack:250"), Some((CrashPoint::AfterAck, 250)));
        for text in ["", "after_store", "after_store:0", "after_store:x", "somewhere:1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
