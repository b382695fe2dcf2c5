//! The bridge: from the broker's publications to the shards.
//!
//! Everything here is foreign until it is opened with the gateway's key: topic, packet, header. Whatever cannot
//! be used is counted by reason and said in the log once in a while; nothing changes by it, nobody else is
//! disturbed, and the gateway learns what was refused.

use crate::admission::Lane;
use crate::beats::LastBeat;
use crate::directory::{Directory, GatewayEntry};
use crate::family::{StationKey, StationMember};
use crate::gateway::{GatewayMessage, lane_of};
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
use chargeplane_protocol::limits::MAX_PACKET;
use chargeplane_protocol::link::{LinkEvent, LinkSink};
use chargeplane_protocol::message::{Beat, GatewayEvent, NumberedEvent, Stream, UpBatch};
use chargeplane_protocol::topic::{self, Topic};
use chargeplane_protocol::wire;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Samples and events may be this old (a gateway keeps 24 hours) ...
const OLDEST_MS: i64 = 8 * 24 * 3_600_000;

/// ... and this far in the future.
const AHEAD_MS: i64 = 5 * 60_000;

/// One reason is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// A gateway is told at most this often that something in its name could not be opened.
const NOTICE_EVERY: Duration = Duration::from_secs(2);

/// Takes publications from the link.
pub struct Bridge {
    shared: Arc<NodeShared>,
    logged: Mutex<BTreeMap<&'static str, Instant>>,
    /// When each gateway was last told; only gateways of the directory are here.
    noticed: Mutex<BTreeMap<GatewayId, Instant>>,
}

/// Why a publication is not used. The codes are labels of a metric and are told to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused(&'static str);

impl Bridge {
    /// A bridge into this node's shards.
    pub fn new(shared: Arc<NodeShared>) -> Self {
        Self { shared, logged: Mutex::default(), noticed: Mutex::default() }
    }

    fn refuse(&self, topic: &str, Refused(reason): Refused) {
        metrics::counter!(metric::BATCHES_REFUSED_TOTAL, "reason" => reason).increment(1);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.get(reason).is_none_or(|at| at.elapsed() >= LOG_EVERY);
        if due {
            logged.insert(reason, Instant::now());
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
        if payload.len() > MAX_PACKET {
            return Err(Refused("too_large"));
        }
        let directory = self.shared.directory.load();
        let entry = directory.gateway(&gateway).ok_or(Refused("unknown_gateway"))?;
        if entry.shard.index != shard {
            return Err(Refused("wrong_shard"));
        }
        let (named, opened, incarnation) = match entry.open(payload) {
            Ok(opened) => opened,
            Err(error) => {
                // The header is not to be trusted, so nothing is freed by this notice.
                self.notice(entry, error.code());
                return Err(Refused(error.code()));
            }
        };
        if named != stream {
            return Err(Refused("wrong_stream"));
        }
        metrics::counter!(metric::BATCHES_TOTAL, "stream" => stream.name()).increment(1);
        let Header { key_epoch, boot, seq, .. } = opened.header;
        let boot = BootId::new(key_epoch, boot);
        let from = From { gateway, incarnation, stream, boot, seq, bytes: payload.len() };
        match wire::decode_up(stream, &opened.plain) {
            Ok(batch) => self.route(&directory, entry, from, batch),
            Err(error) => {
                self.refuse_batch(&directory, from, error.code());
                Err(Refused(error.code()))
            }
        }
    }

    fn route(&self, directory: &Directory, entry: &GatewayEntry, from: From, batch: UpBatch) -> Result<(), Refused> {
        let checked = check(entry, self.shared.clock.wall(), &batch);
        if let Err(Refused(reason)) = checked {
            self.refuse_batch(directory, from, reason);
            return checked;
        }
        match batch {
            UpBatch::Beat(beat) => self.on_beat(entry, from, beat),
            UpBatch::Events(events) => self.on_events(entry, from, events),
            UpBatch::Samples { runs, gaps } => {
                let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) else { return Ok(()) };
                // Without a place the batch stays in the gateway's ring and comes again.
                let Ok(permit) = self.shared.router.admit(entry.shard, Lane::Telemetry, from.bytes) else {
                    return Ok(());
                };
                let From { gateway, incarnation, stream, boot, seq, .. } = from;
                let batch = TelemetryMessage::Batch { gateway, incarnation, stream, boot, seq, runs, gaps, permit };
                drop(telemetry.cast(batch));
            }
        }
        Ok(())
    }

