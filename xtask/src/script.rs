//! A Python script of `leaktrace/tests/targets/python`, running in the virtual environment: commands go in as lines, answers
//! come out as lines of JSON.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, virtual_environment, workspace};

/// A running script.
pub struct Script {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Script {
    /// Where a script lies.
    pub fn path(name: &str) -> PathBuf {
        workspace::root().join("leaktrace/tests/targets/python").join(name)
    }

    /// Starts it: the interpreter, what comes between it and the script, the script and its arguments.
    pub fn start(before: &[&str], name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(virtual_environment::python()?);
        command.args(before).arg(Self::path(name)).args(arguments);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Result<Self> {
        let of_python = |name: &OsString| name.to_string_lossy().starts_with("PYTHON");
        for (name, _) in std::env::vars_os().filter(|(name, _)| of_python(name)) {
            command.env_remove(name);
        }
        let text = command::describe(command);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("cannot start `{text}`"))?;
        let orders = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut script = Self { child, orders, answers };
        script.await_ready().with_context(|| format!("`{text}` did not start"))?;
        Ok(script)
    }

    /// Reads up to the line that says that the script listens; whoever runs it may print something before.
    fn await_ready(&mut self) -> Result<()> {
        while self.line()? != "ready" {}
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("cannot read the script's answer")?;
        if line.is_empty() {
            bail!("it ended");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command and reads the answer.
    pub fn ask(&mut self, order: &str) -> Result<Value> {
        writeln!(self.orders, "{order}").with_context(|| format!("the script is gone before `{order}`"))?;
        let answer = self.line()?;
        serde_json::from_str(&answer).with_context(|| format!("answer to `{order}`: {answer}"))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        command::stop(&mut self.child);
    }
}

/// Orders for the Flask service, until dropped.
pub struct Load(Script);

impl Load {
    /// Begins: so many connections, and a pause between two requests of each, in seconds.
    pub fn start(service: &mut Script, connections: usize, pause: f64) -> Result<Self> {
        let port = service.ask("port")?.to_string();
        Script::start(&[], "load.py", &[&port, &connections.to_string(), &pause.to_string()]).map(Self)
    }

    /// Requests that were answered so far, and the script's clock in seconds; a request that failed is an error.
    pub fn count(&mut self) -> Result<(f64, f64)> {
        let count = self.0.ask("count")?;
        if count["failed"] != 0 {
            bail!("requests failed: {count}");
        }
        let (done, seconds) = (count["done"].as_f64(), count["seconds"].as_f64());
        done.zip(seconds).with_context(|| format!("the load generator answered {count}"))
    }
}

/// The number of the line in a script that ends in `# mark: NAME`.
pub fn marked_line(script: &Path, name: &str) -> Result<usize> {
    let text =
        std::fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?;
    let mark = format!("# mark: {name}");
    let found = text.lines().position(|line| line.ends_with(&mark));
    found.map(|index| index + 1).with_context(|| format!("{} has no line {mark:?}", script.display()))
}
