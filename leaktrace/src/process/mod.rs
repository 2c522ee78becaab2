//! What `/proc` and the kernel say about a process, and about the place leaktrace itself runs in. A process can die
//! between any two reads: that is [`ProcessError::Gone`], an answer like any other. Parsers are pure functions over
//! bytes; the readers around them are thin, and every read has a cap.

pub mod capability;
pub mod cgroup;
pub mod exit;
pub mod host;
pub mod identity;
pub mod limit;
pub mod maps;
pub mod memory;
pub mod namespace;
pub mod status;
pub mod stop;
pub mod vdso;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use cgroup::Cgroup;
pub use exit::ExitWatch;
pub use identity::{Identity, is_same_process};
pub use maps::Mapping;
pub use memory::{MemoryReader, MemoryWriter};
pub use namespace::PidNamespace;
pub use status::{RunState, SeccompMode, Status};

/// Why something about a process could not be learnt.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The process ended, or never was.
    #[error("process {pid} does not exist (any more)")]
    Gone {
        /// PID as this process sees it.
        pid: u32,
    },
    /// The kernel refused.
    #[error(
        "not permitted to read {what} of process {pid}: run as root, or grant CAP_SYS_PTRACE and CAP_DAC_OVERRIDE"
    )]
    Denied {
        /// PID as this process sees it.
        pid: u32,
        /// Which file or facility.
        what: String,
    },
    /// The kernel's answer was larger than anything leaktrace is prepared to hold.
    #[error("{what} of process {pid} is larger than {cap} bytes; it is not read any further")]
    TooLarge {
        /// PID as this process sees it.
        pid: u32,
        /// Which file.
        what: String,
        /// Bytes.
        cap: usize,
    },
    /// The kernel's answer does not look as documented.
    #[error("{what} of process {pid} has an unexpected form: {found}")]
    Malformed {
        /// PID as this process sees it.
        pid: u32,
        /// Which file.
        what: String,
        /// What was found, shortened.
        found: String,
    },
    /// Nothing readable is mapped there.
    #[error("address {address:#x} of process {pid} is not readable")]
    Unmapped {
        /// PID as this process sees it.
        pid: u32,
        /// Where the read began.
        address: u64,
    },
    /// Anything else.
    #[error("reading {what} of process {pid} failed: {source}")]
    Io {
        /// PID as this process sees it.
        pid: u32,
        /// Which file or system call.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProcessError {
    /// Sorts an I/O error of process `pid` into the cases that callers treat differently.
    pub fn from_io(pid: u32, what: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ESRCH) => Self::Gone { pid },
            Some(libc::ENOENT) if !exists(pid) => Self::Gone { pid },
            Some(libc::EACCES | libc::EPERM) => Self::Denied { pid, what: what.to_owned() },
            _ => Self::Io { pid, what: what.to_owned(), source: error },
        }
    }

    /// Whether the process is simply not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    fn malformed(pid: u32, what: &str, found: &[u8]) -> Self {
        let shown = found.get(..found.len().min(80)).unwrap_or_default();
        Self::Malformed { pid, what: what.to_owned(), found: String::from_utf8_lossy(shown).into_owned() }
    }
}

/// Whether `/proc` shows that process (a zombie still counts).
pub fn exists(pid: u32) -> bool {
    directory(pid).exists()
}

/// Every process that `/proc` shows, in no order.
pub fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// `/proc/PID`.
pub fn directory(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// A path below `/proc/PARENT` as one below `/proc/CHILD`: a forked process has the same files at the same addresses.
pub fn reroot(path: &Path, parent: u32, child: u32) -> PathBuf {
    match path.strip_prefix(directory(parent)) {
        Ok(rest) => directory(child).join(rest),
        Err(_) => path.to_owned(),
    }
}

/// Reads `/proc/PID/NAME` whole, or fails when it is longer than `cap` bytes.
fn read_file(pid: u32, name: &str, cap: usize) -> Result<Vec<u8>, ProcessError> {
    let bytes = read_prefix(pid, name, cap.saturating_add(1))?;
    if bytes.len() > cap {
        return Err(ProcessError::TooLarge { pid, what: format!("/proc/{pid}/{name}"), cap });
    }
    Ok(bytes)
}

/// Reads at most `cap` bytes from the beginning of `/proc/PID/NAME`.
fn read_prefix(pid: u32, name: &str, cap: usize) -> Result<Vec<u8>, ProcessError> {
    let path = directory(pid).join(name);
    let failed = |error| ProcessError::from_io(pid, &path.display().to_string(), error);
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(cap as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PID that cannot exist: above the kernel's largest `pid_max`.
    const NO_PID: u32 = 4_194_305;

    #[test]
    fn a_process_that_is_not_there_is_gone_and_not_an_io_error() {
        assert!(matches!(read_file(NO_PID, "status", 100), Err(ProcessError::Gone { pid: NO_PID })));
    }

    #[test]
    fn a_missing_file_of_a_living_process_is_not_gone() {
        let error = read_file(std::process::id(), "no-such-file", 100).expect_err("no such file");
        assert!(!error.is_gone(), "{error}");
    }

    #[test]
    fn a_file_above_the_cap_is_refused_and_a_prefix_is_cut() {
        let pid = std::process::id();
        assert!(matches!(read_file(pid, "maps", 10), Err(ProcessError::TooLarge { cap: 10, .. })));
        assert_eq!(read_prefix(pid, "maps", 10).expect("own maps").len(), 10);
    }
}
