//! The files of the days: found at start, made when their first chunk comes, removed when their day is over long ago.

use super::day::Day;
use crate::data_dir::{DataDir, OpenError};
use crate::fault::Fault;
use chargeplane_domain::units::Timestamp;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Milliseconds in a day.
const DAY_MS: i64 = 86_400_000;

/// Days from 0000-03-01 to 1970-01-01, and in four hundred years.
const TO_1970: i64 = 719_468;
const IN_400_YEARS: i64 = 146_097;

/// The day of UTC that a moment is in, counted from 1970-01-01.
pub(super) fn day_of(at: Timestamp) -> i64 {
    at.0.div_euclid(DAY_MS)
}

/// The file of a day, such as `telemetry-20261125.sqlite`. Years count from March, as in Hinnant's "chrono-Compatible
/// Low-Level Date Algorithms".
fn file_of(day: i64) -> String {
    let days = day.saturating_add(TO_1970);
    let (era, of_era) = (days.div_euclid(IN_400_YEARS), days.rem_euclid(IN_400_YEARS));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + 400 * era + i64::from(month <= 2);
    format!("telemetry-{year:04}{month:02}{date:02}.sqlite")
}

/// The day whose file this is.
fn day_in(file: &str) -> Option<i64> {
    let date: i64 = file.strip_prefix("telemetry-")?.strip_suffix(".sqlite")?.parse().ok()?;
    // Years, months and days of at most so many days each: a day within two years of the right one.
    let near = (date / 10_000 - 1970) * 365;
    (near - 366..near + 1_200).find(|day| file_of(*day) == file)
}

/// All days that have a file.
pub(super) struct Days {
    dir: DataDir,
    open: Mutex<BTreeMap<i64, Arc<Day>>>,
    /// Held while a file is made or removed.
    changing: tokio::sync::Mutex<()>,
}

impl Days {
    /// Opens the files that are there.
    pub(super) fn open(dir: &DataDir) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: dir.path().to_path_buf(), source };
        let mut open = BTreeMap::new();
        for entry in std::fs::read_dir(dir.path()).map_err(io)? {
            if let Some(day) = entry.map_err(io)?.file_name().to_str().and_then(day_in) {
                open.insert(day, Arc::new(Day::open(dir, &file_of(day))?));
            }
        }
        Ok(Self { dir: dir.clone(), open: Mutex::new(open), changing: tokio::sync::Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Arc<Day>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, day: i64) -> Option<Arc<Day>> {
        self.lock().get(&day).cloned()
    }

    /// A day's file, made if it is not there.
    pub(super) async fn of(&self, day: i64) -> Result<Arc<Day>, Fault> {
        if let Some(open) = self.get(day) {
            return Ok(open);
        }
        let _changing = self.changing.lock().await;
        if let Some(open) = self.get(day) {
            return Ok(open);
        }
        let dir = self.dir.clone();
        let opened = tokio::task::spawn_blocking(move || Day::open(&dir, &file_of(day))).await;
        let opened = Arc::new(opened.map_err(|error| Fault::Io(error.to_string()))??);
        self.lock().insert(day, Arc::clone(&opened));
        Ok(opened)
    }

    /// The days from this one on, the oldest first.
    pub(super) fn from(&self, day: i64) -> Vec<Arc<Day>> {
        self.lock().range(day..).map(|(_, day)| Arc::clone(day)).collect()
    }

    /// Removes the files of the days before this one. Whoever reads one goes on: the file is gone when he is done.
    pub(super) async fn remove_before(&self, day: i64) -> Result<(), Fault> {
        let _changing = self.changing.lock().await;
        let kept = self.lock().split_off(&day);
        let old = std::mem::replace(&mut *self.lock(), kept);
        if old.is_empty() {
            return Ok(());
        }
        let dir = self.dir.path().to_path_buf();
        let remove = move || old.into_iter().try_for_each(|(day, open)| remove(&dir.join(file_of(day)), open));
        let removed = tokio::task::spawn_blocking(remove).await.map_err(|error| Fault::Io(error.to_string()))?;
        removed.map_err(|error| Fault::Io(error.to_string()))
    }
}

fn remove(file: &std::path::Path, open: Arc<Day>) -> std::io::Result<()> {
    tracing::info!(file = %file.display(), "a day of telemetry is over long enough; its file is removed");
    // Closed first, unless somebody reads it: SQLite then removes what belongs to it.
    drop(open);
    for suffix in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(suffix);
        match std::fs::remove_file(PathBuf::from(path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_date_and_found_by_name() {
        assert_eq!(file_of(0), "telemetry-19700101.sqlite");
        assert_eq!(file_of(20_782), "telemetry-20261125.sqlite");
        assert_eq!(file_of(11_016), "telemetry-20000229.sqlite");
        for day in (0..80_000).step_by(61) {
            assert_eq!(day_in(&file_of(day)), Some(day));
        }
        for other in ["telemetry.sqlite", "telemetry-20261301.sqlite", "telemetry-1.sqlite-wal", "telemetry-x.sqlite"] {
            assert_eq!(day_in(other), None, "{other}");
        }
    }
}
