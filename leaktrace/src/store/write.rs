//! One entry after the other becomes rows. What follows itself unchanged (a decision, a verdict's shape) is one row that says since
//! when and until when, so that days of the same cost nothing.

use rusqlite::{Connection, Error, ErrorCode, OptionalExtension, params};
use serde::Serialize;

use super::{Entry, intern::Interned, write_report};
use crate::{
    alert::Alert,
    process::host::unix_now,
    report::fingerprint::SiteKey,
    verdict::{Shape, Unexplained, Verdict},
    watched::{Decision, MemoryReading, SessionInfo, Subject},
};

/// How old the figures of a verdict that did not change its shape may become, seconds.
const FIGURES_S: f64 = 30.0;

/// Writes one.
pub(super) fn entry(to: &Connection, interned: &mut Interned, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::Subject(subject) => write_subject(to, subject),
        Entry::Memory(readings) => readings.iter().try_for_each(|(key, reading)| memory(to, key, reading)),
        Entry::Session(info) => session(to, info),
        Entry::Report { session, report } => write_report::report(to, interned, *session, report),
        Entry::Verdicts { subject, at_unix_s, verdicts } => {
            let subject = subject_of(to, subject)?;
            verdicts
                .iter()
                .try_for_each(|(site, judged)| verdict(to, interned, subject, *site, *at_unix_s, judged))
        }
        Entry::Unexplained { subject, at_unix_s, unexplained: growth } => {
            unexplained(to, subject_of(to, subject)?, *at_unix_s, growth.as_ref())
        }
        Entry::Decision(made) => decision(to, made),
        Entry::Alert(raised) => alert(to, raised),
        Entry::Evidence { subject, at_unix_s, reason, directory } => {
            let subject = subject_of(to, subject)?;
            to.prepare_cached(
                "INSERT INTO evidence (subject, at, reason, directory) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![subject, number(*at_unix_s), reason, directory])?;
            Ok(())
        }
    }
}

/// Whether an error says that this entry makes no sense, and nothing about the disk or the file.
pub(super) fn is_about_the_entry(error: &Error) -> bool {
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
        ),
        None => true,
    }
}

/// SQLite's integers have a sign: amounts end there.
pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// The same 64 bits: addresses and offsets, which nobody adds up.
pub(super) fn exact(bits: u64) -> i64 {
    bits.cast_signed()
}

/// SQLite makes NULL of what is no number.
pub(super) fn number(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// A value as text: the name of one of several, or JSON.
pub(super) fn text(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => "null".to_owned(),
    }
}

/// The same of what may be missing.
pub(super) fn perhaps(value: Option<&impl Serialize>) -> Option<String> {
    value.map(text)
}

pub(super) fn set_meta(to: &Connection, key: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])
        .map(drop)
}

fn write_subject(to: &Connection, subject: &Subject) -> rusqlite::Result<()> {
    to.prepare_cached(
        "INSERT INTO subjects (key, kind, name, pid, start_ticks, started, command, container, cgroup, scope, first_seen) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
         ON CONFLICT (key) DO UPDATE SET kind = excluded.kind, name = excluded.name, pid = excluded.pid, \
         start_ticks = excluded.start_ticks, started = excluded.started, command = excluded.command, \
         container = excluded.container, cgroup = excluded.cgroup, scope = excluded.scope",
    )?
    .execute(params![
        subject.key,
        text(&subject.kind),
        subject.name,
        subject.pid,
        signed(subject.start_ticks),
        number(subject.started_unix_s),
        text(&subject.command),
        perhaps(subject.container.as_ref()),
        subject.cgroup,
        subject.scope,
        unix_now()
    ])
    .map(drop)
}

/// The number of a subject. One that was never introduced, since that entry was lost, is known by its key alone.
fn subject_of(to: &Connection, key: &str) -> rusqlite::Result<i64> {
    let find = || {
        to.prepare_cached("SELECT id FROM subjects WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()
    };
    if let Some(id) = find()? {
        return Ok(id);
    }
    write_subject(to, &Subject { key: key.to_owned(), name: key.to_owned(), ..Subject::default() })?;
    find()?.ok_or(Error::QueryReturnedNoRows)
}

fn memory(to: &Connection, key: &str, reading: &MemoryReading) -> rusqlite::Result<()> {
    let cgroup = reading.cgroup;
    to.prepare_cached(
        "INSERT INTO memory (subject, at, anonymous, swap, rss, cpu, processes, cgroup_current, cgroup_anonymous, cgroup_file, \
         cgroup_swap, cgroup_reclaimable, cgroup_limit, cgroup_oom_kills) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        subject_of(to, key)?,
        number(reading.at_unix_s),
        signed(reading.anonymous_bytes),
        signed(reading.swap_bytes),
        signed(reading.rss_bytes),
        number(reading.cpu_s),
        reading.processes,
        cgroup.map(|cgroup| signed(cgroup.current_bytes)),
        cgroup.map(|cgroup| signed(cgroup.anonymous_bytes)),
        cgroup.map(|cgroup| signed(cgroup.file_bytes)),
        cgroup.map(|cgroup| signed(cgroup.swap_bytes)),
        cgroup.map(|cgroup| signed(cgroup.reclaimable_bytes)),
        cgroup.and_then(|cgroup| cgroup.limit_bytes).map(signed),
        cgroup.map(|cgroup| signed(cgroup.oom_kills))
    ])
    .map(drop)
}

