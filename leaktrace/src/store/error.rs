//! Why the history cannot be written or read.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

/// See the module.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no such file.
    #[error(
        "there is no history at {}: name its file with --db, or start the daemon, which makes one",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("could not use {} for the history: {source}", path.display())]
    Unusable {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process writes it.
    #[error(
        "the history {} is being written by {}: two daemons cannot share one; stop it, or give this one another state directory",
        path.display(),
        pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The database.
        path: PathBuf,
        /// Who, where that is known.
        pid: Option<u32>,
    },
    /// A database, but of something else.
    #[error("{} is no history of leaktrace but another program's database: name another file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by a later leaktrace.
    #[error(
        "the history {} has version {found}, this leaktrace knows versions up to {known}: it was left as it is; install the \
         leaktrace that wrote it, or name another file",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest that is known here.
        known: i64,
    },
    /// Written by an earlier leaktrace, by somebody who may only read.
    #[error(
        "the history {} has version {found} and this leaktrace reads version {known}: start its daemon on it once, which \
         brings it up to date",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that is read here.
        known: i64,
    },
    /// What is in the file makes no sense.
    #[error("the history {} is damaged ({what})", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        what: String,
    },
    /// There is no room.
    #[error("there is no room for the history {} ({what}): free some on that disk", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        what: String,
    },
    /// Reading or writing failed.
    #[error("could not use the history {}: {source}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// What an error of SQLite means for a file.
    pub(super) fn of(path: impl Into<PathBuf>, source: rusqlite::Error) -> Self {
        let path = path.into();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Damaged { path, what: source.to_string() }
            }
            Some(ErrorCode::DiskFull) => Self::Full { path, what: source.to_string() },
            // Where the shared memory of a write-ahead log cannot grow, SQLite speaks of input and output.
            Some(ErrorCode::SystemIoFailure) if cannot_grow(&source) => {
                Self::Full { path, what: source.to_string() }
            }
            _ => Self::Failed { path, source },
        }
    }

    /// Whether the disk refuses, which may pass, so that the same can be tried again.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Failed { source, .. } => {
                let code = source.sqlite_error_code();
                matches!(
                    code,
                    Some(
                        ErrorCode::DatabaseBusy
                            | ErrorCode::DatabaseLocked
                            | ErrorCode::OutOfMemory
                            | ErrorCode::SystemIoFailure
                            | ErrorCode::CannotOpen
                    )
                )
            }
            Self::Unusable { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    /// Whether a fresh file in its place would be better.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

fn cannot_grow(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}
