//! What a session is to trace and how, as arguments of `leaktrace trace`.

use std::{ffi::OsString, time::Duration};

use crate::{report::model::Detail, target::TargetSpec};

/// See the module. Times as in `leaktrace trace`.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    /// What to trace.
    pub target: TargetSpec,
    /// How closely.
    pub detail: Detail,
    /// Between two reports.
    pub interval: Duration,
    /// Age from which a block is a survivor.
    pub min_age: Duration,
    /// When to stop by itself.
    pub duration: Option<Duration>,
    /// Cap of the live map, blocks.
    pub max_live_blocks: u32,
    /// Whether a target may be written to.
    pub target_writes: bool,
    /// Whether no process outside of the scope may pay anything.
    pub strict_scope: bool,
    /// Whether processes that targets make are traced too.
    pub follow_forks: bool,
}

impl SessionPlan {
    /// A plan with the defaults of `leaktrace trace`.
    pub fn of(target: TargetSpec, interval: Duration) -> Self {
        Self {
            target,
            detail: Detail::Exact,
            interval,
            min_age: interval,
            duration: None,
            max_live_blocks: 1_000_000,
            target_writes: true,
            strict_scope: false,
            follow_forks: true,
        }
    }

    /// The arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["trace", "--format", "wire"].map(OsString::from).into();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
        add(&["--interval", &milliseconds(self.interval), "--min-age", &milliseconds(self.min_age)]);
        add(&["--max-live-blocks", &self.max_live_blocks.to_string()]);
        if let Some(duration) = self.duration {
            add(&["--duration", &milliseconds(duration)]);
        }
        let flags = [
            ("--detail=light", self.detail == Detail::Light),
            ("--no-target-writes", !self.target_writes),
            ("--strict-scope", self.strict_scope),
            ("--no-follow-forks", !self.follow_forks),
        ];
        flags.iter().filter(|(_, wanted)| *wanted).for_each(|(flag, _)| add(&[flag]));
        arguments.extend(target(&self.target));
        arguments
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn target(spec: &TargetSpec) -> Vec<OsString> {
    match spec {
        TargetSpec::Pids(pids) => {
            let list: Vec<String> = pids.iter().map(u32::to_string).collect();
            vec!["-p".into(), list.join(",").into()]
        }
        TargetSpec::Container(name) => vec!["--container".into(), name.into()],
        TargetSpec::PidNamespace(named) => vec!["--pid-namespace".into(), named.clone()],
        TargetSpec::Cgroup(path) => vec!["--cgroup".into(), path.into()],
        TargetSpec::All => vec!["--all".into()],
        TargetSpec::Command(words) => {
            let mut arguments = vec![OsString::from("--")];
            arguments.extend(words.iter().cloned());
            arguments
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{
        args::{Arguments, Command},
        meant::TracePlan,
    };

    #[test]
    fn what_is_asked_for_is_what_the_command_line_understands() {
        let mut plan = SessionPlan::of(TargetSpec::Container("web".into()), Duration::from_millis(1500));
        plan.detail = Detail::Light;
        plan.duration = Some(Duration::from_secs(60));
        let words = std::iter::once(OsString::from("leaktrace")).chain(plan.arguments());
        let Command::Trace(typed) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("trace")
        };
        let meant = TracePlan::try_from(*typed).unwrap();
        assert_eq!(meant.target, plan.target);
        assert_eq!((meant.interval, meant.duration), (plan.interval, plan.duration));
        assert!(meant.light && !meant.strict_scope && meant.follow_forks);
    }
}
