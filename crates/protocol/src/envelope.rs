//! The sealed envelope: a 56-byte header in the clear, AES-256-GCM over the rest, the header as associated data.
//!
//! Keys. Each (direction, stream) of a gateway has its own key, derived from the gateway's root by HKDF-SHA256
//! (RFC 5869); so sequences of different streams, and the two directions, never share a nonce under one key.
//! Nonces (the fixed-and-counter form of RFC 5116 section 3.2) are not transmitted: upward boot epoch and
//! sequence, downward the shard's epoch and a counter, both masked with bytes of the derivation.
//! Uniqueness is the caller's duty: a boot epoch is durable before its first seal, a shard epoch is raised
//! by every open, and what was sealed once is stored and sent again byte by byte.
//!
//! Part of DATA-1: nothing is believed of a packet, not even its header, before [`StreamKey::open`] said yes.

use crate::limits::{MAX_ITEMS, MAX_PACKET};
use crate::message::Stream;
use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use chargeplane_domain::ids::GatewayId;
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use std::fmt;

/// First two bytes of every packet, "CP".
pub const MAGIC: [u8; 2] = *b"CP";
/// Version of the header's layout.
pub const VERSION: u8 = 1;
/// AES-256-GCM, the one suite spoken here.
pub const SUITE_AES_256_GCM: u8 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 56;
/// Bytes of the tag.
pub const TAG_LEN: usize = 16;
/// Most bytes that fit into one packet.
pub const MAX_PLAIN: usize = MAX_PACKET - HEADER_LEN - TAG_LEN;

/// Flag bit: the plain bytes are compressed. Refused by this version.
pub const FLAG_COMPRESSED: u8 = 1;
/// Flag bit: kept while the gateway was cut off.
pub const FLAG_BACKFILL: u8 = 1 << 1;
/// Flag bit: left at once because something in it was urgent.
pub const FLAG_URGENT: u8 = 1 << 2;
/// Flag bit: the last of a backlog. Not set by this version.
pub const FLAG_LAST: u8 = 1 << 3;
/// Flag bit: contains declared losses.
pub const FLAG_GAP: u8 = 1 << 4;

const SALT: &[u8] = b"chargeplane-v1";
const INFO: &[u8] = b"chargeplane/batch/v1";

/// The header. On the wire: big-endian, in this order, after magic and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Bits `FLAG_*`; unknown bits are ignored, but authenticated.
    pub flags: u8,
    /// The cipher suite.
    pub suite: u8,
    /// The stream's number; 0 downward.
    pub stream: u8,
    /// Items inside, for counting before opening.
    pub items: u16,
    /// The gateway's number, see [`gateway_number`].
    pub node: u64,
    /// Which root key.
    pub key_epoch: u32,
    /// Upward the boot epoch, downward the shard's epoch.
    pub boot: u32,
    /// Upward the sequence in (stream, boot), from 1; downward a counter under the epoch.
    pub seq: u64,
    /// Number of the first event, or of the first sample of the first run. For people with a packet dump.
    pub first_item: u64,
    /// The moment of the first item, or of the sealing, in microseconds since 1970.
    pub base_us: u64,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// Length of the encrypted bytes, without the tag.
    pub cipher_len: u32,
}

/// Why a packet was not opened. Nothing may change by such a packet but a counter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Longer than [`MAX_PACKET`].
    #[error("packet has {len} bytes, more than {MAX_PACKET}")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// Shorter than header and tag.
    #[error("packet has {len} bytes, less than header and tag")]
    TooShort {
        /// Its length.
        len: usize,
    },
    /// Does not begin with [`MAGIC`].
    #[error("packet does not begin with the magic bytes")]
    Magic,
    /// Another layout.
    #[error("header version {found} is not spoken here, only {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Another cipher suite.
    #[error("cipher suite {found} is not spoken here, only {SUITE_AES_256_GCM}")]
    Suite {
        /// The suite found.
        found: u8,
    },
    /// No such stream.
    #[error("stream {found} does not exist")]
    Stream {
        /// The number found.
        found: u8,
    },
    /// Compression was announced.
    #[error("compressed packets are not spoken here")]
    Compressed,
    /// Lengths in the header do not add up to the packet, or to each other.
    #[error("the lengths in the header do not fit the packet")]
    Length,
    /// More than [`MAX_ITEMS`] items announced.
    #[error("{found} items announced, more than {MAX_ITEMS}")]
    Items {
        /// The number found.
        found: u16,
    },
    /// From another gateway than the one whose key this is.
    #[error("the header names another gateway")]
    Node,
    /// Sealed under another root key.
    #[error("sealed under key epoch {found}")]
    KeyEpoch {
        /// The key epoch found.
        found: u32,
    },
    /// Not sealed with this key, or changed on the way.
    #[error("authentication failed")]
    Authentication,
}

