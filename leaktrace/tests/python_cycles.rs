//! Promise: a service takes no harm from being traced, however often: no request fails, and its interpreter is afterwards as
//! it was.

mod harness;

use harness::{
    Outcomes, Tracer,
    interpreters::State,
    service::{self, Load},
};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Each tracer undoes at its start what killed ones have left behind, on the whole host. A test that looks at what was left
/// therefore cannot run beside one that starts tracers.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attaching and detaching, while requests come as fast as they are answered.
fn cycles(count: u32, options: &[&str]) -> Outcomes<()> {
    let _turn = turn();
    let mut target = service::start("flask_service.py", &["0"])?;
    let before: State = target.ask_json("state")?;
    let mut load = Load::start(&mut target, Duration::ZERO)?;
    for cycle in 0..count {
        let mut tracer = Tracer::of(target.pid()).args(options).start()?;
        tracer.await_tracing()?;
        // Under the probes, too.
        load.await_more(1)?;
        let outcome = tracer.interrupt_and_finish()?;
        let process = outcome.final_report().and_then(harness::Report::only_process);
        let process = process.map_err(|e| format!("cycle {cycle}: {e}"))?;
        assert!(process.allocated.blocks > 0, "cycle {cycle} saw nothing");
        before.check_unchanged(&target.ask_json("state")?).map_err(|e| format!("cycle {cycle}: {e}"))?;
    }
    load.await_more(100)?;
    let count = load.check()?;
    println!("{} requests answered, none failed", count.done);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_hundred_cycles_under_load_leave_a_service_as_it_was() -> Outcomes<()> {
    cycles(100, &[])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_light_cycles_under_load_leave_a_service_as_it_was() -> Outcomes<()> {
    cycles(10, &["--detail", "light"])
}

/// What a killed tracer leaves behind does no harm, and the next one undoes it.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_killed_tracer_leaves_a_service_that_works() -> Outcomes<()> {
    let _turn = turn();
    let mut target = service::start("flask_service.py", &["0"])?;
    let before: State = target.ask_json("state")?;
    let mut load = Load::start(&mut target, Duration::ZERO)?;
    for _ in 0..5 {
        let mut tracer = Tracer::of(target.pid()).start()?;
        tracer.await_tracing()?;
        load.await_more(20)?;
        tracer.signal(libc::SIGKILL);
        drop(tracer);
        load.await_more(100)?;
    }
    let left: State = target.ask_json("state")?;
    assert_ne!(
        left.allocators, before.allocators,
        "the killed tracers had written nothing: this test proves nothing"
    );
    let mut tracer = Tracer::of(target.pid()).start()?;
    tracer.await_tracing()?;
    tracer.interrupt_and_finish()?.final_report()?;
    before.check_unchanged(&target.ask_json("state")?)?;
    load.await_more(100)?;
    load.check().map(drop)
}
