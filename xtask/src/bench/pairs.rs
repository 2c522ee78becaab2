//! What one allocation and its free cost, by number of threads and size of the block; how long attaching and detaching
//! take, and for how long they hold the target up.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, WINDOW, middle};
use crate::statistics::{number, with_range};
use crate::tracer::{self, RunCounting, Tracer};
use crate::workload::Workload;

/// Threads and block size of each case.
const CASES: &[(usize, usize)] = &[(1, 64), (1, 1024), (4, 64)];

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

/// Measures in rounds and prints the medians.
pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let _headers = tracer::memleak_headers()?;
    let mut workload = Workload::start()?;
    let mut measured = Measured::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for condition in [Condition::Untraced, Condition::Leaktrace, Condition::Untraced, Condition::Memleak]
        {
            bench.measure(condition, &mut workload, &mut measured)?;
        }
    }
    bench.count_runs(&mut workload, &mut measured)?;
    measured.print();
    Ok(())
}

impl Bench {
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
        match condition {
            Condition::Untraced => Ok(None),
            // An interval as in production: reports are measured apart.
            Condition::Leaktrace => self.leaktrace(pid, &["--interval", "10s"], "leaktrace.txt").map(Some),
            Condition::Memleak => self.memleak(pid).map(Some),
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
            println!("  {:<12} {}", condition.name(), number(middle(runs)));
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
        let base = middle(of(Condition::Untraced));
        for condition in [Condition::Untraced, Condition::Leaktrace, Condition::Memleak] {
            let ratio = middle(of(condition)) / base;
            println!("    {:<12} {:<28} {:>8}x", condition.name(), with_range(of(condition)), number(ratio));
        }
        let added = |condition| middle(of(condition)) - base;
        let share = added(Condition::Leaktrace) / added(Condition::Memleak);
        println!("    leaktrace adds {share:.2} of what memleak adds");
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
