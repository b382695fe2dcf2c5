//! What the actors need from the outside world beside the journal: telemetry, the catalogue, and the read models that
//! are made from the journal.
//!
//! Every method returns only when what it promises is durable. An error means: nothing may be concluded.

mod records;
mod statements;

pub use records::{Added, ChargeRecords, RecordBatch, RecordConflict, RecordId, RecordQuery, StoredRecord};
pub use statements::{LedgerEntry, StatementBatch, Statements};

use chargeplane_domain::catalogue::Catalogue;
use chargeplane_domain::chunk::EncodedChunk;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{ChargerId, GatewayId};
use chargeplane_domain::placement::ShardId;
use chargeplane_domain::rollup::{Hour, Rollup};
use chargeplane_domain::sample::Gap;
use chargeplane_domain::units::{Currency, Money, Timestamp};
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// Why a store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. The node must stop acknowledging and exit.
    #[error("no space left: {0}")]
    Full(String),
    /// Reading or writing failed. After a failed write the node must stop acknowledging and exit.
    #[error("store failed: {0}")]
    Io(String),
    /// What is stored cannot be read.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Somebody else changed it first.
    #[error("version conflict: expected {expected}, found {found}")]
    Conflict { expected: u64, found: u64 },
}

/// How far one stream of one boot of a gateway is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamCursor {
    /// The gateway.
    pub gateway: GatewayId,
    /// The stream's byte on the wire.
    pub stream: u8,
    /// The gateway's boot, with its key: a new enrolment may count its boots from 1 again.
    pub boot: BootId,
    /// Every batch up to this sequence is durable or refused.
    pub upto_seq: u64,
}

/// One chunk to write, keyed by (charger, incarnation, range, owner epoch).
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkRow {
    /// The charger.
    pub charger: ChargerId,
    /// The enrolment of its gateway that numbered the samples.
    pub incarnation: u32,
    /// The epoch of the shard that writes.
    pub epoch: u64,
    /// Samples, with range and column statistics.
    pub chunk: EncodedChunk,
}

/// One declared gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// The charger.
    pub charger: ChargerId,
    /// The enrolment of its gateway that numbered the samples.
    pub incarnation: u32,
    /// Numbers and reason.
    pub gap: Gap,
}

/// What one flush writes: the data first, then the cursors that promise it.
#[derive(Debug, Clone)]
pub struct Flush {
    /// The shard that owns the gateway.
    pub shard: ShardId,
    /// Chunks. Under a key that exists the store keeps both: their union, or one beside the other.
    pub chunks: Vec<ChunkRow>,
    /// Gaps. Writing one again changes nothing.
    pub gaps: Vec<GapRow>,
    /// Cursors. A cursor never moves back.
    pub cursors: Vec<StreamCursor>,
}

/// Which chunks of a charger to read.
#[derive(Debug, Clone)]
pub struct ChunkQuery {
    /// The charger.
    pub charger: ChargerId,
    /// Chunks with a sample at or after this moment ...
    pub from: Timestamp,
    /// ... and before this one.
    pub to: Timestamp,
    /// At most so many chunks, oldest first.
    pub limit: usize,
}

/// What a chunk says of its time and size. A store may know the times to the second only: then they are those around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSpan {
    /// Of its first sample by time, or less than a second before.
    pub first_at: Timestamp,
    /// Of its last sample by time, or less than a second after.
    pub last_at: Timestamp,
    /// How many samples.
    pub samples: u64,
}

/// An hour of a charger whose samples changed since its rollup was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyHour {
    /// The charger.
    pub charger: ChargerId,
    /// The hour.
    pub hour: Hour,
    /// Which change it was marked at, as the store counts them.
    pub mark: u64,
}

