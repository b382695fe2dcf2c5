//! Logs as a file: whole shards out of any journal, and into any other that does not have them yet.
//!
//! Frames travel as they are stored, so epochs, numbers and hash chain stay what they were (OWN-1), and a journal
//! can move from one store to another. An export verifies what it reads. An import reads the whole file first and
//! writes only when all of it is good; it never adds to a log that has frames.
//!
//! The layout is described in `docs/reference/storage.md`: 8 bytes [`MAGIC`], 2 bytes [`VERSION`], then records of
//! kind, length, body and checksum.

#[cfg(test)]
mod tests;

use crate::frame::{Frame, FrameHash, HEADER_LEN, MAX_PAYLOAD, TRAILER_LEN};
use crate::journal::{ChainCheck, CommitOutcome, Journal, JournalError, ShardHead};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::{Family, ShardId};
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

/// Begins a file.
pub const MAGIC: [u8; 8] = *b"CPLEDGER";

/// The version this program writes.
pub const VERSION: u16 = 1;

/// Frames of one read and of one commit.
const PAGE: usize = 500;

/// Bytes of frames in one commit; a single frame may be larger.
const COMMIT_BYTES: usize = 4 << 20;

/// An epoch is reached by opening the shard so often: beyond this the file is not one of ours.
const MAX_EPOCH: u64 = 1_000_000;

/// A commit whose outcome is unknown is offered so often, with [`RETRY_PAUSE`] between.
const TRIES: usize = 50;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

const SHARD: u8 = 1;
const FRAME: u8 = 2;
const SHARD_END: u8 = 3;
const FILE_END: u8 = 4;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Shards with at least one frame.
    pub shards: u32,
    /// Frames of all of them.
    pub frames: u64,
}

/// Why logs were not exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read or written.
    #[error("the file: {0}")]
    Io(#[from] std::io::Error),
    /// The journal failed, or what it has is damaged.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The file is not an export, or is damaged. Nothing was imported.
    #[error("the file is damaged at byte {at}: {what}; nothing was imported")]
    Damaged { at: u64, what: String },
    /// Written by a newer program.
    #[error("the file has version {0}, newer than this program knows ({VERSION}); nothing was imported")]
    Version(u16),
    /// The journal has something of a shard already. Nothing was imported.
    #[error(
        "{shard} is at frame {last_lsn}, epoch {epoch} already: import into an empty journal; nothing was imported"
    )]
    NotEmpty { shard: ShardId, epoch: u64, last_lsn: u64 },
    /// Somebody else uses the journal, or it did not answer. What was imported so far is there.
    #[error("importing {shard} stopped at frame {lsn}: {what}; empty the journal and begin again")]
    Interrupted { shard: ShardId, lsn: u64, what: String },
}

/// Writes the logs of all shards as they are at the beginning; what is committed meanwhile is left out.
pub async fn export(journal: &dyn Journal, out: &mut (impl Write + Send)) -> Result<Summary, ArchiveError> {
    out.write_all(&MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    let mut summary = Summary::default();
    for head in journal.heads().await?.into_iter().filter(|head| head.last_lsn > 0) {
        write_record(out, SHARD, &shard_body(head.shard))?;
        export_shard(journal, &head, out).await?;
        write_record(out, SHARD_END, &[&head.last_lsn.to_le_bytes()[..], head.last_hash.as_bytes()].concat())?;
        summary.shards = summary.shards.saturating_add(1);
        summary.frames = summary.frames.saturating_add(head.last_lsn);
    }
    write_record(out, FILE_END, &summary_body(&summary))?;
    out.flush()?;
    Ok(summary)
}

async fn export_shard(
    journal: &dyn Journal,
    head: &ShardHead,
    out: &mut (impl Write + Send),
) -> Result<(), ArchiveError> {
    let mut chain = ChainCheck::from_start(head.shard);
    while chain.lsn() < head.last_lsn {
        let frames = journal.read(head.shard, chain.lsn(), PAGE).await?;
        if frames.is_empty() {
            break;
        }
        for frame in frames.iter().take_while(|frame| frame.lsn <= head.last_lsn) {
            chain.accept(frame)?;
            write_record(out, FRAME, &frame.encode())?;
        }
    }
    Ok(chain.finish(head)?)
}

fn shard_body(shard: ShardId) -> [u8; 3] {
    let [low, high] = shard.index.to_le_bytes();
    [shard.family.code(), low, high]
}

fn summary_body(summary: &Summary) -> Vec<u8> {
    [&summary.shards.to_le_bytes()[..], &summary.frames.to_le_bytes()].concat()
}

/// Kind (1 byte), length of the body (4), body, CRC-32C of all three (4).
fn write_record(out: &mut impl Write, kind: u8, body: &[u8]) -> Result<(), ArchiveError> {
    let length = u32::try_from(body.len()).map_err(|_| std::io::Error::other("a frame is too large"))?;
    let length = length.to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[kind]), &length), body);
    out.write_all(&[kind])?;
    out.write_all(&length)?;
    out.write_all(body)?;
    out.write_all(&crc.to_le_bytes())?;
    Ok(())
}

