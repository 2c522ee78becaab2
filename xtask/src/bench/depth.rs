//! What one allocation and its free cost by depth of the stack: with the walk along frame pointers, with the walk by
//! unwind tables, and beside bcc's memleak. What a frame costs is the slope between two depths.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::chain::{self, Frames};
use super::{Bench, WINDOW, middle};
use crate::statistics::{number, with_range};
use crate::tracer::{self, Tracer};
use crate::workload::Workload;

/// Functions between the thread's loop and the allocator.
const DEPTHS: [usize; 3] = [5, 20, 60];

/// Distinct stacks of all depths together, 32,000 each, must have a row.
const OPTIONS: [&str; 6] = ["--interval", "10s", "--format", "json", "--max-sites", "150000"];

/// Orders to go once through all distinct stacks: more than the first time, because the ring buffer that carries new
/// stacks to the daemon does not hold that many.
const WARM_UP: usize = 3;

/// Stacks that may end early, of a thousand; more would make the walk look cheap.
const MOST_TRUNCATED: u64 = 10;

/// A program and the calls that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Calls {
    frames: Frames,
    /// `cached` or `cold`, as the program calls them.
    paths: &'static str,
}

const POINTERS: Calls = Calls { frames: Frames::Pointers, paths: "cached" };
const CACHED: Calls = Calls { frames: Frames::None, paths: "cached" };
const COLD: Calls = Calls { frames: Frames::None, paths: "cold" };

/// Who traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Walk {
    Untraced,
    FramePointers,
    Tables,
    Memleak,
}

/// What is measured, in the order of a round, and how it is called.
const CASES: &[(Calls, Walk, &str)] = &[
    (POINTERS, Walk::Untraced, "untraced, with frame pointers"),
    (CACHED, Walk::Untraced, "untraced, same path"),
    (COLD, Walk::Untraced, "untraced, cold paths"),
    (POINTERS, Walk::FramePointers, "leaktrace, frame pointers"),
    (POINTERS, Walk::Memleak, "bcc memleak (frame pointers)"),
    (CACHED, Walk::Tables, "leaktrace, tables, same path"),
    (COLD, Walk::Tables, "leaktrace, tables, cold paths"),
];

/// Nanoseconds per pair, one of each round.
type Measured = BTreeMap<(Calls, Walk, usize), Vec<f64>>;

/// Measures in rounds and prints the medians.
pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let _headers = tracer::memleak_headers()?;
    let mut programs = Programs::start()?;
    let mut measured = Measured::new();
    for round in 1..=rounds {
        println!("depth: round {round} of {rounds}");
        for walk in [Walk::Untraced, Walk::FramePointers, Walk::Memleak, Walk::Tables] {
            measure(bench, walk, &mut programs, &mut measured)?;
        }
    }
    print(&measured);
    Ok(())
}

/// The two programs under measurement.
struct Programs {
    pointers: Workload,
    none: Workload,
}

impl Programs {
    fn start() -> Result<Self> {
        let start = |frames| Workload::spawn(&chain::program(frames)?);
        Ok(Self { pointers: start(Frames::Pointers)?, none: start(Frames::None)? })
    }

    fn of(&mut self, frames: Frames) -> &mut Workload {
        match frames {
            Frames::Pointers => &mut self.pointers,
            Frames::None => &mut self.none,
        }
    }
}

/// One tracer of one round, at every depth.
fn measure(bench: &Bench, walk: Walk, programs: &mut Programs, measured: &mut Measured) -> Result<()> {
    let cases: Vec<Calls> = CASES.iter().filter(|(_, of, _)| *of == walk).map(|(calls, ..)| *calls).collect();
    let pid = |programs: &mut Programs| cases.first().map_or(0, |calls| programs.of(calls.frames).pid());
    let tracer = attach(bench, walk, pid(programs))?;
    for calls in cases {
        let program = programs.of(calls.frames);
        for depth in DEPTHS {
            if calls.paths == COLD.paths {
                go_through_all_stacks(program, depth)?;
            }
            let pairs = program.depth(depth, calls.paths, WINDOW)?;
            measured.entry((calls, walk, depth)).or_default().push(pairs.nanoseconds);
        }
    }
    if let Some(tracer) = tracer {
        tracer.finish()?;
    }
    match walk {
        Walk::Tables => check_stacks(&bench.directory.join(reports_of(walk))),
        // Along frame pointers every walk ends in the C library, which has none, where the thread starts.
        Walk::FramePointers | Walk::Untraced | Walk::Memleak => Ok(()),
    }
}

