//! One column of a chunk as Rice codes of what a predictor missed by.
//!
//! Meters read smooth curves with noise on them. What a prediction misses by is then small, centred on zero and
//! spread geometrically, which is what Rice codes are short for. The encoder tries every predictor and keeps the
//! one with the fewest bits:
//!
//! | predictor | predicts | short for |
//! |---|---|---|
//! | `PREVIOUS` | the value before | steps: state of charge, temperature |
//! | `DRIFT` | the value before, and a slope a place | counters: the register |
//! | `LINE` | a straight line through all values | noise that forgets itself: voltage, current, time |
//!
//! Power is also tried as what is left of it after voltage times current. All arithmetic wraps, on both sides: any
//! column survives the round trip, whatever its values, and a damaged one decodes to other values or an error.
//!
//! Bits are filled into bytes from the lowest up. A column is one byte (predictor, and [`OF_PRODUCT`]), the zigzag
//! varints of its parameters, and blocks of [`BLOCK`] values: six bits `k`, then each value as `u >> k` one bits, a
//! zero bit and the low `k` bits of `u`, where `u` is the zigzag of what the prediction missed by. [`ESCAPE`] one
//! bits stand for a `u` that follows in 64 bits, and `k` of [`ALL_ZERO`] for a block that was predicted exactly.

use super::codec::{Reader, put_varint, unzigzag, zigzag};
use super::{CHUNK_SAMPLES, ColumnStats};

/// Values of one block, which share their `k`.
const BLOCK: usize = 64;

/// Bits of `k`.
const K_BITS: u32 = 6;

/// A `k` that says: every value of the block was predicted.
const ALL_ZERO: u32 = 63;

/// The largest `k` that is written.
const MAX_K: u32 = 62;

/// As many one bits mean that the value follows as it is.
const ESCAPE: u32 = 24;

/// Slopes are in 4,096ths a place: over 256 places that is off by less than a thirtieth.
const SLOPE_BITS: u32 = 12;

/// Columns spread wider are not offered a line: its sums would not fit 64 bits.
const MAX_LINE_SPREAD: u64 = 1 << 40;

const PREVIOUS: u8 = 0;
const DRIFT: u8 = 1;
const LINE: u8 = 2;

/// Set in the first byte when voltage times current was taken off first.
const OF_PRODUCT: u8 = 0x80;

/// Where the values of a column lie: what both sides know before they see the column.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    /// Places in the range, ascending; one a value.
    pub(super) places: &'a [u8],
    /// The column's statistics.
    pub(super) stats: &'a ColumnStats,
    /// Voltage times current of each value in the column's unit, for the column of power.
    pub(super) product: Option<&'a [i64]>,
}

/// A predictor with its parameters.
#[derive(Debug, Clone, Copy)]
struct Model {
    kind: u8,
    /// In 4,096ths a place.
    slope: i64,
    /// Of `LINE`: its value at place 0, in 4,096ths. Of the others: what the first value is predicted as.
    level: i64,
}

impl Model {
    /// What comes at `place`, after `before` at `before_place`.
    fn predict(&self, place: u8, before: Option<(u8, i64)>) -> i64 {
        match (self.kind, before) {
            (LINE, _) => self.level.wrapping_add(self.slope.wrapping_mul(place.into())) >> SLOPE_BITS,
            (DRIFT, Some((at, value))) => {
                let steps = i64::from(place).wrapping_sub(at.into());
                value.wrapping_add(self.slope.wrapping_mul(steps) >> SLOPE_BITS)
            }
            (_, Some((_, value))) => value,
            (_, None) => self.level,
        }
    }
}

/// The sum of the places, and `count` times the sum of their squares less the square of their sum.
fn moments(places: &[u8]) -> (i64, i64) {
    let (mut sum, mut squares) = (0i64, 0i64);
    for place in places {
        let place = i64::from(*place);
        sum += place;
        squares += place * place;
    }
    (sum, squares.wrapping_mul(places.len() as i64).wrapping_sub(sum.wrapping_mul(sum)))
}

