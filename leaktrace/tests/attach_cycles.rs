//! Promise: attaching and detaching never makes a leak appear. A program whose blocks live for milliseconds has no
//! survivors, however often and at whatever moment it is traced, and it takes no harm.

mod harness;

use harness::{Outcomes, Target, Tracer, probed_code};

/// Far above the life of any block of the program, even on a machine that is busy with other tests.
const OPTIONS: &[&str] = &["--interval", "100ms", "--min-age", "2s", "--duration", "2500ms"];

fn cycles(count: u32) -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    for cycle in 0..count {
        let outcome = Tracer::of(target.pid()).args(OPTIONS).run()?;
        let process = outcome.final_report()?.only_process()?;
        let survivors = (process.survivors.bytes, process.survivors.blocks);
        assert_eq!(survivors, (0, 0), "cycle {cycle}: {}", process.summary());
        assert!(process.allocated.blocks > 0, "cycle {cycle} saw nothing");
    }
    probed_code::assert_none_left(&target)?;
    assert_eq!(target.ask("stop")?.number("damaged")?, 0);
    Ok(())
}

/// Short cycles without an age limit: when the program has stopped and freed all, exactly nothing is live.
fn balanced_cycles(count: u32) -> Outcomes<()> {
    let mut target = Target::start("churn")?;
    for cycle in 0..count {
        let mut tracer = Tracer::of(target.pid()).start()?;
        tracer.await_tracing()?;
        let expectation = target.ask("stop")?;
        let outcome = tracer.interrupt_and_finish()?;
        let process = outcome.final_report()?.only_process()?;
        assert_eq!((process.live.bytes, process.live.blocks), (0, 0), "cycle {cycle}: {}", process.summary());
        assert_eq!(expectation.number("damaged")?, 0);
        target.say("go")?;
    }
    probed_code::assert_none_left(&target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_hundred_cycles_leave_nothing_live() -> Outcomes<()> {
    balanced_cycles(100)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_few_cycles_report_no_survivor() -> Outcomes<()> {
    cycles(5)
}

#[test]
#[ignore = "needs root and BPF, and five minutes: cargo xtask soak"]
fn soak_root_a_hundred_cycles_report_no_survivor() -> Outcomes<()> {
    cycles(100)
}
