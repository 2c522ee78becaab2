//! The part of the JSON report that tests read, as documented in `docs/json.md`.

use super::Outcomes;
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _};

/// One JSON object.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Version of the shape.
    pub schema: u32,
    /// Why it was made.
    pub reason: Reason,
    /// When, seconds since 1970.
    pub at_unix_s: f64,
    /// Process images.
    pub processes: Vec<Process>,
    /// Those that have ended and are not listed any more.
    #[serde(default)]
    pub ended: Ended,
    /// What is not known.
    pub truth: Truth,
}

/// Processes that are only counted.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Ended {
    /// How many.
    pub processes: i64,
    /// What they had allocated.
    pub allocated: Amount,
    /// What of it was live when they ended.
    pub live_at_end: Amount,
}

/// Processes that were made while tracing.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Newcomers {
    /// Traced.
    pub entered: i64,
    /// Of these, from their first allocation on.
    pub from_birth: i64,
    /// Gone before.
    pub short_lived: i64,
    /// Times until they were traced.
    pub gaps: Option<Gaps>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Gaps {
    /// Half of them at most.
    pub p50_ms: f64,
    /// 99 of 100 at most.
    pub p99_ms: f64,
    /// All of them at most.
    pub max_ms: f64,
}

/// Why a report was made.
#[derive(Clone, Debug, Deserialize)]
pub struct Reason {
    /// `interval`, `requested`, `process_ended`, `final`.
    pub kind: String,
    /// In words.
    #[serde(default)]
    pub text: Option<String>,
}

/// Bytes and blocks. Signed, so that a negative number would be seen instead of refused.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Amount {
    /// Bytes.
    pub bytes: i64,
    /// Blocks.
    pub blocks: i64,
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, blocks: self.blocks + other.blocks }
    }
}

/// One process image.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// PID.
    pub pid: u32,
    /// Serial.
    pub serial: u32,
    /// PIDs in its PID namespaces, the outermost first.
    #[serde(default)]
    pub namespace_pids: Vec<u32>,
    /// The container it runs in.
    #[serde(default)]
    pub container: Option<Container>,
    /// Short name.
    pub name: String,
    /// How it ended.
    pub ended: Option<String>,
    /// Live.
    pub live: Amount,
    /// Survivors.
    pub survivors: Amount,
    /// Ever allocated.
    pub allocated: Amount,
    /// How long it had lived when it was traced, if it was made while tracing; seconds.
    #[serde(default)]
    pub late_s: Option<f64>,
    /// Its interpreter.
    #[serde(default)]
    pub python: Option<Python>,
    /// Allocation sites.
    pub sites: Vec<Site>,
}

/// What is known of the container that a process runs in.
#[derive(Clone, Debug, Deserialize)]
pub struct Container {
    /// As its runtime knows it.
    pub id: String,
    /// UID of its Kubernetes pod.
    pub pod: Option<String>,
}

/// What is known of a process's Python interpreter.
#[derive(Clone, Debug, Deserialize)]
pub struct Python {
    /// Version.
    pub version: String,
    /// Whether the allocator table was redirected.
    pub redirected: bool,
    /// Whether the compiler has inlined allocator calls that nothing shows.
    pub inlined_unseen: bool,
    /// Whether free lists were kept closed.
    pub free_lists_closed: bool,
    /// Live small blocks that are tracked.
    pub tracked_blocks: i64,
    /// Frees of blocks born before tracing.
    pub freed_from_before: i64,
    /// Blocks by the interpreter's own count, now.
    pub counted_blocks: Option<i64>,
    /// The same when tracing began.
    pub counted_at_attach: Option<i64>,
}

/// One allocation site.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    /// Identity of the stack.
    pub stack_id: String,
    /// Allocator.
    pub domain: String,
    /// Kind of mapping.
    pub label: Option<String>,
    /// Live.
    pub live: Amount,
    /// Survivors.
    pub survivors: Amount,
    /// Ever allocated.
    pub allocated: Amount,
    /// Live blocks by age.
    #[serde(default)]
    pub ages: Vec<Age>,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why the stack ends early.
    pub truncated: Option<String>,
}

/// One age class.
#[derive(Clone, Debug, Deserialize)]
pub struct Age {
    /// Every block is at least that old, seconds.
    pub youngest_s: f64,
    /// How much.
    pub live: Amount,
}

/// One frame.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    /// `native`, `python`, `other`.
    #[serde(default)]
    pub kind: String,
    /// Function.
    pub function: Option<String>,
    /// Object as the target sees it.
    #[serde(default)]
    pub object: Option<String>,
    /// Source file.
    #[serde(default)]
    pub file: Option<String>,
    /// Source line.
    #[serde(default)]
    pub line: Option<u32>,
    /// Inlined into the next frame.
    #[serde(default)]
    pub inlined: bool,
}

impl Frame {
    /// Whether it is this function of Python's; at that line, if one is given.
    pub fn is_python(&self, function: &str, line: Option<u32>) -> bool {
        self.kind == "python"
            && self.function.as_deref() == Some(function)
            && (line.is_none() || self.line == line)
    }

