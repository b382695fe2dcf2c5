//! How far each stream of each boot of one gateway has come: durable, received, received ahead of a hole.

use chargeplane_domain::gateway::BootId;
use chargeplane_protocol::message::{Cursor, Stream};
use std::collections::{BTreeMap, BTreeSet};

/// Batches received ahead of a missing one; further ones are not taken.
const MAX_AHEAD: usize = 4_096;

/// Refusals repeated in each acknowledgement.
const MAX_REFUSALS: usize = 64;

/// Boots of a stream that are kept in memory. What an older one still sends is not
/// taken: a gateway has long sent or thinned what is as old.
const MAX_BOOTS: usize = 64;

#[derive(Debug, Default)]
struct Progress {
    /// Up to here the store has it.
    durable: u64,
    /// Up to here everything was received (or refused, or will never come).
    received: u64,
    /// Received above a hole.
    ahead: BTreeSet<u64>,
    refused: BTreeMap<u64, String>,
}

impl Progress {
    fn close_holes(&mut self) {
        while let Some(first) = self.ahead.first().copied() {
            if first > self.received.saturating_add(1) {
                break;
            }
            self.received = self.received.max(first);
            self.ahead.pop_first();
        }
    }
}

/// Progress of all streams and boots of one gateway.
#[derive(Debug, Default)]
pub(super) struct Streams(BTreeMap<(Stream, BootId), Progress>);

impl Streams {
    /// What the store had when the shard opened.
    pub(super) fn restore(&mut self, stream: Stream, boot: BootId, upto: u64) {
        let progress = self.0.entry((stream, boot)).or_default();
        progress.durable = progress.durable.max(upto);
        progress.received = progress.received.max(upto);
        self.forget_oldest(stream);
    }

    fn forget_oldest(&mut self, stream: Stream) {
        let of_stream = |(of, _): &&(Stream, BootId)| *of == stream;
        while self.0.keys().filter(of_stream).count() > MAX_BOOTS {
            let Some(oldest) = self.0.keys().find(of_stream).copied() else { return };
            self.0.remove(&oldest);
        }
    }

    pub(super) fn is_received(&self, stream: Stream, boot: BootId, seq: u64) -> bool {
        let progress = self.0.get(&(stream, boot));
        progress.is_some_and(|progress| seq <= progress.received || progress.ahead.contains(&seq))
    }

    /// Takes a sequence in; false when too much is missing below it.
    pub(super) fn receive(&mut self, stream: Stream, boot: BootId, seq: u64) -> bool {
        self.0.entry((stream, boot)).or_default();
        self.forget_oldest(stream);
        let Some(progress) = self.0.get_mut(&(stream, boot)) else { return false };
        if seq > progress.received.saturating_add(1) && progress.ahead.len() >= MAX_AHEAD {
            return false;
        }
        progress.ahead.insert(seq);
        progress.close_holes();
        true
    }

    /// A batch that cannot be used is done with, and its refusal is repeated until the gateway has seen it. One
    /// that was received before (its charger may have left the catalogue since) stays received.
    pub(super) fn refuse(&mut self, stream: Stream, boot: BootId, seq: u64, reason: String) {
        // With too many that the gateway has not seen it is not taken, and comes again: a refusal that is
        // forgotten would be told as durable.
        let full = self.0.get(&(stream, boot)).is_some_and(|progress| progress.refused.len() >= MAX_REFUSALS);
        if !full
            && !self.is_received(stream, boot, seq)
            && self.receive(stream, boot, seq)
            && let Some(progress) = self.0.get_mut(&(stream, boot))
        {
            progress.refused.insert(seq, reason);
        }
    }

    /// The gateway will not send anything below `floor` again.
    pub(super) fn raise_floor(&mut self, stream: Stream, boot: BootId, floor: u64) {
        let progress = self.0.entry((stream, boot)).or_default();
        let below = floor.saturating_sub(1);
        if below > progress.received {
            progress.received = below;
            progress.ahead.retain(|seq| *seq > below);
            progress.close_holes();
        }
    }

    /// The gateway has seen an acknowledgement up to `seq`.
    pub(super) fn forget_refusals(&mut self, stream: Stream, boot: BootId, seq: u64) {
        if let Some(progress) = self.0.get_mut(&(stream, boot)) {
            progress.refused.retain(|refused, _| *refused > seq);
        }
    }

    pub(super) fn refusals(&self, stream: Stream, boot: BootId) -> impl Iterator<Item = (u64, &str)> {
        let progress = self.0.get(&(stream, boot));
        progress.into_iter().flat_map(|progress| progress.refused.iter().map(|(seq, why)| (*seq, why.as_str())))
    }

    pub(super) fn durable_upto(&self, stream: Stream, boot: BootId) -> u64 {
        self.0.get(&(stream, boot)).map_or(0, |progress| progress.durable)
    }

    /// Everything received without a hole.
    pub(super) fn received_cursors(&self) -> Vec<Cursor> {
        let cursor = |((stream, boot), progress): (&(Stream, BootId), &Progress)| Cursor {
            stream: *stream,
            boot: *boot,
            seq: progress.received,
        };
        self.0.iter().filter(|((stream, _), _)| stream.is_telemetry()).map(cursor).collect()
    }

