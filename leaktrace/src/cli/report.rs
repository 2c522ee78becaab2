//! `leaktrace report`: what the history holds. Suspects with their verdicts, memory, traces and why there were none; or what changed
//! between two moments.

mod account;
mod chosen;
mod compared;
mod text;
mod when;

use std::io::{self, Write};

use serde::Serialize;

use self::{account::Account, chosen::chosen, compared::Comparison, when::moment};
use super::{
    Failure,
    args::{Format, Group, ReportArguments, Sort},
};
use crate::{
    report::{
        self, OutputFormat,
        aside::{Text, say},
        model::{GroupBy, MergeBy, Report, SortKey},
    },
    store::{
        History, StoreError,
        history::{Span, merged},
    },
    watched::Subject,
};

/// Version of the JSON. Goes up when a field changes its meaning or goes away; new fields do not raise it.
const SCHEMA: u32 = 1;

/// Reads the history and says what it holds.
///
/// # Errors
/// If it cannot be read, if nobody has the name that was asked for, or nothing is known of a moment that was.
pub fn run(typed: &ReportArguments) -> Result<(), Failure> {
    let outputs = outputs(typed)?;
    let moments = moments(typed)?;
    let span = span(typed)?;
    let history = History::open(&typed.db)?;
    history.freeze()?;
    let subjects = chosen(&history, &typed.subject)?;
    let report = match moments {
        Some((earlier, later)) => compare(typed, &history, &subjects, earlier, later)?,
        None => look_back(typed, &history, &subjects, span)?,
    };
    for (path, format) in outputs {
        let Some(report) = &report else {
            say(format_args!("nothing was traced in that time: {} is not written", path.display()));
            continue;
        };
        report::write_file(report, path, format).map_err(|error| Failure::Failed(error.to_string()))?;
    }
    Ok(())
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Checked before anything is read.
fn outputs(typed: &ReportArguments) -> Result<Vec<(&std::path::Path, OutputFormat)>, Failure> {
    let checked = typed.output.iter().map(|path| {
        let format = OutputFormat::from_path(path).map_err(|error| Failure::Usage(error.to_string()))?;
        report::check_writable(path).map_err(|error| Failure::Failed(error.to_string()))?;
        Ok((path.as_path(), format))
    });
    checked.collect()
}

fn moments(typed: &ReportArguments) -> Result<Option<(f64, f64)>, Failure> {
    match typed.diff.as_slice() {
        [earlier, later] => Ok(Some((moment("--diff", earlier)?, moment("--diff", later)?))),
        _ => Ok(None),
    }
}

fn span(typed: &ReportArguments) -> Result<Span, Failure> {
    let read = |option, text: &Option<String>| text.as_deref().map(|text| moment(option, text)).transpose();
    let span = Span {
        since_unix_s: read("--since", &typed.since)?.unwrap_or(Span::ALL.since_unix_s),
        until_unix_s: read("--until", &typed.until)?.unwrap_or(Span::ALL.until_unix_s),
    };
    match span.since_unix_s <= span.until_unix_s {
        true => Ok(span),
        false => Err(Failure::Usage("--since is later than --until: nothing lies between them".into())),
    }
}

/// Says what is known of a span; returns it as a report.
fn look_back(
    typed: &ReportArguments,
    history: &History,
    subjects: &[Subject],
    span: Span,
) -> Result<Option<Report>, Failure> {
    let accounts = subjects.iter().map(|subject| Account::of(history, subject, span, typed.sort));
    let accounts: Vec<Account> = accounts.collect::<Result<_, _>>()?;
    let accounts: Vec<Account> = accounts.into_iter().filter(Account::says_something).collect();
    let report = reported(typed, history, &accounts, span)?;
    match typed.format {
        Format::Text => {
            let listed = report.as_ref().filter(|_| typed.group_by.is_some());
            text::write(history.path(), &accounts, typed.top, listed, &mut Text(io::stdout().lock()))
        }
        Format::Json => {
            json(&Looked { schema: SCHEMA, history: history.path(), span: span.into(), subjects: &accounts })
        }
        Format::Wire => {
            return Err(Failure::Usage("--format wire is not for people: name text or json".into()));
        }
    }
    .map_err(closed)?;
    Ok(report)
}

/// What every chosen subject was last known to hold. Not read when nobody asks for it.
fn reported(
    typed: &ReportArguments,
    history: &History,
    accounts: &[Account],
    span: Span,
) -> Result<Option<Report>, Failure> {
    if typed.output.is_empty() && typed.group_by.is_none() {
        return Ok(None);
    }
    let mut reports = Vec::new();
    for account in accounts {
        reports.append(&mut history.reports_between(Some(&account.subject.key), span)?);
    }
    Ok(merged(reports).map(|report| as_asked(report, typed)))
}

/// Says what changed between two moments; returns it as a report.
fn compare(
    typed: &ReportArguments,
    history: &History,
    subjects: &[Subject],
    earlier: f64,
    later: f64,
) -> Result<Option<Report>, Failure> {
    let by = typed.group_by.map_or(GroupBy::Line, group_by);
    let compared = compared::all(history, subjects, earlier, later)?;
    let comparisons: Vec<Comparison<'_>> =
        compared.iter().map(|compared| Comparison::of(compared, by)).collect();
    match typed.format {
        Format::Text => compared::write(&comparisons, typed.top, &mut Text(io::stdout().lock())),
        Format::Json => {
            json(&Compared { schema: SCHEMA, history: history.path(), comparisons: &comparisons })
        }
        Format::Wire => {
            return Err(Failure::Usage("--format wire is not for people: name text or json".into()));
        }
    }
    .map_err(closed)?;
    let reports = compared.into_iter().map(|compared| compared.report).collect();
    Ok(merged(reports).map(|report| as_asked(report, typed)))
}

fn as_asked(report: Report, typed: &ReportArguments) -> Report {
    Report {
        top: typed.top,
        sort: typed.sort.map_or(SortKey::Bytes, sort_key),
        group_by: typed.group_by.map_or(GroupBy::Stack, group_by),
        merge: MergeBy::Container,
        ..report
    }
}

fn sort_key(sort: Sort) -> SortKey {
    match sort {
        Sort::Bytes => SortKey::Bytes,
        Sort::Count => SortKey::Count,
        Sort::Growth => SortKey::Growth,
    }
}

fn group_by(group: Group) -> GroupBy {
    match group {
        Group::Stack => GroupBy::Stack,
        Group::Function => GroupBy::Function,
        Group::Line => GroupBy::Line,
    }
}

#[derive(Serialize)]
struct Looked<'a> {
    schema: u32,
    history: &'a std::path::Path,
    #[serde(flatten)]
    span: Asked,
    subjects: &'a [Account],
}

#[derive(Serialize)]
struct Compared<'a> {
    schema: u32,
    history: &'a std::path::Path,
    comparisons: &'a [Comparison<'a>],
}

/// The span that was asked for; `null`: no bound.
#[derive(Serialize)]
struct Asked {
    since_unix_s: Option<f64>,
    until_unix_s: Option<f64>,
}

impl From<Span> for Asked {
    fn from(span: Span) -> Self {
        let bound = |at: f64, open: f64| (at != open).then_some(at);
        Self {
            since_unix_s: bound(span.since_unix_s, Span::ALL.since_unix_s),
            until_unix_s: bound(span.until_unix_s, Span::ALL.until_unix_s),
        }
    }
}

fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    report::json::write_harmless(value, &mut out)?;
    writeln!(out)
}

fn closed(error: io::Error) -> Failure {
    Failure::Failed(format!("could not write the report to stdout: {error}"))
}
