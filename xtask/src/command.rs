//! Running other programs: as they are, as root, or for a limited time; a failure says what was run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, Result, bail};

/// How often a process that is waited for is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Runs a command with this terminal and fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let text = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{text}`"))?;
    check(&text, status)
}

/// Runs a command and returns what it printed to stdout.
pub fn output(command: &mut Command) -> Result<String> {
    let text = describe(command);
    let done = command.output().with_context(|| format!("cannot start `{text}`"))?;
    if !done.status.success() {
        bail!("`{text}` failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether a command can be started and succeeds; prints nothing.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command for at most `limit`; `None` when it had to be stopped.
pub fn run_for(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    let text = describe(command);
    let mut child = command.spawn().with_context(|| format!("cannot start `{text}`"))?;
    let status = wait_for(&mut child, limit)?;
    if status.is_none() {
        stop(&mut child);
    }
    Ok(status)
}

/// Waits for a child for at most `limit`.
pub fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child process")? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Ends a child: asks first, kills after five seconds.
pub fn stop(child: &mut Child) {
    signal(child, libc::SIGTERM);
    if !matches!(wait_for(child, Duration::from_secs(5)), Ok(Some(_))) {
        // Both fail only when the child is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Sends a signal to a child that has not been waited for.
pub fn signal(child: &Child, number: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: `kill` takes plain numbers; the child is not reaped yet, so the PID is still its own.
    unsafe { libc::kill(pid, number) };
}

/// A command that runs as root: directly, or by sudo.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!(
            "`{}` must run as root, and there is no sudo here: run this as root",
            program.as_ref().to_string_lossy()
        );
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(program);
    Ok(command)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Fails with a plain sentence unless this process is root.
pub fn require_root(task: &str) -> Result<()> {
    if !is_root() {
        bail!(
            "`cargo xtask {task}` loads BPF programs into the kernel: run it as root (sudo -E cargo xtask {task})"
        );
    }
    Ok(())
}

/// Where a program is, as a shell would find it; system directories are looked at too.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn check(text: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{text}` failed ({status})");
    }
    Ok(())
}

/// A command as it would be typed.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_the_command() {
        let error = run(Command::new("false").arg("x")).expect_err("false fails");
        assert!(error.to_string().contains("`false x`"), "{error}");
    }

    #[test]
    fn limit_stops_what_runs_too_long() {
        let stopped = run_for(Command::new("sleep").arg("60"), Duration::from_millis(100));
        assert!(matches!(stopped, Ok(None)));
    }

    #[test]
    fn programs_are_found_as_by_a_shell() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
