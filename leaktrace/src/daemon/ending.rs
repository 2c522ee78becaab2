//! Why tracing ends, in words for the final report.

/// A signal that ends tracing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingSignal {
    /// Ctrl-C.
    Interrupt,
    /// Politely.
    Terminate,
    /// The terminal is gone.
    Hangup,
}

impl EndingSignal {
    /// As the kernel counts.
    pub fn number(self) -> i32 {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::Hangup => libc::SIGHUP,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
        }
    }
}

/// Why tracing ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A signal asked for it.
    Signal(EndingSignal),
    /// `--duration` is over.
    Duration,
    /// Nobody reads stdout any more.
    StdoutClosed,
    /// Every target is gone; how the last one ended.
    TargetGone(String),
    /// What was named is no more, and with it every target: which.
    ScopeGone(String),
    /// leaktrace itself cannot go on.
    Failure(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Signal(signal) => write!(f, "ended by {}", signal.name()),
            Self::Duration => f.write_str("the requested duration is over"),
            Self::StdoutClosed => f.write_str("stdout was closed"),
            Self::TargetGone(how) => write!(f, "target {how}"),
            Self::ScopeGone(which) => write!(f, "{which}"),
            Self::Failure(what) => write!(f, "leaktrace failed: {what}"),
        }
    }
}
