//! The tables, by version. A database is brought up to date by the migrations that it has not seen, each in a transaction of its
//! own together with its number: whoever is killed in between finds a database of one version or the next. Migrations that
//! were released never change.

use rusqlite::{Connection, TransactionBehavior};

/// Marks a SQLite database as a history of leaktrace: "LeaK" in ASCII.
pub const APPLICATION_ID: i32 = 0x4c65_614b;

/// One statement list per version, the first makes version 1. `docs/history.md` describes the result.
pub const MIGRATIONS: &[&str] = &[include_str!("schema/v1.sql")];

/// The version that these migrations lead to.
pub fn version_of(migrations: &[&str]) -> i64 {
    migrations.len() as i64
}

/// The version of a database.
pub(super) fn found(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings a database up to date.
///
/// # Errors
/// What SQLite says; the database then has the version that it had, or one in between.
pub(super) fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let begin = usize::try_from(found(connection)?).unwrap_or(0);
    for (index, statements) in migrations.iter().enumerate().skip(begin) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(statements)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{Entry, Store, StoreConfig},
        watched::Subject,
    };

    const NEXT: &str = "ALTER TABLE subjects ADD COLUMN owner TEXT NOT NULL DEFAULT 'nobody';";
    const WRONG: &str = "ALTER TABLE subjects ADD COLUMN more TEXT; INSERT INTO nowhere VALUES (1);";

    fn old() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.db");
        let mut store = Store::open_as(&path, &StoreConfig::default(), &MIGRATIONS[..1]).unwrap();
        store.write(&[Entry::Subject(Subject { key: "a".into(), ..Subject::default() })]).unwrap();
        (directory, path)
    }

    fn owner(path: &std::path::Path) -> rusqlite::Result<String> {
        Connection::open(path)?.query_row("SELECT owner FROM subjects WHERE key = 'a'", [], |row| row.get(0))
    }

    #[test]
    fn an_older_history_is_brought_up_to_date_and_keeps_what_is_in_it() {
        let (_directory, path) = old();
        let migrations = [MIGRATIONS[0], NEXT];
        for _ in 0..2 {
            let store = Store::open_as(&path, &StoreConfig::default(), &migrations).unwrap();
            assert_eq!(found(&store.connection).unwrap(), 2);
            assert_eq!(owner(&path).unwrap(), "nobody");
        }
        assert!(Store::open_as(&path, &StoreConfig::default(), &MIGRATIONS[..1]).is_err());
    }

    #[test]
    fn a_version_that_fails_half_way_leaves_the_one_before() {
        let (_directory, path) = old();
        let error =
            Store::open_as(&path, &StoreConfig::default(), &[MIGRATIONS[0], NEXT, WRONG]).unwrap_err();
        assert!(!error.is_damage(), "{error}");
        let connection = Connection::open(&path).unwrap();
        assert_eq!(found(&connection).unwrap(), 2);
        assert!(connection.prepare("SELECT more FROM subjects").is_err());
        assert_eq!(owner(&path).unwrap(), "nobody");
    }
}
