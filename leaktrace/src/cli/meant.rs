//! The command line as meant: checked, with defaults filled in, in the words of the modules that do the work.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Parser as _;
use leaktrace_common::rule;

use super::{
    Failure,
    args::{
        self, Arguments, Command, Detail, Format, Group, Link, Merge, Sort, TargetArguments, TraceArguments,
        Unwind,
    },
};
use crate::{
    daemon::{Placement, SHORTEST_EPOCH, StdoutFormat, UnwindMode},
    kernel::LinkMode,
    report::{
        OutputFormat,
        model::{GroupBy, MergeBy, SortKey},
    },
    target::TargetSpec,
};

/// Longest time that is accepted anywhere; keeps arithmetic on clocks far from its limits.
const MAX_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Fewer would not hold a C library.
const MIN_UNWIND_ROWS: u32 = 1 << 10;
/// 2 GiB of kernel memory.
const MAX_UNWIND_ROWS: u32 = 1 << 29;
/// The kernel's own limit of a PID (`PID_MAX_LIMIT`).
const MAX_PID: u32 = 1 << 22;

/// What `leaktrace trace` is to do.
#[derive(Clone, Debug)]
pub struct TracePlan {
    /// What to trace.
    pub target: TargetSpec,
    /// Report interval, and length of an epoch.
    pub interval: Duration,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Age from which a block is a survivor.
    pub min_age: Duration,
    /// Sites in the text report.
    pub top: usize,
    /// Order of sites.
    pub sort: SortKey,
    /// Grouping of the text report.
    pub group_by: GroupBy,
    /// What goes to stdout.
    pub format: StdoutFormat,
    /// Cap of the live map.
    pub max_live_blocks: u32,
    /// Cap of the site table.
    pub max_sites: u32,
    /// Large blocks and pool refills only, nothing written to a target (`--detail light`).
    pub light: bool,
    /// Whether processes that targets make are traced too.
    pub follow_forks: bool,
    /// Whether no process outside of the scope may pay anything.
    pub strict_scope: bool,
    /// How processes are put together in a report.
    pub merge: MergeBy,
    /// Whether a target's memory may be written to at all.
    pub target_writes: bool,
    /// How stacks are walked.
    pub unwind: UnwindMode,
    /// Cap of all unwind tables, rows.
    pub max_unwind_rows: u32,
    /// Where unwind tables are kept.
    pub unwind_cache: Option<PathBuf>,
    /// More detail, kernel-side log.
    pub verbose: bool,
    /// Files to write, and their formats.
    pub outputs: Vec<(PathBuf, OutputFormat)>,
    /// Rules switched off (tests).
    pub rules_off: u64,
    /// Stop threads at one allocation in so many (tests); 0: never.
    pub stop_one_in: u32,
    /// Count the calls of each function (`doctor --measure`).
    pub count_hits: bool,
    /// Whose probes are to be, whatever the number of processes (tests).
    pub placement: Option<Placement>,
    /// Link mode to use.
    pub link_mode: Option<LinkMode>,
}

/// The plan of a plain `trace` of one process, whose calls are counted.
///
/// # Errors
/// Never in practice: nothing that is asked for is out of the ordinary.
pub fn plan_for(pid: u32) -> Result<TracePlan, Failure> {
    let words = ["leaktrace".to_owned(), "trace".to_owned(), "-p".to_owned(), pid.to_string()];
    let typed = Arguments::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?;
    match typed.command {
        Command::Trace(trace) => Ok(TracePlan { count_hits: true, ..TracePlan::try_from(*trace)? }),
        _ => Err(Failure::Usage("not a trace".to_owned())),
    }
}

impl TryFrom<TraceArguments> for TracePlan {
    type Error = Failure;

