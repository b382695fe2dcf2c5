//! The data directory and its lock: one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The lock file. It stays when the process ends; the lock on it does not.
const LOCK_FILE: &str = "node.lock";

/// Why a data directory or a store in it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error(
        "data directory {path} is in use by {}; stop it or choose another directory",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, when the lock file names one.
        pid: Option<u32>,
    },
    /// The file was written by a newer program.
    #[error("{path} has schema version {found}, this program knows up to {known}; use the newer program")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// SQLite could not open it or prepare it.
    #[error("{path} cannot be opened: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A locked data directory. The lock is held until the last clone and the last store of it are gone.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    _lock: Arc<File>,
}

impl DataDir {
    /// Creates the directory if it is not there (readable by its owner only), and locks it for this process.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| OpenError::Io { path: path.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(path.join(LOCK_FILE)).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { pid: holder(&mut file), path });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // For people and for the error above: the lock itself does not depend on what is written.
        let write_pid = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        write_pid.and_then(|_| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Self { path, _lock: Arc::new(file) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_until_the_last_clone_is_gone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("data");
        let first = DataDir::lock(&path).expect("locks");
        let clone = first.clone();
        drop(first);
        let error = DataDir::lock(&path).expect_err("held");
        assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(clone);
        DataDir::lock(&path).expect("free again");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let error = DataDir::lock(file.path()).expect_err("a file, not a directory");
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    }
}
