//! The simulated disk under the simulated store: one file of records, of which a crash keeps what was synced and any
//! beginning of the rest, torn wherever it likes. It stores frames in their real encoding and judges them by the real
//! rules of the journal.
//!
//! Layout of a record: length of what follows (u32), kind, family, shard (u16), body, checksum over all but the length
//! (CRC-32C). The mark is the length that was synced when the last answer was let out: whatever is broken before it is
//! damage, whatever is broken behind it was never acknowledged and is cut off.

use crate::dice::Dice;
use crate::world::StorePlant;
use bytes::Bytes;
use chargeplane_cluster::frame::{Frame, FrameHash, MAX_PAYLOAD};
use chargeplane_cluster::journal::{
    ChainCheck, CommitOutcome, JournalError, Judgement, OpenedShard, ShardHead, Snapshot, judge,
};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use std::collections::BTreeMap;
use std::ops::Range;

const HEADER: usize = 8;
const TRAILER: usize = 4;
pub const OPENED: u8 = 1;
pub const FRAME: u8 = 2;
const RELEASED: u8 = 3;
const SNAPSHOT: u8 = 4;

struct Log {
    head: ShardHead,
    /// Where the bodies of its frames are.
    frames: Vec<Range<usize>>,
    snapshots: Vec<Snapshot>,
}

#[derive(Default)]
pub struct Disk {
    pub plant: Option<StorePlant>,
    /// The file as programs see it.
    file: Vec<u8>,
    /// So much of it survives a crash.
    synced: usize,
    /// Survives a crash as well.
    mark: usize,
    /// What a running store knows of the file.
    logs: BTreeMap<ShardId, Log>,
}

/// What a crash and the start after it did.
pub struct Recovery {
    /// Bytes that were written and not synced.
    pub unsynced: usize,
    /// Bytes of them that are gone.
    pub lost: usize,
    /// A record was cut off in its middle.
    pub torn: bool,
}

/// A flipped bit.
#[derive(Debug, Clone, Copy)]
pub struct Rot {
    pub shard: ShardId,
    at: usize,
    bit: u8,
}

/// A record of the file, as anybody may read it.
pub struct Record<'a> {
    pub kind: u8,
    pub shard: ShardId,
    pub body: &'a [u8],
    /// Where the next one begins.
    pub end: usize,
    start: usize,
    sound: bool,
}

/// The record at an offset; none at the end, or where its length or its shard makes no sense.
pub fn record_at(file: &[u8], at: usize) -> Option<Record<'_>> {
    let length = u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?) as usize;
    let rest = file.get(at + 4..at.checked_add(4)?.checked_add(length)?)?;
    let (content, checksum) = rest.split_last_chunk::<TRAILER>()?;
    let [kind, family, low, high] = *content.first_chunk::<4>()?;
    let shard = ShardId { family: Family::from_code(family)?, index: u16::from_le_bytes([low, high]) };
    let sound = crc32c::crc32c(content) == u32::from_le_bytes(*checksum);
    Some(Record { kind, shard, body: &content[4..], start: at + HEADER, end: at + 4 + length, sound })
}

impl Disk {
    pub fn len(&self) -> usize {
        self.file.len()
    }

    /// What would survive a crash now.
    pub fn durable(&self) -> &[u8] {
        &self.file[..self.synced]
    }

    pub fn is_synced(&self, upto: usize) -> bool {
        self.synced >= upto
    }

    /// The first so many bytes are on the platter, and the store has noted it.
    pub fn sync(&mut self, upto: usize) {
        self.synced = self.synced.max(upto);
        self.mark = self.synced;
    }

    fn write(&mut self, kind: u8, shard: ShardId, body: &[u8]) -> Range<usize> {
        let length = u32::try_from(4 + body.len() + TRAILER).expect("records are small");
        self.file.extend_from_slice(&length.to_le_bytes());
        let start = self.file.len();
        self.file.extend_from_slice(&[kind, shard.family.code()]);
        self.file.extend_from_slice(&shard.index.to_le_bytes());
        self.file.extend_from_slice(body);
        let checksum = crc32c::crc32c(&self.file[start..]);
        self.file.extend_from_slice(&checksum.to_le_bytes());
        start + 4..start + 4 + body.len()
    }