    fn try_from(typed: TraceArguments) -> Result<Self, Failure> {
        let target = target(&typed.target, typed.command)?;
        let interval = interval(&typed.interval)?;
        let duration = typed.duration.as_deref().map(|text| time("--duration", text)).transpose()?;
        if duration.is_some_and(|duration| duration.is_zero()) {
            return Err(Failure::Usage(
                "--duration 0 would end before it began: name a time such as 30s".into(),
            ));
        }
        let min_age = typed.min_age.as_deref().map(|text| time("--min-age", text)).transpose()?;
        if typed.max_live_blocks == 0 || typed.max_sites < 2 {
            return Err(Failure::Usage(
                "--max-live-blocks must be at least 1, and --max-sites at least 2".into(),
            ));
        }
        Ok(Self {
            target,
            interval,
            duration,
            min_age: min_age.unwrap_or(interval),
            top: typed.top,
            sort: match typed.sort {
                Sort::Bytes => SortKey::Bytes,
                Sort::Count => SortKey::Count,
                Sort::Growth => SortKey::Growth,
            },
            group_by: match typed.group_by {
                Group::Stack => GroupBy::Stack,
                Group::Function => GroupBy::Function,
                Group::Line => GroupBy::Line,
            },
            format: match typed.format {
                Format::Text => StdoutFormat::Text,
                Format::Json => StdoutFormat::Json,
                Format::Wire => StdoutFormat::Wire,
            },
            max_live_blocks: typed.max_live_blocks,
            max_sites: typed.max_sites,
            follow_forks: !typed.no_follow_forks,
            strict_scope: typed.strict_scope,
            merge: match typed.merge {
                Merge::Process => MergeBy::Process,
                Merge::Container => MergeBy::Container,
                Merge::All => MergeBy::All,
            },
            light: typed.detail == Detail::Light,
            target_writes: typed.detail == Detail::Exact && !typed.no_target_writes,
            unwind: match typed.unwind {
                Unwind::Tables => UnwindMode::Tables,
                Unwind::FramePointers => UnwindMode::FramePointers,
            },
            max_unwind_rows: max_unwind_rows(typed.max_unwind_rows)?,
            unwind_cache: (typed.unwind_cache.as_os_str() != "none").then_some(typed.unwind_cache),
            verbose: typed.verbose,
            outputs: typed.output.into_iter().map(output).collect::<Result<_, _>>()?,
            rules_off: rules_off(&typed.switch_off)?,
            stop_one_in: typed.stop_one_in,
            count_hits: false,
            placement: typed.placement.map(|placement| match placement {
                args::Placement::Process => Placement::PerProcess,
                args::Placement::Shared => Placement::Shared,
            }),
            link_mode: typed.link_mode.map(|mode| match mode {
                Link::Multi => LinkMode::Multi,
                Link::Perf => LinkMode::Perf,
            }),
        })
    }
}

/// A report interval.
///
/// # Errors
/// If it is no time, or shorter than an epoch can be.
pub fn interval(typed: &str) -> Result<Duration, Failure> {
    let interval = time("--interval", typed)?;
    if interval < SHORTEST_EPOCH {
        return Err(Failure::Usage(format!("--interval {typed} is too short: the least is 100ms")));
    }
    Ok(interval)
}

/// The rows' numbers have 32 bits, and the array one element for each 16.
fn max_unwind_rows(typed: u32) -> Result<u32, Failure> {
    if (MIN_UNWIND_ROWS..=MAX_UNWIND_ROWS).contains(&typed) {
        return Ok(typed);
    }
    Err(Failure::Usage(format!(
        "--max-unwind-rows {typed} is not possible: name a number from {MIN_UNWIND_ROWS} to {MAX_UNWIND_ROWS}"
    )))
}

