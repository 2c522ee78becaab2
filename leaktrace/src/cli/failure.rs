//! Why the command ends, and with which exit code.

use std::{fmt, process::ExitCode};

/// A failure, in one sentence, by the exit code it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 1: it was tried and failed.
    Failed(String),
    /// 2: wrong usage.
    Usage(String),
    /// 3: not permitted, or not supported by this kernel.
    Unsupported(String),
    /// 4: no such target, or gone before tracing began.
    NoTarget(String),
}

impl Failure {
    /// See DESIGN: a contract.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unsupported(_) => 3,
            Self::NoTarget(_) => 4,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Unsupported(text) | Self::NoTarget(text) => {
                f.write_str(text)
            }
        }
    }
}

impl From<crate::kernel::KernelError> for Failure {
    fn from(error: crate::kernel::KernelError) -> Self {
        use crate::kernel::KernelError;
        let text = error.to_string();
        match error {
            KernelError::NotPermitted { .. } | KernelError::Unsupported(_) => Self::Unsupported(text),
            KernelError::Load { .. }
            | KernelError::Attach { .. }
            | KernelError::Map { .. }
            | KernelError::Io { .. } => Self::Failed(text),
        }
    }
}
