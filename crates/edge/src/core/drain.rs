//! What is due: in this order leases, commands, sealing, sync, beats, publications.

use super::down::KEPT;
use super::{EdgeError, GatewayCore, MIN_BEAT_MS};
use crate::commands::Seen;
use crate::effect::{Effect, Now, Ticket};
use crate::ring::CommandNote;
use chargeplane_domain::command::Action;
use chargeplane_domain::units::{Mono, Timestamp};
use chargeplane_protocol::Header;
use chargeplane_protocol::limits::MAX_CURSORS;
use chargeplane_protocol::message::{
    Beat, BeatCharger, CommandEnd, Cursor, Deadline, DownCommand, GatewayEvent, Stream, UpBatch,
};

/// Batches of events that may be under way: a node keeps few that arrive out of turn.
const EVENTS_WINDOW: usize = 32;

/// Batches of live samples that may be under way: a minute of them at the largest gateway.
const LIVE_WINDOW: usize = 4_096;

/// Publications in one drain; the rest follows in the next, so that a backlog never delays a beat or a limit.
const PUBLISH_AT_ONCE: usize = 64;

/// Whether a new command may be carried out.
enum Judged {
    InTime,
    /// It surely is not, and this is its end.
    Refused(CommandEnd),
    /// Nobody can tell whether it is in time.
    Undated,
}

