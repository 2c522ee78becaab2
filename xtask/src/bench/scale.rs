//! What many processes in scope cost: attaching, tracing, detaching and memory, by their number.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use crate::statistics::number;
use crate::tracer::{self, Tracer};
use crate::workload::Workload;
use crate::{program, workspace};

/// Processes in scope.
const PROCESSES: [usize; 3] = [1, 50, 500];

/// Whose the probes are: decided by leaktrace, or always each process's own; and up to how many processes that is measured. The kernel
/// walks all links of a file for each that is closed: with 500 processes of their own links that takes it minutes.
const PLACEMENTS: [(&str, &[&str], usize); 2] =
    [("by itself", &[], 500), ("strict scope", &["--strict-scope"], 50)];

/// How long the daemon is watched while the processes are idle.
const WINDOW: Duration = Duration::from_secs(10);

/// Measures and prints.
pub fn run(bench: &Bench) -> Result<()> {
    println!("\nidle processes in scope (one report every 2 s)");
    println!(
        "{:>9} {:>13} {:>11} {:>11} {:>16} {:>14} {:>12}",
        "processes", "placement", "attach", "detach", "daemon CPU", "daemon memory", "kernel maps"
    );
    for count in PROCESSES {
        for (name, options, _) in PLACEMENTS.into_iter().filter(|(.., most)| count <= *most) {
            scale(bench, count, name, options)?;
        }
    }
    Ok(())
}

fn scale(bench: &Bench, count: usize, name: &str, options: &[&str]) -> Result<()> {
    let source = workspace::root().join("leaktrace/tests/targets/crowd.c");
    let built = program::compile(&source, &workspace::cache("bench")?)?;
    let file = built.first().context("the crowd was not built")?;
    let mut crowd = Workload::spawn_with(file, &[&count.to_string()])?;
    crowd.ask_until("idle", "total ")?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", crowd.pid()))
        .context("cannot read the children of the crowd")?;
    let pids: Vec<&str> = children.split_whitespace().collect();
    let reports = bench.directory.join(format!("scale-{count}.jsonl"));
    let options = [&["--interval", "2s", "--format", "json"], options].concat();
    let tracer = Tracer::leaktrace_of_many(&bench.binary, &pids, &options, &reports)?;
    let attach = tracer.attach_time;
    let before = tracer::cpu_seconds(tracer.pid())?;
    std::thread::sleep(WINDOW);
    let spent = tracer::cpu_seconds(tracer.pid())? - before;
    let resident = tracer::resident_bytes(tracer.pid())?;
    let detach = tracer.finish()?;
    println!(
        "{:>9} {:>13} {:>8} ms {:>8} ms {:>14} % {:>10} KiB {:>8} KiB",
        count,
        name,
        number(attach.as_secs_f64() * 1000.0),
        number(detach.as_secs_f64() * 1000.0),
        number(spent * 100.0 / WINDOW.as_secs_f64()),
        resident / 1024,
        map_bytes(&reports)? / 1024
    );
    crowd.ask_until("end", "total ")
}

fn map_bytes(reports: &std::path::Path) -> Result<u64> {
    let text = fs::read_to_string(reports).with_context(|| format!("cannot read {}", reports.display()))?;
    let last = text.lines().last().context("leaktrace printed no report")?;
    let report: serde_json::Value = serde_json::from_str(last).context("the last report is no JSON")?;
    report["truth"]["map_bytes"].as_u64().context("the last report does not say how large the maps are")
}
