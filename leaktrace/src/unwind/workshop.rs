//! Makes unwind tables on threads of its own, off the event path: an order goes in, its outcome comes out some time
//! later. The threads run at a low priority, since the target needs the same processors.
//!
//! Everything is bounded: orders that are not taken back yet, and the bytes of finished tables that nobody has taken.
//! Orders for the same contents that meet here are worked on once.

mod bench;
mod craft;
mod worker;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cache::{Cache, CacheStatistics};
use super::{Table, TableKey};
use crate::object::note::BuildId;
use bench::Bench;
use craft::Unwinding;
use worker::Craft;

/// Most orders that have been submitted and not taken back finished. Each may keep a file open.
pub const MAX_ORDERS: usize = 256;

/// Most threads that [`Workshop::default_threads`] proposes.
const MAX_DEFAULT_THREADS: usize = 4;

/// A wish for the table of an object.
#[derive(Debug)]
pub struct Order {
    /// Comes back with the outcome.
    pub ticket: u64,
    /// What to read.
    pub source: Source,
    /// What messages call it.
    pub name: PathBuf,
}

/// Where an object's bytes are.
#[derive(Debug)]
pub enum Source {
    /// In a file, opened already: its path may lead elsewhere by now.
    File(File),
    /// In memory, as loaded: the vDSO.
    Image(Vec<u8>),
}

/// What became of an order.
#[derive(Debug)]
pub struct Finished {
    /// The order's.
    pub ticket: u64,
    /// See there.
    pub outcome: Outcome,
}

/// What an order can lead to.
#[derive(Debug)]
pub enum Outcome {
    /// A table.
    Ready(Ready),
    /// [`Workshop::note_placed`] has told of a table made of the same: nothing was made. If it has been evicted since,
    /// order again.
    Placed(TableKey),
    /// The object says nothing about its frames: expected of some, and no failure. Frame pointers are all there is.
    NoFrames,
    /// See there.
    Failed(Failure),
}

/// A table and where it comes from.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Shared between the orders that met.
    pub table: Arc<Table>,
    /// Identity of its contents.
    pub key: TableKey,
    /// The object's, for people.
    pub build_id: Option<BuildId>,
    /// Wall-clock time, reading the object included.
    pub took: Duration,
    /// See there.
    pub origin: Origin,
}

/// How a table came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled.
    Built,
    /// Read from the disk cache.
    Disk,
    /// Made for another order at the same time.
    Shared,
}

/// Why there is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// By what failures are counted.
    pub reason: &'static str,
    /// One sentence that names the object.
    pub message: String,
}

/// What the workshop has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkshopStatistics {
    /// Tables compiled.
    pub built: u64,
    /// Tables read from the disk cache.
    pub from_disk: u64,
    /// Orders that another order's table, or one placed already, was the answer to.
    pub shared: u64,
    /// Objects without call frame information.
    pub no_frames: u64,
    /// Failures by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Time spent, all threads together.
    pub spent: Duration,
    /// Bytes of all tables built or read.
    pub bytes: u64,
    /// Orders not finished yet.
    pub waiting: u64,
    /// What the disk cache says, if there is one.
    pub cache: Option<CacheStatistics>,
}

/// Why there is no workshop.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread that makes unwind tables: {0}")]
pub struct WorkshopError(#[from] std::io::Error);

/// See the module. When dropped, its threads end after the table that they are at.
pub struct Workshop {
    bench: Arc<Bench>,
    cache: Option<Arc<Cache>>,
}

impl Workshop {
    /// Starts the threads, at least one.
    ///
    /// # Errors
    /// When the system refuses the first thread. It may refuse later ones.
    pub fn new(threads: usize, cache: Option<Cache>) -> Result<Self, WorkshopError> {
        Self::with_craft(threads, cache, Unwinding::default())
    }

    /// As many threads as there are processors, up to 4.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from).min(MAX_DEFAULT_THREADS)
    }

    fn with_craft<C: Craft>(threads: usize, cache: Option<Cache>, craft: C) -> Result<Self, WorkshopError> {
        let workshop = Self { bench: Arc::default(), cache: cache.map(Arc::new) };
        let craft = Arc::new(craft);
        for index in 0..threads.max(1) {
            let started = worker::start(&workshop.bench, &craft, workshop.cache.as_ref());
            if let Err(error) = started
                && index == 0
            {
                return Err(error.into());
            }
        }
        Ok(workshop)
    }

    /// Takes an order.
    ///
    /// # Errors
    /// Gives the order back when there are [`MAX_ORDERS`] already: try again when one has been taken back finished.
    pub fn submit(&self, order: Order) -> Result<(), Order> {
        self.bench.submit(order)
    }

    /// Something finished, if there is any.
    pub fn try_finished(&self) -> Option<Finished> {
        self.bench.finished()
    }

    /// Something finished; waits for it, at most this long.
    pub fn finished(&self, timeout: Duration) -> Option<Finished> {
        self.bench.wait_finished(timeout)
    }

    /// Returns when [`Self::try_finished`] has something. May be dropped at any time.
    pub async fn ready(&self) {
        self.bench.ready().await;
    }

    /// A table made of this has got its place: further orders for the same contents are answered with
    /// [`Outcome::Placed`].
    pub fn note_placed(&self, key: TableKey) {
        self.bench.set_placed(key, true);
    }

    /// It has been evicted.
    pub fn note_evicted(&self, key: TableKey) {
        self.bench.set_placed(key, false);
    }

    /// See [`WorkshopStatistics`].
    pub fn statistics(&self) -> WorkshopStatistics {
        let cache = self.cache.as_ref().map(|cache| cache.statistics());
        WorkshopStatistics { cache, ..self.bench.statistics() }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        self.bench.close();
    }
}

#[cfg(test)]
mod tests;
