//! The bridge: from the broker's publications to the shards.
//!
//! Everything here is foreign until it is opened with the gateway's key: topic, packet, header. Whatever cannot
//! be used is counted by reason and said in the log once in a while; nothing changes by it, nobody else is
//! disturbed, and the gateway learns what was refused.

use crate::admission::{Lane, Permit};
use crate::beats::LastBeat;
use crate::directory::GatewayEntry;
use crate::family::{StationKey, StationMember};
use crate::gateway::{GatewayMessage, lane_of};
use crate::handle::{CallError, NodeHandle};
use crate::metric;
use crate::shared::NodeShared;
use crate::station::StationMessage;
use crate::telemetry::TelemetryMessage;
use bytes::Bytes;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::GatewayId;
use chargeplane_domain::sample::Sample;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::envelope::Header;
use chargeplane_protocol::link::{LinkEvent, LinkSink};
use chargeplane_protocol::message::{Beat, Down, GatewayEvent, Notice, NumberedEvent, Stream, UpBatch};
use chargeplane_protocol::topic::{self, Topic};
use chargeplane_protocol::wire;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Samples and events may be this old (a gateway keeps 24 hours) ...
const OLDEST_MS: i64 = 8 * 24 * 3_600_000;

/// ... and this far in the future.
const AHEAD_MS: i64 = 5 * 60_000;

/// One reason is logged, and told to one gateway, at most this often.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// Things said that are remembered; beyond them nothing new is said until older ones are past.
const MAX_SAID: usize = 10_000;

/// What a notice or a refusal takes of a lane.
const SMALL_BYTES: usize = 64;

/// A gateway is told at most this often that something in its name could not be opened.
const NOTICE_EVERY: Duration = Duration::from_secs(2);

/// Takes publications from the link.
pub struct Bridge {
    shared: Arc<NodeShared>,
    handle: NodeHandle,
    logged: Said<&'static str>,
    told: Said<(GatewayId, &'static str)>,
    /// Gateways that were told of revoked keys.
    revoked: Said<GatewayId>,
    /// Gateways that were heard under a rotated key, while that becomes durable.
    confirmed: Said<GatewayId>,
}

/// When something was last said, by what it was about.
struct Said<K>(Mutex<BTreeMap<K, Instant>>);

impl<K: Ord> Said<K> {
    fn nothing() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// True when it is time to say this (again); the caller then says it.
    fn is_due(&self, what: K, now: Instant) -> bool {
        self.is_due_after(what, now, SAY_EVERY)
    }

    fn is_due_after(&self, what: K, now: Instant, pause: Duration) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < pause;
        if said.get(&what).is_some_and(recent) {
            return false;
        }
        if said.len() >= MAX_SAID {
            said.retain(|_, at| recent(at));
        }
        let room = said.len() < MAX_SAID;
        if room {
            said.insert(what, now);
        }
        room
    }
}

/// Why a publication is not used. The codes are labels of a metric and are told to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(&'static str);

impl Bridge {
    /// A bridge into this node's shards.
    pub fn new(shared: Arc<NodeShared>, handle: NodeHandle) -> Self {
        let (logged, told) = (Said::nothing(), Said::nothing());
        Self { shared, handle, logged, told, revoked: Said::nothing(), confirmed: Said::nothing() }
    }

    /// The first packet under a rotated key ends the time of the one before. Should that not become durable, a
    /// later packet confirms it.
    fn confirm(&self, entry: &GatewayEntry, key_epoch: u32) {
        if !entry.confirms(key_epoch) || !self.confirmed.is_due_after(entry.id.clone(), Instant::now(), NOTICE_EVERY) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (handle, gateway) = (self.handle.clone(), entry.id.clone());
        runtime.spawn(async move {
            if let Err(error) = handle.confirm_key(gateway.clone(), key_epoch).await {
                tracing::warn!(%gateway, key_epoch, %error, "a rotated key is not confirmed yet");
            }
        });
    }

