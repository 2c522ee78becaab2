//! What tracing a process would cost it, measured in a process of its own.

use std::{env, process::Stdio, time::Duration};

use rustix::process::Signal;
use thiserror::Error;
use tokio::{process::Command, time::timeout};

pub use crate::cli::doctor::measurement::{Prediction, Slowdown};

/// Measuring takes ten seconds; on a busy host more.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why nothing was predicted.
#[derive(Debug, Error)]
pub enum PredictionError {
    /// It was not to be measured.
    #[error("what tracing would cost was not measured: the configuration says so")]
    NotAsked,
    /// The process that was to measure could not be started, or took too long.
    #[error("what tracing process {pid} would cost could not be measured: {why}")]
    Failed {
        /// The process.
        pid: u32,
        /// In words.
        why: String,
    },
}

/// Measures a process. Places probes in it and redirects its allocator table, for milliseconds at a time.
///
/// # Errors
/// If that is not possible.
pub async fn predict(pid: u32) -> Result<Prediction, PredictionError> {
    let failed = |why: String| PredictionError::Failed { pid, why };
    let program = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new(program);
    command.args(["doctor", "--measure", "--format", "json", "-p", &pid.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    super::child::end_with_parent(&mut command);
    let child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let own_pid = child.id();
    let Ok(output) = timeout(PATIENCE, child.wait_with_output()).await else {
        // Never SIGKILL: it puts back first what it has changed.
        super::child::signal(own_pid, Signal::TERM);
        return Err(failed(format!("not done after {} s", PATIENCE.as_secs())));
    };
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(last_sentence(&String::from_utf8_lossy(&output.stderr))));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
}

/// Why a command has failed is what it says last; before that it announces what it does.
fn last_sentence(said: &str) -> String {
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    last.strip_prefix("leaktrace: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_was_said_only_the_reason_is_kept() {
        let said = "leaktrace: 11 pointers redirected\nleaktrace: thread 8 cannot be stopped\n\n";
        assert_eq!(last_sentence(said), "thread 8 cannot be stopped");
        assert_eq!(last_sentence(""), "");
    }
}