    fn log(&mut self, shard: ShardId) -> &mut Log {
        let last_hash = FrameHash::genesis(shard);
        let head = || ShardHead { shard, owner: None, epoch: 0, last_lsn: 0, last_hash };
        self.logs.entry(shard).or_insert_with(|| Log { head: head(), frames: Vec::new(), snapshots: Vec::new() })
    }

    pub fn heads(&self) -> Vec<ShardHead> {
        self.logs.values().map(|log| log.head.clone()).collect()
    }

    pub fn head(&self, shard: ShardId) -> Option<&ShardHead> {
        self.logs.get(&shard).map(|log| &log.head)
    }

    /// Raises the epoch, then reads and verifies. To be answered once everything in the file is synced.
    pub fn open(&mut self, shard: ShardId, owner: NodeId) -> Result<OpenedShard, JournalError> {
        let head = &mut self.log(shard).head;
        head.epoch += 1;
        let mut body = head.epoch.to_le_bytes().to_vec();
        body.extend_from_slice(owner.0.as_bytes());
        head.owner = Some(owner);
        self.write(OPENED, shard, &body);
        let log = &self.logs[&shard];
        let snapshot = log.snapshots.last().cloned();
        let (after, hash) = snapshot.as_ref().map_or((0, FrameHash::genesis(shard)), |one| (one.lsn, one.hash));
        let mut chain = ChainCheck::after(shard, after, Some(hash));
        let frames = log.frames.iter().skip(after as usize);
        let tail = frames.map(|place| chain.next(&self.file[place.clone()])).collect::<Result<_, _>>()?;
        chain.finish(&log.head)?;
        let ShardHead { epoch, last_lsn, last_hash, .. } = log.head;
        Ok(OpenedShard { shard, epoch, last_lsn, last_hash, snapshot, tail, damaged_snapshots: Vec::new() })
    }

