//! Predicting what tracing a process would cost. Calls are counted in short windows, spread over two seconds, by probes that
//! do nothing but count; then the real programs run in as many windows, and the kernel says how long they take. Between
//! windows an interpreter's table is as it was, so that its allocations cost nothing; the target pays for some 20 ms of
//! exact tracing in all.
//!
//! What a call costs in a process that does other work as well is more than what a probe costs in a loop. So the slowdown is
//! taken from the process's pace where that can be seen: how often it calls the C library's allocator in a second of CPU time,
//! with and without being traced. Where it calls that too rarely, the costs are added up, which is less than the truth. So they are
//! for light tracing: while everything is placed, what watches the interpreter's lists would slow that pace too.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use leaktrace_common::record::{Target, gate};

use super::tracer::Tracer;
use crate::{
    cli::{Failure, meant::TracePlan},
    kernel::{AttachScope, Kernel, LoadOptions, ProgramTime, programs},
    probe::{
        cost::CostTable,
        hooks::{self, HookId, POOL_TAKEN, Provider},
        plan::{Plan, PlannedProbe},
    },
    process::{maps, status},
    python::{Redirection, SlotChange, leftover::Records},
    target::{discover, python::examine},
};

/// The serial of a process that is only counted; traced images begin at 1.
const COUNTED: u32 = u32::MAX;
/// How many windows.
const WINDOWS: u32 = 20;
/// How long one is.
const WINDOW: Duration = Duration::from_millis(1);
/// From one to the next.
const PERIOD: Duration = Duration::from_millis(100);
/// Windows with the real programs before any is counted: the first stacks are all new, later ones are not.
const WARM_UP: u32 = 10;
/// How long the process is watched before anything is placed.
const BEFORE: Duration = Duration::from_secs(1);
/// However much the counting costs, this share of the process's time in a window is its own.
const LEAST_SHARE: f64 = 0.05;
/// How long a window is in which only the C library's allocator is probed.
const LONG_WINDOW: Duration = Duration::from_millis(10);

/// How often a function is called and what a call would cost.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredCall {
    /// The function.
    pub function: &'static str,
    /// Calls in a second of the process's own CPU time.
    pub per_second: f64,
    /// Nanoseconds of its traps and of leaktrace's programs, one call.
    pub cost_ns: f64,
    /// Probed by `--detail exact`.
    pub exact: bool,
    /// Probed by `--detail light`.
    pub light: bool,
}

/// What was measured of one process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Time in windows that were counted in, all together.
    pub window: Duration,
    /// CPU seconds a second that the process used before.
    pub cpu_share: f64,
    /// By function; those that were called.
    pub calls: Vec<MeasuredCall>,
    /// Calls of the C library's allocator in a CPU second.
    pub pace: Pace,
}

/// How often a process calls the C library's allocator in a CPU second; `None`: too rarely to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// While nothing is traced.
    pub untraced: Option<f64>,
    /// While everything is.
    pub exact: Option<f64>,
}

/// Fewer calls than this say nothing of a pace.
const LEAST_CALLS: u64 = 40;

impl Measured {
    /// CPU seconds that tracing would take in each CPU second of the process's own.
    pub fn cost(&self, wanted: impl Fn(&MeasuredCall) -> bool) -> f64 {
        self.calls.iter().filter(|call| wanted(call)).map(|call| call.per_second * call.cost_ns / 1e9).sum()
    }

    /// How many times as long the process's work would take under `--detail exact`, and whether that is only the least.
    pub fn exact(&self) -> (f64, bool) {
        let least = 1.0 + self.cost(|call| call.exact);
        match self.pace.untraced.zip(self.pace.exact) {
            // Both miss something: a pace in few windows is uneven, costs leave out what disturbed caches cost.
            Some((untraced, traced)) => ((untraced / traced).max(least), false),
            None => (least, true),
        }
    }

    /// The same under `--detail light`.
    pub fn light(&self) -> (f64, bool) {
        (1.0 + self.cost(|call| call.light), true)
    }
}

/// Whether measuring was told to end. Between two windows everything is as it was before.
static TOLD_TO_END: AtomicBool = AtomicBool::new(false);

/// Lets SIGINT, SIGTERM and SIGHUP end measuring between two windows, and not in one.
fn listen_for_the_end() {
    extern "C" fn end(_: libc::c_int) {
        TOLD_TO_END.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { libc::signal(signal, handler) };
    }
}

