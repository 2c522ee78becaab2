//! Counting the calls that a process makes, for a moment, to predict what tracing it would cost.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::record::{Target, gate};

use crate::{
    cli::Failure,
    kernel::Kernel,
    probe::{cost::CostTable, hooks::HookId},
    target::discover,
};

/// Clock ticks a second, as `/proc` counts CPU time (USER_HZ; fixed by the kernel's ABI on x86-64 and aarch64).
const TICKS: f64 = 100.0;
/// The serial of a process that is only counted; traced images begin at 1.
const COUNTED: u32 = u32::MAX;

/// Calls per second and CPU use of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallRates {
    /// How long calls were counted.
    pub window: Duration,
    /// By function name.
    pub per_second: BTreeMap<&'static str, f64>,
    /// CPU seconds a second that the process used before it was probed.
    pub cpu_share: f64,
}

/// Watches a process for one window without probes (its CPU use) and for one with (its calls).
///
/// # Errors
/// If it cannot be probed.
pub fn count_calls(
    kernel: &mut Kernel,
    pid: u32,
    costs: &CostTable,
    window: Duration,
) -> Result<CallRates, Failure> {
    let found = discover::required(pid, costs)?;
    let (_, points) = discover::attach_points(&found.plan);
    let cpu_share = cpu_share(pid, window);
    let target = Target { serial: COUNTED, gate: gate::CLOSED, ..Target::default() };
    kernel.set_target(pid, &target)?;
    let attached = kernel.attach(pid, &points);
    let before = kernel.hits()?;
    let begun = Instant::now();
    kernel.set_target(pid, &Target { gate: gate::OPEN, ..target })?;
    thread::sleep(window);
    let after = kernel.hits()?;
    let window = begun.elapsed();
    kernel.remove_target(pid);
    drop(attached?);
    let per_second = found.plan.probes.iter().map(|probe| {
        let index = usize::from(HookId::index(probe.hook));
        let calls =
            after.get(index).zip(before.get(index)).map_or(0, |(after, before)| after.wrapping_sub(*before));
        (probe.hook.hook().name, calls as f64 / window.as_secs_f64())
    });
    Ok(CallRates { window, per_second: per_second.collect(), cpu_share })
}

fn cpu_share(pid: u32, window: Duration) -> f64 {
    let ticks = || {
        let stat = procfs::process::Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        Some(stat.utime + stat.stime)
    };
    let (begun, before) = (Instant::now(), ticks());
    // CPU time is counted in ticks of 10 ms: a shorter look would see nothing.
    thread::sleep(window.max(Duration::from_millis(200)));
    let used = ticks().zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
    used as f64 / TICKS / begun.elapsed().as_secs_f64()
}
