//! gdb, attached to a target for as long as stops are collected. The script `backtrace.py` runs inside it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use serde_json::Value;

use super::stacks::Seen;
use crate::harness::{Outcomes, patience};

/// A gdb that is running.
pub struct Debugger {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What it said besides, for failures.
    chatter: String,
}

impl Debugger {
    /// Attaches to a process; `stops` of its stops will be collected.
    pub fn attach(pid: u32, stops: usize) -> Outcomes<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unwind/backtrace.py");
        let mut command = Command::new("gdb");
        // No settings of the user's, no symbols from the network, and nothing of its own running in the target's name.
        command.args([
            "-nx",
            "-batch",
            "-q",
            "-iex",
            "set debuginfod enabled off",
            "-iex",
            "set auto-load off",
        ]);
        command.arg("-p").arg(pid.to_string()).arg("-x").arg(script);
        command.env("LEAKTRACE_STOPS", stops.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("gdb: {e}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("gdb has no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut debugger = Self { child, stdin, lines, chatter: String::new() };
        match debugger.answer()? {
            answer if answer["attached"] == u64::from(pid) => Ok(debugger),
            other => Err(format!("gdb did not attach: {other}")),
        }
    }

    /// The next JSON object.
    fn answer(&mut self) -> Outcomes<Value> {
        let deadline = Instant::now() + patience();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .map_err(|e| format!("gdb: no answer: {e}\n{}", self.chatter))?;
            if line.starts_with('{') {
                return serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"));
            }
            self.chatter.push_str(&line);
            self.chatter.push('\n');
        }
    }

    /// Every stop, once all have been collected. The target stands still then.
    pub fn stops(&mut self) -> Outcomes<Vec<Seen>> {
        let mut stops = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < patience() {
            let answer = self.answer()?;
            if answer.get("done").is_some() {
                return Ok(stops);
            }
            if let Some(failure) = answer.get("failed") {
                return Err(format!("gdb, after {} stops: {failure}\n{}", stops.len(), self.chatter));
            }
            stops.push(serde_json::from_value(answer).map_err(|e| format!("gdb: {e}"))?);
        }
        Err(format!("gdb saw only {} stacks: does another tracer probe the same libraries?", stops.len()))
    }

    /// What gdb calls an address.
    pub fn name(&mut self, address: u64) -> Outcomes<String> {
        let stdin = self.stdin.as_mut().ok_or("gdb's stdin is closed")?;
        writeln!(stdin, "{address:#x}").map_err(|e| format!("gdb does not listen: {e}"))?;
        let answer = self.answer()?;
        Ok(answer["name"].as_str().unwrap_or("?").to_owned())
    }

    /// What gdb calls each of these addresses.
    pub fn names(&mut self, addresses: impl Iterator<Item = u64>) -> Outcomes<HashMap<u64, String>> {
        addresses.map(|address| Ok((address, self.name(address)?))).collect()
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        // It may be waiting for a stop that does not come.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
