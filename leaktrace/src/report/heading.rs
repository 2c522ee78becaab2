//! Who a report is about: the headings of processes and of what is seen as one, and the share of each process in a sum.
//! A person on the host knows a process by the host's PID, one in its container by the container's: both are said.

use super::group::Share;
use super::human::{bytes, count, duration, plural, printable, signed_bytes};
use super::merge::{Bond, Unit};
use super::model::{Amount, ProcessReport, Report};
use super::wording::{amount, growth};
use crate::target::Container;

/// Names, versions or processes listed of a unit; of more the rest is counted.
const LISTED: usize = 3;

/// Processes listed in a verbose report.
const LISTED_VERBOSE: usize = 100;

/// `python3 (PID 4711, 7 in container web)`, `container web: 4 processes`, `nginx: 10 processes`.
pub(crate) fn title(unit: &Unit<'_>) -> String {
    let who = who(unit);
    match (unit.only(), unit.ended()) {
        (Some(ProcessReport { ended: Some(how), .. }), _) => format!("{who}: {}", printable(how)),
        (Some(_), _) | (None, 0) => who,
        (None, ended) => format!("{who}, {} of them ended since the last report", count(ended as u64)),
    }
}

/// The title without anything that happened to it.
pub(crate) fn who(unit: &Unit<'_>) -> String {
    if let Some(process) = unit.only() {
        return process_title(process);
    }
    let processes = plural(unit.processes.len() as u64, "process");
    match (unit.bond, unit.common_name()) {
        (Bond::Container(container), _) => {
            format!("container {}: {processes}", printable(&container.short()))
        }
        (_, Some(name)) => format!("{}: {processes}", printable(name)),
        (_, None) => format!("all {processes}"),
    }
}

fn process_title(process: &ProcessReport) -> String {
    let inside = match (&process.container, inner_pid(process)) {
        (Some(container), Some(pid)) => format!(", {pid} in container {}", printable(&container.short())),
        (Some(container), None) => format!(", in container {}", printable(&container.short())),
        (None, Some(pid)) => format!(", {pid} in its PID namespace"),
        (None, None) => String::new(),
    };
    format!("{} (PID {}{inside})", printable(&process.name), process.pid)
}

/// The PID that the process itself knows, if it is another one than the host's.
fn inner_pid(process: &ProcessReport) -> Option<u32> {
    match process.namespace_pids.as_slice() {
        [_, .., inner] => Some(*inner),
        _ => None,
    }
}

/// What is known of a container beside what it is called here: `container web: docker, ID 0123456789ab, pod 3f1c...`.
pub(super) fn container(container: &Container) -> Option<String> {
    let parts = [
        container.runtime.as_deref().map(printable),
        container.name.as_ref().map(|_| format!("ID {}", printable(container.short_id()))),
        container.pod.as_deref().map(|pod| format!("pod {}", printable(pod))),
    ];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    (!known.is_empty()).then(|| format!("container {}: {}", printable(&container.short()), known.join(", ")))
}

