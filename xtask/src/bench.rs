//! What tracing costs. The same process is measured untraced, under leaktrace and under bcc's memleak in turns, and
//! the medians of the rounds are compared. No number here is asserted: they are printed, with the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::setup::Purpose;
use crate::statistics::{median, number, with_range};
use crate::tracer::{self, RunCounting, Tracer};
use crate::workload::Workload;
use crate::{build, command, setup, tables, workspace};

/// Threads and block size of each case.
const CASES: &[(usize, usize)] = &[(1, 64), (1, 1024), (4, 64)];

/// How long one case is measured in one round.
const WINDOW: Duration = Duration::from_millis(300);

/// Live blocks at which reports are measured.
const LIVE_BLOCKS: &[u64] = &[10_000, 1_000_000, 10_000_000];

/// Reports that are averaged over, one a second.
const REPORTS: u32 = 10;

/// What is measured, as far as it can be asked for alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What a malloc and free pair costs.
    Pairs,
    /// What reports cost with up to ten million live blocks.
    Reports,
    /// What unwind tables cost to make.
    Tables,
}

/// Measures and prints everything, or one part.
pub fn run(rounds: usize, skip_live_blocks: bool, only: Option<Part>) -> Result<()> {
    let rounds = rounds.max(1);
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Part::Tables) {
        setup::run(Purpose::Build)?;
        println!("\nmachine: {}", tracer::machine());
        tables::run(rounds)?;
    }
    if only == Some(Part::Tables) {
        return Ok(());
    }
    command::require_root("bench")?;
    setup::run(Purpose::Bench)?;
    let bench = Bench { binary: build::leaktrace(true)?, directory: workspace::cache("bench")? };
    println!("\nmachine: {}", tracer::machine());
    if wanted(Part::Pairs) {
        bench.pairs(rounds)?;
    }
    if wanted(Part::Reports) && !skip_live_blocks {
        bench.reports()?;
    }
    Ok(())
}

/// Where things are.
struct Bench {
    binary: PathBuf,
    directory: PathBuf,
}

/// Who traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Untraced,
    Leaktrace,
    Memleak,
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::Leaktrace => "leaktrace",
            Self::Memleak => "bcc memleak",
        }
    }
}

/// Everything measured in all rounds.
#[derive(Default)]
struct Measured {
    /// Nanoseconds per pair.
    pairs: BTreeMap<(usize, Condition), Vec<f64>>,
    /// Runs of BPF programs per pair.
    runs: BTreeMap<Condition, Vec<f64>>,
    /// Milliseconds.
    attach: BTreeMap<Condition, Vec<f64>>,
    detach: BTreeMap<Condition, Vec<f64>>,
    /// Longest gap in milliseconds: untraced for comparison, and over attaching and detaching.
    gaps: BTreeMap<Condition, Vec<f64>>,
}

impl Bench {
    fn pairs(&self, rounds: usize) -> Result<()> {
        let _headers = tracer::memleak_headers()?;
        let mut workload = Workload::start()?;
        let mut measured = Measured::default();
        for round in 1..=rounds {
            println!("round {round} of {rounds}");
            for condition in
                [Condition::Untraced, Condition::Leaktrace, Condition::Untraced, Condition::Memleak]
            {
                self.measure(condition, &mut workload, &mut measured)?;
            }
        }
        self.count_runs(&mut workload, &mut measured)?;
        measured.print();
        Ok(())
    }

    /// One condition of one round: the gaps first, then every case.
    fn measure(&self, condition: Condition, workload: &mut Workload, measured: &mut Measured) -> Result<()> {
        self.measure_gap(condition, workload, measured)?;
        let tracer = self.attach(condition, workload.pid())?;
        for (index, (threads, size)) in CASES.iter().enumerate() {
            let pairs = workload.pairs(*threads, *size, WINDOW)?;
            measured.pairs.entry((index, condition)).or_default().push(pairs.nanoseconds);
        }
        if let Some(tracer) = tracer {
            tracer.finish()?;
        }
        Ok(())
    }

