//! The files of a gateway's ring, as a disk may give them back.

use bytes::Bytes;
use chargeplane_edge::effect::{Span, Ticket};
use chargeplane_edge::ring::{BatchMeta, FileRing, FileRingConfig, Recovered, Ring, RingError};
use chargeplane_protocol::message::Stream;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// The files of a ring, by the low three bits of a piece's first byte.
pub const FILES: [&str; 8] = [
    "samples-0000000000000000.seg",
    "samples-0000000000000001.seg",
    "samples-0000000000000002.seg",
    "events-0000000000000000.seg",
    "events-0000000000000001.seg",
    "commands",
    "cursor",
    "boot",
];

/// Set in the first byte of a piece whose bytes are the payload of a record: length and checksum are put before them,
/// because a fuzzer that has to guess a checksum never gets further.
const AS_RECORD: u8 = 0x80;

/// Bytes at the end of one of the ring's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which one, of eight.
    pub file: u8,
    /// The payload of a record, or bytes as they are.
    pub is_record: bool,
    /// At most 65,535.
    pub bytes: Vec<u8>,
}

/// Pieces as input of [`ring`]: for each the file (with `AS_RECORD`), the length (two bytes, little-endian), the bytes.
pub fn to_bytes(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::new();
    for Piece { file, is_record, bytes } in pieces {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        out.push(file & 7 | if *is_record { AS_RECORD } else { 0 });
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&bytes[..usize::from(len)]);
    }
    out
}

/// The reverse. The last piece may be shorter than it says.
fn pieces(mut data: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(([head, low, high], rest)) = data.split_first_chunk::<3>() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (bytes, after) = rest.split_at(len);
        pieces.push(Piece { file: head & 7, is_record: head & AS_RECORD != 0, bytes: bytes.to_vec() });
        data = after;
    }
    pieces
}

fn append(dir: &Path, piece: &Piece) -> std::io::Result<()> {
    let path = dir.join(FILES[usize::from(piece.file & 7)]);
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if piece.is_record {
        file.write_all(&u32::try_from(piece.bytes.len()).unwrap_or(0).to_le_bytes())?;
        file.write_all(&crc32c::crc32c(&piece.bytes).to_le_bytes())?;
    }
    file.write_all(&piece.bytes)
}

fn open(dir: &Path) -> FileRing {
    match FileRing::open(FileRingConfig { sync_telemetry: false, ..FileRingConfig::new(dir) }) {
        Ok(ring) => ring,
        Err(error) => panic!("the directory is ours: {error}"),
    }
}

fn recover(ring: &mut FileRing) -> Recovered {
    match ring.recover() {
        Ok(found) => found,
        Err(error) => panic!("a ring of any bytes is recovered as far as it goes: {error}"),
    }
}

/// Whatever the files hold, recovery ends, gives back only what can be read, and goes on from there: a batch that is
/// appended then is found next time, with everything that was found this time.
pub fn ring(data: &[u8]) {
    // In memory where there is such a place: nothing here is about the disk.
    let place = Path::new("/dev/shm");
    let place = if place.is_dir() { place } else { &std::env::temp_dir() };
    let Ok(dir) = tempfile::tempdir_in(place) else { return };
    for piece in pieces(data) {
        if append(dir.path(), &piece).is_err() {
            return;
        }
    }
    let mut ring = open(dir.path());
    let found = recover(&mut ring);
    for batch in &found.batches {
        let read = ring.read(batch.place);
        assert!(read.is_ok_and(|sealed| sealed.len() as u64 == batch.len), "{batch:?} cannot be read");
    }
    match ring.next_boot() {
        Ok(_) | Err(RingError::BootLost { .. } | RingError::BootsExhausted) => {}
        Err(error) => panic!("the next boot: {error}"),
    }
    let ticket = Ticket { stream: Stream::Slow, boot: u32::MAX, seq: u64::MAX };
    let spans = vec![Span { child: 1, first: 5, last: 9 }];
    let meta = BatchMeta { ticket, spans, gaps: Vec::new(), events: None };
    let sealed = Bytes::from_static(b"sealed");
    match ring.append(&meta, &sealed).and_then(|place| ring.read(place)) {
        Ok(read) => assert_eq!(read, sealed),
        Err(error) => panic!("appending: {error}"),
    }
    drop(ring);
    // A hint only: without it more is found, never less. Here it may name the batch that was just appended.
    let _ = std::fs::remove_file(dir.path().join("cursor"));

    let mut ring = open(dir.path());
    let again = recover(&mut ring);
    for batch in &found.batches {
        let known = again.batches.iter().any(|found| (&found.meta, found.place) == (&batch.meta, batch.place));
        assert!(known, "{batch:?} was found once and not again");
    }
    assert!(again.batches.iter().any(|batch| batch.meta == meta), "what was appended is lost");
    assert!(again.next_event >= found.next_event, "event numbers went back");
    for (child, next) in &found.next_sample {
        assert!(
            again.next_sample.get(child).is_some_and(|later| later >= next),
            "numbers of charger {child} went back"
        );
    }
    assert_eq!(again.commands, found.commands, "commands were forgotten");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_read_back_as_written() {
        let written: Vec<Piece> = (0..9)
            .map(|at| Piece { file: at & 7, is_record: at % 2 == 0, bytes: vec![at; usize::from(at) * 50] })
            .collect();
        assert_eq!(pieces(&to_bytes(&written)), written);
    }
}