    fn refuse(&self, topic: &str, Refused(reason): Refused) {
        count_not_used(reason);
        if self.logged.is_due(reason, Instant::now()) {
            let topic: String = topic.chars().take(120).collect();
            tracing::warn!(%topic, reason, "publication refused (further ones of this kind only counted)");
        }
    }

    fn on_message(&self, topic: &str, payload: &Bytes) -> Result<(), Refused> {
        let (gateway, shard, stream) = match topic::parse(topic) {
            Ok(Topic::Up { gateway, shard, stream }) => (gateway, shard, stream),
            Ok(Topic::Down { .. }) => return Err(Refused("down_topic")),
            Err(error) => return Err(Refused(error.code())),
        };
        let directory = self.shared.directory.load();
        let entry = directory.gateway(&gateway).ok_or(Refused("unknown_gateway"))?;
        // Nothing below is known to be the gateway's own before it was opened, so these notices free nothing.
        let refused = |code| {
            self.notice(entry, code);
            Refused(code)
        };
        if entry.shard.index != shard {
            return Err(refused("wrong_shard"));
        }
        let (named, opened, incarnation) = entry.open(payload).map_err(|error| refused(error.code()))?;
        if named != stream {
            return Err(refused("wrong_stream"));
        }
        metrics::counter!(metric::BATCHES_TOTAL, "stream" => stream.name()).increment(1);
        let Header { key_epoch, boot, seq, .. } = opened.header;
        self.confirm(entry, key_epoch);
        let boot = BootId::new(key_epoch, boot);
        let from = From { gateway, incarnation, stream, boot, seq, bytes: payload.len() };
        match wire::decode_up(stream, &opened.plain) {
            Ok(batch) => self.route(entry, from, batch),
            Err(error) => {
                self.refuse_batch(entry, from, error.code());
                Err(Refused(error.code()))
            }
        }
    }

