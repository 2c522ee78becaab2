//! `leaktrace daemon`, as systemd would run it: its configuration, its process and those that trace for it, its death.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::history::History;
use crate::{command, tracer};

/// How long it may take to begin, to end, and to take its traces down.
const LIMIT: Duration = Duration::from_secs(90);
/// How often what is waited for is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Where a daemon has its things.
pub struct Place {
    directory: PathBuf,
}

impl Place {
    /// An empty one.
    pub fn anew(directory: PathBuf) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot empty {}", directory.display()))?;
        }
        fs::create_dir_all(directory.join("state"))
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Writes the configuration: where its things are, and what is added to that.
    pub fn configure(&self, top: &str, rest: &str) -> Result<()> {
        let state = self.directory.join("state");
        let serve = format!("[serve]\nlisten = [\"unix:{}\"]\n", self.directory.join("api.sock").display());
        let text = format!("state_directory = \"{}\"\n{top}\n{rest}\n{serve}", state.display());
        fs::write(self.config(), text).with_context(|| format!("cannot write {}", self.config().display()))
    }

    fn config(&self) -> PathBuf {
        self.directory.join("leaktrace.toml")
    }

    /// Its history.
    pub fn history(&self) -> History {
        History::at(&self.directory.join("state/history.db"))
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.directory.join("daemon.log")
    }
}

/// A daemon that runs.
pub struct Daemon {
    child: Child,
    history: History,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it has looked at somebody's memory and remembers that.
    pub fn start(binary: &Path, place: &Place) -> Result<Self> {
        let before = place.history().newest()?;
        let mut daemon = Self::start_idle(binary, place)?;
        daemon.await_reading_after(before)?;
        Ok(daemon)
    }

    /// Starts it with nobody to watch.
    pub fn start_idle(binary: &Path, place: &Place) -> Result<Self> {
        let log =
            File::options().create(true).append(true).open(place.log()).context("cannot open its log")?;
        let mut command = Command::new(binary);
        command.args(["daemon", "--config"]).arg(place.config());
        command.stdin(Stdio::null()).stdout(log.try_clone().context("its log")?).stderr(log);
        let history = place.history();
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child, history, log: place.log() })
    }

    fn await_reading_after(&mut self, before: Option<f64>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.history.newest()? <= before {
            if let Some(status) = self.child.try_wait().context("cannot wait for the daemon")? {
                bail!("the daemon ended ({status}): {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("the daemon remembers nothing after {} s: {}", LIMIT.as_secs(), self.last_words());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Waits until it says something with these words.
    pub fn await_said(&self, words: &str, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        while !fs::read_to_string(&self.log).unwrap_or_default().contains(words) {
            if begun.elapsed() > limit {
                bail!("nothing is said of {words:?} for {} s: {}", limit.as_secs(), self.last_words());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes that trace for it now.
    pub fn traces(&self) -> Vec<u32> {
        let pid = self.pid();
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
        let lists =
            threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
        let pids: Vec<String> =
            lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
        pids.iter().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Resident bytes of itself.
    pub fn resident_bytes(&self) -> Result<u64> {
        tracer::resident_bytes(self.pid())
    }

    /// CPU seconds and resident bytes of itself and of what traces for it; what has just ended does not count.
    pub fn cost(&self) -> Result<(f64, u64)> {
        let (mut cpu, mut resident) = (tracer::cpu_seconds(self.pid())?, self.resident_bytes()?);
        for pid in self.traces() {
            cpu += tracer::cpu_seconds(pid).unwrap_or(0.0);
            resident += tracer::resident_bytes(pid).unwrap_or(0);
        }
        Ok((cpu, resident))
    }

    /// Kills it as nobody should, and waits until its traces have ended by themselves.
    pub fn kill(mut self) -> Result<()> {
        let traces = self.traces();
        self.child.kill().context("cannot kill the daemon")?;
        self.child.wait().context("cannot wait for the daemon")?;
        gone(&traces)
    }

    /// Ends it as systemd does.
    pub fn stop(mut self) -> Result<()> {
        let traces = self.traces();
        command::signal(&self.child, libc::SIGTERM);
        let status = command::wait_for(&mut self.child, LIMIT)?;
        let status = status.with_context(|| format!("the daemon did not end: {}", self.last_words()))?;
        if !status.success() {
            bail!("the daemon ended with {status}: {}", self.last_words());
        }
        gone(&traces)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            command::stop(&mut self.child);
        }
    }
}

/// Waits until these processes have ended.
fn gone(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let runs = |pid: &&u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "leaktrace")
    };
    while let Some(left) = pids.iter().find(runs) {
        if Instant::now() > deadline {
            bail!("process {left} still traces, {} s after its daemon's end", LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}
