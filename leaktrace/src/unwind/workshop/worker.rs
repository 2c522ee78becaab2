//! A thread of the workshop: takes an order, reads the object, and builds its table or gets it from the disk cache.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::bench::{Bench, Claim};
use super::{Failure, Order, Origin, Outcome, Ready};
use crate::object::note::BuildId;
use crate::unwind::cache::Cache;
use crate::unwind::{Table, TableKey};

/// Added to the priority number of the threads: they get about a tenth of what a thread of the target gets.
const NICENESS: i32 = 10;

/// The two halves of making a table. Between them stands what it is made of: it may be on disk, or in work elsewhere.
pub(super) trait Craft: Send + Sync + 'static {
    /// What a table is made of.
    type Sections;

    /// Reads what a table is made of; `Ok(None)` if the object says nothing about its frames.
    fn read(&self, order: &Order) -> Result<Option<Material<Self::Sections>>, Failure>;

    /// Makes the table. `name` is for messages.
    fn compile(&self, sections: &Self::Sections, name: &Path) -> Result<Table, Failure>;
}

/// What a table is made of, with its identity.
pub(super) struct Material<S> {
    pub(super) key: TableKey,
    pub(super) build_id: Option<BuildId>,
    pub(super) sections: S,
}

/// Starts a thread. It ends when the bench closes.
pub(super) fn start<C: Craft>(
    bench: &Arc<Bench>,
    craft: &Arc<C>,
    cache: Option<&Arc<Cache>>,
) -> io::Result<()> {
    let worker = Worker { bench: bench.clone(), craft: craft.clone(), cache: cache.cloned() };
    thread::Builder::new().name("unwind-tables".to_owned()).spawn(move || worker.run()).map(drop)
}

struct Worker<C> {
    bench: Arc<Bench>,
    craft: Arc<C>,
    cache: Option<Arc<Cache>>,
}

impl<C: Craft> Worker<C> {
    fn run(&self) {
        // Without a process ID it is this thread. Refused, it works on at the priority it has.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        while let Some(order) = self.bench.next_order() {
            self.serve(&order);
        }
    }

    /// Whatever happens in here, the order gets an outcome and the thread lives on.
    fn serve(&self, order: &Order) {
        let begun = Instant::now();
        let mut claimed = None;
        let outcome = caught(|| self.outcome(order, begun, &mut claimed))
            .unwrap_or_else(|| Some(Outcome::Failed(panicked(&order.name))));
        let Some(outcome) = outcome else { return };
        let built = match &outcome {
            Outcome::Ready(ready) if ready.origin == Origin::Built => Some(ready.clone()),
            _ => None,
        };
        self.bench.finish(order.ticket, outcome, claimed, begun.elapsed());
        // Only now: nobody waits for the disk.
        if let (Some(cache), Some(ready)) = (&self.cache, built) {
            let _ = caught(|| cache.save(ready.key, ready.build_id.as_ref(), &ready.table));
        }
    }

    /// `None` if another thread finishes the order. `claimed` is set before anything is made.
    fn outcome(&self, order: &Order, begun: Instant, claimed: &mut Option<TableKey>) -> Option<Outcome> {
        let material = match self.craft.read(order) {
            Ok(Some(material)) => material,
            Ok(None) => return Some(Outcome::NoFrames),
            Err(failure) => return Some(Outcome::Failed(failure)),
        };
        match self.bench.claim(material.key, order.ticket) {
            Claim::Others => None,
            Claim::Placed => Some(Outcome::Placed(material.key)),
            Claim::Yours => {
                *claimed = Some(material.key);
                Some(self.make(material, &order.name, begun).map_or_else(Outcome::Failed, Outcome::Ready))
            }
        }
    }

    fn make(&self, material: Material<C::Sections>, name: &Path, begun: Instant) -> Result<Ready, Failure> {
        let Material { key, build_id, sections } = material;
        let loaded = self.cache.as_ref().and_then(|cache| cache.load(key, build_id.as_ref()));
        let (table, origin) = match loaded {
            Some(table) => (table, Origin::Disk),
            None => (self.craft.compile(&sections, name)?, Origin::Built),
        };
        Ok(Ready { table: Arc::new(table), key, build_id, took: begun.elapsed(), origin })
    }
}

/// `None` after a panic.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn panicked(name: &Path) -> Failure {
    let message =
        format!("making the unwind table of {} failed inside leaktrace; please report this", name.display());
    Failure { reason: "internal error", message }
}
