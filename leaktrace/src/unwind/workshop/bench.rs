//! What lies between the event loop and the threads: orders, tables in work, and what is finished.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Finished, MAX_ORDERS, Order, Origin, Outcome, Ready, WorkshopStatistics};
use crate::unwind::TableKey;

/// No order is begun while finished tables of this many bytes have not been taken.
const MAX_FINISHED_BYTES: u64 = 64 << 20;

/// See the module.
#[derive(Default)]
pub(super) struct Bench {
    state: Mutex<State>,
    /// Told when a thread may find something to do, or is to end.
    work: Condvar,
    /// Told when something is finished: those who block,
    done: Condvar,
    /// and those who do not.
    ready: Notify,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    /// Tables that a thread is at, with the tickets of further orders for the same.
    in_work: HashMap<TableKey, Vec<u64>>,
    finished: VecDeque<Finished>,
    finished_bytes: u64,
    /// Tables that have got their place.
    placed: HashSet<TableKey>,
    /// Orders submitted and not taken back.
    outstanding: usize,
    counts: WorkshopStatistics,
    closing: bool,
}

/// Who makes a table that an order asks for.
pub(super) enum Claim {
    /// Whoever asked: nobody else does.
    Yours,
    /// Another thread, which will finish this order too.
    Others,
    /// Nobody: it has its place.
    Placed,
}

impl Bench {
    pub(super) fn submit(&self, order: Order) -> Result<(), Order> {
        let mut state = self.lock();
        if state.outstanding >= MAX_ORDERS {
            return Err(order);
        }
        state.outstanding += 1;
        state.orders.push_back(order);
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn finished(&self) -> Option<Finished> {
        self.take_finished(&mut self.lock())
    }

    pub(super) fn wait_finished(&self, timeout: Duration) -> Option<Finished> {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        loop {
            if let Some(finished) = self.take_finished(&mut state) {
                return Some(finished);
            }
            let left = deadline.map_or(timeout, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return None;
            }
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) async fn ready(&self) {
        loop {
            // The permit is kept if it is given between the look and the wait.
            if !self.lock().finished.is_empty() {
                return;
            }
            self.ready.notified().await;
        }
    }

    pub(super) fn set_placed(&self, key: TableKey, placed: bool) {
        let mut state = self.lock();
        if placed {
            state.placed.insert(key);
        } else {
            state.placed.remove(&key);
        }
    }

    pub(super) fn statistics(&self) -> WorkshopStatistics {
        let state = self.lock();
        let waiting = state.outstanding.saturating_sub(state.finished.len()) as u64;
        WorkshopStatistics { waiting, ..state.counts.clone() }
    }

    /// Lets the threads end.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    /// The next order, waited for; `None` when the thread is to end.
    pub(super) fn next_order(&self) -> Option<Order> {
        let mut state = self.lock();
        loop {
            if state.closing {
                return None;
            }
            if state.finished_bytes < MAX_FINISHED_BYTES
                && let Some(order) = state.orders.pop_front()
            {
                return Some(order);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Settles who makes a table.
    pub(super) fn claim(&self, key: TableKey, ticket: u64) -> Claim {
        let mut state = self.lock();
        if state.placed.contains(&key) {
            return Claim::Placed;
        }
        if let Some(waiting) = state.in_work.get_mut(&key) {
            waiting.push(ticket);
            return Claim::Others;
        }
        state.in_work.insert(key, Vec::new());
        Claim::Yours
    }

    /// Hands an order's outcome over, to those orders too that have waited for the table `claimed`.
    pub(super) fn finish(&self, ticket: u64, outcome: Outcome, claimed: Option<TableKey>, spent: Duration) {
        let mut state = self.lock();
        state.counts.spent += spent;
        let waiting = claimed.and_then(|key| state.in_work.remove(&key)).unwrap_or_default();
        for ticket in waiting {
            let outcome = for_another(&outcome);
            state.push(Finished { ticket, outcome });
        }
        state.push(Finished { ticket, outcome });
        drop(state);
        self.done.notify_all();
        self.ready.notify_one();
    }

    fn take_finished(&self, state: &mut State) -> Option<Finished> {
        let finished = state.finished.pop_front()?;
        state.outstanding -= 1;
        state.finished_bytes -= bytes(&finished.outcome);
        self.work.notify_all();
        Some(finished)
    }

    /// A thread that panicked has left nothing half done in here: the lock is never held while tables are made.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, finished: Finished) {
        let table_bytes = bytes(&finished.outcome);
        self.finished_bytes += table_bytes;
        let counts = &mut self.counts;
        match &finished.outcome {
            Outcome::Ready(Ready { origin: Origin::Shared, .. }) | Outcome::Placed(_) => counts.shared += 1,
            Outcome::Ready(ready) => {
                let count =
                    if ready.origin == Origin::Built { &mut counts.built } else { &mut counts.from_disk };
                *count += 1;
                counts.bytes += table_bytes;
            }
            Outcome::NoFrames => counts.no_frames += 1,
            Outcome::Failed(failure) => *counts.failed.entry(failure.reason).or_default() += 1,
        }
        self.finished.push_back(finished);
    }
}

/// The same outcome for an order that met the first.
fn for_another(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Ready(ready) => Outcome::Ready(Ready { origin: Origin::Shared, ..ready.clone() }),
        Outcome::Placed(key) => Outcome::Placed(*key),
        Outcome::NoFrames => Outcome::NoFrames,
        Outcome::Failed(failure) => Outcome::Failed(failure.clone()),
    }
}

fn bytes(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Ready(ready) => ready.table.bytes(),
        _ => 0,
    }
}
