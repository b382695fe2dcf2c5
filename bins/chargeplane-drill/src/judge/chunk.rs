//! Telemetry chunks by our own reader, after the layout in `docs/reference/storage.md`.
//!
//! ```text
//! u8 version (2) | varint range | presence | 7 statistics | 7 columns | u32 CRC-32C of all before
//! presence:   0, u8 first place, u8 count - 1   or   1, bitmap of 32 bytes (four little-endian u64)
//! statistics: zigzag min, varint max - min, varint sum - min * count
//! column:     0 (every value is min)   or   1, length, zigzag deltas from min   or   2, length, Rice codes
//! Rice codes: u8 predictor (0 previous, 1 drift, 2 line; 128 more: of what is left of voltage x current / 100)
//!             | zigzag slope, of drift and line | zigzag level, of 128 | blocks of 64 values
//! block:      6 bits k (63: all as predicted) | a value: quotient in ones, a zero, k bits; or 24 ones, 64 bits
//! ```

/// Samples in a range of numbers.
pub const RANGE: u64 = 256;

/// Columns: time, voltage, current, temperature, state of charge, power, register.
pub const COLUMNS: usize = 7;

/// Index of the column of times.
pub const TIME: usize = 0;

/// Index of the register's column.
pub const REGISTER: usize = 6;

/// Index of the column of power, which may be told by what it differs from voltage times current.
const POWER: usize = 5;

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
    if version != 2 {
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
    let places: Vec<i64> = numbers.iter().map(|number| (number - first) as i64).collect();
    let mut columns: [Vec<i64>; COLUMNS] = Default::default();
    for (index, (min, max, sum)) in stats.into_iter().enumerate() {
        let product: Option<Vec<i64>> = (index == POWER)
            .then(|| columns[1].iter().zip(&columns[2]).map(|(v, i)| v.wrapping_mul(*i) / 100).collect());
        let above = sum - i128::from(min) * numbers.len() as i128;
        let column = reader.column(&Known { places: &places, min, above, product })?;
        let (least, most) = (column.iter().min().copied(), column.iter().max().copied());
        let total: i128 = column.iter().copied().map(i128::from).sum();
        if (least, most, total) != (Some(min), Some(max), sum) {
            return Err(format!("column {index} does not add up to its statistics"));
        }
        columns[index] = column;
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

    fn column(&mut self, known: &Known<'_>) -> Result<Vec<i64>, String> {
        let method = self.byte()?;
        if method == 0 {
            return Ok(vec![known.min; known.places.len()]);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| "column too long")?;
        let bytes = self.take(length)?;
        match method {
            1 => deltas(bytes, known.min, known.places.len()),
            2 => rice(bytes, known),
            other => Err(format!("column method {other} is not known")),
        }
    }
}

/// What is known of a column before its bytes are read.
struct Known<'a> {
    places: &'a [i64],
    min: i64,
    /// The sum of the values less their minimum each.
    above: i128,
    product: Option<Vec<i64>>,
}

fn rice(bytes: &[u8], known: &Known<'_>) -> Result<Vec<i64>, String> {
    let mut reader = Reader(bytes);
    let head = reader.byte()?;
    let (predictor, of_product) = (head & 127, head & 128 != 0);
    let slope = match predictor {
        0 => 0,
        1 | 2 => reader.signed()?,
        other => return Err(format!("predictor {other} is not known")),
    };
    let product = known.product.as_deref().filter(|_| of_product);
    let level = match (of_product, predictor) {
        (true, _) if product.is_none() => return Err("no product of this column is known".to_owned()),
        (true, 2) => reader.signed()?.wrapping_mul(4_096),
        (true, _) => reader.signed()?,
        (false, 2) => line_through_the_mean(known, slope),
        (false, _) => known.min,
    };
    let mut bits = Bits { bytes: reader.0, next: 0 };
    let (mut k, mut values, mut before) = (0, Vec::new(), None);
    for (at, &place) in known.places.iter().enumerate() {
        if at % 64 == 0 {
            k = bits.number(6)?;
        }
        let missed = if k == 63 { 0 } else { bits.code(k)? };
        let predicted = match (predictor, before) {
            (2, _) => level.wrapping_add(slope.wrapping_mul(place)) >> 12,
            (1, Some((at, value))) => slope.wrapping_mul(place - at).wrapping_shr(12).wrapping_add(value),
            (_, Some((_, value))) => value,
            (_, None) => level,
        };
        let value = predicted.wrapping_add((missed >> 1).cast_signed() ^ -((missed & 1).cast_signed()));
        before = Some((place, value));
        // A line is of what lies above the minimum.
        let origin = if predictor == 2 && !of_product { known.min } else { 0 };
        let added = product.and_then(|product| product.get(at)).copied().unwrap_or(origin);
        values.push(value.wrapping_add(added));
    }
    bits.finish()?;
    Ok(values)
}

/// The value at place 0, in 4,096ths and half a unit up, of the line with this slope through the mean of values and
/// places.
fn line_through_the_mean(known: &Known<'_>, slope: i64) -> i64 {
    let places: i64 = known.places.iter().sum();
    let sum = (known.above as i64).wrapping_mul(4_096).wrapping_sub(slope.wrapping_mul(places));
    sum.div_euclid(known.places.len() as i64).wrapping_add(2_048)
}

/// Bits, the lowest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<u64, String> {
        let byte = self.bytes.get(self.next / 8).ok_or("the codes end too early")?;
        let bit = byte >> (self.next % 8) & 1;
        self.next += 1;
        Ok(bit.into())
    }

    fn number(&mut self, bits: u64) -> Result<u64, String> {
        (0..bits).try_fold(0, |number, place| Ok(number | self.bit()? << place))
    }

    fn code(&mut self, k: u64) -> Result<u64, String> {
        let mut quotient = 0;
        while self.bit()? == 1 {
            quotient += 1;
            if quotient == 24 {
                return self.number(64);
            }
        }
        Ok(quotient << k | self.number(k)?)
    }

    /// What is left are zeros that fill the last byte.
    fn finish(mut self) -> Result<(), String> {
        if self.next.div_ceil(8) != self.bytes.len() {
            return Err("bytes after the last code".to_owned());
        }
        let left = (self.bytes.len() * 8 - self.next) as u64;
        if self.number(left)? == 0 { Ok(()) } else { Err("the last byte is not filled with zeros".to_owned()) }
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
