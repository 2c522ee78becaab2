//! Programs that are started for each alert. The alert comes as JSON on standard input and, in brief, in variables; a program that
//! does not end in time is killed with its whole process group.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
};

use super::{Deliver, failure::Failure};
use crate::{
    alert::{Alert, json},
    report::human::{cut_middle, duration, printable},
};

/// Most characters of a variable.
const MOST_OF_A_VARIABLE: usize = 4096;

/// See the module.
pub(super) struct Program {
    pub words: Vec<String>,
    pub limit: Duration,
}

impl Deliver for Program {
    fn deliver(&mut self, alert: &Alert) -> Result<(), Failure> {
        let [name, arguments @ ..] = self.words.as_slice() else {
            return Err(Failure::never("the command is empty"));
        };
        let failed = |what: &str, error: io::Error| Failure::of_io(&format!("cannot {what} {name}"), &error);
        let input = input(alert).map_err(|error| failed("prepare the input of", error))?;
        let mut command = Command::new(name);
        command.args(arguments).envs(variables(alert)).stdin(input).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn().map_err(|error| failed("start", error))?;
        match finish(&mut child, self.limit).map_err(|error| failed("wait for", error))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(Failure::later(format!("{name} failed ({status}): what it said is in the log")))
            }
            None => Err(Failure::later(format!(
                "{name} had not ended after {} and was killed",
                duration(self.limit.as_secs_f64())
            ))),
        }
    }
}

/// In memory, not a pipe: a program that reads nothing must not hold us up.
fn input(alert: &Alert) -> io::Result<File> {
    let mut file = File::from(memfd_create("leaktrace-alert", MemfdFlags::CLOEXEC)?);
    file.write_all(json::line(alert).as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn variables(alert: &Alert) -> impl Iterator<Item = (&'static str, String)> {
    let named = [
        ("LEAKTRACE_KIND", alert.kind.to_string()),
        ("LEAKTRACE_HOST", alert.host.clone()),
        ("LEAKTRACE_SUBJECT", alert.subject.key.clone()),
        ("LEAKTRACE_NAME", alert.subject.name.clone()),
        ("LEAKTRACE_PID", alert.subject.pid.to_string()),
        ("LEAKTRACE_SENTENCE", alert.sentence.clone()),
        ("LEAKTRACE_EVIDENCE", alert.evidence.clone().unwrap_or_default()),
    ];
    named
        .into_iter()
        .map(|(name, value)| (name, cut_middle(&printable(&value), MOST_OF_A_VARIABLE).into_owned()))
}

/// Its status; `None`: it was killed for taking too long.
fn finish(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let waited = wait(child, limit);
    if !matches!(waited, Ok(true)) {
        // Not reaped yet, so the number of the group is still its own.
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    let status = child.wait()?;
    Ok(waited?.then_some(status))
}

/// Whether it has ended within the limit. Does not reap it.
fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if !left.is_zero() => {}
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
