//! What this process has acknowledged of each shard: Redis must never show less.
//!
//! A server that came back from an older append-only file, or a replica that took over before it had everything,
//! looks like a healthy one. Only who remembers what was acknowledged can tell, so the last of it goes with every
//! commit and every open and is compared with the head there (MONEY-3). A restart of the node forgets it.

use chargeplane_cluster::frame::FrameHash;
use chargeplane_domain::placement::ShardId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The head as it was when something was last acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Acknowledged {
    pub(crate) epoch: u64,
    pub(crate) lsn: u64,
    /// None while nothing was acknowledged.
    pub(crate) hash: Option<FrameHash>,
}

#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<BTreeMap<ShardId, Acknowledged>>);

impl Memory {
    pub(crate) fn of(&self, shard: ShardId) -> Acknowledged {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&shard).copied().unwrap_or_default()
    }

    /// Remembers what is about to be acknowledged. Answers may pass each other: it never goes back.
    pub(crate) fn raise(&self, shard: ShardId, epoch: u64, lsn: u64, hash: FrameHash) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(shard).or_default();
        if (epoch, lsn) >= (known.epoch, known.lsn) {
            *known = Acknowledged { epoch, lsn, hash: Some(hash) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chargeplane_domain::placement::Family;

    #[test]
    fn it_never_goes_back() {
        let (memory, shard) = (Memory::default(), ShardId { family: Family::Account, index: 0 });
        assert_eq!(memory.of(shard), Acknowledged::default());
        let hash = |n| FrameHash([n; 32]);
        for (epoch, lsn, n) in [(1, 0, 0), (1, 2, 2), (1, 1, 1), (2, 2, 2), (1, 9, 9)] {
            memory.raise(shard, epoch, lsn, hash(n));
        }
        assert_eq!(memory.of(shard), Acknowledged { epoch: 2, lsn: 2, hash: Some(hash(2)) });
    }
}
