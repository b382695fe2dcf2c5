//! The stored layout of a chunk (docs/reference/storage.md). Integers are little-endian or LEB128 varints;
//! signed varints are zigzag.
//!
//! ```text
//! u8        version (1)
//! varint    range
//! u8        presence: 0 = a run, then u8 first place and u8 count - 1; 1 = then a bitmap of 32 bytes
//! 7 times   statistics of a column: zigzag min, varint max - min, varint sum - min * count
//! 7 times   a column: u8 method, and unless constant: varint length, bytes
//!           0 = constant: every value is the header's min
//!           1 = deltas: zigzag varints, each value minus the one before, the first minus min
//!           2 = pco: header, chunk metadata and one page of pco's wrapped format; 32 bits for voltage,
//!               current, temperature and state of charge, 64 for the others
//! u32       CRC-32C of all bytes before it
//! ```
//!
//! Of the methods the shorter one is taken. Deltas win below some thirty values, where pco's bins cost more
//! than they save; pco runs with classic mode and first-order deltas fixed, which is five times faster than
//! letting it choose and smaller at this size (measured: 0.6 bytes a value at 300 against 0.7).

use super::{CHUNK_SAMPLES, COLUMNS, ChunkError, ChunkHeader, Column, ColumnStats, EncodedChunk, Present, first_of};
use crate::sample::{NumberedSample, Sample};
use crate::units::{Timestamp, WattHours, Watts};
use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

/// The version this program writes.
pub const CHUNK_VERSION: u8 = 1;

/// Longest encoded chunk. The worst case, all columns noise of 64 bits, is some 18,000 bytes.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;

const RUN: u8 = 0;
const BITMAP: u8 = 1;

const CONSTANT: u8 = 0;
const DELTAS: u8 = 1;
const PCO: u8 = 2;

/// Fewer values are not offered to pco: its tables alone are longer.
const PCO_MIN_VALUES: usize = 16;

pub(super) fn encode(header: ChunkHeader, samples: &[NumberedSample]) -> Result<EncodedChunk, ChunkError> {
    if samples.is_empty() {
        return Err(ChunkError::Empty);
    }
    let mut bytes = Vec::with_capacity(64 + samples.len() * 6);
    bytes.push(CHUNK_VERSION);
    put_varint(&mut bytes, header.range.into());
    put_present(&mut bytes, &header.present);
    for stats in &header.columns {
        put_varint(&mut bytes, zigzag(stats.min).into());
        put_varint(&mut bytes, stats.max.abs_diff(stats.min).into());
        let floor = i128::from(stats.min) * i128::from(stats.count);
        put_varint(&mut bytes, stats.sum.abs_diff(floor));
    }
    let mut values = Vec::with_capacity(samples.len());
    for column in Column::ALL {
        values.clear();
        values.extend(samples.iter().map(|sample| column.of(&sample.sample)));
        put_column(&mut bytes, column, &header.columns[column.index()], &values)?;
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Ok(EncodedChunk { bytes, header })
}

/// Verifies length, checksum and version, and reads the header. Returns the bytes of the columns with it.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(ChunkHeader, &[u8]), ChunkError> {
    let length = ChunkError::Length { found: bytes.len() };
    if bytes.len() > MAX_CHUNK_BYTES {
        return Err(length);
    }
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(length)?;
    let (found, computed) = (u32::from_le_bytes(*checksum), crc32c::crc32c(body));
    if found != computed {
        return Err(ChunkError::Checksum { found, computed });
    }
    let mut reader = Reader { rest: body, whole: bytes.len() };
    let version = reader.byte()?;
    if version != CHUNK_VERSION {
        return Err(ChunkError::Version(version));
    }
    let range = reader.varint_u64("range")?;
    // The range's last number must exist.
    if first_of(range).and_then(|first| first.checked_add(CHUNK_SAMPLES as u64 - 1)).is_none() {
        return Err(ChunkError::Field("range"));
    }
    let present = reader.present()?;
    let count = present.count() as u64;
    let mut columns = [ColumnStats::EMPTY; COLUMNS];
    for stats in &mut columns {
        let min = unzigzag(reader.varint_u64("minimum")?);
        let spread = reader.varint_u64("maximum")?;
        let max = i128::from(min) + i128::from(spread);
        let max = i64::try_from(max).map_err(|_| ChunkError::Field("maximum"))?;
        let above = reader.varint()?;
        if above > u128::from(spread) * u128::from(count) {
            return Err(ChunkError::Field("sum"));
        }
        let above = i128::try_from(above).map_err(|_| ChunkError::Field("sum"))?;
        let sum = i128::from(min) * i128::from(count) + above;
        *stats = ColumnStats { count, sum, min, max };
    }
    Ok((ChunkHeader { range, present, columns }, reader.rest))
}

