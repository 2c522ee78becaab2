//! A report as it is going to be shown: sorted, put together and named by the user's choice. Made once per report or choice, so that
//! drawing is only a matter of what fits the screen. Pure.

use std::collections::BTreeSet;

use super::{
    choice::{Choice, UnitKey, mentions},
    history::{Id, process_id},
    lines::StackLine,
    row::{Row, UnitRow, name_giver},
};
use crate::report::{
    group::{Group, group},
    heading,
    merge::{Bond, Unit, units},
    model::{Amount, Change, Frame, Growth, ProcessReport, Report},
    path::ShortPaths,
    wording::Naming,
};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// Seconds of tracing.
    pub elapsed_s: f64,
    /// What is shown in the list of suspects: everything, or what was chosen.
    pub scope: Scope,
    /// Processes or containers.
    pub units: Vec<UnitRow>,
    /// Suspects.
    pub rows: Vec<Row>,
    /// Stacks of rows that are open: place of the row, and what is shown below it.
    pub stacks: Vec<(usize, Vec<StackLine>)>,
    /// Why there are no rows.
    pub empty: Option<String>,
    /// What makes all of it less than it says.
    pub warnings: Vec<String>,
    /// Processes that have ended and are listed no more.
    pub ended_before: u64,
}

/// Sums over what is shown.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// `python3 (PID 4711)`, `container web: 4 processes`.
    pub title: String,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Their change since the last report.
    pub change: Change,
    /// Their growth.
    pub growth: Option<Growth>,
    /// Live blocks.
    pub live: Amount,
    /// `RSS 34.4 MiB (+76.0 KiB since tracing began)`.
    pub resident: String,
    /// Its processes, for their history; `None`: all.
    pub processes: Option<Vec<Id>>,
}

impl Picture {
    /// The picture of a report. `open`: keys of the rows whose stacks are shown.
    pub(super) fn of(report: &Report, choice: &Choice, open: &BTreeSet<u64>) -> Self {
        let shown = shown(report, choice.only.as_ref());
        let groups = groups(&shown, choice);
        let paths = paths(report, &groups, open, choice);
        let naming = if choice.plumbing { Naming::Whole } else { Naming::Short(&paths) };
        let rows: Vec<Row> = groups.iter().map(|group| Row::of(group, choice.group_by, naming)).collect();
        let stacks = rows.iter().zip(&groups).enumerate().filter(|(_, (row, _))| open.contains(&row.key));
        let stacks =
            stacks.map(|(at, (_, group))| (at, StackLine::all(group, &shown, naming, choice.plumbing)));
        Self {
            elapsed_s: report.elapsed_s,
            scope: scope(&shown, choice.only.is_some()),
            units: units(report).iter().filter_map(UnitRow::of).collect(),
            stacks: stacks.collect(),
            empty: rows.is_empty().then(|| why_empty(&shown, report, choice)),
            rows,
            warnings: report.truth.warnings(),
            ended_before: report.ended.processes,
        }
    }
}

/// Everything as one, or what was chosen.
fn shown<'a>(report: &'a Report, only: Option<&UnitKey>) -> Unit<'a> {
    let chosen = |process: &&ProcessReport| only.is_none_or(|only| only.holds(process));
    let mut processes: Vec<&ProcessReport> = report.processes.iter().filter(chosen).collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.survivors.bytes));
    let container = processes.first().and_then(|process| process.container.as_ref());
    let bond = match (only, container, processes.len()) {
        (Some(UnitKey::Container(_)), Some(container), _) => Bond::Container(container),
        (_, _, 0 | 1) => Bond::Process,
        _ => Bond::All,
    };
    Unit { bond, processes }
}

/// Groups with survivors, in order.
fn groups<'a>(shown: &Unit<'a>, choice: &Choice) -> Vec<Group<'a>> {
    let mut groups = group(shown, choice.group_by, choice.sort);
    let found = |group: &Group<'_>| group.members.iter().any(|member| mentions(member.site, &choice.search));
    groups.retain(|group| !group.survivors.is_zero() && found(group));
    groups
}

/// Short names for every frame that a row is called after, and for the stacks that are shown.
fn paths<'a>(
    report: &'a Report,
    groups: &[Group<'a>],
    open: &BTreeSet<u64>,
    choice: &Choice,
) -> ShortPaths<'a> {
    let frames = |group: &Group<'a>| -> Vec<&'a Frame> {
        let is_open = !open.is_empty() && open.contains(&Row::of(group, choice.group_by, Naming::Whole).key);
        let stack = group.largest.frames.iter().filter(|_| is_open);
        name_giver(group).into_iter().chain(stack).collect()
    };
    ShortPaths::new(&report.application_roots(), groups.iter().flat_map(frames))
}

fn scope(shown: &Unit<'_>, chosen: bool) -> Scope {
    let processes = chosen.then(|| shown.processes.iter().map(|process| process_id(process)).collect());
    Scope {
        title: match shown.processes.len() {
            0 => String::new(),
            1 => heading::title(shown),
            _ => heading::who(shown),
        },
        survivors: shown.survivors(),
        change: shown.survivors_change(),
        growth: shown.growth(),
        live: shown.live(),
        resident: heading::resident(shown),
        processes,
    }
}

fn why_empty(shown: &Unit<'_>, report: &Report, choice: &Choice) -> String {
    if shown.processes.is_empty() {
        return "No process is being traced.".to_owned();
    }
    if !choice.search.is_empty() && !shown.survivors().is_zero() {
        return format!("No stack with survivors has {:?} in it; Esc shows all.", choice.search);
    }
    heading::nothing_survives(shown, report)
}
