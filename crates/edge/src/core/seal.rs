//! Sealing: what waits becomes a batch in the ring, once, under a sequence of its own.

use super::{EdgeError, GatewayCore};
use crate::batcher::Contents;
use crate::effect::{Now, Ticket};
use crate::ring::{BatchMeta, Found};
use chargeplane_domain::sample::GapReason;
use chargeplane_protocol::envelope::{FLAG_BACKFILL, FLAG_GAP, FLAG_URGENT};
use chargeplane_protocol::message::{Stream, UpBatch};
use chargeplane_protocol::{Header, SealError, wire};

/// Events in one batch.
const MAX_EVENTS: usize = 200;

impl GatewayCore {
    pub(super) fn seal_events(&mut self, now: Now) -> Result<(), EdgeError> {
        while !self.events.is_empty() {
            let rest = self.events.split_off(self.events.len().min(MAX_EVENTS));
            let batch = std::mem::replace(&mut self.events, rest);
            let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
                continue;
            };
            let numbers = (first.number, last.number);
            let header = Header { first_item: numbers.0, flags: FLAG_URGENT, ..Header::default() };
            let ticket = self.next_ticket(Stream::Events);
            let meta = BatchMeta { ticket, spans: Vec::new(), gaps: Vec::new(), events: Some(numbers) };
            self.seal(now, header, meta, &UpBatch::Events(batch))?;
        }
        Ok(())
    }

    pub(super) fn seal_samples(&mut self, now: Now, all: bool) -> Result<(), EdgeError> {
        let policy = self.config.policy;
        for stream in [Stream::Fast, Stream::Slow] {
            loop {
                let batcher = if stream == Stream::Fast { &mut self.fast } else { &mut self.slow };
                if !all && !batcher.is_due(now.mono, &policy) {
                    break;
                }
                let Some(contents) = batcher.take(&policy) else {
                    break;
                };
                self.seal_contents(now, stream, contents)?;
            }
        }
        self.make_room(now);
        Ok(())
    }

    /// Samples made while nobody answers go to the replay stream, and so never delay live ones.
    fn seal_contents(&mut self, now: Now, stream: Stream, contents: Contents) -> Result<(), EdgeError> {
        let stream = if self.is_live() { stream } else { Stream::Replay };
        let spans = contents.spans();
        let mut header = Header { first_item: spans.first().map_or(0, |span| span.first), ..Header::default() };
        if stream == Stream::Replay {
            header.flags |= FLAG_BACKFILL;
        }
        if !contents.gaps.is_empty() {
            header.flags |= FLAG_GAP;
        }
        let meta = BatchMeta { ticket: self.next_ticket(stream), spans, gaps: contents.gaps.clone(), events: None };
        self.seal(now, header, meta, &UpBatch::Samples { runs: contents.runs, gaps: contents.gaps })
    }

    /// What is left of thinned batches, with the age of the first of them.
    pub(super) fn seal_thinned(
        &mut self,
        now: Now,
        contents: Contents,
        order: u64,
        base_us: u64,
    ) -> Result<(), EdgeError> {
        let spans = contents.spans();
        let first_item = spans.first().map_or(0, |span| span.first);
        let declares = if contents.gaps.is_empty() { 0 } else { FLAG_GAP };
        let header = Header { first_item, flags: FLAG_BACKFILL | declares, base_us, ..Header::default() };
        let meta =
            BatchMeta { ticket: self.next_ticket(Stream::Replay), spans, gaps: contents.gaps.clone(), events: None };
        let key = (meta.ticket.boot, meta.ticket.seq);
        let batch = UpBatch::Samples { runs: contents.runs, gaps: contents.gaps };
        self.seal_at(now, header, meta, &batch, Some(order))?;
        self.lanes[Stream::Replay as usize].mark_thinned(key);
        Ok(())
    }

    fn next_ticket(&self, stream: Stream) -> Ticket {
        let seq = self.lanes.get(stream as usize).map_or(self.beat_seq, |lane| lane.next_seq());
        Ticket { stream, boot: self.boot, seq }
    }

    /// Seals once, under a sequence that is used up by it, and puts the bytes into the ring.
    fn seal(&mut self, now: Now, header: Header, meta: BatchMeta, batch: &UpBatch) -> Result<(), EdgeError> {
        self.seal_at(now, header, meta, batch, None)
    }

    /// The same, with an age of its own among what is held.
    fn seal_at(
        &mut self,
        now: Now,
        header: Header,
        meta: BatchMeta,
        batch: &UpBatch,
        order: Option<u64>,
    ) -> Result<(), EdgeError> {
        let stream = meta.ticket.stream;
        let packet = self.seal_packet(now, header, meta.ticket, batch)?;
        let Some(lane) = self.lanes.get_mut(stream as usize) else {
            return Ok(());
        };
        lane.use_seq();
        let packet = bytes::Bytes::from(packet);
        let place = self.ring.append(&meta, &packet)?;
        let stats = self.stats.stream_mut(stream);
        stats.batches += 1;
        stats.items += meta.items();
        let len = packet.len() as u64;
        // The backlog is read back from the ring; only what leaves at once stays in memory.
        let fresh = (self.connected && stream != Stream::Replay).then(|| packet.clone());
        let (key_epoch, made_us) = crate::ring::sealed_under(&packet);
        lane.insert(Found { meta, place, len, key_epoch, made_us }, order.unwrap_or(self.order), fresh);
        self.order += u64::from(order.is_none());
        if stream.is_telemetry() {
            self.unsynced_since.get_or_insert(now.mono);
        }
        Ok(())
    }

    pub(super) fn seal_packet(
        &self,
        now: Now,
        header: Header,
        ticket: Ticket,
        batch: &UpBatch,
    ) -> Result<Vec<u8>, EdgeError> {
        let plain = wire::encode_up(batch);
        let items = batch.items();
        let header = Header {
            boot: ticket.boot,
            seq: ticket.seq,
            items: u16::try_from(items).map_err(|_| SealError::Items { items })?,
            base_us: match header.base_us {
                0 => u64::try_from(now.wall.0).unwrap_or(0).saturating_mul(1_000),
                older => older,
            },
            ..header
        };
        Ok(self.keys.seal_up(ticket.stream, header, &plain)?)
    }

    /// Drops the oldest telemetry beyond the capacity. Events are never dropped.
    fn make_room(&mut self, now: Now) {
        loop {
            let bytes = self.telemetry_bytes();
            let held: usize = self.lanes[1..].iter().map(|lane| lane.len()).sum();
            if bytes <= self.config.telemetry_capacity || held <= 1 {
                return;
            }
            let oldest = self.lanes[1..].iter_mut().filter(|lane| lane.len() > 0).min_by_key(|lane| lane.oldest());
            let Some((lane, (_, key))) = oldest.and_then(|lane| lane.oldest().map(|oldest| (lane, oldest))) else {
                return;
            };
            let Some(dropped) = lane.remove(key) else {
                return;
            };
            self.stats.stream_mut(dropped.meta.ticket.stream).dropped_batches += 1;
            self.declare_lost(now.mono, dropped, GapReason::Dropped);
        }
    }

    pub(super) fn release(&mut self) -> Result<(), EdgeError> {
        for place in std::mem::take(&mut self.releasable) {
            self.ring.release(place)?;
        }
        Ok(())
    }

    pub(super) fn sync_if_due(&mut self, now: Now) -> Result<(), EdgeError> {
        let wait = self.config.timings.sync_ms;
        if self.sync_now || self.unsynced_since.is_some_and(|since| now.mono.since(since) >= wait) {
            self.thin(now)?;
            // The cursors noted below may cover a lost batch: what it lost must be declared before.
            if !self.undeclared.is_empty() {
                self.seal_samples(now, true)?;
            }
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), EdgeError> {
        let boot = self.boot_id();
        let acked: Vec<_> = self.lanes.iter_mut().flat_map(|lane| lane.acked(boot)).collect();
        self.ring.sync(&acked)?;
        if self.slow.gaps_are_out() {
            let declared = std::mem::take(&mut self.undeclared);
            self.releasable.extend(declared.into_iter().map(|(_, place)| place));
            self.release()?;
        }
        self.unsynced.clear();
        self.unsynced_since = None;
        self.sync_now = false;
        Ok(())
    }
}
