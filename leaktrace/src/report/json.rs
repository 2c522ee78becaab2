//! JSON: everything the report knows, for programs. The wire structs below are the contract that `docs/json.md`
//! describes; they live apart from the model so that the model can change without breaking a reader.

mod group;
pub(crate) mod harmless;
mod process;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use self::group::WireGroup;
use self::process::{WireAmount, WireProcess};
use super::merge::units;
use super::model::{
    CapHit, Detail, EndedProcesses, Fullness, Gaps, GroupBy, Loss, MergeBy, Newcomers, Reason, Report,
    SortKey, Truth,
};

/// Version of the shape. Goes up when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA: u32 = 1;

/// Writes the report as one line (standard output: one object per report).
pub fn write_line(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    harmless::write_compact(&WireReport::from(report), out)?;
    writeln!(out)
}

/// Writes the report indented (files).
pub fn write_pretty(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    harmless::write_pretty(&WireReport::from(report), out)?;
    writeln!(out)
}

/// Writes another value indented, with every string harmless to a terminal, as they are in reports.
pub fn write_harmless(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    harmless::write_pretty(value, out)
}

/// A number that JSON readers would round (they hold 53 bits), as `"0x..."`.
struct Hex(u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

#[derive(Serialize)]
struct WireReport<'a> {
    schema: u32,
    leaktrace_version: &'a str,
    kernel: &'a str,
    sequence: u64,
    reason: WireReason<'a>,
    started_unix_s: f64,
    at_unix_s: f64,
    elapsed_s: f64,
    interval_s: f64,
    min_age_s: f64,
    top: usize,
    sort: &'static str,
    group_by: &'static str,
    merge: &'static str,
    detail: &'static str,
    processes: Vec<WireProcess<'a>>,
    groups: Vec<WireGroup<'a>>,
    ended: WireEnded,
    truth: WireTruth<'a>,
}

#[derive(Serialize)]
struct WireReason<'a> {
    kind: &'static str,
    text: Option<&'a str>,
}

#[derive(Serialize)]
struct WireEnded {
    processes: u64,
    allocated: WireAmount,
    live_at_end: WireAmount,
}

#[derive(Serialize)]
struct WireTruth<'a> {
    line: String,
    lost: Vec<WireLoss<'a>>,
    caps: Vec<WireCap<'a>>,
    unmatched_frees: u64,
    inherited_frees: u64,
    newcomers: WireNewcomers<'a>,
    truncated_stacks: &'a BTreeMap<String, u64>,
    stacks: u64,
    unresolved_frames: u64,
    frames: u64,
    live_map: WireFullness,
    rows: WireFullness,
    blind_windows: &'a [String],
    before_attach_bytes: Option<u64>,
    tracked_bytes: u64,
    rss_bytes: Option<u64>,
    anonymous_bytes: Option<u64>,
    notes: &'a [String],
    counters: &'a BTreeMap<String, u64>,
    own_cpu_s: f64,
    own_rss_bytes: u64,
    map_bytes: u64,
}

#[derive(Serialize)]
struct WireLoss<'a> {
    cause: &'a str,
    events: u64,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct WireCap<'a> {
    cap: &'a str,
    refused: u64,
    consequence: &'a str,
}

#[derive(Serialize)]
struct WireNewcomers<'a> {
    entered: u64,
    from_birth: u64,
    short_lived: u64,
    refused: u64,
    last_refusal: Option<&'a str>,
    waiting: u64,
    gaps: Option<WireGaps>,
}

#[derive(Serialize)]
struct WireGaps {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Serialize)]
struct WireFullness {
    used: u64,
    capacity: u64,
    full_since_s: Option<f64>,
}