/// Reads the columns and verifies them against the header. `whole` is the chunk's length, for errors.
pub(super) fn decode_columns(
    header: &ChunkHeader,
    columns: &[u8],
    whole: usize,
) -> Result<Vec<NumberedSample>, ChunkError> {
    let mut reader = Reader { rest: columns, whole };
    let blank = Sample {
        at: Timestamp(0),
        voltage_dv: 0,
        current_da: 0,
        temperature_dc: 0,
        soc_permille: 0,
        power: Watts(0),
        register: WattHours(0),
    };
    let numbered = header.numbers().map(|number| NumberedSample { number, sample: blank });
    let mut samples: Vec<NumberedSample> = numbered.collect();
    for column in Column::ALL {
        let stats = &header.columns[column.index()];
        let values = reader.column(column, stats, samples.len())?;
        let found = values.iter().fold(ColumnStats::EMPTY, |stats, value| stats.with(*value));
        if found != *stats {
            return Err(ChunkError::Statistics(column));
        }
        for (sample, value) in samples.iter_mut().zip(values) {
            set(column, &mut sample.sample, value)?;
        }
    }
    if reader.rest.is_empty() { Ok(samples) } else { Err(ChunkError::Length { found: whole }) }
}

fn set(column: Column, sample: &mut Sample, value: i64) -> Result<(), ChunkError> {
    let narrow = || i32::try_from(value).map_err(|_| ChunkError::Statistics(column));
    match column {
        Column::At => sample.at = Timestamp(value),
        Column::Voltage => sample.voltage_dv = narrow()?,
        Column::Current => sample.current_da = narrow()?,
        Column::Temperature => sample.temperature_dc = narrow()?,
        Column::Soc => sample.soc_permille = narrow()?,
        Column::Power => sample.power = Watts(value),
        Column::Register => sample.register = WattHours(value),
    }
    Ok(())
}

fn put_present(bytes: &mut Vec<u8>, present: &Present) {
    let (first, last) = (present.iter().next().unwrap_or(0), present.iter().last().unwrap_or(0));
    let span = last.saturating_sub(first);
    if present.count() == usize::from(span) + 1 {
        bytes.extend([RUN, first, span]);
    } else {
        bytes.push(BITMAP);
        present.0.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    }
}

fn put_column(bytes: &mut Vec<u8>, column: Column, stats: &ColumnStats, values: &[i64]) -> Result<(), ChunkError> {
    if stats.min == stats.max {
        bytes.push(CONSTANT);
        return Ok(());
    }
    let mut best = (DELTAS, deltas(stats.min, values));
    if values.len() >= PCO_MIN_VALUES {
        let packed = if column.is_narrow() {
            // The values come from 32-bit fields, so none is lost.
            let narrow: Vec<i32> = values.iter().filter_map(|value| i32::try_from(*value).ok()).collect();
            pco_pack(&narrow)
        } else {
            pco_pack(values)
        };
        let packed = packed.map_err(|error| column_error(column, error))?;
        if packed.len() < best.1.len() {
            best = (PCO, packed);
        }
    }
    bytes.push(best.0);
    put_varint(bytes, best.1.len() as u128);
    bytes.extend_from_slice(&best.1);
    Ok(())
}

