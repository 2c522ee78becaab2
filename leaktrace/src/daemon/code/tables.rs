//! The unwind tables of all objects that any traced process has mapped: ordered when an object is first seen, given
//! their place when they have been made.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use leaktrace_common::unwind::{IndexedPage, Rule};

use crate::{
    cli::Failure,
    kernel::{CodeMemory, wait_for_running_programs},
    process::vdso,
    symbolize::{FrameStore, ObjectId},
    unwind::{
        Cache, Finished, Memory, Order, Outcome, Place, Ready, Source, Store, StoreStatistics, Table,
        TableId, Workshop, WorkshopStatistics,
    },
};

/// Sentences about objects whose unwind information could not be read that are kept for the report.
const MAX_FAILURES: usize = 32;

impl Memory for CodeMemory {
    fn write_rows(&mut self, first: u32, rows: &[u32]) {
        Self::write_rows(self, first, rows);
    }
    fn write_pages(&mut self, first: u32, pages: &[IndexedPage]) {
        Self::write_pages(self, first, pages);
    }
    fn write_rule(&mut self, number: u16, rule: Rule) {
        Self::write_rule(self, number, rule);
    }
}

/// What unwind tables are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Object {
    /// A file.
    File(ObjectId),
    /// The kernel's own object in every process.
    Vdso,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwinding {
    /// Its table is being made.
    Pending,
    /// It has one.
    Table(TableId),
    /// It has no call frame information.
    FramePointer,
    /// What it has cannot be read.
    Unreadable,
    /// There was no room for its table.
    NoRoom,
}

/// See the module.
pub(super) struct Tables {
    store: Store,
    workshop: Workshop,
    objects: HashMap<Object, Unwinding>,
    tickets: HashMap<u64, Object>,
    next_ticket: u64,
    /// Objects that the workshop had no room for yet.
    queue: VecDeque<Order>,
    failures: BTreeSet<String>,
    rules_off: u64,
}

