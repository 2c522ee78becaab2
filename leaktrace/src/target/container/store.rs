//! Directories in which runtimes keep their state, read without trust: some belong to users, who may put anything there. Nothing
//! below the directory itself is a symbolic link, only regular files are read, and only so much of them.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use serde::de::DeserializeOwned;

/// Most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4096;
/// Largest file of state that is read. Images' configurations within are some tens of KiB.
const MAX_FILE: u64 = 4 << 20;

/// An open directory.
pub struct Store {
    directory: OwnedFd,
    path: PathBuf,
}

/// A file of state.
pub struct StateFile<T> {
    /// What it says.
    pub content: T,
    /// Who could have written it.
    pub owner: u32,
}

impl Store {
    /// Opens a directory whose path only root can change; `None`: it is not there.
    pub fn open(path: &Path) -> Option<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        Some(Self { directory: file.into(), path: path.to_owned() })
    }

    /// A directory below it.
    pub fn below(&self, path: impl AsRef<Path>) -> Option<Self> {
        let path = path.as_ref();
        let directory = self.open_below(path, OFlags::DIRECTORY)?;
        Some(Self { directory, path: self.path.join(path) })
    }

    /// Every directory in it.
    pub fn directories(&self) -> Vec<Self> {
        self.names().iter().filter_map(|name| self.below(name)).collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When an entry was last made or removed in it: seconds and nanoseconds.
    pub fn changed(&self) -> Option<(i64, u64)> {
        let data = rustix::fs::fstat(&self.directory).ok()?;
        Some((data.st_mtime, data.st_mtime_nsec))
    }

    /// Names of what is in it; those that are no text, and hidden ones, are left out.
    pub fn names(&self) -> Vec<String> {
        let Ok(entries) = Dir::read_from(&self.directory) else { return Vec::new() };
        let name = |entry: rustix::fs::DirEntry| entry.file_name().to_str().map(str::to_owned).ok();
        let names = entries.take(MAX_ENTRIES).filter_map(|entry| name(entry.ok()?));
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// A file below it that holds JSON.
    pub fn json<T: DeserializeOwned>(&self, path: impl AsRef<Path>) -> Option<StateFile<T>> {
        let file = self.bytes(path.as_ref())?;
        let content = serde_json::from_slice(&file.content);
        let content = content.inspect_err(|error| {
            tracing::debug!("{}: not as expected: {error}", self.path.join(path.as_ref()).display());
        });
        Some(StateFile { content: content.ok()?, owner: file.owner })
    }

    /// A file below it that holds a number.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<StateFile<u32>> {
        let file = self.bytes(path.as_ref())?;
        let number = std::str::from_utf8(&file.content).ok()?.trim().parse().ok()?;
        Some(StateFile { content: number, owner: file.owner })
    }

    fn bytes(&self, path: &Path) -> Option<StateFile<Vec<u8>>> {
        let file = File::from(self.open_below(path, OFlags::empty())?);
        let data = file.metadata().ok()?;
        if !data.is_file() || data.len() > MAX_FILE {
            return None;
        }
        let mut content = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut content).ok()?;
        Some(StateFile { content, owner: data.uid() })
    }

    /// Opening a FIFO would wait for its other end; terminals would become ours.
    fn open_below(&self, path: &Path, flags: OFlags) -> Option<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.directory, path, flags, Mode::empty(), resolve).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn only_regular_files_within_are_read() {
        let root = tempfile::tempdir().expect("directory");
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        for directory in [&inside, &outside] {
            fs::create_dir(directory).expect("directory");
            fs::write(directory.join("pid"), "42\n").expect("file");
        }
        symlink(outside.join("pid"), inside.join("link")).expect("link");
        symlink(&outside, inside.join("elsewhere")).expect("link");
        let fifo =
            std::ffi::CString::new(inside.join("fifo").as_os_str().as_encoded_bytes()).expect("no zero");
        // SAFETY: a path that is terminated.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let huge = File::create(inside.join("huge")).expect("file");
        huge.set_len(1 << 40).expect("a file with a hole");

        let store = Store::open(&inside).expect("there");
        assert_eq!(store.number("pid").map(|file| file.content), Some(42));
        for name in ["link", "elsewhere/pid", "../outside/pid", "fifo", "huge", "absent"] {
            assert!(store.number(name).is_none(), "{name}");
        }
        assert!(store.below("elsewhere").is_none() && store.below("..").is_none());
        assert_eq!(store.names().len(), 5);
        assert!(store.json::<serde_json::Value>("pid").is_some());
        assert!(Store::open(&root.path().join("absent")).is_none());
    }

    #[test]
    fn deep_json_is_refused_and_not_followed() {
        let root = tempfile::tempdir().expect("directory");
        fs::write(root.path().join("deep"), "[".repeat(100_000)).expect("file");
        let store = Store::open(root.path()).expect("there");
        assert!(store.json::<serde_json::Value>("deep").is_none());
    }
}
