//! Processes that are made while tracing: each is traced from some time after its birth, with numbers of its own that are exact from
//! then on; what it inherits is neither its leak nor its error; and who had its PID before does not matter.

mod harness;

use harness::output::Amount;
use harness::rules::rule;
use harness::{Expectation, Outcome, Outcomes, Process, Target, Tracer};
use serde::Deserialize;

const SHARED: [&str; 2] = ["--placement", "shared"];

/// What a worker of `targets/forks.c` says of itself.
#[derive(Clone, Debug, Deserialize)]
struct Worker {
    pid: u32,
    bytes: i64,
    blocks: i64,
    all_bytes: i64,
    all_blocks: i64,
    /// Blocks of its parent that it has freed.
    freed: i64,
}

/// The program, traced, with blocks that its children will inherit.
struct Family {
    target: Target,
    tracer: Tracer,
    /// What its children inherit.
    own: Expectation,
}

impl Family {
    fn start(options: &[&str]) -> Outcomes<Self> {
        let mut target = Target::start("forks")?;
        let mut tracer = Tracer::of(target.pid()).args(options).start()?;
        tracer.await_tracing()?;
        let own = target.ask("parent")?;
        Ok(Self { target, tracer, own })
    }

    /// Makes a worker; waits until it is traced.
    fn make(&mut self, how: &str) -> Outcomes<u32> {
        let pid: u32 = self.target.ask_json(how)?;
        self.tracer.await_stderr(&format!("leaktrace: tracing {pid} "))?;
        Ok(pid)
    }

    fn work(&mut self) -> Outcomes<Vec<Worker>> {
        self.target.ask_json("work")
    }
}

fn difference(what: &str, found: impl std::fmt::Debug, expected: impl std::fmt::Debug) -> String {
    format!("{what}: {found:?}, expected {expected:?}")
}

/// Exactly what a worker says it holds and has allocated, and nothing of its parent's.
fn check_worker(process: &Process, worker: &Worker) -> Outcomes<()> {
    let expected = Amount { bytes: worker.bytes, blocks: worker.blocks };
    let ever = Amount { bytes: worker.all_bytes, blocks: worker.all_blocks };
    let sum = process.sum_of_sites();
    if process.live_of("site_worker") != (expected.bytes, expected.blocks)
        || sum != (expected.bytes, expected.blocks)
    {
        return Err(difference(&format!("worker {} holds", worker.pid), sum, expected));
    }
    if process.allocated != ever {
        return Err(difference(&format!("worker {} has allocated", worker.pid), process.allocated, ever));
    }
    Ok(())
}

/// What the parent holds itself: nothing that its children do has anything to do with that.
fn check_parent(outcome: &Outcome, pid: u32, expected: Amount) -> Outcomes<()> {
    let report = outcome.final_report()?;
    let process = report.processes.iter().find(|process| process.pid == pid);
    let (bytes, blocks) = process.ok_or("the parent is in no report")?.live_of("site_parent");
    let found = Amount { bytes, blocks };
    if found == expected { Ok(()) } else { Err(difference("the parent holds", found, expected)) }
}

/// Every worker that still runs; frees of inherited blocks are counted as such, and none as unmatched.
fn check_family(outcome: &Outcome, workers: &[Worker]) -> Outcomes<()> {
    let report = outcome.final_report()?;
    for worker in workers {
        let running = |process: &&Process| process.pid == worker.pid && process.ended.is_none();
        let process = report.processes.iter().find(running);
        check_worker(
            process.ok_or_else(|| format!("worker {} is in no report, but expected", worker.pid))?,
            worker,
        )?;
    }
    let freed: i64 = workers.iter().map(|worker| worker.freed).sum();
    let truth = (report.truth.inherited_frees, report.truth.unmatched_frees);
    if truth != (freed, 0) {
        return Err(difference("frees of inherited and of unknown blocks", truth, (freed, 0)));
    }
    Ok(())
}

fn workers_by_fork(options: &[&str]) -> Outcomes<()> {
    let mut family = Family::start(options)?;
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(family.target.ask_json::<u32>("fork")?);
    }
    // With the rule switched off each is traced as its parent, and nothing is said.
    let said = if options.contains(&"--switch-off") { Vec::new() } else { pids };
    for pid in said {
        family.tracer.await_stderr(&format!("leaktrace: tracing {pid} "))?;
    }
    family.work()?;
    let workers = family.work()?;
    let Family { target, tracer, own } = family;
    let outcome = tracer.interrupt_and_finish()?;
    let held = Amount { bytes: own.total.bytes, blocks: own.total.blocks };
    check_parent(&outcome, target.pid(), held)?;
    check_family(&outcome, &workers)
}

/// Three siblings at once: three sets of numbers.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_workers_have_numbers_of_their_own() -> Outcomes<()> {
    workers_by_fork(&[])
}

/// The same from their first allocation on: their probes are there before them.
fn workers_from_birth(options: &[&str]) -> Outcomes<()> {
    workers_by_fork(&[&SHARED, options].concat())
}

rule!(
    root_rule_forks_inherit_nothing,
    root_rule_forks_inherit_nothing_fails_when_switched_off,
    "forks-inherit-nothing",
    workers_from_birth
);

