//! Keeping every thread of a process from running, for as long as it takes to write more than one byte. Done by attaching as a
//! debugger does: the kernel lets all threads go by itself should we die meanwhile, and nobody but the process notices (its
//! parent sees no stop, no signal is sent). A thread that waits in the kernel waits on; some system calls report an interruption.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::directory;

/// Most threads of a process that is stopped.
const MAX_THREADS: usize = 16_384;
/// Between two looks at whether threads have stopped.
const PAUSE: Duration = Duration::from_micros(50);
/// What tells a stop that we asked for from one in which a signal is being delivered.
const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;

/// Why a process could not be stopped. It runs on.
#[derive(Debug, Error)]
pub enum StopError {
    /// The kernel refused.
    #[error("thread {tid} of process {pid} cannot be stopped: {source}{}", advice(source))]
    Refused {
        /// The process.
        pid: u32,
        /// Which thread.
        tid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread did not stop in time.
    #[error("not all threads of process {pid} stopped within {} ms", patience.as_millis())]
    TooSlow {
        /// The process.
        pid: u32,
        /// How long was waited.
        patience: Duration,
    },
    /// The process is gone.
    #[error("process {pid} ended")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// It has too many threads.
    #[error("process {pid} has more than {MAX_THREADS} threads")]
    TooMany {
        /// The process.
        pid: u32,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (a debugger may be attached to it, or CAP_SYS_PTRACE is missing)",
        _ => "",
    }
}

/// A process none of whose threads runs. They all go on when this is dropped.
#[derive(Debug)]
pub struct Stopped {
    pid: u32,
    /// By thread: whether it has stopped, and the signal that it was about to get.
    threads: BTreeMap<i32, Option<i32>>,
}

impl Stopped {
    /// Stops every thread, or none.
    ///
    /// # Errors
    /// If one cannot be stopped within `patience`.
    pub fn all(pid: u32, patience: Duration) -> Result<Self, StopError> {
        let deadline = Instant::now() + patience;
        let mut stopped = Self { pid, threads: BTreeMap::new() };
        // A thread that has not stopped yet may start another one.
        loop {
            let new = stopped.attach_new()?;
            let all = stopped.collect()?;
            if all && !new {
                return if stopped.threads.is_empty() { Err(StopError::Gone { pid }) } else { Ok(stopped) };
            }
            if Instant::now() > deadline {
                return Err(StopError::TooSlow { pid, patience });
            }
            if !all {
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// How many threads stand still.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Attaches to threads that are not known yet; says whether there were any.
    fn attach_new(&mut self) -> Result<bool, StopError> {
        let mut any = false;
        for tid in list(self.pid)? {
            if self.threads.contains_key(&tid) {
                continue;
            }
            let attached = request(libc::PTRACE_SEIZE, tid, 0);
            match attached.and_then(|()| {
                self.threads.insert(tid, None);
                request(libc::PTRACE_INTERRUPT, tid, 0)
            }) {
                Ok(()) => any = true,
                Err(source) if is_gone(&source) || is_ending(self.pid, tid) => {
                    self.threads.remove(&tid);
                }
                Err(source) => return Err(StopError::Refused { pid: self.pid, tid, source }),
            }
        }
        Ok(any)
    }

    /// Learns which threads have stopped; says whether all have.
    fn collect(&mut self) -> Result<bool, StopError> {
        let mut gone = Vec::new();
        for (tid, stop) in self.threads.iter_mut().filter(|(_, stop)| stop.is_none()) {
            match wait(*tid) {
                Waited::Stopped(signal) => *stop = Some(signal),
                Waited::Gone => gone.push(*tid),
                Waited::Running => {}
            }
        }
        for tid in gone {
            self.threads.remove(&tid);
        }
        Ok(self.threads.values().all(Option::is_some))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (tid, stop) in &self.threads {
            // A thread that has not stopped cannot be let go: it stops within moments, or is let go when we end.
            let mut stop = *stop;
            let deadline = Instant::now() + Duration::from_millis(200);
            while stop.is_none() && Instant::now() < deadline {
                match wait(*tid) {
                    Waited::Stopped(signal) => stop = Some(signal),
                    Waited::Gone => break,
                    Waited::Running => std::thread::sleep(PAUSE),
                }
            }
            // Gone is as good as let go.
            let _ = request(libc::PTRACE_DETACH, *tid, stop.unwrap_or(0));
        }
    }
}

enum Waited {
    /// With the signal that is to be delivered when it goes on, or 0.
    Stopped(i32),
    Running,
    Gone,
}

fn wait(tid: i32) -> Waited {
    let mut status = 0;
    // SAFETY: fills `status`; the thread is attached to us, so that nobody else's wait is disturbed.
    let found = unsafe { libc::waitpid(tid, &raw mut status, libc::__WALL | libc::WNOHANG) };
    match found {
        0 => Waited::Running,
        found if found == tid && libc::WIFSTOPPED(status) => {
            let by_us = status >> 16 == EVENT_STOP;
            Waited::Stopped(if by_us { 0 } else { libc::WSTOPSIG(status) })
        }
        _ => Waited::Gone,
    }
}

fn request(what: libc::c_uint, tid: i32, data: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests made here reads or writes memory of ours.
    let done = unsafe { libc::ptrace(what, tid, nothing, data as usize as *mut libc::c_void) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ESRCH)
}

/// A thread that is ending refuses, and runs no more code of the process.
fn is_ending(pid: u32, tid: i32) -> bool {
    let stat = fs::read_to_string(directory(pid).join(format!("task/{tid}/stat"))).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X' | 'x'))
}

fn list(pid: u32) -> Result<Vec<i32>, StopError> {
    let entries = fs::read_dir(directory(pid).join("task")).map_err(|_| StopError::Gone { pid })?;
    let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let tids: Vec<i32> = tids.take(MAX_THREADS + 1).collect();
    if tids.len() > MAX_THREADS { Err(StopError::TooMany { pid }) } else { Ok(tids) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn state(pid: u32) -> char {
        let stat = fs::read_to_string(directory(pid).join("stat")).expect("stat");
        stat.rsplit_once(") ").expect("name").1.chars().next().expect("state")
    }

    #[test]
    fn a_child_is_stopped_and_goes_on() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat");
        let stopped = Stopped::all(child.id(), Duration::from_secs(20)).expect("stopped");
        assert_eq!((stopped.threads(), state(child.id())), (1, 't'));
        drop(stopped);
        assert_ne!(state(child.id()), 't');
        // It still does what it is told.
        drop(child.stdin.take());
        assert!(child.wait().expect("wait").success());
    }

    #[test]
    fn a_process_that_is_not_there_is_gone() {
        let error = Stopped::all(4_194_305, Duration::from_secs(1)).expect_err("no such process");
        assert!(matches!(error, StopError::Gone { .. }), "{error}");
    }
}