    fn route(&self, entry: &GatewayEntry, from: From, batch: UpBatch) -> Result<(), Refused> {
        let checked = check(entry, self.shared.clock.wall(), &batch);
        if let Err(Refused(reason)) = checked {
            self.refuse_batch(entry, from, reason);
            return checked;
        }
        match batch {
            UpBatch::Beat(beat) => return self.on_beat(entry, from, beat),
            UpBatch::Events(events) => self.on_events(entry, from, events),
            UpBatch::Samples { runs, gaps } => {
                let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) else { return Ok(()) };
                // Without a place the batch stays in the gateway's ring and comes again.
                let Some(permit) = self.admit(entry, Lane::Telemetry, from.bytes) else { return Ok(()) };
                let From { gateway, incarnation, stream, boot, seq, .. } = from;
                let batch = TelemetryMessage::Batch { gateway, incarnation, stream, boot, seq, runs, gaps, permit };
                drop(telemetry.cast(batch));
            }
        }
        Ok(())
    }

    /// Takes a place, or counts the publication as dropped.
    fn admit(&self, entry: &GatewayEntry, lane: Lane, bytes: usize) -> Option<Permit> {
        match self.shared.router.admit(entry.shard, lane, bytes) {
            Ok(permit) => Some(permit),
            // Counted by its lane.
            Err(CallError::Shed) => None,
            Err(_) => {
                count_not_used("not_serving");
                None
            }
        }
    }

    /// A beat goes to the telemetry actor and to the station, or to neither. It is used without the chargers
    /// that are not the gateway's, and the gateway is told of them.
    fn on_beat(&self, entry: &GatewayEntry, from: From, mut beat: Beat) -> Result<(), Refused> {
        // A key speaks of itself and of the keys before it; whoever has a former one frees nothing of a later one.
        beat.floors.retain(|cursor| cursor.boot.key_epoch <= from.boot.key_epoch);
        beat.acked.retain(|cursor| cursor.boot.key_epoch <= from.boot.key_epoch);
        let came = self.shared.clock.mono();
        let last = LastBeat { boot: from.boot, nonce: beat.nonce, sent: beat.mono, came };
        if self.shared.beats.take(&from.gateway, last) {
            let key = StationKey::Gateway(from.gateway.clone());
            self.shared.router.station(entry.shard, key, Lane::Commands, SMALL_BYTES, |permit| {
                StationMember::Gateway(GatewayMessage::FlushCommands { permit })
            });
        }
        let strange = beat.chargers.iter().any(|seen| !entry.children.contains_key(&seen.child));
        if let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) {
            let Some(permit) = self.admit(entry, Lane::Status, SMALL_BYTES) else { return Ok(()) };
            let (gateway, epoch_seen) = (from.gateway.clone(), beat.epoch_seen);
            let (floors, acked) = (beat.floors.clone(), beat.acked.clone());
            drop(telemetry.cast(TelemetryMessage::Beat { gateway, epoch_seen, floors, acked, permit }));
        }
        let key = StationKey::Station(entry.station.clone());
        let From { gateway, boot, bytes, .. } = from;
        self.shared.router.station(entry.shard, key, Lane::Status, bytes, move |permit| {
            StationMember::Station(StationMessage::Beat { gateway, boot, beat, permit })
        });
        if strange {
            self.notice(entry, "unknown_child");
            return Err(Refused("unknown_child"));
        }
        Ok(())
    }

    fn on_events(&self, entry: &GatewayEntry, from: From, events: Vec<NumberedEvent>) {
        let key = StationKey::Gateway(from.gateway);
        let (boot, seq) = (from.boot, from.seq);
        // Batches may overtake each other here: the gateway's actor takes them strictly in sequence.
        let lane = events.iter().map(|numbered| lane_of(&numbered.event)).min().unwrap_or(Lane::Commands);
        self.shared.router.station(entry.shard, key, lane, from.bytes, move |permit| {
            StationMember::Gateway(GatewayMessage::Events { boot, seq, events, permit })
        });
    }

    /// An authentic batch that cannot be used is refused by its sequence, and declared lost by the gateway.
    /// Without a place in the lanes it is not refused yet, and comes again.
    fn refuse_batch(&self, entry: &GatewayEntry, from: From, code: &'static str) {
        let From { gateway, stream, boot, seq, .. } = from;
        let reason = code.to_owned();
        match stream {
            // Beats have no acknowledgement to refuse them with.
            Stream::Beat => self.notice(entry, code),
            Stream::Events => {
                let key = StationKey::Gateway(gateway);
                self.shared.router.station(entry.shard, key, Lane::Commands, SMALL_BYTES, move |permit| {
                    StationMember::Gateway(GatewayMessage::Refused { boot, seq, reason, permit })
                });
            }
            Stream::Fast | Stream::Slow | Stream::Replay => {
                let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) else { return };
                let Some(permit) = self.admit(entry, Lane::Telemetry, SMALL_BYTES) else { return };
                drop(telemetry.cast(TelemetryMessage::Refused { gateway, stream, boot, seq, reason, permit }));
            }
        }
    }

    /// Tells a gateway that something in its name could not be used. Sent through its actor, which has the
    /// shard's sealing counter, and once in a while for each kind.
    fn notice(&self, entry: &GatewayEntry, code: &'static str) {
        if entry.present().is_none() {
            return;
        }
        let revoked_upto = entry.revoked_upto();
        // What is sealed under a revoked key is sent again and again until the gateway knows: it is told sooner.
        let of_revoked = revoked_upto > 0 && self.revoked.is_due_after(entry.id.clone(), Instant::now(), NOTICE_EVERY);
        if !self.told.is_due((entry.id.clone(), code), Instant::now()) && !of_revoked {
            return;
        }
        let detail = match code {
            "packet_too_large" => "a packet in this gateway's name is larger than 256 KiB",
            "wrong_shard" => "a packet in this gateway's name came on the topic of another shard",
            "wrong_stream" => "a packet of this gateway came on the topic of another stream",
            "unknown_child" => "a beat of this gateway names a charger that is not in the catalogue",
            _ => "a packet in this gateway's name could not be opened or read",
        };
        let down = Down::Notice(Notice { code: code.to_owned(), detail: detail.to_owned(), revoked_upto });
        let key = StationKey::Gateway(entry.id.clone());
        self.shared.router.station(entry.shard, key, Lane::Status, SMALL_BYTES, move |permit| {
            StationMember::Gateway(GatewayMessage::SendDown { down, permit })
        });
    }
}

