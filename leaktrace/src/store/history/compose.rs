//! Reports out of stored rows, as the tracer made them, so that every output format works on the past: what each trace last knew in a
//! span, with the change since the first that it knew there.

use std::collections::HashMap;

use rusqlite::{Connection, Row, params};

use super::{
    History, Moment, Span,
    merged::merged,
    row::{amount, get, json, named, perhaps, perhaps_json, small},
    stacks::Stacks,
};
use crate::{
    report::model::{AgeClass, Amount, Change, Growth, ProcessReport, Recycled, Report, SiteReport},
    store::StoreError,
};

/// What is compared: a report, and the one whose survivors are subtracted.
#[derive(Clone, Copy, Debug)]
struct Cut {
    last: i64,
    first: i64,
}

impl History {
    /// What was known at the end of a span, of one subject ([`crate::watched::Subject::key`]) or of all: the last report there of each
    /// subject's latest trace. The change of survivors is that since the first report of this trace in the span. `None`: nobody
    /// was traced then.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn report_between(&self, subject: Option<&str>, span: Span) -> Result<Option<Report>, StoreError> {
        self.reports_between(subject, span).map(merged)
    }

    /// The same, one report for each trace.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn reports_between(&self, subject: Option<&str>, span: Span) -> Result<Vec<Report>, StoreError> {
        self.read(|connection| {
            let mut stacks = Stacks::default();
            let cuts = cuts(connection, subject, span)?;
            cuts.into_iter().map(|cut| compose(connection, &mut stacks, cut, false)).collect()
        })
    }

    /// What was known at the later moment, with the change since the earlier one. What was there then and is not any more has no survivors
    /// and a negative change.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn difference(&self, earlier: &Moment, later: &Moment) -> Result<Report, StoreError> {
        let cut = Cut { last: later.report, first: earlier.report };
        self.read(|connection| compose(connection, &mut Stacks::default(), cut, true))
    }
}

/// The latest trace of each subject in a span.
fn cuts(connection: &Connection, subject: Option<&str>, span: Span) -> rusqlite::Result<Vec<Cut>> {
    let mut statement = connection.prepare_cached(
        "SELECT subject, max(reports.id) AS last, min(reports.id) AS first FROM reports \
         JOIN sessions ON sessions.id = session \
         WHERE at >= ?2 AND at <= ?3 AND (?1 IS NULL OR subject = (SELECT id FROM subjects WHERE key = ?1)) \
         GROUP BY session ORDER BY last",
    )?;
    let rows = statement.query_map(params![subject, span.since_unix_s, span.until_unix_s], |row| {
        Ok((get::<i64>(row, "subject")?, Cut { last: get(row, "last")?, first: get(row, "first")? }))
    })?;
    let latest: HashMap<i64, Cut> = rows.collect::<rusqlite::Result<_>>()?;
    let mut cuts: Vec<Cut> = latest.into_values().collect();
    cuts.sort_unstable_by_key(|cut| cut.last);
    Ok(cuts)
}

/// The last report, with changes since the first. With `gone`, what the first had and the last has not is there without survivors.
fn compose(connection: &Connection, stacks: &mut Stacks, cut: Cut, gone: bool) -> rusqlite::Result<Report> {
    let mut report = head(connection, cut.last)?;
    let mut processes = processes(connection, stacks, cut.last)?;
    for (image, process) in self::processes(connection, stacks, cut.first)? {
        subtract(&mut processes, image, process, gone);
    }
    report.processes = processes.into_iter().map(|(_, process)| process).collect();
    Ok(report)
}

fn head(connection: &Connection, report: i64) -> rusqlite::Result<Report> {
    connection
        .prepare_cached(
            "SELECT reports.*, detail FROM reports JOIN sessions ON sessions.id = session WHERE reports.id = ?1",
        )?
        .query_row([report], |row| {
            Ok(Report {
                leaktrace_version: get(row, "version")?,
                kernel: get(row, "kernel")?,
                sequence: amount(row, "sequence")?,
                reason: json(row, "reason")?,
                started_unix_s: get(row, "started")?,
                at_unix_s: get(row, "at")?,
                elapsed_s: get(row, "elapsed")?,
                interval_s: get(row, "interval")?,
                min_age_s: get(row, "min_age")?,
                top: 10,
                detail: named(row, "detail")?,
                ended: json(row, "ended")?,
                truth: json(row, "truth")?,
                ..Report::default()
            })
        })
}

/// The processes of a report with their sites, the largest survivors first, by the number of the image. Everything has grown from
/// nothing.
fn processes(
    connection: &Connection,
    stacks: &mut Stacks,
    report: i64,
) -> rusqlite::Result<Vec<(i64, ProcessReport)>> {
    let mut statement = connection.prepare_cached(
        "SELECT process_readings.*, images.* FROM process_readings JOIN images ON images.id = image WHERE report = ?1 \
         ORDER BY survivor_bytes DESC, survivor_blocks DESC, image",
    )?;
    let mut processes: Vec<(i64, ProcessReport)> =
        statement.query_map([report], process)?.collect::<rusqlite::Result<_>>()?;
    for (image, process) in &mut processes {
        process.sites = sites(connection, stacks, report, *image)?;
    }
    Ok(processes)
}

