//! In-memory ports and a link that records, for tests of the actors and of what stands on them.
//!
//! Nothing here runs in a node: the main path has the real stores. The journal and the coordination in memory
//! are the cluster crate's, held to the same conformance suite as the real ones.

pub mod crash;
pub mod kills;
pub mod plants;
mod read_models;

pub use read_models::{MemoryRecords, MemoryStatements};

use crate::handle::NodeHandle;
use crate::node::Node;
use crate::ports::*;
use crate::shared::{NodeConfig, Ports};
use crate::views::PageOf;
use bytes::Bytes;
use chargeplane_domain::allocation::lp::{Programme, SolveDone, Solver, SolverBusy};
use chargeplane_domain::catalogue::Catalogue;
use chargeplane_domain::chunk::{Chunk, ChunkHeader};
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup, hours_of};
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::link::{Link, LinkRefused};
use futures_core::future::BoxFuture;
use ractor::ActorProcessingErr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes entities fail: (entity, text in the message).
static POISONS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

/// While it lives, an entity fails on every message whose `Debug` form holds a text.
pub struct Poison(String, String);

impl Poison {
    /// For the entity of this key, such as `charger:main/c1`. All nodes of the process share it, so the text
    /// should be a test's own.
    pub fn new(entity: &str, text: &str) -> Self {
        lock(&POISONS).push((entity.to_owned(), text.to_owned()));
        Self(entity.to_owned(), text.to_owned())
    }
}

impl Drop for Poison {
    fn drop(&mut self) {
        let mut poisons = lock(&POISONS);
        if let Some(at) = poisons.iter().position(|(entity, text)| (entity, text) == (&self.0, &self.1)) {
            poisons.remove(at);
        }
    }
}

pub(crate) fn check_poison(entity: &impl Display, message: &impl Debug) -> Result<(), ActorProcessingErr> {
    let poisons = lock(&POISONS);
    if poisons.is_empty() {
        return Ok(());
    }
    let (entity, message) = (entity.to_string(), format!("{message:?}"));
    match poisons.iter().find(|(of, text)| *of == entity && message.contains(text)) {
        Some((_, text)) => Err(format!("poisoned by {text:?}").into()),
        None => Ok(()),
    }
}

