//! What one shard's log says of another's, and what the read models had already seen: a log that is missing as a
//! whole, or from its end on, has no hole of its own to be found by.

use super::{Checked, books::Books, field};
use rmpv::Value;
use rusqlite::{Connection as Database, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;

/// Sessions that the station shards say are settled.
#[derive(Debug, Default)]
pub struct Records(Vec<Record>);

/// A charge record, as far as it is about money.
#[derive(Debug)]
struct Record {
    /// Where it stands.
    at: String,
    session: String,
    account: String,
    energy: i128,
    billed: i128,
    overshoot: i128,
}

impl Records {
    /// Takes one event of an entity of a station shard.
    pub fn take(&mut self, at: &str, event: &Value) -> Checked<()> {
        let settled = field(event, "charger").and_then(|event| field(event, "session_settled"));
        let Some(settled) = settled else { return Ok(()) };
        let record = field(settled, "record").ok_or("a settled session without its record")?;
        let text = |name: &str| field(record, name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| field(record, name).and_then(Value::as_i64).map(i128::from);
        let read = || {
            Some(Record {
                at: at.to_owned(),
                session: text("session")?,
                account: text("account")?,
                energy: number("energy")?,
                billed: number("billed")?,
                overshoot: number("overshoot")?,
            })
        };
        self.0.push(read().ok_or("a charge record that cannot be read")?);
        Ok(())
    }

    /// SESS-1: every record is what its account was settled for.
    pub fn check(&self, books: &Books) -> Checked<()> {
        for record in &self.0 {
            let Record { at, session, account, energy, billed, overshoot } = record;
            let here = format!("{at}: session {session} of {account}, {energy} Wh");
            let Some(settled) = books.settlement(session) else {
                return Err(format!("{here}, is settled here and not in the log of its account"));
            };
            let there = (settled.account, settled.energy, settled.billed, settled.overshoot);
            if there != (account.as_str(), *energy, *billed, *overshoot) {
                let (account, energy, billed, overshoot) = there;
                return Err(format!(
                    "{here}, {}/10000 billed: its account was settled as {account}, {energy} Wh, {billed}/10000 billed, \
                     {overshoot}/10000 overshoot",
                    record.billed
                ));
            }
        }
        Ok(())
    }
}

/// The files of the read models: each takes its two names in turn.
const READ_MODELS: [&str; 4] = ["records-a.sqlite", "records-b.sqlite", "statements-a.sqlite", "statements-b.sqlite"];

/// How far each shard's log was when the read models took from it. Empty without read models.
pub fn seen_by_projections(data_dir: &Path) -> Checked<BTreeMap<String, u64>> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for path in READ_MODELS.map(|name| data_dir.join(name)) {
        if !path.is_file() {
            continue;
        }
        for (shard, upto) in cursors_of(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))? {
            let known = seen.entry(shard).or_default();
            *known = upto.max(*known);
        }
    }
    Ok(seen)
}

fn cursors_of(path: &Path) -> rusqlite::Result<Vec<(String, u64)>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Database::open_with_flags(path, flags)?;
    // A file of which a killed process had made no more than the name.
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'cursors'";
    if database.query_row(tables, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    let mut cursors = database.prepare("SELECT shard, upto_lsn FROM cursors")?;
    let rows = cursors.query_map([], |row| Ok((row.get(0)?, super::unsigned(row, 1)?)))?;
    rows.collect()
}

/// OWN-1: no log is shorter than it once was.
pub fn check_seen(seen: &BTreeMap<String, u64>, logs: &BTreeMap<String, u64>) -> Checked<()> {
    for (shard, upto) in seen {
        let last = logs.get(shard).copied().unwrap_or(0);
        if last < *upto {
            return Err(format!("{shard}: the log ends with frame {last}; the read models have seen frame {upto}"));
        }
    }
    Ok(())
}
