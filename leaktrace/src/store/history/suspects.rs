//! Suspects as they were judged last, with the stack and the survivors that the last report knew of them.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, Row, params};

use super::{
    History, Span,
    row::{amount, get, named},
    stacks::Stacks,
};
use crate::{
    report::{
        fingerprint::SiteKey,
        line,
        model::{Amount, SiteReport},
    },
    store::StoreError,
    verdict::{Verdict, worst_first},
    watched::Suspect,
};

/// Traces whose last reports are looked at for a suspect's survivors.
const MAX_SESSIONS: u32 = 16;

/// A suspect without words.
struct Judged {
    site: i64,
    key: SiteKey,
    stack: Option<i64>,
    verdict: Verdict,
}

impl History {
    /// What was thought last, until the end of a span, of each site of a subject that was judged in it, the worst first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn suspects(&self, subject: &str, span: Span) -> Result<Vec<Suspect>, StoreError> {
        self.read(|connection| {
            let judged = judged(connection, subject, span)?;
            let roots = application_roots(connection, subject)?;
            let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
            let survivors = survivors(connection, subject, span, &judged)?;
            let mut stacks = Stacks::default();
            let suspects = judged.into_iter().map(|judged| {
                let site = match judged.stack {
                    Some(stack) => stacks.site(connection, stack)?,
                    None => SiteReport::default(),
                };
                Ok(Suspect {
                    site: judged.key,
                    line: line::line(&site, &roots),
                    survivors: survivors.get(&judged.site).copied().unwrap_or_default(),
                    verdict: judged.verdict,
                    stack: line::stack(&site, &roots),
                })
            });
            let mut suspects: Vec<Suspect> = suspects.collect::<rusqlite::Result<_>>()?;
            suspects.sort_by(|a, b| {
                worst_first((&a.verdict, a.survivors), (&b.verdict, b.survivors)).then(a.site.cmp(&b.site))
            });
            Ok(suspects)
        })
    }

    /// The stack for people of each site of a subject, innermost first, without plumbing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn stacks(&self, subject: &str) -> Result<BTreeMap<SiteKey, Vec<String>>, StoreError> {
        self.read(|connection| {
            let roots = application_roots(connection, subject)?;
            let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
            let mut stacks = Stacks::default();
            let mut statement = connection.prepare_cached(
                "SELECT key, stack FROM sites WHERE subject = (SELECT id FROM subjects WHERE subjects.key = ?1) \
                 AND stack IS NOT NULL",
            )?;
            let rows = statement.query_map([subject], |row| Ok((SiteKey(get(row, "key")?), get(row, "stack")?)))?;
            rows.map(|row| {
                let (key, stack) = row?;
                Ok((key, line::stack(&stacks.site(connection, stack)?, &roots)))
            })
            .collect()
        })
    }

    /// What was thought of a site of a subject from its first verdict on: each shape with the time at which it was first seen, seconds since
    /// the Unix epoch, and its latest figures.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn verdicts(&self, subject: &str, site: SiteKey) -> Result<Vec<(f64, Verdict)>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT verdicts.* FROM verdicts JOIN sites ON sites.id = site \
                 WHERE key = ?2 AND subject = (SELECT id FROM subjects WHERE subjects.key = ?1) ORDER BY verdicts.id",
            )?;
            let rows = statement.query_map(params![subject, site.0], |row| Ok((get(row, "began")?, verdict(row)?)))?;
            rows.collect()
        })
    }
}

fn judged(connection: &Connection, subject: &str, span: Span) -> rusqlite::Result<Vec<Judged>> {
    let mut statement = connection.prepare_cached(
        "SELECT verdicts.*, sites.key, stack FROM verdicts JOIN sites ON sites.id = site WHERE verdicts.id IN (\
         SELECT max(verdicts.id) FROM verdicts JOIN sites ON sites.id = site \
         WHERE subject = (SELECT id FROM subjects WHERE subjects.key = ?1) AND at >= ?2 AND began <= ?3 GROUP BY site)",
    )?;
    let rows = statement.query_map(params![subject, span.since_unix_s, span.until_unix_s], |row| {
        Ok(Judged {
            site: get(row, "site")?,
            key: SiteKey(get(row, "key")?),
            stack: get(row, "stack")?,
            verdict: verdict(row)?,
        })
    })?;
    rows.collect()
}

fn verdict(row: &Row<'_>) -> rusqlite::Result<Verdict> {
    Ok(Verdict {
        shape: named(row, "shape")?,
        confidence: get(row, "confidence")?,
        bytes_per_hour: get(row, "bytes_per_hour")?,
        since_unix_s: get(row, "since")?,
        share_of_growth: get(row, "share_of_growth")?,
        survival: get(row, "survival")?,
        watched_s: get(row, "watched")?,
        because: get(row, "because")?,
    })
}

fn application_roots(connection: &Connection, subject: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT DISTINCT application_root FROM images JOIN sessions ON sessions.id = session \
         WHERE subject = (SELECT id FROM subjects WHERE key = ?1) AND application_root IS NOT NULL",
    )?;
    statement.query_map([subject], |row| row.get(0))?.collect()
}

/// What each site had in the last report that knew it.
fn survivors(
    connection: &Connection,
    subject: &str,
    span: Span,
    judged: &[Judged],
) -> rusqlite::Result<HashMap<i64, Amount>> {
    let mut reports = connection.prepare_cached(
        "SELECT max(reports.id) FROM reports JOIN sessions ON sessions.id = session \
         WHERE subject = (SELECT id FROM subjects WHERE key = ?1) AND at <= ?2 GROUP BY session ORDER BY 1 DESC LIMIT ?3",
    )?;
    let mut sums = connection.prepare_cached(
        "SELECT site, sum(survivor_bytes) AS bytes, sum(survivor_blocks) AS blocks FROM site_readings WHERE report = ?1 \
         GROUP BY site",
    )?;
    let mut known = HashMap::new();
    let mut rows = reports.query(params![subject, span.until_unix_s, MAX_SESSIONS])?;
    while let Some(row) = rows.next()? {
        if judged.iter().all(|judged| known.contains_key(&judged.site)) {
            break;
        }
        let mut sites = sums.query([row.get::<_, i64>(0)?])?;
        while let Some(row) = sites.next()? {
            let amount = Amount { bytes: amount(row, "bytes")?, blocks: amount(row, "blocks")? };
            known.entry(get(row, "site")?).or_insert(amount);
        }
    }
    Ok(known)
}
