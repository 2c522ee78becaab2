//! A leaktrace process, or a rival's: started, waited for until it traces, and ended as a user would.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};

use crate::{command, headers};

/// What leaktrace says on stderr once the gate of a target is open.
const READY: &str = "leaktrace: tracing ";

/// How long a tracer may take to attach or to detach.
const LIMIT: Duration = Duration::from_secs(60);

/// A tracer that is attached.
pub struct Tracer {
    child: Child,
    name: String,
    /// From start to the first moment at which it traces.
    pub attach_time: Duration,
}

impl Tracer {
    /// Starts `leaktrace trace -p PID ...`; its reports go to a file.
    pub fn leaktrace(binary: &Path, pid: u32, options: &[&str], reports: &Path) -> Result<Self> {
        Self::leaktrace_of_many(binary, &[&pid.to_string()], options, reports)
    }

    /// The same for many processes; waits until all of them are traced.
    pub fn leaktrace_of_many(binary: &Path, pids: &[&str], options: &[&str], reports: &Path) -> Result<Self> {
        let output = File::create(reports).with_context(|| format!("cannot create {}", reports.display()))?;
        let mut command = Command::new(binary);
        command.args(["trace", "-p", &pids.join(",")]).args(options);
        let begun = Instant::now();
        let mut child =
            command.stdout(output).stderr(Stdio::piped()).spawn().context("cannot start leaktrace")?;
        let lines = lines_of(&mut child)?;
        let (mut said, mut traced) = (Vec::new(), 0);
        while let Ok(line) = lines.recv_timeout(LIMIT) {
            traced += line.strip_prefix(READY).map_or(0, processes);
            if traced >= pids.len() {
                return Ok(Self { child, name: "leaktrace".to_owned(), attach_time: begun.elapsed() });
            }
            said.push(line);
        }
        command::stop(&mut child);
        bail!("leaktrace did not begin to trace; it said: {}", said.join(" | "))
    }

    /// Starts bcc's memleak on a process. It does not say when it is attached, so its probes are counted.
    pub fn memleak(pid: u32, reports: &Path) -> Result<Self> {
        let program =
            command::find("memleak-bpfcc").context("no memleak: run `cargo xtask setup --for bench`")?;
        let output = File::create(reports).with_context(|| format!("cannot create {}", reports.display()))?;
        let errors = output.try_clone().context("cannot share the output file")?;
        let begun = Instant::now();
        // One report an hour: none while it is measured.
        let mut command = Command::new(program);
        command.args(["-p", &pid.to_string(), "3600"]).stdout(output).stderr(errors).stdin(Stdio::null());
        let mut tracer = Self {
            child: command.spawn().context("cannot start memleak")?,
            name: "memleak".to_owned(),
            attach_time: Duration::ZERO,
        };
        tracer.wait_for_probes(reports)?;
        tracer.attach_time = begun.elapsed();
        Ok(tracer)
    }

    /// Waits until the number of open probes has not changed for a second.
    fn wait_for_probes(&mut self, reports: &Path) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let (mut last, mut since) = (0, Instant::now());
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(reports).unwrap_or_default();
                bail!("{} ended ({status}): {}", self.name, said.lines().last().unwrap_or("it said nothing"));
            }
            let probes = probes(self.pid());
            if probes != last {
                (last, since) = (probes, Instant::now());
            } else if probes > 0 && since.elapsed() > Duration::from_secs(1) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("{} attached no probes within {} s", self.name, LIMIT.as_secs())
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by Ctrl-C and returns how long that took.
    pub fn finish(mut self) -> Result<Duration> {
        let begun = Instant::now();
        command::signal(&self.child, libc::SIGINT);
        let status = self.wait(LIMIT)?;
        if !status.success() && self.name == "leaktrace" {
            bail!("leaktrace ended with {status} after Ctrl-C");
        }
        Ok(begun.elapsed())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = command::wait_for(&mut self.child, limit)?;
        ended.with_context(|| format!("{} did not end within {} s", self.name, limit.as_secs()))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            command::stop(&mut self.child);
        }
    }
}

/// How many processes a line says to be traced: "4711 (python3): ...", "500 processes ..." or "2 more processes ...".
fn processes(line: &str) -> usize {
    match line.split_once(' ') {
        Some((count, rest)) if rest.trim_start_matches("more ").starts_with("process") => {
            count.parse().unwrap_or(0)
        }
        _ => 1,
    }
}

/// The lines that a child prints to stderr; they are read to the end so that it never blocks.
fn lines_of(child: &mut Child) -> Result<Receiver<String>> {
    let stderr = child.stderr.take().context("no stderr")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody listens once tracing has begun.
            let _ = sender.send(line);
        }
    });
    Ok(receiver)
}

/// How many perf events and BPF links a process holds.
fn probes(pid: u32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("perf") || link.to_string_lossy().contains("bpf_link"))
        .count()
}

/// How often the BPF programs of a process have run, by the kernel's own count (which must be switched on).
pub fn program_runs(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return 0 };
    let infos = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    infos.filter_map(|info| runs_of(&info)).collect::<std::collections::BTreeMap<_, _>>().into_values().sum()
}

/// The ID and run count in a BPF program's `fdinfo`; the ID keeps a program with two descriptors from counting twice.
fn runs_of(info: &str) -> Option<(u64, u64)> {
    let field = |name| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("prog_id:")?, field("run_cnt:")?))
}

/// CPU time of a process so far, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the tracer is gone")?;
    let ticks = ticks(&stat).with_context(|| format!("/proc/{pid}/stat has an unknown form"))?;
    // SAFETY: takes a number and returns one.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run are few")]
    Ok(ticks as f64 / per_second as f64)
}

/// User and system time in a `stat` line; the name in parentheses may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    Ok(kilobytes.context("no VmRSS in the process's status")? * 1024)
}

/// Switches the kernel's count of BPF program runs on, and back off at the end if it was off.
pub struct RunCounting {
    was: String,
}

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl RunCounting {
    /// Switches it on.
    pub fn start() -> Result<Self> {
        let was = fs::read_to_string(STATS).with_context(|| format!("cannot read {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("cannot write {STATS}"))?;
        Ok(Self { was })
    }
}

impl Drop for RunCounting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATS, self.was.trim()) {
            eprintln!("xtask: cannot restore {STATS}: {error}");
        }
    }
}

/// Whether memleak can run here: it compiles its BPF programs against a kernel header tree.
pub fn memleak_headers() -> Result<headers::Borrowed> {
    headers::borrow()
}

/// What kind of machine this is, for reading the numbers: the cost of a trap depends on it.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, m)| m);
    let virtual_machine = cpu.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor"));
    let kind = if virtual_machine { "virtual machine" } else { "bare metal" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{kind}, {model}, {cores} cores, kernel {}, {}", kernel.trim(), env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_counts_are_read_from_fdinfo() {
        let info = "pos:\t0\nprog_type:\t2\nprog_id:\t7\nrun_time_ns:\t9\nrun_cnt:\t1234\n";
        assert_eq!(runs_of(info), Some((7, 1234)));
        assert_eq!(runs_of("pos:\t0\nmap_id:\t7\n"), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "1 (a) b) c) S 1 1 1 0 -1 4 5 6 7 8 30 12 0 0 20";
        assert_eq!(ticks(stat), Some(42));
    }
}
