//! What a frame's payload holds: a version and the entries of one commit, as MessagePack with named fields.
//!
//! Logs live for ever, so names are spelled out, unknown fields are skipped on read, and a payload of a newer
//! version than this program knows is refused rather than guessed. Reading splits a payload into its entries and
//! leaves the entities' events undecoded: one that this program does not know concerns its entity alone. Names and
//! ids repeat from entry to entry, so a payload of some size is stored as an LZ4 block. Layout:
//! `docs/reference/storage.md`.

mod packed;
mod scan;

pub use packed::unpack;

use bytes::Bytes;
use chargeplane_domain::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of a payload with its entries in the clear.
pub const PLAIN_VERSION: u16 = 1;

/// Version of a payload that holds another one, packed.
pub const PACKED_VERSION: u16 = 2;

/// Bytes of a payload before its first entry.
const PAYLOAD_HEADER: usize = 19;

/// Room for an entry, so that a batch of debits is encoded into one allocation.
const ENTRY_ROOM: usize = 320;

/// One entry: an entity's event, or one of the shard itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry<E> {
    /// An event of the entity named by `key`.
    Entity { key: String, event: E },
    /// An event of the shard.
    Shard(ShardEvent),
}

/// An [`Entry`] of an entity that borrows what it says. Its stored form is the same.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum EntryRef<'a, E> {
    Entity { key: &'a str, event: &'a E },
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

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredEntry<'a> {
    /// An event of the entity named by `key`.
    Entity { key: &'a str, event: StoredEvent<'a> },
    /// An event of the shard.
    Shard(ShardEvent),
}

/// An entity's event, not decoded yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEvent<'a>(&'a [u8]);

impl<'a> StoredEvent<'a> {
    /// The event, unless it was written by code that knows more than this.
    pub fn decode<E: Deserialize<'a>>(self) -> Result<E, PayloadError> {
        rmp_serde::from_slice(self.0).map_err(|error| PayloadError::Malformed(error.to_string()))
    }

    /// The name of its variant and what is in it, for who wants a few variants only. None when it is not of this form.
    pub fn variant(self) -> Option<(&'a str, StoredEvent<'a>)> {
        scan::variant(self.0).map(|(name, content)| (name, StoredEvent(content)))
    }
}

