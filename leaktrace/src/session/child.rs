//! The process that traces, and what comes from it.

use std::{
    env, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
    time::timeout,
};

use super::{SessionPlan, wire};
use crate::report::model::Report;

/// Events that wait to be looked at; the tracer waits when there are more.
const WAITING: usize = 16;
/// Longest line of its stderr that is kept, bytes.
const MAX_LINE: usize = 4096;

/// How long what a session has left in its pipes is read after its end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why a session could not be started.
#[derive(Debug, Error)]
pub enum SessionError {
    /// This program cannot be started anew.
    #[error("could not start a process that traces ({}): {source}", program.display())]
    Start {
        /// What was to be started.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What comes from a session.
#[derive(Debug)]
pub enum Event {
    /// A report.
    Report(Box<Report>),
    /// A sentence for people, as it would be on the terminal.
    Said(String),
    /// It has ended; nothing comes any more.
    Ended(io::Result<ExitStatus>),
}

/// A running trace. Dropped, it is told to end, and goes on in the background until its probes are away.
#[derive(Debug)]
pub struct Session {
    pid: u32,
    events: Receiver<Event>,
    /// Reads the pipes.
    reader: JoinHandle<()>,
}

impl Session {
    /// Starts one. It ends by itself, in an orderly way, when the thread that called this has ended.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(plan: &SessionPlan) -> Result<Self, SessionError> {
        let program = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        let mut command = Command::new(&program);
        command.args(plan.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: Ctrl-C at the terminal is for whoever shows the reports, who then ends this.
        command.process_group(0);
        end_with_parent(&mut command);
        let mut child = command.spawn().map_err(|source| SessionError::Start { program, source })?;
        let pid = child.id().unwrap_or_default();
        let (sender, events) = channel(WAITING);
        let reader = tokio::spawn(async move { read(&mut child, sender).await });
        Ok(Self { pid, events, reader })
    }

    /// The PID of the process that traces.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for what comes next; `None` after [`Event::Ended`].
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Asks for a report now, whatever the interval.
    pub fn ask(&self) {
        self.signal(Signal::USR1);
    }

    /// Asks it to end: its last report comes first.
    pub fn end(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        // Its PID is its own for as long as the reader has not waited for it.
        self::signal((!self.reader.is_finished()).then_some(self.pid), signal);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to a child that has not been waited for.
pub(super) fn signal(pid: Option<u32>, signal: Signal) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// Lets a child be told to end when the thread that starts it has ended, however that came.
pub(super) fn end_with_parent(command: &mut Command) {
    // SAFETY: one system call, which is safe to make between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        });
    }
}

/// Reads both pipes to their ends, then waits. Goes on when nobody listens any more, so that the tracer never waits for us.
async fn read(child: &mut Child, sender: Sender<Event>) {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reports = async {
        let mut stdout = stdout?;
        while let Some(report) = next_report(&mut stdout).await {
            let _ = sender.send(Event::Report(Box::new(report))).await;
        }
        Some(())
    };
    let sentences = async {
        let mut stderr = BufReader::new(stderr?);
        while let Some(line) = next_line(&mut stderr).await {
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = sender.send(Event::Said(line)).await;
        }
        Some(())
    };
    let pipes = async { tokio::join!(reports, sentences) };
    tokio::pin!(pipes);
    let ended = tokio::select! {
        _ = &mut pipes => child.wait().await,
        ended = child.wait() => {
            // A command that it had started may go on, and hold the pipes for as long.
            let _ = timeout(LAST_WORDS, pipes).await;
            ended
        }
    };
    let _ = sender.send(Event::Ended(ended)).await;
}

/// The next line without its end; what is too long is left out. A command that is traced may write whatever it likes.
async fn next_line(pipe: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let mut begun = false;
    loop {
        let waiting = pipe.fill_buf().await.ok()?;
        if waiting.is_empty() {
            return begun.then_some(line);
        }
        begun = true;
        let end = waiting.iter().position(|byte| *byte == b'\n');
        let part = waiting.get(..end.unwrap_or(waiting.len())).unwrap_or(waiting);
        line.extend(part.iter().take(MAX_LINE.saturating_sub(line.len())));
        let used = part.len() + usize::from(end.is_some());
        pipe.consume(used);
        if end.is_some() {
            return Some(line);
        }
    }
}

async fn next_report(stdout: &mut (impl AsyncReadExt + Unpin)) -> Option<Report> {
    let length = stdout.read_u32_le().await.ok().filter(|length| *length <= wire::MAX_REPORT)?;
    let mut bytes = vec![0; length as usize];
    stdout.read_exact(&mut bytes).await.ok()?;
    wire::read(&bytes).map_err(|error| tracing::error!("a report could not be read: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_to_their_end_and_kept_up_to_a_length() {
        let endless = [b"one\n\n".as_slice(), &[b'x'; 3 * MAX_LINE], b"\nlast"].concat();
        let mut pipe = BufReader::with_capacity(16, endless.as_slice());
        let mut lengths = Vec::new();
        while let Some(line) = next_line(&mut pipe).await {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [3, 0, MAX_LINE, 4]);
    }
}
