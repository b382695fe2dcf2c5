mod power;

use super::*;
use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::sample::GapReason;
use chargeplane_protocol::message::{Deadline, Stream};
use std::fs;
use std::path::Path;

fn meta(stream: Stream, seq: u64) -> BatchMeta {
    let events = (stream == Stream::Events).then_some((seq * 10, seq * 10 + 9));
    let spans = if events.is_some() { vec![] } else { vec![Span { child: 7, first: seq * 100, last: seq * 100 + 99 }] };
    let gaps = if seq == 3 { vec![(8, Gap { first: 0, last: 41, reason: GapReason::Refused })] } else { vec![] };
    BatchMeta { ticket: Ticket { stream, boot: 1, seq }, spans, gaps, events }
}

fn packet(seq: u64) -> Bytes {
    Bytes::from(vec![seq as u8; 300 + seq as usize])
}

fn command(n: u32) -> DownCommand {
    let deadline = Deadline { answers_nonce: (1 << 32) | 5, boot: 1, within_ms: 60_000 };
    DownCommand { id: format!("main/c.c{n}").parse().unwrap(), child: 4, action: Action::Reset, deadline }
}

fn notes() -> Vec<CommandNote> {
    let at = Timestamp(5);
    let end = |n: u32, end| CommandNote::Ended { id: command(n).id, child: 4, end, at };
    vec![
        CommandNote::Accepted { command: command(1), at },
        end(1, CommandEnd::Done),
        CommandNote::Accepted { command: command(2), at },
        end(2, CommandEnd::Refused("busy".to_owned())),
        end(3, CommandEnd::Expired),
    ]
}

fn open(dir: &Path, segment_bytes: u64) -> FileRing {
    FileRing::open(FileRingConfig { segment_bytes, ..FileRingConfig::new(dir) }).unwrap()
}

/// What every adapter must do. `reopen` gives the ring as the next process finds it.
fn conformance(mut reopen: impl FnMut() -> Box<dyn Ring>) {
    let mut ring = reopen();
    assert_eq!(ring.recover().unwrap(), Recovered { next_event: 1, ..Recovered::default() });
    assert_eq!(ring.next_boot().unwrap(), 1);
    let mut places = Vec::new();
    for seq in 1..=5 {
        for stream in [Stream::Events, Stream::Fast] {
            places.push(ring.append(&meta(stream, seq), &packet(seq)).unwrap());
        }
    }
    assert_eq!(ring.read(places[3]).unwrap(), packet(2));
    ring.remember(&notes()).unwrap();
    ring.sync(&[]).unwrap();
    drop(ring);

    let mut ring = reopen();
    let found = ring.recover().unwrap();
    let tickets: Vec<_> = found.batches.iter().map(|b| (b.meta.ticket.stream, b.meta.ticket.seq)).collect();
    let expected: Vec<_> =
        [Stream::Events, Stream::Fast].into_iter().flat_map(|s| (1..=5).map(move |q| (s, q))).collect();
    assert_eq!(tickets, expected);
    assert_eq!(found.batches[7].meta, meta(Stream::Fast, 3));
    assert_eq!(found.batches[7].len, packet(3).len() as u64);
    assert_eq!(ring.read(found.batches[7].place).unwrap(), packet(3));
    assert_eq!(found.next_sample, BTreeMap::from([(7, 600), (8, 42)]));
    assert_eq!(found.next_event, 60);
    assert_eq!(found.commands, notes());
    assert_eq!(ring.next_boot().unwrap(), 2);
    // Everything is released: the numbers stay.
    for batch in &found.batches {
        ring.release(batch.place).unwrap();
    }
    ring.compact_commands(&notes()[1..2]).unwrap();
    ring.sync(&[]).unwrap();
    drop(ring);

    let mut ring = reopen();
    let found = ring.recover().unwrap();
    assert_eq!((found.next_event, found.next_sample[&7]), (60, 600));
    assert_eq!(found.commands, notes()[1..2]);
    assert_eq!(ring.next_boot().unwrap(), 3);
}

#[test]
fn memory_ring_conforms() {
    let ring = MemoryRing::new();
    conformance(|| Box::new(ring.clone()));
    assert!(ring.is_empty());
}

#[test]
fn file_ring_conforms_with_one_segment_and_with_many() {
    for segment_bytes in [1, 700, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        conformance(|| Box::new(open(dir.path(), segment_bytes)));
    }
}

fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.ends_with(".seg")).collect();
    names.sort();
    names
}

#[test]
fn old_segments_are_deleted_when_nothing_in_them_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 700);
    ring.recover().unwrap();
    let places: Vec<_> = (1..=10).map(|seq| ring.append(&meta(Stream::Fast, seq), &packet(seq)).unwrap()).collect();
    let before = segments(dir.path()).len();
    assert!(before >= 4);
    for place in &places[1..] {
        ring.release(*place).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 2, "the first batch's segment and the active one");
    ring.release(places[0]).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    drop(ring);
    let found = open(dir.path(), 700).recover().unwrap();
    assert_eq!(found.next_sample[&7], 1_100);
}

