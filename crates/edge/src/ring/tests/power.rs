//! The power goes: of what was not synced, a disk keeps what it likes, sector by sector, in any order.

use super::*;
use proptest::prelude::*;

/// What a disk writes as one.
const SECTOR: usize = 512;

/// A ring's life until the power goes: batches by stream, and syncs.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append(Stream),
    Sync,
    /// Everything so far is acknowledged.
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = prop_oneof![
        3 => Just(Stream::Fast), 1 => Just(Stream::Slow), 1 => Just(Stream::Replay), 1 => Just(Stream::Events)
    ];
    let step = prop_oneof![8 => stream.prop_map(Step::Append), 2 => Just(Step::Sync), 1 => Just(Step::Release)];
    prop::collection::vec(step, 1..30)
}

/// A directory in memory where there is one: thousands of rings are opened, and no disk is judged.
fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The files of a directory, but the lock.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).filter(|path| !path.ends_with("lock"));
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// The same number of items in every stream, so that numbers of all of them interleave.
fn batch(stream: Stream, seq: u64, order: u64) -> BatchMeta {
    let events = (stream == Stream::Events).then_some((seq, seq));
    let spans =
        if events.is_some() { vec![] } else { vec![Span { child: 7, first: order * 10, last: order * 10 + 9 }] };
    BatchMeta { ticket: Ticket { stream, boot: 1, seq }, spans, gaps: vec![], events }
}

/// What is known of a ring when the power goes.
#[derive(Default)]
struct Known {
    appended: Vec<BatchMeta>,
    /// So many of the samples' batches are surely durable.
    synced: usize,
    released: Vec<Ticket>,
    /// Files as they surely are on the disk: a file can only have grown since.
    durable: BTreeMap<String, Vec<u8>>,
}

impl Known {
    fn live(dir: &Path, steps: &[Step]) -> Self {
        let mut ring = open(dir, 2_500);
        ring.recover().unwrap();
        ring.next_boot().unwrap();
        let mut known = Self { durable: files(dir), ..Self::default() };
        let mut seqs: BTreeMap<Stream, u64> = BTreeMap::new();
        let mut places = Vec::new();
        for step in steps {
            match step {
                Step::Append(stream) => {
                    let seq = seqs.entry(*stream).or_default();
                    *seq += 1;
                    let meta = batch(*stream, *seq, known.appended.len() as u64);
                    let segments_before = segments(dir);
                    places.push((meta.ticket, ring.append(&meta, &packet(*seq)).unwrap()));
                    known.appended.push(meta);
                    if *stream == Stream::Events {
                        known.note(dir, "events");
                    }
                    // A new segment begins durable, after the end of the one before.
                    if segments(dir) != segments_before {
                        known.note_begun(dir);
                    }
                }
                Step::Sync => {
                    ring.sync(&[]).unwrap();
                    known.synced = known.appended.len();
                    known.note(dir, "samples");
                }
                Step::Release => {
                    for (ticket, place) in places.drain(..) {
                        ring.release(place).unwrap();
                        known.released.push(ticket);
                    }
                    let there = files(dir);
                    known.durable.retain(|name, _| there.contains_key(name));
                }
            }
        }
        known
    }

    fn note(&mut self, dir: &Path, log: &str) {
        self.durable.extend(files(dir).into_iter().filter(|(name, _)| name.starts_with(log)));
    }

