//! The built tracer, run as a child process: its arguments, signals, output and exit code.

use super::{Outcomes, Report, longest_wait};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

/// The binary under test.
pub fn binary() -> PathBuf {
    env::var_os("LEAKTRACE_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_leaktrace").into(), PathBuf::from)
}

/// How a tracer is started.
pub struct TracerBuilder {
    command: Command,
}

impl TracerBuilder {
    /// Adds arguments.
    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Adds an argument that need not be text.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// Runs `change` in the child before the tracer begins: identity, limits, namespaces.
    pub fn before(mut self, change: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        // SAFETY: the closures of these tests make plain system calls only.
        unsafe { self.command.pre_exec(change) };
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Outcomes<Tracer> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{:?}: {e}", self.command))?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let (sender, stderr_lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let (close_stdout, closed) = channel::<()>();
        let (sender, stdout_text) = channel();
        std::thread::spawn(move || sender.send(read_until_closed(stdout, &closed)).ok());
        Ok(Tracer { child, stdout: stdout_text, close_stdout, stderr_lines, stderr: String::new() })
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcomes<Outcome> {
        self.start()?.await_end()
    }
}

/// Reads everything until the end, or until told to close the pipe.
fn read_until_closed(mut pipe: impl Read, closed: &Receiver<()>) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
        if closed.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A tracer that is running.
pub struct Tracer {
    child: Child,
    stdout: Receiver<String>,
    close_stdout: std::sync::mpsc::Sender<()>,
    stderr_lines: Receiver<String>,
    stderr: String,
}

impl Tracer {
    /// `leaktrace` with nothing but what is added.
    pub fn bare() -> TracerBuilder {
        Self::binary_at(binary())
    }

    /// Another program in its place: a copy, or one that starts it.
    pub fn binary_at(program: impl Into<PathBuf>) -> TracerBuilder {
        TracerBuilder { command: Command::new(program.into()) }
    }

    /// `leaktrace trace --format json`.
    pub fn json() -> TracerBuilder {
        Self::bare().args(&["trace", "--format", "json"])
    }

    /// Traces one process.
    pub fn of(pid: u32) -> TracerBuilder {
        Self::json().arg("-p").arg(pid.to_string())
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the gate of a target is open, or those of many are; returns what is said of that.
    pub fn await_tracing(&mut self) -> Outcomes<String> {
        self.await_stderr("leaktrace: tracing ")
    }

    /// Waits for a line on stderr that begins so; its end before that is an error.
    pub fn await_stderr(&mut self, beginning: &str) -> Outcomes<String> {
        self.await_line(beginning, |line| line.starts_with(beginning))
    }

    /// Waits for a line on stderr that has all of these in it.
    pub fn await_said(&mut self, words: &[&str]) -> Outcomes<String> {
        self.await_line(&words.join(" ... "), |line| words.iter().all(|word| line.contains(word)))
    }

    fn await_line(&mut self, beginning: &str, wanted: impl Fn(&str) -> bool) -> Outcomes<String> {
        let deadline = Instant::now() + longest_wait();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr_lines.recv_timeout(left) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.stderr.push_str(&line);
                    self.stderr.push('\n');
                    if found {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("waited for {beginning:?}: {}", self.stderr));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("ended before {beginning:?}: {}", self.stderr));
                }
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.pid()).unwrap_or(-1);
        // SAFETY: the child has not been waited for, so the PID is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Asks for reports, which it writes to `file` (`-o`), until one is as it should be.
    pub fn await_report(&self, file: &Path, good: impl Fn(&Report) -> bool) -> Outcomes<Report> {
        let deadline = Instant::now() + longest_wait();
        let mut last = String::new();
        while Instant::now() < deadline {
            last = self.next_report(file, &last, deadline);
            if let Some(report) = serde_json::from_str(&last).ok().filter(|report| good(report)) {
                return Ok(report);
            }
        }
        Err(format!("no report is as it should be; the last: {last:.2000}"))
    }

    /// Asks for one, and waits for it: asked again and again, a tracer would do nothing else.
    fn next_report(&self, file: &Path, last: &str, deadline: Instant) -> String {
        self.signal(libc::SIGUSR1);
        let mut text = String::new();
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            text = fs::read_to_string(file).unwrap_or_default();
            if text != last {
                break;
            }
        }
        text
    }

    /// Takes the reader of its stdout away, after whatever it writes next.
    pub fn close_stdout(&self) {
        self.close_stdout.send(()).ok();
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt_and_finish(self) -> Outcomes<Outcome> {
        self.signal(libc::SIGINT);
        self.await_end()
    }

    /// Waits until it has ended.
    pub fn await_end(self) -> Outcomes<Outcome> {
        self.await_end_within(longest_wait())
    }

    /// Waits until it has ended, for a bounded time.
    pub fn await_end_within(mut self, limit: Duration) -> Outcomes<Outcome> {
        let deadline = Instant::now() + limit;
        let status = loop {
            match self.child.try_wait().map_err(|e| format!("wait: {e}"))? {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    self.drain_stderr();
                    return Err(format!("the tracer does not end: {}", self.stderr));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // Bounded: a command that was left running may hold the pipe open for ever.
        let stdout = self.stdout.recv_timeout(longest_wait());
        let stdout = stdout.map_err(|_| "the tracer has ended, yet its stdout stays open")?;
        self.drain_stderr();
        let reports = stdout.lines().filter(|line| line.starts_with('{')).map(parse).collect();
        Ok(Outcome { status, stdout, stderr: std::mem::take(&mut self.stderr), reports })
    }

    /// What is left on stderr; its reader ends with the pipe, which a command's children may keep open.
    fn drain_stderr(&mut self) {
        while let Ok(line) = self.stderr_lines.recv_timeout(Duration::from_millis(200)) {
            self.stderr.push_str(&line);
            self.stderr.push('\n');
        }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Already gone in most tests; in a failing one it must not keep probes in a target that others look at.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// How a tracer ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status.
    pub status: ExitStatus,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// Every JSON object on stdout; other lines are a command's own output.
    pub reports: Outcomes<Vec<Report>>,
}

impl Outcome {
    /// The exit code, or minus the signal that ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// The last report, which must be the final one, of a tracer that ended well.
    pub fn final_report(&self) -> Outcomes<&Report> {
        if self.code() != 0 {
            return Err(format!("exit code {}: {}", self.code(), self.stderr));
        }
        let reports = self.reports.as_ref().map_err(Clone::clone)?;
        let last = reports.last().ok_or_else(|| format!("no report on stdout; stderr: {}", self.stderr))?;
        if last.reason.kind != "final" {
            return Err(format!("the last report was made for {:?}, not at the end", last.reason));
        }
        Ok(last)
    }
}

/// Reads one JSON report.
pub fn parse(line: &str) -> Outcomes<Report> {
    serde_json::from_str(line).map_err(|e| format!("{e}: {line:.400}"))
}
