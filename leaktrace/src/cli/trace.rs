//! `leaktrace trace`.

use super::{Failure, args::TraceArguments, meant::TracePlan};
use crate::{daemon, report, target::preflight};

/// Traces until the end.
///
/// # Errors
/// Anything that keeps tracing from beginning, and a failed final report.
pub fn run(typed: TraceArguments) -> Result<(), Failure> {
    let plan = TracePlan::try_from(typed)?;
    // Found out now, not after hours of tracing.
    for (path, _) in &plan.outputs {
        report::check_writable(path).map_err(|error| Failure::Failed(error.to_string()))?;
    }
    preflight::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("could not start the event loop: {error}")))?;
    runtime.block_on(daemon::trace(plan))
}