impl Tables {
    /// There are none yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new(
        rules_off: u64,
        cache: Option<Cache>,
        memory: &mut CodeMemory,
    ) -> Result<Self, Failure> {
        let capacity = memory.capacity();
        let workshop = Workshop::new(Workshop::default_threads(), cache)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        Ok(Self {
            store: Store::new(capacity.rows, capacity.pages, memory),
            workshop,
            objects: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            queue: VecDeque::new(),
            failures: BTreeSet::new(),
            rules_off,
        })
    }

    /// One more list of code mappings leads to a table; `None` if it has been evicted.
    pub(super) fn acquire(&mut self, table: TableId) -> Option<Place> {
        self.store.acquire(table)
    }

    /// Lists that led to these tables are gone.
    pub(super) fn release(&mut self, tables: impl IntoIterator<Item = TableId>) {
        tables.into_iter().for_each(|table| self.store.release(table));
    }

    /// Objects that found no room may try again: a process has gone.
    pub(super) fn retry_refused(&mut self) {
        self.objects.retain(|_, known| *known != Unwinding::NoRoom);
    }

    /// Whether an object's table is still being made.
    pub(super) fn is_pending(&self, object: Object) -> bool {
        self.objects.get(&object) == Some(&Unwinding::Pending)
    }

    /// Takes in what has been made.
    pub(super) fn take_finished(&mut self, memory: &mut CodeMemory) {
        while let Some(finished) = self.workshop.try_finished() {
            self.finished(memory, finished);
        }
    }

    /// Takes in the next that is made; `false` if nothing was for that long.
    pub(super) fn await_finished(&mut self, memory: &mut CodeMemory, limit: Duration) -> bool {
        match self.workshop.finished(limit) {
            Some(finished) => self.finished(memory, finished),
            None => return false,
        }
        true
    }

    /// Returns when [`Self::take_finished`] has something.
    pub(super) async fn ready(&self) {
        self.workshop.ready().await;
    }

    /// How full the kernel side's memory is, what the workshop did, and what went wrong, a sentence each.
    pub(super) fn statistics(&self) -> (StoreStatistics, WorkshopStatistics, Vec<String>) {
        let failures = self.failures.iter().cloned().collect();
        (self.store.statistics(), self.workshop.statistics(), failures)
    }

    /// What is known of an object; orders its table if nothing is.
    pub(super) fn unwinding(&mut self, frames: &mut FrameStore, object: Object) -> Unwinding {
        match self.objects.get(&object) {
            Some(Unwinding::Table(table)) if self.store.place(*table).is_none() => {}
            Some(known) => return *known,
            None => {}
        }
        let state = match self.order(frames, object) {
            Some(order) => {
                self.submit(order);
                Unwinding::Pending
            }
            None => Unwinding::Unreadable,
        };
        self.objects.insert(object, state);
        state
    }

    fn order(&mut self, frames: &mut FrameStore, object: Object) -> Option<Order> {
        let (source, name) = match object {
            Object::File(id) => {
                let name = frames.object_path(id).map(PathBuf::from).unwrap_or_default();
                match frames.object_file(id) {
                    Ok(file) => (Source::File(file), name),
                    Err(reason) => {
                        self.note_failure(format!(
                            "no unwind table for {}: its file cannot be read ({})",
                            name.display(),
                            reason.describe()
                        ));
                        return None;
                    }
                }
            }
            Object::Vdso => (Source::Image(vdso::image()?), PathBuf::from(vdso::LABEL)),
        };
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, object);
        Some(Order { ticket: self.next_ticket, source, name })
    }

    fn submit(&mut self, order: Order) {
        if let Err(order) = self.workshop.submit(order) {
            self.queue.push_back(order);
        }
    }

    /// Gives a finished table its place.
    fn finished(&mut self, memory: &mut CodeMemory, finished: Finished) {
        while let Some(order) = self.queue.pop_front() {
            if let Err(order) = self.workshop.submit(order) {
                self.queue.push_front(order);
                break;
            }
        }
        let Some(object) = self.tickets.remove(&finished.ticket) else { return };
        let state = match finished.outcome {
            Outcome::NoFrames => Some(Unwinding::FramePointer),
            Outcome::Failed(failure) => {
                self.note_failure(failure.message);
                Some(Unwinding::Unreadable)
            }
            Outcome::Placed(key) => self.store.find(key).map(Unwinding::Table),
            Outcome::Ready(ready) => Some(self.place(memory, &ready)),
        };
        match state {
            Some(state) => self.objects.insert(object, state),
            // Evicted between two looks: the next publication orders it again.
            None => self.objects.remove(&object),
        };
    }

    fn place(&mut self, memory: &mut CodeMemory, ready: &Ready) -> Unwinding {
        let placed = self.store.insert(ready.key, &ready.table, memory).or_else(|_| {
            self.evict(&ready.table);
            self.store.insert(ready.key, &ready.table, memory)
        });
        match placed {
            Ok(table) => {
                self.workshop.note_placed(ready.key);
                Unwinding::Table(table)
            }
            Err(full) => {
                self.note_failure(format!("{full}; see --max-unwind-rows"));
                Unwinding::NoRoom
            }
        }
    }

    /// Makes room at once. Rare enough to wait here: it takes more code than the tables' cap, in processes that have gone.
    fn evict(&mut self, table: &Table) {
        let retired = self.store.evict(table);
        if retired.is_empty() {
            return;
        }
        retired.iter().for_each(|table| self.workshop.note_evicted(table.key()));
        wait_for_running_programs(self.rules_off);
        self.store.reuse(retired);
    }

    fn note_failure(&mut self, sentence: String) {
        if self.failures.len() < MAX_FAILURES && !self.failures.contains(&sentence) {
            tracing::warn!("{sentence}");
            self.failures.insert(sentence);
        }
    }
}
