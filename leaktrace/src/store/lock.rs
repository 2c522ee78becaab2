//! Who may write the history: one process. The lock lies on a file beside the database, so that SQLite's own locks, which come
//! and go, play no part. The kernel drops it when its holder ends, however it ends.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::StoreError;

/// Held for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "open: that is the lock")] File);

impl Lock {
    /// Takes it, or says who has it.
    pub(super) fn take(database: &Path) -> Result<Self, StoreError> {
        let path = beside(database, ".lock");
        let unusable = |source| StoreError::Unusable { path: path.clone(), source };
        let mut options = OpenOptions::new();
        // The file stays: were it removed, two could hold the lock of two files of that name.
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::InUse { path: database.to_owned(), pid: holder(&path) });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        // Only for the sentence that a second one is refused with: a full disk is no reason to stop here.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The file whose name is that of the database and something behind it.
pub(super) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Makes a file that nobody else can read, and the directory above it; leaves one that is there as it is.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Unusable { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)
            .map_err(|source| StoreError::Unusable { path: parent.to_owned(), source })?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unusable(error)),
    }
}
