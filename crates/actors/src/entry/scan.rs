//! Splitting a payload into its entries without decoding the events in them.
//!
//! Works on what may have been damaged: every length is held against the bytes that are left, and nothing is
//! allocated by a length that the bytes do not cover.

use super::{PACKED_VERSION, PLAIN_VERSION, PayloadError, StoredEntry, StoredEvent};
use rmp::Marker;
use rmp::decode::{read_array_len, read_bin_len, read_int, read_map_len, read_marker, read_str_from_slice};
use std::fmt::Display;

fn malformed(error: impl Display) -> PayloadError {
    PayloadError::Malformed(error.to_string())
}

/// The entries of a payload: a map of `v` and `entries`, in this order, and whatever later programs add.
pub(super) fn entries(payload: &[u8]) -> Result<Vec<StoredEntry<'_>>, PayloadError> {
    let mut rest = payload;
    let mut version = None;
    let mut found = None;
    for _ in 0..read_map_len(&mut rest).map_err(malformed)? {
        match text(&mut rest)? {
            "v" => {
                let v: u16 = read_int(&mut rest).map_err(malformed)?;
                if v > PLAIN_VERSION {
                    return Err(PayloadError::Version(v));
                }
                version = Some(v);
            }
            // Without a version nothing is known about what follows.
            "entries" if version.is_some() => {
                let count = read_array_len(&mut rest).map_err(malformed)?;
                found = Some((0..count).map(|_| entry(&mut rest)).collect::<Result<_, _>>()?);
            }
            _ => drop(value(&mut rest)?),
        }
    }
    found.ok_or_else(|| malformed("no entries"))
}

/// The size and the block of a packed payload: a map of `v`, `size` and `lz4`. None of one in the clear.
pub(super) fn packed(payload: &[u8]) -> Result<Option<(u32, &[u8])>, PayloadError> {
    let mut rest = payload;
    let fields = read_map_len(&mut rest).map_err(malformed)?;
    if fields == 0 || text(&mut rest)? != "v" {
        return Ok(None);
    }
    match read_int(&mut rest).map_err(malformed)? {
        PACKED_VERSION => {}
        version if version > PACKED_VERSION => return Err(PayloadError::Version(version)),
        _ => return Ok(None),
    }
    let (mut size, mut block) = (None, None);
    for _ in 1..fields {
        match text(&mut rest)? {
            "size" => size = Some(read_int(&mut rest).map_err(malformed)?),
            "lz4" => {
                let bytes = read_bin_len(&mut rest).map_err(malformed)?;
                block = Some(take(&mut rest, u64::from(bytes))?);
            }
            _ => drop(value(&mut rest)?),
        }
    }
    size.zip(block).map(Some).ok_or_else(|| malformed("a packed payload without size or block"))
}

/// One entry: a map of its kind to its content.
fn entry<'a>(rest: &mut &'a [u8]) -> Result<StoredEntry<'a>, PayloadError> {
    if read_map_len(rest).map_err(malformed)? != 1 {
        return Err(malformed("an entry is not of one kind"));
    }
    match text(rest)? {
        "entity" => entity(rest),
        "shard" => rmp_serde::from_slice(value(rest)?).map(StoredEntry::Shard).map_err(malformed),
        kind => Err(malformed(format!("an entry of the unknown kind {kind:?}"))),
    }
}

fn entity<'a>(rest: &mut &'a [u8]) -> Result<StoredEntry<'a>, PayloadError> {
    let (mut name, mut event) = (None, None);
    for _ in 0..read_map_len(rest).map_err(malformed)? {
        match text(rest)? {
            "key" => name = Some(text(rest)?),
            "event" => event = Some(StoredEvent(value(rest)?)),
            _ => drop(value(rest)?),
        }
    }
    let (key, event) = name.zip(event).ok_or_else(|| malformed("an entity's entry without key or event"))?;
    Ok(StoredEntry::Entity { key, event })
}

/// A value of an enum that has content: a map of the variant's name to it.
pub(super) fn variant(mut event: &[u8]) -> Option<(&str, &[u8])> {
    let rest = &mut event;
    (read_map_len(rest).ok()? == 1).then_some(())?;
    let name = text(rest).ok()?;
    Some((name, *rest))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, PayloadError> {
    let (text, left) = read_str_from_slice(*rest).map_err(malformed)?;
    *rest = left;
    Ok(text)
}

/// Takes one whole value, undecoded.
fn value<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PayloadError> {
    let from = *rest;
    // Values that are still to come; each takes a byte at least, so this ends.
    let mut left: u64 = 1;
    while left > 0 {
        left = left.saturating_sub(1).saturating_add(step(rest)?);
    }
    from.get(..from.len().saturating_sub(rest.len())).ok_or_else(|| malformed("a value without an end"))
}

/// Passes over one value's head and its own bytes. Returns how many values it holds.
fn step(rest: &mut &[u8]) -> Result<u64, PayloadError> {
    let marker = read_marker(rest).map_err(|error| malformed(error.0))?;
    let (bytes, inside) = match marker {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => (0, 0),
        Marker::U8 | Marker::I8 => (1, 0),
        Marker::U16 | Marker::I16 => (2, 0),
        Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
        Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
        Marker::FixStr(len) => (u64::from(len), 0),
        Marker::Str8 | Marker::Bin8 => (length(rest, 1)?, 0),
        Marker::Str16 | Marker::Bin16 => (length(rest, 2)?, 0),
        Marker::Str32 | Marker::Bin32 => (length(rest, 4)?, 0),
        Marker::FixArray(len) => (0, u64::from(len)),
        Marker::Array16 => (0, length(rest, 2)?),
        Marker::Array32 => (0, length(rest, 4)?),
        Marker::FixMap(len) => (0, u64::from(len).saturating_mul(2)),
        Marker::Map16 => (0, length(rest, 2)?.saturating_mul(2)),
        Marker::Map32 => (0, length(rest, 4)?.saturating_mul(2)),
        // An extension's type is one byte more.
        Marker::FixExt1 => (2, 0),
        Marker::FixExt2 => (3, 0),
        Marker::FixExt4 => (5, 0),
        Marker::FixExt8 => (9, 0),
        Marker::FixExt16 => (17, 0),
        Marker::Ext8 => (length(rest, 1)?.saturating_add(1), 0),
        Marker::Ext16 => (length(rest, 2)?.saturating_add(1), 0),
        Marker::Ext32 => (length(rest, 4)?.saturating_add(1), 0),
        Marker::Reserved => return Err(malformed("a byte that means nothing")),
    };
    take(rest, bytes)?;
    Ok(inside)
}

/// A big-endian length of so many bytes.
fn length(rest: &mut &[u8], bytes: u64) -> Result<u64, PayloadError> {
    Ok(take(rest, bytes)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], bytes: u64) -> Result<&'a [u8], PayloadError> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (taken, left) = rest.split_at_checked(bytes).ok_or_else(|| malformed("the payload ends too soon"))?;
    *rest = left;
    Ok(taken)
}
