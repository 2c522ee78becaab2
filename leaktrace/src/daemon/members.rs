//! The start of tracing a container, a namespace, a cgroup or the host: every process that is there already is entered at once.
//! One that cannot be traced does not end the command: others can, and more may come.

use super::tracer::Tracer;
use crate::cli::Failure;
use crate::report::aside::say;

/// Reasons told at the start.
const REASONS: usize = 2;

impl Tracer {
    /// Enters everything that is in scope now.
    pub(super) fn enter_members(&mut self) {
        let members = self.scope.members();
        say(self.scope.announcement(members.len()));
        let mut refused = Vec::new();
        for pid in members {
            match self.enter(pid) {
                Ok(()) | Err(Failure::NoTarget(_)) => {}
                Err(failure) => {
                    self.newcomers.refuse(pid, &failure);
                    refused.push(failure);
                }
            }
        }
        if self.images.is_empty() {
            for failure in refused.iter().take(REASONS) {
                say(failure);
            }
            say(format_args!("no process of it can be traced yet; waiting for others"));
        }
    }
}
