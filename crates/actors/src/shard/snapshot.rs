//! Snapshots of a shard: its map at a log number, so that an opening costs the snapshot and the frames behind it
//! and not the shard's whole life.
//!
//! Made from durable state only. The map's rows are shared with the snapshot while it is written, so taking one
//! holds the shard up for no longer than a copy of the row's pointers; encoding and writing are done elsewhere. The
//! next one is due when the log behind the last has grown to a multiple of it: writing snapshots stays a fraction
//! of writing the log, however large the map is. A shard with a quarantined entity takes none: events that this
//! program could not read would be lost to one that can.

use super::letters::Letters;
use super::{Family, ShardMessage, ShardState};
use crate::entry::DeadLetter;
use crate::metric;
use bytes::Bytes;
use chargeplane_cluster::journal::{JournalError, Snapshot};
use ractor::ActorRef;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Version of the stored form, in front of the MessagePack.
const VERSION: u16 = 1;

/// The log grows to so many times the last snapshot before the next one.
const LOG_PER_SNAPSHOT: u64 = 4;

/// An orderly end takes another snapshot at this part of the log that a running shard waits for.
const PART_AT_DRAIN: u64 = 32;

#[derive(Serialize)]
struct StateRef<'a, M> {
    map: &'a M,
    letters: Vec<DeadLetter>,
    next_letter: u64,
}

#[derive(Deserialize)]
struct State<M> {
    map: M,
    letters: Vec<DeadLetter>,
    next_letter: u64,
}

/// Why a snapshot cannot be used. The log has all that was in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotError {
    /// Written by a newer program.
    #[error("snapshot version {0}, this program knows {VERSION}")]
    Version(u16),
    /// Not what this program writes.
    #[error("the snapshot cannot be read: {0}")]
    Malformed(String),
}

/// What a snapshot holds.
pub(super) struct Restored<F: Family> {
    pub(super) map: F::Map,
    pub(super) letters: Letters,
}

/// Reads a stored snapshot.
pub(super) fn read<F: Family>(bytes: &[u8]) -> Result<Restored<F>, SnapshotError> {
    let malformed = |error: &dyn std::fmt::Display| SnapshotError::Malformed(error.to_string());
    let (version, body) = bytes.split_first_chunk::<2>().ok_or_else(|| malformed(&"it is empty"))?;
    let version = u16::from_be_bytes(*version);
    if version != VERSION {
        return Err(SnapshotError::Version(version));
    }
    let state: State<F::Map> = rmp_serde::from_slice(body).map_err(|error| malformed(&error))?;
    let letters = Letters::restore(state.letters, state.next_letter);
    Ok(Restored { map: state.map, letters })
}

fn write<M: Serialize>(map: &M, letters: Vec<DeadLetter>, next_letter: u64) -> Result<Bytes, String> {
    let mut bytes = VERSION.to_be_bytes().to_vec();
    let state = StateRef { map, letters, next_letter };
    rmp_serde::encode::write_named(&mut bytes, &state).map_err(|error| error.to_string())?;
    Ok(Bytes::from(bytes))
}

/// When the next snapshot is due.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Least bytes of log between two.
    least: u64,
    /// Bytes of log behind the last snapshot.
    log_bytes: u64,
    /// Size of the last snapshot.
    size: u64,
    /// One is being written.
    writing: bool,
}

impl Schedule {
    pub(super) fn new(least: u64) -> Self {
        Self { least, log_bytes: 0, size: 0, writing: false }
    }

    /// Counts a frame behind the last snapshot.
    pub(super) fn grew(&mut self, bytes: usize) {
        self.log_bytes = self.log_bytes.saturating_add(bytes as u64);
    }

    /// Goes on from a snapshot of this size.
    pub(super) fn restart(&mut self, size: usize) {
        (self.size, self.log_bytes) = (size as u64, 0);
    }

    fn is_due(&self, draining: bool) -> bool {
        let enough = self.least.max(self.size.saturating_mul(LOG_PER_SNAPSHOT));
        let enough = if draining { enough / PART_AT_DRAIN } else { enough };
        !self.writing && self.log_bytes > enough
    }

    /// True while one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }
}