    /// Attaches and detaches once while a thread of the target reads the clock.
    fn measure_gap(
        &self,
        condition: Condition,
        workload: &mut Workload,
        measured: &mut Measured,
    ) -> Result<()> {
        workload.clock_start()?;
        match self.attach(condition, workload.pid())? {
            None => std::thread::sleep(WINDOW),
            Some(tracer) => {
                measured.attach.entry(condition).or_default().push(milliseconds(tracer.attach_time));
                measured.detach.entry(condition).or_default().push(milliseconds(tracer.finish()?));
            }
        }
        measured.gaps.entry(condition).or_default().push(milliseconds(workload.clock_stop()?));
        Ok(())
    }

    fn attach(&self, condition: Condition, pid: u32) -> Result<Option<Tracer>> {
        let reports = self.directory.join(format!("{}.txt", condition.name().replace(' ', "-")));
        match condition {
            Condition::Untraced => Ok(None),
            // An interval as in production: reports are measured apart.
            Condition::Leaktrace => {
                Tracer::leaktrace(&self.binary, pid, &["--interval", "10s"], &reports).map(Some)
            }
            Condition::Memleak => Tracer::memleak(pid, &reports).map(Some),
        }
    }

    /// Runs of BPF programs per pair, measured apart because counting them costs time.
    fn count_runs(&self, workload: &mut Workload, measured: &mut Measured) -> Result<()> {
        let _counting = RunCounting::start()?;
        for condition in [Condition::Leaktrace, Condition::Memleak] {
            let Some(tracer) = self.attach(condition, workload.pid())? else { continue };
            let before = tracer::program_runs(tracer.pid());
            let pairs = workload.pairs(1, 64, WINDOW)?;
            let runs = tracer::program_runs(tracer.pid()).saturating_sub(before);
            #[expect(clippy::cast_precision_loss, reason = "counts of a fraction of a second")]
            measured.runs.entry(condition).or_default().push(runs as f64 / pairs.count.max(1) as f64);
            tracer.finish()?;
        }
        Ok(())
    }

    /// What reports cost with few and with many live blocks.
    fn reports(&self) -> Result<()> {
        println!("\nreports, by number of live blocks (one report a second, {REPORTS} of them)");
        println!(
            "{:>12} {:>22} {:>16} {:>16}",
            "live blocks", "daemon CPU per report", "daemon memory", "kernel maps"
        );
        for blocks in LIVE_BLOCKS {
            self.report_cost(*blocks)?;
        }
        Ok(())
    }

    fn report_cost(&self, blocks: u64) -> Result<()> {
        let reports = self.directory.join(format!("reports-{blocks}.jsonl"));
        let options = ["--interval", "1s", "--format", "json", "--max-live-blocks", "12000000"];
        let mut workload = Workload::start()?;
        let tracer = Tracer::leaktrace(&self.binary, workload.pid(), &options, &reports)?;
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

impl Measured {
    fn print(&self) {
        println!("\na malloc+free pair, ns: median (range) over the rounds, and how many times untraced");
        for (index, (threads, size)) in CASES.iter().enumerate() {
            println!("  {threads} thread{}, {size} bytes", if *threads == 1 { "" } else { "s" });
            self.print_case(index);
        }
        println!("\nruns of BPF programs (each is one trap) per pair");
        for (condition, runs) in &self.runs {
            println!("  {:<12} {}", condition.name(), number(median(runs).unwrap_or(0.0)));
        }
        println!("\nattaching and detaching with all probes, ms");
        for (condition, attach) in &self.attach {
            let detach = self.detach.get(condition).map_or_else(String::new, |times| with_range(times));
            println!("  {:<12} attach {:<24} detach {detach}", condition.name(), with_range(attach));
        }
        println!("\nlongest gap between two readings of the clock in the target, ms");
        for (condition, gaps) in &self.gaps {
            println!("  {:<12} {}", condition.name(), with_range(gaps));
        }
    }

    fn print_case(&self, index: usize) {
        let of = |condition| self.pairs.get(&(index, condition)).map(Vec::as_slice).unwrap_or_default();
        let base = median(of(Condition::Untraced)).unwrap_or(f64::NAN);
        for condition in [Condition::Untraced, Condition::Leaktrace, Condition::Memleak] {
            let ratio = median(of(condition)).unwrap_or(f64::NAN) / base;
            println!("    {:<12} {:<28} {:>8}x", condition.name(), with_range(of(condition)), number(ratio));
        }
        let added = |condition| median(of(condition)).unwrap_or(f64::NAN) - base;
        let share = added(Condition::Leaktrace) / added(Condition::Memleak);
        println!("    leaktrace adds {share:.2} of what memleak adds");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