/// What is to be traced: exactly one kind.
///
/// # Errors
/// If none, several, or an impossible one is named.
pub fn target(typed: &TargetArguments, command: Vec<OsString>) -> Result<TargetSpec, Failure> {
    let kinds = [
        ("-p", !typed.pid.is_empty()),
        ("--container", typed.container.is_some()),
        ("--pid-namespace", typed.pid_namespace.is_some()),
        ("--cgroup", typed.cgroup.is_some()),
        ("--all", typed.all),
        ("-- COMMAND", !command.is_empty()),
    ];
    let named: Vec<&str> = kinds.iter().filter(|(_, named)| *named).map(|(kind, _)| *kind).collect();
    match named.as_slice() {
        [] => {
            Err(Failure::Usage(
                "nothing to trace: name a process with -p PID, a container with --container NAME, or a command after --"
                    .into(),
            ))
        }
        ["-p"] => pids(&typed.pid).map(TargetSpec::Pids),
        ["-- COMMAND"] => Ok(TargetSpec::Command(command)),
        ["--all"] => Ok(TargetSpec::All),
        ["--container"] if typed.container.as_deref() == Some("") => {
            Err(Failure::Usage("--container needs an ID, the beginning of one, or a name".into()))
        }
        [_] => [
            typed.container.clone().map(TargetSpec::Container),
            typed.pid_namespace.clone().map(TargetSpec::PidNamespace),
            typed.cgroup.clone().map(TargetSpec::Cgroup),
        ]
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| Failure::Usage("nothing to trace".into())),
        several => Err(Failure::Usage(format!(
            "{} name two kinds of target: name exactly one",
            several.join(" and ")
        ))),
    }
}

fn pids(texts: &[String]) -> Result<Vec<u32>, Failure> {
    let mut pids = Vec::new();
    for text in texts {
        let pid = text
            .trim()
            .parse()
            .ok()
            .filter(|pid| (1..=MAX_PID).contains(pid))
            .ok_or_else(|| Failure::Usage(format!("-p {text}: a PID is a number from 1 to {MAX_PID}")))?;
        if !pids.contains(&pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

pub(super) fn time(option: &str, text: &str) -> Result<Duration, Failure> {
    // A bare number would be read by half of the users as seconds, by the others as something else.
    let parsed = humantime::parse_duration(text).map_err(|error| {
        Failure::Usage(format!("{option} {text}: {error}; write a time such as 10s, 500ms or 1h 30m"))
    })?;
    if parsed > MAX_TIME {
        return Err(Failure::Usage(format!("{option} {text} is longer than ten years")));
    }
    Ok(parsed)
}

fn output(path: PathBuf) -> Result<(PathBuf, OutputFormat), Failure> {
    let format = OutputFormat::from_path(&path).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok((path, format))
}

fn rules_off(names: &[String]) -> Result<u64, Failure> {
    names.iter().try_fold(0, |bits, name| {
        let found = rule::ALL.iter().find(|(known, _)| known == name);
        found
            .map(|(_, bit)| bits | bit)
            .ok_or_else(|| Failure::Usage(format!("--switch-off {name}: there is no such rule")))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Arguments, Command};

    fn meant(line: &str) -> Result<TracePlan, Failure> {
        let words = ["leaktrace", "trace"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?.command {
            Command::Trace(trace) => TracePlan::try_from(*trace),
            _ => Err(Failure::Failed("not trace".into())),
        }
    }

    #[test]
    fn processes_are_named_one_by_one_or_in_a_list() {
        let plan = meant("-p 12,7 -p 12 --interval 2s").unwrap();
        assert_eq!(plan.target, TargetSpec::Pids(vec![12, 7]));
        assert_eq!(plan.min_age, Duration::from_secs(2));
    }

    #[test]
    fn the_command_keeps_its_own_options() {
        let plan = meant("--top 3 -- ls -p 5").unwrap();
        assert_eq!(plan.target, TargetSpec::Command(vec!["ls".into(), "-p".into(), "5".into()]));
    }

    #[test]
    fn wrong_usage_is_told_in_one_sentence() {
        for line in [
            "",
            "-p 1 -- ls",
            "-p 1 --all",
            "-p x",
            "-p 0",
            "-p 1 --interval 0s",
            "-p 1 --interval 10",
            "-p 1 --interval 1000000y",
            "-p 1 --duration 0s",
            "-p 1 --max-live-blocks 0",
            "-p 1 -o leak.bmp",
            "-p 1 --switch-off nonsense",
            "--container x --all",
        ] {
            match meant(line) {
                Err(Failure::Usage(text)) => assert!(!text.trim().is_empty()),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
