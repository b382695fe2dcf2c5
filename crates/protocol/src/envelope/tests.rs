use super::*;
use proptest::prelude::*;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

const NODE: u64 = 0x0001_0203_0405_0607;
const HEADER: &str =
    "435001000100000200010203040506070000000700000003000000000000002a00000000000020d0000660e6466480000000003800000038";
const PLAIN: &str =
    "01000001000000000012030019f10d6a0022cc66000000005f4b0000010000020003d0900012030019f10d6a0022cc66000000005f4b0000";
const CIPHER: &str =
    "10db026a008beb7bb2c9db92a2443db6d1f2dfa7360fd7f4003fb0a68bf61c904ed765d54656c749346b4011ccbf91c8152ade700cdb3133";
const TAG: &str = "c8aaeac5ca2df7f70905d67a80b66b6f";

fn vector_key() -> GatewayKey {
    GatewayKey { root: std::array::from_fn(|i| i as u8), key_epoch: 7 }
}

fn vector_header() -> Header {
    let midnight_us = 1_795_392_000_u64 * 1_000_000; // 2026-11-23T00:00:00Z
    Header { items: 2, boot: 3, seq: 42, first_item: 8400, base_us: midnight_us, ..Header::default() }
}

#[test]
fn worked_vector_of_the_derivation() {
    let info = derivation_info(NODE, 7, Direction::Up, 0);
    assert_eq!(info, unhex("636861726765706c616e652f62617463682f7631010000000102030405060700000007"));
    let okm = derive_bytes(&vector_key(), NODE, Direction::Up, 0);
    assert_eq!(okm[..32], unhex("8ea5b2b424e1d72b0b9e3294e9ab85123a1862f5c68ca5f03bdb9450909504b7"));
    assert_eq!(okm[32..], unhex("a5764c0777a42bbeeb6d0e41"));
    let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
    assert_eq!(key.nonce(&vector_header())[..], unhex("a5764c0477a42bbeeb6d0e6b"));
}

#[test]
fn worked_vector_seals_and_opens() {
    let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
    let expected = unhex(&format!("{HEADER}{CIPHER}{TAG}"));
    assert_eq!(key.seal(vector_header(), &unhex(PLAIN)).unwrap(), expected);
    let opened = key.open(&expected).unwrap();
    assert_eq!(opened.plain, unhex(PLAIN));
    assert_eq!(opened.header.to_bytes()[..], unhex(HEADER));
    assert_eq!((opened.header.boot, opened.header.seq, opened.header.first_item), (3, 42, 8400));
}

/// Project Wycheproof's cases for keys, nonces and tags of our sizes, with the functions that seal and open.
#[test]
fn wycheproof_cases_of_aes_256_gcm() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("wycheproof_aes_256_gcm.json")).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for case in cases["tests"].as_array().unwrap() {
        let bytes = |name: &str| unhex(case[name].as_str().unwrap());
        let key: [u8; 32] = bytes("key").try_into().unwrap();
        let cipher = Aes256Gcm::new(&Array::from(key));
        let nonce: [u8; 12] = bytes("iv").try_into().unwrap();
        let (aad, plain, sealed) = (bytes("aad"), bytes("msg"), bytes("ct"));
        let tag: [u8; TAG_LEN] = bytes("tag").try_into().unwrap();
        let mut opened = sealed.clone();
        let answer = decrypt(&cipher, nonce, &aad, &mut opened, tag);
        if case["result"] == "valid" {
            assert_eq!(answer, Ok(()), "{case}");
            assert_eq!(opened, plain, "{case}");
            let mut body = plain;
            assert_eq!(encrypt(&cipher, nonce, &aad, &mut body).unwrap(), tag, "{case}");
            assert_eq!(body, sealed, "{case}");
            valid += 1;
        } else {
            assert_eq!(answer, Err(OpenError::Authentication), "{case}");
            invalid += 1;
        }
    }
    assert_eq!(cases["numberOfTests"], valid + invalid);
    assert!(valid >= 30 && invalid >= 25, "{valid} valid, {invalid} invalid");
}

/// RFC 5869 appendix A.1 to A.3: the crate is what it says.
#[test]
fn rfc_5869_vectors() {
    let count = |range: std::ops::RangeInclusive<u8>| range.collect::<Vec<u8>>();
    let mut long = [0; 82];
    let (salt, info) = (count(0x60..=0xaf), count(0xb0..=0xff));
    Hkdf::<Sha256>::new(Some(&salt), &count(0x00..=0x4f)).expand(&info, &mut long).unwrap();
    let a2 = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
              da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
    assert_eq!(long[..], unhex(a2));
    let mut okm = [0; 42];
    let ikm = [0x0b; 22];
    let (salt, info) = (unhex("000102030405060708090a0b0c"), unhex("f0f1f2f3f4f5f6f7f8f9"));
    Hkdf::<Sha256>::new(Some(&salt), &ikm).expand(&info, &mut okm).unwrap();
    let a1 = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(okm[..], unhex(a1));
    Hkdf::<Sha256>::new(None, &ikm).expand(&[], &mut okm).unwrap();
    let a3 = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(okm[..], unhex(a3));
}

