//! Measures how long unwind tables take, made and from the disk cache, each in a workshop of one thread as tracing uses
//! it: `table_times ROUNDS FILE ...`. Prints one line of JSON for each file; times are seconds, one of each kind a
//! round, reading and digesting the object included. What reads them is `cargo xtask bench --only tables`.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use leaktrace::unwind::{Cache, Order, Origin, Outcome, Ready, Source, Workshop};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().and_then(|text| text.parse::<usize>().ok()).context("how many rounds?")?;
    for file in arguments {
        println!("{}", measure(&file, rounds)?);
    }
    Ok(())
}

fn measure(file: &str, rounds: usize) -> Result<serde_json::Value> {
    let mut built_times = Vec::new();
    let mut disk_times = Vec::new();
    let mut last = None;
    for _ in 0..rounds.max(1) {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("unwind");
        let built = made(file, Cache::open(&path, Cache::DEFAULT_BYTES)?, Origin::Built)?;
        let loaded = made(file, Cache::open(&path, Cache::DEFAULT_BYTES)?, Origin::Disk)?;
        built_times.push(built.took.as_secs_f64());
        disk_times.push(loaded.took.as_secs_f64());
        last = Some(loaded);
    }
    let table = last.context("no round")?.table;
    let statistics = &table.statistics;
    Ok(serde_json::json!({
        "file": file,
        "frame_bytes": statistics.frame_bytes,
        "functions": statistics.functions,
        "malformed": statistics.malformed,
        "unsupported": statistics.unsupported,
        "beyond_caps": statistics.beyond_caps,
        "rows": table.rows.len(),
        "pages": table.pages.len(),
        "rules": table.rules.len(),
        "bytes": table.bytes(),
        "built_seconds": built_times,
        "disk_seconds": disk_times,
    }))
}

/// Orders a file's table of a new workshop, and waits until it has been saved too.
fn made(file: &str, cache: Cache, expected: Origin) -> Result<Ready> {
    let workshop = Workshop::new(1, Some(cache))?;
    let source = Source::File(File::open(file).with_context(|| format!("cannot open {file}"))?);
    let ready = match outcome(&workshop, file, source)? {
        Outcome::Ready(ready) if ready.origin == expected => ready,
        other => bail!("{file}: expected a table, {expected:?}, and got {other:?}"),
    };
    // The thread saves a table before it comes to the next order.
    outcome(&workshop, "nothing", Source::Image(Vec::new()))?;
    Ok(ready)
}

fn outcome(workshop: &Workshop, name: &str, source: Source) -> Result<Outcome> {
    if workshop.submit(Order { ticket: 0, source, name: name.into() }).is_err() {
        bail!("the workshop takes no order");
    }
    let finished = workshop.finished(Duration::from_secs(600));
    Ok(finished.with_context(|| format!("{name}: no table within 10 minutes"))?.outcome)
}
