//! A program under measurement (`xtask/bench/workload.c`, `depth.c`) and the lines that are exchanged with it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, initramfs, program, workspace};

/// A running workload.
pub struct Workload {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// One window of allocating and freeing.
pub struct Pairs {
    /// How many in all threads.
    pub count: u64,
    /// What one costs the thread that makes it.
    pub nanoseconds: f64,
}

impl Workload {
    /// Compiles and starts it.
    pub fn start() -> Result<Self> {
        let output = workspace::cache("bench")?;
        let source = workspace::root().join("xtask/bench/workload.c");
        let built = program::compile(&source, &output)?;
        Self::spawn(built.first().context("the workload was not built")?)
    }

    /// Starts a program that takes orders and answers them.
    pub fn spawn(file: &Path) -> Result<Self> {
        Self::spawn_with(file, &[])
    }

    /// The same with arguments.
    pub fn spawn_with(file: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(file);
        command.args(arguments);
        command.env("LD_LIBRARY_PATH", own_libc(file)?);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.with_context(|| format!("cannot start {}", file.display()))?;
        let orders = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, orders, answers })
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Allocates and frees in a loop.
    pub fn pairs(&mut self, threads: usize, size: usize, window: Duration) -> Result<Pairs> {
        self.ask_pairs(&format!("pairs {threads} {size} {}", window.as_millis()))
    }

    /// Does so at a depth of calls, always the same ones (`cached`) or through every return address in turn (`cold`).
    pub fn depth(&mut self, depth: usize, paths: &str, window: Duration) -> Result<Pairs> {
        self.ask_pairs(&format!("depth {depth} {paths} {}", window.as_millis()))
    }

    fn ask_pairs(&mut self, order: &str) -> Result<Pairs> {
        let answer = self.ask(order)?;
        let mut words = answer.strip_prefix("pairs ").unwrap_or_default().split(' ');
        let count = words.next().and_then(|word| word.parse().ok());
        let nanoseconds = words.next().and_then(|word| word.parse().ok());
        match (count, nanoseconds) {
            (Some(count), Some(nanoseconds)) => Ok(Pairs { count, nanoseconds }),
            _ => bail!("the workload answered {answer:?}"),
        }
    }

    /// Makes it own so many live blocks.
    pub fn live(&mut self, blocks: u64, size: usize) -> Result<()> {
        let answer = self.ask(&format!("live {blocks} {size}"))?;
        if answer != format!("live {blocks}") {
            bail!("the workload answered {answer:?}");
        }
        Ok(())
    }

    /// Starts the thread that reads the clock.
    pub fn clock_start(&mut self) -> Result<()> {
        self.ask("clock start").map(drop)
    }

    /// Ends that thread and returns the longest gap between two of its readings.
    pub fn clock_stop(&mut self) -> Result<Duration> {
        let answer = self.ask("clock stop")?;
        let nanoseconds = answer.strip_prefix("clock ").and_then(|word| word.parse().ok());
        Ok(Duration::from_nanos(nanoseconds.with_context(|| format!("the workload answered {answer:?}"))?))
    }

    /// Gives an order whose answer has several lines, the last of which begins so.
    pub fn ask_until(&mut self, order: &str, last: &str) -> Result<()> {
        let mut answer = self.ask(order)?;
        while !answer.starts_with(last) {
            answer = self.next_line(order)?;
        }
        Ok(())
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders, "{order}").with_context(|| format!("the workload is gone before `{order}`"))?;
        self.next_line(order)
    }

    fn next_line(&mut self, order: &str) -> Result<String> {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("cannot read the workload's answer")?;
        if answer.is_empty() {
            bail!("the workload died at `{order}`");
        }
        Ok(answer.trim_end().to_owned())
    }
}

/// A directory with a copy of the C library for this program alone. Every probe on a file is visited at every hit, in
/// whichever process, so another tracer on this machine would be measured too; and bcc 0.26 cannot place a probe
/// where another tracer has one ("ref_ctr_offset mismatch" in the kernel's log).
fn own_libc(program: &Path) -> Result<PathBuf> {
    let libraries = initramfs::libraries(program);
    let found = libraries.iter().find(|path| path.file_name().is_some_and(|name| name == "libc.so.6"));
    let libc = found.context("the workload loads no libc.so.6")?;
    let directory = workspace::cache("bench/lib")?;
    let copy = directory.join("libc.so.6");
    if !copy.exists() {
        fs::copy(libc, &copy).with_context(|| format!("cannot copy {}", libc.display()))?;
    }
    Ok(directory)
}

impl Drop for Workload {
    fn drop(&mut self) {
        command::stop(&mut self.child);
    }
}
