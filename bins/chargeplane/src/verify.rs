//! `chargeplane ledger verify`: the configured journal, or an exported one, checked without the node's code.
//!
//! Reads `journal.sqlite`, or an export ([`archive`]), by the layout of `docs/reference/storage.md` alone: checksums,
//! the chain of hashes, epochs and log numbers against the head (OWN-1), and for the account shards the books, event
//! by event ([`books`]: MONEY-1, MONEY-2, SESS-1); then the shards against each other and against what the read models had
//! seen ([`across`]). It shares no rule with the node on purpose: a mistake there must not
//! hide itself here. Works beside a running node, on one consistent view. Stops at the first difference.

mod across;
mod archive;
mod books;
mod price;

use crate::assemble;
use crate::cli::{Connection, Output, VerifyArgs};
use crate::exit::{Code, Failure};
use crate::output;
use across::Records;
use books::Books;
use rmpv::Value;
use rusqlite::{Connection as Database, OpenFlags};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

const HEADER: usize = 64;
const TRAILER: usize = 4;

/// A packed payload announces at most so many bytes.
const MAX_PAYLOAD: u64 = 8 << 20;

/// A hash as stored.
type Hash = [u8; 32];

/// What a clean journal amounts to.
#[derive(Debug, Default)]
struct Summary {
    shards: u64,
    frames: u64,
    snapshots: u64,
    books: Books,
    /// What the stations say of sessions that are settled.
    records: Records,
    /// The last log number of each shard.
    logs: BTreeMap<String, u64>,
}

/// Where a difference is and what it is.
type Checked<T> = Result<T, String>;

/// Checks the journal of the configuration, or a file, and prints what is in it, or the first difference.
pub fn run(connection: &Connection, args: &VerifyArgs) -> Result<(), Failure> {
    if let Some(path) = &args.file {
        let file = File::open(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
        return conclude(connection, &path.display(), archive::check(&mut BufReader::new(file)));
    }
    let loaded = assemble::loaded(connection, args.config.as_deref())?;
    let data_dir = Path::new(&loaded.config.node.data_dir);
    // Before the journal: what the read models have seen by then is in it.
    let seen = across::seen_by_projections(data_dir);
    let backend = loaded.config.journal.backend.as_str();
    let (what, checked) = if backend == "sqlite" {
        let path = data_dir.join("journal.sqlite");
        let mut database = open(&path)?;
        (path.display().to_string(), check(&mut database))
    } else {
        (format!("the journal in {backend}"), archive::check_remote(&loaded.config)?)
    };
    let checked = seen.and_then(|seen| {
        let summary = checked?;
        across::check_seen(&seen, &summary.logs)?;
        Ok(summary)
    });
    conclude(connection, &what, checked)
}

fn conclude(connection: &Connection, what: &dyn Display, checked: Checked<Summary>) -> Result<(), Failure> {
    match checked {
        Ok(summary) => print(&summary, connection.output),
        Err(difference) => Err(Failure::new(
            Code::Refused,
            format!("{what}: {difference}\nThis is the first difference; nothing after it was looked at"),
        )),
    }
}

fn open(path: &Path) -> Result<Database, Failure> {
    let fail = |e: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot read {}: {e}; give the node's data directory with --data-dir", path.display()))
    };
    if !path.is_file() {
        return Err(fail(&"there is no such file"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Database::open_with_flags(path, flags).map_err(|e| fail(&e))
}

fn print(summary: &Summary, output: Output) -> Result<(), Failure> {
    let books = &summary.books;
    let sums: serde_json::Map<String, serde_json::Value> =
        books.sums().map(|(currency, sum)| (currency.to_owned(), json!(sum.to_string()))).collect();
    let value = json!({
        "shards": summary.shards,
        "frames": summary.frames,
        "snapshots": summary.snapshots,
        "accounts": books.accounts(),
        "sessions": books.sessions(),
        "settled": books.settled(),
        "debits": books.debits(),
        "top_ups": books.top_ups(),
        "energy_wh_settled": books.energy_wh().to_string(),
        "energy_wh_overshoot": books.overshoot_wh().to_string(),
        "ledger_sums": sums,
    });
    output::item(output, &value)?;
    if output == Output::Table { output::write("no difference\n") } else { Ok(()) }
}

fn check(database: &mut Database) -> Checked<Summary> {
    // One transaction: one view, whatever the node commits meanwhile.
    let view = database.transaction().map_err(|e| format!("cannot begin to read: {e}"))?;
    let stored = |e: rusqlite::Error| format!("cannot be read: {e}");
    let mut heads =
        view.prepare("SELECT shard, epoch, last_lsn, last_hash FROM heads ORDER BY shard").map_err(stored)?;
    let heads: Vec<(i64, u64, u64, Vec<u8>)> = heads
        .query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?, unsigned(row, 2)?, row.get(3)?)))
        .and_then(Iterator::collect)
        .map_err(stored)?;
    let mut summary = Summary::default();
    for (code, epoch, last_lsn, last_hash) in heads {
        let chain = check_shard(&view, code, &mut summary)?;
        let name = &chain.name;
        if (chain.lsn, chain.hash.as_slice()) != (last_lsn, last_hash.as_slice()) {
            return Err(format!("{name}: the log ends with frame {}, the head names frame {last_lsn}", chain.lsn));
        }
        if chain.epoch > epoch {
            return Err(format!("{name}: frame {} is of epoch {}, the head of {epoch}", chain.lsn, chain.epoch));
        }
        summary.shards += 1;
        summary.logs.insert(chain.name, chain.lsn);
    }
    let known = "SELECT count(*) FROM frames WHERE shard NOT IN (SELECT shard FROM heads)";
    let strays: i64 = view.query_row(known, [], |row| row.get(0)).map_err(stored)?;
    if strays > 0 {
        return Err(format!("{strays} frames belong to shards without a head"));
    }
    summary.check_across()?;
    Ok(summary)
}