    /// What may be stored of these cursors: below a refusal that the gateway has not seen. Should this owner
    /// die before it has, its successor gets the batch again and refuses it again; a stored cursor above it
    /// would be read as "durable", and the loss would never be declared.
    pub(super) fn storable_cursors(&self) -> Vec<Cursor> {
        let cap = |mut cursor: Cursor| {
            let progress = self.0.get(&(cursor.stream, cursor.boot));
            let refused = progress.and_then(|progress| progress.refused.keys().next());
            cursor.seq = refused.map_or(cursor.seq, |first| cursor.seq.min(first.saturating_sub(1)));
            cursor
        };
        self.received_cursors().into_iter().map(cap).collect()
    }

    /// The store has everything up to this cursor. True when that is news.
    pub(super) fn durable(&mut self, cursor: Cursor) -> bool {
        let progress = self.0.entry((cursor.stream, cursor.boot)).or_default();
        let news = cursor.seq > progress.durable;
        progress.durable = progress.durable.max(cursor.seq);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(boot: u32) -> BootId {
        BootId::new(1, boot)
    }

    fn received(streams: &Streams) -> u64 {
        streams.received_cursors().first().map_or(0, |cursor| cursor.seq)
    }

    #[test]
    fn holes_hold_the_cursor_back_until_they_close() {
        let mut streams = Streams::default();
        assert!(streams.receive(Stream::Fast, boot(1), 1));
        assert!(streams.receive(Stream::Fast, boot(1), 3));
        assert_eq!(received(&streams), 1);
        assert!(streams.is_received(Stream::Fast, boot(1), 3));
        assert!(!streams.is_received(Stream::Fast, boot(1), 2));
        assert!(streams.receive(Stream::Fast, boot(1), 2));
        assert_eq!(received(&streams), 3);
        assert_eq!(streams.durable_upto(Stream::Fast, boot(1)), 0);
    }

    #[test]
    fn a_floor_passes_what_will_never_come() {
        let mut streams = Streams::default();
        streams.receive(Stream::Replay, boot(4), 9);
        streams.raise_floor(Stream::Replay, boot(4), 9);
        assert_eq!(received(&streams), 9);
        streams.raise_floor(Stream::Replay, boot(4), 2);
        assert_eq!(received(&streams), 9, "a floor never moves a cursor back");
    }

    #[test]
    fn refusals_are_repeated_until_seen() {
        let mut streams = Streams::default();
        streams.refuse(Stream::Fast, boot(1), 1, "unknown_child".to_owned());
        assert_eq!(received(&streams), 1);
        assert_eq!(streams.refusals(Stream::Fast, boot(1)).count(), 1);
        assert_eq!(streams.storable_cursors()[0].seq, 0, "not stored as durable before the gateway knows");
        streams.forget_refusals(Stream::Fast, boot(1), 0);
        assert_eq!(streams.refusals(Stream::Fast, boot(1)).count(), 1);
        streams.forget_refusals(Stream::Fast, boot(1), 1);
        assert_eq!(streams.refusals(Stream::Fast, boot(1)).count(), 0);
        assert_eq!(streams.storable_cursors()[0].seq, 1);
    }

    #[test]
    fn what_was_received_is_not_refused_when_it_comes_again() {
        let mut streams = Streams::default();
        streams.receive(Stream::Fast, boot(1), 1);
        streams.refuse(Stream::Fast, boot(1), 1, "unknown_child".to_owned());
        assert_eq!(streams.refusals(Stream::Fast, boot(1)).count(), 0);
        assert_eq!(streams.storable_cursors()[0].seq, 1);
    }

    #[test]
    fn a_new_key_begins_a_numbering_of_its_own() {
        let mut streams = Streams::default();
        streams.restore(Stream::Fast, boot(1), 500);
        let anew = BootId::new(2, 1);
        assert!(!streams.is_received(Stream::Fast, anew, 1));
        assert!(streams.receive(Stream::Fast, anew, 1));
        assert_eq!(streams.durable_upto(Stream::Fast, anew), 0);
    }

    #[test]
    fn too_much_ahead_of_a_hole_is_not_taken() {
        let mut streams = Streams::default();
        for seq in 0..MAX_AHEAD as u64 {
            assert!(streams.receive(Stream::Fast, boot(1), seq + 2));
        }
        assert!(!streams.receive(Stream::Fast, boot(1), 1_000_000));
        assert!(streams.receive(Stream::Fast, boot(1), 1), "the missing one is always taken");
        assert_eq!(received(&streams), MAX_AHEAD as u64 + 1);
    }

    #[test]
    fn boots_and_refusals_are_bounded() {
        let mut streams = Streams::default();
        for number in 1..=200 {
            assert!(streams.receive(Stream::Fast, boot(number), 1));
            assert!(streams.receive(Stream::Replay, boot(number), 1));
        }
        assert_eq!(streams.0.len(), 2 * MAX_BOOTS);
        assert!(streams.is_received(Stream::Fast, boot(200), 1) && !streams.is_received(Stream::Fast, boot(1), 1));
        assert!(!streams.receive(Stream::Fast, boot(1), 2), "one older than all that are kept is not taken");
        for seq in 2..=200 {
            streams.refuse(Stream::Fast, boot(200), seq, "unknown_child".to_owned());
        }
        assert_eq!(streams.refusals(Stream::Fast, boot(200)).count(), MAX_REFUSALS);
        let told = 1 + MAX_REFUSALS as u64;
        assert!(
            streams.is_received(Stream::Fast, boot(200), told)
                && !streams.is_received(Stream::Fast, boot(200), told + 1)
        );
    }
}
