//! A running target program: commands go in as lines, answers come out as lines (see `targets/protocol.h`).

use super::{Expectation, Outcomes, longest_wait, program};
use serde::de::DeserializeOwned;
use std::{
    collections::HashMap,
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

/// How a target is started.
pub struct TargetBuilder {
    command: Command,
}

impl TargetBuilder {
    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Preloads a library from the directory of target programs.
    pub fn preload(mut self, library: &str) -> Outcomes<Self> {
        self.command.env("LD_PRELOAD", program::path(library)?);
        Ok(self)
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives every image of the process the same addresses.
    pub fn without_address_randomization(mut self) -> Self {
        // SAFETY: personality is async-signal-safe and touches only the calling process.
        unsafe {
            self.command.pre_exec(|| {
                libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
                Ok(())
            });
        }
        self
    }

    /// Starts it and waits until it is ready for commands.
    pub fn start(mut self) -> Outcomes<Target> {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{:?}: {e}", self.command))?;
        let stdin = child.stdin.take().ok_or("no stdin")?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut target = Target { child, stdin: Some(stdin), lines, addresses: HashMap::new() };
        target.await_ready()?;
        Ok(target)
    }
}

/// A target program that is running.
pub struct Target {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Addresses of functions that it named before it was ready.
    pub addresses: HashMap<String, u64>,
}

impl Target {
    /// Prepares a program by its built name.
    pub fn prepare(name: &str) -> Outcomes<TargetBuilder> {
        Ok(TargetBuilder { command: Command::new(program::path(name)?) })
    }

    /// Prepares any other command that speaks the protocol.
    pub fn command(command: Command) -> TargetBuilder {
        TargetBuilder { command }
    }

    /// Starts a program that takes no arguments.
    pub fn start(name: &str) -> Outcomes<Self> {
        Self::prepare(name)?.start()
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command.
    pub fn say(&mut self, command: &str) -> Outcomes<()> {
        let stdin = self.stdin.as_mut().ok_or("stdin is closed")?;
        writeln!(stdin, "{command}").map_err(|e| format!("target does not listen: {e}"))
    }

    fn line_until(&self, deadline: Instant) -> Outcomes<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(left).map_err(|e| format!("target {}: no answer: {e}", self.pid()))
    }

    /// Waits for the line `ready`, keeping the addresses said before it.
    pub fn await_ready(&mut self) -> Outcomes<()> {
        let deadline = Instant::now() + longest_wait();
        loop {
            let line = self.line_until(deadline)?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["ready"] => return Ok(()),
                ["address", name, address] => {
                    let digits = address.trim_start_matches("0x");
                    let address = u64::from_str_radix(digits, 16).map_err(|e| format!("{line}: {e}"))?;
                    self.addresses.insert(name.to_owned(), address);
                }
                _ => return Err(format!("unexpected line before `ready`: {line}")),
            }
        }
    }

    /// Reads the answer to a command.
    pub fn expectation(&self) -> Outcomes<Expectation> {
        self.expectation_within(longest_wait())
    }

    /// Reads the answer to a command that takes long.
    pub fn expectation_within(&self, limit: Duration) -> Outcomes<Expectation> {
        let deadline = Instant::now() + limit;
        let mut lines = Vec::new();
        loop {
            let line = self.line_until(deadline)?;
            let is_last = line.starts_with("total ");
            lines.push(line);
            if is_last {
                return Expectation::parse(lines.iter().map(String::as_str));
            }
        }
    }

    /// Sends a command and reads its answer.
    pub fn ask(&mut self, command: &str) -> Outcomes<Expectation> {
        self.say(command)?;
        self.expectation()
    }

    /// Sends a command whose answer is one line of JSON.
    pub fn ask_json<T: DeserializeOwned>(&mut self, command: &str) -> Outcomes<T> {
        self.say(command)?;
        let line = self.line_until(Instant::now() + longest_wait())?;
        serde_json::from_str(&line).map_err(|e| format!("{command}: {e}: {line:.400}"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.pid()).unwrap_or(-1);
        // SAFETY: the child has not been waited for, so the PID is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    /// Ends it at once.
    pub fn end(&mut self) {
        self.stdin = None;
        // It may be stopped, busy, or gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Ends it by closing its stdin.
    pub fn finish(&mut self) -> Outcomes<ExitStatus> {
        self.stdin = None;
        self.child.wait().map_err(|e| format!("wait: {e}"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.end();
    }
}