    pub fn commit(&mut self, frames: &[Frame]) -> Result<Vec<CommitOutcome>, JournalError> {
        if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
            let bytes = frame.payload.len();
            return Err(JournalError::TooLarge { shard: frame.shard, bytes, limit: MAX_PAYLOAD });
        }
        Ok(frames.iter().map(|frame| self.commit_one(frame)).collect())
    }

    fn commit_one(&mut self, frame: &Frame) -> CommitOutcome {
        let hash = frame.hash();
        let Some(mut head) = self.head(frame.shard).cloned() else {
            return CommitOutcome::Fenced { epoch: 0, last_lsn: 0 };
        };
        if self.plant == Some(StorePlant::ForgetEpoch) {
            head.epoch = frame.epoch;
        }
        match judge(&head, frame, hash) {
            Judgement::Store => {
                let place = self.write(FRAME, frame.shard, &frame.encode());
                let log = self.log(frame.shard);
                log.frames.push(place);
                (log.head.last_lsn, log.head.last_hash) = (frame.lsn, hash);
                CommitOutcome::Committed
            }
            Judgement::AlreadyStored => CommitOutcome::Committed,
            Judgement::Fenced { epoch, last_lsn } => CommitOutcome::Fenced { epoch, last_lsn },
        }
    }

    pub fn release(&mut self, shard: ShardId, epoch: u64) -> bool {
        let held = self.head(shard).is_some_and(|head| head.epoch == epoch && head.owner.is_some());
        if held {
            self.write(RELEASED, shard, &epoch.to_le_bytes());
            self.log(shard).head.owner = None;
        }
        held
    }

    pub fn put_snapshot(&mut self, shard: ShardId, epoch: u64, snapshot: Snapshot) -> bool {
        let Some(log) = self.logs.get(&shard) else { return false };
        let owned = log.head.epoch == epoch && log.head.owner.is_some();
        let newest = log.snapshots.last().is_none_or(|last| last.lsn < snapshot.lsn);
        let place = snapshot.lsn.checked_sub(1).and_then(|at| log.frames.get(at as usize)).cloned();
        let frame = place.and_then(|place| Frame::decode(&self.file[place]).ok());
        if !owned || !newest || frame.is_none_or(|frame| frame.hash() != snapshot.hash) {
            return false;
        }
        let mut body = snapshot.lsn.to_le_bytes().to_vec();
        body.extend_from_slice(snapshot.hash.as_bytes());
        body.extend_from_slice(&snapshot.bytes);
        self.write(SNAPSHOT, shard, &body);
        self.log(shard).snapshots.push(snapshot);
        true
    }

    /// Synced frames after a log number.
    pub fn read(&self, shard: ShardId, after: u64, limit: usize) -> Result<Vec<Frame>, JournalError> {
        let mut chain = ChainCheck::after(shard, after, None);
        let frames = self.logs.get(&shard).map_or(&[][..], |log| &log.frames);
        let synced = frames.iter().skip(after as usize).take_while(|place| place.end <= self.synced);
        synced.take(limit).map(|place| chain.next(&self.file[place.clone()])).collect()
    }

    /// The power goes: what was not synced is kept up to anywhere, and one of its sectors may be missing. Then the
    /// store starts again and reads its file.
    pub fn crash(&mut self, dice: &mut Dice) -> Recovery {
        let unsynced = self.file.len() - self.synced;
        let kept = dice.below(unsynced as u64 + 1) as usize;
        self.file.truncate(self.synced + kept);
        if kept > 0 && dice.chance(300) {
            let hole = self.synced + dice.below(kept as u64) as usize;
            let end = (hole + 64).min(self.file.len());
            self.file[hole..end].fill(0);
        }
        let before = self.file.len();
        let torn = self.recover();
        Recovery { unsynced, lost: unsynced.saturating_sub(kept) + (before - self.file.len()), torn }
    }

    fn recover(&mut self) -> bool {
        let (end, last_frame) = self.read_file();
        let torn = end < self.file.len();
        self.file.truncate(end);
        if let Some(start) = last_frame.filter(|_| self.plant == Some(StorePlant::LoseTail)) {
            // What is behind the last frame would not follow without it.
            self.file.truncate(start);
            self.read_file();
        }
        (self.synced, self.mark) = (self.file.len(), self.file.len());
        torn
    }

    /// Learns from the file what is in it, up to the first broken record behind the mark. Returns where that is, and
    /// where the last frame begins.
    fn read_file(&mut self) -> (usize, Option<usize>) {
        let file = std::mem::take(&mut self.file);
        let (mut at, mut last_frame) = (0, None);
        self.logs.clear();
        while let Some(record) = record_at(&file, at).filter(|record| record.sound || at < self.mark) {
            last_frame = if record.kind == FRAME { Some(at) } else { last_frame };
            self.index(&record);
            at = record.end;
        }
        self.file = file;
        (at, last_frame)
    }

    fn index(&mut self, record: &Record<'_>) {
        let place = record.start..record.start + record.body.len();
        let log = self.log(record.shard);
        let number =
            |at: usize| record.body.get(at..at + 8).and_then(|n| n.try_into().ok()).map_or(0, u64::from_le_bytes);
        match record.kind {
            OPENED => {
                log.head.epoch = number(0);
                log.head.owner = Some(NodeId(String::from_utf8_lossy(&record.body[8..]).into_owned().into()));
            }
            FRAME => {
                log.frames.push(place);
                if let Ok(frame) = Frame::decode(record.body) {
                    (log.head.last_lsn, log.head.last_hash) = (frame.lsn, frame.hash());
                } else {
                    // A damaged last frame: the head says that there is one.
                    log.head.last_lsn += 1;
                }
            }
            RELEASED => log.head.owner = None,
            _ => {
                let hash = record.body.get(8..40).and_then(|hash| hash.try_into().ok()).unwrap_or_default();
                let bytes = Bytes::copy_from_slice(record.body.get(40..).unwrap_or_default());
                log.snapshots.push(Snapshot { lsn: number(0), hash: FrameHash(hash), bytes });
            }
        }
    }

    /// Flips a bit of a synced frame of a shard.
    pub fn rot(&mut self, shard: ShardId, dice: &mut Dice) -> Option<Rot> {
        let frames = &self.logs.get(&shard)?.frames;
        let durable = frames.iter().filter(|place| place.end <= self.mark).count();
        let place = frames.get(dice.below(durable as u64) as usize).filter(|_| durable > 0)?;
        let at = place.start + dice.below(place.len() as u64) as usize;
        let bit = dice.below(8) as u8;
        self.file[at] ^= 1 << bit;
        Some(Rot { shard, at, bit })
    }

    /// An operator puts the good copy back.
    pub fn heal(&mut self, rot: Rot) {
        self.file[rot.at] ^= 1 << rot.bit;
        self.read_file();
    }
}
