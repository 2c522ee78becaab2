//! Promise: hundreds of processes in scope, and thousands that come and go, cost little and leave nothing behind.

mod harness;

use harness::{Outcomes, Target, Tracer, kernel_maps};
use std::{collections::BTreeMap, thread, time::Duration};

/// Names as far as the kernel keeps them (15 bytes).
const PER_PROCESS: [&str; 4] = ["TARGETS", "THREADS", "LIVE", "SITES"];

/// Waits until the kernel side holds no more than it did, then for two more reports.
fn await_return_to(tracer: &Tracer, before: &BTreeMap<String, u64>) -> Outcomes<()> {
    let mut now = BTreeMap::new();
    for _ in 0..300 {
        now = kernel_maps::entries(tracer.pid())?;
        if PER_PROCESS.iter().all(|map| now.get(*map) <= before.get(*map)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Err(format!("after everything has ended the maps hold {now:?}, before it was {before:?}"))
}

/// 20,000 processes, 2,000 a second where the machine can.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_fork_storm_leaves_nothing_behind() -> Outcomes<()> {
    let mut crowd = Target::prepare("crowd")?.arg("20000").start()?;
    let mut tracer = Tracer::of(crowd.pid()).args(&["--interval", "1s"]).start()?;
    tracer.await_tracing()?;
    let before = kernel_maps::entries(tracer.pid())?;
    let said = crowd.ask("storm")?;
    await_return_to(&tracer, &before)?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    println!(
        "storm of {} ms: {:.2} s of CPU, {} MiB resident ({} MiB at the first report), {} MiB of maps",
        said.number("storm")?,
        report.truth.own_cpu_s,
        report.truth.own_rss_bytes >> 20,
        outcome
            .reports
            .as_ref()
            .ok()
            .and_then(|all| all.first())
            .map_or(0, |report| report.truth.own_rss_bytes >> 20),
        report.truth.map_bytes >> 20,
    );
    Ok(())
}
