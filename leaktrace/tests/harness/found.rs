//! What one command finds, as a user would type it: its text, and the same report for programs.

use super::{Outcomes, Process, Report, Tracer, longest_wait, service};
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

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

    /// `leaktrace trace TARGET --group-by line`, until this line is ranked first: however slow the machine is. It must
    /// still be first in the last report.
    pub fn once_ranked_first(target: &[&str], file: &str, line: u32) -> Outcomes<Self> {
        let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
        let [text, json] = ["report.txt", "report.json"].map(|name| directory.path().join(name));
        let tracer =
            Tracer::bare().args(&["trace", "--group-by", "line", "--interval", "500ms"]).args(target);
        let mut tracer = tracer.arg("-o").arg(&text).arg("-o").arg(&json).start()?;
        tracer.await_tracing()?;
        await_first(&tracer, &text, file, line)?;
        let outcome = tracer.interrupt_and_finish()?;
        let read = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let (text, json) = (read(&text)?, read(&json)?);
        let report = serde_json::from_str(&json).map_err(|e| format!("{e}: {json:.400}"))?;
        let found = Self { text, report, stderr: outcome.stderr };
        found.check_first(file, line)?;
        Ok(found)
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
    longest_wait()
}

/// Asks for reports until one ranks this line first.
fn await_first(tracer: &Tracer, text: &Path, file: &str, line: u32) -> Outcomes<()> {
    let deadline = Instant::now() + longest_wait();
    let wanted = Some((file.to_owned(), line));
    let mut last = String::new();
    while Instant::now() < deadline {
        tracer.signal(libc::SIGUSR1);
        sleep(Duration::from_millis(200));
        last = fs::read_to_string(text).unwrap_or_default();
        if service::ranked_first(&last) == wanted {
            return Ok(());
        }
    }
    Err(format!("{file}:{line} leaks, and is never ranked first:\n{last}"))
}
