//! What tracing costs a Flask service whose requests are validated against a JSON schema: requests a second, plain, under
//! leaktrace, and under what else finds Python's leaks. Those need the service to be started anew; leaktrace does not.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Bench, middle};
use crate::command;
use crate::script::{Load, Script};
use crate::statistics::{number, with_range};
use crate::tracer::Tracer;

/// Connections, each of which asks again as soon as it is answered: more than the service can serve at once.
const CONNECTIONS: usize = 2;

/// What comes before a measurement: caches fill, code is specialised.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long one condition is measured in one round.
const WINDOW: Duration = Duration::from_secs(4);

/// Who traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Plain,
    Exact,
    Light,
    Tracemalloc1,
    Tracemalloc25,
    Memray,
    MemrayNative,
}

impl Condition {
    const ALL: [Self; 7] = [
        Self::Plain,
        Self::Exact,
        Self::Light,
        Self::Tracemalloc1,
        Self::Tracemalloc25,
        Self::Memray,
        Self::MemrayNative,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Exact => "leaktrace --detail exact",
            Self::Light => "leaktrace --detail light",
            Self::Tracemalloc1 => "tracemalloc, 1 frame",
            Self::Tracemalloc25 => "tracemalloc, 25 frames",
            Self::Memray => "memray --trace-python-allocators",
            Self::MemrayNative => "memray --native --trace-python-allocators",
        }
    }

    /// What comes between the interpreter and the service.
    fn before(self, memray: &str) -> Vec<&str> {
        let run = ["-m", "memray", "run", "--quiet", "--force", "--output", memray];
        match self {
            Self::Plain | Self::Exact | Self::Light => Vec::new(),
            Self::Tracemalloc1 => vec!["-X", "tracemalloc=1"],
            Self::Tracemalloc25 => vec!["-X", "tracemalloc=25"],
            Self::Memray => [&run[..], &["--trace-python-allocators"]].concat(),
            Self::MemrayNative => [&run[..], &["--native", "--trace-python-allocators"]].concat(),
        }
    }

    /// leaktrace's options, if it is leaktrace that traces.
    fn detail(self) -> Option<&'static str> {
        match self {
            Self::Exact => Some("exact"),
            Self::Light => Some("light"),
            _ => None,
        }
    }
}

/// Requests a second, and their share of the same round's plain ones.
#[derive(Default)]
struct Measured {
    rates: BTreeMap<Condition, Vec<f64>>,
    shares: BTreeMap<Condition, Vec<f64>>,
    predictions: Vec<String>,
}

/// Measures in rounds and prints the medians.
pub fn run(bench: &Bench, rounds: usize) -> Result<()> {
    let mut measured = Measured::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let mut plain = f64::NAN;
        for condition in Condition::ALL {
            let rate = bench.requests_per_second(condition)?;
            if condition == Condition::Plain {
                plain = rate;
            }
            measured.rates.entry(condition).or_default().push(rate);
            measured.shares.entry(condition).or_default().push(rate / plain);
        }
    }
    measured.predictions = bench.prediction()?;
    measured.print();
    Ok(())
}

impl Bench {
    /// A service of its own for each condition: what one has left behind must not slow the next down.
    fn requests_per_second(&self, condition: Condition) -> Result<f64> {
        let memray = self.directory.join("memray.bin");
        let mut service =
            Script::start(&condition.before(&memray.to_string_lossy()), "flask_service.py", &["0"])?;
        let mut load = Load::start(&mut service, CONNECTIONS, 0.0)?;
        thread::sleep(WARM_UP);
        let tracer = condition.detail().map(|detail| self.trace(&service, detail)).transpose()?;
        let (before, begun) = load.count()?;
        thread::sleep(WINDOW);
        let (after, ended) = load.count()?;
        if let Some(tracer) = tracer {
            tracer.finish()?;
        }
        drop((load, service));
        if memray.exists() {
            fs::remove_file(&memray).with_context(|| format!("cannot remove {}", memray.display()))?;
        }
        Ok((after - before) / (ended - begun))
    }

    fn trace(&self, service: &Script, detail: &str) -> Result<Tracer> {
        self.leaktrace(service.pid(), &["--interval", "10s", "--detail", detail], "leaktrace-flask.txt")
    }

    /// What `doctor --measure` says of the service under load, in its own words.
    fn prediction(&self) -> Result<Vec<String>> {
        let mut service = Script::start(&[], "flask_service.py", &["0"])?;
        let _load = Load::start(&mut service, CONNECTIONS, 0.0)?;
        thread::sleep(WARM_UP);
        let mut doctor = command::as_root(&self.binary)?;
        let text = command::output(doctor.args(["doctor", "--measure", "-p", &service.pid().to_string()]))?;
        Ok(text.lines().filter(|line| is_prediction(line)).map(|line| line.trim().to_owned()).collect())
    }
}

/// Whether doctor speaks of what tracing will cost.
fn is_prediction(line: &str) -> bool {
    ["slow", "predict", "throughput"].iter().any(|word| line.to_lowercase().contains(word))
}

impl Measured {
    fn print(&self) {
        println!("\nFlask requests with JSON-schema validation, a second: median (range) over the rounds");
        println!("{:<44} {:<24} {:>14} {:>10}", "", "requests/s", "of plain", "slowdown");
        for (condition, rates) in &self.rates {
            let share = self.shares.get(condition).map_or(f64::NAN, |shares| middle(shares));
            let (name, slowdown) = (condition.name(), number(1.0 / share));
            println!("{name:<44} {:<24} {share:>14.3} {slowdown:>9}x", with_range(rates));
        }
        println!("\nwhat `leaktrace doctor --measure` predicts for the plain service under the same load");
        self.predictions.iter().for_each(|line| println!("  {line}"));
        if self.predictions.is_empty() {
            println!("  nothing");
        }
    }
}
