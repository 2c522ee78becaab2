//! Each rule of the kernel side has a scenario in which it matters. With the rule in force the numbers are exact;
//! with it switched off the same scenario must go wrong, or its test would prove nothing. (The scenarios of some rules have files of
//! their own: `changing_mappings.rs`, `placement.rs`.)

mod harness;

use harness::output::{Age, Amount};
use harness::rules::rule;
use harness::{Expectation, Outcome, Outcomes, Target, Tracer, check_exact, target::TargetBuilder};
use std::{thread, time::Duration};

fn exact(program: TargetBuilder, commands: &[&str], options: &[&str]) -> Outcomes<()> {
    check_exact(&mut program.start()?, commands, options).map(|_| ())
}

/// An error that [`harness::rules::assert_breaks`] takes for a wrong number.
fn wrong(what: impl std::fmt::Display) -> Outcomes<()> {
    Err(format!("wrong: {what}"))
}

/// Sixteen threads take turns on one CPU inside an allocator that gives the CPU away in every call.
fn threads_on_one_cpu(options: &[&str]) -> Outcomes<()> {
    let program = Target::prepare("threads")?.arg("300").arg("16").arg("1");
    exact(program.preload("size_class-yielding.so")?, &["go"], options)
}

rule!(
    root_rule_scratch_per_thread,
    root_rule_scratch_per_thread_fails_when_switched_off,
    "scratch-per-thread",
    threads_on_one_cpu
);

/// A preloaded wrapper calls libc's functions inside its own; its blocks lie behind a header.
fn wrapped_allocator(options: &[&str]) -> Outcomes<()> {
    let program = Target::prepare("threads")?.arg("500").arg("2");
    exact(program.preload("forwarding-header.so")?, &["go"], options)
}

rule!(root_rule_nested_once, root_rule_nested_once_fails_when_switched_off, "nested-once", wrapped_allocator);

/// The site function must be the innermost frame: it has a frame of its own, malloc's entry does not.
fn every_site_by_name(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("exact")?, &["go"], options)
}

rule!(
    root_rule_caller_from_stack_top,
    root_rule_caller_from_stack_top_fails_when_switched_off,
    "caller-from-stack-top",
    every_site_by_name
);

/// A wrapper that passes on the very address: libc's free of it is part of the wrapper's.
fn passed_on_frees(options: &[&str]) -> Outcomes<()> {
    let program = Target::prepare("threads")?.arg("500").arg("2");
    exact(program.preload("forwarding.so")?, &["go"], options)
}

rule!(
    root_rule_inner_free_ignored,
    root_rule_inner_free_ignored_fails_when_switched_off,
    "inner-free-ignored",
    passed_on_frees
);

/// While realloc is under way another thread is given the old address, and has it before realloc returns.
fn address_taken_during_realloc(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("handover")?, &["realloc"], options)
}

rule!(
    root_rule_realloc_in_flight,
    root_rule_realloc_in_flight_fails_when_switched_off,
    "realloc-in-flight",
    address_taken_during_realloc
);

/// The same race without a scripted allocator: eight threads, one arena, sizes above 1 KiB.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_realloc_in_flight_fails_in_a_real_allocator_when_switched_off() {
    let scenario = |options: &[&str]| {
        exact(Target::prepare("threads-one-arena")?.arg("30000").arg("8"), &["go"], options)
    };
    harness::rules::assert_breaks("realloc-in-flight", scenario);
}

/// While free is under way another thread is given the address.
fn address_taken_during_free(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("handover")?, &["free"], options)
}

rule!(
    root_rule_free_at_entry,
    root_rule_free_at_entry_fails_when_switched_off,
    "free-at-entry",
    address_taken_during_free
);

/// Blocks that come and go must not disturb the count of the old ones of the same stack.
fn survivors_beside_brief_blocks(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::start("ages")?;
    let timing = ["--interval", "100ms", "--min-age", "1s"];
    let mut tracer = Tracer::of(target.pid()).args(&timing).args(options).start()?;
    tracer.await_tracing()?;
    target.ask("old")?;
    thread::sleep(Duration::from_secs(3));
    let expectation = target.ask("brief")?;
    let outcome = tracer.interrupt_and_finish()?;
    expectation.check(&outcome)?;
    let survivors = outcome.final_report()?.only_process()?.survivors.blocks;
    let old = expectation.number("old")?;
    if survivors == old { Ok(()) } else { wrong(format!("{survivors} survivors of {old} old blocks")) }
}

