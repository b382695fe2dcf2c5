use super::*;
use crate::units::{WattHours, Watts};
use proptest::prelude::*;

/// A charging car: noise on voltage and current, a slow rise of everything else.
fn charging(number: u64) -> NumberedSample {
    let n = i64::try_from(number).expect("small");
    let noise = i32::try_from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60).expect("four bits");
    let sample = Sample {
        at: Timestamp(1_700_000_000_000 + n * 100 + i64::from(noise % 3)),
        voltage_dv: 7_500 + noise,
        current_da: 1_500 - noise,
        temperature_dc: 250 + i32::try_from(n / 50).expect("small"),
        soc_permille: 300 + i32::try_from(n / 40).expect("small"),
        power: Watts(112_000 + i64::from(noise) * 17),
        register: WattHours(5_000_000 + n * 3),
    };
    NumberedSample { number, sample }
}

fn chunk(numbers: impl IntoIterator<Item = u64>) -> Chunk {
    let samples: Vec<_> = numbers.into_iter().map(charging).collect();
    Chunk::new(range_of(samples[0].number), samples).expect("one range")
}

fn any_sample() -> impl Strategy<Value = Sample> {
    // Mostly plausible values, and every now and then the bounds of the type.
    let wide = || prop_oneof![8 => -1_000_000i64..1_000_000, 1 => any::<i64>(), 1 => prop_oneof![Just(i64::MIN), Just(i64::MAX)]];
    let narrow =
        || prop_oneof![8 => -5_000i32..20_000, 1 => any::<i32>(), 1 => prop_oneof![Just(i32::MIN), Just(i32::MAX)]];
    let values = (wide(), narrow(), narrow(), narrow(), narrow(), wide(), wide());
    values.prop_map(|(at, voltage_dv, current_da, temperature_dc, soc_permille, power, register)| Sample {
        at: Timestamp(at),
        voltage_dv,
        current_da,
        temperature_dc,
        soc_permille,
        power: Watts(power),
        register: WattHours(register),
    })
}

/// A chunk of any samples at any places of any range.
fn any_chunk() -> impl Strategy<Value = Chunk> {
    let range = prop_oneof![0u64..5, Just(u64::MAX / 256), 0u64..(u64::MAX / 256)];
    let samples = prop_oneof![
        proptest::collection::btree_map(any::<u8>(), any_sample(), 1..40),
        proptest::collection::btree_map(any::<u8>(), any_sample(), 100..257),
    ];
    (range, samples).prop_map(|(range, samples)| {
        let first = first_of(range).expect("the range exists");
        let numbered =
            samples.into_iter().map(|(offset, sample)| NumberedSample { number: first + u64::from(offset), sample });
        Chunk::new(range, numbered.collect()).expect("one range")
    })
}

#[test]
fn ranges_are_fixed() {
    assert_eq!([0, 255, 256, 1_000].map(range_of), [0, 0, 1, 3]);
    assert_eq!(first_of(3), Some(768));
    assert_eq!(first_of(u64::MAX), None);
}

#[test]
fn a_charging_car_takes_under_0_8_bytes_a_value() {
    let bytes = chunk(256..512).encode().expect("encodes").bytes;
    // Six values a sample, the time comes with them.
    assert!(bytes.len() <= 256 * 6 * 8 / 10, "{} bytes", bytes.len());
    println!("256 samples: {} bytes, {:.2} a value", bytes.len(), bytes.len() as f64 / (256.0 * 6.0));
}

#[test]
fn an_idle_charger_s_few_samples_stay_small() {
    let samples = (0..3).map(|n| NumberedSample {
        number: n,
        sample: Sample { at: Timestamp(1_700_000_000_000 + 10_000 * n.cast_signed()), ..charging(0).sample },
    });
    let bytes = Chunk::new(0, samples.collect()).expect("one range").encode().expect("encodes").bytes;
    assert!(bytes.len() < 80, "{} bytes", bytes.len());
}