#[test]
fn streams_and_directions_have_keys_of_their_own() {
    let mut seen = std::collections::BTreeSet::new();
    for direction in [Direction::Up, Direction::Down] {
        for stream in 0..5 {
            let okm = derive_bytes(&vector_key(), NODE, direction, stream);
            assert!(seen.insert(okm[..32].to_vec()) && seen.insert(okm[32..].to_vec()));
        }
    }
    let ring = Keyring::new(&"main/g1".parse().unwrap(), &vector_key());
    let packet = ring.seal_up(Stream::Events, vector_header(), b"x").unwrap();
    assert_eq!(ring.open_down(&packet), Err(OpenError::Authentication));
    let down = ring.seal_down(4, 9, 1, 0, b"x").unwrap();
    assert_eq!(ring.open_up(&down).unwrap_err(), OpenError::Authentication);
    assert_eq!(ring.open_down(&down).unwrap().plain, b"x");
}

#[test]
fn every_refusal_before_the_key() {
    let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
    let good = key.seal(vector_header(), b"hello").unwrap();
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        Header::peek(&packet).err().map(|e| e.code())
    };
    assert_eq!(with(0, b'X'), Some("packet_magic"));
    assert_eq!(with(2, 2), Some("packet_version"));
    assert_eq!(with(3, FLAG_COMPRESSED), Some("packet_compressed"));
    for suite in [0, 2, 3, 4, 255] {
        assert_eq!(with(4, suite), Some("packet_suite"));
    }
    assert_eq!(with(5, 5), Some("packet_stream"));
    assert_eq!(with(6, 0x40), Some("packet_items"));
    assert_eq!(with(48, 1), Some("packet_length"));
    assert_eq!(with(55, 6), Some("packet_length"));
    assert_eq!(Header::peek(&good[..71]).unwrap_err().code(), "packet_too_short");
    assert_eq!(Header::peek(&vec![0; MAX_PACKET + 1]).unwrap_err().code(), "packet_too_large");
    let other = StreamKey::derive(&vector_key(), NODE + 1, Direction::Up, 0);
    assert_eq!(other.open(&good).unwrap_err().code(), "packet_node");
    let rotated = GatewayKey { key_epoch: 8, ..vector_key() };
    let other = StreamKey::derive(&rotated, NODE, Direction::Up, 0);
    assert_eq!(other.open(&good).unwrap_err(), OpenError::KeyEpoch { found: 7 });
    let other = StreamKey::derive(&vector_key(), NODE, Direction::Up, 1);
    assert_eq!(other.open(&good).unwrap_err(), OpenError::Stream { found: 0 });
    assert_eq!(
        key.seal(vector_header(), &vec![0; MAX_PLAIN + 1]).unwrap_err(),
        SealError::TooLarge { len: MAX_PLAIN + 1 }
    );
    assert_eq!(key.seal(vector_header(), &vec![0; MAX_PLAIN]).unwrap().len(), MAX_PACKET);
}

#[test]
fn an_epoch_beyond_the_nonce_is_refused() {
    let ring = Keyring::new(&"main/g1".parse().unwrap(), &vector_key());
    assert!(ring.seal_down(u64::from(u32::MAX), 1, 1, 0, b"x").is_ok());
    assert_eq!(ring.seal_down(1 << 32, 1, 1, 0, b"x"), Err(SealError::Epoch { epoch: 1 << 32 }));
}

#[test]
fn keys_do_not_print() {
    let text = format!("{:?} {:?}", vector_key(), Keyring::new(&"g".parse().unwrap(), &vector_key()));
    assert!(!text.contains("root") && !text.contains("ivmask"));
}

proptest! {
    #[test]
    fn round_trip(plain in prop::collection::vec(any::<u8>(), 0..600), boot: u32, seq: u64, items in 0u16..4096, flags: u8) {
        let ring = Keyring::new(&"main/g1".parse().unwrap(), &vector_key());
        let header = Header { boot, seq, items, flags: flags & !FLAG_COMPRESSED, ..Header::default() };
        let packet = ring.seal_up(Stream::Replay, header, &plain).unwrap();
        let (stream, opened) = ring.open_up(&packet).unwrap();
        prop_assert_eq!(stream, Stream::Replay);
        prop_assert_eq!((opened.header.boot, opened.header.seq, opened.header.items), (boot, seq, items));
        prop_assert_eq!(opened.plain, plain);
    }

    #[test]
    fn no_flipped_bit_opens(plain in prop::collection::vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0u8..8) {
        let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
        let mut packet = key.seal(vector_header(), &plain).unwrap();
        let at = at.index(packet.len());
        packet[at] ^= 1 << bit;
        prop_assert!(key.open(&packet).is_err());
    }

    #[test]
    fn no_truncation_and_no_extension_opens(plain in prop::collection::vec(any::<u8>(), 0..100), cut in 1usize..60, more in 1usize..40) {
        let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
        let mut packet = key.seal(vector_header(), &plain).unwrap();
        prop_assert!(key.open(&packet[..packet.len() - cut]).is_err());
        packet.resize(packet.len() + more, 0);
        prop_assert!(key.open(&packet).is_err());
    }

    #[test]
    fn random_bytes_never_open(packet in prop::collection::vec(any::<u8>(), 0..400), valid_start: bool) {
        let key = StreamKey::derive(&vector_key(), NODE, Direction::Up, 0);
        let mut packet = packet;
        if valid_start && packet.len() > 72 {
            let len = (packet.len() - 72) as u32;
            packet[..HEADER_LEN].copy_from_slice(&Header { suite: 1, node: NODE, key_epoch: 7, plain_len: len, cipher_len: len, ..vector_header() }.to_bytes());
            prop_assert_eq!(key.open(&packet), Err(OpenError::Authentication));
        } else {
            prop_assert!(key.open(&packet).is_err());
        }
    }
}
