//! What the daemon knows of the host, as plain values: who is watched, what was read of them, what was found out. History,
//! alerts, metrics and evidence all speak of these, and of nothing else of each other.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    alert::Alert,
    report::{
        fingerprint::SiteKey,
        model::{Amount, Detail, Report},
    },
    target::Container,
    verdict::{MemoryTrend, Unexplained, Verdict},
};

/// What people see as one: growth is judged of it, tracing begins for it, alerts speak of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// Its identity, which outlives the daemon: `container:ID`, `cgroup:PATH` or `process:BOOT:PID:START`.
    pub key: String,
    /// What it is.
    pub kind: SubjectKind,
    /// What people call it: the container's name, the cgroup's path, the process's short name.
    pub name: String,
    /// The process, or the one that uses most memory; as the host sees it.
    pub pid: u32,
    /// When that process started, clock ticks since boot.
    pub start_ticks: u64,
    /// When it started (the process, or the oldest of them), seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// Command line of that process.
    pub command: Vec<String>,
    /// The container, if it is one or runs in one.
    pub container: Option<Container>,
    /// Its memory cgroup, as `/proc/PID/cgroup` names it.
    pub cgroup: Option<String>,
    /// The scope of the configuration that it was found by.
    pub scope: String,
}

/// Kinds of [`Subject`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// One process that is in no container and no cgroup that was named.
    #[default]
    Process,
    /// All processes of a container.
    Container,
    /// All processes of a cgroup that was named.
    Cgroup,
}

/// Memory of a subject at one moment. Sums over its processes, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryReading {
    /// Seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Resident anonymous memory (`RssAnon`).
    pub anonymous_bytes: u64,
    /// Swapped out (`VmSwap`).
    pub swap_bytes: u64,
    /// Resident memory (`VmRSS`).
    pub rss_bytes: u64,
    /// CPU time used so far, seconds; what ended workers have used is included.
    pub cpu_s: f64,
    /// How many processes.
    pub processes: u32,
    /// Of its memory cgroup, if it has one of its own.
    pub cgroup: Option<CgroupReading>,
}

impl MemoryReading {
    /// What growth is judged by: anonymous memory, wherever it lies now.
    pub fn private_bytes(&self) -> u64 {
        self.anonymous_bytes.saturating_add(self.swap_bytes)
    }
}

/// What a memory cgroup says, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupReading {
    /// Charged in all (`memory.current`, `memory.usage_in_bytes`).
    pub current_bytes: u64,
    /// Anonymous memory (`anon`; v1: `rss`).
    pub anonymous_bytes: u64,
    /// Page cache (`file`; v1: `cache`).
    pub file_bytes: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// What the kernel can take back before it kills: inactive page cache.
    pub reclaimable_bytes: u64,
    /// The least limit of it and those above it; `None`: unlimited.
    pub limit_bytes: Option<u64>,
    /// OOM kills in it so far.
    pub oom_kills: u64,
}

impl CgroupReading {
    /// What cannot be taken back, as a share of the limit; `None` without a limit.
    pub fn share_of_limit(&self) -> Option<f64> {
        let used = self.current_bytes.saturating_sub(self.reclaimable_bytes);
        self.limit_bytes.filter(|limit| *limit > 0).map(|limit| used as f64 / limit as f64)
    }
}

/// A stretch of tracing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionInfo {
    /// Its number in the history; never given twice.
    pub id: u64,
    /// [`Subject::key`] of what is traced.
    pub subject: String,
    /// How closely.
    pub detail: Detail,
    /// When it began, seconds since the Unix epoch.
    pub began_unix_s: f64,
    /// When it ended; `None`: it runs, or was cut off.
    pub ended_unix_s: Option<f64>,
    /// Why it began, in words.
    pub reason: String,
    /// Why it ended, in words.
    pub outcome: Option<String>,
    /// The slowdown that was predicted for it.
    pub predicted_slowdown: Option<f64>,
}

/// A place in the code and what is thought of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suspect {
    /// The site's identity.
    pub site: SiteKey,
    /// The line that people look at: `file.py:12 function`, else function and object.
    pub line: String,
    /// Its survivors now (or when last traced).
    pub survivors: Amount,
    /// The verdict.
    pub verdict: Verdict,
    /// The stack for people, innermost first, without plumbing; at most 32 lines.
    pub stack: Vec<String>,
}

/// Something that was decided, or that happened, and why: what the history answers "why was this not traced?" with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Decision {
    /// Seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// [`Subject::key`]; `None`: of the daemon itself.
    pub subject: Option<String>,
    /// One plain sentence.
    pub sentence: String,
}

/// What is known of one subject.
#[derive(Clone, Debug, Default)]
pub struct SubjectState {
    /// Who.
    pub subject: Subject,
    /// The latest reading.
    pub memory: MemoryReading,
    /// How its memory develops.
    pub trend: MemoryTrend,
    /// Its running trace.
    pub session: Option<SessionInfo>,
    /// The latest report of the running trace, else of the last one.
    pub report: Option<Arc<Report>>,
    /// The worst first.
    pub suspects: Vec<Suspect>,
    /// Growth that tracked memory does not explain.
    pub unexplained: Option<Unexplained>,
    /// The latest decision about it.
    pub decision: Option<Decision>,
}

/// What the daemon costs and has lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnState {
    /// CPU seconds of the daemon and of the processes that trace for it.
    pub cpu_s: f64,
    /// Resident bytes of all of them.
    pub rss_bytes: u64,
    /// Kernel memory of maps.
    pub map_bytes: u64,
    /// Seconds that the last look at all memory took.
    pub reading_s: f64,
    /// Processes that are watched.
    pub processes: u64,
    /// Records that could not be written to the history.
    pub history_lost: u64,
    /// Why it cannot be written now; `None`: it can.
    pub history_error: Option<String>,
    /// Alerts raised, delivered, given up, by sink.
    pub alerts: Vec<SinkState>,
    /// Events that traces know they have lost.
    pub lost_events: u64,
    /// Subjects that were left out because there are too many.
    pub subjects_left_out: u64,
}

/// How a sink of alerts fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkState {
    /// Its name in the configuration.
    pub name: String,
    /// Delivered.
    pub delivered: u64,
    /// Given up after all attempts, or for want of room.
    pub lost: u64,
    /// Waiting.
    pub waiting: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// Everything at one moment. A new one replaces the old at every tick; nobody changes one.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// When, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// When the daemon started.
    pub started_unix_s: f64,
    /// Between two looks at memory, seconds.
    pub interval_s: f64,
    /// Who is watched.
    pub subjects: Vec<SubjectState>,
    /// What people were told lately, the latest first; see [`crate::alert::Rules::recent`].
    pub alerts: Vec<Arc<Alert>>,
    /// The daemon itself.
    pub own: OwnState,
}

/// Where the latest [`State`] is found by whoever shows it.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<Mutex<Arc<State>>>);

impl Published {
    /// The latest.
    pub fn get(&self) -> Arc<State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces it.
    pub fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }
}

impl fmt::Display for SubjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::Cgroup => "cgroup",
        })
    }
}
