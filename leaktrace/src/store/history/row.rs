//! Rows become values again. What cannot be read as what it should be (another hand was at the file) is the default of its kind:
//! a report with a hole is worth more than none.

use rusqlite::{Row, types::FromSql};
use serde::de::DeserializeOwned;

/// A column by name.
pub(super) fn get<T: FromSql>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get(column)
}

/// An amount, never negative.
pub(super) fn amount(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// An amount that may be missing.
pub(super) fn perhaps(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.and_then(|amount| u64::try_from(amount).ok()))
}

/// A number that fits 32 bits.
pub(super) fn small(row: &Row<'_>, column: &str) -> rusqlite::Result<u32> {
    Ok(u32::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// One of several, by name.
pub(super) fn named<T: DeserializeOwned + Default>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let name: String = row.get(column)?;
    Ok(serde_json::from_value(serde_json::Value::String(name)).unwrap_or_default())
}

/// JSON, or the bare name of something that has no more to it.
pub(super) fn json<T: DeserializeOwned + Default>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    let name = || serde_json::from_value(serde_json::Value::String(text.clone())).unwrap_or_default();
    Ok(serde_json::from_str(&text).unwrap_or_else(|_| name()))
}

/// JSON that may be missing.
pub(super) fn perhaps_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}