impl OpenError {
    /// A stable code for counters and notices.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "packet_too_large",
            Self::TooShort { .. } => "packet_too_short",
            Self::Magic => "packet_magic",
            Self::Version { .. } => "packet_version",
            Self::Suite { .. } => "packet_suite",
            Self::Stream { .. } => "packet_stream",
            Self::Compressed => "packet_compressed",
            Self::Length => "packet_length",
            Self::Items { .. } => "packet_items",
            Self::Node => "packet_node",
            Self::KeyEpoch { .. } => "packet_key_epoch",
            Self::Authentication => "packet_authentication",
        }
    }
}

/// Why plain bytes were not sealed: always a fault of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// More than [`MAX_PLAIN`] bytes.
    #[error("{len} bytes do not fit into a packet")]
    TooLarge {
        /// Their length.
        len: usize,
    },
    /// More than [`MAX_ITEMS`] items.
    #[error("{items} items do not fit into a packet")]
    Items {
        /// Their number.
        items: usize,
    },
    /// The shard's epoch has outgrown the four bytes of the nonce.
    #[error("epoch {epoch} does not fit into a nonce")]
    Epoch {
        /// The epoch.
        epoch: u64,
    },
    /// The cipher refused; cannot happen below the lengths above.
    #[error("the cipher refused")]
    Cipher,
}

impl Header {
    /// Reads and checks the header of a packet: everything that can be refused without the key.
    ///
    /// The result is what the packet *claims*; only opening makes it true.
    pub fn peek(packet: &[u8]) -> Result<Self, OpenError> {
        if packet.len() > MAX_PACKET {
            return Err(OpenError::TooLarge { len: packet.len() });
        }
        let Some((bytes, rest)) = packet.split_first_chunk::<HEADER_LEN>() else {
            return Err(OpenError::TooShort { len: packet.len() });
        };
        let Some(cipher_len) = rest.len().checked_sub(TAG_LEN) else {
            return Err(OpenError::TooShort { len: packet.len() });
        };
        if bytes[..2] != MAGIC {
            return Err(OpenError::Magic);
        }
        if bytes[2] != VERSION {
            return Err(OpenError::Version { found: bytes[2] });
        }
        let header = Self::from_bytes(bytes);
        if header.suite != SUITE_AES_256_GCM {
            return Err(OpenError::Suite { found: header.suite });
        }
        if Stream::from_u8(header.stream).is_none() {
            return Err(OpenError::Stream { found: header.stream });
        }
        if header.flags & FLAG_COMPRESSED != 0 {
            return Err(OpenError::Compressed);
        }
        if header.cipher_len as usize != cipher_len || header.plain_len != header.cipher_len {
            return Err(OpenError::Length);
        }
        if header.items as usize > MAX_ITEMS {
            return Err(OpenError::Items { found: header.items });
        }
        Ok(header)
    }

    fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            flags: bytes[3],
            suite: bytes[4],
            stream: bytes[5],
            items: u16_at(6),
            node: u64_at(8),
            key_epoch: u32_at(16),
            boot: u32_at(20),
            seq: u64_at(24),
            first_item: u64_at(32),
            base_us: u64_at(40),
            plain_len: u32_at(48),
            cipher_len: u32_at(52),
        }
    }

    /// The header as it travels.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = self.flags;
        bytes[4] = self.suite;
        bytes[5] = self.stream;
        bytes[6..8].copy_from_slice(&self.items.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.node.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.key_epoch.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.boot.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.seq.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.first_item.to_be_bytes());
        bytes[40..48].copy_from_slice(&self.base_us.to_be_bytes());
        bytes[48..52].copy_from_slice(&self.plain_len.to_be_bytes());
        bytes[52..].copy_from_slice(&self.cipher_len.to_be_bytes());
        bytes
    }
}

