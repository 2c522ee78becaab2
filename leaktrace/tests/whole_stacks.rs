//! Promise: a stack from any allocation is whole, function by function, whatever code it leads through: compiled without
//! frame pointers, realigned, called back by a library, interrupted by a signal, on a stack of its own. The programs say
//! themselves which functions they were in, so the same comparison holds on every kernel.

mod harness;

use harness::{Expectation, Outcome, Outcomes, Target, Tracer, chains::Chains, patience, program};
use leaktrace_common::walk::end;
use std::thread;

/// How long the tracer is given to learn of a library, as part of the harness' patience.
const WAIT: u32 = 100;

/// Traces a program while it allocates from everywhere, with tables that are made for it.
fn traced(name: &str) -> Outcomes<(Expectation, Outcome)> {
    let mut target = Target::start(name)?;
    let mut tracer = Tracer::of(target.pid()).args(&["--unwind-cache", "none"]).start()?;
    tracer.await_tracing()?;
    target.ask("go")?;
    let expectation = target.ask("go")?;
    Ok((expectation, tracer.interrupt_and_finish()?))
}

/// What the program knows of its stacks must be there, all of it. With the GNU C library they are whole beyond `main`, too,
/// those of coroutines among them.
fn whole(name: &str) -> Outcomes<()> {
    let (expectation, outcome) = traced(name)?;
    let found = Chains::of(&expectation)?.check_whole(&outcome)?;
    match found.outside.is_empty() {
        true => Ok(()),
        false => Err(format!("stacks end early: {}", found.describe())),
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_optimised_code_are_whole() -> Outcomes<()> {
    whole("whole_stacks")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_highly_optimised_code_are_whole() -> Outcomes<()> {
    whole("whole_stacks-o3")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_code_with_frame_pointers_are_whole() -> Outcomes<()> {
    whole("whole_stacks-frame-pointers")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_a_static_program_are_whole() -> Outcomes<()> {
    whole("whole_stacks-static")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_cpp_with_exceptions_are_whole() -> Outcomes<()> {
    whole("whole_stacks_cpp")
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_a_static_cpp_program_are_whole() -> Outcomes<()> {
    whole("whole_stacks_cpp-static")
}

/// How a walk ends in code that says nothing and keeps no frame pointer either.
const UNDESCRIBED: [u8; 3] = [end::NO_RULE, end::MISALIGNED, end::NO_FRAME_POINTER];

/// musl describes none of its own functions: stacks lead through its signal frames and out to its start, but end where it
/// calls back. They say why.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_on_musl_end_in_its_own_functions() -> Outcomes<()> {
    let (expectation, outcome) = traced("whole_stacks-musl")?;
    let found = Chains::of(&expectation)?.compare(outcome.final_report()?.only_process()?)?;
    println!("exact: {}", found.describe());
    let called_back = expectation.stacks.iter().filter(|(chain, _)| chain.contains(";*;"));
    let called_back: i64 = called_back.map(|(_, amount)| amount.blocks).sum();
    assert!(found.partial_blocks() <= called_back, "{}", found.describe());
    assert!(found.outside.is_empty(), "stacks end behind `main`: {}", found.describe());
    let expected = UNDESCRIBED.map(|reason| end::NAMES[usize::from(reason)]);
    let mut reasons = found.truncated.keys().chain(found.outside.keys());
    assert!(reasons.all(|why| expected.contains(&why.as_str())), "{}", found.describe());
    Ok(())
}

/// Code that is loaded while traced. What its constructor allocates may come before anybody knows of the library.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_through_a_library_loaded_later_are_whole() -> Outcomes<()> {
    let library = program::path("whole_stacks_library.so")?;
    let mut target = Target::prepare("whole_stacks")?.arg(library).start()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    target.ask("load")?;
    thread::sleep(patience() / WAIT);
    let expectation = target.ask("use")?;
    let outcome = tracer.interrupt_and_finish()?;
    let found = Chains::of(&expectation)?.compare(outcome.final_report()?.only_process()?)?;
    println!("exact: {}", found.describe());
    match found.partial_blocks() {
        0 | 1 => Ok(()),
        _ => Err(found.describe()),
    }
}

/// The twin: frame pointers alone do not lead through such code.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_frame_pointers_alone_are_not_enough() -> Outcomes<()> {
    let mut target = Target::start("whole_stacks")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--unwind", "frame-pointers"]).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("go")?;
    let outcome = tracer.interrupt_and_finish()?;
    outcome.final_report()?;
    let difference = Chains::of(&expectation)?.check_whole(&outcome);
    assert!(
        difference.is_err_and(|difference| difference.contains("wrong")),
        "the stacks are whole without tables"
    );
    Ok(())
}