/// What is told of a file while it is read.
enum Item {
    Frame { bytes: Vec<u8> },
    Shard(ShardId),
}

/// Reads a file from its beginning and verifies it.
struct Reader<'a, R> {
    input: &'a mut R,
    at: u64,
    chain: Option<ChainCheck>,
    seen: BTreeSet<ShardId>,
    summary: Summary,
}

impl<'a, R: Read + Seek> Reader<'a, R> {
    fn new(input: &'a mut R) -> Result<Self, ArchiveError> {
        input.seek(SeekFrom::Start(0))?;
        let mut reader = Self { input, at: 0, chain: None, seen: BTreeSet::new(), summary: Summary::default() };
        if reader.take::<8>()? != MAGIC {
            return Err(ArchiveError::Damaged { at: 0, what: "this is no exported ledger".to_owned() });
        }
        let version = u16::from_le_bytes(reader.take()?);
        if version != VERSION {
            return Err(ArchiveError::Version(version));
        }
        Ok(reader)
    }

    fn damaged(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { at: self.at, what: what.into() }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        match self.input.read_exact(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends here, before its end was written"))
            }
            other => {
                self.at = self.at.saturating_add(bytes.len() as u64);
                Ok(other?)
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn record(&mut self) -> Result<(u8, Vec<u8>), ArchiveError> {
        let [kind] = self.take::<1>()?;
        let length = self.take::<4>()?;
        let size = u32::from_le_bytes(length) as usize;
        if size > HEADER_LEN + MAX_PAYLOAD + TRAILER_LEN {
            return Err(self.damaged(format!("a record of {size} bytes")));
        }
        let mut body = vec![0; size];
        self.fill(&mut body)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[kind]), &length), &body);
        if self.take::<4>()? != crc.to_le_bytes() {
            return Err(self.damaged("the checksum does not fit"));
        }
        Ok((kind, body))
    }

    /// The next frame or shard; none at the end of a file that is good from its beginning to here.
    fn next(&mut self) -> Result<Option<Item>, ArchiveError> {
        loop {
            let (kind, body) = self.record()?;
            match (kind, self.chain.take()) {
                (SHARD, None) => {
                    let shard = self.shard_of(&body)?;
                    self.chain = Some(ChainCheck::from_start(shard));
                    return Ok(Some(Item::Shard(shard)));
                }
                (FRAME, Some(mut chain)) => {
                    chain.next(&body).map_err(|error| self.damaged(error.to_string()))?;
                    self.chain = Some(chain);
                    self.summary.frames = self.summary.frames.saturating_add(1);
                    return Ok(Some(Item::Frame { bytes: body }));
                }
                (SHARD_END, Some(chain)) => {
                    let hash = chain.hash().unwrap_or(FrameHash::genesis(chain.shard()));
                    if body != [&chain.lsn().to_le_bytes()[..], hash.as_bytes()].concat() || chain.lsn() == 0 {
                        return Err(self.damaged(format!("{} does not end where it says", chain.shard())));
                    }
                    self.summary.shards = self.summary.shards.saturating_add(1);
                }
                (FILE_END, None) => {
                    let whole = body == summary_body(&self.summary) && self.input.read(&mut [0])? == 0;
                    return if whole { Ok(None) } else { Err(self.damaged("its end does not fit what is in it")) };
                }
                (kind, _) => return Err(self.damaged(format!("a record of kind {kind} in this place"))),
            }
        }
    }

    fn shard_of(&mut self, body: &[u8]) -> Result<ShardId, ArchiveError> {
        let parsed = <[u8; 3]>::try_from(body).ok().and_then(|[family, low, high]| {
            Some(ShardId { family: Family::from_code(family)?, index: u16::from_le_bytes([low, high]) })
        });
        let shard = parsed.ok_or_else(|| self.damaged("a shard that does not exist"))?;
        if !self.seen.insert(shard) {
            return Err(self.damaged(format!("{shard} a second time")));
        }
        Ok(shard)
    }
}

/// Reads a whole file and says what is in it, or what is wrong with it.
pub fn verify(input: &mut (impl Read + Seek)) -> Result<Summary, ArchiveError> {
    let mut reader = Reader::new(input)?;
    while reader.next()?.is_some() {}
    Ok(reader.summary)
}

