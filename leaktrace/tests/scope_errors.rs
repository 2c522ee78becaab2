//! Promise: a container, a PID namespace or a cgroup that does not exist, is ambiguous, empty, something else, or goes away is
//! answered plainly, and nobody can slip into a scope by taking another one's name.

mod harness;

use harness::{Outcome, Outcomes, Target, Tracer, longest_wait, tracer::TracerBuilder};
use leaktrace::process::cgroup::{self, Mounts};
use std::{
    ffi::CString,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const WRONG_USAGE: i32 = 2;
const NO_SUCH_TARGET: i32 = 4;

/// A cgroup of this test's own, in the hierarchy that says most of those that are mounted.
struct TestCgroup {
    root: PathBuf,
    directory: PathBuf,
    /// As `/proc/PID/cgroup` spells it.
    path: PathBuf,
}

impl TestCgroup {
    /// Makes one; `path` is below the hierarchy's root.
    fn make(path: &str) -> Outcomes<Self> {
        let mounts = Mounts::own();
        let own = cgroup::places(std::process::id()).map_err(|e| e.to_string())?;
        let root = own.into_iter().find_map(|place| {
            mounts.directory(&cgroup::Place { path: "/".into(), ..place }).filter(|root| is_writable(root))
        });
        let root = root.ok_or("no hierarchy of cgroups can be written to")?;
        let directory = root.join(path);
        fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        Ok(Self { root, directory, path: Path::new("/").join(path) })
    }

    /// Puts a process into it.
    fn take(&self, pid: u32) -> Outcomes<()> {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string())
            .map_err(|e| format!("{}: {e}", self.directory.display()))
    }

    /// Starts a target and puts it into it.
    fn start(&self) -> Outcomes<Target> {
        let target = Target::start("churn")?;
        self.take(target.pid())?;
        Ok(target)
    }

    /// Removes it, once its last process is gone for good.
    fn remove(&self) -> Outcomes<()> {
        let deadline = Instant::now() + longest_wait();
        while let Err(error) = fs::remove_dir(&self.directory) {
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{}: {error}", self.directory.display()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        // What a failing test has left in it is killed by its own owner first: values drop in reverse order.
        self.remove().ok();
        let above = self.directory.ancestors().skip(1).take_while(|directory| *directory != self.root);
        above.for_each(|directory| drop(fs::remove_dir(directory)));
    }
}

fn is_writable(directory: &Path) -> bool {
    let probe = directory.join(format!("leaktrace-probe-{}", std::process::id()));
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
}

/// An ID as engines make them up, different for each test run and `number`.
fn made_up_id(number: u32) -> String {
    format!("{:08x}{number:056x}", std::process::id())
}

/// Runs it; checks the exit code, that stderr has these words and stdout is empty.
fn refused(builder: TracerBuilder, code: i32, words: &[&str]) -> Outcomes<Outcome> {
    let outcome = builder.run()?;
    assert_eq!(outcome.code(), code, "{}", outcome.stderr);
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is not in: {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "");
    Ok(outcome)
}

/// As above, where the answer is one sentence.
fn refused_plainly(option: &str, value: impl Into<std::ffi::OsString>, words: &[&str]) -> Outcomes<()> {
    let outcome = refused(Tracer::json().arg(option).arg(value), NO_SUCH_TARGET, words)?;
    assert_eq!(outcome.stderr.trim_end().lines().count(), 1, "not one sentence: {}", outcome.stderr);
    Ok(())
}

/// Waits until a process is traced.
fn await_entered(tracer: &mut Tracer, pid: u32) -> Outcomes<()> {
    tracer.await_stderr(&format!("leaktrace: tracing {pid} ")).map(|_| ())
}

#[test]
fn two_kinds_of_scope() -> Outcomes<()> {
    refused(Tracer::json().args(&["--container", "a", "--all"]), WRONG_USAGE, &["exactly one"])?;
    refused(Tracer::json().args(&["--container", ""]), WRONG_USAGE, &["--container needs"])?;
    refused(Tracer::json().args(&["--cgroup", "/a", "--pid-namespace", "1"]), WRONG_USAGE, &["exactly one"])?;
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_container_that_nobody_knows_is_answered_by_those_there_are() -> Outcomes<()> {
    let id = made_up_id(1);
    let cgroup = TestCgroup::make(&format!("docker-{id}.scope"))?;
    let _target = cgroup.start()?;
    // Nearer to this one than to any other: the list is cut on hosts that have many.
    let wrong = format!("{}x", &id[..12]);
    let outcome = refused(
        Tracer::json().args(&["--container", &wrong]),
        NO_SUCH_TARGET,
        &[&wrong, &format!("  {}  ", &id[..12]), "docker", "1 process"],
    )?;
    assert!(outcome.stderr.lines().count() <= 22, "{}", outcome.stderr);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_the_beginning_of_two_ids_is_ambiguous_and_a_longer_one_is_not() -> Outcomes<()> {
    let ids = [made_up_id(2), made_up_id(3)];
    let make = |id: &str| TestCgroup::make(&format!("leaktrace-ids-{}/docker/{id}", std::process::id()));
    let cgroups = [make(&ids[0])?, make(&ids[1])?];
    let targets = [cgroups[0].start()?, cgroups[1].start()?];
    refused(
        Tracer::json().args(&["--container", &ids[0][..12]]),
        NO_SUCH_TARGET,
        &["more of its ID", &ids[0][..12], &ids[1][..12]],
    )?;
    let mut tracer = Tracer::json().args(&["--container", &ids[0]]).start()?;
    await_entered(&mut tracer, targets[0].pid())?;
    let outcome = tracer.interrupt_and_finish()?;
    let pids: Vec<u32> = outcome.final_report()?.processes.iter().map(|process| process.pid).collect();
    assert_eq!(pids, [targets[0].pid()]);
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_is_no_pid_namespace() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    let fifo = directory.path().join("fifo");
    let name = CString::new(fifo.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: a path that is terminated.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let huge = directory.path().join("huge");
    fs::File::create(&huge).and_then(|file| file.set_len(1 << 40)).map_err(|e| e.to_string())?;
    for path in [fifo.as_path(), &huge, directory.path(), Path::new("/dev/zero"), Path::new("/proc/self")] {
        refused_plainly("--pid-namespace", path, &[&path.display().to_string(), "no namespace"])?;
    }
    refused_plainly("--pid-namespace", "/proc/self/ns/mnt", &["mount namespace"])?;
    refused_plainly("--pid-namespace", directory.path().join("absent"), &["there is no", "absent"])?;
    refused_plainly("--pid-namespace", "4194305", &["there is no process 4194305"])
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_what_is_no_cgroup() -> Outcomes<()> {
    let directory = tempfile::tempdir().map_err(|e| e.to_string())?;
    for path in [directory.path(), Path::new("/etc/passwd"), Path::new("/dev/zero")] {
        refused_plainly("--cgroup", path, &[&path.display().to_string(), "is no cgroup"])?;
    }
    refused_plainly("--cgroup", "/leaktrace/no/such/cgroup", &["there is no cgroup"])?;
    refused_plainly("--cgroup", "0::/leaktrace-no-such-cgroup", &["there is no cgroup"])?;
    refused(Tracer::json().args(&["--cgroup", ""]), WRONG_USAGE, &["--cgroup"])?;
    let empty = TestCgroup::make(&format!("leaktrace-empty-{}", std::process::id()))?;
    refused_plainly("--cgroup", &empty.path, &["has no process"])
}

/// A cgroup that is empty may get processes again; one that is removed may not, even if another takes its name.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_an_empty_cgroup_is_waited_for_and_a_removed_one_ends_tracing() -> Outcomes<()> {
    let cgroup = TestCgroup::make(&format!("leaktrace-gone-{}", std::process::id()))?;
    let first = cgroup.start()?;
    let mut tracer = Tracer::json().arg("--cgroup").arg(&cgroup.path).start()?;
    await_entered(&mut tracer, first.pid())?;
    drop(first);
    let second = cgroup.start()?;
    await_entered(&mut tracer, second.pid())?;
    drop(second);
    cgroup.remove()?;
    let anew = TestCgroup::make(&cgroup.path.display().to_string()[1..])?;
    let _other = anew.start()?;
    let outcome = tracer.await_end()?;
    let reason = outcome.final_report()?.reason.text.clone().unwrap_or_default();
    assert!(reason.contains("leaktrace-gone") && reason.contains("is gone"), "{reason}");
    assert_eq!(outcome.stderr.matches("leaktrace: tracing ").count(), 2, "{}", outcome.stderr);
    Ok(())
}

/// A process that calls itself like a container, in a cgroup that is called like one.
struct Impostor(Child);

impl Impostor {
    fn start(name: &str) -> Outcomes<Self> {
        let mut command = Command::new("sleep");
        command.arg("1000").arg0(name).stdin(Stdio::null());
        command.spawn().map(Self).map_err(|e| e.to_string())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_nobody_gets_into_a_container_by_its_name() -> Outcomes<()> {
    let id = made_up_id(4);
    let scope = format!("docker-{id}.scope");
    let real = TestCgroup::make(&scope)?;
    let target = real.start()?;
    let forged = TestCgroup::make(&format!("leaktrace-forged-{}/{scope}", std::process::id()))?;
    let alike = TestCgroup::make(&format!("docker-{id}.scope2"))?;
    let impostors = [Impostor::start(&scope)?, Impostor::start(&id)?];
    forged.take(impostors[0].0.id())?;
    alike.take(impostors[1].0.id())?;

    let mut tracer = Tracer::json().args(&["--container", &id, "--interval", "500ms"]).start()?;
    await_entered(&mut tracer, target.pid())?;
    // One that comes later is looked at as well: a look through the scope lies between these two reports.
    let later = Impostor::start(&scope)?;
    forged.take(later.0.id())?;
    let second = real.start()?;
    await_entered(&mut tracer, second.pid())?;
    let outcome = tracer.interrupt_and_finish()?;
    let mut pids: Vec<u32> = outcome.final_report()?.processes.iter().map(|process| process.pid).collect();
    pids.sort_unstable();
    let mut expected = [target.pid(), second.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected, "{}", outcome.stderr);
    Ok(())
}

/// What ends together with its namespace's first process.
#[test]
#[ignore = "needs root and BPF: cargo xtask test"]
fn root_a_pid_namespace_ends_with_its_first_process() -> Outcomes<()> {
    let mut command = Command::new("unshare");
    let program = harness::program::path("churn")?;
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
    let target = Target::command(command).start()?;
    let inner = only_child(target.pid())?;
    let mut tracer = Tracer::json().arg("--pid-namespace").arg(inner.to_string()).start()?;
    await_entered(&mut tracer, inner)?;
    drop(target);
    let outcome = tracer.await_end()?;
    let reason = outcome.final_report()?.reason.text.clone().unwrap_or_default();
    assert!(reason.contains("PID namespace") && reason.contains("is gone"), "{reason}");
    Ok(())
}

fn only_child(pid: u32) -> Outcomes<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    text.trim().parse().map_err(|e| format!("{path}: {e}: {text}"))
}