/// The level of the line with this slope through the values' centre: `above` is the sum of the values less the
/// origin each.
fn level_of_line(above: i64, slope: i64, places: &[u8]) -> i64 {
    let count = places.len().max(1) as i64;
    let centre = above.wrapping_shl(SLOPE_BITS).wrapping_sub(slope.wrapping_mul(moments(places).0));
    // Half a unit up, so that the shift of the prediction rounds.
    centre.div_euclid(count).wrapping_add(1 << (SLOPE_BITS - 1))
}

/// The least squares' slope in 4,096ths; `values` less `origin` must be below [`MAX_LINE_SPREAD`].
fn slope_of(values: &[i64], origin: i64, places: &[u8]) -> (i64, i64) {
    let (mut above, mut mixed) = (0i64, 0i64);
    for (value, place) in values.iter().zip(places) {
        let value = value.wrapping_sub(origin);
        above = above.wrapping_add(value);
        mixed = mixed.wrapping_add(value.wrapping_mul((*place).into()));
    }
    let (sum, spread) = moments(places);
    let covariance = i128::from(mixed) * places.len() as i128 - i128::from(above) * i128::from(sum);
    let slope = (covariance << SLOPE_BITS).checked_div(spread.into()).unwrap_or(0);
    (above, i64::try_from(slope).unwrap_or(0))
}

/// A mean slope from the first value to the last, rounded down.
fn drift_of(values: &[i64], places: &[u8]) -> i64 {
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return 0 };
    let (Some(from), Some(to)) = (places.first(), places.last()) else { return 0 };
    let rise = i128::from(*last) - i128::from(*first);
    // Whole units: a fraction would round differently at every place.
    let slope = rise.checked_div(i128::from(*to) - i128::from(*from)).unwrap_or(0) << SLOPE_BITS;
    i64::try_from(slope).unwrap_or(0)
}

/// What a model misses by, zigzagged, and about how many bits that takes.
fn misses(model: &Model, values: &[i64], places: &[u8], out: &mut [u64; CHUNK_SAMPLES]) -> u64 {
    let mut before = None;
    for ((value, place), miss) in values.iter().zip(places).zip(out.iter_mut()) {
        *miss = zigzag(value.wrapping_sub(model.predict(*place, before)));
        before = Some((*place, *value));
    }
    let used = out.get(..values.len()).unwrap_or_default();
    used.chunks(BLOCK).map(|block| best_k(block).1).fold(0, u64::saturating_add)
}

/// The `k` for a block and the bits that it then takes, `k` included.
fn best_k(block: &[u64]) -> (u32, u64) {
    let sum = block.iter().fold(0u64, |sum, miss| sum.saturating_add(*miss));
    if sum == 0 {
        return (ALL_ZERO, K_BITS.into());
    }
    let count = block.len() as u64;
    let mean = sum.checked_div(count).unwrap_or(0);
    // The best is next to the mean's logarithm: the one below it, or that one.
    let guess = mean.checked_ilog2().unwrap_or(0).min(MAX_K);
    let cost = |k: u32| {
        let bits = |miss: &u64| match miss >> k {
            quotient if quotient < ESCAPE.into() => quotient + 1 + u64::from(k),
            _ => u64::from(ESCAPE) + 64,
        };
        block.iter().map(bits).sum::<u64>() + u64::from(K_BITS)
    };
    let (low, high) = (guess.saturating_sub(1), guess);
    let (of_low, of_high) = (cost(low), cost(high));
    if of_low <= of_high { (low, of_low) } else { (high, of_high) }
}

