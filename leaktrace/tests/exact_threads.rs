//! Promise: outstanding bytes and blocks are exact while eight threads allocate and free each other's blocks.

mod harness;

use harness::{Outcomes, Target, check_exact};

fn exact(program: &str, rounds: u32) -> Outcomes<()> {
    let mut target = Target::prepare(program)?.arg(rounds.to_string()).arg("8").start()?;
    check_exact(&mut target, &["go", "go"], &[]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_are_exact() -> Outcomes<()> {
    exact("threads", 20_000)
}

/// One arena and sizes above 1 KiB: reallocs move blocks while other threads take the places they left.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_in_one_arena_are_exact() -> Outcomes<()> {
    exact("threads-one-arena", 20_000)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_of_a_static_program_are_exact() -> Outcomes<()> {
    exact("threads-static", 10_000)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_on_musl_are_exact() -> Outcomes<()> {
    exact("threads-musl", 10_000)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_on_static_musl_are_exact() -> Outcomes<()> {
    exact("threads-musl-static", 10_000)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_with_an_allocator_of_their_own_are_exact() -> Outcomes<()> {
    exact("threads-own", 10_000)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_eight_threads_with_a_wrapped_allocator_are_exact() -> Outcomes<()> {
    let builder = Target::prepare("threads")?.arg("10000").arg("8");
    let mut target = builder.preload("forwarding.so")?.start()?;
    check_exact(&mut target, &["go"], &[]).map(|_| ())
}

/// After everything has been given back nothing is left over, not even in a corner of some row.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_nothing_is_left_when_all_was_freed() -> Outcomes<()> {
    let mut target = Target::prepare("threads-one-arena")?.arg("10000").arg("8").start()?;
    let outcome = check_exact(&mut target, &["go", "free"], &["--interval", "100ms"])?;
    let process = outcome.final_report()?.only_process()?;
    assert!(process.sites.is_empty(), "{}", process.summary());
    assert_eq!((process.survivors.bytes, process.survivors.blocks), (0, 0));
    Ok(())
}

/// Twenty thousand threads come and go, each with one block.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_very_many_short_threads_are_exact() -> Outcomes<()> {
    let mut target = Target::prepare("short_threads")?.arg("20000").start()?;
    check_exact(&mut target, &["go"], &[]).map(|_| ())
}

/// A process lives on when its main thread, by which it is named, has ended. Before Linux 6.10 there are perf links
/// only, which end with that thread: `exact_perf_links` tests that this is said.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_process_without_its_main_thread_is_exact() -> Outcomes<()> {
    let mut target = Target::start("leader_exits")?;
    let commands: &[&str] = if has_multi_links()? { &["go", "leave", "go"] } else { &["go", "leave"] };
    check_exact(&mut target, commands, &[]).map(|_| ())
}

fn has_multi_links() -> Outcomes<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|e| e.to_string())?;
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    Ok((numbers.next(), numbers.next()) >= (Some(6), Some(10)))
}
