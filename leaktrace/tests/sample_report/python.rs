//! A Python worker made by hand: Python and native frames mixed, an interpreter that was redirected, files that need to be
//! told apart.

use leaktrace::report::model::{
    Change, Frame, FrameKind, Growth, ProcessReport, PythonReport, Recycled, SiteReport,
};

use super::{MIB, amount, native};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
const SPEED: &str = "/srv/shop/venv/lib/python3.11/site-packages/timing/_speed.so";
const FLASK: &str = "/srv/shop/venv/lib/python3.11/site-packages/flask/app.py";

/// A worker whose request handler keeps one timing a request: a list that grows, a float each, and what an extension holds.
pub fn worker() -> ProcessReport {
    ProcessReport {
        namespace_pids: Vec::new(),
        container: None,
        late_s: None,
        pid: 78,
        serial: 2,
        name: "my; worker".into(),
        command: vec!["python3".into(), "worker.py".into()],
        ended: Some("killed by SIGKILL".into()),
        rss_bytes: Some(50 * MIB),
        rss_at_attach_bytes: None,
        live: amount(437_232, 8_402),
        survivors: amount(437_232, 8_402),
        allocated: amount(1_437_232, 28_402),
        survivors_change: Change { bytes: -1_000, blocks: -4 },
        growth: None,
        application_root: Some("/srv/shop".into()),
        python: Some(interpreter()),
        sites: vec![extension(), floats(), decoded(), storage(), nowhere()],
    }
}

/// As Debian 12 has it, redirected.
pub fn interpreter() -> PythonReport {
    PythonReport {
        version: "3.11.2".into(),
        allocator: "pymalloc".into(),
        redirected: true,
        inlined_unseen: false,
        free_lists_closed: true,
        tracked_blocks: 8_402,
        freed_from_before: 12,
        counted_blocks: Some(258_390),
        counted_at_attach: Some(250_000),
    }
}

fn site(stack_id: u64, domain: &str, bytes: u64, blocks: u64, frames: Vec<Frame>) -> SiteReport {
    SiteReport {
        stack_id,
        domain: domain.into(),
        live: amount(bytes, blocks),
        survivors: amount(bytes, blocks),
        allocated: amount(bytes, blocks),
        frames,
        ..SiteReport::default()
    }
}

/// What a C extension allocates for a Python line.
fn extension() -> SiteReport {
    let mut frames = vec![native("speed_push", SPEED, 0x2100, Some(("/build/timing/_speed.c", 77)), false)];
    frames.extend(called_by_record());
    site(0x11, "malloc", 204_800, 100, frames)
}

/// The stack of a float that the recording line makes.
pub fn recording() -> Vec<Frame> {
    let mut frames = vec![native("PyFloat_FromDouble", LIBRARY, 0x12_0000, None, false)];
    frames.extend(called_by_record());
    frames
}

/// Floats that the same line makes.
fn floats() -> SiteReport {
    let growth = Growth { bytes_per_hour: 1.6 * MIB as f64, observed_s: 2_490.0, steady_s: 2_460.0 };
    let frames = recording();
    SiteReport {
        survivors_change: Change { bytes: 120_000, blocks: 5_000 },
        growth: Some(growth),
        ..site(0x12, "py", 192_000, 8_000, frames)
    }
}

/// Dictionaries, which may have changed hands, on a line of the standard library that shares its name with one of the
/// application's.
fn decoded() -> SiteReport {
    let frames = vec![
        native("new_dict", LIBRARY, 0x13_0000, None, false),
        python("JSONDecoder.raw_decode", "/usr/lib/python3.11/json/decoder.py", 353),
        evaluator(),
        python("parse", "/srv/shop/json/decoder.py", 12),
        evaluator(),
    ];
    SiteReport {
        recycled: Some(Recycled { examined: 100, holding: 37 }),
        ..site(0x13, "py", 32_000, 200, frames)
    }
}

/// The storage of the list, where a method calls back into Python code without a file.
fn storage() -> SiteReport {
    let frames = vec![
        native("list_resize", LIBRARY, 0x14_0000, None, false),
        python("<lambda>", "<string>", 1),
        evaluator(),
        python("serve", "/srv/shop/worker.py", 9),
        evaluator(),
    ];
    site(0x14, "py", 8_232, 2, frames)
}

/// A stack that never arrived.
fn nowhere() -> SiteReport {
    site(0x15, "py", 200, 100, Vec::new())
}

/// From the recording line outwards, as the interpreter's own functions lie between Python's.
fn called_by_record() -> Vec<Frame> {
    vec![
        python("Metrics.record", "/srv/shop/app/metrics.py", 128),
        evaluator(),
        python("predict", "/srv/shop/app/views.py", 57),
        evaluator(),
        python("Flask.dispatch_request", FLASK, 1_488),
        evaluator(),
        native("Py_BytesMain", LIBRARY, 0x20_0000, None, false),
        native("main", "/usr/bin/python3.11", 0x1100, None, false),
        native("__libc_start_call_main", "/lib/libc.so.6", 0x2_7000, None, false),
        native("_start", "/usr/bin/python3.11", 0x1000, None, false),
    ]
}

fn evaluator() -> Frame {
    native("_PyEval_EvalFrameDefault", LIBRARY, 0x9_9000, None, false)
}

fn python(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        kind: FrameKind::Python,
        function: Some(function.into()),
        file: Some(file.into()),
        line: Some(line),
        // Code objects move; the line says it all.
        address: 0x7f00_0000_1000 + u64::from(line) * 0x100,
        ..Frame::default()
    }
}
