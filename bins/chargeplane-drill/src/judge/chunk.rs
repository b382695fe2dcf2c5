//! Telemetry chunks by our own reader, after the layout in `docs/reference/storage.md`.
//!
//! ```text
//! u8 version (1) | varint range | presence | 7 statistics | 7 columns | u32 CRC-32C of all before
//! presence:   0, u8 first place, u8 count - 1   or   1, bitmap of 32 bytes (four little-endian u64)
//! statistics: zigzag min, varint max - min, varint sum - min * count
//! column:     0 (every value is min)   or   1, length, zigzag deltas from min   or   2, length, pco page
//! ```

use pco::data_types::Number;
use pco::wrapped::FileDecompressor;

/// Samples in a range of numbers.
pub const RANGE: u64 = 256;

/// Columns: time, voltage, current, temperature, state of charge, power, register.
pub const COLUMNS: usize = 7;

/// Index of the column of times.
pub const TIME: usize = 0;

/// Index of the register's column.
pub const REGISTER: usize = 6;

/// Columns stored as 32-bit values.
const NARROW: [bool; COLUMNS] = [false, true, true, true, true, false, false];

/// A decoded chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Sample numbers, ascending.
    pub numbers: Vec<u64>,
    /// Values of each column, one a number.
    pub columns: [Vec<i64>; COLUMNS],
}

/// Reads a stored chunk, all of it.
///
/// # Errors
/// In words: what is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Chunk, String> {
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or("shorter than a checksum")?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err("the checksum does not fit".to_owned());
    }
    let mut reader = Reader(body);
    let version = reader.byte()?;
    if version != 1 {
        return Err(format!("chunk version {version} is not known"));
    }
    let first = reader.varint()?.checked_mul(u128::from(RANGE)).ok_or("range too large")?;
    let first = u64::try_from(first).map_err(|_| "range too large")?;
    let numbers: Vec<u64> = reader.presence()?.into_iter().map(|place| first + place).collect();
    let mut stats = [(0i64, 0i64, 0i128); COLUMNS];
    for stat in &mut stats {
        let min = reader.signed()?;
        let max = i64::try_from(i128::from(min) + int(reader.varint()?)?).map_err(|_| "maximum too large")?;
        *stat = (min, max, i128::from(min) * numbers.len() as i128 + int(reader.varint()?)?);
    }
    let mut columns: [Vec<i64>; COLUMNS] = Default::default();
    for (index, (column, (min, max, sum))) in columns.iter_mut().zip(stats).enumerate() {
        *column = reader.column(min, NARROW[index], numbers.len())?;
        let (least, most) = (column.iter().min().copied(), column.iter().max().copied());
        let total: i128 = column.iter().copied().map(i128::from).sum();
        if (least, most, total) != (Some(min), Some(max), sum) {
            return Err(format!("column {index} does not add up to its statistics"));
        }
    }
    if reader.0.is_empty() { Ok(Chunk { numbers, columns }) } else { Err("bytes after the last column".to_owned()) }
}

fn int(value: u128) -> Result<i128, String> {
    i128::try_from(value).map_err(|_| "number too large".to_owned())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u128, String> {
        let mut value = 0;
        for shift in (0..77).step_by(7) {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a varint without an end".to_owned())
    }

    fn signed(&mut self) -> Result<i64, String> {
        let raw = u64::try_from(self.varint()?).map_err(|_| "signed number too large")?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn presence(&mut self) -> Result<Vec<u64>, String> {
        match self.byte()? {
            0 => {
                let (first, more) = (u64::from(self.byte()?), u64::from(self.byte()?));
                if first + more >= RANGE {
                    Err("presence beyond the range".to_owned())
                } else {
                    Ok((first..=first + more).collect())
                }
            }
            1 => {
                let bitmap = self.take(32)?;
                Ok((0..RANGE).filter(|&n| bitmap[n as usize / 8] >> (n % 8) & 1 == 1).collect())
            }
            other => Err(format!("presence kind {other} is not known")),
        }
    }

    fn column(&mut self, min: i64, narrow: bool, count: usize) -> Result<Vec<i64>, String> {
        let method = self.byte()?;
        if method == 0 {
            return Ok(vec![min; count]);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| "column too long")?;
        let bytes = self.take(length)?;
        match method {
            1 => deltas(bytes, min, count),
            2 if narrow => Ok(unpack::<i32>(bytes, count)?.into_iter().map(i64::from).collect()),
            2 => unpack::<i64>(bytes, count),
            other => Err(format!("column method {other} is not known")),
        }
    }
}

fn deltas(bytes: &[u8], min: i64, count: usize) -> Result<Vec<i64>, String> {
    let mut reader = Reader(bytes);
    let mut value = min;
    let step = |_| {
        value = value.wrapping_add(reader.signed()?);
        Ok(value)
    };
    let values: Result<Vec<i64>, String> = (0..count).map(step).collect();
    if reader.0.is_empty() { values } else { Err("bytes after the last delta".to_owned()) }
}

fn unpack<T: Number>(bytes: &[u8], count: usize) -> Result<Vec<T>, String> {
    let words = |error: pco::errors::PcoError| format!("pco: {error}");
    let (file, rest) = FileDecompressor::new(bytes).map_err(words)?;
    let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest).map_err(words)?;
    let mut page = chunk.page_decompressor(rest, count).map_err(words)?;
    let mut values = vec![T::default(); count];
    let progress = page.read(&mut values).map_err(words)?;
    if progress.n_processed == count { Ok(values) } else { Err("a pco page of another length".to_owned()) }
}