rule!(
    root_rule_row_before_live,
    root_rule_row_before_live_fails_when_switched_off,
    "row-before-live",
    survivors_beside_brief_blocks
);

/// Two threads free the same block at the same moment.
fn freed_twice_at_once(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("racing_frees")?.arg("20000"), &["go"], options)
}

rule!(
    root_rule_only_remover_subtracts,
    root_rule_only_remover_subtracts_fails_when_switched_off,
    "only-remover-subtracts",
    freed_twice_at_once
);

/// More blocks than the live map takes: what is reported and what is said to be missing make up the whole.
fn map_too_small(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::start("ages")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--max-live-blocks", "500"]).args(options).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("old")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let live = report.only_process()?.live;
    let missing = report.counter("lost_live_full")?;
    let missing_bytes = report.counter("lost_live_full_bytes")?;
    let sum = (live.bytes + missing_bytes, live.blocks + missing);
    let expected = (expectation.total.bytes, expectation.total.blocks);
    match (sum == expected, missing > 0) {
        (true, true) => Ok(()),
        _ => wrong(format!("live {live:?}, missing {missing_bytes} B in {missing}, expected {expected:?}")),
    }
}

rule!(
    root_rule_full_map_counted,
    root_rule_full_map_counted_fails_when_switched_off,
    "full-map-counted",
    map_too_small
);

/// Attached again and again while blocks come and go; when the program has stopped and freed all, nothing is live.
fn attached_during_churn(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    for _ in 0..20 {
        let mut tracer = Tracer::of(target.pid()).args(options).start()?;
        tracer.await_tracing()?;
        target.ask("stop")?;
        let outcome = tracer.interrupt_and_finish()?;
        let live = outcome.final_report()?.only_process()?.live;
        if (live.bytes, live.blocks) != (0, 0) {
            return wrong(format!("{live:?} live after everything was freed"));
        }
        target.say("go")?;
    }
    Ok(())
}

rule!(root_rule_gate, root_rule_gate_fails_when_switched_off, "gate", attached_during_churn);

/// A process replaces its image and uses the same addresses again: the new image owns its own blocks only.
fn same_addresses_after_exec(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::prepare("exec_self")?.without_address_randomization().start()?;
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    let before = target.ask("go")?;
    target.say("exec")?;
    target.await_ready()?;
    tracer.await_tracing()?;
    let after = target.ask("go")?;
    check_images(&tracer.interrupt_and_finish()?, &before, &after)
}

/// The last report of each image: the old one ended with what it held, the new one holds its own.
fn check_images(outcome: &Outcome, before: &Expectation, after: &Expectation) -> Outcomes<()> {
    let new = outcome.final_report()?.processes.iter().find(|process| process.ended.is_none());
    let new = new.ok_or("the new image is not in the final report")?;
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    let old = reports.iter().flat_map(|report| &report.processes).rfind(|process| process.ended.is_some());
    let old = old.ok_or("wrong: no report of the image that ended")?;
    for (image, expectation) in [(old, before), (new, after)] {
        let live = (image.live.bytes, image.live.blocks);
        let expected = (expectation.total.bytes, expectation.total.blocks);
        if live != expected {
            return wrong(format!("image {} holds {live:?}, expected {expected:?}", image.serial));
        }
    }
    Ok(())
}

rule!(root_rule_serial, root_rule_serial_fails_when_switched_off, "serial", same_addresses_after_exec);

/// Threads die inside malloc, and later threads get their IDs. Amounts are exact, and in the end only the main thread
/// has scratch.
fn thread_ids_used_again(options: &[&str]) -> Outcomes<()> {
    let outcome = check_exact(&mut Target::start("dying_threads")?, &["go"], options)?;
    let report = outcome.final_report()?;
    let (made, removed) = (report.counter("threads_made")?, report.counter("threads_removed")?);
    if made < 3 {
        return Err(format!("only {made} threads got scratch: the scenario is too small"));
    }
    if made - removed > 1 {
        return wrong(format!("{made} threads got scratch, {removed} gave it back, one is alive"));
    }
    Ok(())
}

rule!(
    root_rule_thread_exit_cleans,
    root_rule_thread_exit_cleans_fails_when_switched_off,
    "thread-exit-cleans",
    thread_ids_used_again
);

