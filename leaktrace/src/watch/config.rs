//! The configuration file, read and checked. Everything in it is known: a key that is not is refused, with the one that was
//! probably meant.

mod mistake;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::{
    evidence::EvidenceConfig,
    scope::{ScopeConfig, Scopes},
};
use crate::{
    alert::{AlertConfig, Rules},
    serve::ServeConfig,
    setting::{Ratio, Size, Time},
    store::StoreConfig,
    verdict,
};

/// Longest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;
/// Where the state lies unless configured otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/leaktrace";

/// Everything that can be configured; `docs/leaktrace.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the daemon keeps its history and its evidence.
    pub state_directory: PathBuf,
    /// Between two looks at everybody's memory.
    pub interval: Time,
    /// Name of this host in alerts; the kernel's own if not given.
    pub host: Option<String>,
    /// Who is watched.
    pub scope: Vec<ScopeConfig>,
    /// `[tracing]`.
    pub tracing: TracingConfig,
    /// `[verdict]`.
    pub verdict: VerdictConfig,
    /// `[history]`.
    pub history: StoreConfig,
    /// `[evidence]`.
    pub evidence: EvidenceConfig,
    /// `[alerts]`.
    pub alerts: AlertConfig,
    /// `[serve]`.
    pub serve: ServeConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_directory: STATE_DIRECTORY.into(),
            interval: Time::seconds(10),
            host: None,
            scope: Vec::new(),
            tracing: TracingConfig::default(),
            verdict: VerdictConfig::default(),
            history: StoreConfig::default(),
            evidence: EvidenceConfig::default(),
            alerts: AlertConfig::default(),
            serve: ServeConfig::default(),
        }
    }
}

/// `[tracing]`: whom to trace, how closely, and for how long.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// Whether anything is traced at all; without, memory is watched and nothing else.
    pub enabled: bool,
    /// Exact tracing is for processes that it is predicted to slow down no more than that many times.
    pub max_slowdown: f64,
    /// Likewise light tracing.
    pub max_slowdown_light: f64,
    /// Whether the slowdown is measured before tracing (some seconds of probes, some 20 ms of exact tracing in all). Without, nothing is
    /// traced exactly.
    pub measure: bool,
    /// After how long light tracing is judged to be enough or not.
    pub light_for: Time,
    /// Which share of the growth known leaks must explain for light tracing to be enough.
    pub explained_enough: Ratio,
    /// Longest time that anybody is traced without a pause.
    pub max_duration: Time,
    /// The pause.
    pub cool_down: Time,
    /// How many are traced at once.
    pub at_once: usize,
    /// Between two reports of a trace.
    pub interval: Time,
    /// Age from which a block is a survivor; one interval if not given.
    pub min_age: Option<Time>,
    /// Whether a target may be written to (exact tracing of Python).
    pub target_writes: bool,
    /// Whether no process outside of the target may pay anything.
    pub strict_scope: bool,
    /// Cap of each trace's live map, blocks of some 105 bytes.
    pub max_live_blocks: u32,
    /// Share of the memory limit from which on a process is traced at once, and its evidence written.
    pub near_limit: Ratio,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_slowdown: 1.1,
            max_slowdown_light: 1.5,
            measure: true,
            // Longer than it takes to call anything a leak: before that nothing is explained.
            light_for: Time::seconds(15 * 60),
            explained_enough: Ratio(0.5),
            max_duration: Time::seconds(30 * 60),
            cool_down: Time::seconds(4 * 3600),
            at_once: 3,
            interval: Time::seconds(20),
            min_age: None,
            target_writes: true,
            strict_scope: false,
            max_live_blocks: 1_000_000,
            near_limit: Ratio(0.9),
        }
    }
}

/// `[verdict]`: when a site is called a leak.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerdictConfig {
    /// After being traced for at least that long.
    pub least_watched: Time,
    /// And with that many readings.
    pub least_readings: usize,
    /// And with that confidence.
    pub least_confidence: Ratio,
    /// And if it grows by that much in an hour.
    pub least_growth: Size,
    /// A process's memory grows if it has gained at least that much over one of the stretches: less comes and goes by itself.
    pub least_memory: Size,
    /// The stretches that memory is judged over: minutes, hours, days.
    pub stretches: [Time; 3],
}

impl Default for VerdictConfig {
    fn default() -> Self {
        let options = verdict::Options::default();
        Self {
            least_watched: Time::seconds(options.least_watched_s as u64),
            least_readings: options.least_readings,
            least_confidence: Ratio(options.least_confidence),
            least_growth: Size(options.least_bytes_per_hour as u64),
            least_memory: Size(options.least_memory_bytes),
            stretches: options.stretches_s.map(|seconds| Time::seconds(seconds as u64)),
        }
    }
}

