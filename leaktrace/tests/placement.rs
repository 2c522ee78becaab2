//! Promise: probes that all processes of a file share tell the same as probes of one process, and who pays for them is known:
//! with links of its own a process costs nobody else anything, with shared ones the neighbours' code is as it was
//! once tracing ends.

mod harness;

use std::{fs, path::Path, process::Command};

use harness::{
    Expectation, Outcomes, Report, Target, Tracer, check_exact, probed_code, program, rules::rule,
    target::TargetBuilder,
};

const SHARED: &[&str] = &["--placement", "shared"];
/// Every case once, then most blocks freed, then a long random mix, then blocks from before tracing freed.
const EVERYTHING: &[&str] = &["go", "free", "again", "free-old"];

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_glibc_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact")?, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_musl_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact-musl")?, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_a_static_program_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact-static-pie")?, EVERYTHING, SHARED).map(|_| ())
}

/// Two files are probed, and a block of one is made of a block of the other.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_in_two_layers_are_exact() -> Outcomes<()> {
    let mut target = Target::prepare("exact")?.preload("forwarding.so")?.start()?;
    check_exact(&mut target, EVERYTHING, SHARED).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_by_perf_links_are_exact() -> Outcomes<()> {
    let options = ["--placement", "shared", "--link-mode", "perf"];
    check_exact(&mut Target::prepare("threads")?.arg("5000").arg("8").start()?, &["go", "go"], &options)
        .map(|_| ())
}

/// What one process of several holds, against what it says.
fn check_process(report: &Report, pid: u32, expectation: &Expectation) -> Outcomes<()> {
    let process = report.processes.iter().find(|process| process.pid == pid);
    let process = process.ok_or_else(|| format!("process {pid} is not in the report, but expected"))?;
    let mut differences = expectation.site_differences(process);
    let (live, ever) = (process.live, process.allocated);
    let (bytes, blocks) = (expectation.total.bytes, expectation.total.blocks);
    if (live.bytes, live.blocks) != (bytes, blocks) {
        differences.push(format!("{live:?} live, expected {bytes} B in {blocks}"));
    }
    let (bytes, blocks) = (expectation.allocated_total.bytes, expectation.allocated_total.blocks);
    if (ever.bytes, ever.blocks) != (bytes, blocks) {
        differences.push(format!("{ever:?} ever allocated, expected {bytes} B in {blocks}"));
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n") + &process.summary()) }
}

/// Nothing lost, nothing counted that was not expected.
fn check_truth(report: &Report) -> Outcomes<()> {
    let counted = |name| report.counter(name).map(|count| (name, count));
    let odd =
        [counted("abandoned_calls")?, counted("lost_return")?, ("unmatched", report.truth.unmatched_frees)];
    let odd: Vec<_> = odd.into_iter().filter(|(_, count)| *count != 0).collect();
    if odd.is_empty() { Ok(()) } else { Err(format!("{odd:?}, none of which was expected")) }
}

/// One file under two names, as overlay file systems show it: two shared links lie on the same instructions.
fn one_file_under_two_names(options: &[&str]) -> Outcomes<()> {
    let scratch = tempfile::tempdir().map_err(|error| format!("a directory for an overlay: {error}"))?;
    let overlaid = below_an_overlay(&program::path("families-own")?, scratch.path())?;
    let mut targets = [Target::start("families-own")?, overlaid.start()?];
    let pids = format!("{},{}", targets[0].pid(), targets[1].pid());
    let mut tracer = Tracer::json().args(&["-p", &pids]).args(SHARED).args(options).start()?;
    tracer.await_tracing()?;
    tracer.await_tracing()?;
    let answers = [targets[0].ask("vfork")?, targets[1].ask("vfork")?];
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    for (target, answer) in targets.iter().zip(&answers) {
        check_process(report, target.pid(), answer)?;
    }
    check_truth(report)
}

rule!(
    root_rule_one_link_counts,
    root_rule_one_link_counts_fails_when_switched_off,
    "one-link-counts",
    one_file_under_two_names
);

/// What a vfork child allocates lies in its parent's memory, and the parent gives it back.
fn allocated_between_vfork_and_exit(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::start("families")?;
    let options = [SHARED, options].concat();
    let mut tracer = Tracer::of(target.pid()).args(&options).start()?;
    tracer.await_tracing()?;
    let answer = target.ask("vfork")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    check_process(report, target.pid(), &answer)?;
    check_truth(report)
}

rule!(
    root_rule_vfork_is_the_parent,
    root_rule_vfork_is_the_parent_fails_when_switched_off,
    "vfork-is-the-parent",
    allocated_between_vfork_and_exit
);

/// The programs that are spawned have their own blocks; nothing of theirs is the target's.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_spawned_programs_leave_the_numbers_alone() -> Outcomes<()> {
    let mut target = Target::start("families")?;
    let mut tracer = Tracer::of(target.pid()).args(SHARED).start()?;
    tracer.await_tracing()?;
    target.ask("vfork")?;
    let answer = target.ask("spawn")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let process = report.processes.iter().find(|process| process.pid == target.pid());
    let differences = answer.site_differences(process.ok_or("the target is not in the report")?);
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(report.truth.unmatched_frees, 0, "{}", report.truth.line);
    Ok(())
}

