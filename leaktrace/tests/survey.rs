//! Promise: the daemon knows what everybody's memory comes to, process by process, container by container, cgroup by cgroup, whoever
//! comes, goes, or takes over a PID; and looking costs next to nothing.

mod harness;

use harness::{Container, Outcomes, Target, cgroup::TestCgroup, longest_wait};
use leaktrace::{
    process::{identity, status},
    watch::{ScopeConfig, Survey},
    watched::{MemoryReading, Subject, SubjectKind},
};
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const MIB: u64 = 1 << 20;
/// What a process may have beside the memory that it was told to use.
const REST: u64 = 8 * MIB;

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Of one scope. The targets are this test's children, so that they are not left out, nobody is.
fn survey(scope: &str) -> Outcomes<Survey> {
    let scope: ScopeConfig =
        toml::from_str(&format!("name = \"test\"\n{scope}")).map_err(|e| e.to_string())?;
    Survey::new(&[scope]).map(|survey| survey.except(u32::MAX)).map_err(|e| e.to_string())
}

fn only(survey: &mut Survey) -> Outcomes<(Subject, MemoryReading)> {
    let mut looked = survey.look(now());
    match looked.len() {
        1 => looked.pop().ok_or_else(String::new),
        _ => Err(format!("not one subject: {looked:#?}")),
    }
}

fn number(target: &mut Target, command: &str) -> Outcomes<u32> {
    target.ask_json(command)
}

fn is_about(bytes: u64, mib: u64) -> bool {
    (mib * MIB..mib * MIB + REST).contains(&bytes)
}

#[test]
fn a_process_has_the_memory_that_it_was_told_to_use() -> Outcomes<()> {
    let mut target = Target::start("hungry")?;
    let pid = target.pid();
    let mut survey = survey(&format!("process = [\"hungry\"]\npid = [{pid}]"))?;
    number(&mut target, "touch 40")?;
    let (subject, before) = only(&mut survey)?;
    assert!(is_about(before.anonymous_bytes, 40) && before.rss_bytes >= before.anonymous_bytes, "{before:?}");
    assert_eq!((subject.kind, subject.pid, subject.name.as_str()), (SubjectKind::Process, pid, "hungry"));
    let identity = identity::Identity::read(pid).map_err(|e| e.to_string())?;
    assert_eq!((subject.start_ticks, &subject.command), (identity.start_ticks, &identity.command));
    assert!((subject.started_unix_s - identity.start_unix_s).abs() < 2.0);
    assert!(
        subject.key.starts_with("process:")
            && subject.key.ends_with(&format!(":{pid}:{}", identity.start_ticks))
    );

    number(&mut target, "touch 30")?;
    number(&mut target, "work")?;
    let (same, after) = only(&mut survey)?;
    assert_eq!(same.key, subject.key);
    let more = after.anonymous_bytes - before.anonymous_bytes;
    assert!((30 * MIB..31 * MIB).contains(&more), "{more}");
    assert!(after.cpu_s >= before.cpu_s + 0.09, "{before:?} {after:?}");
    assert_eq!(survey.members(&subject.key), [pid]);

    target.end();
    assert!(survey.look(now()).is_empty());
    assert_eq!(survey.subject_of(pid), Some(subject.key.as_str()), "it is still known who that was");
    Ok(())
}

#[test]
fn leaktrace_and_what_it_has_started_are_nobody_s_concern() -> Outcomes<()> {
    let target = Target::start("hungry")?;
    let own = std::process::id();
    let mut survey = Survey::new(&[ScopeConfig::everybody("all")]).map_err(|e| e.to_string())?;
    survey.look(now());
    assert_eq!((survey.subject_of(own), survey.subject_of(target.pid())), (None, None));
    let mut others = self::survey("all = true")?;
    others.look(now());
    assert!(others.subject_of(own).is_some() && others.subject_of(target.pid()).is_some());
    Ok(())
}

/// Whoever is idle must not be asked for much.
#[test]
fn five_hundred_processes_are_seen_each_for_itself_and_missed_when_they_are_gone() -> Outcomes<()> {
    let mut target = Target::start("hungry")?;
    number(&mut target, "crowd 500")?;
    let mut survey = survey("process = [\"hungry\"]\nexclude = { process = [\"nobody\"] }")?;
    let of_ours = |survey: &mut Survey| {
        let looked = survey.look(now());
        let is_ours = |pid| status::read_stat(pid).is_ok_and(|stat| stat.parent == target.pid());
        looked.iter().filter(|(subject, _)| is_ours(subject.pid)).count()
    };
    assert_eq!(of_ours(&mut survey), 500);
    for (kind, age) in [("young", 0.0), ("settled", 3600.0)] {
        let looks = 20;
        let (cpu, clock) = (thread_cpu(), Instant::now());
        (0..looks).for_each(|_| drop(survey.look(now() + age)));
        println!(
            "a look at {} {kind} processes: {:.2} ms of CPU, {:.2} ms",
            survey.processes(),
            (thread_cpu() - cpu).as_secs_f64() * 1e3 / f64::from(looks),
            clock.elapsed().as_secs_f64() * 1e3 / f64::from(looks)
        );
    }
    number(&mut target, "reap")?;
    let left: Vec<Subject> = survey.look(now()).into_iter().map(|(subject, _)| subject).collect();
    let is_ours =
        |subject: &&Subject| status::read_stat(subject.pid).is_ok_and(|stat| stat.parent == target.pid());
    assert_eq!(left.iter().filter(is_ours).count(), 0);
    Ok(())
}

