//! Promise: a process with hundreds of objects is reported whole from the first report on, and soon. How soon is
//! printed, with tables made anew and with tables from the disk cache; it is not asserted.

mod harness;

use harness::{Expectation, Outcome, Outcomes, Process, Report, Target, Tracer, chains::Chains};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

/// Libraries besides those that every process has.
const LIBRARIES: usize = 200;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/many_objects_library.c")
}

/// A directory with all libraries, made unless they are there and younger than their source.
fn libraries() -> Outcomes<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("many_objects");
    let modified = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let complete = directory.join("complete");
    let made = modified(&complete).is_ok_and(|made| modified(&source()).is_ok_and(|source| source < made));
    if !made {
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        compile_all(&directory)?;
        fs::write(&complete, "").map_err(|e| format!("{}: {e}", complete.display()))?;
    }
    Ok(directory)
}

fn compile_all(directory: &Path) -> Outcomes<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                number if number < LIBRARIES => compile(directory, number)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a compiling thread panicked")?)
    })
}

fn compile(directory: &Path, number: usize) -> Outcomes<()> {
    let output = Command::new("cc")
        .args(["-O2", "-g", "-fomit-frame-pointer", "-fno-builtin", "-fPIC", "-shared", "-Wl,--build-id"])
        .arg(format!("-DNUMBER={number}"))
        .arg("-o")
        .arg(directory.join(format!("{number}.so")))
        .arg(source())
        .output()
        .map_err(|e| format!("cc: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Moments of one run, seconds since 1970.
struct Moments {
    start: f64,
    tracing: f64,
    first_report: f64,
}

/// Traces a process with all the libraries from the outside.
fn traced(libraries: &Path, cache: &Path) -> Outcomes<(Expectation, Outcome, Moments)> {
    let mut target = Target::prepare("many_objects")?.arg(libraries).arg(LIBRARIES.to_string()).start()?;
    let start = now();
    let mut tracer =
        Tracer::of(target.pid()).args(&["--interval", "100ms", "--unwind-cache"]).arg(cache).start()?;
    tracer.await_tracing()?;
    let tracing = now();
    target.ask("go")?;
    // The same stacks again once a report has been made.
    thread::sleep(std::time::Duration::from_millis(500));
    let expectation = target.ask("go")?;
    let outcome = tracer.interrupt_and_finish()?;
    outcome.final_report()?;
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    let first = reports.iter().find(|report| has_blocks(report)).ok_or("no report has any block")?;
    let moments = Moments { start, tracing, first_report: first.at_unix_s };
    Ok((expectation, outcome, moments))
}

fn has_blocks(report: &Report) -> bool {
    report.processes.iter().any(|process| process.live.blocks > 0)
}

/// How many stacks of a report are whole, and of how many.
fn whole_stacks(process: &Process) -> (usize, usize) {
    (process.sites.iter().filter(|site| site.truncated.is_none()).count(), process.sites.len())
}

fn print(what: &str, outcome: &Outcome, moments: &Moments) -> Outcomes<()> {
    let reports = outcome.reports.as_ref().map_err(Clone::clone)?;
    let first = reports.iter().find(|report| has_blocks(report)).ok_or("no report has any block")?;
    println!(
        "{what}: {:.2} s from start to tracing, {:.2} s from there to the first report with blocks, {:.2} s in all",
        moments.tracing - moments.start,
        moments.first_report - moments.tracing,
        moments.first_report - moments.start
    );
    let report = outcome.final_report()?;
    println!(
        "{what}: {} tables built, {} from disk",
        report.counter("unwind_tables_built")?,
        report.counter("unwind_tables_from_disk")?
    );
    println!(
        "{what}: (whole stacks, stacks) in the first report {:?}, in the last {:?}",
        whole_stacks(first.only_process()?),
        whole_stacks(report.only_process()?)
    );
    Ok(())
}

/// Twice with the same cache directory: the first run fills it.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_hundred_libraries_are_reported_whole() -> Outcomes<()> {
    let libraries = libraries()?;
    let cache = tempfile::tempdir().map_err(|e| e.to_string())?;
    for what in ["tables made anew", "tables from the disk cache"] {
        let (expectation, outcome, moments) = traced(&libraries, cache.path())?;
        print(what, &outcome, &moments)?;
        Chains::of(&expectation)?.check_whole(&outcome)?;
    }
    let cached = fs::read_dir(cache.path()).map_err(|e| e.to_string())?.count();
    assert!(cached >= LIBRARIES, "only {cached} tables were kept");
    Ok(())
}
