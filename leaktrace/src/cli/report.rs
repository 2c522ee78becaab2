//! `leaktrace report`.

use super::{Failure, args::ReportArguments};

/// Runs it.
///
/// # Errors
/// Not built yet.
pub fn run(typed: &ReportArguments) -> Result<(), Failure> {
    Err(Failure::Unsupported(format!("not built yet: {typed:?}")))
}
