//! Who a process is: name, command line, start time, namespaces. PIDs are reused, so a process is known by its PID and
//! its start time together.

use std::fs;
use std::path::PathBuf;

use super::status::{self, RunState, SeccompMode};
use super::{ProcessError, directory, read_prefix};

/// How much of a command line is kept.
const MAX_COMMAND: usize = 4096;

/// Who a process is. Taken once; only the PID and the start time never change.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// PID as this process sees it.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Start time in seconds since the Unix epoch.
    pub start_unix_s: f64,
    /// Short name (`comm`).
    pub name: String,
    /// Command line, at most 4 KiB of it; empty for kernel threads and zombies.
    pub command: Vec<String>,
    /// Whether it runs.
    pub state: RunState,
    /// A thread of the kernel: nothing in user space.
    pub kernel_thread: bool,
    /// Whether the PID names a process and not one of its other threads.
    pub thread_group_leader: bool,
    /// The PID in each PID namespace, outermost first.
    pub namespace_pids: Vec<u32>,
    /// Effective user.
    pub uid: u32,
    /// Seccomp mode.
    pub seccomp: SeccompMode,
    /// Threads.
    pub threads: u32,
    /// Where `/proc/PID/exe` points, as the target's mount namespace names it; `None` if it may not be read.
    pub executable: Option<PathBuf>,
    /// The directory it works in, named likewise; `None` if it may not be read.
    pub directory: Option<PathBuf>,
}

impl Identity {
    /// Reads it. The start time is read first and last: if it differs, the PID was reused in between.
    pub fn read(pid: u32) -> Result<Self, ProcessError> {
        let stat = status::read_stat(pid)?;
        let status = status::read(pid)?;
        let command = read_prefix(pid, "cmdline", MAX_COMMAND)?;
        let executable = fs::read_link(directory(pid).join("exe")).ok();
        let working_in = fs::read_link(directory(pid).join("cwd")).ok();
        if !is_same_process(pid, stat.start_ticks) {
            return Err(ProcessError::Gone { pid });
        }
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            start_unix_s: start_unix_s(stat.start_ticks),
            name: status.name,
            command: parse_command(&command),
            state: status.state,
            kernel_thread: stat.kernel_thread,
            thread_group_leader: status.tgid == pid,
            namespace_pids: status.namespace_pids,
            uid: status.uid,
            seccomp: status.seccomp,
            threads: status.threads,
            executable,
            directory: working_in,
        })
    }
}

/// Whether `pid` is still the process that started at `start_ticks`. A zombie still is.
pub fn is_same_process(pid: u32, start_ticks: u64) -> bool {
    status::read_stat(pid).is_ok_and(|stat| stat.start_ticks == start_ticks)
}

/// Splits `cmdline` at its zero bytes. A process that rewrites its title leaves one piece, often padded.
pub fn parse_command(bytes: &[u8]) -> Vec<String> {
    let trimmed = bytes.iter().rposition(|&byte| byte != 0).and_then(|last| bytes.get(..=last));
    let Some(trimmed) = trimmed else { return Vec::new() };
    trimmed.split(|&byte| byte == 0).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

/// Seconds since the Unix epoch; 0 if `/proc/stat` does not say when the machine was started.
fn start_unix_s(start_ticks: u64) -> f64 {
    // Fits in 53 bits for millions of years.
    boot_unix_s().map_or(0.0, |boot| boot as f64 + seconds(start_ticks))
}

/// When the machine was started, seconds since the Unix epoch, as far as `/proc/stat` says.
pub fn boot_unix_s() -> Option<u64> {
    parse_boot_time(&fs::read_to_string("/proc/stat").ok()?)
}

/// Clock ticks of `/proc` as seconds.
pub fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64
}

fn parse_boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn a_command_line_is_split_and_padding_is_dropped() {
        assert_eq!(parse_command(b"python3\0-m\0\0app\0"), ["python3", "-m", "", "app"]);
        assert_eq!(parse_command(b"nginx: worker process\0\0\0\0"), ["nginx: worker process"]);
        assert!(parse_command(b"").is_empty());
        assert!(parse_command(b"\0\0").is_empty());
    }

    #[test]
    fn the_boot_time_is_found() {
        assert_eq!(parse_boot_time("cpu 1 2\nbtime 1700000000\nprocesses 1\n"), Some(1_700_000_000));
        assert_eq!(parse_boot_time("cpu 1 2\n"), None);
    }

    #[test]
    fn a_child_is_known_until_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").current_dir("/usr").spawn().expect("sleep");
        let identity = Identity::read(child.id()).expect("child");
        assert_eq!(identity.directory.as_deref(), Some(std::path::Path::new("/usr")));
        assert!(!identity.kernel_thread && identity.thread_group_leader);
        assert!(is_same_process(child.id(), identity.start_ticks));
        assert!(!is_same_process(child.id(), identity.start_ticks + 1));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - identity.start_unix_s).abs() < 3600.0, "{now} {}", identity.start_unix_s);
        child.kill().expect("kill");
        child.wait().expect("reap");
        assert!(!is_same_process(child.id(), identity.start_ticks));
        assert!(Identity::read(child.id()).expect_err("reaped").is_gone());
    }

    #[test]
    fn a_zombie_is_recognised() {
        let mut child = Command::new("cat").stdin(Stdio::null()).spawn().expect("cat");
        let watch = super::super::ExitWatch::open(child.id()).expect("pidfd");
        assert!(watch.wait(Some(std::time::Duration::from_secs(20))).expect("wait"));
        let identity = Identity::read(child.id()).expect("zombies have an identity");
        assert_eq!(identity.state, RunState::Zombie);
        assert!(identity.command.is_empty());
        child.wait().expect("reap");
    }
}
