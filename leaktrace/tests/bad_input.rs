//! Promise: whatever is asked for that cannot be done is answered by one plain sentence, the documented exit code,
//! and nothing left behind.

mod harness;

use harness::{Outcome, Outcomes, Target, Tracer, probed_code, program, tracer::TracerBuilder};
use std::{
    fs, io,
    process::{Command, Stdio},
    time::Duration,
};

const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 3;
const NO_SUCH_TARGET: i32 = 4;

/// Runs it; checks exit code, that stderr is one sentence with these words in it, and that stdout is empty.
fn refused(builder: TracerBuilder, code: i32, words: &[&str]) -> Outcomes<Outcome> {
    let outcome = builder.run()?;
    let sentence = outcome.stderr.trim_end();
    assert_eq!(outcome.code(), code, "{sentence}");
    assert_eq!(sentence.lines().count(), 1, "not one sentence: {sentence}");
    for word in words {
        assert!(sentence.to_lowercase().contains(&word.to_lowercase()), "{word:?} is not in: {sentence}");
    }
    assert!(!sentence.contains("panicked"), "{sentence}");
    assert_eq!(outcome.stdout, "");
    Ok(outcome)
}

/// Wrong usage may print the usage as well; the first line says what is wrong.
fn misused(arguments: &[&str], words: &[&str]) -> Outcomes<()> {
    let outcome = Tracer::bare().args(arguments).run()?;
    assert_eq!(outcome.code(), WRONG_USAGE, "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert_eq!(outcome.stdout, "");
    Ok(())
}

fn fails(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn two_kinds_of_target() -> Outcomes<()> {
    misused(&["trace", "-p", "1", "--", "true"], &[])?;
    misused(&["trace", "-p", "1", "--all"], &[])
}

#[test]
fn no_target() -> Outcomes<()> {
    misused(&["trace"], &[])
}

#[test]
fn an_interval_of_zero() -> Outcomes<()> {
    misused(&["trace", "-p", "1", "--interval", "0s"], &["interval"])?;
    misused(&["trace", "-p", "1", "--interval", "soon"], &["interval"])
}

#[test]
fn numbers_that_are_none() -> Outcomes<()> {
    misused(&["trace", "-p", "first"], &[])?;
    misused(&["trace", "-p", "-1"], &[])?;
    misused(&["trace", "-p", "0"], &[])?;
    misused(&["trace", "-p", "1", "--max-live-blocks", "0"], &["max-live-blocks"])?;
    misused(&["trace", "-p", "1", "--switch-off", "gravity"], &["gravity"])
}

#[test]
fn an_output_format_that_does_not_exist() -> Outcomes<()> {
    misused(&["trace", "-p", "1", "-o", "report.docx"], &["report.docx"])
}

/// A PID that no process has.
fn absent_pid() -> Outcomes<u32> {
    let mut child = Command::new("true").spawn().map_err(|e| e.to_string())?;
    let pid = child.id();
    child.wait().map_err(|e| e.to_string())?;
    Ok(pid)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_pid_that_does_not_exist() -> Outcomes<()> {
    let pid = absent_pid()?;
    refused(Tracer::of(pid), NO_SUCH_TARGET, &[&pid.to_string()]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_one_of_two_pids_does_not_exist() -> Outcomes<()> {
    let (target, pid) = (Target::start("churn")?, absent_pid()?);
    refused(Tracer::of(target.pid()).arg("-p").arg(pid.to_string()), NO_SUCH_TARGET, &[&pid.to_string()])?;
    probed_code::assert_none_left(&target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_kernel_thread() -> Outcomes<()> {
    // kthreadd is 2 wherever there is no PID namespace in between.
    let name = fs::read_to_string("/proc/2/comm").map_err(|e| format!("/proc/2/comm: {e}"))?;
    assert_eq!(name.trim(), "kthreadd");
    refused(Tracer::of(2), NO_SUCH_TARGET, &["thread of the kernel"]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_zombie() -> Outcomes<()> {
    let mut child = Command::new("true").spawn().map_err(|e| e.to_string())?;
    let stat = format!("/proc/{}/stat", child.id());
    while !fs::read_to_string(&stat).map_err(|e| e.to_string())?.contains(") Z ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    refused(Tracer::of(child.id()), NO_SUCH_TARGET, &["zombie"])?;
    child.wait().map_err(|e| e.to_string())?;
    Ok(())
}

/// Whatever moment it dies at, the answer is a report or the sentence that it is gone, never a hang or a panic.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_target_that_dies_while_it_is_being_attached() -> Outcomes<()> {
    for delay_ms in (0..400).step_by(20) {
        let target = Target::start("churn")?;
        let tracer = Tracer::of(target.pid()).start()?;
        std::thread::sleep(Duration::from_millis(delay_ms));
        target.signal(libc::SIGKILL);
        drop(target);
        let outcome = tracer.await_end()?;
        match outcome.code() {
            0 => assert!(outcome.final_report()?.processes.len() <= 1),
            NO_SUCH_TARGET => assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr),
            code => return Err(format!("died after {delay_ms} ms: exit code {code}: {}", outcome.stderr)),
        }
    }
    Ok(())
}

/// A program that says nothing when it is ready.
struct Silent(std::process::Child);

impl Silent {
    fn start(name: &str) -> Outcomes<Self> {
        let mut command = Command::new(program::path(name)?);
        let child = command.stdin(Stdio::piped()).spawn().map_err(|e| format!("{name}: {e}"))?;
        // Between fork and exec it is still a copy of this test program.
        let exe = format!("/proc/{}/exe", child.id());
        while fs::read_link(&exe).map_err(|e| format!("{exe}: {e}"))?.file_name() != Some(name.as_ref()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self(child))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_32_bit_target() -> Outcomes<()> {
    let target = Silent::start("no_allocator-32-bit")?;
    refused(Tracer::of(target.0.id()), NOT_PERMITTED, &["32-bit"]).map(|_| ())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_target_without_any_allocator() -> Outcomes<()> {
    let target = Silent::start("no_allocator")?;
    refused(Tracer::of(target.0.id()), FAILED, &["allocator"]).map(|_| ())
}

/// Drops to the user `nobody`, keeping no capability.
fn become_nobody() -> io::Result<()> {
    // SAFETY: plain system calls.
    unsafe {
        fails(libc::setgroups(0, std::ptr::null()))?;
        fails(libc::setgid(65534))?;
        fails(libc::setuid(65534))
    }
}

/// A copy of the binary that everybody may execute, wherever the build directory lies.
fn executable_by_all(directory: &tempfile::TempDir) -> Outcomes<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let copy = directory.path().join("leaktrace");
    fs::copy(harness::tracer::binary(), &copy).map_err(|e| e.to_string())?;
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    }
    Ok(copy)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_somebody_who_is_not_root() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let target = Target::start("churn")?;
    let builder = Tracer::binary_at(executable_by_all(&directory)?).args(&["trace", "-p"]);
    let builder = builder.arg(target.pid().to_string()).before(become_nobody);
    refused(builder, NOT_PERMITTED, &["CAP_"])?;
    probed_code::assert_none_left(&target)
}

/// Drops one capability from the bounding set, which the following exec by root then lacks.
fn drop_capability(number: libc::c_ulong) -> io::Result<()> {
    // SAFETY: a plain system call.
    fails(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_without_one_capability() -> Outcomes<()> {
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    const CAP_PERFMON: libc::c_ulong = 38;
    const CAP_BPF: libc::c_ulong = 39;
    let target = Target::start("churn")?;
    let builder = Tracer::of(target.pid())
        .before(|| [CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF].into_iter().try_for_each(drop_capability));
    refused(builder, NOT_PERMITTED, &["CAP_BPF"])?;
    probed_code::assert_none_left(&target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_output_path_that_cannot_be_written() -> Outcomes<()> {
    let target = Target::start("churn")?;
    for path in ["/no/such/directory/report.json", "/proc/report.json"] {
        refused(Tracer::of(target.pid()).args(&["-o", path]), FAILED, &[path])?;
    }
    probed_code::assert_none_left(&target)
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_too_few_files_may_be_open() -> Outcomes<()> {
    let target = Target::start("churn")?;
    let builder = Tracer::of(target.pid()).before(|| {
        let limit = libc::rlimit { rlim_cur: 12, rlim_max: 12 };
        // SAFETY: reads the limits from a local value.
        fails(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
    });
    refused(builder, NOT_PERMITTED, &["files may be open", "ulimit"])?;
    probed_code::assert_none_left(&target)
}

/// Inside a PID namespace the PIDs that the kernel side sees are not those that the user types.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_inside_a_pid_namespace() -> Outcomes<()> {
    let target = Target::start("churn")?;
    let binary = harness::tracer::binary();
    let builder = Tracer::binary_at("unshare").args(&["--pid", "--fork", "--mount-proc"]).arg(binary);
    let builder = builder.args(&["trace", "--duration", "1s", "-p", "1"]);
    refused(builder, NOT_PERMITTED, &["PID namespace"])?;
    probed_code::assert_none_left(&target)
}

/// tracefs is not needed: without it tracing works all the same.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_tracefs_is_not_mounted() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let builder = Tracer::of(target.pid()).before(|| {
        // SAFETY: plain system calls with constant strings.
        unsafe {
            fails(libc::unshare(libc::CLONE_NEWNS))?;
            let (root, none) = (c"/".as_ptr(), c"none".as_ptr());
            fails(libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
            // Not mounted at all is what we want: an error here is fine.
            libc::umount2(c"/sys/kernel/tracing".as_ptr(), libc::MNT_DETACH);
            libc::umount2(c"/sys/kernel/debug".as_ptr(), libc::MNT_DETACH);
        }
        Ok(())
    });
    let mut tracer = builder.start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("go")?;
    expectation.check(&tracer.interrupt_and_finish()?)
}

/// Tracing goes on with a full map; the report says since when and how much is missing, and frees of blocks that were
/// not recorded make nothing negative.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_live_map_that_is_full() -> Outcomes<()> {
    let mut target = Target::prepare("threads")?.arg("5000").arg("4").start()?;
    let mut filled = Target::start("epochs")?;
    let pids = format!("{},{}", target.pid(), filled.pid());
    let options = ["-p", &pids, "--max-live-blocks", "1000", "--interval", "100ms"];
    let mut tracer = Tracer::json().args(&options).start()?;
    tracer.await_tracing()?;
    tracer.await_tracing()?;
    filled.say("go")?;
    std::thread::sleep(Duration::from_secs(1));
    let held = filled.ask("stop")?;
    let others = target.ask("go")?;
    let freed = (filled.ask("free")?, target.ask("free")?);
    let outcome = tracer.interrupt_and_finish()?;
    let report = outcome.final_report()?;
    assert!(report.truth.live_map.full_since_s.is_some(), "{:?}", report.truth);
    assert!(report.truth.live_map.capacity <= 1024, "{:?}", report.truth.live_map);
    let missing = report.truth.lost.iter().find(|loss| loss.cause.contains("live map"));
    let missing = missing.ok_or_else(|| format!("no loss is named: {:?}", report.truth))?;
    let made = freed.0.allocated_total.blocks + freed.1.allocated_total.blocks;
    assert!(held.total.blocks + others.total.blocks > 1000, "the scenario is too small");
    assert!(missing.events > 0 && missing.events < made && missing.bytes.is_some(), "{missing:?} of {made}");
    assert!(report.truth.line.contains("full"), "{}", report.truth.line);
    for process in &report.processes {
        assert!(process.sites.is_empty(), "{}", process.summary());
        assert_eq!((process.live.bytes, process.live.blocks), (0, 0));
    }
    let recorded: i64 = report.processes.iter().map(|process| process.allocated.blocks).sum();
    assert_eq!(recorded + missing.events, made);
    Ok(())
}

/// The same process twice is one target.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_same_pid_twice() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let mut tracer = Tracer::of(target.pid()).arg("-p").arg(target.pid().to_string()).start()?;
    tracer.await_tracing()?;
    let expectation = target.ask("go")?;
    expectation.check(&tracer.interrupt_and_finish()?)
}

/// Two tracers on one target do not disturb each other.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_two_tracers_at_once() -> Outcomes<()> {
    let mut target = Target::start("exact")?;
    let mut tracers = [Tracer::of(target.pid()).start()?, Tracer::of(target.pid()).start()?];
    for tracer in &mut tracers {
        tracer.await_tracing()?;
    }
    let expectation = target.ask("go")?;
    for tracer in tracers {
        expectation.check(&tracer.interrupt_and_finish()?)?;
    }
    Ok(())
}