impl GatewayCore {
    /// Does everything that is due and appends to `effects` what is to be done outside, in order.
    ///
    /// An error means that the ring can no longer be relied on: stop, and start anew.
    pub fn drain(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<(), EdgeError> {
        self.update_mode(now.mono);
        for limit in self.leases.refresh(now.mono) {
            effects.push(Effect::SetLimit { child: limit.child, watts: limit.watts, allowance: limit.allowance });
        }
        self.stats.leases_expired = self.leases.expired();
        effects.append(&mut self.effects);
        self.take_commands(now, effects)?;
        self.seal_events(now)?;
        self.seal_samples(now, false)?;
        self.note_ends()?;
        self.release()?;
        self.sync_if_due(now)?;
        self.beat_if_due(now, effects)?;
        self.publish(now, effects)?;
        effects.append(&mut self.effects);
        self.count_held();
        Ok(())
    }

    /// Seals everything that waits and makes the ring durable: before a stop.
    pub fn flush(&mut self, now: Now) -> Result<(), EdgeError> {
        self.seal_events(now)?;
        self.seal_samples(now, true)?;
        self.note_ends()?;
        self.release()?;
        self.sync()?;
        self.count_held();
        Ok(())
    }

    /// When to drain next if nothing happens before.
    pub fn next_deadline(&self) -> Option<Mono> {
        let policy = &self.config.policy;
        let timings = &self.config.timings;
        let mut due = vec![self.fast.deadline(policy), self.slow.deadline(policy), self.leases.deadline()];
        if self.fast.len().max(self.slow.len()) >= policy.max_items
            || !self.events.is_empty()
            || !self.effects.is_empty()
        {
            return Some(Mono(0));
        }
        if !self.local {
            due.push(self.unanswered.map(|since| since.plus_ms(timings.local_after_ms)));
        }
        due.push(self.unsynced_since.map(|since| since.plus_ms(timings.sync_ms)));
        if self.connected {
            due.push(Some(self.beat_due()));
            let rest = self.rest_until.unwrap_or_default();
            for (index, lane) in self.lanes.iter().enumerate() {
                let lane_due = lane.deadline(self.window(KEPT[index]), self.retry_ms(KEPT[index]));
                due.push(lane_due.map(|at| at.max(rest)));
            }
        }
        due.into_iter().flatten().min()
    }

    /// Enters and leaves the local mode.
    fn update_mode(&mut self, now: Mono) {
        let patience = self.config.timings.local_after_ms;
        let local = self.unanswered.is_some_and(|since| now.since(since) >= patience);
        if local != self.local {
            self.local = local;
            self.stats.local_entries += u64::from(local);
            self.effects.push(Effect::ModeChanged { local });
        }
    }

    /// CMD-1: an id is in the ring before its command is carried out, and never carried out again.
    fn take_commands(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<(), EdgeError> {
        let mut accepted = Vec::new();
        for command in std::mem::take(&mut self.arrived) {
            match self.commands.seen(&command.id) {
                Seen::Running => self.stats.commands_repeated += 1,
                Seen::Ended(end) => {
                    self.stats.commands_repeated += 1;
                    self.answer_again(now.wall, command, end);
                }
                Seen::New => match self.judge(now.mono, &command) {
                    Judged::InTime => {
                        let note = CommandNote::Accepted { command, at: now.wall };
                        self.commands.note(&note);
                        accepted.push(note);
                    }
                    Judged::Refused(end) => {
                        self.stats.commands_refused += 1;
                        self.end_refused(now, command, end);
                    }
                    Judged::Undated => self.stats.commands_undated += 1,
                },
            }
        }
        if accepted.is_empty() {
            return Ok(());
        }
        self.ring.remember(&accepted)?;
        for note in accepted {
            let CommandNote::Accepted { command, .. } = note else {
                continue;
            };
            if let Action::Start { session, allowance, .. } = &command.action {
                self.leases.on_start_ordered(command.child, session, *allowance);
            }
            self.stats.commands_executed += 1;
            effects.push(Effect::Execute(command));
        }
        Ok(())
    }

    /// A command whose deadline counts from a beat that is not remembered, or of another boot, may be from any
    /// time: it is left alone, neither carried out nor ended. The node sends it again, answering a later beat.
    fn judge(&self, now: Mono, command: &DownCommand) -> Judged {
        let Deadline { answers_nonce, boot, within_ms } = command.deadline;
        if !self.leases.knows(command.child) {
            return Judged::Refused(CommandEnd::Refused("unknown_charger".to_owned()));
        }
        let Some(sent) = self.leases.beat_sent(boot, answers_nonce) else { return Judged::Undated };
        if now > sent.plus_ms(u64::from(within_ms)) {
            Judged::Refused(CommandEnd::Expired)
        } else if self.commands.is_full() {
            Judged::Refused(CommandEnd::Refused("command_memory_full".to_owned()))
        } else {
            Judged::InTime
        }
    }

    /// A refusal is an end like any other, but for a full memory, which is told and forgotten.
    fn end_refused(&mut self, now: Now, command: DownCommand, end: CommandEnd) {
        if self.commands.is_full() {
            self.answer_again(now.wall, command, end);
        } else {
            self.end_command(now, command.id, command.child, end);
        }
    }

    fn answer_again(&mut self, at: Timestamp, command: DownCommand, outcome: CommandEnd) {
        let event = GatewayEvent::CommandResult { child: command.child, command: command.id, outcome, at };
        self.number_event(event);
    }

    /// Ends are noted after the event that reports them is in the ring: an end that is noted was reported.
    fn note_ends(&mut self) -> Result<(), EdgeError> {
        let ended = std::mem::take(&mut self.ended);
        if let Some(last) = ended.last() {
            let at = last.at();
            self.ring.remember(&ended)?;
            if let Some(keep) = self.commands.forget(at, self.config.timings.command_memory_ms) {
                self.ring.compact_commands(&keep)?;
            }
        }
        Ok(())
    }

    fn beat_due(&self) -> Mono {
        let Some(last) = self.last_beat else {
            return Mono(0);
        };
        let busy = self.statuses.values().any(|status| status.charging);
        let timings = &self.config.timings;
        let wait = if self.beat_soon {
            MIN_BEAT_MS.min(timings.beat_busy_ms)
        } else if busy {
            timings.beat_busy_ms
        } else {
            timings.beat_idle_ms
        };
        last.plus_ms(wait)
    }

    fn beat_if_due(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<(), EdgeError> {
        if !self.connected || now.mono < self.beat_due() {
            return Ok(());
        }
        self.beat_seq += 1;
        let nonce = (u64::from(self.boot) << 32) | self.beat_seq;
        let beat = self.beat(now, nonce);
        let ticket = Ticket { stream: Stream::Beat, boot: self.boot, seq: self.beat_seq };
        let packet = self.seal_packet(now, Header::default(), ticket, &UpBatch::Beat(beat))?;
        self.leases.on_beat(now.mono, nonce);
        self.last_beat = Some(now.mono);
        self.beat_soon = false;
        self.unanswered.get_or_insert(now.mono);
        self.stats.beats += 1;
        effects.push(Effect::Publish {
            topic: self.topics[Stream::Beat as usize].clone(),
            payload: packet.into(),
            qos1: false,
            ticket: None,
        });
        Ok(())
    }

    fn beat(&mut self, now: Now, nonce: u64) -> Beat {
        let boot = self.boot_id();
        let mut acked: Vec<_> = self.lanes.iter_mut().flat_map(|lane| lane.acked(boot)).collect();
        let mut floors: Vec<_> = self.lanes.iter().flat_map(|lane| lane.floors(boot)).collect();
        // The node must not pass a lost batch before its loss is durable here: after a crash it comes again.
        for (ticket, _) in &self.undeclared {
            let same = |cursor: &&mut Cursor| (cursor.stream, cursor.boot.boot) == (ticket.stream, ticket.boot);
            acked.iter_mut().filter(same).for_each(|cursor| cursor.seq = cursor.seq.min(ticket.seq - 1));
            floors.iter_mut().filter(same).for_each(|cursor| cursor.seq = cursor.seq.min(ticket.seq));
        }
        acked.truncate(MAX_CURSORS);
        floors.truncate(MAX_CURSORS);
        let charger = |(child, status): (&u16, &crate::effect::ChargerStatus)| {
            let (granted, lease_left_ms) = self.leases.in_force(now.mono, *child);
            BeatCharger {
                child: *child,
                granted,
                lease_left_ms,
                demand: status.demand,
                power: status.power,
                register: status.register,
                session: status.session.clone(),
                charging: status.charging,
            }
        };
        Beat {
            mono: now.mono,
            nonce,
            epoch_seen: self.leases.epoch_seen(),
            applied_grant_seq: self.leases.applied_seq(),
            local: self.local,
            acked,
            floors,
            chargers: self.statuses.iter().map(charger).collect(),
        }
    }

    fn window(&self, stream: Stream) -> usize {
        match stream {
            Stream::Events => EVENTS_WINDOW,
            Stream::Replay => self.credit as usize,
            _ => LIVE_WINDOW,
        }
    }

    fn retry_ms(&self, stream: Stream) -> u64 {
        let timings = &self.config.timings;
        if stream == Stream::Events { timings.events_retry_ms } else { timings.telemetry_retry_ms }
    }

    /// Events first, then live samples, then the backlog within its credit.
    fn publish(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<(), EdgeError> {
        if !self.connected || self.rest_until.is_some_and(|until| now.mono < until) {
            return Ok(());
        }
        self.rest_until = None;
        let mut room = PUBLISH_AT_ONCE;
        for stream in KEPT {
            let (window, retry_ms) = (self.window(stream), self.retry_ms(stream));
            let lane = &mut self.lanes[stream as usize];
            lane.retry(now.mono, retry_ms);
            while room > 0
                && let Some(key) = lane.next_to_send(now.mono, window)
                && let Some(held) = lane.get_mut(key)
            {
                let ticket = held.meta.ticket;
                let payload = match held.fresh.take() {
                    Some(packet) => packet,
                    None => self.ring.read(held.place)?,
                };
                let live = stream != Stream::Replay && ticket.boot == self.boot;
                lane.mark_sent(key, now.mono, live);
                self.stats.stream_mut(stream).published += 1;
                let topic = self.topics[stream as usize].clone();
                effects.push(Effect::Publish { topic, payload, qos1: true, ticket: Some(ticket) });
                room -= 1;
            }
        }
        Ok(())
    }

    fn count_held(&mut self) {
        for stream in KEPT {
            let lane = &self.lanes[stream as usize];
            let (batches, items) = (lane.len() as u64, lane.items());
            let stats = self.stats.stream_mut(stream);
            stats.held_batches = batches;
            stats.held_items = items;
        }
    }
}
