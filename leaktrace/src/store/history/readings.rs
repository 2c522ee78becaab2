//! Who was watched, how their memory developed, when they were traced, and what was read of their sites.

use std::collections::BTreeMap;

use rusqlite::{Row, params};

use super::{
    History, Span,
    row::{amount, get, json, named, perhaps, perhaps_json, small},
};
use crate::{
    report::fingerprint::SiteKey,
    store::StoreError,
    verdict::SiteReading,
    watched::{CgroupReading, MemoryReading, SessionInfo, Subject},
};

impl History {
    /// Everybody who was ever watched and is not forgotten, in the order in which they were met.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn subjects(&self) -> Result<Vec<Subject>, StoreError> {
        self.read(|connection| {
            connection.prepare_cached("SELECT * FROM subjects ORDER BY id")?.query_map([], subject)?.collect()
        })
    }

    /// Memory of a subject ([`Subject::key`]), in the order in which it was read. Times can fall back where a clock was put back.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn memory(&self, subject: &str, span: Span) -> Result<Vec<MemoryReading>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT * FROM memory WHERE subject = (SELECT id FROM subjects WHERE key = ?1) AND at >= ?2 AND at <= ?3 \
                 ORDER BY id",
            )?;
            let rows = statement.query_map(params![subject, span.since_unix_s, span.until_unix_s], memory)?;
            rows.collect()
        })
    }

    /// Traces that ran at some time in a span, of one subject or of all, in the order in which they began.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn sessions(&self, subject: Option<&str>, span: Span) -> Result<Vec<SessionInfo>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT sessions.*, subjects.key FROM sessions JOIN subjects ON subjects.id = sessions.subject \
                 WHERE (?1 IS NULL OR key = ?1) AND began <= ?3 AND max(began, ifnull(ended, \
                 ifnull((SELECT at FROM reports WHERE session = sessions.id ORDER BY id DESC LIMIT 1), began))) >= ?2 \
                 ORDER BY sessions.id",
            )?;
            let rows = statement.query_map(params![subject, span.since_unix_s, span.until_unix_s], session)?;
            rows.collect()
        })
    }

    /// What was read of each site of a subject from a moment on, in order. Within a session, times are those of its beginning and
    /// of a clock that nobody can put back; the processes of the subject are summed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn site_readings(
        &self,
        subject: &str,
        since_unix_s: f64,
    ) -> Result<BTreeMap<SiteKey, Vec<SiteReading>>, StoreError> {
        let rows: Vec<(SiteKey, SiteReading)> = self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, session, started + elapsed AS moment, sum(survivor_bytes) AS bytes, sum(survivor_blocks) AS blocks, \
                 sum(allocated_bytes) AS all_bytes, sum(allocated_blocks) AS all_blocks \
                 FROM reports JOIN site_readings ON report = reports.id JOIN sites ON sites.id = site \
                 WHERE session IN (SELECT id FROM sessions WHERE subject = (SELECT id FROM subjects WHERE subjects.key = ?1)) \
                 AND at >= ?2 GROUP BY reports.id, site ORDER BY reports.id",
            )?;
            statement.query_map(params![subject, since_unix_s], site_reading)?.collect()
        })?;
        let mut readings: BTreeMap<SiteKey, Vec<SiteReading>> = BTreeMap::new();
        for (site, reading) in rows {
            readings.entry(site).or_default().push(reading);
        }
        Ok(readings)
    }
}

fn subject(row: &Row<'_>) -> rusqlite::Result<Subject> {
    Ok(Subject {
        key: get(row, "key")?,
        kind: named(row, "kind")?,
        name: get(row, "name")?,
        pid: small(row, "pid")?,
        start_ticks: amount(row, "start_ticks")?,
        started_unix_s: get(row, "started")?,
        command: json(row, "command")?,
        container: perhaps_json(row, "container")?,
        cgroup: get(row, "cgroup")?,
        scope: get(row, "scope")?,
    })
}

fn memory(row: &Row<'_>) -> rusqlite::Result<MemoryReading> {
    let cgroup = match perhaps(row, "cgroup_current")? {
        Some(current_bytes) => Some(CgroupReading {
            current_bytes,
            anonymous_bytes: perhaps(row, "cgroup_anonymous")?.unwrap_or(0),
            file_bytes: perhaps(row, "cgroup_file")?.unwrap_or(0),
            swap_bytes: perhaps(row, "cgroup_swap")?.unwrap_or(0),
            reclaimable_bytes: perhaps(row, "cgroup_reclaimable")?.unwrap_or(0),
            limit_bytes: perhaps(row, "cgroup_limit")?,
            oom_kills: perhaps(row, "cgroup_oom_kills")?.unwrap_or(0),
        }),
        None => None,
    };
    Ok(MemoryReading {
        at_unix_s: get(row, "at")?,
        anonymous_bytes: amount(row, "anonymous")?,
        swap_bytes: amount(row, "swap")?,
        rss_bytes: amount(row, "rss")?,
        cpu_s: get(row, "cpu")?,
        processes: small(row, "processes")?,
        cgroup,
    })
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionInfo> {
    Ok(SessionInfo {
        id: amount(row, "id")?,
        subject: get(row, "key")?,
        detail: named(row, "detail")?,
        began_unix_s: get(row, "began")?,
        ended_unix_s: get(row, "ended")?,
        reason: get(row, "reason")?,
        outcome: get(row, "outcome")?,
        predicted_slowdown: get(row, "predicted_slowdown")?,
    })
}

fn site_reading(row: &Row<'_>) -> rusqlite::Result<(SiteKey, SiteReading)> {
    let reading = SiteReading {
        at_unix_s: get(row, "moment")?,
        session: amount(row, "session")?,
        bytes: amount(row, "bytes")?,
        blocks: amount(row, "blocks")?,
        allocated_bytes: amount(row, "all_bytes")?,
        allocated_blocks: amount(row, "all_blocks")?,
    };
    Ok((SiteKey(get(row, "key")?), reading))
}
