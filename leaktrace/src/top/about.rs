//! What is known of a trace before its first report.

use std::{ffi::OsStr, time::Duration};

use crate::{
    report::{human::printable, model::Detail},
    session::SessionPlan,
    target::TargetSpec,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct About {
    /// What is traced, in words: `PID 4711`, `container web`.
    pub target: String,
    /// How closely.
    pub detail: Detail,
    /// Between two reports.
    pub interval: Duration,
}

impl About {
    /// What a plan says.
    pub fn of(plan: &SessionPlan) -> Self {
        Self { target: target(&plan.target), detail: plan.detail, interval: plan.interval }
    }
}

fn target(spec: &TargetSpec) -> String {
    let text = |text: &OsStr| printable(&text.to_string_lossy());
    match spec {
        TargetSpec::Pids(pids) => match pids.as_slice() {
            [pid] => format!("PID {pid}"),
            several => format!("{} processes", several.len()),
        },
        TargetSpec::Command(words) => words.first().map_or("a command".to_owned(), |name| text(name)),
        TargetSpec::Container(name) => format!("container {}", printable(name)),
        TargetSpec::PidNamespace(named) => format!("PID namespace {}", text(named)),
        TargetSpec::Cgroup(path) => format!("cgroup {}", text(path.as_os_str())),
        TargetSpec::All => "the whole host".to_owned(),
    }
}
