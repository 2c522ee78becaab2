//! What waits to be written. Whoever sends never waits: when there is too much, the oldest of the bulky kinds (memory, reports) goes
//! first and is counted, so that a history with a gap still knows who was traced, why, and what was found.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Entry, Health};

/// Reports that may wait.
const MAX_REPORTS: usize = 64;
/// Looks at everybody's memory that may wait.
const MAX_MEMORY: usize = 1024;
/// Other entries that may wait.
const MAX_OTHERS: usize = 4096;

/// Between those who send and the thread that writes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each with its number, in the order in which they were sent.
    waiting: VecDeque<(u64, Entry)>,
    /// How many of each [`Kind`] wait.
    counts: [usize; 3],
    /// Entries that were ever sent.
    sent: u64,
    /// Everything up to that number is on disk, or lost.
    settled: u64,
    /// Somebody waits until everything up to that number is on disk; 0: nobody.
    awaited: u64,
    /// No more will come.
    closed: bool,
    /// The writing thread has ended.
    gone: bool,
    health: Health,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Report,
    Memory,
    Other,
}

impl Kind {
    fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Report { .. } => Self::Report,
            Entry::Memory(_) => Self::Memory,
            _ => Self::Other,
        }
    }

    fn cap(self) -> usize {
        match self {
            Self::Report => MAX_REPORTS,
            Self::Memory => MAX_MEMORY,
            Self::Other => MAX_OTHERS,
        }
    }
}

impl Inner {
    fn in_a_hurry(&self) -> bool {
        self.settled < self.awaited
    }

    /// Everything before the first that waits is on disk, or lost.
    fn settle(&mut self) {
        self.settled = self.waiting.front().map_or(self.sent, |(number, _)| number - 1);
    }

    fn push(&mut self, entry: Entry) {
        let kind = Kind::of(&entry);
        self.sent += 1;
        self.waiting.push_back((self.sent, entry));
        self.count(kind, 1);
        if self.counts.get(kind as usize).is_some_and(|count| *count > kind.cap()) {
            self.drop_oldest(kind);
        }
    }

    fn drop_oldest(&mut self, kind: Kind) {
        if let Some(place) = self.waiting.iter().position(|(_, entry)| Kind::of(entry) == kind) {
            self.waiting.remove(place);
            self.count(kind, -1);
            self.health.lost += 1;
        }
    }

    fn count(&mut self, kind: Kind, change: isize) {
        if let Some(count) = self.counts.get_mut(kind as usize) {
            *count = count.saturating_add_signed(change);
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for the disk.
    pub(super) fn send(&self, entry: Entry) {
        let mut inner = self.lock();
        if inner.gone {
            inner.health.lost += 1;
            return;
        }
        inner.push(entry);
        drop(inner);
        self.changed.notify_all();
    }

    /// Waits for something to write, for at most so long; then for more of it, unless somebody is in a hurry. `None`: no more
    /// will come.
    pub(super) fn take(&self, idle: Duration, gather: Duration) -> Option<Vec<Entry>> {
        let mut inner = self.wait(self.lock(), idle, |inner| {
            inner.waiting.is_empty() && !inner.closed && !inner.in_a_hurry()
        });
        if !inner.waiting.is_empty() {
            inner = self.wait(inner, gather, |inner| !inner.closed && !inner.in_a_hurry());
        }
        if inner.waiting.is_empty() && inner.closed {
            return None;
        }
        if inner.waiting.is_empty() {
            inner.settle();
        }
        inner.counts = [0; 3];
        let batch = std::mem::take(&mut inner.waiting);
        Some(batch.into_iter().map(|(_, entry)| entry).collect())
    }

    /// What [`Queue::take`] gave is on disk, but for so many, and why these are not.
    pub(super) fn written(&self, lost: u64, error: Option<String>) {
        let mut inner = self.lock();
        inner.health.lost += lost;
        inner.health.error = error;
        inner.health.failing = false;
        inner.settle();
        drop(inner);
        self.changed.notify_all();
    }

    /// What [`Queue::take`] gave could not be written: it waits again, before what has come since; and why.
    pub(super) fn put_back(&self, batch: Vec<Entry>, error: String) {
        let mut inner = self.lock();
        let first = inner.waiting.front().map_or(inner.sent + 1, |(number, _)| *number);
        let begin = first.saturating_sub(batch.len() as u64);
        for (place, entry) in batch.into_iter().enumerate().rev() {
            inner.count(Kind::of(&entry), 1);
            inner.waiting.push_front((begin + place as u64, entry));
        }
        for kind in [Kind::Report, Kind::Memory, Kind::Other] {
            while inner.counts.get(kind as usize).is_some_and(|count| *count > kind.cap()) {
                inner.drop_oldest(kind);
            }
        }
        inner.health.error = Some(error);
        inner.health.failing = true;
        // Who waited is told now: it may take long.
        inner.awaited = 0;
        self.changed.notify_all();
    }

    /// Notes what went wrong without losing anything.
    pub(super) fn note(&self, error: String) {
        self.lock().health.error = Some(error);
    }

    /// Waits until all that was sent is on disk, for at most so long; whether it is.
    pub(super) fn flush(&self, longest: Duration) -> bool {
        let mut inner = self.lock();
        let goal = inner.sent;
        inner.awaited = inner.awaited.max(goal);
        self.changed.notify_all();
        inner =
            self.wait(inner, longest, |inner| inner.settled < goal && inner.awaited >= goal && !inner.gone);
        inner.settled >= goal
    }

    /// Says that no more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Sleeps for so long, or until it is closed or somebody is in a hurry.
    pub(super) fn rest(&self, time: Duration) {
        drop(self.wait(self.lock(), time, |inner| !inner.closed && !inner.in_a_hurry()));
    }

    /// Whether no more will come.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The writing thread ends: what waits is lost.
    pub(super) fn give_up(&self) {
        let mut inner = self.lock();
        inner.gone = true;
        inner.health.lost += inner.waiting.len() as u64;
        inner.waiting.clear();
        self.changed.notify_all();
    }

    /// How it goes.
    pub(super) fn health(&self) -> Health {
        let inner = self.lock();
        Health { waiting: inner.waiting.len() as u64, ..inner.health.clone() }
    }

    fn wait<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        longest: Duration,
        mut unfinished: impl FnMut(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        let begun = Instant::now();
        while unfinished(&inner) {
            let left = longest.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner
    }
}
