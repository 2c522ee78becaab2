//! Promise: `-- COMMAND` traces a program from its first allocation, lets its output and input alone, and says how it
//! ended.

mod harness;

use harness::{Expectation, Outcome, Outcomes, Process, Report, Tracer, program};
use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// Files of one run.
struct Run {
    directory: tempfile::TempDir,
}

impl Run {
    fn new() -> Outcomes<Self> {
        Ok(Self { directory: tempfile::tempdir().map_err(|e| e.to_string())? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Traces `command`, whose expectation goes to the file `expected`.
    fn trace(&self, command: &[OsString]) -> Outcomes<Outcome> {
        let mut builder = Tracer::bare().args(&["trace", "-o"]).arg(self.path("report.json")).arg("--");
        for word in command {
            builder = builder.arg(word);
        }
        builder.run()
    }

    fn report(&self) -> Outcomes<Report> {
        let text = fs::read_to_string(self.path("report.json")).map_err(|e| format!("report.json: {e}"))?;
        serde_json::from_str(&text).map_err(|e| format!("report.json: {e}"))
    }

    fn expectation(&self) -> Outcomes<Expectation> {
        let text = fs::read_to_string(self.path("expected")).map_err(|e| format!("expected: {e}"))?;
        Expectation::parse(text.lines())
    }

    /// The last image of the command in the report.
    fn process(&self) -> Outcomes<Process> {
        let report = self.report()?;
        let process = report.processes.iter().find(|process| process.name.starts_with("command"));
        process.cloned().ok_or_else(|| format!("no process `command`: {:#?}", report.processes))
    }

    /// What its sites hold is in the report, from the first allocation on; returns how it ended.
    fn check_sites(&self) -> Outcomes<String> {
        let (process, expectation) = (self.process()?, self.expectation()?);
        let differences = expectation.site_differences(&process);
        assert!(differences.is_empty(), "{differences:#?}\n{}", process.summary());
        Ok(process.ended.unwrap_or_default())
    }

    /// The same, and nothing else was allocated.
    fn check(&self) -> Outcomes<String> {
        let (process, expectation) = (self.process()?, self.expectation()?);
        let live = (process.live.bytes, process.live.blocks);
        assert_eq!(live, (expectation.total.bytes, expectation.total.blocks), "{}", process.summary());
        self.check_sites()
    }
}

fn words(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

/// Checks the sites; with `alone`, that nothing else was allocated.
fn traced_from_the_start(name: &str, alone: bool) -> Outcomes<()> {
    let run = Run::new()?;
    let outcome = run.trace(&words(&[&program::path(name)?, &run.path("expected")]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let ended = if alone { run.check()? } else { run.check_sites()? };
    assert!(ended.contains("status 0"), "{ended}");
    assert!(outcome.stdout.contains("the command's own output\n"), "{}", outcome.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_command_is_traced_from_its_first_allocation() -> Outcomes<()> {
    traced_from_the_start("command", true)
}

/// The C library in a static program allocates for itself before `main`.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_static_command_is_traced_from_its_first_allocation() -> Outcomes<()> {
    traced_from_the_start("command-static", false)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_exit_status_is_shown_and_does_not_become_ours() -> Outcomes<()> {
    let run = Run::new()?;
    let outcome = run.trace(&words(&[&program::path("command")?, &run.path("expected"), &"7"]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let ended = run.check()?;
    assert!(ended.contains("status 7"), "{ended}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_death_by_a_signal_is_shown() -> Outcomes<()> {
    let run = Run::new()?;
    let outcome = run.trace(&words(&[&program::path("command")?, &run.path("expected"), &"0", &"9"]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let ended = run.check()?;
    assert!(ended.contains("SIGKILL"), "{ended}");
    Ok(())
}

/// `env` replaces itself by the command.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_chain_of_execs_is_followed() -> Outcomes<()> {
    let run = Run::new()?;
    let outcome = run.trace(&words(&[&"env", &"A=1", &program::path("command")?, &run.path("expected")]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    run.check().map(|_| ())
}

/// A script's interpreter replaces itself by the command.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_script_is_followed() -> Outcomes<()> {
    let run = Run::new()?;
    let (script, expected) = (run.path("script"), run.path("expected"));
    let text = format!("#!/bin/sh\nexec {} {}\n", program::path("command")?.display(), expected.display());
    fs::write(&script, text).map_err(|e| e.to_string())?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let outcome = run.trace(&words(&[&script]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    run.check().map(|_| ())
}

/// Arguments that look like ours belong to the command.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_commands_options_are_its_own() -> Outcomes<()> {
    let run = Run::new()?;
    let outcome = run.trace(&words(&[&"sh", &"-c", &"printf '%s' \"$0 $*\"", &"--top", &"-p", &"1"]))?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("--top -p 1"), "{}", outcome.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_command_that_does_not_exist() -> Outcomes<()> {
    let outcome = Tracer::bare().args(&["trace", "--", "/no/such/program"]).run()?;
    assert_eq!(outcome.code(), 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/no/such/program"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    Ok(())
}

/// A signal to the tracer alone ends tracing, not the command: it runs on, neither stopped nor probed.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_command_outlives_the_tracer_unharmed() -> Outcomes<()> {
    let run = Run::new()?;
    // Its output goes elsewhere, so that it does not keep the tracer's stdout open.
    let script = "echo $$ > \"$0\"; exec sleep 1000 >/dev/null 2>&1";
    let mut tracer = Tracer::json().args(&["--", "sh", "-c", script]).arg(run.path("pid")).start()?;
    tracer.await_tracing()?;
    let pid = (0..200).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        fs::read_to_string(run.path("pid")).ok()?.trim().parse::<i32>().ok()
    });
    let pid = pid.ok_or("the command did not start")?;
    let outcome = tracer.interrupt_and_finish()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // SAFETY: the command is ours to end; nobody waits for it but init.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert!(state.is_empty() || state.contains(") S "), "not sleeping: {state}");
    Ok(())
}
