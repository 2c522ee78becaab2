//! Which processes are to be traced, now and as they come and go.

use super::TargetSpec;
use crate::{cli::Failure, process};

/// Which processes are to be traced.
#[derive(Clone, Debug)]
pub struct Scope {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Those that were named or started, and what they fork.
    Named(Vec<u32>),
    /// Every process of the host.
    All,
}

impl Scope {
    /// Finds out what the user means.
    ///
    /// # Errors
    /// If nothing, or more than one thing, goes by that name; the message lists candidates.
    pub fn resolve(spec: &TargetSpec) -> Result<Self, Failure> {
        let kind = match spec {
            TargetSpec::Pids(pids) => Kind::Named(pids.clone()),
            TargetSpec::Command(_) => Kind::Named(Vec::new()),
            TargetSpec::All => Kind::All,
            other => return Err(Failure::Usage(format!("{other:?}: not known yet"))),
        };
        Ok(Self { kind })
    }

    /// Processes that are in scope now. Threads of the kernel and leaktrace itself never are.
    pub fn members(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Named(pids) => pids.clone(),
            Kind::All => process::all().into_iter().filter(|pid| self.contains(*pid)).collect(),
        }
    }

    /// Whether a process is in scope, apart from being a child of one that is.
    pub fn contains(&self, pid: u32) -> bool {
        if pid == std::process::id() {
            return false;
        }
        match &self.kind {
            Kind::Named(pids) => pids.contains(&pid),
            Kind::All => true,
        }
    }

    /// Whether processes can come into scope that no target has forked (`docker exec`, new containers).
    pub fn is_open(&self) -> bool {
        !matches!(self.kind, Kind::Named(_))
    }

    /// Why tracing ends now that no process of it is left; `None`: others may come.
    pub fn has_ended(&self) -> Option<String> {
        match &self.kind {
            Kind::Named(_) => Some("is gone".to_owned()),
            Kind::All => None,
        }
    }
}
