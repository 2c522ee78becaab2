//! `leaktrace daemon`.

use super::{Failure, args::DaemonArguments};

/// Runs it.
///
/// # Errors
/// Not built yet.
pub fn run(typed: &DaemonArguments) -> Result<(), Failure> {
    Err(Failure::Unsupported(format!("not built yet: {typed:?}")))
}
