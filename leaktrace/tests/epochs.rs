//! Promise: sums and ages stay exact over any number of epochs, with survivors in each, while eight threads free
//! blocks that were born long before.

mod harness;

use harness::{Outcomes, Target, Tracer};
use std::{thread, time::Duration};

const EPOCH: Duration = Duration::from_millis(100);

/// Traces the program over that many epochs; returns its reports after the sums were found equal.
fn trace_epochs(epochs: u32) -> Outcomes<harness::Outcome> {
    let mut target = Target::start("epochs")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--interval", "100ms"]).start()?;
    tracer.await_tracing()?;
    target.say("go")?;
    thread::sleep(EPOCH * epochs);
    let expectation = target.ask("stop")?;
    let outcome = tracer.interrupt_and_finish()?;
    expectation.check(&outcome)?;
    Ok(outcome)
}

fn exact_over(epochs: u32) -> Outcomes<()> {
    let outcome = trace_epochs(epochs)?;
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    assert!(reports.len() as u32 > epochs / 2, "{} reports in {epochs} epochs", reports.len());
    let process = outcome.final_report()?.only_process()?;
    for site in &process.sites {
        let ages =
            site.ages.iter().fold((0, 0), |sum, age| (sum.0 + age.live.bytes, sum.1 + age.live.blocks));
        assert_eq!(ages, (site.live.bytes, site.live.blocks), "ages of {}", site.innermost());
        assert!(site.ages.iter().all(|age| age.live.bytes >= 0 && age.live.blocks >= 0), "{:?}", site.ages);
    }
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_hundred_epochs_are_exact() -> Outcomes<()> {
    exact_over(100)
}

#[test]
#[ignore = "needs root and BPF, and four minutes: cargo xtask soak"]
fn soak_root_two_thousand_epochs_are_exact() -> Outcomes<()> {
    exact_over(2000)
}

/// Everything freed after many epochs: no epoch keeps a remainder.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_no_epoch_keeps_a_remainder() -> Outcomes<()> {
    let mut target = Target::start("epochs")?;
    let mut tracer = Tracer::of(target.pid()).args(&["--interval", "100ms"]).start()?;
    tracer.await_tracing()?;
    target.say("go")?;
    thread::sleep(EPOCH * 30);
    target.ask("stop")?;
    let expectation = target.ask("free")?;
    let outcome = tracer.interrupt_and_finish()?;
    expectation.check(&outcome)?;
    assert!(outcome.final_report()?.only_process()?.sites.is_empty());
    Ok(())
}

/// Old and young blocks of one and the same stack are told apart by their age, exactly.
fn survivors_are_the_old_blocks(interval: &str) -> Outcomes<()> {
    let mut target = Target::start("ages")?;
    let options = ["--interval", interval, "--min-age", "1s"];
    let mut tracer = Tracer::of(target.pid()).args(&options).start()?;
    tracer.await_tracing()?;
    target.ask("old")?;
    thread::sleep(Duration::from_secs(3));
    target.ask("brief")?;
    let expectation = target.ask("young")?;
    let outcome = tracer.interrupt_and_finish()?;
    expectation.check(&outcome)?;
    let process = outcome.final_report()?.only_process()?;
    assert_eq!(process.survivors.blocks, expectation.number("old")?);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_survivors_are_exactly_the_old_blocks() -> Outcomes<()> {
    survivors_are_the_old_blocks("100ms")
}

/// Nobody has to wait for a report to have survivors.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_survivors_are_known_although_no_report_was_due() -> Outcomes<()> {
    survivors_are_the_old_blocks("1h")
}
