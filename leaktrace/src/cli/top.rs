//! `leaktrace top`.

use super::{Failure, args::TopArguments};

/// Runs it.
///
/// # Errors
/// Not built yet.
pub fn run(typed: TopArguments) -> Result<(), Failure> {
    Err(Failure::Unsupported(format!("not built yet: {typed:?}")))
}
