//! The ring on disk.
//!
//! In its directory: `boot` (the boot epoch), `commands` (notes, appended), `cursor` (how far streams were
//! acknowledged; a hint) and two logs of segments, `events-{number}.seg` and `samples-{number}.seg`. A segment
//! begins with the numbers in use when it was begun and goes on with batches; records as in `record.rs`. The
//! newest segment of a log is appended to and never deleted; an older one is deleted when nothing in it is needed
//! any more. So the highest numbers are always in the newest segments, whatever was released.
//!
//! All samples share one log, whatever their stream: what a power cut takes is then the end of it, and with it
//! the highest numbers of each charger, never some in between.

use super::record::{self, Numbers, Payload};
use super::{BatchMeta, CommandNote, Found, Place, Recovered, Ring, RingError};
use bytes::Bytes;
use chargeplane_protocol::message::{Cursor, Stream};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where and how.
#[derive(Debug, Clone)]
pub struct FileRingConfig {
    /// A directory of this gateway alone; created when missing.
    pub dir: PathBuf,
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// False leaves samples to the operating system: the process may die, but a power cut loses some, and the
    /// promise that numbers are never used twice then holds for crashes of the process only.
    pub sync_telemetry: bool,
}

impl FileRingConfig {
    /// Segments of 4 MiB, everything synced.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), segment_bytes: 4 << 20, sync_telemetry: true }
    }
}

/// The ring on disk. One process at a time: the directory is locked while it lives.
#[derive(Debug)]
pub struct FileRing {
    config: FileRingConfig,
    numbers: Numbers,
    logs: BTreeMap<Class, Log>,
    commands: File,
    noted_cursors: Vec<Cursor>,
    _lock: File,
}

/// The two logs; the discriminants are in [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Events = 0,
    Samples = 1,
}

impl Class {
    fn of(stream: Stream) -> Self {
        if stream == Stream::Events { Self::Events } else { Self::Samples }
    }

    fn of_place(place: Place) -> Self {
        if place.log == Self::Events as u8 { Self::Events } else { Self::Samples }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Samples => "samples",
        }
    }
}

/// One log's segments.
#[derive(Debug, Default)]
struct Log {
    /// Batches still needed, by segment.
    live: BTreeMap<u64, u64>,
    active: Option<Active>,
    reader: Option<(u64, File)>,
    next_segment: u64,
    dirty: bool,
}

#[derive(Debug)]
struct Active {
    number: u64,
    file: File,
    len: u64,
}

