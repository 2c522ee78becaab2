//! A Flask service with a slow leak, under load, traced from outside as a user would: from building leaktrace to the line
//! that leaks and the flamegraph.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::script::{self, Load, Script};
use crate::setup::Purpose;
use crate::{build, command, setup, workspace};

/// The helper of the service that keeps what it makes.
const LEAKING_FILE: &str = "metrics.py";

/// Source files of what gives its memory back, in time.
const INNOCENT: &[&str] = &["flask_service.py", "jsonschema", "waitress"];

/// Requests come on so many connections, with a pause between two of each, in seconds.
const LOAD: (usize, f64) = (2, 0.004);

/// Builds, leaks, traces, shows.
pub fn run() -> Result<()> {
    setup::run(Purpose::Demo)?;
    let leaktrace = build::leaktrace(false)?;
    let directory = workspace::cache("demo")?;
    let source = Script::path(LEAKING_FILE);
    let culprit = format!("{LEAKING_FILE}:{}", script::marked_line(&source, "floats")?);
    let mut service = Script::start(&[], "flask_service.py", &["0"])?;
    let mut load = Load::start(&mut service, LOAD.0, LOAD.1)?;
    let outputs = ["flame.svg", "leak.folded"].map(|name| directory.join(name));
    let report = trace(&leaktrace, service.pid(), &outputs)?;
    let (requests, _) = load.count()?;
    drop((load, service));
    let last = last_report(&report);
    println!("\nThe last of its reports:\n\n{last}");
    check(last, &outputs, &culprit)?;
    println!(
        "The service answered {requests} requests meanwhile, and none failed. Each leaks a float of 24 bytes at {culprit}:"
    );
    println!("{}", source_around(&source, "floats")?);
    println!("Flamegraph (open it in a browser): {}", workspace::shown(&outputs[0]));
    println!("The same as folded stacks:         {}", workspace::shown(&outputs[1]));
    Ok(())
}

/// Runs `leaktrace trace` and returns its reports.
fn trace(leaktrace: &Path, pid: u32, outputs: &[PathBuf; 2]) -> Result<String> {
    let mut trace = command::as_root(leaktrace)?;
    trace.args(["trace", "-p", &pid.to_string(), "--interval", "3s", "--duration", "15s"]);
    trace.args(["--group-by", "line", "--top", "5"]);
    for output in outputs {
        trace.arg("-o").arg(output);
    }
    println!("\n$ {}\n(15 seconds)\n", shown(&trace));
    let done = trace.stderr(Stdio::inherit()).output().context("cannot start leaktrace")?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!("leaktrace failed ({}); it printed:\n{text}", done.status);
    }
    Ok(text)
}

/// A command with the repository's path left out.
fn shown(command: &Command) -> String {
    command::describe(command).replace(&format!("{}/", workspace::root().display()), "")
}

/// The demo proves what it shows: the leak is ranked first, what is no leak is not, the files say the same.
fn check(report: &str, outputs: &[PathBuf; 2], culprit: &str) -> Result<()> {
    match ranked_first(report) {
        Some(line) if line.ends_with(culprit) => {}
        other => bail!("{culprit} leaks, but the report ranks {other:?} first"),
    }
    let [flamegraph, folded] = outputs.each_ref().map(|file| {
        fs::read_to_string(file).with_context(|| format!("leaktrace did not write {}", file.display()))
    });
    if !flamegraph?.contains(culprit) {
        bail!("the flamegraph does not show {culprit}");
    }
    match heaviest(&folded?).and_then(|stack| stack.rsplit(';').find(|frame| frame.contains(".py:"))) {
        Some(frame) if frame.contains(culprit) && !INNOCENT.iter().any(|name| frame.contains(name)) => Ok(()),
        Some(frame) => bail!("the heaviest stack is not the leak: it ends in {frame}"),
        None => bail!("the folded output has no Python stack"),
    }
}

/// The line of source that a report ranks first: `#1  metrics.py:25: size=...`.
fn ranked_first(report: &str) -> Option<&str> {
    let first = report.lines().find_map(|line| line.strip_prefix("#1 "))?;
    first.split_whitespace().next().map(|word| word.trim_end_matches(':'))
}

/// A marked line of a script and its neighbours, without the mark.
fn source_around(source: &Path, mark: &str) -> Result<String> {
    let line = script::marked_line(source, mark)?;
    let text = fs::read_to_string(source).with_context(|| format!("cannot read {}", source.display()))?;
    let around = text.lines().enumerate().skip(line.saturating_sub(2)).take(3);
    let bare = |text: &str| text.split("  # mark:").next().unwrap_or_default().to_owned();
    Ok(around
        .map(|(index, text)| {
            format!("  {} {:>3}  {}\n", if index + 1 == line { '>' } else { ' ' }, index + 1, bare(text))
        })
        .collect())
}

/// What was printed from the last report's headline on.
fn last_report(text: &str) -> &str {
    text.rfind("leaktrace report ").map_or(text, |at| &text[at..])
}

/// The stack with the most bytes in folded text.
fn heaviest(folded: &str) -> Option<&str> {
    let lines = folded.lines().filter_map(|line| line.rsplit_once(' '));
    let weighed = lines.filter_map(|(stack, weight)| Some((weight.parse::<u64>().ok()?, stack)));
    weighed.max().map(|(_, stack)| stack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_report_is_shown() {
        assert_eq!(
            last_report("leaktrace report 1, x\nleaktrace report 2, y\nz\n"),
            "leaktrace report 2, y\nz\n"
        );
    }

    #[test]
    fn heaviest_stack_is_by_weight() {
        assert_eq!(heaviest("a;b 9\na;c d 10\n"), Some("a;c d"));
        assert_eq!(heaviest("nonsense\n"), None);
    }

    #[test]
    fn what_is_ranked_first_is_a_source_line() {
        let report = "leaktrace report 2, y\n#1  a/metrics.py:25: size=3\n#2  b.py:1: size=1\n";
        assert_eq!(ranked_first(report), Some("a/metrics.py:25"));
        assert_eq!(ranked_first("nothing\n"), None);
    }

    #[test]
    fn the_leak_is_shown_in_its_source() -> Result<()> {
        let shown = source_around(&Script::path(LEAKING_FILE), "floats")?;
        assert!(
            shown.contains("> ") && shown.contains("milliseconds =") && !shown.contains("mark"),
            "{shown}"
        );
        Ok(())
    }
}
