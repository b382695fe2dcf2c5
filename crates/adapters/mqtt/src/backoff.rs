//! When to try the broker again.
//!
//! The first attempt after a lost session comes at once, give or take a little so that ten thousand
//! gateways do not knock in the same millisecond; after that the wait doubles from 100 ms to 5 s.
//! Pure: the caller brings the randomness.

use std::time::Duration;

const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 5_000;
/// The immediate attempt is spread over this long.
const IMMEDIATE_SPREAD_MS: u64 = 50;

/// Counts failed attempts in a row.
#[derive(Debug, Default, Clone)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A session was established: the next wait is short again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The wait before the next attempt. `random` is any 64 bits; half of each wait is fixed and
    /// half drawn.
    pub(crate) fn next_wait(&mut self, random: u64) -> Duration {
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        let ms = match failures {
            0 => random % IMMEDIATE_SPREAD_MS,
            _ => {
                let whole = FIRST_MS.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_MS);
                whole / 2 + random % (whole / 2 + 1)
            }
        };
        Duration::from_millis(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_wait_is_short_and_the_rest_double_up_to_five_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next_wait(u64::MAX).as_millis()).collect();
        assert!(waits[0] < 50, "{waits:?}");
        for (index, whole) in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].into_iter().enumerate() {
            let wait = waits[index + 1];
            assert!((whole / 2..=whole).contains(&wait), "wait {wait} of {whole} in {waits:?}");
        }
        backoff.succeeded();
        assert!(backoff.next_wait(u64::MAX).as_millis() < 50);
    }

    proptest! {
        #[test]
        fn never_longer_than_five_seconds(failures in 0u32..200, random: u64) {
            let mut backoff = Backoff { failures };
            prop_assert!(backoff.next_wait(random) <= Duration::from_millis(LONGEST_MS));
        }
    }
}
