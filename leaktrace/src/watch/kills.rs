//! Before and after the kill: when a subject comes near its limit, and when the kernel has chosen one of its processes, its state is
//! written out. What was traced is asked for a last report first; it need not come for the rest to be written.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    evidence::Facts,
    oom::{OomCounts, OomKill, OomWatch},
    watcher::Watcher,
};
use crate::{
    alert::rules::Victim,
    report::aside::say,
    store::Entry,
    watched::{MemoryReading, Subject, SubjectState},
};

/// How long a trace has for its report of a process that was killed.
const LAST_REPORT: Duration = Duration::from_millis(1000);
/// Kills whose evidence waits to be written; beyond it is written at once.
const MAX_PENDING: usize = 64;
/// After having been near its limit a subject must have fallen to this part of that before it is told of again.
const FAR_AGAIN: f64 = 0.95;

/// Why evidence is written.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The subject is near its limit.
    NearLimit,
    /// The kernel kills one of its processes.
    Kill(OomKill),
}

/// Evidence that waits for a report.
struct Pending {
    key: String,
    cause: Cause,
    /// When the report must have been made to be the one, seconds since the Unix epoch.
    since: f64,
    /// When it is waited for no more.
    due: Instant,
}

/// Evidence that was written, or could not be.
pub struct Written {
    state: Box<SubjectState>,
    cause: Cause,
    outcome: Result<PathBuf, String>,
}

/// OOM kills, and evidence that waits to be written.
pub struct Kills {
    watch: Option<OomWatch>,
    counts: OomCounts,
    pending: Vec<Pending>,
    risen: Vec<String>,
}

impl Kills {
    /// Begins to watch for kills.
    pub fn start() -> Self {
        let watch = OomWatch::start();
        if let Err(error) = &watch {
            say(format!("OOM kills are noticed at the next look only, and not whom they hit: {error}"));
        }
        Self { watch: watch.ok(), counts: OomCounts::default(), pending: Vec::new(), risen: Vec::new() }
    }

    /// Waits for the next kill.
    pub async fn next(&mut self) -> OomKill {
        match &mut self.watch {
            Some(watch) => watch.next().await,
            None => std::future::pending().await,
        }
    }

    /// When evidence must be written, whatever has come.
    pub fn due(&self) -> Option<Instant> {
        self.pending.iter().map(|pending| pending.due).min()
    }

    /// Where the kernel does not tell of kills, counts do.
    pub fn count(&mut self, readings: &[(Subject, MemoryReading)]) {
        let risen = self.counts.look(readings);
        if self.watch.is_none() {
            self.risen.extend(risen.into_iter().map(|risen| risen.subject));
        }
    }

    /// Whether evidence of a subject is to be written.
    pub fn concerns(&self, key: &str) -> bool {
        self.pending.iter().any(|pending| pending.key == key)
    }

    /// Takes out what is due, or what a report has come for.
    fn take(&mut self, ready: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let (ready, waiting) =
            std::mem::take(&mut self.pending).into_iter().partition(|pending| ready(pending));
        self.pending = waiting;
        ready
    }
}

impl Watcher {
    /// The kernel has chosen a process.
    pub(super) fn killed(&mut self, kill: &OomKill) {
        let Some(key) = self.subject_of(kill) else {
            tracing::debug!("process {} is killed for want of memory; it is not watched", kill.pid);
            return;
        };
        self.ask_for_evidence(key, Cause::Kill(kill.clone()), kill.at_unix_s);
    }

    /// Whose process it is: by its PID, else by its cgroup.
    fn subject_of(&self, kill: &OomKill) -> Option<String> {
        if let Some(key) = self.survey.subject_of(kill.pid) {
            return Some(key.to_owned());
        }
        let cgroup = kill.cgroup.as_deref()?;
        let mut watched = self.subjects.values();
        let found = watched.find(|watched| watched.subject.cgroup.as_deref() == Some(cgroup));
        found.map(|watched| watched.subject.key.clone())
    }

