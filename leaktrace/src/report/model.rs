//! What a report says, before any format: plain values, bytes and seconds, nothing that knows how it is printed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::target::Container;

/// Everything known at one moment. Made every interval and once at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// leaktrace's own version.
    pub leaktrace_version: String,
    /// Kernel release of the host.
    pub kernel: String,
    /// Counts reports from 1.
    pub sequence: u64,
    /// Why this report was made.
    pub reason: Reason,
    /// When tracing began, seconds since the Unix epoch.
    pub started_unix_s: f64,
    /// When this report was made, seconds since the Unix epoch.
    pub at_unix_s: f64,
    /// Seconds of tracing (monotonic clock).
    pub elapsed_s: f64,
    /// Report interval in seconds.
    pub interval_s: f64,
    /// Age from which a live block is a survivor, in seconds.
    pub min_age_s: f64,
    /// How many sites the text format shows.
    pub top: usize,
    /// Order of sites.
    pub sort: SortKey,
    /// What the text format puts together.
    pub group_by: GroupBy,
    /// How processes were put together.
    pub merge: MergeBy,
    /// How closely allocations were looked at.
    pub detail: Detail,
    /// One entry per process image, the largest survivors first: those that run, and those of note that have ended since
    /// the last report.
    pub processes: Vec<ProcessReport>,
    /// All those that have ended and are not among `processes`. Together they are everything that was traced.
    pub ended: EndedProcesses,
    /// What this report does not know.
    pub truth: Truth,
}

impl Report {
    /// Where the applications of its processes lie, each place once.
    pub fn application_roots(&self) -> Vec<&str> {
        let roots = self.processes.iter().filter_map(|process| process.application_root.as_deref());
        roots.collect::<BTreeSet<&str>>().into_iter().collect()
    }
}

/// Why a report was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The interval passed.
    #[default]
    Interval,
    /// SIGUSR1 asked for it.
    Requested,
    /// A process image ended (exec or exit) while tracing goes on.
    ProcessEnded,
    /// Tracing ended; says why, in words for people ("interrupted", "target exited with status 0" ...).
    Final(String),
}

/// Order of sites in a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortKey {
    /// Survivors' bytes.
    #[default]
    Bytes,
    /// Survivors' blocks.
    Count,
    /// Growth of survivors' bytes.
    Growth,
}

/// What is put together in a text report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// Same whole stack.
    #[default]
    Stack,
    /// Same innermost function outside the allocator.
    Function,
    /// Same innermost source line outside the allocator.
    Line,
}

/// Processes that came into scope while tracing, in sum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Newcomers {
    /// Traced, from some time after they were made or from their first allocation on.
    pub entered: u64,
    /// Of these, traced from their first allocation on: there is no gap.
    pub from_birth: u64,
    /// Gone before they were traced: what they allocated is not known, and went with them.
    pub short_lived: u64,
    /// Could not be traced.
    pub refused: u64,
    /// Why, for the last of these.
    pub last_refusal: Option<String>,
    /// Made, and not old enough to be traced yet.
    pub waiting: u64,
    /// Times between being made and being traced, of the latest 4,096 that have such a gap; `None`: there were none.
    pub gaps: Option<Gaps>,
}

/// How long newcomers went untraced, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gaps {
    /// Half of them at most that long.
    pub p50_ms: f64,
    /// 99 of 100 at most that long.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Process images that were traced, have ended, and are not listed any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndedProcesses {
    /// How many.
    pub processes: u64,
    /// What they had allocated while traced.
    pub allocated: Amount,
    /// What of it they had not given back when they ended. The kernel has it now.
    pub live_at_end: Amount,
}

/// How processes are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeBy {
    /// Each process by itself.
    #[default]
    Process,
    /// The processes of a container together.
    Container,
    /// All together.
    All,
}

/// How closely allocations are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// Every call.
    #[default]
    Exact,
    /// Large blocks, and the pools that small blocks are cut from, one block a pool. Nothing is written to a target.
    Light,
}

/// Bytes and blocks that belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amount {
    /// Bytes that callers asked for.
    pub bytes: u64,
    /// Blocks.
    pub blocks: u64,
}

impl Amount {
    /// Whether there is nothing.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// The sum, at most `u64::MAX`.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            blocks: self.blocks.saturating_add(other.blocks),
        }
    }

    /// Bytes per block, rounded down; `None` without blocks.
    pub fn average_bytes(self) -> Option<u64> {
        self.bytes.checked_div(self.blocks)
    }
}

/// A change of [`Amount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Bytes, negative when memory was given back.
    pub bytes: i64,
    /// Blocks, likewise.
    pub blocks: i64,
}

