//! What to trace: resolving what the user named, entering it, noticing what becomes of it.

pub mod code;
pub mod command;
pub mod discover;
pub mod image;
pub mod preflight;
pub mod python;

use std::ffi::OsString;

/// What the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// Processes, as the host sees them.
    Pids(Vec<u32>),
    /// A command to start.
    Command(Vec<OsString>),
}