impl Summary {
    /// The shards against each other, when every log is read.
    fn check_across(&self) -> Checked<()> {
        self.records.check(&self.books)?;
        self.books.check_transfers()
    }
}

fn unsigned(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(at)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(at, value))
}

/// How far a shard's log was followed.
struct Chain {
    name: String,
    lsn: u64,
    epoch: u64,
    hash: Hash,
}

fn check_shard(view: &Database, code: i64, summary: &mut Summary) -> Checked<Chain> {
    let mut chain = Chain::new(code)?;
    let snapshots = snapshots(view, code, &chain.name)?;
    let mut statement = view
        .prepare("SELECT lsn, frame FROM frames WHERE shard = ?1 ORDER BY lsn")
        .map_err(|e| format!("{}: {e}", chain.name))?;
    let mut rows = statement.query([code]).map_err(|e| format!("{}: {e}", chain.name))?;
    while let Some(row) = rows.next().map_err(|e| format!("{} after frame {}: {e}", chain.name, chain.lsn))? {
        let at = |e: rusqlite::Error| format!("{} after frame {}: {e}", chain.name, chain.lsn);
        let (key, bytes) = (unsigned(row, 0).map_err(at)?, row.get_ref(1).map_err(at)?.as_blob());
        let bytes = bytes.map_err(|e| format!("{} frame {key}: {e}", chain.name))?;
        let payload = chain.follow(code, key, bytes)?;
        take_entries(&chain, code >> 16 == 1, payload, summary)?;
        if snapshots.iter().any(|(lsn, hash)| *lsn == chain.lsn && *hash != chain.hash) {
            return Err(format!("{}: the snapshot at frame {} names another hash", chain.name, chain.lsn));
        }
        summary.frames += 1;
    }
    if let Some((lsn, _)) = snapshots.iter().find(|(lsn, _)| *lsn > chain.lsn) {
        return Err(format!("{}: a snapshot at frame {lsn}, but the log ends at {}", chain.name, chain.lsn));
    }
    summary.snapshots += snapshots.len() as u64;
    Ok(chain)
}

/// Log number and hash of a shard's snapshots, their checksums checked.
fn snapshots(view: &Database, code: i64, name: &str) -> Checked<Vec<(u64, Hash)>> {
    let fail = |e: rusqlite::Error| format!("{name}: snapshots cannot be read: {e}");
    let mut statement =
        view.prepare("SELECT lsn, hash, bytes, crc32c FROM snapshots WHERE shard = ?1 ORDER BY lsn").map_err(fail)?;
    let mut rows = statement.query([code]).map_err(fail)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(fail)? {
        let lsn = unsigned(row, 0).map_err(fail)?;
        let (hash, bytes): (Vec<u8>, Vec<u8>) = (row.get(1).map_err(fail)?, row.get(2).map_err(fail)?);
        let stored: i64 = row.get(3).map_err(fail)?;
        let mut crc = crc32c::crc32c(&code.to_le_bytes());
        for part in [&lsn.to_le_bytes()[..], &hash, &bytes] {
            crc = crc32c::crc32c_append(crc, part);
        }
        if i64::from(crc) != stored {
            return Err(format!("{name}: the checksum of the snapshot at frame {lsn} does not fit"));
        }
        let hash = hash.try_into().map_err(|_| format!("{name}: the snapshot at frame {lsn} has no whole hash"))?;
        found.push((lsn, hash));
    }
    Ok(found)
}

impl Chain {
    /// Before the first frame of a shard.
    fn new(code: i64) -> Checked<Self> {
        let name = match code >> 16 {
            0 => format!("station-{:04x}", code & 0xffff),
            1 => format!("account-{:04x}", code & 0xffff),
            _ => return Err(format!("shard code {code} is of no family")),
        };
        let hash = Sha256::digest(format!("chargeplane/journal/{name}")).into();
        Ok(Self { name, lsn: 0, epoch: 0, hash })
    }

