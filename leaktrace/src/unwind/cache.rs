//! Tables on disk, so that the next start, and the next process with the same libraries, need not make them again.
//! One file for each, named after what it is made of. The directory belongs to us alone, and files in it are still
//! checked to the last row: what is wrong with one is counted, the file removed, and the table made anew. Nothing that
//! goes wrong here hinders tracing.

mod directory;
mod format;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use directory::CacheError;
pub use format::Flaw;

use super::{Table, TableKey};
use crate::object::note::BuildId;
use directory::{Directory, Entry};

/// Bytes of a build ID that file names show.
const SHOWN_BUILD_ID: usize = 20;

/// What the cache has done so far, and how large it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatistics {
    /// Tables read.
    pub hits: u64,
    /// Tables that were not there.
    pub misses: u64,
    /// Files removed because they are no sound tables, by cause.
    pub refused: BTreeMap<Flaw, u64>,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Tables written.
    pub saved: u64,
    /// Tables that could not be written, or would be too large.
    pub not_saved: u64,
    /// Files removed to make room.
    pub removed: u64,
    /// Files of other versions removed.
    pub outdated: u64,
    /// Bytes of all files, about: other processes may use the same directory.
    pub bytes: u64,
}

/// See the module. May be used by several threads, and the directory by several processes.
#[derive(Debug)]
pub struct Cache {
    directory: Directory,
    cap: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counts: CacheStatistics,
    /// Whether the user has been told that tables cannot be written.
    told: bool,
}

impl Cache {
    /// Where tables are kept if nothing else is said.
    pub const DEFAULT_DIRECTORY: &str = "/var/cache/leaktrace/unwind";

    /// How many bytes may be kept if nothing else is said.
    pub const DEFAULT_BYTES: u64 = 256 << 20;

    /// Opens a cache of at most `cap` bytes, makes its directory if it is missing, and removes what other versions have
    /// left there.
    ///
    /// # Errors
    /// When the directory cannot be used, or others could have written to it or to a table in it.
    pub fn open(path: &Path, cap: u64) -> Result<Self, CacheError> {
        let directory = Directory::open(path)?;
        let outdated = directory.remove_outdated();
        let entries = directory.entries().map_err(|source| directory.unusable(source))?;
        if let Some(entry) = entries.iter().find(|entry| !entry.ours_alone) {
            return Err(directory.distrust(&entry.name));
        }
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let counts = CacheStatistics { bytes, outdated, ..CacheStatistics::default() };
        let cache = Self { directory, cap, state: Mutex::new(State { counts, told: false }) };
        cache.shrink();
        Ok(cache)
    }

    /// The table made of what `key` stands for, if it is kept and sound.
    pub fn load(&self, key: TableKey, build_id: Option<&BuildId>) -> Option<Table> {
        let name = file_name(key, build_id);
        let bytes = match self.directory.read(&name) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return self.refuse(&name, Flaw::NotOurs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.lock().counts.misses += 1;
                return None;
            }
            Err(_) => {
                self.lock().counts.unreadable += 1;
                return None;
            }
        };
        match format::decode(key, &bytes) {
            Ok(table) => {
                self.directory.touch(&name);
                self.lock().counts.hits += 1;
                Some(table)
            }
            Err(flaw) => self.refuse(&name, flaw),
        }
    }

    /// Keeps a table. If that fails, it is counted, and the user told once.
    pub fn save(&self, key: TableKey, build_id: Option<&BuildId>, table: &Table) {
        let Some(bytes) = format::encode(key, table).filter(|bytes| bytes.len() as u64 <= self.cap) else {
            self.lock().counts.not_saved += 1;
            return;
        };
        let written = self.directory.write(&file_name(key, build_id), &bytes);
        let mut state = self.lock();
        if let Err(error) = written {
            state.counts.not_saved += 1;
            if !std::mem::replace(&mut state.told, true) {
                tracing::warn!("unwind tables are not kept: {}", self.directory.unusable(error));
            }
            return;
        }
        state.counts.saved += 1;
        state.counts.bytes += bytes.len() as u64;
        drop(state);
        self.shrink();
    }

    /// See [`CacheStatistics`].
    pub fn statistics(&self) -> CacheStatistics {
        self.lock().counts.clone()
    }

    fn refuse(&self, name: &str, flaw: Flaw) -> Option<Table> {
        let removed = self.directory.remove(name);
        let counts = &mut self.lock().counts;
        counts.bytes = counts.bytes.saturating_sub(removed);
        *counts.refused.entry(flaw).or_default() += 1;
        None
    }

    /// Removes what has not been used for longest if there is more than the cap, and then an eighth more, so that not
    /// every new table begins this again.
    fn shrink(&self) {
        if self.lock().counts.bytes <= self.cap {
            return;
        }
        let Ok(mut entries) = self.directory.entries() else { return };
        entries.sort_unstable_by_key(|entry| entry.last_use);
        let mut bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let enough = self.cap - self.cap / 8;
        let mut removed = 0;
        for Entry { name, .. } in if bytes > self.cap { entries.as_slice() } else { &[] } {
            if bytes <= enough {
                break;
            }
            bytes = bytes.saturating_sub(self.directory.remove(name));
            removed += 1;
        }
        let counts = &mut self.lock().counts;
        counts.bytes = bytes;
        counts.removed += removed;
    }

    /// A thread that panicked has left nothing half done in here: these are counts.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `BUILD-ID-DIGEST.unwindVERSION`. The build ID is for people; the digest is the identity.
fn file_name(key: TableKey, build_id: Option<&BuildId>) -> String {
    let shown = build_id.map_or(&[][..], |build_id| build_id.as_bytes());
    let shown: String = shown.iter().take(SHOWN_BUILD_ID).map(|byte| format!("{byte:02x}")).collect();
    let shown = if shown.is_empty() { "none" } else { &shown };
    format!("{shown}-{key}{}{}", directory::SUFFIX, format::VERSION)
}

#[cfg(test)]
mod tests;