impl<'a> From<&'a Report> for WireReport<'a> {
    fn from(report: &'a Report) -> Self {
        Self {
            schema: SCHEMA,
            leaktrace_version: &report.leaktrace_version,
            kernel: &report.kernel,
            sequence: report.sequence,
            reason: (&report.reason).into(),
            started_unix_s: report.started_unix_s,
            at_unix_s: report.at_unix_s,
            elapsed_s: report.elapsed_s,
            interval_s: report.interval_s,
            min_age_s: report.min_age_s,
            top: report.top,
            sort: match report.sort {
                SortKey::Bytes => "bytes",
                SortKey::Count => "count",
                SortKey::Growth => "growth",
            },
            group_by: match report.group_by {
                GroupBy::Stack => "stack",
                GroupBy::Function => "function",
                GroupBy::Line => "line",
            },
            detail: match report.detail {
                Detail::Exact => "exact",
                Detail::Light => "light",
            },
            merge: match report.merge {
                MergeBy::Process => "process",
                MergeBy::Container => "container",
                MergeBy::All => "all",
            },
            processes: report.processes.iter().map(Into::into).collect(),
            groups: groups(report),
            ended: report.ended.into(),
            truth: WireTruth::new(&report.truth, report.truth_line()),
        }
    }
}

/// What is seen as one; what stays by itself is among the processes.
fn groups(report: &Report) -> Vec<WireGroup<'_>> {
    let units = units(report);
    units.iter().filter(|unit| unit.is_merged()).map(|unit| WireGroup::new(unit, report.sort)).collect()
}

impl<'a> From<&'a Reason> for WireReason<'a> {
    fn from(reason: &'a Reason) -> Self {
        match reason {
            Reason::Interval => Self { kind: "interval", text: None },
            Reason::Requested => Self { kind: "requested", text: None },
            Reason::ProcessEnded => Self { kind: "process_ended", text: None },
            Reason::Final(text) => Self { kind: "final", text: Some(text) },
        }
    }
}

impl<'a> WireTruth<'a> {
    fn new(truth: &'a Truth, line: String) -> Self {
        Self {
            line,
            lost: truth.lost.iter().map(Into::into).collect(),
            caps: truth.caps.iter().map(Into::into).collect(),
            unmatched_frees: truth.unmatched_frees,
            inherited_frees: truth.inherited_frees,
            newcomers: (&truth.newcomers).into(),
            truncated_stacks: &truth.truncated_stacks,
            stacks: truth.stacks,
            unresolved_frames: truth.unresolved_frames,
            frames: truth.frames,
            live_map: (&truth.live_map).into(),
            rows: (&truth.rows).into(),
            blind_windows: &truth.blind_windows,
            before_attach_bytes: truth.before_attach_bytes,
            tracked_bytes: truth.tracked_bytes,
            rss_bytes: truth.rss_bytes,
            anonymous_bytes: truth.anonymous_bytes,
            notes: &truth.notes,
            counters: &truth.counters,
            own_cpu_s: truth.own_cpu_s,
            own_rss_bytes: truth.own_rss_bytes,
            map_bytes: truth.map_bytes,
        }
    }
}

impl<'a> From<&'a Loss> for WireLoss<'a> {
    fn from(loss: &'a Loss) -> Self {
        Self { cause: &loss.cause, events: loss.events, bytes: loss.bytes }
    }
}

impl From<&Fullness> for WireFullness {
    fn from(table: &Fullness) -> Self {
        Self { used: table.used, capacity: table.capacity, full_since_s: table.full_since_s }
    }
}

impl From<EndedProcesses> for WireEnded {
    fn from(ended: EndedProcesses) -> Self {
        Self {
            processes: ended.processes,
            allocated: ended.allocated.into(),
            live_at_end: ended.live_at_end.into(),
        }
    }
}

impl<'a> From<&'a CapHit> for WireCap<'a> {
    fn from(hit: &'a CapHit) -> Self {
        Self { cap: &hit.cap, refused: hit.refused, consequence: &hit.consequence }
    }
}

impl<'a> From<&'a Newcomers> for WireNewcomers<'a> {
    fn from(newcomers: &'a Newcomers) -> Self {
        Self {
            entered: newcomers.entered,
            from_birth: newcomers.from_birth,
            short_lived: newcomers.short_lived,
            refused: newcomers.refused,
            last_refusal: newcomers.last_refusal.as_deref(),
            waiting: newcomers.waiting,
            gaps: newcomers.gaps.map(Into::into),
        }
    }
}

impl From<Gaps> for WireGaps {
    fn from(Gaps { p50_ms, p99_ms, max_ms }: Gaps) -> Self {
        Self { p50_ms, p99_ms, max_ms }
    }
}
