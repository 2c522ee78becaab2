//! What tracing costs. The same program is measured untraced, under leaktrace and under its rivals in turns, and
//! the medians of the rounds are compared. No number here is asserted: they are printed, with the machine.

mod chain;
mod daemon;
mod depth;
mod flask;
mod pairs;
mod placement;
mod reports;
mod scale;
mod tables;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::setup::Purpose;
use crate::statistics::median;
use crate::tracer::{self, Tracer};
use crate::{build, command, setup, workspace};

/// How long one case is measured in one round.
const WINDOW: Duration = Duration::from_millis(300);

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// An allocation and its free, by threads and size; attaching and detaching.
    Pairs,
    /// An allocation and its free, by depth of the stack; what each frame costs.
    Depth,
    /// A Flask service's requests a second, beside tracemalloc and memray.
    Flask,
    /// Reports, by number of live blocks.
    Reports,
    /// Probes of one process and probes that are shared: what neighbours pay, and what each process in scope adds.
    Placement,
    /// Many processes: attaching, detaching, memory.
    Scale,
    /// The daemon: watching 500 processes, tracing three busy ones.
    Daemon,
    /// Making unwind tables of large libraries, and reading them from disk. Traces nothing.
    Tables,
}

/// Measures and prints what is asked for, or everything. `binary`: what is measured, if it is not to be built.
pub fn run(rounds: usize, only: &[Part], binary: Option<PathBuf>) -> Result<()> {
    if only == [Part::Tables] {
        setup::run(Purpose::Build)?;
        println!("\nmachine: {}", tracer::machine());
        return tables::run(rounds.max(1));
    }
    command::require_root("bench")?;
    // The daemon is measured beside nothing that would have to be fetched.
    setup::run(if only == [Part::Daemon] { Purpose::Demo } else { Purpose::Bench })?;
    let binary = binary.map_or_else(|| build::leaktrace(true), Ok)?;
    let bench = Bench { binary, directory: workspace::cache("bench")? };
    let chosen = if only.is_empty() { Part::value_variants() } else { only };
    println!("\nmachine: {}", tracer::machine());
    for part in chosen {
        match part {
            Part::Pairs => pairs::run(&bench, rounds.max(1))?,
            Part::Depth => depth::run(&bench, rounds.max(1))?,
            Part::Flask => flask::run(&bench, rounds.max(1))?,
            Part::Reports => reports::run(&bench)?,
            Part::Placement => placement::run(&bench, rounds.max(1))?,
            Part::Scale => scale::run(&bench)?,
            Part::Daemon => daemon::run(&bench)?,
            Part::Tables => tables::run(rounds.max(1))?,
        }
    }
    Ok(())
}

/// Where things are.
struct Bench {
    binary: PathBuf,
    directory: PathBuf,
}

impl Bench {
    /// Attaches leaktrace; its reports go to a file of that name.
    fn leaktrace(&self, pid: u32, options: &[&str], reports: &str) -> Result<Tracer> {
        Tracer::leaktrace(&self.binary, pid, options, &self.directory.join(reports))
    }

    /// Attaches bcc's memleak.
    fn memleak(&self, pid: u32) -> Result<Tracer> {
        Tracer::memleak(pid, &self.directory.join("bcc-memleak.txt"))
    }
}

/// The median, or what prints as "NaN" where nothing was measured.
fn middle(values: &[f64]) -> f64 {
    median(values).unwrap_or(f64::NAN)
}
