//! What went wrong in SQLite, sorted by what follows from it.

use crate::data_dir::OpenError;
use chargeplane_actors::ports::StoreError;
use chargeplane_cluster::coordination::CoordinationError;
use chargeplane_cluster::journal::JournalError;
use rusqlite::ErrorCode;
use std::sync::{Arc, OnceLock};

/// A failure of SQLite or the disk below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another process holds the file's lock: nothing was done.
    Busy(String),
    /// No space.
    Full(String),
    /// Reading, writing or syncing failed.
    Io(String),
    /// The file, or a value in it, is damaged.
    Corrupt(String),
    /// Somebody else changed it first.
    Conflict { expected: u64, found: u64 },
}

impl Fault {
    /// True when what is on disk may differ from what was answered, so that nothing more may be written.
    fn poisons(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Io(_))
    }

    /// A stored value that cannot be what was written.
    pub(crate) fn corrupt(what: impl ToString) -> Self {
        Self::Corrupt(what.to_string())
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Busy(text) | Self::Full(text) | Self::Io(text) | Self::Corrupt(text) => text.clone(),
            Self::Conflict { expected, found } => {
                format!("expected version {expected}, found {found}")
            }
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(text),
            Some(ErrorCode::DiskFull) => Self::Full(text),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(text),
            Some(_) => Self::Io(text),
            // A column of another type than it was written with, or missing.
            None => Self::Corrupt(text),
        }
    }
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        let text = error.to_string();
        match error {
            OpenError::Database { source, .. } => match Self::from(source) {
                Self::Full(_) => Self::Full(text),
                _ => Self::Io(text),
            },
            _ => Self::Io(text),
        }
    }
}

impl From<Fault> for JournalError {
    /// Damage is reported with shard and number by the journal itself; here it is a failing store.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Busy(text) => Self::OutcomeUnknown(text),
            Fault::Full(text) => Self::Full(text),
            other => Self::Io(other.text()),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full(text) => Self::Full(text),
            Fault::Busy(text) | Fault::Io(text) => Self::Io(text),
            Fault::Corrupt(text) => Self::Corrupt(text),
            Fault::Conflict { expected, found } => Self::Conflict { expected, found },
        }
    }
}

impl From<Fault> for CoordinationError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable(fault.text())
    }
}

/// Remembers the first failed write of a store: every later call fails with it.
///
/// After a failed sync the kernel may drop the pages and report success the next time, so trying again could
/// acknowledge what is not on the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Poison(Arc<OnceLock<Fault>>);

impl Poison {
    /// The failure, if there was one.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        self.0.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    /// Passes the result of a write through and remembers its failure.
    pub(crate) fn watch<T>(&self, file: &str, result: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &result
            && fault.poisons()
            && self.0.set(fault.clone()).is_ok()
        {
            tracing::error!(file, fault = fault.text(), "a write failed; this store serves no more");
        }
        result
    }
}
