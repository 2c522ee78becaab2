//! Promise: however tracing ends, there is a final report, the exit code is as documented, no probe is left, and the
//! target goes on unharmed.

mod harness;

use harness::{Outcome, Outcomes, Report, Target, Tracer, probed_code};
use std::{fs, path::Path, process::Command, time::Duration};

/// Traces the churn program, with files to be written at the end, until `end` has been done.
fn ends_well(end: impl FnOnce(&Tracer, &mut Target) -> Outcomes<()>) -> Outcomes<(Outcome, Target)> {
    let files = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (json, text) = (files.path().join("report.json"), files.path().join("report.txt"));
    let mut target = Target::start("churn")?;
    let builder = Tracer::of(target.pid()).args(&["--interval", "200ms"]);
    let mut tracer = builder.arg("-o").arg(&json).arg("-o").arg(&text).start()?;
    tracer.await_tracing()?;
    assert!(!probed_code::changed_functions(&target)?.is_empty(), "no probe was ever placed");
    end(&tracer, &mut target)?;
    let outcome = tracer.await_end()?;
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    check_files(&json, &text)?;
    Ok((outcome, target))
}

/// The files hold the final report.
fn check_files(json: &Path, text: &Path) -> Outcomes<()> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let report: Report =
        serde_json::from_str(&read(json)?).map_err(|e| format!("{}: {e}", json.display()))?;
    assert_eq!(report.reason.kind, "final");
    assert!(!read(text)?.trim().is_empty(), "{} is empty", text.display());
    Ok(())
}

fn unharmed(target: &mut Target) -> Outcomes<()> {
    probed_code::assert_none_left(target)?;
    let answer = target.ask("stop")?;
    assert!(answer.number("made")? > 0);
    assert_eq!(answer.number("damaged")?, 0);
    Ok(())
}

