//! Why a delivery failed, and whether it makes sense to try again.

use std::{io, time::Duration};

use thiserror::Error;

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{sentence}")]
pub struct Failure {
    sentence: String,
    /// What to do next.
    pub next: Next,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It may work later.
    Later,
    /// The other side said when.
    After(Duration),
    /// It will not work, however often it is tried.
    Never,
}

impl Failure {
    /// It may work later.
    pub fn later(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), next: Next::Later }
    }

    /// It will never work.
    pub fn never(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), next: Next::Never }
    }

    /// The other side said when.
    pub fn after(wait: Duration, sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), next: Next::After(wait) }
    }

    /// What the kernel refused may work later: sockets come back, disks are emptied, programs are installed.
    pub fn of_io(tried: &str, error: &io::Error) -> Self {
        Self::later(format!("{tried}: {error}"))
    }
}
