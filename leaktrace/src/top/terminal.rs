//! The terminal: taken over for the view, and given back as it was on every way out. A panic says what it has to say on the terminal
//! as the user knows it.

use std::{
    io::{self, BufWriter, Stdout, Write, stdout},
    panic,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossterm::{
    cursor::Show,
    event::{DisableBracketedPaste, EnableBracketedPaste, Event, poll, read},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui::{Frame, Terminal, backend::CrosstermBackend};

use super::live::Happening;

/// A picture is written at once, not line by line.
const BUFFER: usize = 64 << 10;
/// How often the thread that reads keys looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(100);

/// The terminal, taken over. Dropped, it is given back.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    /// Takes it over.
    pub(super) fn enter() -> io::Result<Self> {
        restore_before_panics();
        enable_raw_mode()?;
        let screen = execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)
            .and_then(|()| Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(BUFFER, stdout()))));
        match screen {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// Shows a picture.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture)?;
        self.terminal.backend_mut().flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back. It may be gone: nobody is left to be told then.
pub(super) fn restore() {
    let _ = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

fn restore_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            restore();
            usual(panicked);
        }));
    });
}

/// The thread that reads keys. Dropped, it reads no more: what is typed then is the shell's.
pub(super) struct Keys {
    unwanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    /// Starts it.
    pub(super) fn read(tell: SyncSender<Happening>) -> io::Result<Self> {
        let unwanted = Arc::new(AtomicBool::new(false));
        let seen = unwanted.clone();
        let thread = thread::Builder::new().name("keys".into()).spawn(move || forward(&tell, &seen))?;
        Ok(Self { unwanted, thread: Some(thread) })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(tell: &SyncSender<Happening>, unwanted: &AtomicBool) {
    while !unwanted.load(Ordering::Relaxed) {
        let happening = match next() {
            Ok(None) => continue,
            Ok(Some(happening)) => happening,
            Err(_) => Happening::Stop,
        };
        let over = matches!(happening, Happening::Stop);
        // If that many wait to be looked at, nobody is looking.
        let _ = tell.try_send(happening);
        if over {
            return;
        }
    }
}

/// What comes from the terminal; an error if it is gone.
fn next() -> io::Result<Option<Happening>> {
    rustix::termios::tcgetattr(io::stdin())?;
    if !poll(PATIENCE)? {
        return Ok(None);
    }
    Ok(match read()? {
        Event::Key(key) => Some(Happening::Key(key)),
        Event::Paste(text) => Some(Happening::Pasted(text)),
        Event::Resize(..) => Some(Happening::Resized),
        _ => None,
    })
}
