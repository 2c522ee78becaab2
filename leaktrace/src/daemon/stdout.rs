//! Reports on stdout, and noticing that nobody reads it any more.

use std::io::{self, BufWriter, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    report::{
        json,
        model::Report,
        text::{self, TextOptions},
    },
    session::wire,
};

/// What goes to stdout every interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdoutFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
    /// For the process that started this one.
    Wire,
}

/// stdout, in the format that was asked for.
pub struct Stdout {
    format: StdoutFormat,
    options: TextOptions,
    closed: bool,
}

impl Stdout {
    /// Text is laid out for the terminal if stdout is one.
    pub fn new(format: StdoutFormat, verbose: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let width = terminal.then(terminal_width).flatten();
        Self { format, options: TextOptions { verbose, width, colour: terminal }, closed: false }
    }

    /// Writes one report.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn write(&mut self, report: &Report) -> io::Result<()> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut out = BufWriter::new(io::stdout().lock());
        let result = match self.format {
            StdoutFormat::Json => json::write_line(report, &mut out),
            StdoutFormat::Wire => wire::write(report, &mut out),
            StdoutFormat::Text => text::render(report, &self.options, &mut out).and_then(|()| writeln!(out)),
        };
        let result = result.and_then(|()| out.flush());
        self.closed = result.is_err();
        result
    }

    /// Whether the reader of a pipe has gone away, found out without writing.
    pub fn is_closed(&mut self) -> bool {
        let stdout = io::stdout();
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut fds, Some(&now)).is_ok() {
            // A regular file or terminal never reports an error here; a pipe does when its last reader is gone.
            self.closed |= fds[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL);
        }
        self.closed
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col >= 40).then_some(usize::from(size.ws_col))
}
