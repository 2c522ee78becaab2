//! Why tracing ends, in words for the final report.

/// Why tracing ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A signal asked for it.
    Signal(&'static str),
    /// `--duration` is over.
    Duration,
    /// Nobody reads stdout any more.
    StdoutClosed,
    /// Every target is gone; how the last one ended.
    TargetGone(String),
    /// leaktrace itself cannot go on.
    Failure(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "ended by {name}"),
            Self::Duration => f.write_str("the requested duration is over"),
            Self::StdoutClosed => f.write_str("stdout was closed"),
            Self::TargetGone(how) => write!(f, "target {how}"),
            Self::Failure(what) => write!(f, "leaktrace failed: {what}"),
        }
    }
}
