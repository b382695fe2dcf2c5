//! The journal in Redis: head and frames of a shard under keys of one place, moved by one script.
//!
//! A commit is one script for each frame, all of them in one round trip: each compares the head with what its
//! frame was made for and stores it or leaves it out (OWN-1). The server syncs before it answers, replicas confirm
//! where they are asked to, and the same round trip looks whether the server still syncs (MONEY-3). What was
//! acknowledged is remembered and compared at every commit and open: where Redis shows less, the frame is refused,
//! and the open that follows says what was lost and leaves the shard closed. A restart reloads nothing but Redis.

mod read;
mod snapshot;

use crate::acknowledged::{Acknowledged, Memory};
use crate::keys::{Keys, digits, number, shards_key};
use crate::link::{Link, LinkError, Live, Script};
use crate::options::{RedisOptions, StartError};
use crate::server::{Confirmation, Durability, SETTINGS, setting_of};
use chargeplane_cluster::BoxFuture;
use chargeplane_cluster::frame::{Frame, FrameHash, MAX_PAYLOAD};
use chargeplane_cluster::journal::{CommitOutcome, Journal, JournalError, OpenedShard, ShardHead, Snapshot};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use redis::{FromRedisValue, Pipeline, Value};
pub use snapshot::MAX_SNAPSHOT;
use std::sync::Arc;
use std::time::Duration;

/// After this the outcome of a write counts as unknown.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// How much of [`WRITE_LIMIT`] replicas may take.
const CONFIRM_MS: u64 = 600;

/// After this a read counts as failed. A page may have 12 MiB.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Most frames of a segment, and the bytes from which on it takes no more. So a key has at most this and one frame,
/// 12 MiB: what Redis does with a key as a whole (write it anew to its file, send it, free it) stays short, and a
/// page of a read is a piece of one list.
const SEGMENT_FRAMES: usize = 1_024;
const SEGMENT_BYTES: usize = 4 << 20;

/// The journal on a Redis server.
pub struct RedisJournal {
    prefix: Arc<str>,
    replicas: u32,
    writer: Link,
    /// Reads have a connection of their own: a long page must not hold up a commit.
    reader: Link,
    memory: Memory,
    durability: Durability,
}

impl RedisJournal {
    /// Connects to the server and refuses it when it is not fit for books. Writes nothing.
    pub async fn connect(options: RedisOptions) -> Result<Self, StartError> {
        let (writer, reader) = (Link::new(options.clone())?, Link::new(options.clone())?);
        let durability = Durability::clone(&writer.live().await?.durability);
        let (prefix, replicas) = (options.prefix.as_str().into(), options.replicas);
        Ok(Self { prefix, replicas, writer, reader, memory: Memory::default(), durability })
    }

    /// What an acknowledgement stands on, as it was seen at the start.
    pub fn durability(&self) -> &Durability {
        &self.durability
    }

    fn keys(&self, shard: ShardId) -> Keys {
        Keys::new(&self.prefix, shard)
    }

    /// Sends writes and returns their answers once they are as durable as was promised.
    async fn write(&self, build: impl FnOnce(&Live, &mut Pipeline)) -> Result<Vec<Value>, LinkError> {
        let mut writes = 0;
        let (live, mut answers) = self
            .writer
            .run(WRITE_LIMIT, |live, pipe| {
                build(live, pipe);
                writes = pipe.len();
                match live.durability.confirmation {
                    Confirmation::None => {}
                    Confirmation::Received => {
                        pipe.cmd("WAIT").arg(self.replicas).arg(CONFIRM_MS);
                    }
                    Confirmation::Synced => {
                        pipe.cmd("WAITAOF").arg(1).arg(self.replicas).arg(CONFIRM_MS);
                    }
                }
                if live.durability.verified {
                    pipe.cmd("CONFIG").arg("GET").arg(SETTINGS[0]);
                }
            })
            .await?;
        let mut checks = answers.split_off(writes.min(answers.len())).into_iter();
        let mut check = || checks.next().unwrap_or(Value::Nil);
        let confirmed = match live.durability.confirmation {
            Confirmation::None => self.replicas,
            Confirmation::Received => parsed(check())?,
            Confirmation::Synced => parsed::<(u32, u32)>(check())?.1,
        };
        if live.durability.verified {
            match setting_of(check()) {
                Ok(found) if found == "always" => {}
                Ok(found) => {
                    return Err(LinkError::Fatal(format!("the server was set to `{} {found}`", SETTINGS[0])));
                }
                Err(what) => return Err(LinkError::Unknown(what)),
            }
        }
        if confirmed < self.replicas {
            return Err(LinkError::Unknown(format!("{confirmed} of {} replicas confirmed in time", self.replicas)));
        }
        Ok(answers)
    }