/// Appends the column as it is shortest.
pub(super) fn encode(frame: &Frame<'_>, values: &[i64], bytes: &mut Vec<u8>) {
    let Frame { places, stats, product } = *frame;
    let mut best = [0u64; CHUNK_SAMPLES];
    let mut other = [0u64; CHUNK_SAMPLES];
    let previous = Model { kind: PREVIOUS, slope: 0, level: stats.min };
    let mut least = misses(&previous, values, places, &mut best);
    let mut chosen = (previous, false);
    let mut offer = |model: Model, values: &[i64], of_product: bool| {
        let bits = misses(&model, values, places, &mut other);
        if bits < least {
            (least, chosen) = (bits, (model, of_product));
            std::mem::swap(&mut best, &mut other);
        }
    };
    let slope = drift_of(values, places);
    if slope != 0 {
        offer(Model { kind: DRIFT, slope, level: stats.min }, values, false);
    }
    if stats.max.abs_diff(stats.min) < MAX_LINE_SPREAD {
        let (above, slope) = slope_of(values, stats.min, places);
        let level = level_of_line(above, slope, places);
        let mut shifted = [0i64; CHUNK_SAMPLES];
        shifted.iter_mut().zip(values).for_each(|(shifted, value)| *shifted = value.wrapping_sub(stats.min));
        offer(Model { kind: LINE, slope, level }, shifted.get(..values.len()).unwrap_or_default(), false);
    }
    if let Some(product) = product {
        let mut left = [0i64; CHUNK_SAMPLES];
        left.iter_mut().zip(values.iter().zip(product)).for_each(|(left, (v, p))| *left = v.wrapping_sub(*p));
        let left = left.get(..values.len()).unwrap_or_default();
        let (min, max) = (left.iter().min().copied().unwrap_or(0), left.iter().max().copied().unwrap_or(0));
        let first = left.first().copied().unwrap_or(0);
        offer(Model { kind: PREVIOUS, slope: 0, level: first }, left, true);
        if max.abs_diff(min) < MAX_LINE_SPREAD && min.unsigned_abs() < MAX_LINE_SPREAD {
            let (above, slope) = slope_of(left, 0, places);
            // Whole units: the level is written, and half a unit more or less misses by nothing.
            let level = level_of_line(above, slope, places) >> SLOPE_BITS << SLOPE_BITS;
            offer(Model { kind: LINE, slope, level }, left, true);
        }
    }
    let (model, of_product) = chosen;
    bytes.push(model.kind | if of_product { OF_PRODUCT } else { 0 });
    if model.kind != PREVIOUS {
        put_varint(bytes, zigzag(model.slope).into());
    }
    if of_product {
        let level = if model.kind == LINE { model.level >> SLOPE_BITS } else { model.level };
        put_varint(bytes, zigzag(level).into());
    }
    put_blocks(best.get(..values.len()).unwrap_or_default(), bytes);
}

fn put_blocks(misses: &[u64], bytes: &mut Vec<u8>) {
    let mut bits = BitWriter { bytes, held: 0, count: 0 };
    for block in misses.chunks(BLOCK) {
        let (k, _) = best_k(block);
        bits.put(k.into(), K_BITS);
        if k == ALL_ZERO {
            continue;
        }
        for miss in block {
            let quotient = miss >> k;
            if quotient < ESCAPE.into() {
                // So many ones and a zero.
                bits.put((1 << quotient) - 1, quotient as u32 + 1);
                bits.put_long(miss & ((1 << k) - 1), k);
            } else {
                bits.put((1 << ESCAPE) - 1, ESCAPE);
                bits.put_long(*miss, 64);
            }
        }
    }
    bits.finish();
}

