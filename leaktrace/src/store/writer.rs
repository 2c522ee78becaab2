//! The thread that owns the history, and the handle that the daemon sends to. The daemon's loop never waits for a disk: what is
//! sent is written within a second, many entries in one transaction; what the disk refuses is kept and tried again.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use super::{Entry, Store, StoreConfig, StoreError, aside::set_aside, queue::Queue};
use crate::process::host::unix_now;

/// How long entries are gathered before they are written together.
const GATHER: Duration = Duration::from_secs(1);
/// Between two times of tidying.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Waits between attempts on a disk that refuses: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Attempts that what is left gets when the daemon ends.
const LAST_ATTEMPTS: u32 = 3;

/// How writing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Entries that were lost for want of room or because they made no sense.
    pub lost: u64,
    /// Entries that wait.
    pub waiting: u64,
    /// What went wrong the last time, in one sentence; `None`: nothing did, all is well.
    pub error: Option<String>,
    /// Whether that lasts: what is sent now waits.
    pub failing: bool,
}

/// The handle. Dropped, it waits until what was sent is on disk, or the disk has refused it.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    sessions: Arc<Sessions>,
    notice: Option<String>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Numbers of sessions that were set aside for this process.
#[derive(Debug, Default)]
struct Sessions {
    next: AtomicU64,
    end: AtomicU64,
}

impl Writer {
    /// Opens the history and starts the thread. A disk that is full is no reason to fail: the thread then goes on trying.
    ///
    /// # Errors
    /// As [`Store::open`], but for a disk that refuses for the time being; or if no thread can be started.
    pub fn start(path: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let sessions = Arc::new(Sessions::default());
        let queue = Arc::new(Queue::default());
        let store = match open(path, config, &sessions) {
            Err(error) if error.may_pass() => {
                queue.note(error.to_string());
                sessions.make_up();
                None
            }
            other => Some(other?),
        };
        let notice = store.as_ref().and_then(|store| store.notice().map(str::to_owned));
        let worker = Worker {
            path: path.to_owned(),
            config: config.clone(),
            queue: queue.clone(),
            sessions: sessions.clone(),
            store,
            tidied: None,
            wait: FIRST_WAIT,
            damages: 0,
        };
        let thread = Builder::new().name("history".into()).spawn(move || worker.run());
        let thread = thread.map_err(|source| StoreError::Unusable { path: path.to_owned(), source })?;
        Ok(Self { queue, sessions, notice, thread: Mutex::new(Some(thread)) })
    }

    /// Has it written soon. Never waits.
    pub fn send(&self, entry: Entry) {
        self.queue.send(entry);
    }

    /// Waits until everything that was sent is on disk, for at most so long; whether it is.
    pub fn flush(&self, longest: Duration) -> bool {
        self.queue.flush(longest)
    }

    /// A number for a session, never given before, nor again.
    pub fn next_session_id(&self) -> u64 {
        self.sessions.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How it goes.
    pub fn health(&self) -> Health {
        self.queue.health()
    }

    /// What was noticed when the history was opened, in one sentence: that a damaged file was set aside.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Sessions {
    /// Whether more should be set aside.
    fn are_few(&self) -> bool {
        let (next, end) = (self.next.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        end.saturating_sub(next) < 1000
    }

    /// Sets more aside.
    fn provide(&self, store: &mut Store) -> Result<(), StoreError> {
        let (first, count) = store.reserve_sessions(self.next.load(Ordering::Relaxed))?;
        self.next.fetch_max(first, Ordering::Relaxed);
        self.end.store(first.saturating_add(count), Ordering::Relaxed);
        Ok(())
    }

    /// Without a history nobody knows which numbers were given: the time is one that never was.
    fn make_up(&self) {
        self.next.store(unix_now() as u64, Ordering::Relaxed);
    }
}

fn open(path: &Path, config: &StoreConfig, sessions: &Sessions) -> Result<Store, StoreError> {
    let mut store = Store::open(path, config)?;
    sessions.provide(&mut store)?;
    Ok(store)
}

/// Whether the same would fail again: neither the disk nor the file is to blame.
fn is_hopeless(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed { .. }) && !error.may_pass()
}

/// What runs in the thread.
struct Worker {
    path: PathBuf,
    config: StoreConfig,
    queue: Arc<Queue>,
    sessions: Arc<Sessions>,
    /// `None`: it could not be opened yet.
    store: Option<Store>,
    tidied: Option<Instant>,
    /// Before the next attempt.
    wait: Duration,
    /// How often the file turned out to be damaged since something was last written.
    damages: u32,
}

impl Worker {
    fn run(mut self) {
        let mut last_attempts = LAST_ATTEMPTS;
        while let Some(batch) = self.queue.take(TIDY_EVERY, GATHER) {
            if batch.is_empty() {
                self.tidy();
                continue;
            }
            match self.write(&batch) {
                Ok((lost, error)) => {
                    self.queue.written(lost, error);
                    (self.wait, self.damages) = (FIRST_WAIT, 0);
                    self.tidy();
                }
                Err(error) if is_hopeless(&error) => {
                    tracing::warn!("{error}");
                    self.queue.written(batch.len() as u64, Some(error.to_string()));
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    self.queue.put_back(batch, error.to_string());
                    self.queue.rest(self.wait);
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                    last_attempts -= u32::from(self.queue.is_closed());
                    if last_attempts == 0 {
                        break;
                    }
                }
            }
        }
        self.queue.give_up();
        if let Some(store) = self.store {
            store.close();
        }
    }

    fn write(&mut self, batch: &[Entry]) -> Result<(u64, Option<String>), StoreError> {
        let outcome = self.opened().and_then(|store| store.write(batch));
        match outcome {
            Ok(written) => Ok((written.lost, written.error)),
            Err(error) => {
                self.recover(&error);
                Err(error)
            }
        }
    }

    /// A file that turned out to be damaged is closed, so that the next attempt opens it anew, finds the damage, and sets it aside.
    fn recover(&mut self, error: &StoreError) {
        if error.is_damage() {
            self.store = None;
            self.damages += 1;
        }
    }

    fn opened(&mut self) -> Result<&mut Store, StoreError> {
        if self.store.is_none() {
            // Looked through, it seemed right, and it was not.
            if self.damages > 1 {
                set_aside(&self.path)?;
            }
            let store = open(&self.path, &self.config, &self.sessions)?;
            if let Some(notice) = store.notice() {
                tracing::warn!("{notice}");
                self.queue.note(notice.to_owned());
            }
            self.store = Some(store);
        }
        self.store.as_mut().ok_or_else(|| StoreError::Missing { path: self.path.clone() })
    }

    /// At its time, tidies, and sees to it that numbers of sessions do not run out.
    fn tidy(&mut self) {
        if self.tidied.is_some_and(|last| last.elapsed() < TIDY_EVERY) {
            return;
        }
        self.tidied = Some(Instant::now());
        let Some(store) = &mut self.store else { return };
        let provided = if self.sessions.are_few() { self.sessions.provide(store) } else { Ok(()) };
        if let Err(error) = provided.and_then(|()| store.tidy(unix_now())) {
            tracing::warn!("{error}");
            self.queue.note(error.to_string());
            self.recover(&error);
        }
    }
}
