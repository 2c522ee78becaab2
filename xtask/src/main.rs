//! The one entry point for building, testing and measuring leaktrace: `cargo xtask COMMAND`. Everything that a
//! plain `cargo` command would have to be told (toolchain, flags, packages, privileges) is decided in here.

mod archive;
mod bench;
mod build;
mod command;
mod container_build;
mod daemon;
mod demo;
mod environment;
mod guest;
mod headers;
mod history;
mod initramfs;
mod interpreter;
mod kernel;
mod link;
mod linker;
mod lint;
mod matrix;
mod package;
mod program;
mod script;
mod setup;
mod soak;
mod statistics;
mod test;
mod toolchain;
mod tracer;
mod virtual_environment;
mod workload;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Builds, tests and measures leaktrace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what a task needs; says what and why, and may be repeated.
    Setup {
        /// The task that is prepared.
        #[arg(long = "for", value_enum, default_value = "build")]
        purpose: setup::Purpose,
    },
    /// Build the leaktrace binary, eBPF object included.
    Build {
        /// Optimised, as it is shipped.
        #[arg(long)]
        release: bool,
    },
    /// Formatting, clippy, the eBPF crate, and links in the documentation.
    Lint,
    /// Run the whole suite, the tests that need root and a real kernel included.
    Test {
        /// Only what needs neither root nor BPF.
        #[arg(long)]
        quick: bool,
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Trace a Flask service that leaks, and show the line and the flamegraph.
    Demo,
    /// Build a Python as official container images have it, for the tests to trace; takes a quarter of an hour.
    Interpreter,
    /// Measure what tracing costs, beside bcc's memleak, tracemalloc and memray.
    Bench {
        /// Interleaved rounds; medians are taken over them.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Only this part; repeatable.
        #[arg(long, value_enum)]
        only: Vec<bench::Part>,
        /// Measure this binary instead of building one.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Run the daemon for a long time in accelerated life, kill it again and again, and check that it neither grows, nor forgets, nor
    /// harms anybody.
    Soak {
        /// How long, for example 30m or 8h.
        #[arg(long, default_value = "60m", value_parser = soak::duration)]
        duration: Duration,
        /// How often the daemon is killed meanwhile.
        #[arg(long, default_value_t = 20)]
        kills: u32,
        /// Run this binary instead of building one.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Boot old kernels in qemu and run the exactness tests there.
    Matrix {
        /// Only this kernel series.
        #[arg(long, value_enum)]
        kernel: Option<kernel::Series>,
        /// Only this file of leaktrace/tests/, without its ending; repeatable.
        #[arg(long)]
        test: Vec<String>,
        /// Only boot and print the kernel's release: proves the box, not leaktrace.
        #[arg(long)]
        smoke: bool,
    },
}

fn main() -> ExitCode {
    environment::forget_cargo_run();
    let result = match Arguments::parse().task {
        Task::Setup { purpose } => setup::run(purpose),
        Task::Build { release } => build::run(release),
        Task::Lint => lint::run(),
        Task::Test { quick, filter } => test::run(quick, filter.as_deref()),
        Task::Demo => demo::run(),
        Task::Interpreter => container_build::run(),
        Task::Bench { rounds, only, binary } => bench::run(rounds, &only, binary),
        Task::Soak { duration, kills, binary } => soak::run(duration, kills, binary),
        Task::Matrix { kernel, test, smoke } => matrix::run(kernel, &test, smoke),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
