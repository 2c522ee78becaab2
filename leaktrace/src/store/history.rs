//! Reading the history: while the daemon writes it, after it has died, or from a copy on another machine. Nothing here changes a
//! file.

mod compose;
mod events;
mod merged;
mod moments;
mod open;
mod readings;
mod row;
mod stacks;
mod suspects;

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::StoreError;

pub use events::{Evidence, Told};
pub use merged::merged;
pub use moments::{Moment, Nearest};

/// The history, open for reading.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    path: PathBuf,
    frozen: Cell<bool>,
    /// What is read where the file cannot be; gone with this.
    _copy: Option<TempDir>,
}

/// A stretch of time, both ends included, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// From when on.
    pub since_unix_s: f64,
    /// Until when.
    pub until_unix_s: f64,
}

impl Span {
    /// Everything.
    pub const ALL: Self = Self { since_unix_s: f64::MIN, until_unix_s: f64::MAX };

    /// From a moment on.
    pub const fn since(since_unix_s: f64) -> Self {
        Self { since_unix_s, ..Self::ALL }
    }
}

impl History {
    /// Opens a history for reading: one that is being written, one that was copied (also without the files beside it, then as of the last
    /// time its log was moved into it), one on a medium that nobody can write to.
    ///
    /// # Errors
    /// If there is none, if it is of another version, damaged, or another program's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (connection, copy) = open::connect(path)?;
        Ok(Self { connection, path: path.to_owned(), frozen: Cell::new(false), _copy: copy })
    }

    /// From now on every answer is about the same moment. Meant for readers that live shortly: the writer's log grows meanwhile.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn freeze(&self) -> Result<(), StoreError> {
        if !self.frozen.replace(true) {
            self.read(|connection| connection.execute_batch("BEGIN"))?;
        }
        Ok(())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        ask(&self.connection).map_err(|error| StoreError::of(&self.path, error))
    }
}
