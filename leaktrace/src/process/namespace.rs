//! Namespaces: whether the PIDs that the kernel reports are the PIDs that this process sees.

pub mod pid;

use std::fs;
use std::path::Path;

pub use pid::{NamespaceError, PidNamespace};

use super::{ProcessError, directory};

/// Inode of the initial PID namespace, fixed in the kernel's `proc_ns.h`.
const INITIAL_PID: u64 = 0xEFFF_FFFC;
/// Inode of the initial user namespace.
const INITIAL_USER: u64 = 0xEFFF_FFFD;

/// Whether this process runs in the initial PID namespace: only then are the kernel's PIDs those it sees.
pub fn in_initial_pid_namespace() -> bool {
    own("pid") == Some(INITIAL_PID)
}

/// Whether this process runs in the initial user namespace: only then do its capabilities count for BPF.
pub fn in_initial_user_namespace() -> bool {
    own("user") == Some(INITIAL_USER)
}

/// Inode of a process's namespace of that kind (`pid`, `mnt`, `user` ...).
pub fn inode(pid: u32, kind: &str) -> Result<u64, ProcessError> {
    let path = directory(pid).join("ns").join(kind);
    let what = path.display().to_string();
    let link = fs::read_link(&path).map_err(|error| ProcessError::from_io(pid, &what, error))?;
    parse_link(&link).ok_or_else(|| ProcessError::malformed(pid, &what, link.as_os_str().as_encoded_bytes()))
}

fn own(kind: &str) -> Option<u64> {
    parse_link(&fs::read_link(Path::new("/proc/self/ns").join(kind)).ok()?)
}

/// `pid:[4026531836]`
fn parse_link(link: &Path) -> Option<u64> {
    let (_, inode) = link.to_str()?.split_once(":[")?;
    inode.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_link_is_read() {
        assert_eq!(parse_link(Path::new("pid:[4026531836]")), Some(INITIAL_PID));
        assert_eq!(parse_link(Path::new("user:[4026531837]")), Some(INITIAL_USER));
        assert_eq!(parse_link(Path::new("pid:[x]")), None);
        assert_eq!(parse_link(Path::new("/bin/sh")), None);
    }

    #[test]
    fn our_own_namespace_is_the_same_by_both_names() {
        let by_pid = inode(std::process::id(), "pid").expect("own namespace");
        assert_eq!(Some(by_pid), own("pid"));
        assert!(inode(4_194_305, "pid").expect_err("no such PID").is_gone());
    }
}