impl Change {
    /// The sum, within the limits of `i64`.
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            blocks: self.blocks.saturating_add(other.blocks),
        }
    }
}

/// How survivors' bytes developed while traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Growth {
    /// Slope of a line fitted to the survivors' bytes, bytes per hour; if they grow, at most that of their later half.
    pub bytes_per_hour: f64,
    /// Seconds that the fit covers.
    pub observed_s: f64,
    /// For how many seconds, up to now, survivors have grown without falling back. 0: they do not grow.
    pub steady_s: f64,
}

impl Growth {
    /// The growth of a sum: slopes add up, the times are those of the part that grows fastest. A part that does not grow
    /// must not make the sum look unsteady, nor one that began a moment ago.
    pub fn plus(self, other: Self) -> Self {
        let fastest = if other.bytes_per_hour > self.bytes_per_hour { other } else { self };
        Self { bytes_per_hour: self.bytes_per_hour + other.bytes_per_hour, ..fastest }
    }
}

/// One process image: from attach (or exec) to exec or exit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessReport {
    /// PID as the host sees it.
    pub pid: u32,
    /// Distinguishes images that had the same PID.
    pub serial: u32,
    /// PID in each PID namespace from the host's to its own; just the one if it runs in the host's.
    pub namespace_pids: Vec<u32>,
    /// The container it runs in.
    pub container: Option<Container>,
    /// Seconds between its being made (fork or exec) and its being traced; `None` if it was there before, or was traced from
    /// its first allocation on.
    pub late_s: Option<f64>,
    /// Short name (`comm`).
    pub name: String,
    /// Command line.
    pub command: Vec<String>,
    /// `None` while it runs; else how it ended ("exited with status 1", "killed by SIGKILL", "exec'd /bin/x").
    pub ended: Option<String>,
    /// Resident set size now (last reading if it ended), bytes.
    pub rss_bytes: Option<u64>,
    /// Resident set size when tracing began, bytes.
    pub rss_at_attach_bytes: Option<u64>,
    /// Everything live that was allocated while traced.
    pub live: Amount,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Everything ever allocated while traced.
    pub allocated: Amount,
    /// Change of survivors since the last report.
    pub survivors_change: Change,
    /// Growth of all survivors together.
    pub growth: Option<Growth>,
    /// Where the program's own code lies, as the target sees it: source paths below it are shown relative to it.
    pub application_root: Option<String>,
    /// Its Python interpreter, if it has one that leaktrace knows.
    pub python: Option<PythonReport>,
    /// Every site with live blocks, sorted by [`Report::sort`]; not cut to [`Report::top`].
    pub sites: Vec<SiteReport>,
}

/// What is known of a process's Python interpreter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PythonReport {
    /// Version as the runtime says it ("3.11.2").
    pub version: String,
    /// What handed out small blocks, in words ("pymalloc", "malloc", "pymalloc, traced by tracemalloc").
    pub allocator: String,
    /// Whether the allocator table was redirected, so that inlined calls are seen as well.
    pub redirected: bool,
    /// Whether the interpreter inlines allocations that pass no probe: code compares with the allocator's address, and
    /// the table is not redirected.
    pub inlined_unseen: bool,
    /// Whether free lists are kept closed, so that no block changes hands unseen.
    pub free_lists_closed: bool,
    /// Live blocks of at most 512 bytes that leaktrace tracks (born since attaching).
    pub tracked_blocks: u64,
    /// Frees of Python blocks that were born before attaching.
    pub freed_from_before: u64,
    /// Blocks that the interpreter itself counts (`sys.getallocatedblocks()`), now.
    pub counted_blocks: Option<u64>,
    /// The same when tracing began.
    pub counted_at_attach: Option<u64>,
}

/// Blocks of a site that now hold objects of a kind that CPython hands out again from a free list, without asking its
/// allocator: another line may have been given them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recycled {
    /// Live blocks looked at.
    pub examined: u64,
    /// How many of them hold such an object.
    pub holding: u64,
}

/// One allocation site of one process image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteReport {
    /// Identity of the stack, stable within one run.
    pub stack_id: u64,
    /// Which allocator ("malloc", "mmap" ...).
    pub domain: String,
    /// What kind of mapping, where that matters ("thread stack", "reserved, no access").
    pub label: Option<String>,
    /// Live blocks.
    pub live: Amount,
    /// Live blocks older than the minimum age.
    pub survivors: Amount,
    /// Ever allocated here.
    pub allocated: Amount,
    /// Change of survivors since the last report.
    pub survivors_change: Change,
    /// Growth, once there are enough readings.
    pub growth: Option<Growth>,
    /// Live blocks by age, youngest first.
    pub ages: Vec<AgeClass>,
    /// Innermost first; inlined calls appear as frames of their own, before the function they were inlined into.
    pub frames: Vec<Frame>,
    /// Why the stack ends early, if it does.
    pub truncated: Option<String>,
    /// Python blocks that may have changed hands unseen; `None` if not looked at, or if none can have.
    pub recycled: Option<Recycled>,
}

