//! The database file as its one writer sees it: opened, checked, brought up to date; written in whole transactions.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};

use super::{
    Entry, StoreConfig, StoreError,
    aside::set_aside,
    intern::Interned,
    lock::{Lock, make_private},
    schema::{self, APPLICATION_ID, MIGRATIONS},
    write,
};

/// How long SQLite waits for readers that recover the file after a crash.
const BUSY: Duration = Duration::from_secs(5);
/// Room that the write-ahead log is given out of the whole, at most, bytes.
const MOST_FOR_LOG: u64 = 16 << 20;
/// Statements that stay compiled.
const STATEMENTS: usize = 64;
/// Numbers of sessions that are set aside at once.
const SESSIONS_AT_ONCE: u64 = 10_000;

/// The history, open for writing. Nobody else can write it meanwhile; anybody may read.
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) config: StoreConfig,
    pub(super) interned: Interned,
    /// How often it was tidied.
    pub(super) tidied: u32,
    /// What was noticed when it was opened.
    notice: Option<String>,
    _lock: Lock,
}

/// How much of what was to be written was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries that are on disk now.
    pub entries: u64,
    /// Entries that the database refused; to try again would not help.
    pub lost: u64,
    /// Why, for the last of them.
    pub error: Option<String>,
}

impl Store {
    /// Opens a history for writing, makes it if it is missing, brings an older one up to date. One that is damaged is set aside under
    /// another name, which [`Store::notice`] then says.
    ///
    /// # Errors
    /// If another process writes it, if it is of a newer version or no history at all (it is left as it is then), or if
    /// the disk refuses.
    pub fn open(path: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        Self::open_as(path, config, MIGRATIONS)
    }

    /// The same with other versions of the tables.
    pub(super) fn open_as(
        path: &Path,
        config: &StoreConfig,
        migrations: &[&str],
    ) -> Result<Self, StoreError> {
        make_private(path)?;
        let lock = Lock::take(path)?;
        let (connection, notice) = match connect(path, config, migrations) {
            Err(error) if error.is_damage() => {
                let place = set_aside(path)?;
                let notice =
                    format!("{error}: it was moved to {}, and a new history begins", place.display());
                (connect(path, config, migrations)?, Some(notice))
            }
            other => (other?, None),
        };
        Ok(Self {
            connection,
            path: path.to_owned(),
            config: config.clone(),
            interned: Interned::default(),
            tidied: 0,
            notice,
            _lock: lock,
        })
    }

    /// What was noticed when it was opened, in one sentence: that a damaged file was set aside.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of it or nothing, and is done when it is on disk. Single entries that make no sense are left out and counted.
    ///
    /// # Errors
    /// If the disk refuses; nothing was written then.
    pub fn write(&mut self, entries: &[Entry]) -> Result<Written, StoreError> {
        match self.write_once(entries) {
            // Full up to its own cap, and not the disk: the oldest makes room.
            Err(StoreError::Full { .. }) if self.is_at_its_cap() => {
                self.make_room()?;
                self.write_once(entries)
            }
            other => other,
        }
    }

    fn write_once(&mut self, entries: &[Entry]) -> Result<Written, StoreError> {
        let Self { connection, interned, path, .. } = self;
        let written = write_all(connection, interned, entries);
        written.map_err(|error| {
            // Numbers that were given in what was rolled back stand for nothing.
            interned.forget();
            StoreError::of(&*path, error)
        })
    }

    /// Numbers for sessions that nobody was given before, nor will be: the first, not below `least`, of so many that follow
    /// each other.
    ///
    /// # Errors
    /// If that cannot be written down.
    pub fn reserve_sessions(&mut self, least: u64) -> Result<(u64, u64), StoreError> {
        let reserved = reserve(&mut self.connection, least);
        reserved.map_err(|error| StoreError::of(&self.path, error))
    }

    /// Ends writing. What is in the log moves into the database file.
    pub fn close(self) {
        let Self { connection, .. } = self;
        // Dropping it does the same and cannot say that it failed; there is nothing to be done about it either way.
        let _ = connection.close();
    }

