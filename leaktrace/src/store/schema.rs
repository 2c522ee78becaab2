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
