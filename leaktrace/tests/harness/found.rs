//! What one command finds, as a user would type it: its text, and the same report for programs.

use super::{Outcomes, Process, Report, Tracer, patience, service};
use std::{fs, time::Duration};

/// The last report.
pub struct Found {
    /// As it was printed.
    pub text: String,
    /// For programs.
    pub report: Report,
    /// What was said beside it.
    pub stderr: String,
}

impl Found {
    /// `leaktrace trace TARGET --group-by line ...`, for so many seconds.
    pub fn by_one_command(target: &[&str], interval: &str, seconds: u32, options: &[&str]) -> Outcomes<Self> {
        assert!(seconds < 60, "found within a minute");
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let file = directory.path().join("report.json");
        let tracer = Tracer::bare().args(&["trace", "--group-by", "line", "--interval", interval]);
        let tracer = tracer.args(&["--duration", &format!("{seconds}s")]).args(target).args(options);
        let outcome = tracer.arg("-o").arg(&file).start()?.await_end_within(limit())?;
        if outcome.code() != 0 {
            return Err(format!("exit code {}: {}", outcome.code(), outcome.stderr));
        }
        let json = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let report = serde_json::from_str(&json).map_err(|e| format!("{e}: {json:.400}"))?;
        Ok(Self { text: outcome.stdout, report, stderr: outcome.stderr })
    }

    /// The process that was traced.
    pub fn process(&self) -> Outcomes<&Process> {
        self.report.only_process()
    }

    /// Fails unless the last report ranks this line first.
    pub fn check_first(&self, file: &str, line: u32) -> Outcomes<()> {
        let first = service::ranked_first(&self.text);
        if first.as_ref().is_some_and(|(found, at)| found == file && *at == line) {
            return Ok(());
        }
        Err(format!("{file}:{line} leaks, ranked first is {first:?}:\n{}{}", self.text, self.stderr))
    }
}

/// Tracing takes a fixed time here; beyond that, attaching and detaching.
fn limit() -> Duration {
    patience() * 3
}
