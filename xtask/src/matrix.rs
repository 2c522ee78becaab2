//! The exactness tests on old kernels: each is booted in qemu with the test programs inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::initramfs::Initramfs;
use crate::kernel::{self, Series};
use crate::setup::Purpose;
use crate::{build, command, guest, program, setup, toolchain, workspace};

/// How long one kernel may take: everything in it runs some twenty times slower than here.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Test files of `leaktrace/tests/` that run on every kernel. The rules' own scenarios stay out: several of them are
/// races of threads that spin, which take many minutes under emulation.
const CHOSEN: &[&str] = &[
    "exact_*",
    "command",
    "end_of_tracing",
    "red_zone",
    "whole_stacks",
    "truncated_stacks",
    "changing_mappings",
    "loads",
];

/// Comes before every line of our own on the console.
const MARK: &str = "@leaktrace@";

/// Runs the matrix, or only proves that the kernels boot. `files` are test files in place of the usual ones.
pub fn run(only: Option<Series>, files: &[String], smoke: bool) -> Result<()> {
    setup::run(Purpose::Matrix)?;
    let directory = workspace::cache("matrix")?;
    let initramfs = directory.join("initramfs.gz");
    let tests = if smoke { Vec::new() } else { test_programs(files)? };
    fill(&initramfs, &tests, smoke)?;
    let chosen = Series::ALL.into_iter().filter(|series| only.is_none_or(|only| only == *series));
    let mut outcomes = Vec::new();
    for series in chosen {
        outcomes.push((series, on_kernel(series, &initramfs, &directory)?));
    }
    report(&outcomes, smoke, tests.len())
}

fn on_kernel(series: Series, initramfs: &Path, directory: &Path) -> Result<Outcome> {
    let image = kernel::image(series)?;
    println!("booting {}", image.file_name().unwrap_or_default().to_string_lossy());
    let console = directory.join(format!("console-{}.txt", series.name()));
    let text = guest::boot(&image, initramfs, &console, LIMIT)?;
    let outcome = Outcome::read(&text);
    if outcome.release.is_none() {
        bail!(
            "the kernel {} did not get as far as the init script: see {}",
            series.name(),
            console.display()
        );
    }
    Ok(outcome)
}

/// A test program: its name and its file.
type TestProgram = (String, PathBuf);

/// Compiles the chosen tests and returns the programs.
fn test_programs(files: &[String]) -> Result<Vec<TestProgram>> {
    let usual = CHOSEN.iter().map(|name| (*name).to_owned());
    let chosen = if files.is_empty() { usual.collect() } else { files.to_vec() };
    let mut compile = toolchain::cargo("test")?;
    compile.args(["--package", "leaktrace", "--no-run"]);
    compile.args(chosen.iter().flat_map(|name| ["--test", name]));
    compile.args(["--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let messages = command::output(&mut compile)?;
    let mut programs: Vec<_> = messages.lines().filter_map(test_program).collect();
    programs.sort();
    if programs.is_empty() {
        bail!("cargo compiled no test program of {chosen:?}");
    }
    Ok(programs)
}

/// The test program that a message of cargo's announces.
fn test_program(message: &str) -> Option<TestProgram> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let is_test = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    let file = message["executable"].as_str().filter(|_| is_test)?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(file)))
}

/// Writes the file system: leaktrace, the tests, the programs that they trace, and the script that runs them.
fn fill(file: &Path, tests: &[TestProgram], smoke: bool) -> Result<()> {
    let mut contents = Initramfs::create(file)?;
    if !smoke {
        contents.stripped_program(&build::leaktrace(false)?, Path::new("/bin/leaktrace"))?;
        contents.file(Path::new(MUSL), Path::new(MUSL))?;
        contents.real_programs()?;
        for target in targets()? {
            let name = target.file_name().context("a program without a name")?;
            contents.program(&target, &Path::new("/targets").join(name))?;
        }
    }
    for (name, file) in tests {
        contents.stripped_program(file, &Path::new("/tests").join(name))?;
    }
    contents.script("/init", &init_script(tests))?;
    contents.finish()
}

/// musl's dynamic linker, which is its C library too: glibc's `ldd` does not tell of it.
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// The programs that the tests trace, compiled here: there is no compiler in the box.
fn targets() -> Result<Vec<PathBuf>> {
    let output = workspace::cache("matrix/targets")?;
    program::compile_all(&workspace::root().join("leaktrace/tests/targets"), &output)
}

fn init_script(tests: &[TestProgram]) -> String {
    let runs: String = tests.iter().map(|(name, _)| run_lines(name)).collect();
    format!(
        "#!/bin/busybox sh
export PATH=/bin HOME=/root RUST_BACKTRACE=1
export LEAKTRACE_TEST_BIN=/bin/leaktrace LEAKTRACE_TEST_TARGETS=/targets LEAKTRACE_TEST_PATIENCE=300
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
busybox ip link set lo up
echo '{MARK} release' $(uname -r)
cd /root
{runs}echo '{MARK} done'
poweroff -f
"
    )
}

fn run_lines(name: &str) -> String {
    format!(
        "echo '{MARK} begin {name}'\ntimeout 1200 /tests/{name} --include-ignored --test-threads=1 --show-output 2>&1\necho '{MARK} end {name}' $?\n"
    )
}