    /// Looks through the whole file.
    ///
    /// # Errors
    /// If something in it is damaged.
    pub fn check(&self) -> Result<(), StoreError> {
        check(&self.connection, &self.path)
    }

    pub(super) fn pages(&self, what: &str) -> Result<u64, StoreError> {
        pragma(&self.connection, what).map_err(|error| StoreError::of(&self.path, error))
    }

    fn is_at_its_cap(&self) -> bool {
        let pages = |what| self.pages(what).unwrap_or_default();
        // Pages are taken in small lots: near is there.
        pages("page_count") + 16 >= pages("max_page_count")
    }
}

fn write_all(
    connection: &mut Connection,
    interned: &mut Interned,
    entries: &[Entry],
) -> rusqlite::Result<Written> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut written = Written::default();
    for entry in entries {
        match write_one(&mut transaction, interned, entry) {
            Ok(()) => written.entries += 1,
            Err(error) if write::is_about_the_entry(&error) => {
                interned.forget();
                written.lost += 1;
                written.error = Some(format!("an entry was left out of the history: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    transaction.commit()?;
    Ok(written)
}

/// So that an entry is in the database whole or not at all.
fn write_one(
    transaction: &mut Transaction<'_>,
    interned: &mut Interned,
    entry: &Entry,
) -> rusqlite::Result<()> {
    let savepoint = transaction.savepoint()?;
    write::entry(&savepoint, interned, entry)?;
    savepoint.commit()
}

fn reserve(connection: &mut Connection, least: u64) -> rusqlite::Result<(u64, u64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let first: i64 = transaction.query_row(
        "SELECT max(1, ?1, ifnull((SELECT value FROM meta WHERE key = 'next_session'), 1), \
         ifnull((SELECT max(id) + 1 FROM sessions), 1))",
        [write::signed(least)],
        |row| row.get(0),
    )?;
    let first = u64::try_from(first).unwrap_or(1);
    let next = first.saturating_add(SESSIONS_AT_ONCE);
    write::set_meta(&transaction, "next_session", write::signed(next))?;
    transaction.commit()?;
    Ok((first, SESSIONS_AT_ONCE))
}

fn connect(path: &Path, config: &StoreConfig, migrations: &[&str]) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::of(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    refuse_strangers(&connection, path, migrations)?;
    prepare(&connection).map_err(failed)?;
    check(&connection, path)?;
    schema::migrate(&mut connection, migrations).map_err(failed)?;
    cap(&connection, config).map_err(failed)?;
    Ok(connection)
}

/// Before anything is changed: what is not ours, or not of our time, stays as it is.
fn refuse_strangers(connection: &Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let failed = |error| StoreError::of(path, error);
    // Closing would else move a log into the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let found = schema::found(connection).map_err(failed)?;
    let is_new = tables == 0 && application == 0 && found == 0;
    if !is_new && application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let known = schema::version_of(migrations);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(failed)?;
    Ok(())
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Only has an effect before the first table.
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // A transaction is on disk when it is committed, whatever then happens to the host.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.pragma_update_and_check(None, "journal_size_limit", 4 << 20, |_| Ok(()))
}

fn cap(connection: &Connection, config: &StoreConfig) -> rusqlite::Result<()> {
    let whole = config.max_size.max(StoreConfig::LEAST_SIZE).0;
    let pages = (whole - MOST_FOR_LOG.min(whole / 4)) / pragma(connection, "page_size")?.max(512);
    connection.pragma_update_and_check(None, "max_page_count", pages as i64, |_| Ok(()))
}

/// A value of SQLite's that is a number, never negative.
pub(super) fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::of(path, error);
    let answer: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    match answer.as_str() {
        "ok" => Ok(()),
        what => Err(StoreError::Damaged { path: path.to_owned(), what: first_line(what) }),
    }
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.starts_with("***")).unwrap_or("no reason is given").to_owned()
}
