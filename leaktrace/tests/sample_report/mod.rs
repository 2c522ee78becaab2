//! Reports made by hand, with every field set to something that can be told apart in the output.
#![allow(dead_code, reason = "each test program that includes this uses some of them")]

pub mod containers;
mod python;

use std::collections::BTreeMap;

use leaktrace::report::model::{
    AgeClass, Amount, Change, Frame, FrameKind, Fullness, Growth, Loss, ProcessReport, Reason, Report,
    SiteReport, Truth,
};

const MIB: u64 = 1024 * 1024;

/// One native process with three sites: a leak, a cache that stopped growing, and one without survivors.
pub fn normal() -> Report {
    Report {
        leaktrace_version: "0.1.0".into(),
        kernel: "6.18.0".into(),
        sequence: 9,
        reason: Reason::Interval,
        started_unix_s: 1_700_000_000.25,
        at_unix_s: 1_700_000_090.5,
        elapsed_s: 2_490.25,
        interval_s: 10.0,
        min_age_s: 30.0,
        top: 10,
        processes: vec![service()],
        truth: truth(),
        ..Report::default()
    }
}

/// The same, with a Python worker that has ended, room for two sites only, and events lost.
pub fn several() -> Report {
    let mut report = normal();
    report.top = 2;
    report.sequence = 10;
    report.reason = Reason::ProcessEnded;
    report.processes.push(python::worker());
    report.truth.lost = vec![Loss { cause: "no per-thread state".into(), events: 3, bytes: None }];
    report.truth.blind_windows =
        vec!["2 s after dlopen of libextra.so (its allocator was hooked then)".into()];
    report.truth.notes = vec!["worker: PID 78 ended before its last stacks were named.".into()];
    report
}

/// A report in which the live map is full.
pub fn live_map_full() -> Report {
    let mut report = normal();
    let cause = Loss::LIVE_MAP_FULL.into();
    report.reason = Reason::Final("interrupted".into());
    report.truth.lost = vec![Loss { cause, events: 12_345, bytes: Some(4 * MIB) }];
    report.truth.live_map = Fullness { used: 200_000, capacity: 200_000, full_since_s: Some(125.5) };
    report
}

/// Nothing survives, after `elapsed_s` of tracing, with this much allocated and live.
pub fn empty(elapsed_s: f64, allocated: Amount, live: Amount) -> Report {
    let mut report = normal();
    report.elapsed_s = elapsed_s;
    report.processes = vec![ProcessReport {
        pid: 77,
        serial: 1,
        name: "service".into(),
        allocated,
        live,
        ..ProcessReport::default()
    }];
    report
}

/// Short for [`Amount`].
pub fn amount(bytes: u64, blocks: u64) -> Amount {
    Amount { bytes, blocks }
}

fn service() -> ProcessReport {
    ProcessReport {
        namespace_pids: Vec::new(),
        container: None,
        late_s: None,
        application_root: None,
        python: None,
        pid: 77,
        serial: 1,
        name: "service".into(),
        command: vec!["/usr/bin/service".into(), "--port".into(), "80".into()],
        ended: None,
        rss_bytes: Some(120 * MIB + 300_000),
        rss_at_attach_bytes: Some(116 * MIB),
        live: amount(5 * MIB, 180_000),
        survivors: amount(4_041_312 + 65_536, 168_388 + 1),
        allocated: amount(900 * MIB, 40_000_000),
        survivors_change: Change { bytes: 4_800, blocks: 200 },
        growth: Some(Growth { bytes_per_hour: 1.6 * MIB as f64, observed_s: 2_490.0, steady_s: 2_460.0 }),
        sites: vec![leak(), cache(), busy()],
    }
}