/// Why a payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Written by a newer program.
    #[error("payload version {0}, newer than this program knows ({PACKED_VERSION})")]
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
    /// The events of the entity named by `key`.
    pub fn of<E: Serialize>(key: &str, events: &[E]) -> Result<Self, PayloadError> {
        let mut encoded = Self { bytes: Vec::with_capacity(events.len().saturating_mul(ENTRY_ROOM)), count: 0 };
        events.iter().try_for_each(|event| encoded.push_event(key, event))?;
        Ok(encoded)
    }

    /// Adds an entry.
    pub fn push<E: Serialize>(&mut self, entry: &Entry<E>) -> Result<(), PayloadError> {
        self.write(entry)
    }

    /// Adds an event of the entity named by `key`.
    pub fn push_event<E: Serialize>(&mut self, key: &str, event: &E) -> Result<(), PayloadError> {
        self.write(&EntryRef::Entity { key, event })
    }

    fn write(&mut self, entry: &impl Serialize) -> Result<(), PayloadError> {
        let before = self.bytes.len();
        if let Err(error) = rmp_serde::encode::write_named(&mut self.bytes, entry) {
            self.bytes.truncate(before);
            return Err(PayloadError::Encode(error.to_string()));
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Adds an event of the shard itself.
    pub fn push_shard(&mut self, event: &ShardEvent) -> Result<(), PayloadError> {
        // Of which entity's events is of no matter: there is none here.
        self.write(&Entry::<()>::Shard(event.clone()))
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Bytes that they take in a payload.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The payload of a frame with these entries.
    pub fn into_payload(self) -> Bytes {
        Self::join([&self])
    }

    /// The payload of a frame with the entries of all of these, in their order, packed where that is worth it.
    pub fn join<'a>(parts: impl IntoIterator<Item = &'a Self> + Clone) -> Bytes {
        let size: usize = parts.clone().into_iter().map(|part| part.bytes.len()).sum();
        let count = parts.clone().into_iter().fold(0u32, |sum, part| sum.saturating_add(part.count));
        let mut payload = Vec::with_capacity(size.saturating_add(PAYLOAD_HEADER));
        // A map of "v" and "entries", as serde reads it back.
        payload.extend_from_slice(b"\x82\xa1v");
        payload.push(0xcd);
        payload.extend_from_slice(&PLAIN_VERSION.to_be_bytes());
        payload.extend_from_slice(b"\xa7entries\xdd");
        payload.extend_from_slice(&count.to_be_bytes());
        parts.into_iter().for_each(|part| payload.extend_from_slice(&part.bytes));
        Bytes::from(packed::pack(payload))
    }
}

/// Splits an unpacked payload into its entries. An error means that it cannot be told where its entries begin and
/// end, or that the shard's own event cannot be read.
pub fn read(payload: &[u8]) -> Result<Vec<StoredEntry<'_>>, PayloadError> {
    scan::entries(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

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
        let parts = [encode(&entries[..1]), encode(&entries[1..])];
        assert_eq!(parts.each_ref().map(EncodedEntries::count), [1, 2]);
        let size: usize = parts.iter().map(EncodedEntries::len).sum();
        let payload = EncodedEntries::join(&parts);
        assert_eq!(payload.len(), size + PAYLOAD_HEADER);
        assert_eq!(decoded(&payload), Ok(entries));
    }

    fn decoded(payload: &[u8]) -> Result<Vec<Entry<u32>>, PayloadError> {
        let decode = |entry: StoredEntry<'_>| match entry {
            StoredEntry::Entity { key, event } => Ok(Entry::Entity { key: key.to_owned(), event: event.decode()? }),
            StoredEntry::Shard(event) => Ok(Entry::Shard(event)),
        };
        read(payload)?.into_iter().map(decode).collect()
    }

    #[test]
    fn an_event_of_another_program_concerns_its_entity_alone() {
        #[derive(Serialize)]
        #[serde(rename_all = "snake_case")]
        enum Later {
            Known(u32),
            Unknown { deep: Vec<(Option<bool>, f64, i64)>, text: String, bytes: serde_bytes::ByteBuf },
        }
        let deep = [(None, 0.5, -1), (Some(true), 1e300, i64::MIN)].repeat(40);
        let (text, bytes) = ("t".repeat(70_000), serde_bytes::ByteBuf::from(vec![7; 300]));
        let unknown = Later::Unknown { deep, text, bytes };
        let entity = |key: &str, event| Entry::Entity { key: key.to_owned(), event };
        let entries = [entity("a", Later::Known(1)), entity("b", unknown), entity("a", Later::Known(2))];
        let payload = encode(&entries).into_payload();
        let payload = unpack(&payload).expect("unpacks");
        let read = read(&payload).expect("the framing is sound");
        let events: Vec<_> = read
            .iter()
            .map(|entry| match entry {
                StoredEntry::Entity { key, event } => (*key, event.decode::<BTreeMap<String, u32>>().ok()),
                StoredEntry::Shard(event) => panic!("{event:?}"),
            })
            .collect();
        let known = |value| Some(BTreeMap::from([("known".to_owned(), value)]));
        assert_eq!(events, [("a", known(1)), ("b", None), ("a", known(2))]);
    }

    #[test]
    fn a_payload_that_ends_too_soon_is_an_error_wherever_it_ends() {
        let entries = [
            Entry::Entity { key: "account:main/a".into(), event: vec![1u64 << 40; 3] },
            Entry::Shard(ShardEvent::DeadLetterTaken { number: 3 }),
        ];
        let payload = encode(&entries).into_payload();
        assert!(read(&payload).is_ok());
        for len in 0..payload.len() {
            assert!(matches!(read(&payload[..len]), Err(PayloadError::Malformed(_))), "cut to {len} bytes");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_rubbish_is_an_error() {
        #[derive(Serialize)]
        struct Newer {
            v: u16,
            other: bool,
        }
        let newer = rmp_serde::to_vec_named(&Newer { v: 3, other: true }).expect("encodes");
        assert_eq!(read(&newer), Err(PayloadError::Version(3)));
        assert_eq!(unpack(&newer), Err(PayloadError::Version(3)));
        assert!(matches!(read(&[0xc1, 0, 1]), Err(PayloadError::Malformed(_))));
    }
}
