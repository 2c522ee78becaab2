//! Python interpreters that the tests trace. Distributions compile theirs in another way than developers do, so each of
//! Debian's comes from Debian, in a root of its own; the machine's is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::{command, workspace};

/// Names another directory for interpreters and virtual environments.
const DIRECTORY: &str = "LEAKTRACE_INTERPRETERS";

/// Roots that are made at the same time: each takes half a minute and 260 MB.
const AT_A_TIME: usize = 2;

/// A suite of Debian's.
struct Suite {
    name: &'static str,
    /// The Python that it has.
    python: &'static str,
    /// Changes from day to day: where it cannot be had, the tests do without it.
    moves: bool,
}

const SUITES: &[Suite] = &[
    Suite { name: "bullseye", python: "3.9", moves: false },
    Suite { name: "bookworm", python: "3.11", moves: false },
    Suite { name: "trixie", python: "3.13", moves: false },
    Suite { name: "sid", python: "3.14", moves: true },
];

/// Where interpreters and virtual environments are kept.
pub fn directory() -> Result<PathBuf> {
    match std::env::var_os(DIRECTORY) {
        Some(set) => workspace::directory(PathBuf::from(set)),
        None => workspace::cache("interpreters"),
    }
}

/// Makes the roots that are missing.
pub fn ensure_roots() -> Result<()> {
    let directory = directory()?;
    let (present, missing): (Vec<_>, Vec<_>) =
        SUITES.iter().partition(|suite| is_complete(&directory.join(suite.name)));
    for suite in present {
        println!("  already there  {:<20} Python {} as Debian compiles it", suite.name, suite.python);
    }
    for some in missing.chunks(AT_A_TIME) {
        make_several(some, &directory)?;
    }
    Ok(())
}

fn make_several(suites: &[&Suite], directory: &Path) -> Result<()> {
    for suite in suites {
        println!("  fetching       {:<20} Python {} as Debian compiles it", suite.name, suite.python);
    }
    let made: Vec<Result<()>> = thread::scope(|scope| {
        let running: Vec<_> =
            suites.iter().map(|suite| scope.spawn(|| make_root(suite.name, directory))).collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| bail!("a thread that made a root panicked")))
            .collect()
    });
    for (suite, made) in suites.iter().zip(made) {
        match made {
            Err(error) if suite.moves => eprintln!(
                "xtask: Debian's {} cannot be had at the moment ({error:#}): the tests do without Python {}",
                suite.name, suite.python
            ),
            other => other?,
        }
    }
    Ok(())
}

/// A root under its final name is complete: that name is given last.
fn is_complete(root: &Path) -> bool {
    root.join("usr/bin/python3").exists()
}

fn make_root(suite: &str, directory: &Path) -> Result<()> {
    let (unfinished, root) = (directory.join(format!("{suite}.part")), directory.join(suite));
    remove(&unfinished)?;
    remove(&root)?;
    let log = directory.join(format!("{suite}.log"));
    let output = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = output.try_clone().context("cannot share the log")?;
    // What debootstrap mounts goes with its namespace, even when it is killed.
    let mut make = command::as_root("unshare")?;
    make.args(["--mount", "debootstrap", "--variant=minbase", "--include=python3", suite]).arg(&unfinished);
    command::run(make.stdin(Stdio::null()).stdout(output).stderr(errors))
        .with_context(|| format!("cannot make a root of {suite}: see {}", log.display()))?;
    command::run(command::as_root("mv")?.arg("--no-target-directory").arg(&unfinished).arg(&root))
}

/// Removes what an earlier attempt has left.
fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    command::run(command::as_root("rm")?.args(["--recursive", "--force", "--one-file-system"]).arg(path))
}

/// The machine's own interpreter: the distribution's, if it has one, rather than whatever comes first in the path.
pub fn of_the_machine() -> Result<Command> {
    let distributions = Path::new("/usr/bin/python3");
    if distributions.exists() {
        return Ok(Command::new(distributions));
    }
    command::find("python3").map(Command::new).context("no python3: run `cargo xtask setup --for test`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_moving_suite_may_be_missing() {
        let moving: Vec<_> = SUITES.iter().filter(|suite| suite.moves).map(|suite| suite.name).collect();
        assert_eq!(moving, ["sid"]);
    }

    #[test]
    fn a_root_without_an_interpreter_is_not_complete() {
        assert!(!is_complete(Path::new("/nonexistent")));
        assert_eq!(is_complete(Path::new("/")), Path::new("/usr/bin/python3").exists());
    }
}