/// Chunks, gaps, cursors and rollups of telemetry.
///
/// Rollups follow from the chunks: a flush marks the hours that its chunks touch, whoever rolls up reads the marks,
/// folds the chunks of a marked hour and hands the rollup in under the mark it has read.
pub trait TelemetryStore: Send + Sync {
    /// All cursors of a shard's gateways.
    fn cursors(&self, shard: ShardId) -> BoxFuture<'_, Result<Vec<StreamCursor>, StoreError>>;
    /// Writes one flush: gaps and chunks, with a mark for every hour of a charger that a chunk touches, no later than
    /// the cursors that promise them; all of it before this returns. After a failure some of the data may be there,
    /// which harms nothing, and a cursor only when all of it is.
    fn write(&self, flush: Flush) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Chunks of a charger whose time range overlaps the query; several epochs, and several versions under one key,
    /// of one range may all be returned: the reader unites them by number. When there are more than the limit, some of
    /// them.
    fn chunks(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkRow>, StoreError>>;
    /// The spans of what [`chunks`](Self::chunks) would return, in any order, at most the query's limit: what a range
    /// will cost, before it is read. A store that keeps them apart from the samples reads less.
    fn spans(&self, query: ChunkQuery) -> BoxFuture<'_, Result<Vec<ChunkSpan>, StoreError>> {
        Box::pin(async move {
            let span = |row: ChunkRow| ChunkSpan {
                first_at: row.chunk.header.first_at(),
                last_at: row.chunk.header.last_at(),
                samples: row.chunk.header.count() as u64,
            };
            Ok(self.chunks(query).await?.into_iter().map(span).collect())
        })
    }
    /// Declared gaps of a charger, in any order.
    fn gaps(&self, charger: ChargerId) -> BoxFuture<'_, Result<Vec<GapRow>, StoreError>>;
    /// Every charger of which anything is stored, in order: for audits, which read all there is.
    fn chargers(&self) -> BoxFuture<'_, Result<Vec<ChargerId>, StoreError>>;
    /// At most `limit` marked hours of a shard's chargers before `before`, in any order. A store that keeps no rollups
    /// marks nothing: its hours are folded from chunks when they are asked for.
    fn dirty_hours(
        &self,
        _shard: ShardId,
        _before: Hour,
        _limit: usize,
    ) -> BoxFuture<'_, Result<Vec<DirtyHour>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Stores rollups in place of former ones of the same hour, then takes the marks away, but for hours that were
    /// marked again meanwhile. No rollup: only the mark is taken away.
    fn put_rollups(
        &self,
        _shard: ShardId,
        _rollups: Vec<(DirtyHour, Option<Rollup>)>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
    /// Stored rollups of a charger in `from..to`, by hour. An hour that is not over, or that was marked within the
    /// last minute, may be missing or lag behind its chunks.
    fn rollups(&self, _charger: ChargerId, _from: Hour, _to: Hour) -> BoxFuture<'_, Result<Vec<Rollup>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    /// Chunks of days that were over before this moment may be forgotten; rollups stay. Nothing to do for a store whose
    /// rows end by themselves.
    fn expire(&self, _before: Timestamp) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async { Ok(()) })
    }
}

/// What a gateway proves itself with. Never logged: `Debug` hides the secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayCredentials {
    /// The gateway.
    pub gateway: GatewayId,
    /// Its number in envelope headers; unique.
    pub number: u64,
    /// Counts enrolments: a new one starts the sample numbering anew.
    pub incarnation: u32,
    /// The key's epoch in envelope headers.
    pub key_epoch: u32,
    /// Root key of the sealing.
    pub root_key: [u8; 32],
    /// SHA-256 of the broker password.
    pub password_sha256: [u8; 32],
    /// False between a rotation and the first packet under the new key: until then the key before it is the one
    /// that the node seals with, and its password lets in.
    pub confirmed: bool,
    /// True when it may no longer connect.
    pub revoked: bool,
}

impl std::fmt::Debug for GatewayCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayCredentials")
            .field("gateway", &self.gateway)
            .field("number", &self.number)
            .field("incarnation", &self.incarnation)
            .field("key_epoch", &self.key_epoch)
            .field("confirmed", &self.confirmed)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// The catalogue and the gateways' credentials.
pub trait CatalogueStore: Send + Sync {
    /// The catalogue with its version; version 0 and empty when nothing was ever applied.
    fn load(&self) -> BoxFuture<'_, Result<(u64, Catalogue), StoreError>>;
    /// Replaces the catalogue if its version is still `expected`; returns the new version.
    fn save(&self, expected: u64, catalogue: Catalogue) -> BoxFuture<'_, Result<u64, StoreError>>;
    /// All credentials, those of former key epochs too (sealed backlog stays readable).
    fn credentials(&self) -> BoxFuture<'_, Result<Vec<GatewayCredentials>, StoreError>>;
    /// Adds or replaces credentials by (gateway, key epoch).
    fn save_credentials(&self, credentials: GatewayCredentials) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Which copy of a read model is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The one that readers see.
    Served,
    /// The one that is built beside it.
    Fresh,
}

/// A read model made from the journal: behind it by a cursor a shard, idempotent, rebuilt at will.
///
/// It is rebuilt as a second generation beside the served one, and readers see the one or the other, never a part.
pub trait ReadModel: Send + Sync {
    /// How far each shard is in, in the order of the shards.
    fn cursors(&self, of: Generation) -> BoxFuture<'_, Result<Vec<(ShardId, u64)>, StoreError>>;
    /// How much it holds: records, or lines.
    fn count(&self, of: Generation) -> BoxFuture<'_, Result<u64, StoreError>>;
    /// Begins a fresh generation, empty; a former one that was not published is gone.
    fn begin(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// Serves the fresh generation from now on, if it has everything that the served one has. False when it has not
    /// yet, or there is none: nothing has changed.
    fn publish(&self) -> BoxFuture<'_, Result<bool, StoreError>>;
    /// Drops the fresh generation, if there is one.
    fn discard(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Sums by currency, for answers.
pub type CurrencySums = Vec<(Currency, Money)>;
