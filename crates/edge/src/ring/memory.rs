//! A ring in memory. Clones share it, so a test can stop a core and start the next one on the same ring.

use super::{BatchMeta, CommandNote, Found, Place, Recovered, Ring, RingError};
use bytes::Bytes;
use chargeplane_protocol::message::{Cursor, Stream};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A ring that lives as long as its last clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryRing {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    boot: u32,
    next_place: u64,
    batches: BTreeMap<u64, (BatchMeta, Bytes)>,
    unsynced: Vec<u64>,
    next_sample: BTreeMap<u16, u64>,
    durable_next_sample: BTreeMap<u16, u64>,
    next_event: u64,
    commands: Vec<CommandNote>,
}

impl MemoryRing {
    /// An empty ring.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses what a power cut would lose: everything appended and not synced.
    pub fn lose_unsynced(&self) {
        let mut shared = self.lock();
        for place in std::mem::take(&mut shared.unsynced) {
            shared.batches.remove(&place);
        }
        shared.next_sample = shared.durable_next_sample.clone();
    }

    /// Batches held.
    pub fn len(&self) -> usize {
        self.lock().batches.len()
    }

    /// True when no batch is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring for MemoryRing {
    fn recover(&mut self) -> Result<Recovered, RingError> {
        let shared = self.lock();
        let mut batches: Vec<_> = shared
            .batches
            .iter()
            .map(|(at, (meta, sealed))| {
                let (key_epoch, made_us) = super::sealed_under(sealed);
                let place = place(meta.ticket.stream, *at);
                Found { meta: meta.clone(), place, len: sealed.len() as u64, key_epoch, made_us }
            })
            .collect();
        batches.sort_by_key(|found| found.meta.ticket);
        Ok(Recovered {
            batches,
            next_sample: shared.next_sample.clone(),
            next_event: shared.next_event.max(1),
            commands: shared.commands.clone(),
        })
    }

    fn next_boot(&mut self) -> Result<u32, RingError> {
        let mut shared = self.lock();
        shared.boot = shared.boot.checked_add(1).ok_or(RingError::BootsExhausted)?;
        Ok(shared.boot)
    }

    fn append(&mut self, meta: &BatchMeta, sealed: &Bytes) -> Result<Place, RingError> {
        let mut shared = self.lock();
        let at = shared.next_place;
        shared.next_place += 1;
        super::record::raise_numbers(meta, &mut shared.next_sample);
        if let Some((_, last)) = meta.events {
            shared.next_event = shared.next_event.max(last.saturating_add(1));
        } else {
            shared.unsynced.push(at);
        }
        shared.batches.insert(at, (meta.clone(), sealed.clone()));
        Ok(place(meta.ticket.stream, at))
    }

    fn read(&mut self, place: Place) -> Result<Bytes, RingError> {
        let shared = self.lock();
        let found = shared.batches.get(&place.offset).map(|(_, sealed)| sealed.clone());
        found.ok_or_else(|| RingError::Damaged { path: "memory".to_owned() })
    }

    fn release(&mut self, place: Place) -> Result<(), RingError> {
        self.lock().batches.remove(&place.offset);
        Ok(())
    }

    fn sync(&mut self, _acked: &[Cursor]) -> Result<(), RingError> {
        let mut shared = self.lock();
        shared.unsynced.clear();
        shared.durable_next_sample = shared.next_sample.clone();
        Ok(())
    }

    fn remember(&mut self, notes: &[CommandNote]) -> Result<(), RingError> {
        self.lock().commands.extend_from_slice(notes);
        Ok(())
    }

    fn compact_commands(&mut self, keep: &[CommandNote]) -> Result<(), RingError> {
        self.lock().commands = keep.to_vec();
        Ok(())
    }
}

fn place(stream: Stream, at: u64) -> Place {
    Place { log: stream.as_u8(), segment: 0, offset: at }
}
