//! The daemon, with a configuration and a state of its own, in accelerated time: what takes days in production takes a minute.

use super::{Outcome, Outcomes, Tracer, longest_wait};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// An hour in half a minute: a tick each second, traces of a minute and a half, verdicts after a quarter of a minute. Tests need to
/// see where exact tracing leads, whatever it costs.
pub const ACCELERATED: &str = r#"
interval = "1s"
[tracing]
interval = "1s"
light_for = "8s"
max_duration = "10m"
max_slowdown = 10000.0
max_slowdown_light = 10000.0
[verdict]
least_watched = "15s"
least_readings = 12
least_memory = "512KiB"
stretches = ["20s", "2m", "10m"]
"#;

/// A running daemon.
pub struct Daemon {
    /// The process.
    pub process: Tracer,
    /// What it said when it began to watch.
    pub began: String,
    state: PathBuf,
    config: PathBuf,
}

impl Daemon {
    /// Starts it; its state lies in `directory`, and is found there by the next one.
    pub fn start(directory: &Path, config: &str) -> Outcomes<Self> {
        let file = directory.join("leaktrace.toml");
        let state = directory.join("state");
        write(&file, &state, config)?;
        let mut process = Tracer::bare().args(&["daemon", "--config"]).arg(&file).start()?;
        let began = process.await_said(&["watching"])?;
        Ok(Self { process, began, state, config: file })
    }

    /// Where it serves HTTP: host and port.
    pub fn served_at(&self) -> Outcomes<&str> {
        let address = self.began.split("http://").nth(1).map(str::trim);
        address.ok_or_else(|| format!("it serves nothing: {}", self.began))
    }

    /// Writes another configuration; it is read when the daemon is told to.
    pub fn configure(&self, config: &str) -> Outcomes<()> {
        write(&self.config, &self.state, config)
    }

    /// Its configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its history.
    pub fn history(&self) -> PathBuf {
        self.state.join("history.db")
    }

    /// Where its evidence lies.
    pub fn evidence(&self) -> PathBuf {
        self.state.join("evidence")
    }

    /// `leaktrace report` about its history.
    pub fn report(&self, arguments: &[&str]) -> Outcomes<Outcome> {
        Tracer::bare().args(&["report", "--db"]).arg(self.history()).args(arguments).run()
    }

    /// Ends it as a service manager does.
    pub fn end(self) -> Outcomes<Outcome> {
        self.process.signal(libc::SIGTERM);
        self.process.await_end_within(longest_wait())
    }
}

fn write(file: &Path, state: &Path, config: &str) -> Outcomes<()> {
    let text = format!("state_directory = {state:?}\n{config}");
    fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}

/// A directory for a daemon's configuration and state.
pub fn directory() -> Outcomes<TempDir> {
    TempDir::new().map_err(|e| format!("temporary directory: {e}"))
}
