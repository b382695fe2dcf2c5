//! Names of the keys, and numbers as texts.
//!
//! All keys of a shard have its name in braces, so that they have one place in a cluster of servers too.

use chargeplane_domain::placement::ShardId;

/// The keys of one shard.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    base: String,
}

impl Keys {
    pub(crate) fn new(prefix: &str, shard: ShardId) -> Self {
        Self { base: format!("{{{prefix}:{shard}}}") }
    }

    /// Hash: the ownership record and where the log ends.
    pub(crate) fn head(&self) -> String {
        format!("{}:head", self.base)
    }

    /// Sorted set: the first log number of each segment.
    pub(crate) fn segments(&self) -> String {
        format!("{}:segments", self.base)
    }

    /// With a segment's first log number behind it, the list of its frames.
    pub(crate) fn log_prefix(&self) -> String {
        format!("{}:log:", self.base)
    }

    /// Sorted set: the log numbers of the snapshots.
    pub(crate) fn snapshots(&self) -> String {
        format!("{}:snapshots", self.base)
    }

    /// With its log number behind it, the list of a snapshot's pieces.
    pub(crate) fn snapshot_prefix(&self) -> String {
        format!("{}:snapshot:", self.base)
    }

    /// Where a snapshot is put together before it is one.
    pub(crate) fn upload(&self, nonce: u64) -> String {
        format!("{}:upload:{nonce:016x}", self.base)
    }
}

/// Set: the names of all shards that were ever opened.
pub(crate) fn shards_key(prefix: &str) -> String {
    format!("{prefix}:shards")
}

/// A number as text that sorts and compares as the number does.
pub(crate) fn digits(number: u64) -> String {
    format!("{number:020}")
}

/// Reads what [`digits`] wrote.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 20)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_texts() {
        let numbers = [0, 1, 9, 10, 1 << 53, u64::MAX - 1, u64::MAX];
        let texts: Vec<_> = numbers.iter().map(|n| digits(*n)).collect();
        assert!(texts.is_sorted());
        assert_eq!(texts.iter().map(|text| number(text.as_bytes())).collect::<Vec<_>>(), numbers.map(Some));
        for bad in ["", "1", "0000000000000000000x", "99999999999999999999"] {
            assert_eq!(number(bad.as_bytes()), None, "{bad}");
        }
    }
}