/// A worker that ends takes its memory with it, and leaves what it has done.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_named_cgroup_is_the_sum_of_its_processes_and_its_cpu_time_never_falls() -> Outcomes<()> {
    let path = format!("leaktrace-survey-{}/shop.service", std::process::id());
    let cgroup = TestCgroup::limited(&path, 512 * MIB)?;
    let mut target = Target::start("hungry")?;
    cgroup.take(target.pid())?;
    number(&mut target, "touch 20")?;
    let child = number(&mut target, "child 50")?;
    let pattern = path.replace("shop", "*");
    let mut survey = survey(&format!("cgroup = [\"/{pattern}\"]"))?;
    let (subject, before) = only(&mut survey)?;
    assert_eq!((subject.kind, subject.key), (SubjectKind::Cgroup, format!("cgroup:/{path}")));
    assert_eq!((subject.pid, before.processes), (child, 2), "the largest stands for it");
    // What the parent had when it forked is the child's as well, as far as the kernel counts.
    assert!(before.anonymous_bytes >= 90 * MIB && before.anonymous_bytes < 90 * MIB + 2 * REST, "{before:?}");
    let memory = before.cgroup.ok_or("no reading of the cgroup")?;
    assert_eq!(memory.limit_bytes, Some(512 * MIB));
    assert!(memory.current_bytes >= 70 * MIB && memory.anonymous_bytes >= 60 * MIB, "{memory:?}");
    assert!(memory.share_of_limit().is_some_and(|share| share > 0.1 && share < 0.3), "{memory:?}");

    number(&mut target, "reap")?;
    let (subject, after) = only(&mut survey)?;
    assert_eq!((subject.pid, after.processes), (target.pid(), 1));
    assert!(is_about(after.anonymous_bytes, 20), "{after:?}");
    assert!(after.cpu_s >= before.cpu_s && after.cpu_s >= 0.09, "{before:?} {after:?}");
    target.end();
    assert!(survey.look(now()).is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_container_is_found_by_its_label_with_all_of_its_processes() -> Outcomes<()> {
    for runtime in [harness::container::Runtime::Crun, harness::container::Runtime::Runc] {
        let app = format!("shop-{}-{runtime:?}", std::process::id());
        let labelled = Container::on("bookworm").runtime(runtime).annotation("app", &app);
        let mut container = labelled.memory_limit(256 * MIB).start("hungry.py")?;
        let other =
            Container::on("bookworm").runtime(runtime).annotation("app", "other").start("hungry.py")?;
        let mut second = container.execute("hungry.py", &[])?;
        let _: Option<u32> = container.service.ask_json("touch 40")?;
        let _: Option<u32> = second.ask_json("touch 30")?;
        let mut survey = survey(&format!("label = {{ app = \"{app}\" }}"))?;
        let (subject, memory) = only(&mut survey)?;
        assert_eq!(
            (subject.kind, &subject.key),
            (SubjectKind::Container, &format!("container:{}", container.id))
        );
        assert_eq!((subject.pid, memory.processes), (container.service_pid, 2));
        assert!(
            memory.anonymous_bytes >= 70 * MIB && memory.anonymous_bytes < 70 * MIB + 6 * REST,
            "{memory:?}"
        );
        assert_eq!(subject.container.as_ref().map(|known| &known.id), Some(&container.id));
        let own = memory.cgroup.ok_or("no reading of the cgroup")?;
        assert_eq!(own.limit_bytes, Some(256 * MIB));
        assert!(own.current_bytes >= 70 * MIB, "{own:?}");
        assert_eq!(subject.cgroup.as_deref().map(Path::new), Some(&*Path::new("/").join(container.cgroup())));
        assert_eq!(survey.subject_of(other.pid), None);
        second.end();
        container.kill()?;
    }
    Ok(())
}

/// A PID alone would lend a new process the memory and the past of an old one.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_pid_that_is_given_again_is_another_process() -> Outcomes<()> {
    let mut first = Target::start("hungry")?;
    let pid = first.pid();
    number(&mut first, "touch 40")?;
    number(&mut first, "work")?;
    let mut survey = survey(&format!("pid = [{pid}]"))?;
    let (old, before) = only(&mut survey)?;
    first.end();
    let mut again = given_again(pid)?;
    let (new, after) = only(&mut survey)?;
    assert_eq!(new.pid, pid);
    assert!(new.key != old.key && new.start_ticks > old.start_ticks, "{old:?} {new:?}");
    assert!(after.anonymous_bytes < 40 * MIB && before.anonymous_bytes >= 40 * MIB, "{before:?} {after:?}");
    assert!(after.cpu_s < before.cpu_s, "{before:?} {after:?}");
    number(&mut again, "touch 10")?;
    assert_eq!(only(&mut survey)?.0.key, new.key);
    Ok(())
}

/// A process that the kernel gives that PID: others that fork at the same time may be quicker, so it is tried again.
fn given_again(pid: u32) -> Outcomes<Target> {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    // Start times are told by the hundredth of a second.
    sleep(Duration::from_millis(50));
    let deadline = Instant::now() + longest_wait();
    while Instant::now() < deadline {
        fs::write(LAST, (pid - 1).to_string()).map_err(|e| format!("{LAST}: {e}"))?;
        let target = Target::start("hungry")?;
        if target.pid() == pid {
            return Ok(target);
        }
    }
    Err(format!("nobody was given PID {pid} again"))
}

fn thread_cpu() -> Duration {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}
