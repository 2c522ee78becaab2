//! A report becomes rows: its processes once a session, its sites once a subject, its stacks and frames once for all, and the
//! figures of this moment.

use std::collections::HashMap;

use rusqlite::{Connection, Error, OptionalExtension, params};

use super::{
    intern::Interned,
    write::{number, perhaps, signed, text},
};
use crate::report::{
    fingerprint::SiteKey,
    model::{AgeClass, ProcessReport, Report, SiteReport, Truth},
};

/// Writes the report of a session that is in the history.
pub(super) fn report(
    to: &Connection,
    interned: &mut Interned,
    session: u64,
    report: &Report,
) -> rusqlite::Result<()> {
    let subject: i64 = to
        .prepare_cached("SELECT subject FROM sessions WHERE id = ?1")?
        .query_row([signed(session)], |row| row.get(0))
        .optional()?
        // The entry that began it was lost: nobody knows whose report this is.
        .ok_or_else(|| {
            Error::ToSqlConversionFailure("a report of a trace that the history does not know".into())
        })?;
    let id = head(to, session, report)?;
    for process in &report.processes {
        let image = image(to, session, process)?;
        process_reading(to, id, image, process)?;
        for (stack, site) in distinct(to, interned, process)? {
            let number = interned.site(to, subject, SiteKey::of(&site), Some(stack), report.at_unix_s)?;
            site_reading(to, [id, image, stack, number], &site)?;
        }
    }
    Ok(())
}

fn head(to: &Connection, session: u64, report: &Report) -> rusqlite::Result<i64> {
    // Most counters are nought most of the time.
    let mut counters = report.truth.counters.clone();
    counters.retain(|_, count| *count != 0);
    let truth = Truth { counters, ..report.truth.clone() };
    to.prepare_cached(
        "INSERT INTO reports (session, sequence, reason, at, started, elapsed, interval, min_age, version, kernel, ended, truth) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .insert(params![
        signed(session),
        signed(report.sequence),
        text(&report.reason),
        number(report.at_unix_s),
        number(report.started_unix_s),
        number(report.elapsed_s),
        number(report.interval_s),
        number(report.min_age_s),
        report.leaktrace_version,
        report.kernel,
        text(&report.ended),
        text(&truth)
    ])
}

fn image(to: &Connection, session: u64, process: &ProcessReport) -> rusqlite::Result<i64> {
    let identity = params![signed(session), process.pid, process.serial];
    let found: Option<(i64, String)> = to
        .prepare_cached("SELECT id, name FROM images WHERE session = ?1 AND pid = ?2 AND serial = ?3")?
        .query_row(identity, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((id, name)) if name == process.name => return Ok(id),
        Some((id, _)) => {
            to.prepare_cached("UPDATE images SET name = ?2 WHERE id = ?1")?
                .execute(params![id, process.name])?;
            return Ok(id);
        }
        None => {}
    }
    to.prepare_cached(
        "INSERT INTO images (session, pid, serial, name, command, container, namespace_pids, late, application_root, \
         rss_at_attach) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .insert(params![
        signed(session),
        process.pid,
        process.serial,
        process.name,
        text(&process.command),
        perhaps(process.container.as_ref()),
        text(&process.namespace_pids),
        process.late_s,
        process.application_root,
        process.rss_at_attach_bytes.map(signed)
    ])
}

fn process_reading(
    to: &Connection,
    report: i64,
    image: i64,
    process: &ProcessReport,
) -> rusqlite::Result<()> {
    let growth = process.growth;
    to.prepare_cached(
        "INSERT OR REPLACE INTO process_readings (report, image, ended, rss, live_bytes, live_blocks, survivor_bytes, \
         survivor_blocks, allocated_bytes, allocated_blocks, growth_bytes_per_hour, growth_observed, growth_steady, python) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        report,
        image,
        process.ended,
        process.rss_bytes.map(signed),
        signed(process.live.bytes),
        signed(process.live.blocks),
        signed(process.survivors.bytes),
        signed(process.survivors.blocks),
        signed(process.allocated.bytes),
        signed(process.allocated.blocks),
        growth.map(|growth| number(growth.bytes_per_hour)),
        growth.map(|growth| number(growth.observed_s)),
        growth.map(|growth| number(growth.steady_s)),
        perhaps(process.python.as_ref())
    ])
    .map(drop)
}

/// The sites of a process, each stack once: code that was unloaded and loaded again is the same code to who reads this.
fn distinct(
    to: &Connection,
    interned: &mut Interned,
    process: &ProcessReport,
) -> rusqlite::Result<Vec<(i64, SiteReport)>> {
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut sites: Vec<(i64, SiteReport)> = Vec::with_capacity(process.sites.len());
    for site in &process.sites {
        let stack = interned.stack(to, site)?;
        match places.get(&stack).and_then(|place| sites.get_mut(*place)) {
            Some((_, known)) => add(known, site),
            None => {
                places.insert(stack, sites.len());
                sites.push((stack, site.clone()));
            }
        }
    }
    Ok(sites)
}

fn add(known: &mut SiteReport, more: &SiteReport) {
    known.live = known.live.plus(more.live);
    known.survivors = known.survivors.plus(more.survivors);
    known.allocated = known.allocated.plus(more.allocated);
    known.growth = known.growth.into_iter().chain(more.growth).reduce(crate::report::model::Growth::plus);
    known.ages.extend_from_slice(&more.ages);
}

fn site_reading(
    to: &Connection,
    [report, image, stack, site]: [i64; 4],
    reading: &SiteReport,
) -> rusqlite::Result<()> {
    let growth = reading.growth;
    to.prepare_cached(
        "INSERT OR REPLACE INTO site_readings (report, image, stack, site, live_bytes, live_blocks, survivor_bytes, \
         survivor_blocks, allocated_bytes, allocated_blocks, growth_bytes_per_hour, growth_observed, growth_steady, ages, \
         examined, holding) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
    )?
    .execute(params![
        report,
        image,
        stack,
        site,
        signed(reading.live.bytes),
        signed(reading.live.blocks),
        signed(reading.survivors.bytes),
        signed(reading.survivors.blocks),
        signed(reading.allocated.bytes),
        signed(reading.allocated.blocks),
        growth.map(|growth| number(growth.bytes_per_hour)),
        growth.map(|growth| number(growth.observed_s)),
        growth.map(|growth| number(growth.steady_s)),
        ages(&reading.ages),
        reading.recycled.map(|recycled| signed(recycled.examined)),
        reading.recycled.map(|recycled| signed(recycled.holding))
    ])
    .map(drop)
}

/// `[[youngest, oldest, bytes, blocks], ...]`, youngest first, without empty classes.
fn ages(ages: &[AgeClass]) -> Option<String> {
    let classes: Vec<(f64, f64, u64, u64)> = ages
        .iter()
        .filter(|age| !age.live.is_zero())
        .map(|age| (age.youngest_s, age.oldest_s, age.live.bytes, age.live.blocks))
        .collect();
    (!classes.is_empty()).then(|| text(&classes))
}