impl From<&VerdictConfig> for verdict::Options {
    fn from(config: &VerdictConfig) -> Self {
        Self {
            least_watched_s: config.least_watched.0.as_secs_f64(),
            least_readings: config.least_readings,
            least_confidence: config.least_confidence.0,
            least_bytes_per_hour: config.least_growth.0 as f64,
            least_memory_bytes: config.least_memory.0,
            stretches_s: config.stretches.map(Time::as_secs_f64),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("could not read the configuration {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// It says what cannot be; one sentence per mistake.
    #[error("the configuration {} is not right:\n{}", path.display(), mistakes.join("\n"))]
    Mistaken {
        /// The file.
        path: PathBuf,
        /// The mistakes.
        mistakes: Vec<String>,
    },
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// If it cannot be read, is no TOML, or says what cannot be.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: String| ConfigError::Unreadable { path: path.to_owned(), why };
        let facts = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !facts.is_file() || facts.len() > MAX_FILE {
            return Err(unreadable(format!("it is no file of at most {} KiB", MAX_FILE >> 10)));
        }
        let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Mistaken { path: path.to_owned(), mistakes })
    }

    /// The same from text.
    ///
    /// # Errors
    /// One sentence per mistake.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let config: Self = toml::from_str(text).map_err(|error| vec![mistake::sentence(text, &error)])?;
        let mistakes = config.mistakes();
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// What cannot be, or would do nothing.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.scope.is_empty() {
            mistakes.push(
                "nobody is watched: add a [[scope]] with a pattern of names, or with all = true".into(),
            );
        }
        if self.interval.0.as_millis() < 200 {
            mistakes.push(format!("interval = \"{}\" is too short: the least is 200ms", self.interval));
        }
        if !self.state_directory.is_absolute() {
            mistakes
                .push(format!("state_directory = {:?} does not begin with a slash", self.state_directory));
        }
        mistakes.extend(self.tracing.mistakes());
        mistakes.extend(Scopes::new(&self.scope).err().map(|error| error.to_string()));
        mistakes.extend(self.history.fault().map(|fault| format!("history.{fault}")));
        mistakes.extend(self.alerts.mistakes());
        mistakes.extend(self.serve.mistakes());
        mistakes
    }

    /// Where the history lies.
    pub fn history_file(&self) -> PathBuf {
        self.state_directory.join("history.db")
    }

    /// The rules of its alerts.
    pub fn rules(&self) -> Rules {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Rules::new(&self.alerts, self.host.as_deref().unwrap_or(&own), &self.history_file())
    }

    /// Where evidence lies.
    pub fn evidence_directory(&self) -> PathBuf {
        self.state_directory.join("evidence")
    }
}

impl TracingConfig {
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for (key, value) in
            [("max_slowdown", self.max_slowdown), ("max_slowdown_light", self.max_slowdown_light)]
        {
            if value.is_nan() || value < 1.0 {
                mistakes.push(format!(
                    "tracing.{key} = {value} is less than 1: 1.1 allows work to take 1.1 times as long"
                ));
            }
        }
        if self.interval.0.as_millis() < 100 {
            mistakes
                .push(format!("tracing.interval = \"{}\" is too short: the least is 100ms", self.interval));
        }
        if self.max_duration < self.interval {
            mistakes.push(
                "tracing.max_duration is shorter than tracing.interval: nothing would be reported".into(),
            );
        }
        if self.at_once == 0 {
            mistakes.push("tracing.at_once = 0 traces nobody: write enabled = false to mean that".into());
        }
        if self.max_live_blocks == 0 {
            mistakes.push("tracing.max_live_blocks must be at least 1".into());
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> String {
        Config::parse(&format!("{text}\n[[scope]]\nname = \"all\"\nall = true\n")).unwrap_err().join("\n")
    }

    #[test]
    fn a_scope_is_all_that_is_needed() {
        let config = Config::parse("[[scope]]\nname = \"all\"\nall = true\n").unwrap();
        assert_eq!(config.tracing, TracingConfig::default());
        assert!(Config::parse("").unwrap_err()[0].contains("[[scope]]"));
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_with_the_one_that_was_meant() {
        assert!(mistakes("[tracing]\nmax_slowdwn = 2.0\n").contains("max_slowdown"));
        assert!(mistakes("intervall = \"10s\"\n").contains("\"interval\""));
    }

    #[test]
    fn wrong_types_and_values_are_told_with_their_line() {
        let text = mistakes("interval = 10\n");
        assert!(text.contains("line 1") && text.contains("10s"), "{text}");
        assert!(mistakes("[tracing]\nat_once = 0\n").contains("enabled = false"));
        assert!(mistakes("[tracing]\nmax_slowdown = nan\n").contains("less than 1"));
        assert!(mistakes("state_directory = \"here\"\n").contains("slash"));
        assert!(mistakes("[tracing\n").contains("line 1"));
    }
}
