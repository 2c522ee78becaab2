//! Promise: anonymous memory that a program maps by itself is counted exactly, parts of mappings included, and
//! address space that is no memory is told apart.

mod harness;

use harness::{Outcome, Outcomes, Target, Tracer, check_exact};

fn exact(program: &str) -> Outcomes<Outcome> {
    check_exact(&mut Target::start(program)?, &["go"], &[])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_parts_moves_and_replacements_are_exact() -> Outcomes<()> {
    exact("mappings").map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_mappings_of_a_static_program_are_exact() -> Outcomes<()> {
    exact("mappings-static").map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_mappings_on_musl_are_exact() -> Outcomes<()> {
    exact("mappings-musl").map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_reservations_and_stacks_carry_their_label() -> Outcomes<()> {
    let outcome = exact("mappings")?;
    let process = outcome.final_report()?.only_process()?;
    let label_of =
        |function| process.sites_of(function).map(|site| site.label.as_deref()).collect::<Vec<_>>();
    assert_eq!(label_of("site_map_reserved"), [Some("reserved, no access")]);
    assert_eq!(label_of("site_map_stack"), [Some("thread stack")]);
    assert_eq!(label_of("site_map_shared"), [None]);
    assert!(process.sites.iter().all(|site| site.domain == "mmap"), "{}", process.summary());
    Ok(())
}

/// A thread made by the C library: its stack is a mapping, labelled, and at least as large as was asked for.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_stack_of_a_new_thread_is_labelled() -> Outcomes<()> {
    const ASKED_FOR: i64 = 3 << 20;
    let mut target = Target::start("mappings")?;
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    target.ask("thread")?;
    let outcome = tracer.interrupt_and_finish()?;
    let process = outcome.final_report()?.only_process()?;
    let stacks: Vec<_> =
        process.sites.iter().filter(|site| site.label.as_deref() == Some("thread stack")).collect();
    assert_eq!(stacks.len(), 1, "{}", process.summary());
    assert_eq!(stacks[0].live.blocks, 1);
    assert!((ASKED_FOR..ASKED_FOR + (1 << 20)).contains(&stacks[0].live.bytes), "{:?}", stacks[0].live);
    Ok(())
}

/// What the allocator maps while it frees is its own, as what it maps while it allocates.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_mappings_made_by_free_are_the_allocators_own() -> Outcomes<()> {
    check_exact(&mut Target::start("first_free")?, &["go"], &[]).map(|_| ())
}
