//! The telemetry chunk: up to 256 samples of one charger as compressed columns.
//!
//! A chunk is a *fixed range* of the charger's sample numbers (256 k to 256 k + 255): where it begins never
//! depends on what arrived when, so writing a range again, by whoever, never tears or doubles samples
//! (DATA-1). One owner's later version of a range has more samples, never fewer; of versions by several
//! owners a reader takes the union by number ([`Chunk::merge`]).
//!
//! [`Columns`] is the open range a charger's samples are appended to; [`Chunk`] is the sorted value;
//! [`EncodedChunk`] its bytes, laid out as `codec` describes.

pub(crate) mod codec;
mod rice;
#[cfg(test)]
mod tests;

use crate::sample::{NumberedSample, Sample};
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

use codec::Table;
pub use codec::{CHUNK_VERSION, MAX_CHUNK_BYTES};

/// Sample numbers in one range.
pub const CHUNK_SAMPLES: usize = 256;

/// Columns of a chunk.
pub const COLUMNS: usize = 7;

/// The range a sample number belongs to.
pub fn range_of(number: u64) -> u64 {
    number / CHUNK_SAMPLES as u64
}

/// The first number of a range, none when the range lies beyond the last number.
pub fn first_of(range: u64) -> Option<u64> {
    range.checked_mul(CHUNK_SAMPLES as u64)
}

/// The place of a number in its range.
fn offset_of(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// One column of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// [`Sample::at`], ms.
    At,
    /// [`Sample::voltage_dv`], 0.1 V.
    Voltage,
    /// [`Sample::current_da`], 0.1 A.
    Current,
    /// [`Sample::temperature_dc`], 0.1 degree Celsius.
    Temperature,
    /// [`Sample::soc_permille`], 0.1 %.
    Soc,
    /// [`Sample::power`], W.
    Power,
    /// [`Sample::register`], Wh.
    Register,
}

impl Column {
    /// All columns, in the order they are stored.
    pub const ALL: [Self; COLUMNS] =
        [Self::At, Self::Voltage, Self::Current, Self::Temperature, Self::Soc, Self::Power, Self::Register];

    /// The column's place in [`ChunkHeader::columns`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// This column's value of a sample.
    pub fn of(self, sample: &Sample) -> i64 {
        match self {
            Self::At => sample.at.0,
            Self::Voltage => sample.voltage_dv.into(),
            Self::Current => sample.current_da.into(),
            Self::Temperature => sample.temperature_dc.into(),
            Self::Soc => sample.soc_permille.into(),
            Self::Power => sample.power.0,
            Self::Register => sample.register.0,
        }
    }
}

/// Count, sum, least and greatest of a column: enough to fold a rollup without decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnStats {
    /// How many values.
    pub count: u64,
    /// Their sum.
    pub sum: i128,
    /// The least value; `i64::MAX` when there is none.
    pub min: i64,
    /// The greatest value; `i64::MIN` when there is none.
    pub max: i64,
}

impl ColumnStats {
    /// Of no values: the neutral element of [`fold`](Self::fold).
    pub const EMPTY: Self = Self { count: 0, sum: 0, min: i64::MAX, max: i64::MIN };

    /// Of these values.
    pub fn of(values: &[i64]) -> Self {
        let mut stats = Self { count: values.len() as u64, ..Self::EMPTY };
        // Small values are summed in 64 bits, of which 256 times 2^48 leaves room.
        let small = values.iter().all(|value| value.unsigned_abs() < 1 << 48) && values.len() <= CHUNK_SAMPLES;
        let mut sum = 0i64;
        for value in values {
            stats.min = stats.min.min(*value);
            stats.max = stats.max.max(*value);
            sum = sum.wrapping_add(*value);
        }
        stats.sum = if small { sum.into() } else { values.iter().map(|value| i128::from(*value)).sum() };
        stats
    }

    /// Of one value more.
    pub fn with(self, value: i64) -> Self {
        self.fold(Self { count: 1, sum: value.into(), min: value, max: value })
    }