/// Counts a publication, or a part of one, that was not used. An exact re-delivery is normal after a lost
/// acknowledgement; it is answered with the present one and counted here as `repeated`.
pub(crate) fn count_not_used(reason: &'static str) {
    metrics::counter!(metric::BATCHES_REFUSED_TOTAL, "reason" => reason).increment(1);
}

/// Where an opened batch comes from.
struct From {
    gateway: GatewayId,
    incarnation: u32,
    stream: Stream,
    boot: BootId,
    seq: u64,
    bytes: usize,
}

impl LinkSink for Bridge {
    fn on_event(&self, event: LinkEvent) {
        match event {
            LinkEvent::Connected { session } => {
                metrics::gauge!(metric::LINK_UP).set(1.0);
                self.shared.set_link_up(true);
                tracing::debug!(session, "link to the broker is up");
            }
            LinkEvent::Disconnected { reason } => {
                metrics::gauge!(metric::LINK_UP).set(0.0);
                self.shared.set_link_up(false);
                tracing::warn!(%reason, "link to the broker is down; trying again");
            }
            LinkEvent::Message { topic, payload } => {
                if let Err(refused) = self.on_message(&topic, &payload) {
                    self.refuse(&topic, refused);
                }
            }
        }
    }
}

/// Every child known, every moment plausible.
fn check(entry: &GatewayEntry, now: Timestamp, batch: &UpBatch) -> Result<(), Refused> {
    let known = |child: u16| entry.children.contains_key(&child).then_some(()).ok_or(Refused("unknown_child"));
    let plausible = |at: Timestamp| {
        let age = now.since(at);
        (-AHEAD_MS..=OLDEST_MS).contains(&age).then_some(()).ok_or(Refused("absurd_time"))
    };
    match batch {
        UpBatch::Beat(_) => Ok(()),
        UpBatch::Events(events) => events.iter().try_for_each(|numbered| {
            known(numbered.event.child())?;
            moment(&numbered.event).map_or(Ok(()), plausible)
        }),
        UpBatch::Samples { runs, gaps } => {
            gaps.iter().try_for_each(|(child, _)| known(*child))?;
            runs.iter().try_for_each(|run| {
                known(run.child)?;
                run.samples.iter().try_for_each(|Sample { at, .. }| plausible(*at))
            })
        }
    }
}

/// When it happened, by the gateway's clock.
pub(crate) fn moment(event: &GatewayEvent) -> Option<Timestamp> {
    match event {
        GatewayEvent::StartRequested { at, .. }
        | GatewayEvent::SessionStarted { at, .. }
        | GatewayEvent::SessionStopped { at, .. }
        | GatewayEvent::CommandResult { at, .. }
        | GatewayEvent::Fault { at, .. }
        | GatewayEvent::StatusChanged { at, .. }
        | GatewayEvent::FlowChanged { at, .. } => Some(*at),
        GatewayEvent::Gap { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_in_a_while_and_does_not_silence_others() {
        let (said, start) = (Said::nothing(), Instant::now());
        assert!(said.is_due(("g1", "auth"), start));
        assert!(!said.is_due(("g1", "auth"), start + Duration::from_secs(29)));
        assert!(said.is_due(("g2", "auth"), start));
        assert!(said.is_due(("g1", "size"), start));
        assert!(said.is_due(("g1", "auth"), start + SAY_EVERY));
    }

    #[test]
    fn what_was_said_is_remembered_within_bounds() {
        let (said, start) = (Said::nothing(), Instant::now());
        assert!((0..MAX_SAID).all(|number| said.is_due(number, start)));
        assert!(!said.is_due(MAX_SAID, start + Duration::from_secs(1)));
        assert!(said.is_due(MAX_SAID, start + SAY_EVERY));
        assert_eq!(said.0.lock().expect("not poisoned").len(), 1);
    }
}
