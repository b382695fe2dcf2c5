//! Reading the log, and finding damage in it.

use crate::head::Head;
use crate::journal::{Inner, Slot};
use crate::store::Level;
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::{ChainCheck, JournalError, OpenedShard, ShardHead};
use chargeplane_domain::placement::ShardId;

/// Bytes of frames in one page of a read; a single frame may be larger.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that one request for frames is to bring, by the size of those before.
const REQUEST_BYTES: usize = 2 * 1024 * 1024;

/// Frames of the first request, and the most of any: with the bound of a segment it bounds the answer.
const REQUEST_FRAMES: (usize, usize) = (16, 2_000);

impl Inner {
    /// Reads and verifies a shard whose epoch was just raised to `epoch`.
    ///
    /// If another open came in between, this one gets what the other left: its first commit is fenced.
    pub(crate) async fn opened(&self, shard: ShardId, epoch: u64) -> Result<OpenedShard, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let head = self.locate(shard, &mut slot, Level::Serial).await?;
        let head = head.ok_or_else(|| damage(shard, 0, "its head is missing"))?;
        let (snapshot, damaged_snapshots) = self.newest_snapshot(&head).await?;
        let (after, hash) = snapshot.as_ref().map_or((0, FrameHash::genesis(shard)), |s| (s.lsn, s.hash));
        let mut chain = ChainCheck::after(shard, after, Some(hash));
        let mut tail = Vec::new();
        while chain.lsn() < head.last_lsn {
            tail.extend(self.frames(&head, &mut slot, &mut chain, usize::MAX, Level::Serial).await?);
        }
        chain.finish(&head.shard_head())?;
        self.nothing_beyond(&head).await?;
        Ok(OpenedShard {
            shard,
            epoch,
            last_lsn: head.last_lsn,
            last_hash: head.last_hash,
            snapshot,
            tail,
            damaged_snapshots,
        })
    }

    /// A frame after the head's last is damage, unless the head has moved meanwhile.
    async fn nothing_beyond(&self, head: &Head) -> Result<(), JournalError> {
        let key = (head.shard, head.segment);
        let next = head.last_lsn.saturating_add(1);
        if self.store.frames(key, (next, u64::MAX), 1, Level::Serial).await?.is_empty() {
            return Ok(());
        }
        let now = self.store.head(head.shard, head.segment, Level::Serial).await?;
        if now.is_some_and(|now| now.last_lsn > head.last_lsn) {
            return Ok(());
        }
        Err(damage(head.shard, next, &format!("the head is at frame {}", head.last_lsn)))
    }

    /// A page of frames after `after_lsn`.
    pub(crate) async fn page(&self, shard: ShardId, after_lsn: u64, limit: usize) -> Result<Vec<Frame>, JournalError> {
        let slot = self.slot(shard);
        let mut slot = slot.lock().await;
        let Some(head) = self.locate(shard, &mut slot, Level::Quorum).await? else { return Ok(Vec::new()) };
        let mut chain = ChainCheck::after(shard, after_lsn, None);
        self.frames(&head, &mut slot, &mut chain, limit, Level::Quorum).await
    }

    pub(crate) async fn heads(&self) -> Result<Vec<ShardHead>, JournalError> {
        let mut heads = Vec::new();
        for shard in self.store.shards().await? {
            let slot = self.slot(shard);
            let mut slot = slot.lock().await;
            let head = self.locate(shard, &mut slot, Level::Quorum).await?;
            // A first open that failed leaves its shard in the list, without a head.
            heads.extend(head.map(|head| head.shard_head()));
        }
        Ok(heads)
    }

    /// Reads on from where `chain` is, verifying, until the head, `limit` frames or a page's bytes.
    async fn frames(
        &self,
        head: &Head,
        slot: &mut Slot,
        chain: &mut ChainCheck,
        limit: usize,
        level: Level,
    ) -> Result<Vec<Frame>, JournalError> {
        let (mut frames, mut bytes) = (Vec::new(), 0usize);
        while chain.lsn() < head.last_lsn && frames.len() < limit && bytes < MAX_PAGE_BYTES {
            let next = chain.lsn().saturating_add(1);
            let segment = self.segment_of(head, slot, next).await?;
            let (least, most) = REQUEST_FRAMES;
            let fitting = bytes.checked_div(frames.len()).map_or(least, |mean| REQUEST_BYTES / mean.max(1));
            let count = fitting.clamp(1, most).min(limit.saturating_sub(frames.len()));
            let range = (next, head.last_lsn);
            let rows = self.store.frames((head.shard, segment), range, count, level).await?;
            if rows.is_empty() {
                return Err(damage(head.shard, next, "it is missing"));
            }
            for row in rows {
                bytes = bytes.saturating_add(row.len());
                frames.push(chain.next(&row)?);
            }
        }
        Ok(frames)
    }

    /// The segment that holds a frame, which is not after the head's last.
    async fn segment_of(&self, head: &Head, slot: &mut Slot, lsn: u64) -> Result<u64, JournalError> {
        loop {
            if let Some((_, segment)) = slot.starts.range(..=lsn).next_back() {
                return Ok(*segment);
            }
            // Sealed segments do not change any more, so what is known stays right.
            let oldest = slot.starts.first_key_value().map_or(head.segment, |(_, segment)| *segment);
            let before = oldest.checked_sub(1);
            let found = match before {
                Some(segment) => self.store.head(head.shard, segment, Level::Quorum).await?,
                None => None,
            };
            let Some(found) = found else { return Err(damage(head.shard, lsn, "its segment is missing")) };
            if slot.starts.insert(found.first_lsn, found.segment).is_some() {
                return Err(damage(head.shard, found.first_lsn, "two segments begin with it"));
            }
        }
    }

    /// The hash of a stored frame; none when it is not there or damaged.
    pub(crate) async fn frame_hash(
        &self,
        head: &Head,
        slot: &mut Slot,
        lsn: u64,
    ) -> Result<Option<FrameHash>, JournalError> {
        if lsn == head.last_lsn {
            return Ok(Some(head.last_hash));
        }
        if lsn == 0 || lsn > head.last_lsn {
            return Ok(None);
        }
        let segment = self.segment_of(head, slot, lsn).await?;
        let rows = self.store.frames((head.shard, segment), (lsn, lsn), 1, Level::Quorum).await?;
        let frame = rows.first().and_then(|row| Frame::decode(row).ok());
        Ok(frame.filter(|frame| frame.lsn == lsn).map(|frame| frame.hash()))
    }
}

fn damage(shard: ShardId, lsn: u64, what: &str) -> JournalError {
    JournalError::Corrupt { shard, lsn, what: what.to_owned() }
}
