//! A leaking service, traced as a user would, from building leaktrace to the flamegraph.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::Purpose;
use crate::{build, command, program, setup, workspace};

/// The function of the service that keeps what it allocates.
const LEAKING_FUNCTION: &str = "session_remember";

/// Functions of the service that give back what they allocate.
const INNOCENT: &[&str] = &["page_render", "request_parse"];

/// Builds, leaks, traces, shows.
pub fn run() -> Result<()> {
    setup::run(Purpose::Build)?;
    let leaktrace = build::leaktrace(false)?;
    let directory = workspace::cache("demo")?;
    let service = Service::start(&directory)?;
    let outputs = ["flame.svg", "leak.folded"].map(|name| directory.join(name));
    let report = trace(&leaktrace, service.pid(), &outputs)?;
    drop(service);
    let last = last_report(&report);
    println!("\nThe last of its reports:\n\n{last}");
    check(last, &outputs)?;
    println!("The report names {LEAKING_FUNCTION}, which is the leak in xtask/demo/service.c.");
    println!("Flamegraph (open it in a browser): {}", workspace::shown(&outputs[0]));
    println!("The same as folded stacks:         {}", workspace::shown(&outputs[1]));
    Ok(())
}

/// The leaking service, running.
struct Service(Child);

impl Service {
    fn start(directory: &Path) -> Result<Self> {
        let built = program::compile(&workspace::root().join("xtask/demo/service.c"), directory)?;
        let file = built.first().context("the service was not built")?;
        let started = Command::new(file).stdout(Stdio::piped()).spawn();
        let mut service = Self(started.with_context(|| format!("cannot start {}", file.display()))?);
        let mut line = String::new();
        BufReader::new(service.0.stdout.take().context("no stdout")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the service did not start");
        }
        Ok(service)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        command::stop(&mut self.0);
    }
}

/// Runs `leaktrace trace` and returns its reports.
fn trace(leaktrace: &Path, pid: u32, outputs: &[PathBuf; 2]) -> Result<String> {
    let mut trace = command::as_root(leaktrace)?;
    trace.args(["trace", "-p", &pid.to_string(), "--interval", "2s", "--duration", "10s"]);
    for output in outputs {
        trace.arg("-o").arg(output);
    }
    println!("\n$ {}\n(10 seconds)\n", shown(&trace));
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

/// The demo proves what it shows: the leak is named, what is no leak is not, the files say the same.
fn check(report: &str, outputs: &[PathBuf; 2]) -> Result<()> {
    if !report.contains(LEAKING_FUNCTION) {
        bail!("the report does not name {LEAKING_FUNCTION}, which leaks");
    }
    let [flamegraph, folded] = outputs.each_ref().map(|file| {
        fs::read_to_string(file).with_context(|| format!("leaktrace did not write {}", file.display()))
    });
    if !flamegraph?.contains(LEAKING_FUNCTION) {
        bail!("the flamegraph does not show {LEAKING_FUNCTION}");
    }
    match heaviest(&folded?) {
        Some(stack)
            if stack.contains(LEAKING_FUNCTION) && !INNOCENT.iter().any(|name| stack.contains(name)) =>
        {
            Ok(())
        }
        Some(stack) => bail!("the heaviest stack is not the leak: {stack}"),
        None => bail!("the folded output has no stack"),
    }
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
}
