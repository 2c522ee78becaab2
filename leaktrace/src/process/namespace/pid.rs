//! PID namespaces: one that a user has named, and which processes are in it or in one below it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, fstatfs, open},
    io::Errno,
};

use crate::process::{self, ProcessError};

/// File system type of namespaces (`NSFS_MAGIC`).
const NSFS: i64 = 0x6e73_6673;
/// `NS_GET_PARENT`, `NS_GET_NSTYPE` and `NS_GET_OWNER_UID` of `linux/nsfs.h`: numbers without an argument's size.
const GET_PARENT: libc::c_ulong = 0xb702;
const GET_KIND: libc::c_ulong = 0xb703;
const GET_OWNER: libc::c_ulong = 0xb704;
/// How deep the kernel nests PID namespaces (`MAX_PID_NS_LEVEL`).
const MAX_DEPTH: usize = 32;

/// Why something is no PID namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The process that was named is not there.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Nothing is there by that name.
    #[error(
        "there is no {}: name the PID of a process in the PID namespace, or /proc/PID/ns/pid",
        path.display()
    )]
    Absent {
        /// As it was named.
        path: PathBuf,
    },
    /// It may not be opened.
    #[error("{} cannot be opened: {source}", path.display())]
    Open {
        /// As it was named.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Some other kind of file.
    #[error(
        "{} is no namespace: name the PID of a process in it, /proc/PID/ns/pid, or where that is mounted",
        path.display()
    )]
    NoNamespace {
        /// As it was named.
        path: PathBuf,
    },
    /// A namespace of another kind.
    #[error("{} is a {kind} namespace, not a PID namespace: name /proc/PID/ns/pid", path.display())]
    OtherKind {
        /// As it was named.
        path: PathBuf,
        /// Of what.
        kind: &'static str,
    },
}

/// A PID namespace. It is held open: for as long as it is, its inode is given to no other.
#[derive(Debug)]
pub struct PidNamespace {
    file: OwnedFd,
    inode: u64,
}

impl PidNamespace {
    /// That of a process.
    ///
    /// # Errors
    /// If the process is gone, or may not be looked at.
    pub fn of(pid: u32) -> Result<Self, NamespaceError> {
        let path = process::directory(pid).join("ns/pid");
        let what = path.display().to_string();
        let failed = |error| NamespaceError::Process(ProcessError::from_io(pid, &what, error));
        let file = File::open(&path).map_err(failed)?;
        let inode = file.metadata().map_err(failed)?.ino();
        Ok(Self { file: file.into(), inode })
    }

    /// The one at a path. Nothing else is ever opened, only looked at: a FIFO would block, a device might do anything.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let failed = |error: Errno| match error {
            Errno::NOENT => NamespaceError::Absent { path: path.to_owned() },
            _ => NamespaceError::Open { path: path.to_owned(), source: io::Error::from(error) },
        };
        let looked_at = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        if fstatfs(&looked_at).map_err(failed)?.f_type != NSFS {
            return Err(NamespaceError::NoNamespace { path: path.to_owned() });
        }
        let again = format!("/proc/self/fd/{}", looked_at.as_raw_fd());
        let source = |source| NamespaceError::Open { path: path.to_owned(), source };
        let file = File::open(again).map_err(source)?;
        match ask(&file, GET_KIND) {
            Some(libc::CLONE_NEWPID) => {}
            Some(other) => {
                return Err(NamespaceError::OtherKind { path: path.to_owned(), kind: kind_name(other) });
            }
            None => return Err(NamespaceError::NoNamespace { path: path.to_owned() }),
        }
        let inode = file.metadata().map_err(source)?.ino();
        Ok(Self { file: file.into(), inode })
    }

    /// Its number, as `/proc/PID/ns/pid` shows it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The namespace that it was made in; `None` for the initial one, and for one above our own.
    pub fn parent(&self) -> Option<Self> {
        let number = ask(&self.file, GET_PARENT)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        let inode = File::from(file.try_clone().ok()?).metadata().ok()?.ino();
        Some(Self { file, inode })
    }

    /// Whether a process is in it or in one below it.
    pub fn contains(&self, pid: u32) -> bool {
        Self::of(pid).is_ok_and(|namespace| self.is_around(namespace))
    }

    /// Whether a namespace is this one or lies below it.
    fn is_around(&self, namespace: Self) -> bool {
        let mut next = Some(namespace);
        for _ in 0..=MAX_DEPTH {
            match next {
                Some(namespace) if namespace.inode == self.inode => return true,
                Some(namespace) => next = namespace.parent(),
                None => return false,
            }
        }
        false
    }

    /// Processes in it and below, in no order.
    pub fn members(&self) -> Vec<u32> {
        // Within one look through all processes a namespace is asked for once. Not longer: numbers are given again.
        let mut known = std::collections::HashMap::new();
        let mut is_in = |pid: u32| {
            let Ok(inode) = super::inode(pid, "pid") else { return false };
            *known.entry(inode).or_insert_with(|| self.contains(pid))
        };
        process::all().into_iter().filter(|pid| is_in(*pid)).collect()
    }
}

/// The user who owns the user namespace of a process: whoever made it.
pub fn owner_of_user_namespace(pid: u32) -> Option<u32> {
    let file = File::open(process::directory(pid).join("ns/user")).ok()?;
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one uid_t to an address that is valid for it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), GET_OWNER, &raw mut uid) };
    (result == 0).then_some(uid)
}

/// A question to a namespace that is answered by a number; `None`: it cannot be asked.
fn ask(file: &impl AsFd, question: libc::c_ulong) -> Option<i32> {
    // SAFETY: these requests take no argument.
    let answer = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), question) };
    (answer >= 0).then_some(answer)
}

fn kind_name(kind: i32) -> &'static str {
    match kind {
        libc::CLONE_NEWNS => "mount",
        libc::CLONE_NEWNET => "network",
        libc::CLONE_NEWIPC => "IPC",
        libc::CLONE_NEWUTS => "UTS",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWCGROUP => "cgroup",
        _ => "different",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_found_by_pid_and_by_path() {
        let own = std::process::id();
        let by_pid = PidNamespace::of(own).expect("own");
        let by_path = PidNamespace::open(Path::new("/proc/self/ns/pid")).expect("own");
        assert_eq!(by_pid.inode(), by_path.inode());
        assert!(by_pid.contains(own) && by_pid.members().contains(&own));
        assert!(
            matches!(PidNamespace::of(4_194_305), Err(NamespaceError::Process(error)) if error.is_gone())
        );
    }

    #[test]
    fn what_is_no_pid_namespace_is_refused_and_never_opened() {
        let directory = tempfile::tempdir().expect("directory");
        let fifo = directory.path().join("fifo");
        let name = std::ffi::CString::new(fifo.as_os_str().as_encoded_bytes()).expect("no zero");
        // SAFETY: a path that is terminated.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for path in [fifo.as_path(), Path::new("/etc/passwd"), directory.path(), Path::new("/dev/zero")] {
            let refused = PidNamespace::open(path).map(|_| ());
            assert!(matches!(refused, Err(NamespaceError::NoNamespace { .. })), "{}", path.display());
        }
        let mount = PidNamespace::open(Path::new("/proc/self/ns/mnt")).map(|_| ());
        assert!(matches!(mount, Err(NamespaceError::OtherKind { kind: "mount", .. })));
        let absent = PidNamespace::open(&directory.path().join("absent")).map(|_| ());
        assert!(matches!(absent, Err(NamespaceError::Absent { .. })));
    }
}
