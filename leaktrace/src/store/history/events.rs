//! What was decided, told and kept as evidence.

use rusqlite::{Row, params};
use serde::Serialize;

use super::{
    History, Span,
    row::{amount, get, json, perhaps_json},
};
use crate::{alert::Alert, store::StoreError, verdict::Unexplained, watched::Decision};

/// A decision, as often as it was repeated without another in between.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Told {
    /// It, with the time at which it was last made.
    pub decision: Decision,
    /// When it was first made, seconds since the Unix epoch.
    pub began_unix_s: f64,
    /// How often.
    pub times: u64,
}

/// Evidence that was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evidence {
    /// [`crate::watched::Subject::key`] of whom.
    pub subject: String,
    /// When, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Why, in words.
    pub reason: String,
    /// Where it lies.
    pub directory: String,
}

impl History {
    /// Decisions about one subject, or about all and the daemon itself, in order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn decisions(&self, subject: Option<&str>, span: Span) -> Result<Vec<Told>, StoreError> {
        let sql = "SELECT decisions.*, key FROM decisions LEFT JOIN subjects ON subjects.id = subject \
                   WHERE (?1 IS NULL OR key = ?1) AND at >= ?2 AND began <= ?3 ORDER BY decisions.id";
        self.rows(sql, subject, span, told)
    }

    /// Alerts about one subject, or all, in order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn alerts(&self, subject: Option<&str>, span: Span) -> Result<Vec<Alert>, StoreError> {
        let sql = "SELECT alerts.* FROM alerts LEFT JOIN subjects ON subjects.id = subject \
                   WHERE (?1 IS NULL OR key = ?1) AND at >= ?2 AND at <= ?3 ORDER BY alerts.id";
        self.rows(sql, subject, span, |row| Ok(Alert { id: amount(row, "id")?, ..json(row, "body")? }))
    }

    /// Evidence about one subject, or all, in order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn evidence(&self, subject: Option<&str>, span: Span) -> Result<Vec<Evidence>, StoreError> {
        let sql = "SELECT evidence.*, key FROM evidence JOIN subjects ON subjects.id = subject \
                   WHERE (?1 IS NULL OR key = ?1) AND at >= ?2 AND at <= ?3 ORDER BY evidence.id";
        self.rows(sql, subject, span, |row| {
            Ok(Evidence {
                subject: get(row, "key")?,
                at_unix_s: get(row, "at")?,
                reason: get(row, "reason")?,
                directory: get(row, "directory")?,
            })
        })
    }

    /// The latest growth of a subject in a span that tracked memory does not explain; `None`: there is none, or it is over.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn unexplained(&self, subject: &str, span: Span) -> Result<Option<Unexplained>, StoreError> {
        let sql = "SELECT unexplained.* FROM unexplained JOIN subjects ON subjects.id = subject \
                   WHERE key = ?1 AND at >= ?2 AND began <= ?3 AND (over IS NULL OR over > ?3) \
                   ORDER BY unexplained.id DESC LIMIT 1";
        let mut rows = self.rows(sql, Some(subject), span, |row| {
            Ok(Unexplained {
                grown_bytes: get(row, "grown_bytes")?,
                tracked_bytes: get(row, "tracked_bytes")?,
                reasons: perhaps_json(row, "reasons")?.unwrap_or_default(),
            })
        })?;
        Ok(rows.pop())
    }

    fn rows<T>(
        &self,
        sql: &str,
        subject: Option<&str>,
        span: Span,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map(params![subject, span.since_unix_s, span.until_unix_s], read)?.collect()
        })
    }
}

fn told(row: &Row<'_>) -> rusqlite::Result<Told> {
    let decision =
        Decision { at_unix_s: get(row, "at")?, subject: get(row, "key")?, sentence: get(row, "sentence")? };
    Ok(Told { decision, began_unix_s: get(row, "began")?, times: amount(row, "times")? })
}
