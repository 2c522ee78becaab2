//! What the unwind tables of a process would be: for `doctor`, which looks and leaves nothing behind.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use super::{Order, Outcome, Source, Workshop, WorkshopError};
use crate::process::{Mapping, vdso};
use crate::symbolize::FrameStore;

/// How long making all tables of one process may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One object that a process has mapped code from.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// As the process sees it.
    pub name: PathBuf,
    /// Its table in numbers, or why there is none.
    pub outcome: Result<Numbers, String>,
}

/// A table in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Rows.
    pub rows: u64,
    /// Bytes of the kernel side's memory.
    pub bytes: u64,
    /// Distinct rules.
    pub rules: u64,
    /// Rows whose rule cannot be followed.
    pub unsupported: u64,
    /// Time on the processor's clock to make it.
    pub took: Duration,
}

/// Makes the tables of everything that `mappings` of process `pid` execute, without any cache.
///
/// # Errors
/// If no thread can be started.
pub fn survey(pid: u32, mappings: &[Mapping]) -> Result<Vec<Surveyed>, WorkshopError> {
    let workshop = Workshop::new(Workshop::default_threads(), None)?;
    let mut surveyed = Vec::new();
    let mut open = HashMap::new();
    for (ticket, (name, source)) in (0..).zip(sources(pid, mappings)) {
        let outcome = source.and_then(|source| {
            workshop
                .submit(Order { ticket, source, name: name.clone() })
                .map_err(|_| "more objects than are looked at here".to_owned())
        });
        match outcome {
            Ok(()) => drop(open.insert(ticket, name)),
            Err(reason) => surveyed.push(Surveyed { name, outcome: Err(reason) }),
        }
    }
    while !open.is_empty() {
        let Some(finished) = workshop.finished(PATIENCE) else { break };
        let Some(name) = open.remove(&finished.ticket) else { continue };
        surveyed.push(Surveyed { name, outcome: numbers(finished.outcome) });
    }
    let late = |name| Surveyed { name, outcome: Err("its table was not made in time".to_owned()) };
    surveyed.extend(open.into_values().map(late));
    surveyed.sort_by_key(|object| {
        let rows = object.outcome.as_ref().map_or(0, |numbers| numbers.rows);
        (std::cmp::Reverse(rows), object.name.clone())
    });
    Ok(surveyed)
}

/// Each object once, and where to read it.
fn sources(pid: u32, mappings: &[Mapping]) -> Vec<(PathBuf, Result<Source, String>)> {
    let mut frames = FrameStore::default();
    let mut objects = BTreeMap::new();
    for mapping in mappings.iter().filter(|mapping| mapping.executable && mapping.is_file()) {
        if let Some(object) = frames.object(pid, 0, mapping) {
            objects.entry(object).or_insert_with(|| mapping.path.clone().unwrap_or_default());
        }
    }
    let files = objects.into_iter().map(|(object, name)| {
        let file = frames.object_file(object).map(Source::File);
        (name, file.map_err(|reason| reason.describe().to_owned()))
    });
    let mut sources: Vec<_> = files.collect();
    if mappings.iter().any(|mapping| mapping.label.as_deref() == Some(vdso::LABEL))
        && let Some(image) = vdso::image()
    {
        sources.push((PathBuf::from(vdso::LABEL), Ok(Source::Image(image))));
    }
    sources
}

fn numbers(outcome: Outcome) -> Result<Numbers, String> {
    match outcome {
        Outcome::Ready(ready) => Ok(Numbers {
            rows: ready.table.rows.len() as u64,
            bytes: ready.table.bytes(),
            rules: ready.table.rules.len() as u64,
            unsupported: ready.table.statistics.unsupported,
            took: ready.took,
        }),
        Outcome::NoFrames => Err("no call frame information: frame pointers are believed".to_owned()),
        Outcome::Failed(failure) => Err(failure.message),
        Outcome::Placed(_) => Err("made for another object with the same contents".to_owned()),
    }
}