fn session(to: &Connection, info: &SessionInfo) -> rusqlite::Result<()> {
    to.prepare_cached(
        "INSERT INTO sessions (id, subject, detail, began, ended, reason, outcome, predicted_slowdown) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
         ON CONFLICT (id) DO UPDATE SET detail = excluded.detail, ended = excluded.ended, reason = excluded.reason, \
         outcome = excluded.outcome, predicted_slowdown = excluded.predicted_slowdown",
    )?
    .execute(params![
        signed(info.id),
        subject_of(to, &info.subject)?,
        text(&info.detail),
        number(info.began_unix_s),
        info.ended_unix_s,
        info.reason,
        info.outcome,
        info.predicted_slowdown
    ])
    .map(drop)
}

fn verdict(
    to: &Connection,
    interned: &mut Interned,
    subject: i64,
    site: SiteKey,
    at_unix_s: f64,
    verdict: &Verdict,
) -> rusqlite::Result<()> {
    let site = interned.site(to, subject, site, None, at_unix_s)?;
    let last = to
        .prepare_cached("SELECT id, shape, at FROM verdicts WHERE site = ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([site], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, f64>(2)?)))
        .optional()?;
    match last {
        Some((id, shape, at)) if shape == text(&verdict.shape) => {
            // Those that nobody waits for may be a little out of date.
            let is_fresh = !verdict.is_leak() && (at_unix_s - at).abs() < FIGURES_S;
            if is_fresh { Ok(()) } else { change_verdict(to, id, at_unix_s, verdict) }
        }
        None if verdict.shape == Shape::TooEarly => Ok(()),
        _ => new_verdict(to, site, at_unix_s, verdict),
    }
}

fn new_verdict(to: &Connection, site: i64, at_unix_s: f64, verdict: &Verdict) -> rusqlite::Result<()> {
    let id = to
        .prepare_cached(
            "INSERT INTO verdicts (site, began, at, shape, confidence, bytes_per_hour, watched, because) \
             VALUES (?1, ?2, ?2, ?3, 0, 0, 0, '')",
        )?
        .insert(params![site, number(at_unix_s), text(&verdict.shape)])?;
    change_verdict(to, id, at_unix_s, verdict)
}

fn change_verdict(to: &Connection, id: i64, at_unix_s: f64, verdict: &Verdict) -> rusqlite::Result<()> {
    to.prepare_cached(
        "UPDATE verdicts SET at = ?2, confidence = ?3, bytes_per_hour = ?4, since = ?5, share_of_growth = ?6, watched = ?7, \
         because = ?8, survival = ?9 WHERE id = ?1",
    )?
    .execute(params![
        id,
        number(at_unix_s),
        number(verdict.confidence),
        number(verdict.bytes_per_hour),
        verdict.since_unix_s,
        verdict.share_of_growth,
        number(verdict.watched_s),
        verdict.because,
        verdict.survival
    ])
    .map(drop)
}

/// One row for as long as there is something unexplained, with the latest figures.
fn unexplained(
    to: &Connection,
    subject: i64,
    at_unix_s: f64,
    growth: Option<&Unexplained>,
) -> rusqlite::Result<()> {
    let at = number(at_unix_s);
    let Some(growth) = growth else {
        return to
            .prepare_cached("UPDATE unexplained SET over = ?2 WHERE subject = ?1 AND over IS NULL")?
            .execute(params![subject, at])
            .map(drop);
    };
    let changed = to
        .prepare_cached(
            "UPDATE unexplained SET at = ?2, grown_bytes = ?3, tracked_bytes = ?4, reasons = ?5 \
             WHERE subject = ?1 AND over IS NULL",
        )?
        .execute(params![subject, at, growth.grown_bytes, growth.tracked_bytes, text(&growth.reasons)])?;
    if changed > 0 {
        return Ok(());
    }
    to.prepare_cached(
        "INSERT INTO unexplained (subject, began, at, grown_bytes, tracked_bytes, reasons) VALUES (?1, ?2, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![subject, at, growth.grown_bytes, growth.tracked_bytes, text(&growth.reasons)])
    .map(drop)
}

/// The same again is counted with the last one.
fn decision(to: &Connection, made: &Decision) -> rusqlite::Result<()> {
    let subject = made.subject.as_deref().map(|key| subject_of(to, key)).transpose()?;
    let at = number(made.at_unix_s);
    let last = to
        .prepare_cached("SELECT id, sentence FROM decisions WHERE subject IS ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([subject], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    match last.filter(|(_, sentence)| *sentence == made.sentence) {
        Some((id, _)) => to
            .prepare_cached("UPDATE decisions SET at = ?2, times = times + 1 WHERE id = ?1")?
            .execute(params![id, at]),
        None => to
            .prepare_cached(
                "INSERT INTO decisions (subject, began, at, times, sentence) VALUES (?1, ?2, ?2, 1, ?3)",
            )?
            .execute(params![subject, at, made.sentence]),
    }
    .map(drop)
}

fn alert(to: &Connection, raised: &Alert) -> rusqlite::Result<()> {
    let key = &raised.subject.key;
    let subject = if key.is_empty() { None } else { Some(subject_of(to, key)?) };
    to.prepare_cached(
        "INSERT INTO alerts (subject, at, kind, fingerprint, sentence, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        subject,
        number(raised.at_unix_s),
        text(&raised.kind),
        raised.fingerprint,
        raised.sentence,
        text(raised)
    ])
    .map(drop)
}