fn ends_by_signal(signal: i32) -> Outcomes<()> {
    let (outcome, mut target) = ends_well(|tracer, _| {
        tracer.signal(signal);
        Ok(())
    })?;
    outcome.final_report()?.only_process()?;
    unharmed(&mut target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_interrupted() -> Outcomes<()> {
    ends_by_signal(libc::SIGINT)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_terminated() -> Outcomes<()> {
    ends_by_signal(libc::SIGTERM)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_hung_up() -> Outcomes<()> {
    ends_by_signal(libc::SIGHUP)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stdout_closed() -> Outcomes<()> {
    let (_, mut target) = ends_well(|tracer, _| {
        tracer.close_stdout();
        Ok(())
    })?;
    unharmed(&mut target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_duration_over() -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    let outcome = Tracer::of(target.pid()).args(&["--duration", "1s"]).run()?;
    outcome.final_report()?.only_process()?;
    unharmed(&mut target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_target_exits() -> Outcomes<()> {
    let (outcome, _) = ends_well(|_, target| target.finish().map(|_| ()))?;
    let process = outcome.final_report()?.only_process()?;
    let ended = process.ended.as_deref().unwrap_or("still running");
    assert!(ended.contains("status 0"), "{ended}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_target_is_killed() -> Outcomes<()> {
    let (outcome, _) = ends_well(|_, target| {
        target.signal(libc::SIGKILL);
        Ok(())
    })?;
    let process = outcome.final_report()?.only_process()?;
    let ended = process.ended.as_deref().unwrap_or("still running");
    assert!(ended.contains("SIGKILL"), "{ended}");
    Ok(())
}

/// What a program held when it ended is in the final report, by name.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_target_that_exits_is_still_reported_exactly() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("go")?;
    target.finish()?;
    expectation.check(&tracer.await_end()?)
}

/// exec: the old image is reported as it ended, and the new one is traced on.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_target_execs() -> Outcomes<()> {
    let mut target = Target::start("exec_self")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    let before = target.ask("go")?;
    target.say("exec")?;
    target.await_ready()?;
    tracer.await_tracing()?;
    let outcome = tracer.interrupt_and_finish()?;
    outcome.final_report()?;
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    let ended = reports.iter().flat_map(|report| &report.processes).rfind(|process| process.ended.is_some());
    let ended = ended.ok_or("the image that ended is in no report")?;
    assert!(ended.ended.as_deref().is_some_and(|how| how.contains("exec")), "{:?}", ended.ended);
    let differences = before.site_differences(ended);
    assert!(differences.is_empty(), "{differences:#?}\n{}", ended.summary());
    Ok(())
}

/// A second signal does not wait for anything.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_second_signal_ends_at_once() -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    tracer.signal(libc::SIGINT);
    tracer.signal(libc::SIGTERM);
    tracer.signal(libc::SIGINT);
    let outcome = tracer.await_end_within(Duration::from_secs(20))?;
    assert!(outcome.code() != 101, "{}", outcome.stderr);
    unharmed(&mut target)
}

/// SIGKILL leaves no time to tidy up: the kernel does, the target goes on, and the next start works.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_killed_and_started_again() -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    tracer.signal(libc::SIGKILL);
    assert_eq!(tracer.await_end()?.code(), -libc::SIGKILL);
    unharmed(&mut target)?;
    target.say("go")?;
    let outcome = Tracer::of(target.pid()).args(&["--duration", "1s"]).run()?;
    assert!(outcome.final_report()?.only_process()?.allocated.blocks > 0);
    unharmed(&mut target)
}

/// A stopped target must not keep the tracer from ending.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_target_is_stopped() -> Outcomes<()> {
    let (outcome, mut target) = ends_well(|tracer, target| {
        target.signal(libc::SIGSTOP);
        tracer.signal(libc::SIGINT);
        Ok(())
    })?;
    outcome.final_report()?.only_process()?;
    probed_code::assert_none_left(&target)?;
    target.signal(libc::SIGCONT);
    unharmed(&mut target)
}

/// SIGUSR1 writes the files and goes on.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_sigusr1_writes_the_files_and_goes_on() -> Outcomes<()> {
    let files = tempfile::tempdir().map_err(|e| e.to_string())?;
    let json = files.path().join("report.json");
    let target = Target::start("churn")?;
    let mut tracer = Tracer::of(target.pid()).arg("-o").arg(&json).start()?;
    tracer.await_tracing()?;
    tracer.signal(libc::SIGUSR1);
    let requested = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        serde_json::from_str::<Report>(&fs::read_to_string(&json).ok()?).ok()
    });
    assert_eq!(requested.ok_or("no file was written")?.reason.kind, "requested");
    tracer.interrupt_and_finish()?.final_report()?;
    Ok(())
}

/// No map, program or link stays in the kernel: none of ours is pinned, all go with the process.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_nothing_is_pinned() -> Outcomes<()> {
    let target = Target::start("churn")?;
    Tracer::of(target.pid()).args(&["--duration", "1s"]).run()?.final_report()?;
    let pinned = Command::new("find").args(["/sys/fs/bpf", "-name", "*leaktrace*"]).output();
    let pinned = pinned.map_err(|e| format!("find: {e}"))?;
    assert!(pinned.stdout.is_empty(), "{}", String::from_utf8_lossy(&pinned.stdout));
    Ok(())
}

/// Some kernels kill a process that filters its system calls at its first return probe. There leaktrace must refuse;
/// everywhere else it must trace. Either way the process lives.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_process_that_filters_system_calls_survives() -> Outcomes<()> {
    let mut target = Target::start("churn-filtered")?;
    let outcome = Tracer::of(target.pid()).args(&["--interval", "200ms", "--duration", "1s"]).run()?;
    match outcome.code() {
        0 => assert!(outcome.final_report()?.only_process()?.allocated.blocks > 0),
        3 => assert!(outcome.stderr.contains("seccomp"), "{}", outcome.stderr),
        code => return Err(format!("exit code {code}: {}", outcome.stderr)),
    }
    unharmed(&mut target)
}
