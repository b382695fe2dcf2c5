//! The gateway's decisions, without I/O: inputs and the time go in, effects come out of [`GatewayCore::drain`].
//!
//! Inputs only change memory. `drain` does what is due in a fixed order, and everything that must be durable is
//! in the ring before the effect that relies on it is handed out: a batch before its publication, a command's
//! id before its execution, the boot epoch before the first seal. After an input, drain; without one, drain at
//! [`GatewayCore::next_deadline`].
//!
//! Invariants: DATA-1 (each number given to a sample is in one batch or in one declared gap), CMD-1, and the
//! gateway's half of POWER-1 and POWER-2 (see `leases.rs`).

mod down;
mod drain;
mod seal;
mod thin;

use crate::batcher::Batcher;
use crate::commands::Commands;
use crate::config::GatewayConfig;
use crate::effect::{ChargerStatus, Effect, Now, Ticket};
use crate::flows::Flows;
use crate::leases::Leases;
use crate::outbox::Lane;
use crate::ring::{CommandNote, Place, Recovered, Ring, RingError};
use crate::stats::GatewayStats;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{CommandId, SessionId};
use chargeplane_domain::sample::{Gap, GapReason, Sample};
use chargeplane_domain::session::StopReason;
use chargeplane_domain::units::{Mono, WattHours};
use chargeplane_protocol::message::{CommandEnd, DownCommand, GatewayEvent, NumberedEvent, Stream};
use chargeplane_protocol::{Keyring, LinkRefused, SealError, topic};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sample numbers of a charger that may be in use without being durable in the ring. A new boot leaves so many
/// out, and declares them; the core syncs before a charger has used as many.
pub(crate) const NUMBER_SLACK: u64 = 1_024;

/// Samples of one charger after which the ring is synced early. Below the slack by more than a batch.
const SYNC_AFTER_SAMPLES: u64 = 512;

/// Batches of the replay stream that may be under way before the node has granted a credit.
const FIRST_CREDIT: u32 = 64;

/// Least time between two beats, however urgent.
const MIN_BEAT_MS: u64 = 250;

/// How long publications rest after the link refused one.
const LINK_REST_MS: u64 = 20;

/// Why a core had to stop.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The ring failed: nothing more can be promised.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A batch could not be sealed.
    #[error("sealing: {0}")]
    Seal(#[from] SealError),
}

/// Why a sample or event got no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleRefused {
    /// Not one of this gateway's chargers.
    #[error("charger {child} is not one of this gateway's")]
    UnknownChild {
        /// The number.
        child: u16,
    },
}

/// The core of one gateway.
pub struct GatewayCore {
    config: GatewayConfig,
    keys: Keyring,
    ring: Box<dyn Ring>,
    boot: u32,
    stats: GatewayStats,
    topics: [Arc<str>; Stream::ALL.len()],
    down_topic: String,

    next_sample: BTreeMap<u16, u64>,
    next_event: u64,
    statuses: BTreeMap<u16, ChargerStatus>,
    flows: Flows,
    fast: Batcher,
    slow: Batcher,
    events: Vec<NumberedEvent>,
    lanes: [Lane; 4],
    order: u64,
    /// Batches whose losses wait to be declared: released only when the declaration is durable.
    undeclared: Vec<(Ticket, Place)>,
    releasable: Vec<Place>,

    leases: Leases,
    commands: Commands,
    arrived: Vec<DownCommand>,
    ended: Vec<CommandNote>,
    effects: Vec<Effect>,

    connected: bool,
    local: bool,
    /// The first beat (or loss of connection) that nobody has answered yet.
    unanswered: Option<Mono>,
    credit: u32,
    rest_until: Option<Mono>,
    beat_seq: u64,
    last_beat: Option<Mono>,
    beat_soon: bool,
    unsynced: BTreeMap<u16, u64>,
    unsynced_since: Option<Mono>,
    sync_now: bool,
}

