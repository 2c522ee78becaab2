//! Promise: a stack from any allocation is whole, function by function, whatever code it leads through: compiled without
//! frame pointers, realigned, called back by a library, interrupted by a signal, on a stack of its own. The programs say
//! themselves which functions they were in, so the same comparison holds on every kernel.

mod harness;

use harness::{Chains, Outcomes, Target, Tracer, program, target::TargetBuilder};

fn whole(program: TargetBuilder, commands: &[&str]) -> Outcomes<()> {
    let mut target = program.start()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    let mut expectation = None;
    for command in commands {
        expectation = Some(target.ask(command)?);
    }
    let outcome = tracer.interrupt_and_finish()?;
    Chains::of(&expectation.ok_or("no command was given")?)?.check_whole(&outcome).map(|_| ())
}

fn with_library(name: &str) -> Outcomes<TargetBuilder> {
    Ok(Target::prepare(name)?.arg(program::path("whole_stacks_library.so")?))
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_optimised_code_are_whole() -> Outcomes<()> {
    whole(with_library("whole_stacks")?, &["go", "library", "go"])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_highly_optimised_code_are_whole() -> Outcomes<()> {
    whole(with_library("whole_stacks-o3")?, &["go", "library"])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_code_with_frame_pointers_are_whole() -> Outcomes<()> {
    whole(with_library("whole_stacks-frame-pointers")?, &["go", "library"])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_of_a_static_program_are_whole() -> Outcomes<()> {
    whole(Target::prepare("whole_stacks-static")?, &["go"])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_on_musl_are_whole() -> Outcomes<()> {
    whole(Target::prepare("whole_stacks-musl")?, &["go"])
}

/// The twin: frame pointers alone do not lead through such code.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_frame_pointers_alone_are_not_enough() -> Outcomes<()> {
    let mut target = with_library("whole_stacks")?.start()?;
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
