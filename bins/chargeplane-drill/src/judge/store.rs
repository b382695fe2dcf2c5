//! The node's SQLite files, read from outside: which tables and columns there are is in
//! `docs/reference/storage.md`. A journal that is in another store was copied into a file laid out alike.

use super::findings::Findings;
use super::frame::{Chain, Frame};
use super::outside::{ChargerSamples, Outside};
use super::telemetry::{SampleTotals, Stored};
use crate::finish::ReadBack;
use crate::journal::{COPY, SAMPLES};
use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags, params};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The journal's file within the data directory.
pub const JOURNAL: &str = "journal.sqlite";

/// The file of declared gaps within the data directory.
pub const TELEMETRY: &str = "telemetry.sqlite";

/// Opens a store for reading; a node may have it open as well.
fn open(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags);
    let connection = connection.with_context(|| format!("cannot open the store {}", path.display()))?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    Ok(connection)
}

/// A shard's stored number: the family (0 station, 1 account) above 16 bits of index.
fn shard_name(code: i64) -> String {
    let family = match code >> 16 {
        0 => "station",
        1 => "account",
        _ => "unknown",
    };
    format!("{family}-{:04x}", code & 0xffff)
}

/// The file that has the logs of a run: a copy in the run directory, or the node's own.
pub fn journal_of(run_dir: &Path, data_dir: &Path) -> PathBuf {
    let copy = run_dir.join(COPY);
    if copy.is_file() { copy } else { data_dir.join(JOURNAL) }
}

/// The files that have the telemetry of a run.
pub struct TelemetryFiles {
    /// Those of chunks.
    days: Vec<PathBuf>,
    /// The one of declared gaps.
    gaps: PathBuf,
}

/// A copy in the run directory, or the node's own files: one of chunks for each day.
///
/// # Errors
/// The data directory cannot be read.
pub fn telemetry_of(run_dir: &Path, data_dir: &Path) -> anyhow::Result<TelemetryFiles> {
    let copy = run_dir.join(SAMPLES);
    if copy.is_file() {
        return Ok(TelemetryFiles { days: vec![copy.clone()], gaps: copy });
    }
    let mut days = Vec::new();
    for entry in std::fs::read_dir(data_dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("telemetry-") && name.ends_with(".sqlite") {
            days.push(path);
        }
    }
    Ok(TelemetryFiles { days, gaps: data_dir.join(TELEMETRY) })
}

/// Hands every frame of every shard to `take`, in order, and judges the logs themselves (OWN-1).
///
/// # Errors
/// The journal cannot be read at all.
pub fn walk_journal(
    file: &Path,
    findings: &mut Findings,
    mut take: impl FnMut(&Frame, &mut Findings),
) -> anyhow::Result<()> {
    let connection = open(file)?;
    // One transaction: with a node that goes on, heads and frames are still of one moment.
    let journal = connection.unchecked_transaction()?;
    let mut heads = journal.prepare("SELECT shard, epoch, last_lsn, last_hash FROM heads ORDER BY shard")?;
    let heads: Vec<(i64, i64, i64, Vec<u8>)> = heads
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<Result<_, _>>()?;
    ensure!(!heads.is_empty(), "the journal has no shards: was it ever used?");
    let mut frames = journal.prepare("SELECT frame FROM frames WHERE shard = ?1 ORDER BY lsn")?;
    for (code, epoch, last_lsn, last_hash) in heads {
        let shard = shard_name(code);
        let mut chain = Chain::new(&shard);
        let mut rows = frames.query(params![code])?;
        while let Some(row) = rows.next()? {
            match Frame::decode(row.get_ref(0)?.as_blob()?) {
                Ok(frame) => {
                    chain.follow(&frame, findings);
                    take(&frame, findings);
                }
                Err(error) => findings.violated("OWN-1", format!("{shard}: a frame that cannot be read: {error}")),
            }
        }
        chain.finish(last_lsn.cast_unsigned(), epoch.cast_unsigned(), &last_hash, findings);
    }
    Ok(())
}

/// Compares the telemetry store with what the gateways sent and with what the API served, charger by charger
/// (DATA-1).
///
/// # Errors
/// A file cannot be read at all.
pub fn judge_telemetry(
    source: &TelemetryFiles,
    outside: &Outside,
    served: &[ReadBack],
    findings: &mut Findings,
) -> anyhow::Result<SampleTotals> {
    let connection = open(&source.gaps)?;
    let promises = connection.unchecked_transaction()?;
    let days: Vec<Connection> = source.days.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    let mut totals = SampleTotals::default();
    for sent in &outside.samples {
        let stored = stored(&days, &promises, sent, findings)?;
        stored.judge(sent, &mut totals, findings);
        for range in served.iter().filter(|range| range.charger == sent.charger) {
            stored.judge_served(range, &mut totals, findings);
        }
    }
    findings.needs("DATA-1", totals.hashed > 0, "no range was compared with what was made");
    findings.needs("DATA-1", totals.served > 0, "nothing was read back over the API");
    let known: BTreeSet<(&str, u32)> = outside.samples.iter().map(|s| (s.charger.as_str(), s.incarnation)).collect();
    for day in &days {
        let names = "SELECT DISTINCT c.charger, k.incarnation FROM chunks k JOIN chargers c ON c.number = k.charger";
        let mut keys = day.prepare(names)?;
        let mut rows = keys.query([])?;
        while let Some(row) = rows.next()? {
            let (charger, incarnation): (String, u32) = (row.get(0)?, row.get(1)?);
            findings.check("DATA-1", known.contains(&(charger.as_str(), incarnation)), || {
                format!("{charger}, enrolment {incarnation}: stored, but nobody sent it")
            });
        }
    }
    Ok(totals)
}

fn stored(
    days: &[Connection],
    promises: &Connection,
    sent: &ChargerSamples,
    findings: &mut Findings,
) -> anyhow::Result<Stored> {
    let mut stored = Stored::default();
    for day in days {
        let mut chunks = day.prepare_cached(
            "SELECT chunk FROM chunks WHERE charger = (SELECT number FROM chargers WHERE charger = ?1)
             AND incarnation = ?2",
        )?;
        let mut rows = chunks.query(params![sent.charger, sent.incarnation])?;
        while let Some(row) = rows.next()? {
            stored.take_chunk(&sent.charger, row.get_ref(0)?.as_blob()?, findings);
        }
    }
    let mut gaps = promises.prepare_cached("SELECT first, last FROM gaps WHERE charger = ?1 AND incarnation = ?2")?;
    let mut rows = gaps.query(params![sent.charger, sent.incarnation])?;
    while let Some(row) = rows.next()? {
        let span: (i64, i64) = (row.get(0)?, row.get(1)?);
        stored.take_gap((span.0.cast_unsigned(), span.1.cast_unsigned()));
    }
    Ok(stored)
}
