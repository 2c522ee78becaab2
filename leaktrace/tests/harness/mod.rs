//! Runs target programs and the built tracer as a user would, and compares what the tracer reports with what the
//! programs say they did. Everything here returns `Result`: the twin of a rule's test asserts that a check fails.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test file uses its own part of the harness"
)]

pub mod cgroup;
pub mod chains;
pub mod container;
pub mod daemon;
pub mod expectation;
pub mod found;
pub mod interpreter_table;
pub mod interpreters;
pub mod kernel_maps;
pub mod listener;
pub mod mounts;
pub mod output;
pub mod place;
pub mod probed_code;
pub mod program;
pub mod prometheus;
pub mod rules;
pub mod screenshot;
pub mod service;
pub mod target;
pub mod terminal;
pub mod tracer;

pub use container::Container;
pub use daemon::Daemon;
pub use expectation::Expectation;
pub use found::Found;
pub use output::{Process, Report};
pub use target::Target;
pub use terminal::Terminal;
pub use tracer::{Outcome, Tracer};

use std::{
    env,
    thread::sleep,
    time::{Duration, Instant},
};

/// A difference, an error or a timeout, in words.
pub type Outcomes<T> = Result<T, String>;

/// How long things may take here. Emulated machines are given more, by `LEAKTRACE_TEST_PATIENCE`, seconds.
pub fn patience() -> Duration {
    let seconds = env::var("LEAKTRACE_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Bound on waiting for a tracer or a target: far above what anything here takes, so that only a hang runs into it. Kernels
/// place probes one after the other, whoever asks; on a machine with ten times too much to do that was seen to take minutes.
pub fn longest_wait() -> Duration {
    patience() * 4
}

/// Tries until it succeeds; else the last failure.
pub fn until<T>(mut attempt: impl FnMut() -> Outcomes<T>) -> Outcomes<T> {
    let deadline = Instant::now() + longest_wait();
    loop {
        match attempt() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)),
            good => return good,
        }
    }
}

/// Traces `target`, lets it carry out `commands`, ends the tracer and checks its final report against what the
/// target said last.
pub fn check_exact(target: &mut Target, commands: &[&str], options: &[&str]) -> Outcomes<Outcome> {
    let mut tracer = Tracer::of(target.pid()).args(options).start()?;
    tracer.await_tracing()?;
    let mut expectation = None;
    for command in commands {
        target.say(command)?;
        expectation = Some(target.expectation()?);
    }
    let outcome = tracer.interrupt_and_finish()?;
    expectation.ok_or("no command was given")?.check(&outcome)?;
    Ok(outcome)
}
