//! The daemon, with a configuration and a state of its own, in accelerated time: what takes days in production takes a minute.

use super::{
    Outcome, Outcomes, Tracer,
    listener::{Listener, Request},
    longest_wait,
    tracer::TracerBuilder,
    until,
};
use leaktrace::process::capability::Capability;
use serde_json::Value;
use std::{
    fs, io,
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
    /// Starts it with the capabilities that systemd would grant it; its state lies in `directory`, and is found there by the next one.
    pub fn start(directory: &Path, config: &str) -> Outcomes<Self> {
        Self::start_as(Tracer::bare(), directory, config)
    }

    /// The same by a tracer that is to be started otherwise than usual.
    pub fn start_as(tracer: TracerBuilder, directory: &Path, config: &str) -> Outcomes<Self> {
        let file = directory.join("leaktrace.toml");
        let state = directory.join("state");
        write(&file, &state, config)?;
        let bound = bounded_to(&capabilities_of_the_unit()?);
        let mut process = tracer.before(bound).args(&["daemon", "--config"]).arg(&file).start()?;
        let began = process.await_said(&["watching"])?;
        Ok(Self { process, began, state, config: file })
    }

    /// Where it serves HTTP: host and port.
    pub fn served_at(&self) -> Outcomes<&str> {
        let address = self.began.split("http://").nth(1).map(str::trim);
        address.ok_or_else(|| format!("it serves nothing: {}", self.began))
    }

    /// What it answers: status and body.
    pub fn get(&self, path: &str) -> Outcomes<(u16, String)> {
        let request = ureq::get(format!("http://{}{path}", self.served_at()?));
        let answer = request.config().http_status_as_error(false).build().call();
        let mut answer = answer.map_err(|e| format!("{path}: {e}"))?;
        let body = answer.body_mut().read_to_string().map_err(|e| format!("{path}: {e}"))?;
        Ok((answer.status().as_u16(), body))
    }

    /// Waits until it answers as is wanted.
    pub fn await_answer(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> Outcomes<String> {
        until(|| {
            let (status, body) = self.get(path)?;
            if wanted(status, &body) { Ok(body) } else { Err(format!("{path}: {status} {body}")) }
        })
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

/// Capabilities that the unit for systemd grants.
pub fn capabilities_of_the_unit() -> Outcomes<Vec<Capability>> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/leaktrace.service");
    let text = fs::read_to_string(unit).map_err(|e| format!("{unit}: {e}"))?;
    let granted = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let numbered = |name: &str| {
        let found = (0..64).map(Capability).find(|capability| capability.to_string() == name);
        found.ok_or_else(|| format!("no capability is called {name}"))
    };
    granted.ok_or("the unit bounds no capabilities")?.split(' ').map(numbered).collect()
}

/// Leaves a process no more than these when it begins.
pub fn bounded_to(capabilities: &[Capability]) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let kept = capabilities.to_vec();
    move || {
        for number in (0..64).filter(|number| !kept.contains(&Capability(*number))) {
            // SAFETY: a plain system call; a capability that the kernel does not know is refused, and held by nobody.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0, 0, 0) };
        }
        Ok(())
    }
}

/// Alerts go to a listener; metrics are wherever the kernel has a port.
pub fn sink(listener: &Listener) -> String {
    format!(
        "[[alerts.sink]]\nname = \"listener\"\nwebhook = \"{}\"\n[serve]\nlisten = \"127.0.0.1:0\"\n",
        listener.url("/alerts")
    )
}

/// A scope before everything else, since tables end what belongs to no table.
pub fn config(scopes: &str, more: &str) -> String {
    format!("{ACCELERATED}\n{scopes}\n{more}")
}

/// A scope of the configuration.
pub fn scope(name: &str, pattern: &str) -> String {
    format!("[[scope]]\nname = \"{name}\"\n{pattern}\n")
}

/// The alerts that came, decoded.
pub fn alerts(requests: &[Request]) -> Vec<Value> {
    requests.iter().filter_map(|request| serde_json::from_str(&request.body).ok()).collect()
}

fn write(file: &Path, state: &Path, config: &str) -> Outcomes<()> {
    let text = format!("state_directory = {state:?}\n{config}");
    fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))
}

/// A directory for a daemon's configuration and state.
pub fn directory() -> Outcomes<TempDir> {
    TempDir::new().map_err(|e| format!("temporary directory: {e}"))
}
