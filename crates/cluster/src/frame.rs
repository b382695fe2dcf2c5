//! The frame: what one commit of one shard stores.
//!
//! A frame carries the owner's epoch, its number in the shard's log, the hash of the frame before it, and a
//! payload of entries that only the actors read. Its canonical encoding (docs/reference/storage.md) is what
//! every adapter stores; its hash is SHA-256 over that encoding, so a log can be verified anywhere (OWN-1).

use bytes::Bytes;
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::units::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;

/// The version this program writes.
pub const FRAME_VERSION: u8 = 1;

/// Most bytes of entries in one frame. A commit that needs more is split by the journal actor.
pub const MAX_PAYLOAD: usize = 8 * 1024 * 1024;

/// Bytes of an encoded frame before its payload.
pub const HEADER_LEN: usize = 64;

/// Bytes of an encoded frame after its payload: the checksum.
pub const TRAILER_LEN: usize = 4;

/// SHA-256 of an encoded frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameHash(pub [u8; 32]);

impl FrameHash {
    /// What stands before the first frame of a shard. It differs by shard, so a log cannot be read as another's.
    pub fn genesis(shard: ShardId) -> Self {
        Self(Sha256::digest(format!("chargeplane/journal/{shard}")).into())
    }

    /// The hash as a slice.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for FrameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One frame of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Layout of the encoding: [`FRAME_VERSION`].
    pub version: u8,
    /// The shard.
    pub shard: ShardId,
    /// The owner's epoch.
    pub epoch: u64,
    /// Number in the shard's log, from 1, without holes.
    pub lsn: u64,
    /// Hash of the frame before it; [`FrameHash::genesis`] for the first.
    pub prev_hash: FrameHash,
    /// The owner's clock when it made the frame. For people: nothing is decided by it.
    pub written_at: Timestamp,
    /// The entries, opaque here.
    pub payload: Bytes,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer or more bytes than the header says.
    #[error("{found} bytes where {expected} were expected")]
    Length { expected: usize, found: usize },
    /// The checksum does not fit the bytes: bit rot or a torn write.
    #[error("checksum {found:08x} where the bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    /// Written by a newer program.
    #[error("frame version {0}, newer than this program knows ({FRAME_VERSION})")]
    Version(u8),
    /// An unknown family.
    #[error("family {0} does not exist")]
    Family(u8),
}

impl Frame {
    /// The frame that follows `(last_lsn, last_hash)` in `shard`'s log, in this program's version.
    pub fn following(
        shard: ShardId,
        epoch: u64,
        last_lsn: u64,
        last_hash: FrameHash,
        written_at: Timestamp,
        payload: Bytes,
    ) -> Self {
        let lsn = last_lsn.saturating_add(1);
        Self { version: FRAME_VERSION, shard, epoch, lsn, prev_hash: last_hash, written_at, payload }
    }

    /// The canonical encoding, checksum included. Little-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len() + TRAILER_LEN);
        bytes.extend(self.header());
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0] = self.version;
        header[1] = self.shard.family.code();
        header[2..4].copy_from_slice(&self.shard.index.to_le_bytes());
        header[4..12].copy_from_slice(&self.epoch.to_le_bytes());
        header[12..20].copy_from_slice(&self.lsn.to_le_bytes());
        header[20..28].copy_from_slice(&self.written_at.0.to_le_bytes());
        header[28..60].copy_from_slice(self.prev_hash.as_bytes());
        // Above MAX_PAYLOAD the journal refuses the frame, so the length always fits.
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        header[60..64].copy_from_slice(&length.to_le_bytes());
        header
    }

    /// SHA-256 over the canonical encoding without its checksum.
    pub fn hash(&self) -> FrameHash {
        let mut sha = Sha256::new();
        sha.update(self.header());
        sha.update(&self.payload);
        FrameHash(sha.finalize().into())
    }

    /// Reads an encoded frame and verifies its checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let least = HEADER_LEN + TRAILER_LEN;
        let length = |expected| FrameError::Length { expected, found: bytes.len() };
        let (body, trailer) = bytes.split_last_chunk::<TRAILER_LEN>().ok_or_else(|| length(least))?;
        let (header, payload) = body.split_first_chunk::<HEADER_LEN>().ok_or_else(|| length(least))?;
        let (found, computed) = (u32::from_le_bytes(*trailer), crc32c::crc32c(body));
        if found != computed {
            return Err(FrameError::Checksum { found, computed });
        }
        if header[0] != FRAME_VERSION {
            return Err(FrameError::Version(header[0]));
        }
        let family = Family::from_code(header[1]).ok_or(FrameError::Family(header[1]))?;
        let payload_len = u32::from_le_bytes(part(header, 60)) as usize;
        if payload.len() != payload_len {
            return Err(length(payload_len.saturating_add(least)));
        }
        Ok(Self {
            version: header[0],
            shard: ShardId { family, index: u16::from_le_bytes(part(header, 2)) },
            epoch: u64::from_le_bytes(part(header, 4)),
            lsn: u64::from_le_bytes(part(header, 12)),
            written_at: Timestamp(i64::from_le_bytes(part(header, 20))),
            prev_hash: FrameHash(part(header, 28)),
            payload: Bytes::copy_from_slice(payload),
        })
    }
}

/// `N` bytes of the header from `at`; the offsets above are all within it.
fn part<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&header[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &[u8]) -> Frame {
        let shard = ShardId { family: Family::Account, index: 3 };
        let payload = Bytes::copy_from_slice(payload);
        Frame::following(shard, 7, 41, FrameHash::genesis(shard), Timestamp(1_700_000_000_000), payload)
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = frame(b"abc").encode();
        assert_eq!(bytes.len(), 64 + 3 + 4);
        assert_eq!(bytes[..4], [1, 1, 3, 0]);
        assert_eq!(bytes[4..12], 7u64.to_le_bytes());
        assert_eq!(bytes[12..20], 42u64.to_le_bytes());
        assert_eq!(bytes[20..28], 1_700_000_000_000i64.to_le_bytes());
        assert_eq!(&bytes[28..60], FrameHash::genesis(frame(b"").shard).as_bytes());
        assert_eq!(bytes[60..67], [3, 0, 0, 0, b'a', b'b', b'c']);
        assert_eq!(bytes[67..], crc32c::crc32c(&bytes[..67]).to_le_bytes());
        assert_eq!(frame(b"abc").hash().0, <[u8; 32]>::from(Sha256::digest(&bytes[..67])));
    }

    #[test]
    fn a_newer_version_is_refused_as_such() {
        let newer = Frame { version: 2, ..frame(b"x") };
        assert_eq!(Frame::decode(&newer.encode()), Err(FrameError::Version(2)));
    }

    proptest! {
        #[test]
        fn round_trips(payload in proptest::collection::vec(any::<u8>(), 0..200), epoch: u64, lsn in 0..u64::MAX, at: i64) {
            let frame = Frame { epoch, lsn, written_at: Timestamp(at), ..frame(&payload) };
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn any_flipped_bit_and_any_cut_is_found(payload in proptest::collection::vec(any::<u8>(), 0..60), at: usize) {
            let bytes = frame(&payload).encode();
            let mut flipped = bytes.clone();
            let bit = at % (bytes.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Frame::decode(&flipped).is_err());
            prop_assert!(Frame::decode(&bytes[..at % bytes.len()]).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
        }
    }
}
