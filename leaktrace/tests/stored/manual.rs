//! The manual describes the tables that are made, and no others.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::Scratch;
use crate::harness::Outcomes;

/// Columns and their types, by table.
type Tables = BTreeMap<String, Vec<(String, String)>>;

#[test]
fn the_manual_describes_every_table_and_column() -> Outcomes<()> {
    let scratch = Scratch::new()?;
    scratch.store()?.close();
    let made = made(&scratch).map_err(|e| e.to_string())?;
    let described = described(include_str!("../../../docs/history.md"));
    assert_eq!(described, made);
    assert!(made.len() > 10);
    Ok(())
}

fn made(scratch: &Scratch) -> rusqlite::Result<Tables> {
    let connection = Connection::open(scratch.path())?;
    let mut statement = connection.prepare(
        "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' ORDER BY m.name, c.cid",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    let mut tables = Tables::new();
    for row in rows {
        let (table, column, kind) = row?;
        tables.entry(table).or_default().push((column, kind.to_lowercase()));
    }
    Ok(tables)
}

/// A heading for each table, and below it a row for each column: name, type, meaning.
fn described(manual: &str) -> Tables {
    let mut tables = Tables::new();
    let mut table = None;
    for line in manual.lines() {
        if let Some(name) = line.strip_prefix("### `").and_then(|rest| rest.strip_suffix('`')) {
            table = Some(name.to_owned());
        } else if line.starts_with("## ") {
            table = None;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let (Some(table), [_, column, kind, meaning, ..]) = (&table, cells.as_slice())
            && let Some(column) = column.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'))
        {
            assert!(!meaning.is_empty(), "{column} of {table} has no meaning");
            tables.entry(table.clone()).or_default().push((column.to_owned(), (*kind).to_owned()));
        }
    }
    tables
}