/// What the processes of a unit are called, where that is not its title, and their interpreters.
pub(super) fn members(unit: &Unit<'_>) -> Option<String> {
    if unit.only().is_some() {
        return None;
    }
    let mut parts = Vec::new();
    let titled_by_name = unit.bond == Bond::All && unit.common_name().is_some();
    if !titled_by_name {
        parts.push(tally(unit.processes.iter().map(|process| printable(&process.name))));
    }
    let versions = unit.processes.iter().filter_map(|process| process.python.as_ref());
    let versions = tally(versions.map(|python| format!("python {}", printable(&python.version))));
    parts.push(versions);
    parts.retain(|part| !part.is_empty());
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `gunicorn (8), nginx (2) and 3 others`: the most frequent first.
fn tally(names: impl Iterator<Item = String>) -> String {
    let mut numbers = std::collections::BTreeMap::<String, usize>::new();
    names.for_each(|name| *numbers.entry(name).or_default() += 1);
    let mut numbers: Vec<(String, usize)> = numbers.into_iter().collect();
    numbers.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let listed: Vec<String> = numbers
        .iter()
        .take(LISTED)
        .map(|(name, number)| format!("{name} ({})", count(*number as u64)))
        .collect();
    let rest = numbers.iter().skip(LISTED).map(|(_, number)| *number as u64).sum::<u64>();
    match rest {
        0 => listed.join(", "),
        rest => format!("{} and {}", listed.join(", "), plural(rest, "other")),
    }
}

pub(crate) fn survivors(unit: &Unit<'_>) -> String {
    format!(
        "survivors {} ({} since the last report), {}",
        amount(unit.survivors()),
        signed_bytes(unit.survivors_change().bytes),
        growth(unit.growth())
    )
}

pub(crate) fn resident(unit: &Unit<'_>) -> String {
    let Some(rss) = unit.rss_bytes() else { return "RSS unknown".to_owned() };
    let now = match unit.only() {
        Some(process) if process.ended.is_some() => "last RSS",
        Some(_) => "RSS",
        None => "sum of RSS",
    };
    match unit.rss_change_bytes() {
        Some(change) => format!("{now} {} ({} since tracing began)", bytes(rss), signed_bytes(change)),
        None => format!("{now} {}", bytes(rss)),
    }
}

/// Why there is nothing to show: the reader must be able to tell "too early" from "no leak" from "not seen".
pub(crate) fn nothing_survives(unit: &Unit<'_>, report: &Report) -> String {
    let min_age = duration(report.min_age_s);
    if unit.allocated().is_zero() {
        return never_allocated(unit);
    }
    if unit.live().is_zero() {
        let allocated = plural(unit.allocated().blocks, "block");
        return format!("No survivors: of the {allocated} allocated while traced, every one was freed.");
    }
    if report.elapsed_s < report.min_age_s {
        return format!(
            "No survivors yet: too early. A block counts once it is older than {min_age}, and tracing began {} ago.",
            duration(report.elapsed_s)
        );
    }
    let undecided = undecided(unit, report.min_age_s);
    if !undecided.is_zero() {
        return format!(
            "No survivors for certain yet: {} may be older than {min_age} or not. Blocks are told apart by the epoch that they were \
             allocated in: trace longer.",
            amount(undecided)
        );
    }
    format!("No survivors: everything live is younger than {min_age}; what was older has been freed.")
}

/// Live blocks of epochs that began before the minimum age and ended after it.
fn undecided(unit: &Unit<'_>, min_age_s: f64) -> Amount {
    let sites = unit.processes.iter().flat_map(|process| &process.sites);
    let of_both = sites
        .flat_map(|site| &site.ages)
        .filter(|age| age.youngest_s < min_age_s && age.oldest_s >= min_age_s);
    of_both.fold(Amount::default(), |sum, age| sum.plus(age.live))
}

fn never_allocated(unit: &Unit<'_>) -> String {
    let pid = unit.processes.first().map_or(0, |process| process.pid);
    let (who, allocates) = match unit.processes.len() {
        1 => ("The process is idle, or it allocates", "what"),
        _ => ("The processes are idle, or they allocate", "what, for one of them,"),
    };
    format!(
        "No survivors: not one allocation was seen. {who} in a way that is not hooked; `leaktrace doctor -p {pid}` shows \
         {allocates} is."
    )
}

/// `split: PID 4711 (7 in web) 1.2 MiB, PID 4712 (8 in web) 1.1 MiB and 8 more 3.0 MiB`.
pub(crate) fn split(unit: &Unit<'_>, shares: &[Share<'_>], verbose: bool) -> String {
    let named = unit.common_name().is_none();
    let listed = if verbose { LISTED_VERBOSE } else { LISTED };
    let holding: Vec<&Share<'_>> = shares.iter().filter(|share| !share.survivors.is_zero()).collect();
    let said: Vec<String> = holding
        .iter()
        .take(listed)
        .map(|share| format!("{} {}", listed_process(share.process, named), bytes(share.survivors.bytes)))
        .collect();
    let rest = holding.iter().skip(listed).fold(0u64, |sum, share| sum.saturating_add(share.survivors.bytes));
    let said = format!("split: {}", said.join(", "));
    match holding.len().saturating_sub(listed) {
        0 => said,
        more => format!("{said} and {} more {}", count(more as u64), bytes(rest)),
    }
}