    /// Raises the epoch: from here on nobody else commits. Returns the head it left.
    async fn raise(&self, shard: ShardId, owner: NodeId) -> Result<ShardHead, JournalError> {
        let (keys, known) = (self.keys(shard), self.memory.of(shard));
        let answers = self.write(|live, pipe| {
            pipe.cmd("SADD").arg(shards_key(&self.prefix)).arg(shard.to_string());
            let call = live.call(pipe, Script::Raise, &[&keys.head()]);
            call.arg(&*owner.0).arg(FrameHash::genesis(shard).as_bytes());
            remembered(call, known);
        });
        let answers = answers.await.map_err(|error| in_shard(error, shard, 0))?;
        let answer = answers.into_iter().nth(1).unwrap_or(Value::Nil);
        let (word, epoch, lsn, hash): (String, Vec<u8>, Vec<u8>, Vec<u8>) = parsed(answer)?;
        let head = read::head(shard, Some(owner), &epoch, &lsn, &hash)?;
        if word == "lost" { Err(lost(known, &head)) } else { Ok(head) }
    }

    async fn commit_all(&self, frames: Vec<Frame>) -> Result<Vec<CommitOutcome>, JournalError> {
        let hashes: Vec<FrameHash> = frames.iter().map(Frame::hash).collect();
        let write = self.write(|live, pipe| {
            for (frame, hash) in frames.iter().zip(&hashes) {
                let touch = live.durability.confirmation != Confirmation::None;
                commit_call(live, pipe, &self.keys(frame.shard), frame, *hash, self.memory.of(frame.shard), touch);
            }
        });
        let answers = write.await?;
        if answers.len() != frames.len() {
            return Err(JournalError::OutcomeUnknown(format!("{} answers for {} frames", answers.len(), frames.len())));
        }
        // All are read before any is remembered: an error leaves every outcome open.
        let words: Vec<(String, Vec<u8>, Vec<u8>)> =
            answers.into_iter().map(parsed).collect::<Result<_, LinkError>>()?;
        let outcomes = frames.iter().zip(hashes).zip(words);
        outcomes.map(|((frame, hash), (word, epoch, lsn))| self.outcome(frame, hash, &word, &epoch, &lsn)).collect()
    }

    fn outcome(
        &self,
        frame: &Frame,
        hash: FrameHash,
        word: &str,
        epoch: &[u8],
        lsn: &[u8],
    ) -> Result<CommitOutcome, JournalError> {
        let unreadable = || read::damage(frame.shard, frame.lsn, "the head cannot be read".to_owned());
        let epoch = number(epoch).ok_or_else(unreadable)?;
        let last_lsn = number(lsn).ok_or_else(unreadable)?;
        match word {
            "stored" => {
                self.memory.raise(frame.shard, frame.epoch, frame.lsn, hash);
                return Ok(CommitOutcome::Committed);
            }
            "fenced" => {}
            // The owner opens anew, and that finds and says what is wrong.
            other => tracing::error!(shard = %frame.shard, epoch, last_lsn, "the log is {other}; nothing is committed"),
        }
        Ok(CommitOutcome::Fenced { epoch, last_lsn })
    }
}

