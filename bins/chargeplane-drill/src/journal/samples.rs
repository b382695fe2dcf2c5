//! The telemetry of a run that is in a keyspace: copied, row by row, into a file with the tables that the judges read.

use super::cql::Keyspace;
use anyhow::{Context, ensure};
use rusqlite::{Connection, params};
use std::path::Path;

/// The file within a run directory.
pub const SAMPLES: &str = "samples.sqlite";

/// Charger, enrolment and bytes of a stored version of a range.
type ChunkRow = (String, i32, Option<Vec<u8>>);

/// Charger, enrolment, first and last number of a declared gap.
type GapRow = (String, i32, i64, i64);

/// Copies chunks and gaps into a new file.
///
/// # Errors
/// The database cannot be read, or the file not be written.
pub fn copy(keyspace: &Keyspace, file: &Path) -> anyhow::Result<()> {
    ensure!(!file.exists(), "{} is there already", file.display());
    let mut reader = keyspace.reader()?;
    let mut database = Connection::open(file).with_context(|| format!("cannot make {}", file.display()))?;
    let all = database.transaction()?;
    all.execute_batch(
        "CREATE TABLE chargers(number INTEGER PRIMARY KEY, charger TEXT UNIQUE) STRICT;
         CREATE TABLE chunks(charger INTEGER, incarnation INTEGER, chunk BLOB) STRICT;
         CREATE TABLE gaps(charger TEXT, incarnation INTEGER, first INTEGER, last INTEGER) STRICT;
         CREATE INDEX chunks_by_charger ON chunks(charger, incarnation);
         CREATE INDEX gaps_by_charger ON gaps(charger, incarnation);",
    )?;
    let mut name = all.prepare("INSERT INTO chargers(charger) VALUES (?1) ON CONFLICT DO NOTHING")?;
    let mut insert = all.prepare("INSERT INTO chunks SELECT number, ?2, ?3 FROM chargers WHERE charger = ?1")?;
    reader.scan("SELECT charger, incarnation, chunk FROM %k.telemetry_chunks", &mut |row: ChunkRow| {
        let (charger, incarnation, chunk) = row;
        let chunk = chunk.with_context(|| format!("{charger}: a chunk without bytes"))?;
        name.execute([&charger])?;
        insert.execute(params![charger, incarnation, chunk])?;
        Ok(())
    })?;
    drop((name, insert));
    let mut insert = all.prepare("INSERT INTO gaps VALUES (?1, ?2, ?3, ?4)")?;
    reader.scan("SELECT charger, incarnation, first, last FROM %k.telemetry_gaps", &mut |row: GapRow| {
        let (charger, incarnation, first, last) = row;
        insert.execute(params![charger, incarnation, first, last])?;
        Ok(())
    })?;
    drop(insert);
    all.commit()?;
    Ok(())
}
