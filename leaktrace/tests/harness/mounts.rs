//! Mounts that only a command and its children see, and that go with the last of them.

use super::Outcomes;
use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
};

/// Where an overlay is mounted, below the directory that it is made of.
pub const MERGED: &str = "merged";
/// Where what is written to it goes.
pub const UPPER: &str = "upper";
const WORK: &str = "work";
/// Where hosts mount their cgroups.
const CGROUPS: &CStr = c"/sys/fs/cgroup";
/// Where those that have both versions mount the second.
const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";

/// Makes what an overlay needs in a directory.
pub fn prepare_overlay(place: &Path) -> Outcomes<()> {
    let make = |name| fs::create_dir(place.join(name)).map_err(|e| format!("{name}: {e}"));
    [MERGED, UPPER, WORK].into_iter().try_for_each(make)
}

/// Has the command see `lower` at `merged` in `place`, and what is in `upper` on top of it.
pub fn overlay(command: &mut Command, lower: &Path, place: &Path) -> Outcomes<()> {
    let (lower, shown) = (lower.display(), place.display());
    let options = format!("lowerdir={lower},upperdir={shown}/{UPPER},workdir={shown}/{WORK}");
    let (options, merged) = (CString::new(options).map_err(|e| e.to_string())?, text(&place.join(MERGED))?);
    // SAFETY: plain system calls on strings that were made before.
    unsafe {
        command.pre_exec(move || {
            own()?;
            mount(c"overlay", &merged, c"overlay", &options)
        });
    }
    Ok(())
}

/// Has the command see a file in the place of another.
pub fn bind(command: &mut Command, source: &Path, place: &Path) -> Outcomes<()> {
    let (source, place) = (text(source)?, text(place)?);
    // SAFETY: plain system calls on strings that were made before.
    unsafe {
        command.pre_exec(move || {
            own()?;
            let none = std::ptr::null();
            good(libc::mount(source.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()))
        });
    }
    Ok(())
}

/// Has the command begin in another root directory, once everything before this is mounted.
pub fn enter(command: &mut Command, root: &Path) -> Outcomes<()> {
    let root = text(root)?;
    // SAFETY: plain system calls on strings that were made before.
    unsafe {
        command.pre_exec(move || {
            good(libc::chroot(root.as_ptr()))?;
            good(libc::chdir(c"/".as_ptr()))
        });
    }
    Ok(())
}

/// Gives the calling process a namespace of mounts of its own.
pub fn own() -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: plain system calls on constants.
    unsafe {
        good(libc::unshare(libc::CLONE_NEWNS))?;
        good(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))
    }
}

/// Shows the calling process a host that mounts nothing but the second version of cgroups.
pub fn unified_cgroups_only() -> io::Result<()> {
    own()?;
    // SAFETY: a plain system call on a constant.
    good(unsafe { libc::umount2(CGROUPS.as_ptr(), libc::MNT_DETACH) })?;
    mount(c"cgroup2", CGROUPS, c"cgroup2", c"")
}

/// Shows the calling process a host that mounts nothing but the first version of cgroups, where it is one that has both. What
/// runtimes write there all the same (crun does) goes with the last process that sees it.
pub fn legacy_cgroups_only() -> io::Result<()> {
    own()?;
    // SAFETY: a plain system call on a constant. It fails where there is no such mount.
    match unsafe { libc::umount2(UNIFIED.as_ptr(), libc::MNT_DETACH) } {
        0 => mount(c"tmpfs", UNIFIED, c"tmpfs", c""),
        _ => Ok(()),
    }
}

/// Mounts a file system.
pub fn mount(source: &CStr, place: &CStr, kind: &CStr, options: &CStr) -> io::Result<()> {
    let (source, place, kind) = (source.as_ptr(), place.as_ptr(), kind.as_ptr());
    // SAFETY: every pointer is a C string that outlives the call.
    good(unsafe { libc::mount(source, place, kind, 0, options.as_ptr().cast()) })
}

fn good(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn text(path: &Path) -> Outcomes<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())
}
