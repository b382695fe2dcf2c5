//! What is measured on the store alone: small chunks of hard curves, queries, and the peer that writes rows.

use super::audit::day_bytes;
use super::curve::{Curve, HARD, TYPICAL};
use super::world;
use chargeplane_actors::node::Node;
use chargeplane_actors::ports::{ChunkRow, DirtyHour, Flush, TelemetryStore};
use chargeplane_actors::shared::NodeConfig;
use chargeplane_domain::chunk::{CHUNK_SAMPLES, Columns};
use chargeplane_domain::placement::{Family, ShardId};
use chargeplane_domain::rollup::{Hour, Rollup};
use chargeplane_domain::units::Timestamp;
use chargeplane_sqlite::{DataDir, SqliteTelemetry};
use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const SHARD: ShardId = ShardId { family: Family::Station, index: 0 };

/// Samples of a small chunk.
const FEW: u64 = 30;

/// Chargers that queries are about, of which every one has an hour at ten a second and a month of hours.
const ASKED: usize = 100;

/// Hours of a month.
const MONTH: i64 = 31 * 24;

/// A flush of chunks alone.
fn flush(chunks: Vec<ChunkRow>) -> Flush {
    Flush { shard: SHARD, chunks, gaps: Vec::new(), cursors: Vec::new() }
}

/// Bytes a value in the store when every chunk has 30 samples of hard curves.
pub async fn hard_bytes_per_value(dir: &Path, chargers: usize) -> anyhow::Result<f64> {
    let data = tempfile::tempdir_in(dir)?;
    let mut values = 0u64;
    {
        let store = SqliteTelemetry::open(&DataDir::lock(data.path())?)?;
        let mut curves: Vec<Curve> = (0..chargers).map(|number| Curve::new(number, HARD, 1_760_000_000_000)).collect();
        for range in 0..10u64 {
            for (part, curves) in curves.chunks_mut(5_000).enumerate() {
                let mut rows = Vec::with_capacity(curves.len());
                for (at, curve) in curves.iter_mut().enumerate() {
                    let mut columns = Columns::new(range);
                    for number in 0..FEW {
                        columns.append(range * CHUNK_SAMPLES as u64 + number, &curve.next());
                    }
                    values += FEW * 6;
                    let charger = world::charger(part * 5_000 + at)?;
                    rows.push(ChunkRow { charger, incarnation: 1, epoch: 1, chunk: columns.encode()? });
                }
                store.write(flush(rows)).await?;
            }
        }
    }
    // Opened again: what is in the log is copied into the file.
    drop(SqliteTelemetry::open(&DataDir::lock(data.path())?)?);
    Ok(day_bytes(data.path())? as f64 / values as f64)
}

/// 99th percentiles in milliseconds: an hour of raw samples, and a month of rollups, through the node's handle.
pub async fn queries(dir: &Path) -> anyhow::Result<(f64, f64)> {
    let data = tempfile::tempdir_in(dir)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    let start = Hour(Hour::of(Timestamp(now)).0 - 26);
    let ports = world::ports(data.path()).await?;
    world::populate(&*ports.catalogue, ASKED).await?;
    for number in 0..ASKED {
        fill(&*ports.telemetry, number, start).await?;
    }
    let node = Node::start(NodeConfig::new("bench"), ports).await?;
    world::ready(&node).await?;
    let handle = node.handle();
    let (mut raw, mut month) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    for turn in 0..5 * ASKED {
        let charger = world::charger(turn * 37 % ASKED)?;
        let began = Instant::now();
        let samples = handle.telemetry_raw(&charger, start.start(), start.end(), 100_000).await?;
        raw.record(began.elapsed().as_micros() as u64)?;
        anyhow::ensure!(samples.len() > 35_900, "{} samples of an hour", samples.len());
        let began = Instant::now();
        let hours = handle.telemetry_hourly(&charger, Hour(start.0 - MONTH).start(), start.start()).await?;
        month.record(began.elapsed().as_micros() as u64)?;
        anyhow::ensure!(hours.len() as i64 == MONTH, "{} hours of a month", hours.len());
    }
    Ok((raw.value_at_quantile(0.99) as f64 / 1e3, month.value_at_quantile(0.99) as f64 / 1e3))
}

/// One charger's hour of samples, and a month of hours before it.
async fn fill(store: &dyn TelemetryStore, number: usize, start: Hour) -> anyhow::Result<()> {
    let charger = world::charger(number)?;
    let mut curve = Curve::new(number, TYPICAL, start.start().0);
    let mut rows = Vec::new();
    for range in 0..(36_000 / CHUNK_SAMPLES as u64 + 1) {
        let mut columns = Columns::new(range);
        for place in 0..CHUNK_SAMPLES as u64 {
            columns.append(range * CHUNK_SAMPLES as u64 + place, &curve.next());
        }
        rows.push(ChunkRow { charger: charger.clone(), incarnation: 1, epoch: 1, chunk: columns.encode()? });
    }
    let columns = rows[0].chunk.header.columns;
    store.write(flush(rows)).await?;
    let hours = (start.0 - MONTH..start.0).map(|hour| {
        let dirty = DirtyHour { charger: charger.clone(), hour: Hour(hour), mark: 0 };
        (dirty, Some(Rollup { hour: Hour(hour), columns, minutes: (1 << 60) - 1 }))
    });
    store.put_rollups(SHARD, hours.collect()).await?;
    Ok(())
}

/// Samples a second when each is a row, batches of 10,000 a transaction, synced as the node's files are, and bytes a
/// value.
pub fn row_per_sample(dir: &Path, time: Duration) -> anyhow::Result<(f64, f64)> {
    let data = tempfile::tempdir_in(dir)?;
    let path = data.path().join("rows.sqlite");
    let mut connection = Connection::open(&path)?;
    connection.pragma_update(None, "page_size", 8_192)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    connection.execute_batch(
        "CREATE TABLE samples(charger INTEGER, number INTEGER, at INTEGER, voltage_dv INTEGER, current_da INTEGER,
             temperature_dc INTEGER, soc_permille INTEGER, power_w INTEGER, register_wh INTEGER) STRICT;
         CREATE UNIQUE INDEX samples_by_key ON samples(charger, number);",
    )?;
    let mut curves: BTreeMap<usize, Curve> =
        (0..2_000).map(|number| (number, Curve::new(number, TYPICAL, 1_760_000_000_000))).collect();
    let (began, mut rows, mut first) = (Instant::now(), 0u64, 0i64);
    while began.elapsed() < time {
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO samples VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
            )?;
            for (charger, curve) in &mut curves {
                for number in first..first + 5 {
                    let s = curve.next();
                    insert.execute(params![
                        *charger as i64,
                        number,
                        s.at.0,
                        s.voltage_dv,
                        s.current_da,
                        s.temperature_dc,
                        s.soc_permille,
                        s.power.0,
                        s.register.0
                    ])?;
                }
            }
        }
        transaction.commit()?;
        (rows, first) = (rows + 5 * curves.len() as u64, first + 5);
    }
    let per_s = rows as f64 / began.elapsed().as_secs_f64();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok((per_s, std::fs::metadata(&path)?.len() as f64 / (rows * 6) as f64))
}
