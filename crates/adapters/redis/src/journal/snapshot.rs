//! Snapshots: lists of pieces of a megabyte, so that no single command is large.
//!
//! The first piece is a header: the frame's hash (32 bytes), CRC-32C (4) and length (8, little-endian) of what
//! follows. A snapshot is put together under a name of its own, which ends by itself if its maker does not finish,
//! and becomes one of the shard's by a rename in the script that judges the epoch.

use super::{READ_LIMIT, RedisJournal, in_shard, parsed};
use crate::keys::{digits, number};
use crate::link::{LinkError, Script};
use bytes::{Bytes, BytesMut};
use chargeplane_cluster::frame::FrameHash;
use chargeplane_cluster::journal::{JournalError, Snapshot};
use chargeplane_domain::placement::ShardId;
use redis::Value;

/// Largest snapshot.
pub const MAX_SNAPSHOT: usize = 512 << 20;

/// Bytes of a piece.
const PIECE: usize = 1 << 20;

/// Pieces in one round trip.
const PIECES_AT_ONCE: usize = 4;

/// Seconds after which an unfinished upload is gone.
const UPLOAD_LIFE_S: u32 = 600;

const HEADER: usize = 44;

fn header(shard: ShardId, snapshot: &Snapshot) -> Vec<u8> {
    let mut header = snapshot.hash.as_bytes().to_vec();
    header.extend_from_slice(&checksum(shard, snapshot.lsn, snapshot.hash, &snapshot.bytes).to_le_bytes());
    header.extend_from_slice(&(snapshot.bytes.len() as u64).to_le_bytes());
    header
}

/// Covers everything a snapshot says, also in its name.
fn checksum(shard: ShardId, lsn: u64, hash: FrameHash, bytes: &[u8]) -> u32 {
    let start = crc32c::crc32c(shard.to_string().as_bytes());
    let start = crc32c::crc32c_append(start, &lsn.to_le_bytes());
    let start = crc32c::crc32c_append(start, hash.as_bytes());
    crc32c::crc32c_append(start, bytes)
}

/// Puts a snapshot together again; none when anything of it is wrong.
fn assemble(shard: ShardId, lsn: u64, header: &[u8], bytes: Bytes) -> Option<Snapshot> {
    let header: &[u8; HEADER] = header.try_into().ok()?;
    let (hash, rest) = header.split_first_chunk::<32>()?;
    let (crc, length) = rest.split_first_chunk::<4>()?;
    let hash = FrameHash(*hash);
    let whole = u64::from_le_bytes(length.try_into().ok()?) == bytes.len() as u64;
    let intact = checksum(shard, lsn, hash, &bytes) == u32::from_le_bytes(*crc);
    (whole && intact).then_some(Snapshot { lsn, hash, bytes })
}

impl RedisJournal {
    /// The newest intact snapshot not beyond `last_lsn`, and the numbers of damaged ones that are newer.
    pub(super) async fn newest_snapshot(
        &self,
        shard: ShardId,
        last_lsn: u64,
    ) -> Result<(Option<Snapshot>, Vec<u64>), JournalError> {
        let key = self.keys(shard).snapshots();
        let names = self.reader.ask(READ_LIMIT, redis::cmd("ZREVRANGE").arg(key).arg(0).arg(-1)).await;
        let names: Vec<Vec<u8>> = parsed(names.map_err(|error| in_shard(error, shard, 0))?)?;
        let mut damaged = Vec::new();
        for lsn in names.iter().filter_map(|name| number(name)).filter(|lsn| *lsn <= last_lsn) {
            match self.snapshot_at(shard, lsn).await? {
                Some(snapshot) => return Ok((Some(snapshot), damaged)),
                None => damaged.push(lsn),
            }
        }
        Ok((None, damaged))
    }

    async fn snapshot_at(&self, shard: ShardId, lsn: u64) -> Result<Option<Snapshot>, JournalError> {
        let key = format!("{}{}", self.keys(shard).snapshot_prefix(), digits(lsn));
        let (mut bytes, mut head, mut from) = (BytesMut::new(), None, 0);
        loop {
            let upto = from + PIECES_AT_ONCE - 1;
            let range = self.reader.ask(READ_LIMIT, redis::cmd("LRANGE").arg(&key).arg(from).arg(upto)).await;
            let pieces: Vec<Vec<u8>> = match range {
                Ok(answer) => parsed(answer)?,
                Err(LinkError::WrongType(_)) => return Ok(None),
                Err(other) => return Err(other.into()),
            };
            if pieces.is_empty() || bytes.len() > MAX_SNAPSHOT {
                return Ok(head.and_then(|head: Vec<u8>| assemble(shard, lsn, &head, bytes.freeze())));
            }
            from += pieces.len();
            let mut pieces = pieces.into_iter();
            if head.is_none() {
                head = pieces.next();
            }
            pieces.for_each(|piece| bytes.extend_from_slice(&piece));
        }
    }

    pub(super) async fn keep_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> Result<bool, JournalError> {
        let (lsn, length) = (snapshot.lsn, snapshot.bytes.len());
        if length > MAX_SNAPSHOT {
            return Err(JournalError::TooLarge { shard, bytes: length, limit: MAX_SNAPSHOT });
        }
        // Frames do not change, so this may be looked at before; the epoch is judged once more at the end.
        if self.hash_at(shard, lsn).await? != (Some(snapshot.hash), epoch) {
            return Ok(false);
        }
        let keys = self.keys(shard);
        let nonce = getrandom::u64().map_err(|error| JournalError::Io(format!("no random number: {error}")))?;
        let upload = keys.upload(nonce);
        let header = header(shard, &snapshot);
        let pieces: Vec<&[u8]> = std::iter::once(&header[..]).chain(snapshot.bytes.chunks(PIECE)).collect();
        for some in pieces.chunks(PIECES_AT_ONCE) {
            let push = self.writer.run(READ_LIMIT, |_, pipe| {
                pipe.cmd("RPUSH").arg(&upload).arg(some);
                pipe.cmd("EXPIRE").arg(&upload).arg(UPLOAD_LIFE_S);
            });
            push.await?;
        }
        let publish = self.write(|live, pipe| {
            let call = live.call(pipe, Script::Publish, &[&keys.head(), &keys.snapshots(), &upload]);
            call.arg(keys.snapshot_prefix()).arg(digits(epoch)).arg(digits(lsn)).arg(pieces.len());
        });
        let word: String = parsed(publish.await?.pop().unwrap_or(Value::Nil))?;
        match &*word {
            "kept" => Ok(true),
            "refused" => Ok(false),
            _ => Err(JournalError::OutcomeUnknown(format!("the upload of snapshot {lsn} of {shard} is {word}"))),
        }
    }
}