impl FileRing {
    /// Opens or creates the ring in `config.dir`.
    pub fn open(config: FileRingConfig) -> Result<Self, RingError> {
        fs::create_dir_all(&config.dir).map_err(io_error("create", &config.dir))?;
        let lock_path = config.dir.join("lock");
        let lock = File::create(&lock_path).map_err(io_error("create", &lock_path))?;
        lock.try_lock().map_err(|_| RingError::InUse { path: lock_path.display().to_string() })?;
        let path = config.dir.join("commands");
        let commands =
            OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(io_error("open", &path))?;
        Ok(Self {
            config,
            numbers: Numbers::default(),
            logs: BTreeMap::new(),
            commands,
            noted_cursors: Vec::new(),
            _lock: lock,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.config.dir.join(name)
    }

    fn segment_path(&self, class: Class, number: u64) -> PathBuf {
        self.path(&format!("{}-{number:016x}.seg", class.name()))
    }

    /// The segments on disk, in order.
    fn segments(&self) -> Result<Vec<(Class, u64)>, RingError> {
        let dir = &self.config.dir;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
            let name = entry.map_err(io_error("list", dir))?.file_name();
            let parsed = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|name| {
                let (log, number) = name.split_once('-')?;
                let class = [Class::Events, Class::Samples].into_iter().find(|class| class.name() == log)?;
                Some((class, u64::from_str_radix(number, 16).ok()?))
            });
            found.extend(parsed);
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Reads one segment up to its first damaged record. The newest is cut there and appended to. True for an older
    /// one in which nothing is needed.
    fn recover_segment(
        &mut self,
        class: Class,
        number: u64,
        newest: bool,
        acked: &BTreeMap<(Stream, u32), u64>,
        found: &mut Vec<Found>,
    ) -> Result<bool, RingError> {
        let path = self.segment_path(class, number);
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let mut offset = 0;
        let mut live = 0;
        while let Some((payload, len)) = record::next_record(&bytes[offset..]) {
            match record::parse(payload) {
                Some(Payload::Batch { meta, sealed }) => {
                    self.numbers.raise(&meta);
                    let done =
                        acked.get(&(meta.ticket.stream, meta.ticket.boot)).is_some_and(|upto| meta.ticket.seq <= *upto);
                    if !done {
                        live += 1;
                        let place = Place { log: class as u8, segment: number, offset: offset as u64 };
                        let (key_epoch, made_us) = record::sealed_under(sealed);
                        found.push(Found { meta, place, len: sealed.len() as u64, key_epoch, made_us });
                    }
                }
                Some(Payload::Numbers(numbers)) => self.numbers.merge(&numbers),
                _ => break,
            }
            offset += len;
        }
        if offset < bytes.len() {
            let lost = bytes.len() - offset;
            tracing::warn!(path = %path.display(), lost, "the ring has a damaged or torn record; what follows it is lost");
        }
        let log = self.logs.entry(class).or_default();
        log.next_segment = number + 1;
        log.live.insert(number, live);
        if newest {
            let file = OpenOptions::new().read(true).append(true).open(&path).map_err(io_error("open", &path))?;
            file.set_len(offset as u64).map_err(io_error("cut", &path))?;
            log.active = Some(Active { number, file, len: offset as u64 });
        } else if live == 0 {
            log.live.remove(&number);
        }
        Ok(!newest && live == 0)
    }

    fn recover_commands(&mut self) -> Result<Vec<CommandNote>, RingError> {
        let path = self.path("commands");
        let bytes = fs::read(&path).map_err(io_error("read", &path))?;
        let mut notes = Vec::new();
        let mut offset = 0;
        while let Some((payload, len)) = record::next_record(&bytes[offset..]) {
            let Some(Payload::Command(note)) = record::parse(payload) else {
                break;
            };
            notes.push(note);
            offset += len;
        }
        self.commands.set_len(offset as u64).map_err(io_error("cut", &path))?;
        Ok(notes)
    }

    /// Cursors are a hint: a damaged file only means that more is sent again.
    fn recover_cursors(&self) -> BTreeMap<(Stream, u32), u64> {
        let bytes = fs::read(self.path("cursor")).unwrap_or_default();
        let cursors = record::next_record(&bytes).and_then(|(payload, _)| record::parse(payload));
        let Some(Payload::Cursors(cursors)) = cursors else {
            return BTreeMap::new();
        };
        // Boots of one ring are numbered through, whatever the key.
        cursors.into_iter().map(|cursor| ((cursor.stream, cursor.boot.boot), cursor.seq)).collect()
    }

    fn begin_segment(&mut self, class: Class) -> Result<(), RingError> {
        // The end of the segment before is durable first: a log has no hole but at its end.
        self.sync_log(class)?;
        let number = self.logs.get(&class).map_or(0, |log| log.next_segment);
        let path = self.segment_path(class, number);
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).append(true).open(&path).map_err(io_error("create", &path))?;
        let log = self.logs.entry(class).or_default();
        log.next_segment = number + 1;
        log.live.insert(number, 0);
        let before = log.active.replace(Active { number, file, len: 0 });
        self.write_numbers(class)?;
        // The segment before may have been emptied while it was the active one.
        let before = before.map(|before| before.number);
        let log = self.logs.entry(class).or_default();
        if let Some(before) = before.filter(|before| log.live.get(before) == Some(&0)) {
            log.live.remove(&before);
            let path = self.segment_path(class, before);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Writes the numbers in use into the active segment.
    fn write_numbers(&mut self, class: Class) -> Result<(), RingError> {
        let first = record::frame(&record::numbers(&self.numbers));
        let synced = self.is_synced(class);
        let Some(active) = self.logs.get_mut(&class).and_then(|log| log.active.as_mut()) else { return Ok(()) };
        let mut written = (&active.file).write_all(&first);
        active.len += first.len() as u64;
        if synced {
            written = written.and_then(|()| active.file.sync_all());
        }
        written.map_err(io_error("write to", &self.config.dir))?;
        if synced { self.sync_dir() } else { Ok(()) }
    }

    fn sync_log(&mut self, class: Class) -> Result<(), RingError> {
        let synced = self.is_synced(class);
        let Some(log) = self.logs.get_mut(&class) else { return Ok(()) };
        let dirty = std::mem::take(&mut log.dirty);
        match &log.active {
            Some(active) if dirty && synced => active.file.sync_data().map_err(io_error("sync", &self.config.dir)),
            _ => Ok(()),
        }
    }

    fn is_synced(&self, class: Class) -> bool {
        class == Class::Events || self.config.sync_telemetry
    }

    fn sync_dir(&self) -> Result<(), RingError> {
        let dir = &self.config.dir;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
    }

    /// Puts a whole file in place of another, or leaves the old one.
    fn replace(&self, name: &str, bytes: &[u8], durable: bool) -> Result<(), RingError> {
        let (path, fresh) = (self.path(name), self.path(&format!("{name}.new")));
        let mut file = File::create(&fresh).map_err(io_error("create", &fresh))?;
        file.write_all(bytes).map_err(io_error("write", &fresh))?;
        if durable {
            file.sync_all().map_err(io_error("sync", &fresh))?;
        }
        fs::rename(&fresh, &path).map_err(io_error("rename", &path))?;
        if durable { self.sync_dir() } else { Ok(()) }
    }
}

impl Ring for FileRing {
    fn recover(&mut self) -> Result<Recovered, RingError> {
        let acked = self.recover_cursors();
        let segments = self.segments()?;
        let newest: BTreeMap<Class, u64> = segments.iter().copied().collect();
        let (mut batches, mut unneeded) = (Vec::new(), Vec::new());
        for (class, number) in segments {
            let is_newest = newest.get(&class) == Some(&number);
            if self.recover_segment(class, number, is_newest, &acked, &mut batches)? {
                unneeded.push((class, number));
            }
        }
        for class in newest.into_keys() {
            // A crash at the beginning of a segment may have left it empty. And whatever is removed below, the numbers
            // in it are durable in the newest one before.
            let empty = self.logs.get(&class).and_then(|log| log.active.as_ref()).is_some_and(|active| active.len == 0);
            if empty || unneeded.iter().any(|(of, _)| *of == class) {
                self.write_numbers(class)?;
            }
        }
        for (class, number) in unneeded {
            let path = self.segment_path(class, number);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        batches.sort_by_key(|found| found.meta.ticket);
        Ok(Recovered {
            batches,
            next_sample: self.numbers.next_sample.clone(),
            next_event: self.numbers.next_event.max(1),
            commands: self.recover_commands()?,
        })
    }

    fn next_boot(&mut self) -> Result<u32, RingError> {
        let path = self.path("boot");
        let lost = || RingError::BootLost { path: path.display().to_string() };
        let last = match fs::read(&path) {
            Ok(bytes) => match record::next_record(&bytes).and_then(|(payload, _)| record::parse(payload)) {
                Some(Payload::Boot(epoch)) => epoch,
                _ => return Err(lost()),
            },
            // Without a boot file there must be nothing that was sealed under a boot.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.segments()?.is_empty() => 0,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(lost()),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let epoch = last.checked_add(1).ok_or(RingError::BootsExhausted)?;
        self.replace("boot", &record::frame(&record::boot(epoch)), true)?;
        Ok(epoch)
    }

    fn append(&mut self, meta: &BatchMeta, sealed: &Bytes) -> Result<Place, RingError> {
        let class = Class::of(meta.ticket.stream);
        let active = self.logs.get(&class).and_then(|log| log.active.as_ref());
        if active.is_none_or(|active| active.len >= self.config.segment_bytes) {
            self.begin_segment(class)?;
        }
        self.numbers.raise(meta);
        let bytes = record::frame(&record::batch(meta, sealed));
        let log = self.logs.entry(class).or_default();
        let Some(active) = log.active.as_mut() else {
            return Err(RingError::Damaged { path: self.config.dir.display().to_string() });
        };
        let place = Place { log: class as u8, segment: active.number, offset: active.len };
        let written = (&active.file).write_all(&bytes);
        active.len += bytes.len() as u64;
        log.dirty = true;
        *log.live.entry(place.segment).or_default() += 1;
        written.map_err(io_error("append to", &self.segment_path(class, place.segment)))?;
        if class == Class::Events {
            self.sync_log(class)?;
        }
        Ok(place)
    }

    fn read(&mut self, place: Place) -> Result<Bytes, RingError> {
        let class = Class::of_place(place);
        let path = self.segment_path(class, place.segment);
        let log = self.logs.entry(class).or_default();
        if log.reader.as_ref().is_none_or(|(number, _)| *number != place.segment) {
            log.reader = Some((place.segment, File::open(&path).map_err(io_error("open", &path))?));
        }
        let damaged = || RingError::Damaged { path: path.display().to_string() };
        let (_, file) = log.reader.as_ref().ok_or_else(damaged)?;
        let mut head = [0; record::FRAME_LEN];
        file.read_exact_at(&mut head, place.offset).map_err(io_error("read", &path))?;
        let (len, _) = record::frame_of(&head).ok_or_else(damaged)?;
        let mut bytes = vec![0; record::FRAME_LEN + len];
        file.read_exact_at(&mut bytes, place.offset).map_err(io_error("read", &path))?;
        let (payload, _) = record::next_record(&bytes).ok_or_else(damaged)?;
        match record::parse(payload) {
            Some(Payload::Batch { sealed, .. }) => Ok(Bytes::copy_from_slice(sealed)),
            _ => Err(damaged()),
        }
    }

    fn release(&mut self, place: Place) -> Result<(), RingError> {
        let class = Class::of_place(place);
        let path = self.segment_path(class, place.segment);
        let log = self.logs.entry(class).or_default();
        let Some(live) = log.live.get_mut(&place.segment) else {
            return Ok(());
        };
        *live = live.saturating_sub(1);
        let active = log.active.as_ref().is_some_and(|active| active.number == place.segment);
        if *live > 0 || active {
            return Ok(());
        }
        log.live.remove(&place.segment);
        log.reader = log.reader.take().filter(|(number, _)| *number != place.segment);
        fs::remove_file(&path).map_err(io_error("remove", &path))
    }

    fn sync(&mut self, acked: &[Cursor]) -> Result<(), RingError> {
        self.sync_log(Class::Samples)?;
        if acked != self.noted_cursors {
            self.replace("cursor", &record::frame(&record::cursors(acked)), false)?;
            self.noted_cursors = acked.to_vec();
        }
        Ok(())
    }

    fn remember(&mut self, notes: &[CommandNote]) -> Result<(), RingError> {
        let bytes: Vec<u8> = notes.iter().flat_map(|note| record::frame(&record::command(note))).collect();
        let written = (&self.commands).write_all(&bytes).and_then(|()| self.commands.sync_data());
        written.map_err(io_error("append to", &self.path("commands")))
    }

    fn compact_commands(&mut self, keep: &[CommandNote]) -> Result<(), RingError> {
        let bytes: Vec<u8> = keep.iter().flat_map(|note| record::frame(&record::command(note))).collect();
        self.replace("commands", &bytes, true)?;
        let path = self.path("commands");
        self.commands = OpenOptions::new().read(true).append(true).open(&path).map_err(io_error("open", &path))?;
        Ok(())
    }
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> RingError + 'a {
    move |source| RingError::Io { action, path: path.display().to_string(), source }
}
