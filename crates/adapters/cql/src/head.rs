//! The head of a segment, and how things are stored as columns.

use chargeplane_cluster::frame::FrameHash;
use chargeplane_cluster::journal::{JournalError, ShardHead};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};

use crate::snapshot::SnapshotRef;

/// What a segment takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentState {
    /// No frames until the shard is opened: its owner gave it up.
    Released,
    /// Frames of the owner.
    Held,
    /// Nothing, for ever: the log goes on in the next segment.
    Sealed,
}

impl SegmentState {
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Released => 0,
            Self::Held => 1,
            Self::Sealed => 2,
        }
    }

    fn from_code(code: i32) -> Option<Self> {
        [Self::Released, Self::Held, Self::Sealed].into_iter().find(|state| state.code() == code)
    }
}

/// The static columns of a segment. Those of the newest segment are the head of the shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub shard: ShardId,
    pub segment: u64,
    pub owner: NodeId,
    pub epoch: u64,
    /// Number of the first frame that is, or will be, in this segment.
    pub first_lsn: u64,
    pub last_lsn: u64,
    pub last_hash: FrameHash,
    /// Bytes of the frames in this segment. Only decides when the segment ends.
    pub bytes: u64,
    pub state: SegmentState,
    /// Newest first, two at most.
    pub snapshots: Vec<SnapshotRef>,
}

/// A head's columns as the driver gives them: null where the partition is not there.
pub(crate) type HeadRow =
    (Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<Vec<u8>>, Option<i64>, Option<i32>, Option<Vec<u8>>);

/// The columns of [`HeadRow`], in its order.
pub(crate) const HEAD_COLUMNS: &str = "owner, epoch, first_lsn, last_lsn, last_hash, bytes, state, snapshots";

impl Head {
    /// Before the first frame of a shard that nobody opened yet.
    pub(crate) fn genesis(shard: ShardId, owner: NodeId) -> Self {
        Self {
            shard,
            segment: 0,
            owner,
            epoch: 1,
            first_lsn: 1,
            last_lsn: 0,
            last_hash: FrameHash::genesis(shard),
            bytes: 0,
            state: SegmentState::Held,
            snapshots: Vec::new(),
        }
    }

    /// The head of the segment after this one, which is sealed.
    pub(crate) fn successor(&self, owner: NodeId, epoch: u64) -> Self {
        Self {
            segment: self.segment.saturating_add(1),
            owner,
            epoch,
            first_lsn: self.last_lsn.saturating_add(1),
            bytes: 0,
            state: SegmentState::Held,
            ..self.clone()
        }
    }

    /// Reads the columns; an error says which is wrong.
    pub(crate) fn read(shard: ShardId, segment: u64, row: HeadRow) -> Result<Self, JournalError> {
        let (owner, epoch, first_lsn, last_lsn, last_hash, bytes, state, snapshots) = row;
        let last = last_lsn.and_then(|lsn| u64::try_from(lsn).ok()).unwrap_or(0);
        let wrong = |column: &str| JournalError::Corrupt {
            shard,
            lsn: last,
            what: format!("column {column} of segment {segment} cannot be read"),
        };
        let number =
            |value: Option<i64>, column| value.and_then(|value| u64::try_from(value).ok()).ok_or_else(|| wrong(column));
        let snapshots = snapshots.as_deref().unwrap_or_default();
        Ok(Self {
            shard,
            segment,
            owner: NodeId(owner.ok_or_else(|| wrong("owner"))?.into()),
            epoch: number(epoch, "epoch")?,
            first_lsn: number(first_lsn, "first_lsn")?,
            last_lsn: number(last_lsn, "last_lsn")?,
            last_hash: last_hash
                .and_then(|hash| hash.try_into().ok())
                .map(FrameHash)
                .ok_or_else(|| wrong("last_hash"))?,
            bytes: number(bytes, "bytes")?,
            state: state.and_then(SegmentState::from_code).ok_or_else(|| wrong("state"))?,
            snapshots: SnapshotRef::decode_all(snapshots).ok_or_else(|| wrong("snapshots"))?,
        })
    }

    /// As the port says it. A sealed segment is still its owner's: who sealed it makes the next.
    pub(crate) fn shard_head(&self) -> ShardHead {
        ShardHead {
            shard: self.shard,
            owner: (self.state != SegmentState::Released).then(|| self.owner.clone()),
            epoch: self.epoch,
            last_lsn: self.last_lsn,
            last_hash: self.last_hash,
        }
    }
}

/// A shard as a stored number: the family in the bits above the index.
pub(crate) fn code_of(shard: ShardId) -> i32 {
    i32::from(shard.family.code()) << 16 | i32::from(shard.index)
}

pub(crate) fn shard_of_code(code: i32) -> Option<ShardId> {
    let family = u8::try_from(code >> 16).ok().and_then(Family::from_code)?;
    Some(ShardId { family, index: u16::try_from(code & 0xffff).ok()? })
}

/// As a stored number. Numbers beyond the half of their range do not occur; such a one equals no stored number.
pub(crate) fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(head: &Head) -> HeadRow {
        (
            Some(head.owner.0.to_string()),
            Some(stored(head.epoch)),
            Some(stored(head.first_lsn)),
            Some(stored(head.last_lsn)),
            Some(head.last_hash.as_bytes().to_vec()),
            Some(stored(head.bytes)),
            Some(head.state.code()),
            Some(SnapshotRef::encode_all(&head.snapshots)),
        )
    }

    #[test]
    fn a_head_is_read_back_and_wrong_columns_are_named() {
        let shard = ShardId { family: Family::Account, index: 3 };
        let mut head = Head::genesis(shard, NodeId("n1".into()));
        (head.epoch, head.last_lsn) = (4, 9);
        assert_eq!(Head::read(shard, 0, row(&head)), Ok(head.clone()));
        let mut wrong = row(&head);
        wrong.6 = Some(7);
        let error = Head::read(shard, 0, wrong).expect_err("state 7");
        assert!(error.to_string().contains("state of segment 0"), "{error}");
        assert!(error.to_string().contains("frame 9"), "{error}");
        let mut wrong = row(&head);
        wrong.4 = Some(vec![1; 31]);
        assert!(Head::read(shard, 0, wrong).is_err());
    }

    #[test]
    fn shards_have_numbers() {
        for family in [Family::Station, Family::Account] {
            for index in [0, 1, u16::MAX] {
                let shard = ShardId { family, index };
                assert_eq!(shard_of_code(code_of(shard)), Some(shard));
            }
        }
        assert_eq!(shard_of_code(9 << 16), None);
        assert_eq!(shard_of_code(-1), None);
    }
}
