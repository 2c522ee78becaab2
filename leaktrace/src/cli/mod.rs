//! The command line: as typed ([`args`]), as meant ([`meant`]), and one file per subcommand. Past this module nothing
//! knows that flags exist.

pub mod args;
pub mod daemon;
pub mod doctor;
pub mod failure;
pub mod meant;
pub mod report;
pub mod top;
pub mod trace;

use std::process::ExitCode;

use clap::Parser;

pub use failure::Failure;

use crate::report::aside::say_lines;

/// Parses the command line, runs what it asks for and picks the exit code.
pub fn run() -> ExitCode {
    let typed = args::Arguments::parse();
    let outcome = match typed.command {
        args::Command::Trace(trace) => start_logging(trace.verbose).and_then(|()| trace::run(*trace)),
        args::Command::Daemon(daemon) => start_logging(daemon.verbose).and_then(|()| daemon::run(&daemon)),
        args::Command::Report(report) => start_logging(false).and_then(|()| report::run(&report)),
        args::Command::Top(top) => top::run(*top),
        args::Command::Doctor(doctor) => start_logging(doctor.verbose).and_then(|()| doctor::run(&doctor)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say_lines(&failure);
            failure.exit_code()
        }
    }
}

/// Logs go to stderr; `RUST_LOG` overrides.
fn start_logging(verbose: bool) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let default = if verbose { "warn,leaktrace=debug" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A second subscriber can only exist in tests, which do not care which one wins.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .try_init();
    Ok(())
}
