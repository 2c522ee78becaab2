//! Promise: a container is all that needs to be named. In real containers of several distributions, started by real
//! runtimes as engines start them, the line that leaks is ranked first, every process is named by both of its PIDs, and
//! the containers beside it are left alone.

mod harness;

use harness::{
    Container, Found, Outcomes, Process, Report, Target, Tracer,
    container::{self, Cgroup, Runtime},
    longest_wait, mounts, program,
    service::Leak,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Leaks in a known line, and needs nothing but the standard library.
const SERVICE: &str = "worker_pool.py";
/// How a UID of a pod looks.
const POD: &str = "6d3c1f0e-52a7-4c7e-9a55-0f1b7c2d9e44";

fn leak(service: &mut Target) -> Outcomes<Leak> {
    service.ask_json("leaked")
}

/// Waits until it has leaked that much more; returns the line.
fn await_leaked(service: &mut Target, more: i64) -> Outcomes<u32> {
    let (deadline, enough) = (Instant::now() + longest_wait(), leak(service)?.leaked + more);
    loop {
        let now = leak(service)?;
        match now.leaked >= enough {
            true => return now.line("client"),
            false if Instant::now() > deadline => return Err("the service leaks no more".to_owned()),
            false => sleep(Duration::from_millis(20)),
        }
    }
}

/// Traces, and fails unless the service's leaking line comes first, and the service is known by all of its names.
fn check(container: &mut Container, target: &[&str]) -> Outcomes<Found> {
    let line = leak(&mut container.service)?.line("client")?;
    let found = Found::once_ranked_first(target, SERVICE, line)?;
    let process = of(&found.report, container.service_pid)?;
    let pids = container::pids(container.service_pid)?;
    assert!(pids.len() > 1 && pids.last() == Some(&1), "{pids:?}");
    assert_eq!(process.namespace_pids, pids, "as the kernel tells it");
    assert_eq!(process.container.as_ref().map(|known| &known.id), Some(&container.id), "{}", found.stderr);
    Ok(found)
}

fn of(report: &Report, pid: u32) -> Outcomes<&Process> {
    let found = report.processes.iter().find(|process| process.pid == pid);
    found.ok_or_else(|| format!("{pid} is not among {:?}", report.processes))
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_the_beginning_of_its_id() -> Outcomes<()> {
    let pod = format!("kubepods/burstable/pod{POD}");
    let mut container = Container::on("bookworm").below(&pod).start(SERVICE)?;
    let beginning = container.id[..12].to_owned();
    let found = check(&mut container, &["--container", &beginning])?;
    let process = of(&found.report, container.service_pid)?;
    assert_eq!(process.container.as_ref().and_then(|known| known.pod.as_deref()), Some(POD));
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_its_id_with_a_root_that_nobody_may_write() -> Outcomes<()> {
    let builder = Container::on("bookworm").runtime(Runtime::Runc).cgroup(Cgroup::Unified).read_only();
    let mut container = builder.start(SERVICE)?;
    let id = container.id.clone();
    check(&mut container, &["--container", &id]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_its_name_with_filtered_system_calls() -> Outcomes<()> {
    let builder = Container::on("trixie").runtime(Runtime::Runc).named("web").seccomp();
    let mut container = builder.start(SERVICE)?;
    let name = container.id.clone();
    check(&mut container, &["--container", &name]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_its_name_without_a_cgroup_of_its_own() -> Outcomes<()> {
    let mut container = Container::on("trixie").named("worker").cgroup(Cgroup::None).start(SERVICE)?;
    let name = container.id.clone();
    check(&mut container, &["--container", &name]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_its_cgroup() -> Outcomes<()> {
    let mut container = Container::on("trixie").read_only().seccomp().start(SERVICE)?;
    let cgroup = Path::new("/").join(container.cgroup());
    check(&mut container, &["--cgroup", &cgroup.to_string_lossy()]).map(|_| ())
}

/// The service is two PID namespaces below the host's; either is named by the container's.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_by_its_pid_namespace_and_what_lies_below() -> Outcomes<()> {
    let mut container = Container::on("bookworm").nested_pid_namespace().start(SERVICE)?;
    let (first, service) = (container.pid, container.service_pid);
    let path = format!("/proc/{first}/ns/pid");
    let found = check(&mut container, &["--pid-namespace", &path])?;
    assert_eq!(of(&found.report, service)?.namespace_pids.len(), 3);
    of(&found.report, first)?;
    let found = check(&mut container, &["--pid-namespace", &service.to_string()])?;
    assert!(of(&found.report, first).is_err(), "it is in the namespace above");
    Ok(())
}

/// Hosts of today and of yesterday, beside what this one is: wherever cgroups are mounted, containers and cgroups are found.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_whichever_cgroups_the_host_mounts() -> Outcomes<()> {
    let unified = Container::on("bookworm").runtime(Runtime::Runc).cgroup(Cgroup::Unified).start(SERVICE)?;
    check_seen(&unified, mounts::unified_cgroups_only)?;
    let own = Container::on("bookworm").start(SERVICE)?;
    check_seen(&own, mounts::legacy_cgroups_only)
}

/// Traces it by its ID and by its cgroup on a host that looks so.
fn check_seen(container: &Container, host: fn() -> std::io::Result<()>) -> Outcomes<()> {
    let cgroup = Path::new("/").join(container.cgroup());
    for target in [["--container", &container.id], ["--cgroup", &cgroup.to_string_lossy()]] {
        let mut tracer = Tracer::json().args(&target).before(host).start()?;
        tracer.await_stderr(&format!("leaktrace: tracing {} ", container.pid))?;
        let outcome = tracer.interrupt_and_finish()?;
        let process = of(outcome.final_report()?, container.pid)?;
        assert_eq!(process.container.as_ref().map(|known| &known.id), Some(&container.id), "{target:?}");
    }
    Ok(())
}

/// Two containers of one pod, with different C libraries, in one scope: each is known by its own, to the byte.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_musl_beside_glibc() -> Outcomes<()> {
    let mut python = Container::on("trixie").start(SERVICE)?;
    let root = musl_root()?;
    let mut musl = Container::on_directory(root.path()).beside(&python).run(&["/program"])?;
    let pod = Path::new("/").join(python.parent());
    let mut tracer = Tracer::json().arg("--cgroup").arg(pod).start()?;
    tracer.await_tracing()?;
    tracer.await_tracing()?;
    let expected = musl.service.ask("go")?;
    let line = await_leaked(&mut python.service, 20)?;
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    let process = of(report, musl.pid)?;
    let differences = expected.site_differences(process);
    assert!(differences.is_empty(), "{differences:#?}\n{}", process.summary());
    assert_eq!(process.container.as_ref().map(|known| &known.id), Some(&musl.id));
    assert!(of(report, python.pid)?.live_in_line(SERVICE, line).blocks >= 20, "{}", outcome.stderr);
    Ok(())
}

/// A root directory with a program of musl's and its dynamic linker, which is its C library too.
fn musl_root() -> Outcomes<TempDir> {
    let root = TempDir::new().map_err(|e| e.to_string())?;
    let linker = "lib/ld-musl-x86_64.so.1";
    fs::create_dir(root.path().join("lib")).map_err(|e| e.to_string())?;
    fs::copy(Path::new("/").join(linker), root.path().join(linker)).map_err(|e| format!("{linker}: {e}"))?;
    fs::copy(program::path("exact-musl")?, root.path().join("program")).map_err(|e| e.to_string())?;
    Ok(root)
}

/// `exec`, as engines call it, brings a process into a container that none of its own has forked.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_process_that_comes_into_it_later() -> Outcomes<()> {
    let container = Container::on("bookworm").start(SERVICE)?;
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = directory.path().join("report.json");
    let tracer = Tracer::json().args(&["--interval", "1s", "--container", &container.id]);
    let mut tracer = tracer.arg("-o").arg(&file).start()?;
    tracer.await_tracing()?;
    let mut later = container.execute(SERVICE, &[])?;
    let others = container.processes()?.into_iter().filter(|pid| *pid != container.pid);
    let pid = others.max().ok_or("nothing came into the container")?;
    let line = leak(&mut later)?.line("client")?;
    let seen = |report: &Report| {
        let live = of(report, pid).map(|process| process.live_in_line(SERVICE, line).blocks);
        live.is_ok_and(|blocks| blocks > 100)
    };
    tracer.await_report(&file, seen)?;
    let outcome = tracer.interrupt_and_finish()?;
    let process = of(outcome.final_report()?, pid)?;
    assert_eq!(process.namespace_pids, container::pids(pid)?);
    Ok(())
}

/// Two containers run the same files of the same image. A breakpoint in one must be none in the other.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_neighbour_that_shares_its_image_has_no_probes() -> Outcomes<()> {
    let traced = Container::on("bookworm").start(SERVICE)?;
    let neighbour = Container::on("bookworm").start(SERVICE)?;
    let (before, code_of_traced) = (code(neighbour.pid)?, code(traced.pid)?);
    assert!(before.keys().eq(code_of_traced.keys()), "not the same files");
    for options in [&[][..], &["--strict-scope"]] {
        let tracer = Tracer::json().args(options).args(&["--container", &traced.id]);
        let mut tracer = tracer.start()?;
        tracer.await_tracing()?;
        assert!(before == code(neighbour.pid)?, "code of the neighbour was changed");
        assert!(code_of_traced != code(traced.pid)?, "no probe is seen where there are some");
        let outcome = tracer.interrupt_and_finish()?;
        let report = outcome.final_report()?;
        assert!(report.processes.iter().all(|process| process.pid == traced.pid), "{:?}", report.processes);
    }
    Ok(())
}

/// The bytes of its code as they lie in memory, by file (inode and path; the device is that of the container's own view of it)
/// and offset.
type Code = BTreeMap<(String, String), Vec<u8>>;

fn code(pid: u32) -> Outcomes<Code> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|e| format!("maps of {pid}: {e}"))?;
    let memory = File::open(format!("/proc/{pid}/mem")).map_err(|e| format!("mem of {pid}: {e}"))?;
    let mut code = Code::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, permissions, offset, _, inode, path, ..] = words[..] else { continue };
        if permissions.contains('x') && path.starts_with('/') {
            let place = (format!("{inode} {path}"), offset.to_owned());
            code.insert(place, bytes(&memory, range)?);
        }
    }
    Ok(code)
}

