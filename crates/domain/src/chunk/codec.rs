//! The stored layout of a chunk (docs/reference/storage.md). Integers are little-endian or LEB128 varints;
//! signed varints are zigzag.
//!
//! ```text
//! u8        version (2)
//! varint    range
//! u8        presence: 0 = a run, then u8 first place and u8 count - 1; 1 = then a bitmap of 32 bytes
//! 7 times   statistics of a column: zigzag min, varint max - min, varint sum - min * count
//! 7 times   a column: u8 method, and unless constant: varint length, bytes
//!           0 = constant: every value is the header's min
//!           1 = deltas: zigzag varints, each value minus the one before, the first minus min
//!           2 = Rice codes of what a predictor missed by, as `rice` describes
//! u32       CRC-32C of all bytes before it
//! ```
//!
//! Of the methods the shorter one is taken. Why this codec and not a library's: docs/decisions/0030.

use super::{CHUNK_SAMPLES, COLUMNS, ChunkError, ChunkHeader, Column, ColumnStats, EncodedChunk, Present};
use super::{first_of, rice};
use crate::sample::{NumberedSample, Sample};
use crate::units::{Timestamp, WattHours, Watts};

/// The version this program writes.
pub const CHUNK_VERSION: u8 = 2;

/// Longest encoded chunk. The worst case, all columns noise of 64 bits, is some 18,000 bytes.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;

const RUN: u8 = 0;
const BITMAP: u8 = 1;

const CONSTANT: u8 = 0;
const DELTAS: u8 = 1;
const RICE: u8 = 2;

/// Fewer values are not offered to Rice: the varints of their deltas are as short.
const RICE_MIN_VALUES: usize = 3;

/// The columns of some samples in the order of their numbers.
pub(super) struct Table {
    columns: [[i64; CHUNK_SAMPLES]; COLUMNS],
    places: [u8; CHUNK_SAMPLES],
    count: usize,
}

impl Table {
    /// Of samples with their places, at most [`CHUNK_SAMPLES`], in ascending order.
    pub(super) fn of<'a>(samples: impl Iterator<Item = (u8, &'a Sample)>) -> Self {
        let mut table = Self { columns: [[0; CHUNK_SAMPLES]; COLUMNS], places: [0; CHUNK_SAMPLES], count: 0 };
        for ((place, sample), at) in samples.zip(0..CHUNK_SAMPLES) {
            table.places[at] = place;
            for column in Column::ALL {
                table.columns[column.index()][at] = column.of(sample);
            }
            table.count = at + 1;
        }
        table
    }

    fn places(&self) -> &[u8] {
        &self.places[..self.count]
    }

    fn column(&self, column: Column) -> &[i64] {
        &self.columns[column.index()][..self.count]
    }

    /// What [`encode`] would say of this table.
    pub(super) fn header(&self, range: u64) -> ChunkHeader {
        let mut present = Present::default();
        for place in self.places() {
            present.insert(*place);
        }
        let columns = Column::ALL.map(|column| ColumnStats::of(self.column(column)));
        ChunkHeader { range, present, columns }
    }
}