fn attach(bench: &Bench, walk: Walk, pid: u32) -> Result<Option<Tracer>> {
    let leaktrace = |unwind| {
        let options: Vec<&str> = OPTIONS.into_iter().chain(["--unwind", unwind]).collect();
        bench.leaktrace(pid, &options, reports_of(walk)).map(Some)
    };
    match walk {
        Walk::Untraced => Ok(None),
        Walk::FramePointers => leaktrace("frame-pointers"),
        Walk::Tables => leaktrace("tables"),
        Walk::Memleak => bench.memleak(pid).map(Some),
    }
}

fn reports_of(walk: Walk) -> &'static str {
    if walk == Walk::Tables { "depth-tables.jsonl" } else { "depth-frame-pointers.jsonl" }
}

fn go_through_all_stacks(program: &mut Workload, depth: usize) -> Result<()> {
    for _ in 0..WARM_UP {
        program.depth(depth, COLD.paths, Duration::ZERO)?;
    }
    Ok(())
}

/// A walk that gives up early is cheap: what was measured must have been whole stacks.
fn check_stacks(reports: &Path) -> Result<()> {
    let text = fs::read_to_string(reports).with_context(|| format!("cannot read {}", reports.display()))?;
    let last = text.lines().last().context("leaktrace printed no report")?;
    let report: Value = serde_json::from_str(last).context("the last report is no JSON")?;
    let counter = |name: &str| {
        let value = report["truth"]["counters"][name].as_u64();
        value.with_context(|| format!("the last report has no counter {name}"))
    };
    let (stacks, truncated) = (counter("stacks_sent")?, counter("stacks_truncated")?);
    if stacks == 0 || truncated * 1000 > stacks * MOST_TRUNCATED {
        bail!("{truncated} walks of {stacks} stacks ended early: they were not measured");
    }
    Ok(())
}

fn print(measured: &Measured) {
    let of = |calls, walk, depth| measured.get(&(calls, walk, depth)).map(Vec::as_slice).unwrap_or_default();
    println!("\na malloc+free pair by depth of the calls, ns: median (range) over the rounds");
    println!("  {:<32} {}", "", DEPTHS.map(|depth| format!("{:<24}", format!("depth {depth}"))).join(" "));
    for (calls, walk, name) in CASES {
        let figures = DEPTHS.map(|depth| format!("{:<24}", with_range(of(*calls, *walk, depth))));
        println!("  {name:<32} {}", figures.join(" "));
    }
    println!(
        "  cold paths: 160,000 return addresses in turn. Of a hundred, 91 are not in the walk's cache any more; the"
    );
    println!("  code, its rows and the rows of its sites are not in the processor's nearest caches either.");
    println!("\neach frame, ns: what is added between two depths, without what the calls themselves cost");
    for (calls, walk, name) in CASES.iter().filter(|(_, walk, _)| *walk != Walk::Untraced) {
        let added =
            DEPTHS.map(|depth| middle(of(*calls, *walk, depth)) - middle(of(*calls, Walk::Untraced, depth)));
        println!("  {name:<32} {}", slopes(added));
    }
    compare(|calls, walk, depth| middle(of(calls, walk, depth)));
}

/// The slopes between neighbouring depths.
fn slopes(added: [f64; 3]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "depths are small")]
    let slope =
        |from: usize, to: usize| (added[to] - added[from]) / (DEPTHS[to] as f64 - DEPTHS[from] as f64);
    let between = |from: usize, to: usize| {
        format!("{} from depth {} to {}", number(slope(from, to)), DEPTHS[from], DEPTHS[to])
    };
    [between(0, 1), between(1, 2)].join(", ")
}

/// A walk by tables at depth 20 beside memleak at its cheapest.
fn compare(of: impl Fn(Calls, Walk, usize) -> f64) {
    let memleak =
        DEPTHS.map(|depth| of(POINTERS, Walk::Memleak, depth)).into_iter().fold(f64::INFINITY, f64::min);
    for (calls, name) in [(CACHED, "same path"), (COLD, "cold paths")] {
        let tables = of(calls, Walk::Tables, 20);
        println!(
            "  a pair at depth 20 by tables, {name}: {:.2} of memleak's cheapest ({} ns of {} ns)",
            tables / memleak,
            number(tables),
            number(memleak)
        );
    }
}
