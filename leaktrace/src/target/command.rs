//! Starting a command so that it can be traced from its first instruction. The child waits before it executes
//! anything; the probe on the dynamic linker is placed meanwhile; the program is stopped once, when the linker
//! has mapped everything and before any of the program's own code runs.
//!
//! The stop is ours alone to end, so it must survive our death: the child asks the kernel for SIGCONT when its
//! parent dies. That is the parent *thread*, which therefore lives as long as the command.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, Stdio},
    thread,
};

use tokio::sync::oneshot;

use crate::cli::Failure;

/// A started command that has not executed anything yet.
pub struct Held {
    /// Its PID.
    pub pid: u32,
    go: PipeWriter,
    /// What became of `execve`.
    pub started: oneshot::Receiver<io::Result<()>>,
    /// Its wait status, once it has ended.
    pub ended: oneshot::Receiver<i32>,
}

impl Held {
    /// Starts `words` and holds it before it executes anything. What it prints goes to `stdout`.
    ///
    /// # Errors
    /// If no process could be made.
    pub fn start(words: &[OsString], stdout: Stdio) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::Failed(format!("could not start a process for the command: {error}"));
        let (mut told_pid, tell_pid) = io::pipe().map_err(failed)?;
        let (wait, go) = io::pipe().map_err(failed)?;
        let (report_start, started) = oneshot::channel();
        let (report_end, ended) = oneshot::channel();
        let mut command = command(words, tell_pid, wait, go.as_raw_fd())?;
        command.stdout(stdout);
        thread::Builder::new()
            .name("command".into())
            .spawn(move || run(command, report_start, report_end))
            .map_err(failed)?;
        let mut bytes = [0; 4];
        told_pid.read_exact(&mut bytes).map_err(failed)?;
        Ok(Self { pid: u32::from_ne_bytes(bytes), go, started, ended })
    }

    /// Lets it execute. Returns the receiver of its wait status.
    ///
    /// # Errors
    /// If the program could not be executed.
    pub async fn release(mut self, name: &std::ffi::OsStr) -> Result<oneshot::Receiver<i32>, Failure> {
        let gone = || Failure::Failed("the command's process vanished before it was started".to_owned());
        self.go.write_all(&[1]).map_err(|_| gone())?;
        match self.started.await {
            Ok(Ok(())) => Ok(self.ended),
            Ok(Err(error)) => Err(Failure::NoTarget(format!("could not start {}: {error}", name.display()))),
            Err(_) => Err(gone()),
        }
    }
}

fn command(
    words: &[OsString],
    mut tell_pid: PipeWriter,
    mut wait: PipeReader,
    go: RawFd,
) -> Result<Command, Failure> {
    let (name, arguments) =
        words.split_first().ok_or_else(|| Failure::Usage("no command is named after --".to_owned()))?;
    let mut command = Command::new(name);
    command.args(arguments);
    // SAFETY: runs between fork and exec, in a child that has one thread; only system calls are made.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The child's copy of our end: with it open, the wait below would not end if we died.
            libc::close(go);
            tell_pid.write_all(&libc::getpid().to_ne_bytes())?;
            wait.read_exact(&mut [0])
        });
    }
    Ok(command)
}

/// The body of the thread that is the command's parent.
fn run(mut command: Command, started: oneshot::Sender<io::Result<()>>, ended: oneshot::Sender<i32>) {
    let outcome = command.spawn();
    // Closes our ends of the pipes: the child has its own.
    drop(command);
    match outcome {
        Err(error) => drop(started.send(Err(error))),
        Ok(mut child) => {
            let _ = started.send(Ok(()));
            if let Ok(status) = child.wait() {
                let _ = ended.send(status.into_raw());
            }
        }
    }
}