    fn on_beat(&self, entry: &GatewayEntry, from: From, mut beat: Beat) {
        // A key speaks of itself and of the keys before it; whoever has a former one frees nothing of a later one.
        beat.floors.retain(|cursor| cursor.boot.key_epoch <= from.boot.key_epoch);
        beat.acked.retain(|cursor| cursor.boot.key_epoch <= from.boot.key_epoch);
        let came = self.shared.clock.mono();
        let last = LastBeat { boot: from.boot, nonce: beat.nonce, sent: beat.mono, came };
        if self.shared.beats.take(&from.gateway, last) {
            let key = StationKey::Gateway(from.gateway.clone());
            self.shared.router.station(entry.shard, key, Lane::Commands, 64, |_permit| {
                StationMember::Gateway(GatewayMessage::FlushCommands)
            });
        }
        if let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) {
            let (gateway, epoch_seen) = (from.gateway.clone(), beat.epoch_seen);
            let (floors, acked) = (beat.floors.clone(), beat.acked.clone());
            drop(telemetry.cast(TelemetryMessage::Beat { gateway, epoch_seen, floors, acked }));
        }
        let key = StationKey::Station(entry.station.clone());
        let From { gateway, boot, bytes, .. } = from;
        self.shared.router.station(entry.shard, key, Lane::Status, bytes, move |permit| {
            StationMember::Station(StationMessage::Beat { gateway, boot, beat, permit })
        });
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
    fn refuse_batch(&self, directory: &Directory, from: From, reason: &'static str) {
        let Some(entry) = directory.gateway(&from.gateway) else { return };
        let From { gateway, stream, boot, seq, bytes, .. } = from;
        let reason = reason.to_owned();
        match stream {
            Stream::Beat => {}
            Stream::Events => {
                let key = StationKey::Gateway(gateway);
                self.shared.router.station(entry.shard, key, Lane::Commands, bytes, move |_permit| {
                    StationMember::Gateway(GatewayMessage::Refused { boot, seq, reason })
                });
            }
            Stream::Fast | Stream::Slow | Stream::Replay => {
                if let Some(telemetry) = self.shared.router.telemetry(entry.shard.index) {
                    drop(telemetry.cast(TelemetryMessage::Refused { gateway, stream, boot, seq, reason }));
                }
            }
        }
    }

    /// Tells a gateway that something in its name could not be opened, and which keys are revoked. Sent through
    /// its actor, which has the shard's sealing counter, and not too often.
    fn notice(&self, entry: &GatewayEntry, code: &'static str) {
        use chargeplane_protocol::message::{Down, Notice};
        if entry.newest().is_none() {
            return;
        }
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if noticed.get(&entry.id).is_some_and(|at| at.elapsed() < NOTICE_EVERY) {
            return;
        }
        noticed.insert(entry.id.clone(), Instant::now());
        drop(noticed);
        let detail = "a packet in this gateway's name could not be opened".to_owned();
        let down = Down::Notice(Notice { code: code.to_owned(), detail, revoked_upto: entry.revoked_upto() });
        let key = StationKey::Gateway(entry.id.clone());
        self.shared.router.station(entry.shard, key, Lane::Status, 64, move |_permit| {
            StationMember::Gateway(GatewayMessage::SendDown(down))
        });
    }
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
        | GatewayEvent::StatusChanged { at, .. } => Some(*at),
        GatewayEvent::Gap { .. } => None,
    }
}