/// A crash may leave any prefix of the last record: everything before it is found, and the ring goes on.
#[test]
fn recovery_from_a_last_record_cut_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    ring.recover().unwrap();
    ring.next_boot().unwrap();
    ring.append(&meta(Stream::Events, 1), &packet(1)).unwrap();
    let path = dir.path().join(&segments(dir.path())[0]);
    let good = fs::metadata(&path).unwrap().len();
    ring.append(&meta(Stream::Events, 2), &packet(2)).unwrap();
    drop(ring);
    let whole = fs::read(&path).unwrap();
    for cut in good..whole.len() as u64 {
        fs::write(&path, &whole[..cut as usize]).unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        let found = ring.recover().unwrap();
        assert_eq!(found.batches.len(), 1, "cut at {cut}");
        assert_eq!(found.next_event, 20);
        assert_eq!(ring.read(found.batches[0].place).unwrap(), packet(1));
        let place = ring.append(&meta(Stream::Events, 3), &packet(3)).unwrap();
        assert_eq!(ring.read(place).unwrap(), packet(3));
        drop(ring);
        assert_eq!(open(dir.path(), 1 << 20).recover().unwrap().batches.len(), 2);
    }
}

/// A crash while a segment was begun leaves it empty or torn: the numbers are found in the one before.
#[test]
fn an_empty_newest_segment_does_not_forget_the_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    ring.recover().unwrap();
    ring.append(&meta(Stream::Fast, 1), &packet(1)).unwrap();
    drop(ring);
    fs::write(dir.path().join(format!("samples-{:016x}.seg", 1)), b"to").unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    let found = ring.recover().unwrap();
    ring.append(&meta(Stream::Fast, 2), &packet(2)).unwrap();
    ring.release(found.batches[0].place).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    drop(ring);
    let found = open(dir.path(), 1 << 20).recover().unwrap();
    assert_eq!((found.next_sample[&7], found.batches.len()), (300, 1));
}

#[test]
fn no_flipped_bit_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    ring.recover().unwrap();
    for seq in 1..=3 {
        ring.append(&meta(Stream::Fast, seq), &packet(seq)).unwrap();
    }
    drop(ring);
    let path = dir.path().join(&segments(dir.path())[0]);
    let whole = fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let mut ring = open(dir.path(), 1 << 20);
        let found = ring.recover().unwrap();
        assert!(found.batches.len() < 3);
        for batch in found.batches {
            assert_eq!(ring.read(batch.place).unwrap(), packet(batch.meta.ticket.seq));
        }
    }
}

#[test]
fn a_batch_damaged_later_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    ring.recover().unwrap();
    let place = ring.append(&meta(Stream::Fast, 1), &packet(1)).unwrap();
    let path = dir.path().join(&segments(dir.path())[0]);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(ring.read(place), Err(RingError::Damaged { .. })));
}

#[test]
fn noted_cursors_spare_the_repetition() {
    let dir = tempfile::tempdir().unwrap();
    let mut ring = open(dir.path(), 1 << 20);
    ring.recover().unwrap();
    for seq in 1..=4 {
        ring.append(&meta(Stream::Fast, seq), &packet(seq)).unwrap();
    }
    ring.sync(&[Cursor { stream: Stream::Fast, boot: BootId::new(1, 1), seq: 3 }]).unwrap();
    drop(ring);
    assert_eq!(open(dir.path(), 1 << 20).recover().unwrap().batches.len(), 1);
    fs::write(dir.path().join("cursor"), b"nonsense").unwrap();
    assert_eq!(open(dir.path(), 1 << 20).recover().unwrap().batches.len(), 4);
}

#[test]
fn a_boot_epoch_is_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut ring = open(dir.path(), 1 << 20);
        ring.recover().unwrap();
        seen.push(ring.next_boot().unwrap());
        // A crash right here leaves at most the temporary file.
        fs::write(dir.path().join("boot.new"), b"torn").unwrap();
    }
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    // A lost boot file with batches beside it: better no gateway than a nonce used twice.
    let mut ring = open(dir.path(), 1 << 20);
    ring.append(&meta(Stream::Fast, 1), &packet(1)).unwrap();
    fs::write(dir.path().join("boot"), b"damaged").unwrap();
    assert!(matches!(ring.next_boot(), Err(RingError::BootLost { .. })));
    fs::remove_file(dir.path().join("boot")).unwrap();
    assert!(matches!(ring.next_boot(), Err(RingError::BootLost { .. })));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 1 << 20);
    let second = FileRing::open(FileRingConfig::new(dir.path()));
    assert!(matches!(second, Err(RingError::InUse { .. })));
    drop(first);
    open(dir.path(), 1 << 20);
}

#[test]
fn records_read_back_as_written() {
    let cursors = vec![Cursor { stream: Stream::Replay, boot: BootId::new(3, 9), seq: 8 }];
    assert_eq!(record::parse(&record::cursors(&cursors)), Some(record::Payload::Cursors(cursors)));
    assert_eq!(record::parse(&record::boot(77)), Some(record::Payload::Boot(77)));
    for note in notes() {
        assert_eq!(record::parse(&record::command(&note)), Some(record::Payload::Command(note)));
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_no_record(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = record::parse(&bytes);
        if let Some((payload, len)) = record::next_record(&bytes) {
            proptest::prop_assert!(payload.is_empty() || len <= bytes.len());
        }
    }
}
