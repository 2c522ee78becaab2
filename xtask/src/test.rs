//! The test suite: plain `cargo test`, as root and with nothing left out.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::Purpose;
use crate::{command, setup, toolchain};

/// How names of tests begin that only run when they are asked for.
const SOAK: &str = "soak_";

/// Runs the tests. `quick` leaves out those that need root or BPF; `filter` keeps those with it in their names.
pub fn run(quick: bool, filter: Option<&str>) -> Result<()> {
    if !quick {
        setup::run(Purpose::Test)?;
    }
    let mut tests = toolchain::cargo("test")?;
    tests.args(["--workspace", "--no-fail-fast"]).args(filter);
    if !quick {
        as_root(&mut tests)?;
        tests.args(["--", "--include-ignored"]);
        // Tests that run for many minutes; `cargo xtask test soak_` runs them.
        if !filter.is_some_and(|filter| filter.starts_with(SOAK)) {
            tests.args(["--skip", SOAK]);
        }
    }
    let (succeeded, counts) = run_and_count(&mut tests)?;
    if !succeeded {
        bail!("tests failed ({} passed, {} failed)", counts.passed, counts.failed);
    }
    judge(&counts, quick)
}

/// Lets cargo compile as this user and run what it compiled as root.
fn as_root(tests: &mut Command) -> Result<()> {
    if !command::is_root() {
        command::as_root("the test suite")?;
        tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo --preserve-env");
    }
    Ok(())
}

/// Green is not enough: something must have run, and nothing may have been left out.
fn judge(counts: &Counts, quick: bool) -> Result<()> {
    if counts.passed == 0 {
        bail!("no test ran");
    }
    if !quick && counts.ignored > 0 {
        bail!("{} tests were skipped: the whole suite was asked for", counts.ignored);
    }
    Ok(())
}

/// What the test programs reported, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; other lines count nothing.
    fn add(&mut self, line: &str) {
        if !line.starts_with("test result:") {
            return;
        }
        self.passed += number_before(line, " passed");
        self.failed += number_before(line, " failed");
        self.ignored += number_before(line, " ignored");
    }
}

fn number_before(line: &str, word: &str) -> u64 {
    let number = line.split_once(word).and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Shows a test run as it comes and adds its results up.
fn run_and_count(tests: &mut Command) -> Result<(bool, Counts)> {
    let text = command::describe(tests);
    let mut child = tests.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{text}`"))?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
        let line = line.context("cannot read the tests' output")?;
        counts.add(&line);
        println!("{line}");
    }
    Ok((child.wait()?.success(), counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_programs_add_up() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        counts.add("test a_name ... ok");
        counts.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(counts, Counts { passed: 5, failed: 4, ignored: 1 });
    }

    #[test]
    fn skipped_tests_and_empty_runs_are_failures() {
        assert!(judge(&Counts { passed: 3, failed: 0, ignored: 1 }, false).is_err());
        assert!(judge(&Counts { passed: 3, failed: 0, ignored: 1 }, true).is_ok());
        assert!(judge(&Counts::default(), true).is_err());
    }
}