/// Probes are in a forked worker before it runs: its very first allocation is seen.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_forked_worker_is_traced_from_its_first_allocation() -> Outcomes<()> {
    let mut target = Target::start("families")?;
    let mut tracer = Tracer::of(target.pid()).args(SHARED).start()?;
    tracer.await_tracing()?;
    let answers: Vec<Expectation> = (0..3).map(|_| target.ask("worker")).collect::<Outcomes<_>>()?;
    let report = tracer.interrupt_and_finish()?;
    let report = report.final_report()?;
    for answer in &answers {
        let pid = u32::try_from(answer.number("worker")?).map_err(|error| error.to_string())?;
        check_process(report, pid, answer)?;
    }
    check_truth(report)
}

/// Four threads of the target allocate without a pause while it changes over to shared links, because a crowd of processes
/// comes into scope: no hit is lost, none counts twice.
fn probes_become_shared_under_load(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::prepare("families")?.arg("4").start()?;
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    target.say("go")?;
    target.say("crowd")?;
    tracer.await_stderr("leaktrace: 17 processes use the same files")?;
    // Until no link of its own is left, and beyond.
    target.ask("more")?;
    let answer = target.ask("stop")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    check_process(report, target.pid(), &answer)?;
    check_truth(report)
}

rule!(
    root_rule_change_between_hits,
    root_rule_change_between_hits_fails_when_switched_off,
    "change-between-hits",
    probes_become_shared_under_load
);

/// With links of its own a target costs nobody else anything.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_neighbour_is_left_alone_under_strict_scope() -> Outcomes<()> {
    let (mut target, neighbour) = (Target::start("exact")?, Target::start("churn")?);
    let mut tracer = Tracer::of(target.pid()).args(&["--strict-scope"]).args(SHARED).start()?;
    tracer.await_tracing()?;
    let answer = target.ask("go")?;
    let changed = probed_code::changed_functions(&neighbour)?;
    assert!(changed.is_empty(), "probes in the neighbour, on {changed:?}");
    answer.check(&tracer.interrupt_and_finish()?)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_shared_probes_are_in_a_neighbour_and_go_with_the_tracer() -> Outcomes<()> {
    let (mut target, mut neighbour) = (Target::start("exact")?, Target::start("churn")?);
    let mut tracer = Tracer::of(target.pid()).args(SHARED).start()?;
    tracer.await_tracing()?;
    let answer = target.ask("go")?;
    assert!(!probed_code::changed_functions(&neighbour)?.is_empty(), "no probes in the neighbour");
    answer.check(&tracer.interrupt_and_finish()?)?;
    probed_code::assert_none_left(&neighbour)?;
    assert_eq!(neighbour.ask("stop")?.number("damaged")?, 0);
    Ok(())
}

/// A program as an overlay file system shows it: another device, the same file beneath. The mount goes with the program, which
/// has a mount namespace of its own.
fn below_an_overlay(program: &Path, scratch: &Path) -> Outcomes<TargetBuilder> {
    let (directory, name) =
        program.parent().zip(program.file_name()).ok_or("a program without a directory")?;
    for part in ["upper", "work", "merged"] {
        fs::create_dir(scratch.join(part)).map_err(|error| format!("{part}: {error}"))?;
    }
    let script = r#"cd "$1" && mount -t overlay none -o "lowerdir=$2,upperdir=upper,workdir=work" merged && exec "merged/$3""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(scratch).arg(directory).arg(name);
    Ok(Target::command(command))
}