    /// Takes the next stored frame and returns its payload.
    fn follow<'a>(&mut self, code: i64, key: u64, bytes: &'a [u8]) -> Checked<&'a [u8]> {
        let at = format!("{} frame {key}", self.name);
        let frame = Frame::read(bytes).map_err(|what| format!("{at}: {what}"))?;
        let need = |ok: bool, what: String| if ok { Ok(()) } else { Err(format!("{at}: {what}")) };
        need(frame.shard == code, format!("belongs to shard code {}", frame.shard))?;
        need(frame.lsn == key, format!("calls itself frame {}", frame.lsn))?;
        need(
            Some(frame.lsn) == self.lsn.checked_add(1),
            format!("follows frame {}: log numbers have a hole", self.lsn),
        )?;
        need(frame.epoch >= self.epoch, format!("epoch {} after epoch {}", frame.epoch, self.epoch))?;
        need(frame.previous == self.hash, "does not name the hash of the frame before it".to_owned())?;
        (self.lsn, self.epoch, self.hash) = (frame.lsn, frame.epoch, frame.hash);
        Ok(frame.payload)
    }
}

struct Frame<'a> {
    shard: i64,
    epoch: u64,
    lsn: u64,
    previous: Hash,
    hash: Hash,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn read(bytes: &'a [u8]) -> Checked<Self> {
        if bytes.len() < HEADER + TRAILER {
            return Err(format!("{} bytes are no frame", bytes.len()));
        }
        let (body, checksum) = bytes.split_at(bytes.len() - TRAILER);
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err("the checksum does not fit".to_owned());
        }
        let (header, payload) = body.split_at(HEADER);
        if header[0] != 1 {
            return Err(format!("version {} is not known to this program", header[0]));
        }
        let number = |from: usize, len: usize| {
            header[from..from + len].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        if number(60, 4) != payload.len() as u64 {
            return Err(format!("{} bytes of payload where {} are announced", payload.len(), number(60, 4)));
        }
        let mut previous = [0; 32];
        previous.copy_from_slice(&header[28..60]);
        Ok(Self {
            shard: i64::from(header[1]) << 16 | i64::from(header[2]) | i64::from(header[3]) << 8,
            epoch: number(4, 8),
            lsn: number(12, 8),
            previous,
            hash: Sha256::digest(body).into(),
            payload,
        })
    }
}

/// Books the account events of a frame, then checks that the shard's sums are zero; of a station's, keeps what is
/// settled.
fn take_entries(chain: &Chain, of_accounts: bool, payload: &[u8], summary: &mut Summary) -> Checked<()> {
    let at = format!("{} frame {}", chain.name, chain.lsn);
    let value = read_payload(payload).map_err(|what| format!("{at}: {what}"))?;
    let entries = field(&value, "entries").and_then(Value::as_array);
    let (Some(entries), Some(1)) = (entries, field(&value, "v").and_then(Value::as_u64)) else {
        return Err(format!("{at}: not a payload of version 1"));
    };
    for (n, entry) in entries.iter().enumerate() {
        let Some(entity) = field(entry, "entity") else { continue };
        let key = field(entity, "key").and_then(Value::as_str).unwrap_or("");
        let event = field(entity, "event").unwrap_or(&Value::Nil);
        let taken = if of_accounts {
            summary.books.take(&chain.name, key.strip_prefix("account:").unwrap_or(key), event)
        } else {
            summary.records.take(&at, event)
        };
        taken.map_err(|what| format!("{at}, entry {n}, {key}: {what}"))?;
    }
    summary.books.check_shard(&chain.name).map_err(|what| format!("{at}: {what}"))
}

/// A payload's value, out of its LZ4 block where it has one.
fn read_payload(payload: &[u8]) -> Checked<Value> {
    let value = read_value(payload)?;
    if field(&value, "v").and_then(Value::as_u64) != Some(2) {
        return Ok(value);
    }
    let block = field(&value, "lz4").and_then(Value::as_slice);
    let size = field(&value, "size").and_then(Value::as_u64).filter(|size| *size <= MAX_PAYLOAD);
    let Some((block, size)) = block.zip(size.and_then(|size| usize::try_from(size).ok())) else {
        return Err("a packed payload without its block or size".to_owned());
    };
    let plain = lz4_flex::block::decompress(block, size).map_err(|e| format!("the block cannot be unpacked: {e}"))?;
    read_value(&plain)
}

fn read_value(mut bytes: &[u8]) -> Checked<Value> {
    let value = rmpv::decode::read_value(&mut bytes).map_err(|e| format!("the payload cannot be read: {e}"))?;
    if bytes.is_empty() { Ok(value) } else { Err(format!("{} bytes after the payload", bytes.len())) }
}

/// A field of a MessagePack map.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_map()?.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