/// A process in a list: `PID 4711 (7 in web)`, with its name where that is not said elsewhere.
fn listed_process(process: &ProcessReport, named: bool) -> String {
    let inside = match (&process.container, inner_pid(process)) {
        (Some(container), Some(pid)) => format!(" ({pid} in {})", printable(&container.short())),
        (Some(container), None) => format!(" (in {})", printable(&container.short())),
        (None, Some(pid)) => format!(" ({pid} inside)"),
        (None, None) => String::new(),
    };
    let name = if named { format!("{} ", printable(&process.name)) } else { String::new() };
    format!("{name}PID {}{inside}", process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::{AgeClass, SiteReport};

    fn process(pid: u32, namespace_pids: &[u32], container: Option<&Container>) -> ProcessReport {
        ProcessReport {
            pid,
            name: "python3".into(),
            namespace_pids: namespace_pids.to_vec(),
            container: container.cloned(),
            ..ProcessReport::default()
        }
    }

    fn web() -> Container {
        Container {
            id: "0123456789abcdef".repeat(4),
            name: Some("web".into()),
            runtime: Some("docker".into()),
            pod: None,
        }
    }

    #[test]
    fn a_process_is_named_by_the_pids_that_both_sides_know() {
        let (web, nameless) = (web(), Container { name: None, ..web() });
        let titles = [
            (process(7, &[7], None), "python3 (PID 7)"),
            (process(4711, &[4711, 30, 7], Some(&web)), "python3 (PID 4711, 7 in container web)"),
            (process(4711, &[4711, 7], Some(&nameless)), "python3 (PID 4711, 7 in container 0123456789ab)"),
            (process(4711, &[4711], Some(&web)), "python3 (PID 4711, in container web)"),
            (process(4711, &[4711, 7], None), "python3 (PID 4711, 7 in its PID namespace)"),
        ];
        for (process, expected) in titles {
            assert_eq!(title(&Unit { bond: Bond::Process, processes: vec![&process] }), expected);
        }
    }

    #[test]
    fn blocks_of_which_nobody_knows_whether_they_are_old_are_not_called_young() {
        let live = Amount { bytes: 4096, blocks: 4 };
        let aged = |youngest_s, oldest_s| {
            let site = SiteReport {
                allocated: live,
                live,
                ages: vec![AgeClass { youngest_s, oldest_s, live }],
                ..SiteReport::default()
            };
            ProcessReport { allocated: live, live, sites: vec![site], ..process(7, &[7], None) }
        };
        let report = Report { min_age_s: 10.0, elapsed_s: 12.0, ..Report::default() };
        let said = |process: &ProcessReport| {
            nothing_survives(&Unit { bond: Bond::Process, processes: vec![process] }, &report)
        };
        assert!(
            said(&aged(2.0, 12.0)).contains("4.0 KiB in 4 blocks may be older"),
            "{}",
            said(&aged(2.0, 12.0))
        );
        assert!(said(&aged(0.0, 2.0)).contains("everything live is younger"));
    }

    #[test]
    fn a_container_is_told_with_what_finds_it_again() {
        let with_pod = Container { pod: Some("3f1c".into()), ..web() };
        let said = |container: &Container| super::container(container).unwrap_or_default();
        assert_eq!(said(&web()), "container web: docker, ID 0123456789ab");
        assert_eq!(said(&with_pod), "container web: docker, ID 0123456789ab, pod 3f1c");
        assert_eq!(said(&Container { name: None, ..web() }), "container 0123456789ab: docker");
        assert_eq!(said(&Container { name: None, runtime: None, ..web() }), "", "its ID is all there is");
    }

    #[test]
    fn a_split_names_the_largest_and_counts_the_rest() {
        let web = web();
        let processes: Vec<ProcessReport> =
            (1..=5).map(|pid| process(pid, &[pid, pid + 6], Some(&web))).collect();
        let unit = Unit { bond: Bond::Container(&web), processes: processes.iter().collect() };
        let shares: Vec<Share<'_>> = processes
            .iter()
            .map(|process| Share {
                process,
                live: Amount::default(),
                survivors: Amount { bytes: 6 - u64::from(process.pid), blocks: 1 },
            })
            .collect();
        assert_eq!(
            split(&unit, &shares, false),
            "split: PID 1 (7 in web) 5 B, PID 2 (8 in web) 4 B, PID 3 (9 in web) 3 B and 2 more 3 B"
        );
        assert!(split(&unit, &shares, true).ends_with("PID 4 (10 in web) 2 B, PID 5 (11 in web) 1 B"));
        assert_eq!(split(&unit, &shares[..1], false), "split: PID 1 (7 in web) 5 B");
    }

    #[test]
    fn programs_of_a_unit_are_counted_by_name() {
        let names = ["a", "b", "b", "c", "d", "e"]
            .map(|name| ProcessReport { name: name.into(), ..process(1, &[], None) });
        let unit = Unit { bond: Bond::All, processes: names.iter().collect() };
        assert_eq!(title(&unit), "all 6 processes");
        assert_eq!(members(&unit).as_deref(), Some("b (2), a (1), c (1) and 2 others"));
    }
}
