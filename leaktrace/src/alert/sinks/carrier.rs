//! A thread that carries alerts to one sink. Whoever raises an alert only puts it into its queue: a sink that hangs holds up
//! neither the daemon nor another sink.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Deliver, retry::Retry};
use crate::{alert::Alert, watched::SinkState};

/// Most alerts that wait for one sink; of more, the oldest is given up.
const MOST_WAITING: usize = 256;

/// A sink and its thread.
pub struct Carrier(Arc<Shared>);

struct Shared {
    line: Mutex<Line>,
    moved: Condvar,
}

struct Line {
    waiting: VecDeque<Arc<Alert>>,
    state: SinkState,
    /// Taken from the queue, and neither delivered nor given up.
    carried: bool,
    ending: bool,
    ended: bool,
}

impl Carrier {
    /// Starts the thread.
    ///
    /// # Errors
    /// The kernel has no thread to give.
    pub fn start(name: &str, sink: Box<dyn Deliver>, retry: Retry) -> io::Result<Self> {
        let line = Line {
            waiting: VecDeque::new(),
            state: SinkState { name: name.to_owned(), ..SinkState::default() },
            carried: false,
            ending: false,
            ended: false,
        };
        let shared = Arc::new(Shared { line: Mutex::new(line), moved: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("alert sink".into()).spawn(move || carry_all(&theirs, sink, retry))?;
        Ok(Self(shared))
    }

    /// Puts an alert into the queue. Never waits for the sink.
    pub fn add(&self, alert: Arc<Alert>) {
        let mut line = self.0.line();
        if line.waiting.len() >= MOST_WAITING {
            line.waiting.pop_front();
            line.give_up(format!("{MOST_WAITING} alerts wait already: the oldest was given up"));
        }
        line.waiting.push_back(alert);
        self.0.moved.notify_all();
    }

    /// How it fares.
    pub fn state(&self) -> SinkState {
        self.0.line().now()
    }

    /// Tells the thread to try once more each alert that waits, and then to end.
    pub fn end(&self) {
        self.0.line().ending = true;
        self.0.moved.notify_all();
    }

    /// Waits until it has ended, at most until `deadline`. What was not delivered by then is lost.
    pub fn ended_by(&self, deadline: Instant) -> SinkState {
        let mut line = self.0.line();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if line.ended || left.is_zero() {
                break;
            }
            line = self.0.wait(line, left);
        }
        let left_behind = line.waiting.len() + usize::from(line.carried);
        line.waiting.clear();
        line.carried = false;
        (0..left_behind).for_each(|_| line.give_up("the daemon ended before it was delivered".into()));
        line.now()
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, line: MutexGuard<'a, Line>, longest: Duration) -> MutexGuard<'a, Line> {
        self.moved.wait_timeout(line, longest).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The next alert; waits for one. `None`: the end.
    fn next(&self) -> Option<Arc<Alert>> {
        let mut line = self.line();
        loop {
            if let Some(alert) = line.waiting.pop_front() {
                line.carried = true;
                return Some(alert);
            }
            if line.ending {
                return None;
            }
            line = self.moved.wait(line).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits before the next attempt, or until the end is near. Whether there is a next attempt.
    fn pause(&self, pause: Option<Duration>) -> bool {
        let Some(until) = pause.and_then(|pause| Instant::now().checked_add(pause)) else { return false };
        let mut line = self.line();
        if line.ending {
            return false;
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if line.ending || left.is_zero() {
                return true;
            }
            line = self.wait(line, left);
        }
    }
}

impl Line {
    fn give_up(&mut self, why: String) {
        self.state.lost = self.state.lost.saturating_add(1);
        self.state.last_error = Some(why);
    }

    fn now(&self) -> SinkState {
        let waiting = self.waiting.len() as u64 + u64::from(self.carried);
        SinkState { waiting, ..self.state.clone() }
    }

    /// An alert is off our hands.
    fn settle(&mut self, outcome: Result<(), String>) {
        // Whoever has stopped waiting for the end has counted it already.
        if !std::mem::take(&mut self.carried) {
            return;
        }
        match outcome {
            Ok(()) => self.state.delivered = self.state.delivered.saturating_add(1),
            Err(why) => self.give_up(why),
        }
    }
}

fn carry_all(shared: &Shared, mut sink: Box<dyn Deliver>, retry: Retry) {
    while let Some(alert) = shared.next() {
        let outcome = carry(shared, sink.as_mut(), &alert, retry);
        shared.line().settle(outcome);
    }
    shared.line().ended = true;
    shared.moved.notify_all();
}

fn carry(shared: &Shared, sink: &mut dyn Deliver, alert: &Alert, retry: Retry) -> Result<(), String> {
    let mut attempt = 1;
    while let Err(failure) = sink.deliver(alert) {
        let sentence = failure.to_string();
        let name = {
            let mut line = shared.line();
            line.state.last_error = Some(sentence.clone());
            line.state.name.clone()
        };
        tracing::debug!("alert sink {name}, attempt {attempt}: {sentence}");
        if !shared.pause(retry.wait(attempt, failure.next)) {
            tracing::warn!("alert sink {name} gave an alert up after attempt {attempt}: {sentence}");
            return Err(sentence);
        }
        attempt = attempt.saturating_add(1);
    }
    Ok(())
}