/// Reads a column; none when it is not one of so many values.
pub(super) fn decode(frame: &Frame<'_>, bytes: &[u8]) -> Option<Vec<i64>> {
    let Frame { places, stats, product } = *frame;
    let mut reader = Reader { rest: bytes, whole: bytes.len() };
    let first = reader.byte().ok()?;
    let (kind, of_product) = (first & !OF_PRODUCT, first & OF_PRODUCT != 0);
    if kind > LINE {
        return None;
    }
    let product = if of_product { Some(product?) } else { None };
    let mut signed = || Some(unzigzag(reader.varint_u64("parameter").ok()?));
    let slope = if kind == PREVIOUS { 0 } else { signed()? };
    let written = if of_product { Some(signed()?) } else { None };
    let origin = if kind == LINE && !of_product { stats.min } else { 0 };
    let level = match (kind, written) {
        (LINE, Some(level)) => level.wrapping_shl(SLOPE_BITS),
        (LINE, None) => {
            let above = stats.sum.wrapping_sub(i128::from(stats.min).wrapping_mul(stats.count.into()));
            level_of_line(above as i64, slope, places)
        }
        (_, written) => written.unwrap_or(stats.min),
    };
    let model = Model { kind, slope, level };
    let mut bits = BitReader { rest: reader.rest, held: 0, count: 0 };
    let mut values = Vec::with_capacity(places.len().min(CHUNK_SAMPLES));
    let mut before = None;
    for (number, block) in places.chunks(BLOCK).enumerate() {
        let k = bits.take(K_BITS)? as u32;
        for (place, at) in block.iter().zip(number * BLOCK..) {
            let miss = if k == ALL_ZERO { 0 } else { bits.miss(k)? };
            let value = model.predict(*place, before).wrapping_add(unzigzag(miss));
            before = Some((*place, value));
            let whole = value.wrapping_add(origin);
            values.push(match product {
                Some(product) => whole.wrapping_add(*product.get(at)?),
                None => whole,
            });
        }
    }
    bits.is_done().then_some(values)
}

struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    held: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// Appends the low `bits` of a value that has no others; at most 32.
    fn put(&mut self, value: u64, bits: u32) {
        self.held |= value << self.count;
        self.count += bits;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    /// The same, up to 64.
    fn put_long(&mut self, value: u64, bits: u32) {
        if bits <= 32 {
            return self.put(value, bits);
        }
        self.put(value & u64::from(u32::MAX), 32);
        self.put(value >> 32, bits - 32);
    }

    fn finish(self) {
        let left = self.count.div_ceil(8) as usize;
        self.bytes.extend(self.held.to_le_bytes().into_iter().take(left));
    }
}

struct BitReader<'a> {
    rest: &'a [u8],
    held: u64,
    count: u32,
}

impl BitReader<'_> {
    fn fill(&mut self) {
        if let Some((word, rest)) = self.rest.split_first_chunk::<4>()
            && self.count <= 32
        {
            self.held |= u64::from(u32::from_le_bytes(*word)) << self.count;
            self.count += 32;
            self.rest = rest;
        }
        while let Some((byte, rest)) = self.rest.split_first()
            && self.count <= 56
        {
            self.held |= u64::from(*byte) << self.count;
            self.count += 8;
            self.rest = rest;
        }
    }

    /// The next `bits`, at most 32.
    fn take(&mut self, bits: u32) -> Option<u64> {
        if self.count < bits {
            self.fill();
        }
        self.count = self.count.checked_sub(bits)?;
        let value = self.held & ((1 << bits) - 1);
        self.held >>= bits;
        Some(value)
    }

    fn take_long(&mut self, bits: u32) -> Option<u64> {
        if bits <= 32 {
            return self.take(bits);
        }
        let low = self.take(32)?;
        Some(low | self.take(bits - 32)? << 32)
    }

    fn miss(&mut self, k: u32) -> Option<u64> {
        if self.count <= ESCAPE {
            self.fill();
        }
        let quotient = self.held.trailing_ones().min(self.count).min(ESCAPE);
        if quotient == ESCAPE {
            self.take(ESCAPE)?;
            return self.take_long(64);
        }
        self.take(quotient + 1)?;
        let low = self.take_long(k)?;
        Some((u64::from(quotient) << k) | low)
    }

    /// Nothing is left but the bits that fill the last byte, and they are zero.
    fn is_done(&self) -> bool {
        self.rest.is_empty() && self.count < 8 && self.held == 0
    }
}
