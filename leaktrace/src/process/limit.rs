//! The limit of open files: links, maps and objects each hold descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// In force now.
    pub soft: u64,
    /// How far the process may raise it by itself.
    pub hard: u64,
}

impl OpenFiles {
    /// The limits of this process; no limit reads as `u64::MAX`.
    pub fn current() -> Self {
        let limit = getrlimit(Resource::Nofile);
        Self { soft: limit.current.unwrap_or(u64::MAX), hard: limit.maximum.unwrap_or(u64::MAX) }
    }

    /// Raises the soft limit to `wanted`, as far as is permitted, and returns what is in force then. The hard limit is
    /// raised too where privileges allow it. Never lowers anything, never fails: compare the result with what is needed.
    pub fn raise(wanted: u64) -> Self {
        let before = Self::current();
        if before.soft < wanted {
            let set = |soft: u64, hard: u64| {
                setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) }).is_ok()
            };
            let _ =
                (wanted > before.hard && set(wanted, wanted)) || set(wanted.min(before.hard), before.hard);
        }
        Self::current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_goes_up_to_the_hard_one_and_never_down() {
        let before = OpenFiles::current();
        assert_eq!(OpenFiles::raise(1), before);
        let wanted = before.soft.saturating_add(1).min(before.hard);
        assert!(OpenFiles::raise(wanted).soft >= wanted);
    }
}