/// Measures one process. `plan` is that of a trace of it.
///
/// # Errors
/// If it cannot be probed, or a signal ends it.
pub fn measure(pid: u32, costs: &CostTable, plan: TracePlan) -> Result<Measured, Failure> {
    listen_for_the_end();
    let probes = Probes::of(pid, costs)?;
    let cpu_share = cpu_share(pid)?;
    let Counted { calls, pace: untraced, window } = count(pid, &probes)?;
    let (times, traced) = program_times(pid, plan)?;
    let pace = Pace { untraced, ..traced };
    let calls = probes.plan.probes.iter().filter_map(|probe| {
        let per_second = *calls.get(&probe.hook).filter(|calls| **calls > 0.0)?;
        let hook = probe.hook.hook();
        let is_pool = hook.name == POOL_TAKEN;
        Some(MeasuredCall {
            function: hook.name,
            per_second,
            cost_ns: f64::from(probe.site.cost.per_hit_ns(probe.needs_return)) + own_work(probe, &times),
            exact: !is_pool,
            light: is_pool || hook.provider != Provider::Python,
        })
    });
    Ok(Measured { window, cpu_share, calls: calls.collect(), pace })
}

/// Everything that exact or light tracing would place, and what it would write.
struct Probes {
    plan: Plan,
    redirect: Vec<SlotChange>,
}

impl Probes {
    fn of(pid: u32, costs: &CostTable) -> Result<Self, Failure> {
        let mut plan = discover::required(pid, costs)?.plan;
        let mappings = maps::read(pid).map_err(|error| Failure::Failed(error.to_string()))?;
        // An interpreter that is not known is traced natively.
        let examined = examine(pid, &mappings, costs).unwrap_or_default();
        let Some(planned) = examined.and_then(|examined| examined.allocators.ok()) else {
            return Ok(Self { plan, redirect: Vec::new() });
        };
        plan.absorb(planned.exact.plan);
        plan.absorb(planned.light.plan);
        Ok(Self { plan, redirect: planned.exact.redirect })
    }
}

impl Probes {
    /// What counting a call of the C library's allocator costs at most, in nanoseconds.
    fn pace_cost_ns(&self) -> u32 {
        let libc = self.plan.probes.iter().filter(|probe| probe.hook.hook().provider == Provider::Allocator);
        let emulated = libc.filter(|probe| probe.site.cost.emulated);
        emulated.map(|probe| probe.site.cost.entry_ns).max().unwrap_or(0)
    }
}

/// What probes that only count have found.
struct Counted {
    /// Calls in a CPU second of the process's own, by function.
    calls: BTreeMap<HookId, f64>,
    /// See [`Pace::untraced`].
    pace: Option<f64>,
    /// Time that was counted in.
    window: Duration,
}

/// Counts every call.
fn count(pid: u32, probes: &Probes) -> Result<Counted, Failure> {
    let options = LoadOptions {
        max_live_blocks: 1024,
        max_sites: 1024,
        count_hits: true,
        count_only: true,
        ..LoadOptions::default()
    };
    let (mut kernel, _rings, _sweeper) = Kernel::load(&options)?;
    let (_, points) = discover::attach_points(&probes.plan);
    let target = Target { serial: COUNTED, gate: gate::CLOSED, ..Target::default() };
    kernel.set_target(pid, &target)?;
    let attached = kernel.attach(AttachScope::Process(pid), &points)?;
    let mut redirection = redirect(pid, &probes.redirect)?;
    let _measuring = kernel.start_stopwatch()?;
    let pace = pace(&mut kernel, pid, &target)?;
    let pace = pace.and_then(|pace| pace.without(f64::from(probes.pace_cost_ns())));
    let (before, mut sum, mut sums) = (kernel.hits()?, Window::default(), BTreeMap::new());
    for _ in 0..WINDOWS {
        thread::sleep(PERIOD);
        let times = kernel.program_times();
        let window = one_window(&mut kernel, pid, &target, redirection.as_mut(), WINDOW)?;
        add(&mut sums, &times, &kernel.program_times());
        sum = Window { time: sum.time + window.time, cpu: sum.cpu + window.cpu };
    }
    let after = kernel.hits()?;
    kernel.remove_target(pid);
    drop((redirection, attached));
    let times = means(sums);
    let counted = probes.plan.probes.iter().map(|probe| {
        let index = usize::from(probe.hook.index());
        let hits =
            after.get(index).zip(before.get(index)).map_or(0, |(after, before)| after.wrapping_sub(*before));
        let work = times.get(programs(probe.cookie.kind).0).copied().unwrap_or(0.0);
        (probe.hook, (hits as f64, f64::from(probe.site.cost.entry_ns) + work))
    });
    Ok(Counted { calls: per_second(&counted.collect(), sum.cpu), pace, window: sum.time })
}

/// Calls in a second of what the process had for itself, from hits and what each cost in nanoseconds.
fn per_second(counted: &BTreeMap<HookId, (f64, f64)>, cpu: Duration) -> BTreeMap<HookId, f64> {
    let cpu = cpu.as_secs_f64();
    let taken: f64 = counted.values().map(|(hits, cost_ns)| hits * cost_ns / 1e9).sum();
    let own = (cpu - taken).max(cpu * LEAST_SHARE);
    let rate = |hits: f64| if own > 0.0 { hits / own } else { 0.0 };
    counted.iter().map(|(hook, (hits, _))| (*hook, rate(*hits))).collect()
}