fn deltas(min: i64, values: &[i64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    let mut before = min;
    for value in values {
        // Wrapping on both sides: the difference of two 64-bit values may not fit, its wrapped form does.
        put_varint(&mut bytes, zigzag(value.wrapping_sub(before)).into());
        before = *value;
    }
    bytes
}

fn pco_pack<T: Number>(values: &[T]) -> pco::errors::PcoResult<Vec<u8>> {
    let config = ChunkConfig::default().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::TryConsecutive(1));
    let file = FileCompressor::default();
    let mut bytes = file.write_header(Vec::new())?;
    let mut chunk = file.chunk_compressor(values, &config)?;
    bytes = chunk.write_meta(bytes)?;
    chunk.write_page(0, bytes)
}

/// Decompresses exactly `count` values, or says what is wrong.
fn pco_unpack<T: Number>(bytes: &[u8], count: usize) -> Result<Vec<T>, String> {
    let text = |error: pco::errors::PcoError| error.to_string();
    let (file, rest) = FileDecompressor::new(bytes).map_err(text)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(text)?;
    let mut page = chunk.page_decompressor(rest, count).map_err(text)?;
    let mut values = vec![T::default(); count];
    let progress = page.read(&mut values).map_err(text)?;
    if progress.n_processed != count || !page.into_src().is_empty() {
        return Err("it ends in the wrong place".to_owned());
    }
    Ok(values)
}

fn column_error(column: Column, what: impl ToString) -> ChunkError {
    ChunkError::Column { column, what: what.to_string() }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Takes fields from the front; every length is checked against what is left.
struct Reader<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ChunkError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ChunkError::Length { found: self.whole })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, ChunkError> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u128, ChunkError> {
        let mut value = 0u128;
        // 11 bytes hold 77 bits, more than any field has.
        for place in 0..11 {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ChunkError::Field("varint"))
    }

    fn varint_u64(&mut self, what: &'static str) -> Result<u64, ChunkError> {
        u64::try_from(self.varint()?).map_err(|_| ChunkError::Field(what))
    }

    fn present(&mut self) -> Result<Present, ChunkError> {
        let mut present = Present::default();
        match self.byte()? {
            RUN => {
                let (first, span) = (self.byte()?, self.byte()?);
                let last = first.checked_add(span).ok_or(ChunkError::Field("presence"))?;
                (first..=last).for_each(|offset| {
                    present.insert(offset);
                });
            }
            BITMAP => {
                for word in &mut present.0 {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(self.take(8)?);
                    *word = u64::from_le_bytes(bytes);
                }
            }
            _ => return Err(ChunkError::Field("presence")),
        }
        if present.count() == 0 { Err(ChunkError::Empty) } else { Ok(present) }
    }

    fn column(&mut self, column: Column, stats: &ColumnStats, count: usize) -> Result<Vec<i64>, ChunkError> {
        let method = self.byte()?;
        if method == CONSTANT {
            return Ok(vec![stats.min; count]);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| ChunkError::Field("column length"))?;
        let bytes = self.take(length)?;
        match method {
            DELTAS => self.deltas(bytes, stats.min, count),
            PCO if column.is_narrow() => {
                let values = pco_unpack::<i32>(bytes, count).map_err(|what| column_error(column, what))?;
                Ok(values.into_iter().map(i64::from).collect())
            }
            PCO => pco_unpack::<i64>(bytes, count).map_err(|what| column_error(column, what)),
            _ => Err(ChunkError::Field("column method")),
        }
    }

    fn deltas(&self, bytes: &[u8], min: i64, count: usize) -> Result<Vec<i64>, ChunkError> {
        let mut reader = Reader { rest: bytes, whole: self.whole };
        let mut before = min;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            before = before.wrapping_add(unzigzag(reader.varint_u64("delta")?));
            values.push(before);
        }
        if reader.rest.is_empty() { Ok(values) } else { Err(ChunkError::Length { found: self.whole }) }
    }
}
