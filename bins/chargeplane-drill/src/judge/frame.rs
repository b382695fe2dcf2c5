//! Journal frames by our own reader: `docs/reference/storage.md` is the contract, not the node's code.
//!
//! ```text
//! 0  u8   version (1)            20 i64  written_at, ms
//! 1  u8   family (0 station, 1 account)   28 [32] hash of the frame before
//! 2  u16  shard index            60 u32  payload length
//! 4  u64  epoch                  64      payload
//! 12 u64  log number             ..  u32  CRC-32C of all before
//! ```
//! Integers are little-endian; the hash is SHA-256 over everything but the checksum.

use super::findings::Findings;
use super::value::{as_variant, field, text};
use rmpv::Value;
use sha2::{Digest, Sha256};

const HEADER: usize = 64;

/// A packed payload announces at most so many bytes.
const MAX_PAYLOAD: u64 = 8 << 20;

/// A frame as it was read.
#[derive(Debug, Clone)]
pub struct Frame {
    /// `account-0003`.
    pub shard: String,
    /// The owner's epoch.
    pub epoch: u64,
    /// Log number.
    pub lsn: u64,
    /// Hash of the frame before.
    pub prev: [u8; 32],
    /// Hash of this frame.
    pub hash: [u8; 32],
    /// The payload's entries.
    pub entries: Vec<Value>,
}

/// An entity's event within a frame.
#[derive(Debug, Clone, Copy)]
pub struct EntityEvent<'a> {
    /// `account:main/a1`, `charger:main/c1`, ...
    pub key: &'a str,
    /// The event, as its family wraps it.
    pub event: &'a Value,
}

impl Frame {
    /// Reads a stored frame.
    ///
    /// # Errors
    /// In words: what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or("shorter than a checksum")?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err("the checksum does not fit".to_owned());
        }
        if body.len() < HEADER {
            return Err("shorter than a header".to_owned());
        }
        let (header, payload) = body.split_at(HEADER);
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        if header[0] != 1 {
            return Err(format!("frame version {} is not known", header[0]));
        }
        let family = match header[1] {
            0 => "station",
            1 => "account",
            other => return Err(format!("family {other} is not known")),
        };
        let length = u32::from_le_bytes([header[60], header[61], header[62], header[63]]);
        if payload.len() != length as usize {
            return Err(format!("{} bytes of payload, the header says {length}", payload.len()));
        }
        let index = u16::from_le_bytes([header[2], header[3]]);
        Ok(Self {
            shard: format!("{family}-{index:04x}"),
            epoch: number(4),
            lsn: number(12),
            prev: header[28..60].try_into().unwrap_or_default(),
            hash: Sha256::digest(body).into(),
            entries: decode_payload(payload)?,
        })
    }

    /// The events of entities in this frame, in order.
    pub fn events(&self) -> impl Iterator<Item = EntityEvent<'_>> {
        self.entries.iter().filter_map(|entry| {
            let entity = as_variant(entry, "entity")?;
            Some(EntityEvent { key: text(entity, "key")?, event: field(entity, "event")? })
        })
    }
}

fn decode_payload(payload: &[u8]) -> Result<Vec<Value>, String> {
    let mut value = read_value(payload)?;
    // Version 2 is a version 1 in an LZ4 block.
    if super::value::int(&value, "v") == Some(2) {
        let block = field(&value, "lz4").and_then(Value::as_slice).ok_or("payload of version 2 without a block")?;
        let size = field(&value, "size").and_then(Value::as_u64).filter(|size| *size <= MAX_PAYLOAD);
        let size = size.and_then(|size| usize::try_from(size).ok()).ok_or("payload of version 2 without a size")?;
        let plain = lz4_flex::block::decompress(block, size).map_err(|e| format!("payload: {e}"))?;
        value = read_value(&plain)?;
    }
    match (super::value::int(&value, "v"), field(&value, "entries").and_then(Value::as_array)) {
        (Some(1), Some(entries)) => Ok(entries.clone()),
        (version, _) => Err(format!("payload of version {version:?} without entries we can read")),
    }
}

fn read_value(mut bytes: &[u8]) -> Result<Value, String> {
    let value = rmpv::decode::read_value(&mut bytes).map_err(|e| format!("payload: {e}"))?;
    if bytes.is_empty() { Ok(value) } else { Err("bytes after the payload".to_owned()) }
}

/// Follows one shard's log: OWN-1.
#[derive(Debug, Clone)]
pub struct Chain {
    shard: String,
    lsn: u64,
    epoch: u64,
    hash: [u8; 32],
}

impl Chain {
    /// Before the first frame of a shard.
    pub fn new(shard: &str) -> Self {
        let hash = Sha256::digest(format!("chargeplane/journal/{shard}")).into();
        Self { shard: shard.to_owned(), lsn: 0, epoch: 0, hash }
    }

    /// The next frame: its number follows, its epoch does not fall, it names the hash before it.
    pub fn follow(&mut self, frame: &Frame, findings: &mut Findings) {
        let (shard, lsn, epoch) = (&self.shard, self.lsn, self.epoch);
        let at = format!("{shard} frame {}", frame.lsn);
        findings.check("OWN-1", frame.shard == *shard, || format!("{at}: belongs to {}", frame.shard));
        findings.check("OWN-1", frame.lsn == lsn + 1, || format!("{at}: follows frame {lsn}"));
        findings.check("OWN-1", frame.epoch >= epoch, || format!("{at}: epoch {} after {epoch}", frame.epoch));
        findings.check("OWN-1", frame.prev == self.hash, || format!("{at}: does not name the hash before it"));
        (self.lsn, self.epoch, self.hash) = (frame.lsn, frame.epoch, frame.hash);
    }

    /// The log's end against its head.
    pub fn finish(&self, last_lsn: u64, epoch: u64, last_hash: &[u8], findings: &mut Findings) {
        let shard = &self.shard;
        findings.check("OWN-1", self.lsn == last_lsn, || {
            format!("{shard}: the log ends at {}, its head says {last_lsn}", self.lsn)
        });
        findings.check("OWN-1", self.epoch <= epoch, || {
            format!("{shard}: last frame of epoch {}, head of epoch {epoch}", self.epoch)
        });
        findings.check("OWN-1", self.hash == last_hash, || format!("{shard}: the head names another last hash"));
    }
}
