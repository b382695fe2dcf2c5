use super::super::tests::{CODE, Journal, good, topped_up};
use super::*;

fn put(file: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let begin = file.len();
    file.push(kind);
    file.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    file.extend(body);
    let crc = crc32c::crc32c(&file[begin..]);
    file.extend(crc.to_le_bytes());
}

/// The journal of one shard as a file, without the record of its end.
fn unfinished(journal: &Journal) -> Vec<u8> {
    let mut file = b"CPLEDGER\x01\x00".to_vec();
    put(&mut file, 1, &[1, 3, 0]);
    let frames = "SELECT frame FROM frames WHERE shard = ?1 ORDER BY lsn";
    let mut frames = journal.database.prepare(frames).unwrap();
    for frame in frames.query_map([CODE], |row| row.get::<_, Vec<u8>>(0)).unwrap() {
        put(&mut file, 2, &frame.unwrap());
    }
    put(&mut file, 3, &[&journal.lsn.to_le_bytes()[..], &journal.hash].concat());
    file
}

fn exported(journal: &Journal) -> Vec<u8> {
    let mut file = unfinished(journal);
    put(&mut file, 4, &[&1_u32.to_le_bytes()[..], &journal.lsn.to_le_bytes()].concat());
    file
}

#[track_caller]
fn expect(file: &[u8], part: &str) {
    let difference = check(&mut &file[..]).map(drop).unwrap_err();
    assert!(difference.contains(part), "{part}: {difference}");
}

#[test]
fn a_clean_export_is_summed_up_as_its_journal() {
    let mut journal = good();
    let (stored, read) = (journal.check().unwrap(), check(&mut &exported(&journal)[..]).unwrap());
    assert_eq!((read.shards, read.frames, read.logs), (stored.shards, stored.frames, stored.logs));
    assert_eq!((read.books.settled(), read.books.energy_wh()), (stored.books.settled(), stored.books.energy_wh()));
    let mut empty = b"CPLEDGER\x01\x00".to_vec();
    put(&mut empty, 4, &[0; 12]);
    assert_eq!(check(&mut &empty[..]).unwrap().frames, 0);
}

#[test]
fn no_byte_of_a_file_can_be_missing_or_wrong() {
    let whole = exported(&good());
    for length in 0..whole.len() {
        assert!(check(&mut &whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 4;
        assert!(check(&mut &wrong[..]).is_err(), "byte {at}");
    }
    expect(&[&whole[..], b"x"].concat(), "goes on behind its end");
    expect(b"SQLite format 3\0", "not an exported ledger");
    expect(b"CPLEDGER\x02\x00", "version 2 of exports");
}

#[test]
fn a_file_whose_records_are_intact_and_wrong_is_found() {
    let mut wrong_books = good();
    wrong_books.frame(2, &[topped_up("k1", 1)]);
    expect(&exported(&wrong_books), "account-0003 frame 5, entry 0, account:main/a1: key k1 had an effect twice");
    let mut fork = good();
    fork.hash = [7; 32];
    fork.frame(2, &[topped_up("k2", 1)]);
    expect(&exported(&fork), "account-0003 frame 5: does not name the hash");
    let mut more = good();
    more.lsn += 1;
    expect(&exported(&more), "account-0003: the log ends with frame 4, its end names another");
    let mut counts = unfinished(&good());
    put(&mut counts, 4, &[2, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    expect(&counts, "1 shards and 4 frames are there");
    let mut twice = unfinished(&good());
    put(&mut twice, 1, &[1, 3, 0]);
    expect(&twice, "account-0003 is there twice");
    let mut early = unfinished(&good());
    put(&mut early, 2, b"frame");
    expect(&early, "a record of kind 2");
    let mut family = b"CPLEDGER\x01\x00".to_vec();
    put(&mut family, 1, &[2, 0, 0]);
    expect(&family, "of no family");
    let mut long = b"CPLEDGER\x01\x00".to_vec();
    long.extend([2, 0xff, 0xff, 0xff, 0x7f]);
    expect(&long, "a record of 2147483647 bytes");
}