    /// Whether it is code of the C library or of the dynamic linker.
    pub fn is_of_the_c_library(&self) -> bool {
        let name = self.object.as_deref().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        ["libc.", "libc-", "ld-"].iter().any(|beginning| name.starts_with(beginning))
    }
}

/// The truth line.
#[derive(Clone, Debug, Deserialize)]
pub struct Truth {
    /// For people.
    pub line: String,
    /// Losses by cause.
    pub lost: Vec<Loss>,
    /// Times in which nothing was seen, in words.
    pub blind_windows: Vec<String>,
    /// Stacks that end early, by reason.
    pub truncated_stacks: BTreeMap<String, i64>,
    /// Frees of unknown blocks.
    pub unmatched_frees: i64,
    /// Frees by forked processes of their parents' blocks.
    #[serde(default)]
    pub inherited_frees: i64,
    /// Processes that were made while tracing.
    #[serde(default)]
    pub newcomers: Newcomers,
    /// Fullness.
    pub live_map: Fullness,
    /// Anything else, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Kernel-side counters.
    pub counters: BTreeMap<String, i64>,
    /// Resident bytes of the tracer itself.
    #[serde(default)]
    pub own_rss_bytes: i64,
    /// Processor seconds that the tracer itself has used.
    #[serde(default)]
    pub own_cpu_s: f64,
    /// Bytes of its maps.
    #[serde(default)]
    pub map_bytes: i64,
}

/// Known losses of one cause.
#[derive(Clone, Debug, Deserialize)]
pub struct Loss {
    /// In words.
    pub cause: String,
    /// How many.
    pub events: i64,
    /// Their bytes.
    pub bytes: Option<i64>,
}

/// Fullness of a table.
#[derive(Clone, Debug, Deserialize)]
pub struct Fullness {
    /// Entries in use.
    pub used: i64,
    /// Cap.
    pub capacity: i64,
    /// Since when it refuses entries.
    pub full_since_s: Option<f64>,
}

impl Report {
    /// The one process of the report.
    pub fn only_process(&self) -> Outcomes<&Process> {
        match &self.processes[..] {
            [process] => Ok(process),
            others => Err(format!("expected one process, found {}: {others:#?}", others.len())),
        }
    }

    /// A kernel-side counter; absent is an error, because a misspelt name must not pass as 0.
    pub fn counter(&self, name: &str) -> Outcomes<i64> {
        self.truth.counters.get(name).copied().ok_or_else(|| format!("no counter {name}"))
    }
}

impl Site {
    /// Its Python frames, innermost first.
    pub fn python_frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(|frame| frame.kind == "python")
    }

    /// The function that called the allocator.
    pub fn innermost(&self) -> &str {
        self.frames.first().and_then(|frame| frame.function.as_deref()).unwrap_or("?")
    }
}

impl Process {
    /// What every stack with a Python frame of this function, at that line, holds and has ever allocated.
    pub fn amounts_below(&self, function: &str, line: Option<u32>) -> (Amount, Amount) {
        let below = |site: &&Site| site.frames.iter().any(|frame| frame.is_python(function, line));
        let sites = self.sites.iter().filter(below);
        sites.fold(Default::default(), |(live, ever), site| (live + site.live, ever + site.allocated))
    }

    /// What the stacks whose innermost Python frame is in this line of this file hold.
    pub fn live_in_line(&self, file: &str, line: u32) -> Amount {
        let here = |frame: &Frame| {
            frame.line == Some(line) && frame.file.as_deref().is_some_and(|path| path.ends_with(file))
        };
        let sites = self.sites.iter().filter(|site| site.python_frames().next().is_some_and(here));
        sites.fold(Amount::default(), |live, site| live + site.live)
    }

    /// The sites whose innermost function is `function`.
    pub fn sites_of(&self, function: &str) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.innermost() == function)
    }

    /// Live bytes and blocks of every stack whose innermost function is `function`.
    pub fn live_of(&self, function: &str) -> (i64, i64) {
        self.sites_of(function).fold((0, 0), |sum, site| (sum.0 + site.live.bytes, sum.1 + site.live.blocks))
    }

    /// Live bytes and blocks of all sites.
    pub fn sum_of_sites(&self) -> (i64, i64) {
        self.sites.iter().fold((0, 0), |sum, site| (sum.0 + site.live.bytes, sum.1 + site.live.blocks))
    }

    /// What is mapped without any access: named among the sites, but no memory of the process.
    pub fn sum_of_reservations(&self) -> (i64, i64) {
        let reserved = self.sites.iter().filter(|site| site.label.as_deref() == Some("reserved, no access"));
        reserved.fold((0, 0), |sum, site| (sum.0 + site.live.bytes, sum.1 + site.live.blocks))
    }

    /// One line per site, for failures; the first fifty.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for site in self.sites.iter().take(50) {
            let functions: Vec<&str> =
                site.frames.iter().take(4).map(|frame| frame.function.as_deref().unwrap_or("?")).collect();
            let _ = writeln!(
                text,
                "  {} {} B in {}: {}{}",
                site.domain,
                site.live.bytes,
                site.live.blocks,
                functions.join(" < "),
                site.truncated.as_deref().map(|why| format!(" ({why})")).unwrap_or_default()
            );
        }
        text
    }
}
