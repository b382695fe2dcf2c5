//! The embedded stores: SQLite files in one data directory, which one process holds at a time.
//!
//! | file | port | kept by |
//! |---|---|---|
//! | `journal.sqlite` | [`Journal`](chargeplane_cluster::journal::Journal) | [`SqliteJournal`] |
//! | `coordination.sqlite` | [`Coordination`](chargeplane_cluster::coordination::Coordination) | [`SqliteCoordination`] |
//! | `catalogue.sqlite` | [`CatalogueStore`](chargeplane_actors::ports::CatalogueStore) | [`SqliteCatalogue`] |
//! | `telemetry.sqlite` | [`TelemetryStore`](chargeplane_actors::ports::TelemetryStore) | [`SqliteTelemetry`] |
//! | `records-a.sqlite`, `-b` | [`ChargeRecords`](chargeplane_actors::ports::ChargeRecords) | [`SqliteRecords`] |
//! | `statements-a.sqlite`, `-b` | [`Statements`](chargeplane_actors::ports::Statements) | [`SqliteStatements`] |
//!
//! Each file has one thread that writes it and threads of its own that read it. All are in WAL mode and, but
//! for the read models, synced at every commit. A write that failed poisons its store: nothing is acknowledged
//! any more, and the program exits (MONEY-3, DATA-1). The tables are described in `docs/reference/storage.md`.

mod catalogue;
mod coordination;
mod data_dir;
mod database;
mod fault;
mod generations;
mod journal;
mod records;
mod statements;
mod telemetry;

pub use catalogue::SqliteCatalogue;
pub use coordination::SqliteCoordination;
pub use data_dir::{DataDir, OpenError};
pub use journal::SqliteJournal;
pub use records::SqliteRecords;
pub use statements::SqliteStatements;
pub use telemetry::SqliteTelemetry;

/// All stores of a data directory.
pub struct Stores {
    /// Durable logs and ownership.
    pub journal: SqliteJournal,
    /// Node leases and cluster settings.
    pub coordination: SqliteCoordination,
    /// Catalogue and gateway credentials.
    pub catalogue: SqliteCatalogue,
    /// Chunks, gaps and cursors.
    pub telemetry: SqliteTelemetry,
    /// Charge records.
    pub records: SqliteRecords,
    /// Statements of accounts.
    pub statements: SqliteStatements,
}

impl Stores {
    /// Opens all stores, creating those that are not there.
    pub fn open(dir: &DataDir) -> Result<Self, OpenError> {
        Ok(Self {
            journal: SqliteJournal::open(dir)?,
            coordination: SqliteCoordination::open(dir)?,
            catalogue: SqliteCatalogue::open(dir)?,
            telemetry: SqliteTelemetry::open(dir)?,
            records: SqliteRecords::open(dir)?,
            statements: SqliteStatements::open(dir)?,
        })
    }
}
