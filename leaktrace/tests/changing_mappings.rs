//! Promise: a stack is never resolved against the wrong mapping, however code comes and goes. Two libraries with other
//! names and other frames take turns at the same addresses; whatever a block is booked on must be the function that
//! allocated it. What cannot be told is counted, and rare.

mod harness;

use harness::{
    Expectation, Outcomes, Process, Target, Tracer,
    chains::{Chains, Found},
    patience, program,
};
use leaktrace_common::walk::end;
use std::time::Duration;

/// Blocks of a hundred that may belong to stacks that end early or have no name, when the code has been there for a while.
const MOST_PARTIAL: i64 = 5;

/// How long code is there before it allocates, milliseconds, and how often it is exchanged. Emulated machines, which are given
/// more patience, are some twenty times slower.
fn pace() -> (u32, u32) {
    if patience() > Duration::from_secs(60) { (1000, 24) } else { (20, 150) }
}

fn host() -> Outcomes<Target> {
    let mut host = Target::prepare("changing_mappings")?;
    for library in ["changing_library-a.so", "changing_library-b.so", "changing_library-c.so"] {
        host = host.arg(program::path(library)?);
    }
    let (milliseconds, cycles) = pace();
    host.arg(milliseconds.to_string()).arg(cycles.to_string()).start()
}

/// Why a stack may end early when code has just come: nobody knows it yet. Any other reason means that a rule was followed
/// that is not the code's.
const NOT_KNOWN_YET: [u8; 3] = [end::UNKNOWN_CODE, end::STALE_MAPPINGS, end::TABLE_PENDING];

/// Everything that is reported is right.
fn check(expectation: &Expectation, process: &Process) -> Outcomes<Found> {
    let found = Chains::of(expectation)?.compare(process)?;
    println!("exact: {}", found.describe());
    let expected = NOT_KNOWN_YET.map(|reason| end::NAMES[usize::from(reason)]);
    match found.truncated.keys().chain(found.outside.keys()).find(|why| !expected.contains(&why.as_str())) {
        Some(why) => Err(format!("wrong: stacks end early because of {why:?}")),
        None => Ok(found),
    }
}

/// And almost everything is known.
fn check_known(found: &Found) -> Outcomes<()> {
    let all = found.whole_blocks + found.partial_blocks();
    match found.partial_blocks() * 100 > all * MOST_PARTIAL {
        true => Err(format!("more than {MOST_PARTIAL} % only in part: {}", found.describe())),
        false => Ok(()),
    }
}

/// Traces the host while it carries out a command.
fn traced(command: &str, options: &[&str]) -> Outcomes<Found> {
    let mut target = host()?;
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask(command)?;
    let overlapping = expectation.number("overlapping")?;
    println!("{overlapping} loads at an address of the other library");
    if command != "copies" && overlapping < i64::from(pace().1 / 5) {
        return Err(format!(
            "only {overlapping} loads at an address of the other library: too few to prove anything"
        ));
    }
    let outcome = tracer.interrupt_and_finish()?;
    check(&expectation, outcome.final_report()?.only_process()?)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_libraries_that_take_turns_at_the_same_address() -> Outcomes<()> {
    check_known(&traced("exchange", &[])?)
}

/// Every second library is used faster than anybody can follow, with the other one's mappings known: what is known of it may
/// be little, but none of it is wrong.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_mapping_generation() -> Outcomes<()> {
    traced("hasty", &[]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_libraries_are_exchanged_while_threads_allocate() -> Outcomes<()> {
    traced("threads", &[]).map(|_| ())
}

/// The twin: without generations the rules and the names of one library are used for the other.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_mapping_generation_fails_when_switched_off() {
    harness::rules::assert_breaks("mapping-generation", |options| traced("hasty", options).map(|_| ()));
}

/// Code that a program maps by itself, without the dynamic linker, other code at the same place afterwards.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_code_mapped_by_hand() -> Outcomes<()> {
    check_known(&traced("copies", &[])?)
}

/// After exec everything is elsewhere, and the old image's stacks stay what they were.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_stacks_before_and_after_exec() -> Outcomes<()> {
    let mut target = host()?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    let before = target.ask("exchange")?;
    target.say("exec")?;
    target.await_ready()?;
    tracer.await_tracing()?;
    let after = target.ask("exchange")?;
    let outcome = tracer.interrupt_and_finish()?;
    let new = outcome.final_report()?.processes.iter().find(|process| process.ended.is_none());
    check_known(&check(&after, new.ok_or("the new image is not in the final report")?)?)?;
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    let old = reports.iter().flat_map(|report| &report.processes).rfind(|process| process.ended.is_some());
    check_known(&check(&before, old.ok_or("the image that ended is in no report")?)?)
}