fn commit_call(
    live: &Live,
    pipe: &mut Pipeline,
    keys: &Keys,
    frame: &Frame,
    hash: FrameHash,
    known: Acknowledged,
    touch: bool,
) {
    // Number 0 follows nothing, and the empty text is no number.
    let before = frame.lsn.checked_sub(1).map(digits).unwrap_or_default();
    let call = live.call(pipe, Script::Commit, &[&keys.head(), &keys.segments()]).arg(keys.log_prefix());
    call.arg(digits(frame.epoch)).arg(digits(frame.lsn)).arg(before);
    call.arg(frame.prev_hash.as_bytes()).arg(hash.as_bytes()).arg(frame.encode());
    remembered(call, known).arg(u8::from(touch)).arg(SEGMENT_FRAMES).arg(SEGMENT_BYTES);
}

fn remembered(call: &mut Pipeline, known: Acknowledged) -> &mut Pipeline {
    let hash = known.hash.as_ref().map_or(&[][..], |hash| hash.as_bytes());
    call.arg(digits(known.epoch)).arg(digits(known.lsn)).arg(hash)
}

/// Redis shows less than was acknowledged.
fn lost(known: Acknowledged, head: &ShardHead) -> JournalError {
    let Acknowledged { epoch, lsn, .. } = known;
    let what = format!(
        "this node acknowledged frame {lsn} in epoch {epoch}, and Redis now ends at frame {} in epoch {}: it lost \
         acknowledged writes, by a fail-over or an older or truncated append-only file",
        head.last_lsn, head.epoch
    );
    read::damage(head.shard, lsn.min(head.last_lsn.saturating_add(1)), what)
}

fn parsed<T: FromRedisValue>(value: Value) -> Result<T, LinkError> {
    redis::from_redis_value(value).map_err(|error| LinkError::Unknown(format!("an answer cannot be read: {error}")))
}

/// A key of a wrong kind is damage of its shard, not of the journal.
fn in_shard(error: LinkError, shard: ShardId, lsn: u64) -> JournalError {
    match error {
        LinkError::WrongType(what) => read::damage(shard, lsn, what),
        other => other.into(),
    }
}

impl Journal for RedisJournal {
    fn open(&self, shard: ShardId, owner: NodeId) -> BoxFuture<'_, Result<OpenedShard, JournalError>> {
        Box::pin(async move {
            let known = self.memory.of(shard);
            let head = self.raise(shard, owner).await?;
            let opened = self.opened(&head, known).await?;
            self.memory.raise(shard, opened.epoch, opened.last_lsn, opened.last_hash);
            Ok(opened)
        })
    }

    fn commit(&self, frames: Vec<Frame>) -> BoxFuture<'_, Result<Vec<CommitOutcome>, JournalError>> {
        Box::pin(async move {
            if frames.is_empty() {
                return Ok(Vec::new());
            }
            if let Some(frame) = frames.iter().find(|frame| frame.payload.len() > MAX_PAYLOAD) {
                let bytes = frame.payload.len();
                return Err(JournalError::TooLarge { shard: frame.shard, bytes, limit: MAX_PAYLOAD });
            }
            self.commit_all(frames).await
        })
    }

    fn read(&self, shard: ShardId, after_lsn: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Frame>, JournalError>> {
        Box::pin(self.read_page(shard, after_lsn, limit))
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<ShardHead>, JournalError>> {
        Box::pin(self.read_heads())
    }

    fn release(&self, shard: ShardId, epoch: u64) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(async move {
            let write = self.write(|live, pipe| {
                live.call(pipe, Script::Release, &[&self.keys(shard).head()]).arg(digits(epoch));
            });
            let answer = write.await?.pop().unwrap_or(Value::Nil);
            Ok(parsed::<u8>(answer)? == 1)
        })
    }

    fn put_snapshot(
        &self,
        shard: ShardId,
        epoch: u64,
        snapshot: Snapshot,
    ) -> BoxFuture<'_, Result<bool, JournalError>> {
        Box::pin(self.keep_snapshot(shard, epoch, snapshot))
    }
}
