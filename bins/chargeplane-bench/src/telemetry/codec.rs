//! The contest that chose the chunk's codec: bytes and time a value, the times included, by samples a chunk.

use super::curve::{Curve, HARD, Noise, TYPICAL};
use crate::Output;
use crate::report::Report;
use chargeplane_domain::chunk::{CHUNK_SAMPLES, Chunk, Column, Columns};
use chargeplane_domain::sample::Sample;
use pco::wrapped::FileCompressor;
use pco::{ChunkConfig, DeltaSpec, ModeSpec};
use std::time::Instant;

/// Chunks of each measurement.
const CHUNKS: usize = 2_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::new("codec", &std::env::temp_dir());
    for (curves, noise) in [("typical", TYPICAL), ("hard", HARD)] {
        for count in [10, 30, 60, CHUNK_SAMPLES] {
            let chunks = chunks(noise, count);
            let (bytes, encode_ns, decode_ns) = ours(&chunks)?;
            report.result(&format!("rice_{curves}_{count}_bytes_per_value"), bytes);
            report.result(&format!("rice_{curves}_{count}_encode_ns_per_value"), encode_ns);
            report.result(&format!("rice_{curves}_{count}_decode_ns_per_value"), decode_ns);
            for (name, codec) in [("pco", pco as Codec), ("varint", varint as Codec)] {
                let (bytes, ns) = other(&chunks, codec)?;
                report.peer(&format!("{name}_{curves}_{count}_bytes_per_value"), bytes);
                report.peer(&format!("{name}_{curves}_{count}_encode_ns_per_value"), ns);
            }
        }
    }
    report.note("rice", "whole chunks: presence, statistics and checksum are in its bytes and in its time");
    report.note("peers", "columns alone: pco 1 wrapped with classic mode and first-order deltas; varints of deltas");
    report.finish(args.output.json.as_deref())
}

fn chunks(noise: Noise, count: usize) -> Vec<Vec<Sample>> {
    let samples = |charger| {
        let mut curve = Curve::new(charger, noise, 1_760_000_000_000);
        (0..count).map(|_| curve.next()).collect()
    };
    (0..CHUNKS).map(samples).collect()
}

fn ours(chunks: &[Vec<Sample>]) -> anyhow::Result<(f64, f64, f64)> {
    let mut open = Vec::with_capacity(chunks.len());
    for samples in chunks {
        let mut columns = Columns::new(7);
        columns.append_run(7 * CHUNK_SAMPLES as u64, samples);
        open.push(columns);
    }
    let values = (chunks.len() * chunks[0].len() * 6) as f64;
    let began = Instant::now();
    let mut encoded = Vec::with_capacity(open.len());
    for columns in &open {
        encoded.push(columns.encode()?);
    }
    let encode_ns = began.elapsed().as_nanos() as f64 / values;
    let bytes: usize = encoded.iter().map(|chunk| chunk.bytes.len()).sum();
    let began = Instant::now();
    let mut decoded = Vec::with_capacity(open.len());
    for chunk in &encoded {
        decoded.push(Chunk::decode(&chunk.bytes)?);
    }
    let decode_ns = began.elapsed().as_nanos() as f64 / values;
    for (chunk, columns) in decoded.iter().zip(&open) {
        anyhow::ensure!(*chunk == columns.to_chunk(), "a chunk that does not come back as it was");
    }
    Ok((bytes as f64 / values, encode_ns, decode_ns))
}

type Codec = fn(&[i64], bool) -> anyhow::Result<usize>;

fn other(chunks: &[Vec<Sample>], codec: Codec) -> anyhow::Result<(f64, f64)> {
    let values = (chunks.len() * chunks[0].len() * 6) as f64;
    let (began, mut bytes) = (Instant::now(), 0);
    for samples in chunks {
        for column in Column::ALL {
            let values: Vec<i64> = samples.iter().map(|sample| column.of(sample)).collect();
            let narrow = !matches!(column, Column::At | Column::Power | Column::Register);
            bytes += codec(&values, narrow)?;
        }
    }
    Ok((bytes as f64 / values, began.elapsed().as_nanos() as f64 / values))
}

fn pco(values: &[i64], narrow: bool) -> anyhow::Result<usize> {
    let config = ChunkConfig::default().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::TryConsecutive(1));
    let file = FileCompressor::default();
    let bytes = file.write_header(Vec::new())?;
    let bytes = if narrow {
        let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
        let mut chunk = file.chunk_compressor(&values, &config)?;
        let bytes = chunk.write_meta(bytes)?;
        chunk.write_page(0, bytes)?
    } else {
        let mut chunk = file.chunk_compressor(values, &config)?;
        let bytes = chunk.write_meta(bytes)?;
        chunk.write_page(0, bytes)?
    };
    Ok(bytes.len())
}

fn varint(values: &[i64], _: bool) -> anyhow::Result<usize> {
    let (mut bytes, mut before) = (Vec::with_capacity(values.len() * 2), 0);
    for value in values {
        let delta = value.wrapping_sub(before);
        let mut rest = ((delta << 1) ^ (delta >> 63)) as u64;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        before = *value;
    }
    Ok(bytes.len())
}