/// A grandchild whose parent is gone at once, and a child that has executed another image: the one inherits, the other does not.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_orphans_and_new_images_are_traced() -> Outcomes<()> {
    let mut family = Family::start(&[])?;
    family.make("orphan")?;
    family.make("exec")?;
    let workers = family.work()?;
    assert_eq!(workers.iter().filter(|worker| worker.freed > 0).count(), 1, "{workers:?}");
    let outcome = family.tracer.interrupt_and_finish()?;
    check_family(&outcome, &workers)
}

/// A PID that is given again: within the time in which its first owner was not worth probes yet, and right after the end of one
/// that was traced.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_pid_that_is_given_again_is_another_process() -> Outcomes<()> {
    let mut family = Family::start(&[])?;
    let first = family.make("reuse")?;
    let before = family.work()?;
    family.target.ask_json::<u32>("end")?;
    let second = family.make("reuse")?;
    assert_eq!(first, second);
    let workers = family.work()?;
    let outcome = family.tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let own = workers.last().ok_or("no worker")?;
    assert!(own.blocks == before[0].blocks && own.all_blocks == before[0].all_blocks, "{own:?} {before:?}");
    let running = report.processes.iter().find(|process| process.pid == second && process.ended.is_none());
    check_worker(running.ok_or("it is not traced")?, own)?;
    assert_eq!(report.truth.inherited_frees, workers.iter().map(|worker| worker.freed).sum::<i64>());
    Ok(())
}

/// What has ended is counted: together with what is listed it is everything.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_processes_that_have_ended_are_in_the_totals() -> Outcomes<()> {
    let mut family = Family::start(&["--interval", "200ms"])?;
    family.make("fork")?;
    family.make("fork")?;
    let workers = family.work()?;
    family.target.ask_json::<u32>("end")?;
    family.make("fork")?;
    let alive = family.work()?;
    let outcome = family.tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let expected: i64 = alive.iter().map(|worker| worker.all_bytes).sum();
    let listed: i64 = report.processes.iter().map(|process| process.allocated.bytes).sum();
    let found = listed + report.ended.allocated.bytes;
    assert_eq!(found, expected + family.own.allocated_total.bytes, "{:?} {workers:?}", report.ended);
    let ended = report.processes.iter().filter(|process| process.ended.is_some()).count();
    assert_eq!(usize::try_from(report.ended.processes).map_err(|e| e.to_string())? + ended, 2);
    let newcomers = &report.truth.newcomers;
    assert_eq!((newcomers.entered, newcomers.from_birth), (3, 0), "{newcomers:?}");
    assert!(newcomers.gaps.is_some_and(|gaps| gaps.p50_ms >= 100.0 && gaps.max_ms >= gaps.p99_ms));
    Ok(())
}

/// Too short for probes, by fork, vfork and posix_spawn: every one of them is counted, whatever became of it.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_processes_that_live_for_a_moment_are_counted() -> Outcomes<()> {
    let mut family = Family::start(&[])?;
    let made: i64 = family.target.ask_json("short")?;
    let outcome = family.tracer.interrupt_and_finish()?;
    let newcomers = &outcome.final_report()?.truth.newcomers;
    // On a machine that stands still some of them are old enough for probes, and counted again when they execute something.
    assert!(newcomers.entered + newcomers.short_lived >= made, "{newcomers:?}, {made} were made");
    Ok(())
}

/// Their allocations too, where probes are there before them.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_short_processes_allocate_is_counted_under_shared_probes() -> Outcomes<()> {
    let mut family = Family::start(&[&SHARED[..], &["--interval", "200ms"]].concat())?;
    family.target.ask_json::<u32>("moments")?;
    let outcome = family.tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let newcomers = &report.truth.newcomers;
    let listed: i64 = report.processes.iter().map(|process| process.allocated.blocks).sum();
    let ever = listed + report.ended.allocated.blocks - family.own.allocated_total.blocks;
    assert!(newcomers.from_birth > 0, "{newcomers:?}");
    assert_eq!(ever, newcomers.from_birth, "a block each; {:?}", report.ended);
    Ok(())
}

/// `--no-follow-forks`: nothing but what was named.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_forks_are_left_alone_if_asked() -> Outcomes<()> {
    let mut target = Target::start("forks")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--no-follow-forks"]).start()?;
    tracer.await_tracing()?;
    let parent = target.ask("parent")?;
    target.ask_json::<u32>("fork")?;
    target.ask_json::<Vec<Worker>>("work")?;
    parent.check(&tracer.interrupt_and_finish()?)
}

/// A command that is gone while what it has made goes on: tracing ends with the last of them.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_command_may_end_before_its_children() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let flag = directory.path().join("go on");
    std::fs::write(&flag, "").map_err(|e| e.to_string())?;
    let script = format!("sh -c 'while test -e \"{}\"; do sleep 0.05; done' & exit 7", flag.display());
    let mut tracer = Tracer::json().args(&["--", "sh", "-c", &script]).start()?;
    // The command itself, and the shell that it leaves behind.
    tracer.await_tracing()?;
    tracer.await_tracing()?;
    std::fs::remove_file(&flag).map_err(|e| e.to_string())?;
    let outcome = tracer.await_end()?;
    let report = outcome.final_report()?;
    assert!(report.truth.newcomers.entered >= 1, "{:?}", report.truth.newcomers);
    Ok(())
}
