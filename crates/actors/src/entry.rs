//! What a frame's payload holds: a version and the entries of one commit, as MessagePack with named fields.
//!
//! Logs live for ever, so names are spelled out, unknown fields are skipped on read, and a payload of a newer
//! version than this program knows is refused rather than guessed. Layout: `docs/reference/storage.md`.

use bytes::Bytes;
use chargeplane_domain::units::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the payload that this program writes.
pub const PAYLOAD_VERSION: u16 = 1;

/// Bytes of a payload before its first entry.
const PAYLOAD_HEADER: usize = 19;

/// One entry: an entity's event, or one of the shard itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry<E> {
    /// An event of the entity named by `key`.
    Entity { key: String, event: E },
    /// An event of the shard.
    Shard(ShardEvent),
}

/// What happens to a shard itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardEvent {
    /// A message was parked after its entity failed on it again and again.
    DeadLettered(DeadLetter),
    /// A parked message was retried or dropped by an operator.
    DeadLetterTaken { number: u64 },
}

/// A message that could not be handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its number in the shard.
    pub number: u64,
    /// The entity's key.
    pub entity: String,
    /// What the message was, for people.
    pub summary: String,
    /// The message itself when it can be repeated, in the family's encoding.
    #[serde(with = "optional_bytes")]
    pub body: Option<Vec<u8>>,
    /// Why the entity failed.
    pub error: String,
    /// When it was parked.
    pub at: Timestamp,
}

/// MessagePack's binary type for a byte string that may be absent.
mod optional_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_bytes(bytes),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<serde_bytes::ByteBuf>::deserialize(deserializer).map(|bytes| bytes.map(serde_bytes::ByteBuf::into_vec))
    }
}

#[derive(Deserialize)]
struct PayloadIn<E> {
    entries: Vec<Entry<E>>,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u16,
}

/// Why a payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Written by a newer program.
    #[error("payload version {0}, newer than this program knows ({PAYLOAD_VERSION})")]
    Version(u16),
    /// Not the expected MessagePack.
    #[error("payload cannot be read: {0}")]
    Malformed(String),
    /// Cannot be written.
    #[error("payload cannot be written: {0}")]
    Encode(String),
}

/// Entries in their encoded form, so that their size is known before they are put into a frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedEntries {
    bytes: Vec<u8>,
    count: u32,
}

impl EncodedEntries {
    /// Adds an entry.
    pub fn push<E: Serialize>(&mut self, entry: &Entry<E>) -> Result<(), PayloadError> {
        let before = self.bytes.len();
        if let Err(error) = rmp_serde::encode::write_named(&mut self.bytes, entry) {
            self.bytes.truncate(before);
            return Err(PayloadError::Encode(error.to_string()));
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Adds the entries of another, behind these.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count = self.count.saturating_add(other.count);
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes that they take in a payload.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The payload of a frame with these entries.
    pub fn into_payload(self) -> Bytes {
        let mut payload = Vec::with_capacity(self.bytes.len() + PAYLOAD_HEADER);
        // A map of "v" and "entries", as serde reads it back.
        payload.extend_from_slice(b"\x82\xa1v");
        payload.push(0xcd);
        payload.extend_from_slice(&PAYLOAD_VERSION.to_be_bytes());
        payload.extend_from_slice(b"\xa7entries\xdd");
        payload.extend_from_slice(&self.count.to_be_bytes());
        payload.extend_from_slice(&self.bytes);
        Bytes::from(payload)
    }
}

/// Decodes the entries of one commit.
pub fn decode<E: DeserializeOwned>(payload: &[u8]) -> Result<Vec<Entry<E>>, PayloadError> {
    let malformed = |error: rmp_serde::decode::Error| PayloadError::Malformed(error.to_string());
    let VersionOnly { v } = rmp_serde::from_slice(payload).map_err(malformed)?;
    if v > PAYLOAD_VERSION {
        return Err(PayloadError::Version(v));
    }
    let PayloadIn { entries } = rmp_serde::from_slice(payload).map_err(malformed)?;
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode<E: Serialize>(entries: &[Entry<E>]) -> EncodedEntries {
        let mut encoded = EncodedEntries::default();
        entries.iter().try_for_each(|entry| encoded.push(entry)).expect("encodes");
        encoded
    }

    #[test]
    fn entries_round_trip() {
        let letter = DeadLetter {
            number: 3,
            entity: "charger:main/c1".into(),
            summary: "stop".into(),
            body: Some(vec![1, 2, 255]),
            error: "panic".into(),
            at: Timestamp(5),
        };
        let entries = vec![
            Entry::Entity { key: "account:main/a".into(), event: 7u32 },
            Entry::Shard(ShardEvent::DeadLettered(letter)),
            Entry::Shard(ShardEvent::DeadLetterTaken { number: 3 }),
        ];
        let mut encoded = encode(&entries[..1]);
        encoded.append(&encode(&entries[1..]));
        assert_eq!(encoded.count(), 3);
        let size = encoded.len();
        let payload = encoded.into_payload();
        assert_eq!(payload.len(), size + PAYLOAD_HEADER);
        assert_eq!(decode::<u32>(&payload), Ok(entries));
    }

    #[test]
    fn a_newer_version_is_refused_and_rubbish_is_an_error() {
        #[derive(Serialize)]
        struct Newer {
            v: u16,
            other: bool,
        }
        let newer = rmp_serde::to_vec_named(&Newer { v: 2, other: true }).expect("encodes");
        assert_eq!(decode::<u32>(&newer), Err(PayloadError::Version(2)));
        assert!(matches!(decode::<u32>(&[0xc1, 0, 1]), Err(PayloadError::Malformed(_))));
    }
}