/// A beat of a gateway of the catalogue, as if it had come over the link: it is online then, until it would have
/// to beat again.
pub async fn beat_of(handle: &NodeHandle, gateway: &GatewayId) {
    handle.pretend_beat(gateway);
    while !handle.gateways(PageOf::first(10_000)).await.unwrap_or_default().iter().any(|g| g.id == *gateway && g.online)
    {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// Telemetry in memory.
#[derive(Default)]
pub struct MemoryTelemetry {
    chunks: Mutex<BTreeMap<(ChargerId, u32, u64, u64), ChunkRow>>,
    gaps: Mutex<Vec<GapRow>>,
    cursors: Mutex<BTreeMap<(ShardId, String, u8, BootId), StreamCursor>>,
    marks: Mutex<BTreeMap<(ChargerId, Hour), (ShardId, u64)>>,
    rollups: Mutex<BTreeMap<(ChargerId, Hour), Rollup>>,
    /// When set, every write fails with it.
    pub fail: Mutex<Option<StoreError>>,
    /// Every write takes this long.
    pub delay: Mutex<std::time::Duration>,
}

impl TelemetryStore for MemoryTelemetry {
    fn cursors(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<StreamCursor>, StoreError>> {
        let cursors = lock(&self.cursors);
        let found = cursors.iter().filter(|((of, ..), _)| *of == shard).map(|(_, cursor)| cursor.clone()).collect();
        Box::pin(async move { Ok(found) })
    }

    fn write(&self, flush: Flush) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let delay = *lock(&self.delay);
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if let Some(error) = lock(&self.fail).clone() {
                return Err(error);
            }
            for row in flush.chunks {
                let header = ChunkHeader::decode(&row.chunk.bytes).map_err(|e| StoreError::Corrupt(e.to_string()))?;
                for hour in hours_of(&header, 240) {
                    let mut marks = lock(&self.marks);
                    marks.entry((row.charger.clone(), hour)).or_insert((flush.shard, 0)).1 += 1;
                }
                let key = (row.charger.clone(), row.incarnation, header.range, row.epoch);
                let mut chunks = lock(&self.chunks);
                let row = match chunks.get(&key) {
                    None => row,
                    Some(known) => {
                        let united = unite(&known.chunk.bytes, &row.chunk.bytes);
                        ChunkRow { chunk: united.map_err(|e| StoreError::Corrupt(e.to_string()))?, ..row }
                    }
                };
                chunks.insert(key, row);
            }
            for gap in flush.gaps {
                let mut gaps = lock(&self.gaps);
                if !gaps.contains(&gap) {
                    gaps.push(gap);
                }
            }
            for cursor in flush.cursors {
                let key = (flush.shard, cursor.gateway.to_string(), cursor.stream, cursor.boot);
                let mut cursors = lock(&self.cursors);
                let known = cursors.entry(key).or_insert_with(|| cursor.clone());
                known.upto_seq = known.upto_seq.max(cursor.upto_seq);
            }
            Ok(())
        })
    }

    fn chunks(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkRow>, StoreError>> {
        let chunks = lock(&self.chunks);
        let of_charger = chunks.values().filter(|row| row.charger == query.charger);
        let found = of_charger
            .filter(|row| {
                ChunkHeader::decode(&row.chunk.bytes)
                    .is_ok_and(|header| header.last_at() >= query.from && header.first_at() < query.to)
            })
            .take(query.limit)
            .cloned()
            .collect();
        Box::pin(async move { Ok(found) })
    }

    fn chargers(&self) -> BoxFuture<'_, Result<Vec<ChargerId>, StoreError>> {
        let (chunks, gaps) = (lock(&self.chunks), lock(&self.gaps));
        let of = chunks.keys().map(|(charger, ..)| charger).chain(gaps.iter().map(|gap| &gap.charger));
        let found: std::collections::BTreeSet<ChargerId> = of.cloned().collect();
        Box::pin(async move { Ok(found.into_iter().collect()) })
    }

    fn gaps(&self, charger: ChargerId) -> BoxFuture<'_, Result<Vec<GapRow>, StoreError>> {
        let found = lock(&self.gaps).iter().filter(|gap| gap.charger == charger).cloned().collect();
        Box::pin(async move { Ok(found) })
    }

    fn dirty_hours(
        &self,
        shard: ShardId,
        before: Hour,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DirtyHour>, StoreError>> {
        let marks = lock(&self.marks);
        let due = marks.iter().filter(|((_, hour), (of, _))| *of == shard && *hour < before).take(limit);
        let due: Vec<_> =
            due.map(|((id, hour), (_, mark))| DirtyHour { charger: id.clone(), hour: *hour, mark: *mark }).collect();
        Box::pin(async move { Ok(due) })
    }

    fn put_rollups(
        &self,
        _shard: ShardId,
        rollups: Vec<(DirtyHour, Option<Rollup>)>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        for (dirty, rollup) in rollups {
            let key = (dirty.charger, dirty.hour);
            let mut marks = lock(&self.marks);
            if marks.get(&key).is_some_and(|(_, mark)| *mark == dirty.mark) {
                marks.remove(&key);
            }
            if let Some(rollup) = rollup {
                lock(&self.rollups).insert(key, rollup);
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn rollups(&self, charger: ChargerId, from: Hour, to: Hour) -> BoxFuture<'_, Result<Vec<Rollup>, StoreError>> {
        let rollups = lock(&self.rollups);
        let found = rollups.range((charger.clone(), from)..(charger, to)).map(|(_, rollup)| rollup.clone()).collect();
        Box::pin(async move { Ok(found) })
    }

    fn expire(&self, before: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        let old = |row: &ChunkRow| row.chunk.header.last_at() < before;
        lock(&self.chunks).retain(|_, row| !old(row));
        Box::pin(async { Ok(()) })
    }
}

fn unite(
    known: &[u8],
    more: &[u8],
) -> Result<chargeplane_domain::chunk::EncodedChunk, chargeplane_domain::chunk::ChunkError> {
    let mut united = Chunk::decode(known)?;
    united.merge(&Chunk::decode(more)?)?;
    united.encode()
}

/// The catalogue in memory.
#[derive(Default)]
pub struct MemoryCatalogue {
    catalogue: Mutex<(u64, Catalogue)>,
    credentials: Mutex<Vec<GatewayCredentials>>,
}

impl CatalogueStore for MemoryCatalogue {
    fn load(&self) -> BoxFuture<'_, Result<(u64, Catalogue), StoreError>> {
        let loaded = lock(&self.catalogue).clone();
        Box::pin(async move { Ok(loaded) })
    }

    fn save(&self, expected: u64, catalogue: Catalogue) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut slot = lock(&self.catalogue);
            if slot.0 != expected {
                return Err(StoreError::Conflict { expected, found: slot.0 });
            }
            *slot = (expected + 1, catalogue);
            Ok(slot.0)
        })
    }

    fn credentials(&self) -> BoxFuture<'_, Result<Vec<GatewayCredentials>, StoreError>> {
        let known = lock(&self.credentials).clone();
        Box::pin(async move { Ok(known) })
    }

    fn save_credentials(&self, credentials: GatewayCredentials) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut known = lock(&self.credentials);
            known.retain(|k| k.gateway != credentials.gateway || k.key_epoch != credentials.key_epoch);
            known.push(credentials);
            Ok(())
        })
    }
}

