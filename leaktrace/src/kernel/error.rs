//! What can go wrong between leaktrace and the kernel, each with the way out.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::AttachScope;

/// A failure on the kernel boundary.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The kernel refused to load the object or one of its programs.
    #[error("could not load leaktrace's BPF {what}: {reason}")]
    Load {
        /// Map, program or object.
        what: String,
        /// What the kernel or the loader said.
        reason: String,
    },
    /// Not permitted.
    #[error(
        "the kernel does not permit {what}: {reason}; run leaktrace as root or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_CHECKPOINT_RESTORE and CAP_SYS_RESOURCE"
    )]
    NotPermitted {
        /// What was tried.
        what: String,
        /// The kernel's error.
        reason: String,
    },
    /// The kernel lacks a feature.
    #[error("this kernel cannot do what leaktrace needs: {0}")]
    Unsupported(String),
    /// Probes could not be placed.
    #[error("could not place {count} probe(s) in {path} for {scope}: {reason}")]
    Attach {
        /// How many.
        count: usize,
        /// File.
        path: PathBuf,
        /// For whom.
        scope: AttachScope,
        /// The kernel's error.
        reason: String,
    },
    /// A map could not be read or written.
    #[error("could not {what} leaktrace's map {map}: {reason}")]
    Map {
        /// "read", "write", "map".
        what: &'static str,
        /// Name.
        map: &'static str,
        /// The error.
        reason: String,
    },
    /// Any other system call.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The error.
        source: io::Error,
    },
}

impl KernelError {
    /// A failed map operation.
    pub(super) fn map(what: &'static str, map: &'static str, error: impl std::fmt::Display) -> Self {
        Self::Map { what, map, reason: error.to_string() }
    }
}

/// The whole chain of causes in one line: aya's errors carry the kernel's word in their sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // The verifier's log can be thousands of lines; the last ones say what it did not like.
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > 12 { format!("{} ... {}", lines[0], lines[lines.len() - 8..].join(" | ")) } else { text }
}

/// Whether the kernel said "not permitted" anywhere in the chain.
pub(super) fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut current = Some(error);
    while let Some(cause) = current {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && matches!(io.raw_os_error(), Some(libc::EPERM | libc::EACCES))
        {
            return true;
        }
        current = cause.source();
    }
    false
}