/// The two directions; part of the derivation, so neither can be played back as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Gateway to node.
    Up = 0,
    /// Node to gateway.
    Down = 1,
}

/// A gateway's root key, as given at enrolment. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct GatewayKey {
    /// The root.
    pub root: [u8; 32],
    /// Which root; rotation raises it.
    pub key_epoch: u32,
}

impl fmt::Debug for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatewayKey {{ key_epoch: {}, .. }}", self.key_epoch)
    }
}

/// The number that stands for a gateway in headers: the first eight bytes of SHA-256 over its id's text form
/// `tenant/local`, big-endian. It selects nothing; it binds a packet to its gateway.
pub fn gateway_number(gateway: &GatewayId) -> u64 {
    let digest = Sha256::digest(gateway.as_str().as_bytes());
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

/// The key of one direction and stream of one gateway.
#[derive(Clone)]
pub struct StreamKey {
    cipher: Aes256Gcm,
    ivmask: [u8; 12],
    node: u64,
    key_epoch: u32,
    stream: u8,
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamKey {{ stream: {}, key_epoch: {}, .. }}", self.stream, self.key_epoch)
    }
}

/// A packet that was sealed with the key at hand, and not changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its header, true by now.
    pub header: Header,
    /// What was sealed.
    pub plain: Vec<u8>,
}

impl StreamKey {
    /// Derives the key of one direction and stream.
    pub fn derive(key: &GatewayKey, node: u64, direction: Direction, stream: u8) -> Self {
        let okm = derive_bytes(key, node, direction, stream);
        let mut secret = [0; 32];
        secret.copy_from_slice(&okm[..32]);
        let mut ivmask = [0; 12];
        ivmask.copy_from_slice(&okm[32..]);
        Self { cipher: Aes256Gcm::new(&Array::from(secret)), ivmask, node, key_epoch: key.key_epoch, stream }
    }

    /// Seals `plain` under `boot` and `seq`, which must never have been used with this key before.
    ///
    /// Of `header` the caller sets `flags`, `items`, `boot`, `seq`, `first_item` and `base_us`; the rest is set here.
    pub fn seal(&self, header: Header, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        if plain.len() > MAX_PLAIN {
            return Err(SealError::TooLarge { len: plain.len() });
        }
        if header.items as usize > MAX_ITEMS {
            return Err(SealError::Items { items: header.items as usize });
        }
        let len = u32::try_from(plain.len()).map_err(|_| SealError::TooLarge { len: plain.len() })?;
        let header = Header {
            flags: header.flags & !FLAG_COMPRESSED,
            suite: SUITE_AES_256_GCM,
            stream: self.stream,
            node: self.node,
            key_epoch: self.key_epoch,
            plain_len: len,
            cipher_len: len,
            ..header
        };
        let aad = header.to_bytes();
        let mut packet = Vec::with_capacity(HEADER_LEN + plain.len() + TAG_LEN);
        packet.extend_from_slice(&aad);
        packet.extend_from_slice(plain);
        let tag = encrypt(&self.cipher, self.nonce(&header), &aad, &mut packet[HEADER_LEN..])?;
        packet.extend_from_slice(&tag);
        Ok(packet)
    }

    /// Opens a packet that claims to be of this gateway, stream and key epoch.
    pub fn open(&self, packet: &[u8]) -> Result<Opened, OpenError> {
        let header = Header::peek(packet)?;
        if header.node != self.node {
            return Err(OpenError::Node);
        }
        if header.stream != self.stream {
            return Err(OpenError::Stream { found: header.stream });
        }
        if header.key_epoch != self.key_epoch {
            return Err(OpenError::KeyEpoch { found: header.key_epoch });
        }
        let (aad, rest) = packet.split_at(HEADER_LEN);
        let (cipher, tag) = rest.split_at(rest.len() - TAG_LEN);
        let mut plain = cipher.to_vec();
        let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| OpenError::Length)?;
        decrypt(&self.cipher, self.nonce(&header), aad, &mut plain, tag)?;
        Ok(Opened { header, plain })
    }

    fn nonce(&self, header: &Header) -> [u8; 12] {
        let mut nonce = self.ivmask;
        let counter = header.boot.to_be_bytes().into_iter().chain(header.seq.to_be_bytes());
        for (byte, part) in nonce.iter_mut().zip(counter) {
            *byte ^= part;
        }
        nonce
    }
}

