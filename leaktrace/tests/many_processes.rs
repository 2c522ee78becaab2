//! Promise: hundreds of processes in scope, and thousands that come and go, cost little, leave nothing behind, and each is told from
//! the others.

mod harness;

use harness::{
    Outcomes, Report, Target, Tracer,
    cgroup::{TestCgroup, made_up_id},
    kernel_maps, longest_wait,
    output::Amount,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// Names as far as the kernel keeps them (15 bytes).
const PER_PROCESS: [&str; 4] = ["TARGETS", "THREADS", "LIVE", "SITES"];
/// What each process of the crowd keeps when it is told to allocate.
const KEPT: Amount = Amount { bytes: 1000, blocks: 1 };
/// What each has mapped when it is told to.
const MAPPED: Amount = Amount { bytes: 100 * 8192, blocks: 100 };

/// Waits until the kernel side holds no more than it did.
fn await_return_to(tracer: &Tracer, before: &BTreeMap<String, u64>) -> Outcomes<()> {
    let deadline = Instant::now() + longest_wait();
    loop {
        let now = kernel_maps::entries(tracer.pid())?;
        if PER_PROCESS.iter().all(|map| now.get(*map) <= before.get(*map)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "after everything has ended the maps hold {now:?}, before it was {before:?}"
            ));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn children(pid: u32) -> Outcomes<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    text.split_whitespace().map(|pid| pid.parse().map_err(|error| format!("{path}: {error}"))).collect()
}

fn resident_bytes(pid: u32) -> Outcomes<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.ok_or("a process without a number of resident pages")? * 4096)
}

fn print_cost(what: &str, report: &Report) {
    let truth = &report.truth;
    println!(
        "{what}: {:.2} s of CPU, {} MiB resident, {} MiB of maps",
        truth.own_cpu_s,
        truth.own_rss_bytes >> 20,
        truth.map_bytes >> 20
    );
}

/// Each of these processes is in the report and holds exactly that.
fn check_each(report: &Report, pids: &[u32], expected: Amount) -> Outcomes<()> {
    let held: BTreeMap<u32, Amount> =
        report.processes.iter().map(|process| (process.pid, process.live)).collect();
    let wrong: Vec<_> = pids.iter().filter(|pid| held.get(pid) != Some(&expected)).collect();
    match wrong.first() {
        None => Ok(()),
        Some(pid) => Err(format!(
            "{} of {} processes do not hold {expected:?}; {pid} holds {:?}",
            wrong.len(),
            pids.len(),
            held.get(pid)
        )),
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_five_hundred_processes_are_all_seen() -> Outcomes<()> {
    let mut crowd = Target::prepare("crowd")?.arg("500").start()?;
    crowd.ask("idle")?;
    let pids = children(crowd.pid())?;
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut tracer = Tracer::json().args(&["-p", &list]).start()?;
    let said = tracer.await_tracing()?;
    assert!(said.starts_with("leaktrace: tracing 500 processes (500 crowd), placed in "), "{said}");
    crowd.ask("each")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    check_each(report, &pids, KEPT)?;
    assert_eq!(outcome.stderr.matches("leaktrace: tracing ").count(), 1, "{}", outcome.stderr);
    print_cost("500 processes that were there", report);
    Ok(())
}

/// Everything is as after the first crowd when others have come and gone: what the first has left are caches.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_crowds_that_come_and_go_leave_nothing_behind() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = directory.path().join("report.json");
    let mut crowd = Target::prepare("crowd")?.arg("200").start()?;
    let mut tracer = Tracer::of(crowd.pid()).args(&["--interval", "1s"]).arg("-o").arg(&file).start()?;
    tracer.await_tracing()?;
    let before = kernel_maps::entries(tracer.pid())?;
    let mut resident = vec![resident_bytes(tracer.pid())?];
    for round in 1..=2 {
        crowd.ask("idle")?;
        let entered = |report: &Report| report.truth.newcomers.entered == 200 * round;
        print_cost("200 processes that came", &tracer.await_report(&file, entered)?);
        crowd.ask("end")?;
        await_return_to(&tracer, &before)?;
        resident.push(resident_bytes(tracer.pid())?);
    }
    println!("resident at the start, and after each crowd: {resident:?} bytes");
    let grown = resident[2].saturating_sub(resident[1]);
    assert!(grown < 8 << 20, "200 processes have left {grown} bytes");
    tracer.interrupt_and_finish()?.final_report().map(|_| ())
}

/// 20,000 processes, 2,000 a second where the machine can.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_fork_storm_leaves_nothing_behind() -> Outcomes<()> {
    let mut crowd = Target::prepare("crowd")?.arg("20000").start()?;
    let mut tracer = Tracer::of(crowd.pid()).args(&["--interval", "1s"]).start()?;
    tracer.await_tracing()?;
    let (maps, resident) = (kernel_maps::entries(tracer.pid())?, resident_bytes(tracer.pid())?);
    let said = crowd.ask("storm")?;
    await_return_to(&tracer, &maps)?;
    let now = resident_bytes(tracer.pid())?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    print_cost(&format!("storm of {} ms", said.number("storm")?), report);
    println!("{} MiB resident before, {} MiB after", resident >> 20, now >> 20);
    Ok(())
}