/// Calls of the C library's allocator, in some CPU time.
#[derive(Clone, Copy, Debug)]
struct Calls {
    calls: u64,
    cpu: Duration,
}

impl Calls {
    /// In a CPU second that the counting took nothing of.
    fn without(self, cost_ns: f64) -> Option<f64> {
        let own = self.cpu.as_secs_f64() - self.calls as f64 * cost_ns / 1e9;
        (self.calls >= LEAST_CALLS && own > 0.0).then(|| self.calls as f64 / own)
    }
}

/// Counts calls of the C library's allocator in as many windows as for everything.
fn pace(kernel: &mut Kernel, pid: u32, target: &Target) -> Result<Option<Calls>, Failure> {
    let mut sum = Calls { calls: 0, cpu: Duration::ZERO };
    for _ in 0..WINDOWS {
        thread::sleep(PERIOD);
        let before = libc_calls(kernel)?;
        sum.cpu += one_window(kernel, pid, target, None, LONG_WINDOW)?.cpu;
        sum.calls += libc_calls(kernel)?.saturating_sub(before);
    }
    Ok((sum.calls > 0).then_some(sum))
}

fn libc_calls(kernel: &Kernel) -> Result<u64, Failure> {
    let hits = kernel.hits()?;
    let is_libc = |id: &HookId| id.hook().provider == Provider::Allocator;
    Ok(hooks::all().filter(is_libc).filter_map(|id| hits.get(usize::from(id.index()))).sum())
}

fn redirect(pid: u32, changes: &[SlotChange]) -> Result<Option<Redirection>, Failure> {
    if changes.is_empty() {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let stat = status::read_stat(pid).map_err(|error| failed(&error))?;
    let redirection = Redirection::apply(pid, stat.start_ticks, changes, &Records::default());
    let mut redirection = redirection.map_err(|error| failed(&error))?;
    redirection.switch_off().map_err(|error| failed(&error))?;
    Ok(Some(redirection))
}

/// A time in which the gate was open, and what the process used of it on all CPUs.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    time: Duration,
    cpu: Duration,
}

/// Opens the gate for a moment, and redirects the interpreter's table for it.
fn one_window(
    kernel: &mut Kernel,
    pid: u32,
    target: &Target,
    mut redirection: Option<&mut Redirection>,
    length: Duration,
) -> Result<Window, Failure> {
    let failed = |error: crate::python::redirect::RedirectError| Failure::Failed(error.to_string());
    if TOLD_TO_END.load(Ordering::Relaxed) {
        return Err(Failure::Failed(format!(
            "measuring process {pid} was interrupted; it is as it was before"
        )));
    }
    if let Some(redirection) = &mut redirection {
        redirection.switch_on().map_err(failed)?;
    }
    kernel.set_target(pid, &Target { gate: gate::OPEN, ..*target })?;
    let (begun, before) = (Instant::now(), cpu_time(pid)?);
    thread::sleep(length);
    kernel.set_target(pid, &Target { gate: gate::CLOSED, ..*target })?;
    let window = Window { time: begun.elapsed(), cpu: cpu_time(pid)?.saturating_sub(before) };
    if let Some(redirection) = &mut redirection {
        redirection.switch_off().map_err(failed)?;
    }
    Ok(window)
}

/// Nanoseconds of each of leaktrace's programs, one run, as they really trace the process; and its pace meanwhile.
fn program_times(pid: u32, plan: TracePlan) -> Result<(BTreeMap<String, f64>, Pace), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::Failed(format!("could not start the event loop: {error}")))?;
    let _inside = runtime.enter();
    let mut tracer = runtime.block_on(Tracer::begin(plan))?;
    let Some(target) = tracer.kernel.target(pid) else {
        return Err(Failure::NoTarget(format!("process {pid} ended while it was measured")));
    };
    let mut redirection = tracer.images.values_mut().find_map(|image| image.python.redirection.take());
    if let Some(redirection) = &mut redirection {
        redirection.switch_off().map_err(|error| Failure::Failed(error.to_string()))?;
    }
    tracer.kernel.set_target(pid, &Target { gate: gate::CLOSED, ..target })?;
    // The first stacks are all new, later ones are not.
    for _ in 0..WARM_UP {
        thread::sleep(PERIOD);
        one_window(&mut tracer.kernel, pid, &target, redirection.as_mut(), WINDOW)?;
    }
    let _measuring = tracer.kernel.start_stopwatch()?;
    let (mut sums, mut exact) = (BTreeMap::new(), Calls { calls: 0, cpu: Duration::ZERO });
    for _ in 0..WINDOWS {
        thread::sleep(PERIOD);
        let (times, calls) = (tracer.kernel.program_times(), libc_calls(&tracer.kernel)?);
        exact.cpu += one_window(&mut tracer.kernel, pid, &target, redirection.as_mut(), WINDOW)?.cpu;
        exact.calls += libc_calls(&tracer.kernel)?.saturating_sub(calls);
        add(&mut sums, &times, &tracer.kernel.program_times());
    }
    Ok((means(sums), Pace { untraced: None, exact: exact.without(0.0) }))
}

