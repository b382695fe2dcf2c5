//! Snapshots: stored in parts under a key of their own, then named by the head.
//!
//! The name is what counts: it is written by a conditional write to the head (OWN-1), so what a stale owner stored
//! is never found. The key has the epoch in it, so a stale owner's parts never mix with another's.

use crate::head::{Head, SegmentState, code_of};
use crate::journal::{Inner, Tries};
use crate::store::Level;
use bytes::{Bytes, BytesMut};
use chargeplane_cluster::frame::FrameHash;
use chargeplane_cluster::journal::{JournalError, Snapshot};
use chargeplane_domain::placement::ShardId;

/// Bytes of a part: a row of this size is no burden to the database.
const PART_BYTES: usize = 1024 * 1024;

/// Largest snapshot: it is one partition.
pub(crate) const MAX_SNAPSHOT: usize = 256 * 1024 * 1024;

/// Bytes of a snapshot's name in the head.
const REF_BYTES: usize = 60;

/// How many are kept.
const KEPT: usize = 2;

/// A snapshot's name: where it is, and what its bytes must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnapshotRef {
    pub lsn: u64,
    pub epoch: u64,
    pub bytes: u64,
    pub crc32c: u32,
    pub hash: FrameHash,
}

impl SnapshotRef {
    fn of(shard: ShardId, epoch: u64, snapshot: &Snapshot) -> Self {
        Self {
            lsn: snapshot.lsn,
            epoch,
            bytes: u64::try_from(snapshot.bytes.len()).unwrap_or(u64::MAX),
            crc32c: checksum(shard, snapshot),
            hash: snapshot.hash,
        }
    }

    /// Little-endian: lsn, epoch, bytes, crc32c, hash; one after the other.
    pub(crate) fn encode_all(refs: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(refs.len().saturating_mul(REF_BYTES));
        for one in refs {
            for number in [one.lsn, one.epoch, one.bytes] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(one.crc32c.to_le_bytes());
            bytes.extend(one.hash.as_bytes());
        }
        bytes
    }

    pub(crate) fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (chunks, rest) = bytes.as_chunks::<REF_BYTES>();
        rest.is_empty().then_some(())?;
        chunks.iter().map(|chunk| Self::decode(chunk)).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (lsn, bytes) = bytes.split_first_chunk()?;
        let (epoch, bytes) = bytes.split_first_chunk()?;
        let (size, bytes) = bytes.split_first_chunk()?;
        let (crc32c, hash) = bytes.split_first_chunk()?;
        Some(Self {
            lsn: u64::from_le_bytes(*lsn),
            epoch: u64::from_le_bytes(*epoch),
            bytes: u64::from_le_bytes(*size),
            crc32c: u32::from_le_bytes(*crc32c),
            hash: FrameHash(hash.try_into().ok()?),
        })
    }
}

/// Covers everything a snapshot says, as the other journals' does.
fn checksum(shard: ShardId, snapshot: &Snapshot) -> u32 {
    let start = crc32c::crc32c(&i64::from(code_of(shard)).to_le_bytes());
    let start = crc32c::crc32c_append(start, &snapshot.lsn.to_le_bytes());
    let start = crc32c::crc32c_append(start, snapshot.hash.as_bytes());
    crc32c::crc32c_append(start, &snapshot.bytes)
}

impl Inner {
    /// Stores the parts, then names them in the head. False when the head is not `epoch`'s, has a newer snapshot, or
    /// the log has another frame at that number.
    pub(crate) async fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> Result<bool, JournalError> {
        let size = snapshot.bytes.len();
        if size > MAX_SNAPSHOT {
            return Err(JournalError::TooLarge { shard, bytes: size, limit: MAX_SNAPSHOT });
        }
        let new = SnapshotRef::of(shard, epoch, &snapshot);
        match self.fits(shard, &new).await? {
            Fits::Named => return Ok(true),
            Fits::No => return Ok(false),
            Fits::Yes => {}
        }
        for (part, bytes) in (0i32..).zip(snapshot.bytes.chunks(PART_BYTES)) {
            self.store.put_part(shard, &new, part, bytes).await?;
        }
        let Some(dropped) = self.name(shard, new).await? else {
            self.store.delete_snapshot(shard, &new).await?;
            return Ok(false);
        };
        for old in dropped {
            if let Err(error) = self.store.delete_snapshot(shard, &old).await {
                // It is named nowhere any more and only takes room.
                tracing::warn!(%shard, lsn = old.lsn, %error, "an old snapshot could not be deleted");
            }
        }
        Ok(true)
    }

