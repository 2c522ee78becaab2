//! A terminal without a glass: a program runs on a pseudo terminal as its session's leader, its output becomes a screen, keys
//! are typed.

use super::{Outcomes, longest_wait};
use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A program and its terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    /// Our own way to the program's side: it stays there when the program has ended.
    line: OwnedFd,
    seen: Arc<Mutex<Seen>>,
    /// How the terminal was set before the program ran.
    pub modes_before: Vec<u32>,
}

/// What has arrived from the program.
struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts a program on a terminal of that size.
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Outcomes<Self> {
        let (ours, theirs) = open(rows, columns)?;
        let modes_before = modes(&theirs)?;
        let end = || theirs.try_clone().map(Stdio::from).map_err(|e| format!("dup: {e}"));
        command.stdin(end()?).stdout(end()?).stderr(end()?).env("TERM", "xterm-256color");
        // SAFETY: two system calls between fork and exec; descriptor 0 is the terminal by then.
        unsafe {
            command.pre_exec(|| match libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                true => Err(std::io::Error::last_os_error()),
                false => Ok(()),
            });
        }
        let child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let keys = File::from(ours);
        let screen = vt100::Parser::new(lines(rows), lines(columns), 0);
        let seen = Arc::new(Mutex::new(Seen { screen, bytes: Vec::new() }));
        let (mut output, fill) = (keys.try_clone().map_err(|e| format!("dup: {e}"))?, seen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                let mut seen = fill.lock().unwrap_or_else(PoisonError::into_inner);
                seen.screen.process(&buffer[..read]);
                seen.bytes.extend_from_slice(&buffer[..read]);
            }
        });
        Ok(Self { child, keys, line: theirs, seen, modes_before })
    }

    /// The program's PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the PID is still its own.
        unsafe { libc::kill(self.pid().cast_signed(), signal) };
    }

    /// Types.
    pub fn press(&mut self, keys: &str) -> Outcomes<()> {
        self.keys.write_all(keys.as_bytes()).map_err(|e| format!("typing: {e}"))
    }

    /// Gives the terminal another size, as a window manager does.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Outcomes<()> {
        self.seen().screen.screen_mut().set_size(lines(rows), lines(columns));
        let size = size(rows, columns);
        // SAFETY: the descriptor is open, the structure is whole.
        match unsafe { libc::ioctl(self.line.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
            0 => Ok(()),
            _ => Err(format!("TIOCSWINSZ: {}", std::io::Error::last_os_error())),
        }
    }

    /// What the screen shows.
    pub fn text(&self) -> String {
        self.seen().screen.screen().contents()
    }

    /// The screen itself.
    pub fn screen(&self) -> vt100::Screen {
        self.seen().screen.screen().clone()
    }

    /// Everything that the program wrote.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen().bytes.clone()
    }

    /// Waits until the screen is as it should be.
    pub fn await_screen(&self, what: &str, good: impl Fn(&str) -> bool) -> Outcomes<String> {
        let deadline = Instant::now() + longest_wait();
        while Instant::now() < deadline {
            let text = self.text();
            if good(&text) {
                return Ok(text);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("waited for {what}; the screen:\n{}", self.text()))
    }

    /// Waits until the screen has this on it.
    pub fn await_text(&self, text: &str) -> Outcomes<String> {
        self.await_screen(text, |screen| screen.contains(text))
    }

    /// Waits for the end; the exit code, or minus the signal.
    pub fn await_end(&mut self) -> Outcomes<i32> {
        let deadline = Instant::now() + longest_wait();
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|e| format!("wait: {e}"))? {
                return Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("it does not end; the screen:\n{}", self.text()))
    }

    /// How the terminal is set: echo, signals, lines.
    pub fn modes(&self) -> Outcomes<Vec<u32>> {
        modes(&self.line)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A screen has at least one line and one column.
fn lines(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap_or(NonZero::<u16>::MIN)
}

fn modes(line: &OwnedFd) -> Outcomes<Vec<u32>> {
    // SAFETY: an all-zero structure is a valid one, which the call fills.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::tcgetattr(line.as_raw_fd(), &mut modes) } != 0 {
        return Err(format!("tcgetattr: {}", std::io::Error::last_os_error()));
    }
    Ok(vec![modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag])
}

fn size(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Both ends of a new pseudo terminal; children inherit neither.
fn open(rows: u16, columns: u16) -> Outcomes<(OwnedFd, OwnedFd)> {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: two places for descriptors and a whole structure; no name and no modes are asked for.
    if unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), &size(rows, columns)) } != 0 {
        return Err(format!("openpty: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: both were just opened, and belong to nobody else.
    let ends = unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) };
    for end in [&ends.0, &ends.1] {
        // SAFETY: a flag of an open descriptor.
        unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(ends)
}