fn bytes(memory: &File, range: &str) -> Outcomes<Vec<u8>> {
    let (start, end) = range.split_once('-').ok_or("a mapping without a range")?;
    let number = |text| u64::from_str_radix(text, 16).map_err(|e| format!("{range}: {e}"));
    let (start, end) = (number(start)?, number(end)?);
    let mut bytes = vec![0; usize::try_from(end - start).map_err(|e| e.to_string())?];
    memory.read_exact_at(&mut bytes, start).map_err(|e| format!("{range}: {e}"))?;
    Ok(bytes)
}

/// Moments at which the container is ended, after the tracer was started: hundredths of the time that attaching takes.
const MOMENTS: [u32; 7] = [0, 10, 30, 50, 70, 90, 110];

/// Either there was nothing to trace any more, or there is a report; in any case it ends by itself.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_it_stops_while_it_is_attached_to() -> Outcomes<()> {
    let attaching = time_to_attach()?;
    for moment in MOMENTS {
        let container = Container::on("bookworm").start(SERVICE)?;
        let tracer = Tracer::json().args(&["--container", &container.id]).start()?;
        sleep(attaching * moment / 100);
        container.kill()?;
        let outcome = tracer.await_end()?;
        let (code, said) = (outcome.code(), &outcome.stderr);
        println!("ended at {moment} %: exit code {code}: {}", said.lines().last().unwrap_or_default());
        assert!(!said.contains("panicked"), "{said}");
        match code {
            0 => drop(outcome.final_report()?),
            4 => assert!(said.contains("leaktrace: "), "without a reason"),
            other => return Err(format!("exit code {other} at {moment} %: {said}")),
        }
    }
    Ok(())
}

fn time_to_attach() -> Outcomes<Duration> {
    let container = Container::on("bookworm").start(SERVICE)?;
    let started = Instant::now();
    let mut tracer = Tracer::json().args(&["--container", &container.id]).start()?;
    tracer.await_tracing()?;
    let attaching = started.elapsed();
    tracer.interrupt_and_finish()?.final_report().map(|_| attaching)
}
