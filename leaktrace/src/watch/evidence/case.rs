//! One case: its name and its files. What matters most is written first, in case the disk is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;
use serde_json::json;

use super::{Breakdown, Facts, shelf::sync, words};
use crate::{report::output::OutputFormat, watched::SubjectState};

/// Letters of a subject's name in the name of a directory.
const MAX_NAME: usize = 48;

/// Reports by the file that they go into.
const REPORTS: [(&str, OutputFormat); 5] = [
    ("report.txt", OutputFormat::Text),
    ("stacks.folded", OutputFormat::Folded),
    ("profile.pb.gz", OutputFormat::Pprof),
    ("report.json", OutputFormat::Json),
    ("flamegraph.svg", OutputFormat::Svg),
];

/// See the module.
pub struct Case<'a> {
    /// A word or two.
    pub reason: &'a str,
    /// The subject.
    pub state: &'a SubjectState,
    /// What happened.
    pub facts: &'a Facts,
    /// What its memory consists of.
    pub breakdown: Option<Breakdown>,
    /// Its cgroup's `memory.stat`.
    pub statistics: Option<String>,
}

/// A file that could not be written, and why.
pub type Missing = (&'static str, io::Error);

impl Case<'_> {
    /// `2026-11-21T19-30-00Z-web-oom-kill`
    pub fn name(&self) -> String {
        let at = Duration::try_from_secs_f64(self.facts.at_unix_s).unwrap_or_default();
        // Beyond the year 9999 it cannot be written.
        let at = UNIX_EPOCH + at.min(Duration::from_secs(253_402_300_799));
        let stamp = humantime::format_rfc3339_seconds(at).to_string().replace(':', "-");
        let parts = [self.state.subject.name.as_str(), self.reason].map(plain);
        let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        format!("{stamp}-{}", parts.join("-"))
    }

    /// Writes all files. Returns those that could not be.
    ///
    /// # Errors
    /// If none could.
    pub fn write(&self, directory: &Path) -> io::Result<Vec<Missing>> {
        let mut missing: Vec<Missing> = Vec::new();
        let mut written: Vec<&'static str> = Vec::new();
        let mut note = |name, outcome: io::Result<()>| match outcome {
            Ok(()) => written.push(name),
            Err(error) => missing.push((name, error)),
        };
        note("suspects.json", fill(directory, "suspects.json", |out| pretty(out, &self.suspects())));
        note("memory.json", fill(directory, "memory.json", |out| pretty(out, &self.memory())));
        for (name, format) in REPORTS {
            let Some(report) = &self.state.report else { break };
            note(name, fill(directory, name, |out| format.write(report, out)));
        }
        // A file without contents fits on any disk, and is worth nothing.
        let has_contents = |name: &&str| fs::metadata(directory.join(name)).is_ok_and(|data| data.len() > 0);
        if !written.iter().any(has_contents) {
            return Err(missing.pop().map_or_else(|| io::ErrorKind::WriteZero.into(), |(_, error)| error));
        }
        self.explain(directory, written, &mut missing);
        sync(directory);
        Ok(missing)
    }

    /// Writes the README, which comes last since it says what is missing. It is worth more than the last files.
    fn explain(&self, directory: &Path, mut written: Vec<&'static str>, missing: &mut Vec<Missing>) {
        loop {
            let readme = words::readme(self, missing);
            let Err(error) = fill(directory, "README", |out| out.write_all(readme.as_bytes())) else { break };
            match written.pop().filter(|_| !written.is_empty()) {
                Some(name) => {
                    let _ = fs::remove_file(directory.join(name));
                    missing.push((name, error));
                }
                None => {
                    missing.push(("README", error));
                    break;
                }
            }
        }
    }

    fn suspects(&self) -> serde_json::Value {
        let state = self.state;
        json!({
            "reason": self.reason,
            "at_unix_s": self.facts.at_unix_s,
            "subject": state.subject,
            "session": state.session,
            "report_at_unix_s": state.report.as_ref().map(|report| report.at_unix_s),
            "suspects": state.suspects,
            "unexplained": state.unexplained,
            "decision": state.decision,
        })
    }

    fn memory(&self) -> serde_json::Value {
        let state = self.state;
        json!({
            "reason": self.reason,
            "at_unix_s": self.facts.at_unix_s,
            "subject": state.subject,
            "kill": self.facts.kill,
            "latest": state.memory,
            "trend": state.trend,
            "readings": self.facts.memory,
            "process": self.breakdown,
            "cgroup_statistics": self.statistics.as_deref().map(statistics),
        })
    }
}

/// Letters, digits, dots and dashes of a name, so that it can be typed anywhere.
fn plain(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let letters = text.chars().map(|letter| if is_plain(letter) { letter } else { '-' });
    let letters: String = letters.take(MAX_NAME).collect();
    letters.trim_matches(['-', '.']).to_owned()
}

/// `memory.stat` as pairs, in its order.
fn statistics(text: &str) -> serde_json::Map<String, serde_json::Value> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse::<u64>().ok()?.into())))
        .collect()
}

fn pretty(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

/// Writes a file that is complete or not there.
fn fill(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let path = directory.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let filled = fill_file(&file, write);
    if filled.is_err() {
        // Gives its room back to those that come after it.
        let _ = fs::remove_file(&path);
    }
    filled
}

fn fill_file(file: &File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, file);
    write(&mut out)?;
    out.flush()?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Subject;

    #[test]
    fn a_name_has_the_moment_the_subject_and_the_reason_and_nothing_that_must_be_quoted() {
        let name = |subject: &str, at_unix_s: f64| {
            let subject = Subject { name: subject.to_owned(), ..Subject::default() };
            let state = SubjectState { subject, ..SubjectState::default() };
            let facts = Facts { at_unix_s, ..Facts::default() };
            Case { reason: "oom-kill", state: &state, facts: &facts, breakdown: None, statistics: None }
                .name()
        };
        assert_eq!(name("web", 1_795_289_400.9), "2026-11-21T19-30-00Z-web-oom-kill");
        assert_eq!(
            name("/system.slice/a b.service", 0.0),
            "1970-01-01T00-00-00Z-system.slice-a-b.service-oom-kill"
        );
        assert_eq!(name("../..", f64::NAN), "1970-01-01T00-00-00Z-oom-kill");
        assert!(name("x", f64::MAX).starts_with("9999-") || name("x", f64::MAX).starts_with("1970-"));
        assert!(name(&"x".repeat(4000), 0.0).len() < 100);
    }

    #[test]
    fn statistics_become_numbers() {
        let map = statistics("anon 4096\nfile x\n\nkernel 7\n");
        assert_eq!(serde_json::Value::Object(map), json!({ "anon": 4096, "kernel": 7 }));
    }
}