pub(super) fn encode(range: u64, table: &Table) -> Result<EncodedChunk, ChunkError> {
    if table.count == 0 {
        return Err(ChunkError::Empty);
    }
    let header = table.header(range);
    let mut bytes = Vec::with_capacity(96 + table.count * 6);
    bytes.push(CHUNK_VERSION);
    put_varint(&mut bytes, header.range.into());
    put_present(&mut bytes, &header.present);
    put_stats(&mut bytes, &header.columns);
    let product = product(table.column(Column::Voltage), table.column(Column::Current));
    for column in Column::ALL {
        let frame = rice::Frame {
            places: table.places(),
            stats: &header.columns[column.index()],
            product: (column == Column::Power).then_some(&product[..table.count]),
        };
        put_column(&mut bytes, &frame, table.column(column));
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Ok(EncodedChunk { bytes, header })
}

/// Voltage times current in watts: both are in tenths.
fn product(voltage: &[i64], current: &[i64]) -> [i64; CHUNK_SAMPLES] {
    let mut product = [0; CHUNK_SAMPLES];
    for (product, (voltage, current)) in product.iter_mut().zip(voltage.iter().zip(current)) {
        *product = voltage.wrapping_mul(*current) / 100;
    }
    product
}

/// Writes statistics of all columns.
pub(crate) fn put_stats(bytes: &mut Vec<u8>, columns: &[ColumnStats; COLUMNS]) {
    for stats in columns {
        put_varint(bytes, zigzag(stats.min).into());
        put_varint(bytes, stats.max.abs_diff(stats.min).into());
        let floor = i128::from(stats.min) * i128::from(stats.count);
        put_varint(bytes, stats.sum.abs_diff(floor));
    }
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
    let columns = reader.stats(present.count() as u64)?;
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
    let places: Vec<u8> = header.present.iter().collect();
    let mut columns: [Vec<i64>; COLUMNS] = std::array::from_fn(|_| Vec::new());
    for column in Column::ALL {
        let product = match column {
            Column::Power => {
                let [_, voltage, current, ..] = &columns;
                Some(product(voltage, current))
            }
            _ => None,
        };
        let stats = &header.columns[column.index()];
        let product = product.as_ref().and_then(|product| product.get(..places.len()));
        let values = reader.column(column, &rice::Frame { places: &places, stats, product })?;
        if ColumnStats::of(&values) != *stats {
            return Err(ChunkError::Statistics(column));
        }
        for (sample, value) in samples.iter_mut().zip(&values) {
            set(column, &mut sample.sample, *value)?;
        }
        columns[column.index()] = values;
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

fn put_column(bytes: &mut Vec<u8>, frame: &rice::Frame<'_>, values: &[i64]) {
    let stats = frame.stats;
    if stats.min == stats.max {
        bytes.push(CONSTANT);
        return;
    }
    let mut packed = Vec::with_capacity(values.len() * 2 + 16);
    if values.len() >= RICE_MIN_VALUES {
        rice::encode(frame, values, &mut packed);
    }
    let mut method = RICE;
    // Deltas take a byte a value at the least.
    if packed.is_empty() || packed.len() > values.len() {
        let deltas = deltas(stats.min, values);
        if packed.is_empty() || deltas.len() < packed.len() {
            (method, packed) = (DELTAS, deltas);
        }
    }
    bytes.push(method);
    put_varint(bytes, packed.len() as u128);
    bytes.extend_from_slice(&packed);
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

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
}

/// Takes fields from the front; every length is checked against what is left.
pub(crate) struct Reader<'a> {
    pub(crate) rest: &'a [u8],
    pub(crate) whole: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ChunkError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ChunkError::Length { found: self.whole })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, ChunkError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn varint(&mut self) -> Result<u128, ChunkError> {
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

    pub(crate) fn varint_u64(&mut self, what: &'static str) -> Result<u64, ChunkError> {
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

    /// Statistics of all columns, of so many values each.
    pub(crate) fn stats(&mut self, count: u64) -> Result<[ColumnStats; COLUMNS], ChunkError> {
        let mut columns = [ColumnStats::EMPTY; COLUMNS];
        for stats in &mut columns {
            let min = unzigzag(self.varint_u64("minimum")?);
            let spread = self.varint_u64("maximum")?;
            let max = i128::from(min) + i128::from(spread);
            let max = i64::try_from(max).map_err(|_| ChunkError::Field("maximum"))?;
            let above = self.varint()?;
            if above > u128::from(spread) * u128::from(count) {
                return Err(ChunkError::Field("sum"));
            }
            let above = i128::try_from(above).map_err(|_| ChunkError::Field("sum"))?;
            let sum = i128::from(min) * i128::from(count) + above;
            *stats = ColumnStats { count, sum, min, max };
        }
        Ok(columns)
    }

    fn column(&mut self, column: Column, frame: &rice::Frame<'_>) -> Result<Vec<i64>, ChunkError> {
        let (min, count) = (frame.stats.min, frame.places.len());
        let method = self.byte()?;
        if method == CONSTANT {
            return Ok(vec![min; count]);
        }
        let length = usize::try_from(self.varint()?).map_err(|_| ChunkError::Field("column length"))?;
        let bytes = self.take(length)?;
        match method {
            DELTAS => self.deltas(bytes, min, count),
            RICE => rice::decode(frame, bytes).ok_or(ChunkError::Column(column)),
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