fn leak() -> SiteReport {
    SiteReport {
        recycled: None,
        stack_id: 0xfeed_0000_0000_0001,
        domain: "malloc".into(),
        label: None,
        live: amount(4_051_392, 168_808),
        survivors: amount(4_041_312, 168_388),
        allocated: amount(4_051_416, 168_809),
        survivors_change: Change { bytes: 4_800, blocks: 200 },
        growth: Some(Growth { bytes_per_hour: 1.6 * MIB as f64, observed_s: 2_490.0, steady_s: 2_460.0 }),
        ages: vec![
            AgeClass { youngest_s: 0.0, oldest_s: 30.0, live: amount(10_080, 420) },
            AgeClass { youngest_s: 30.0, oldest_s: 2_490.0, live: amount(4_041_312, 168_388) },
        ],
        frames: vec![
            native("xmalloc", "/usr/bin/service", 0x1100, Some(("/src/lib/alloc.c", 12)), false),
            native("append", "/usr/bin/service", 0x1250, Some(("/src/include/list.h", 40)), true),
            native("record", "/usr/bin/service", 0x1250, Some(("/src/log.c", 128)), false),
            native("get", "/usr/bin/service", 0x1300, Some(("/src/predict.c", 57)), false),
            native("dispatch(std::string const&)", "/usr/lib/libserver.so.3", 0x4_2000, None, false),
            Frame { function: None, ..native("", "/usr/lib/libserver.so.3", 0x4_3210, None, false) },
            native("main", "/usr/bin/service", 0x1000, Some(("/src/main.c", 9)), false),
            native("__libc_start_call_main", "/lib/libc.so.6", 0x2_7000, None, false),
            native("_start", "/usr/bin/service", 0x0f00, None, false),
        ],
        truncated: None,
    }
}

fn cache() -> SiteReport {
    SiteReport {
        stack_id: 0x2,
        domain: "mmap".into(),
        label: Some("thread stack".into()),
        live: amount(65_536, 1),
        survivors: amount(65_536, 1),
        allocated: amount(131_072, 2),
        growth: Some(Growth { bytes_per_hour: 0.0, observed_s: 2_490.0, steady_s: 0.0 }),
        ages: vec![AgeClass { youngest_s: 2_000.0, oldest_s: 2_490.0, live: amount(65_536, 1) }],
        frames: vec![native("pthread_create", "/lib/libc.so.6", 0x8_9000, None, false)],
        truncated: Some("no frame pointer in the calling code".into()),
        ..SiteReport::default()
    }
}

fn busy() -> SiteReport {
    SiteReport {
        stack_id: 0x3,
        domain: "malloc".into(),
        live: amount(1_125_952, 11_191),
        allocated: amount(939_524_096, 39_831_189),
        frames: vec![native("parse", "/usr/bin/service", 0x1400, None, false)],
        ..SiteReport::default()
    }
}

fn native(function: &str, object: &str, offset: u64, line: Option<(&str, u32)>, inlined: bool) -> Frame {
    // Each object is mapped at its own place; its text begins one page later in memory than in the file.
    let base = 0x5500_0000_0000 + (object.len() as u64) * 0x1_0000_0000;
    Frame {
        kind: FrameKind::Native,
        function: Some(function.into()),
        object: Some(object.into()),
        build_id: Some(format!("{:040x}", object.len())),
        file_offset: Some(offset),
        virtual_offset: Some(offset + 0x1000),
        address: base + offset + 0x1000,
        file: line.map(|(file, _)| file.into()),
        line: line.map(|(_, line)| line),
        inlined,
        interpreter: object.contains("/libpython") || object.starts_with("/usr/bin/python"),
    }
}

fn truth() -> Truth {
    Truth {
        unmatched_frees: 1_204,
        truncated_stacks: BTreeMap::from([("no frame pointer in the calling code".into(), 1)]),
        stacks: 120,
        unresolved_frames: 1,
        frames: 431,
        live_map: Fullness { used: 180_000, capacity: 10_485_760, full_since_s: None },
        rows: Fullness { used: 120, capacity: 65_536, full_since_s: None },
        before_attach_bytes: Some(116 * MIB),
        tracked_bytes: 5 * MIB,
        rss_bytes: Some(120 * MIB + 300_000),
        anonymous_bytes: Some(98 * MIB),
        counters: BTreeMap::from([("allocations".into(), 40_000_000), ("frees".into(), 39_820_000)]),
        own_cpu_s: 1.25,
        own_rss_bytes: 30 * MIB,
        map_bytes: 700 * MIB,
        ..Truth::default()
    }
}
