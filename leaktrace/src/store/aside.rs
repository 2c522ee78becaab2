//! Damaged databases are not thrown away: somebody may want to save what can be saved. They get another name, and only the
//! latest few are kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{StoreError, lock::beside};

/// Damaged databases that are kept.
const KEPT: usize = 3;
/// What stands between the name of the database and the time at which it was set aside, seconds since the Unix epoch.
const MARK: &str = ".damaged-";

/// Gives a database and what belongs to it another name, which it returns.
pub(super) fn set_aside(database: &Path) -> Result<PathBuf, StoreError> {
    let unusable = |source| StoreError::Unusable { path: database.to_owned(), source };
    let place = free_place(database);
    fs::rename(database, &place).map_err(unusable)?;
    // What was written last lies in the log.
    let _ = fs::rename(beside(database, "-wal"), beside(&place, "-wal"));
    let _ = fs::remove_file(beside(database, "-shm"));
    forget_oldest(database);
    super::lock::make_private(database)?;
    Ok(place)
}

fn free_place(database: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let places = (now..now + 1000).map(|time| beside(database, &format!("{MARK}{time}")));
    places.clone().find(|place| !place.exists()).unwrap_or_else(|| beside(database, MARK))
}

fn forget_oldest(database: &Path) {
    let mut old = damaged(database).unwrap_or_default();
    // By time, which all names have at their end and with as many digits.
    old.sort();
    let surplus = old.len().saturating_sub(KEPT);
    for place in old.into_iter().take(surplus) {
        let _ = fs::remove_file(beside(&place, "-wal"));
        let _ = fs::remove_file(place);
    }
}

fn damaged(database: &Path) -> io::Result<Vec<PathBuf>> {
    let name = database.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{name}{MARK}");
    let directory = database.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = fs::read_dir(directory.unwrap_or(Path::new(".")))?.flatten().map(|entry| entry.path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(&prefix).is_some_and(|time| time.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(entries.filter(is_one).collect())
}