fn means(sums: BTreeMap<String, (u64, Duration)>) -> BTreeMap<String, f64> {
    let mean = |(name, (runs, time)): (String, (u64, Duration))| {
        (runs > 0).then(|| (name, time.as_secs_f64() * 1e9 / runs as f64))
    };
    sums.into_iter().filter_map(mean).collect()
}

fn add(sums: &mut BTreeMap<String, (u64, Duration)>, before: &[ProgramTime], after: &[ProgramTime]) {
    for now in after {
        let Some(then) = before.iter().find(|then| then.name == now.name && then.runs <= now.runs) else {
            continue;
        };
        // Both link modes have a program of that name; only one runs.
        let sum = sums.entry(now.name.clone()).or_default();
        sum.0 += now.runs - then.runs;
        sum.1 += now.time.saturating_sub(then.time);
    }
}

/// Nanoseconds of leaktrace's own work for one call.
fn own_work(probe: &PlannedProbe, times: &BTreeMap<String, f64>) -> f64 {
    let (entry, leave) = programs(probe.cookie.kind);
    let time = |name: &str| times.get(name).copied().unwrap_or(0.0);
    time(entry) + if probe.needs_return { time(leave) } else { 0.0 }
}

fn cpu_share(pid: u32) -> Result<f64, Failure> {
    let (begun, before) = (Instant::now(), cpu_time(pid)?);
    thread::sleep(BEFORE);
    let used = cpu_time(pid)?.saturating_sub(before);
    Ok(used.as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// CPU time that all threads of a process have used, to the nanosecond: what `/proc` shows comes in ticks.
fn cpu_time(pid: u32) -> Result<Duration, Failure> {
    let gone = || Failure::NoTarget(format!("process {pid} ended while it was measured"));
    let pid = libc::pid_t::try_from(pid).map_err(|_| gone())?;
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both calls fill what they are given.
    let read = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0 && libc::clock_gettime(clock, &raw mut time) == 0
    };
    let seconds = u64::try_from(time.tv_sec).ok().zip(u32::try_from(time.tv_nsec).ok());
    seconds
        .filter(|_| read)
        .map(|(seconds, nanoseconds)| Duration::new(seconds, nanoseconds))
        .ok_or_else(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(per_second: f64, cost_ns: f64, light: bool) -> MeasuredCall {
        MeasuredCall { function: "malloc", per_second, cost_ns, exact: true, light }
    }

    #[test]
    fn without_a_pace_the_costs_are_added_up_and_said_to_be_the_least() {
        let calls = vec![call(1e6, 3000.0, false), call(1e5, 1000.0, true)];
        let measured = Measured { window: WINDOW, cpu_share: 1.0, calls, pace: Pace::default() };
        assert_eq!(measured.exact(), (4.1, true));
        assert_eq!(measured.light(), (1.1, true));
    }

    #[test]
    fn the_slowdown_is_the_ratio_of_paces() {
        let pace = Pace { untraced: Some(1000.0), exact: Some(125.0) };
        let measured = Measured { pace, ..Measured::default() };
        assert_eq!(measured.exact(), (8.0, false));
    }

    #[test]
    fn what_the_counting_took_is_not_the_process_s_own() {
        let hook = HookId::by_name("malloc").expect("in the table");
        // Half of the time went into counting.
        let counted = BTreeMap::from([(hook, (10_000.0, 1000.0))]);
        assert!((per_second(&counted, Duration::from_millis(20))[&hook] - 1e6).abs() < 1.0);
        assert!(per_second(&counted, Duration::ZERO)[&hook] < 1.0);
        let calls = Calls { calls: 10_000, cpu: Duration::from_millis(20) };
        assert!(calls.without(1000.0).is_some_and(|pace| (pace - 1e6).abs() < 1.0));
        assert!(Calls { calls: 3, ..calls }.without(0.0).is_none());
    }

    #[test]
    fn our_own_cpu_time_grows() {
        let before = cpu_time(std::process::id()).expect("own clock");
        while cpu_time(std::process::id()).expect("own clock") == before {}
        assert!(cpu_time(4_194_305).is_err());
    }
}
