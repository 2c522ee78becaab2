//! Moments that the history knows something of, and the nearest to one that it does not.

use rusqlite::{OptionalExtension, params};

use super::History;
use crate::store::StoreError;

/// For how long a report speaks for the time after it when no other follows: intervals, and at least so many seconds.
const INTERVALS: f64 = 2.0;
const LEAST_S: f64 = 60.0;

/// A moment at which a subject was traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// The report that knows it.
    pub(super) report: i64,
    /// When that was made, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// The trace it belongs to. Survivors begin at nothing in each.
    pub session: u64,
}

/// The moments nearest to one at which nothing was known, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nearest {
    /// The last before it.
    pub before_unix_s: Option<f64>,
    /// The first after it.
    pub after_unix_s: Option<f64>,
}

impl Nearest {
    /// The nearest of two subjects.
    pub fn or(self, other: Self) -> Self {
        let pick = |a: Option<f64>, b: Option<f64>, better: fn(f64, f64) -> f64| {
            a.into_iter().chain(b).reduce(better)
        };
        Self {
            before_unix_s: pick(self.before_unix_s, other.before_unix_s, f64::max),
            after_unix_s: pick(self.after_unix_s, other.after_unix_s, f64::min),
        }
    }
}

impl History {
    /// The moment of a subject that a time belongs to, or those nearest to it: the last report before it, if its trace went on
    /// then.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn moment(&self, subject: &str, at_unix_s: f64) -> Result<Result<Moment, Nearest>, StoreError> {
        let before = self.neighbour(subject, at_unix_s, true)?;
        let after = self.neighbour(subject, at_unix_s, false)?;
        Ok(match before {
            Some((moment, speaks_until)) if speaks_until >= at_unix_s => Ok(moment),
            Some((moment, _)) if after.is_some_and(|(next, _)| next.session == moment.session) => Ok(moment),
            _ => Err(Nearest {
                before_unix_s: before.map(|(moment, _)| moment.at_unix_s),
                after_unix_s: after.map(|(moment, _)| moment.at_unix_s),
            }),
        })
    }

    /// The last report at or before a moment, or the first after it; and until when it speaks.
    fn neighbour(
        &self,
        subject: &str,
        at_unix_s: f64,
        before: bool,
    ) -> Result<Option<(Moment, f64)>, StoreError> {
        let side = if before {
            "at <= ?2 ORDER BY at DESC, reports.id DESC"
        } else {
            "at > ?2 ORDER BY at, reports.id"
        };
        let sql = format!(
            "SELECT reports.id, session, at, interval, ended_at FROM reports \
             JOIN (SELECT id AS number, ended AS ended_at FROM sessions \
             WHERE subject = (SELECT id FROM subjects WHERE key = ?1)) ON number = session WHERE {side} LIMIT 1"
        );
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let found = statement.query_row(params![subject, at_unix_s], |row| {
                let (session, at, interval): (i64, f64, f64) = (row.get(1)?, row.get(2)?, row.get(3)?);
                let silence = (interval * INTERVALS).max(LEAST_S);
                let ended: Option<f64> = row.get(4)?;
                let moment = Moment {
                    report: row.get(0)?,
                    at_unix_s: at,
                    session: u64::try_from(session).unwrap_or(0),
                };
                Ok((moment, ended.map_or(at + silence, |ended| (at + silence).min(ended.max(at)))))
            });
            found.optional()
        })
    }
}