    /// Whoever is near a limit, once each time it comes near; and kills that only counts have told of.
    pub(super) fn watch_limits(&mut self) {
        let near = self.config.tracing.near_limit.0;
        let now = self.clock.now();
        let mut come_near = Vec::new();
        for (key, watched) in &mut self.subjects {
            let Some(share) = watched.share_of_limit() else { continue };
            if share >= near && !watched.near_limit_told {
                watched.near_limit_told = true;
                come_near.push(key.clone());
            } else if share < near * FAR_AGAIN {
                watched.near_limit_told = false;
            }
        }
        for key in come_near {
            self.ask_for_evidence(key, Cause::NearLimit, now);
        }
        for key in std::mem::take(&mut self.kills.risen) {
            let kill = OomKill { at_unix_s: now, ..OomKill::default() };
            self.ask_for_evidence(key, Cause::Kill(kill), now);
        }
    }

    fn ask_for_evidence(&mut self, key: String, cause: Cause, since: f64) {
        let Some(watched) = self.subjects.get(&key) else { return };
        let mut due = Instant::now();
        if let Some(trace) = watched.trace.as_ref().filter(|_| self.kills.pending.len() < MAX_PENDING) {
            trace.ask();
            due += LAST_REPORT;
        }
        self.kills.pending.push(Pending { key, cause, since, due });
    }

    /// A report of a trace has come: evidence that waits for it can be written.
    pub(super) fn report_came(&mut self, key: &str) {
        let made =
            self.subjects.get(key).and_then(|watched| watched.report.as_ref()).map(|report| report.at_unix_s);
        let made = made.unwrap_or(0.0);
        let ready = self.kills.take(|pending| pending.key == key && made >= pending.since);
        ready.into_iter().for_each(|pending| self.write_evidence(pending));
    }

    pub(super) fn write_due_evidence(&mut self) {
        let now = Instant::now();
        let due = self.kills.take(|pending| pending.due <= now);
        due.into_iter().for_each(|pending| self.write_evidence(pending));
    }

    fn write_evidence(&mut self, pending: Pending) {
        let Some(watched) = self.subjects.get(&pending.key) else { return };
        let state = Box::new(watched.state());
        let facts = Facts {
            at_unix_s: self.clock.now(),
            memory: watched.curve.whole().copied().collect(),
            kill: match &pending.cause {
                Cause::Kill(kill) => Some(kill.clone()),
                Cause::NearLimit => None,
            },
            ..Facts::default()
        };
        let (keeper, tell) = (Arc::clone(&self.keeper), self.written.0.clone());
        tokio::task::spawn_blocking(move || {
            let outcome =
                keeper.write(pending.cause.word(), &state, &facts).map_err(|error| error.to_string());
            let _ = tell.blocking_send(Written { state, cause: pending.cause, outcome });
        });
    }

    pub(super) fn evidence_written(&mut self, written: Written) {
        let Written { state, cause, outcome } = written;
        let key = state.subject.key.clone();
        let now = self.clock.now();
        match &outcome {
            Ok(directory) => {
                let directory = directory.to_string_lossy().into_owned();
                let reason = cause.sentence();
                self.decide(Some(&key), format!("{reason}: evidence lies in {directory}"));
                self.writer.send(Entry::Evidence { subject: key, at_unix_s: now, reason, directory });
            }
            Err(error) => self.decide(Some(&key), format!("evidence could not be written: {error}")),
        }
        if let Cause::Kill(kill) = &cause {
            let victim = Victim { pid: kill.pid, name: kill.name.clone() };
            let evidence = outcome.ok().map(|directory| directory.to_string_lossy().into_owned());
            let alert = self.rules.oom(&state, &victim, evidence, now);
            if let Some(alert) = alert {
                self.raise(alert);
            }
        }
    }
}

impl Cause {
    /// In the name of the evidence's directory.
    fn word(&self) -> &'static str {
        match self {
            Self::NearLimit => "near-limit",
            Self::Kill(_) => "oom-kill",
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::NearLimit => "it came near its memory limit".to_owned(),
            Self::Kill(kill) if kill.pid == 0 => {
                "one of its processes was killed for want of memory".to_owned()
            }
            Self::Kill(kill) => format!("process {} ({}) was killed for want of memory", kill.pid, kill.name),
        }
    }
}
