//! What reports cost with few and with many live blocks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::statistics::number;
use crate::tracer::{self, Tracer};
use crate::workload::Workload;

/// Live blocks at which reports are measured.
const LIVE_BLOCKS: &[u64] = &[10_000, 1_000_000, 10_000_000];

/// Reports that are averaged over, one a second.
const REPORTS: u32 = 10;

/// Measures and prints.
pub fn run(bench: &Bench) -> Result<()> {
    println!("\nreports, by number of live blocks (one report a second, {REPORTS} of them)");
    println!(
        "{:>12} {:>22} {:>16} {:>16}",
        "live blocks", "daemon CPU per report", "daemon memory", "kernel maps"
    );
    for blocks in LIVE_BLOCKS {
        report_cost(bench, *blocks)?;
    }
    Ok(())
}

fn report_cost(bench: &Bench, blocks: u64) -> Result<()> {
    let reports = bench.directory.join(format!("reports-{blocks}.jsonl"));
    let options = ["--interval", "1s", "--format", "json", "--max-live-blocks", "12000000"];
    let mut workload = Workload::start()?;
    let tracer = Tracer::leaktrace(&bench.binary, workload.pid(), &options, &reports)?;
    workload.live(blocks, 24)?;
    let before = tracer::cpu_seconds(tracer.pid())?;
    std::thread::sleep(Duration::from_secs(1) * REPORTS);
    let spent = tracer::cpu_seconds(tracer.pid())? - before;
    let resident = tracer::resident_bytes(tracer.pid())?;
    tracer.finish()?;
    let maps = map_bytes(&reports, blocks)?;
    println!(
        "{:>12} {:>19} ms {:>12} KiB {:>12} KiB",
        blocks,
        number(spent * 1000.0 / f64::from(REPORTS)),
        resident / 1024,
        maps / 1024
    );
    Ok(())
}

/// The memory of the kernel's maps, as the last report states it; that report must have seen all the blocks.
fn map_bytes(reports: &Path, blocks: u64) -> Result<u64> {
    let text = fs::read_to_string(reports).with_context(|| format!("cannot read {}", reports.display()))?;
    let report: serde_json::Value =
        serde_json::from_str(text.lines().last().context("leaktrace printed no report")?)
            .context("the last report is no JSON")?;
    let seen = report["truth"]["live_map"]["used"].as_u64().unwrap_or(0);
    if seen < blocks {
        bail!("{blocks} blocks are live but leaktrace has {seen}: what was measured is not what was meant");
    }
    report["truth"]["map_bytes"].as_u64().context("the last report does not say how large the maps are")
}
