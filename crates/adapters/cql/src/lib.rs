//! The journal, the charge records and the telemetry on ScyllaDB or Apache Cassandra, for nodes on several machines.
//!
//! | table | what |
//! |---|---|
//! | `log` | a partition for each (shard, segment): the head in static columns, a row for each frame |
//! | `shards` | which shards there are, and a segment to begin looking for the tail at |
//! | `snapshots` | a partition for each snapshot, in parts of 1 MiB |
//! | `record_..`, `records_..` | charge records, laid out for their questions: see [`CqlRecords`] |
//! | `telemetry_..` | chunks, the days they have samples of, gaps, hours and cursors: see [`CqlTelemetry`] |
//! | `layout` | the versions of these tables |
//!
//! Whatever decides is one conditional write in one partition (OWN-1), answered after a quorum of replicas has it
//! (MONEY-3). The driver repeats nothing by itself: a write that was not answered is `OutcomeUnknown`, and the
//! caller offers the very same frames again. The tables are described in `docs/reference/storage.md`, the reasons in
//! `docs/decisions/0012-cql-journal-layout.md`.

mod durability;
mod head;
mod journal;
mod options;
mod read;
mod records;
mod schema;
mod snapshot;
mod statements;
mod store;
mod telemetry;

pub use durability::{Durability, Sync};
pub use journal::CqlJournal;
pub use options::{CqlOptions, Replication, SegmentLimits};
pub use records::CqlRecords;
pub use schema::ConnectError;
pub use telemetry::{CqlTelemetry, TELEMETRY_LAYOUT};