/// AES-256-GCM in place; returns the tag.
fn encrypt(cipher: &Aes256Gcm, nonce: [u8; 12], aad: &[u8], body: &mut [u8]) -> Result<[u8; TAG_LEN], SealError> {
    let tag = cipher.encrypt_inout_detached(&Array::from(nonce), aad, body.into()).map_err(|_| SealError::Cipher)?;
    Ok(tag.into())
}

/// The reverse. After an error `body` is nobody's business.
fn decrypt(
    cipher: &Aes256Gcm,
    nonce: [u8; 12],
    aad: &[u8],
    body: &mut [u8],
    tag: [u8; TAG_LEN],
) -> Result<(), OpenError> {
    cipher
        .decrypt_inout_detached(&Array::from(nonce), aad, body.into(), &Array::from(tag))
        .map_err(|_| OpenError::Authentication)
}

/// HKDF-SHA256 with the derivation's salt and info: 32 bytes of key, 12 of mask.
fn derive_bytes(key: &GatewayKey, node: u64, direction: Direction, stream: u8) -> [u8; 44] {
    let mut okm = [0; 44];
    let info = derivation_info(node, key.key_epoch, direction, stream);
    let expanded = Hkdf::<Sha256>::new(Some(SALT), &key.root).expand(&info, &mut okm);
    debug_assert!(expanded.is_ok(), "44 bytes are below HKDF's bound of 255 blocks");
    okm
}

fn derivation_info(node: u64, key_epoch: u32, direction: Direction, stream: u8) -> Vec<u8> {
    let mut info = INFO.to_vec();
    info.extend_from_slice(&[SUITE_AES_256_GCM, direction as u8, stream]);
    info.extend_from_slice(&node.to_be_bytes());
    info.extend_from_slice(&key_epoch.to_be_bytes());
    info
}

/// All keys of one gateway under one root, derived once.
#[derive(Debug, Clone)]
pub struct Keyring {
    up: [StreamKey; Stream::ALL.len()],
    down: StreamKey,
}

impl Keyring {
    /// Derives the keys of `gateway`.
    pub fn new(gateway: &GatewayId, key: &GatewayKey) -> Self {
        let node = gateway_number(gateway);
        Self {
            up: Stream::ALL.map(|stream| StreamKey::derive(key, node, Direction::Up, stream.as_u8())),
            down: StreamKey::derive(key, node, Direction::Down, 0),
        }
    }

    /// Which root these keys come from.
    pub fn key_epoch(&self) -> u32 {
        self.down.key_epoch
    }

    /// Seals a batch; see [`StreamKey::seal`].
    pub fn seal_up(&self, stream: Stream, header: Header, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        self.up[stream as usize].seal(header, plain)
    }

    /// Opens a packet from the gateway, with the key of the stream that its header names.
    pub fn open_up(&self, packet: &[u8]) -> Result<(Stream, Opened), OpenError> {
        let header = Header::peek(packet)?;
        let stream = Stream::from_u8(header.stream).ok_or(OpenError::Stream { found: header.stream })?;
        Ok((stream, self.up[stream as usize].open(packet)?))
    }

    /// Seals a message to the gateway. `counter` must be new under `epoch`; the epoch is the shard's, so two
    /// owners never share a nonce.
    pub fn seal_down(
        &self,
        epoch: u64,
        counter: u64,
        items: usize,
        at_ms: i64,
        plain: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let header = Header {
            boot: u32::try_from(epoch).map_err(|_| SealError::Epoch { epoch })?,
            seq: counter,
            items: u16::try_from(items).map_err(|_| SealError::Items { items })?,
            base_us: u64::try_from(at_ms).unwrap_or(0).saturating_mul(1000),
            ..Header::default()
        };
        self.down.seal(header, plain)
    }

    /// Opens a packet to the gateway.
    pub fn open_down(&self, packet: &[u8]) -> Result<Opened, OpenError> {
        self.down.open(packet)
    }
}

#[cfg(test)]
mod tests;
