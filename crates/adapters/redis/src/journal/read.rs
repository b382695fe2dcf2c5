//! Reading the log, and finding damage in it.

use super::{READ_LIMIT, RedisJournal, SEGMENT_FRAMES, in_shard, parsed};
use crate::acknowledged::Acknowledged;
use crate::keys::{digits, number, shards_key};
use crate::link::Script;
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::{ChainCheck, JournalError, OpenedShard, ShardHead};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use redis::Value;

/// Frames of one segment with the head at the same moment.
struct Page {
    epoch: u64,
    last_lsn: u64,
    frames: Vec<Vec<u8>>,
}

pub(super) fn damage(shard: ShardId, lsn: u64, what: String) -> JournalError {
    JournalError::Corrupt { shard, lsn, what }
}

/// A head from its fields.
pub(super) fn head(
    shard: ShardId,
    owner: Option<NodeId>,
    epoch: &[u8],
    lsn: &[u8],
    hash: &[u8],
) -> Result<ShardHead, JournalError> {
    let fields = || {
        let last_hash = FrameHash(hash.try_into().ok()?);
        Some(ShardHead { shard, owner, epoch: number(epoch)?, last_lsn: number(lsn)?, last_hash })
    };
    fields().ok_or_else(|| damage(shard, 0, "its head cannot be read".to_owned()))
}

impl RedisJournal {
    /// At most `limit` frames from `next` on.
    async fn page(&self, shard: ShardId, next: u64, limit: usize) -> Result<Page, JournalError> {
        let keys = self.keys(shard);
        let answers = self.reader.read(READ_LIMIT, |live, pipe| {
            let call = live.call(pipe, Script::Page, &[&keys.head(), &keys.segments()]);
            call.arg(keys.log_prefix()).arg(digits(next)).arg(limit.min(SEGMENT_FRAMES));
        });
        let mut answers = answers.await.map_err(|error| in_shard(error, shard, next))?;
        let answer = answers.pop().unwrap_or(Value::Nil);
        let (epoch, lsn, _, frames): (Vec<u8>, Vec<u8>, Vec<u8>, Vec<Vec<u8>>) = parsed(answer)?;
        let unreadable = || damage(shard, 0, "its head cannot be read".to_owned());
        let (epoch, last_lsn) = (number(&epoch).ok_or_else(unreadable)?, number(&lsn).ok_or_else(unreadable)?);
        Ok(Page { epoch, last_lsn, frames })
    }

    /// The hash of a stored frame and the head's epoch; no hash when the frame is not there or damaged.
    pub(super) async fn hash_at(&self, shard: ShardId, lsn: u64) -> Result<(Option<FrameHash>, u64), JournalError> {
        let page = self.page(shard, lsn, 1).await?;
        let frame = page.frames.first().and_then(|bytes| Frame::decode(bytes).ok());
        Ok((frame.filter(|frame| frame.lsn == lsn).map(|frame| frame.hash()), page.epoch))
    }