/// Writes a file's logs into a journal that has none of its shards, and gives the shards up for whoever serves them.
///
/// Frames keep their epochs, and an epoch is reached by opening: each open reads what is there, so a log with very
/// many epochs takes its time.
///
/// # Errors
///
/// A file that is not good as a whole, and a journal that has frames of its shards, are refused before anything is
/// written.
pub async fn import(
    journal: &dyn Journal,
    input: &mut (impl Read + Seek + Send),
    importer: &NodeId,
) -> Result<Summary, ArchiveError> {
    let summary = check_import(journal, input).await?;
    let mut reader = Reader::new(input)?;
    let mut into: Option<Importing<'_>> = None;
    while let Some(item) = reader.next()? {
        match item {
            Item::Shard(shard) => {
                if let Some(done) = into.replace(Importing::new(journal, importer, shard)) {
                    done.finish().await?;
                }
            }
            Item::Frame { bytes } => {
                if let Some(into) = &mut into {
                    into.add(bytes).await?;
                }
            }
        }
    }
    if let Some(done) = into {
        done.finish().await?;
    }
    Ok(summary)
}

/// Everything that can be known before the first write.
async fn check_import(journal: &dyn Journal, input: &mut (impl Read + Seek + Send)) -> Result<Summary, ArchiveError> {
    let heads = journal.heads().await?;
    let mut reader = Reader::new(input)?;
    let mut head = None;
    while let Some(item) = reader.next()? {
        match item {
            Item::Shard(shard) => head = heads.iter().find(|head| head.shard == shard),
            Item::Frame { bytes } => {
                let epoch = Frame::decode(&bytes).map_or(0, |frame| frame.epoch);
                if epoch == 0 || epoch > MAX_EPOCH {
                    return Err(reader.damaged(format!("a frame of epoch {epoch}")));
                }
                if let Some(head) = head.take_if(|head| head.last_lsn > 0 || head.epoch >= epoch) {
                    let (shard, epoch, last_lsn) = (head.shard, head.epoch, head.last_lsn);
                    return Err(ArchiveError::NotEmpty { shard, epoch, last_lsn });
                }
                // Only the first frame meets the journal's own head.
                head = None;
            }
        }
    }
    Ok(reader.summary)
}

/// One shard on its way into the journal.
struct Importing<'a> {
    journal: &'a dyn Journal,
    importer: &'a NodeId,
    shard: ShardId,
    epoch: u64,
    /// Frames of `epoch` that are not written yet.
    frames: Vec<Frame>,
    bytes: usize,
}

impl<'a> Importing<'a> {
    fn new(journal: &'a dyn Journal, importer: &'a NodeId, shard: ShardId) -> Self {
        Self { journal, importer, shard, epoch: 0, frames: Vec::new(), bytes: 0 }
    }

    fn interrupted(&self, lsn: u64, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Interrupted { shard: self.shard, lsn, what: what.into() }
    }

    async fn add(&mut self, bytes: Vec<u8>) -> Result<(), ArchiveError> {
        let frame = Frame::decode(&bytes).map_err(|error| self.interrupted(0, error.to_string()))?;
        let full = self.frames.len() >= PAGE || self.bytes.saturating_add(bytes.len()) > COMMIT_BYTES;
        if full || frame.epoch != self.epoch {
            self.flush().await?;
        }
        while self.epoch < frame.epoch {
            // Opening again after an unknown outcome might raise the epoch beyond the frame's.
            let opened = self.journal.open(self.shard, self.importer.clone()).await;
            self.epoch = opened.map_err(|error| self.interrupted(frame.lsn, error.to_string()))?.epoch;
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.frames.push(frame);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ArchiveError> {
        self.bytes = 0;
        let mut frames = std::mem::take(&mut self.frames);
        for attempt in 0..TRIES {
            let Some(first) = frames.first().map(|frame| frame.lsn) else { return Ok(()) };
            match self.journal.commit(frames.clone()).await {
                Ok(outcomes) if outcomes.iter().all(|outcome| *outcome == CommitOutcome::Committed) => return Ok(()),
                Ok(_) if attempt == 0 => return Err(self.interrupted(first, "somebody else opened the shard")),
                Ok(_) | Err(JournalError::OutcomeUnknown(_)) => tokio::time::sleep(RETRY_PAUSE).await,
                Err(other) => return Err(other.into()),
            }
            // Some of them may be there: only the last of those would be answered as committed again.
            let head = self.journal.heads().await?.into_iter().find(|head| head.shard == self.shard);
            match head {
                Some(head) if head.epoch == self.epoch => frames.retain(|frame| frame.lsn > head.last_lsn),
                _ => return Err(self.interrupted(first, "somebody else opened the shard")),
            }
        }
        let first = frames.first().map_or(0, |frame| frame.lsn);
        if frames.is_empty() { Ok(()) } else { Err(self.interrupted(first, "the journal does not answer")) }
    }

    async fn finish(mut self) -> Result<(), ArchiveError> {
        self.flush().await?;
        self.journal.release(self.shard, self.epoch).await?;
        Ok(())
    }
}
