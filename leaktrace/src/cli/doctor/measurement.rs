//! `leaktrace doctor --measure --format json`: the prediction, for programs. The daemon asks for it in a process of its own before it
//! traces anything.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::{
    cli::{Failure, meant},
    daemon::{check_target, measure},
    kernel::{Kernel, LoadOptions},
    target::TargetSpec,
};

/// What tracing a process would cost it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The process.
    pub pid: u32,
    /// CPU seconds a second that it used.
    pub cpu_share: f64,
    /// With `--detail exact`.
    pub exact: Slowdown,
    /// With `--detail light`.
    pub light: Slowdown,
}

/// How many times as long the process's work takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slowdown {
    /// That many times.
    pub factor: f64,
    /// It may be more: costs were added up, which leaves out what disturbed caches cost.
    pub at_least: bool,
}

impl From<(f64, bool)> for Slowdown {
    fn from((factor, at_least): (f64, bool)) -> Self {
        Self { factor, at_least }
    }
}

/// Measures one process and prints what was found.
pub(super) fn run(asked: bool, target: Option<&TargetSpec>) -> Result<(), Failure> {
    let pid = match target {
        Some(TargetSpec::Pids(pids)) if asked => match pids.as_slice() {
            [pid] => *pid,
            _ => return Err(usage()),
        },
        _ => return Err(usage()),
    };
    check_target(pid)?;
    let options =
        LoadOptions { max_live_blocks: 1024, max_sites: 1024, count_hits: true, ..LoadOptions::default() };
    let (mut kernel, ..) = Kernel::load(&options)?;
    let costs = kernel.calibrate()?;
    let measured = measure(pid, &costs, meant::plan_for(pid)?)?;
    let prediction = Prediction {
        pid,
        cpu_share: measured.cpu_share,
        exact: measured.exact().into(),
        light: measured.light().into(),
    };
    let text = serde_json::to_string(&prediction).map_err(|error| Failure::Failed(error.to_string()))?;
    writeln!(io::stdout(), "{text}").map_err(|error| super::closed(&error))
}

fn usage() -> Failure {
    Failure::Usage("--format json says what --measure has found of one process: name it by -p PID".into())
}
