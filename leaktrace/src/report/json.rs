//! JSON: everything the report knows, for programs. The wire structs below are the contract that `docs/json.md`
//! describes; they live apart from the model so that the model can change without breaking a reader.

mod process;

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use self::process::WireProcess;
use super::model::{Detail, Fullness, GroupBy, Loss, Reason, Report, SortKey, Truth};

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
    detail: &'static str,
    processes: Vec<WireProcess<'a>>,
    truth: WireTruth<'a>,
}

#[derive(Serialize)]
struct WireReason<'a> {
    kind: &'static str,
    text: Option<&'a str>,
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
            detail: match report.detail {
                Detail::Exact => "exact",
                Detail::Light => "light",
            },
            processes: report.processes.iter().map(Into::into).collect(),
            truth: WireTruth::new(&report.truth, report.truth_line()),
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

impl<'a> WireTruth<'a> {
    fn new(truth: &'a Truth, line: String) -> Self {
        Self {
            line,
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
