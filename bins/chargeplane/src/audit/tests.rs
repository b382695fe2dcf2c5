use super::account::StoredChunk;
use super::*;
use chargeplane_domain::chunk::{Chunk, range_of};
use chargeplane_domain::sample::{Gap, GapReason, NumberedSample, Sample};
use chargeplane_domain::units::{WattHours, Watts};
use rusqlite::{Connection as Database, params};
use std::ops::Range;

/// 2026-01-05, 23:59:00 UTC.
const START: i64 = 1_767_657_540_000;
const FIRST_DAY: i64 = 20_458;

fn sample(number: u64) -> NumberedSample {
    let n = i64::try_from(number).unwrap();
    let sample = Sample {
        at: Timestamp(START + n * 1_000),
        voltage_dv: 4_000,
        current_da: 100,
        temperature_dc: 250,
        soc_permille: 500,
        power: Watts(n % 7),
        register: WattHours(n),
    };
    NumberedSample { number, sample }
}

fn chunk(epoch: u64, samples: Vec<NumberedSample>) -> StoredChunk {
    let chunk = Chunk::new(range_of(samples[0].number), samples).unwrap();
    StoredChunk { incarnation: 1, epoch, bytes: chunk.encode().unwrap().bytes }
}

fn numbers(epoch: u64, of: Range<u64>) -> StoredChunk {
    chunk(epoch, of.map(sample).collect())
}

fn gap(first: u64, last: u64, reason: GapReason) -> Gap {
    Gap { first, last, reason }
}

fn account(chunks: &[StoredChunk], gaps: &[Gap]) -> Account {
    let mut account = Account::default();
    chunks.iter().for_each(|chunk| account.take(chunk).unwrap());
    gaps.iter().for_each(|gap| account.take_gap(1, *gap));
    account
}

#[test]
fn every_number_is_stored_declared_or_open_once() {
    let chunks = [numbers(1, 0..100), numbers(2, 90..200), numbers(1, 260..300)];
    let gaps = [
        gap(200, 209, GapReason::Dropped),
        gap(205, 219, GapReason::Refused),
        gap(0, 5, GapReason::Thinned),
        gap(300, 309, GapReason::Thinned),
    ];
    let account = account(&chunks, &gaps);
    assert_eq!(account.open(), [(1, 220, 259)]);
    let days = account.by_day();
    let expected = Losses { stored: 60, twice: 10, ..Losses::default() };
    assert_eq!(days[&FIRST_DAY], expected, "the minute before midnight");
    let second = Losses { stored: 180, dropped: 10, refused: 10, open: 40, thinned: 10, ..Losses::default() };
    assert_eq!(days[&(FIRST_DAY + 1)], second);
    assert_eq!(days.values().map(Losses::sent).sum::<u64>(), 310, "each number from 0 to 309 once");
}

#[test]
fn what_was_promised_must_be_there() {
    let account = account(&[numbers(1, 0..100)], &[gap(100, 109, GapReason::Dropped)]);
    assert_eq!(account.missing(1, 0, 109), None);
    assert_eq!(account.missing(1, 50, 111), Some((110, 2)));
    assert_eq!(account.missing(2, 0, 9), Some((0, 10)), "of another enrolment");
    assert_eq!(account.missing(1, u64::MAX - 1, u64::MAX), Some((u64::MAX - 1, 2)));
}

#[test]
fn two_contents_of_one_number_and_damage_are_differences() {
    let mut other = sample(5);
    other.sample.power = Watts(99);
    let mut account = account(&[numbers(1, 0..10)], &[]);
    let what = account.take(&chunk(2, vec![sample(4), other])).unwrap_err();
    assert!(what.contains("number 5") && what.contains("two contents"), "{what}");
    let mut damaged = numbers(1, 256..300);
    damaged.bytes[9] ^= 1;
    assert!(account.take(&damaged).unwrap_err().contains("cannot be read"));
}

