//! The daemon: the one event loop ([`trace`]), and the state it works on ([`tracer`]).

mod announcements;
mod caps;
mod code;
mod compose;
mod ended;
mod ending;
mod entering;
mod epoch_keeper;
mod events;
mod forks;
mod link_closer;
mod measure;
mod members;
mod merging;
mod newcomers;
mod placement;
mod python;
mod recycle;
mod retired;
mod shared_links;
mod sharers;
mod stacks;
mod stdout;
mod stopped;
mod tracer;
mod upkeep;

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{
    io::Interest,
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep_until},
};

use crate::{
    cli::{Failure, meant::TracePlan},
    report::{
        self, OutputFormat,
        model::{Reason, Report},
    },
};
pub use code::UnwindMode;
pub use ending::{Ending, EndingSignal};
pub use entering::check_target;
pub use epoch_keeper::SHORTEST_EPOCH;
pub use measure::{Measured, MeasuredCall, measure};
pub use placement::{Batch, Circumstances, FEW, Placed, Placement, others_pay_ns};
pub use python::Python;
use stdout::Stdout;
pub use stdout::StdoutFormat;
use tracer::Tracer;

/// How often things are looked at that no event announces: silent deaths, a closed stdout, memory figures.
const HOUSEKEEPING: Duration = Duration::from_millis(200);

/// Signals that end tracing, and the one that asks for files.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    write: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("could not listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            write: listen(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End(Ending::Signal(EndingSignal::Interrupt)),
            _ = self.terminate.recv() => Asked::End(Ending::Signal(EndingSignal::Terminate)),
            _ = self.hangup.recv() => Asked::End(Ending::Signal(EndingSignal::Hangup)),
            _ = self.write.recv() => Asked::Write,
        }
    }
}

/// What a signal asks for.
enum Asked {
    End(Ending),
    Write,
}

fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Failure> {
    // SAFETY: the descriptor is ours and stays open for as long as the AsyncFd that owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| Failure::Failed(format!("could not wait for the ring buffer: {error}")))
}

/// Traces from attaching to the final report.
///
/// # Errors
/// If tracing could not begin, or an output file could not be written at the end.
pub async fn trace(plan: TracePlan) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut stdout = Stdout::new(plan.format, plan.verbose);
    let mut tracer = Tracer::begin(plan.clone()).await?;
    let ending = run(&plan, &mut tracer, &mut signals, &mut stdout).await;
    // A second signal ends at once: the kernel takes the probes away with the process. Whoever started a session may say it once, and
    // the kernel again when that one ends: what was written to targets is undone first.
    if plan.format != StdoutFormat::Wire {
        restore_default_signals();
    }
    let final_report = tracer.finish(&ending).await;
    let _ = stdout.write(&final_report);
    let written = write_files(&plan.outputs, &final_report);
    tracer.detach(&ending);
    written
}

/// The event loop. Returns why tracing ends.
async fn run(plan: &TracePlan, tracer: &mut Tracer, signals: &mut Signals, stdout: &mut Stdout) -> Ending {
    match run_fallible(plan, tracer, signals, stdout).await {
        Ok(ending) => ending,
        Err(failure) => Ending::Failure(failure.to_string()),
    }
}

async fn run_fallible(
    plan: &TracePlan,
    tracer: &mut Tracer,
    signals: &mut Signals,
    stdout: &mut Stdout,
) -> Result<Ending, Failure> {
    let [stacks, events] = tracer.ring_fds()?;
    let (stacks, events) = (watch(stacks)?, watch(events)?);
    let mut reports = interval(plan.interval);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reports.reset();
    let mut epoch_ends = tracer.epoch_length().map(|length| Instant::now() + length);
    let mut housekeeping = interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether stacks are left to be taken in. They come last: on a busy host there are always some.
    let mut is_behind = false;
    let deadline = plan.duration.map(|duration| Instant::now() + duration);
    loop {
        tokio::select! {
            biased;
            asked = signals.next() => match asked {
                Asked::End(ending) => return Ok(ending),
                Asked::Write => {
                    tracer.drain();
                    let report = tracer.report(Reason::Requested);
                    // Without files there is one place left.
                    if plan.outputs.is_empty() && stdout.write(&report).is_err() {
                        return Ok(Ending::StdoutClosed);
                    }
                    if let Err(failure) = write_files(&plan.outputs, &report) {
                        tracing::error!("{failure}");
                    }
                }
            },
            () = until(deadline) => return Ok(Ending::Duration),
            _ = reports.tick() => {
                tracer.drain();
                let report = tracer.report(Reason::Interval);
                if stdout.write(&report).is_err() {
                    return Ok(Ending::StdoutClosed);
                }
                if epoch_ends.is_none() {
                    tracer.next_epoch();
                }
                tracer.recycle();
            }
            () = until(epoch_ends) => {
                tracer.next_epoch();
                epoch_ends = tracer.epoch_length().map(|length| Instant::now() + length);
            }
            _ = housekeeping.tick() => {
                tracer.keep_house().await;
                if stdout.is_closed() {
                    return Ok(Ending::StdoutClosed);
                }
            }
            () = tracer.code.ready() => tracer.tables_made(),
            () = until(tracer.newcomers.next_due().map(|left| Instant::now() + left)) => tracer.enter_newcomers(),
            guard = stacks.readable() => {
                if let Ok(mut guard) = guard { guard.clear_ready(); }
                is_behind = tracer.drain();
            }
            guard = events.readable() => {
                if let Ok(mut guard) = guard { guard.clear_ready(); }
                is_behind = tracer.drain();
            }
            () = std::future::ready(()), if is_behind => is_behind = tracer.drain(),
        }
        for report in tracer.take_ended_reports() {
            if stdout.write(&report).is_err() {
                return Ok(Ending::StdoutClosed);
            }
        }
        if let Some(ending) = tracer.all_gone() {
            return Ok(ending);
        }
    }
}

/// Waits until then; for ever without a deadline.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn write_files(outputs: &[(PathBuf, OutputFormat)], report: &Report) -> Result<(), Failure> {
    let mut first = Ok(());
    for (path, format) in outputs {
        // One full disk must not keep the other files from being written.
        if let Err(error) = report::write_file(report, path, *format) {
            tracing::error!("{error}");
            first = first.and(Err(Failure::Failed(error.to_string())));
        }
    }
    first
}

fn restore_default_signals() {
    for number in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: sets a disposition; no handler of ours is needed any more.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}
