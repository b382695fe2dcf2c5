//! The logs of a journal as a file of two tables, laid out as `heads` and `frames` of the node's `journal.sqlite`.

use anyhow::{Context, ensure};
use rusqlite::{Connection, params};
use std::path::Path;

/// The file within a run directory.
pub const COPY: &str = "books.sqlite";

/// What a store says of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The family (0 station, 1 account) above 16 bits of index.
    pub code: i64,
    /// Epoch of the owner.
    pub epoch: u64,
    /// Number of the last frame.
    pub last_lsn: u64,
    /// Its hash.
    pub last_hash: Vec<u8>,
}

/// A store that is read.
pub trait Source {
    /// The heads of all shards that were ever opened.
    fn heads(&mut self) -> anyhow::Result<Vec<Head>>;

    /// Hands over the frames of a shard up to its head, each with the number under which it is stored.
    fn frames(&mut self, head: &Head, take: &mut dyn FnMut(u64, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()>;
}

/// Copies everything into a new file. The heads are read first, so that a node that goes on leaves no frame without
/// the head that names it.
///
/// # Errors
/// The source cannot be read, or the file not be written.
pub fn copy(source: &mut dyn Source, file: &Path) -> anyhow::Result<()> {
    ensure!(!file.exists(), "{} is there already", file.display());
    let mut database = Connection::open(file).with_context(|| format!("cannot make {}", file.display()))?;
    let all = database.transaction()?;
    all.execute_batch(
        "CREATE TABLE heads(shard INTEGER PRIMARY KEY, epoch INTEGER, last_lsn INTEGER, last_hash BLOB) STRICT;
         CREATE TABLE frames(shard INTEGER, lsn INTEGER, frame BLOB, UNIQUE(shard, lsn)) STRICT;",
    )?;
    for head in source.heads()? {
        let Head { code, epoch, last_lsn, last_hash } = &head;
        let row = params![code, epoch.cast_signed(), last_lsn.cast_signed(), last_hash];
        all.execute("INSERT INTO heads VALUES (?1, ?2, ?3, ?4)", row)?;
        let mut insert = all.prepare_cached("INSERT INTO frames VALUES (?1, ?2, ?3)")?;
        source.frames(&head, &mut |lsn, frame| {
            insert.execute(params![code, lsn.cast_signed(), frame])?;
            Ok(())
        })?;
    }
    all.commit()?;
    Ok(())
}

/// The number of a shard by its name, such as `account-0003`.
pub fn code_of(shard: &str) -> anyhow::Result<i64> {
    let parts = shard.split_once('-').and_then(|(family, index)| {
        let family = ["station", "account"].iter().position(|known| *known == family)?;
        Some((family, u16::from_str_radix(index, 16).ok().filter(|_| index.len() == 4)?))
    });
    let (family, index) = parts.with_context(|| format!("`{shard}` is no name of a shard"))?;
    Ok((i64::try_from(family)? << 16) | i64::from(index))
}
