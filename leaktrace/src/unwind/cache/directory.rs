//! The directory of the cache. It is opened once and everything is done relative to it, so that nothing depends on
//! what its path leads to later.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat,
    openat, renameat, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::format::{MAX_FILE_BYTES, VERSION};

/// Ends the names of tables, before the number of the version.
pub(super) const SUFFIX: &str = ".unwind";

/// Begins the names of files that are being written.
const UNFINISHED: &str = ".unfinished-";

/// After which time a file that is being written has been given up by its writer.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Most directory entries that are looked at.
const MAX_ENTRIES: usize = 1 << 16;

/// Permission bits that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The operating system refused.
    #[error("cannot use the directory {} for unwind tables: {source}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could have written there.
    #[error(
        "the unwind tables in {} are not used, since others could have changed {}: it has to be no symbolic link, \
         to belong to the user that runs leaktrace, and to be writable by nobody else; remove it",
        directory.display(),
        path.display()
    )]
    NotOurs {
        /// The directory.
        directory: PathBuf,
        /// It, or a file in it.
        path: PathBuf,
    },
}

/// A table's file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// Seconds and nanoseconds.
    pub(super) last_use: (i64, i64),
    /// Whether nobody else can have written it.
    pub(super) ours_alone: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Directory {
    handle: OwnedFd,
    path: PathBuf,
    /// Makes names of unfinished files different.
    written: AtomicU64,
}

impl Directory {
    /// Opens a directory that belongs to us alone; makes it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, CacheError> {
        let unusable = |source| CacheError::Unusable { path: path.to_owned(), source };
        let distrust = || CacheError::NotOurs { directory: path.to_owned(), path: path.to_owned() };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = match openat(CWD, path, flags, Mode::empty()) {
            // With both flags, a symbolic link is "not a directory".
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(distrust()),
            other => other.map_err(|error| unusable(error.into()))?,
        };
        let stat = fstat(&handle).map_err(|error| unusable(error.into()))?;
        if !is_ours_alone(&stat, FileType::Directory) {
            return Err(distrust());
        }
        Ok(Self { handle, path: path.to_owned(), written: AtomicU64::new(0) })
    }

    /// An error about the directory.
    pub(super) fn unusable(&self, source: io::Error) -> CacheError {
        CacheError::Unusable { path: self.path.clone(), source }
    }

    /// An error about a file in it.
    pub(super) fn distrust(&self, name: &str) -> CacheError {
        CacheError::NotOurs { directory: self.path.clone(), path: self.path.join(name) }
    }

    /// The tables of this version.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let names = self.names()?.into_iter().filter(|name| version(name) == Some(VERSION));
        Ok(names.filter_map(|name| Some(Entry::new(self.stat(&name)?, name))).collect())
    }

    /// Removes tables of other versions, and unfinished files that nobody is writing any more; says how many.
    pub(super) fn remove_outdated(&self) -> u64 {
        let names = self.names().unwrap_or_default();
        let outdated = names.iter().filter(|name| match version(name) {
            Some(version) => version != VERSION,
            None => name.starts_with(UNFINISHED) && self.is_abandoned(name),
        });
        let mut removed = 0;
        for name in outdated {
            self.remove(name);
            removed += 1;
        }
        removed
    }

    /// The contents of a file; `Ok(None)` if somebody else may have written it, or it is longer than any table.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = match openat(&self.handle, name, flags, Mode::empty()) {
            Err(Errno::LOOP) => return Ok(None),
            other => other?,
        };
        let stat = fstat(&handle)?;
        let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if !is_ours_alone(&stat, FileType::RegularFile) || length > MAX_FILE_BYTES {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        File::from(handle).take(length).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a file under another name and gives it its own when it is complete.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{UNFINISHED}{}-{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&self.handle, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
        let written = File::from(handle).write_all(bytes);
        let renamed = written.and_then(|()| Ok(renameat(&self.handle, &unfinished, &self.handle, name)?));
        if renamed.is_err() {
            self.remove(&unfinished);
        }
        renamed
    }

    /// Notes that a file is used now: its time of modification, since access times may be switched off.
    pub(super) fn touch(&self, name: &str) {
        let time = |nanoseconds| Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        // Where it fails, tables are removed in the order in which they were written.
        let _ = utimensat(&self.handle, name, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// Removes a file; says how many bytes that freed.
    pub(super) fn remove(&self, name: &str) -> u64 {
        let bytes = self.stat(name).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        if unlinkat(&self.handle, name, AtFlags::empty()).is_ok() { bytes } else { 0 }
    }

    fn is_abandoned(&self, name: &str) -> bool {
        let written = self.stat(name).and_then(|stat| u64::try_from(stat.st_mtime).ok());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        written.is_some_and(|written| now.saturating_sub(Duration::from_secs(written)) > ABANDONED)
    }

    fn stat(&self, name: &str) -> Option<Stat> {
        statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = Dir::read_from(&self.handle)?.take(MAX_ENTRIES);
        Ok(entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned())).collect())
    }
}

impl Entry {
    fn new(stat: Stat, name: String) -> Self {
        Self {
            name,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            last_use: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            ours_alone: is_ours_alone(&stat, FileType::RegularFile),
        }
    }
}

fn is_ours_alone(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
        && stat.st_uid == rustix::process::geteuid().as_raw()
        && stat.st_mode & OTHERS_WRITE == 0
}

/// The version in a table's name; `None` if it is not a table's name.
fn version(name: &str) -> Option<u32> {
    name.rsplit_once(SUFFIX)?.1.parse().ok()
}
