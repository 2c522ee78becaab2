//! A long run: leaktrace itself must neither grow nor lose anything while its target leaks and churns.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup::Purpose;
use crate::tracer::{self, Tracer};
use crate::workload::Workload;
use crate::{build, command, setup, statistics, workspace};

/// Between two readings of leaktrace's memory.
const STEP: Duration = Duration::from_secs(10);

/// How much the last readings may exceed the early ones, in bytes: caches of names still fill.
const TOLERANCE: f64 = 8.0 * 1024.0 * 1024.0;

/// Reads a duration such as `90s`, `30m` or `8h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    match parsed {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(format!("{text:?} is no duration: write for example 90s, 30m or 8h")),
    }
}

/// Traces a workload for that long.
pub fn run(length: Duration) -> Result<()> {
    command::require_root("soak")?;
    setup::run(Purpose::Build)?;
    let binary = build::leaktrace(false)?;
    let reports = workspace::cache("soak")?.join("reports.jsonl");
    let mut workload = Workload::start()?;
    let tracer =
        Tracer::leaktrace(&binary, workload.pid(), &["--interval", "1s", "--format", "json"], &reports)?;
    let memory = watch(&mut workload, &tracer, length)?;
    tracer.finish()?;
    judge(&memory)?;
    last_report_is_complete(&fs::read_to_string(&reports).context("no reports were written")?)
}

/// Churns and leaks a little in turns, and reads leaktrace's memory after each.
fn watch(workload: &mut Workload, tracer: &Tracer, length: Duration) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let (mut memory, mut kept) = (Vec::new(), 0);
    while begun.elapsed() < length {
        workload.pairs(4, 256, STEP)?;
        kept += 100;
        workload.live(kept, 256)?;
        let bytes = tracer::resident_bytes(tracer.pid())?;
        #[expect(clippy::cast_precision_loss, reason = "bytes of one process")]
        memory.push(bytes as f64);
        println!("{:>8} s  leaktrace has {:>6} KiB", begun.elapsed().as_secs(), bytes / 1024);
    }
    Ok(memory)
}

/// Compares the second quarter with the last: the first one fills caches.
fn judge(memory: &[f64]) -> Result<()> {
    let quarter = memory.len() / 4;
    let (Some(early), Some(late)) = (
        statistics::median(&memory[quarter..quarter * 2]),
        statistics::median(&memory[memory.len() - quarter..]),
    ) else {
        bail!("too short to tell: {} readings, at least 4 are needed", memory.len());
    };
    if late > early + TOLERANCE {
        bail!("leaktrace grew from {} to {} bytes", statistics::number(early), statistics::number(late));
    }
    println!(
        "leaktrace's memory: {} bytes early, {} bytes late",
        statistics::number(early),
        statistics::number(late)
    );
    Ok(())
}

/// The last report must have lost nothing.
fn last_report_is_complete(reports: &str) -> Result<()> {
    let last = reports.lines().last().context("leaktrace printed no report")?;
    let report: serde_json::Value = serde_json::from_str(last).context("the last report is no JSON")?;
    match report["truth"]["lost"].as_array() {
        Some(lost) if lost.is_empty() => Ok(()),
        Some(_) => bail!("leaktrace lost events: {}", report["truth"]["lost"]),
        None => bail!("the last report does not say what was lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(8 * 3600)));
        assert!(duration("0s").is_err());
        assert!(duration("10").is_err());
    }

    #[test]
    fn growth_fails_and_a_filling_cache_does_not() {
        let mib = 1024.0 * 1024.0;
        assert!(judge(&[5.0, 20.0, 20.0, 20.5].map(|value| value * mib)).is_ok());
        assert!(judge(&[5.0, 20.0, 40.0, 60.0].map(|value| value * mib)).is_err());
        assert!(judge(&[1.0]).is_err());
    }
}
