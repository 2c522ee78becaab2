//! A daemon's history as a bystander reads it, while the daemon runs or after its death. Nobody is told how the daemon reads its own
//! file: what counts is what is in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

/// How long somebody who writes is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Clone)]
pub struct History {
    file: PathBuf,
}

impl History {
    /// That in a file, which need not be there yet.
    pub fn at(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    fn ask<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let describe = || format!("cannot read {}", self.file.display());
        let connection = Connection::open_with_flags(&self.file, OpenFlags::SQLITE_OPEN_READ_ONLY)
            .with_context(describe)?;
        connection.busy_timeout(PATIENCE).with_context(describe)?;
        question(&connection).with_context(describe)
    }

    /// When memory was last read, seconds since the Unix epoch; `None`: never.
    pub fn newest(&self) -> Result<Option<f64>> {
        if !self.file.exists() {
            return Ok(None);
        }
        let there = "SELECT count(*) FROM sqlite_master WHERE name = 'memory'";
        self.ask(|database| match database.query_row(there, [], |row| row.get::<_, i64>(0))? {
            0 => Ok(None),
            _ => database.query_row("SELECT max(at) FROM memory", [], |row| row.get(0)),
        })
    }

    /// Whether memory was read at that moment.
    pub fn has(&self, at: f64) -> Result<bool> {
        let found = |database: &Connection| {
            database.query_row("SELECT 1 FROM memory WHERE at = ?1 LIMIT 1", [at], |_| Ok(())).optional()
        };
        Ok(self.ask(found)?.is_some())
    }

    /// When the memory of a process was read, in order.
    pub fn readings_of(&self, pid: u32) -> Result<Vec<f64>> {
        let text =
            "SELECT at FROM memory JOIN subjects ON subjects.id = memory.subject WHERE pid = ?1 ORDER BY at";
        self.ask(|database| {
            let mut statement = database.prepare(text)?;
            let readings = statement.query_map([pid], |row| row.get(0))?;
            readings.collect()
        })
    }

    /// How many rows a table has.
    pub fn count(&self, table: &str) -> Result<u64> {
        let rows = |database: &Connection| {
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
        };
        Ok(self.ask(rows)?.unsigned_abs())
    }

    /// What the database says of its own soundness; `ok` if there is nothing to say.
    pub fn soundness(&self) -> Result<String> {
        self.ask(|database| database.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
    }

    /// What it takes on disk, its write-ahead log included.
    pub fn bytes(&self) -> u64 {
        let size = |ending: &str| {
            let mut name = self.file.clone().into_os_string();
            name.push(ending);
            fs::metadata(name).map_or(0, |facts| facts.len())
        };
        size("") + size("-wal")
    }
}
