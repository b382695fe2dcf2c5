//! Reading the journal, and finding damage in it.

use super::{code_of, hash_of, shard_of_code, snapshot_checksum};
use crate::database::{ordered, unsigned};
use crate::fault::Fault;
use bytes::Bytes;
use chargeplane_cluster::frame::{Frame, FrameHash};
use chargeplane_cluster::journal::{ChainCheck, JournalError, OpenedShard, ShardHead, Snapshot};
use chargeplane_domain::ids::NodeId;
use chargeplane_domain::placement::ShardId;
use rusqlite::{OptionalExtension, Row, Transaction, params};

/// Bytes of frames in one page of a read; a single frame may be larger.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

const HEAD_COLUMNS: &str = "shard, owner, epoch, last_lsn, last_hash";

/// A head's row as SQLite gives it.
type HeadRow = (i64, Option<String>, i64, i64, Vec<u8>);

fn head_row(row: &Row<'_>) -> rusqlite::Result<HeadRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn head((shard, owner, epoch, last_lsn, last_hash): HeadRow) -> Result<ShardHead, Fault> {
    Ok(ShardHead {
        shard: shard_of_code(shard)?,
        owner: owner.map(|owner| NodeId(owner.into())),
        epoch: unsigned(epoch)?,
        last_lsn: unsigned(last_lsn)?,
        last_hash: hash_of(&last_hash)?,
    })
}

pub(super) fn head_of(transaction: &Transaction<'_>, shard: ShardId) -> Result<Option<ShardHead>, Fault> {
    let sql = format!("SELECT {HEAD_COLUMNS} FROM heads WHERE shard = ?1");
    let row = transaction.prepare_cached(&sql)?.query_row([code_of(shard)], head_row).optional()?;
    row.map(head).transpose()
}

pub(super) fn heads(transaction: &Transaction<'_>) -> Result<Vec<ShardHead>, Fault> {
    let sql = format!("SELECT {HEAD_COLUMNS} FROM heads ORDER BY shard");
    let mut select = transaction.prepare_cached(&sql)?;
    let rows = select.query_map([], head_row)?;
    rows.map(|row| head(row?)).collect()
}

/// The log numbers of a shard's snapshots, newest first.
pub(super) fn snapshot_lsns(transaction: &Transaction<'_>, shard: ShardId) -> Result<Vec<u64>, Fault> {
    let mut select = transaction.prepare_cached("SELECT lsn FROM snapshots WHERE shard = ?1 ORDER BY lsn DESC")?;
    let rows = select.query_map([code_of(shard)], |row| row.get::<_, i64>(0))?;
    rows.map(|lsn| unsigned(lsn?)).collect()
}

/// A snapshot, none when its row is damaged.
fn snapshot(transaction: &Transaction<'_>, shard: ShardId, lsn: u64) -> Result<Option<Snapshot>, Fault> {
    let mut select =
        transaction.prepare_cached("SELECT hash, bytes, crc32c FROM snapshots WHERE shard = ?1 AND lsn = ?2")?;
    let fields = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let row = select.query_row(params![code_of(shard), ordered(lsn)], fields);
    let (hash, bytes, checksum): (Vec<u8>, Vec<u8>, i64) = match row.map_err(Fault::from) {
        Err(Fault::Corrupt(_)) => return Ok(None),
        row => row?,
    };
    if i64::from(snapshot_checksum(shard, lsn, &hash, &bytes)) != checksum {
        return Ok(None);
    }
    Ok(Some(Snapshot { lsn, hash: hash_of(&hash)?, bytes: Bytes::from(bytes) }))
}

/// Reads and verifies a shard whose epoch was just raised to `epoch`.
///
/// If another open came in between, this one gets what the other left: its first commit is fenced.
pub(super) fn opened(transaction: &Transaction<'_>, shard: ShardId, epoch: u64) -> Result<OpenedShard, JournalError> {
    let head = head_of(transaction, shard)?;
    let head = head.ok_or_else(|| damage(shard, 0, "its head is missing"))?;
    let (mut newest, mut damaged_snapshots) = (None, Vec::new());
    for lsn in snapshot_lsns(transaction, shard)? {
        newest = snapshot(transaction, shard, lsn)?;
        if newest.is_some() {
            break;
        }
        damaged_snapshots.push(lsn);
    }
    let (after, hash) = newest.as_ref().map_or((0, FrameHash::genesis(shard)), |s| (s.lsn, s.hash));
    let mut chain = ChainCheck::after(shard, after, Some(hash));
    let tail = frames(transaction, &mut chain, usize::MAX, usize::MAX)?;
    chain.finish(&head)?;
    Ok(OpenedShard {
        shard,
        epoch,
        last_lsn: head.last_lsn,
        last_hash: head.last_hash,
        snapshot: newest,
        tail,
        damaged_snapshots,
    })
}

/// A page of frames after `after_lsn`.
pub(super) fn page(
    transaction: &Transaction<'_>,
    shard: ShardId,
    after_lsn: u64,
    limit: usize,
) -> Result<Vec<Frame>, JournalError> {
    let mut chain = ChainCheck::after(shard, after_lsn, None);
    let frames = frames(transaction, &mut chain, limit, MAX_PAGE_BYTES)?;
    let last_lsn = head_of(transaction, shard)?.map_or(0, |head| head.last_lsn);
    if frames.is_empty() && limit > 0 && after_lsn < last_lsn {
        return Err(damage(shard, after_lsn.saturating_add(1), "it is missing"));
    }
    Ok(frames)
}

/// Reads on from where `chain` is, verifying, until the end, `limit` frames or `max_bytes`.
fn frames(
    transaction: &Transaction<'_>,
    chain: &mut ChainCheck,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<Frame>, JournalError> {
    let next = chain.lsn().saturating_add(1);
    let in_sql = |fault: Fault, chain: &ChainCheck| match fault {
        Fault::Corrupt(what) => chain.corrupt(chain.lsn().saturating_add(1), what),
        other => other.into(),
    };
    let sql = "SELECT frame FROM frames WHERE shard = ?1 AND lsn >= ?2 ORDER BY lsn LIMIT ?3";
    let mut select = transaction.prepare_cached(sql).map_err(Fault::from)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let parameters = params![code_of(chain.shard()), ordered(next), limit];
    let mut rows = select.query(parameters).map_err(|error| in_sql(error.into(), chain))?;
    let (mut frames, mut bytes) = (Vec::new(), 0usize);
    while bytes < max_bytes {
        let row = match rows.next().map_err(|error| in_sql(error.into(), chain))? {
            Some(row) => row,
            None => break,
        };
        let frame: rusqlite::Result<&[u8]> = row.get_ref(0).and_then(|value| Ok(value.as_blob()?));
        let frame = frame.map_err(|error| in_sql(error.into(), chain))?;
        bytes = bytes.saturating_add(frame.len());
        frames.push(chain.next(frame)?);
    }
    Ok(frames)
}

fn damage(shard: ShardId, lsn: u64, what: &str) -> JournalError {
    JournalError::Corrupt { shard, lsn, what: what.to_owned() }
}