/// A solver that is always busy: every tick is answered by water-filling.
pub struct BusySolver;

impl Solver for BusySolver {
    fn submit(&self, _programme: Programme, _limit_ms: u64, _done: SolveDone) -> Result<(), SolverBusy> {
        Err(SolverBusy)
    }
}

/// A link that keeps what was published.
#[derive(Default)]
pub struct RecordingLink {
    published: Mutex<Vec<(String, Bytes)>>,
    filters: Mutex<BTreeSet<String>>,
}

impl RecordingLink {
    /// Takes what was published since the last call.
    pub fn take(&self) -> Vec<(String, Bytes)> {
        std::mem::take(&mut lock(&self.published))
    }

    /// The filters subscribed to.
    pub fn filters(&self) -> BTreeSet<String> {
        lock(&self.filters).clone()
    }
}

impl Link for RecordingLink {
    fn publish(&self, topic: &str, payload: Bytes, _qos1: bool) -> Result<(), LinkRefused> {
        lock(&self.published).push((topic.to_owned(), payload));
        Ok(())
    }

    fn subscribe(&self, filter: &str) -> Result<(), LinkRefused> {
        lock(&self.filters).insert(filter.to_owned());
        Ok(())
    }
}

/// The stores of one node; they outlive it, so that a test can start it again on them.
#[derive(Clone, Default)]
pub struct MemoryStores {
    /// The journal.
    pub journal: Arc<chargeplane_cluster::memory::MemoryJournal>,
    /// Node leases.
    pub coordination: Arc<chargeplane_cluster::memory::MemoryCoordination>,
    /// Telemetry.
    pub telemetry: Arc<MemoryTelemetry>,
    /// The catalogue.
    pub catalogue: Arc<MemoryCatalogue>,
    /// Charge records.
    pub records: Arc<MemoryRecords>,
    /// Statements.
    pub statements: Arc<MemoryStatements>,
}

impl MemoryStores {
    /// The ports on these stores.
    pub fn ports(&self) -> Ports {
        Ports {
            journal: self.journal.clone(),
            coordination: self.coordination.clone(),
            telemetry: self.telemetry.clone(),
            catalogue: self.catalogue.clone(),
            records: self.records.clone(),
            statements: self.statements.clone(),
            solver: Arc::new(BusySolver),
        }
    }

    /// Starts a node with few shards on these stores and a recording link, and waits until it is ready.
    pub async fn start(&self, configure: impl FnOnce(&mut NodeConfig)) -> (Node, Arc<RecordingLink>) {
        let mut config = NodeConfig::new("n1");
        config.shards = 2;
        configure(&mut config);
        let node = Node::start(config, self.ports()).await.expect("the node starts on memory stores");
        let link = Arc::new(RecordingLink::default());
        node.attach_link(link.clone()).expect("the recording link takes everything");
        node.link_sink().on_event(chargeplane_protocol::link::LinkEvent::Connected { session: 1 });
        while !node.handle().readiness().ready {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        (node, link)
    }
}
