//! After the kill: is every sample that was acknowledged in the store, and as it was measured?
//!
//! What each gateway was told is noted by sequence. Which samples a sequence carried follows from the plan, what they
//! read from the curves: both are computed again here and compared with what the store's files hold.

use super::curve::{Curve, TYPICAL};
use super::world::{self, CHILDREN, RUN};
use anyhow::{Context, ensure};
use chargeplane_actors::ports::{ChunkQuery, TelemetryStore};
use chargeplane_domain::chunk::Chunk;
use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::Timestamp;
use chargeplane_sqlite::{DataDir, SqliteTelemetry};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[arg(long)]
    data_dir: PathBuf,
    #[arg(long)]
    acknowledged: PathBuf,
    #[arg(long)]
    start_ms: i64,
}

/// What was found.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Found {
    pub acknowledged: u64,
    pub missing: u64,
    pub different: u64,
    pub stored: u64,
    pub chunks: u64,
    pub chunk_bytes: u64,
    /// Of the days' files, once nothing is left in their logs.
    pub file_bytes: u64,
}

/// The fresh process that looks.
pub fn run(args: &AuditArgs) -> anyhow::Result<()> {
    let upto: Vec<[u64; 2]> = serde_json::from_slice(&std::fs::read(&args.acknowledged)?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut found = Found::default();
    {
        let store = SqliteTelemetry::open(&DataDir::lock(&args.data_dir)?)?;
        for (gateway, upto) in upto.iter().enumerate() {
            runtime.block_on(audit(&store, gateway, *upto, args.start_ms, &mut found))?;
        }
    }
    found.file_bytes = day_bytes(&args.data_dir)?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// Bytes of the files of chunks, logs included.
pub fn day_bytes(data: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("telemetry-") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// The first numbers of the runs that were acknowledged, by group.
fn acknowledged_runs(gateway: usize, [fast, replay]: [u64; 2]) -> [Vec<u64>; 2] {
    let mut runs = [Vec::new(), Vec::new()];
    let (mut fast_seq, mut replay_seq) = (0, 0);
    for turn in 0.. {
        let (seq, upto) = match world::is_late(gateway, turn) {
            true => (&mut replay_seq, replay),
            false => (&mut fast_seq, fast),
        };
        *seq += 1;
        if *seq <= upto {
            runs[(turn % 2) as usize].push(world::content(turn).1);
        }
        if fast_seq >= fast && replay_seq >= replay {
            return runs;
        }
    }
    runs
}

async fn audit(
    store: &SqliteTelemetry,
    gateway: usize,
    upto: [u64; 2],
    start_ms: i64,
    found: &mut Found,
) -> anyhow::Result<()> {
    let runs = acknowledged_runs(gateway, upto);
    for child in 0..CHILDREN {
        let number = gateway * CHILDREN + child;
        let stored = stored(store, number, found).await?;
        let (mut curve, mut next) = (Curve::new(number, TYPICAL, start_ms), 0);
        for first in &runs[child / world::GROUP] {
            // The curve is the same one sample after the other, whoever asks for them.
            while next < *first {
                curve.next();
                next += 1;
            }
            for number in *first..*first + RUN as u64 {
                let measured = curve.next();
                next += 1;
                found.acknowledged += 1;
                match stored.get(&number) {
                    None => found.missing += 1,
                    Some(sample) if *sample != measured => found.different += 1,
                    Some(_) => {}
                }
            }
        }
    }
    Ok(())
}

async fn stored(store: &SqliteTelemetry, number: usize, found: &mut Found) -> anyhow::Result<BTreeMap<u64, Sample>> {
    let query =
        ChunkQuery { charger: world::charger(number)?, from: Timestamp(0), to: Timestamp(i64::MAX), limit: usize::MAX };
    let mut samples = BTreeMap::new();
    for row in store.chunks(query).await? {
        let chunk = Chunk::decode(&row.chunk.bytes).context("a stored chunk")?;
        found.chunks += 1;
        found.chunk_bytes += row.chunk.bytes.len() as u64;
        for numbered in chunk.samples() {
            if let Some(other) = samples.insert(numbered.number, numbered.sample) {
                ensure!(other == numbered.sample, "number {} is stored with two contents", numbered.number);
            }
        }
    }
    found.stored += samples.len() as u64;
    Ok(samples)
}
