//! Opening files whose path somebody else has chosen: regular files only, looked at before they are opened, so that no
//! device reacts and no FIFO blocks; and never out of the root directory they belong to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fstat, openat, openat2, statx,
};

/// Opens a regular file for reading; anything else is an error of the kind `InvalidInput`.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    reopen_regular(&handle)
}

/// Opens a regular file below `root`, which plays the part of `/`: absolute and upward links stay inside.
pub fn open_in_root(root: &Path, path: &Path) -> io::Result<File> {
    open_below(&directory(root)?, path)
}

/// The same below a directory that is held.
pub fn open_below(root: &OwnedFd, path: &Path) -> io::Result<File> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    reopen_regular(&handle)
}

/// Holds a directory of the host: what lies below it can be reached even when no path leads to it any more.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Holds a directory below `root`.
pub fn directory_below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), inside)?)
}

/// Opens a regular file that lies in `directory` itself and belongs to one of `owners`; no links at all.
pub fn open_owned(directory: &OwnedFd, name: &str, owners: &[u32]) -> io::Result<File> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let handle = openat2(directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    if !owners.contains(&fstat(&handle)?.st_uid) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "owned by somebody else"));
    }
    reopen_regular(&handle)
}

/// The inode of a regular file below a directory that is held, reached without any link.
pub fn inode_below(root: &OwnedFd, path: &Path) -> io::Result<u64> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let handle = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside)?;
    regular(&handle).map(|stat| stat.st_ino)
}

/// What tells one mounted directory from another: mount, device, inode.
pub fn mounted_identity(directory: &OwnedFd) -> io::Result<(u64, u64, u64)> {
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let found = statx(directory, "", AtFlags::EMPTY_PATH, wanted)?;
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    Ok((found.stx_mnt_id, device, found.stx_ino))
}

fn regular(handle: &OwnedFd) -> io::Result<Stat> {
    let stat = fstat(handle)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(stat)
}

fn reopen_regular(handle: &OwnedFd) -> io::Result<File> {
    regular(handle)?;
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
    fn what_belongs_to_somebody_else_or_is_a_link_is_not_opened_as_ones_own() {
        let root = tempfile::tempdir().expect("directory");
        std::fs::write(root.path().join("file"), "x").expect("write");
        symlink("file", root.path().join("link")).expect("link");
        let held = directory(root.path()).expect("directory");
        let own = rustix::process::geteuid().as_raw();
        assert!(open_owned(&held, "file", &[own]).is_ok());
        let refused = open_owned(&held, "file", &[own.wrapping_add(1)]).expect_err("another owner");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(open_owned(&held, "link", &[own]).is_err());
        assert!(open_owned(&held, "../file", &[own]).is_err());
    }

    #[test]
    fn an_inode_is_told_of_plain_files_that_no_link_leads_to() {
        let root = tempfile::tempdir().expect("directory");
        std::fs::create_dir(root.path().join("lib")).expect("directory");
        std::fs::write(root.path().join("lib/file"), "x").expect("write");
        symlink("lib", root.path().join("lib64")).expect("link");
        let held = directory(root.path()).expect("directory");
        let inode =
            std::os::unix::fs::MetadataExt::ino(&root.path().join("lib/file").metadata().expect("there"));
        assert_eq!(inode_below(&held, Path::new("/lib/file")).expect("a file"), inode);
        assert!(inode_below(&held, Path::new("/lib64/file")).is_err());
        assert!(inode_below(&held, Path::new("/lib")).is_err());
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
