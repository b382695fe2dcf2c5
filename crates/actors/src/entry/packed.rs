//! Packed payloads: an LZ4 block around the entries.
//!
//! What a log is written, synced, hashed, copied and read by is its bytes, and entries of one account differ in a few
//! numbers. A payload that would not get smaller is stored as it is.

use super::{PACKED_VERSION, PayloadError, scan};
use chargeplane_cluster::frame::MAX_PAYLOAD;
use lz4_flex::block;
use std::borrow::Cow;

/// Smaller payloads are left alone.
const WORTH_FROM: usize = 512;

/// Bytes of a packed payload before its block.
const HEADER: usize = 25;

/// Packs a payload where that makes it smaller.
pub(super) fn pack(plain: Vec<u8>) -> Vec<u8> {
    let Some(size) = u32::try_from(plain.len()).ok().filter(|_| plain.len() >= WORTH_FROM) else { return plain };
    let mut packed = vec![0; block::get_maximum_output_size(plain.len()).saturating_add(HEADER)];
    let Some((header, room)) = packed.split_first_chunk_mut::<HEADER>() else { return plain };
    let Ok(length) = block::compress_into(&plain, room) else { return plain };
    let end = length.saturating_add(HEADER);
    let Some(length) = u32::try_from(length).ok().filter(|_| end < plain.len()) else { return plain };
    // A map of "v", "size" and "lz4".
    header[..4].copy_from_slice(b"\x83\xa1v\xcd");
    header[4..6].copy_from_slice(&PACKED_VERSION.to_be_bytes());
    header[6..12].copy_from_slice(b"\xa4size\xce");
    header[12..16].copy_from_slice(&size.to_be_bytes());
    header[16..21].copy_from_slice(b"\xa3lz4\xc6");
    header[21..25].copy_from_slice(&length.to_be_bytes());
    packed.truncate(end);
    packed
}

/// A payload with its entries in the clear, whichever way it is stored.
pub fn unpack(payload: &[u8]) -> Result<Cow<'_, [u8]>, PayloadError> {
    let Some((size, block)) = scan::packed(payload)? else { return Ok(Cow::Borrowed(payload)) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > MAX_PAYLOAD {
        return Err(PayloadError::Malformed(format!("{size} bytes unpacked, at most {MAX_PAYLOAD}")));
    }
    let plain = block::decompress(block, size).map_err(|error| PayloadError::Malformed(error.to_string()))?;
    if plain.len() != size {
        return Err(PayloadError::Malformed(format!("{} bytes unpacked where {size} are announced", plain.len())));
    }
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<u8> {
        (0..count).flat_map(|n| format!("entry {n} of the same words; ").into_bytes()).collect()
    }

    #[test]
    fn packs_what_repeats_and_unpacks_it() {
        for count in [1, 20, 5_000] {
            let plain = words(count);
            let packed = pack(plain.clone());
            assert_eq!(packed.len() < plain.len(), count > 1, "{count}: {} of {}", packed.len(), plain.len());
            if count > 1 {
                assert_eq!(unpack(&packed).expect("unpacks"), plain);
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        // A linear congruence's highest bytes: no four of them in a row are there twice within reach of a block.
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((*state >> 56) as u8)
        };
        let noise: Vec<u8> = std::iter::from_fn({
            let mut state = 7u64;
            move || next(&mut state)
        })
        .take(4_000)
        .collect();
        let kept = pack(noise.clone());
        assert_eq!(kept, noise);
    }

    #[test]
    fn a_damaged_block_is_an_error_and_never_a_panic() {
        let packed = pack(words(200));
        for len in 0..packed.len() {
            assert!(unpack(&packed[..len]).is_err(), "cut to {len}");
        }
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            // Either it is said, or something else comes out that is read like any foreign bytes.
            let _ = unpack(&damaged);
        }
        let mut huge = packed.clone();
        huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(unpack(&huge).is_err());
        huge[12..16].copy_from_slice(&1u32.to_be_bytes());
        assert!(unpack(&huge).is_err());
    }
}
