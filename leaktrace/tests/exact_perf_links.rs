//! Promise: numbers are as exact through perf links, one per probe, as through multi links. Kernels before 6.10 get
//! them; here every kernel does. A perf event belongs to one thread, yet its program must run for every thread of the
//! process, and for no other process.

mod harness;

use harness::{Outcomes, Target, Tracer, check_exact, probed_code::changed_functions};

const PERF: &[&str] = &["--link-mode", "perf"];

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_every_case_of_every_function_is_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact")?, &["go", "free", "again", "free-old"], PERF).map(|_| ())
}

/// The threads are started after the events were opened, none of which was opened on them.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_are_exact() -> Outcomes<()> {
    let mut target = Target::prepare("threads")?.arg("5000").arg("8").start()?;
    check_exact(&mut target, &["go", "go"], PERF).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_very_many_short_threads_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::prepare("short_threads")?.arg("5000").start()?, &["go"], PERF).map(|_| ())
}

/// The events were opened on the main thread and end with it: what is not seen from then on is said.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_process_without_its_main_thread_is_known_to_be_unseen() -> Outcomes<()> {
    let mut target = Target::start("leader_exits")?;
    let mut tracer = Tracer::of(target.pid()).args(PERF).start()?;
    tracer.await_tracing()?;
    let seen = target.ask("go")?;
    target.ask("leave")?;
    tracer.await_stderr(&format!("leaktrace: process {}: its main thread has ended", target.pid()))?;
    target.ask("go")?;
    let outcome = tracer.interrupt_and_finish()?;
    seen.check(&outcome)?;
    let windows = &outcome.final_report()?.truth.blind_windows;
    assert!(matches!(&windows[..], [window] if window.contains("main thread")), "{windows:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_mappings_are_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("mappings")?, &["go"], PERF).map(|_| ())
}

/// Another process that runs the same code all the time is neither probed nor mixed up with the target.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_neighbour_is_left_alone() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let neighbour = Target::start("churn")?;
    let mut tracer = Tracer::of(target.pid()).args(PERF).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("go")?;
    let changed = changed_functions(&neighbour)?;
    assert!(changed.is_empty(), "probes in the neighbour, on {changed:?}");
    expectation.check(&tracer.interrupt_and_finish()?)
}
