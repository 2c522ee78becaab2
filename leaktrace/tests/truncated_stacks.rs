//! Promise: a stack that ends early says why, and what there is of it is right. Each reason that a real program can
//! provoke is provoked, and must be reported under its own name.

mod harness;

use harness::{Expectation, Outcome, Outcomes, Process, Target, Tracer, chains::Chains, output::Site};
use leaktrace_common::walk::end;
use std::collections::BTreeMap;

/// Size of the only block of a stack, and why that stack ends.
const REASONS: [(i64, u8); 10] = [
    (1001, end::NO_RULE),
    (1002, end::UNSUPPORTED_RULE),
    (1003, end::NOT_ASCENDING),
    (1004, end::UNREADABLE),
    (1005, end::BAD_RETURN_ADDRESS),
    (1006, end::REGISTER_LOST),
    (1007, end::TOO_DEEP),
    (2002, end::MISALIGNED),
    (2003, end::NO_FRAME_POINTER),
    (2004, end::UNKNOWN_CODE),
];

/// The block of code that was made at run time and has a frame pointer.
const MADE_WITH_FRAME_POINTER: i64 = 2001;
/// The same in a page that was mapped while tracing.
const MADE_WHILE_TRACED: i64 = 2005;

/// What the program says of a command that it carried out while traced, and what the tracer says.
fn traced(command: &str) -> Outcomes<(Expectation, Outcome)> {
    let mut target = Target::start("odd_code")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask(command)?;
    Ok((expectation, tracer.interrupt_and_finish()?))
}

fn text(reason: u8) -> &'static str {
    end::NAMES[usize::from(reason)]
}

fn site_of(process: &Process, bytes_per_block: i64) -> Vec<&Site> {
    process.sites.iter().filter(|site| site.live.bytes == bytes_per_block * site.live.blocks).collect()
}

/// The reason of the one stack with a block of that size; an empty text if it is whole.
fn reason_of(process: &Process, bytes: i64) -> Outcomes<String> {
    match site_of(process, bytes)[..] {
        [site] => Ok(site.truncated.clone().unwrap_or_default()),
        ref others => Err(format!("{} stacks with blocks of {bytes} B", others.len())),
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_every_reason_is_named() -> Outcomes<()> {
    let (expectation, outcome) = traced("go")?;
    let process = outcome.final_report()?.only_process()?;
    let reasons =
        REASONS.map(|(bytes, reason)| (bytes, reason_of(process, bytes), Ok(text(reason).to_owned())));
    let differences: Vec<_> = reasons.iter().filter(|(_, found, expected)| found != expected).collect();
    assert!(differences.is_empty(), "(bytes, found, expected): {differences:#?}");
    assert_eq!(reason_of(process, MADE_WITH_FRAME_POINTER)?, "", "made code with a frame pointer");
    let found = Chains::of(&expectation)?.compare(process)?;
    println!("exact: {}", found.describe());
    Ok(())
}

/// The deepest stack keeps its innermost 127 frames.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_stack_that_is_too_deep_keeps_its_inner_frames() -> Outcomes<()> {
    let (_, outcome) = traced("go")?;
    let deep = site_of(outcome.final_report()?.only_process()?, 1007);
    assert_eq!(deep.len(), 1);
    assert_eq!(deep[0].frames.len(), leaktrace_common::walk::MAX_FRAMES);
    assert!(deep[0].frames.iter().all(|frame| frame.function.as_deref() == Some("deeper")));
    Ok(())
}

/// The truth line counts them, by reason.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_truncated_stacks_are_counted_by_reason() -> Outcomes<()> {
    let (_, outcome) = traced("go")?;
    let expected: BTreeMap<String, i64> =
        REASONS.iter().map(|(_, reason)| (text(*reason).to_owned(), 1)).collect();
    assert_eq!(outcome.final_report()?.truth.truncated_stacks, expected);
    Ok(())
}

/// Code in a page that is mapped while tracing: the first stacks may come before anybody knows of the page, soon they
/// are whole.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_code_made_while_traced_is_soon_known() -> Outcomes<()> {
    let (expectation, outcome) = traced("map")?;
    let process = outcome.final_report()?.only_process()?;
    let found = Chains::of(&expectation)?.compare(process)?;
    println!("exact: {}", found.describe());
    assert!(found.whole_blocks > found.partial_blocks(), "{}", found.describe());
    assert!(!site_of(process, MADE_WHILE_TRACED).is_empty());
    Ok(())
}
