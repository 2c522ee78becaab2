//! Processes, sites and frames as `docs/json.md` describes them.

use serde::Serialize;

use super::Hex;
use crate::report::model::{
    AgeClass, Amount, Change, Frame, FrameKind, Growth, ProcessReport, PythonReport, Recycled, SiteReport,
};
use crate::target::Container;

#[derive(Serialize)]
pub(super) struct WireAmount {
    bytes: u64,
    blocks: u64,
}

#[derive(Serialize)]
pub(super) struct WireChange {
    bytes: i64,
    blocks: i64,
}

#[derive(Serialize)]
pub(super) struct WireGrowth {
    bytes_per_hour: f64,
    observed_s: f64,
    steady_s: f64,
}

#[derive(Serialize)]
pub(super) struct WireProcess<'a> {
    pid: u32,
    serial: u32,
    namespace_pids: &'a [u32],
    container: Option<WireContainer<'a>>,
    late_s: Option<f64>,
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
    application_root: Option<&'a str>,
    python: Option<WirePython<'a>>,
    sites: Vec<WireSite<'a>>,
}

#[derive(Serialize)]
pub(super) struct WireContainer<'a> {
    id: &'a str,
    name: Option<&'a str>,
    runtime: Option<&'a str>,
    pod: Option<&'a str>,
}

#[derive(Serialize)]
struct WirePython<'a> {
    version: &'a str,
    allocator: &'a str,
    redirected: bool,
    inlined_unseen: bool,
    free_lists_closed: bool,
    tracked_blocks: u64,
    freed_from_before: u64,
    counted_blocks: Option<u64>,
    counted_at_attach: Option<u64>,
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
    recycled: Option<WireRecycled>,
}

#[derive(Serialize)]
pub(super) struct WireRecycled {
    examined: u64,
    holding: u64,
}

#[derive(Serialize)]
pub(super) struct WireAge {
    youngest_s: f64,
    oldest_s: f64,
    live: WireAmount,
}

#[derive(Serialize)]
pub(super) struct WireFrame<'a> {
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
    interpreter: bool,
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
            namespace_pids: &process.namespace_pids,
            container: process.container.as_ref().map(Into::into),
            late_s: process.late_s,
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
            application_root: process.application_root.as_deref(),
            python: process.python.as_ref().map(Into::into),
            sites: process.sites.iter().map(Into::into).collect(),
        }
    }
}

impl<'a> From<&'a Container> for WireContainer<'a> {
    fn from(container: &'a Container) -> Self {
        Self {
            id: &container.id,
            name: container.name.as_deref(),
            runtime: container.runtime.as_deref(),
            pod: container.pod.as_deref(),
        }
    }
}

impl<'a> From<&'a PythonReport> for WirePython<'a> {
    fn from(python: &'a PythonReport) -> Self {
        Self {
            version: &python.version,
            allocator: &python.allocator,
            redirected: python.redirected,
            inlined_unseen: python.inlined_unseen,
            free_lists_closed: python.free_lists_closed,
            tracked_blocks: python.tracked_blocks,
            freed_from_before: python.freed_from_before,
            counted_blocks: python.counted_blocks,
            counted_at_attach: python.counted_at_attach,
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
            recycled: site.recycled.map(Into::into),
        }
    }
}

impl From<Recycled> for WireRecycled {
    fn from(Recycled { examined, holding }: Recycled) -> Self {
        Self { examined, holding }
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
            interpreter: frame.interpreter,
        }
    }
}
