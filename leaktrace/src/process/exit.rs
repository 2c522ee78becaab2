//! The end of a process: awaiting it through a pidfd, which cannot be confused by a reused PID, and saying it in words.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{ProcessError, is_same_process};

/// Becomes readable (`POLLIN`) when the last thread of the process has ended; can be registered with an event loop.
#[derive(Debug)]
pub struct ExitWatch {
    pid: u32,
    pidfd: OwnedFd,
}

impl ExitWatch {
    /// Watches whatever process has that PID now.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcessError::Gone { pid })?;
        let failed = |error: Errno| ProcessError::from_io(pid, "the pidfd", error.into());
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(failed)?;
        Ok(Self { pid, pidfd })
    }

    /// Watches the process with that PID which started at `start_ticks`, or says that it is gone.
    pub fn open_same(pid: u32, start_ticks: u64) -> Result<Self, ProcessError> {
        let watch = Self::open(pid)?;
        // Checked after opening: whatever the pidfd refers to cannot change from here on.
        if is_same_process(pid, start_ticks) { Ok(watch) } else { Err(ProcessError::Gone { pid }) }
    }

    /// PID as this process sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended. A zombie has.
    pub fn has_ended(&self) -> bool {
        self.wait(Some(Duration::ZERO)).unwrap_or(false)
    }

    /// Waits at most that long (`None`: for ever) and says whether it has ended.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for ExitWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// How a process ended, where the kernel tells only its parent.
pub const ENDED_UNKNOWN: &str = "ended";

/// How a process ended, from a wait status (`waitpid`), which is also the kernel's own exit code:
/// "exited with status 1", "killed by SIGKILL".
pub fn describe_wait_status(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exited with status {}", (status >> 8) & 0xff);
    }
    let core = if status & 0x80 == 0 { "" } else { " (core dumped)" };
    match signal_name(signal) {
        Some(name) => format!("killed by {name}{core}"),
        None => format!("killed by signal {signal}{core}"),
    }
}

/// `SIGKILL` for 9, and so on; `None` for real-time signals.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGSTKFLT => "SIGSTKFLT",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGIO => "SIGIO",
        libc::SIGPWR => "SIGPWR",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn the_watch_fires_when_the_process_ends_and_not_before() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let watch = ExitWatch::open(child.id()).expect("pidfd");
        assert!(!watch.has_ended());
        child.kill().expect("kill");
        assert!(watch.wait(Some(Duration::from_secs(20))).expect("poll"));
        let status = child.wait().expect("reap");
        assert_eq!(describe_wait_status(status.into_raw()), "killed by SIGKILL");
        assert!(watch.has_ended(), "still true after it was reaped");
    }

    #[test]
    fn a_process_that_is_not_there_cannot_be_watched() {
        assert!(ExitWatch::open(4_194_305).expect_err("no such PID").is_gone());
        assert!(ExitWatch::open(0).expect_err("not a PID").is_gone());
        let other_start = ExitWatch::open_same(std::process::id(), 1);
        assert!(other_start.expect_err("started at another time").is_gone());
    }

    #[test]
    fn every_way_to_end_has_words() {
        assert_eq!(describe_wait_status(0), "exited with status 0");
        assert_eq!(describe_wait_status(3 << 8), "exited with status 3");
        assert_eq!(describe_wait_status(libc::SIGSEGV | 0x80), "killed by SIGSEGV (core dumped)");
        assert_eq!(describe_wait_status(40), "killed by signal 40");
    }
}
