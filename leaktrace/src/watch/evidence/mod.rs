//! Evidence: what was known of a process when it came near its limit, or was killed, as files in a directory of its own. The victim
//! is dead by then, so all of it comes from what the daemon holds; what can only be read of the living is read near the limit,
//! and kept for the kill.

mod breakdown;
mod case;
mod config;
mod shelf;
mod words;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use breakdown::{Breakdown, BreakdownError, read_memory};
pub use config::EvidenceConfig;

use super::{oom::OomKill, survey::memory_cgroup};
use crate::{
    process::{
        cgroup::{self, Mounts},
        identity::is_same_process,
    },
    report::aside::say,
    watched::{MemoryReading, SubjectState},
};
use case::Case;
use shelf::Shelf;

/// How long a living process's memory may take to be read.
const READING: Duration = Duration::from_millis(500);
/// Subjects whose memory, as it was near the limit, is kept for the kill.
const MAX_KEPT: usize = 64;

/// What is known beside the state of the subject.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// When this happens, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Its memory during the last hour, the oldest reading first.
    pub memory: Vec<MemoryReading>,
    /// The kill, if it is one.
    pub kill: Option<OomKill>,
    /// What its memory consists of, if that was read; else [`Keeper::write`] reads it, if somebody still lives.
    pub breakdown: Option<Breakdown>,
    /// Its cgroup's `memory.stat`; likewise.
    pub cgroup_statistics: Option<String>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The directory cannot be made, or nothing can be written into it.
    #[error("cannot write evidence to {}: {source}; free space there, or give leaktrace a place that it can write to", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Writes evidence into one directory, and keeps that from growing.
#[derive(Debug)]
pub struct Keeper {
    shelf: Shelf,
    /// One case at a time; and what was read of the living, by [`crate::watched::Subject::key`].
    kept: Mutex<HashMap<String, Kept>>,
}

/// What is known of a subject only while its processes live.
#[derive(Clone, Debug, Default)]
struct Kept {
    breakdown: Option<Breakdown>,
    statistics: Option<String>,
}

impl Keeper {
    /// For cases below `directory`, which is made when there is the first. What an earlier daemon has left half-written there is
    /// removed.
    pub fn new(directory: impl Into<PathBuf>, config: &EvidenceConfig) -> Self {
        let shelf = Shelf::new(directory.into(), config);
        shelf.remove_unfinished();
        Self { shelf, kept: Mutex::default() }
    }

    /// Writes a case. `reason` is a word or two: `oom-kill`, `near-limit`. It takes as long as the disk takes: not to be called where
    /// others wait. What does not fit on the disk is left out, which is said on stderr and in the case itself.
    ///
    /// # Errors
    /// If nothing at all could be written.
    pub fn write(&self, reason: &str, state: &SubjectState, facts: &Facts) -> Result<PathBuf, EvidenceError> {
        let mut kept = self.kept();
        let living = self.look_at_the_living(&mut kept, state, facts);
        let case = Case { reason, state, facts, breakdown: living.breakdown, statistics: living.statistics };
        let failed = |path: &Path, source| EvidenceError::Write { path: path.to_owned(), source };
        let unfinished = self.shelf.begin().map_err(|error| failed(self.shelf.directory(), error))?;
        let missing = match case.write(&unfinished) {
            Ok(missing) => missing,
            Err(error) => {
                // Nothing is in it that anybody would miss.
                let _ = fs::remove_dir_all(&unfinished);
                return Err(failed(&unfinished, error));
            }
        };
        let name = case.name();
        let finished =
            self.shelf.finish(&unfinished, &name).map_err(|error| failed(self.shelf.directory(), error))?;
        if let Some(sentence) = words::could_not(&missing) {
            say(format!("{}: {sentence}", finished.display()));
        }
        self.shelf.make_room(&finished);
        Ok(finished)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be read of a subject now, else what was read of it when it could be.
    fn look_at_the_living(
        &self,
        kept: &mut HashMap<String, Kept>,
        state: &SubjectState,
        facts: &Facts,
    ) -> Kept {
        let key = &state.subject.key;
        let before = kept.remove(key).unwrap_or_default();
        let now = Kept {
            breakdown: facts.breakdown.clone().or_else(|| living_memory(state, facts)).or(before.breakdown),
            statistics: facts
                .cgroup_statistics
                .clone()
                .or_else(|| living_statistics(state))
                .or(before.statistics),
        };
        if kept.len() >= MAX_KEPT {
            forget_oldest(kept);
        }
        kept.insert(key.clone(), now.clone());
        now
    }
}

/// Gives room to what is read later.
fn forget_oldest(kept: &mut HashMap<String, Kept>) {
    let read = |kept: &Kept| kept.breakdown.as_ref().map_or(0.0, |breakdown| breakdown.at_unix_s);
    let oldest = kept.iter().min_by(|(_, one), (_, other)| read(one).total_cmp(&read(other)));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        kept.remove(&key);
    }
}

/// The memory of the process that a subject is shown by. Nobody is asked who is being killed.
fn living_memory(state: &SubjectState, facts: &Facts) -> Option<Breakdown> {
    let subject = &state.subject;
    let dies = facts.kill.as_ref().is_some_and(|kill| kill.pid == subject.pid);
    let read = || read_memory(subject.pid, subject.start_ticks, READING);
    (!dies).then(read)?.inspect_err(|error| tracing::debug!("{error}")).ok()
}

/// What its cgroup says of its memory, as long as its process is in it.
fn living_statistics(state: &SubjectState) -> Option<String> {
    let subject = &state.subject;
    state.memory.cgroup?;
    let places = cgroup::places(subject.pid).ok()?;
    let charged = cgroup::memory_place(&places)?;
    let own = subject.cgroup.as_deref().map(Path::new).filter(|own| charged.path.starts_with(own))?;
    let place = cgroup::Place { hierarchy: charged.hierarchy.clone(), path: own.to_owned() };
    let text = memory_cgroup::statistics(&place, &Mounts::own())?;
    is_same_process(subject.pid, subject.start_ticks).then_some(text)
}

#[cfg(test)]
mod tests;
