//! Opening files whose path somebody else has chosen: regular files only, looked at before they are opened, so that no
//! device reacts and no FIFO blocks; and never out of the root directory they belong to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

/// Opens a regular file for reading.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    reopen_regular(&handle)
}

/// Opens a regular file below `root`, which plays the part of `/`: absolute and upward links stay inside.
pub fn open_in_root(root: &Path, path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle = openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    reopen_regular(&handle)
}

fn reopen_regular(handle: &OwnedFd) -> io::Result<File> {
    let stat = fstat(handle)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn devices_and_directories_are_not_opened() {
        assert!(open_regular(Path::new("/dev/zero")).is_err());
        assert!(open_regular(Path::new("/")).is_err());
        assert!(open_regular(Path::new("/proc/self/exe")).is_ok());
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let root = tempfile::tempdir().expect("directory");
        std::fs::write(root.path().join("inside"), "inside").expect("write");
        symlink("/inside", root.path().join("absolute")).expect("link");
        symlink("../../../../../../../etc/hostname", root.path().join("upward")).expect("link");
        let mut text = String::new();
        let mut file = open_in_root(root.path(), Path::new("/absolute")).expect("resolved inside");
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "inside");
        assert!(open_in_root(root.path(), Path::new("/upward")).is_err());
    }
}