fn process(row: &Row<'_>) -> rusqlite::Result<(i64, ProcessReport)> {
    let survivors = pair(row, ["survivor_bytes", "survivor_blocks"])?;
    let process = ProcessReport {
        pid: small(row, "pid")?,
        serial: small(row, "serial")?,
        namespace_pids: json(row, "namespace_pids")?,
        container: perhaps_json(row, "container")?,
        late_s: get(row, "late")?,
        name: get(row, "name")?,
        command: json(row, "command")?,
        ended: get(row, "ended")?,
        rss_bytes: perhaps(row, "rss")?,
        rss_at_attach_bytes: perhaps(row, "rss_at_attach")?,
        live: pair(row, ["live_bytes", "live_blocks"])?,
        survivors,
        allocated: pair(row, ["allocated_bytes", "allocated_blocks"])?,
        survivors_change: change(survivors, Amount::default()),
        growth: growth(row)?,
        application_root: get(row, "application_root")?,
        python: perhaps_json(row, "python")?,
        sites: Vec::new(),
    };
    Ok((get(row, "image")?, process))
}

fn sites(
    connection: &Connection,
    stacks: &mut Stacks,
    report: i64,
    image: i64,
) -> rusqlite::Result<Vec<SiteReport>> {
    let mut statement = connection.prepare_cached(
        "SELECT * FROM site_readings WHERE report = ?1 AND image = ?2 ORDER BY survivor_bytes DESC, live_bytes DESC, stack",
    )?;
    let mut rows = statement.query([report, image])?;
    let mut sites = Vec::new();
    while let Some(row) = rows.next()? {
        let named = stacks.site(connection, get(row, "stack")?)?;
        sites.push(site(row, named)?);
    }
    Ok(sites)
}

fn site(row: &Row<'_>, named: SiteReport) -> rusqlite::Result<SiteReport> {
    let survivors = pair(row, ["survivor_bytes", "survivor_blocks"])?;
    let recycled = match (perhaps(row, "examined")?, perhaps(row, "holding")?) {
        (Some(examined), Some(holding)) => Some(Recycled { examined, holding }),
        _ => None,
    };
    Ok(SiteReport {
        live: pair(row, ["live_bytes", "live_blocks"])?,
        survivors,
        allocated: pair(row, ["allocated_bytes", "allocated_blocks"])?,
        survivors_change: change(survivors, Amount::default()),
        growth: growth(row)?,
        ages: ages(row)?,
        recycled,
        ..named
    })
}

fn pair(row: &Row<'_>, [bytes, blocks]: [&str; 2]) -> rusqlite::Result<Amount> {
    Ok(Amount { bytes: amount(row, bytes)?, blocks: amount(row, blocks)? })
}

fn growth(row: &Row<'_>) -> rusqlite::Result<Option<Growth>> {
    let Some(bytes_per_hour) = get(row, "growth_bytes_per_hour")? else { return Ok(None) };
    let seconds = |column| Ok::<_, rusqlite::Error>(get::<Option<f64>>(row, column)?.unwrap_or(0.0));
    Ok(Some(Growth {
        bytes_per_hour,
        observed_s: seconds("growth_observed")?,
        steady_s: seconds("growth_steady")?,
    }))
}

fn ages(row: &Row<'_>) -> rusqlite::Result<Vec<AgeClass>> {
    let classes: Option<Vec<(f64, f64, u64, u64)>> = perhaps_json(row, "ages")?;
    let class = |(youngest_s, oldest_s, bytes, blocks)| AgeClass {
        youngest_s,
        oldest_s,
        live: Amount { bytes, blocks },
    };
    Ok(classes.unwrap_or_default().into_iter().map(class).collect())
}

/// Takes what a process had earlier off what it has now.
fn subtract(processes: &mut Vec<(i64, ProcessReport)>, image: i64, earlier: ProcessReport, gone: bool) {
    // In another trace the same process has another number.
    let same = processes.iter().position(|(known, _)| *known == image);
    let place = same.or_else(|| processes.iter().position(|(_, known)| known.pid == earlier.pid));
    let Some((_, process)) = place.and_then(|place| processes.get_mut(place)) else {
        if gone {
            processes.push((image, gone_since(earlier)));
        }
        return;
    };
    process.survivors_change = less(process.survivors_change, earlier.survivors);
    let mut places: HashMap<u64, usize> =
        process.sites.iter().enumerate().map(|(place, site)| (site.stack_id, place)).collect();
    for site in earlier.sites {
        match places.remove(&site.stack_id).and_then(|place| process.sites.get_mut(place)) {
            Some(now) => now.survivors_change = less(now.survivors_change, site.survivors),
            None if gone => process.sites.push(site_gone_since(site)),
            None => {}
        }
    }
}

fn gone_since(process: ProcessReport) -> ProcessReport {
    ProcessReport {
        ended: process.ended.or_else(|| Some("not traced any more".to_owned())),
        rss_bytes: None,
        live: Amount::default(),
        allocated: Amount::default(),
        survivors_change: change(Amount::default(), process.survivors),
        survivors: Amount::default(),
        growth: None,
        sites: process.sites.into_iter().map(site_gone_since).collect(),
        ..process
    }
}

fn site_gone_since(site: SiteReport) -> SiteReport {
    SiteReport {
        live: Amount::default(),
        allocated: Amount::default(),
        survivors_change: change(Amount::default(), site.survivors),
        survivors: Amount::default(),
        growth: None,
        ages: Vec::new(),
        recycled: None,
        ..site
    }
}

fn change(now: Amount, earlier: Amount) -> Change {
    Change {
        bytes: now.bytes.wrapping_sub(earlier.bytes).cast_signed(),
        blocks: now.blocks.wrapping_sub(earlier.blocks).cast_signed(),
    }
}

fn less(known: Change, earlier: Amount) -> Change {
    known.plus(change(Amount::default(), earlier))
}