    /// All segments but the newest are durable to their ends.
    fn note_begun(&mut self, dir: &Path) {
        for log in ["events", "samples"] {
            let mut all: Vec<_> = files(dir).into_iter().filter(|(name, _)| name.starts_with(log)).collect();
            if let Some((name, bytes)) = all.pop() {
                // Of the newest, its first record is.
                let first = record::next_record(&bytes).map_or(0, |(_, len)| len);
                let known = self.durable.entry(name).or_default();
                if known.len() < first {
                    *known = bytes[..first].to_vec();
                }
            }
            self.durable.extend(all);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(96)))]

    /// Of samples, what is lost is the end of them; of events, nothing; and no number is given again that a batch
    /// which survived, or that was synced, has used.
    #[test]
    fn what_was_synced_survives_and_what_was_not_goes_from_the_end(
        steps in steps(), kept in prop::collection::vec(any::<u8>(), 64), cut in any::<prop::sample::Index>()
    ) {
        let dir = memory_dir();
        let known = Known::live(dir.path(), &steps);
        let written = files(dir.path());
        // The disk keeps any sectors of what was not synced, and any length.
        let after = memory_dir();
        for (name, bytes) in &written {
            let durable = if name.ends_with(".seg") { known.durable.get(name).map_or(0, Vec::len) } else { bytes.len() };
            prop_assert!(durable <= bytes.len());
            let len = durable + cut.index(bytes.len() - durable + 1);
            let mut left = bytes[..len].to_vec();
            for (at, byte) in left.iter_mut().enumerate().skip(durable) {
                // A sector that was never written reads as zeros.
                if kept[at / SECTOR % kept.len()] % 3 == 0 {
                    *byte = 0;
                }
            }
            fs::write(after.path().join(name), left).unwrap();
        }
        let mut ring = open(after.path(), 2_500);
        let found = ring.recover().unwrap();
        for batch in &found.batches {
            prop_assert!(known.appended.contains(&batch.meta), "nobody appended {:?}", batch.meta);
            prop_assert_eq!(ring.read(batch.place).unwrap(), packet(batch.meta.ticket.seq));
        }
        let is_found = |meta: &BatchMeta| found.batches.iter().any(|batch| batch.meta == *meta);
        let held = |meta: &&BatchMeta| !known.released.contains(&meta.ticket);
        let (events, samples): (Vec<_>, Vec<_>) = known.appended.iter().partition(|meta| meta.events.is_some());
        for meta in events.iter().filter(|meta| held(meta)) {
            prop_assert!(is_found(meta), "event {:?} is lost", meta.ticket);
        }
        let synced = known.appended[..known.synced].iter().filter(|meta| meta.events.is_none()).count();
        for meta in samples[..synced].iter().filter(|meta| held(meta)) {
            prop_assert!(is_found(meta), "{:?} was synced and is lost", meta.ticket);
        }
        let first_lost = samples.iter().filter(|meta| held(meta)).position(|meta| !is_found(meta));
        if let Some(first_lost) = first_lost {
            let late = samples.iter().filter(|meta| held(meta)).skip(first_lost).find(|meta| is_found(meta));
            prop_assert!(late.is_none(), "{late:?} survived what was appended before it");
        }
        let next = found.next_sample.get(&7).copied().unwrap_or(0);
        for meta in &samples[..synced] {
            prop_assert!(meta.spans[0].last < next, "number {} may be given again", meta.spans[0].last);
        }
        let last_event = events.iter().filter_map(|meta| meta.events).map(|(_, last)| last).max().unwrap_or(0);
        prop_assert_eq!(found.next_event, last_event + 1);
        prop_assert_eq!(ring.next_boot().unwrap(), 2);
    }
}

/// Every length of every file, one after the other; what is found is always a beginning of what was written.
#[test]
fn each_file_cut_at_each_byte() {
    let dir = memory_dir();
    let mut ring = open(dir.path(), 900);
    ring.recover().unwrap();
    ring.next_boot().unwrap();
    for seq in 1..=5 {
        for stream in [Stream::Events, Stream::Fast] {
            ring.append(&meta(stream, seq), &packet(seq)).unwrap();
        }
    }
    ring.remember(&notes()).unwrap();
    ring.sync(&[]).unwrap();
    drop(ring);
    let written = files(dir.path());
    let whole = 10;
    for (name, bytes) in &written {
        for len in 0..bytes.len() {
            let after = memory_dir();
            for (other, bytes) in &written {
                fs::write(after.path().join(other), if other == name { &bytes[..len] } else { &bytes[..] }).unwrap();
            }
            let mut ring = open(after.path(), 900);
            let found = ring.recover().unwrap();
            let is_batches = name.ends_with(".seg");
            assert!(
                found.batches.len() <= whole && (is_batches || found.batches.len() == whole),
                "{name} cut at {len}"
            );
            for batch in &found.batches {
                assert_eq!(ring.read(batch.place).unwrap(), packet(batch.meta.ticket.seq), "{name} cut at {len}");
            }
            assert!(notes().starts_with(&found.commands), "{name} cut at {len}");
            // Without the boot epoch nothing may be sealed.
            let boot = ring.next_boot();
            let lost = name == "boot";
            assert!(if lost { matches!(boot, Err(RingError::BootLost { .. })) } else { boot.is_ok() }, "{boot:?}");
        }
    }
}