/// Live blocks born in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgeClass {
    /// Every block here is at least that old, seconds.
    pub youngest_s: f64,
    /// No block here is older than that, seconds.
    pub oldest_s: f64,
    /// How much.
    pub live: Amount,
}

/// What language a frame is written in; decides its colour and how it is spelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Machine code.
    #[default]
    Native,
    /// A Python function.
    Python,
    /// Kernel or other.
    Other,
}

/// One entry of a stack, resolved as far as that was possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// Language.
    pub kind: FrameKind,
    /// Function, demangled.
    pub function: Option<String>,
    /// Path of the object as the target sees it.
    pub object: Option<String>,
    /// GNU build ID of the object, lower-case hexadecimal.
    pub build_id: Option<String>,
    /// Offset of the instruction in the object's file.
    pub file_offset: Option<u64>,
    /// Offset of the instruction in the object's own virtual addresses (what `addr2line` wants).
    pub virtual_offset: Option<u64>,
    /// Absolute address in the process; the call's return address.
    pub address: u64,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
    /// Whether this function was inlined into the next frame.
    pub inlined: bool,
    /// Whether this is native code of a Python interpreter itself, which says little beside the Python frames.
    pub interpreter: bool,
}

impl Frame {
    /// Name of the code that a signal handler returns to, in every format but text, which says what it means.
    pub const SIGNAL_RETURN: &str = "__restore_rt";
}

/// The truth line: what this report does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Truth {
    /// Events known not to be recorded, by cause.
    pub lost: Vec<Loss>,
    /// Frees of blocks that were never seen (born before tracing, unless something was lost).
    pub unmatched_frees: u64,
    /// Frees by forked processes of blocks that their parents had allocated: neither leaks nor losses.
    pub inherited_frees: u64,
    /// Processes that came into scope while tracing.
    pub newcomers: Newcomers,
    /// Stacks with live blocks that end early, by reason.
    pub truncated_stacks: BTreeMap<String, u64>,
    /// Stacks with live blocks.
    pub stacks: u64,
    /// Distinct frames without a name.
    pub unresolved_frames: u64,
    /// Distinct frames seen.
    pub frames: u64,
    /// Fullness of the live map.
    pub live_map: Fullness,
    /// Fullness of the site table.
    pub rows: Fullness,
    /// Other caps that were hit.
    pub caps: Vec<CapHit>,
    /// Times in which allocations were not seen, in words.
    pub blind_windows: Vec<String>,
    /// Resident bytes of the processes when tracing began: memory this report cannot explain.
    pub before_attach_bytes: Option<u64>,
    /// Live bytes that are tracked.
    pub tracked_bytes: u64,
    /// Resident bytes of the processes now.
    pub rss_bytes: Option<u64>,
    /// Bytes of the processes' `[heap]` and anonymous mappings now.
    pub anonymous_bytes: Option<u64>,
    /// Anything else that must be said, one sentence each.
    pub notes: Vec<String>,
    /// Every kernel-side counter by name (verbose text, JSON).
    pub counters: BTreeMap<String, u64>,
    /// CPU seconds that the daemon itself has used.
    pub own_cpu_s: f64,
    /// Resident bytes of the daemon itself.
    pub own_rss_bytes: u64,
    /// Kernel memory of the maps, bytes.
    pub map_bytes: u64,
}

impl Truth {
    /// Events of all causes, at most `u64::MAX`.
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().map(|loss| loss.events).fold(0, u64::saturating_add)
    }
}

/// A cap that was hit: from then on the report is less complete, or less exact, than it says it is otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapHit {
    /// What is capped, in words ("table of processes").
    pub cap: String,
    /// How often it refused.
    pub refused: u64,
    /// What was refused and what follows, in words that go behind that number ("processes are not traced").
    pub consequence: String,
}

/// Events known to be lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// In words ("live map full").
    pub cause: String,
    /// How many.
    pub events: u64,
    /// Bytes they stood for, where known.
    pub bytes: Option<u64>,
}

impl Loss {
    /// The cause given to allocations that the live map refused; the truth line puts it beside the map's fullness.
    pub const LIVE_MAP_FULL: &str = "live map full";
}

/// How full a capped table is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fullness {
    /// Entries in use.
    pub used: u64,
    /// Cap.
    pub capacity: u64,
    /// Since when it has refused entries, seconds of tracing; `None` if it never did.
    pub full_since_s: Option<f64>,
}
