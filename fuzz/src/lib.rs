//! What must hold for any bytes: of the sealed envelope, of the messages in it, of a stored chunk, of the files of a
//! gateway's ring.
//!
//! Each target takes bytes and panics when something does not hold. They run on the corpus as plain tests
//! (`./dev test fuzz`), and under libFuzzer for as long as one likes (`./dev test --long fuzz`: ten minutes each).

mod ring;

pub use ring::{FILES, Piece, ring, to_bytes};

use chargeplane_domain::chunk::{self, Chunk};
use chargeplane_domain::ids::GatewayId;
use chargeplane_protocol::envelope::{GatewayKey, HEADER_LEN, Header, Keyring, OpenError};
use chargeplane_protocol::message::{Stream, UpBatch};
use chargeplane_protocol::wire;

/// A function that panics when something does not hold of these bytes.
pub type Target = fn(&[u8]);

/// The targets, by the name of their corpus.
pub const TARGETS: [(&str, Target); 4] = [("envelope", envelope), ("batch", batch), ("chunk", chunk), ("ring", ring)];

/// The keys that seeds are sealed under.
pub fn keys() -> Keyring {
    let root = std::array::from_fn(|at| u8::try_from(at).unwrap_or(0));
    Keyring::new(&gateway(), &GatewayKey { root, key_epoch: 7 })
}

fn gateway() -> GatewayId {
    match "main/gw-01".parse() {
        Ok(gateway) => gateway,
        Err(error) => panic!("a good id: {error}"),
    }
}

/// Nothing opens but what was sealed, byte by byte; and what was sealed does.
pub fn envelope(data: &[u8]) {
    let keys = keys();
    match keys.open_up(data) {
        // Only who has the key can have made it: sealing its content again gives the same bytes.
        Ok((stream, opened)) => {
            let again = keys.seal_up(stream, opened.header, &opened.plain);
            assert_eq!(again.as_deref(), Ok(data), "another packet opens as well");
        }
        Err(OpenError::Authentication) => assert!(data.len() >= HEADER_LEN),
        Err(_) => {}
    }
    if let Ok(header) = Header::peek(data) {
        assert_eq!(header.to_bytes()[..], data[..HEADER_LEN], "a header is read as it is written");
    }
    let _ = keys.open_down(data);
    // The bytes as content: sealed and opened; with any bit changed, no more.
    let header = Header { items: 1, boot: 3, seq: 42, ..Header::default() };
    let Ok(sealed) = keys.seal_up(Stream::Fast, header, data) else { return };
    let opened = keys.open_up(&sealed).map(|(stream, opened)| (stream, opened.plain));
    assert_eq!(opened, Ok((Stream::Fast, data.to_vec())));
    let sum = data.iter().fold(data.len(), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut changed = sealed.clone();
    changed[sum % sealed.len()] ^= 1 << (sum % 8);
    assert!(keys.open_up(&changed).is_err(), "bit {} of byte {} may be changed", sum % 8, sum % sealed.len());
}

/// What is read can be written and is then read as the same; the first byte chooses the stream, or the way down.
pub fn batch(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    match Stream::from_u8(choice % 6) {
        Some(stream) => {
            let Ok(read) = wire::decode_up(stream, bytes) else { return };
            if let UpBatch::Samples { runs, gaps } = &read {
                assert!(runs.iter().all(|run| !run.samples.is_empty()), "an empty run");
                assert!(gaps.iter().all(|(_, gap)| gap.first <= gap.last), "a gap that ends before it begins");
            }
            assert_eq!(wire::decode_up(stream, &wire::encode_up(&read)).as_ref(), Ok(&read));
        }
        None => {
            let Ok(read) = wire::decode_down(bytes) else { return };
            assert_eq!(wire::decode_down(&wire::encode_down(&read)).as_ref(), Ok(&read));
        }
    }
}

/// A chunk that is read holds samples of its range in their order, and is written and read as the same.
pub fn chunk(data: &[u8]) {
    let Ok(read) = Chunk::decode(data) else { return };
    let numbers: Vec<u64> = read.samples().iter().map(|sample| sample.number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "a number twice or out of order");
    assert!(numbers.iter().all(|number| chunk::range_of(*number) == read.range()), "a number of another range");
    assert_eq!(read.header().count(), numbers.len());
    let Ok(written) = read.encode() else { return };
    assert_eq!(Chunk::decode(&written.bytes).as_ref(), Ok(&read));
}
