//! Promise: outstanding bytes and blocks are exact, per function of the malloc family and in every case of each,
//! whichever allocator the program uses.

mod harness;

use harness::{Outcomes, Target, check_exact};

/// Every case once, then most blocks freed, then a long random mix, then blocks from before tracing freed.
const EVERYTHING: &[&str] = &["go", "free", "again", "free-old"];

fn exact(program: &str) -> Outcomes<()> {
    check_exact(&mut Target::start(program)?, EVERYTHING, &[]).map(|_| ())
}

fn exact_with(program: &str, library: &str) -> Outcomes<()> {
    check_exact(&mut Target::prepare(program)?.preload(library)?.start()?, EVERYTHING, &[]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_every_case_of_every_function_is_exact() -> Outcomes<()> {
    check_exact(&mut Target::start("exact")?, &["go"], &[]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_glibc_is_exact() -> Outcomes<()> {
    exact("exact")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_static_glibc_is_exact() -> Outcomes<()> {
    exact("exact-static")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_static_position_independent_glibc_is_exact() -> Outcomes<()> {
    exact("exact-static-pie")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_musl_is_exact() -> Outcomes<()> {
    exact("exact-musl")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_static_musl_is_exact() -> Outcomes<()> {
    exact("exact-musl-static")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_allocator_of_the_executable_is_exact() -> Outcomes<()> {
    exact("exact-own")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_preloaded_allocator_is_exact() -> Outcomes<()> {
    exact_with("exact", "size_class.so")
}

/// The wrapper passes malloc, calloc, realloc and free on to libc, whose other functions are called directly.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_preloaded_wrapper_reports_each_block_once() -> Outcomes<()> {
    exact_with("exact", "forwarding.so")
}

/// The wrapper's blocks are not the blocks that libc gave it.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_wrapper_that_shifts_blocks_reports_each_block_once() -> Outcomes<()> {
    let mut target =
        Target::prepare("threads")?.arg("5000").arg("2").preload("forwarding-header.so")?.start()?;
    check_exact(&mut target, &["go"], &[]).map(|_| ())
}

/// The library is loaded while tracing goes on; what its allocator hands out from then on is seen.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_allocator_that_is_loaded_later_is_noticed() -> Outcomes<()> {
    let library = harness::program::path("late_library.so")?;
    let mut target = Target::prepare("late")?.arg(library).start()?;
    let mut tracer = harness::Tracer::of(target.pid()).args(&["--interval", "100ms"]).start()?;
    tracer.await_tracing()?;
    target.ask("load")?;
    tracer.await_stderr(&format!("leaktrace: process {}: a library loaded", target.pid()))?;
    let expectation = target.ask("go")?;
    expectation.check_sites(&tracer.interrupt_and_finish()?)
}

/// Two programs at once are told apart.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_processes_are_told_apart() -> Outcomes<()> {
    let mut targets = [Target::start("exact")?, Target::start("exact-musl")?];
    let pids = format!("{},{}", targets[0].pid(), targets[1].pid());
    let mut tracer = harness::Tracer::json().args(&["-p", &pids]).start()?;
    tracer.await_tracing()?;
    tracer.await_tracing()?;
    let expectations = [targets[0].ask("go")?, targets[1].ask("go")?];
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    for (target, expectation) in targets.iter().zip(&expectations) {
        let process = report.processes.iter().find(|process| process.pid == target.pid());
        let process = process.ok_or_else(|| format!("{} is not in the report", target.pid()))?;
        let differences = expectation.site_differences(process);
        assert!(differences.is_empty(), "{differences:#?}");
        assert_eq!(
            (process.live.bytes, process.live.blocks),
            (expectation.total.bytes, expectation.total.blocks)
        );
    }
    Ok(())
}
