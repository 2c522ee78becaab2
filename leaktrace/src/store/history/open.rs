//! Opening for reading, whatever the place allows. SQLite wants to write beside a database even to read it, since readers and the writer
//! agree through shared memory there; where that is not possible nobody can be writing, and the file is read as it is.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::store::{
    StoreError,
    lock::beside,
    schema::{self, APPLICATION_ID, MIGRATIONS},
};

/// How long SQLite waits for another process that recovers the file after a crash.
const BUSY: Duration = Duration::from_secs(5);

/// How a file is read, the best way first.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Together with a writer.
    Shared,
    /// With its log, alone, in this process's memory.
    Alone,
    /// Without its log.
    Immutable,
}

/// Opens it in the first way that works, and looks whether it is what it should be.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(StoreError::Unusable { path: path.to_owned(), source }),
        Ok(_) => {}
    }
    let failed = |error| StoreError::of(path, error);
    let connection = ways(path)
        .iter()
        .find_map(|way| match open(path, *way) {
            Err(error) if depends_on_the_place(&error) => None,
            other => Some(other),
        })
        .unwrap_or_else(|| open(path, Way::Immutable))
        .map_err(failed)?;
    refuse_strangers(&connection, path)?;
    Ok(connection)
}

/// A database without a log is in use by nobody, and needs none of the files that sharing makes beside it.
fn ways(path: &Path) -> &'static [Way] {
    let log = fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    let shared = beside(path, "-shm").exists();
    match log > 0 || shared {
        true => &[Way::Shared, Way::Alone, Way::Immutable],
        false => &[Way::Immutable],
    }
}

fn open(path: &Path, way: Way) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path, way), flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    if matches!(way, Way::Alone) {
        connection.pragma_update_and_check(None, "locking_mode", "exclusive", |_| Ok(()))?;
    }
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
        Way::Alone => "?mode=ro&nolock=1",
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