/// What one kernel's console told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    release: Option<String>,
    done: bool,
    /// Test program -> its exit status and the results of its tests.
    programs: BTreeMap<String, ProgramOutcome>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct ProgramOutcome {
    status: Option<i32>,
    passed: usize,
    failed: Vec<String>,
    /// Test -> the amounts that were found to be equal, in the harness' words.
    exact: BTreeMap<String, String>,
}

impl Outcome {
    fn read(console: &str) -> Self {
        let mut outcome = Self::default();
        let (mut current, mut test) = (None, "");
        for line in console.lines() {
            if let Some((_, note)) = line.split_once(MARK) {
                outcome.note(note.trim(), &mut current);
            } else if let Some(program) = current.as_ref().and_then(|name| outcome.programs.get_mut(name)) {
                test = output_of(line).unwrap_or(test);
                program.result(line);
                program.amounts(test, line);
            }
        }
        outcome
    }

    /// Takes a line of the init script's.
    fn note(&mut self, note: &str, current: &mut Option<String>) {
        let words: Vec<&str> = note.split(' ').collect();
        match words[..] {
            ["release", release] => self.release = Some(release.to_owned()),
            ["begin", name] => {
                self.programs.insert(name.to_owned(), ProgramOutcome::default());
                *current = Some(name.to_owned());
            }
            ["end", name, status] => {
                self.programs.entry(name.to_owned()).or_default().status = status.parse().ok();
                *current = None;
            }
            ["done"] => self.done = true,
            _ => {}
        }
    }

    fn is_good(&self, expected: usize) -> bool {
        let good = |program: &ProgramOutcome| program.status == Some(0) && program.passed > 0;
        self.done && self.programs.len() == expected && self.programs.values().all(good)
    }
}

impl ProgramOutcome {
    /// Takes a line with a test's verdict.
    fn result(&mut self, line: &str) {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        // A kernel message may stand between the name and the verdict; `end` tells then.
        match result.trim() {
            verdict if verdict.ends_with("ok") => self.passed += 1,
            verdict if verdict.ends_with("FAILED") => self.failed.push(name.to_owned()),
            _ => {}
        }
    }

    /// Takes a line that a test printed; the last one counts.
    fn amounts(&mut self, test: &str, line: &str) {
        if let Some(amounts) = line.strip_prefix("exact: ") {
            self.exact.insert(test.to_owned(), amounts.to_owned());
        }
    }
}

/// The test whose output follows a line such as `---- name stdout ----`.
fn output_of(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

fn report(outcomes: &[(Series, Outcome)], smoke: bool, expected: usize) -> Result<()> {
    println!("\n{:<32} {:<28} {:>7} {:>7}  result", "kernel", "tests", "passed", "failed");
    for (_, outcome) in outcomes {
        let release = outcome.release.as_deref().unwrap_or("?");
        if smoke {
            println!("{release:<32} {:<28} {:>7} {:>7}  {}", "(boot only)", "-", "-", verdict(outcome.done));
        }
        for (name, program) in &outcome.programs {
            let good = verdict(program.status == Some(0) && program.passed > 0);
            println!("{release:<32} {name:<28} {:>7} {:>7}  {good}", program.passed, program.failed.len());
            program.failed.iter().for_each(|test| println!("    failed: {test}"));
            program.exact.iter().for_each(|(test, amounts)| println!("    {test}: {amounts}"));
        }
    }
    if !outcomes.iter().all(|(_, outcome)| outcome.is_good(expected)) {
        bail!("the matrix failed; what the kernels printed is in target/matrix/console-*.txt");
    }
    Ok(())
}

fn verdict(good: bool) -> &'static str {
    if good { "ok" } else { "FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "@leaktrace@ release 6.1.0-x\n@leaktrace@ begin exactness\ntest a ... ok\n\
        test b ... FAILED\nnoise\n---- a stdout ----\nexact: 17 B in 1 blocks live\n@leaktrace@ end exactness 101\n@leaktrace@ done\n";

    #[test]
    fn failures_are_named_by_test() {
        let outcome = Outcome::read(CONSOLE);
        let program = &outcome.programs["exactness"];
        assert_eq!((program.status, program.passed), (Some(101), 1));
        assert_eq!(program.failed, ["b"]);
        assert_eq!(program.exact["a"], "17 B in 1 blocks live");
        assert!(!outcome.is_good(1));
    }

    #[test]
    fn a_kernel_that_stops_in_the_middle_is_a_failure() {
        let good = CONSOLE.replace("FAILED", "ok").replace("101", "0");
        assert!(Outcome::read(&good).is_good(1));
        assert!(!Outcome::read(&good).is_good(2), "a test program is missing");
        let cut = good.split("@leaktrace@ end").next().expect("has a beginning");
        assert!(!Outcome::read(cut).is_good(1));
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let message = r#"{"target":{"kind":["test"],"name":"exactness_x"},"executable":"/t/exactness_x-1"}"#;
        assert_eq!(
            test_program(message),
            Some(("exactness_x".to_owned(), PathBuf::from("/t/exactness_x-1")))
        );
        assert_eq!(test_program(&message.replace("[\"test\"]", "[\"lib\"]")), None);
        assert_eq!(test_program("not json"), None);
    }
}