#[test]
fn the_layout_is_the_documented_one() {
    let sample = Sample {
        at: Timestamp(1),
        voltage_dv: -1,
        current_da: 2,
        temperature_dc: 3,
        soc_permille: 4,
        power: Watts(5),
        register: WattHours(6),
    };
    let later = Sample { at: Timestamp(3), ..sample };
    let samples = vec![NumberedSample { number: 600, sample: later }, NumberedSample { number: 599, sample }];
    let bytes = Chunk::new(2, samples).expect("one range").encode().expect("encodes").bytes;
    // Version, range, presence: a run of two from place 87.
    assert_eq!(bytes[..5], [2, 2, 0, 87, 1]);
    // Statistics: min, max - min, sum - min * count.
    assert_eq!(bytes[5..26], [2, 2, 2, 1, 0, 0, 4, 0, 0, 6, 0, 0, 8, 0, 0, 10, 0, 0, 12, 0, 0]);
    // Columns: the times as two deltas, the others constant.
    assert_eq!(bytes[26..36], [1, 2, 0, 4, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[36..], crc32c::crc32c(&bytes[..36]).to_le_bytes());
}

#[test]
fn the_header_alone_tells_count_times_and_numbers() {
    let encoded = chunk((256..400).chain(410..412)).encode().expect("encodes");
    let header = ChunkHeader::decode(&encoded.bytes).expect("intact");
    assert_eq!(header, encoded.header);
    assert_eq!(header.count(), 146);
    assert_eq!(header.numbers().last(), Some(411));
    assert_eq!(header.first_at(), charging(256).sample.at);
    assert_eq!(header.last_at(), charging(411).sample.at);
}

#[test]
fn what_cannot_be_a_chunk_is_refused() {
    assert_eq!(Chunk::new(0, vec![]).expect("one range").encode(), Err(ChunkError::Empty));
    assert_eq!(Chunk::new(0, vec![charging(256)]), Err(ChunkError::Range { range: 0, number: 256 }));
    assert_eq!(Chunk::decode(&[]), Err(ChunkError::Length { found: 0 }));
    assert!(matches!(Chunk::decode(&vec![0; MAX_CHUNK_BYTES + 1]), Err(ChunkError::Length { .. })));
    let mut newer = chunk(0..3).encode().expect("encodes").bytes;
    newer[0] = CHUNK_VERSION + 1;
    reseal(&mut newer);
    assert_eq!(Chunk::decode(&newer), Err(ChunkError::Version(CHUNK_VERSION + 1)));
    assert!(chunk(0..3).merge(&chunk(256..300)).is_err());
}

#[test]
fn columns_take_each_number_once_and_only_of_their_range() {
    let mut columns = Columns::new(1);
    let second = Sample { soc_permille: 999, ..charging(300).sample };
    assert_eq!(columns.append(300, &charging(300).sample), Append::Appended);
    assert_eq!(columns.append(300, &second), Append::Duplicate);
    assert_eq!(columns.append(512, &second), Append::OtherRange);
    assert_eq!(columns.append(299, &charging(299).sample), Append::Appended);
    assert_eq!(columns.to_chunk(), chunk([299, 300]));
    assert!(columns.contains(299) && !columns.contains(301) && !columns.contains(44));
    assert_eq!(Columns::from_chunk(&columns.to_chunk()).encode(), columns.encode());
}

/// Puts the right checksum under changed bytes, so that the decoders behind it are reached.
fn reseal(bytes: &mut [u8]) {
    let body = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.to_le_bytes());
}

proptest! {
    #[test]
    fn round_trips(chunk in any_chunk()) {
        let encoded = chunk.encode().expect("not empty");
        prop_assert!(encoded.bytes.len() <= MAX_CHUNK_BYTES);
        prop_assert_eq!(ChunkHeader::decode(&encoded.bytes), Ok(encoded.header));
        prop_assert_eq!(Chunk::decode(&encoded.bytes), Ok(chunk));
    }

    #[test]
    fn any_flipped_bit_is_found(chunk in any_chunk(), at: usize) {
        let mut bytes = chunk.encode().expect("not empty").bytes;
        let bit = at % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(ChunkHeader::decode(&bytes).is_err());
        prop_assert!(Chunk::decode(&bytes).is_err());
    }

    /// Damage that carries a right checksum is an error or another chunk of 1 to 256 samples, never a panic.
    #[test]
    fn resealed_damage_never_panics(
        chunk in any_chunk(),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<usize>()),
    ) {
        let mut bytes = chunk.encode().expect("not empty").bytes;
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            let to = cut % bytes.len();
            bytes.truncate(to.max(5));
        }
        reseal(&mut bytes);
        if let Ok(chunk) = Chunk::decode(&bytes) {
            prop_assert!((1..=256).contains(&chunk.samples().len()));
        }
    }

    #[test]
    fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 4..300)) {
        let _ = Chunk::decode(&bytes);
        bytes[0] = CHUNK_VERSION;
        reseal(&mut bytes);
        let _ = Chunk::decode(&bytes);
    }

    /// The union by number, in which order ever it is made, and with parts repeated.
    #[test]
    fn merging_is_a_union(split in proptest::collection::vec(0u8..4, 1..256)) {
        let numbers = |keep: fn(u8) -> bool| {
            let kept: Vec<_> = split.iter().enumerate().filter(|(_, s)| keep(**s)).map(|(n, _)| charging(n as u64)).collect();
            Chunk::new(0, kept).expect("one range")
        };
        // 0: only left, 1: only right, 2: both, 3: neither.
        let (left, right) = (numbers(|s| s == 0 || s == 2), numbers(|s| s == 1 || s == 2));
        let mut one = left.clone();
        one.merge(&right).expect("same range");
        let mut other = right.clone();
        other.merge(&left).expect("same range");
        other.merge(&right).expect("same range");
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(one, numbers(|s| s != 3));
    }

    /// Appending in any order gives what sorting gives.
    #[test]
    fn columns_equal_the_sorted_chunk(mut order in Just((512u64..768).collect::<Vec<_>>()).prop_shuffle(), len in 1usize..=256) {
        order.truncate(len);
        let mut columns = Columns::new(2);
        for number in &order {
            columns.append(*number, &charging(*number).sample);
        }
        prop_assert_eq!(columns.len(), len);
        prop_assert_eq!(columns.is_full(), len == 256);
        prop_assert_eq!(columns.to_chunk(), chunk(order));
    }
}
