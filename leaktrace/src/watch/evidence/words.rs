//! What a case says of itself: what is what, and what is missing and why.

use std::fmt::Write as _;

use super::case::{Case, Missing};
use crate::report::human::{bytes, duration, printable};

/// The README: a paragraph for whoever opens the directory in the middle of the night.
pub fn readme(case: &Case<'_>, missing: &[Missing]) -> String {
    let mut text = happened(case);
    text.push(' ');
    text.push_str(&files(case));
    let absent = absences(case);
    for sentence in absent.iter().chain(&could_not(missing)) {
        let _ = write!(text, " {sentence}");
    }
    text.push('\n');
    text
}

/// One sentence for files that could not be written.
pub fn could_not(missing: &[Missing]) -> Option<String> {
    let (_, error) = missing.first()?;
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    Some(format!("Not written: {} ({error}).", names.join(", ")))
}

fn happened(case: &Case<'_>) -> String {
    let subject = &case.state.subject;
    let who = format!("{} {}", subject.kind, printable(&subject.name));
    let memory = &case.state.memory;
    let mut text = match &case.facts.kill {
        Some(kill) if kill.pid == 0 => format!("The kernel killed a process of {who} for want of memory."),
        Some(kill) => format!(
            "The kernel chose process {} ({}) of {who} to be killed for want of memory.",
            kill.pid,
            printable(&kill.name)
        ),
        None => {
            format!("This is what was known of {who} when it was written out ({}).", printable(case.reason))
        }
    };
    let _ = write!(text, " At the last look it had {} of private memory", bytes(memory.private_bytes()));
    let limit = memory.cgroup.and_then(|cgroup| cgroup.limit_bytes);
    let _ = match limit {
        Some(limit) => write!(text, ", under a limit of {}.", bytes(limit)),
        None => write!(text, "."),
    };
    text
}

fn files(case: &Case<'_>) -> String {
    let always = "suspects.json has the sites that were suspected and why. memory.json has the readings of its memory, what its \
                  memory consisted of, and its cgroup's statistics.";
    match &case.state.report {
        None => always.to_owned(),
        Some(report) => {
            let age = (case.facts.at_unix_s - report.at_unix_s).max(0.0);
            format!(
                "report.txt is the report of the trace, made {} before this, for people; report.json is the same for programs. \
                 stacks.folded, flamegraph.svg and profile.pb.gz (for pprof) have the stacks that allocated what was live. {always}",
                duration(age)
            )
        }
    }
}

/// What is not known, one sentence each.
fn absences(case: &Case<'_>) -> Vec<String> {
    let mut absences = Vec::new();
    if case.state.report.is_none() {
        absences.push(
            "There is no report and there are no stacks: it was not being traced and had not been."
                .to_owned(),
        );
    }
    match &case.breakdown {
        None => absences.push(
            "What its memory consisted of is not known: nobody could be asked while it lived.".to_owned(),
        ),
        Some(breakdown) => {
            let age = case.facts.at_unix_s - breakdown.at_unix_s;
            if age > 1.0 {
                absences.push(format!("What its memory consisted of was read {} before.", duration(age)));
            }
            if !breakdown.is_complete {
                absences.push("Not all of its mappings could be looked at in time.".to_owned());
            }
        }
    }
    if case.statistics.is_none() {
        absences.push("It had no memory cgroup of its own, or that could not be read.".to_owned());
    }
    absences
}
