//! What the node says.

use super::{FIRST_CREDIT, GatewayCore};
use crate::effect::{Acked, Effect, Now};
use crate::leases::Verdict;
use crate::outbox::Held;
use chargeplane_domain::sample::{Gap, GapReason};
use chargeplane_domain::units::Mono;
use chargeplane_protocol::limits::MAX_ITEMS;
use chargeplane_protocol::message::{Ack, Down, Grants, Resume, Stream};
use chargeplane_protocol::wire;

/// Why batches of a former key are lost.
const KEY_REVOKED: &str = "key_revoked";

impl GatewayCore {
    /// A publication arrived. What cannot be used is counted by its code and changes nothing.
    pub fn on_message(&mut self, now: Now, topic: &str, payload: &[u8]) {
        match self.read(topic, payload) {
            Ok((epoch, message)) => self.on_down(now, epoch, message),
            Err(code) => *self.stats.bad_messages.entry(code).or_default() += 1,
        }
    }

    fn read(&self, topic: &str, payload: &[u8]) -> Result<(u64, Down), &'static str> {
        if topic != self.down_topic {
            return Err("topic_not_mine");
        }
        let opened = self.keys.open_down(payload).map_err(|e| e.code())?;
        let message = wire::decode_down(&opened.plain).map_err(|e| e.code())?;
        Ok((u64::from(opened.header.boot), message))
    }

    /// `epoch` is the one the message was sealed under: whoever holds the key and the epoch is an owner.
    fn on_down(&mut self, now: Now, epoch: u64, message: Down) {
        if self.leases.see_epoch(epoch) {
            self.heard(now.mono);
        } else if !matches!(message, Down::Ack(_) | Down::Grants(_)) {
            *self.stats.bad_messages.entry("lower_epoch").or_default() += 1;
            return;
        }
        match message {
            Down::Ack(ack) => self.on_ack(now, &ack),
            Down::Resume(resume) => self.on_resume(now, &resume),
            Down::Grants(grants) => self.on_grants(now, &grants),
            Down::Commands(commands) => {
                let room = MAX_ITEMS.saturating_sub(self.arrived.len());
                self.arrived.extend(commands.into_iter().take(room));
            }
            Down::Deny { child, request, code } => self.effects.push(Effect::Denied { child, request, code }),
            Down::Notice(notice) => {
                self.on_revoked(now, notice.revoked_upto);
                self.effects.push(Effect::Noticed { code: notice.code, detail: notice.detail });
            }
        }
    }

    fn heard(&mut self, _now: Mono) {
        if self.connected {
            self.unanswered = None;
        }
    }

    fn on_ack(&mut self, now: Now, ack: &Ack) {
        if !self.leases.see_epoch(ack.epoch) {
            self.stats.lower_epoch_acks += 1;
            return;
        }
        if self.lanes.get(ack.stream as usize).is_none() {
            return;
        }
        if ack.stream.is_telemetry() {
            self.credit = ack.credit;
        }
        for refusal in &ack.refused {
            if let Some(held) = self.lanes[ack.stream as usize].refused(ack.boot, refusal.seq) {
                self.on_refused(now, held, &refusal.reason);
            }
        }
        let freed = self.lanes[ack.stream as usize].ack(ack.boot, ack.upto_seq);
        self.on_freed(now, freed);
    }

    fn on_resume(&mut self, now: Now, resume: &Resume) {
        if !self.leases.see_epoch(resume.epoch) {
            self.stats.lower_epoch_acks += 1;
            return;
        }
        self.credit = FIRST_CREDIT;
        for lane in &mut self.lanes {
            lane.resume(now.mono, &resume.cursors);
        }
    }

    /// Keys up to `key_epoch` are revoked: what is held of them would be sent for ever and fill the windows, so
    /// that nothing new gets through. It is told and declared as lost instead. Never the present key's: whoever
    /// speaks under it has not revoked it.
    fn on_revoked(&mut self, now: Now, key_epoch: u32) {
        let upto = key_epoch.min(self.keys.key_epoch().saturating_sub(1));
        for stream in KEPT {
            for held in self.lanes[stream as usize].unreadable(upto) {
                self.on_refused(now, held, KEY_REVOKED);
            }
        }
    }

    fn on_freed(&mut self, now: Now, freed: Vec<Held>) {
        for held in freed {
            let stats = self.stats.stream_mut(held.meta.ticket.stream);
            stats.acked_batches += 1;
            stats.acked_items += held.meta.items();
            self.effects.push(Effect::Acked(Acked {
                ticket: held.meta.ticket,
                items: held.meta.items(),
                latency_ms: held.first_live.map(|first| now.mono.since(first)),
                spans: held.meta.spans,
                events: held.meta.events,
            }));
            self.releasable.push(held.place);
        }
    }

    fn on_refused(&mut self, now: Now, held: Held, reason: &str) {
        let ticket = held.meta.ticket;
        self.stats.stream_mut(ticket.stream).refused_batches += 1;
        let items = held.meta.items();
        if let Some(numbers) = held.meta.events {
            self.stats.events_refused += items;
            self.releasable.push(held.place);
            self.effects.push(Effect::EventsRefused { ticket, numbers, reason: reason.to_owned() });
            return;
        }
        self.effects.push(Effect::SamplesRefused { ticket, items, reason: reason.to_owned() });
        self.declare_lost(now.mono, held, GapReason::Refused);
    }

    /// The samples of a batch are lost, and what it declared must be declared again. Its bytes stay in the ring
    /// until the declaration is there: a crash in between must not lose a loss.
    pub(super) fn declare_lost(&mut self, now: Mono, held: Held, reason: GapReason) {
        let code = match reason {
            GapReason::Thinned => "thinned",
            GapReason::Dropped => "dropped",
            GapReason::Refused => "refused",
        };
        *self.stats.gap_samples.entry(code).or_default() += held.meta.items();
        for span in &held.meta.spans {
            self.slow.push_gap(now, span.child, Gap { first: span.first, last: span.last, reason });
        }
        for (child, gap) in &held.meta.gaps {
            self.slow.push_gap(now, *child, *gap);
        }
        self.undeclared.push((held.meta.ticket, held.place));
        self.unsynced_since.get_or_insert(now);
    }

    fn on_grants(&mut self, now: Now, grants: &Grants) {
        match self.leases.on_grants(now.mono, grants) {
            Verdict::Applied => self.stats.grants_applied += 1,
            Verdict::DecreasesOnly | Verdict::LowerEpoch | Verdict::Stale => self.stats.grants_dropped += 1,
        }
    }
}

/// The streams whose batches are kept, in the order they are served: transactions, live samples, the backlog.
pub(super) const KEPT: [Stream; 4] = [Stream::Events, Stream::Fast, Stream::Slow, Stream::Replay];