/// Blocks of every age die while epochs change ten times a second and cells are merged. In the
/// end all of them are freed and a few new ones made: whatever is said to be older is left over from a lost move.
fn cells_move_under_load(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::start("steady_age")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--interval", "100ms"]).args(options).start()?;
    tracer.await_tracing()?;
    target.say("go")?;
    thread::sleep(Duration::from_secs(8));
    target.ask("stop")?;
    thread::sleep(Duration::from_secs(2));
    let expectation = target.ask("few")?;
    let outcome = tracer.interrupt_and_finish()?;
    expectation.check(&outcome)?;
    let process = outcome.final_report()?.only_process()?;
    let old = |age: &&Age| age.youngest_s > 1.0 && age.live != Amount::default();
    match process.sites.iter().flat_map(|site| &site.ages).find(old) {
        Some(age) => wrong(format!("{age:?}, but nothing is that old")),
        None => Ok(()),
    }
}

rule!(
    root_rule_grace_period,
    root_rule_grace_period_fails_when_switched_off,
    "grace-period",
    cells_move_under_load
);

/// More stacks than the ring buffer takes while the daemon stands still; each comes again once it runs.
fn more_stacks_than_the_ring_takes(options: &[&str]) -> Outcomes<()> {
    let mut target = Target::prepare("distinct_stacks")?.arg("12000").arg("110").start()?;
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    tracer.signal(libc::SIGSTOP);
    target.ask("go")?;
    tracer.signal(libc::SIGCONT);
    thread::sleep(Duration::from_secs(2));
    let mut expectation = target.ask("go")?;
    // What does not fit in the second round comes in a third.
    thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        expectation = target.ask("go")?;
        thread::sleep(Duration::from_secs(1));
    }
    let outcome = tracer.interrupt_and_finish()?;
    let failed = outcome.final_report()?.counter("stack_send_failed")?;
    if failed == 0 {
        return Err("the ring buffer never was full: the scenario is too small".to_owned());
    }
    expectation.check_sites(&outcome)
}

rule!(
    root_rule_seen_after_send,
    root_rule_seen_after_send_fails_when_switched_off,
    "seen-after-send",
    more_stacks_than_the_ring_takes
);

/// Eight threads add to the same few rows at the same time.
fn same_rows_from_all_cpus(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("threads")?.arg("4000").arg("8"), &["go"], options)
}

rule!(
    root_rule_atomic_counters,
    root_rule_atomic_counters_fails_when_switched_off,
    "atomic-counters",
    same_rows_from_all_cpus
);

/// The hole that one thread's munmap leaves is filled by another's mmap at once.
fn holes_filled_at_once(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("unmap_race")?.arg("5000").arg("4"), &["go"], options)
}

rule!(
    root_rule_unmap_at_entry,
    root_rule_unmap_at_entry_fails_when_switched_off,
    "unmap-at-entry",
    holes_filled_at_once
);

/// malloc is left by siglongjmp, called from deep inside and from further out than what follows.
fn left_by_longjmp(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("abandoned_calls")?, &["jump"], options)
}

rule!(
    root_rule_stale_calls_dropped,
    root_rule_stale_calls_dropped_fails_when_switched_off,
    "stale-calls-dropped",
    left_by_longjmp
);

/// The same, left from a signal handler.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_rule_stale_calls_dropped_after_a_signal() -> Outcomes<()> {
    exact(Target::prepare("abandoned_calls")?, &["signal"], &[])
}

/// Reallocations that fail leave their block alone, even while other threads allocate.
fn failing_reallocs(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("handover")?, &["realloc-fails"], options)
}

rule!(
    root_rule_realloc_failure_restores,
    root_rule_realloc_failure_restores_fails_when_switched_off,
    "realloc-failure-restores",
    failing_reallocs
);

/// glibc's realloc(p, 0) frees p and returns NULL.
fn reallocs_to_nothing(options: &[&str]) -> Outcomes<()> {
    exact(Target::prepare("exact")?, &["go"], options)
}

rule!(
    root_rule_realloc_zero_frees,
    root_rule_realloc_zero_frees_fails_when_switched_off,
    "realloc-zero-frees",
    reallocs_to_nothing
);

/// No rule without a scenario: the list of rules is the kernel side's own.
#[test]
fn every_rule_has_its_two_tests() {
    let tests = concat!(
        include_str!("kernel_rules.rs"),
        include_str!("changing_mappings.rs"),
        include_str!("forks.rs"),
        include_str!("placement.rs"),
        include_str!("python_free_lists.rs")
    );
    for (rule, _) in leaktrace_common::rule::ALL {
        let name = rule.replace('-', "_");
        for test in [format!("root_rule_{name}"), format!("root_rule_{name}_fails_when_switched_off")] {
            let is_there = tests.contains(&format!("{test},")) || tests.contains(&format!("fn {test}()"));
            assert!(is_there, "no test {test}");
        }
    }
}