impl GatewayCore {
    /// Recovers from the ring and raises the boot epoch, durable before anything is sealed.
    pub fn new(config: GatewayConfig, mut ring: Box<dyn Ring>, now: Now) -> Result<Self, EdgeError> {
        let recovered = ring.recover()?;
        let boot = ring.next_boot()?;
        let commands = Commands::recover(&recovered.commands);
        let mut core = Self {
            keys: Keyring::new(&config.gateway, &config.key),
            leases: Leases::new(boot, &config.children),
            topics: Stream::ALL.map(|stream| topic::up(&config.gateway, config.shard, stream).into()),
            down_topic: topic::down(&config.gateway, config.shard),
            config,
            ring,
            boot,
            stats: GatewayStats::default(),
            next_sample: BTreeMap::new(),
            next_event: recovered.next_event.max(1),
            statuses: BTreeMap::new(),
            flows: Flows::default(),
            fast: Batcher::default(),
            slow: Batcher::default(),
            events: Vec::new(),
            lanes: [Stream::Events, Stream::Fast, Stream::Slow, Stream::Replay].map(Lane::new),
            order: 0,
            undeclared: Vec::new(),
            releasable: Vec::new(),
            effects: commands.unresolved().into_iter().map(Effect::Inquire).collect(),
            commands,
            arrived: Vec::new(),
            ended: Vec::new(),
            connected: false,
            local: false,
            unanswered: Some(now.mono),
            credit: FIRST_CREDIT,
            rest_until: None,
            beat_seq: 0,
            last_beat: None,
            beat_soon: false,
            unsynced: BTreeMap::new(),
            unsynced_since: None,
            sync_now: false,
        };
        core.take_over(now, recovered);
        // What was left out is durable before a number above it is given away: the next boot starts there.
        core.flush(now)?;
        Ok(core)
    }

    /// Takes what earlier boots left: their batches, and their numbers with the slack left out.
    fn take_over(&mut self, now: Now, recovered: Recovered) {
        let mut batches = recovered.batches;
        // Age across streams: what is left of thinned batches has the age of the first of them.
        batches.sort_by_key(|found| (found.made_us, found.meta.ticket));
        for found in batches {
            if let Some(lane) = self.lanes.get_mut(found.meta.ticket.stream as usize) {
                lane.insert(found, self.order, None);
                self.order += 1;
            }
        }
        if self.boot == 1 {
            return;
        }
        // A charger of which nothing is known may have used up to the slack in each boot before.
        let unknown = NUMBER_SLACK.saturating_mul(u64::from(self.boot - 1));
        for child in self.config.children.keys().copied().collect::<Vec<_>>() {
            let (first, next) = match recovered.next_sample.get(&child) {
                Some(known) => (*known, known.saturating_add(NUMBER_SLACK)),
                None => (0, unknown),
            };
            self.next_sample.insert(child, next);
            self.stats.numbers_skipped += next - first;
            let gap = Gap { first, last: next - 1, reason: GapReason::Dropped };
            self.slow.push_gap(now.mono, child, gap);
        }
    }

    /// The broker accepted the connection.
    pub fn on_connected(&mut self, now: Now) {
        self.stats.connections += 1;
        self.connected = true;
        self.rest_until = None;
        self.last_beat = None;
        let wait = now.mono.plus_ms(self.config.timings.resume_wait_ms);
        for lane in &mut self.lanes[1..] {
            lane.on_connected(Some(wait));
        }
        self.lanes[0].on_connected(None);
        self.effects.push(Effect::Subscribe { filter: self.down_topic.clone() });
    }

    /// The connection ended.
    pub fn on_disconnected(&mut self, now: Now) {
        self.connected = false;
        self.unanswered.get_or_insert(now.mono);
        for lane in &mut self.lanes {
            lane.on_disconnected();
        }
    }

    /// The link did not take a publication: it goes again in a moment.
    pub fn on_publish_refused(&mut self, now: Now, ticket: Option<Ticket>, why: LinkRefused) {
        let rest = match why {
            LinkRefused::Full => LINK_REST_MS,
            LinkRefused::Closed => 1_000,
        };
        self.rest_until = Some(now.mono.plus_ms(rest));
        if let Some(ticket) = ticket
            && let Some(lane) = self.lanes.get_mut(ticket.stream as usize)
        {
            lane.give_back((ticket.boot, ticket.seq));
        }
    }

    /// The link did not take the subscription: asked again in a moment.
    pub fn on_subscribe_refused(&mut self, now: Now) {
        self.rest_until = Some(now.mono.plus_ms(LINK_REST_MS));
        self.effects.push(Effect::Subscribe { filter: self.down_topic.clone() });
    }

    /// A reading of a charger. Returns its number.
    pub fn on_sample(&mut self, now: Now, child: u16, sample: Sample) -> Result<u64, SampleRefused> {
        if !self.leases.knows(child) {
            self.stats.samples_rejected += 1;
            return Err(SampleRefused::UnknownChild { child });
        }
        let next = self.next_sample.entry(child).or_insert(0);
        let number = *next;
        *next += 1;
        self.stats.samples_created += 1;
        let unsynced = self.unsynced.entry(child).or_insert(0);
        *unsynced += 1;
        self.sync_now |= *unsynced >= SYNC_AFTER_SAMPLES;
        self.unsynced_since.get_or_insert(now.mono);
        let charging = self.statuses.get(&child).is_some_and(|status| status.charging);
        // Numbers enter the ring in their order, so that a crash loses a charger's last ones and leaves no hole:
        // what waits in the other stream goes first.
        let (own, other) = if charging { (&mut self.fast, &mut self.slow) } else { (&mut self.slow, &mut self.fast) };
        let batcher = if other.holds(child) { other } else { own };
        batcher.push_sample(now.mono, child, number, sample);
        self.check_allowance(child, sample.register);
        Ok(number)
    }

