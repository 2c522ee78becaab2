//! The thread that listens to the process that traces and to signals, and tells the one that draws.

use std::{
    process,
    sync::mpsc::{SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::{
    live::{Ending, Happening},
    terminal,
};
use crate::{
    cli::Failure,
    report::aside::say,
    session::{Event, Session, SessionPlan},
};

/// From when on the user is told that something is still being waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to tell a thread that has no room for it.
const PAUSE: Duration = Duration::from_millis(50);
/// What a shell calls a command that a signal ended.
const ENDED_BY_SIGNAL: i32 = 128;

/// See the module.
pub(super) struct Watcher {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Starts the thread, and from it the trace: that ends when this thread does.
    pub(super) fn start(plan: SessionPlan, tell: SyncSender<Happening>) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Failed(format!("could not start to watch: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (end, ended) = oneshot::channel();
        let body = move || runtime_body(&runtime, &plan, &tell, ended);
        let thread = thread::Builder::new().name("watcher".into()).spawn(body).map_err(failed)?;
        Ok(Self { end, thread })
    }

    /// Ends the trace, and waits until its probes are away.
    pub(super) fn end(self) {
        drop(self.end);
        let began = Instant::now();
        let mut told = false;
        while !self.thread.is_finished() {
            thread::sleep(PAUSE);
            if began.elapsed() > PATIENCE && !told {
                say("tracing ends: probes are being removed (Ctrl-C does not wait for it)");
                told = true;
            }
        }
    }
}

fn runtime_body(
    runtime: &Runtime,
    plan: &SessionPlan,
    tell: &SyncSender<Happening>,
    ended: oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let ending = watch(plan, tell, ended).await.unwrap_or_else(Ending::Error);
        let mut last = Happening::Ended(ending);
        // The last word must arrive, unless nobody is there.
        while let Err(TrySendError::Full(unsent)) = tell.try_send(last) {
            last = unsent;
            tokio::time::sleep(PAUSE).await;
        }
    });
}

async fn watch(
    plan: &SessionPlan,
    tell: &SyncSender<Happening>,
    mut ended: oneshot::Receiver<()>,
) -> Result<Ending, String> {
    let mut signals = Signals::new().map_err(|error| format!("could not wait for signals: {error}"))?;
    let mut session = Session::start(plan).map_err(|error| error.to_string())?;
    let mut ending = false;
    loop {
        let happening = tokio::select! {
            event = session.next() => match event {
                Some(Event::Report(report)) => Happening::Report(report),
                Some(Event::Said(sentence)) => Happening::Said(sentence),
                Some(Event::Ended(Ok(status))) => return Ok(Ending::Status(status)),
                Some(Event::Ended(Err(error))) => return Err(format!("the process that traces was lost: {error}")),
                None => return Err("the process that traces was lost".to_owned()),
            },
            _ = &mut ended, if !ending => {
                ending = true;
                session.end();
                continue;
            }
            number = signals.next() => {
                // A second one does not wait: neither does one that nobody has room for.
                if ending || tell.try_send(Happening::Stop).is_err() {
                    terminal::restore();
                    process::exit(ENDED_BY_SIGNAL + number);
                }
                continue;
            }
        };
        // Dropped if there is no room: a report replaces the one before it anyway.
        let _ = tell.try_send(happening);
    }
}

/// The signals that ask for the end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
            _ = self.quit.recv() => SignalKind::quit(),
        }
        .as_raw_value()
    }
}