    pub(super) async fn read_page(
        &self,
        shard: ShardId,
        after_lsn: u64,
        limit: usize,
    ) -> Result<Vec<Frame>, JournalError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut chain = ChainCheck::after(shard, after_lsn, None);
        let page = self.page(shard, after_lsn.saturating_add(1), limit).await?;
        if page.frames.is_empty() && after_lsn < page.last_lsn {
            return Err(chain.corrupt(after_lsn.saturating_add(1), "it is missing".to_owned()));
        }
        page.frames.iter().map(|bytes| chain.next(bytes)).collect()
    }

    pub(super) async fn read_heads(&self) -> Result<Vec<ShardHead>, JournalError> {
        let names = self.reader.ask(READ_LIMIT, redis::cmd("SMEMBERS").arg(shards_key(&self.prefix))).await?;
        let names: Vec<String> = parsed(names)?;
        let unknown = |name: &String| JournalError::Io(format!("{name:?} stands among the shards and is none"));
        let shards: Result<Vec<ShardId>, _> =
            names.iter().map(|name| name.parse().map_err(|_| unknown(name))).collect();
        let mut shards = shards?;
        shards.sort_unstable();
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.reader.read(READ_LIMIT, |_, pipe| {
            for shard in &shards {
                pipe.cmd("HMGET").arg(self.keys(*shard).head()).arg(&["epoch", "lsn", "hash", "owner"]);
            }
        });
        let mut heads = Vec::new();
        for (shard, answer) in shards.iter().zip(answers.await?) {
            let (epoch, lsn, hash, owner): (Option<Vec<u8>>, Vec<u8>, Vec<u8>, Option<String>) = match parsed(answer) {
                Ok(fields) => fields,
                // Its name is written before its head.
                Err(_) => continue,
            };
            if let Some(epoch) = epoch {
                heads.push(head(*shard, owner.map(|owner| NodeId(owner.into())), &epoch, &lsn, &hash)?);
            }
        }
        Ok(heads)
    }

    /// Reads and verifies a shard that was just taken. `head` is what the taking left: frames up to it never change,
    /// so it does not matter what another owner that came in between adds.
    pub(super) async fn opened(&self, head: &ShardHead, known: Acknowledged) -> Result<OpenedShard, JournalError> {
        let shard = head.shard;
        let (snapshot, damaged_snapshots) = self.newest_snapshot(shard, head.last_lsn).await?;
        let (after, hash) = snapshot.as_ref().map_or((0, FrameHash::genesis(shard)), |s| (s.lsn, s.hash));
        let mut chain = ChainCheck::after(shard, after, Some(hash));
        let tail = self.tail(&mut chain, head).await?;
        chain.finish(head)?;
        if tail.is_empty() && head.last_lsn > 0 && self.hash_at(shard, head.last_lsn).await?.0 != Some(head.last_hash) {
            return Err(damage(shard, head.last_lsn, "the frame under the snapshot is missing or damaged".to_owned()));
        }
        self.check_remembered(shard, known, after, hash, &tail).await?;
        let (epoch, last_lsn, last_hash) = (head.epoch, head.last_lsn, head.last_hash);
        Ok(OpenedShard { shard, epoch, last_lsn, last_hash, snapshot, tail, damaged_snapshots })
    }

    /// The frames on from where `chain` is.
    async fn tail(&self, chain: &mut ChainCheck, head: &ShardHead) -> Result<Vec<Frame>, JournalError> {
        let mut frames = Vec::new();
        loop {
            let page = self.page(head.shard, chain.lsn().saturating_add(1), SEGMENT_FRAMES).await?;
            if page.frames.is_empty() {
                return Ok(frames);
            }
            for bytes in &page.frames {
                if chain.lsn() >= head.last_lsn && page.epoch != head.epoch {
                    return Ok(frames);
                }
                frames.push(chain.next(bytes)?);
            }
        }
    }

    /// The last frame that this process acknowledged must be in the log: with it are all before.
    async fn check_remembered(
        &self,
        shard: ShardId,
        known: Acknowledged,
        after: u64,
        after_hash: FrameHash,
        tail: &[Frame],
    ) -> Result<(), JournalError> {
        let (lsn, Some(hash)) = (known.lsn, known.hash) else { return Ok(()) };
        let found = match lsn.checked_sub(after) {
            Some(0) => Some(after_hash),
            Some(place) => {
                let place = usize::try_from(place.saturating_sub(1)).unwrap_or(usize::MAX);
                tail.get(place).map(Frame::hash)
            }
            None => self.hash_at(shard, lsn).await?.0,
        };
        if lsn == 0 || found == Some(hash) {
            return Ok(());
        }
        let what = "this node acknowledged another frame in its place: Redis lost that one, and another owner went on \
                    without it";
        Err(damage(shard, lsn, what.to_owned()))
    }
}