    /// Something happened at a charger; urgent, so it leaves with the next drain. Returns its number.
    pub fn on_event(&mut self, now: Now, event: GatewayEvent) -> Result<u64, SampleRefused> {
        let child = event.child();
        if !self.leases.knows(child) {
            self.stats.samples_rejected += 1;
            return Err(SampleRefused::UnknownChild { child });
        }
        match &event {
            GatewayEvent::SessionStarted { session, register, .. } => {
                let wait = self.config.timings.first_grant_wait_ms;
                self.leases.on_session_started(now.mono, child, session, *register, None, wait);
                self.flows.on_started(child, session);
                self.beat_soon = true;
            }
            GatewayEvent::SessionStopped { session, .. } => {
                self.leases.on_session_stopped(child, session);
                self.flows.on_stopped(child);
                self.beat_soon = true;
            }
            _ => {}
        }
        Ok(self.number_event(event))
    }

    fn number_event(&mut self, event: GatewayEvent) -> u64 {
        let number = self.next_event;
        self.next_event += 1;
        self.stats.events_created += 1;
        self.events.push(NumberedEvent { number, event });
        number
    }

    /// The state of a charger; kept until the next one, for the beats. Tell it before the samples it explains, and
    /// the end of a session before a state without it. That the car of a session is full, is paused or charges again
    /// becomes an event.
    pub fn on_status(&mut self, now: Now, child: u16, status: ChargerStatus) {
        if !self.leases.knows(child) {
            return;
        }
        if let Some(changed) = self.flows.on_status(now, child, &status) {
            self.number_event(changed);
        }
        self.leases.on_charging(child, status.charging);
        self.check_allowance(child, status.register);
        let before = self.statuses.insert(child, status);
        let charging = self.statuses.get(&child).is_some_and(|status| status.charging);
        if charging && !before.is_some_and(|before| before.charging) {
            self.beat_soon = true;
        }
    }

    fn check_allowance(&mut self, child: u16, register: WattHours) {
        if let Some(session) = self.leases.on_register(child, register) {
            self.stats.allowance_stops += 1;
            self.effects.push(Effect::StopCharging { child, session, reason: StopReason::Funds });
        }
    }

    /// The end of a command that came with `Execute` or `Inquire`. Only the first end counts.
    pub fn on_command_result(&mut self, now: Now, id: &CommandId, end: CommandEnd) {
        if let Some(child) = self.commands.running_child(id) {
            self.end_command(now, id.clone(), child, end);
        }
    }

    fn end_command(&mut self, now: Now, id: CommandId, child: u16, end: CommandEnd) {
        let note = CommandNote::Ended { id: id.clone(), child, end: end.clone(), at: now.wall };
        self.commands.note(&note);
        self.ended.push(note);
        self.number_event(GatewayEvent::CommandResult { child, command: id, outcome: end, at: now.wall });
    }

    /// A session went on while the gateway was down. Call it once after the start, before anything else.
    pub fn resume_session(
        &mut self,
        now: Now,
        child: u16,
        session: SessionId,
        start_register: WattHours,
        allowance: Option<WattHours>,
    ) {
        let wait = self.config.timings.first_grant_wait_ms;
        self.leases.on_session_started(now.mono, child, &session, start_register, allowance, wait);
    }

    /// The counters.
    pub fn stats(&self) -> &GatewayStats {
        &self.stats
    }

    /// This boot's epoch.
    pub fn boot(&self) -> u32 {
        self.boot
    }

    /// This boot with the key it seals under.
    pub(crate) fn boot_id(&self) -> BootId {
        BootId::new(self.keys.key_epoch(), self.boot)
    }

    /// True while the gateway decides by itself.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// True with a connection on which the node answers: batches go out as they are made.
    pub fn is_live(&self) -> bool {
        self.connected && !self.local
    }

    /// The configuration.
    pub fn config(&self) -> &GatewayConfig {
        &self.config
    }
}

impl std::fmt::Debug for GatewayCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayCore")
            .field("gateway", &self.config.gateway)
            .field("boot", &self.boot)
            .field("connected", &self.connected)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