#[test]
fn a_clock_that_was_set_back_is_late_and_loses_nothing() {
    let mut back = sample(1);
    back.sample.at = Timestamp(START - 5_000);
    let account = account(&[chunk(1, vec![sample(0), back, sample(2)])], &[]);
    assert_eq!(account.by_day()[&FIRST_DAY], Losses { stored: 3, late: 1, ..Losses::default() });
}

#[test]
fn evidence_is_read_line_by_line() {
    let mut evidence = Evidence::default();
    evidence.take(r#"{"gateway":"g","chargers":[{"charger":"c1","acked":[[0,9],[20,20]],"x":1}]}"#).unwrap();
    evidence.take(r#"{"incarnation":3,"chargers":[{"charger":"acme/c1","acked":[[5,6]]}]}"#).unwrap();
    let found: Vec<_> = evidence.of("main/c1").iter().map(|p| (p.incarnation, p.first, p.last, p.numbers())).collect();
    assert_eq!(found, [(None, 0, 9, 10), (None, 20, 20, 1)]);
    assert_eq!(evidence.of("acme/c1")[0].incarnation, Some(3));
    for wrong in ["{", "{}", r#"{"chargers":[{"charger":"c"}]}"#, r#"{"chargers":[{"charger":"c","acked":[[9,3]]}]}"#] {
        assert!(evidence.take(wrong).is_err(), "{wrong}");
    }
}

/// A data directory with the tables of `docs/reference/storage.md`: a range grew past midnight into the later file.
/// Returns that one.
fn store(dir: &std::path::Path) -> Database {
    let gaps = Database::open(dir.join("telemetry.sqlite")).unwrap();
    gaps.execute_batch(
        "CREATE TABLE gaps(charger TEXT, incarnation INTEGER, first INTEGER, last INTEGER, reason TEXT);
         INSERT INTO gaps VALUES('main/c1', 1, 210, 219, 'dropped');",
    )
    .unwrap();
    let day = |name: &str, number: i64, stored: StoredChunk| {
        let file = Database::open(dir.join(name)).unwrap();
        file.execute_batch(
            "CREATE TABLE chargers(number INTEGER, charger TEXT);
             CREATE TABLE chunks(charger INTEGER, incarnation INTEGER, range INTEGER, epoch INTEGER, chunk BLOB);",
        )
        .unwrap();
        file.execute("INSERT INTO chargers VALUES(?1, 'main/c1')", [number]).unwrap();
        let put = "INSERT INTO chunks VALUES(?1, 1, 0, ?2, ?3)";
        file.execute(put, params![number, stored.epoch.cast_signed(), stored.bytes]).unwrap();
        file
    };
    day("telemetry-20260105.sqlite", 7, numbers(1, 0..100));
    day("telemetry-20260106.sqlite", 2, numbers(2, 90..200))
}

#[test]
fn a_data_directory_is_checked_against_what_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let database = store(dir.path());
    let checked = |line: &str, complete: bool| {
        let mut evidence = Evidence::default();
        evidence.take(line).unwrap();
        let mut source = Source::files(dir.path().to_path_buf()).unwrap();
        check(&mut source, &evidence, complete).unwrap()
    };
    let good = r#"{"chargers":[{"charger":"main/c1","acked":[[0,199],[210,215]]}]}"#;
    let report = checked(good, false);
    assert_eq!((report.differences, report.promised, report.chargers, report.chunks), (0, 206, 1, 2));
    assert_eq!((report.total.sent(), report.total.stored, report.total.open), (220, 200, 10));
    let report = checked(good, true);
    assert!(report.first[0].contains("200 to 209"), "{:?}", report.first);
    let report = checked(r#"{"chargers":[{"charger":"main/c1","acked":[[0,205]]}]}"#, false);
    assert!(report.first[0].contains("6 numbers that were acknowledged") && report.first[0].contains("first is 200"));
    let report = checked(r#"{"chargers":[{"charger":"main/c7","acked":[[0,0]]}]}"#, false);
    assert!(report.first[0].starts_with("main/c7"), "a charger of which nothing is stored");
    database.execute("UPDATE chunks SET chunk = zeroblob(60) WHERE epoch = 2", []).unwrap();
    assert!(checked(good, false).first[0].contains("epoch 2 cannot be read"));
}
