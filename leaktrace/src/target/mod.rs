//! What to trace: resolving what the user named, entering it, noticing what becomes of it.

pub mod code;
pub mod command;
pub mod container;
pub mod discover;
pub mod image;
pub mod neighbours;
pub mod preflight;
pub mod python;
pub mod scope;

use std::{ffi::OsString, path::PathBuf};

pub use container::Container;
pub use scope::Scope;

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// Processes, as the host sees them.
    Pids(Vec<u32>),
    /// A command to start.
    Command(Vec<OsString>),
    /// A container, by ID, the beginning of one, or name.
    Container(String),
    /// A PID namespace: the PID of a process in it, or a path (`/proc/PID/ns/pid`, or where it is mounted).
    PidNamespace(OsString),
    /// A cgroup, below the mount point or as `/proc/PID/cgroup` names it.
    Cgroup(PathBuf),
    /// The whole host.
    All,
}