    /// Of both sets of values.
    pub fn fold(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum.saturating_add(other.sum),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    /// The mean, rounded towards zero; none of no values.
    pub fn mean(&self) -> Option<i64> {
        let mean = self.sum.checked_div(i128::from(self.count))?;
        i64::try_from(mean).ok()
    }
}

/// Statistics of all columns of some samples.
pub fn stats_of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> [ColumnStats; COLUMNS] {
    let mut stats = [ColumnStats::EMPTY; COLUMNS];
    for sample in samples {
        for column in Column::ALL {
            stats[column.index()] = stats[column.index()].with(column.of(sample));
        }
    }
    stats
}

/// Which of a range's 256 numbers are there.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present([u64; 4]);

impl Present {
    /// Adds a place; false when it was there.
    pub fn insert(&mut self, offset: u8) -> bool {
        let (word, bit) = (usize::from(offset >> 6), 1u64 << (offset & 63));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Whether a place is there.
    pub fn contains(&self, offset: u8) -> bool {
        self.0[usize::from(offset >> 6)] & (1u64 << (offset & 63)) != 0
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The places that are there, in order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|offset| self.contains(*offset))
    }

    /// Whether everything in `other` is here too.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// Whether nothing is in both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(mine, theirs)| mine & theirs == 0)
    }

    /// What is in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut union = *self;
        union.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
        union
    }
}

impl std::fmt::Debug for Present {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What a chunk says of itself: readable without decoding the columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHeader {
    /// The range of numbers.
    pub range: u64,
    /// Which of them are there.
    pub present: Present,
    /// Statistics a column, in the order of [`Column::ALL`].
    pub columns: [ColumnStats; COLUMNS],
}

impl ChunkHeader {
    /// How many samples.
    pub fn count(&self) -> usize {
        self.present.count()
    }

    /// The earliest time.
    pub fn first_at(&self) -> Timestamp {
        Timestamp(self.columns[Column::At.index()].min)
    }

    /// The latest time.
    pub fn last_at(&self) -> Timestamp {
        Timestamp(self.columns[Column::At.index()].max)
    }

    /// The numbers that are there, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let first = first_of(self.range).unwrap_or(u64::MAX);
        self.present.iter().map(move |offset| first.saturating_add(offset.into()))
    }

    /// Reads the header of an encoded chunk and verifies the checksum over the whole of it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        codec::decode_header(bytes).map(|(header, _)| header)
    }
}

/// A chunk ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChunk {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What they contain.
    pub header: ChunkHeader,
}

/// Why bytes or samples are not a chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Fewer bytes than the layout needs, or more.
    #[error("the chunk is {found} bytes long and ends in the wrong place")]
    Length { found: usize },
    /// The checksum does not fit the bytes.
    #[error("the chunk's checksum is {found:08x} where its bytes give {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    /// Written by a newer program.
    #[error("chunk version {0}, newer than this program knows ({CHUNK_VERSION})")]
    Version(u8),
    /// A field has a value it cannot have.
    #[error("the chunk's {0} is impossible")]
    Field(&'static str),
    /// A column's bytes are not one value for each sample.
    #[error("column {0:?} of the chunk does not decode to a value for each sample")]
    Column(Column),
    /// A column's values are not those the header counts.
    #[error("column {0:?} of the chunk does not add up to its header")]
    Statistics(Column),
    /// A sample number of another range.
    #[error("sample number {number} is not in range {range}")]
    Range { range: u64, number: u64 },
    /// A chunk of no samples is not stored.
    #[error("the chunk has no samples")]
    Empty,
}

/// Samples of one range, sorted by number, each number once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    range: u64,
    samples: Vec<NumberedSample>,
}

impl Chunk {
    /// Takes samples in any order; of two with one number the first is kept.
    pub fn new(range: u64, mut samples: Vec<NumberedSample>) -> Result<Self, ChunkError> {
        if let Some(other) = samples.iter().find(|sample| range_of(sample.number) != range) {
            return Err(ChunkError::Range { range, number: other.number });
        }
        samples.sort_by_key(|sample| sample.number);
        samples.dedup_by_key(|sample| sample.number);
        Ok(Self { range, samples })
    }

    /// The range.
    pub fn range(&self) -> u64 {
        self.range
    }

    /// The samples, sorted by number.
    pub fn samples(&self) -> &[NumberedSample] {
        &self.samples
    }

    fn table(&self) -> Table {
        Table::of(self.samples.iter().map(|sample| (offset_of(sample.number), &sample.sample)))
    }

    /// What [`encode`](Self::encode) would say of this chunk.
    pub fn header(&self) -> ChunkHeader {
        self.table().header(self.range)
    }

