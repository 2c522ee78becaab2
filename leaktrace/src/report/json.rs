//! JSON: everything the report knows, for programs. The wire structs below are the contract that `docs/json.md`
//! describes; they live apart from the model so that the model can change without breaking a reader.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::model::{
    AgeClass, Amount, Change, Frame, FrameKind, Fullness, GroupBy, Growth, Loss, ProcessReport, Reason,
    Report, SiteReport, SortKey, Truth,
};

/// Version of the shape. Goes up when a field changes its meaning or goes away; new fields do not raise it.
pub const SCHEMA: u32 = 1;

/// Writes the report as one line (standard output: one object per report).
pub fn write_line(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &WireReport::from(report))?;
    writeln!(out)
}

/// Writes the report indented (files).
pub fn write_pretty(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &WireReport::from(report))?;
    writeln!(out)
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
    processes: Vec<WireProcess<'a>>,
    truth: WireTruth<'a>,
}

#[derive(Serialize)]
struct WireReason<'a> {
    kind: &'static str,
    text: Option<&'a str>,
}

#[derive(Serialize)]
struct WireAmount {
    bytes: u64,
    blocks: u64,
}

#[derive(Serialize)]
struct WireChange {
    bytes: i64,
    blocks: i64,
}

#[derive(Serialize)]
struct WireGrowth {
    bytes_per_hour: f64,
    observed_s: f64,
    steady_s: f64,
}

#[derive(Serialize)]
struct WireProcess<'a> {
    pid: u32,
    serial: u32,
    name: &'a str,
    command: &'a [String],
    ended: Option<&'a str>,
    rss_bytes: Option<u64>,
    rss_at_attach_bytes: Option<u64>,
    live: WireAmount,
    survivors: WireAmount,
    allocated: WireAmount,
    survivors_change: WireChange,
    growth: Option<WireGrowth>,
    sites: Vec<WireSite<'a>>,
}

#[derive(Serialize)]
struct WireSite<'a> {
    stack_id: Hex,
    domain: &'a str,
    label: Option<&'a str>,
    live: WireAmount,
    survivors: WireAmount,
    allocated: WireAmount,
    survivors_change: WireChange,
    growth: Option<WireGrowth>,
    ages: Vec<WireAge>,
    frames: Vec<WireFrame<'a>>,
    truncated: Option<&'a str>,
}

#[derive(Serialize)]
struct WireAge {
    youngest_s: f64,
    oldest_s: f64,
    live: WireAmount,
}

#[derive(Serialize)]
struct WireFrame<'a> {
    kind: &'static str,
    function: Option<&'a str>,
    object: Option<&'a str>,
    build_id: Option<&'a str>,
    file_offset: Option<Hex>,
    virtual_offset: Option<Hex>,
    address: Hex,
    file: Option<&'a str>,
    line: Option<u32>,
    inlined: bool,
}

#[derive(Serialize)]
struct WireTruth<'a> {
    line: String,
    lost: Vec<WireLoss<'a>>,
    unmatched_frees: u64,
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
            processes: report.processes.iter().map(Into::into).collect(),
            truth: (&report.truth).into(),
        }
    }
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

impl From<Amount> for WireAmount {
    fn from(Amount { bytes, blocks }: Amount) -> Self {
        Self { bytes, blocks }
    }
}

impl From<Change> for WireChange {
    fn from(Change { bytes, blocks }: Change) -> Self {
        Self { bytes, blocks }
    }
}

impl From<Growth> for WireGrowth {
    fn from(Growth { bytes_per_hour, observed_s, steady_s }: Growth) -> Self {
        Self { bytes_per_hour, observed_s, steady_s }
    }
}

impl<'a> From<&'a ProcessReport> for WireProcess<'a> {
    fn from(process: &'a ProcessReport) -> Self {
        Self {
            pid: process.pid,
            serial: process.serial,
            name: &process.name,
            command: &process.command,
            ended: process.ended.as_deref(),
            rss_bytes: process.rss_bytes,
            rss_at_attach_bytes: process.rss_at_attach_bytes,
            live: process.live.into(),
            survivors: process.survivors.into(),
            allocated: process.allocated.into(),
            survivors_change: process.survivors_change.into(),
            growth: process.growth.map(Into::into),
            sites: process.sites.iter().map(Into::into).collect(),
        }
    }
}

impl<'a> From<&'a SiteReport> for WireSite<'a> {
    fn from(site: &'a SiteReport) -> Self {
        Self {
            stack_id: Hex(site.stack_id),
            domain: &site.domain,
            label: site.label.as_deref(),
            live: site.live.into(),
            survivors: site.survivors.into(),
            allocated: site.allocated.into(),
            survivors_change: site.survivors_change.into(),
            growth: site.growth.map(Into::into),
            ages: site.ages.iter().map(Into::into).collect(),
            frames: site.frames.iter().map(Into::into).collect(),
            truncated: site.truncated.as_deref(),
        }
    }
}

impl From<&AgeClass> for WireAge {
    fn from(age: &AgeClass) -> Self {
        Self { youngest_s: age.youngest_s, oldest_s: age.oldest_s, live: age.live.into() }
    }
}

impl<'a> From<&'a Frame> for WireFrame<'a> {
    fn from(frame: &'a Frame) -> Self {
        Self {
            kind: match frame.kind {
                FrameKind::Native => "native",
                FrameKind::Python => "python",
                FrameKind::Other => "other",
            },
            function: frame.function.as_deref(),
            object: frame.object.as_deref(),
            build_id: frame.build_id.as_deref(),
            file_offset: frame.file_offset.map(Hex),
            virtual_offset: frame.virtual_offset.map(Hex),
            address: Hex(frame.address),
            file: frame.file.as_deref(),
            line: frame.line,
            inlined: frame.inlined,
        }
    }
}

impl<'a> From<&'a Truth> for WireTruth<'a> {
    fn from(truth: &'a Truth) -> Self {
        Self {
            line: truth.line(),
            lost: truth.lost.iter().map(Into::into).collect(),
            unmatched_frees: truth.unmatched_frees,
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