    async fn fits(&self, shard: ShardId, new: &SnapshotRef) -> Result<Fits, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let Some(head) = self.locate(shard, &mut slot, Level::Serial).await? else { return Ok(Fits::No) };
        if head.snapshots.contains(new) {
            return Ok(Fits::Named);
        }
        if !may_be_named(&head, new) {
            return Ok(Fits::No);
        }
        let found = self.frame_hash(&head, &mut slot, new.lsn).await?;
        Ok(if found == Some(new.hash) { Fits::Yes } else { Fits::No })
    }

    /// Names a stored snapshot; returns those that are named no more. None when it may not be named.
    async fn name(&self, shard: ShardId, new: SnapshotRef) -> Result<Option<Vec<SnapshotRef>>, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let mut tries = Tries::default();
        loop {
            let head = self.locate(shard, &mut slot, Level::Serial).await?;
            let Some(head) = head.filter(|head| may_be_named(head, &new)) else { return Ok(None) };
            if head.state == SegmentState::Sealed {
                self.extend(&head, &mut slot).await?;
            } else {
                let mut named = vec![new];
                named.extend(&head.snapshots);
                let dropped = named.split_off(named.len().min(KEPT));
                if self.store.name_snapshots(&head, &named).await? {
                    return Ok(Some(dropped));
                }
            }
            tries.again()?;
        }
    }

    /// The newest snapshot that is intact, and the log numbers of newer ones that are not.
    pub(crate) async fn newest_snapshot(&self, head: &Head) -> Result<(Option<Snapshot>, Vec<u64>), JournalError> {
        let mut damaged = Vec::new();
        for one in &head.snapshots {
            match self.snapshot(head.shard, one).await? {
                Some(snapshot) => return Ok((Some(snapshot), damaged)),
                None => damaged.push(one.lsn),
            }
        }
        Ok((None, damaged))
    }

    async fn snapshot(&self, shard: ShardId, of: &SnapshotRef) -> Result<Option<Snapshot>, JournalError> {
        let Some(size) = usize::try_from(of.bytes).ok().filter(|size| *size <= MAX_SNAPSHOT) else { return Ok(None) };
        let mut bytes = BytesMut::with_capacity(size);
        let parts = i32::try_from(size.div_ceil(PART_BYTES)).unwrap_or(i32::MAX);
        for part in 0..parts {
            match self.store.part(shard, of, part).await? {
                Some(part) if bytes.len().saturating_add(part.len()) <= size => bytes.extend_from_slice(&part),
                _ => return Ok(None),
            }
        }
        let snapshot = Snapshot { lsn: of.lsn, hash: of.hash, bytes: Bytes::from(bytes) };
        Ok((checksum(shard, &snapshot) == of.crc32c && snapshot.bytes.len() == size).then_some(snapshot))
    }
}

enum Fits {
    Yes,
    No,
    /// It is named already: this is the repetition of a call whose answer was lost.
    Named,
}

fn may_be_named(head: &Head, new: &SnapshotRef) -> bool {
    let newest = head.snapshots.first().is_none_or(|newest| newest.lsn < new.lsn);
    head.epoch == new.epoch && head.state != SegmentState::Released && newest && new.lsn <= head.last_lsn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let one = SnapshotRef { lsn: 7, epoch: 2, bytes: 99, crc32c: 0xdead_beef, hash: FrameHash([3; 32]) };
        let two = SnapshotRef { lsn: 5, ..one };
        for refs in [vec![], vec![one], vec![one, two]] {
            let bytes = SnapshotRef::encode_all(&refs);
            assert_eq!(bytes.len(), refs.len() * REF_BYTES);
            assert_eq!(SnapshotRef::decode_all(&bytes), Some(refs));
        }
        assert_eq!(SnapshotRef::decode_all(&[0; 61]), None);
    }
}