    /// The union by number. Where both have a number, this chunk's sample stays; they are equal unless a
    /// gateway broke its numbering.
    pub fn merge(&mut self, other: &Self) -> Result<(), ChunkError> {
        if other.range != self.range {
            let number = other.samples.first().map_or(0, |sample| sample.number);
            return Err(ChunkError::Range { range: self.range, number });
        }
        // Stable sort: this chunk's samples stay before the other's of the same number.
        self.samples.extend_from_slice(&other.samples);
        self.samples.sort_by_key(|sample| sample.number);
        self.samples.dedup_by_key(|sample| sample.number);
        Ok(())
    }

    /// Compresses. Fails on a chunk of no samples.
    pub fn encode(&self) -> Result<EncodedChunk, ChunkError> {
        codec::encode(self.range, &self.table())
    }

    /// Reads and verifies: checksum, bounds, and that the columns are those the header counts.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkError> {
        let (header, columns) = codec::decode_header(bytes)?;
        let samples = codec::decode_columns(&header, columns, bytes.len())?;
        Ok(Self { range: header.range, samples })
    }
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Append {
    /// The sample is new.
    Appended,
    /// The number was there: nothing changed.
    Duplicate,
    /// The number belongs to another range: nothing changed.
    OtherRange,
}

/// A range that is still being filled: one open a charger, appended to in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    range: u64,
    present: Present,
    offsets: Vec<u8>,
    samples: Vec<Sample>,
}

impl Columns {
    /// An empty range.
    pub fn new(range: u64) -> Self {
        Self { range, present: Present::default(), offsets: Vec::new(), samples: Vec::new() }
    }

    /// A range that goes on from what is stored.
    pub fn from_chunk(chunk: &Chunk) -> Self {
        let mut columns = Self::new(chunk.range);
        for sample in &chunk.samples {
            columns.append(sample.number, &sample.sample);
        }
        columns
    }

    /// Adds a sample, unless its number is there.
    pub fn append(&mut self, number: u64, sample: &Sample) -> Append {
        if range_of(number) != self.range {
            return Append::OtherRange;
        }
        if !self.present.insert(offset_of(number)) {
            return Append::Duplicate;
        }
        self.offsets.push(offset_of(number));
        self.samples.push(*sample);
        Append::Appended
    }

    /// Adds consecutive samples, the first with this number, as far as they belong to this range. Returns how many
    /// of them belong here, and how many of those were new.
    pub fn append_run(&mut self, first_number: u64, samples: &[Sample]) -> (usize, usize) {
        if range_of(first_number) != self.range {
            return (0, 0);
        }
        let first = offset_of(first_number);
        let before = self.samples.len();
        let mut belong = 0;
        for (offset, sample) in (first..=u8::MAX).zip(samples) {
            if self.present.insert(offset) {
                self.offsets.push(offset);
                self.samples.push(*sample);
            }
            belong += 1;
        }
        (belong, self.samples.len() - before)
    }

    /// The range.
    pub fn range(&self) -> u64 {
        self.range
    }

    /// How many samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// True when all 256 numbers are there.
    pub fn is_full(&self) -> bool {
        self.samples.len() == CHUNK_SAMPLES
    }

    /// Which numbers are there.
    pub fn present(&self) -> &Present {
        &self.present
    }

    /// Whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        range_of(number) == self.range && self.present.contains(offset_of(number))
    }

    /// The samples as a sorted chunk.
    pub fn to_chunk(&self) -> Chunk {
        let first = first_of(self.range).unwrap_or(u64::MAX);
        let numbered = self
            .offsets
            .iter()
            .zip(&self.samples)
            .map(|(offset, sample)| NumberedSample { number: first.saturating_add((*offset).into()), sample: *sample });
        let mut samples: Vec<_> = numbered.collect();
        // Almost always in order already: then this is one pass.
        samples.sort_by_key(|sample| sample.number);
        Chunk { range: self.range, samples }
    }

    /// Compresses what is there. Fails on an empty range.
    pub fn encode(&self) -> Result<EncodedChunk, ChunkError> {
        if !self.offsets.is_sorted() {
            return self.to_chunk().encode();
        }
        codec::encode(self.range, &Table::of(self.offsets.iter().copied().zip(&self.samples)))
    }
}