/// What became of a snapshot.
pub struct Written {
    /// Its size in bytes; none when it was not kept.
    pub size: Option<usize>,
    /// Bytes of log that it stands for.
    taken: u64,
}

/// Takes a snapshot when one is due.
pub(super) fn take<F: Family>(state: &mut ShardState<F>, myself: &ActorRef<ShardMessage<F>>, draining: bool) {
    if !state.snapshots.is_due(draining) || state.entities.has_quarantined() || state.epoch == 0 {
        return;
    }
    state.snapshots.writing = true;
    let taken = state.snapshots.log_bytes;
    let (lsn, hash) = state.frames.last();
    let (map, letters, next) = (state.map.clone(), state.letters.list(), state.letters.next());
    let (journal, shard, epoch) = (Arc::clone(&state.shared.ports.journal), state.shard, state.epoch);
    let myself = myself.clone();
    tokio::spawn(async move {
        let encoded = tokio::task::spawn_blocking(move || write(&map, letters, next)).await;
        let encoded = encoded.unwrap_or_else(|error| Err(error.to_string()));
        let size = match encoded {
            Ok(bytes) => {
                let size = bytes.len();
                let put = journal.put_snapshot(shard, epoch, Snapshot { lsn, hash, bytes }).await;
                put.map(|kept| kept.then_some(size)).unwrap_or_else(|error| {
                    tell(&error, shard, lsn);
                    None
                })
            }
            Err(error) => {
                tracing::error!(%shard, lsn, %error, "a snapshot cannot be written");
                None
            }
        };
        // The shard may be gone: its successor counts from the snapshot it finds.
        let _ = myself.cast(ShardMessage::SnapshotWritten(Written { size, taken }));
    });
}

/// The log has all, so a snapshot that is not kept costs the next opening time and nothing else.
fn tell(error: &JournalError, shard: chargeplane_domain::placement::ShardId, lsn: u64) {
    metrics::counter!(metric::SNAPSHOTS_FAILED_TOTAL).increment(1);
    tracing::warn!(%shard, lsn, %error, "a snapshot was not kept");
}

/// A snapshot was written, or not.
pub(super) fn on_written<F: Family>(state: &mut ShardState<F>, written: &Written) {
    let schedule = &mut state.snapshots;
    schedule.writing = false;
    // Without one, the log has to grow as much again before the next attempt.
    schedule.log_bytes = schedule.log_bytes.saturating_sub(written.taken);
    if let Some(size) = written.size {
        schedule.size = size as u64;
        metrics::counter!(metric::SNAPSHOTS_TOTAL).increment(1);
        metrics::counter!(metric::SNAPSHOT_BYTES_TOTAL).increment(size as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{AccountFamily, AccountMap};

    #[test]
    fn a_snapshot_of_another_version_and_one_that_is_cut_are_errors() {
        let bytes = write(&AccountMap::default(), Vec::new(), 4).unwrap();
        let restored = read::<AccountFamily>(&bytes).unwrap();
        assert_eq!(restored.letters.next(), 4);
        assert!(restored.map.accounts.is_empty());
        let mut newer = bytes.to_vec();
        newer[1] = 2;
        assert_eq!(read::<AccountFamily>(&newer).err(), Some(SnapshotError::Version(2)));
        for len in 0..bytes.len() {
            assert!(matches!(read::<AccountFamily>(&bytes[..len]).err(), Some(SnapshotError::Malformed(_))), "{len}");
        }
    }

    #[test]
    fn the_next_snapshot_waits_for_a_multiple_of_the_last() {
        let mut schedule = Schedule::new(3_200);
        schedule.grew(100);
        assert!(!schedule.is_due(false) && !schedule.is_due(true));
        schedule.grew(1);
        assert!(!schedule.is_due(false) && schedule.is_due(true));
        schedule.grew(3_100);
        assert!(schedule.is_due(false));
        schedule.restart(1_000);
        schedule.grew(4_000);
        assert!(!schedule.is_due(false));
        schedule.grew(1);
        assert!(schedule.is_due(false));
        schedule.writing = true;
        assert!(!schedule.is_due(false) && !schedule.is_due(true));
    }
}
