//! `leaktrace daemon`.

use super::{Failure, args::DaemonArguments};
use crate::{
    report::aside::say,
    watch::{Config, Watcher},
};

/// Watches until it is told to end; with `--check` only says whether the configuration is right.
///
/// # Errors
/// If the configuration is wrong, or what it asks for cannot be had.
pub fn run(typed: &DaemonArguments) -> Result<(), Failure> {
    let config = Config::read(&typed.config).map_err(|error| Failure::Usage(error.to_string()))?;
    if typed.check {
        say(format!("the configuration {} is right", typed.config.display()));
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("could not start the event loop: {error}")))?;
    runtime.block_on(async { Watcher::begin(&typed.config, config)?.run().await })
}
