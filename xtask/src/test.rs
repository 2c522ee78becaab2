//! The test suite: plain `cargo test`, as root and with nothing left out.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::Purpose;
use crate::{command, setup, toolchain};

/// How names of tests begin that only run when they are asked for.
const SOAK: &str = "soak_";

/// More failures than this are no matter of chance.
const MAX_AGAIN: usize = 5;

/// Runs the tests. `quick` leaves out those that need root or BPF; `filter` keeps those with it in their names.
pub fn run(quick: bool, filter: Option<&str>) -> Result<()> {
    if !quick {
        setup::run(Purpose::Test)?;
    }
    let mut tests = cargo_test(quick)?;
    tests.arg("--no-fail-fast").args(filter);
    if !quick {
        tests.args(["--", "--include-ignored"]);
        // Tests that run for many minutes; `cargo xtask test soak_` runs them.
        if !filter.is_some_and(|filter| filter.starts_with(SOAK)) {
            tests.args(["--skip", SOAK]);
        }
    }
    let (succeeded, counts) = run_and_count(&mut tests)?;
    if !succeeded {
        again(&counts, quick)?;
    }
    judge(&counts, quick)
}

fn cargo_test(quick: bool) -> Result<Command> {
    let mut tests = toolchain::cargo("test")?;
    tests.arg("--workspace");
    if !quick {
        as_root(&mut tests)?;
    }
    Ok(tests)
}

/// Runs what has failed once more, one test after the other. Most tests share the machine with each other and look at what the
/// kernel and schedulers do; a test that holds alone is told from one that does not, and both are named.
fn again(counts: &Counts, quick: bool) -> Result<()> {
    let names = &counts.names_failed;
    let summary = format!("{} passed, {} failed", counts.passed, counts.failed);
    if quick || names.is_empty() || names.len() > MAX_AGAIN || names.len() as u64 != counts.failed {
        bail!("tests failed ({summary})");
    }
    println!("\nonce more, alone: {}", names.join(", "));
    let mut tests = cargo_test(quick)?;
    tests.args(["--no-fail-fast", "--", "--include-ignored", "--test-threads=1", "--exact"]).args(names);
    let (succeeded, second) = run_and_count(&mut tests)?;
    if !succeeded || second.passed < counts.failed {
        bail!("tests failed ({summary}), and failed again alone: {}", second.names_failed.join(", "));
    }
    println!("\nFLAKY: failed beside others, and held alone: {}", names.join(", "));
    Ok(())
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
    /// Tests that failed, by the names that they are asked for by.
    names_failed: Vec<String>,
}

impl Counts {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; other lines count nothing.
    fn add(&mut self, line: &str) {
        let failed = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"));
        self.names_failed.extend(failed.map(str::to_owned));
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
        counts.add("test module::tests::a_name ... FAILED");
        let names_failed = vec!["module::tests::a_name".to_owned()];
        assert_eq!(counts, Counts { passed: 5, failed: 4, ignored: 1, names_failed });
    }

    #[test]
    fn skipped_tests_and_empty_runs_are_failures() {
        assert!(judge(&Counts { passed: 3, ignored: 1, ..Counts::default() }, false).is_err());
        assert!(judge(&Counts { passed: 3, ignored: 1, ..Counts::default() }, true).is_ok());
        assert!(judge(&Counts::default(), true).is_err());
    }
}
