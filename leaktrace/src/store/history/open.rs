//! Opening for reading, whatever the place allows. SQLite wants to write beside a database that has a log even to read it, since
//! readers and the writer agree through shared memory there. Where that is not possible nobody can be writing: a copy is read.

use std::{fs, io::ErrorKind, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tempfile::TempDir;

use crate::store::{
    StoreError,
    lock::beside,
    schema::{self, APPLICATION_ID, MIGRATIONS},
};

/// How long SQLite waits for another process that recovers the file after a crash.
const BUSY: Duration = Duration::from_secs(5);

/// What a copy is called.
const COPY: &str = "copy.db";

/// How a file is read.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Together with a writer.
    Shared,
    /// A copy of it and its log, where files can be written.
    Copied,
    /// As it is, without a log.
    Immutable,
}

/// Opens it in the first way that works, and looks whether it is what it should be. Where a copy is read, its directory comes too.
pub(super) fn connect(path: &Path) -> Result<(Connection, Option<TempDir>), StoreError> {
    let unusable = |source| StoreError::Unusable { path: path.to_owned(), source };
    match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        opened => drop(opened.map_err(unusable)?),
    }
    let (connection, copy) = match open(path, first_way(path)) {
        Err(error) if depends_on_the_place(&error) => {
            let copy = copied(path).map_err(unusable)?;
            (open(&copy.path().join(COPY), Way::Copied), Some(copy))
        }
        other => (other, None),
    };
    let connection = connection.map_err(|error| StoreError::of(path, error))?;
    refuse_strangers(&connection, path)?;
    Ok((connection, copy))
}

/// A directory that nobody else can read, with the database and its log.
fn copied(path: &Path) -> std::io::Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join(COPY);
    for (from, to) in [(path, &copy), (&beside(path, "-wal"), &beside(&copy, "-wal"))] {
        match fs::copy(from, to) {
            // A file from a medium that nobody can write to comes with the mode it has there.
            Ok(_) => fs::set_permissions(to, fs::Permissions::from_mode(0o600))?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(directory)
}

/// A database without a log is in use by nobody, and needs none of the files that sharing makes beside it.
fn first_way(path: &Path) -> Way {
    let log = fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    let in_use = log > 0 || beside(path, "-shm").exists();
    if in_use { Way::Shared } else { Way::Immutable }
}

fn open(path: &Path, way: Way) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path, way), flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0))?;
    Ok(connection)
}

fn uri(path: &Path, way: Way) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte))
            }
            other => uri.push_str(&format!("%{other:02x}")),
        }
    }
    uri.push_str(match way {
        Way::Shared => "?mode=ro",
        Way::Copied => "?mode=rw",
        Way::Immutable => "?immutable=1",
    });
    uri
}

fn depends_on_the_place(error: &rusqlite::Error) -> bool {
    let codes =
        [ErrorCode::CannotOpen, ErrorCode::ReadOnly, ErrorCode::SystemIoFailure, ErrorCode::PermissionDenied];
    error.sqlite_error_code().is_some_and(|code| codes.contains(&code))
}

fn refuse_strangers(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::of(path, error);
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed)?;
    // Its first version is not written yet: the disk was full, or it began a moment ago.
    if application == 0 && tables == 0 {
        return Err(StoreError::Missing { path: path.to_owned() });
    }
    if application != APPLICATION_ID {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    let (found, known) = (schema::found(connection).map_err(failed)?, schema::version_of(MIGRATIONS));
    match found {
        newer if newer > known => Err(StoreError::Newer { path: path.to_owned(), found, known }),
        older if older < known => Err(StoreError::Older { path: path.to_owned(), found, known }),
        _ => Ok(()),
    }
}
