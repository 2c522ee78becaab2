//! Processes in containers made by hand: the workers of one service, which leak on one line, a database beside it, and a process
//! of the host.

use leaktrace::report::model::{
    AgeClass, CapHit, Change, EndedProcesses, Frame, Gaps, Growth, MergeBy, Newcomers, ProcessReport, Report,
    SiteReport,
};
use leaktrace::target::Container;

use super::{MIB, amount, native, normal, python};

/// Four workers of a service in one container, one of which has ended, a database in another, and one process of the host.
pub fn containers(merge: MergeBy) -> Report {
    let mut report = normal();
    (report.merge, report.top) = (merge, 4);
    let workers = [(4711, 7, 900), (4712, 8, 800), (4713, 9, 300), (4714, 10, 20)];
    report.processes = workers.map(|(pid, inner, requests)| worker(pid, inner, requests)).into();
    report.processes[3].ended = Some("exited with status 0".into());
    report.processes.push(database());
    report.processes.push(agent());
    report.processes.sort_by_key(|process| std::cmp::Reverse(process.survivors.bytes));
    report.ended = EndedProcesses {
        processes: 31,
        allocated: amount(90 * MIB, 1_000_000),
        live_at_end: amount(2 * MIB, 41_000),
    };
    report.truth.newcomers = Newcomers {
        entered: 34,
        from_birth: 4,
        short_lived: 12,
        refused: 1,
        last_refusal: Some("process 4801 allocates with nothing that is hooked".into()),
        waiting: 1,
        gaps: Some(Gaps { p50_ms: 104.0, p99_ms: 117.5, max_ms: 131.0 }),
    };
    report.truth.inherited_frees = 5_120;
    report
}

/// Many processes of one program, each with a little of the same leak.
pub fn crowd(processes: u32, merge: MergeBy) -> Report {
    let mut report = containers(merge);
    report.processes =
        (0..processes).map(|index| worker(10_000 + index, 2 + index, 2_000 - u64::from(index))).collect();
    report.truth.notes = report
        .processes
        .iter()
        .map(|process| format!("process {}: its libz.so.1 was replaced.", process.pid))
        .collect();
    report.truth.caps = vec![CapHit {
        cap: "table of processes".into(),
        refused: 12,
        consequence: "processes made by traced ones found no room and are not traced".into(),
    }];
    report
}

fn web() -> Container {
    Container {
        id: "0123456789abcdef".repeat(4),
        name: Some("web".into()),
        runtime: Some("docker".into()),
        pod: Some("3f1c2a90-8a41-4f0e-9d7e-0c6d3b5a7e11".into()),
    }
}

/// One that keeps a timing of 24 bytes a request, and one buffer.
fn worker(pid: u32, inner: u32, requests: u64) -> ProcessReport {
    let timings = SiteReport {
        stack_id: u64::from(pid) << 32,
        domain: "py".into(),
        live: amount(requests * 24, requests),
        survivors: amount(requests * 24, requests),
        allocated: amount(requests * 24, requests),
        survivors_change: Change { bytes: 240, blocks: 10 },
        growth: Some(Growth { bytes_per_hour: requests as f64 * 1024.0, observed_s: 600.0, steady_s: 500.0 }),
        ages: vec![
            AgeClass { youngest_s: 30.0, oldest_s: 90.0, live: amount(240, 10) },
            AgeClass { youngest_s: 90.0, oldest_s: 600.0, live: amount(requests * 24 - 240, requests - 10) },
        ],
        frames: moved(python::recording(), pid),
        ..SiteReport::default()
    };
    let buffer = SiteReport {
        stack_id: 9,
        domain: "malloc".into(),
        live: amount(4_096, 1),
        survivors: amount(4_096, 1),
        allocated: amount(8_192, 2),
        frames: moved(vec![native("deflateInit2_", "/lib/libz.so.1", 0x3000, None, false)], pid),
        ..SiteReport::default()
    };
    let sum = amount(requests * 24 + 4_096, requests + 1);
    ProcessReport {
        pid,
        serial: pid - 4_700,
        namespace_pids: vec![pid, inner],
        container: Some(web()),
        late_s: Some(0.104),
        name: "gunicorn".into(),
        rss_bytes: Some(40 * MIB),
        rss_at_attach_bytes: Some(39 * MIB),
        live: sum,
        survivors: sum,
        allocated: sum.plus(amount(4_096, 1)),
        survivors_change: Change { bytes: 240, blocks: 10 },
        growth: timings.growth,
        application_root: Some("/srv/shop".into()),
        python: Some(python::interpreter()),
        sites: vec![timings, buffer],
        ..ProcessReport::default()
    }
}

/// Every process has its objects at other addresses.
fn moved(frames: Vec<Frame>, pid: u32) -> Vec<Frame> {
    let moved = |frame: Frame| Frame { address: frame.address + u64::from(pid) * 0x1000_0000, ..frame };
    frames.into_iter().map(moved).collect()
}

fn database() -> ProcessReport {
    let cache = SiteReport {
        stack_id: 0x21,
        domain: "malloc".into(),
        live: amount(MIB, 16),
        survivors: amount(MIB, 16),
        allocated: amount(MIB, 16),
        frames: vec![native("cache_insert", "/usr/bin/database", 0x2100, Some(("/src/cache.c", 81)), false)],
        ..SiteReport::default()
    };
    ProcessReport {
        pid: 5_001,
        serial: 90,
        namespace_pids: vec![5_001, 1],
        container: Some(Container { id: "fedcba9876543210".repeat(4), ..Container::default() }),
        name: "database".into(),
        live: cache.live,
        survivors: cache.survivors,
        allocated: cache.allocated,
        sites: vec![cache],
        ..ProcessReport::default()
    }
}

fn agent() -> ProcessReport {
    ProcessReport {
        pid: 612,
        serial: 91,
        namespace_pids: vec![612],
        name: "agent".into(),
        rss_bytes: Some(8 * MIB),
        live: amount(100, 2),
        allocated: amount(900, 20),
        ..ProcessReport::default()
    }
}