/// Fifty containers below one cgroup, as a node of Kubernetes has them: a cgroup and a PID namespace each, a hundred mappings in each.
struct Containers {
    crowd: Target,
    /// ID, by PID as the host sees it.
    ids: BTreeMap<u32, String>,
    _cgroups: Vec<TestCgroup>,
}

impl Containers {
    fn start(parent: &str, first: u32, count: u32) -> Outcomes<Self> {
        let mut crowd = Target::prepare("crowd")?.arg(count.to_string()).arg("namespaces").start()?;
        crowd.ask("idle")?;
        let (mut ids, mut cgroups) = (BTreeMap::new(), Vec::new());
        for (number, pid) in (first..).zip(children(crowd.pid())?) {
            let id = made_up_id(number);
            let cgroup = TestCgroup::make(&format!("{parent}/docker-{id}.scope"))?;
            cgroup.take(pid)?;
            cgroups.push(cgroup);
            ids.insert(pid, id);
        }
        Ok(Self { crowd, ids, _cgroups: cgroups })
    }

    fn pids(&self) -> Vec<u32> {
        self.ids.keys().copied().collect()
    }

    /// Whether a report names each process by its container, and by its PID there.
    fn are_told_apart_in(&self, report: &Report) -> bool {
        self.ids.iter().all(|(pid, id)| {
            report.processes.iter().any(|process| {
                process.pid == *pid
                    && process.container.as_ref().is_some_and(|container| container.id == *id)
                    && process.namespace_pids.first() == Some(pid)
                    && process.namespace_pids.last() == Some(&1)
            })
        })
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // Cgroups can be removed when nobody is in them.
        self.crowd.ask("end").ok();
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_fifty_containers_are_told_apart() -> Outcomes<()> {
    let parent = format!("leaktrace-fifty-{}", std::process::id());
    let mut containers = Containers::start(&parent, 0, 50)?;
    let scope = Path::new("/").join(&parent);
    let mut tracer = Tracer::json().arg("--cgroup").arg(&scope).start()?;
    let said = tracer.await_tracing()?;
    assert!(said.starts_with("leaktrace: tracing 50 processes "), "{said}");
    containers.crowd.ask("each")?;
    containers.crowd.ask("map")?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    assert!(containers.are_told_apart_in(report), "{:?}", report.processes);
    check_each(report, &containers.pids(), KEPT + MAPPED)?;
    print_cost("50 containers", report);
    Ok(())
}

/// `--all`: those that are there, and those that come; leaktrace itself is no target of its own. Whatever else runs on the host is in the
/// reports too, so only those are made that are asked for.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_whole_host_is_traced_but_for_the_tracer() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = directory.path().join("report.json");
    let parent = format!("leaktrace-all-{}", std::process::id());
    let mut early = Containers::start(&parent, 100, 2)?;
    let tracer = Tracer::json().args(&["--all", "--interval", "1h"]).arg("-o").arg(&file);
    let mut tracer = tracer.start()?;
    tracer.await_tracing()?;
    let mut late = Containers::start(&parent, 200, 2)?;
    let both = |report: &Report| [&early, &late].iter().all(|some| some.are_told_apart_in(report));
    tracer.await_report(&file, both)?;
    early.crowd.ask("each")?;
    late.crowd.ask("each")?;
    let own = tracer.pid();
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    assert!(report.processes.iter().all(|process| process.pid != own), "leaktrace traces itself");
    print_cost(&format!("the whole host, {} processes", report.processes.len()), report);
    Ok(())
}
